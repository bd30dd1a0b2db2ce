//! Programs of several versions in one mesh.

use super::harness::{Mesh, wait_until};
use super::{note, notes, options};
use crate::{Catalog, CatalogError, CatalogOptions, Command, Refusal};

/// The program before this one.
fn older() -> CatalogOptions {
    CatalogOptions { level: 1, ..options() }
}

async fn note_level(mesh: &Mesh, node_id: u64, level: u32) {
    let leader = mesh.leader().await;
    leader
        .propose("test", Command::NoteLevel { node_id, level })
        .await
        .unwrap();
}

async fn raise(mesh: &Mesh) -> Result<(), CatalogError> {
    let leader = mesh.leader().await;
    leader.propose("test", Command::RaiseLevel { level: 2 }).await.map(drop)
}

/// Restarts a node with the program that has this level.
async fn restart(mesh: &mut Mesh, node_id: u64, level: u32) {
    mesh.kill(node_id).await;
    mesh.wait_until_closed(node_id).await;
    mesh.options.level = level;
    mesh.start(node_id).await;
    note_level(mesh, node_id, level).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_is_upgraded_node_by_node_and_refuses_a_program_that_is_too_old() {
    let mut mesh = Mesh::new(3, older()).await;
    for node_id in 1..=3 {
        note_level(&mesh, node_id, 1).await;
    }
    for node_id in 1..=3 {
        let refused = raise(&mesh).await;
        assert!(
            matches!(
                &refused,
                Err(CatalogError::Refused(Refusal::LevelTooNew { known: Some(1), .. }))
            ),
            "{refused:?}"
        );
        note(&mesh.leader().await, format!("before {node_id}")).await;
        restart(&mut mesh, node_id, 2).await;
    }
    raise(&mesh).await.unwrap();
    note(&mesh.leader().await, "after".to_owned()).await;
    mesh.compare().await;

    // One is replaced by the old program again: it does not open the catalog.
    let follower = mesh.follower().await.node_id();
    mesh.kill(follower).await;
    mesh.wait_until_closed(follower).await;
    let opened = Catalog::open(&mesh.dir(follower), older()).await;
    assert!(
        matches!(opened, Err(CatalogError::Level { found: 2, known: 1 })),
        "{opened:?}"
    );
    mesh.start(follower).await;

    // A node that joins with the old program shows nothing of the catalog either.
    let joining = mesh.admit("n4", 4).await;
    mesh.options.level = 1;
    let added = async { mesh.join(joining).await };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(3), added).await;
    let late = mesh.nodes.iter().find(|node| node.node_id() == joining);
    assert!(late.is_none_or(|late| notes(late).is_empty()));
    let back = mesh.node(follower);
    wait_until("it follows", || notes(&back).contains("after")).await;
}

/// A node that has claimed a level which its program does not have stops before the command that raises the level.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_an_older_program_stops_at_the_command_that_raises_the_level() {
    let mesh = Mesh::new(3, older()).await;
    for node_id in 1..=3 {
        // They say so, and it is not true.
        note_level(&mesh, node_id, 2).await;
    }
    note(&mesh.leader().await, "before".to_owned()).await;
    let _ = raise(&mesh).await;
    for node in &mesh.nodes {
        wait_until("it stops, or has not heard", || {
            let failure = node.status().failure;
            failure.is_some_and(|failure| failure.contains("apply level 2"))
                || node.view().levels().unwrap().current == 1
        })
        .await;
        assert_eq!(node.view().levels().unwrap().current, 1);
    }
}
