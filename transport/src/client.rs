//! The dialling side.

use pgmesh_runtime::clock;
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use quinn::{ConnectionError, Endpoint, TransportErrorCode, crypto::rustls::QuicClientConfig};
use tokio::{
    net::lookup_host,
    time::{sleep, timeout},
};

use crate::{
    certificate::{Fingerprint, SERVER_NAME},
    connection::Connection,
    identity::Identity,
    liveness::is_refused,
    lost::{self, CloseCode, ConnectionLost},
    name::{MemberName, MeshId},
    socket::client_endpoint,
    stream::StreamError,
    tls::{self, MemberClientConfig, NodeCertificateProblem, TlsSetupError, Verdict},
    tuning::{CONNECT_LIMIT, Tuning},
    welcome::{self, Welcome},
    wire_version::WIRE_VERSION,
};

/// Addresses of one host name that are tried.
const MAX_ADDRESSES: usize = 8;

/// If an address has not answered for this long, the next one is tried (RFC 8305 calls it the attempt delay).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address, or is not `host:port`.
    #[error("resolving {address}: {source}")]
    Resolve {
        /// The address that was dialled.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// This machine cannot send to the address.
    #[error("connecting to {address}: {source}")]
    Socket {
        /// The address that was dialled.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The host is up, but no process listens on the port.
    #[error("connecting to {address}: nobody listens there: is the node running?")]
    Refused {
        /// The address that was dialled.
        address: String,
    },
    /// No answer.
    #[error("connecting to {address}: no answer within {} s: is the node running, and does a firewall pass UDP?", after.as_secs())]
    Timeout {
        /// The address that was dialled.
        address: String,
        /// The limit.
        after: Duration,
    },
    /// We do not accept the node's certificate.
    #[error("not trusting the node at {address}: {problem}")]
    NodeCertificate {
        /// The address that was dialled.
        address: String,
        /// Why.
        problem: NodeCertificateProblem,
    },
    /// The node does not accept our certificate.
    #[error("the node at {address} does not accept this certificate: {reason}: join the mesh again if it should")]
    Rejected {
        /// The address that was dialled.
        address: String,
        /// The node's reason.
        reason: String,
        /// The certificate is valid, but the mesh has shut its member out.
        is_shut_out: bool,
    },
    /// Our own certificate is no longer valid.
    #[error("the certificate of {name} in mesh {mesh_id} has expired: join the mesh again")]
    Expired {
        /// Our name.
        name: MemberName,
        /// Our mesh.
        mesh_id: MeshId,
    },
    /// The node speaks another wire protocol.
    #[error(
        "the node at {address} speaks pgmesh wire protocol {node_speaks}, this program {WIRE_VERSION}: use the same version of pgmesh on both"
    )]
    Version {
        /// The address that was dialled.
        address: String,
        /// The node's version.
        node_speaks: u16,
    },
    /// The listening program is no pgmesh node.
    #[error(
        "the server at {address} is not a pgmesh node, or runs a version of pgmesh that this program does not know"
    )]
    NotPgmesh {
        /// The address that was dialled.
        address: String,
    },
    /// The node takes no more connections.
    #[error("the node at {address} takes no more connections at the moment")]
    Busy {
        /// The address that was dialled.
        address: String,
    },
    /// The connection broke before it was accepted.
    #[error("connecting to {address}: {source}")]
    Lost {
        /// The address that was dialled.
        address: String,
        /// The reason.
        source: StreamError,
    },
    /// The identity is not usable.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
}

impl ConnectError {
    /// Whether the node's certificate is of an authority that this host does not know.
    #[must_use]
    pub fn is_other_authority(&self) -> bool {
        let problem = match self {
            Self::NodeCertificate { problem, .. } => problem,
            _ => return false,
        };
        matches!(problem, NodeCertificateProblem::OtherMesh { .. })
    }

    /// Whether no node answered: the name, the network, the host or the port gave no connection.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        matches!(
            self,
            Self::Resolve { .. } | Self::Socket { .. } | Self::Refused { .. } | Self::Timeout { .. }
        )
    }

    /// The node's words, if it has shut this member out of the mesh.
    pub fn shut_out(&self) -> Option<&str> {
        match self {
            Self::Rejected {
                reason,
                is_shut_out: true,
                ..
            } => Some(reason),
            // The node closed the connection just after it was made.
            Self::Lost {
                source: StreamError::Lost(ConnectionLost::ClosedByPeer { code, reason }),
                ..
            } if *code == CloseCode::FORBIDDEN => Some(reason),
            _ => None,
        }
    }

    /// Whether our own certificate has ended, by our own clock.
    pub fn has_expired(&self) -> bool {
        matches!(self, Self::Expired { .. })
    }

    /// Whether the same request may succeed later or at another node; if not, an administrator has to change something.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Resolve { .. }
            | Self::Socket { .. }
            | Self::Refused { .. }
            | Self::Timeout { .. }
            | Self::Busy { .. }
            | Self::Lost { .. } => true,
            Self::NodeCertificate { .. }
            | Self::Rejected { .. }
            | Self::Expired { .. }
            | Self::Version { .. }
            | Self::NotPgmesh { .. }
            | Self::Tls(_) => false,
        }
    }
}

