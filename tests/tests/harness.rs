//! Tests of the harness itself, on which the other tests rely.

use std::time::Duration;

use pgmesh_tests::{
    Damage, Faults, Figures, Host, Kind, Ledger, Network, Node, Postgres, Repository, Scratch, WalForge,
};

#[test]
fn a_crashed_cluster_has_all_committed_rows() {
    let scratch = Scratch::new("harness");
    let mut postgres = Postgres::builder(&scratch, "pg").segment_mebibytes(1).start();
    assert_eq!(postgres.query("show data_checksums"), "on");
    postgres.make_accounts(1);
    let load = postgres.load(2, 100);
    let mut ledger = Ledger::create(&postgres);
    let last = ledger.add_some(&postgres, 5);
    ledger.add(&postgres);
    let moment = ledger.moment_after(&postgres, &last);
    assert!(
        moment.starts_with("20") && moment.ends_with("+00"),
        "{moment} is a time with a zone"
    );
    load.stop();
    postgres.kill();
    postgres.start();
    Ledger::assert_ends_with(&postgres, 6, "a crash");
    postgres.check_all();
    postgres.stop();
}

#[test]
fn clusters_share_an_identity_only_when_copied() {
    let scratch = Scratch::new("harness");
    let one = Postgres::builder(&scratch, "one").create();
    let two = Postgres::builder(&scratch, "two").create();
    let other = Postgres::builder(&scratch, "other").own_identity().create();
    assert_eq!(one.system_id(), two.system_id());
    assert_ne!(one.system_id(), other.system_id());
}

#[test]
fn forged_segments_are_read_by_postgresqls_own_tools() {
    let scratch = Scratch::new("harness");
    let postgres = Postgres::builder(&scratch, "pg").segment_mebibytes(1).start();
    let forge = WalForge::new(&postgres);
    assert_eq!(forge.name(4097), "000000010000000100000001");
    let file = forge.make(7);
    let mut command = postgres.program("pg_waldump");
    command.arg(&file);
    // pg_waldump accepts the header and not the first record: its message says where it looked for one.
    pgmesh_tests::run(command).fails(&[1], &["could not find a valid record after 0/700000"]);
}

#[test]
fn every_damage_changes_the_object() {
    let scratch = Scratch::new("harness");
    let folder = scratch.folder("repo");
    for damage in Damage::ALL {
        let file = folder.join("chunk").join("ab").join("abcd");
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("creating a folder");
        std::fs::write(&file, vec![7; 1000]).expect("writing an object");
        let objects = Repository::new(folder.clone()).all(Kind::Chunk);
        assert_eq!(objects.len(), 1);
        damage.harm(&objects[0]);
        assert_ne!(std::fs::read(&file).unwrap_or_default(), vec![7; 1000], "{damage:?}");
    }
}

#[test]
fn the_program_is_where_the_harness_looks() {
    let scratch = Scratch::new("harness");
    let node = Node::builder(&scratch, "alpha").repository().create();
    assert!(node.run(&["version"]).ok().text().starts_with("pgmesh "));
}

#[test]
fn a_relay_stands_between_a_host_and_its_node() {
    let scratch = Scratch::new("harness");
    let node = Node::builder(&scratch, "alpha").repository().start();
    let postgres = Postgres::builder(&scratch, "pg").segment_mebibytes(1).start();
    let mut network = Network::new(1);
    network.add_client("host").expect("a network");
    network.add("alpha", node.socket_address()).expect("a relay");
    let address = network.route("host", "alpha");
    let way = format!("mesh-node={address}\nmesh-route=alpha={address}\n");
    let host = Host::with_way(&scratch, "host", &way, &postgres, "main");
    host.plain(&["join", &node.invite("main")]).succeeds();
    host.run(&["stanza-create"]).succeeds();
    let forge = WalForge::new(&postgres);
    host.push(&forge.make(1)).succeeds();
    let passed = network.delivered_bytes("host", "alpha");
    // Half of a forged segment is random, the other half zero.
    assert!((1 << 19..1 << 20).contains(&passed), "{passed} bytes passed the relay");

    let bad = Faults::delayed(Duration::from_millis(5))
        .with_jitter(Duration::from_millis(10))
        .with_loss(0.02)
        .with_duplication(0.02);
    network.shape_all(bad);
    host.push(&forge.make(2)).succeeds();

    network.isolate("alpha");
    let file = forge.make(3).display().to_string();
    let outcome = host.run(&["archive-push", "--archive-timeout=2s", &file]);
    outcome.fails(&[49, 82], &[]);

    network.clear();
    host.push(&forge.make(3)).succeeds();
    host.run(&["verify"]).succeeds();
}

#[test]
fn figures_tell_the_middle_and_the_longest() {
    let figures = Figures::new((1..=200).rev().map(Duration::from_millis).collect());
    assert_eq!(figures.median(), Duration::from_millis(100));
    assert_eq!(figures.percentile(99), Duration::from_millis(198));
    assert_eq!(figures.longest(), Duration::from_millis(200));
    assert_eq!(Figures::default().longest(), Duration::ZERO);
    assert_eq!(
        Figures::new(vec![Duration::from_secs(1)]).median(),
        Duration::from_secs(1)
    );
}
