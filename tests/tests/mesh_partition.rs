//! Networks that are cut, slow, lossy or silent: nodes without a majority acknowledge nothing, and all others go on.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use pgmesh_tests::{Faults, Figures, Host, Mesh, MeshSite, Outcome, Pushes, WalForge};

/// The longest pause that the tests accept. They print the real one.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// Pushes a file, giving up soon.
fn push(host: &Host, file: PathBuf) -> Outcome {
    host.run(&["archive-push", "--archive-timeout=5s", &file.display().to_string()])
}

/// Segment `number` with other bytes under the same name.
fn other_content(forge: &WalForge, number: u32) -> Vec<u8> {
    let mut content = forge.content(number);
    let last = content.len() - 1;
    content[last] ^= 1;
    content
}

#[test]
fn a_minority_acknowledges_nothing_and_the_majority_goes_on() {
    let mut site = MeshSite::without_archiving("minority", |mesh| mesh.with_relays());
    let forge = WalForge::new(&site.postgres);
    push(&site.host, forge.make(1)).succeeds();
    // The leader, and a host that knows no other node, on one side.
    let leader = site.mesh.leader();
    let lonely = site.another_host("lonely", "eu", &leader);
    lonely.get(&forge.name(1), &forge.path("fetched")).succeeds();
    let names = site.mesh.names();
    let others: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| *name != leader)
        .collect();
    let mut majority = others.clone();
    majority.push("host");
    site.mesh.network().partition(&[&leader, "lonely"], &majority);

    let other = forge.write(&forge.name(2), &other_content(&forge, 2));
    // Both commands wait until their limit, so they run at the same time.
    let (refused, unknown) = thread::scope(|scope| {
        let refused = scope.spawn(|| push(&lonely, other));
        let fetched = forge.path("fetched").display().to_string();
        let unknown = lonely.run(&["archive-get", "--archive-timeout=2s", &forge.name(3), &fetched]);
        (refused.join().expect("the pushing thread"), unknown)
    });
    refused.refuses(&[]);
    assert!(refused.elapsed < Duration::from_secs(60), "{refused}");
    assert!(
        unknown.code().is_some_and(|code| code > 125),
        "the minority cannot know whether it was archived: {unknown}"
    );
    let began = Instant::now();
    site.host.push(&forge.make(2)).succeeds();
    println!("the majority acknowledged after {:.1} s", began.elapsed().as_secs_f64());
    assert!(began.elapsed() < LONGEST_PAUSE);

    site.mesh.network().heal();
    site.mesh.wait_until_whole();
    // The segments that the majority acknowledged stand, for all hosts.
    push(&lonely, forge.write(&forge.name(2), &other_content(&forge, 2))).fails(&[45], &[&forge.name(2)]);
    push(&lonely, forge.make(3)).succeeds();
    let fetched = forge.path("fetched");
    for host in [&site.host, &lonely] {
        for number in 1..=3 {
            host.get(&forge.name(number), &fetched).succeeds();
            assert!(fs::read(&fetched).expect("the fetched segment") == forge.content(number));
        }
    }
    site.mesh.wait_until_settled();
    site.host.run(&["verify"]).succeeds();
}

/// Has three pushers push through `fault`, until some pushes have succeeded under it, and then through its end.
fn push_through(site: &mut MeshSite, fault: impl FnOnce(&mut Mesh)) {
    let forge = WalForge::new(&site.postgres);
    let MeshSite { host, mesh, .. } = site;
    let host: &Host = host;
    let mut span = None;
    let pushes = Pushes::during(&[host, host, host], &forge, |pushes| {
        pushes.wait_for_more(5);
        let began = Instant::now();
        fault(mesh);
        pushes.wait_for_more(20);
        mesh.network().clear();
        pushes.wait_for_more(10);
        span = Some((began, Instant::now()));
    });
    let (from, to) = span.expect("the story ran");
    let pause = pushes.longest_pause(from, to);
    println!("longest pause {pause:?}; pushes took {}", pushes.times(from, to));
    assert!(pause < LONGEST_PAUSE, "{pause:?}");
    assert!(pushes.failed() <= 3, "{} pushes failed", pushes.failed());
    pushes.assert_all_are_there(host, &forge);
    mesh.wait_until_whole();
    mesh.wait_until_settled();
    host.run(&["verify"]).succeeds();
}

