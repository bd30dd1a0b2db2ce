//! Disks that are lost with the repository on them, and repositories that are given up.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;

use pgmesh_tests::{Kind, Ledger, MeshSite};

#[test]
fn a_repository_lost_with_its_disk_is_replaced_by_an_empty_one_and_filled() {
    let mut site = MeshSite::new("lost", |mesh| mesh);
    let mut ledger = Ledger::create(&site.postgres);
    site.host.backup();
    let last = ledger.add_some(&site.postgres, 3);
    site.postgres.archive_everything();
    site.mesh.wait_until_settled();
    // A repository with good objects is not thrown away.
    let gamma = site.mesh.node("gamma");
    gamma
        .run(&["--repo=3", "repo-replace"])
        .fails(&[48], &["nothing is lost"]);

    site.mesh.node_mut("gamma").kill();
    fs::remove_dir_all(site.mesh.objects(3).path()).expect("losing the repository");
    site.mesh.replace_disk("gamma");
    site.mesh.wait_until_whole();
    // An empty place may be a disk that is not mounted: no node writes there until an administrator replaces the
    // repository.
    site.mesh.wait_for_status("repo3 to be missed", |status| {
        status.repository(3).is_some_and(|repository| !repository.is_up())
    });
    let gamma = site.mesh.node("gamma");
    gamma.run(&["--repo=3", "repo-replace"]).succeeds();
    gamma.run(&["--repo=3", "repo-sync"]).succeeds();
    for kind in [Kind::Chunk, Kind::Segment, Kind::Manifest] {
        let counts = [1, 3].map(|number| site.mesh.objects(number).all(kind).len());
        assert!(counts[0] > 0 && counts[0] == counts[1], "{kind:?}: {counts:?}");
    }
    site.mesh.wait_until_settled();
    site.host.run(&["verify"]).succeeds();
    // Now the other two repositories may go for good.
    for number in [1, 2] {
        site.mesh.objects(number).take_away();
    }
    let mut restored = site.restore("again", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end, from the replaced repository alone");
}

#[test]
fn a_repository_that_is_given_up_is_owed_nothing_any_more() {
    let mut site = MeshSite::new("given-up", |mesh| mesh.nodes(4));
    let mut ledger = Ledger::create(&site.postgres);
    site.host.backup();
    site.mesh.wait_until_settled();
    site.mesh.node_mut("delta").kill();
    let last = ledger.add_some(&site.postgres, 3);
    site.postgres.archive_everything();
    let alpha = site.mesh.node("alpha");
    alpha.run(&["node", "remove", "delta"]).fails(&[48], &["repo4"]);
    alpha.run(&["--repo=4", "repo-remove"]).succeeds();
    alpha.run(&["node", "remove", "delta"]).succeeds();
    let info = site.host.run(&["info"]).ok();
    assert!(!info.stdout.contains("repo4"), "{info}");
    site.mesh.wait_until_settled();
    site.host.run(&["verify"]).succeeds();
    let mut restored = site.restore("again", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
}
