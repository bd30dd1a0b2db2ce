//! Meshes with a repository in a bucket that some of the nodes reach: the others go through any of these, one of them
//! pays the bucket's debts, and `status` counts the objects that the bucket keeps.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::thread;
use std::time::{Duration, Instant};

use pgmesh_tests::http::{Fault, HttpProxy};
use pgmesh_tests::stores::{Bucket, S3Server};
use pgmesh_tests::{Ledger, MeshSite, Node, WalForge, wait_for};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);
const BUCKET: &str = "walls";
/// The repository in the bucket; the first three are on the nodes' disks.
const SHARED: usize = 4;

/// A node's options for the bucket through a proxy of its own.
fn by_way_of(server: &S3Server, proxy: &HttpProxy) -> Bucket {
    server.bucket(BUCKET, proxy.address())
}

fn proxy(server: &S3Server) -> HttpProxy {
    HttpProxy::start(server.address()).expect("starting a proxy")
}

/// The names of the WAL files in the bucket.
fn segments(server: &S3Server) -> Vec<String> {
    let names = server.names(BUCKET).into_iter();
    names.filter(|name| name.contains("/archive/")).collect()
}

/// The shared repository in a node's `status`, if it is known there.
fn look_for_shared(node: &Node) -> Option<Value> {
    let status = node.run(&["status", "--output=json"]).json();
    let repositories = status["repositories"].as_array().expect("repositories in status");
    let found = repositories.iter().find(|repository| repository["key"] == SHARED);
    found.cloned()
}

fn shared(node: &Node) -> Value {
    look_for_shared(node).expect("the shared repository in status")
}

/// The nodes that have the shared repository open.
fn open_on(node: &Node) -> Vec<String> {
    let Some(status) = look_for_shared(node) else {
        return Vec::new();
    };
    let nodes = status["nodes"].as_array().expect("nodes of a repository").iter();
    let open = nodes.filter(|node| node["health"]["state"] == "up");
    open.map(|node| node["name"].as_str().expect("a name").to_owned())
        .collect()
}

fn debt(node: &Node) -> u64 {
    shared(node)["debt"]["objects"].as_u64().expect("a count of objects")
}

fn wait_until_paid(node: &Node) {
    wait_for("the shared repository to owe nothing", LIMIT, || debt(node) == 0);
}