#[test]
fn pushes_go_on_when_the_leader_is_cut_off_from_the_nodes_but_not_from_the_host() {
    let mut site = MeshSite::without_archiving("cut-off", |mesh| mesh.with_relays());
    push_through(&mut site, |mesh| {
        let leader = mesh.leader();
        let names = mesh.names();
        let others: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| *name != leader)
            .collect();
        mesh.network().partition(&[&leader], &others);
    });
}

#[test]
fn pushes_go_on_when_the_leader_speaks_and_hears_nothing() {
    let mut site = MeshSite::without_archiving("deaf", |mesh| mesh.with_relays());
    push_through(&mut site, |mesh| {
        let leader = mesh.leader();
        for name in mesh.names() {
            if name != leader {
                mesh.network().one_way(&name, &leader);
            }
        }
    });
}

#[test]
fn pushes_go_on_over_a_bad_network() {
    let mut site = MeshSite::without_archiving("lossy", |mesh| mesh.with_relays());
    push_through(&mut site, |mesh| {
        let bad = Faults::delayed(Duration::from_millis(5))
            .with_jitter(Duration::from_millis(10))
            .with_loss(0.02)
            .with_duplication(0.02);
        mesh.network().shape_all(bad);
    });
}

/// Pushes and fetches segment after segment, first in good order and then with one node silent towards `those`. Asserts
/// bounds on the longest and the usual times under the fault.
fn feel_the_silence(site: &mut MeshSite, silent: &str, those: &[&str]) {
    const COUNT: u32 = 20;
    let forge = WalForge::new(&site.postgres);
    let fetched = forge.path("fetched");
    let push_and_get = |site: &MeshSite, first: u32| {
        let (mut pushes, mut gets) = (Vec::new(), Vec::new());
        for number in first..first + COUNT {
            let pushed = site.host.push(&forge.make(number)).ok();
            let got = site.host.get(&forge.name(number), &fetched).ok();
            pushes.push(pushed.elapsed);
            gets.push(got.elapsed);
        }
        (Figures::new(pushes), Figures::new(gets))
    };
    let (pushes, gets) = push_and_get(site, 1);
    println!("before: pushes {pushes}; gets {gets}");
    site.mesh.network().partition(&[silent], those);
    let (silent_pushes, silent_gets) = push_and_get(site, 1 + COUNT);
    println!("with {silent} silent: pushes {silent_pushes}; gets {silent_gets}");
    let times = |before: &Figures, after: &Figures| after.median().as_secs_f64() / before.median().as_secs_f64();
    println!(
        "p50 of pushes {:.2} times, of gets {:.2} times what it was",
        times(&pushes, &silent_pushes),
        times(&gets, &silent_gets)
    );
    assert!(silent_pushes.longest() < LONGEST_PAUSE && silent_gets.longest() < LONGEST_PAUSE);
    // The first commands may have to find out about the silence; then it is known, also to later processes.
    let bound = |before: &Figures| before.median() * 4 + Duration::from_secs(1);
    assert!(silent_pushes.median() < bound(&pushes), "pushes {silent_pushes}");
    assert!(silent_gets.median() < bound(&gets), "gets {silent_gets}");
    site.mesh.network().heal();
    site.mesh.wait_until_whole();
    site.mesh.wait_until_settled();
    site.host.run(&["verify"]).succeeds();
}

#[test]
fn a_silent_node_is_hardly_felt() {
    let mut site = MeshSite::without_archiving("silent", |mesh| mesh.with_relays());
    // The host prefers this node, which is in its region and has a repository.
    feel_the_silence(&mut site, "alpha", &["beta", "gamma", "host"]);
}

#[test]
fn a_silent_repository_is_hardly_felt() {
    let mut site = MeshSite::without_archiving("black-hole", |mesh| mesh.with_relays());
    // One of three repositories is silent towards the nodes that write to it and read from it. Its node is not the
    // leader, so that only the repository is missing.
    let follower = site.mesh.follower();
    let names = site.mesh.names();
    let others: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| *name != follower)
        .collect();
    feel_the_silence(&mut site, &follower, &[&others[..], &["host"]].concat());
}
