//! All nodes are gone and a repository is left: the catalog is rebuilt from it, and the mesh goes on.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::time::Duration;

use pgmesh_tests::{
    Damage, Host, Kind, Ledger, Node, Object, Outcome, Postgres, Process, Site, WalForge, run, wait_for,
};
use rustix::process::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// SIGKILL, and the disk with the data directory is gone too.
fn lose_the_node(site: &mut Site) {
    site.node.kill();
    fs::remove_dir_all(site.node.data()).expect("removing the node's data directory");
}

/// Rebuilds, and returns the command's report in JSON.
fn rebuild(site: &Site, arguments: &[&str]) -> Value {
    rebuild_command(site, arguments).ok().json()
}

fn rebuild_command(site: &Site, arguments: &[&str]) -> Outcome {
    let mut all = arguments.to_vec();
    all.extend(["--force", "--output=json", "--process-max=4", "catalog-rebuild"]);
    site.node.run(&all)
}

/// Starts the rebuilt node, has the host join its new authority, and waits until the repository has been compared with
/// the catalog.
fn go_on(site: &mut Site) {
    site.node.reconfigure("[global]\n", "[global]\nfence-timeout=3s\n");
    site.node.start();
    wait_until_compared(&site.node);
    site.host
        .plain(&["join", "--force", &site.node.invite("main")])
        .succeeds();
}

/// Waits for the comparison. Before it, a backup would count on objects that nodes of the old mesh might still delete.
fn wait_until_compared(node: &Node) {
    wait_for("the repository to be compared with the catalog", LIMIT, || {
        !node.run(&["doctor"]).stdout.contains("comparison:")
    });
}

/// The kinds of the reported problems, each with its subject.
fn problems(rebuilt: &Value) -> Vec<(String, String)> {
    let text = |problem: &Value, key: &str| problem[key].as_str().expect("a text").to_owned();
    let mut problems: Vec<_> = rebuilt["problems"]
        .as_array()
        .expect("a list of problems")
        .iter()
        .map(|problem| (text(problem, "kind"), text(problem, "subject")))
        .collect();
    problems.sort();
    problems
}

/// Takes the stored sizes out of `info`, which the rebuilt catalog knows only to within the padding of the cipher.
/// Returns their sum.
fn without_stored_sizes(info: &mut Value) -> u64 {
    let mut sum = 0;
    for backup in info["backup"].as_array_mut().expect("backups") {
        let size = backup["info"]["repository"]["size"].take();
        sum += size.as_u64().expect("a size");
    }
    sum
}

#[test]
fn what_one_encrypted_repository_says_is_enough() {
    let mut site = Site::new("rebuild", 1);
    site.postgres.make_accounts(2);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add_some(&site.postgres, 3);
    site.host
        .run(&["backup", "--type=full", "--start-fast", "--annotation=why=the first"])
        .succeeds();
    let ended = site.host.last_backup()["timestamp"]["stop"]
        .as_i64()
        .expect("a time in info");
    while ledger.add(&site.postgres).committed / 1_000_000 <= ended + 1 {}
    let wanted = ledger.add_some(&site.postgres, 3);
    ledger.add_some(&site.postgres, 3);
    site.host.backup();
    site.postgres.archive_everything();
    let moment = ledger.moment_after(&site.postgres, &wanted);
    let mut before = site.host.info();
    lose_the_node(&mut site);

    let rebuilt = rebuild(&site, &[]);
    assert_eq!(problems(&rebuilt), [], "{rebuilt}");
    assert_eq!(rebuilt["stanzas"][0]["backups"], 2, "{rebuilt}");
    assert_eq!(rebuilt["unnamed"], 0, "{rebuilt}");
    let objects = site.node.objects(1);
    assert_eq!(rebuilt["chunks"], objects.all(Kind::Chunk).len());
    rebuild_command(&site, &[]).fails(&[27], &["holds a node already", "node start"]);

    go_on(&mut site);
    let mut after = site.host.info();
    let (size_before, size_after) = (without_stored_sizes(&mut before), without_stored_sizes(&mut after));
    let tolerance = 2 * 16 * objects.all(Kind::Chunk).len() as u64;
    assert!(
        size_before.abs_diff(size_after) <= tolerance,
        "{size_before} bytes before, {size_after} after"
    );
    assert_eq!(before, after);
    site.host.run(&["verify"]).succeeds();

    // The original goes on: its data directory is known from its backups.
    site.host.run(&["check"]).succeeds();
    let last = ledger.add_some(&site.postgres, 3);
    site.postgres.archive_everything();
    let chunks = objects.inodes(Kind::Chunk);
    site.host.backup();
    let now = objects.inodes(Kind::Chunk);
    assert!(chunks.iter().all(|(name, inode)| now.get(name) == Some(inode)));
    assert!(
        (now.len() - chunks.len()) * 4 < chunks.len(),
        "{} chunks became {}: what is known is not sent again",
        chunks.len(),
        now.len()
    );

    let target = ["--type=time", "--target", &moment, "--target-action=promote"];
    let mut restored = site.restore("time", &target);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, wanted.number, "a time before the loss");
    restored.check_all();
    let mut restored = site.restore("end", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
    a_clone_is_refused(&mut site);
}

