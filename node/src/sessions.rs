//! Sessions of this node in the catalog: what is read or written under one is not deleted while it is open (invariant 5).

use crate::Failure;
use pgmesh_raft::{Catalog, Command, NodeName, Reply, SessionId, SessionKind};
use pgmesh_storage::StanzaName;
use std::collections::HashSet;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard as StdMutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long one session is shared before the next begins: what is condemned meanwhile waits that long for its deletion.
const SHARED_FOR: Duration = Duration::from_secs(30);

/// The sessions that this process holds, so that those which an earlier one left behind can be told from them.
type Held = Arc<StdMutex<HashSet<SessionId>>>;

/// An open session; closed in the background when it is dropped.
pub struct OpenSession {
    /// Its identifier in the catalog.
    pub id: SessionId,
    catalog: Catalog,
    held: Held,
    runtime: tokio::runtime::Handle,
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        let (catalog, session) = (self.catalog.clone(), self.id);
        lock(&self.held).remove(&session);
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
    held: Held,
}

impl SharedSession {
    /// None is open yet.
    pub fn new(catalog: Catalog, node: NodeName) -> Self {
        Self {
            catalog,
            node,
            current: Mutex::new(None),
            held: Held::default(),
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
        let session = Arc::new(self.open(SessionKind::Repair, None, holder).await?);
        *current = Some((Instant::now(), Arc::downgrade(&session)));
        Ok(session)
    }

    /// Opens one of its own.
    pub async fn open(
        &self,
        kind: SessionKind,
        stanza: Option<StanzaName>,
        holder: String,
    ) -> Result<OpenSession, Failure> {
        let command = Command::OpenSession {
            kind,
            stanza,
            holder,
            node: self.node.clone(),
            resume_key: None,
        };
        match self.catalog.propose(&format!("node {}", self.node), command).await? {
            Reply::Session(id) => {
                lock(&self.held).insert(id);
                Ok(OpenSession {
                    id,
                    catalog: self.catalog.clone(),
                    held: self.held.clone(),
                    runtime: tokio::runtime::Handle::current(),
                })
            }
            other => Err(crate::services::unexpected(&other)),
        }
    }

    /// Whether this process holds it.
    pub fn holds(&self, session: SessionId) -> bool {
        lock(&self.held).contains(&session)
    }
}

/// A panic of another holder leaves nothing half-changed in this set: go on.
fn lock<T>(mutex: &StdMutex<T>) -> StdMutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
