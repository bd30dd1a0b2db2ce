//! One node, end to end: a running PostgreSQL pushes and is backed up, and a restore has exactly the committed rows.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::thread;
use std::time::Duration;

use pgmesh_tests::{Host, Kind, Ledger, Node, Postgres, Scratch, Site, WalForge, run, wait_for};

#[test]
fn recovery_ends_exactly_where_it_is_told() {
    let site = Site::new("pitr", 2);
    site.host.run(&["check"]).succeeds();
    site.postgres.make_accounts(1);
    let load = site.postgres.load(2, 100);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add_some(&site.postgres, 3);
    thread::scope(|scope| {
        let backup = scope.spawn(|| site.host.backup());
        while !backup.is_finished() {
            ledger.add(&site.postgres);
        }
        backup.join().expect("the backup")
    });

    // A time leads to a backup only if the backup ended in an earlier second: info counts in whole seconds.
    let ended = site.host.last_backup()["timestamp"]["stop"]
        .as_i64()
        .expect("a time in info");
    while ledger.add(&site.postgres).committed / 1_000_000 <= ended + 1 {}
    let at_time = ledger.add_some(&site.postgres, 3);
    let at_transaction = ledger.add_some(&site.postgres, 3);
    let at_name = ledger.add_some(&site.postgres, 3);
    site.postgres
        .query("select pg_create_restore_point('before the mistake')");
    let at_position = ledger.add_some(&site.postgres, 3);
    let last = ledger.add_some(&site.postgres, 3);
    load.stop();
    site.postgres.archive_everything();

    let moment = ledger.moment_after(&site.postgres, &at_time);
    let transaction = at_transaction.transaction.as_str();
    let position = at_position.position.as_str();
    let stories: [(&str, Vec<&str>, u64); 6] = [
        ("time", vec!["--type=time", "--target", &moment], at_time.number),
        (
            "xid",
            vec!["--type=xid", "--target", transaction],
            at_transaction.number,
        ),
        (
            "before-xid",
            vec!["--type=xid", "--target", transaction, "--target-exclusive"],
            at_transaction.number - 1,
        ),
        (
            "name",
            vec!["--type=name", "--target=before the mistake"],
            at_name.number,
        ),
        ("lsn", vec!["--type=lsn", "--target", position], at_position.number),
        ("default", vec![], last.number),
    ];
    for (name, mut arguments, expected) in stories {
        if !arguments.is_empty() {
            arguments.push("--target-action=promote");
        }
        let mut restored = site.restore(name, &arguments);
        restored.start_promoted();
        Ledger::assert_ends_with(&restored, expected, name);
        restored.check_all();
    }
    immediate_recovery_ends_inside_the_backup(&site, &ledger);
}

/// The rows that `--type=immediate` restores are bounded by the backup's own positions in the WAL.
fn immediate_recovery_ends_inside_the_backup(site: &Site, ledger: &Ledger) {
    let backup = site.host.last_backup();
    let bound = |which: &str| number(backup["lsn"][which].as_str().expect("a position in info"));
    let (start, stop) = (bound("start"), bound("stop"));
    let position = |row: &pgmesh_tests::LedgerRow| number(&row.position);
    let surely = ledger.rows().iter().filter(|row| position(row) <= start).count();
    let possibly = 1 + ledger.rows().iter().filter(|row| position(row) < stop).count();
    assert!(
        surely >= 3 && possibly < ledger.rows().len(),
        "the backup lies inside the ledger"
    );

    let mut restored = site.restore("immediate", &["--type=immediate", "--target-action=promote"]);
    restored.start_promoted();
    let found: usize = restored.query("select count(*) from ledger").parse().expect("a count");
    assert!(
        (surely..=possibly).contains(&found),
        "{found} rows, expected {surely} to {possibly}"
    );
    Ledger::assert_ends_with(&restored, found as u64, "immediate");
}

