//! Memory is bounded by configuration, not by the sizes of pushes, backups or requests (invariant 11).

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use pgmesh_tests::{
    Host, Node, Outcome, Postgres, Process, Site, WalForge, example, files_below, number_from_environment, run,
    wait_for,
};

const MEBIBYTE: u64 = 1024 * 1024;

fn assert_below(what: &str, bytes: u64, limit_in_mebibytes: u64) {
    let mebibytes = bytes / MEBIBYTE;
    println!("{what}: {mebibytes} MiB of at most {limit_in_mebibytes}");
    assert!(
        mebibytes <= limit_in_mebibytes,
        "{what} took {mebibytes} MiB, more than {limit_in_mebibytes}"
    );
}

#[test]
fn a_push_and_a_get_of_a_segment_are_small() {
    let site = Site::without_archiving("push", 2, 16);
    let forge = WalForge::new(&site.postgres);
    for (number, codec) in (1..).zip(["zst", "lz4", "gz", "bz2", "none"]) {
        let file = forge.make(number);
        let codec_option = format!("--compress-type={codec}");
        let push = || {
            site.host
                .run(&["archive-push", &codec_option, &file.display().to_string()])
                .ok()
        };
        let pushed = timed(&format!("a push of 16 MiB with {codec}"), &site.node, push);
        assert_below(&format!("archive-push with {codec}"), pushed.peak_memory, 150);
        let got = site.host.get(&forge.name(number), &forge.path("fetched")).ok();
        assert_below(&format!("archive-get with {codec}"), got.peak_memory, 150);
    }
}

#[test]
fn a_node_that_serves_eight_pushes_at_once_is_small() {
    const HOSTS: u32 = 8;
    const ROUNDS: u32 = 4;
    let site = Site::without_archiving("node", 2, 16);
    let forge = WalForge::new(&site.postgres);
    thread::scope(|scope| {
        for first in 1..=HOSTS {
            let (site, forge) = (&site, &forge);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    site.host.push(&forge.make(first + round * HOSTS)).succeeds();
                }
            });
        }
    });
    // In a program that is not optimised, which holds 60 MiB before it does any work; node-buffer is 256 MiB.
    assert_below("the node after pushes", site.node.process().peak_memory(), 520);
}

#[test]
fn a_backup_and_a_restore_are_small_on_both_sides() {
    let site = Site::new("backup", 2);
    site.postgres.make_accounts(20);
    let backup = site
        .host
        .run(&["backup", "--type=full", "--start-fast", "--process-max=4"])
        .ok();
    assert_below("backup", backup.peak_memory, 400);
    assert_below("the node after a backup", site.node.process().peak_memory(), 400);
    site.postgres.archive_everything();
    let target = Postgres::empty(&site.scratch, "again");
    let restore = run(site.host.restore_command(&target, &["--process-max=4"])).ok();
    assert_below("restore", restore.peak_memory, 400);
    assert_below("the node after a restore", site.node.process().peak_memory(), 400);
    let verify = site.host.run(&["verify"]).ok();
    assert_below("verify", verify.peak_memory, 400);
    assert_below("the node after verify", site.node.process().peak_memory(), 400);
}

#[test]
fn memory_hardly_grows_with_the_number_of_files() {
    // `make test-all` has a million.
    many_files("files", number_from_environment("PGMESH_FILES", 100_000));
}

/// Takes a full and an incremental backup of a cluster with so many files, restores into an empty directory, and
/// restores again onto the result.
fn many_files(name: &str, files: u32) {
    // The fixed part is a manifest part in each stage and the chunks under way, whatever the number of files.
    const LIMIT: u64 = 150;
    // For each file, its entry in the list that the walk makes, or its place in a restore's set of paths.
    const BYTES_A_FILE: u64 = 120;
    // The number of chunks that are under way at once varies by chance.
    const CHANCE: u64 = 15 * MEBIBYTE;
    const NODE_LIMIT: u64 = 100;
    let site = Site::new(name, 1);
    let (few, _) = peaks(&site, "few");
    let node = site.node.process().peak_memory();
    site.postgres.make_files(files);
    let (many, restored) = peaks(&site, "many");
    let grown = site.node.process().peak_memory().saturating_sub(node);
    for ((what, few), (_, many)) in few.into_iter().zip(many) {
        assert_below(what, many, LIMIT);
        let bytes = many.saturating_sub(few + CHANCE) / u64::from(files);
        assert!(
            bytes <= BYTES_A_FILE,
            "{what} took {bytes} bytes a file, more than {BYTES_A_FILE}"
        );
    }
    assert_below("what the node takes more for them", grown, NODE_LIMIT);
    let found = files_below(&restored.default_database()).len();
    assert!(found > files as usize, "{found} files were restored");
}

