//! Nodes that come and go on purpose: restarts, moves, new disks, drained nodes, nodes without a vote, removed nodes.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::time::{Duration, Instant};

use pgmesh_tests::{
    Faults, Host, Kind, Ledger, MeshSite, MeshStatus, Pushes, RepositoryStatus, SlowDisk, WalForge, wait_for,
};

#[test]
fn a_rolling_restart_fails_no_push() {
    let mut site = MeshSite::without_archiving("rolling", |mesh| mesh);
    let forge = WalForge::new(&site.postgres);
    let MeshSite { host, mesh, .. } = &mut site;
    let host: &Host = host;
    let mut span = None;
    let pushes = Pushes::during(&[host, host, host], &forge, |pushes| {
        let began = Instant::now();
        for name in mesh.names() {
            pushes.wait_for_more(3);
            mesh.node_mut(&name).stop();
            pushes.wait_for_more(3);
            mesh.start_node(&name);
            mesh.wait_until_whole();
        }
        span = Some((began, Instant::now()));
    });
    let (from, to) = span.expect("the story ran");
    println!(
        "longest pause {:?}; pushes took {}",
        pushes.longest_pause(from, to),
        pushes.times(from, to)
    );
    assert_eq!(pushes.failed(), 0, "no push failed");
    pushes.assert_all_are_there(host, &forge);
    mesh.wait_until_settled();
    host.run(&["verify"]).succeeds();
}

#[test]
fn a_node_with_a_new_disk_comes_back_under_its_name() {
    let mut site = MeshSite::without_archiving("disk", |mesh| mesh);
    let forge = WalForge::new(&site.postgres);
    site.host.push(&forge.make(1)).succeeds();
    site.mesh.node_mut("gamma").kill();
    site.host.push(&forge.make(2)).succeeds();
    site.mesh.replace_disk("gamma");
    site.mesh.wait_until_whole();
    site.host.push(&forge.make(3)).succeeds();
    wait_for("repo3 to have what it missed", Duration::from_secs(60), || {
        site.mesh.objects(3).segments().len() == 3
    });
    // The node counts: with another node dead the two remaining ones are a majority, and its repository takes part.
    site.mesh.node_mut("alpha").kill();
    site.host.push(&forge.make(4)).succeeds();
    assert_eq!(site.mesh.objects(3).segments().len(), 4, "the push was durable in it");
    site.mesh.start_node("alpha");
    site.mesh.wait_until_whole();
    site.mesh.wait_until_settled();
    site.host.run(&["verify"]).succeeds();
}

#[test]
fn a_node_that_moves_to_another_address_is_found() {
    let mut site = MeshSite::without_archiving("moves", |mesh| mesh);
    let forge = WalForge::new(&site.postgres);
    site.host.push(&forge.make(1)).succeeds();
    site.mesh.node_mut("beta").stop();
    site.mesh.node_mut("beta").move_to_another_port();
    site.mesh.start_node("beta");
    site.mesh.wait_until_whole();
    site.host.push(&forge.make(2)).succeeds();
    // The two nodes that have moved are a majority without alpha.
    site.mesh.node_mut("alpha").kill();
    site.host.push(&forge.make(3)).succeeds();
    site.mesh.start_node("alpha");
    site.mesh.wait_until_whole();
    for number in 1..=3 {
        site.host.get(&forge.name(number), &forge.path("fetched")).succeeds();
    }
}

