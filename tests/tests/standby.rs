//! The uses of standbys: their files make a backup, and their WAL fills the gap that a lost primary has left.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use pgmesh_tests::{Host, Ledger, Outcome, Postgres, Scratch, Site, run, wait_for};

const LIMIT: Duration = Duration::from_secs(60);
/// The directory of the database `postgres`.
const DATABASE: &str = "base/5";

/// The options for a cluster of this host under a number.
fn cluster(number: u16, postgres: &Postgres) -> Vec<String> {
    vec![
        format!("--pg{number}-path={}", postgres.data().display()),
        format!("--pg{number}-socket-path={}", postgres.socket().display()),
        format!("--pg{number}-user=postgres"),
    ]
}

fn back_up(host: &Host, clusters: &[String], arguments: &[&str]) -> Outcome {
    let mut command = host.command(&["backup", "--start-fast", "--log-level-console=info"]);
    command.args(clusters).args(arguments);
    run(command)
}

/// A standby that streams from the site's cluster.
fn standby_of(site: &Site, name: &str) -> Postgres {
    let mut standby = site.postgres.standby(&site.scratch, name);
    standby.start();
    wait_for("the standby to stream", LIMIT, || {
        site.postgres
            .query("select count(*) from pg_stat_replication where state = 'streaming'")
            != "0"
    });
    standby
}

/// Fills tables in the default tablespace and in another one, to be compared later.
fn fill(site: &Site) {
    site.postgres.make_accounts(2);
    site.postgres.add_tablespace("fast");
    site.postgres
        .query("create table elsewhere tablespace fast as select number, md5(number::text) from generate_series(1, 20000) as number");
    site.postgres
        .query("create unlogged table fleeting as select generate_series(1, 1000) as number");
}

/// Restores, and compares with the cluster of the site, which must be idle.
fn restores_to_the_same(site: &Site, name: &str) -> Postgres {
    site.postgres.query("truncate fleeting");
    site.postgres.archive_everything();
    let map = format!(
        "--tablespace-map=fast={}",
        site.scratch.folder(format!("{name}-fast")).display()
    );
    let mut restored = site.restore(name, &["--write-manifest", &map]);
    restored.verify_backup();
    assert!(!restored.data().join("standby.signal").exists());
    restored.start_promoted();
    assert_same(&site.postgres, &restored);
    restored.check_all();
    restored
}

fn assert_same(one: &Postgres, other: &Postgres) {
    let (one, other) = (one.dump(), other.dump());
    let different = one.lines().zip(other.lines()).find(|(one, other)| one != other);
    assert!(one == other, "the dumps differ: {different:?}");
}

fn says(path: &Path, text: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|content| content.contains(text))
}

#[test]
fn a_standbys_files_and_the_primarys_wal_make_a_backup() {
    let site = Site::new("standby", 2);
    fill(&site);
    let standby = standby_of(&site, "standby");
    site.postgres.query("alter system set work_mem = '7MB'");
    // Marks the files of each cluster, so that the test can tell their source.
    let marked = |postgres: &Postgres, name: &str| {
        let file = postgres.data().join(name);
        postgres.account().write(&file, "a mark");
    };
    marked(&standby, &format!("{DATABASE}/standby-was-here"));
    marked(&standby, "standby-alone");
    marked(&site.postgres, &format!("{DATABASE}/primary-was-here"));
    marked(&site.postgres, "primary-alone");

    let load = site.postgres.load(2, 200);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add_some(&site.postgres, 3);
    let clusters = [cluster(1, &site.postgres), cluster(2, &standby)].concat();
    let outcome = thread::scope(|scope| {
        let backup = scope.spawn(|| back_up(&site.host, &clusters, &["--backup-standby=y"]));
        while !backup.is_finished() {
            ledger.add(&site.postgres);
        }
        backup.join().expect("the backup")
    });
    outcome.clone().succeeds();
    outcome.says(&["backup from standby pg2", "its files hold checkpoint"]);
    let last = ledger.add_some(&site.postgres, 3);
    load.stop();

    let restored = restores_to_the_same(&site, "restored");
    Ledger::assert_ends_with(&restored, last.number, "the end");
    let exists = |name: &str| restored.data().join(name).exists();
    assert!(exists(&format!("{DATABASE}/standby-was-here")) && exists("primary-alone"));
    assert!(!exists(&format!("{DATABASE}/primary-was-here")) && !exists("standby-alone"));
    let automatic = restored.data().join("postgresql.auto.conf");
    assert!(says(&automatic, "work_mem") && !says(&automatic, "primary_conninfo"));

    // The backup is like any other: of the primary's instance, and the next one from the primary goes on as ever.
    site.host.backup();
}

