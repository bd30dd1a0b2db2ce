//! Whose WAL an archive takes: no life of one cluster leaves its archiver stuck, and no copy of it gets into the
//! archive (invariants 3 and 12).
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use pgmesh_tests::{Host, Ledger, Postgres, Site, run, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// A standby of a server, and its host.
fn standby_of(site: &Site, primary: &Postgres, name: &str, archive_mode: &str) -> (Postgres, Host) {
    let mut standby = primary.standby(&site.scratch, name);
    let host = Host::join(&site.scratch, &format!("host-{name}"), &site.node, &standby, "main");
    standby.start();
    standby.set("archive_mode", archive_mode);
    standby.set("archive_command", &host.archive_command());
    standby.restart();
    (standby, host)
}

fn follow(standby: &Postgres, primary: &Postgres) {
    let conninfo = format!("host={} port={}", primary.socket().display(), primary.port());
    standby.set("primary_conninfo", &conninfo);
}

fn wait_until_replayed(primary: &Postgres, standby: &Postgres) {
    let written = primary.query("select pg_current_wal_flush_lsn()");
    wait_for("the standby to have it all", LIMIT, || {
        standby.query(&format!("select pg_last_wal_replay_lsn() >= '{written}'")) == "t"
    });
}

fn promote(standby: &Postgres) {
    standby.query("select pg_promote()");
    wait_for("the promotion", LIMIT, || {
        standby.query("select pg_is_in_recovery()") == "f"
    });
}

/// Nothing waits for the archiver.
fn assert_not_stuck(server: &Postgres) {
    let status = server.data().join("pg_wal/archive_status");
    let waiting = || {
        let names = fs::read_dir(&status).expect("archive_status").flatten();
        let mut ready: Vec<String> = names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.ends_with(".ready"))
            .collect();
        ready.sort();
        ready
    };
    // The archiver may sleep for a minute after it has failed.
    wait_for(
        &format!("an empty queue, there wait {:?}", waiting()),
        LIMIT * 2,
        || waiting().is_empty(),
    );
}

/// What the archive restores is what the server has.
fn assert_restores(host: &Host, site: &Site, server: &Postgres, ledger: &Ledger) {
    server.archive_everything();
    let mut restored = host.restore(&site.scratch, &format!("restored-{}", ledger.rows().len()), &[]);
    restored.start_promoted();
    assert_eq!(restored.dump(), server.dump());
}

/// A crash, with two standbys that archive what they receive: the one that is not promoted has the unfinished last
/// segment of timeline 1 under its full name.
#[test]
fn a_standby_that_follows_another_primary_is_not_stuck() {
    let mut site = Site::new("fence-always", 1);
    let mut ledger = Ledger::create(&site.postgres);
    let (b, host_b) = standby_of(&site, &site.postgres, "b", "always");
    let (c, host_c) = standby_of(&site, &site.postgres, "c", "always");
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    site.host.backup();
    ledger.add(&site.postgres);
    for standby in [&b, &c] {
        wait_until_replayed(&site.postgres, standby);
    }
    site.postgres.kill();
    promote(&b);
    follow(&c, &b);
    ledger.add(&b);
    b.archive_everything();
    ledger.add(&b);
    // Its pg_control names the new timeline with its next restartpoint; until then it waits.
    b.query("checkpoint");
    wait_until_replayed(&b, &c);
    c.query("checkpoint");
    ledger.add(&b);
    b.archive_everything();
    wait_until_replayed(&b, &c);
    assert_not_stuck(&b);
    assert_not_stuck(&c);
    // Nor after its own promotion.
    promote(&c);
    ledger.add(&c);
    c.archive_everything();
    assert_not_stuck(&c);
    assert_restores(&host_c, &site, &c, &ledger);
    host_b.run(&["verify"]).succeeds();
}

