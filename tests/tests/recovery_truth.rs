//! What lies between the archive and a recovery: holes in the WAL, and WAL of another history under the same names.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pgmesh_tests::{Host, Ledger, Site, run, wait_for};

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
    // The proof is the .partial of a later segment, or the history where timeline 2 begins with a segment.
    assert!(
        log.contains("opens the server without what was committed behind it"),
        "{log}"
    );
    let state = restored.control("Database cluster state");
    assert_eq!(state, "in archive recovery", "{log}");

    // A target before the hole can be reached, and somebody who knows what it costs can do without what is behind it.
    let mut early = host.restore(&site.scratch, "early", &["--type=immediate", "--target-action=promote"]);
    early.start_promoted();
    Ledger::assert_ends_with(&early, first.number, "what the backup holds");
    early.stop();
    let mut short = host.restore(&site.scratch, "short", &["--archive-hole=end"]);
    short.start_promoted();
    assert!(
        short.log().contains("archive-hole=end takes it for the end"),
        "{}",
        short.log()
    );
}

/// Replaces what is in a folder; the folder itself stays, as a virtual machine's does that is rolled back to a snapshot.
fn replace_content(folder: &Path, by: &Path) {
    for entry in fs::read_dir(folder).expect("reading the folder").flatten() {
        shell("rm -rf \"$0\"", &[&entry.path()]);
    }
    copy(by, folder);
}

fn copy(from: &Path, to: &Path) {
    shell("cp -a \"$0/.\" \"$1\"", &[from, to]);
}

fn shell(script: &str, paths: &[&Path]) {
    let mut command = Command::new("sh");
    command.args(["-c", script]).args(paths);
    run(command).succeeds();
}

/// The same data directory, the same timeline, the same names of segments: but the archive has those of the history that the rollback
/// undid.
#[test]
fn invariant_4_no_backup_counts_whose_archived_wal_is_of_another_history() {
    let mut site = Site::new("rolled", 1);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add(&site.postgres);
    site.host.backup();
    site.postgres.archive_everything();
    site.postgres.stop();
    let snapshot = site.scratch.folder("snapshot");
    copy(site.postgres.data(), &snapshot);
    site.postgres.start();
    for _ in 0..6 {
        ledger.add(&site.postgres);
        site.postgres.archive_everything();
    }
    site.postgres.stop();
    let data = site.postgres.data().to_owned();
    replace_content(&data, &snapshot);
    site.postgres.start();
    site.postgres.query("create table undone as select 1 as number");

    // What the archive has is refused to be replaced, so archive_command fails, and no backup begins.
    site.postgres.query("select pg_switch_wal()");
    wait_for("archive_command to be refused", LIMIT, || {
        site.postgres.log().contains("[045]")
    });
    let backups = site.host.info()["backup"].clone();
    let backup = run(site.host.command(&["backup", "--type=full", "--archive-timeout=3s"]));
    backup.fails(
        &[82],
        &["archive_command fails: for 0000000100000000", "PostgreSQL's log"],
    );

    // An archive_command that hides it: the segments of these names are there.
    site.postgres.set("archive_command", "true || pgmesh archive-push %p");
    site.postgres.query("select pg_switch_wal()");
    wait_for("the archiver to believe that all is well", LIMIT, || {
        site.postgres
            .query("select last_archived_time > last_failed_time from pg_stat_archiver")
            == "t"
    });
    for command in [
        ["check"].as_slice(),
        &["backup", "--type=full"],
        &["backup", "--type=incr"],
    ] {
        run(site.host.command(command)).fails(&[44], &["is not what this server wrote", "standby.signal"]);
    }
    assert_eq!(site.host.info()["backup"], backups, "no backup was committed");

    // As the message says.
    site.postgres.set("archive_command", &site.host.archive_command());
    site.postgres.stop();
    site.postgres.account().write(&data.join("standby.signal"), "");
    site.postgres.start();
    site.postgres.query("select pg_promote()");
    site.host.backup();
    site.host.run(&["check"]).succeeds();
    let mut restored = site.restore("restored", &[]);
    restored.start_promoted();
    assert_eq!(restored.query("select number from undone"), "1");
}

/// PostgreSQL removes standby.signal when it is promoted and asks for the history of the timeline that it leaves after that.
#[test]
fn a_standby_is_promoted_while_no_node_answers() {
    let mut site = Site::new("silent", 1);
    let mut ledger = Ledger::create(&site.postgres);
    let mut standby = site.postgres.standby(&site.scratch, "standby");
    let host = Host::join(&site.scratch, "host-standby", &site.node, &standby, "main");
    let push = host.archive_command();
    let fetch = push.replace("archive-push \"%p\"", "--archive-timeout=2s archive-get %f \"%p\"");
    let settings = standby.data().join("postgresql.auto.conf");
    let streaming = fs::read_to_string(&settings).expect("reading postgresql.auto.conf");
    standby.account().write(
        &settings,
        format!("{streaming}\nrestore_command = '{fetch}'\nwal_retrieve_retry_interval = '200ms'\n"),
    );
    standby.start();
    // Twice: from timeline 1, which has no history, and from timeline 2, whose history is in pg_wal.
    for timeline in ["00000002", "00000003"] {
        let last = ledger.add(if timeline == "00000002" {
            &site.postgres
        } else {
            &standby
        });
        if timeline == "00000002" {
            let written = site.postgres.query("select pg_current_wal_flush_lsn()");
            wait_for("the standby to have it all", LIMIT, || {
                standby.query(&format!("select pg_last_wal_replay_lsn() >= '{written}'")) == "t"
            });
            site.postgres.kill();
            site.node.kill();
        } else {
            standby.stop();
            standby.account().write(&standby.data().join("standby.signal"), "");
            standby.start();
        }
        assert_eq!(standby.query("select pg_promote(true, 60)"), "t", "{}", standby.log());
        let segment = standby.current_segment();
        assert!(segment.starts_with(timeline), "{segment}");
        Ledger::assert_ends_with(&standby, last.number, "all that was confirmed");
    }
    let lines = fs::read_to_string(standby.data().join("pg_wal/00000003.history")).expect("the history of timeline 3");
    assert_eq!(
        lines.lines().filter(|line| !line.trim().is_empty()).count(),
        2,
        "{lines}"
    );
}
