//! Meshes to test.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::lan::Lan;
use super::{dump, mesh, node};
use crate::{Catalog, CatalogOptions, Command, Reply};

/// A mesh of nodes in one process.
pub(super) struct Mesh {
    pub(super) root: TempDir,
    pub(super) lan: Arc<Lan>,
    pub(super) nodes: Vec<Catalog>,
    pub(super) options: CatalogOptions,
}

impl Mesh {
    /// Nodes 1 to `voters`, all of which vote.
    pub(super) async fn new(voters: u64, options: CatalogOptions) -> Self {
        let root = tempfile::tempdir().unwrap();
        let lan = Arc::new(Lan::default());
        let name = "n1".parse().unwrap();
        let first = Catalog::create_with_peers(
            &root.path().join("1"),
            mesh(),
            name,
            node(1),
            options.clone(),
            lan.from(1),
        )
        .await
        .unwrap();
        lan.connect(&first);
        let mut mesh = Self {
            root,
            lan,
            nodes: vec![first],
            options,
        };
        for number in 2..=voters {
            let node_id = mesh.admit(&format!("n{number}"), number.try_into().unwrap()).await;
            assert_eq!(node_id, number);
            mesh.join(node_id).await;
        }
        mesh.nodes[0].set_voters((1..=voters).collect()).await.unwrap();
        mesh
    }

    pub(super) async fn admit(&self, name: &str, fingerprint: u8) -> u64 {
        let command = Command::AdmitNode {
            name: name.parse().unwrap(),
            region: String::new(),
            advertise: Vec::new(),
            fingerprint: [fingerprint; 32],
            program: "test".to_owned(),
            catalog_format: crate::MeshRecord::CATALOG_FORMAT,
        };
        let admitted = self.leader().await.propose("test", command).await.unwrap();
        let Reply::Admitted { node_id, .. } = admitted else {
            panic!("{admitted:?}");
        };
        node_id
    }

    /// Starts an admitted node and makes it a learner.
    pub(super) async fn join(&mut self, node_id: u64) {
        let dir = self.root.path().join(node_id.to_string());
        Catalog::create_joining(&dir, node_id, &self.options).await.unwrap();
        self.start(node_id).await;
        let leader = self.leader().await;
        leader.add_learner(node_id, &format!("lan:{node_id}")).await.unwrap();
    }

    pub(super) async fn start(&mut self, node_id: u64) {
        let dir = self.root.path().join(node_id.to_string());
        let peers = self.lan.from(node_id);
        let catalog = Catalog::open_with_peers(&dir, self.options.clone(), peers)
            .await
            .unwrap();
        self.lan.connect(&catalog);
        self.nodes.push(catalog);
    }

    /// As when a process is killed.
    pub(super) async fn kill(&mut self, node_id: u64) {
        self.lan.disconnect(node_id);
        let position = self.nodes.iter().position(|node| node.node_id() == node_id).unwrap();
        self.nodes.remove(position).shutdown().await.unwrap();
    }

    /// The leader that more than half of the nodes follow.
    pub(super) async fn leader(&self) -> Catalog {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            for node in self.nodes.iter().filter(|node| node.is_leader()) {
                let voters = node.status().voters;
                let follows = |other: &&Catalog| other.leader() == Some(node.node_id());
                let voting = self.nodes.iter().filter(|node| voters.contains(&node.node_id()));
                if voting.filter(follows).count() * 2 > voters.len() {
                    return node.clone();
                }
            }
            assert!(Instant::now() < deadline, "no leader");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn follower(&self) -> Catalog {
        let leader = self.leader().await.node_id();
        self.nodes.iter().find(|node| node.node_id() != leader).unwrap().clone()
    }

    /// Waits until all nodes have applied the same, and compares it byte for byte (invariant 10).
    pub(super) async fn compare(&self) {
        let applied = self.leader().await.view().applied().unwrap();
        for node in &self.nodes {
            wait_until("caught up", || node.view().applied().unwrap() >= applied).await;
        }
        let first = dump(&self.nodes[0]);
        for node in &self.nodes {
            assert!(dump(node) == first, "node {} differs", node.node_id());
        }
    }
}

pub(super) async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
