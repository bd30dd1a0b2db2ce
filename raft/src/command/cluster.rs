//! The cluster of a stanza's database.

use pgmesh_postgres::{PgVersion, SegmentSize, SystemId};
use serde::{Deserialize, Serialize};

/// The identity of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The system identifier.
    pub system_id: SystemId,
    /// The major version.
    pub version: PgVersion,
    /// `pg_control`'s catalog version.
    pub catalog_version: u32,
    /// The WAL segment size.
    pub segment_size: SegmentSize,
}