/// A position in the WAL as a number.
fn number(position: &str) -> u64 {
    let (high, low) = position.split_once('/').expect("a position with a slash");
    let part = |text| u64::from_str_radix(text, 16).expect("hexadecimal digits");
    (part(high) << 32) + part(low)
}

#[test]
fn postgresql_itself_accepts_what_was_restored() {
    let site = Site::new("manifest", 1);
    site.postgres.make_accounts(1);
    let original = site.postgres.add_tablespace("fast");
    site.postgres
        .query("create table elsewhere tablespace fast as select generate_series(1, 20000) as number");
    site.postgres
        .query("create unlogged table fleeting as select generate_series(1, 1000) as number");
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add_some(&site.postgres, 5);
    site.host.backup();
    site.postgres.archive_everything();

    let moved = site.scratch.folder("moved");
    let map = format!("--tablespace-map=fast={}", moved.display());
    let mut restored = site.restore("again", &["--write-manifest", &map]);
    restored.verify_backup();
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, 5, "the end");
    assert_eq!(
        restored.query("select count(*), sum(number) from elsewhere"),
        "20000|200010000"
    );
    assert_eq!(
        restored.query("select count(*) from fleeting"),
        "0",
        "an unlogged table is empty after a restore"
    );
    assert_eq!(
        restored.query("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'fast'"),
        moved.display().to_string()
    );
    assert!(
        fs::read_dir(&original)
            .expect("the original tablespace")
            .next()
            .is_some()
    );
    restored.check_all();
}

#[test]
fn recovery_types_write_the_signals_that_postgresql_expects() {
    let site = Site::new("types", 1);
    let mut ledger = Ledger::create(&site.postgres);
    let last = ledger.add_some(&site.postgres, 3);
    site.host.backup();
    site.postgres.archive_everything();
    let signals =
        |restored: &Postgres| ["recovery.signal", "standby.signal"].map(|name| restored.data().join(name).exists());
    let settings = |restored: &Postgres| {
        fs::read_to_string(restored.data().join("postgresql.auto.conf")).expect("postgresql.auto.conf")
    };

    let mut standby = site.restore("standby", &["--type=standby"]);
    assert_eq!(signals(&standby), [false, true]);
    standby.start();
    wait_for("the standby to have all rows", Duration::from_secs(60), || {
        standby.query("select count(*) from ledger") == last.number.to_string()
    });
    assert_eq!(standby.query("select pg_is_in_recovery()"), "t");
    standby.query("select pg_promote()");
    standby.check_all();

    assert_eq!(signals(&site.restore("none", &["--type=none"])), [false, false]);
    let option = "--recovery-option=recovery_min_apply_delay=1min";
    let with_option = site.restore("option", &[option]);
    assert_eq!(signals(&with_option), [true, false]);
    assert!(settings(&with_option).contains("recovery_min_apply_delay = '1min'"));
    let preserved = site.restore("preserve", &["--type=preserve"]);
    assert_eq!(
        settings(&preserved),
        settings(&site.postgres),
        "preserve leaves the settings of the backup alone"
    );
}

#[test]
fn restore_refuses_to_harm_a_cluster() {
    let mut site = Site::new("refuse", 1);
    let mut ledger = Ledger::create(&site.postgres);
    let last = ledger.add_some(&site.postgres, 3);
    site.host.backup();
    site.postgres.archive_everything();

    site.host
        .run(&["restore"])
        .fails(&[38], &[&site.postgres.data().display().to_string()]);
    site.postgres.stop();
    site.host
        .run(&["restore"])
        .fails(&[40], &[&site.postgres.data().display().to_string()]);
    site.postgres.start();
    Ledger::assert_ends_with(&site.postgres, last.number, "nothing at all");

    site.postgres.query("create table mistake ()");
    site.postgres.stop();
    site.host
        .run(&[
            "restore",
            "--force",
            "--archive-mode=off",
            "--type=immediate",
            "--target-action=promote",
        ])
        .succeeds();
    site.postgres.start_promoted();
    Ledger::assert_ends_with(&site.postgres, last.number, "the backup, by force");
    assert_eq!(site.postgres.query("select to_regclass('mistake') is null"), "t");
    site.postgres.check_all();
}

