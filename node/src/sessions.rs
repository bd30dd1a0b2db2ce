//! Sessions of this node in the catalog: what is read or written under one is not deleted while it is open (invariant 5).

use crate::Failure;
use pgmesh_raft::{Catalog, Command, NodeName, Reply, SessionId, SessionKind};
use pgmesh_storage::StanzaName;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long one session is shared before the next begins: what is condemned meanwhile waits that long for its deletion.
const SHARED_FOR: Duration = Duration::from_secs(30);

/// An open session; closed in the background when it is dropped.
pub struct OpenSession {
    /// Its identifier in the catalog.
    pub id: SessionId,
    catalog: Catalog,
    runtime: tokio::runtime::Handle,
}

impl OpenSession {
    /// Opens one.
    pub async fn open(
        catalog: &Catalog,
        node: &NodeName,
        kind: SessionKind,
        stanza: Option<StanzaName>,
        holder: String,
    ) -> Result<Self, Failure> {
        let command = Command::OpenSession {
            kind,
            stanza,
            holder,
            node: node.clone(),
            resume_key: None,
        };
        match catalog.propose(&format!("node {node}"), command).await? {
            Reply::Session(id) => Ok(Self {
                id,
                catalog: catalog.clone(),
                runtime: tokio::runtime::Handle::current(),
            }),
            other => Err(crate::services::unexpected(&other)),
        }
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        let (catalog, session) = (self.catalog.clone(), self.id);
        self.runtime.spawn(async move {
            // A session that stays open after a crash is expired when its node starts again.
            if let Err(error) = catalog.propose("node", Command::CloseSession { session }).await {
                tracing::warn!(%session, error = %crate::failure::chain(&error), "a session could not be closed");
            }
        });
    }
}

/// One session that many short writes share.
pub struct SharedSession {
    catalog: Catalog,
    node: NodeName,
    current: Mutex<Option<(Instant, Weak<OpenSession>)>>,
}

impl SharedSession {
    /// None is open yet.
    pub fn new(catalog: Catalog, node: NodeName) -> Self {
        Self {
            catalog,
            node,
            current: Mutex::new(None),
        }
    }

    /// The session to write under; it lasts until the last holder drops it.
    pub async fn get(&self) -> Result<Arc<OpenSession>, Failure> {
        let mut current = self.current.lock().await;
        if let Some((opened, session)) = current.as_ref()
            && opened.elapsed() < SHARED_FOR
            && let Some(session) = session.upgrade()
        {
            return Ok(session);
        }
        let holder = format!("node {}: replicas made good", self.node);
        let session = Arc::new(OpenSession::open(&self.catalog, &self.node, SessionKind::Repair, None, holder).await?);
        *current = Some((Instant::now(), Arc::downgrade(&session)));
        Ok(session)
    }
}
