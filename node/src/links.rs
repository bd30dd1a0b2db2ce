//! The ways to the other nodes: one connection for consensus and one for everything else to each, made when first
//! needed and anew when lost.
//!
//! Consensus has sockets and connections of its own, so that a heartbeat never queues behind bulk data. A node's
//! address is looked up in this order: `mesh-route` in this node's file; the node's announcement since this node
//! started; the catalog; the members that this node has remembered for a start with an empty catalog; the Raft group's
//! membership.

use crate::acquaintances::Acquaintances;
use crate::settings::NodeSettings;
use crate::worth::{Worth, worth};
use bytes::Bytes;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{Call, ExitCode, Failure, KnownMember};
use pgmesh_raft::{Catalog, NodeName};
use pgmesh_transport::{
    Client, CloseCode, Connection, ConnectionLost, Identity, MemberCertificate, Role, Stream, StreamError,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::Instant;

/// How long a connection attempt that failed speaks for the next ones: a dead node costs one attempt in this time,
/// however many callers ask for it.
const FAILED_FOR: Duration = Duration::from_millis(250);
/// The longest that one attempt to connect may take.
const CONNECT_LIMIT: Duration = Duration::from_millis(1500);

/// The purpose of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Raft.
    Consensus,
    /// Everything else.
    Data,
}

/// Which node is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Recipient {
    /// A node by name: the peer's certificate must have that name.
    Named(NodeName),
    /// A node by address: any node of the mesh may answer there. For a node whose name this node has not learnt yet.
    At(String),
}

impl std::fmt::Display for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Named(name) => write!(f, "node {name}"),
            Self::At(address) => write!(f, "the node at {address}"),
        }
    }
}

/// Why a node did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    /// It cannot be reached, or fell silent.
    #[error("{whom} cannot be reached: {why}")]
    Unreachable {
        /// Which.
        whom: String,
        /// Why, in words.
        why: String,
    },
    /// It answered that it did not do it.
    #[error("{0}")]
    Failed(Failure),
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Unreachable { .. } => Failure::new(ExitCode::HostConnect, error.to_string()).again(),
            LinkError::Failed(failure) => failure,
        }
    }
}

/// A connection, or the time and the reason of the last failed attempt to make it.
#[derive(Default)]
struct Link {
    connection: Option<Connection>,
    failed: Option<(Instant, String)>,
}

/// Locked while a connection is made: other callers wait for that connection.
type SharedLink = Arc<tokio::sync::Mutex<Link>>;

/// All ways from this node.
pub struct Links {
    me: NodeName,
    routes: BTreeMap<String, String>,
    clients: RwLock<(Client, Client)>,
    catalog: OnceLock<Catalog>,
    announced: Mutex<HashMap<NodeName, Vec<String>>>,
    remembered: HashMap<NodeName, Vec<String>>,
    links: Mutex<HashMap<(Recipient, Lane), SharedLink>>,
    shut_out: Mutex<Option<ShutOut>>,
    pub(crate) acquaintances: Acquaintances,
}

/// Another node's statement that this node is not part of the mesh any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutOut {
    /// The node that said it.
    pub by: Recipient,
    /// In its words.
    pub why: String,
}

impl Links {
    /// No connection yet. `members` are the nodes that were remembered.
    ///
    /// # Errors
    /// The identity cannot be used.
    pub fn new(
        settings: &NodeSettings,
        me: NodeName,
        identity: &Identity,
        members: &[KnownMember],
    ) -> Result<Self, Failure> {
        let remembered = members
            .iter()
            .filter_map(|member| Some((member.name.parse().ok()?, member.addresses.clone())));
        Ok(Self {
            me,
            routes: settings.routes.clone(),
            clients: RwLock::new(clients(identity)?),
            catalog: OnceLock::new(),
            announced: Mutex::default(),
            remembered: remembered.collect(),
            links: Mutex::default(),
            shut_out: Mutex::default(),
            acquaintances: Acquaintances::of(members),
        })
    }

    /// From now on addresses and names are looked up in this catalog.
    pub fn set_catalog(&self, catalog: Catalog) {
        // Set once, when the node opens.
        let _ = self.catalog.set(catalog);
    }

    /// Uses a renewed identity for connections from now on.
    ///
    /// # Errors
    /// The identity cannot be used.
    pub fn replace_identity(&self, identity: &Identity) -> Result<(), Failure> {
        *self.clients.write().unwrap_or_else(PoisonError::into_inner) = clients(identity)?;
        Ok(())
    }

    /// A node has said where it is.
    pub fn announced(&self, name: NodeName, addresses: Vec<String>) {
        let before = lock(&self.announced).insert(name.clone(), addresses.clone());
        if before.as_ref() != Some(&addresses) {
            lock(&self.links).retain(|(whom, _), _| *whom != Recipient::Named(name.clone()));
        }
    }

