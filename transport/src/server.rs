//! The listening side.
//!
//! The cost of a client without a certificate is bounded: handshakes under way, their time and their buffers. When half
//! of the handshakes are taken, a client first has to prove that it receives at the address it sends from.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use quinn::{Connection, ConnectionError, Endpoint, crypto::rustls::HandshakeData};
use rustls_pki_types::CertificateDer;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    account::Account,
    certificate::{CertificateError, MemberCertificate},
    guests::Guests,
    identity::Identity,
    joining::Joining,
    lost::CloseCode,
    role::Role,
    session::{Admission, Peer, Session},
    socket,
    stream::StreamError,
    tls::{self, TlsSetupError},
    tuning::{HANDSHAKE_LIMIT, INCOMING_BUFFER, MAX_HANDSHAKES, MAX_INCOMING, MAX_JOINING, MAX_SESSIONS, Rank, Tuning},
    welcome,
    wire_version::{Negotiated, Purpose, WIRE_VERSION, negotiated},
};

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be bound.
    #[error("listening on {address} (UDP): {source}")]
    Socket {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
    /// The identity is not a node's: no client would accept its certificate.
    #[error("only a node may listen, this identity is of the role {role}")]
    NotANode {
        /// The role's word.
        role: &'static str,
    },
    /// The identity is not usable.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
}

/// Why a client was not let in, for the log. The client gets its own message.
#[derive(Debug, thiserror::Error)]
pub enum EstablishError {
    /// The handshake failed, for example by a bad certificate.
    #[error("handshake with {remote}: {source}")]
    Handshake {
        /// The client.
        remote: SocketAddr,
        /// The reason.
        source: ConnectionError,
    },
    /// The handshake took too long.
    #[error("handshake with {remote}: not done within {} s", after.as_secs())]
    Timeout {
        /// The client.
        remote: SocketAddr,
        /// The limit.
        after: Duration,
    },
    /// The client offered only versions of the protocol that this node does not speak.
    #[error("{remote} offers {offered:?}, this program speaks wire protocol {WIRE_VERSION}")]
    Version {
        /// The client.
        remote: SocketAddr,
        /// The protocol that was negotiated.
        offered: String,
    },
    /// The client came as a member and showed no certificate.
    #[error("{remote} shows no certificate")]
    NoCertificate {
        /// The client.
        remote: SocketAddr,
    },
    /// The client's certificate does not name a member.
    #[error("{remote}: {source}")]
    Certificate {
        /// The client.
        remote: SocketAddr,
        /// The reason.
        source: CertificateError,
    },
    /// Too many clients are joining.
    #[error("{remote} wants to join, and {MAX_JOINING} others with good tokens do so now")]
    TooManyJoining {
        /// The client.
        remote: SocketAddr,
    },
    /// The client's account, or all clients together, have as many connections as they may have.
    #[error("{remote}: {reason}")]
    TooManyConnections {
        /// The client.
        remote: SocketAddr,
        /// The client was told so.
        reason: String,
    },
    /// The client went away before the welcome.
    #[error("welcoming {remote}: {source}")]
    Welcome {
        /// The client.
        remote: SocketAddr,
        /// The reason.
        source: StreamError,
    },
}

/// A listening endpoint.
#[derive(Debug)]
pub struct Server {
    endpoint: Endpoint,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tuning: Tuning,
    handshakes: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
    joining: Arc<Joining>,
    guests: Guests,
}

impl Server {
    /// Listens with the measured settings. Port 0 lets the kernel choose. Within a Tokio runtime only.
    ///
    /// # Errors
    /// The address is taken or not ours, or the identity is not a node's.
    pub fn bind(address: SocketAddr, identity: &Identity) -> Result<Self, BindError> {
        Self::bind_with(address, identity, Tuning::default())
    }

    /// Listens with other settings.
    ///
    /// # Errors
    /// Like [`Server::bind`].
    pub fn bind_with(address: SocketAddr, identity: &Identity, tuning: Tuning) -> Result<Self, BindError> {
        let config = quic_config(identity, &tuning)?;
        let endpoint = socket::server_endpoint(address, identity, config, &tuning)
            .map_err(|source| BindError::Socket { address, source })?;
        let shared = Shared {
            tuning,
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            sessions: Arc::new(Semaphore::new(MAX_SESSIONS)),
            joining: Joining::new(MAX_JOINING),
            guests: Guests::default(),
        };
        Ok(Self {
            endpoint,
            shared: Arc::new(shared),
        })
    }

    /// The address that the server listens on.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next client that knocks; `None` after [`Server::close`]. Run [`Incoming::establish`] in a task of its own,
    /// so that a slow client delays no other one.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let incoming = self.endpoint.accept().await?;
            let crowded = self.shared.handshakes.available_permits() < MAX_HANDSHAKES / 2;
            if crowded && incoming.may_retry() && !incoming.remote_address_validated() {
                // Fails only for a validated address.
                let _ = incoming.retry();
                continue;
            }
            let handshake = self.shared.handshakes.clone().try_acquire_owned();
            let session = self.shared.sessions.clone().try_acquire_owned();
            let (Ok(handshake), Ok(session)) = (handshake, session) else {
                tracing::warn!(remote = %incoming.remote_address(), "too many connections: refused");
                incoming.refuse();
                continue;
            };
            return Some(Incoming {
                inner: incoming,
                handshake,
                session,
                shared: self.shared.clone(),
            });
        }
    }

    /// Uses a renewed identity for connections from now on; open connections stay.
    ///
    /// # Errors
    /// The identity is not usable or not a node's.
    pub fn replace_identity(&self, identity: &Identity) -> Result<(), BindError> {
        self.endpoint
            .set_server_config(Some(quic_config(identity, &self.shared.tuning)?));
        Ok(())
    }

    /// Connections that are open or under way.
    pub fn open_connections(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Closes all connections, tells the clients that this node is shutting down, and waits until that is sent, for at
    /// most `limit`.
    pub async fn close(&self, limit: Duration) {
        self.endpoint
            .close(CloseCode::SHUTTING_DOWN.0.into(), b"the node is shutting down");
        // Clients that have not acknowledged the end by then notice it by themselves.
        let _ = timeout(limit, self.endpoint.wait_idle()).await;
    }
}

