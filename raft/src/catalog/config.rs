//! openraft's settings, and what follows from them.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use crate::error::CatalogError;
use crate::options::CatalogOptions;

/// How many bytes of a snapshot go in one message: over a way of 200 ms, 4 MiB make 20 MB/s.
const SNAPSHOT_PART: u64 = 4 << 20;
/// How long a follower may take for the last part of a snapshot, with which it unpacks it and puts it in place.
const INSTALL_LIMIT_MS: u64 = 300_000;

/// With `heartbeat` = h and `election` = e:
/// - openraft's clock ticks every 3/2 h; a leader sends a heartbeat with every tick, and a follower looks with every tick
///   whether it should stand for election.
/// - A follower's lease for its leader is 2e, and it stands for election after the lease and e to 2e more (chosen once,
///   when it starts): 2e + (e to 2e) after the last sign of its leader. By default (h 250 ms, e 300 ms) that is 0.9 s to
///   1.2 s, with the tick at most 1.6 s; since the last sign is up to 375 ms old when a leader dies, a new one is there
///   about 0.6 s to 1.6 s after the death. Two heartbeats in a row may be lost.
/// - An append is given h, then openraft sends it again. It goes on nevertheless (`network.rs`), so h need not be longer
///   than a way to and fro, but below it openraft complains with every append.
/// - A request for a vote is given e, which therefore must be longer than a way to and fro.
pub(super) fn raft_config(options: &CatalogOptions) -> Result<Config, CatalogError> {
    let election = milliseconds(options.election);
    Config {
        cluster_name: "pgmesh".to_owned(),
        heartbeat_interval: milliseconds(options.heartbeat),
        election_timeout_min: election,
        election_timeout_max: election.saturating_mul(2),
        install_snapshot_timeout: INSTALL_LIMIT_MS,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.entries_per_snapshot),
        max_in_snapshot_log_to_keep: options.entries_kept,
        replication_lag_threshold: options.entries_per_snapshot.saturating_mul(2),
        snapshot_max_chunk_size: SNAPSHOT_PART,
        purge_batch_size: (options.entries_per_snapshot / 4).max(1),
        ..Config::default()
    }
    .validate()
    .map_err(|error| CatalogError::Stopped(error.to_string()))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
