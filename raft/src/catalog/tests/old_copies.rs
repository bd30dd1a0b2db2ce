//! A node whose data directory was put back from an older copy, or whose log has lost its end: it must neither lead,
//! vote nor follow, however few the others are, and nothing that was acknowledged may be lost.

use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

use super::harness::{Mesh, wait_until};
use super::{note, notes, options};
use crate::peers::{PeerMessage, PeerReply, PeerRequest};
use crate::store::Mark;
use crate::{Catalog, CatalogOptions, Standing};

fn is_behind(catalog: &Catalog) -> bool {
    matches!(*catalog.standing().borrow(), Standing::Behind(_))
}

async fn write(catalog: &Catalog, round: &str, count: usize) -> BTreeSet<String> {
    let mut written = BTreeSet::new();
    for number in 0..count {
        let what = format!("{round} {number}");
        note(catalog, what.clone()).await;
        written.insert(what);
    }
    written
}

async fn wait_until_it_has(node: &Catalog, acknowledged: &BTreeSet<String>) {
    wait_until("it has it", || notes(node).is_superset(acknowledged)).await;
}

async fn wait_until_all_have(mesh: &Mesh, acknowledged: &BTreeSet<String>) {
    for node in &mesh.nodes {
        wait_until_it_has(node, acknowledged).await;
    }
}

/// A node that was put back hears from the others that it is behind.
async fn finds_out_and_begins_anew(mesh: &mut Mesh, old: u64) {
    let node = mesh.node(old);
    wait_until("it finds out", || is_behind(&node)).await;
    drop(node);
    mesh.begin_anew(old).await;
}

