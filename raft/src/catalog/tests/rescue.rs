//! One node goes on alone with its state and its log.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::harness::{Mesh, wait_until};
use super::{note, notes, options};
use crate::{Catalog, CatalogError, Command, NodeService};

/// The folder of a rescued node's catalog.
fn beside(mesh: &Mesh, node_id: u64) -> PathBuf {
    mesh.root.path().join(format!("rescued-{node_id}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_left_goes_on_with_the_end_of_its_log_under_another_number() {
    let mut mesh = Mesh::new(3, options()).await;
    for number in 0..50 {
        note(&mesh.leader().await, format!("note {number}")).await;
    }
    // The leader has entries that no follower has acknowledged: they are kept.
    let left = mesh.leader().await.node_id();
    mesh.lan.cut(left);
    let leader = mesh.node(left);
    let command = Command::Audit {
        what: "never answered".to_owned(),
    };
    let asked = tokio::spawn(async move { leader.propose("test", command).await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    for node_id in 1..=3 {
        mesh.kill(node_id).await;
    }
    asked.abort();
    mesh.wait_until_closed(left).await;
    let (from, to) = (mesh.dir(left), beside(&mesh, left));
    let made = Catalog::regroup(&from, &to, format!("lan:{left}"), &options())
        .await
        .unwrap();
    assert!(made.uncommitted > 0, "{}", made.uncommitted);
    assert_eq!((made.catalog.node_id(), made.was, made.was_voter), (1003, left, true));
    let found = notes(&made.catalog);
    assert!((0..50).all(|number| found.contains(&format!("note {number}"))));
    assert!(found.contains("never answered"));
    // Before it is complete it is none, and another attempt replaces it.
    made.catalog.shutdown().await.unwrap();
    drop(made);
    assert!(matches!(
        Catalog::open(&to, options()).await,
        Err(CatalogError::Missing(_))
    ));
    let made = Catalog::regroup(&from, &to, format!("lan:{left}"), &options())
        .await
        .unwrap();
    let name: crate::NodeName = format!("n{left}").parse().unwrap();
    let era = Command::BeginEra {
        era: 1,
        branch: 5,
        floor: pgmesh_storage::Generation(1),
        last_number: 1002,
        compare: BTreeSet::new(),
        reason: "test".to_owned(),
    };
    made.catalog.propose("test", era).await.unwrap();
    let renumber = Command::RenumberNode {
        name: name.clone(),
        number: left,
        key: [0; 32],
        reason: "test".to_owned(),
    };
    made.catalog.propose("test", renumber).await.unwrap();
    for other in (1..=3).filter(|other| *other != left) {
        let service = NodeService::Removed;
        let name = format!("n{other}").parse().unwrap();
        made.catalog
            .propose("test", Command::SetNodeService { name, service })
            .await
            .unwrap();
    }
    let rescued = made.catalog.view().node(&name).unwrap().unwrap();
    assert_eq!(rescued.node_id, 1003);
    made.complete().await.unwrap();

    // It is opened like any other, and new nodes join it; they get all of it, by snapshot.
    mesh.wait_until_closed(left).await;
    std::fs::rename(&to, mesh.dir(1003)).unwrap();
    mesh.start(1003).await;
    let alone = mesh.node(1003);
    wait_until("it leads", || alone.is_leader()).await;
    note(&alone, "after".to_owned()).await;
    let fifth = mesh.admit("n5", 5).await;
    assert_eq!(fifth, 1004);
    mesh.join(1004).await;
    let leader = mesh.leader().await;
    leader.set_voters(BTreeSet::from([1003, 1004])).await.unwrap();
    let found = notes(&mesh.node(1004));
    assert!(found.contains("never answered") && found.contains("after"));
    mesh.compare().await;
}

/// A rescue that was refused, or only tried, has not applied entries that the others have replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_rescue_was_given_up_follows_the_others_again() {
    let mut mesh = Mesh::new(3, options()).await;
    note(&mesh.leader().await, "before".to_owned()).await;
    let left = mesh.leader().await.node_id();
    mesh.lan.cut(left);
    let old = mesh.node(left);
    let command = Command::Audit {
        what: "never committed".to_owned(),
    };
    let asked = tokio::spawn(async move { old.propose("test", command).await });
    let others = || mesh.nodes.iter().filter(|node| node.node_id() != left);
    wait_until("the others to elect one", || others().any(Catalog::is_leader)).await;
    let leader = others().find(|node| node.is_leader()).unwrap().clone();
    note(&leader, "in its place".to_owned()).await;
    drop(leader);
    asked.abort();
    mesh.kill(left).await;
    mesh.wait_until_closed(left).await;
    let (from, to) = (mesh.dir(left), beside(&mesh, left));
    let made = Catalog::regroup(&from, &to, format!("lan:{left}"), &options())
        .await
        .unwrap();
    assert!(notes(&made.catalog).contains("never committed"));
    made.catalog.shutdown().await.unwrap();
    drop(made);
    mesh.lan.heal();
    mesh.start(left).await;
    let back = mesh.node(left);
    wait_until("it follows", || notes(&back).contains("in its place")).await;
    assert!(!notes(&back).contains("never committed"));
    mesh.compare().await;
}
