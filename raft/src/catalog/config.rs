//! openraft's settings, and the reasons for them.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use crate::error::CatalogError;
use crate::options::CatalogOptions;

/// How long a follower may take for the last part of a snapshot, with which it unpacks it and puts it in place. That
/// takes as long as the catalog is large: only a connection that has broken says that nothing comes of it. openraft
/// wants a number.
const INSTALL_LIMIT_MS: u64 = 7 * 24 * 3_600_000;

/// Elections and heartbeats have their own clock (`election.rs`), which goes by `heartbeat` = h and `election` = e:
/// - A leader sends a heartbeat every h. For e after a sign of the leader a voter neither stands for election nor gives
///   its vote to anyone (openraft's lease): the leader may be silent, or its disk stuck, for that long.
/// - A voter asks around e to 3/2 e after the last sign, and stands if a majority agrees. By default (h 150 ms, e 700
///   ms) there is a new leader 0.6 s to 1.1 s after the death of the old one, and two ways to and fro to a majority.
/// - openraft gives an append 7/10 e, then sends it again. It goes on nevertheless (`network.rs`), so that need not be
///   longer than a way to and fro, but below it openraft complains with every append.
/// - A request for a vote is given 9/10 e, which must be longer than a way to and fro.
/// - A snapshot is sent in parts, one after the other: over a way of 200 ms, parts of 4 MiB make 20 MB/s at most.
pub(super) fn raft_config(options: &CatalogOptions) -> Result<Config, CatalogError> {
    let election = milliseconds(options.election);
    Config {
        cluster_name: "pgmesh".to_owned(),
        heartbeat_interval: election * 7 / 10,
        election_timeout_min: election * 9 / 10,
        election_timeout_max: election,
        enable_elect: false,
        // Its own ones come too seldom, but when this node's clock for them is late, better than none.
        enable_heartbeat: true,
        install_snapshot_timeout: INSTALL_LIMIT_MS,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.entries_per_snapshot),
        max_in_snapshot_log_to_keep: options.entries_kept,
        replication_lag_threshold: options.entries_per_snapshot.saturating_mul(2),
        snapshot_max_chunk_size: options.snapshot_part,
        purge_batch_size: (options.entries_per_snapshot / 4).max(1),
        ..Config::default()
    }
    .validate()
    .map_err(|error| CatalogError::Stopped(error.to_string()))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
