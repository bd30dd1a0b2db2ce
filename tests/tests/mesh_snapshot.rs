//! Nodes that were away for longer than the others keep their log: they come back by a snapshot of the catalog,
//! complete.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::thread;

use pgmesh_tests::{Host, Mesh, MeshSite, Node, WalForge};

/// The number of log entries between two snapshots, configured on all nodes.
const BETWEEN_SNAPSHOTS: u64 = 50;

/// The number of entries that are written while a node is away: many times the kept log.
const MISSED: u64 = 300;

/// The number of times that a node has received a snapshot instead of log entries, counted in its log.
fn snapshots_received(node: &Node) -> usize {
    let log = fs::read_to_string(node.home().join("node.log")).expect("the log of a node");
    log.matches("the catalog came as a snapshot").count()
}

/// The last entry that any node has applied.
fn position(mesh: &Mesh) -> u64 {
    let status = mesh.wait_for_status("a leader", |status| status.quorum && status.leader.is_some());
    let applied = status.nodes.iter().filter_map(|node| node.applied);
    applied.max().expect("a position")
}

/// Has several administrators write into the catalog until it has so many more entries.
fn write_entries(mesh: &Mesh, count: u64) {
    let wanted = position(mesh) + count;
    while position(mesh) < wanted {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        mesh.run(&["invite", "--role=client", "--stanza=main", "--expires=1h"])
                            .succeeds();
                    }
                });
            }
        });
    }
}

/// Asserts that a host gets all these segments.
fn assert_all(host: &Host, forge: &WalForge, last: u32) {
    let fetched = forge.path("fetched");
    for number in 1..=last {
        host.get(&forge.name(number), &fetched).succeeds();
        let content = fs::read(&fetched).expect("the fetched segment");
        assert!(content == forge.content(number), "segment {number}");
    }
}

#[test]
fn a_node_that_was_away_for_long_or_lost_its_disk_comes_back_by_snapshot() {
    let between = BETWEEN_SNAPSHOTS.to_string();
    let mut site = MeshSite::without_archiving("snapshot", |mesh| mesh.option("node-snapshot-entries", &between));
    let forge = WalForge::new(&site.postgres);
    // This host asks gamma first, the node in its own region.
    let near_gamma = site.another_host("near-gamma", "ap", "gamma");
    site.host.push(&forge.make(1)).succeeds();
    site.host.push(&forge.make(2)).succeeds();

    let left_at = position(&site.mesh);
    let at_first = snapshots_received(site.mesh.node("gamma"));
    site.mesh.node_mut("gamma").kill();
    site.host.push(&forge.make(3)).succeeds();
    write_entries(&site.mesh, MISSED);
    site.host.push(&forge.make(4)).succeeds();
    let missed_until = position(&site.mesh);
    let status = site
        .mesh
        .wait_for_status("all who run to have a newer snapshot", |status| {
            let mut running = status.nodes.iter().filter(|node| node.answers);
            running.all(|node| node.snapshot.is_some_and(|at| at + BETWEEN_SNAPSHOTS > missed_until))
        });
    let snapshots: Vec<_> = status
        .nodes
        .iter()
        .map(|node| (&node.name, node.applied, node.snapshot))
        .collect();
    println!("gamma left at {left_at}; applied and snapshot now: {snapshots:?}");

    site.mesh.start_node("gamma");
    site.mesh.wait_for_status("gamma to have all entries", |status| {
        status
            .node("gamma")
            .is_some_and(|node| node.applied >= Some(missed_until))
    });
    let after_its_absence = snapshots_received(site.mesh.node("gamma"));
    assert!(after_its_absence > at_first, "its catalog came as a snapshot");
    site.mesh.wait_until_whole();
    site.mesh.wait_until_settled();
    assert_eq!(site.mesh.objects(3).segments().len(), 4);
    assert_all(&near_gamma, &forge, 4);

    // gamma counts: with another node dead the two remaining ones are a majority.
    site.mesh.node_mut("beta").kill();
    near_gamma.push(&forge.make(5)).succeeds();
    site.mesh.start_node("beta");
    site.mesh.wait_until_whole();

    // With a new disk, only the kept end of the log can come as entries.
    site.mesh.replace_disk("gamma");
    site.mesh.wait_until_whole();
    let with_its_new_disk = snapshots_received(site.mesh.node("gamma"));
    assert!(with_its_new_disk > after_its_absence, "its catalog came as a snapshot");
    site.mesh.wait_until_settled();
    near_gamma.push(&forge.make(6)).succeeds();
    assert_all(&near_gamma, &forge, 6);
    site.mesh.wait_until_settled();
    site.host.run(&["verify"]).succeeds();
}
