//! Peers that die, and how soon that is noticed.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{net::UdpSocket, runtime::Runtime, sync::oneshot, task::spawn_blocking};

use super::support::{Mesh, Wire, arrivals, listen};
use crate::{
    CloseCode, ConnectError, Connection, ConnectionLost, Identity, Server, Session, Stream, StreamError,
    tuning::CONNECT_LIMIT,
};

/// A node in a runtime of its own that can be ended as SIGKILL ends a process: no close is sent, the port is free
/// again.
struct Victim {
    runtime: Runtime,
    address: SocketAddr,
}

impl Victim {
    async fn start(node: Identity, address: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (tell, told) = oneshot::channel();
        let address = address.parse().unwrap();
        runtime.spawn(async move {
            let server = Server::bind(address, &node).unwrap();
            tell.send(server.local_address().unwrap()).unwrap();
            let mut arrivals = arrivals(server);
            let mut open = Vec::new();
            while let Some(Ok(session)) = arrivals.recv().await {
                open.push(keep(session).await);
            }
        });
        Self {
            runtime,
            address: told.await.unwrap(),
        }
    }

    async fn kill(self) -> SocketAddr {
        let Self { runtime, address } = self;
        spawn_blocking(move || drop(runtime)).await.unwrap();
        address
    }
}

/// Takes a request and never answers.
async fn keep(session: Session) -> (Session, Stream) {
    let mut stream = session.accept_stream().await.unwrap();
    stream.recv::<u8>(8).await.unwrap();
    stream.send(&1_u8).await.unwrap();
    (session, stream)
}

async fn outstanding_request(connection: &Connection) -> Stream {
    let mut stream = connection.open().await.unwrap();
    stream.send(&1_u8).await.unwrap();
    stream.recv::<u8>(8).await.unwrap();
    stream
}

async fn noticed_within(mut stream: Stream, limit: Duration) -> ConnectionLost {
    let start = Instant::now();
    let error = stream.recv::<u8>(8).await.unwrap_err();
    let elapsed = start.elapsed();
    assert!(elapsed < limit, "noticed after {elapsed:?}");
    assert!(error.is_peer_failure());
    match error {
        StreamError::Lost(lost) => lost,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_killed_node_is_noticed_in_about_a_second() {
    let mesh = Mesh::new();
    let victim = Victim::start(mesh.node(), "127.0.0.1:0").await;
    let client = mesh.dialler();
    let connection = client.connect(&victim.address.to_string()).await.unwrap();
    let stream = outstanding_request(&connection).await;
    let address = victim.kill().await.to_string();
    let lost = noticed_within(stream, Duration::from_secs(2)).await;
    assert_eq!(lost, ConnectionLost::Gone);
    assert_eq!(connection.lost(), Some(ConnectionLost::Gone));
    assert!(!lost.is_orderly());
    // A new connection does not wait for a time-out either.
    let start = Instant::now();
    let error = client.connect(&address).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    assert!(error.is_transient());
    assert!(start.elapsed() < Duration::from_secs(1));
}

/// An address whose port the kernel assigns to no other socket by itself, so that it is still free after a restart.
fn lasting_address() -> String {
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    let port = (first..32_000)
        .find(|port| std::net::UdpSocket::bind(("127.0.0.1", *port)).is_ok())
        .unwrap();
    format!("127.0.0.1:{port}")
}

#[tokio::test]
async fn a_restarted_node_says_so() {
    let mesh = Mesh::new();
    let node = mesh.node();
    let victim = Victim::start(node.clone(), &lasting_address()).await;
    let connection = mesh.dialler().connect(&victim.address.to_string()).await.unwrap();
    let stream = outstanding_request(&connection).await;
    let address = victim.kill().await;
    let again = Victim::start(node, &address.to_string()).await;
    let lost = noticed_within(stream, Duration::from_secs(2)).await;
    assert_eq!(lost, ConnectionLost::Restarted);
    again.kill().await;
}

#[tokio::test]
async fn a_silent_network_is_noticed_within_three_seconds_by_both_sides() {
    let mesh = Mesh::new();
    let (address, mut arrivals) = listen(&mesh.node());
    let wire = Wire::to(&address).await;
    let connecting = tokio::spawn(async move { mesh.dialler().connect(&wire.address).await.map(|made| (made, wire)) });
    let session = arrivals.recv().await.unwrap().unwrap();
    let (connection, wire) = connecting.await.unwrap().unwrap();
    let serving = tokio::spawn(keep(session));
    let stream = outstanding_request(&connection).await;
    let (session, _stream) = serving.await.unwrap();
    wire.cut();
    let start = Instant::now();
    let limit = Duration::from_millis(3500);
    let (lost, at_server) = tokio::join!(noticed_within(stream, limit), session.closed());
    assert_eq!(lost, ConnectionLost::Silent);
    assert_eq!(at_server, ConnectionLost::Silent);
    assert!(start.elapsed() < limit, "{:?}", start.elapsed());
}

#[tokio::test]
async fn nobody_answers() {
    let mesh = Mesh::new();
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let start = Instant::now();
    let error = mesh
        .dialler()
        .connect(&silent.local_addr().unwrap().to_string())
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
    assert!(start.elapsed() < CONNECT_LIMIT + Duration::from_millis(500));
    for wrong in ["127.0.0.1", "", "no such host.invalid:1", ":::"] {
        let error = mesh.dialler().connect(wrong).await.unwrap_err();
        assert!(matches!(error, ConnectError::Resolve { .. }), "{wrong:?}: {error}");
    }
}

#[tokio::test]
async fn an_orderly_end_is_no_failure() {
    let mesh = Mesh::new();
    let (address, mut arrivals) = listen(&mesh.node());
    let client = mesh.dialler();
    let _connection = client.connect(&address).await.unwrap();
    let session = arrivals.recv().await.unwrap().unwrap();
    client.close(Duration::from_secs(1)).await;
    assert!(session.closed().await.is_orderly());

    let server = Server::bind("127.0.0.1:0".parse().unwrap(), &mesh.node()).unwrap();
    let address = server.local_address().unwrap().to_string();
    let connecting = tokio::spawn(async move { mesh.dialler().connect(&address).await });
    let _session = server.accept().await.unwrap().establish().await.unwrap();
    let connection = connecting.await.unwrap().unwrap();
    server.close(Duration::from_secs(1)).await;
    assert!(server.accept().await.is_none());
    let lost = connection.closed().await;
    assert!(
        matches!(
            lost,
            ConnectionLost::ClosedByPeer {
                code: CloseCode::SHUTTING_DOWN,
                ..
            }
        ),
        "{lost}"
    );
    assert!(lost.is_orderly());
}

#[tokio::test]
async fn the_connection_ends_with_its_last_handle() {
    let mesh = Mesh::new();
    let (address, mut arrivals) = listen(&mesh.node());
    let client = mesh.dialler();
    let connection = client.connect(&address).await.unwrap();
    let session = arrivals.recv().await.unwrap().unwrap();
    let serving = tokio::spawn(keep(session));
    let stream = outstanding_request(&connection.clone()).await;
    drop(connection);
    let (session, mut served) = serving.await.unwrap();
    // The open stream still keeps the connection.
    served.send(&2_u8).await.unwrap();
    let (_, mut answers) = stream.split();
    assert_eq!(answers.recv::<u8>(8).await.unwrap(), 2);
    drop(answers);
    let lost = session.closed().await;
    assert!(lost.is_orderly(), "{lost}");
}
