//! A bucket whose server fails in every way: pushes go on, and debts are paid.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use pgmesh_tests::http::{Fault, HttpProxy};
use pgmesh_tests::stores::S3Server;
use pgmesh_tests::{Figures, Host, MeshStatus, Node, Postgres, RepositoryStatus, Scratch, Site, WalForge, wait_for};

const BUCKET: &str = "backups";
/// The time in which a debt must be shown, or paid.
const LIMIT: Duration = Duration::from_secs(90);
/// The longest push: if a push waited for the failing server, it would take longer, since `io-timeout` and
/// `storage-timeout` are 30 s and more.
const BOUND: Duration = Duration::from_secs(10);

fn status(site: &Site) -> RepositoryStatus {
    let status = MeshStatus::read(&site.node.run(&["status", "--output=json"]).ok().json());
    status.repository(3).expect("repo3 in status").clone()
}

/// The number of objects that repository 3 owes, in `info`.
fn debt(site: &Site) -> u64 {
    let info = site.host.info();
    let repositories = info["repo"].as_array().expect("repositories in info");
    let found = repositories
        .iter()
        .find(|repo| repo["key"] == 3)
        .expect("repo3 in info");
    found["debt"]["objects"].as_u64().expect("a count of objects")
}

fn push_some(site: &Site, forge: &WalForge, numbers: std::ops::Range<u32>) -> Figures {
    let push = |number| {
        let outcome = site.host.push(&forge.make(number)).ok();
        outcome.elapsed
    };
    Figures::new(numbers.map(push).collect())
}

#[test]
fn a_server_that_fails_holds_no_push_up_and_gets_what_it_missed() {
    let server = S3Server::start(BUCKET);
    let proxy = HttpProxy::start(server.address()).expect("a proxy");
    let bucket = server.bucket(BUCKET, proxy.address());
    let site = Site::with_node_and_segments("faults", 16, |node| {
        node.repository().repository().repository_on(&bucket)
    });
    let forge = WalForge::new(&site.postgres);
    push_some(&site, &forge, 1..3);
    let normal = push_some(&site, &forge, 3..11);
    println!("normal: {normal}");
    let faults: [(&str, &dyn Fn()); 3] = [
        ("refuses connections", &|| proxy.refuse()),
        ("is a black hole", &|| proxy.set(Fault::BlackHole)),
        ("answers 503 to everything", &|| proxy.set(Fault::slow_down())),
    ];
    let mut next = 11;
    for (name, fault) in faults {
        fault();
        let times = push_some(&site, &forge, next..next + 8);
        next += 8;
        let ratio = times.median().as_secs_f64() / normal.median().as_secs_f64();
        println!("S3 {name}: {times}; the median is {ratio:.2} times the normal");
        assert!(times.longest() < BOUND, "S3 {name}: {times}");
        wait_for(&format!("the debt to be shown while S3 {name}"), LIMIT, || {
            debt(&site) >= 8 && status(&site).debt >= 8
        });
        proxy.heal().expect("an acceptor");
        wait_for(&format!("the debt to be made good after S3 {name}"), LIMIT, || {
            let status = status(&site);
            status.is_up() && status.debt == 0 && debt(&site) == 0
        });
    }
    let segments = server
        .names(BUCKET)
        .iter()
        .filter(|name| name.contains("/archive/"))
        .count();
    assert_eq!(segments, site.node.objects(1).segments().len());
    site.host.run(&["verify"]).succeeds();
    assert_eq!(server.open_uploads(BUCKET), 0);
}

#[test]
fn a_stanza_is_created_as_soon_as_a_node_with_a_slow_bucket_answers() {
    let server = S3Server::start(BUCKET);
    let proxy = HttpProxy::start(server.address()).expect("a proxy");
    // A start waits 2 s for a bucket; this one takes several round trips to open.
    proxy.set(Fault::delay_each_way(Duration::from_millis(300)));
    let site = Site::with_node("slow", |node| {
        node.repository_on(&server.bucket(BUCKET, proxy.address()))
    });
    assert_eq!(site.host.info()["name"], "main");
}

#[test]
fn a_stanza_that_cannot_be_created_yet_says_what_is_wrong_with_the_bucket() {
    let server = S3Server::start(BUCKET);
    let proxy = HttpProxy::start(server.address()).expect("a proxy");
    proxy.refuse();
    let scratch = Scratch::new("refusing");
    let bucket = server.bucket(BUCKET, proxy.address());
    let node = Node::builder(&scratch, "alpha").repository_on(&bucket).start();
    let postgres = Postgres::builder(&scratch, "pg").start();
    let host = Host::join(&scratch, "host-main", &node, &postgres, "main");
    let refused = host.run(&["stanza-create"]);
    assert_eq!(refused.code(), Some(103), "{refused}");
    assert!(refused.stderr.contains("repo1: s3://backups"), "{refused}");
    proxy.heal().expect("an acceptor");
    wait_for("the stanza to be created once the bucket answers", LIMIT, || {
        host.run(&["stanza-create"]).code() == Some(0)
    });
}
