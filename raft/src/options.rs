//! Settings of a catalog.

use pgmesh_runtime::clock;
use std::time::Duration;

use pgmesh_protocol::EntryId;

/// Settings of a catalog on one node. The defaults suit a node of any size.
#[derive(Debug, Clone)]
pub struct CatalogOptions {
    /// How often a leader shows that it is alive.
    pub heartbeat: Duration,
    /// How long after a sign of the leader no other is elected. It must be several heartbeats long, and twice the way
    /// to the farthest voter and back.
    pub election: Duration,
    /// How long a proposal or a linearizable read is tried for, through elections and silence, before it fails with
    /// [`CatalogError::NoQuorum`](crate::CatalogError::NoQuorum).
    pub patience: Duration,
    /// After how many Raft entries a snapshot is made and older entries are dropped.
    pub entries_per_snapshot: u64,
    /// How many entries that are in the snapshot already are kept for followers that lag a little.
    pub entries_kept: u64,
    /// How many bytes of a snapshot go to another node in one message.
    pub snapshot_part: u64,
    /// Memory for blocks read from the state database, in bytes.
    pub block_cache: usize,
    /// Memory for writes that are not in table files yet, in bytes, for each of the two databases.
    pub write_buffer: usize,
    /// Entries of the log that cannot be applied, to be left out. They are recorded, and need not be given again.
    pub skip_entries: Vec<EntryId>,
    /// The highest apply level that this program has: [`own_level`]. Tests play older and newer programs.
    pub level: u32,
    /// The proposer's clock, in seconds since the Unix epoch. Nothing is decided by it but the expiry of join tokens;
    /// everything else only records it.
    pub clock: fn() -> i64,
}

impl Default for CatalogOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(150),
            election: Duration::from_millis(700),
            patience: Duration::from_secs(8),
            entries_per_snapshot: 20_000,
            entries_kept: 2_000,
            snapshot_part: 4 << 20,
            block_cache: 32 << 20,
            write_buffer: 16 << 20,
            skip_entries: Vec::new(),
            level: own_level(),
            clock: clock::now_unix,
        }
    }
}

/// The highest apply level that this program has: [`LEVEL`](crate::LEVEL). A debug build plays the program of another
/// release where `PGMESH_PLAY_LEVEL` has a number: for tests of upgrades.
#[must_use]
pub fn own_level() -> u32 {
    let played = cfg!(debug_assertions).then(|| std::env::var("PGMESH_PLAY_LEVEL").ok()?.parse().ok());
    played.flatten().unwrap_or(crate::LEVEL)
}