/// Asserts that a copy of the cluster, joined like the original, archives nothing.
fn a_clone_is_refused(site: &mut Site) {
    site.postgres.stop();
    let copy = Postgres::at(&site.scratch, "copy");
    let mut command = site.scratch.account().command("/bin/cp", site.scratch.path());
    command.arg("--archive").arg(site.postgres.data()).arg(copy.data());
    run(command).succeeds();
    site.postgres.start();
    let host = Host::join(&site.scratch, "host-copy", &site.node, &copy, "main");
    host.push(&WalForge::new(&copy).make(900)).fails(&[44], &["main"]);
}

#[test]
fn a_rebuilding_that_was_killed_starts_over() {
    let mut site = Site::without_archiving("rebuild-kill", 1, 1);
    let forge = WalForge::new(&site.postgres);
    for number in 1..=60 {
        site.host.push(&forge.make(number)).succeeds();
    }
    lose_the_node(&mut site);
    let command = site.node.command(&["--force", "catalog-rebuild"]);
    let mut rebuilding = Process::start("catalog-rebuild", command, &site.scratch.join("rebuild.log"));
    let begun = site.node.data().join("mesh.json");
    wait_for("the rebuilding to begin", Duration::from_secs(60), || begun.exists());
    rebuilding.signal(Signal::STOP);
    rebuild_command(&site, &[]).fails(&[50], &["another process", &site.node.data().display().to_string()]);
    rebuilding.kill();
    assert!(
        !site.node.data().join("initialized").exists(),
        "it was killed before its end"
    );
    site.node.run(&["node", "start"]).fails(&[27], &["holds no node"]);

    let rebuilt = rebuild(&site, &[]);
    assert_eq!(rebuilt["stanzas"][0]["wal_files"], 60, "{rebuilt}");
    go_on(&mut site);
    site.host.run(&["verify"]).succeeds();
    let fetched = forge.path("fetched");
    site.host.get(&forge.name(60), &fetched).succeeds();
    assert!(fs::read(&fetched).expect("the fetched segment") == forge.content(60));
    assert_eq!(site.host.get(&forge.name(61), &fetched).code(), Some(1));
}

/// Other bytes for a segment, under a valid header.
fn other_content(forge: &WalForge, number: u32) -> Vec<u8> {
    let mut content = forge.content(number);
    let last = content.len() - 1;
    content[last] ^= 1;
    content
}

fn is_not_delivered(site: &Site, forge: &WalForge, number: u32) {
    let outcome = site.host.get(&forge.name(number), &forge.path("fetched"));
    assert!(
        outcome.code().is_some_and(|code| code > 125),
        "invariant 7: it was archived, so that a recovery must not end there: {outcome}"
    );
}

