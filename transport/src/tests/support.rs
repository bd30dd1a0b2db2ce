//! A mesh for a test, clients and servers that do not play by its rules, and a wire that can be cut.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{RootCertStore, version::TLS13};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::{net::UdpSocket, sync::mpsc};

use crate::{
    Client, EstablishError, Identity, KeyRequest, MeshCa, MeshId, Role, Server, Session, socket, tls, tuning::Tuning,
};

pub(super) const YEAR: Duration = Duration::from_secs(365 * 86_400);

pub(super) struct Mesh {
    pub(super) ca: MeshCa,
}

impl Mesh {
    pub(super) fn new() -> Self {
        Self {
            ca: MeshCa::create(MeshId::random().unwrap()).unwrap(),
        }
    }

    pub(super) fn identity(&self, role: &Role, name: &str) -> Identity {
        self.ca.issue(role, &name.parse().unwrap(), YEAR).unwrap()
    }

    pub(super) fn node(&self) -> Identity {
        self.identity(&Role::Node, "node1")
    }

    pub(super) fn client(&self) -> Identity {
        self.identity(
            &Role::Client {
                stanzas: vec!["main".parse().unwrap()],
            },
            "db1",
        )
    }

    /// An identity whose validity ended an hour ago.
    pub(super) fn expired(&self, role: &Role) -> Identity {
        let (request, now) = (KeyRequest::generate().unwrap(), OffsetDateTime::now_utc());
        let (start, end) = (now - time::Duration::hours(2), now - time::Duration::hours(1));
        let csr = request.csr_der().unwrap();
        let der = self
            .ca
            .sign_between(&csr, role, &"late".parse().unwrap(), start, end)
            .unwrap();
        request
            .into_identity(self.ca.certificate_der(), &der, self.ca.fingerprint())
            .unwrap()
    }

    pub(super) fn dialler(&self) -> Client {
        Client::new(&self.client()).unwrap()
    }
}

/// The outcome of each client that knocked.
pub(super) type Arrivals = mpsc::UnboundedReceiver<Result<Session, EstablishError>>;

/// A server of this identity: its address and its clients.
pub(super) fn listen(identity: &Identity) -> (String, Arrivals) {
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), identity).unwrap();
    let address = server.local_address().unwrap().to_string();
    (address, arrivals(server))
}

pub(super) fn arrivals(server: Server) -> Arrivals {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(incoming) = server.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let _ = sender.send(incoming.establish().await);
            });
        }
    });
    receiver
}

/// A connected pair.
pub(super) async fn pair(mesh: &Mesh) -> (crate::Connection, Session) {
    let (address, mut arrivals) = listen(&mesh.node());
    let connection = mesh.dialler().connect(&address).await.unwrap();
    (connection, arrivals.recv().await.unwrap().unwrap())
}

fn roots(ca: &MeshCa) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca.certificate_der().to_vec())).unwrap();
    roots
}

/// Dials with any protocol, any certificate or none; trusts the servers of this authority.
pub(super) async fn raw_connect(
    address: &str,
    alpn: &str,
    shown: Option<&Identity>,
    trusted: &MeshCa,
) -> Result<quinn::Connection, quinn::ConnectionError> {
    let builder = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots(trusted));
    let mut config = match shown {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain(), identity.private_key())
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    config.transport_config(Tuning::default().client());
    let endpoint = socket::client_endpoint(false, &Tuning::default()).unwrap();
    endpoint
        .connect_with(config, address.parse().unwrap(), "pgmesh")
        .unwrap()
        .await
}

/// Listens with any protocol and any certificates; asks clients for none.
pub(super) fn raw_listen(alpn: &str, key_of: &Identity, chain: Vec<CertificateDer<'static>>) -> quinn::Endpoint {
    let mut config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key_of.private_key())
        .unwrap();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).unwrap()));
    socket::server_endpoint("127.0.0.1:0".parse().unwrap(), key_of, config, &Tuning::default()).unwrap()
}

/// Passes datagrams between one client and a server until it is cut. A cut wire looks like a broken network: the port
/// is open, but no datagram comes.
pub(super) struct Wire {
    pub(super) address: String,
    cut: Arc<AtomicBool>,
}

impl Wire {
    pub(super) async fn to(server: &str) -> Self {
        Self::with_pause(server, Duration::ZERO).await
    }

    /// A wire that passes a datagram of the server every few milliseconds.
    pub(super) async fn slow_to(server: &str) -> Self {
        Self::with_pause(server, Duration::from_millis(12)).await
    }

    async fn with_pause(server: &str, pause: Duration) -> Self {
        let server: SocketAddr = server.parse().unwrap();
        let (front, back) = (
            UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        );
        back.connect(server).await.unwrap();
        let address = front.local_addr().unwrap().to_string();
        let cut = Arc::new(AtomicBool::new(false));
        tokio::spawn(pass(front, back, cut.clone(), pause));
        Self { address, cut }
    }

    /// A wire that is cut after the client's first datagram.
    pub(super) async fn one_datagram_to(server: &str) -> Self {
        let server: SocketAddr = server.parse().unwrap();
        let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let (mut datagram, mut passed) = (vec![0; 65536], false);
            while let Ok((length, _)) = front.recv_from(&mut datagram).await {
                if length > 1 && !passed {
                    back.send_to(&datagram[..length], server).await.unwrap();
                    passed = true;
                }
            }
        });
        Self {
            address,
            cut: Arc::default(),
        }
    }

    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
    }
}

async fn pass(front: UdpSocket, back: UdpSocket, cut: Arc<AtomicBool>, pause: Duration) {
    let (mut upward, mut downward, mut client) = (vec![0; 65536], vec![0; 65536], None);
    loop {
        tokio::select! {
            Ok((length, from)) = front.recv_from(&mut upward) => {
                // A one-byte question of `liveness` is for the front's own socket.
                if length == 1 {
                    continue;
                }
                client = Some(from);
                if !cut.load(Ordering::Acquire) {
                    let _ = back.send(&upward[..length]).await;
                }
            }
            Ok(length) = back.recv(&mut downward) => {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                if let (Some(client), false) = (client, cut.load(Ordering::Acquire)) {
                    let _ = front.send_to(&downward[..length], client).await;
                }
            }
        }
    }
}
