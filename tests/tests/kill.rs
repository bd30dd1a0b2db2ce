//! Programs that are killed at any moment: what was acknowledged stays, and what was begun can be finished.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use pgmesh_tests::{Host, Kind, Ledger, Process, Random, Site, WalForge, wait_for};

/// How many segments are pushed at the same time.
const PUSHERS: usize = 3;

/// How often the node is killed: `PGMESH_KILL_ROUNDS`, or 5.
fn rounds() -> u32 {
    std::env::var("PGMESH_KILL_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(5)
}

/// The segments that pushers work on together, each until it is acknowledged, as PostgreSQL does.
#[derive(Default)]
struct Pushes {
    next: AtomicU32,
    end: AtomicBool,
    acknowledged: Mutex<BTreeSet<u32>>,
}

impl Pushes {
    fn acknowledged(&self) -> BTreeSet<u32> {
        self.acknowledged.lock().expect("no pusher has panicked").clone()
    }

    /// Pushes segment after segment. The one that is under way at the end is still finished, so that none is missing
    /// between those that were acknowledged.
    fn push_until_the_end(&self, host: &Host, forge: &WalForge) {
        while !self.end.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
            let file = forge.make(number);
            wait_for(
                &format!("segment {number} to be acknowledged"),
                Duration::from_secs(120),
                || host.push(&file).code() == Some(0),
            );
            self.acknowledged.lock().expect("no pusher has panicked").insert(number);
            fs::remove_file(file).expect("removing a pushed segment");
        }
    }
}

#[test]
fn no_acknowledged_segment_is_lost_when_the_node_is_killed() {
    let mut site = Site::without_archiving("kill", 2, 1);
    let forge = WalForge::new(&site.postgres);
    let mut random = Random::from_environment();
    let pushes = Pushes::default();
    let Site { host, node, .. } = &mut site;
    let host: &Host = host;
    thread::scope(|scope| {
        for _ in 0..PUSHERS {
            scope.spawn(|| pushes.push_until_the_end(host, &forge));
        }
        for round in 1..=rounds() {
            let before = pushes.acknowledged().len();
            wait_for("a push between two kills", Duration::from_secs(120), || {
                pushes.acknowledged().len() > before
            });
            // Not a wait for anything: the moment of the kill is drawn by lot.
            thread::sleep(Duration::from_micros(random.below(150_000)));
            node.kill();
            node.start();
            println!("round {round}: {} segments acknowledged", pushes.acknowledged().len());
        }
        pushes.end.store(true, Ordering::Relaxed);
    });

    let fetched = forge.path("fetched");
    for number in pushes.acknowledged() {
        let name = forge.name(number);
        host.get(&name, &fetched).succeeds();
        assert!(
            fs::read(&fetched).expect("the fetched segment") == forge.content(number),
            "{name} is different"
        );
    }
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
        chunks(&site).len() >= 20
    });
    backup.kill();
    let stored = chunks(&site);

    // The node may need a moment to see that the killed client is gone: until then its lock holds.
    wait_for("the next backup to be let in", Duration::from_secs(60), || {
        let next = site.host.run(&["backup", "--type=full", "--start-fast"]);
        if next.code() != Some(50) {
            next.clone().succeeds();
        }
        next.code() == Some(0)
    });
    let now = chunks(&site);
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

/// The stored chunks of the first repository and the inodes of their files.
fn chunks(site: &Site) -> BTreeMap<String, u64> {
    let objects = site.node.objects(1).all(Kind::Chunk);
    objects
        .into_iter()
        .filter_map(|object| Some((object.name, fs::metadata(object.file).ok()?.ino())))
        .collect()
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
