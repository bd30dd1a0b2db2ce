//! Nodes of a mesh that are killed at any moment: no acknowledged object is lost, and the other nodes carry on.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::thread;
use std::time::{Duration, Instant};

use pgmesh_tests::{
    Figures, Host, Ledger, Mesh, MeshSite, Pushes, Random, WalForge, number_from_environment, wait_for,
};

/// The longest pause that the tests accept. They print the real one; a benchmark judges whether it is short enough.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// The number of times that a node is killed under load.
fn rounds() -> u32 {
    number_from_environment("PGMESH_KILL_ROUNDS", 5)
}

/// Kills the node that `who` names again and again while segments are pushed. Acknowledged segments must be there in
/// the end, and no more pushes may have failed than were under way.
fn kill_under_load(name: &str, rounds: u32, who: impl Fn(&Mesh) -> String) {
    let mut site = MeshSite::without_archiving(name, |mesh| mesh);
    let forge = WalForge::new(&site.postgres);
    let mut random = Random::from_environment();
    let MeshSite { host, mesh, .. } = &mut site;
    let host: &Host = host;
    let mut kills = Vec::new();
    let pushes = Pushes::during(&[host, host, host], &forge, |pushes| {
        for round in 1..=rounds {
            pushes.wait_for_more(3);
            let victim = who(mesh);
            // Not a wait for a condition: the moment of the kill is random.
            thread::sleep(Duration::from_micros(random.below(150_000)));
            let killed = Instant::now();
            mesh.node_mut(&victim).kill();
            pushes.wait_for_more(3);
            mesh.start_node(&victim);
            mesh.wait_until_whole();
            kills.push((killed, Instant::now()));
            println!(
                "round {round}: killed {victim}, {} segments acknowledged",
                pushes.acknowledged().len()
            );
        }
    });
    let pauses = kills.iter().map(|&(from, to)| pushes.longest_pause(from, to));
    let pauses = Figures::new(pauses.collect());
    println!("longest pause of acknowledgements for each kill: {pauses}");
    assert!(pauses.longest() < LONGEST_PAUSE, "{pauses}");
    assert!(
        pushes.failed() <= 3 * rounds,
        "{} pushes failed in {rounds} kills",
        pushes.failed()
    );
    pushes.assert_all_are_there(host, &forge);
    mesh.wait_until_settled();
    host.run(&["verify"]).succeeds();
}

#[test]
fn no_acknowledged_segment_is_lost_when_the_leader_is_killed() {
    kill_under_load("leader", rounds(), Mesh::leader);
}

#[test]
fn no_acknowledged_segment_is_lost_when_a_follower_is_killed() {
    kill_under_load("follower", rounds().div_ceil(2), Mesh::follower);
}

#[test]
fn postgresql_archives_on_when_the_leader_is_killed() {
    let mut site = MeshSite::without_archiving("archiver", |mesh| mesh);
    let archive_command = site.host.archive_command();
    site.postgres.set("archive_command", &archive_command);
    site.postgres.make_accounts(1);
    let mut ledger = Ledger::create(&site.postgres);
    site.host.backup();
    let load = site.postgres.load(2, 300);
    let count = |site: &MeshSite, what: &str| -> u32 {
        let answer = site
            .postgres
            .query(&format!("select {what}_count from pg_stat_archiver"));
        answer.parse().expect("a count")
    };
    let failed_before = count(&site, "failed");
    let rounds = rounds().min(3);
    for _ in 0..rounds {
        let leader = site.mesh.leader();
        site.mesh.node_mut(&leader).kill();
        let before = count(&site, "archived");
        wait_for("the archiver to go on", Duration::from_secs(60), || {
            ledger.add(&site.postgres);
            site.postgres.query("select pg_switch_wal()");
            count(&site, "archived") >= before + 3
        });
        site.mesh.start_node(&leader);
        site.mesh.wait_until_whole();
    }
    load.stop();
    let last = ledger.add(&site.postgres);
    site.postgres.archive_everything();
    let failed = count(&site, "failed") - failed_before;
    println!("{failed} failures of archive_command in {rounds} kills");
    assert!(failed <= rounds, "one push is under way at a time");
    let mut restored = site.restore("again", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end");
    restored.check_all();
}

#[test]
fn two_of_five_nodes_may_die_and_a_third_is_told() {
    let mut site = MeshSite::without_archiving("five", |mesh| mesh.nodes(5).repositories(2).option("archive-ack", "1"));
    let forge = WalForge::new(&site.postgres);
    let push = |site: &MeshSite, number: u32| {
        let file = forge.make(number).display().to_string();
        site.host.run(&["archive-push", "--archive-timeout=5s", &file])
    };
    push(&site, 1).succeeds();
    for victim in [site.mesh.leader(), "epsilon".to_owned(), "delta".to_owned()] {
        if site.mesh.nodes().iter().filter(|node| node.is_running()).count() > 3 {
            site.mesh.node_mut(&victim).kill();
        }
    }
    println!("{} leads now", site.mesh.leader());
    push(&site, 2).succeeds();

    // With one more node dead, no push may be acknowledged. The repositories' nodes are left alone.
    let third = site.mesh.names().into_iter().rev().find(|name| {
        let hosts_nothing = !["alpha", "beta"].contains(&name.as_str());
        hosts_nothing && site.mesh.node(name).is_running()
    });
    let third = third.expect("three nodes without a repository");
    site.mesh.node_mut(&third).kill();
    // Both commands wait until their limit, so they run at the same time.
    let (refused, unknown) = thread::scope(|scope| {
        let refused = scope.spawn(|| push(&site, 3));
        let fetched = forge.path("fetched").display().to_string();
        let unknown = site
            .host
            .run(&["archive-get", "--archive-timeout=2s", &forge.name(3), &fetched]);
        (refused.join().expect("the pushing thread"), unknown)
    });
    refused.fails(&[49, 82], &[]);
    assert!(refused.elapsed < Duration::from_secs(60), "{refused}");
    assert!(
        unknown.code().is_some_and(|code| code > 125),
        "nobody can know whether it was archived: {unknown}"
    );
    for name in site.mesh.names() {
        if !site.mesh.node(&name).is_running() {
            site.mesh.node_mut(&name).launch();
        }
    }
    site.mesh.wait_until_whole();
    push(&site, 3).succeeds();
    for number in 1..=3 {
        site.host.get(&forge.name(number), &forge.path("fetched")).succeeds();
    }
}
