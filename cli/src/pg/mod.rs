//! The running cluster's SQL side.

mod client;

pub use client::{BackupStart, BackupStop, DatabaseName, PgAddress, PgClient, PgClientError, TablespaceName};
