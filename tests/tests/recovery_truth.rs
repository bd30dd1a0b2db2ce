//! Obstacles between the archive and a recovery: holes in the WAL, and WAL of another history under the same names.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgmesh_tests::{Host, Ledger, Outcome, Postgres, Site, run, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// A standby of the primary, which archives only its own WAL.
fn standby_of(site: &Site) -> (Postgres, Host) {
    let mut standby = site.postgres.standby(&site.scratch, "standby");
    let host = Host::join(&site.scratch, "host-standby", &site.node, &standby, "main");
    standby.start();
    standby.set("archive_mode", "on");
    standby.set("archive_command", &host.archive_command());
    standby.restart();
    (standby, host)
}

/// Waits until the standby has replayed all WAL of the primary.
fn wait_until_replayed(site: &Site, standby: &Postgres) {
    let written = site.postgres.query("select pg_current_wal_flush_lsn()");
    wait_for("the standby to have it all", LIMIT, || {
        standby.query(&format!("select pg_last_wal_replay_lsn() >= '{written}'")) == "t"
    });
}

/// The primary archives nothing for a while and is gone; its standby, which archives only its own WAL, is promoted. So
/// the last segments of timeline 1 are nowhere, and timeline 2 goes on behind them.
fn fail_over_with_lost_wal(site: &mut Site, ledger: &mut Ledger) -> (Postgres, Host) {
    let (standby, host) = standby_of(site);
    site.postgres.archive_everything();
    site.postgres.set("archive_command", "/bin/false");
    for _ in 0..3 {
        ledger.add(&site.postgres);
        site.postgres.query("select pg_switch_wal()");
    }
    wait_until_replayed(site, &standby);
    site.postgres.kill();
    standby.query("select pg_promote()");
    ledger.add(&standby);
    standby.archive_everything();
    (standby, host)
}

#[test]
fn invariant_7_a_hole_stops_a_recovery_instead_of_ending_it() {
    let mut site = Site::new("hole", 1);
    let mut ledger = Ledger::create(&site.postgres);
    let first = ledger.add(&site.postgres);
    site.host.backup();
    let (_standby, host) = fail_over_with_lost_wal(&mut site, &mut ledger);

    // Recovery stops before the server is opened for writing.
    let mut restored = host.restore(&site.scratch, "restored", &[]);
    let _ = restored.try_start();
    restored.wait_for_end();
    let log = restored.log();
    assert!(log.contains("is a hole in the archive"), "{log}");
    // The proof is the .partial of a later segment, or the history, if timeline 2 begins with a segment.
    assert!(
        log.contains("would open the server without the transactions committed after the hole"),
        "{log}"
    );
    let state = restored.control("Database cluster state");
    assert_eq!(state, "in archive recovery", "{log}");

    // A target before the hole can be reached. An administrator who accepts the loss can recover up to the hole.
    let mut early = host.restore(&site.scratch, "early", &["--type=immediate", "--target-action=promote"]);
    early.start_promoted();
    Ledger::assert_ends_with(&early, first.number, "what the backup holds");
    early.stop();
    let mut short = host.restore(&site.scratch, "short", &["--archive-hole=end"]);
    short.start_promoted();
    assert!(
        short.log().contains("because of archive-hole=end, recovery ends there"),
        "{}",
        short.log()
    );
}

/// WAL that is missing at the end of a timeline is reported before a restore needs it: how far each backup gets, and
/// that no backup gets to the present.
#[test]
fn invariant_7_missing_wal_is_told_with_the_recovery_targets_that_it_costs() {
    let mut site = Site::new("told", 1);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add(&site.postgres);
    let label = site.host.backup();
    let (standby, host) = fail_over_with_lost_wal(&mut site, &mut ledger);
    let missing = [
        "missing from archive",
        &format!("backup {label} cannot be recovered beyond"),
        "along timeline",
        "no backup can be recovered to the end of timeline 2",
    ];

    for (outcome, code) in [
        (host.run(&["check"]), 55),
        (site.node.run(&["doctor"]), 55),
        (site.node.run(&["verify"]), 26),
        (host.run(&["info"]), 0),
    ] {
        assert_eq!(outcome.code(), Some(code), "{outcome}");
        for part in missing {
            assert!(outcome.stdout.contains(part), "{part:?} is not in {outcome}");
        }
    }
    let info = host.info();
    assert_eq!(info["status"]["code"], 99, "{info}");
    let holes = &info["wal-holes"];
    assert_eq!(holes["unreached-timeline"], serde_json::json!([2]), "{holes}");
    let hole = &holes["hole"][0];
    // The last segment of timeline 1 may be there: timeline 2 has a copy, or the promoted server archives it.
    assert!(hole["count"].as_u64() >= Some(2), "{hole}");
    assert_eq!(hole["backup"], serde_json::json!([label]), "{hole}");
    let timelines = hole["beyond"]["timeline"].as_array().expect("timelines");
    assert_eq!(timelines.last(), Some(&serde_json::json!(2)), "{hole}");

    // With a new backup the present is safe; the older one still does not get there.
    host.backup();
    host.run(&["check"]).succeeds();
    let info = host.info();
    assert_eq!(info["status"]["code"], 0, "{info}");
    assert_eq!(
        info["wal-holes"]["hole"][0]["backup"],
        serde_json::json!([label]),
        "{info}"
    );
    drop(standby);
}

