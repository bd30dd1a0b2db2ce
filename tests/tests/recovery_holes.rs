//! What a recovery does where the archive lacks WAL.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use pgmesh_tests::{Host, Ledger, Site, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// The primary archives nothing for a while and is gone; its standby, which archives only what it writes itself, is promoted. So the last
/// segments of timeline 1 are nowhere, and timeline 2 goes on behind them.
#[test]
fn invariant_7_a_hole_stops_a_recovery_instead_of_ending_it() {
    let mut site = Site::new("hole", 1);
    let mut ledger = Ledger::create(&site.postgres);
    let first = ledger.add(&site.postgres);
    site.host.backup();

    let mut standby = site.postgres.standby(&site.scratch, "standby");
    let host = Host::join(&site.scratch, "host-standby", &site.node, &standby, "main");
    standby.start();
    standby.set("archive_mode", "on");
    standby.set("archive_command", &host.archive_command());
    standby.restart();
    site.postgres.archive_everything();
    site.postgres.set("archive_command", "/bin/false");
    for _ in 0..3 {
        ledger.add(&site.postgres);
        site.postgres.query("select pg_switch_wal()");
    }
    let written = site.postgres.query("select pg_current_wal_flush_lsn()");
    wait_for("the standby to have it all", LIMIT, || {
        standby.query(&format!("select pg_last_wal_replay_lsn() >= '{written}'")) == "t"
    });
    site.postgres.kill();
    standby.query("select pg_promote()");
    ledger.add(&standby);
    standby.archive_everything();

    // Recovery stops before the server is opened for writing.
    let mut restored = host.restore(&site.scratch, "restored", &[]);
    let _ = restored.try_start();
    restored.wait_for_end();
    let log = restored.log();
    assert!(log.contains("is a hole in the archive"), "{log}");
    assert!(log.contains("timeline 2 left its timeline later"), "{log}");
    let state = restored.control("Database cluster state");
    assert_eq!(state, "in archive recovery", "{log}");

    // A target before the hole can be reached, and somebody who knows what it costs can do without what is behind it.
    let mut early = host.restore(&site.scratch, "early", &["--type=immediate", "--target-action=promote"]);
    early.start_promoted();
    Ledger::assert_ends_with(&early, first.number, "what the backup holds");
    early.stop();
    let mut short = host.restore(&site.scratch, "short", &["--archive-hole=end"]);
    short.start_promoted();
    assert!(short.log().contains("archive-hole=end takes it for the end"), "{}", short.log());
}
