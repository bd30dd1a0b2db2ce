//! Orphans: objects that no record names, left by refused or killed work. Two scans find them, and they are deleted;
//! all other objects stay.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use pgmesh_tests::stores::{GcsServer, S3Server};
use pgmesh_tests::{Kind, Ledger, MeshSite, Site, WalForge, run, wait_for, wait_for_some};

const LIMIT: Duration = Duration::from_secs(120);

/// The orphans of a repository in `status`.
fn orphans(site: &Site, repository: usize) -> serde_json::Value {
    let status = site.node.run(&["status", "--output=json"]).ok().json();
    status["repositories"][repository - 1]["orphans"].clone()
}

/// The names of all objects of a repository.
fn names(site: &Site, repository: usize) -> BTreeSet<String> {
    let objects = site.node.objects(repository);
    let kinds = [Kind::Chunk, Kind::Segment, Kind::Manifest];
    let all = kinds.into_iter().flat_map(|kind| objects.all(kind));
    all.map(|object| object.name).collect()
}

/// Waits until at least so many orphans of the first repository are deleted, and no orphan is left.
fn wait_until_deleted(site: &Site, at_least: u64) {
    wait_for_some("the orphans to be deleted", LIMIT, || {
        let orphans = orphans(site, 1);
        let count = |key: &str| orphans[key]["objects"].as_u64().unwrap_or_default();
        let is_over = count("deleted") >= at_least && count("waiting") == 0 && count("seen") == 0;
        if is_over { Ok(()) } else { Err(orphans.to_string()) }
    });
}

/// Waits until the node has opened the repository again, and `verify` finds no error.
fn wait_until_verified(site: &Site) {
    wait_for("verify to find nothing", LIMIT, || {
        run(site.node.command(&["verify"])).code() == Some(0)
    });
}

#[test]
fn what_a_refused_push_has_written_goes_and_the_push_succeeds_later() {
    let mut site = Site::with_node_and_segments("orphaned-push", 1, |node| {
        node.repository().repository().option("orphan-scan-interval", "1s")
    });
    let forge = WalForge::new(&site.postgres);
    site.host.push(&forge.make(1)).succeeds();
    site.wait_until_settled(LIMIT);
    let before = names(&site, 1);
    let second = site.node.objects(2);
    second.take_away();
    let outcome = site.host.push(&forge.make(2));
    assert!(outcome.code() != Some(0), "one of two repositories has it: {outcome}");
    let left: Vec<String> = names(&site, 1).difference(&before).cloned().collect();
    assert!(left.iter().any(|name| name.contains(&forge.name(2))), "{left:?}");
    // The orphan is only counted until the process that may still be writing it has ended.
    second.bring_back();
    wait_until_deleted(&site, left.len() as u64);
    wait_until_verified(&site);
    let after = names(&site, 1);
    assert!(left.iter().all(|name| !after.contains(name)), "{after:?}");
    assert_eq!(after, before);
    site.node.run(&["verify"]).succeeds();
    site.host.push(&forge.make(3)).succeeds();

    // The same file gets another name.
    site.host.push(&forge.make(2)).succeeds();
    let fetched = forge.path("fetched");
    for number in [1, 2, 3] {
        site.host.get(&forge.name(number), &fetched).succeeds();
        assert!(fs::read(&fetched).expect("the fetched segment") == forge.content(number));
    }
    site.node.stop();
    site.node.start();
    site.wait_until_settled(LIMIT);
    site.node.run(&["verify"]).succeeds();
    let text = site.node.run(&["status"]).ok();
    assert!(text.stdout.contains("objects that the catalog does not know"), "{text}");
}

#[test]
fn a_mesh_finds_what_a_refused_push_has_left_in_its_buckets() {
    const BUCKET: &str = "backups";
    let (s3, gcs) = (S3Server::start(BUCKET), GcsServer::start(BUCKET));
    let buckets = [s3.bucket(BUCKET, s3.address()), gcs.bucket(BUCKET, gcs.address())];
    let site = MeshSite::without_archiving("orphaned-buckets", |mesh| {
        let mesh = mesh.repositories(1).option("orphan-scan-interval", "2s");
        let mesh = mesh.shared_repository(2, &buckets[0]).shared_repository(3, &buckets[1]);
        mesh.option("archive-ack", "3")
    });
    let forge = WalForge::new(&site.postgres);
    site.host.push(&forge.make(1)).succeeds();
    let directory = site.mesh.objects(1);
    directory.take_away();
    let outcome = site.host.push(&forge.make(2));
    assert!(
        outcome.code() != Some(0),
        "two of three repositories have it: {outcome}"
    );
    wait_for_some("the orphans to be deleted", LIMIT, || {
        let status = site.mesh.run(&["status", "--output=json"]).ok().json();
        let orphans = |repository: usize| status["repositories"][repository - 1]["orphans"].clone();
        let count = |repository, key: &str| orphans(repository)[key]["objects"].as_u64().unwrap_or_default();
        let is_over = |repository| count(repository, "deleted") >= 1 && count(repository, "seen") == 0;
        if is_over(2) && is_over(3) {
            Ok(())
        } else {
            Err(status["repositories"].to_string())
        }
    });
    directory.bring_back();
    wait_for("the push to be taken", LIMIT, || {
        site.host.push(&forge.make(2)).code() == Some(0)
    });
    let fetched = forge.path("fetched");
    for number in [1, 2] {
        site.host.get(&forge.name(number), &fetched).succeeds();
        assert!(fs::read(&fetched).expect("the fetched segment") == forge.content(number));
    }
    site.mesh.wait_until_settled();
    site.host.run(&["verify"]).succeeds();
}

#[test]
fn what_a_refused_backup_has_written_goes_and_the_next_backup_is_whole() {
    let site = Site::with_node("orphaned-backup", |node| {
        node.repository().repository().option("orphan-scan-interval", "1s")
    });
    site.postgres.make_accounts(1);
    let mut ledger = Ledger::create(&site.postgres);
    site.host.backup();
    site.postgres.archive_everything();
    site.wait_until_settled(LIMIT);
    // The refused backup has new chunks, which only one repository has got.
    site.postgres.make_accounts(2);
    ledger.add_some(&site.postgres, 3);
    let second = site.node.objects(2);
    let before: BTreeSet<String> = site
        .node
        .objects(1)
        .all(Kind::Chunk)
        .into_iter()
        .map(|chunk| chunk.name)
        .collect();
    second.take_away();
    let refused = run(site.host.command(&["--archive-timeout=5", "backup"]));
    assert!(refused.code() != Some(0), "one of two repositories has it: {refused}");
    second.bring_back();
    let chunks = site.node.objects(1).all(Kind::Chunk);
    let left: Vec<String> = chunks
        .into_iter()
        .map(|chunk| chunk.name)
        .filter(|name| !before.contains(name))
        .collect();
    assert!(!left.is_empty(), "nothing was written");
    wait_until_deleted(&site, left.len() as u64);
    wait_for("its chunks to go", LIMIT, || {
        let after = names(&site, 1);
        left.iter().all(|name| !after.contains(name))
    });
    wait_until_verified(&site);

    site.host.backup();
    let last = ledger.add_some(&site.postgres, 2);
    site.postgres.archive_everything();
    site.wait_until_settled(LIMIT);
    let mut restored = site.restore("again", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
    site.node.run(&["verify"]).succeeds();
}
