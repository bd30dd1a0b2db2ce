//! What tells the restored server how to recover: `backup_label`, `postgresql.auto.conf`, a signal file, and where nothing
//! else would bring it, the WAL that makes the backup consistent.

use super::disk::{self, failed};
use super::late_tablespaces;
use super::owners::Owners;
use super::source::Source;
use pgmesh_node::{Failure, code};
use pgmesh_postgres::{RecoverySettings, RecoveryTarget, SegmentName, WalFileName};
use pgmesh_storage::ManifestRoot;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// What a restore of `--type=preserve` leaves as it finds it.
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

/// Writes the three. Whose they are, pg_control's owner says.
///
/// # Errors
/// They cannot be written.
pub fn write_settings(
    pgdata: &Path,
    root: &ManifestRoot,
    settings: &RecoverySettings,
    owners: &Owners,
    owner: (Option<&str>, Option<&str>),
) -> Result<(), Failure> {
    let write = |name: &str, content: &[u8]| {
        let path = pgdata.join(name);
        let file = disk::write_file(&path, content)?;
        owners.give(&file, &path, owner.0, owner.1)
    };
    write("backup_label", root.backup_label.as_bytes())?;
    if settings.target != RecoveryTarget::Preserve {
        let existing = read_settings(&pgdata.join("postgresql.auto.conf"))?;
        write("postgresql.auto.conf", settings.render_auto_conf(&existing).as_bytes())?;
    }
    match settings.signal() {
        Some(name) => write(name, b""),
        None => Ok(()),
    }
}

fn read_settings(path: &Path) -> Result<String, Failure> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        read => read.map_err(failed("reading", path))?,
    };
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| {
        tracing::warn!("{} is not UTF-8: what is not, is replaced", path.display());
        String::from_utf8_lossy(error.as_bytes()).into_owned()
    }))
}

/// Whether the server will have no other way to the WAL that it needs to become consistent, or pg_verifybackup is to look
/// at it.
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
/// One is not in the archive, or cannot be written; 40 when its redo would take files for its own that are not.
pub async fn fetch_wal(
    pgdata: &Path,
    root: &ManifestRoot,
    source: &Source,
    owners: &Owners,
    owner: (Option<&str>, Option<&str>),
) -> Result<u64, Failure> {
    let mut count = 0;
    let mut name = root.wal_start;
    while name <= root.wal_stop {
        let content = source
            .archived(root.system_id, WalFileName::Segment(name))
            .await?
            .ok_or_else(|| missing(root, name))?;
        late_tablespaces::check_segment(pgdata, name, &content)?;
        let write = |path: &Path, content: &[u8]| {
            let file = disk::write_file(path, content)?;
            owners.give(&file, path, owner.0, owner.1)
        };
        write(&pgdata.join("pg_wal").join(name.to_string()), &content)?;
        let status = pgdata.join("pg_wal/archive_status");
        disk::make_directories(&status)?;
        // As pg_basebackup does it: the server does not archive it again.
        write(&status.join(format!("{name}.done")), b"")?;
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
        code::FILE_MISSING,
        format!(
            "WAL segment {name}, which backup {} needs, is not in the archive",
            root.label
        ),
    )
}