/// The WAL tells the changes in a standby's files too, whatever the source of the prior backup. If the primary is on
/// another host, the end of the WAL is read from the standby's `pg_wal`.
#[test]
fn an_incr_reads_what_changed_on_either_side() {
    let mut site = Site::new("standby-incr", 1);
    let address = site.postgres.listen();
    site.postgres.restart();
    fill(&site);
    site.postgres
        .query("create role copier superuser login replication password 'let me in'");
    let standby = standby_of(&site, "standby");
    let host = host_of_standby(&site, &standby, &address);
    let both = [cluster(1, &site.postgres), cluster(2, &standby)].concat();
    site.host.backup();
    let mut number = 0;
    let mut backup = |mut command: Command| {
        number += 1;
        // Without a checkpoint, so that the segment in which the backup begins has changes too.
        let changes = format!("update elsewhere set md5 = md5(md5) where number % 97 = {number}");
        site.postgres.query(&changes);
        let load = site.postgres.load(2, 200);
        command.args(["--type=incr", "--output=json"]);
        let summary = run(command).ok().json();
        load.stop();
        assert_eq!(summary["chosen_by"], "maps", "{number}: {summary}");
        assert_eq!(summary["pages_missed"], 0, "{number}: {summary}");
        restores_to_the_same(&site, &format!("restored-{number}"));
    };
    let here = |arguments: &[String]| {
        let mut command = site.host.command(&["backup", "--start-fast"]);
        command.args(arguments);
        command
    };
    let from_standby = [&both[..], &["--backup-standby=y".to_owned()]].concat();
    backup(here(&from_standby));
    backup(here(&from_standby));
    backup(here(&[]));
    backup(as_copier(&host, &site.scratch, "let me in"));
}

/// A host that knows the standby by its directory, and the primary by its address only.
fn host_of_standby(site: &Site, standby: &Postgres, address: &str) -> Host {
    let mut host = Host::join(&site.scratch, "host-standby", &site.node, standby, "main");
    host.reconfigure(
        "pg1-user=postgres\n",
        &format!("pg1-user=postgres\npg2-host={address}\npg2-user=copier\nbackup-standby=y\n"),
    );
    host
}

/// A backup through the user `copier` of the primary.
fn as_copier(host: &Host, scratch: &Scratch, password: &str) -> Command {
    let file = scratch.join("passwords");
    scratch.account().write(&file, format!("*:5432:*:copier:{password}\n"));
    let mut command = host.command(&["backup", "--start-fast"]);
    command.env("PGPASSFILE", file);
    command
}

fn with_password(host: &Host, scratch: &Scratch, password: &str) -> Outcome {
    let mut command = as_copier(host, scratch, password);
    command.arg("--log-level-console=info");
    run(command)
}

