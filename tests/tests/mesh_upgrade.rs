//! A mesh that an earlier program has stored is taken up and upgraded node by node under load, and no node goes back.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use pgmesh_tests::{Host, Ledger, Mesh, Postgres, Scratch, WalForge, stored, wait_for};

const LIMIT: Duration = Duration::from_secs(90);
const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

/// The mesh of the fixture, as if its disks were moved to other machines: with other addresses and other paths. `beta`
/// gets a repository of its own.
fn taken_up(scratch: &Scratch) -> Mesh {
    let mesh = Mesh::builder(scratch).repositories(1);
    let mesh = mesh.option("archive-ack", "1").option("backup-ack", "1");
    let mut mesh = mesh.take_up(&stored::fixture());
    mesh.node_mut("beta").declare_repository(2);
    for name in NAMES {
        mesh.node_mut(name).play_level(Some(1));
    }
    mesh.start_all();
    mesh.node("alpha").run(&["--repo=1", "repo-update"]).succeeds();
    mesh.wait_until_settled();
    mesh
}

/// Sets the flag when it is dropped, also in a panic, so that a thread that waits for the flag ends.
struct Sets<'a>(&'a AtomicBool);

impl Drop for Sets<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The mesh's apply level, and those of its nodes' programs.
fn levels(mesh: &Mesh) -> (u64, Vec<u64>) {
    let status = mesh.run(&["status", "--output=json"]).ok().json();
    let nodes = status["nodes"].as_array().expect("nodes");
    let own = nodes.iter().filter_map(|node| node["apply-level"].as_u64()).collect();
    (status["apply-level"].as_u64().expect("a level"), own)
}

/// Asserts that the backups and the WAL of the stored mesh restore all rows.
fn assert_restores(mesh: &Mesh, scratch: &Scratch, host: &Host, name: &str) {
    let backup = host.last_backup();
    let last = backup["annotation"]["last"]
        .as_str()
        .expect("the number of the last row");
    mesh.run(&["verify"]).succeeds();
    let mut restored = host.restore(scratch, name, &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.parse().expect("a number"), name);
    restored.check_all();
}

#[test]
fn a_stored_mesh_is_upgraded_node_by_node_under_load_and_does_not_go_back() {
    let scratch = Scratch::new("upgrade");
    let mut mesh = taken_up(&scratch);
    assert_eq!(levels(&mesh), (1, vec![1, 1, 1]));
    let restored = Postgres::at(&scratch, "pg-main");
    let main = mesh.host(&scratch, "host-main", ("eu", &NAMES), &restored, "main");
    assert_restores(&mesh, &scratch, &main, "before");

    let postgres = Postgres::builder(&scratch, "pg-load").segment_mebibytes(1).start();
    let load = mesh.host(&scratch, "host-load", ("eu", &NAMES), &postgres, "load");
    load.run(&["stanza-create"]).succeeds();
    let forge = WalForge::new(&postgres);
    let (ends, pushed) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let pushing = scope.spawn(|| {
            while !ends.load(Ordering::SeqCst) {
                let number = pushed.load(Ordering::SeqCst) + 1;
                load.push(&forge.make(number)).succeeds();
                pushed.store(number, Ordering::SeqCst);
            }
        });
        let _end = Sets(&ends);
        let some_more = |what: &str| {
            let before = pushed.load(Ordering::SeqCst);
            wait_for(what, LIMIT, || {
                pushed.load(Ordering::SeqCst) > before + 2 || pushing.is_finished()
            });
        };
        for (number, name) in NAMES.into_iter().enumerate() {
            assert_eq!(levels(&mesh).0, 1, "{number} of 3 nodes have the new program");
            mesh.node_mut(name).stop();
            some_more("pushes while a node is away");
            mesh.node_mut(name).play_level(None);
            mesh.start_node(name);
            mesh.wait_until_whole();
            some_more("pushes with the node back");
        }
        wait_for("the new level", LIMIT, || levels(&mesh) == (3, vec![3, 3, 3]));
        some_more("pushes at the new level");
        // It joined before there were rows of certificates.
        wait_for("the host's certificate to be noted", LIMIT, || {
            let listed = mesh.run(&["client", "list", "--output=json"]).ok().json();
            let mut all = listed.as_array().expect("an array").iter();
            all.any(|one| one["name"] == "host-load" && one["state"] == "valid")
        });

        // The older program does not start any more, and the attempt does no harm.
        mesh.node_mut("beta").stop();
        mesh.node_mut("beta").play_level(Some(1));
        // Other nodes answer in its place, so the test waits only for its end.
        mesh.node_mut("beta").launch();
        let (code, log) = mesh
            .node_mut("beta")
            .await_start(|_| false)
            .expect_err("an older program");
        assert_eq!(code, Some(46), "{log}");
        for said in ["apply level 3", "levels up to 1", "Install the version"] {
            assert!(log.contains(said), "{said:?} in\n{log}");
        }
        some_more("pushes after the refusal");
        mesh.node_mut("beta").play_level(None);
        mesh.start_node("beta");
    });
    mesh.wait_until_settled();
    let fetched = forge.path("fetched");
    for number in 1..=pushed.load(Ordering::SeqCst) {
        load.get(&forge.name(number), &fetched).succeeds();
        assert!(
            fs::read(&fetched).expect("a segment") == forge.content(number),
            "segment {number}"
        );
    }
    assert_restores(&mesh, &scratch, &main, "after");
    for name in NAMES {
        mesh.node(name).assert_no_alarm();
    }
}

#[test]
fn a_catalog_of_another_format_is_left_as_it_is() {
    let scratch = Scratch::new("other-format");
    let mut mesh = Mesh::builder(&scratch).repositories(1).take_up(&stored::fixture());
    let marker = mesh.node("alpha").data().join("catalog/catalog.json");
    let known = fs::read_to_string(&marker).expect("the marker");
    let number: u32 = known
        .trim_matches(|other: char| !other.is_ascii_digit())
        .parse()
        .expect("a format");
    let later = known.replace(&number.to_string(), &(number + 1).to_string());
    scratch.account().write(&marker, &later);
    let (code, log) = mesh.node_mut("alpha").try_start().expect_err("a later format");
    assert_eq!(code, Some(46), "{log}");
    for said in [format!("format {number}"), format!("format {}", number + 1)] {
        assert!(log.contains(&said), "{said:?} in\n{log}");
    }
    assert_eq!(fs::read_to_string(&marker).expect("the marker"), later);
    // The program that wrote it goes on with it.
    scratch.account().write(&marker, &known);
    mesh.start_all();
}