/// Dials nodes of its mesh. Clones share their sockets.
#[derive(Clone)]
pub struct Client {
    config: MemberClientConfig,
    dialler: Arc<Dialler>,
    identity: Arc<Identity>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client with the measured settings. No socket is opened yet.
    ///
    /// # Errors
    /// The identity is not usable.
    pub fn new(identity: &Identity) -> Result<Self, ConnectError> {
        Self::with(identity, Tuning::default())
    }

    /// A client with other settings.
    ///
    /// # Errors
    /// The identity is not usable.
    pub fn with(identity: &Identity, tuning: Tuning) -> Result<Self, ConnectError> {
        Ok(Self {
            config: MemberClientConfig::new(identity)?,
            dialler: Arc::new(Dialler::new(tuning)),
            identity: Arc::new(identity.clone()),
        })
    }

    /// The member that dials.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Connects to `host:port` anew; returns once both sides have accepted each other, within [`CONNECT_LIMIT`]. All
    /// addresses of the host are tried, the next one when the one before keeps silent. Within a Tokio runtime only.
    ///
    /// # Errors
    /// No node answers, or one side does not accept the other.
    pub async fn connect(&self, address: &str) -> Result<Connection, ConnectError> {
        if clock::now_unix() > self.identity.expires_at() {
            let (name, mesh_id) = (self.identity.name().clone(), self.identity.mesh_id().clone());
            return Err(ConnectError::Expired { name, mesh_id });
        }
        self.dial(address).await
    }

    /// Connects without a look at the own certificate's validity: the node checks it.
    pub(crate) async fn dial(&self, address: &str) -> Result<Connection, ConnectError> {
        self.dialler.connect(address, &|| self.config.for_connection()).await
    }

    /// Closes all connections and waits until the nodes know, for at most `limit`: before a process exits.
    pub async fn close(&self, limit: Duration) {
        self.dialler.close(limit).await;
    }
}

/// Dials a node for a process that has no certificate yet.
#[derive(Debug)]
pub struct JoinClient;

impl JoinClient {
    /// Connects to `host:port`, and trusts only a node of the mesh whose authority has this fingerprint. The node
    /// bounds the connection: one stream at a time, for 30 s.
    ///
    /// # Errors
    /// Like [`Client::connect`].
    pub async fn connect(address: &str, ca_fingerprint: Fingerprint) -> Result<Connection, ConnectError> {
        let dialler = Dialler::new(Tuning::default());
        dialler
            .connect(address, &|| tls::join_client_config(ca_fingerprint))
            .await
    }
}

type MakeConfig<'a> = &'a (dyn Fn() -> Result<(QuicClientConfig, Verdict), TlsSetupError> + Sync);

/// One endpoint for each family of addresses, opened at its first use.
struct Dialler {
    tuning: Tuning,
    endpoints: [Mutex<Option<Endpoint>>; 2],
}

impl Dialler {
    fn new(tuning: Tuning) -> Self {
        Self {
            tuning,
            endpoints: Default::default(),
        }
    }

