//! `--write-manifest`: PostgreSQL's own `backup_manifest`, by which pg_verifybackup judges the restored files.

use super::below::Below;
use super::disk::failed;
use pgmesh_postgres::{ManifestFile, ManifestWriter, WalRange};
use pgmesh_protocol::Failure;
use pgmesh_storage::{EntryKind, FileEntry, ManifestRoot};
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

/// The file's name in PGDATA.
const NAME: &str = "backup_manifest";
/// Files that a restore changes, and that pg_verifybackup passes over by itself.
const PASSED_OVER: &[&str] = &["postgresql.auto.conf", "recovery.signal", "standby.signal"];

/// A `backup_manifest` that is being written.
pub struct PgManifest {
    writer: ManifestWriter<BufWriter<File>>,
    path: PathBuf,
}

impl PgManifest {
    /// Begins it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(pgdata: &Below, root: &ManifestRoot) -> Result<Self, Failure> {
        let path = pgdata.shown(NAME);
        let file = pgdata.write(NAME, true)?;
        let writer = ManifestWriter::new(BufWriter::new(file), root.archive_id.version, root.system_id);
        Ok(Self {
            writer: writer.map_err(failed("writing", &path))?,
            path,
        })
    }

    /// Adds the files among these entries.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, entries: &[FileEntry]) -> Result<(), Failure> {
        for entry in entries {
            let EntryKind::File { size, crc32c, .. } = &entry.kind else {
                continue;
            };
            if PASSED_OVER.contains(&entry.path.as_str()) {
                continue;
            }
            let file = ManifestFile {
                path: entry.path.as_bytes(),
                size: *size,
                modified: entry.modified,
                crc32c: *crc32c,
            };
            self.writer.file(file).map_err(failed("writing", &self.path))?;
        }
        Ok(())
    }

    /// Adds `backup_label`, which is in no manifest of ours, and the WAL that the backup needs, and ends the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(mut self, root: &ManifestRoot) -> Result<File, Failure> {
        let label = ManifestFile {
            path: b"backup_label",
            size: root.backup_label.len() as u64,
            modified: root.stop_time,
            crc32c: crc32c::crc32c(root.backup_label.as_bytes()),
        };
        let range = WalRange {
            timeline: root.timeline,
            start: root.start_lsn,
            end: root.stop_lsn,
        };
        let writing = || failed("writing", &self.path);
        self.writer.file(label).map_err(writing())?;
        let file = self.writer.finish(&[range]).map_err(writing())?;
        file.into_inner().map_err(|error| writing()(error.into_error()))
    }
}