#[test]
fn a_node_without_credentials_works_through_those_that_have_them() {
    let server = S3Server::start(BUCKET);
    let (first, second) = (proxy(&server), proxy(&server));
    let site = MeshSite::new("shared", |mesh| {
        let mesh = mesh.repository_shared_by(SHARED, &by_way_of(&server, &first), &["alpha"]);
        mesh.repository_shared_by(SHARED, &by_way_of(&server, &second), &["beta"])
    });
    let mut site = site;
    let gamma = site.another_host("far", "ap", "gamma");
    let node = site.mesh.node("gamma");
    wait_for("two nodes to have the bucket open", LIMIT, || {
        open_on(node) == ["alpha", "beta"]
    });
    let status = shared(node);
    assert_eq!(status["type"], "s3");
    assert_eq!(status["host"], Value::Null);
    assert_eq!(status["place"], "s3://walls/repo4");

    site.postgres.make_accounts(1);
    let mut ledger = Ledger::create(&site.postgres);
    gamma.backup();
    let last = ledger.add_some(&site.postgres, 3);
    site.postgres.archive_everything();
    site.mesh.wait_until_settled();
    // Each object was put there once, by one node.
    let puts = |proxy: &HttpProxy| proxy.count(|record| record.method == "PUT" && record.target.contains("/archive/"));
    assert_eq!(puts(&first) + puts(&second), segments(&server).len());

    let listed = node.run(&["repo-ls", "--repo=4", "stanza/main/archive"]);
    assert!(listed.text().contains("1"), "{listed}");
    gamma.run(&["verify", "--repo=4"]).succeeds();
    let doctor = node.run(&["doctor"]);
    assert!(doctor.text().contains("repo4: s3://walls/repo4 is up"), "{doctor}");

    // Only the bucket is left, and gamma has no credentials for it.
    for number in 1..=3 {
        site.mesh.objects(number).take_away();
    }
    let mut restored = gamma.restore(&site.scratch, "again", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
}

#[test]
fn nodes_that_start_at_once_make_one_repository() {
    let server = S3Server::start(BUCKET);
    let mut site = MeshSite::without_archiving("at-once", |mesh| mesh);
    let bucket = server.bucket(BUCKET, server.address());
    let names = site.mesh.names();
    for name in &names {
        let node = site.mesh.node_mut(name);
        node.stop();
        node.declare_repository_on(SHARED, &bucket);
    }
    for name in &names {
        site.mesh.node_mut(name).launch();
    }
    for name in &names {
        site.mesh.await_node(name);
    }
    site.mesh.wait_until_whole();
    let node = site.mesh.node("alpha");
    wait_for("all nodes to have it open", LIMIT, || open_on(node).len() == 3);
    let identities = server
        .names(BUCKET)
        .into_iter()
        .filter(|name| name.ends_with("pgmesh.repo"));
    assert_eq!(identities.count(), 1);
    // The nodes share one repository: a segment is written to it once.
    let forge = WalForge::new(&site.postgres);
    site.host.push(&forge.make(1)).succeeds();
    site.mesh.wait_until_settled();
    assert_eq!(segments(&server).len(), 1);
    site.host.run(&["verify"]).succeeds();
}

#[test]
fn what_is_owed_to_a_bucket_is_paid_though_the_leader_dies() {
    let server = S3Server::start(BUCKET);
    let proxies = [proxy(&server), proxy(&server), proxy(&server)];
    let mut site = MeshSite::without_archiving("payer", |mut mesh| {
        for (name, proxy) in ["alpha", "beta", "gamma"].into_iter().zip(&proxies) {
            mesh = mesh.repository_shared_by(SHARED, &by_way_of(&server, proxy), &[name]);
        }
        mesh.option("repair-rate", "1MiB")
    });
    let forge = WalForge::new(&site.postgres);
    site.host.push(&forge.make(1)).succeeds();
    site.mesh.wait_until_settled();
    for proxy in &proxies {
        proxy.refuse();
    }
    for number in 2..=31 {
        site.host.push(&forge.make(number)).succeeds();
    }
    wait_for("thirty debts", LIMIT, || debt(site.mesh.node("alpha")) >= 30);
    for proxy in &proxies {
        proxy.accept().expect("accepting again");
    }
    let before = segments(&server).len();
    wait_for("some debts to be paid", LIMIT, || segments(&server).len() >= before + 3);
    let leader = site.mesh.leader();
    site.mesh.node_mut(&leader).kill();
    let left = site.mesh.running_beside(&leader);
    assert!(debt(left) > 0, "the leader was killed in the middle");
    wait_until_paid(left);
    site.mesh.start_node(&leader);
    site.mesh.wait_until_settled();
    // Each segment is there once: two leaders who have paid the same debt have used one name.
    assert_eq!(segments(&server).len(), 31);
    site.host.run(&["verify"]).succeeds();
}

#[test]
fn a_node_that_loses_its_way_goes_through_another_and_a_silent_endpoint_stops_no_start() {
    let server = S3Server::start(BUCKET);
    let proxies = [proxy(&server), proxy(&server)];
    let mut site = MeshSite::without_archiving("lost-way", |mut mesh| {
        for (name, proxy) in ["alpha", "beta", "gamma"].into_iter().zip(&proxies) {
            mesh = mesh.repository_shared_by(SHARED, &by_way_of(&server, proxy), &[name]);
        }
        // Only pushes that all four repositories have are acknowledged, so each push needs a way to the bucket.
        mesh.option("archive-ack", "4").option("io-timeout", "5s")
    });
    let forge = WalForge::new(&site.postgres);
    site.host.push(&forge.make(1)).succeeds();
    let alpha = &proxies[0];
    alpha.refuse();
    for number in 2..=6 {
        site.host.push(&forge.make(number)).succeeds();
    }
    assert_eq!(segments(&server).len(), 6, "by way of beta");
    let status = shared(site.mesh.node("gamma"));
    assert_eq!(status["health"]["state"], "up", "{status}");
    wait_for("alpha to be told as closed", LIMIT, || {
        open_on(site.mesh.node("gamma")) == ["beta"]
    });

    // The node starts with a bucket that does not answer, and serves the rest as ever.
    alpha.heal().expect("accepting again");
    alpha.set(Fault::BlackHole);
    site.mesh.node_mut("alpha").stop();
    let began = Instant::now();
    site.mesh.start_node("alpha");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    site.mesh.wait_until_whole();
    for number in 7..=9 {
        site.host.push(&forge.make(number)).succeeds();
    }
    assert_eq!(segments(&server).len(), 9);
    alpha.heal().expect("healing");
    wait_for("alpha to have it open again", LIMIT, || {
        open_on(site.mesh.node("gamma")).len() == 2
    });
    site.mesh.wait_until_settled();
    site.host.run(&["verify"]).succeeds();

    // The last node with a way to the bucket is removed only with --force.
    let gamma = site.mesh.node("gamma");
    gamma.run(&["node", "remove", "alpha", "--force"]).succeeds();
    gamma.run(&["node", "remove", "beta"]).refuses(&["repo2"]);
}

#[test]
fn what_a_bucket_keeps_is_counted_and_let_go_when_it_may_be() {
    let server = S3Server::start(BUCKET);
    let bucket = server.bucket(BUCKET, server.address());
    let mut site = MeshSite::without_archiving("keeps", |mesh| {
        let bucket = bucket.clone().with("delete", "n");
        mesh.repository_shared_by(SHARED, &bucket, &["alpha", "beta"])
    });
    let forge = WalForge::new(&site.postgres);
    for number in 1..=5 {
        site.host.push(&forge.make(number)).succeeds();
    }
    site.mesh.wait_until_settled();
    let node = site.mesh.node("gamma");
    let deleted = node.run(&["stanza-delete", "--stanza=main", "--force"]);
    println!("{deleted}");
    deleted.succeeds();
    let kept = |node: &Node| shared(node)["kept"]["objects"].as_u64().expect("a count");
    wait_for("what is kept to be counted", LIMIT, || kept(node) >= 6);
    assert_eq!(shared(node)["kept"]["why"], "delete=n");
    let there = segments(&server).len();
    assert_eq!(there, 5, "nothing was deleted");
    assert!(site.mesh.objects(1).segments().is_empty());
    let log_of_all = || {
        let nodes = site.mesh.nodes().iter();
        nodes.map(|node| node.process().log()).collect::<String>()
    };
    assert!(
        !log_of_all().contains("cannot be deleted"),
        "nobody tries what is not allowed"
    );
    node.run(&["verify"]).succeeds();
    let info = node.run(&["info"]);
    assert!(
        info.text().contains("are no longer needed and are kept: delete=n"),
        "{info}"
    );

    // The stanza is made again. Its new segments do not take over kept objects of the same names.
    site.host.run(&["stanza-create"]).succeeds();
    site.host.push(&forge.make(1)).succeeds();
    site.mesh.wait_until_settled();
    assert_eq!(segments(&server).len(), 6);

    // The credentials may delete from now on.
    for name in ["alpha", "beta"] {
        let node = site.mesh.node_mut(name);
        node.stop();
        node.reconfigure("repo4-delete=n", "repo4-delete=y");
        site.mesh.start_node(name);
    }
    site.mesh.wait_until_whole();
    site.mesh.node("alpha").run(&["repo-update", "--repo=4"]).succeeds();
    let node = site.mesh.node("gamma");
    wait_for("what was kept to be deleted", LIMIT, || kept(node) == 0);
    assert_eq!(segments(&server).len(), 1);
    wait_for("both nodes to have it open", LIMIT, || open_on(node).len() == 2);
    let fetched = forge.path("fetched");
    site.host.get(&forge.name(1), &fetched).succeeds();
    site.host.run(&["verify"]).succeeds();
}

#[test]
fn an_emptied_bucket_is_replaced_from_a_node_that_does_not_reach_it() {
    let server = S3Server::start(BUCKET);
    let bucket = server.bucket(BUCKET, server.address());
    let site = MeshSite::without_archiving("emptied", |mesh| {
        mesh.repository_shared_by(SHARED, &bucket, &["alpha", "beta"])
    });
    let forge = WalForge::new(&site.postgres);
    for number in 1..=3 {
        site.host.push(&forge.make(number)).succeeds();
    }
    site.mesh.wait_until_settled();
    let node = site.mesh.node("gamma");
    node.run(&["repo-replace", "--repo=4"]).refuses(&["nothing is lost"]);
    for name in server.names(BUCKET) {
        server.remove(BUCKET, &name);
    }
    node.run(&["repo-replace", "--repo=4"]).succeeds();
    node.run(&["repo-sync", "--repo=4"]).succeeds();
    assert_eq!(segments(&server).len(), 3);
    // Both nodes have opened the new repository, with its own keys.
    wait_for("both nodes to have it open", LIMIT, || open_on(node).len() == 2);
    thread::sleep(Duration::from_secs(3));
    for number in 4..=6 {
        site.host.push(&forge.make(number)).succeeds();
    }
    site.mesh.wait_until_settled();
    assert_eq!(segments(&server).len(), 6);
    site.host.run(&["verify"]).succeeds();
    node.run(&["repo-remove", "--repo=4", "--force"]).succeeds();
}

#[test]
fn what_is_under_object_lock_is_asked_for_once_and_told() {
    let server = S3Server::start(BUCKET);
    server.create_locking_bucket("locking");
    let lock = proxy(&server);
    let bucket = by_way_of(&server, &lock)
        .with("s3-bucket", "locking")
        .with("object-lock", "compliance")
        .with("object-lock-period", "30d");
    let site = MeshSite::without_archiving("locked", |mesh| mesh.repository_shared_by(SHARED, &bucket, &["beta"]));
    let forge = WalForge::new(&site.postgres);
    for number in 1..=5 {
        site.host.push(&forge.make(number)).succeeds();
    }
    site.mesh.wait_until_settled();
    let node = site.mesh.node("gamma");
    node.run(&["stanza-delete", "--stanza=main", "--force"]).succeeds();
    wait_for("what is kept to be counted", LIMIT, || {
        shared(node)["kept"]["objects"] == 6
    });
    assert_eq!(shared(node)["kept"]["why"], "object lock");
    // No object is hidden behind a delete marker: the kept objects can be listed and read.
    let names = server.names("locking");
    assert_eq!(names.iter().filter(|name| name.contains("/archive/")).count(), 5);
    assert_eq!(server.versions("locking"), names.len());
    // Several rounds of the collector. The leader does not know the requests of the node that deleted the stanza.
    let asked = || lock.count(|record| record.method == "DELETE");
    thread::sleep(Duration::from_secs(5));
    let at_first = asked();
    assert!((6..=12).contains(&at_first), "{at_first} requests");
    thread::sleep(Duration::from_secs(6));
    assert_eq!(asked(), at_first, "nobody asks again");
    assert_eq!(shared(node)["health"]["state"], "up");
    let logs: String = site.mesh.nodes().iter().map(|node| node.process().log()).collect();
    assert!(!logs.contains("cannot be deleted"), "it is no failure");
    node.run(&["verify"]).succeeds();
}
