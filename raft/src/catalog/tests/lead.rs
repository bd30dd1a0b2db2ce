//! Only a leader may do the leader's work.

use std::time::Duration;
use tokio::time::Instant;

use super::harness::{Mesh, wait_until};
use super::{create, note, options};
use crate::{Catalog, CatalogError, CatalogOptions, Command, Role, SessionKind};

fn impatient() -> CatalogOptions {
    CatalogOptions {
        patience: Duration::from_secs(1),
        ..options()
    }
}

/// Leaves every node alone.
fn cut_all(mesh: &Mesh) {
    for node in &mesh.nodes {
        mesh.lan.cut(node.node_id());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hears_no_majority_steps_down_and_leads_again_when_one_answers() {
    let mesh = Mesh::new(3, options()).await;
    let leader = mesh.leader().await;
    let lead = leader.confirm_lead().await.unwrap();
    assert!(lead.holds());
    cut_all(&mesh);
    let cut = Instant::now();
    wait_until("it steps down", || !leader.is_leader()).await;
    // Two leases, and a heartbeat or two that were on their way.
    let lease = options().election;
    assert!(
        cut.elapsed() > lease && cut.elapsed() < lease * 3,
        "{:?}",
        cut.elapsed()
    );
    assert!(!lead.holds());
    assert_eq!(leader.leader(), None);
    let status = leader.status();
    assert_eq!((status.role, status.leader), (Role::Candidate, None));
    let confirmed = leader.confirm_lead().await;
    assert!(
        matches!(confirmed, Err(CatalogError::NotLeader { .. })),
        "{confirmed:?}"
    );
    // Long after it would have been forgotten.
    tokio::time::sleep(Duration::from_secs(2)).await;
    mesh.lan.heal();
    let leader = mesh.leader().await;
    leader.confirm_lead().await.unwrap();
    assert_eq!(leader.status().role, Role::Leader);
    note(&leader, "it goes on".to_owned()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_is_confirmed_by_a_majority_or_not_at_all() {
    let mesh = Mesh::new(3, impatient()).await;
    let leader = mesh.leader().await;
    let refused = mesh.follower().await.confirm_lead().await;
    assert!(
        matches!(refused, Err(CatalogError::NotLeader { leader_id, .. }) if leader_id == Some(leader.node_id())),
        "{refused:?}"
    );
    leader.confirm_lead().await.unwrap();
    // It takes itself for the leader still.
    cut_all(&mesh);
    assert!(leader.is_leader());
    let refused = leader.confirm_lead().await;
    assert!(matches!(refused, Err(CatalogError::NoQuorum(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_others_needs_nobody() {
    let root = tempfile::tempdir().unwrap();
    let catalog = create(root.path()).await;
    tokio::time::sleep(options().election * 3).await;
    assert!(catalog.is_leader());
    assert!(catalog.confirm_lead().await.unwrap().holds());
    catalog.shutdown().await.unwrap();
}

async fn open_session(catalog: &Catalog) {
    let command = Command::OpenSession {
        kind: SessionKind::Verify,
        stanza: None,
        holder: "test".to_owned(),
        node: "n1".parse().unwrap(),
        resume_key: None,
    };
    catalog.propose("test", command).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_shows_one_moment_whatever_happens_since() {
    let root = tempfile::tempdir().unwrap();
    let catalog = create(root.path()).await;
    open_session(&catalog).await;
    let view = catalog.view();
    let snapshot = view.snapshot();
    let before = snapshot.applied().unwrap();
    open_session(&catalog).await;
    assert_eq!(snapshot.applied().unwrap(), before);
    assert_eq!(snapshot.sessions().unwrap().len(), 1);
    assert_eq!(snapshot.oldest_session().unwrap(), view.oldest_session().unwrap());
    assert_eq!(view.sessions().unwrap().len(), 2);
    assert!(view.applied().unwrap() > before);
    drop(snapshot);
    catalog.shutdown().await.unwrap();
}