/// All acknowledged notes are still there, on every node, and stay.
async fn nothing_is_lost(mesh: &Mesh, acknowledged: &BTreeSet<String>) {
    let leader = mesh.leader().await;
    leader.view_linearizable().await.unwrap();
    let found = notes(&leader);
    let lost: Vec<_> = acknowledged.difference(&found).collect();
    assert!(lost.is_empty(), "{} lost: {lost:?}", lost.len());
    let more = write(&leader, "later", 10).await;
    assert!(more.is_subset(&notes(&leader)));
    mesh.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_node_leads_after_a_start_without_an_election() {
    let mut mesh = Mesh::new(3, options()).await;
    let leader = mesh.leader().await;
    let (id, term) = (leader.node_id(), leader.status().term);
    drop(leader);
    mesh.kill(id).await;
    mesh.start(id).await;
    assert!(mesh.leader().await.status().term > term);
    // A group of one has no other node to ask, and is there at once.
    let mut alone = Mesh::new(1, options()).await;
    let term = alone.nodes[0].status().term;
    alone.kill(1).await;
    let began = Instant::now();
    alone.start(1).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(alone.nodes[0].is_leader());
    assert!(alone.nodes[0].status().term > term);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_an_old_directory_takes_nothing_back() {
    for others_restart in [false, true] {
        let mut mesh = Mesh::new(3, options()).await;
        let mut acknowledged = write(&mesh.leader().await, "before", 5).await;
        let old = mesh.leader().await.node_id();
        // The copy holds the node's own committed vote, and no other node has led since.
        mesh.copy_while_idle(old).await;
        acknowledged.extend(write(&mesh.leader().await, "after", 6).await);
        assert_eq!(mesh.leader().await.node_id(), old);
        let stopped: Vec<u64> = (1..=3).filter(|id| others_restart || *id == old).collect();
        for id in &stopped {
            mesh.kill(*id).await;
        }
        mesh.put_back(old).await;
        for id in &stopped {
            mesh.start(*id).await;
        }
        let node = mesh.node(old);
        wait_until("it finds out", || is_behind(&node)).await;
        acknowledged.extend(write(&mesh.leader().await, "without it", 10).await);
        assert_ne!(mesh.leader().await.node_id(), old);
        drop(node);
        let new = mesh.begin_anew(old).await;
        assert!(new > 3);
        nothing_is_lost(&mesh, &acknowledged).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_with_an_old_directory_stops_before_the_leader_sees_it() {
    for entries_per_snapshot in [20, 10_000] {
        let options = CatalogOptions {
            entries_per_snapshot,
            ..options()
        };
        let mut mesh = Mesh::new(3, options).await;
        let mut acknowledged = write(&mesh.leader().await, "before", 5).await;
        let old = mesh.follower().await.node_id();
        mesh.keep_copy(old).await;
        acknowledged.extend(write(&mesh.leader().await, "after", 30).await);
        wait_until_it_has(&mesh.node(old), &acknowledged).await;
        let leader = mesh.leader().await;
        mesh.kill(old).await;
        mesh.put_back(old).await;
        mesh.start(old).await;
        let node = mesh.node(old);
        wait_until("it finds out", || is_behind(&node)).await;
        // A sign of life to the leader would make it panic: it is still there.
        acknowledged.extend(write(&leader, "without it", 10).await);
        assert!(leader.is_leader());
        let trouble = leader.status().trouble().unwrap();
        assert!(trouble.contains(&format!("node {old} lacks entries")), "{trouble}");
        let trouble = node.status().trouble().unwrap();
        assert!(trouble.contains("older copy"), "{trouble}");
        drop(node);
        mesh.begin_anew(old).await;
        nothing_is_lost(&mesh, &acknowledged).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_only_a_slow_node_has_is_waited_for() {
    let mut mesh = Mesh::new(3, options()).await;
    let mut acknowledged = write(&mesh.leader().await, "before", 5).await;
    let leader = mesh.leader().await.node_id();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let (old, unaware) = (others[0], others[1]);
    mesh.keep_copy(old).await;
    acknowledged.extend(write(&mesh.leader().await, "on all", 1).await);
    wait_until_all_have(&mesh, &acknowledged).await;
    assert_eq!(mesh.leader().await.node_id(), leader);
    mesh.kill(unaware).await;
    // These are on the leader and on the node that loses them.
    acknowledged.extend(write(&mesh.leader().await, "on two", 6).await);
    mesh.kill(leader).await;
    mesh.kill(old).await;
    mesh.put_back(old).await;
    // The two that lack them start first, and are a majority.
    mesh.start(old).await;
    mesh.start(unaware).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        mesh.nodes.iter().all(|node| !node.is_leader()),
        "elected without the slow node"
    );
    mesh.start(leader).await;
    finds_out_and_begins_anew(&mut mesh, old).await;
    nothing_is_lost(&mesh, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_majority_has_lost_serves_nobody_and_says_so() {
    let mut mesh = Mesh::new(3, options()).await;
    let mut acknowledged = write(&mesh.leader().await, "before", 5).await;
    let keeps = mesh.leader().await.node_id();
    let old: Vec<u64> = (1..=3).filter(|id| *id != keeps).collect();
    for id in &old {
        mesh.keep_copy(*id).await;
    }
    assert_eq!(mesh.leader().await.node_id(), keeps);
    acknowledged.extend(write(&mesh.leader().await, "after", 6).await);
    wait_until_all_have(&mesh, &acknowledged).await;
    for id in [old[0], old[1], keeps] {
        mesh.kill(id).await;
    }
    // The newest directories of the two are kept aside.
    for id in &old {
        let (dir, newest) = (mesh.dir(*id), mesh.root.path().join(format!("newest-of-{id}")));
        mesh.wait_until_closed(*id).await;
        std::fs::rename(&dir, &newest).unwrap();
        std::fs::create_dir(&dir).unwrap();
        mesh.put_back(*id).await;
    }
    for id in [old[0], old[1], keeps] {
        mesh.start(id).await;
    }
    for id in &old {
        let node = mesh.node(*id);
        wait_until("it finds out", || is_behind(&node)).await;
    }
    let names = format!(
        "a majority of the voters has lost entries (node {}, node {})",
        old[0], old[1]
    );
    for node in &mesh.nodes {
        let says_so = || node.status().trouble().is_some_and(|trouble| trouble.contains(&names));
        wait_until("all say so", says_so).await;
        assert!(!node.is_leader());
    }
    // The newest copy of one node's directory is put back, as the message says, and the mesh serves.
    mesh.kill(old[0]).await;
    mesh.wait_until_closed(old[0]).await;
    std::fs::remove_dir_all(mesh.dir(old[0])).unwrap();
    let newest = mesh.root.path().join(format!("newest-of-{}", old[0]));
    std::fs::rename(newest, mesh.dir(old[0])).unwrap();
    mesh.start(old[0]).await;
    mesh.begin_anew(old[1]).await;
    nothing_is_lost(&mesh, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_a_replaced_number_does_not_come_back() {
    let mut mesh = Mesh::new(3, options()).await;
    let acknowledged = write(&mesh.leader().await, "before", 5).await;
    let old = mesh.follower().await.node_id();
    mesh.keep_copy(old).await;
    mesh.kill(old).await;
    let name = format!("n{old}").parse().unwrap();
    let known = mesh.leader().await.view().node(&name).unwrap().unwrap();
    let command = crate::Command::RenumberNode {
        name,
        number: old,
        key: known.key,
        reason: "test".to_owned(),
    };
    mesh.leader().await.propose("test", command).await.unwrap();
    mesh.put_back(old).await;
    mesh.start(old).await;
    finds_out_and_begins_anew(&mut mesh, old).await;
    nothing_is_lost(&mesh, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_restarts_of_all_kinds_are_never_refused() {
    let mut mesh = Mesh::new(3, options()).await;
    let mut acknowledged = BTreeSet::new();
    // One node after the other, as for an upgrade, while a client writes.
    for id in 1..=3 {
        let other = mesh.node(id % 3 + 1);
        let writing = tokio::spawn(async move { write(&other, &format!("rolling {id}"), 40).await });
        mesh.kill(id).await;
        mesh.start(id).await;
        acknowledged.extend(writing.await.unwrap());
        let node = mesh.node(id);
        wait_until("it takes part", || *node.standing().borrow() == Standing::Cleared).await;
    }
    // All at once, while a client writes.
    for round in 0..4 {
        let leader = mesh.leader().await;
        let writing = tokio::spawn(async move {
            for number in 0..200 {
                let what = crate::Command::Audit {
                    what: format!("lost or not {round} {number}"),
                };
                if leader.propose("test", what).await.is_err() {
                    return;
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(100 * round)).await;
        for id in 1..=3 {
            mesh.kill(id).await;
        }
        writing.await.unwrap();
        let began = Instant::now();
        for id in [3, 1, 2] {
            mesh.start(id).await;
        }
        mesh.leader().await;
        let without = began.elapsed();
        println!("round {round}: a leader {without:?} after all were started");
        assert!(without < Duration::from_secs(4), "{without:?}");
        acknowledged.extend(write(&mesh.leader().await, &format!("all {round}"), 5).await);
    }
    // If one node does not come back, all others are waited for, and then the mesh goes on.
    for id in 1..=3 {
        mesh.kill(id).await;
    }
    mesh.start(1).await;
    mesh.start(2).await;
    acknowledged.extend(write(&mesh.leader().await, "two of three", 5).await);
    mesh.start(3).await;
    nothing_is_lost(&mesh, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_started_gives_no_vote_that_it_may_have_given_before() {
    let mut mesh = Mesh::new(3, options()).await;
    write(&mesh.leader().await, "before", 5).await;
    let old = mesh.follower().await.node_id();
    mesh.keep_copy(old).await;
    // A later term begins, and nothing is written in it that the node would have acknowledged.
    let leader = mesh.leader().await.node_id();
    mesh.kill(old).await;
    mesh.kill(leader).await;
    mesh.start(leader).await;
    let term = mesh.leader().await.status().term;
    mesh.put_back(old).await;
    mesh.start(old).await;
    let node = mesh.node(old);
    wait_until("it takes part", || *node.standing().borrow() == Standing::Cleared).await;
    let candidate = (1..=3).find(|id| *id != old).unwrap();
    let vote = openraft::raft::VoteRequest {
        vote: openraft::Vote::new(term, candidate),
        last_log_id: node.way.log.reached(),
    };
    let request = PeerRequest {
        to: old,
        from: 0,
        address: String::new(),
        known: None,
        mark: Mark::default(),
        message: PeerMessage::Vote(vote),
    };
    match node.answer(request).await {
        PeerReply::Vote(Ok(reply)) => assert!(!reply.vote_granted, "{reply:?}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_from_before_the_others_joined_does_not_lead_a_group_of_its_own() {
    let mut mesh = Mesh::new(1, options()).await;
    mesh.copy_while_idle(1).await;
    for number in 2..=3 {
        let node_id = mesh.admit(&format!("n{number}"), number).await;
        mesh.join(node_id).await;
    }
    mesh.nodes[0].set_voters((1..=3).collect()).await.unwrap();
    let mut acknowledged = write(&mesh.leader().await, "before", 5).await;
    mesh.kill(1).await;
    mesh.put_back(1).await;
    acknowledged.extend(write(&mesh.leader().await, "without it", 5).await);
    let term = mesh.leader().await.status().term;
    // It knows of no other node, and is there at once; the leader finds it.
    mesh.start(1).await;
    let node = mesh.nodes.last().unwrap().clone();
    wait_until("it finds out", || is_behind(&node)).await;
    wait_until("it has stopped", || node.status().role == crate::Role::Stopped).await;
    assert_eq!(mesh.leader().await.status().term, term, "the others have not noticed");
    drop(node);
    mesh.begin_anew(1).await;
    nothing_is_lost(&mesh, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_down_while_all_voters_were_replaced_takes_part_again() {
    let mut mesh = Mesh::new(3, options()).await;
    let learner = mesh.admit("n4", 4).await;
    mesh.join(learner).await;
    let mut acknowledged = write(&mesh.leader().await, "before", 5).await;
    wait_until_it_has(&mesh.node(learner), &acknowledged).await;
    mesh.kill(learner).await;
    for (old, new) in [(1, 5), (2, 6), (3, 7)] {
        assert_eq!(mesh.admit(&format!("n{new}"), new).await, u64::from(new));
        mesh.join(new.into()).await;
        while mesh.leader().await.node_id() == old {
            mesh.leader().await.step_aside().await;
        }
        let leader = mesh.leader().await;
        let mut voters: BTreeSet<u64> = leader.status().voters.into_iter().collect();
        voters.remove(&old);
        voters.insert(new.into());
        leader.set_voters(voters).await.unwrap();
        drop(leader);
        mesh.kill(old).await;
        let leader = mesh.leader().await;
        leader.remove_members(&BTreeSet::from([old])).await.unwrap();
        acknowledged.extend(write(&leader, &format!("without {old}"), 3).await);
    }
    mesh.start(learner).await;
    let node = mesh.node(learner);
    wait_until("it takes part", || *node.standing().borrow() == Standing::Cleared).await;
    nothing_is_lost(&mesh, &acknowledged).await;
}

/// The only voter knows no other node that could tell it, and goes on from its old copy before the learner is there. In
/// the term of the lost entries the learner tells it. In a later term the voter's position is never below the learner's
/// knowledge of it, but the learner does not follow it.
#[tokio::test(flavor = "multi_thread")]
async fn a_learner_does_not_give_up_what_was_committed_for_a_leader_that_has_lost_it() {
    for (starts, writes) in [(1, 1), (2, 1), (2, 15)] {
        let mut mesh = Mesh::new(1, options()).await;
        let learner = mesh.admit("n2", 2).await;
        mesh.join(learner).await;
        write(&mesh.leader().await, "before", 3).await;
        mesh.keep_copy(1).await;
        let acknowledged = write(&mesh.leader().await, "acknowledged", 5).await;
        wait_until_it_has(&mesh.node(learner), &acknowledged).await;
        mesh.kill(learner).await;
        mesh.wait_until_closed(learner).await;
        mesh.kill(1).await;
        mesh.put_back(1).await;
        mesh.start(1).await;
        for _ in 1..starts {
            mesh.kill(1).await;
            mesh.wait_until_closed(1).await;
            mesh.start(1).await;
        }
        write(&mesh.leader().await, "in their place", writes).await;
        mesh.start(learner).await;
        let (node, voter) = (mesh.node(learner), mesh.node(1));
        let says_so = || {
            let trouble = node.status().trouble();
            is_behind(&voter) || trouble.is_some_and(|trouble| trouble.contains("has lost committed entries"))
        };
        wait_until("one of them says so", says_so).await;
        assert_eq!(is_behind(&voter), starts == 1);
        assert!(notes(&node).is_superset(&acknowledged));
        assert!(!notes(&node).iter().any(|note| note.starts_with("in their place")));
        assert_eq!(node.status().failure, None, "it has not stopped");
    }
}