#[test]
fn a_failover_with_everything_archived_has_no_hole() {
    let mut site = Site::new("whole", 1);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add(&site.postgres);
    site.host.backup();
    let (standby, host) = standby_of(&site);
    ledger.add_some(&site.postgres, 3);
    site.postgres.archive_everything();
    // Of the segment in which the old timeline ends, it has only a .partial.
    let last = ledger.add(&site.postgres);
    wait_until_replayed(&site, &standby);
    site.postgres.kill();
    standby.query("select pg_promote()");
    standby.archive_everything();

    host.run(&["check"]).succeeds();
    site.node.run(&["verify"]).succeeds();
    let info = host.info();
    assert_eq!(info["wal-holes"], serde_json::Value::Null, "{info}");
    let mut restored = host.restore(&site.scratch, "restored", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end of timeline 2");
}

/// Replaces the content of a folder. The folder itself stays, as in a virtual machine that is rolled back to a
/// snapshot.
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

/// The same data directory, the same timeline, the same names of segments; but the archive has the segments of the
/// history that the rollback undid.
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

    // The archived segments are not replaced, so archive_command fails, and no backup begins.
    site.postgres.query("select pg_switch_wal()");
    wait_for("archive_command to be refused", LIMIT, || {
        site.postgres.log().contains("[045]")
    });
    let backups = site.host.info()["backup"].clone();
    let backup = run(site.host.command(&["backup", "--type=full", "--archive-timeout=3s"]));
    backup.fails(
        &[82],
        &[
            "archive_command fails: it failed last for 0000000100000000",
            "PostgreSQL's log",
        ],
    );

    // An archive_command that hides the refusal: segments of these names are in the archive.
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

    // As the message advises.
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

/// PostgreSQL asks for the history of the timeline that it leaves when it is promoted, after it has removed
/// standby.signal.
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

/// Writes the configuration of a restore without any node.
fn direct_configuration(site: &Site, restored: &Postgres) -> PathBuf {
    let repository = site.node.repository(1);
    let configuration = restored.socket().join("direct.conf");
    restored.account().write(
        &configuration,
        format!(
            "[main]\npg1-path={}\nrepo1-path={}\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass={}\n",
            restored.data().display(),
            repository.path.display(),
            repository.passphrase.as_deref().expect("an encrypted repository")
        ),
    );
    configuration
}

/// Restores without any node.
fn restore_directly(site: &Site, name: &str, arguments: &[&str]) -> (Postgres, Outcome) {
    let restored = Postgres::empty(&site.scratch, name);
    let configuration = direct_configuration(site, &restored);
    let program = pgmesh_tests::pgmesh(site.scratch.path());
    let mut command = site.scratch.account().command(program, site.scratch.path());
    command
        .arg(format!("--config={}", configuration.display()))
        .args(["--stanza=main", "restore", "--repo-direct"])
        .args(arguments);
    let outcome = run(command);
    (restored, outcome)
}

/// A recovery in place to a point before the newest backup, which then lies on a branch that was given up.
#[test]
fn a_backup_of_a_branch_that_was_given_up_is_neither_restored_nor_compared_with() {
    let mut site = Site::new("abandoned", 1);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add(&site.postgres);
    site.host.backup();
    let early = ledger.add(&site.postgres);
    let target = ledger.add(&site.postgres);
    site.postgres.archive_everything();
    site.postgres.query("create table abandoned as select 1 as number");
    let abandoned = site.host.backup();
    site.postgres.archive_everything();

    recover_in_place(&mut site, &target.position);
    let last = ledger.add(&site.postgres);
    site.postgres.archive_everything();

    // To the end, and to a time, along timeline 2; without recovery, and no further than the backup.
    let mut restored = site.restore("end", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end of the history");
    restored.stop();
    for arguments in [
        ["--type=none"].as_slice(),
        &["--type=immediate", "--target-action=promote"],
    ] {
        let name = arguments[0].trim_start_matches("--type=");
        let mut restored = site.restore(name, arguments);
        restored.start_promoted();
        assert_eq!(restored.query("select to_regclass('abandoned')"), "", "{arguments:?}");
        restored.stop();
        let (mut restored, outcome) = restore_directly(&site, &format!("{name}-direct"), arguments);
        outcome.succeeds();
        restored.start_promoted();
        assert_eq!(restored.query("select to_regclass('abandoned')"), "", "{arguments:?}");
        restored.stop();
    }
    let (mut restored, outcome) = restore_directly(&site, "end-direct", &[]);
    outcome.succeeds();
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end of the history, without a node");
    restored.stop();

    // A user who names the branch can restore it.
    let set = format!("--set={abandoned}");
    let refused = Postgres::empty(&site.scratch, "refused");
    run(site.host.restore_command(&refused, &[&set])).fails(&[75], &["timeline 1", "--target-timeline=1"]);
    let mut branch = site.restore("branch", &[&set, "--target-timeline=1"]);
    branch.start_promoted();
    assert_eq!(branch.query("select number from abandoned"), "1");
    branch.stop();

    // No backup is compared with the given-up one: the next is a full backup, and the one after it goes on from there.
    let next = site.host.backup_with(&["--type=incr"])["label"].clone();
    assert_eq!(site.host.last_backup()["type"], "full");
    site.host.backup_with(&["--type=incr"]);
    assert_eq!(site.host.last_backup()["prior"], next);

    // Once more, to a point before timeline 2 had left timeline 1. Both are given up then, and the user need not say
    // which one is meant.
    recover_in_place(&mut site, &early.position);
    site.postgres.query("create table second as select 2 as number");
    site.postgres.archive_everything();
    let mut restored = site.restore("second", &[]);
    restored.start_promoted();
    assert_eq!(
        restored.query("select number, (select max(number) from ledger) from second"),
        format!("2|{}", early.number)
    );
    assert!(site.host.info()["wal-holes"].is_null());
}

fn recover_in_place(site: &mut Site, position: &str) {
    site.postgres.stop();
    let to = format!("--target={position}");
    let arguments = ["restore", "--delta", "--type=lsn", &to, "--target-action=promote"];
    site.host.run(&arguments).succeeds();
    site.postgres.start_promoted();
}

/// A copy is restored for a trial, promoted, and archives, while its original goes on.
#[test]
fn a_promoted_copy_that_archived_does_not_take_the_place_of_its_original() {
    let site = Site::new("copy", 1);
    let mut ledger = Ledger::create(&site.postgres);
    let first = ledger.add(&site.postgres);
    site.host.backup();
    site.postgres.archive_everything();

    // By default the copy would not archive.
    let mut copy = Postgres::empty(&site.scratch, "copy");
    let host = Host::join(&site.scratch, "host-copy", &site.node, &copy, "main");
    let cautious = host.run(&["restore"]);
    cautious.says(&["archive_mode=off is written", "--archive-mode=preserve"]);
    cautious.succeeds();
    let command = format!("--recovery-option=archive_command={}", host.archive_command());
    host.run(&["restore", "--delta", "--archive-mode=preserve", &command])
        .succeeds();
    copy.start_promoted();
    Ledger::assert_ends_with(&copy, first.number, "the end of the archive at that time");
    copy.archive_everything();
    copy.stop();
    let last = ledger.add_some(&site.postgres, 3);
    site.postgres.archive_everything();

    let words = [
        "timeline 1 (client",
        "timeline 2 (client",
        "last archived",
        "up to 0/",
        "--target-timeline=1",
    ];
    for arguments in [[].as_slice(), &["--type=standby"], &["--type=immediate"]] {
        let refused = Postgres::empty(&site.scratch, "refused");
        run(site.host.restore_command(&refused, arguments)).fails(&[37], &words);
    }
    let (_, outcome) = restore_directly(&site, "refused-direct", &[]);
    outcome.fails(&[37], &["timeline 1 (", "timeline 2 (", "--target-timeline=1"]);
    let mut restored = site.restore("original", &["--target-timeline=1"]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end of timeline 1");
    restored.stop();
    let mut restored = site.restore("copy-again", &["--target-timeline=2"]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, first.number, "the end of timeline 2");
    restored.stop();

    // With the next backup of the original, the copy's timeline is given up, though PostgreSQL would still follow it.
    site.host.backup();
    let last = ledger.add(&site.postgres);
    site.postgres.archive_everything();
    let mut restored = site.restore("settled", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end of timeline 1");
}

/// An asynchronous standby is behind when the primary dies: timeline 1 goes on behind the point at which timeline 2
/// left it, and yet the history has one end.
#[test]
fn a_failover_that_loses_the_last_segments_of_the_primary_leaves_one_end() {
    let mut site = Site::new("tail", 1);
    site.postgres.query("create table rows (server text)");
    site.host.backup();
    let (standby, host) = standby_of(&site);
    wait_until_replayed(&site, &standby);
    standby.set("primary_conninfo", "");
    for _ in 0..3 {
        site.postgres.query("insert into rows values ('primary')");
        site.postgres.archive_everything();
    }
    site.postgres.kill();
    standby.query("select pg_promote()");
    standby.query("insert into rows values ('standby')");
    standby.archive_everything();
    host.run(&["check"]).succeeds();

    let mut restored = host.restore(&site.scratch, "restored", &[]);
    restored.start_promoted();
    assert_eq!(restored.query("select string_agg(server, ' ') from rows"), "standby");
}

/// A copy takes the original's place. It is promoted twice while it archives nothing, so that PostgreSQL never offers
/// its histories.
#[test]
fn archiving_that_is_turned_on_after_promotions_brings_their_histories() {
    let mut site = Site::new("later", 1);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add(&site.postgres);
    site.host.backup();
    site.postgres.archive_everything();
    site.postgres.kill();

    let mut heir = Postgres::empty(&site.scratch, "heir");
    let host = Host::join(&site.scratch, "host-heir", &site.node, &heir, "main");
    host.run(&["restore"]).succeeds();
    heir.start_promoted();
    heir.stop();
    heir.account().write(&heir.data().join("standby.signal"), "");
    heir.start();
    heir.query("select pg_promote()");
    assert!(heir.current_segment().starts_with("00000003"), "{}", heir.log());
    host.run(&["check"]).fails(&[87], &["archive_mode is off"]);
    heir.set("archive_mode", "on");
    heir.set("archive_command", &host.archive_command());
    heir.restart();
    let last = ledger.add(&heir);
    heir.archive_everything();
    host.run(&["check"]).succeeds();
    let mut restored = host.restore(&site.scratch, "restored", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end of timeline 3");
}

/// An incremental backup waits for the lock of a full one. When the full one ends, the incremental one is compared with
/// it.
#[test]
fn an_incremental_backup_that_waits_for_a_full_one_follows_it() {
    let site = Site::new("race", 1);
    let before = site.host.backup();
    site.postgres.make_noise(24);
    let full = ["backup", "--type=full", "--start-fast", "--compress-type=bz2"];
    let mut full = site.host.command(&full).spawn().expect("starting a backup");
    wait_for("the full backup to run", LIMIT, || {
        site.host.info()["status"]["lock"]["backup"]["held"] == true
    });
    site.host.backup_with(&["--type=incr"]);
    assert!(full.wait().expect("waiting for the backup").success());
    let incr = site.host.last_backup();
    assert_ne!(incr["prior"], before.as_str(), "{incr}");
    assert_eq!(incr["type"], "incr", "{incr}");
}

/// The backup does not depend on the server's archiver.
#[test]
fn a_backup_with_archive_check_off_brings_its_wal_itself() {
    let site = Site::new("itself", 1);
    let mut ledger = Ledger::create(&site.postgres);
    let last = ledger.add(&site.postgres);
    site.postgres.set("archive_command", "/bin/false");
    site.postgres.query("select pg_switch_wal()");
    let begun = std::time::Instant::now();
    let arguments = [
        "backup",
        "--type=full",
        "--start-fast",
        "--archive-check=n",
        "--archive-timeout=90s",
    ];
    site.host.run(&arguments).succeeds();
    assert!(begun.elapsed() < LIMIT, "it waited for the archiver");
    let mut restored = site.restore("restored", &["--type=immediate", "--target-action=promote"]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the backup itself");

    // pg_rewind derives %p from the given path of the data directory, and runs in any directory.
    let segment = site.host.last_backup()["archive"]["start"]
        .as_str()
        .expect("a segment")
        .to_owned();
    let mut get = site
        .host
        .command(&["archive-get", &segment, "data/pg_wal/RECOVERYXLOG"]);
    get.current_dir(site.postgres.socket());
    run(get).succeeds();
    assert!(site.postgres.data().join("pg_wal/RECOVERYXLOG").is_file());

    // If two stanzas are given, the one that is meant cannot be known.
    site.host
        .run(&["info", "--stanza=other"])
        .fails(&[31], &["option 'stanza' cannot be set multiple times"]);
}
