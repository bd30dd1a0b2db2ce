//! The fence of an archive: no life of one cluster leaves its archiver stuck, and no copy of it gets into the archive
//! (invariants 3 and 12).
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use pgmesh_tests::{Host, Ledger, Site, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// A crash, with two standbys that archive the WAL that they receive. The standby that is not promoted has the
/// unfinished last segment of timeline 1 under its full name.
#[test]
fn a_standby_that_follows_another_primary_is_not_stuck() {
    let mut site = Site::new("fence-always", 1);
    let mut ledger = Ledger::create(&site.postgres);
    let (b, _host_b) = site.standby_of(&site.postgres, "b", "always");
    let (c, host_c) = site.standby_of(&site.postgres, "c", "always");
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    site.host.backup();
    ledger.add(&site.postgres);
    for standby in [&b, &c] {
        site.postgres.wait_until_replayed_by(standby);
    }
    site.postgres.kill();
    b.promote();
    c.follow(&b);
    ledger.add(&b);
    b.archive_everything();
    ledger.add(&b);
    // c's pg_control names the new timeline with its next restartpoint; until then its archiver waits.
    b.query("checkpoint");
    b.wait_until_replayed_by(&c);
    c.query("checkpoint");
    ledger.add(&b);
    b.archive_everything();
    b.wait_until_replayed_by(&c);
    b.assert_not_stuck();
    c.assert_not_stuck();
    // Nor is c stuck after its own promotion.
    c.promote();
    ledger.add(&c);
    c.archive_everything();
    c.assert_not_stuck();
    site.assert_restores(&host_c, &c, &[]);
}

/// As a cluster manager does it: switchover to b and back, then a crash, after which the old primary is rewound and
/// leads again.
#[test]
fn switchovers_and_a_rewind_leave_nobody_stuck() {
    let mut site = Site::new("fence-switchover", 1);
    let mut ledger = Ledger::create(&site.postgres);
    site.postgres.set("wal_log_hints", "on");
    site.postgres.set("restore_command", &site.host.restore_command_line());
    site.postgres.restart();
    let (mut b, host_b) = site.standby_of(&site.postgres, "b", "on");
    b.set("restore_command", &host_b.restore_command_line());
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    site.host.backup();

    // To b.
    ledger.add(&site.postgres);
    site.postgres.wait_until_replayed_by(&b);
    site.postgres.stop();
    b.promote();
    ledger.add(&b);
    site.postgres.start_as_standby_of(&b);
    b.archive_everything();
    // And back.
    ledger.add(&b);
    b.wait_until_replayed_by(&site.postgres);
    b.stop();
    site.postgres.promote();
    ledger.add(&site.postgres);
    b.start_as_standby_of(&site.postgres);
    site.postgres.wait_until_replayed_by(&b);
    // A crash, while a row is not archived yet.
    ledger.add(&site.postgres);
    site.postgres.wait_until_replayed_by(&b);
    site.postgres.kill();
    b.promote();
    ledger.add(&b);
    b.query("checkpoint");
    site.postgres.rewind_and_follow(&b);
    ledger.add(&b);
    b.wait_until_replayed_by(&site.postgres);
    // The old primary leads again.
    b.stop();
    site.postgres.promote();
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    b.start_as_standby_of(&site.postgres);
    // pg_rewind has brought b's rest of timeline 2. PostgreSQL offers such files before it removes them, in the next
    // checkpoint.
    site.postgres.query("checkpoint");
    site.postgres.assert_not_stuck();
    b.assert_not_stuck();
    site.assert_restores(&site.host, &site.postgres, &[]);
}

/// A moved cluster looks like a copy, until one command of its administrator says that it was moved.
#[test]
fn a_cluster_that_was_moved_goes_on_when_somebody_says_so_and_a_copy_does_not() {
    let mut site = Site::new("fence-moved", 1);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    site.host.backup();
    site.postgres.stop();
    let mut moved = site.postgres.copy(&site.scratch, "moved");
    let host = Host::join(&site.scratch, "host-moved", &site.node, &moved, "main");
    moved.start();
    moved.set("archive_command", &host.archive_command());
    ledger.add(&moved);
    moved.query("select pg_switch_wal()");
    wait_for("the archiver to fail", LIMIT, || {
        moved.query("select failed_count > 0 from pg_stat_archiver") == "t"
    });
    // The host itself reports it too, whether or not the nodes know: the waiting files, and the server's statistics.
    let said = host.run(&["doctor"]);
    assert!(
        said.stdout.contains("ok    archiver of main: "),
        "it may just have begun: {said}"
    );
    let status = moved.data().join("pg_wal/archive_status");
    for entry in std::fs::read_dir(status).expect("the ready files") {
        let path = entry.expect("a ready file").path();
        let file = std::fs::File::options().write(true).open(path).expect("a ready file");
        let before = std::time::SystemTime::now() - Duration::from_secs(120);
        file.set_modified(before).expect("setting its time");
    }
    let doctor = host.run(&["doctor"]);
    assert_ne!(doctor.code(), Some(0), "{doctor}");
    assert!(doctor.stdout.contains("FAIL  archiver of main: "), "{doctor}");
    assert!(doctor.stdout.contains("archive_command failed for"), "{doctor}");
    // Configuration management runs stanza-create everywhere. It changes nothing, and reports the problem.
    let created = host.run(&["stanza-create"]);
    created.says(&["stanza-adopt"]);
    created.succeeds();
    host.run(&["stanza-adopt"]).fails(&[44], &["--force", "ago"]);
    let adopted = host.run(&["--force", "stanza-adopt"]).ok();
    assert!(adopted.stdout.contains("the former writer, "), "{adopted}");
    moved.archive_everything();
    moved.assert_not_stuck();
    // The data directory before the move is refused from now on, by name.
    site.postgres.start();
    site.postgres.query("select pg_switch_wal()");
    wait_for("the copy to be refused", LIMIT, || {
        site.postgres.log().contains("stanza-adopt")
    });
    host.backup();
    site.assert_restores(&host, &moved, &[]);
}
