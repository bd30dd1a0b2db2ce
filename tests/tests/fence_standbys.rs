//! The fence of an archive with several standbys: cascades, standbys that archive before the primary does, and two
//! promotions within one segment (invariants 3 and 12).
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use pgmesh_tests::{Host, Ledger, Postgres, Site, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// Has a standby make a restartpoint, after which its pg_control names the timeline that it follows. By itself it makes
/// one every few minutes.
fn make_restartpoint(standby: &Postgres, primary: &Postgres) {
    primary.query("checkpoint");
    primary.wait_until_replayed_by(standby);
    standby.query("checkpoint");
}

fn wait_until_archived(server: &Postgres, segment: &str) {
    server.query("select pg_reload_conf()");
    wait_for(&format!("{segment} to be archived"), LIMIT * 2, || {
        server.query("select coalesce(last_archived_wal, '') from pg_stat_archiver") == segment
    });
}

/// a feeds b, and b feeds c; both standbys archive the WAL that they receive. a crashes, b is promoted, and c goes on
/// following it. Then b crashes, too.
#[test]
fn a_cascade_that_archives_always_is_not_stuck_by_two_crashes() {
    let mut site = Site::new("fence-cascade", 1);
    let mut ledger = Ledger::create(&site.postgres);
    let (mut b, host_b) = site.standby_of(&site.postgres, "b", "always");
    let (c, host_c) = site.standby_of(&b, "c", "always");
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    site.host.backup();
    ledger.add(&site.postgres);
    site.postgres.wait_until_replayed_by(&c);
    site.postgres.kill();

    b.promote();
    ledger.add(&b);
    b.archive_everything();
    make_restartpoint(&c, &b);
    ledger.add(&b);
    b.archive_everything();
    b.wait_until_replayed_by(&c);
    b.assert_not_stuck();
    c.assert_not_stuck();
    site.node.assert_no_alarm();
    site.assert_restores(&host_b, &b, &[]);

    ledger.add(&b);
    b.wait_until_replayed_by(&c);
    b.kill();
    c.promote();
    ledger.add(&c);
    c.archive_everything();
    c.assert_not_stuck();
    site.node.assert_no_alarm();
    site.assert_restores(&host_c, &c, &[]);
}

/// The primary archives nothing for a while and is lost. Both standbys have its WAL. The standby that is not promoted
/// fills the gap, and pushes the first segment of timeline 2 before the new primary archives anything.
#[test]
fn a_primary_goes_on_when_its_standby_has_archived_its_timeline_first() {
    let mut site = Site::new("fence-gap", 1);
    let mut ledger = Ledger::create(&site.postgres);
    let (b, host_b) = site.standby_of(&site.postgres, "b", "always");
    let (c, host_c) = site.standby_of(&site.postgres, "c", "always");
    ledger.add(&site.postgres);
    site.host.backup();
    site.postgres.archive_everything();
    for server in [&site.postgres, &b] {
        server.set("archive_command", "/bin/false");
    }
    for _ in 0..3 {
        ledger.add(&site.postgres);
        site.postgres.query("select pg_switch_wal()");
    }
    for standby in [&b, &c] {
        site.postgres.wait_until_replayed_by(standby);
    }
    site.postgres.kill();

    b.promote();
    c.follow(&b);
    ledger.add(&b);
    let first = b.current_segment();
    assert!(first.starts_with("00000002"), "{first}");
    b.query("select pg_switch_wal()");
    make_restartpoint(&c, &b);
    wait_until_archived(&c, &first);

    // From now on only the primary gives its WAL, so the outcome does not depend on the faster of two archivers.
    c.set("archive_command", "/bin/false");
    b.set("archive_command", &host_b.archive_command());
    ledger.add(&b);
    b.archive_everything();
    b.assert_not_stuck();
    b.wait_until_replayed_by(&c);
    c.set("archive_command", &host_c.archive_command());
    c.assert_not_stuck();
    site.node.assert_no_alarm();
    site.assert_restores(&host_b, &b, &[]);
}

/// The stanza is new, and its standby archives before the primary does. The primary still becomes the writer of the
/// timeline, and a copy of it does not.
#[test]
fn a_primary_goes_on_in_a_new_stanza_that_its_standby_has_begun() {
    let mut site = Site::new("fence-fresh", 1);
    let mut ledger = Ledger::create(&site.postgres);
    site.postgres.set("archive_command", "/bin/false");
    let (b, _host_b) = site.standby_of(&site.postgres, "b", "always");
    for _ in 0..2 {
        ledger.add(&site.postgres);
        let segment = site.postgres.current_segment();
        site.postgres.query("select pg_switch_wal()");
        wait_until_archived(&b, &segment);
    }
    site.postgres.set("archive_command", &site.host.archive_command());
    site.postgres.archive_everything();
    site.host.backup();

    site.postgres.stop();
    let mut copy = site.postgres.copy(&site.scratch, "copy");
    let host = Host::join(&site.scratch, "host-copy", &site.node, &copy, "main");
    copy.start();
    copy.set("archive_command", &host.archive_command());
    copy.query("create table of_the_copy as select 1");
    copy.query("select pg_switch_wal()");
    wait_for("the copy to be refused", LIMIT, || {
        copy.log().contains("is written by data directory")
    });
    copy.stop();

    site.postgres.start();
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    site.postgres.wait_until_replayed_by(&b);
    site.postgres.assert_not_stuck();
    b.assert_not_stuck();
    site.assert_restores(&site.host, &site.postgres, &[]);
}

/// Promotes two standbys within the same segment of timeline 1, one after the other: the second one lags behind and has
/// not seen timeline 2. Each archives that segment as a `.partial` of its own.
fn promote_two_within_one_segment(name: &str, target_timeline: &str) {
    let mut site = Site::new(name, 1);
    let mut ledger = Ledger::create(&site.postgres);
    let (mut b, _host_b) = site.standby_of(&site.postgres, "b", "on");
    let (mut c, host_c) = site.standby_of(&site.postgres, "c", "on");
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    site.host.backup();
    ledger.add(&site.postgres);
    site.postgres.wait_until_replayed_by(&c);
    c.set("restore_command", &host_c.restore_command_line());
    c.set("recovery_target_timeline", target_timeline);
    c.stop();
    ledger.add(&site.postgres);
    site.postgres.wait_until_replayed_by(&b);
    let segment = site.postgres.current_segment();
    site.postgres.kill();

    b.promote();
    b.query("create table of_b as select 1");
    wait_until_archived(&b, &format!("{segment}.partial"));
    b.kill();

    c.start();
    c.promote();
    let written = c.current_segment();
    assert!(written.starts_with("00000003"), "{written}");
    ledger.add(&c);
    c.archive_everything();
    c.assert_not_stuck();
    site.node.assert_no_alarm();
    let said = c.log();
    assert!(said.contains(&format!("'{segment}.partial' was set aside")), "{said}");
    host_c.backup();
    ledger.add(&c);
    site.assert_restores(&host_c, &c, &[]);
}

#[test]
fn a_second_promotion_within_one_segment_goes_on() {
    promote_two_within_one_segment("fence-twice", "current");
}

/// As above, but the second standby has read the history of timeline 2 from the archive. PostgreSQL then writes that
/// timeline 3 has left timeline 2, at a point before the beginning of timeline 2.
#[test]
fn a_second_promotion_of_a_standby_that_knows_the_first_goes_on() {
    promote_two_within_one_segment("fence-twice-known", "latest");
}
