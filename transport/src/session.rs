//! A connection as the server sees it.

use pgmesh_runtime::tasks;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use pgmesh_storage::StanzaName;
use tokio::{sync::OwnedSemaphorePermit, task::JoinHandle, time::Instant, time::timeout};

use crate::{
    account::Account,
    certificate::MemberCertificate,
    guests::Guest,
    joining::JoinPlace,
    liveness::ConnectionEnd,
    lost::{CloseCode, ConnectionLost},
    role::Role,
    stream::Stream,
    tuning::{JOIN_LIFETIME, Rank, TOKEN_LIMIT, Tuning},
};

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A member, by its verified certificate.
    Member(Arc<MemberCertificate>),
    /// A client that may redeem a join token, and do nothing else.
    Joining,
}

impl Peer {
    /// The member, if it is one.
    pub fn member(&self) -> Option<&MemberCertificate> {
        match self {
            Self::Member(member) => Some(member),
            Self::Joining => None,
        }
    }

    /// Whether the peer may see what there is of this stanza.
    pub fn may_see(&self, stanza: &StanzaName) -> bool {
        self.member().is_some_and(|member| member.role.may_see(stanza))
    }

    /// The account under which the peer's use of the node counts. A peer without a certificate has one stream and one
    /// small message: it is counted with monitors.
    pub fn account(&self) -> Account {
        self.member()
            .map_or(Account::Monitors, |member| Account::of_role(&member.role))
    }

    /// Whether the peer is another node.
    pub fn is_node(&self) -> bool {
        self.member().is_some_and(|member| member.role == Role::Node)
    }

    /// Whether the peer is an administrator.
    pub fn is_admin(&self) -> bool {
        self.member().is_some_and(|member| member.role == Role::Admin)
    }
}

/// An established connection. It closes when the session and its streams are dropped.
#[derive(Debug)]
pub struct Session {
    connection: quinn::Connection,
    peer: Peer,
    fate: Arc<ConnectionEnd>,
    end: Option<JoinHandle<()>>,
    place: Option<Arc<JoinPlace>>,
    guest: Option<Arc<Guest>>,
    /// The rank by which the connection's windows were set.
    rank: Mutex<Rank>,
    tuning: Tuning,
    _permit: OwnedSemaphorePermit,
}

/// What a connection was admitted as.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) tuning: Tuning,
    /// Its place among those that join.
    pub(crate) place: Option<Arc<JoinPlace>>,
    /// Its place among those of its account.
    pub(crate) guest: Option<Arc<Guest>>,
}

impl Session {
    pub(crate) fn new(
        connection: quinn::Connection,
        peer: Peer,
        permit: OwnedSemaphorePermit,
        Admission { tuning, place, guest }: Admission,
    ) -> Self {
        let ends = place
            .as_ref()
            .map(|place| end_joining(connection.clone(), Arc::downgrade(place)));
        let end = ends.map(|ends| tasks::spawn("ending a joining connection", ends));
        Self {
            connection,
            peer,
            fate: Arc::default(),
            end,
            place,
            rank: Mutex::new(guest.as_ref().map_or(Rank::Wide, |guest| guest.rank())),
            guest,
            tuning,
            _permit: permit,
        }
    }

    /// The client at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Its place among those that join; none for a member.
    pub fn join_place(&self) -> Option<&Arc<JoinPlace>> {
        self.place.as_ref()
    }

    /// The client's address.
    pub fn remote_address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// The measured round-trip time.
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// The next stream that the client opens. Cancel-safe.
    ///
    /// # Errors
    /// The connection has ended; [`ConnectionLost::is_orderly`] tells whether that is worth a log line.
    pub async fn accept_stream(&self) -> Result<Stream, ConnectionLost> {
        let halves = self
            .connection
            .accept_bi()
            .await
            .map_err(|error| self.fate.lost(error))?;
        if let Some(guest) = &self.guest {
            self.rise(guest);
        }
        Ok(Stream::new(halves, &self.fate).of_guest(self.guest.clone()))
    }

    /// Widens the windows where older connections of the account have ended.
    fn rise(&self, guest: &Guest) {
        let mut rank = self.rank.lock().unwrap_or_else(PoisonError::into_inner);
        if *rank == Rank::Wide {
            return;
        }
        let now = guest.rank();
        if now > *rank {
            self.tuning.admit_member(&self.connection, now);
            *rank = now;
        }
    }

    /// Waits for the connection's end.
    pub async fn closed(&self) -> ConnectionLost {
        self.fate.lost(self.connection.closed().await)
    }

    /// Closes the connection with a reason that the client shows. Data that is not yet delivered is lost.
    pub fn close(&self, code: CloseCode, reason: &str) {
        self.connection.close(code.0.into(), reason.as_bytes());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(end) = &self.end {
            end.abort();
        }
    }
}

/// Closes a connection that shows no token, and any when joining takes too long.
async fn end_joining(connection: quinn::Connection, place: Weak<JoinPlace>) {
    let began = Instant::now();
    while began.elapsed() < JOIN_LIFETIME {
        if timeout(TOKEN_LIMIT, connection.closed()).await.is_ok() {
            return;
        }
        if place.upgrade().is_none_or(|place| place.is_idle()) {
            connection.close(CloseCode::JOIN_EXPIRED.0.into(), b"no token was shown in time");
            return;
        }
    }
    connection.close(CloseCode::JOIN_EXPIRED.0.into(), b"joining took too long");
}
