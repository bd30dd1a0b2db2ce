//! Buckets that all nodes of a mesh reach: any of them writes, and each object is written once.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;

use pgmesh_tests::http::HttpProxy;
use pgmesh_tests::stores::{GcsServer, S3Server};
use pgmesh_tests::{MeshSite, WalForge};

const BUCKET: &str = "backups";

/// The number of successful writes of each segment, by its path.
fn written(proxy: &HttpProxy) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in proxy.requests() {
        let path = request.path().replace("%2F", "/");
        if request.method == "PUT" && request.succeeded() && path.contains("/archive/") {
            *counts.entry(path).or_default() += 1;
        }
    }
    counts
}

#[test]
fn a_mesh_shares_buckets_and_writes_each_segment_once_whoever_dies() {
    let (s3, gcs) = (S3Server::start(BUCKET), GcsServer::start(BUCKET));
    let proxies = [s3.address(), gcs.address()].map(|address| HttpProxy::start(address).expect("a proxy"));
    let buckets = [
        s3.bucket(BUCKET, proxies[0].address()),
        gcs.bucket(BUCKET, proxies[1].address()),
    ];
    let mut site = MeshSite::without_archiving("shared", |mesh| {
        let mesh = mesh.repositories(1);
        mesh.shared_repository(2, &buckets[0]).shared_repository(3, &buckets[1])
    });
    let forge = WalForge::new(&site.postgres);
    let push = |site: &MeshSite, numbers: std::ops::RangeInclusive<u32>| {
        for number in numbers {
            site.host.push(&forge.make(number)).succeeds();
        }
    };
    push(&site, 1..=5);
    site.mesh.wait_until_settled();

    let leader = site.mesh.leader();
    site.mesh.node_mut(&leader).kill();
    push(&site, 6..=10);
    site.mesh.start_node(&leader);
    site.mesh.wait_until_settled();

    proxies[0].refuse();
    push(&site, 11..=15);
    site.mesh
        .wait_for_status("the debt of the bucket to be shown", |status| {
            status.repository(2).is_some_and(|repository| repository.debt >= 5)
        });
    proxies[0].heal().expect("an acceptor");
    site.mesh.wait_until_settled();

    for (proxy, name) in proxies.iter().zip(["S3", "GCS"]) {
        let written = written(proxy);
        assert_eq!(written.len(), 15, "{name} has all segments");
        let again: Vec<_> = written.iter().filter(|(_, count)| **count > 1).collect();
        assert!(again.is_empty(), "{name} got them more than once: {again:?}");
    }
    site.host.run(&["verify"]).succeeds();
    for number in 1..=15 {
        let fetched = forge.path("fetched");
        site.host.get(&forge.name(number), &fetched).succeeds();
        assert!(
            std::fs::read(&fetched).expect("the segment") == forge.content(number),
            "segment {number}"
        );
    }
}
