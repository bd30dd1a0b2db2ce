//! Three nodes become one mesh: objects that go in through any of them are in all repositories, and come out through
//! any.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::time::Duration;

use pgmesh_tests::{Host, Kind, Ledger, Mesh, MeshSite, Scratch, WalForge, wait_for};

/// Longer than an acknowledged write takes to reach the last repository.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until all repositories have a segment, and asserts that they have so many segments.
fn wait_for_segment(site: &MeshSite, repositories: usize, name: &str) {
    for number in 1..=repositories {
        wait_for(&format!("{name} in repo{number}"), LIMIT, || {
            let segments = site.mesh.objects(number).segments();
            segments.iter().any(|segment| segment.ends_with(name))
        });
    }
}

/// Segment `number` with other bytes under the same name.
fn other_content(forge: &WalForge, number: u32) -> Vec<u8> {
    let mut content = forge.content(number);
    if let Some(last) = content.last_mut() {
        *last ^= 1;
    }
    content
}

#[test]
fn a_push_through_any_node_is_in_all_repositories() {
    let mut site = MeshSite::without_archiving("forms", |mesh| mesh.with_relays());
    let forge = WalForge::new(&site.postgres);
    // A host for each node, which reaches no other node.
    let hosts: Vec<(String, Host)> = [("alpha", "eu"), ("beta", "us"), ("gamma", "ap")]
        .map(|(node, region)| {
            let name = format!("near-{node}");
            let host = site.another_host(&name, region, node);
            for other in site.mesh.names() {
                if other != node {
                    site.mesh.network().partition(&[&name], &[&other]);
                }
            }
            (node.to_owned(), host)
        })
        .into();
    for (number, (_, host)) in (1..).zip(&hosts) {
        host.push(&forge.make(number)).succeeds();
    }
    for number in 1..=3 {
        wait_for_segment(&site, 3, &forge.name(number));
    }
    let fetched = forge.path("fetched");
    // If a segment is pushed again through any node, it stays as it was: no push has two effects.
    let stored = [1, 2, 3].map(|number| site.mesh.objects(number).inodes(Kind::Segment));
    for (node, host) in &hosts {
        for number in 1..=3 {
            host.push(&forge.make(number)).succeeds();
        }
        let other = forge.write(&forge.name(2), &other_content(&forge, 2));
        host.push(&other).fails(&[45], &[&forge.name(2)]);
        let after = [1, 2, 3].map(|number| site.mesh.objects(number).inodes(Kind::Segment));
        assert!(after == stored, "a push through {node} was stored again");
    }
    for (node, host) in &hosts {
        for number in 1..=3 {
            host.get(&forge.name(number), &fetched).succeeds();
            let content = fs::read(&fetched).expect("the fetched segment");
            assert!(content == forge.content(number), "segment {number} through {node}");
        }
        assert_eq!(
            host.get(&forge.name(4), &fetched).code(),
            Some(1),
            "never archived, says {node}"
        );
        host.run(&["verify"]).succeeds();
        let info = host.info();
        let repositories = info["repo"].as_array().expect("repositories in info");
        let healthy = repositories
            .iter()
            .filter(|repo| repo["health"]["state"] == "up")
            .count();
        assert_eq!((repositories.len(), healthy), (3, 3), "through {node}: {info}");
    }
}

#[test]
fn a_backup_through_a_mesh_is_restored_and_is_whole_in_each_repository() {
    let site = MeshSite::new("whole", |mesh| mesh);
    site.host.run(&["check"]).succeeds();
    site.postgres.make_accounts(1);
    let load = site.postgres.load(2, 100);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add_some(&site.postgres, 3);
    site.host.backup();
    let last = ledger.add_some(&site.postgres, 3);
    load.stop();
    site.postgres.archive_everything();
    let mut restored = site.restore("again", &["--write-manifest"]);
    restored.verify_backup();
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
    restored.check_all();

    for kind in [Kind::Chunk, Kind::Manifest, Kind::Segment] {
        wait_for(&format!("each {kind:?} in all repositories"), LIMIT, || {
            let counts = [1, 2, 3].map(|number| site.mesh.objects(number).all(kind).len());
            counts[0] > 0 && counts.iter().all(|count| *count == counts[0])
        });
    }
    site.host.run(&["verify"]).succeeds();
    site.mesh.run(&["doctor"]).succeeds();
}

#[test]
fn a_node_joins_once_and_only_by_a_token_for_nodes() {
    let scratch = Scratch::new("token");
    let (mut mesh, mut waiting) = Mesh::builder(&scratch).repositories(1).start_first();
    let gamma = waiting.pop().expect("a third node");
    let beta = waiting.pop().expect("a second node");
    let for_clients = mesh.node("alpha").invite("main");
    beta.run(&["node", "join", &for_clients]).refuses(&["node"]);
    let alpha = mesh.node("alpha");
    let nameless = alpha.run(&["invite", "--role=node"]);
    nameless.refuses(&["name"]);
    let token = alpha.invite_with(&["--role=node", "beta", "--expires=1h"]);
    // The token is for one name, and a node of another name does not use it up.
    gamma.run(&["node", "join", &token]).refuses(&["node beta", "gamma"]);
    beta.join(&token);
    gamma.run(&["node", "join", &token]).refuses(&["token"]);
    // beta does not answer, as it has not been started, but its name is taken.
    alpha
        .run(&["invite", "--role=node", "beta"])
        .refuses(&["node beta", "--force"]);
    alpha
        .run(&["invite", "--role=client", "--stanza=main", "beta"])
        .refuses(&["--role=node NAME"]);
    beta.run(&["node", "join", &token]).refuses(&[]);
    // Nor can beta begin a mesh of its own any more.
    beta.run(&["node", "init"]).refuses(&[]);
    mesh.add(gamma);
    mesh.wait_for_status("gamma to be in the group", |status| {
        status.node("gamma").is_some_and(|node| node.role != "joining")
    });
}
