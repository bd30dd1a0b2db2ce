//! The fence of an archive after restores into the cluster's own data directory: to the end, to an old moment twice,
//! and back to a timeline that was given up (invariants 3 and 12).
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use pgmesh_tests::{Ledger, LedgerRow, Site, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// Restores the cluster in place and starts it; it archives as before.
fn restore_in_place(site: &mut Site, arguments: &[&str]) {
    site.postgres.stop();
    let mut all = vec!["restore", "--delta"];
    all.extend_from_slice(arguments);
    site.host.run(&all).succeeds();
    site.postgres.start_promoted();
    assert_eq!(site.postgres.query("show archive_mode"), "on");
}

/// Asserts that the cluster archives without an alarm, and that a backup of it restores all its rows.
fn goes_on(site: &Site, ledger: &mut Ledger, timeline: u32) {
    ledger.add(&site.postgres);
    let segment = site.postgres.archive_everything();
    assert!(segment.starts_with(&format!("{timeline:08X}")), "{segment}");
    site.postgres.assert_not_stuck();
    site.node.assert_no_alarm();
    site.assert_restores(&site.host, &site.postgres, &[&format!("--target-timeline={timeline}")]);
}

/// A cluster with a backup, then three rows. Also returns the first of them, and a moment after it.
fn with_an_old_moment(name: &str) -> (Site, Ledger, LedgerRow, String) {
    let site = Site::new(name, 1);
    let mut ledger = Ledger::create(&site.postgres);
    site.host.backup();
    // A backup leads to moments after the second in which it ended.
    let ended = site.host.last_backup()["timestamp"]["stop"].to_string();
    wait_for("the second to end", LIMIT, || {
        let is_over = format!("select extract(epoch from clock_timestamp()) > {ended} + 1");
        site.postgres.query(&is_over) == "t"
    });
    let old = ledger.add(&site.postgres);
    ledger.add_some(&site.postgres, 2);
    let moment = ledger.moment_after(&site.postgres, &old);
    for _ in 0..2 {
        ledger.add(&site.postgres);
        site.postgres.archive_everything();
    }
    (site, ledger, old, moment)
}

#[test]
fn a_cluster_that_is_restored_in_place_goes_on() {
    let mut site = Site::new("fence-in-place", 1);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add(&site.postgres);
    site.host.backup();
    for round in 2..4 {
        let last = ledger.add(&site.postgres);
        site.postgres.archive_everything();
        restore_in_place(&mut site, &[]);
        Ledger::assert_ends_with(&site.postgres, last.number, "the end");
        goes_on(&site, &mut ledger, round);
    }
    // No backup says that the timelines before were given up: they are one history.
    site.assert_restores(&site.host, &site.postgres, &[]);
}

/// Twice back to the same moment: first along the newest timeline, PostgreSQL's default, then along timeline 1.
/// Timelines 2 and 4 are siblings then, both of which leave timeline 1 within the same segment.
#[test]
fn a_cluster_that_goes_back_to_the_same_moment_again_and_again_goes_on() {
    let (mut site, mut ledger, old, moment) = with_an_old_moment("fence-pitr");
    let target = format!("--target={moment}");
    let to_the_moment = ["--type=time", &target, "--target-action=promote"];
    for timeline in 2..4 {
        restore_in_place(&mut site, &to_the_moment);
        Ledger::assert_ends_with(&site.postgres, old.number, "the moment");
        goes_on(&site, &mut ledger, timeline);
    }
    let along_the_first = [&to_the_moment[..], &["--target-timeline=1"]].concat();
    restore_in_place(&mut site, &along_the_first);
    Ledger::assert_ends_with(&site.postgres, old.number, "the moment");
    goes_on(&site, &mut ledger, 4);
    // A backup tells which of the siblings is the cluster's history.
    site.host.backup();
    ledger.add(&site.postgres);
    site.assert_restores(&site.host, &site.postgres, &[]);
}

/// Back to an old moment, and then, since that was a mistake, to the end of the timeline that was given up.
#[test]
fn a_cluster_that_returns_to_a_timeline_that_was_given_up_goes_on() {
    let (mut site, mut ledger, old, moment) = with_an_old_moment("fence-return");
    let last = ledger.rows().last().expect("rows").number;
    let target = format!("--target={moment}");
    restore_in_place(&mut site, &["--type=time", &target, "--target-action=promote"]);
    Ledger::assert_ends_with(&site.postgres, old.number, "the moment");
    goes_on(&site, &mut ledger, 2);

    restore_in_place(&mut site, &["--target-timeline=1"]);
    Ledger::assert_ends_with(&site.postgres, last, "the end of timeline 1");
    goes_on(&site, &mut ledger, 3);
    site.host.backup();
    ledger.add(&site.postgres);
    site.assert_restores(&site.host, &site.postgres, &[]);
}
