//! The choice of the backup, and the recovery settings that follow from it.

use super::options::{ArchiveMode, RestoreSettings};
use super::source::BackupSource;
use pgmesh_postgres::{RecoverySettings, RecoveryTarget, instance_fingerprint};
use pgmesh_protocol::Failure;
use pgmesh_storage::ManifestRoot;
use std::path::Path;

/// A backup, and how its server is to recover.
pub struct Selected {
    /// The root of its manifest.
    pub root: ManifestRoot,
    /// The recovery settings for PostgreSQL.
    pub recovery: RecoverySettings,
}

/// The backup that fits the target, by its manifest.
///
/// # Errors
/// No backup fits, or the options do not settle which.
pub async fn select(options: &RestoreSettings, source: &BackupSource) -> Result<Selected, Failure> {
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
            "recovery follows timeline {timeline}; PostgreSQL by itself would take another timeline for the latest"
        );
        recovery.target_timeline = Some(timeline.to_string());
    }
    recovery.archive_mode_off = match options.archive_mode {
        Some(mode) => mode == ArchiveMode::Off,
        None => archives_beside(&recovery.target, &options.pgdata, root.instance.as_deref()),
    };
    Ok(Selected { root, recovery })
}

/// Whether the restored server could archive beside its original; if so, a warning. On the original's timeline the mesh
/// refuses the copy's WAL (invariant 12). If the copy is promoted, it has a timeline of its own, and the mesh cannot
/// tell it from an original that was restored elsewhere. So a server in another data directory than the backup's
/// archives only if the user asks for that.
///
/// A standby follows its primary. If it is promoted in its place it has to archive.
fn archives_beside(target: &RecoveryTarget, pgdata: &Path, instance: Option<&str>) -> bool {
    if matches!(target, RecoveryTarget::Standby | RecoveryTarget::Preserve) || !is_another(pgdata, instance) {
        return false;
    }
    tracing::warn!(
        "this is another data directory than the one that was backed up: archive_mode=off is written, so that a copy \
         does not archive beside its original; if this server replaces the original, restore with \
         --archive-mode=preserve"
    );
    true
}

/// Whether a directory is known not to be the backup's, whose fingerprint is `known`.
fn is_another(pgdata: &Path, known: Option<&str>) -> bool {
    let Some(known) = known else {
        return false;
    };
    match instance_fingerprint(pgdata) {
        Ok(here) => here != known,
        // A directory that the restore makes is new.
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
