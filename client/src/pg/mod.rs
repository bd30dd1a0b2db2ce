//! The running cluster: its SQL side, and the proof that its files are at `pgN-path`.

mod address;
mod archiver;
mod archiving;
mod client;
mod cluster;
mod passfile;
mod replication;
mod server_files;
mod summaries;

pub use address::{PgAddress, Way};
pub use archiver::{Archiver, ArchiverState, ReadyFiles, ServerArchiver, archiver_remedy, ready_files};
pub use archiving::{ArchivingCheck, check_archiving};
pub use client::{ArchiverFailure, PgClient, PgClientError};
pub(crate) use client::{BackupStart, BackupStop, DatabaseName, TablespaceName};
pub use cluster::{
    ClusterFiles, OpenCluster, PgSettings, database_failure, open_cluster, open_here, read_cluster_files, timeline,
};
pub(crate) use replication::ReplayState;
pub(crate) use server_files::ServerFile;
pub(crate) use summaries::WalSummary;
