//! The files that tell the restored server how to recover: `backup_label`, `postgresql.auto.conf`, a signal file. And,
//! where nothing else would bring it, the WAL that makes the backup consistent.

use super::disk::failed;
use super::late_tablespaces;
use super::owners::Owners;
use super::roots::Roots;
use super::source::BackupSource;
use crate::wal_sink::FileSink;
use pgmesh_postgres::{RecoverySettings, RecoveryTarget, SegmentName, WalFileName};
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::ManifestRoot;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

/// The files that a restore of `--type=preserve` leaves as they are.
pub const RECOVERY_FILES: &[&str] = &["postgresql.auto.conf", "recovery.signal", "standby.signal"];

/// The files of [`RECOVERY_FILES`] that are there and stay.
pub fn kept(pgdata: &Path, target: &RecoveryTarget) -> BTreeSet<String> {
    if *target != RecoveryTarget::Preserve {
        return BTreeSet::new();
    }
    let is_there = |name: &&&str| pgdata.join(name).is_file();
    RECOVERY_FILES
        .iter()
        .filter(is_there)
        .map(|name| (*name).to_owned())
        .collect()
}

/// Writes the three files, which get pg_control's owner.
///
/// # Errors
/// They cannot be written.
pub fn write_settings(
    roots: &Roots,
    root: &ManifestRoot,
    settings: &RecoverySettings,
    owners: &Owners,
    owner: (Option<&str>, Option<&str>),
) -> Result<(), Failure> {
    let write = |name: &str, content: &[u8]| {
        let (below, name) = roots.find(name);
        let file = below.write_all(name, content)?;
        owners.give(&file, &below.shown(name), owner.0, owner.1)
    };
    write("backup_label", root.backup_label.as_bytes())?;
    if settings.target != RecoveryTarget::Preserve {
        let existing = read_settings(roots, "postgresql.auto.conf")?;
        let settings = until_consistent(settings, root.archive_id.version.major())?;
        write("postgresql.auto.conf", settings.render_auto_conf(&existing).as_bytes())?;
    }
    match settings.signal() {
        Some(name) => write(name, b""),
        None => Ok(()),
    }
}

/// The first version of PostgreSQL that reads WAL ahead of its recovery.
const FIRST_WITH_PREFETCH: u32 = 15;

/// With `--type=immediate` the server must not read ahead: by retention the WAL after an older backup may have expired,
/// and a segment that the recovery does not need would end it.
fn until_consistent(settings: &RecoverySettings, major: u32) -> Result<RecoverySettings, Failure> {
    let mut settings = settings.clone();
    let is_given = settings
        .options()
        .any(|name| name.eq_ignore_ascii_case("recovery_prefetch"));
    if settings.target == RecoveryTarget::Immediate && major >= FIRST_WITH_PREFETCH && !is_given {
        settings.add_option("recovery_prefetch", "off").map_err(|error| {
            Failure::new(ExitCode::Assert, "the settings of the recovery cannot be written").because(error)
        })?;
    }
    Ok(settings)
}

fn read_settings(roots: &Roots, name: &str) -> Result<String, Failure> {
    let (below, name) = roots.find(name);
    let path = below.shown(name);
    let mut bytes = Vec::new();
    if let Some(mut file) = below.read(name)? {
        file.read_to_end(&mut bytes).map_err(failed("reading", &path))?;
    }
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| {
        tracing::warn!("{} is not UTF-8: the invalid bytes are replaced", path.display());
        String::from_utf8_lossy(error.as_bytes()).into_owned()
    }))
}

/// Whether the server will have no other way to the WAL that it needs to become consistent, or pg_verifybackup is to
/// look at it.
pub fn needs_wal(pgdata: &Path, target: &RecoveryTarget, write_manifest: bool) -> bool {
    let has_signal = || {
        ["recovery.signal", "standby.signal"]
            .iter()
            .any(|name| pgdata.join(name).exists())
    };
    match target {
        RecoveryTarget::None => true,
        RecoveryTarget::Preserve => write_manifest || !has_signal(),
        _ => write_manifest,
    }
}

/// Puts the segments from the backup's start to its stop into `pg_wal`, marked as archived.
///
/// # Errors
/// A segment is not in the archive, or cannot be written; 40 when its redo would take another server's files for its
/// own.
pub async fn fetch_wal(
    roots: &Roots,
    root: &ManifestRoot,
    source: &BackupSource,
    owners: &Owners,
    owner: (Option<&str>, Option<&str>),
) -> Result<u64, Failure> {
    let mut count = 0;
    let mut name = root.wal_start;
    while name <= root.wal_stop {
        let path = format!("pg_wal/{name}");
        let (below, at) = roots.find(&path);
        let shown = below.shown(at);
        let mut sink = FileSink::into_file(below.write(at, true)?, shown.clone(), Some(name));
        let found = source
            .archived(root.system_id, WalFileName::Segment(name), &mut sink)
            .await;
        let checked = found.and_then(|found| {
            if !found {
                return Err(missing(root, name));
            }
            let (file, created) = sink.finish()?;
            owners.give(&file, &shown, owner.0, owner.1)?;
            late_tablespaces::check_segment(roots.pgdata().path(), name, created.as_ref())
        });
        if let Err(failure) = checked {
            // Only a segment that was found good stays under its name (invariant 6).
            below.remove(at)?;
            return Err(failure);
        }
        let (below, status) = roots.find("pg_wal/archive_status");
        below.make_directories(status)?;
        // As pg_basebackup does it: the server does not archive it again.
        let path = format!("pg_wal/archive_status/{name}.done");
        let (below, at) = roots.find(&path);
        let done = below.write_all(at, b"")?;
        owners.give(&done, &below.shown(at), owner.0, owner.1)?;
        count += 1;
        let next = name.next(root.segment_size);
        if next == name {
            break;
        }
        name = next;
    }
    Ok(count)
}

fn missing(root: &ManifestRoot, name: SegmentName) -> Failure {
    Failure::new(
        ExitCode::FileMissing,
        format!(
            "WAL segment {name}, which backup {} needs, is not in the archive",
            root.label
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_that_ends_when_it_is_consistent_reads_no_wal_ahead() {
        let written = |target: RecoveryTarget, major, option: Option<&str>| {
            let mut settings = RecoverySettings::new(target, 0);
            if let Some(value) = option {
                settings.add_option("recovery_prefetch", value).unwrap();
            }
            until_consistent(&settings, major).unwrap().render_auto_conf("")
        };
        let off = "recovery_prefetch = 'off'";
        assert!(written(RecoveryTarget::Immediate, 15, None).contains(off));
        assert!(
            !written(RecoveryTarget::Immediate, 14, None).contains("prefetch"),
            "14 has no such setting"
        );
        assert!(!written(RecoveryTarget::Default, 15, None).contains("prefetch"));
        assert!(!written(RecoveryTarget::Immediate, 15, Some("on")).contains(off));
    }
}