#[test]
fn wal_that_is_damaged_missing_or_contradictory_is_no_wal_that_never_was() {
    let mut site = Site::without_archiving("rebuild-wal", 1, 1);
    let forge = WalForge::new(&site.postgres);
    for number in 1..=6 {
        site.host.push(&forge.make(number)).succeeds();
    }
    let name = |number| forge.name(number);
    let objects = site.node.objects(1);
    let third: Object = objects.segment(&name(3));
    let aside = site.scratch.join("aside");
    fs::rename(&third.file, &aside).expect("moving an object away");
    lose_the_node(&mut site);

    let rebuilt = rebuild(&site, &[]);
    let expected = [
        ("wal-gap".to_owned(), format!("{} to {}", name(3), name(3))),
        ("writer".to_owned(), "timeline 1".to_owned()),
    ];
    assert_eq!(problems(&rebuilt), expected, "{rebuilt}");
    go_on(&mut site);
    is_not_delivered(&site, &forge, 3);
    // No backup names the writer of the timeline, so the administrator does.
    let seventh = forge.make(7);
    site.host.push(&seventh).fails(&[44], &["stanza-adopt"]);
    site.host.run(&["stanza-adopt"]).succeeds();
    site.host.push(&seventh).succeeds();
    let other = other_content(&forge, 3);
    site.host.push(&forge.write(&name(3), &other)).succeeds();

    // Now two contents lie under the name of the third segment, and the fifth is damaged.
    fs::rename(&aside, &third.file).expect("moving an object back");
    let contents = || {
        let segments = objects.all(Kind::Segment);
        segments
            .into_iter()
            .filter(|object| object.name.contains(&name(3)))
            .count()
    };
    assert_eq!(contents(), 2);
    Damage::FlipBody.harm(&objects.segment(&name(5)));
    lose_the_node(&mut site);
    let rebuilt = rebuild(&site, &[]);
    let expected = [
        ("wal-damaged".to_owned(), name(5)),
        ("wal-duplicate".to_owned(), name(3)),
        ("writer".to_owned(), "timeline 1".to_owned()),
    ];
    assert_eq!(problems(&rebuilt), expected, "{rebuilt}");
    assert_eq!(rebuilt["stanzas"][0]["wal_files"], 5, "{rebuilt}");
    assert_eq!(contents(), 2, "nothing is deleted");

    go_on(&mut site);
    is_not_delivered(&site, &forge, 3);
    is_not_delivered(&site, &forge, 5);
    site.host.run(&["verify"]).fails(&[26], &[]);
    site.host.run(&["stanza-adopt"]).succeeds();
    for number in [3, 5] {
        site.host.push(&forge.make(number)).succeeds();
        let fetched = forge.path("fetched");
        site.host.get(&name(number), &fetched).succeeds();
        assert!(fs::read(&fetched).expect("the fetched segment") == forge.content(number));
    }
    site.host.push(&forge.write(&name(3), &other)).fails(&[45], &[&name(3)]);
}