    /// The node with this number in the Raft group; `address` is its address in the group's membership.
    pub fn whom(&self, node_id: u64, address: &str) -> Recipient {
        let known = self.catalog.get().and_then(|catalog| catalog.view().nodes().ok());
        known
            .unwrap_or_default()
            .into_iter()
            .find(|(_, record)| record.node_id == node_id)
            .map_or_else(|| Recipient::At(address.to_owned()), |(name, _)| Recipient::Named(name))
    }

    /// Where a node is looked for, the best address first.
    pub fn addresses(&self, whom: &Recipient) -> Vec<String> {
        let name = match whom {
            Recipient::At(address) => return vec![address.clone()],
            Recipient::Named(name) => name,
        };
        if let Some(route) = self.routes.get(name.as_str()) {
            return vec![route.clone()];
        }
        let mut addresses = lock(&self.announced).get(name).cloned().unwrap_or_default();
        let recorded = self
            .catalog
            .get()
            .and_then(|catalog| catalog.view().node(name).ok().flatten());
        for address in recorded.map(|record| record.advertise).unwrap_or_default() {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        // Last: it may be out of date, and each address without an answer costs time.
        if addresses.is_empty() {
            addresses.extend(self.remembered.get(name).into_iter().flatten().cloned());
        }
        addresses
    }

    /// A request without a body, and its reply.
    ///
    /// # Errors
    /// The node cannot be reached within `limit`, or answers with a failure.
    pub async fn call<C: Call>(
        &self,
        whom: &Recipient,
        lane: Lane,
        call: &C,
        limit: Duration,
    ) -> Result<C::Reply, LinkError> {
        let work = async {
            let mut stream = self.ask(whom, lane, call, None).await?;
            receive::<C>(&mut stream, whom).await
        };
        self.within(whom, limit, work).await
    }

    /// Opens a stream, sends the request and the body, and leaves the replies to the caller.
    ///
    /// # Errors
    /// The node cannot be reached.
    pub async fn ask<C: Call>(
        &self,
        whom: &Recipient,
        lane: Lane,
        call: &C,
        body: Option<&Bytes>,
    ) -> Result<Stream, LinkError> {
        // If a kept connection turns out to be dead when it is used, a new connection is made, once.
        let mut last = None;
        for _ in 0..2 {
            let connection = self.connection(whom, lane).await?;
            match connection.open().await {
                Ok(mut stream) => {
                    send(&mut stream, call, body)
                        .await
                        .map_err(|error| unreachable(whom, chain(&error)))?;
                    return Ok(stream);
                }
                Err(lost) => {
                    self.note_shut_out(whom, &lost);
                    last = Some(chain(&lost));
                }
            }
        }
        Err(unreachable(whom, last.unwrap_or_default()))
    }

    /// The round trip to a node, as measured on its connection.
    pub async fn round_trip(&self, whom: &Recipient) -> Option<Duration> {
        let link = lock(&self.links).get(&(whom.clone(), Lane::Data)).cloned()?;
        let link = link.lock().await;
        link.connection.as_ref().map(Connection::rtt)
    }

    /// Runs work on a link within a time limit.
    ///
    /// # Errors
    /// The work's, or that the limit has passed.
    pub async fn within<T>(
        &self,
        whom: &Recipient,
        limit: Duration,
        work: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        tokio::time::timeout(limit, work)
            .await
            .unwrap_or_else(|_| Err(unreachable(whom, format!("no answer within {limit:?}"))))
    }

    async fn connection(&self, whom: &Recipient, lane: Lane) -> Result<Connection, LinkError> {
        let link = lock(&self.links).entry((whom.clone(), lane)).or_default().clone();
        let mut link = link.lock().await;
        if let Some(connection) = &link.connection
            && connection.lost().is_none()
        {
            let Some(why) = self.not_worked_with(whom, lane, connection.node()) else {
                return Ok(connection.clone());
            };
            link.connection = None;
            return Err(unreachable(whom, why));
        }
        if let Some(lost) = link.connection.take().and_then(|connection| connection.lost()) {
            self.note_shut_out(whom, &lost);
        }
        if let Some((at, why)) = &link.failed
            && at.elapsed() < FAILED_FOR
        {
            return Err(unreachable(whom, why.clone()));
        }
        match self.dial(whom, lane).await {
            Ok(connection) => {
                link.failed = None;
                link.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(why) => {
                link.failed = Some((Instant::now(), why.clone()));
                Err(unreachable(whom, why))
            }
        }
    }

    /// The node that has shut this node out, and its reason.
    pub fn shut_out(&self) -> Option<ShutOut> {
        lock(&self.shut_out).clone()
    }

    /// Forgets a statement that has been judged; a statement that came since stays.
    pub fn forget_shut_out(&self, judged: &ShutOut) {
        lock(&self.shut_out).take_if(|said| said == judged);
    }

    fn note_shut_out(&self, whom: &Recipient, lost: &ConnectionLost) {
        if let ConnectionLost::ClosedByPeer { code, reason } = lost
            && *code == CloseCode::FORBIDDEN
        {
            self.note_said(whom, reason);
        }
    }

    fn note_said(&self, by: &Recipient, why: &str) {
        *lock(&self.shut_out) = Some(ShutOut {
            by: by.clone(),
            why: why.to_owned(),
        });
    }

    /// Why this node asks nothing of a node whose certificate is valid. A removed node is still sent consensus
    /// messages: until the group of voters has changed, its acknowledgement may be needed.
    ///
    /// If no known member vouches for a node, it is only asked over `Recipient::At`, on the data lane: it is told this
    /// node's address, and is asked for another number where no other node is known. Its vote and its other answers
    /// would count, so it is asked for nothing else.
    fn not_worked_with(&self, whom: &Recipient, lane: Lane, member: &MemberCertificate) -> Option<String> {
        let view = self.catalog.get()?.view();
        match worth(&view, member) {
            Worth::Nothing { is_removed, .. } if is_removed && lane == Lane::Consensus => None,
            Worth::Nothing { why, .. } | Worth::Unknown(why) => Some(why),
            Worth::Member => None,
            Worth::Unheard if self.acquaintances.knows(member) => None,
            Worth::Unheard if lane == Lane::Data && matches!(whom, Recipient::At(_)) => None,
            Worth::Unheard => Some(format!(
                "the certificate of node {} is none that this node's catalog or a member that it knows vouches for",
                member.name
            )),
        }
    }

    async fn dial(&self, whom: &Recipient, lane: Lane) -> Result<Connection, String> {
        let client = {
            let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner);
            match lane {
                Lane::Consensus => clients.0.clone(),
                Lane::Data => clients.1.clone(),
            }
        };
        let mut reasons = Vec::new();
        for address in self.addresses(whom) {
            match tokio::time::timeout(CONNECT_LIMIT, client.connect(&address)).await {
                Ok(Ok(connection)) => match self.is_whom(whom, lane, &connection) {
                    Ok(()) => return Ok(connection),
                    Err(why) => reasons.push(why),
                },
                Ok(Err(error)) => {
                    if let Some(why) = error.shut_out() {
                        self.note_said(whom, why);
                    }
                    reasons.push(chain(&error));
                }
                Err(_) => reasons.push(format!("{address} does not answer")),
            }
        }
        if reasons.is_empty() {
            reasons.push("no address of it is known".to_owned());
        }
        Err(reasons.join("; "))
    }

    /// Checks that the peer at a node's address is that node.
    fn is_whom(&self, whom: &Recipient, lane: Lane, connection: &Connection) -> Result<(), String> {
        let found = connection.node();
        if found.role != Role::Node {
            return Err(format!("{} is no node", found.name));
        }
        if let Some(why) = self.not_worked_with(whom, lane, found) {
            return Err(why);
        }
        match whom {
            Recipient::Named(name) if name.as_str() != found.name.as_str() => {
                let address = connection.remote_address();
                Err(format!("node {} answers at {address}, not node {name}", found.name))
            }
            Recipient::At(_) if found.name.as_str() == self.me.as_str() => {
                Err("this node itself answers there".to_owned())
            }
            _ => Ok(()),
        }
    }
}

fn clients(identity: &Identity) -> Result<(Client, Client), Failure> {
    let client = || {
        Client::new(identity).map_err(|error| {
            Failure::new(
                ExitCode::Crypto,
                "this node's identity cannot be used to reach other nodes",
            )
            .because(chain(&error))
        })
    };
    Ok((client()?, client()?))
}

async fn send<C: Call>(stream: &mut Stream, call: &C, body: Option<&Bytes>) -> Result<(), StreamError> {
    stream.call(call).await?;
    if let Some(body) = body {
        match stream.send_bytes(body).await {
            // A node that refuses takes nothing more of the body: its answer says why, and is there already.
            Err(StreamError::Stopped { .. }) => return Ok(()),
            sent => sent?,
        }
    }
    stream.finish()
}

/// One reply to a request of this kind.
///
/// # Errors
/// The connection is lost, or the node answers with a failure.
pub async fn receive<C: Call>(stream: &mut Stream, whom: &Recipient) -> Result<C::Reply, LinkError> {
    let reply = stream.reply::<C>().await;
    let reply = reply.map_err(|error| unreachable(whom, chain(&error)))?;
    reply.map_err(LinkError::Failed)
}

/// The body that follows a reply.
///
/// # Errors
/// The connection is lost.
pub async fn receive_body(stream: &mut Stream, whom: &Recipient, length: u64, limit: u64) -> Result<Bytes, LinkError> {
    stream
        .recv_bytes(length, usize::try_from(limit).unwrap_or(usize::MAX))
        .await
        .map_err(|error| unreachable(whom, chain(&error)))
}

fn unreachable(whom: &Recipient, why: impl Into<String>) -> LinkError {
    LinkError::Unreachable {
        whom: whom.to_string(),
        why: why.into(),
    }
}

/// A panic of another holder leaves nothing half-changed in these maps: go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