    fn endpoint(&self, ipv6: bool) -> io::Result<Endpoint> {
        let [ipv4_endpoint, ipv6_endpoint] = &self.endpoints;
        let slot = if ipv6 { ipv6_endpoint } else { ipv4_endpoint };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(endpoint) => Ok(endpoint.clone()),
            None => Ok(slot.insert(client_endpoint(ipv6, &self.tuning)?).clone()),
        }
    }

    async fn close(&self, limit: Duration) {
        for slot in &self.endpoints {
            let endpoint = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(endpoint) = endpoint {
                endpoint.close(CloseCode::DONE.0.into(), b"done");
                let _ = timeout(limit, endpoint.wait_idle()).await;
            }
        }
    }

    async fn connect(&self, address: &str, make: MakeConfig<'_>) -> Result<Connection, ConnectError> {
        let too_slow = || ConnectError::Timeout {
            address: address.to_owned(),
            after: CONNECT_LIMIT,
        };
        timeout(CONNECT_LIMIT, self.race(address, make))
            .await
            .unwrap_or_else(|_| Err(too_slow()))
    }

    /// Tries the addresses of a name, each a little later than the one before; the first that is accepted wins.
    async fn race(&self, address: &str, make: MakeConfig<'_>) -> Result<Connection, ConnectError> {
        let resolve_error = |source| ConnectError::Resolve {
            address: address.to_owned(),
            source,
        };
        let resolved = lookup_host(address).await.map_err(resolve_error)?;
        let mut delay = Duration::ZERO;
        let mut attempts = FuturesUnordered::new();
        for remote in resolved.take(MAX_ADDRESSES) {
            attempts.push(async move {
                sleep(delay).await;
                self.dial(address, remote, make).await
            });
            delay += ATTEMPT_DELAY;
        }
        let mut worst: Option<ConnectError> = None;
        while let Some(result) = attempts.next().await {
            match result {
                Ok(connection) => return Ok(connection),
                // An error that needs an action is reported rather than the silence of another address.
                Err(error) if worst.as_ref().is_none_or(|known| known.is_transient()) => worst = Some(error),
                Err(_) => {}
            }
        }
        Err(worst.unwrap_or_else(|| resolve_error(io::Error::other("the name has no address"))))
    }

    async fn dial(&self, address: &str, remote: SocketAddr, make: MakeConfig<'_>) -> Result<Connection, ConnectError> {
        let (crypto, verdict) = make()?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.tuning.client());
        let socket_error = |source| ConnectError::Socket {
            address: address.to_owned(),
            source,
        };
        let endpoint = self.endpoint(remote.is_ipv6()).map_err(socket_error)?;
        let connecting = endpoint
            .connect_with(config, remote, SERVER_NAME)
            .map_err(|error| socket_error(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        tokio::select! {
            result = shake_hands(connecting) => {
                let (connection, welcome) = result.map_err(|failure| failure.in_words(address, &verdict))?;
                let unusable = |error| NodeCertificateProblem::Unacceptable(format!("{error}"));
                Connection::new(connection, welcome).map_err(|error| ConnectError::NodeCertificate {
                    address: address.to_owned(),
                    problem: unusable(error),
                })
            }
            () = refused(remote) => Err(ConnectError::Refused { address: address.to_owned() }),
        }
    }
}

/// Returns only if the host answers that no process listens on the port.
async fn refused(remote: SocketAddr) {
    if !is_refused(remote).await {
        std::future::pending::<()>().await;
    }
}

async fn shake_hands(connecting: quinn::Connecting) -> Result<(quinn::Connection, Welcome), Failure> {
    let connection = connecting.await.map_err(Failure::Quic)?;
    match welcome::receive(&connection).await {
        Ok(welcome) => Ok((connection, welcome)),
        // The reason of the connection's end is more precise than the stream's.
        Err(error) => Err(connection.close_reason().map_or(Failure::Welcome(error), Failure::Quic)),
    }
}

/// A failed handshake, before the verifier's verdict is taken into account.
enum Failure {
    Quic(ConnectionError),
    Welcome(StreamError),
}

impl Failure {
    fn in_words(self, address: &str, verdict: &Verdict) -> ConnectError {
        let address = address.to_owned();
        if let Some(problem) = verdict.get() {
            return ConnectError::NodeCertificate {
                address,
                problem: problem.clone(),
            };
        }
        let error = match self {
            Self::Quic(ConnectionError::VersionMismatch) => return ConnectError::NotPgmesh { address },
            Self::Quic(ConnectionError::ConnectionClosed(close))
                if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
            {
                return ConnectError::Busy { address };
            }
            Self::Quic(error) => ConnectionLost::from(error),
            Self::Welcome(source) => return ConnectError::Lost { address, source },
        };
        match error {
            ConnectionLost::Silent => ConnectError::Timeout {
                address,
                after: CONNECT_LIMIT,
            },
            ConnectionLost::Refused {
                alert: Some(lost::ALERT_NO_APPLICATION_PROTOCOL),
                ..
            } => ConnectError::NotPgmesh { address },
            ConnectionLost::Refused {
                alert: Some(alert),
                reason,
            } if lost::is_certificate_alert(alert) => ConnectError::Rejected {
                address,
                reason,
                is_shut_out: false,
            },
            ConnectionLost::ClosedByPeer { code, reason } => match code.spoken_version() {
                Some(node_speaks) => ConnectError::Version { address, node_speaks },
                None if matches!(code, CloseCode::NO_CERTIFICATE | CloseCode::FORBIDDEN) => ConnectError::Rejected {
                    address,
                    reason,
                    is_shut_out: code == CloseCode::FORBIDDEN,
                },
                None if code == CloseCode::BUSY => ConnectError::Busy { address },
                None => ConnectError::Lost {
                    address,
                    source: ConnectionLost::ClosedByPeer { code, reason }.into(),
                },
            },
            lost => ConnectError::Lost {
                address,
                source: lost.into(),
            },
        }
    }
}
