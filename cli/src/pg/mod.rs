//! The running cluster: its SQL side, and that it is the one whose files are at `pgN-path`.

mod address;
mod archiver;
mod archiving;
mod client;
mod cluster;
mod passfile;
mod replication;
mod server_files;
mod summaries;

pub use address::PgAddress;
pub use archiver::{Archiver, ArchiverState, ReadyFiles, ServerArchiver, archiver_remedy, ready_files};
pub use archiving::check_archiving;
pub use client::{ArchiverFailure, BackupStart, BackupStop, DatabaseName, PgClient, PgClientError, TablespaceName};
pub use cluster::{
    ClusterFiles, OpenCluster, database_failure, open_cluster, open_here, read_cluster_files, read_files_of,
};
pub use replication::ReplayState;
pub use server_files::ServerFile;
pub use summaries::WalSummary;
