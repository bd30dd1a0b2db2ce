//! What is restored, and what the restored server is told that follows from it.

use super::options::{ArchiveMode, RestoreSettings};
use super::source::Source;
use pgmesh_postgres::{RecoverySettings, RecoveryTarget, instance_fingerprint};
use pgmesh_protocol::Failure;
use pgmesh_storage::ManifestRoot;
use std::path::Path;

/// A backup, and how its server is to recover.
pub struct Selected {
    /// The root of its manifest.
    pub root: ManifestRoot,
    /// What is written for PostgreSQL.
    pub recovery: RecoverySettings,
}

/// The backup that fits the target, by its manifest.
///
/// # Errors
/// There is none, or it is not clear which one is meant.
pub async fn select(options: &RestoreSettings, source: &Source) -> Result<Selected, Failure> {
    let chosen = source.choose(&options.restoring()).await?;
    for passed in &chosen.passed {
        tracing::warn!("{passed}");
    }
    let label = &chosen.backup.label;
    tracing::info!("restoring backup {label} of stanza {}", options.stanza);
    let root = source.manifest(label).await?;
    for file in &root.errors {
        tracing::warn!("{} had pages with wrong checksums when it was backed up", file.path);
    }
    let mut recovery = options.recovery.clone();
    let tells = !matches!(recovery.target, RecoveryTarget::None | RecoveryTarget::Preserve);
    if let Some(timeline) = chosen.timeline.filter(|_| tells) {
        tracing::warn!(
            "recovery follows timeline {timeline}, which is not the one that PostgreSQL would take for the latest"
        );
        recovery.target_timeline = Some(timeline.to_string());
    }
    recovery.archive_mode_off = match options.archive_mode {
        Some(mode) => mode == ArchiveMode::Off,
        None => archives_beside(&recovery.target, &options.pgdata, root.instance.as_deref()),
    };
    Ok(Selected { root, recovery })
}

/// Whether the restored server would archive beside its original, as far as one can tell; said where it is so. On its
/// old timeline a copy is refused by the mesh (invariant 12); promoted, it has a timeline of its own, and cannot be
/// told from the original that was restored elsewhere. So a server in another data directory than the one that was
/// backed up archives only where that is asked for.
///
/// A standby follows its primary. If it is promoted in its place it has to archive.
fn archives_beside(target: &RecoveryTarget, pgdata: &Path, instance: Option<&str>) -> bool {
    if matches!(target, RecoveryTarget::Standby | RecoveryTarget::Preserve) || !is_another(pgdata, instance) {
        return false;
    }
    tracing::warn!(
        "this is another data directory than the one that was backed up: archive_mode=off is written, so that a copy does not archive \
         beside its original; where this server takes the original's place, restore with --archive-mode=preserve"
    );
    true
}

/// Whether a directory is known to be another one than that of the backup, whose fingerprint is `known`.
fn is_another(pgdata: &Path, known: Option<&str>) -> bool {
    let Some(known) = known else {
        return false;
    };
    match instance_fingerprint(pgdata) {
        Ok(here) => here != known,
        // One that the restore makes is new.
        Err(_) => !pgdata.exists(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_copy_in_another_directory_does_not_archive() {
        let scratch = tempfile::tempdir().unwrap();
        let (pgdata, other) = (scratch.path().join("pgdata"), scratch.path().join("other"));
        std::fs::create_dir(&pgdata).unwrap();
        let target = RecoveryTarget::Default;
        assert!(
            !archives_beside(&target, &pgdata, None),
            "nobody knows where it was backed up"
        );
        let known = instance_fingerprint(&pgdata).unwrap();
        let known = Some(known.as_str());
        assert!(!archives_beside(&target, &pgdata, known), "in place");
        assert!(
            archives_beside(&target, &other, known),
            "a directory that the restore will make"
        );
        std::fs::create_dir(&other).unwrap();
        assert!(archives_beside(&target, &other, known));
        assert!(
            !archives_beside(&RecoveryTarget::Standby, &other, known),
            "it may be promoted one day"
        );
    }
}