#[test]
fn nodes_are_drained_demoted_promoted_and_removed() {
    let mut site = MeshSite::without_archiving("parts", |mesh| mesh.nodes(4));
    let forge = WalForge::new(&site.postgres);
    let wait_for_node = |site: &MeshSite, name: &str, what: &str, wanted: &dyn Fn(&str, &str) -> bool| {
        site.mesh.wait_for_status(&format!("{name} {what}"), |status| {
            status.node(name).is_some_and(|node| wanted(&node.role, &node.state))
        });
    };
    site.host.push(&forge.make(1)).succeeds();

    site.mesh.run(&["node", "drain", "alpha"]).succeeds();
    wait_for_node(&site, "alpha", "to be drained", &|_, state| state == "draining");
    site.host.push(&forge.make(2)).succeeds();
    site.mesh.run(&["node", "resume", "alpha"]).succeeds();
    wait_for_node(&site, "alpha", "to serve again", &|_, state| state == "in-service");

    // Three of the four nodes vote. If one of them is demoted, the fourth gets its vote.
    let status = site
        .mesh
        .wait_for_status("three voters", |status| status.voters().len() == 3);
    let spare = status.nodes.iter().find(|node| !node.votes());
    let spare = spare.expect("a fourth node").name.clone();
    let leader = site.mesh.leader();
    let follower = status.voters().into_iter().find(|name| *name != leader);
    let follower = follower.expect("a voter that does not lead").to_owned();
    site.mesh.run(&["node", "demote", &follower]).succeeds();
    wait_for_node(&site, &follower, "to have no vote", &|role, _| role == "learner");
    wait_for_node(&site, &spare, "to vote instead", &|role, _| role != "learner");
    site.host.push(&forge.make(3)).succeeds();
    site.mesh.run(&["node", "promote", &follower]).succeeds();
    wait_for_node(&site, &follower, "to have its vote again", &|role, _| role != "learner");
    // The mesh has an even number of voters only if an administrator promotes them all.
    for name in site.mesh.names() {
        site.mesh.run(&["node", "promote", &name]).succeeds();
    }
    site.mesh
        .wait_for_status("four voters", |status| status.voters().len() == 4);

    // A dead node that hosts a repository is removed only with --force.
    site.mesh.node_mut("delta").kill();
    site.mesh.run(&["node", "remove", "delta"]).refuses(&["repo4"]);
    site.mesh.run(&["node", "remove", "delta", "--force"]).succeeds();
    let list = site.mesh.run(&["node", "list", "--output=json"]).ok().json();
    let names: Vec<&str> = list
        .as_array()
        .expect("a list of nodes")
        .iter()
        .filter_map(|node| node["name"].as_str())
        .collect();
    assert_eq!(names, ["alpha", "beta", "gamma"]);
    let three: Vec<String> = names.into_iter().map(str::to_owned).collect();
    site.mesh
        .wait_for_status("the three others to vote", |status| status.is_whole(&three));
    site.host.push(&forge.make(4)).succeeds();
    // A removed node is not let in again by its old certificate.
    site.mesh.node_mut("delta").launch();
    site.host.push(&forge.make(5)).succeeds();
    site.mesh.run(&["node", "remove", "nobody"]).refuses(&["nobody"]);
    for number in 1..=5 {
        site.host.get(&forge.name(number), &forge.path("fetched")).succeeds();
    }
}

/// Of three voters one is dead. Without a second one the third could decide nothing, not even to remove the dead one.
#[test]
fn a_voter_is_not_removed_while_the_others_could_decide_nothing_without_it() {
    let mut site = MeshSite::without_archiving("stranded", |mesh| mesh.repositories(1));
    let forge = WalForge::new(&site.postgres);
    site.mesh.node_mut("gamma").kill();
    site.host.push(&forge.make(1)).succeeds();
    let words = [
        "node beta keeps its vote, because gamma does not answer",
        "without beta, alpha, gamma would be left to vote, of which 2 must answer",
        "pgmesh node remove gamma",
        "node remove beta --force",
    ];
    // Either alpha or beta leads; both refuse.
    for asked in ["alpha", "beta"] {
        for change in ["remove", "demote"] {
            let asked = site.mesh.node(asked);
            asked.run(&["node", change, "beta"]).refuses(&words);
        }
    }
    // The advice in the message works.
    site.mesh.run(&["node", "remove", "gamma"]).succeeds();
    site.mesh.run(&["node", "remove", "beta"]).succeeds();
    let status = site
        .mesh
        .wait_for_status("alpha to vote alone", |status| status.voters() == ["alpha"]);
    assert_eq!(status.nodes.len(), 1);
    site.host.push(&forge.make(2)).succeeds();
}

/// While gamma is down, delta joins and gets its vote. Delta leads when gamma comes back, whose catalog does not have
/// delta.
#[test]
fn a_node_that_was_down_follows_a_leader_that_has_joined_meanwhile() {
    let mut site = MeshSite::without_archiving("unheard", |mesh| mesh.nodes(4).repositories(1));
    let forge = WalForge::new(&site.postgres);
    let mesh = &mut site.mesh;
    mesh.run(&["node", "remove", "delta"]).succeeds();
    mesh.wait_for_status("three nodes", |status| {
        status.nodes.len() == 3 && status.voters().len() == 3
    });
    mesh.node_mut("delta").kill();
    mesh.node_mut("gamma").stop();
    mesh.join_again("delta");
    mesh.run(&["node", "promote", "delta"]).succeeds();
    for name in ["alpha", "beta"] {
        mesh.run(&["node", "drain", name]).succeeds();
    }
    let leads = |status: &MeshStatus| status.leader.as_deref() == Some("delta") && status.quorum;
    mesh.wait_for_status("delta to lead", leads);
    mesh.start_node("gamma");
    wait_for("gamma to have heard of delta", Duration::from_secs(60), || {
        let status = mesh.status_from("gamma");
        status.is_some_and(|status| leads(&status) && status.node("delta").is_some())
    });
    for name in ["alpha", "beta"] {
        mesh.run(&["node", "resume", name]).succeeds();
    }

    // All nodes start cold, and alpha stays away.
    for name in ["alpha", "beta", "gamma", "delta"] {
        mesh.node_mut(name).kill();
    }
    for name in ["beta", "gamma", "delta"] {
        mesh.node_mut(name).launch();
    }
    for name in ["beta", "gamma", "delta"] {
        mesh.await_node(name);
    }
    mesh.wait_for_status("a leader", |status| status.leader.is_some() && status.quorum);
    mesh.start_node("alpha");
    mesh.wait_until_whole();
    site.host.push(&forge.make(1)).succeeds();
}

