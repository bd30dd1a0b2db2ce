//! Sessions of this node's own work.

use pgmesh_protocol::Failure;
use pgmesh_protocol::failure::chain;
use pgmesh_raft::{Catalog, CatalogError, Command, NodeName, Reply, RequestId, SessionId, SessionKind, SessionRecord};
use pgmesh_storage::StanzaName;
use std::collections::HashSet;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard as StdMutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long one session is shared before the next begins: chunks that are condemned meanwhile wait that long for their
/// deletion.
const SHARED_FOR: Duration = Duration::from_secs(30);
/// The first and the longest pause before a session is closed again that could not be closed.
const CLOSE_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// The sessions that this process holds for its own work, and the requests by which it is opening any.
#[derive(Default)]
struct Holds {
    held: HashSet<SessionId>,
    opening: HashSet<RequestId>,
}

type SharedHolds = Arc<StdMutex<Holds>>;

/// A session that is being opened: from before it is proposed until it is held, so that it is never taken for a session
/// without a holder, however late the answer comes. If the opening fails and is committed all the same, the session has
/// no holder.
pub(crate) struct Opening {
    holds: SharedHolds,
    /// The identifier to propose the opening under.
    pub(crate) request: RequestId,
}

impl Drop for Opening {
    fn drop(&mut self) {
        lock(&self.holds).opening.remove(&self.request);
    }
}

/// An open session; closed in the background when it is dropped.
pub struct OpenSession {
    /// Its identifier in the catalog.
    pub id: SessionId,
    catalog: Catalog,
    holds: SharedHolds,
    runtime: tokio::runtime::Handle,
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        let (catalog, session) = (self.catalog.clone(), self.id);
        lock(&self.holds).held.remove(&session);
        self.runtime
            .spawn(async move { insist(&catalog, "node", session, Command::CloseSession { session }).await });
    }
}

/// Ends a session that its holder has given up: again and again, until the catalog has decided. If this process ends
/// before, the session has no holder.
pub(crate) async fn insist(catalog: &Catalog, actor: &str, session: SessionId, command: Command) {
    let (mut pause, longest) = CLOSE_AGAIN;
    loop {
        match catalog.propose(actor, command.clone()).await {
            Ok(_) | Err(CatalogError::Refused(_) | CatalogError::Stopped(_)) => return,
            Err(error) => {
                tracing::warn!(%session, error = %chain(&error), "a session could not be closed yet");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// One session that many short writes share.
pub struct SharedSession {
    catalog: Catalog,
    node: NodeName,
    current: Mutex<Option<(Instant, Weak<OpenSession>)>>,
    holds: SharedHolds,
}

impl SharedSession {
    /// None is open yet.
    pub fn new(catalog: Catalog, node: NodeName) -> Self {
        Self {
            catalog,
            node,
            current: Mutex::new(None),
            holds: SharedHolds::default(),
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

    /// Opens a session of its own.
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
        let opening = self.opening();
        let actor = format!("node {}", self.node);
        match self.catalog.propose_as(&actor, opening.request, command).await? {
            Reply::Session(id) => {
                // Before `opening` is dropped: at every moment the session is in `opening` or in `held`.
                lock(&self.holds).held.insert(id);
                Ok(OpenSession {
                    id,
                    catalog: self.catalog.clone(),
                    holds: self.holds.clone(),
                    runtime: tokio::runtime::Handle::current(),
                })
            }
            other => Err(crate::replies::unexpected(&other)),
        }
    }

    /// A session is about to be opened, by this node for itself or for a client.
    pub(crate) fn opening(&self) -> Opening {
        let request = RequestId::random();
        lock(&self.holds).opening.insert(request);
        Opening {
            holds: self.holds.clone(),
            request,
        }
    }

    /// Whether this process holds a session for its own work, or is opening it.
    pub(crate) fn holds(&self, session: SessionId, record: &SessionRecord) -> bool {
        let holds = lock(&self.holds);
        holds.opening.contains(&record.request) || holds.held.contains(&session)
    }
}

/// A panic of another holder leaves nothing half-changed in these sets: go on.
fn lock<T>(mutex: &StdMutex<T>) -> StdMutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