#[test]
fn one_repository_restores_without_any_node() {
    let mut site = Site::new("disaster", 2);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add_some(&site.postgres, 3);
    site.host.backup();
    let last = ledger.add_some(&site.postgres, 3);
    site.postgres.archive_everything();
    site.node.kill();
    fs::remove_dir_all(site.node.data()).expect("removing the node's data directory");

    for number in [1, 2] {
        let repository = site.node.repository(number);
        let mut restored = Postgres::empty(&site.scratch, &format!("direct-{number}"));
        let configuration = site.scratch.join(format!("direct-{number}.conf"));
        site.scratch.account().write(
            &configuration,
            format!(
                "[global]\nrepo1-path={}\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass={}\n[main]\npg1-path={}\n",
                repository.path.display(),
                repository.passphrase.as_deref().expect("an encrypted repository"),
                restored.data().display()
            ),
        );
        let program = pgmesh_tests::pgmesh(site.scratch.path());
        let mut command = site.scratch.account().command(program, site.scratch.path());
        command.arg(format!("--config={}", configuration.display())).args([
            "--stanza=main",
            "restore",
            "--repo-direct",
            "--archive-mode=off",
        ]);
        run(command).succeeds();
        restored.start_promoted();
        Ledger::assert_ends_with(&restored, last.number, "the end, from one repository alone");
        restored.check_all();
    }
}

#[test]
fn a_repository_that_was_away_is_made_whole() {
    let mut site = Site::with_node("debts", |node| {
        node.repository()
            .repository()
            .option("archive-ack", "1")
            .option("backup-ack", "1")
    });
    let second = site.node.objects(2);
    second.take_away();
    let while_away = site.postgres.archive_everything();
    site.host.backup();
    site.host.run(&["info"]).succeeds();
    let said = site.host.run(&["check"]);
    assert!(
        format!("{}{}", said.stdout, said.stderr).contains("repo2"),
        "check names the repository that is away: {said}"
    );
    second.bring_back();
    let names = |site: &Site, repository| site.node.objects(repository).segments();
    let count = |site: &Site, repository, kind| site.node.objects(repository).all(kind).len();
    let whole = |site: &Site| {
        names(site, 1) == names(site, 2)
            && count(site, 1, Kind::Chunk) == count(site, 2, Kind::Chunk)
            && count(site, 1, Kind::Manifest) == count(site, 2, Kind::Manifest)
    };
    wait_for(
        "the second repository to be made whole",
        Duration::from_secs(120),
        || whole(&site),
    );
    assert!(names(&site, 2).iter().any(|name| name.contains(&while_away)));

    // Once more, with a node that dies while the repository is away: the debt is not forgotten.
    second.take_away();
    site.postgres.archive_everything();
    site.node.kill();
    second.bring_back();
    site.node.start();
    wait_for(
        "the debt to be made up after a restart",
        Duration::from_secs(120),
        || whole(&site),
    );
    site.host.run(&["verify"]).succeeds();
}

#[test]
fn every_codec_brings_back_the_same_bytes() {
    let site = Site::without_archiving("codecs", 1, 16);
    let forge = WalForge::new(&site.postgres);
    for (number, codec) in (1..).zip(["zst", "lz4", "gz", "bz2", "none"]) {
        let file = forge.make(number);
        site.host
            .run(&[
                "archive-push",
                &format!("--compress-type={codec}"),
                &file.display().to_string(),
            ])
            .succeeds();
        let fetched = forge.path("fetched");
        site.host.get(&forge.name(number), &fetched).succeeds();
        assert!(
            fs::read(&fetched).expect("the fetched segment") == forge.content(number),
            "{codec}"
        );
    }
    site.host.run(&["verify"]).succeeds();
}

