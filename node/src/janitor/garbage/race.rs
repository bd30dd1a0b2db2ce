//! A collection and uploads of the same chunks on one real node, at the same time (invariant 5).

use super::collector::{Deletion, Ground, collect};
use crate::janitor::Janitor;
use crate::sessions::ConnectionNumber;
use crate::settings::Layout;
use crate::testing::settings;
use crate::{Node, SessionTimes, init};
use futures::StreamExt;
use futures::stream;
use pgmesh_protocol::{Failure, PutChunk};
use pgmesh_raft::{Command, GarbageKey, Reply, SessionId, SessionKind, View};
use pgmesh_storage::{Codec, Digest, DigestSuite, ObjectName, Payload};
use pgmesh_transport::Identity;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const SUITE: DigestSuite = DigestSuite::Blake3;
/// Chunks that every backup has.
const CHUNKS: u32 = 120;
/// Backups that are killed, swept and run again.
const ROUNDS: u64 = 5;

/// The one connection by which the backups come.
const CONNECTION: ConnectionNumber = 1;

/// The node, with a delay before each step of a collection.
struct Slowly(Arc<Janitor>);

impl Slowly {
    async fn delay() {
        let mut byte = [0];
        pgmesh_runtime::random::fill(&mut byte).unwrap();
        tokio::time::sleep(Duration::from_micros(u64::from(byte[0]) * 10)).await;
    }
}

impl Ground for Slowly {
    type Tables = <Janitor as Ground>::Tables;
    type Lead = <Janitor as Ground>::Lead;

    fn view(&self) -> View {
        self.0.view()
    }

    async fn confirm_lead(&self) -> Result<Option<Self::Lead>, Failure> {
        Self::delay().await;
        self.0.confirm_lead().await
    }

    async fn delete(&self, lead: &Self::Lead, key: &GarbageKey, name: &ObjectName) -> Deletion {
        Self::delay().await;
        self.0.delete(lead, key, name).await
    }

    async fn propose(&self, command: Command) -> Result<(), Failure> {
        Self::delay().await;
        self.0.propose(command).await
    }
}

async fn node(root: &Path) -> Arc<Node> {
    let repositories = [root.join("repo1"), root.join("repo2")];
    let sessions = SessionTimes::with_timeout(Duration::from_secs(600));
    let settings = settings(
        &root.join("node"),
        &repositories.each_ref().map(PathBuf::as_path),
        sessions,
    );
    init(&settings, SUITE).await.unwrap();
    let identity = Identity::load(&Layout::new(&settings.path).identity()).unwrap();
    let node = Arc::new(Node::open(settings, identity).await.unwrap().unwrap());
    node.open_known_repositories().await;
    assert_eq!(node.catalog.view().repositories().unwrap().len(), 2);
    node
}

fn payload(number: u32) -> Payload {
    Payload::pack(SUITE, Codec::None, None, &number.to_le_bytes()).unwrap()
}

async fn open(node: &Node) -> SessionId {
    let command = Command::OpenSession {
        kind: SessionKind::Backup,
        stanza: None,
        holder: "test".to_owned(),
        node: node.name.clone(),
        resume_key: None,
    };
    node.backups
        .clients
        .connected(CONNECTION, pgmesh_transport::Account::Nodes);
    node.backups
        .open_client_session("test", command, 2, CONNECTION)
        .await
        .unwrap()
}

/// Uploads every chunk that is not there, several at once, as a backup does.
async fn upload(node: &Arc<Node>, session: SessionId) {
    let uploads = stream::iter(0..CHUNKS).for_each_concurrent(8, |number| async move {
        Slowly::delay().await;
        let payload = payload(number);
        if node.catalog.view().chunks(&[payload.digest]).unwrap()[0].is_some() {
            return;
        }
        let put = PutChunk {
            stanza: "main".parse().unwrap(),
            session: session.0.0,
            payload: payload.head(),
        };
        let held = Arc::new(node.budget.hold(4096).await);
        node.backups.put_chunk(put, payload.bytes.clone(), held).await.unwrap();
    });
    uploads.await;
}

/// Every replica that the catalog counts as good is there, with its content.
async fn unreadable(node: &Node) -> Vec<Digest> {
    let mut bad = Vec::new();
    for row in node.catalog.view().all_chunks(None) {
        let (digest, record) = row.unwrap();
        for replica in record.replicas.iter().filter(|_| record.condemned.is_none()) {
            let place = node.repositories.place(replica.repo).unwrap();
            let read = place.get(&ObjectName::Chunk(digest), replica.generation).await;
            if !read.is_ok_and(|payload| payload.open(SUITE).is_ok()) {
                bad.push(digest);
            }
        }
    }
    bad
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_are_uploaded_again_while_their_old_objects_are_collected_stay() {
    let root = tempfile::tempdir().unwrap();
    let node = node(root.path()).await;
    let mut session = open(&node).await;
    upload(&node, session).await;
    for round in 0..ROUNDS {
        // The backup is killed, and a sweep condemns its chunks.
        node.backups.end_session("test", session, "killed").await;
        let chunks: Vec<_> = (0..CHUNKS).map(|number| payload(number).digest).collect();
        let suspect = Command::Suspect { chunks: chunks.clone() };
        let Reply::Suspected { since: suspected } = node.catalog.propose("test", suspect).await.unwrap() else {
            panic!("it was not suspected");
        };
        let condemn = Command::Condemn { chunks, suspected };
        node.catalog.propose("test", condemn).await.unwrap();
        let collection = {
            let node = node.clone();
            tokio::spawn(async move { collect(&Slowly(node.janitor.clone())).await.unwrap() })
        };
        // It is run again, while the collection is under way.
        tokio::time::sleep(Duration::from_millis(3 * round)).await;
        session = open(&node).await;
        upload(&node, session).await;
        let collected = collection.await.unwrap();
        assert_eq!(collected.kept, 0);
        let bad = unreadable(&node).await;
        assert!(bad.is_empty(), "round {round}: {} replicas are gone", bad.len());
    }
}