#[test]
fn the_primary_may_be_on_another_host() {
    let mut site = Site::new("remote", 2);
    let address = site.postgres.listen();
    site.postgres.restart();
    fill(&site);
    site.postgres.query("alter system set work_mem = '7MB'");
    site.postgres
        .query("create role copier login replication password 'let: me in'");
    site.postgres
        .query("grant pg_read_all_settings, pg_checkpoint to copier");
    let standby = standby_of(&site, "standby");
    let host = host_of_standby(&site, &standby, &address);
    let mut encrypted = host.command(&["backup"]);
    encrypted.env("PGSSLMODE", "verify-full");
    run(encrypted).fails(&[56], &["PGSSLMODE=verify-full", "tunnel"]);
    with_password(&host, &site.scratch, "wrong").fails(&[56], &["pg2", "password authentication failed"]);
    with_password(&host, &site.scratch, "let\\: me in").fails(&[56], &["pg_read_binary_file", "grant"]);

    for function in [
        "pg_ls_dir(text, boolean, boolean)",
        "pg_stat_file(text, boolean)",
        "pg_read_binary_file(text, bigint, bigint, boolean)",
        "pg_create_restore_point(text)",
        "pg_switch_wal()",
        "pg_backup_start(text, boolean)",
        "pg_backup_stop(boolean)",
    ] {
        site.postgres
            .query(&format!("grant execute on function {function} to copier"));
    }
    let load = site.postgres.load(2, 200);
    let outcome = with_password(&host, &site.scratch, "let\\: me in");
    load.stop();
    outcome.clone().succeeds();
    outcome.says(&["backup from standby pg1; the primary is pg2"]);

    let restored = restores_to_the_same(&site, "restored");
    let automatic = restored.data().join("postgresql.auto.conf");
    assert!(says(&automatic, "work_mem") && !says(&automatic, "primary_conninfo"));
    assert!(says(&restored.data().join("pg_hba.conf"), "scram-sha-256"));
}

#[test]
fn a_copy_on_another_host_is_not_taken_for_the_primary() {
    let mut site = Site::new("copied", 1);
    site.postgres
        .query("create role copier superuser login password 'secret'");
    site.postgres.archive_everything();
    site.postgres.stop();
    // A copy made without PostgreSQL's knowledge, with a standby of its own.
    let copy = site.scratch.folder("copy").join("data");
    let mut command = site.scratch.account().command("/bin/cp", site.scratch.path());
    command.arg("--archive").arg(site.postgres.data()).arg(&copy);
    run(command).succeeds();
    let mut copy = Postgres::at(&site.scratch, "copy");
    let address = copy.listen();
    copy.start();
    // The copy's archive_command hides that its WAL is refused.
    copy.set("archive_command", "true || pgmesh archive-push %p");
    site.postgres.start();
    let mut standby = copy.standby(&site.scratch, "standby");
    standby.start();
    // The original is ahead: the archive has segments under all names that the copy will write.
    for _ in 0..8 {
        site.postgres.archive_everything();
    }
    let host = host_of_standby(&site, &standby, &address);
    let outcome = with_password(&host, &site.scratch, "secret");
    outcome.fails(&[44], &["is not what this server wrote", "pgN-host"]);
    assert_eq!(site.host.info()["backup"], serde_json::json!([]));
}

