//! `backup-standby`: the files come from a standby on this host, the WAL is the primary's.
//!
//! ```text
//! choose ── which of pg1-…, pg2-… is the primary, and which standby fits
//! replay    waiting until the standby's files hold the backup's checkpoint; that it is a standby still
//! files     one tree of the two directories: which file comes from which server
//! remote    the files of a primary on another host, by SQL
//! ```
//!
//! `pg_backup_start` and `pg_backup_stop` run on the primary, and the restored cluster replays from the checkpoint that
//! the primary made for the backup. So the standby's files may be newer than that, and must not be older.

mod choose;
mod files;
mod remote;
mod replay;
mod replicated;

pub use choose::{ChosenServers, choose};

use super::proof::WalProof;
use super::settings::BackupSettings;
use super::wal;
use crate::mesh::Mesh;
use crate::pg::{BackupStart, OpenCluster, PgClient, database_failure, timeline};
use pgmesh_postgres::{ClusterTree, ControlFile};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_runtime::tasks;
use remote::Spool;
use std::path::PathBuf;

/// Proves that a primary on another host is the server whose WAL the mesh has (invariant 12): this host cannot look at
/// its data directory, so the directory's fingerprint is not known.
async fn prove(mesh: &Mesh, settings: &BackupSettings, primary: &OpenCluster) -> Result<(), Failure> {
    let proof = WalProof::write(&primary.client).await?;
    let refused = |error| database_failure(&error);
    primary.client.switch_wal().await.map_err(refused)?;
    let timeline = timeline(&primary.control);
    let needed = proof.segments(timeline, primary.control.segment_size);
    wal::wait(mesh, settings, primary, needed).await?;
    proof.find(mesh, &settings.stanza, primary, timeline).await
}

/// The standby of a backup, and where its primary's own files are.
pub struct Standby {
    /// The N of its `pgN-…`.
    number: u16,
    client: PgClient,
    pgdata: PathBuf,
    primary: PrimaryFiles,
}

/// Where the primary's files are read.
enum PrimaryFiles {
    /// In its directory on this host.
    Here(PathBuf),
    /// They are asked for by SQL and laid down here.
    Remote(Spool),
}

impl Standby {
    /// Whether the primary is on this host, so that its data directory can be told from a copy (invariant 12).
    pub fn primary_is_here(&self) -> bool {
        matches!(self.primary, PrimaryFiles::Here(_))
    }

    /// Waits until the standby's files can be copied; `start` is the answer of the primary's `pg_backup_start`.
    ///
    /// # Errors
    /// Not within `archive-timeout` (82); the primary's WAL is not the archive's (44); the standby follows another
    /// server.
    pub async fn prepare(
        &self,
        mesh: &Mesh,
        settings: &BackupSettings,
        primary: &OpenCluster,
        start: &BackupStart,
    ) -> Result<(), Failure> {
        if !self.primary_is_here() {
            prove(mesh, settings, primary).await?;
        }
        replay::catch_up(self, primary, start.lsn, settings.archive_timeout).await
    }

    /// The tree to back up, joined of both servers' files.
    ///
    /// # Errors
    /// A directory or file cannot be read.
    pub async fn tree(&self, primary: &OpenCluster, exclude: &[String]) -> Result<ClusterTree, Failure> {
        files::tree(self, primary, exclude).await
    }

    /// Has the primary's `pg_control` read once more, at the end: it must not be older than any other file.
    ///
    /// # Errors
    /// The primary cannot be asked.
    pub async fn refresh_control(&self, primary: &OpenCluster) -> Result<(), Failure> {
        match &self.primary {
            PrimaryFiles::Here(_) => Ok(()),
            PrimaryFiles::Remote(spool) => spool.fetch_control(&primary.client).await,
        }
    }

    /// The primary's `pg_control` as it is now.
    async fn primary_control(&self, primary: &OpenCluster) -> Result<ControlFile, Failure> {
        match &self.primary {
            PrimaryFiles::Here(pgdata) => read_control(pgdata.clone()).await,
            PrimaryFiles::Remote(_) => remote::control(&primary.client).await.map(|(_, control)| control),
        }
    }

    /// Its own `pg_control` as it is now.
    async fn control(&self) -> Result<ControlFile, Failure> {
        read_control(self.pgdata.clone()).await
    }

    /// An error of its server.
    fn failure(&self, error: &crate::pg::PgClientError) -> Failure {
        let mut failure = database_failure(error);
        failure.what = format!("the standby pg{}: {}", self.number, failure.what);
        failure
    }
}

/// Reads `pg_control` where reading may block.
async fn read_control(pgdata: PathBuf) -> Result<ControlFile, Failure> {
    let what = format!("{} cannot be read", pgdata.join(ControlFile::PATH).display());
    tasks::blocking("reading pg_control", move || ControlFile::read(&pgdata))
        .await
        .map_err(|error| Failure::new(ExitCode::Assert, what.clone()).because(error))?
        .map_err(|error| Failure::new(ExitCode::FileInvalid, what).because(chain(&error)))
}
