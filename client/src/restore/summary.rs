//! The result of a restore, for the user.

use crate::text::size;
use pgmesh_storage::{BackupLabel, StanzaName};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// The result of a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoreSummary {
    /// The stanza.
    pub stanza: StanzaName,
    /// The backup.
    pub label: BackupLabel,
    /// The data directory.
    pub pgdata: PathBuf,
    /// Files of the backup.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of plaintext that were fetched.
    pub fetched: u64,
    /// Bytes that were there already (`--delta`).
    pub kept: u64,
    /// Bytes of databases that were left out.
    pub left_out: u64,
    /// Files and directories that were removed because the backup does not have them (`--delta`).
    pub removed: u64,
    /// Links made, each with where it leads.
    pub links: Vec<(String, PathBuf)>,
    /// WAL segments put into pg_wal.
    pub segments: u64,
}

impl fmt::Display for RestoreSummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (files, bytes, pgdata) = (self.files, size(self.bytes), self.pgdata.display());
        write!(
            formatter,
            "restored backup {} of {} to {pgdata}: {files} files, {bytes}",
            self.label, self.stanza
        )?;
        if self.kept > 0 || self.removed > 0 {
            let (kept, fetched) = (size(self.kept), size(self.fetched));
            write!(formatter, "\n{kept} kept, {fetched} fetched, {} removed", self.removed)?;
        }
        if self.left_out > 0 {
            write!(formatter, "\n{} of databases that were left out", size(self.left_out))?;
        }
        if self.segments > 0 {
            write!(formatter, "\n{} WAL segments put into pg_wal", self.segments)?;
        }
        for (path, destination) in &self.links {
            write!(formatter, "\n{path} leads to {}", destination.display())?;
        }
        Ok(())
    }
}