#[test]
fn it_is_said_when_there_is_no_standby_that_fits() {
    let site = Site::new("fitting", 1);
    let alone = cluster(1, &site.postgres);
    back_up(&site.host, &alone, &["--backup-standby=y"]).fails(&[56], &["no standby", "backup-standby=prefer"]);
    let outcome = back_up(&site.host, &alone, &["--backup-standby=prefer"]);
    outcome.clone().succeeds();
    outcome.says(&["taken from the primary"]);

    let mut standby = standby_of(&site, "standby");
    let only = cluster(1, &standby);
    back_up(&site.host, &only, &["--backup-standby=n"]).fails(&[56], &["is a standby", "run this on the primary"]);
    // Bound to the timeline, the standby would lock the primary out.
    let mut create = site.host.command(&["stanza-create"]);
    create.args(&only);
    run(create).fails(&[56], &["is a standby", "run this on the primary"]);
    back_up(&site.host, &only, &["--backup-standby"]).fails(&[56], &["no primary", "pg2-host"]);

    let both = [alone, cluster(2, &standby)].concat();
    standby.query("select pg_wal_replay_pause()");
    back_up(&site.host, &both, &["--backup-standby=y"]).fails(&[56], &["pg2 does not replay"]);
    standby.query("select pg_wal_replay_resume()");

    // The standby's pages have no checksums, while the primary's pg_control says that all pages have them.
    standby.stop();
    let mut checksums = standby.program("pg_checksums");
    checksums
        .args(["--disable", "--no-sync", "--pgdata"])
        .arg(standby.data());
    run(checksums).succeeds();
    standby.start();
    back_up(&site.host, &both, &["--backup-standby=y"])
        .fails(&[56], &["pg2 writes pages without checksums", "the primary with"]);
    let outcome = back_up(&site.host, &both, &["--backup-standby=prefer"]);
    outcome.clone().succeeds();
    outcome.says(&["taken from the primary"]);

    // The standby may have been promoted since.
    standby.query("select pg_promote()");
    back_up(&site.host, &both, &["--backup-standby=y"]).fails(&[56], &["pg1 and pg2 are primaries"]);
    standby.stop();
    let outcome = back_up(&site.host, &both, &["--backup-standby=prefer"]);
    outcome.clone().succeeds();
    outcome.says(&["pg2 is not used", "taken from the primary"]);
}

#[test]
fn a_standby_that_lags_is_waited_for_and_named() {
    let site = Site::new("lagging", 1);
    site.postgres.make_accounts(1);
    let standby = standby_of(&site, "standby");
    standby.set("recovery_min_apply_delay", "1h");
    let load = site.postgres.load(1, 50);
    let replayed = || standby.query("select pg_last_wal_replay_lsn()");
    wait_for("the standby to lag", LIMIT, || {
        let before = replayed();
        thread::sleep(Duration::from_millis(500));
        before == replayed()
    });
    let both = [cluster(1, &site.postgres), cluster(2, &standby)].concat();
    let slow = back_up(&site.host, &both, &["--backup-standby=y", "--archive-timeout=4s"]);
    slow.fails(
        &[82],
        &[
            "standby pg2 has replayed up to 0/",
            "where the backup starts",
            "archive-timeout",
        ],
    );

    // The standby catches up while the backup waits for it.
    let outcome = thread::scope(|scope| {
        let backup = scope.spawn(|| back_up(&site.host, &both, &["--backup-standby=y"]));
        thread::sleep(Duration::from_secs(2));
        assert!(!backup.is_finished(), "it waits");
        standby.set("recovery_min_apply_delay", "0");
        backup.join().expect("the backup")
    });
    outcome.clone().succeeds();
    outcome.says(&["waiting for standby pg2"]);
    load.stop();
}

/// Runs a backup of a large table, and disturbs the standby while its files are read.
fn disturbed(site: &Site, standby: &Postgres, disturb: impl FnOnce()) -> Outcome {
    site.postgres.make_noise(64);
    wait_for("the standby to have it all", LIMIT, || {
        standby.query("select pg_last_wal_replay_lsn()") == site.postgres.query("select pg_current_wal_lsn()")
    });
    let both = [cluster(1, &site.postgres), cluster(2, standby)].concat();
    let slow = ["--backup-standby=y", "--compress-type=bz2", "--compress-level=9"];
    thread::scope(|scope| {
        let backup = scope.spawn(|| back_up(&site.host, &both, &slow));
        let chunks = || fs::read_dir(site.node.objects(1).path().join("chunk")).map_or(0, Iterator::count);
        wait_for("the first chunks", LIMIT, || chunks() > 0);
        assert!(!backup.is_finished());
        disturb();
        backup.join().expect("the backup")
    })
}

