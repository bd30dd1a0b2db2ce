//! A node dies in the middle of a backup or a restore: another takes its place, and the work goes on, not over.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use pgmesh_tests::{Faults, Kind, Ledger, MeshSite, Postgres, Process, wait_for};

const MEBIBYTE: u64 = 1 << 20;

/// How much of the work is done when the node dies.
const BEGUN: u64 = 6 * MEBIBYTE;

/// Beside what is lost with a node, as much is allowed to be sent again: handshakes, what was under way.
const SLACK: u64 = 16 * MEBIBYTE;

/// How long what is left of the work may take.
const LIMIT: Duration = Duration::from_secs(100);

/// A cluster with tens of megabytes that do not compress well, whose host has 16 MiB a second to each node: time enough
/// to be interrupted.
fn site(name: &str) -> (MeshSite, Ledger) {
    let mut site = MeshSite::new(name, |mesh| mesh.with_relays().option("backup-ack", "2"));
    site.postgres.make_noise(45);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add_some(&site.postgres, 3);
    let link = Faults::none().with_bandwidth(16 * MEBIBYTE);
    for node in site.mesh.names() {
        site.mesh.network().shape_both("host", &node, link);
    }
    (site, ledger)
}

/// How much passed between the host and all nodes, `from_host` or to it.
fn passed(site: &mut MeshSite, from_host: bool) -> Vec<(String, u64)> {
    let names = site.mesh.names();
    let network = site.mesh.network();
    let between = |node: &str| {
        if from_host {
            network.delivered_bytes("host", node)
        } else {
            network.delivered_bytes(node, "host")
        }
    };
    names.iter().map(|name| (name.clone(), between(name))).collect()
}

/// Waits until the work has begun, kills the node that does most of it, and waits for the end of the process, which is
/// none but the one that began. The node, and how much passed in all.
fn kill_the_node_in_use(site: &mut MeshSite, work: &mut Process, from_host: bool) -> (String, u64) {
    let before = passed(site, from_host);
    let mut in_use = String::new();
    wait_for("the work to begin", LIMIT, || {
        assert!(
            work.ended().is_none(),
            "it was over before the node was killed:\n{}",
            work.log()
        );
        let now = passed(site, from_host);
        let busy = now
            .iter()
            .zip(&before)
            .find(|((_, now), (_, before))| now - before > BEGUN);
        busy.is_some_and(|((name, _), _)| {
            in_use.clone_from(name);
            true
        })
    });
    println!("{in_use} is in use, and is killed");
    site.mesh.node_mut(&in_use).kill();
    let status = work.wait(LIMIT);
    assert!(status.success(), "it ended with {status}:\n{}", work.log());
    let after = passed(site, from_host);
    let in_all = after
        .iter()
        .zip(&before)
        .map(|((_, now), (_, before))| now - before)
        .sum();
    (in_use, in_all)
}

#[test]
fn a_backup_goes_on_when_its_node_dies() {
    let (mut site, mut ledger) = site("backup");
    let command = site.host.command(&["backup", "--type=full", "--start-fast"]);
    let mut backup = Process::start("a backup", command, &site.scratch.join("backup.log"));
    let (dead, sent) = kill_the_node_in_use(&mut site, &mut backup, true);
    let number = 1 + site.mesh.names().iter().position(|name| *name == dead).expect("a node");
    let survivor = (1..=3).find(|other| *other != number).expect("two others");
    let stored = site.mesh.objects(survivor).stored_bytes();
    println!(
        "{} MiB were sent, {} MiB are stored",
        sent / MEBIBYTE,
        stored / MEBIBYTE
    );
    assert!(sent < stored + stored / 4 + SLACK, "what was there was sent again");

    let last = ledger.add(&site.postgres);
    site.postgres.archive_everything();
    let mut restored = site.restore("again", &["--write-manifest"]);
    restored.verify_backup();
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
    restored.check_all();

    // The dead node's repository gets what it missed.
    site.mesh.start_node(&dead);
    wait_for("the dead node's repository to be whole", LIMIT, || {
        let count = |number| site.mesh.objects(number).all(Kind::Chunk).len();
        count(number) == count(survivor)
    });
    site.mesh.wait_until_settled();
    site.host.run(&["verify"]).succeeds();
}

#[test]
fn a_restore_goes_on_when_its_node_dies() {
    let (mut site, mut ledger) = site("restore");
    site.host.backup();
    let last = ledger.add(&site.postgres);
    site.postgres.archive_everything();
    let mut target = Postgres::empty(&site.scratch, "again");
    let command = site.host.restore_command(&target, &["--write-manifest"]);
    let mut restore = Process::start("a restore", command, &site.scratch.join("restore.log"));
    let (_, received) = kill_the_node_in_use(&mut site, &mut restore, false);
    let stored = site.mesh.objects(1).stored_bytes();
    println!("{} MiB came, {} MiB are stored", received / MEBIBYTE, stored / MEBIBYTE);
    assert!(
        received < stored + stored / 4 + SLACK,
        "what was there was fetched again"
    );
    target.verify_backup();
    target.start_promoted();
    Ledger::assert_ends_with(&target, last.number, "the end");
    target.check_all();
}
