//! A node whose data directory is put back from an older copy: what was acknowledged since stays, and the node comes back
//! by itself.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;
use std::process::Command;

use pgmesh_tests::{Host, MeshSite, Node, WalForge, run};

/// With owners and times, as a backup of the host has them.
fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("--archive").arg(from).arg(to);
    run(command).succeeds();
}

/// Where the copy of a node's data directory is kept.
fn kept(node: &Node) -> std::path::PathBuf {
    node.home().join("kept")
}

fn put_back(node: &Node) {
    fs::remove_dir_all(node.data()).expect("removing a data directory");
    copy(&kept(node), &node.data());
}

fn log(node: &Node) -> String {
    fs::read_to_string(node.home().join("node.log")).expect("the log of a node")
}

fn push(host: &Host, forge: &WalForge, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        host.push(&forge.make(number)).succeeds();
    }
}

fn assert_all(host: &Host, forge: &WalForge, last: u32) {
    let fetched = forge.path("fetched");
    for number in 1..=last {
        host.get(&forge.name(number), &fetched).succeeds();
        let content = fs::read(&fetched).expect("the fetched segment");
        assert!(content == forge.content(number), "segment {number}");
    }
}

/// Segments 1 and 2 are in the copy of `name`'s directory, 3 to 8 are acknowledged later, also by this node. Then the copy is
/// put back after a power cut of this node, or of all.
fn story(site: &mut MeshSite, forge: &WalForge, name: &str, all_restart: bool) {
    push(&site.host, forge, 1..=2);
    site.mesh.wait_until_whole();
    let before = site.mesh.node(name).data();
    // It has nothing to do at the moment: its files are those of a node that was stopped.
    site.mesh.node(name).pause();
    copy(&before, &kept(site.mesh.node(name)));
    site.mesh.node(name).resume();
    push(&site.host, forge, 3..=8);
    site.mesh.wait_until_settled();
    let names = site.mesh.names();
    let stopped: Vec<&String> = names.iter().filter(|other| all_restart || *other == name).collect();
    for stopped in &stopped {
        site.mesh.node_mut(stopped).kill();
    }
    put_back(site.mesh.node(name));
    for stopped in &stopped {
        site.mesh.node_mut(stopped).launch();
    }
    for stopped in &stopped {
        site.mesh.await_node(stopped);
    }
    site.mesh.wait_for_status("it to have begun anew", |status| {
        status.quorum && log(site.mesh.node(name)).contains("begins anew")
    });
    site.mesh.wait_until_whole();
    assert_all(&site.host, forge, 8);
    push(&site.host, forge, 9..=18);
    site.mesh.wait_until_settled();
    assert_all(&site.host, forge, 18);
    let log = log(site.mesh.node(name));
    assert!(log.contains("lacks entries that it has acknowledged"), "{log}");
    // The doctor says what has happened until the old catalog is removed.
    let doctor = site.mesh.node(name).run(&["doctor"]);
    assert!(doctor.stdout.contains("began anew"), "{doctor}");
    fs::remove_dir_all(site.mesh.node(name).data().join("catalog.behind")).expect("removing the old catalog");
    let doctor = site.mesh.node(name).run(&["doctor"]);
    assert!(!doctor.stdout.contains("began anew"), "{doctor}");
    // It counts: with another node dead the two still are a majority.
    let other = site.mesh.running_beside(name).name().to_owned();
    site.mesh.node_mut(&other).kill();
    push(&site.host, forge, 19..=20);
    site.mesh.start_node(&other);
    site.mesh.wait_until_settled();
    assert_all(&site.host, forge, 20);
    site.host.run(&["verify"]).succeeds();
}

#[test]
fn an_older_copy_put_back_on_the_leader_loses_nothing() {
    let mut site = MeshSite::without_archiving("old-leader", |mesh| mesh);
    let forge = WalForge::new(&site.postgres);
    let leader = site.mesh.leader();
    story(&mut site, &forge, &leader, true);
}

#[test]
fn an_older_copy_put_back_on_a_follower_loses_nothing() {
    let mut site = MeshSite::without_archiving("old-follower", |mesh| mesh);
    let forge = WalForge::new(&site.postgres);
    let follower = site.mesh.follower();
    story(&mut site, &forge, &follower, false);
}
