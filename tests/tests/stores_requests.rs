//! The costs of buckets: requests counted at the servers, and time if the way to them is long.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pgmesh_tests::http::{Fault, HttpProxy, HttpRecord};
use pgmesh_tests::stores::{Clouds, S3Server};
use pgmesh_tests::{Ledger, Site, WalForge, wait_for};

const LIMIT: Duration = Duration::from_secs(90);

/// Whether a request is about a mark, which the node writes at most once a minute, whatever its other work is.
fn is_of_mark(request: &HttpRecord) -> bool {
    request.target.replace("%2E", ".").contains("pgmesh.mark")
}

fn is_of(kind: &'static str) -> impl Fn(&HttpRecord) -> bool {
    // The client encodes more characters of a name for GCS than for the others.
    move |request| {
        let path = request
            .path()
            .replace("%2F", "/")
            .replace("%2E", ".")
            .replace("%2D", "-");
        path.contains(kind)
    }
}

fn methods(proxy: &HttpProxy) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in proxy.requests() {
        let name = if request.is_list() {
            "LIST".to_owned()
        } else {
            request.method
        };
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// Waits until each bucket has a change map beside each segment, since maps are written after the push was answered.
/// Returns their number.
fn wait_for_maps(clouds: &Clouds, site: &Site) -> usize {
    // `…/archive/15-1/0000000100000000/000000010000000000000001-…`, and the same with `.map`.
    let file = |name: &str| Some(name.rsplit('/').next()?.split('-').next()?.to_owned());
    let mut count = 0;
    wait_for("a change map beside each segment", LIMIT, || {
        clouds.names().iter().all(|names| {
            let files = names.iter().filter(|name| name.contains("/archive/"));
            let files: Vec<String> = files.filter_map(|name| file(name)).collect();
            count = files.iter().filter(|file| file.ends_with(".map")).count();
            count == files.iter().filter(|file| file.len() == 24).count()
        })
    });
    // An object exists before its request has ended and is counted.
    site.wait_until_settled(LIMIT);
    count
}

#[test]
fn a_segment_is_one_put_everywhere_and_one_get_brings_it_back() {
    let clouds = Clouds::start();
    let site = Site::with_node_and_segments("counted", 16, |node| {
        clouds
            .buckets()
            .iter()
            .fold(node, |node, bucket| node.repository_on(bucket))
    });
    let forge = WalForge::new(&site.postgres);
    site.host.push(&forge.make(1)).succeeds();
    site.wait_until_settled(LIMIT);

    clouds.clear();
    site.host.push(&forge.make(2)).succeeds();
    site.wait_until_settled(LIMIT);
    for (proxy, name) in clouds.proxies.iter().zip(["S3", "Azure", "GCS"]) {
        println!("{name}: a push is {:?}", methods(proxy));
        let of_segment = is_of("/archive/");
        assert_eq!(
            proxy.count(|request| request.method == "PUT" && of_segment(request)),
            1,
            "{name}"
        );
        assert_eq!(
            proxy.count(|request| of_segment(request)),
            1,
            "{name}: nothing but the PUT"
        );
        let lists = proxy.count(|request| request.is_list() && !is_of_mark(request));
        assert_eq!(lists, 0, "{name}");
    }

    clouds.clear();
    let fetched = forge.path("fetched");
    site.host.get(&forge.name(2), &fetched).succeeds();
    assert!(std::fs::read(&fetched).expect("the fetched segment") == forge.content(2));
    let mut requests: Vec<HttpRecord> = clouds.proxies.iter().flat_map(HttpProxy::requests).collect();
    requests.retain(|request| !is_of_mark(request));
    assert_eq!(requests.len(), 1, "one GET and nothing else: {requests:#?}");
    assert_eq!(requests[0].method, "GET");
    assert!(!requests[0].is_list());

    clouds.clear();
    let missing = site.host.get(&forge.name(99), &fetched);
    assert_eq!(missing.code(), Some(1), "{missing}");
    println!(
        "a segment that is not there: {:?}",
        clouds.proxies.each_ref().map(methods)
    );
}

#[test]
fn a_change_map_is_one_put_more_and_that_of_its_segment_stays_one() {
    let clouds = Clouds::start();
    let site = Site::with_node("mapped", |node| {
        clouds
            .buckets()
            .iter()
            .fold(node, |node, bucket| node.repository_on(bucket))
    });
    clouds.clear();
    site.postgres.archive_everything();
    let maps = wait_for_maps(&clouds, &site);
    assert!(maps > 0, "what the server itself has written has a map");
    for (proxy, name) in clouds.proxies.iter().zip(["S3", "Azure", "GCS"]) {
        let archived = |is_map: bool| {
            let of_archive = is_of("/archive/");
            let requests = proxy.requests();
            let paths = requests
                .iter()
                .filter(|request| of_archive(request) && !request.is_list());
            let paths = paths.filter(|request| is_of(".map-")(request) == is_map);
            paths
                .map(|request| (request.method.clone(), request.path().to_owned()))
                .collect::<Vec<_>>()
        };
        for (is_map, what) in [(false, "segments"), (true, "change maps")] {
            let requests = archived(is_map);
            let mut paths: Vec<_> = requests.iter().map(|(_, path)| path).collect();
            paths.sort_unstable();
            paths.dedup();
            assert!(!paths.is_empty(), "{name}: no {what}");
            assert!(
                requests.iter().all(|(method, _)| method == "PUT"),
                "{name}: {requests:?}"
            );
            assert_eq!(paths.len(), requests.len(), "{name}: one PUT for each of the {what}");
        }
    }
}

#[test]
fn a_backup_writes_its_chunks_and_its_manifest_and_a_restore_reads_each_object_once() {
    let clouds = Clouds::start();
    let site = Site::with_node("objects", |node| {
        clouds
            .buckets()
            .iter()
            .fold(node, |node, bucket| node.repository_on(bucket))
    });
    site.postgres.make_accounts(5);
    let mut ledger = Ledger::create(&site.postgres);
    ledger.add_some(&site.postgres, 3);
    site.postgres.archive_everything();
    let maps_before = wait_for_maps(&clouds, &site);

    let before = clouds.names();
    clouds.clear();
    site.host.backup();
    let new_maps = wait_for_maps(&clouds, &site) - maps_before;
    let after = clouds.names();
    for (number, name) in ["S3", "Azure", "GCS"].into_iter().enumerate() {
        let new: Vec<&String> = after[number]
            .iter()
            .filter(|name| !before[number].contains(name) && !name.contains("pgmesh.mark"))
            .collect();
        let count = |part: &str| new.iter().filter(|name| name.contains(part)).count();
        let (chunks, manifests, archived) = (count("/chunk/"), count("/backup/"), count("/archive/"));
        assert_eq!(count(".map-"), new_maps, "{name}: {new:?}");
        let proxy = &clouds.proxies[number];
        println!(
            "{name}: {chunks} chunks, {manifests} manifests, {archived} archived files with {new_maps} maps; {:?}",
            methods(proxy)
        );
        assert_eq!(new.len(), chunks + manifests + archived, "{name}: {new:?}");
        assert!(manifests >= 1 && chunks >= 1, "{name}: {new:?}");
        let puts = proxy.count(|request| request.method == "PUT" && request.succeeded() && !is_of_mark(request));
        assert_eq!(puts, new.len(), "{name}: each object is written by one PUT");
        assert_eq!(
            proxy.count(|request| request.method == "POST" && is_of("/chunk/")(request)),
            0
        );
    }

    let last = ledger.add_some(&site.postgres, 3);
    site.postgres.archive_everything();
    site.wait_until_settled(LIMIT);
    clouds.clear();
    let mut restored = site.restore("restored", &[]);
    let mut reads: BTreeMap<String, usize> = BTreeMap::new();
    for request in clouds.proxies.iter().flat_map(HttpProxy::requests) {
        assert!(
            !request.is_list() || is_of_mark(&request),
            "a restore lists nothing: {request:?}"
        );
        if is_of("/chunk/")(&request) {
            let path = request.path().replace("%2F", "/");
            let (_, name) = path.split_once("/chunk/").expect("a chunk");
            *reads.entry(name.to_owned()).or_default() += 1;
        }
    }
    println!("a restore: {:?}", clouds.proxies.each_ref().map(methods));
    let twice: Vec<_> = reads.iter().filter(|(_, count)| **count > 1).collect();
    // The sweep reads the manifest part of a new backup as well. A restore first looks at the effect of postgresql.conf
    // and postgresql.auto.conf on the recovery, so it reads the chunk of each once more.
    assert!(
        !reads.is_empty() && twice.len() <= 3 && twice.iter().all(|(_, count)| **count <= 3),
        "read more than once: {twice:?} of {}",
        reads.len()
    );
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
}

#[test]
fn a_long_way_to_the_bucket_costs_a_backup_little() {
    let server = S3Server::start("backups");
    let proxy = HttpProxy::start(server.address()).expect("a proxy");
    let bucket = server.bucket("backups", proxy.address());
    let site = Site::with_node("far", |node| node.repository_on(&bucket));
    // The first content of a cluster is stored before, so that both backups have as much to do.
    site.host.backup();
    let mut took = Vec::new();
    for delay in [0, 20] {
        // Each round has new content, or nothing would be left to write. The WAL of making it is not measured.
        site.postgres.set("archive_command", "/bin/true");
        site.postgres.query("drop table if exists filled");
        site.postgres
            .query("create table filled as select md5(random()::text) from generate_series(1, 600000)");
        site.postgres.query("checkpoint");
        site.postgres.archive_everything();
        site.postgres.set("archive_command", &site.host.archive_command());
        proxy.set(Fault::delay_each_way(Duration::from_millis(delay)));
        proxy.clear();
        let began = Instant::now();
        site.host.backup();
        took.push(began.elapsed());
        let bytes: u64 = proxy.requests().iter().map(|request| request.request_bytes).sum();
        println!(
            "{} ms there and back: {:.2} s, {} PUTs, {} MB, at most {} requests at once",
            2 * delay,
            took[took.len() - 1].as_secs_f64(),
            proxy.count(|request| request.method == "PUT"),
            bytes >> 20,
            proxy.most_in_flight()
        );
    }
    let ratio = took[1].as_secs_f64() / took[0].as_secs_f64();
    println!("with 40 ms it takes {ratio:.2} times as long as without");
    // The figure is 1.3; other tests run beside this one.
    assert!(ratio < 3.0, "{took:?}");
    assert!(proxy.most_in_flight() > 1);
}
