//! This host's way to the mesh: requests and replies over the nearest node that does its work.
//!
//! ```text
//! access ─► candidates ◄─ cache          the nodes, in the order to ask them
//!              │
//!            race ─► link                the first node that answers
//!              │
//!            Mesh: a request, repeated by `retry` over another link until it is answered
//! ```
//!
//! A node that dies is replaced in the middle of any work. The session of a backup or restore goes along (`sessions`).

mod access;
mod cache;
mod candidates;
mod dial;
mod inventory;
mod link;
mod nodes;
mod probe;
mod race;
mod renewal;
mod retry;
mod send_parts;
mod sessions;
#[cfg(test)]
mod tests;
mod wal_file;

pub use access::AccessSettings;
pub use candidates::Ways;
pub use inventory::Backups;
pub use probe::Probed;
pub use renewal::renew_if_due;
pub(crate) use send_parts::PartedFile;
pub(crate) use sessions::restore_of;
pub(crate) use wal_file::{Archived, WantedFile};

use crate::activity::Activity;
use bytes::Bytes;
use link::{Link, reply};
use nodes::{Nodes, Reached};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{Call, CommitBackup, ExitCode, Failure, Hello, MeshFacts};
use pgmesh_storage::DigestSuite;
use pgmesh_transport::tuning::STALL_LIMIT;
use pgmesh_transport::{Client, Identity};
use retry::Retry;
use sessions::HeldSession;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// A node may be silent for so long, at least.
const LEAST_SILENCE: Duration = Duration::from_secs(2);

/// How often one object is asked for again because its copy was bad: more often than a mesh has repositories.
pub(crate) const BAD_COPIES: usize = 8;

/// A way to the mesh.
pub struct Mesh {
    client: Client,
    access: AccessSettings,
    nodes: Nodes,
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
    facts: std::sync::OnceLock<MeshFacts>,
    /// The backup or restore under way.
    session: Mutex<Option<HeldSession>>,
    activity: Arc<Activity>,
    opened: Instant,
}

/// A message of [`Mesh::events`].
pub enum Heard<E> {
    /// The request was sent, perhaps once more: all earlier events are void.
    Begun,
    /// An event.
    Event(E),
}

/// A request that failed, and where.
struct Failed {
    failure: Failure,
    link: Option<Arc<Link>>,
}

impl Mesh {
    /// Connects with this host's identity: a PG host's from `identity-path`, or the administrator's of a node.
    ///
    /// # Errors
    /// No identity (95), or no node answers (49).
    ///
    /// ```no_run
    /// use pgmesh_client::mesh::{AccessSettings, Mesh};
    /// use pgmesh_protocol::{Failure, ListNodes};
    ///
    /// async fn names(access: AccessSettings) -> Result<Vec<String>, Failure> {
    ///     let mesh = Mesh::connect(access).await?;
    ///     let nodes = mesh.call(&ListNodes).await?;
    ///     Ok(nodes.into_iter().map(|node| node.name).collect())
    /// }
    /// ```
    pub async fn connect(access: AccessSettings) -> Result<Self, Failure> {
        let mesh = Self::open(access)?;
        mesh.greet().await?;
        Ok(mesh)
    }

    /// Like [`Self::connect`], without asking a node yet.
    ///
    /// # Errors
    /// As there, save that no node is asked.
    pub fn open(access: AccessSettings) -> Result<Self, Failure> {
        let identity = access.identity()?;
        Self::with(access, &identity)
    }

    fn with(access: AccessSettings, identity: &Identity) -> Result<Self, Failure> {
        let client = Client::new(identity)
            .map_err(|error| Failure::new(ExitCode::Crypto, "this host cannot connect").because(chain(&error)))?;
        let mesh = identity.mesh_id().to_string();
        Ok(Self {
            client,
            nodes: Nodes::open(access.directory.clone(), mesh, access.ways.clone()),
            access,
            link: tokio::sync::Mutex::new(None),
            facts: std::sync::OnceLock::new(),
            session: Mutex::new(None),
            activity: Arc::default(),
            opened: Instant::now(),
        })
    }

