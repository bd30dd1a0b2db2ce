//! Several nodes: elections, forwarding, lost messages, joining, snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

use futures::future::join_all;

use super::harness::{Mesh, wait_until};
use super::{note, notes, options};
use crate::model::{LogIndex, RequestId, SessionId, SessionKind};
use crate::peers::{PeerMessage, PeerReply, PeerRequest};
use crate::store::Mark;
use crate::{Catalog, CatalogError, CatalogOptions, Command, Proposal, Reply};

async fn open_session(catalog: &Catalog) -> Result<SessionId, CatalogError> {
    let command = Command::OpenSession {
        kind: SessionKind::Verify,
        stanza: None,
        holder: "test".to_owned(),
        node: "n1".parse().unwrap(),
        resume_key: None,
    };
    match catalog.propose("test", command).await? {
        Reply::Session(session) => Ok(session),
        other => panic!("{other:?}"),
    }
}

fn impatient() -> CatalogOptions {
    CatalogOptions {
        patience: Duration::from_secs(2),
        ..options()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_takes_proposals_and_shows_them_at_once() {
    let mesh = Mesh::new(3, options()).await;
    for (number, node) in mesh.nodes.iter().enumerate() {
        let what = format!("by node {number}");
        note(node, what.clone()).await;
        assert!(notes(node).contains(&what), "read your writes");
        for other in &mesh.nodes {
            let view = other.view_linearizable().await.unwrap();
            assert!(view.audit(LogIndex(0)).any(|row| row.unwrap().1.what == what));
        }
    }
    let refused = mesh.follower().await;
    let start = Command::StartStanza {
        stanza: "main".parse().unwrap(),
    };
    assert!(matches!(
        refused.propose("test", start).await,
        Err(CatalogError::Refused(_))
    ));
    let status = mesh.leader().await.status();
    assert_eq!(status.voters, [1, 2, 3]);
    assert_eq!(status.addresses[&2], "lan:2");
    assert_eq!(status.matched.len(), 3);
    assert!(status.quorum_age.unwrap() < Duration::from_secs(2));
    let before = status.last_log.unwrap();
    let follower = mesh.follower().await;
    join_all((0..500).map(|number| note(&follower, format!("note {number}")))).await;
    let entries = mesh.leader().await.status().last_log.unwrap() - before;
    assert!(entries <= 100, "{entries} entries for 500 forwarded proposals");
    mesh.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_has_one_effect_and_one_answer() {
    let mesh = Mesh::new(3, options()).await;
    let command = || Command::OpenSession {
        kind: SessionKind::Verify,
        stanza: None,
        holder: "test".to_owned(),
        node: "n1".parse().unwrap(),
        resume_key: None,
    };
    let id = RequestId::random();
    let asked = mesh.nodes.iter().map(|node| node.propose_as("test", id, command()));
    let answers: Vec<_> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
    let view = mesh.nodes[1].view_linearizable().await.unwrap();
    assert_eq!(view.sessions().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_leader_is_replaced_and_nothing_is_lost_or_done_twice() {
    let mut mesh = Mesh::new(3, options()).await;
    let mut acknowledged = BTreeSet::new();
    for round in 0..3 {
        let leader = mesh.leader().await.node_id();
        let follower = mesh.follower().await;
        let workers = (0..8).map(|_| {
            let follower = follower.clone();
            tokio::spawn(async move {
                let mut opened = Vec::new();
                for _ in 0..20 {
                    opened.push(open_session(&follower).await.unwrap());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                opened
            })
        });
        let workers: Vec<_> = workers.collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let killed = Instant::now();
        mesh.kill(leader).await;
        mesh.leader().await;
        let without = killed.elapsed();
        println!("round {round}: a new leader after {without:?}");
        assert!(without < Duration::from_secs(3), "{without:?}");
        for worker in workers {
            for session in worker.await.unwrap() {
                assert!(acknowledged.insert(session), "session {session} was given out twice");
            }
        }
        mesh.start(leader).await;
    }
    let view = mesh.nodes[0].view_linearizable().await.unwrap();
    let known: BTreeSet<_> = view.sessions().unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(known, acknowledged, "each request has exactly one effect");
    drop(view);
    mesh.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_messages_do_not_double_what_is_done() {
    let mesh = Mesh::new(3, options()).await;
    let follower = mesh.follower().await;
    mesh.lan.loss.store(30, Ordering::Relaxed);
    let opened = join_all((0..200).map(|_| open_session(&follower))).await;
    for _ in 0..20 {
        open_session(&follower).await.unwrap();
        follower.view_linearizable().await.unwrap();
    }
    mesh.lan.loss.store(0, Ordering::Relaxed);
    let opened: BTreeSet<_> = opened.into_iter().map(Result::unwrap).collect();
    assert_eq!(opened.len(), 200);
    let view = follower.view_linearizable().await.unwrap();
    assert_eq!(view.sessions().unwrap().len(), 220);
    mesh.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_every_request_ends_in_time() {
    let mesh = Mesh::new(3, impatient()).await;
    let leader = mesh.leader().await;
    note(&leader, "before".to_owned()).await;
    mesh.lan.cut(leader.node_id());
    let began = Instant::now();
    let command = || Command::Audit {
        what: "lost".to_owned(),
    };
    let (written, read) = tokio::join!(leader.propose("test", command()), leader.view_linearizable());
    assert!(matches!(written, Err(CatalogError::NoQuorum(_))), "{written:?}");
    assert!(
        matches!(read, Err(CatalogError::NoQuorum(_))),
        "invariant 7: a leader of the past must not answer"
    );
    assert!(began.elapsed() < Duration::from_millis(2600), "{:?}", began.elapsed());
    // The others have gone on without it.
    let others: Vec<_> = mesh
        .nodes
        .iter()
        .filter(|node| node.node_id() != leader.node_id())
        .collect();
    note(others[0], "after".to_owned()).await;
    mesh.lan.heal();
    wait_until("the old leader follows", || {
        leader.leader().is_some() && !leader.is_leader()
    })
    .await;
    leader.view_linearizable().await.unwrap();
    assert!(notes(&leader).contains("after"));
    mesh.compare().await;
    // A follower that is alone.
    let follower = mesh.follower().await;
    for node in &mesh.nodes {
        if node.node_id() != follower.node_id() {
            mesh.lan.cut(node.node_id());
        }
    }
    let began = Instant::now();
    let written = follower.propose("test", command()).await;
    assert!(matches!(written, Err(CatalogError::NoQuorum(_))), "{written:?}");
    assert!(began.elapsed() < Duration::from_millis(2600));
    mesh.lan.heal();
    note(&follower, "healed".to_owned()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_cut_off_does_not_depose_the_leader() {
    let mesh = Mesh::new(3, options()).await;
    let leader = mesh.leader().await;
    let term = leader.status().term;
    let follower = mesh.follower().await;
    mesh.lan.cut(follower.node_id());
    note(&leader, "without it".to_owned()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    mesh.lan.heal();
    note(&follower, "it is back".to_owned()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((leader.status().term, leader.is_leader()), (term, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_disk_comes_back_under_another_number() {
    let mut mesh = Mesh::new(3, options()).await;
    let lost = mesh.follower().await.node_id();
    mesh.kill(lost).await;
    std::fs::remove_dir_all(mesh.root.path().join(lost.to_string())).unwrap();
    let new = mesh.admit(&format!("n{lost}"), 99).await;
    assert_eq!(new, 4);
    // It is reached where the old one was, before the group knows of it.
    let dir = mesh.root.path().join("4");
    Catalog::create_joining(&dir, new, &mesh.options).await.unwrap();
    mesh.start(new).await;
    let wiped = mesh.nodes.last().unwrap().clone();
    assert!(!wiped.status().initialized);
    let message = PeerMessage::ReadIndex;
    let answer = wiped
        .answer(PeerRequest {
            to: lost,
            from: 0,
            address: String::new(),
            known: None,
            mark: Mark::default(),
            message,
        })
        .await;
    assert!(matches!(answer, PeerReply::NotMe { node_id: 4 }), "{answer:?}");
    let leader = mesh.leader().await;
    leader.add_learner(lost, "moved:4").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(wiped.status().last_log, None, "it must not answer for what it was");
    leader.add_learner(new, "lan:4").await.unwrap();
    let voters: BTreeSet<u64> = (1..=4).filter(|id| *id != lost).collect();
    leader.set_voters(voters.clone()).await.unwrap();
    leader.remove_members(&BTreeSet::from([lost])).await.unwrap();
    let status = leader.status();
    assert_eq!(status.voters, voters.into_iter().collect::<Vec<_>>());
    assert!(!status.addresses.contains_key(&lost));
    note(&wiped, "it is back".to_owned()).await;
    assert!(wiped.status().initialized);
    mesh.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_may_be_removed() {
    let mesh = Mesh::new(3, options()).await;
    let leader = mesh.leader().await;
    let gone = BTreeSet::from([leader.node_id()]);
    leader.remove_members(&gone).await.unwrap();
    wait_until("the others elect one of them", || {
        mesh.nodes
            .iter()
            .any(|node| node.is_leader() && node.node_id() != leader.node_id())
    })
    .await;
    let left = mesh
        .nodes
        .iter()
        .find(|node| node.node_id() != leader.node_id())
        .unwrap();
    note(left, "two are left".to_owned()).await;
    assert_eq!(left.status().voters.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_compacted_everywhere_and_who_lags_gets_a_snapshot() {
    let mut options = options();
    options.snapshot_part = 4 << 10;
    let mut mesh = Mesh::new(3, options).await;
    let learner = mesh.admit("n4", 4).await;
    let leader = mesh.leader().await;
    for number in 0..60 {
        note(&leader, format!("note {number}")).await;
    }
    wait_until("compacted", || leader.status().purged >= Some(40)).await;
    // A quarter of all messages of the transfer are lost, both ways.
    mesh.lan.loss.store(15, Ordering::Relaxed);
    mesh.join(learner).await;
    let last = mesh.nodes.last().unwrap().clone();
    let applied = leader.view().applied().unwrap();
    wait_until("the learner has caught up", || {
        last.view().applied().unwrap() >= applied
    })
    .await;
    let [later, first] = &mesh.lan.parts;
    let (later, first) = (later.load(Ordering::Relaxed), first.load(Ordering::Relaxed));
    println!("{first} first parts and {later} others");
    assert!(later > 3, "the snapshot went in several parts");
    assert!(
        first <= 6,
        "a transfer goes on where it was interrupted: {first} began, {later} others"
    );
    mesh.lan.loss.store(0, Ordering::Relaxed);
    let lagging = mesh.follower().await.node_id();
    mesh.lan.cut(lagging);
    let leader = mesh.leader().await;
    for number in 60..160 {
        note(&leader, format!("note {number}")).await;
    }
    wait_until("compacted", || leader.status().purged >= Some(140)).await;
    mesh.lan.heal();
    let lagging = mesh.nodes.iter().find(|node| node.node_id() == lagging).unwrap();
    let applied = leader.view().applied().unwrap();
    wait_until("who lagged has caught up", || {
        lagging.view().applied().unwrap() >= applied
    })
    .await;
    for number in 160..220 {
        note(&leader, format!("note {number}")).await;
    }
    for node in &mesh.nodes {
        wait_until("compacted", || {
            let status = node.status();
            status.last_log.unwrap_or(0) - status.purged.unwrap_or(0) <= 60
        })
        .await;
    }
    mesh.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_across_continents_stays_calm() {
    let mesh = Mesh::new(3, options()).await;
    mesh.lan.delay.store(100, Ordering::Relaxed);
    let leader = mesh.leader().await;
    let term = leader.status().term;
    let follower = mesh.follower().await;
    let began = Instant::now();
    note(&leader, "from the leader".to_owned()).await;
    let by_leader = began.elapsed();
    note(&follower, "from a follower".to_owned()).await;
    let by_follower = began.elapsed() - by_leader;
    let began = Instant::now();
    follower.view_linearizable().await.unwrap();
    println!(
        "leader {by_leader:?}, follower {by_follower:?}, read {:?}",
        began.elapsed()
    );
    // Large entries take more than openraft's patience with an append.
    let options = (0..64).map(|number| (format!("option-{number}"), "x".repeat(crate::limits::OPTION)));
    let definition: BTreeMap<_, _> = options.collect();
    let large = (0..56).map(|_| {
        let update = Command::UpdateRepository {
            repo: crate::apply::scenario::repo(9),
            definition: Some(definition.clone()),
            host: None,
            wrapped_keys: None,
        };
        follower.propose("test", update)
    });
    for written in join_all(large).await {
        // There is no such repository, so the command is refused: it was in the log all the same.
        assert!(matches!(written, Err(CatalogError::Refused(_))), "{written:?}");
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(leader.status().term, term, "no election was needed");
    for node in &mesh.nodes {
        node.view_linearizable().await.unwrap();
    }
}

/// The duration of a request with one voter and with three: for comparison before and after a change.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn how_fast() {
    for voters in [1, 3] {
        let defaults = CatalogOptions::default();
        let mesh = Mesh::new(voters, defaults).await;
        let catalog = mesh.leader().await;
        let began = Instant::now();
        for _ in 0..300 {
            note(&catalog, "x".to_owned()).await;
        }
        let single = began.elapsed() / 300;
        let began = Instant::now();
        for _ in 0..10 {
            join_all((0..2000).map(|_| note(&catalog, "x".to_owned()))).await;
        }
        let many = began.elapsed();
        let began = Instant::now();
        for _ in 0..300 {
            catalog.view_linearizable().await.unwrap();
        }
        println!(
            "{voters} voters: one after the other {single:?}, {:.0} a second together, a linearizable view {:?}",
            20_000.0 / many.as_secs_f64(),
            began.elapsed() / 300
        );
    }
}

#[test]
fn a_proposal_without_an_identifier_of_its_own_is_told_apart() {
    let proposal = |id| Proposal {
        id,
        at: 1,
        actor: String::new(),
        command: Command::Audit { what: String::new() },
    };
    assert_ne!(proposal(RequestId::random()), proposal(RequestId::random()));
}
