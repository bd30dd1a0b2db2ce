//! Changes of the voters, interrupted at every step.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::harness::{Mesh, wait_until};
use super::{note, notes, options};
use crate::{Catalog, CatalogError};

/// As the node does that leads: a change that was interrupted is brought to its end first.
async fn bring_to_an_end(mesh: &Mesh) -> (Catalog, bool) {
    let mut was_joint = false;
    loop {
        let leader = mesh.leader().await;
        let Some(next) = leader.status().next_voters else {
            return (leader, was_joint);
        };
        was_joint = true;
        // It may have lost the lead, or the entry before is not committed yet: then it looks again.
        if let Err(error) = leader.set_voters(next).await {
            println!("not yet: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn set_voters(mesh: &Mesh, voters: &BTreeSet<u64>) -> Catalog {
    loop {
        let leader = mesh.leader().await;
        match leader.set_voters(voters.clone()).await {
            Ok(()) => return leader,
            Err(CatalogError::NotLeader { .. } | CatalogError::Membership(_) | CatalogError::NoQuorum(_)) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// The leader is cut off between any two messages of a change. It takes two entries, so three rounds to a majority.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_voters_can_be_brought_to_its_end_wherever_it_was_interrupted() {
    let mesh = Mesh::new(5, options()).await;
    let all: BTreeSet<u64> = (1..=5).collect();
    let mut joint = 0;
    for step in 0..12_u64 {
        let leader = mesh.leader().await.node_id();
        let others = all.iter().copied().filter(|id| *id != leader).take(2);
        let three: BTreeSet<u64> = others.chain([leader]).collect();
        let leader = set_voters(&mesh, &three).await;
        assert_eq!(leader.status().next_voters, None);
        mesh.lan.delay.store(10, Ordering::Relaxed);
        let change = tokio::spawn({
            let (leader, all) = (leader.clone(), all.clone());
            async move { leader.set_voters(all).await }
        });
        tokio::time::sleep(Duration::from_millis(6 * step)).await;
        change.abort();
        mesh.lan.cut(leader.node_id());
        wait_until("the old leader leads no more", || !leader.is_leader()).await;
        mesh.lan.delay.store(0, Ordering::Relaxed);
        let (now, was_joint) = bring_to_an_end(&mesh).await;
        joint += usize::from(was_joint);
        let voters: BTreeSet<u64> = now.status().voters.into_iter().collect();
        assert!(voters == three || voters == all, "step {step}: {voters:?}");
        note(&now, format!("step {step}")).await;
        mesh.lan.heal();
        let began = tokio::time::Instant::now();
        wait_until("it follows", || {
            let follows = leader.status().next_voters.is_none() && notes(&leader).contains(&format!("step {step}"));
            if !follows && began.elapsed() > Duration::from_secs(25) {
                println!("step {step}: {:?}", leader.status());
                let others = mesh.nodes.iter().map(Catalog::status);
                others.for_each(|status| println!("{status:?}"));
            }
            follows
        })
        .await;
    }
    println!("{joint} of 12 were between the two entries");
    assert!(joint > 0, "no step was between the two entries");
    set_voters(&mesh, &all).await;
    mesh.compare().await;
}