#[test]
fn a_standby_that_is_promoted_fails_the_backup() {
    let site = Site::new("promoted", 1);
    let standby = standby_of(&site, "standby");
    let outcome = disturbed(&site, &standby, || drop(standby.query("select pg_promote()")));
    outcome.fails(
        &[56],
        &["pg2 was promoted while the backup was made", "run the backup again"],
    );
    assert_eq!(site.host.info()["backup"], serde_json::json!([]));
}

#[test]
fn a_standby_that_follows_another_primary_fails_the_backup() {
    let site = Site::new("followed", 1);
    let standby = standby_of(&site, "standby");
    let mut other = site.postgres.standby(&site.scratch, "other");
    other.start();
    let outcome = disturbed(&site, &standby, || {
        other.query("select pg_promote()");
        standby.set(
            "primary_conninfo",
            &format!("host={} port=5432 user=postgres", other.socket().display()),
        );
        wait_for("the standby to change its timeline", LIMIT, || {
            standby.query("select received_tli from pg_stat_wal_receiver") == "2"
        });
    });
    outcome.fails(
        &[56],
        &["pg2 is on timeline 2 at the end of the backup, which is on timeline 1"],
    );
}

#[test]
fn a_standby_that_lives_on_the_archive_serves_too() {
    let site = Site::new("shipped", 1);
    site.postgres.make_accounts(1);
    let mut standby = site.postgres.standby(&site.scratch, "standby");
    let host = Host::join(&site.scratch, "host-standby", &site.node, &standby, "main");
    let fetch = host
        .archive_command()
        .replace("archive-push \"%p\"", "archive-get %f \"%p\"");
    standby.account().write(
        &standby.data().join("postgresql.auto.conf"),
        format!("restore_command = '{fetch}'\nwal_retrieve_retry_interval = '200ms'\n"),
    );
    standby.start();
    let both = [cluster(1, &site.postgres), cluster(2, &standby)].concat();
    let outcome = back_up(&site.host, &both, &["--backup-standby=y"]);
    outcome.clone().succeeds();
    outcome.says(&["its files hold checkpoint"]);
    site.postgres.archive_everything();
    let mut restored = site.restore("restored", &[]);
    restored.start_promoted();
    assert_same(&site.postgres, &restored);
    restored.check_all();
}

#[test]
fn a_promoted_standby_archives_what_its_primary_could_not() {
    let mut site = Site::new("gap", 1);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add(&site.postgres);
    site.host.backup();

    // The standby archives itself: a received segment also waits until it is in the archive.
    let mut standby = site.postgres.standby(&site.scratch, "standby");
    let host = Host::join(&site.scratch, "host-standby", &site.node, &standby, "main");
    standby.start();
    standby.set("archive_mode", "always");
    standby.set("archive_command", &host.archive_command());
    standby.restart();
    let archived = site.postgres.archive_everything();

    // From now on the primary archives nothing, and then it is gone.
    site.postgres.set("archive_command", "/bin/false");
    for _ in 0..2 {
        ledger.add(&site.postgres);
        site.postgres.query("select pg_switch_wal()");
    }
    let last = ledger.add(&site.postgres);
    let written = site.postgres.query("select pg_current_wal_flush_lsn()");
    wait_for("the standby to have it all", LIMIT, || {
        standby.query(&format!("select pg_last_wal_replay_lsn() >= '{written}'")) == "t"
    });
    wait_for("the standby to be refused what is not archived", LIMIT, || {
        standby.log().contains("is written by data directory")
    });
    site.postgres.kill();
    standby.query("select pg_promote()");
    let newest = standby.archive_everything();
    assert!(
        archived < newest && newest.starts_with("00000002"),
        "{archived}, {newest}"
    );

    // The way from the old backup to the new timeline has no gap.
    let mut restored = host.restore(&site.scratch, "restored", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "everything that the primary had confirmed");
    host.run(&["check", "--archive-mode-check=n"]).succeeds();
}
