//! The running cluster: its SQL side, and that it is the one whose files are at `pg1-path`.

mod archiving;
mod client;
mod cluster;
mod summaries;

pub use archiving::check_archiving;
pub use client::{
    ArchiverFailure, BackupStart, BackupStop, DatabaseName, PgAddress, PgClient, PgClientError, TablespaceName,
};
pub use cluster::{ClusterFiles, OpenCluster, database_failure, open_cluster, read_cluster_files};
pub use summaries::WalSummary;
