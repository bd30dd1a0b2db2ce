//! A node whose data directory is put back from an older copy: acknowledged objects stay, and the node comes back by
//! itself.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;
use std::process::Command;

use pgmesh_tests::{Host, MeshSite, Node, WalForge, run};

/// Copies a folder with owners and times, as a backup of the host does.
fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("--archive").arg(from).arg(to);
    run(command).succeeds();
}

/// The place for the copy of a node's data directory.
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

/// Segments 1 and 2 are in the copy of `name`'s directory; 3 to 8 are acknowledged later, also by this node. Then the
/// copy is put back after a power cut of this node, or of all.
fn story(site: &mut MeshSite, forge: &WalForge, name: &str, all_restart: bool) {
    push(&site.host, forge, 1..=2);
    site.mesh.wait_until_whole();
    let before = site.mesh.node(name).data();
    // The node is idle, so its files are those of a stopped node.
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
    // The doctor reports the new beginning until the old catalog is removed.
    let doctor = site.mesh.node(name).run(&["doctor"]);
    assert!(doctor.stdout.contains("began anew"), "{doctor}");
    fs::remove_dir_all(site.mesh.node(name).data().join("catalog.behind")).expect("removing the old catalog");
    let doctor = site.mesh.node(name).run(&["doctor"]);
    assert!(!doctor.stdout.contains("began anew"), "{doctor}");
    // The node counts: with another node dead the two remaining ones are a majority.
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

/// If all copies are old, no node has a newer catalog. The repositories show it.
#[test]
fn a_mesh_of_which_all_copies_are_old_serves_nothing_until_it_is_told() {
    let mut site = MeshSite::without_archiving("old-all", |mesh| mesh);
    let forge = WalForge::new(&site.postgres);
    push(&site.host, &forge, 1..=2);
    site.mesh.wait_until_settled();
    let names = site.mesh.names();
    let restart = |site: &mut MeshSite, between: &dyn Fn(&Node)| {
        for name in &names {
            site.mesh.node_mut(name).stop();
        }
        for name in &names {
            between(site.mesh.node(name));
        }
        for name in &names {
            site.mesh.node_mut(name).launch();
        }
        for name in &names {
            site.mesh.await_node(name);
        }
    };
    restart(&mut site, &|node| copy(&node.data(), &kept(node)));
    push(&site.host, &forge, 3..=4);
    site.mesh.wait_until_settled();
    // The marks that are written at the stop are newer than the copies.
    restart(&mut site, &put_back);

    site.mesh.wait_for_status("a leader", |status| status.quorum);
    let refused = "the catalog has lost what was acknowledged last";
    site.host
        .push(&forge.make(5))
        .fails(&[122], &[refused, "catalog-rebuild", "catalog-accept-loss"]);
    let fetched = forge.path("fetched");
    // "Never archived" would end a recovery early.
    site.host.get(&forge.name(3), &fetched).fails(&[200], &[refused]);
    site.host.get(&forge.name(1), &fetched).fails(&[200], &[refused]);
    site.host.run(&["backup"]).fails(&[122], &[refused]);
    let node = site.mesh.node(&names[0]);
    let doctor = node.run(&["doctor"]);
    assert_eq!(doctor.code(), Some(55), "{doctor}");
    assert!(
        doctor.stdout.contains("all nodes have older copies of the catalog"),
        "{doctor}"
    );
    let status = node.run(&["status"]).ok();
    assert!(status.stdout.contains("LOST: the catalog ends at position"), "{status}");
    let info = site.host.run(&["info"]).ok();
    assert!(
        info.stdout.contains("all nodes have older copies of the catalog"),
        "{info}"
    );
    let (_, position) = doctor.stdout.split_once("catalog-accept-loss ").expect("the command");
    let position = position.split('\'').next().expect("its argument");

    // The loss is still known after a restart, and is given up only with its position.
    restart(&mut site, &|_| {});
    site.mesh.wait_for_status("a leader", |status| status.quorum);
    site.host.push(&forge.make(5)).fails(&[122], &[refused]);
    let node = site.mesh.node(&names[0]);
    node.run(&["catalog-accept-loss", "1"])
        .fails(&[31], &["no recorded loss"]);
    node.run(&["catalog-accept-loss", position]).succeeds();
    push(&site.host, &forge, 3..=6);
    site.mesh.wait_until_settled();
    assert_all(&site.host, &forge, 6);
    // The older marks in the repositories no longer count.
    restart(&mut site, &|_| {});
    site.mesh.wait_until_settled();
    push(&site.host, &forge, 7..=8);
    assert_all(&site.host, &forge, 8);
}
