//! An archive that holds another history than the cluster's: each refusal names one command, and that command lets the
//! cluster go on (invariants 3 and 12).
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::time::Duration;

use pgmesh_tests::{Host, Ledger, Outcome, Site, wait_for, wait_for_some};

const LIMIT: Duration = Duration::from_secs(120);

/// The entry in `info` for the stanza's stuck archiver with this exit code.
fn stuck(site: &Site, code: u64) -> serde_json::Value {
    wait_for_some("the refused archiver to be told", LIMIT, || {
        let info = site.host.info();
        let stuck = info["stuck"].as_array().into_iter().flatten();
        let mut stuck = stuck.filter(|stuck| stuck["code"] == code);
        stuck.next().cloned().ok_or_else(|| info["stuck"].to_string())
    })
}

/// Runs the first command of this name in a remedy, as printed, as an administrator.
fn run_as_printed(site: &Site, remedy: &str, name: &str, options: &[&str]) -> Outcome {
    let commands = remedy.split('\'').filter_map(|part| part.strip_prefix("pgmesh "));
    let command = commands.into_iter().find(|command| command.contains(name));
    let command = command.unwrap_or_else(|| panic!("no {name} in: {remedy}"));
    let words: Vec<&str> = options.iter().copied().chain(command.split(' ')).collect();
    site.node.run(&words)
}

fn remedy(stuck: &serde_json::Value) -> &str {
    stuck["remedy"].as_str().expect("a remedy")
}

#[test]
fn a_snapshot_that_was_put_back_goes_on_after_the_command_that_the_refusal_names() {
    let mut site = Site::new("fence-snapshot", 1);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    site.host.backup();
    ledger.add(&site.postgres);
    // A snapshot of the volume.
    site.postgres.stop();
    let data = site.postgres.data().to_owned();
    let snapshot = site.postgres.copy(&site.scratch, "snapshot");
    // The work after the snapshot is given up.
    site.postgres.start();
    site.postgres
        .query("create table given_up as select generate_series(1, 1000) as n");
    site.postgres.archive_everything();
    site.postgres
        .query("insert into given_up select generate_series(1, 1000)");
    site.postgres.archive_everything();
    let later = site.host.backup();
    site.postgres.stop();
    for entry in fs::read_dir(&data).expect("the data directory").flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => fs::remove_dir_all(path).expect("a folder"),
            false => fs::remove_file(path).expect("a file"),
        }
    }
    snapshot.copy_into(&site.postgres);
    site.postgres.start();
    ledger.add(&site.postgres);
    site.postgres.query("select pg_switch_wal()");

    let told = stuck(&site, 45);
    let why = told["why"].as_str().expect("why");
    assert!(why.contains("part at") && why.contains("127.0.0.1"), "{why}");
    let doctor = site.node.run(&["doctor"]);
    assert!(
        doctor.code() == Some(45) && doctor.stdout.contains("archive-forget"),
        "{doctor}"
    );
    // A dry run names the files that would go. A backup of the given-up history goes with it, but only with
    // --with-backups.
    let dry = run_as_printed(&site, remedy(&told), "archive-forget", &["--dry-run"]).ok();
    assert!(
        dry.stdout.contains("would be forgotten") && dry.stdout.contains(&later),
        "{dry}"
    );
    run_as_printed(&site, remedy(&told), "archive-forget", &[]).fails(&[48], &[&later, "--with-backups"]);
    site.host
        .run(&["archive-forget", "00000001.history"])
        .fails(&[39], &["administrator"]);
    let done = run_as_printed(&site, remedy(&told), "archive-forget", &["--with-backups"]).ok();
    assert!(
        done.stdout.contains("forgotten") && done.stdout.contains(&later),
        "{done}"
    );
    site.postgres.assert_not_stuck();
    site.assert_restores(&site.host, &site.postgres, &[]);
    assert!(site.host.info()["stuck"].as_array().expect("stuck").is_empty());
}

#[test]
fn a_clone_that_was_adopted_by_mistake_is_taken_out_of_the_archive() {
    let mut site = Site::new("fence-clone", 1);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    site.host.backup();
    site.postgres.stop();
    let mut clone = site.postgres.copy(&site.scratch, "clone");
    site.postgres.start();
    let host = Host::join(&site.scratch, "host-clone", &site.node, &clone, "main");
    clone.start();
    clone.set("archive_command", &host.archive_command());
    host.run(&["--force", "stanza-adopt"]).succeeds();
    clone.query("create table of_the_clone as select generate_series(1, 1000) as n");
    clone.archive_everything();
    ledger.add(&site.postgres);
    site.postgres.query("select pg_switch_wal()");
    let told = stuck(&site, 44);
    assert!(
        told["why"]
            .as_str()
            .expect("why")
            .contains("was last written by client"),
        "{told}"
    );
    // The site's cluster is the original, so the advised command runs beside it.
    assert!(remedy(&told).contains("'pgmesh --stanza=main stanza-adopt'"), "{told}");
    site.host.run(&["stanza-adopt"]).fails(&[44], &["--force", "ago"]);
    clone.stop();
    site.host.run(&["--force", "stanza-adopt"]).succeeds();
    let told = stuck(&site, 45);
    run_as_printed(&site, remedy(&told), "archive-forget", &[]).fails(&[44], &["ago", "--force"]);
    run_as_printed(&site, remedy(&told), "archive-forget", &["--force"]).succeeds();
    site.postgres.assert_not_stuck();
    site.assert_restores(&site.host, &site.postgres, &[]);
    // The clone comes back, and is refused.
    clone.start();
    clone.query("select pg_switch_wal()");
    wait_for("the clone to be refused", LIMIT, || {
        clone.log().contains("stanza-adopt")
    });
    site.host.run(&["verify"]).succeeds();
}

#[test]
fn a_test_restore_that_has_archived_the_next_timeline_is_taken_out_of_the_archive() {
    let mut site = Site::new("fence-restored", 1);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    site.host.backup();
    // A user restores for a test, and lets the copy archive.
    let mut copy = site
        .host
        .restore(&site.scratch, "copy", &["--type=immediate", "--target-action=promote"]);
    let host = Host::join(&site.scratch, "host-copy", &site.node, &copy, "main");
    copy.start_promoted();
    copy.set("archive_mode", "on");
    copy.set("archive_command", &host.archive_command());
    copy.restart();
    copy.query("create table of_the_copy as select 1 as n");
    copy.archive_everything();
    copy.stop();
    // The cluster is promoted without access to the archive, so it takes the same timeline.
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    ledger.add(&site.postgres);
    site.postgres.stop();
    site.postgres
        .account()
        .write(&site.postgres.data().join("standby.signal"), "");
    site.postgres.start();
    site.postgres.promote();
    ledger.add(&site.postgres);
    site.postgres.query("select pg_switch_wal()");
    let told = stuck(&site, 45);
    run_as_printed(&site, remedy(&told), "archive-forget", &["--force"]).succeeds();
    site.postgres.assert_not_stuck();
    site.host.backup();
    site.assert_restores(&site.host, &site.postgres, &[]);
}