    /// Asks a node for the mesh's facts, and remembers the mesh's nodes; once.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn greet(&self) -> Result<&MeshFacts, Failure> {
        if let Some(facts) = self.facts.get() {
            return Ok(facts);
        }
        let mut retry = Retry::new(self.access.greeting);
        let facts: MeshFacts = loop {
            match self.attempt(&Hello, None, &|_: &MeshFacts| None).await {
                Ok(((facts, _), link)) => {
                    self.nodes.learn(&facts.nodes, reached(&link));
                    break facts;
                }
                Err(failed) if self.is_late() => return Err(failed.failure),
                Err(failed) => self.settle::<Hello>(&mut retry, failed).await?,
            }
        };
        Ok(self.facts.get_or_init(|| facts))
    }

    /// This host's identity.
    pub fn identity(&self) -> &Identity {
        self.client.identity()
    }

    /// How digests are made in this mesh.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn suite(&self) -> Result<DigestSuite, Failure> {
        Ok(self.greet().await?.suite)
    }

    /// A request without a body, and its reply.
    ///
    /// # Errors
    /// The node's failure, or that no node could be asked for as long as the configuration allows.
    pub async fn call<C: Call>(&self, call: &C) -> Result<C::Reply, Failure> {
        self.exchange(call, None, |_| None).await.map(|(answer, _)| answer)
    }

    /// A request with a body, and its reply.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn send<C: Call>(&self, call: &C, body: &Bytes) -> Result<C::Reply, Failure> {
        self.exchange(call, Some(body), |_| None)
            .await
            .map(|(answer, _)| answer)
    }

    /// A request, its reply, and the body that follows where `body_length` says that one does.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn fetch<C: Call>(
        &self,
        call: &C,
        body_length: impl Fn(&C::Reply) -> Option<u64>,
    ) -> Result<(C::Reply, Option<Bytes>), Failure> {
        self.exchange(call, None, body_length).await
    }

    /// A request that is answered by events, each a reply, until `hear` breaks. A failure that `hear` breaks with
    /// counts like a failure of the request.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn events<C: Call>(
        &self,
        call: &C,
        mut hear: impl FnMut(Heard<C::Reply>) -> ControlFlow<Result<(), Failure>>,
    ) -> Result<(), Failure> {
        let mut retry = Retry::new(self.access.limit);
        loop {
            match self.attempt_events(call, &mut retry, &mut hear).await {
                Ok(()) => return Ok(()),
                Err(failed) => self.settle::<C>(&mut retry, failed).await?,
            }
        }
    }

    async fn exchange<C: Call>(
        &self,
        call: &C,
        body: Option<&Bytes>,
        body_length: impl Fn(&C::Reply) -> Option<u64>,
    ) -> Result<(C::Reply, Option<Bytes>), Failure> {
        let mut retry = Retry::new(self.access.limit);
        loop {
            match self.attempt(call, body, &body_length).await {
                Ok((answer, _)) => return Ok(answer),
                Err(failed) if self.is_late() => return Err(failed.failure),
                Err(failed) => self.settle::<C>(&mut retry, failed).await?,
            }
        }
    }

    /// For how long a node may be silent, where the request must end in time: so that another node can be asked. A node
    /// may be alive and stuck, and no other limit ends the wait. If the stuck node has carried the request out, the
    /// repetition has no second effect.
    fn silence(&self) -> Option<Duration> {
        let left = self.access.limit.saturating_sub(self.opened.elapsed());
        self.access
            .ends_in_time
            .then(|| (left / 2).clamp(LEAST_SILENCE, STALL_LIMIT))
    }

    /// Whether PostgreSQL has waited for long enough.
    fn is_late(&self) -> bool {
        self.access.ends_in_time && self.opened.elapsed() >= self.access.limit
    }

    async fn attempt<C: Call>(
        &self,
        call: &C,
        body: Option<&Bytes>,
        body_length: &impl Fn(&C::Reply) -> Option<u64>,
    ) -> Result<((C::Reply, Option<Bytes>), Arc<Link>), Failed> {
        let link = self.ready::<C>().await?;
        match link.exchange(call, body, body_length, self.silence()).await {
            Ok(answer) => Ok((answer, link)),
            Err(failure) => Err(Failed::at(link, failure)),
        }
    }

    async fn attempt_events<C: Call>(
        &self,
        call: &C,
        retry: &mut Retry,
        hear: &mut impl FnMut(Heard<C::Reply>) -> ControlFlow<Result<(), Failure>>,
    ) -> Result<(), Failed> {
        let link = self.ready::<C>().await?;
        let mut stream = match link.ask(call, None).await {
            Ok(stream) => stream,
            Err(failure) => return Err(Failed::at(link, failure)),
        };
        let mut heard = Heard::Begun;
        loop {
            if let ControlFlow::Break(end) = hear(heard) {
                return end.map_err(|failure| Failed::at(link, failure));
            }
            match reply::<C>(&mut stream).await {
                Ok(event) => heard = Heard::Event(event),
                Err(failure) => return Err(Failed::at(link, failure)),
            }
            retry.progress();
        }
    }

    /// A link for a request. If this process has a backup session, the link has taken it up.
    async fn ready<C: Call>(&self) -> Result<Arc<Link>, Failed> {
        let link = self.link().await.map_err(|failure| Failed { failure, link: None })?;
        let session = self.needed_session();
        if let Some(session) = session
            && let Err(failure) = link.take_up(session, || self.next_move(session)).await
        {
            // A commit ends the session: whether it has, its repetition answers best.
            if failure.again || C::NUMBER != CommitBackup::NUMBER {
                return Err(Failed::at(link, failure));
            }
            tracing::debug!(
                "{failure}; the commit is repeated: only its answer tells whether the first attempt succeeded"
            );
        }
        Ok(link)
    }

    /// After a failure: waits until it is time to try again, or tells it.
    async fn settle<C: Call>(&self, retry: &mut Retry, failed: Failed) -> Result<(), Failure> {
        let Failed { failure, link } = failed;
        let repeat = match link::is_busy(&failure) {
            true => Some(retry.after_busy()),
            false => retry.after(&failure, Instant::now()),
        };
        let Some(repeat) = repeat else {
            return Err(failure);
        };
        match link.as_deref() {
            Some(link) if link::is_busy(&failure) => {
                tracing::warn!(node = link.node(), "{failure}; {} is tried again", C::NAME)
            }
            Some(link) => tracing::info!(node = link.node(), "{failure}; {} is tried again", C::NAME),
            // A long wait is explained to the user.
            None if retry.begins_a_long_wait() => tracing::warn!("{failure}; waiting for a node"),
            None => tracing::debug!("{failure}; waiting for a node"),
        }
        if let Some(link) = link.filter(|_| repeat.elsewhere) {
            self.leave(&link).await;
        }
        tokio::time::sleep(repeat.pause).await;
        Ok(())
    }

    /// The next request goes elsewhere.
    async fn leave(&self, link: &Arc<Link>) {
        let mut kept = self.link.lock().await;
        // Of several requests that failed on it, the first says so.
        if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, link)) {
            kept.take();
            self.nodes.failed(link.node());
        }
    }

    async fn link(&self) -> Result<Arc<Link>, Failure> {
        let mut kept = self.link.lock().await;
        if let Some(link) = kept.as_ref() {
            let Some(lost) = link.connection.lost() else {
                return Ok(link.clone());
            };
            tracing::info!("lost the connection to node {}: {lost}", link.node());
            self.nodes.failed(link.node());
        }
        kept.take();
        let link = Arc::new(self.dial().await?);
        tracing::debug!("connected to node {} at {}", link.node(), link.address);
        Ok(kept.insert(link).clone())
    }
}

impl Failed {
    fn at(link: Arc<Link>, failure: Failure) -> Self {
        let link = Some(link);
        Self { failure, link }
    }
}

fn reached(link: &Link) -> Reached<'_> {
    Reached {
        name: link.node(),
        address: &link.address,
        round_trip: link.connection.rtt(),
    }
}
