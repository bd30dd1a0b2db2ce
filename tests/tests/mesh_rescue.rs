//! Two of three nodes are gone for good: the third goes on alone, and keeps the two out when they come back.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use pgmesh_tests::stores::S3Server;
use pgmesh_tests::{Ledger, MeshSite, wait_for};

const LIMIT: Duration = Duration::from_secs(90);
const BUCKET: &str = "walls";
/// The repository in the bucket; the first three are on the nodes' disks.
const SHARED: usize = 4;

/// A mesh of three nodes, each with a repository on its disk, and a bucket that all of them reach.
fn site(name: &str, server: &S3Server) -> MeshSite {
    MeshSite::new(name, |mesh| {
        mesh.shared_repository(SHARED, &server.bucket(BUCKET, server.address()))
            .option("fence-timeout", "6s")
            .option("io-timeout", "5s")
    })
}

#[test]
fn a_node_that_is_left_goes_on_alone_and_keeps_the_others_out() {
    let server = S3Server::start(BUCKET);
    let mut site = site("rescue", &server);
    let mut ledger = Ledger::create(&site.postgres);
    site.host.backup();
    ledger.add_some(&site.postgres, 3);
    site.postgres.archive_everything();
    site.mesh.wait_until_settled();

    // No node is rescued while a majority lives, or while the node runs.
    let alpha = site.mesh.node("alpha");
    alpha.run(&["node", "rescue"]).fails(&[50], &["another process"]);
    site.mesh.node_mut("alpha").stop();
    let alpha = site.mesh.node("alpha");
    alpha
        .run(&["node", "rescue"])
        .fails(&[50], &["beta at", "gamma at", "--force"]);
    // The others go on without alpha, and acknowledge WAL that it has never heard of.
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    for name in ["beta", "gamma"] {
        site.mesh.node_mut(name).stop();
    }

    let alpha = site.mesh.node("alpha");
    let told = alpha.run(&["--dry-run", "node", "rescue"]).ok();
    for part in [
        "would go on alone",
        "beta, gamma",
        "LOST",
        "repo4 shows",
        "repo2 was not read",
    ] {
        assert!(told.stdout.contains(part), "{part}: {told}");
    }
    let told = alpha.run(&["node", "rescue"]).ok();
    assert!(told.stdout.contains("goes on alone as number 1003, in era 1"), "{told}");
    alpha.run(&["node", "rescue"]).fails(&[48], &["only one of its mesh"]);
    site.mesh.node_mut("alpha").start();

    // WAL is archived at once, in the repositories of the rescued node.
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    // Until the repositories are compared with the catalog, a backup would count on objects that the other nodes may
    // have deleted.
    let early = site.host.run(&["backup"]);
    early.fails(&[103], &["not compared with the catalog yet", "repo-remove"]);
    let alpha = site.mesh.node("alpha");
    let doctor = alpha.run(&["doctor"]);
    assert!(
        doctor
            .stdout
            .contains("comparison: repositories that are not compared yet"),
        "{doctor}"
    );
    for number in ["--repo=2", "--repo=3"] {
        alpha.run(&[number, "--force", "repo-remove"]).succeeds();
    }
    wait_for("the repositories to be compared", LIMIT, || {
        !site.mesh.node("alpha").run(&["doctor"]).stdout.contains("comparison:")
    });
    site.host.backup();
    let last = ledger.add(&site.postgres);
    site.postgres.archive_everything();

    // The rescued mesh is not rescued again from another of its old nodes.
    let beta = site.mesh.node("beta");
    beta.run(&["node", "rescue"]).fails(&[50], &["alpha at"]);

    // The other nodes come back with their old catalogs. They are a majority of the old mesh.
    for name in ["beta", "gamma"] {
        site.mesh.node_mut(name).launch();
    }
    for name in ["beta", "gamma"] {
        let node = site.mesh.node_mut(name);
        wait_for("the old node to keep out", LIMIT, || {
            node.has_ended() || node.run(&["doctor"]).stdout.contains("has taken over")
        });
        if !node.has_ended() {
            node.kill();
        }
    }

    // All earlier WAL and backups are there: the bucket had the objects that the others acknowledged without alpha.
    let alpha = site.mesh.node("alpha");
    alpha.run(&["verify"]).succeeds();
    let mut restored = site.restore("again", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
}

/// The other nodes were only out of reach for the administrator who ran the command.
#[test]
fn a_mesh_that_was_taken_over_by_mistake_is_taken_back() {
    let server = S3Server::start(BUCKET);
    let mut site = site("takeover", &server);
    let mut ledger = Ledger::create(&site.postgres);
    site.host.backup();
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    site.mesh.wait_until_settled();
    site.mesh.node_mut("alpha").stop();
    site.mesh.node("alpha").run(&["--force", "node", "rescue"]).succeeds();

    // The mark in the bucket tells the other nodes, which have no other way to learn of it.
    let beta = site.mesh.node("beta");
    wait_for("the others to notice", LIMIT, || {
        beta.run(&["doctor"]).stdout.contains("has taken over in era 1")
    });
    let info = site.host.run(&["info"]);
    assert!(info.stdout.contains("has taken over"), "{info}");
    let stanza = site.host.run(&["stanza-create"]);
    stanza.fails(&[122], &["has taken over in era 1", "catalog-accept-loss"]);
    ledger.add(&site.postgres);
    site.postgres.query("select pg_switch_wal()");
    wait_for("WAL to be refused", LIMIT, || {
        site.postgres.log().contains("has taken over in era 1")
    });

    // The doctor prints the command with its position, and it takes the mesh back.
    let said = beta.run(&["doctor"]).stdout;
    let (_, position) = said.split_once("catalog-accept-loss ").expect("the command");
    let position: String = position.chars().take_while(char::is_ascii_digit).collect();
    beta.run(&["catalog-accept-loss", &position]).succeeds();
    site.postgres.archive_everything();
    let last = ledger.add(&site.postgres);
    site.postgres.archive_everything();

    // The rescued node keeps out: an era has begun after its own.
    site.mesh.node_mut("alpha").launch();
    let alpha = site.mesh.node_mut("alpha");
    wait_for("the rescued node to keep out", LIMIT, || {
        alpha.has_ended() || alpha.run(&["doctor"]).stdout.contains("has taken over in era 2")
    });
    if !alpha.has_ended() {
        alpha.kill();
    }
    // Alpha's repository is removed; the other repositories are compared without a command.
    let beta = site.mesh.node("beta");
    beta.run(&["--repo=1", "--force", "repo-remove"]).succeeds();
    wait_for("the repositories to be compared", LIMIT, || {
        !beta.run(&["doctor"]).stdout.contains("comparison:")
    });
    site.host.backup();
    let mut restored = site.restore("again", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
}

/// The nodes have no repository in common, so the rescued node itself tells the others.
#[test]
fn nodes_without_a_common_repository_hear_of_a_rescue_from_the_rescued_node() {
    let mut site = MeshSite::new("fork", |mesh| {
        mesh.option("fence-timeout", "6s").option("io-timeout", "5s")
    });
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    site.mesh.wait_until_settled();
    site.mesh.node_mut("alpha").stop();
    site.mesh.node("alpha").run(&["--force", "node", "rescue"]).succeeds();
    site.mesh.node_mut("alpha").launch();
    let beta = site.mesh.node("beta");
    wait_for("the others to hear of it", LIMIT, || {
        let said = beta.run(&["doctor"]).stdout;
        said.contains("has taken over in era 1, as node alpha has shown")
    });
    // Neither of the two has ended, and neither acknowledges WAL.
    assert!(site.mesh.node("beta").is_running() && site.mesh.node("gamma").is_running());
    ledger.add(&site.postgres);
    site.postgres.query("select pg_switch_wal()");
    // The rescued node does not take it either: too few of its repositories are left.
    wait_for("WAL to be refused", LIMIT, || {
        site.postgres.query("select failed_count > 0 from pg_stat_archiver") == "t"
    });
    site.mesh.node_mut("alpha").stop();
    let beta = site.mesh.node("beta");
    let said = beta.run(&["doctor"]).stdout;
    let (_, position) = said.split_once("catalog-accept-loss ").expect("the command");
    let position: String = position.chars().take_while(char::is_ascii_digit).collect();
    beta.run(&["catalog-accept-loss", &position]).succeeds();
    site.postgres.archive_everything();
    // The rescued node's later claims no longer count.
    site.mesh.node_mut("alpha").launch();
    ledger.add(&site.postgres);
    site.postgres.archive_everything();
    let beta = site.mesh.node("beta");
    wait_for("the repositories of the others to be compared", LIMIT, || {
        let said = beta.run(&["doctor"]).stdout;
        said.contains("lost its last entries: repo1;")
    });
    assert!(site.mesh.node("beta").is_running() && site.mesh.node("gamma").is_running());
    assert!(!beta.run(&["doctor"]).stdout.contains("has taken over"));
    site.mesh.node_mut("alpha").kill();
}
