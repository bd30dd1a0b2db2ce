//! Meshes to test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use tempfile::TempDir;

use super::lan::Lan;
use super::{Dump, dump, mesh, node};
use crate::command::AdmitNode;
use crate::{Catalog, CatalogOptions, Command, NodeName, Redemption, Reply, RequestId, TokenId, TokenRole};

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

    /// Invites a node, in place of the member of its name if there is one, and admits it with this key.
    pub(super) async fn admit(&self, name: &str, key: u8) -> u64 {
        let leader = self.leader().await;
        let name: NodeName = name.parse().unwrap();
        let known = leader.view_linearizable().await.unwrap().node(&name).unwrap();
        let token = TokenId(RequestId::random().0);
        let create = Command::CreateToken {
            id: token,
            secret_hash: [0; 32],
            role: TokenRole::Node {
                name: name.clone(),
                replaces: known.map(|known| known.node_id),
            },
            expires: i64::MAX,
        };
        leader.propose("test", create).await.unwrap();
        let admit = Command::AdmitNode(Box::new(AdmitNode {
            redemption: Redemption {
                token,
                secret_hash: [0; 32],
                request: [0; 32],
                certificate: Vec::new(),
            },
            name,
            region: String::new(),
            advertise: Vec::new(),
            key: [key; 32],
            administrator: [key; 32],
            program: "test".to_owned(),
            catalog_format: crate::MeshRecord::CATALOG_FORMAT,
        }));
        let admitted = leader.propose("test", admit).await.unwrap();
        let Reply::Joined {
            node_id: Some(node_id), ..
        } = admitted
        else {
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

    pub(super) fn node(&self, node_id: u64) -> Catalog {
        self.nodes
            .iter()
            .find(|node| node.node_id() == node_id)
            .unwrap()
            .clone()
    }

    /// Where a node's catalog lies.
    pub(super) fn dir(&self, node_id: u64) -> PathBuf {
        self.root.path().join(node_id.to_string())
    }

    /// Stops a node, keeps a copy of its directory, and starts it again.
    pub(super) async fn keep_copy(&mut self, node_id: u64) {
        self.kill(node_id).await;
        copy_folder(&self.dir(node_id), &self.copy_of(node_id)).await;
        self.start(node_id).await;
    }

    /// Keeps a copy of the directory of a node that runs and has nothing to do.
    pub(super) async fn copy_while_idle(&self, node_id: u64) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        copy_files(&self.dir(node_id), &self.copy_of(node_id));
    }

    fn copy_of(&self, node_id: u64) -> PathBuf {
        self.root.path().join(format!("copy-of-{node_id}"))
    }

    /// A catalog that was stopped lets go of its directory a moment later.
    pub(super) async fn wait_until_closed(&self, node_id: u64) {
        wait_until_closed(&self.dir(node_id)).await;
    }

    /// Puts the copy back; the node must not run.
    pub(super) async fn put_back(&self, node_id: u64) {
        self.wait_until_closed(node_id).await;
        std::fs::remove_dir_all(self.dir(node_id)).unwrap();
        copy_folder(&self.copy_of(node_id), &self.dir(node_id)).await;
    }

    /// A node that is behind begins anew, as `node start` does it: another number, an empty catalog.
    pub(super) async fn begin_anew(&mut self, node_id: u64) -> u64 {
        let name: NodeName = format!("n{node_id}").parse().unwrap();
        let known = self.leader().await.view().node(&name).unwrap().unwrap();
        let command = Command::RenumberNode {
            name,
            number: known.node_id,
            key: known.key,
            reason: "test".to_owned(),
        };
        let leader = self.leader().await;
        let Reply::Renumbered { node_id: new, .. } = leader.propose("test", command).await.unwrap() else {
            panic!("no new number");
        };
        self.kill(node_id).await;
        leader.remove_members(&BTreeSet::from([node_id])).await.unwrap();
        self.join(new).await;
        let mut voters: BTreeSet<u64> = leader.status().voters.into_iter().collect();
        voters.insert(new);
        leader.set_voters(voters).await.unwrap();
        new
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
    ///
    /// The repetition of a request may still arrive, and is applied by one node before another: only nodes that have
    /// applied the same entries are compared.
    pub(super) async fn compare(&self) {
        // Raft's own entries too: a change of the voters is no command.
        let applied = |node: &Catalog| node.state.current().raft_state().unwrap().last_applied;
        let all_applied = || -> Vec<_> { self.nodes.iter().map(applied).collect() };
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let leader = applied(&self.leader().await);
            let before = all_applied();
            let dumps: Vec<_> = self.nodes.iter().map(dump).collect();
            if before.iter().all(|applied| *applied == leader) && all_applied() == before {
                for (node, other) in self.nodes.iter().zip(&dumps) {
                    assert!(
                        *other == dumps[0],
                        "node {} differs: {}",
                        node.node_id(),
                        difference(&dumps[0], other)
                    );
                }
                return;
            }
            assert!(
                Instant::now() < deadline,
                "not in time: {before:?}, the leader {leader:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The rows that only one node of the two has.
fn difference(one: &Dump, other: &Dump) -> String {
    let only = |these: &Dump, those: &Dump| -> Vec<_> {
        let rows = these.iter().filter(|row| !those.contains(row));
        rows.map(|(table, key, _)| format!("{table:?} {}", key.escape_ascii()))
            .collect()
    };
    format!("first {:?}, other {:?}", only(one, other), only(other, one))
}

pub(super) async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn copy_folder(from: &Path, to: &Path) {
    wait_until_closed(from).await;
    copy_files(from, to);
}

async fn wait_until_closed(dir: &Path) {
    let Ok(lock) = std::fs::File::open(dir.join("lock")) else {
        return;
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while lock.try_lock().is_err() {
        assert!(Instant::now() < deadline, "{} is in use", dir.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_files(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