#[test]
fn a_backup_that_is_not_whole_is_left_out_and_named() {
    let mut site = Site::new("rebuild-backups", 1);
    site.postgres.make_accounts(1);
    let mut ledger = Ledger::create(&site.postgres);
    let objects = site.node.objects(1);
    ledger.add_some(&site.postgres, 2);
    let whole = site.host.backup();
    let chunks = objects.inodes(Kind::Chunk);
    site.postgres.make_noise(3);
    let incomplete = site.host.backup();
    let added = objects.all(Kind::Chunk);
    let added = added.iter().find(|object| !chunks.contains_key(&object.name));
    let unreadable = site.host.backup();
    let last = ledger.add_some(&site.postgres, 2);
    site.postgres.archive_everything();

    Damage::Remove.harm(added.expect("a chunk that only later backups have"));
    let manifests = objects.all(Kind::Manifest);
    let of = |label: &str| manifests.iter().find(|object| object.name.contains(label));
    Damage::FlipTag.harm(of(&unreadable).expect("its manifest"));
    Damage::CutHalf.harm(&objects.all(Kind::StanzaInfo)[0]);
    lose_the_node(&mut site);

    let rebuilt = rebuild(&site, &[]);
    let expected = [
        ("backup-incomplete".to_owned(), format!("backup {incomplete}")),
        ("description".to_owned(), "database 15-1".to_owned()),
        ("manifest".to_owned(), format!("backup {unreadable}")),
    ];
    assert_eq!(problems(&rebuilt), expected, "{rebuilt}");
    go_on(&mut site);
    assert_eq!(site.host.last_backup()["label"], whole.as_str());
    let mut restored = site.restore("again", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end, from the backup that is whole");
    // The next backup sends the lost chunks again.
    let next = site.host.backup();
    let set = format!("--set={next}");
    let restored = site.restore("next", &[&set, "--write-manifest"]);
    restored.verify_backup();
    assert!(of(&unreadable).is_some_and(|manifest| manifest.file.exists()));
}

#[test]
fn the_other_repositories_are_taken_up_and_filled() {
    let mut site = Site::new("rebuild-two", 2);
    site.postgres.make_accounts(1);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add_some(&site.postgres, 2);
    site.host.backup();
    let last = ledger.add_some(&site.postgres, 2);
    site.postgres.archive_everything();
    wait_for("both repositories to have all", Duration::from_secs(60), || {
        let repositories = site.host.info()["repo"].clone();
        let repositories = repositories.as_array().expect("repositories");
        repositories.iter().all(|repository| repository["debt"]["objects"] == 0)
    });
    let second = site.node.objects(2);
    let chunks = second.all(Kind::Chunk);
    let before = second.inodes(Kind::Chunk);
    for object in chunks.iter().step_by(2) {
        Damage::Remove.harm(object);
    }
    lose_the_node(&mut site);

    rebuild_command(&site, &[]).fails(&[37], &["--repo=N", "repo1, repo2"]);
    assert!(!site.node.data().exists(), "what is refused leaves nothing");
    assert_eq!(problems(&rebuild(&site, &["--repo=1"])), []);
    site.node.declare_repository(3);
    go_on(&mut site);
    for number in [2, 3] {
        site.node.run(&[&format!("--repo={number}"), "repo-sync"]).succeeds();
        let (one, other) = (site.node.objects(1), site.node.objects(number));
        assert_eq!(one.segments(), other.segments(), "repo{number}");
        let (wanted, filled) = (one.all(Kind::Chunk).len(), other.all(Kind::Chunk).len());
        assert_eq!(filled, wanted, "repo{number}: nothing is there twice");
        for kind in [Kind::Segment, Kind::Manifest, Kind::StanzaInfo] {
            assert_eq!(one.all(kind).len(), other.all(kind).len(), "repo{number}: {kind:?}");
        }
    }
    // The second repository's own chunks stay as they were.
    let kept = second.inodes(Kind::Chunk);
    let had = chunks.iter().skip(1).step_by(2);
    assert!(
        had.map(|object| &object.name)
            .all(|name| kept.get(name) == before.get(name))
    );
    site.host.run(&["verify"]).succeeds();
    for number in [2, 3] {
        let repo = format!("--repo={number}");
        let mut restored = site.restore(&format!("from-{number}"), &[&repo]);
        restored.start_promoted();
        Ledger::assert_ends_with(&restored, last.number, "the end, from a repository that was filled");
    }
}

/// An administrator thought that the node was gone. Each of the two nodes would take the other's objects for orphans.
#[test]
fn a_node_of_the_old_mesh_that_still_runs_keeps_out_of_the_repository() {
    let mut site = Site::with_node("rebuild-beside", |node| node.repository().option("fence-timeout", "3s"));
    let mut ledger = Ledger::create(&site.postgres);
    site.host.backup();
    ledger.add(&site.postgres);
    site.postgres.archive_everything();

    let path = site.node.repository(1).path.clone();
    wait_for("the first mark", LIMIT, || {
        fs::read_dir(path.join("pgmesh.mark")).is_ok_and(|marks| marks.count() > 0)
    });
    let passphrase = site.node.repository(1).passphrase.clone();
    let other = Node::builder(&site.scratch, "other").option("fence-timeout", "3s");
    let mut other = other.repository_at(path, passphrase.as_deref()).write();
    other
        .run(&["catalog-rebuild"])
        .fails(&[50], &["a mesh has written to repo1", "--force"]);
    other.run(&["--force", "catalog-rebuild"]).succeeds();
    wait_for("the old node to keep out", LIMIT, || {
        site.node.run(&["doctor"]).stdout.contains("has taken over in era 1")
    });
    ledger.add(&site.postgres);
    site.postgres.query("select pg_switch_wal()");
    wait_for("WAL to be refused", LIMIT, || {
        site.postgres.log().contains("has taken over in era 1")
    });

    // The new mesh has all of it, and the old mesh deletes nothing that the new one writes.
    other.start();
    let host = Host::join(&site.scratch, "host-other", &other, &site.postgres, "main");
    site.postgres.set("archive_command", &host.archive_command());
    site.postgres.archive_everything();
    wait_until_compared(&other);
    host.backup();
    let last = ledger.add(&site.postgres);
    site.postgres.archive_everything();
    other.run(&["verify"]).succeeds();
    site.node.kill();
    let mut restored = host.restore(&site.scratch, "again", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
}
