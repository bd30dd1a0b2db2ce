//! A directory, S3, Azure and Google Cloud Storage at once, each under its own key: any of them is enough.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use pgmesh_tests::http::HttpProxy;
use pgmesh_tests::stores::Clouds;
use pgmesh_tests::{Ledger, Postgres, Site, pgmesh, run, wait_for};

/// The time in which all debts must be paid.
const LIMIT: Duration = Duration::from_secs(90);

/// A node with a directory and a bucket of each type.
fn site(name: &str, clouds: &Clouds) -> Site {
    Site::with_node(name, |node| {
        let node = node.repository();
        clouds
            .buckets()
            .iter()
            .fold(node, |node, bucket| node.repository_on(bucket))
    })
}

/// Restores from one repository alone, without a node, into a new cluster that is promoted.
fn restore_directly(site: &Site, number: usize) -> Postgres {
    let mut restored = Postgres::empty(&site.scratch, &format!("direct-{number}"));
    let configuration = site.scratch.join(format!("direct-{number}.conf"));
    let repository = site.node.repository(number).lines_as(1);
    let text = format!("[global]\n{repository}[main]\npg1-path={}\n", restored.data().display());
    site.scratch.account().write(&configuration, text);
    let mut command = site
        .scratch
        .account()
        .command(pgmesh(site.scratch.path()), site.scratch.path());
    command.arg(format!("--config={}", configuration.display())).args([
        "--stanza=main",
        "restore",
        "--repo-direct",
        "--archive-mode=off",
    ]);
    run(command).succeeds();
    restored.start_promoted();
    restored
}

#[test]
fn four_types_at_once_restore_to_any_moment_and_each_alone_without_a_node() {
    let clouds = Clouds::start();
    let mut site = site("four", &clouds);
    site.postgres.make_accounts(1);
    let load = site.postgres.load(2, 50);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add_some(&site.postgres, 3);
    thread::scope(|scope| {
        let backup = scope.spawn(|| site.host.backup());
        while !backup.is_finished() {
            ledger.add(&site.postgres);
        }
        backup.join().expect("the backup")
    });
    let before = ledger.add_some(&site.postgres, 3);
    let position = before.position.clone();
    let last = ledger.add_some(&site.postgres, 3);
    load.stop();
    site.postgres.archive_everything();
    site.wait_until_settled(LIMIT);
    site.host.run(&["check"]).succeeds();
    site.host.run(&["verify"]).succeeds();

    let arguments = ["--type=lsn", "--target", &position, "--target-action=promote"];
    let mut restored = site.restore("lsn", &arguments);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, before.number, "a position");
    restored.check_all();
    restored.stop();

    site.node.kill();
    fs::remove_dir_all(site.node.data()).expect("removing the node's data directory");
    for number in 1..=4 {
        let mut restored = restore_directly(&site, number);
        Ledger::assert_ends_with(&restored, last.number, &format!("the end, from repo{number} alone"));
        restored.check_all();
        restored.stop();
    }
}

/// The bytes of all files below a folder.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

#[test]
fn three_of_four_repositories_may_vanish_in_the_middle_of_a_restore() {
    let clouds = Clouds::start();
    let site = site("vanish", &clouds);
    site.postgres.make_accounts(10);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add_some(&site.postgres, 3);
    site.host.backup();
    let last = ledger.add_some(&site.postgres, 3);
    site.postgres.archive_everything();
    site.wait_until_settled(LIMIT);

    let mut restored = Postgres::empty(&site.scratch, "restored");
    let whole = size(&site.postgres.data().join("base"));
    clouds.clear();
    thread::scope(|scope| {
        let restore = scope.spawn(|| run(site.host.restore_command(&restored, &[])));
        let target = restored.data().join("base");
        wait_for("some of the cluster to be restored", LIMIT, || {
            size(&target) > whole / 20 || restore.is_finished()
        });
        let done = size(&target);
        site.node.objects(1).take_away();
        clouds.proxies.iter().take(2).for_each(HttpProxy::refuse);
        assert!(
            !restore.is_finished(),
            "the restore was over before anything was taken away"
        );
        println!("taken away after {} of {} MB", done >> 20, whole >> 20);
        restore.join().expect("the restore").succeeds();
    });
    let reads = clouds
        .proxies
        .each_ref()
        .map(|proxy| proxy.count(|request| request.method == "GET" && !request.is_list()));
    println!("objects read of S3, Azure and GCS: {reads:?}");
    assert!(reads[2] > 0, "what was missing came from the one that was left");
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end, from the one that was left");
    restored.check_all();
    site.node.objects(1).bring_back();
}