#[test]
fn a_repository_without_encryption_works_the_same() {
    let scratch = Scratch::new("plain");
    let path = scratch.join("alpha").join("plain");
    let node = Node::builder(&scratch, "alpha").repository_at(path, None).start();
    let postgres = Postgres::builder(&scratch, "pg").start();
    let host = Host::set_up(&scratch, &node, &postgres, "main");
    let mut ledger = Ledger::create(&postgres);
    let last = ledger.add_some(&postgres, 3);
    host.backup();
    postgres.archive_everything();
    host.run(&["verify"]).succeeds();
    let mut restored = host.restore(&scratch, "again", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
}

#[test]
fn the_archive_answers_honestly() {
    let site = Site::without_archiving("archive", 2, 1);
    let forge = WalForge::new(&site.postgres);
    let fetched = forge.path("fetched");
    // "Never archived" is a fact, with exit code 1, and no file is left in the segment's place.
    assert_eq!(site.host.get(&forge.name(1), &fetched).code(), Some(1));
    assert!(!fetched.exists());

    let file = forge.make(1);
    site.host.push(&file).succeeds();
    let again = site.host.push(&file).ok();
    again.says(&[&forge.name(1)]);
    site.host.get(&forge.name(1), &fetched).succeeds();
    assert!(fs::read(&fetched).expect("the fetched segment") == forge.content(1));

    let label = "000000010000000000000001.00000028.backup";
    let backup_history = forge.write(label, b"START WAL LOCATION: 0/100028 (file 000000010000000000000001)\n");
    site.host.push(&backup_history).succeeds();
    let partial = forge.write(&format!("{}.partial", forge.name(2)), &forge.content(2));
    site.host.push(&partial).succeeds();
    let history = forge.write("00000002.history", b"1\t0/200000\tno recovery target specified\n");
    site.host.push(&history).succeeds();
    for file in [&backup_history, &partial, &history] {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        site.host.get(&name, &fetched).succeeds();
        assert!(
            fs::read(&fetched).expect("the fetched file") == fs::read(file).expect("the file"),
            "{name}"
        );
    }
    let mut site = site;
    site.node.kill();
    // Without a node it cannot be known: an exit code above 125 stops PostgreSQL instead of ending recovery.
    let fetched = fetched.display().to_string();
    let asked = site
        .host
        .run(&["--archive-timeout=5", "archive-get", &forge.name(9), &fetched]);
    assert!(asked.code().is_some_and(|code| code > 125), "{asked}");
}

#[test]
fn info_has_the_keys_that_monitoring_reads() {
    let site = Site::new("info", 2);
    let label = site.host.backup();
    let archived = site.postgres.archive_everything();
    site.host
        .run(&[
            "annotate",
            &format!("--set={label}"),
            "--annotation=reason=before the upgrade",
        ])
        .succeeds();

    let stanza = site.host.info();
    assert_eq!(stanza["status"]["code"], 0, "{stanza}");
    assert_eq!(stanza["status"]["lock"]["backup"]["held"], false);
    assert_eq!(stanza["cipher"], "aes-256-cbc");
    assert_eq!(stanza["repo"].as_array().map(Vec::len), Some(2));
    assert_eq!(stanza["db"][0]["system-id"].to_string(), site.postgres.system_id());
    assert_eq!(stanza["db"][0]["version"], "15");
    assert_eq!(stanza["archive"][0]["id"], "15-1");
    assert!(
        stanza["archive"][0]["max"]
            .as_str()
            .is_some_and(|max| max >= archived.as_str())
    );
    let backup = &stanza["backup"][0];
    assert_eq!(backup["label"], label.as_str());
    assert_eq!(backup["type"], "full");
    assert_eq!(backup["error"], false);
    assert_eq!(backup["annotation"]["reason"], "before the upgrade");
    for number in [
        &backup["info"]["size"],
        &backup["info"]["delta"],
        &backup["info"]["repository"]["delta"],
        &backup["timestamp"]["stop"],
    ] {
        assert!(number.as_u64().is_some_and(|number| number > 0), "{backup}");
    }
    let text = site.host.run(&["info"]).ok();
    let mut rest = text.stdout.as_str();
    for part in [
        "stanza: main",
        "status: ok",
        "cipher: aes-256-cbc",
        "db (current)",
        "wal archive min/max (15)",
        "full backup: ",
        "timestamp start/stop",
        "wal start/stop",
        "database size",
        "repo1: backup size",
    ] {
        let at = rest
            .find(part)
            .unwrap_or_else(|| panic!("no {part:?} in its place in {text}"));
        rest = &rest[at + part.len()..];
    }
    assert!(!site.host.run(&["repo-ls"]).ok().text().is_empty());

    // A repository's identity is no secret, and its key is one; through the node and without it.
    let identity = fs::read_to_string(site.node.repository(1).path.join("pgmesh.repo")).expect("the identity");
    for way in ["--repo-direct=n", "--repo-direct=y"] {
        let get = |path: &str| site.node.run(&["--repo=1", way, "repo-get", path]);
        assert_eq!(get("pgmesh.repo").ok().stdout, identity, "{way}");
        get("pgmesh.key/0001-0001").fails(&[48], &["is a key object", "not shown"]);
        get("pgmesh.key").fails(&[55], &["no object of a repository has such a name"]);
    }
}

#[test]
fn a_stopped_stanza_takes_nothing() {
    let site = Site::without_archiving("stop", 1, 1);
    let forge = WalForge::new(&site.postgres);
    let file = forge.make(1);
    site.host.run(&["stop"]).succeeds();
    site.host.push(&file).fails(&[62], &["main"]);
    site.host.run(&["start"]).succeeds();
    site.host.push(&file).succeeds();
}

#[test]
fn what_only_some_may_see_stays_secret() {
    let site = Site::new("secret", 2);
    site.host.backup();
    let mut said = site.host.run(&["info", "--output=json"]).stdout + &site.node.process().log();
    said += &site.host.run(&["check", "--log-level-console=debug"]).stdout;
    let command_line = fs::read(format!("/proc/{}/cmdline", site.node.process().id())).expect("a command line");
    said += &String::from_utf8_lossy(&command_line);
    assert!(!said.contains("correct horse"), "a passphrase was shown");
    let mut command = site.scratch.account().command("/bin/grep", site.scratch.path());
    command
        .args(["--recursive", "--text", "--files-with-matches", "correct horse"])
        .arg(site.node.data())
        .args([&site.node.repository(1).path, &site.node.repository(2).path]);
    let found = run(command);
    assert_eq!(found.code(), Some(1), "a passphrase lies in {found}");
}

#[test]
fn a_worker_that_panics_is_an_alarm_and_its_work_goes_on() {
    let mut site = Site::with_node("panic", |node| {
        node.repository().repository().option("archive-ack", "1")
    });
    site.node.stop();
    site.node.play_panic(Some("repair"));
    site.node.start();
    site.node.play_panic(None);
    let second = site.node.objects(2);
    second.take_away();
    let segment = site.postgres.archive_everything();
    second.bring_back();
    wait_for("the repair after its restart", Duration::from_secs(120), || {
        second.segments().iter().any(|name| name.contains(&segment))
    });

    let status = site.node.run(&["status", "--output=json"]).ok().json();
    let alarm = &status["nodes"][0]["workers"][0];
    assert_eq!(
        (&alarm["worker"], &alarm["ends"]),
        (&"repair".into(), &1.into()),
        "{alarm}"
    );
    assert_eq!(alarm["running"], true);
    let named = "worker 'repair' has ended unexpectedly once since the node's start";
    for command in ["status", "doctor"] {
        let said = site.node.run(&[command]);
        assert!(said.stdout.contains(named), "{command}: {said}");
    }
    let check = site.host.run(&["check"]).ok();
    assert!(format!("{}{}", check.stdout, check.stderr).contains(named), "{check}");
    assert!(
        site.node
            .process()
            .log()
            .contains("PGMESH_PLAY_PANIC names this worker")
    );
}
