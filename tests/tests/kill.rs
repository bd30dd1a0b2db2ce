//! Programs that are killed at any moment: acknowledged objects stay, and interrupted work can be finished.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::thread;
use std::time::Duration;

use pgmesh_tests::{Host, Kind, Ledger, Process, Pushes, Random, Site, WalForge, number_from_environment, wait_for};

#[test]
fn no_acknowledged_segment_is_lost_when_the_node_is_killed() {
    let mut site = Site::without_archiving("kill", 2, 1);
    let forge = WalForge::new(&site.postgres);
    let mut random = Random::from_environment();
    let Site { host, node, .. } = &mut site;
    let host: &Host = host;
    // Three segments at the same time.
    let pushes = Pushes::during(&[host, host, host], &forge, |pushes| {
        for round in 1..=number_from_environment("PGMESH_KILL_ROUNDS", 5) {
            pushes.wait_for_more(1);
            // Not a wait for a condition: the moment of the kill is random.
            thread::sleep(Duration::from_micros(random.below(150_000)));
            node.kill();
            node.start();
            println!("round {round}: {} segments acknowledged", pushes.acknowledged().len());
        }
    });
    pushes.assert_all_are_there(host, &forge);
    host.run(&["verify"]).succeeds();
}

#[test]
fn a_segment_pushed_before_the_kill_is_known_after_it() {
    let mut site = Site::without_archiving("known", 2, 1);
    let forge = WalForge::new(&site.postgres);
    let file = forge.make(1);
    site.host.push(&file).succeeds();
    site.node.kill();
    site.node.start();
    site.host.push(&file).succeeds();
    let mut other = forge.content(1);
    let last = other.len() - 1;
    other[last] ^= 1;
    let other = forge.write(&forge.name(1), &other);
    site.host.push(&other).fails(&[45], &[&forge.name(1)]);
}

#[test]
fn a_killed_backup_is_finished_by_the_next() {
    let site = Site::new("resume", 2);
    site.postgres.make_accounts(8);
    let mut ledger = Ledger::create(&site.postgres);
    let last = ledger.add_some(&site.postgres, 5);
    site.postgres.query("checkpoint");

    let command = site.host.command(&["backup", "--type=full", "--start-fast"]);
    let mut backup = Process::start("a backup", command, &site.scratch.join("backup.log"));
    wait_for("some chunks to be stored", Duration::from_secs(60), || {
        let log = backup.log();
        assert!(
            backup.ended().is_none(),
            "the backup was over before it was killed:\n{log}"
        );
        site.node.objects(1).inodes(Kind::Chunk).len() >= 20
    });
    backup.kill();
    let stored = site.node.objects(1).inodes(Kind::Chunk);

    // The node may need a moment to notice that the killed client is gone: until then the client's lock holds.
    wait_for("the next backup to be let in", Duration::from_secs(60), || {
        let next = site.host.run(&["backup", "--type=full", "--start-fast"]);
        if next.code() != Some(50) {
            next.clone().succeeds();
        }
        next.code() == Some(0)
    });
    let now = site.node.objects(1).inodes(Kind::Chunk);
    for (name, inode) in stored {
        assert_eq!(now.get(&name), Some(&inode), "{name} was stored again");
    }
    site.postgres.archive_everything();
    site.host.run(&["verify"]).succeeds();
    let mut restored = site.restore("again", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
    restored.check_all();
}

#[test]
fn a_crashed_primary_goes_on_archiving_where_it_was() {
    let mut site = Site::new("primary", 2);
    let mut ledger = Ledger::create(&site.postgres);
    site.host.backup();
    ledger.add_some(&site.postgres, 3);
    site.postgres.kill();
    site.postgres.start();
    let last = ledger.add_some(&site.postgres, 3);
    site.postgres.archive_everything();
    let mut restored = site.restore("again", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
}