fn quic_config(identity: &Identity, tuning: &Tuning) -> Result<quinn::ServerConfig, BindError> {
    if *identity.role() != Role::Node {
        return Err(BindError::NotANode {
            role: identity.role().kind(),
        });
    }
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls::server_config(identity)?));
    let (one, all) = INCOMING_BUFFER;
    config
        .transport_config(tuning.server())
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(one)
        .incoming_buffer_size_total(all);
    Ok(config)
}

/// A client that knocks; nothing of it has been checked.
#[derive(Debug)]
pub struct Incoming {
    inner: quinn::Incoming,
    handshake: OwnedSemaphorePermit,
    session: OwnedSemaphorePermit,
    shared: Arc<Shared>,
}

impl Incoming {
    /// The client's address, as its packets have it.
    pub fn remote_address(&self) -> SocketAddr {
        self.inner.remote_address()
    }

    /// Whether the client has proved that it receives at that address.
    pub fn has_proved_its_address(&self) -> bool {
        self.inner.remote_address_validated()
    }

    /// Does the handshake, decides whether the client is let in, and tells it the decision.
    ///
    /// # Errors
    /// The client is not let in, or the handshake took longer than its limit.
    pub async fn establish(self) -> Result<Session, EstablishError> {
        let remote = self.inner.remote_address();
        let establishing = establish(self.inner, &self.shared, self.session);
        let result = timeout(HANDSHAKE_LIMIT, establishing).await;
        drop(self.handshake);
        result.unwrap_or(Err(EstablishError::Timeout {
            remote,
            after: HANDSHAKE_LIMIT,
        }))
    }
}

async fn establish(
    incoming: quinn::Incoming,
    shared: &Shared,
    permit: OwnedSemaphorePermit,
) -> Result<Session, EstablishError> {
    let remote = incoming.remote_address();
    let handshake_error = |source| EstablishError::Handshake { remote, source };
    let connection = incoming
        .accept()
        .map_err(handshake_error)?
        .await
        .map_err(handshake_error)?;
    let peer = admit(&connection, remote)?;
    let (mut place, mut guest) = (None, None);
    match &peer {
        Peer::Member(member) => {
            guest = shared.guests.admit(Account::of_role(&member.role)).map_err(|full| {
                close(&connection, CloseCode::BUSY, &full.reason);
                let reason = full.reason;
                EstablishError::TooManyConnections { remote, reason }
            })?;
            let rank = guest.as_ref().map_or(Rank::Wide, |guest| guest.rank());
            shared.tuning.admit_member(&connection, rank);
        }
        Peer::Joining => {
            let Some((taken, gone)) = shared.joining.take(&connection) else {
                close(&connection, CloseCode::BUSY, "too many are joining at the moment");
                return Err(EstablishError::TooManyJoining { remote });
            };
            if let Some(gone) = gone {
                close(
                    &gone,
                    CloseCode::BUSY,
                    "others are joining, and this connection has shown no token",
                );
            }
            place = Some(Arc::new(taken));
        }
    }
    welcome::send(&connection)
        .await
        .map_err(|source| EstablishError::Welcome { remote, source })?;
    let admission = Admission {
        tuning: shared.tuning.clone(),
        place,
        guest,
    };
    Ok(Session::new(connection, peer, permit, admission))
}

/// The client's identity, from the negotiated protocol and the verified certificate. A client that is refused has been
/// told the reason.
fn admit(connection: &Connection, remote: SocketAddr) -> Result<Peer, EstablishError> {
    let alpn = connection
        .handshake_data()
        .and_then(|data| data.downcast::<HandshakeData>().ok())
        .and_then(|data| data.protocol)
        .unwrap_or_default();
    let purpose = match negotiated(&alpn) {
        Negotiated::Spoken(purpose) => purpose,
        Negotiated::Foreign => {
            let reason = format!("this node speaks pgmesh wire protocol {WIRE_VERSION}");
            close(connection, CloseCode::speaks(WIRE_VERSION), &reason);
            return Err(EstablishError::Version {
                remote,
                offered: String::from_utf8_lossy(&alpn).into_owned(),
            });
        }
    };
    match (purpose, shown_certificate(connection)) {
        // A client that comes to join is no member yet, even if it shows a certificate.
        (Purpose::Join, _) => Ok(Peer::Joining),
        (Purpose::Member, None) => {
            close(
                connection,
                CloseCode::NO_CERTIFICATE,
                "a certificate of this mesh is needed: join it first",
            );
            Err(EstablishError::NoCertificate { remote })
        }
        (Purpose::Member, Some(certificate)) => {
            let member = MemberCertificate::parse(&certificate).map_err(|source| {
                close(
                    connection,
                    CloseCode::FORBIDDEN,
                    "the certificate does not say who you are",
                );
                EstablishError::Certificate { remote, source }
            })?;
            Ok(Peer::Member(Arc::new(member)))
        }
    }
}

fn shown_certificate(connection: &Connection) -> Option<CertificateDer<'static>> {
    let chain = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    chain.into_iter().next()
}

fn close(connection: &Connection, code: CloseCode, reason: &str) {
    connection.close(code.0.into(), reason.as_bytes());
}