/// As a cluster manager does it: switchover there and back, a crash, and the old primary is rewound and leads again.
#[test]
fn switchovers_and_a_rewind_leave_nobody_stuck() {
    let mut site = Site::new("fence-switchover", 1);
    let mut ledger = Ledger::create(&site.postgres);
    site.postgres.set("wal_log_hints", "on");
    site.postgres.restart();
    let (mut b, host_b) = standby_of(&site, &site.postgres, "b", "on");
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    site.host.backup();

    // There.
    ledger.add(&site.postgres);
    wait_until_replayed(&site.postgres, &b);
    site.postgres.stop();
    promote(&b);
    ledger.add(&b);
    start_as_standby(&mut site.postgres, &b);
    b.archive_everything();
    // And back.
    ledger.add(&b);
    wait_until_replayed(&b, &site.postgres);
    b.stop();
    promote(&site.postgres);
    ledger.add(&site.postgres);
    start_as_standby(&mut b, &site.postgres);
    wait_until_replayed(&site.postgres, &b);
    // A crash, while something was not archived.
    ledger.add(&site.postgres);
    wait_until_replayed(&site.postgres, &b);
    site.postgres.kill();
    promote(&b);
    ledger.add(&b);
    b.query("checkpoint");
    rewind(&mut site.postgres, &b);
    ledger.add(&b);
    wait_until_replayed(&b, &site.postgres);
    // It leads again.
    b.stop();
    promote(&site.postgres);
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    assert_not_stuck(&site.postgres);
    start_as_standby(&mut b, &site.postgres);
    assert_not_stuck(&b);
    assert_restores(&site.host, &site, &site.postgres, &ledger);
    host_b.run(&["verify"]).succeeds();
}

fn start_as_standby(server: &mut Postgres, primary: &Postgres) {
    let conninfo = format!("host={} port={}", primary.socket().display(), primary.port());
    let auto = server.data().join("postgresql.auto.conf");
    let settings = fs::read_to_string(&auto).expect("postgresql.auto.conf");
    server
        .account()
        .write(&auto, format!("{settings}\nprimary_conninfo = '{conninfo}'\n"));
    server.account().write(&server.data().join("standby.signal"), "");
    server.start();
}

fn rewind(server: &mut Postgres, source: &Postgres) {
    // It must have been shut down.
    server.start();
    server.stop();
    let own = fs::read_to_string(server.data().join("postgresql.auto.conf")).expect("postgresql.auto.conf");
    let mut command = server.program("pg_rewind");
    command.arg("--target-pgdata").arg(server.data());
    command.arg(format!(
        "--source-server=host={} port={} dbname=postgres",
        source.socket().display(),
        source.port()
    ));
    run(command).succeeds();
    // Each server has its own host's archive_command.
    server.account().write(&server.data().join("postgresql.auto.conf"), own);
    start_as_standby(server, source);
}

/// Nobody can tell a moved cluster from a copy: one command says it.
#[test]
fn a_cluster_that_was_moved_goes_on_when_somebody_says_so_and_a_copy_does_not() {
    let mut site = Site::new("fence-moved", 1);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    site.host.backup();
    site.postgres.stop();
    let mut moved = Postgres::empty(&site.scratch, "moved");
    let mut copy = Command::new("cp");
    copy.arg("--archive")
        .arg(format!("{}/.", site.postgres.data().display()))
        .arg(moved.data());
    run(copy).succeeds();
    let host = Host::join(&site.scratch, "host-moved", &site.node, &moved, "main");
    moved.start();
    moved.set("archive_command", &host.archive_command());
    ledger.add(&moved);
    moved.query("select pg_switch_wal()");
    wait_for("the archiver to fail", LIMIT, || {
        moved.query("select failed_count > 0 from pg_stat_archiver") == "t"
    });
    // Configuration management runs this everywhere. It changes nothing, and says what is the matter.
    let created = host.run(&["stanza-create"]);
    created.says(&["stanza-adopt"]);
    created.succeeds();
    host.run(&["stanza-adopt"]).fails(&[44], &["--force", "ago"]);
    let adopted = host.run(&["--force", "stanza-adopt"]).ok();
    assert!(adopted.stdout.contains("and no more by"), "{adopted}");
    moved.archive_everything();
    assert_not_stuck(&moved);
    // The one before is refused from then on, by name.
    site.postgres.start();
    site.postgres.query("select pg_switch_wal()");
    wait_for("the copy to be refused", LIMIT, || {
        site.postgres.log().contains("stanza-adopt")
    });
    host.backup();
    assert_restores(&host, &site, &moved, &ledger);
}