/// The peak of each operation on the present cluster, and the restored cluster.
fn peaks(site: &Site, name: &str) -> (Vec<(&'static str, u64)>, Postgres) {
    let mut peaks = Vec::new();
    for kind in ["full", "incr"] {
        // The files are no pages of PostgreSQL's, so checksums would not fit.
        let kind_option = format!("--type={kind}");
        let backup = site
            .host
            .run(&["backup", &kind_option, "--start-fast", "--no-checksum-page"]);
        peaks.push((kind, report(kind, &backup.ok())));
    }
    site.postgres.archive_everything();
    let target = Postgres::empty(&site.scratch, name);
    for (what, argument) in [("restore", "--process-max=2"), ("restore --delta", "--delta")] {
        let restore = run(site.host.restore_command(&target, &[argument]));
        peaks.push((what, report(what, &restore.ok())));
    }
    (peaks, target)
}

/// Prints the peak and the duration of a command, and returns the peak.
fn report(what: &str, outcome: &Outcome) -> u64 {
    let Outcome {
        peak_memory,
        cpu,
        elapsed,
        ..
    } = outcome;
    println!(
        "{what}: {} MiB, {elapsed:.1?}, {cpu:.1?} of CPU",
        peak_memory / MEBIBYTE
    );
    *peak_memory
}

/// Prints the time of a command and the CPU time of both sides.
fn timed(what: &str, node: &Node, work: impl FnOnce() -> Outcome) -> Outcome {
    let before = node.process().cpu();
    let outcome = work();
    println!(
        "{what}: {:.2} s, CPU {:.2} s of the client, {:.2} s of the node",
        outcome.elapsed.as_secs_f64(),
        outcome.cpu.as_secs_f64(),
        (node.process().cpu() - before).as_secs_f64()
    );
    outcome
}

/// The largest segments of PostgreSQL go through in parts.
#[test]
fn a_push_and_a_get_of_the_largest_segment_are_small() {
    const LIMIT: u64 = 150;
    // A program that is not optimised holds 60 MiB before it does any work.
    const NODE_LIMIT: u64 = if cfg!(debug_assertions) { 180 } else { LIMIT };
    let scratch = pgmesh_tests::Scratch::new("largest");
    let node = Node::builder(&scratch, "alpha").repository().repository().start();
    let postgres = Postgres::builder(&scratch, "pg")
        .segment_mebibytes(1024)
        .setting("max_wal_size", "4GB")
        .setting("min_wal_size", "2GB")
        .start();
    let host = Host::join(&scratch, "host-main", &node, &postgres, "main");
    host.run(&["stanza-create"]).succeeds();
    let forge = WalForge::new(&postgres);
    node.process().reset_peak_memory();
    let file = forge.make(1);
    let pushed = timed("a push of 1 GiB", &node, || host.push(&file).ok());
    assert_below("archive-push of 1 GiB", pushed.peak_memory, LIMIT);
    assert_below(
        "the node after a push of 1 GiB",
        node.process().peak_memory(),
        NODE_LIMIT,
    );
    node.process().reset_peak_memory();
    let fetched = forge.path("fetched");
    let got = timed("a get of 1 GiB", &node, || host.get(&forge.name(1), &fetched).ok());
    assert_below("archive-get of 1 GiB", got.peak_memory, LIMIT);
    assert_below(
        "the node after a get of 1 GiB",
        node.process().peak_memory(),
        NODE_LIMIT,
    );
    assert!(std::fs::read(&fetched).is_ok_and(|content| content == forge.content(1)));
}

/// A client of another stanza takes as much of the node as it gets, in every way at once: connections, half messages,
/// pushes that drip, answers that it does not read, verifications, joins without a token (decision 42).
#[test]
fn a_hostile_client_takes_neither_the_memory_of_a_node_nor_the_time_of_another_stanza() {
    const PUSHES: u32 = 20;
    let site = Site::without_archiving("hostile", 2, 16);
    let other = Postgres::builder(&site.scratch, "other").segment_mebibytes(16).start();
    let host = Host::join(&site.scratch, "host-other", &site.node, &other, "other");
    host.run(&["stanza-create"]).succeeds();
    let theirs = WalForge::new(&other);
    host.push(&theirs.make(1)).succeeds();
    let info = host.info();
    let system = &info["db"][0]["system-id"];
    let forge = WalForge::new(&site.postgres);
    let push = |number| {
        let began = Instant::now();
        site.host.push(&forge.make(number)).succeeds();
        began.elapsed()
    };
    let times = |first: u32| {
        let mut times: Vec<_> = (first..first + PUSHES).map(push).collect();
        times.sort();
        times
    };
    let alone = times(1);
    let mut attack = Command::new(example("hostile"));
    attack
        .args([
            &site.node.address(),
            &host.home().join("identity").display().to_string(),
            "other",
        ])
        .args([&system.to_string(), &theirs.name(1), "600"]);
    let log = site.scratch.path().join("hostile.log");
    let mut attacker = Process::start("hostile", attack, &log);
    wait_for("the attack to be under way", Duration::from_secs(200), || {
        attacker.log().contains("pushes that drip")
    });
    println!("{}", attacker.log().trim());
    let attacked = times(1 + PUSHES);
    assert!(attacker.ended().is_none(), "{}", attacker.log());
    let shown = |times: &[Duration]| format!("p50 {:?}, slowest {:?}", times[times.len() / 2], times[times.len() - 1]);
    println!(
        "pushes alone: {}; beside the attack: {}",
        shown(&alone),
        shown(&attacked)
    );
    // 60 MiB before any work, the budget, and what no budget counts. In a program that is not optimised.
    assert_below("the node under attack", site.node.process().peak_memory(), 480);
    attacker.kill();
    push(1 + 2 * PUSHES);
}