/// The voters change from two to three and back. Each round kills the leader at another moment of the change, which
/// takes two entries of the log, and each entry goes to the other nodes and back.
#[test]
fn a_change_of_the_voters_is_brought_to_its_end_whenever_the_leader_dies() {
    let mut site = MeshSite::without_archiving("joint", |mesh| mesh.with_relays());
    let forge = WalForge::new(&site.postgres);
    for round in 0..5_u64 {
        let leader = site.mesh.leader();
        let other = site.mesh.follower();
        site.mesh.run(&["node", "demote", &other]).succeeds();
        let slow = Faults {
            delay: Duration::from_millis(100),
            ..Faults::default()
        };
        site.mesh.network().shape_all(slow);
        let log = site.mesh.node(&leader).home().join("node.log");
        let changes = || {
            let log = std::fs::read_to_string(&log).expect("the leader's log");
            log.matches("the group of voters changes").count()
        };
        let before = changes();
        let mut promoting = site.mesh.node(&leader).command(&["node", "promote", &other]);
        let mut promoting = promoting.spawn().expect("starting pgmesh");
        wait_for("the leader to begin the change", Duration::from_secs(30), || {
            changes() > before
        });
        std::thread::sleep(Duration::from_millis(80 * round));
        site.mesh.node_mut(&leader).kill();
        // The command would try again until its limit.
        promoting.kill().expect("killing pgmesh");
        promoting.wait().expect("waiting for pgmesh");
        site.mesh.network().clear();
        site.mesh.start_node(&leader);
        site.mesh.run(&["node", "promote", &other]).succeeds();
        site.mesh.wait_until_whole();
        site.host
            .push(&forge.make(1 + u32::try_from(round).expect("a small number")))
            .succeeds();
    }
}

/// The leader's disk is ten times slower than the others'.
#[test]
fn a_leader_whose_disk_is_slow_lets_another_lead() {
    let site = MeshSite::without_archiving("slow-disk", |mesh| mesh);
    let forge = WalForge::new(&site.postgres);
    site.host.push(&forge.make(1)).succeeds();
    let leader = site.mesh.leader();
    let slow = SlowDisk::of(site.mesh.node(&leader).process(), Duration::from_millis(1500));
    let mut number = 1;
    wait_for("another leader", Duration::from_secs(120), || {
        number += 1;
        site.host.push(&forge.make(number)).succeeds();
        site.mesh.leader() != leader
    });
    println!("after {number} pushes");
    drop(slow);
    site.mesh.wait_until_settled();
    for number in 1..=number {
        site.host.get(&forge.name(number), &forge.path("fetched")).succeeds();
    }
}

#[test]
fn a_leader_without_a_vote_leads_no_more() {
    let site = MeshSite::without_archiving("demoted", |mesh| mesh);
    let forge = WalForge::new(&site.postgres);
    site.host.push(&forge.make(1)).succeeds();
    let leader = site.mesh.leader();
    site.mesh.run(&["node", "demote", &leader]).succeeds();
    let status = site.mesh.wait_for_status("another leader", |status| {
        status.quorum && status.leader.as_ref().is_some_and(|name| *name != leader)
    });
    println!("{leader} led, now {:?} does", status.leader);
    let role = |status: &MeshStatus| status.node(&leader).map(|node| node.role.clone());
    assert_eq!(role(&status).as_deref(), Some("learner"));
    site.host.push(&forge.make(2)).succeeds();
    site.mesh.run(&["node", "promote", &leader]).succeeds();
    site.mesh.wait_until_whole();
    site.mesh.wait_until_settled();
    site.host.run(&["verify"]).succeeds();
}

#[test]
fn a_new_repository_is_filled_from_the_others() {
    let mut site = MeshSite::new("sync", |mesh| mesh.repositories(2));
    site.postgres.make_accounts(1);
    let mut ledger = Ledger::create(&site.postgres);
    site.host.backup();
    let last = ledger.add_some(&site.postgres, 3);
    site.postgres.archive_everything();
    site.mesh.node_mut("gamma").stop();
    site.mesh.node_mut("gamma").declare_repository(3);
    site.mesh.start_node("gamma");
    site.mesh.wait_for_status("repo3 to be known", |status| {
        status.repository(3).is_some_and(RepositoryStatus::is_up)
    });
    site.mesh.run(&["--repo=3", "repo-sync"]).succeeds();
    for kind in [Kind::Chunk, Kind::Segment, Kind::Manifest] {
        let counts = [1, 3].map(|number| site.mesh.objects(number).all(kind).len());
        assert!(counts[0] > 0 && counts[0] == counts[1], "{kind:?}: {counts:?}");
    }
    site.host.run(&["verify"]).succeeds();
    // Now the other two repositories may go for good.
    for number in [1, 2] {
        site.mesh.objects(number).take_away();
    }
    let mut restored = site.restore("again", &[]);
    restored.start_promoted();
    Ledger::assert_ends_with(&restored, last.number, "the end, from the new repository alone");
    restored.check_all();
}
