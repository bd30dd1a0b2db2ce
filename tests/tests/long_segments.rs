//! Clusters whose WAL segments are larger than 16 MiB: they are sent, stored and read in parts.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use pgmesh_tests::{Damage, Faults, Kind, Ledger, MeshSite, Object, Process, Site, WalForge, wait_for};

const LIMIT: Duration = Duration::from_secs(60);
const MEBIBYTE: u64 = 1 << 20;

/// The parts of a segment in a repository, in their order.
fn parts(site: &Site, repository: usize, segment: &str) -> Vec<Object> {
    let mut parts = site.node.objects(repository).all(Kind::Segment);
    parts.retain(|object| object.name.contains(segment) && object.name.contains(".p0"));
    parts.sort();
    parts
}

#[test]
fn a_cluster_with_long_segments_is_archived_backed_up_and_recovered() {
    let site = Site::with_postgres("long", 2, |postgres| postgres.segment_mebibytes(64));
    site.postgres.make_accounts(1);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add_some(&site.postgres, 20);
    let label = site.host.backup();
    let at_name = ledger.add_some(&site.postgres, 5);
    site.postgres.query("select pg_create_restore_point('here')");
    ledger.add_some(&site.postgres, 5);
    let first = site.postgres.archive_everything();
    site.wait_until_settled(LIMIT);
    for repository in [1, 2] {
        assert_eq!(parts(&site, repository, &first).len(), 8, "64 MiB in parts of 8");
    }
    // Each segment has a change map, so an incremental backup reads only changed pages.
    site.postgres
        .query("update pgbench_accounts set abalance = aid where aid % 97 = 0");
    let taken = site.host.backup_with(&["--type=incr"]);
    assert_eq!(
        (&taken["type"], &taken["chosen_by"]),
        (&"incr".into(), &"maps".into()),
        "{taken}"
    );
    let last = ledger.add_some(&site.postgres, 5);
    let newest = site.postgres.archive_everything();

    site.wait_until_settled(LIMIT);
    // Each repository has lost another part of the same segment.
    Damage::FlipBody.harm(&parts(&site, 1, &newest)[2]);
    Damage::Remove.harm(&parts(&site, 2, &newest)[5]);
    let set = format!("--set={label}");
    let target = ["--type=name", "--target=here", "--target-action=promote", &set];
    let mut by_name = site.restore("by-name", &target);
    by_name.start_promoted();
    Ledger::assert_ends_with(&by_name, at_name.number, "by name");
    by_name.stop();
    let mut all = site.restore("all", &[]);
    all.start_promoted();
    Ledger::assert_ends_with(&all, last.number, "to the end");
    assert_eq!(all.dump(), site.postgres.dump());
    all.check_all();
    all.stop();
    wait_for("the harmed parts to be replaced", LIMIT, || {
        site.host.run(&["verify"]).code() == Some(0)
    });
    site.host.run(&["check"]).succeeds();
}

#[test]
fn one_repository_alone_gives_back_long_segments() {
    let site = Site::without_archiving("alone", 1, 32);
    let forge = WalForge::new(&site.postgres);
    for number in [1, 2] {
        site.host.push(&forge.make(number)).succeeds();
    }
    // The same segment again is not sent, and the client says that it exists.
    let again = site.host.push(&forge.make(1)).ok();
    assert!(again.stderr.contains("already exists"), "{again}");
    // Other bytes under its name are refused, and none of them stays.
    let mut other = forge.content(2);
    other[20 << 20] ^= 1;
    let refused = site.host.push(&forge.write(&forge.name(2), &other));
    assert_eq!(refused.code(), Some(45), "{refused}");
    assert_eq!(parts(&site, 1, &forge.name(2)).len(), 4);
    let fetched = forge.path("fetched");
    site.host.get(&forge.name(2), &fetched).succeeds();
    assert!(fs::read(&fetched).expect("the fetched segment") == forge.content(2));
    // The path that the parts have in common reads the whole segment.
    let path = parts(&site, 1, &forge.name(2))[0].name.replace(".p001of004", "");
    let whole = site
        .host
        .command(&["repo-get", &path])
        .output()
        .expect("running repo-get");
    assert!(
        whole.status.success() && whole.stdout == forge.content(2),
        "repo-get {path}"
    );
    // If a segment has lost a part, none of it is delivered, and the loss does not count as the end of the archive.
    fs::remove_file(&fetched).expect("removing what was fetched");
    Damage::FlipBody.harm(&parts(&site, 1, &forge.name(2))[3]);
    let outcome = site.host.get(&forge.name(2), &fetched);
    assert!(outcome.code().is_some_and(|code| code > 125), "{outcome}");
    let left: Vec<_> = fs::read_dir(forge.folder()).expect("the folder").flatten().collect();
    let left = left
        .iter()
        .map(|entry| entry.file_name().into_string().expect("a name"));
    let left: Vec<String> = left.filter(|name| name.starts_with("fetched")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The host has 16 MiB a second to each node, so that a node can die in the middle of a segment.
#[test]
fn a_push_and_a_get_go_on_when_their_node_dies() {
    let mut site = MeshSite::with_segments("dies", 128, |mesh| mesh.with_relays());
    let link = Faults::none().with_bandwidth(16 * MEBIBYTE);
    for node in site.mesh.names() {
        site.mesh.network().shape_both("host", &node, link);
    }
    let forge = WalForge::new(&site.postgres);
    let (file, name, fetched) = (forge.make(1), forge.name(1), forge.path("fetched"));
    let push = site.host.command(&["archive-push", &file.display().to_string()]);
    let dead = kill_in_the_middle(&mut site, push, true);
    site.mesh.start_node(&dead);
    site.mesh.wait_until_settled();
    for repository in 1..=3 {
        let objects = site.mesh.objects(repository).all(Kind::Segment);
        let parts = objects.iter().filter(|object| object.name.contains(&name)).count();
        assert_eq!(parts, 16, "repo{repository}");
    }
    let get = site
        .host
        .command(&["archive-get", &name, &fetched.display().to_string()]);
    let dead = kill_in_the_middle(&mut site, get, false);
    assert!(fs::read(&fetched).expect("the fetched segment") == forge.content(1));
    site.mesh.start_node(&dead);
    site.mesh.wait_until_settled();
    site.host.run(&["verify"]).succeeds();
}

/// Runs a command, and kills the node that it uses after 8 MiB have passed. Returns the node.
fn kill_in_the_middle(site: &mut MeshSite, command: Command, from_host: bool) -> String {
    let names = site.mesh.names();
    let passed = |site: &mut MeshSite, node: &str| {
        let network = site.mesh.network();
        match from_host {
            true => network.delivered_bytes("host", node),
            false => network.delivered_bytes(node, "host"),
        }
    };
    let before: Vec<u64> = names.iter().map(|name| passed(site, name)).collect();
    let mut work = Process::start("the work", command, &site.scratch.join("work.log"));
    let mut in_use = None;
    wait_for("the work to begin", LIMIT, || {
        let ended = work.ended();
        assert!(ended.is_none(), "it was over before: {}", work.log());
        let now: Vec<u64> = names.iter().map(|name| passed(site, name)).collect();
        let mut busy = names.iter().zip(now.iter().zip(&before));
        in_use = busy
            .find(|(_, (now, before))| *now - *before > 8 * MEBIBYTE)
            .map(|(name, _)| name.clone());
        in_use.is_some()
    });
    let in_use = in_use.expect("a node");
    site.mesh.node_mut(&in_use).kill();
    let status = work.wait(LIMIT);
    assert!(status.success(), "it ended with {status}:\n{}", work.log());
    in_use
}
