//! The statistics of PostgreSQL's archiver: the only part of all this that a DBA looks at.

use std::time::{Duration, Instant};

use pgmesh_tests::{Postgres, wait_for};

/// How long the archiver may stand still before the demo gives up.
const LIMIT: Duration = Duration::from_secs(60);

/// The counters of `pg_stat_archiver`.
#[derive(Clone, Copy)]
pub struct Counters {
    /// Segments that were acknowledged.
    pub archived: u32,
    /// Calls of `archive_command` that failed.
    pub failed: u32,
}

/// Reads the counters.
pub fn counters(postgres: &Postgres) -> Counters {
    let answer = postgres.query("select archived_count, failed_count from pg_stat_archiver");
    let mut counts = answer.split('|').map(|count| count.parse().expect("a count"));
    let mut next = || counts.next().expect("two counts");
    Counters {
        archived: next(),
        failed: next(),
    }
}

/// Ends the current segment, so that the archiver has one to archive.
pub fn switch(postgres: &Postgres) {
    postgres.query("select pg_create_restore_point('demo'), pg_switch_wal()");
}

/// Has PostgreSQL archive so many segments, one after the other. Returns the longest wait for an acknowledgement.
pub fn archive(postgres: &Postgres, count: u32) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..count {
        let began = Instant::now();
        let before = counters(postgres).archived;
        switch(postgres);
        wait_for("PostgreSQL to archive on", LIMIT, || {
            counters(postgres).archived > before
        });
        longest = longest.max(began.elapsed());
    }
    longest
}
