//! The bounds on a client's cost.

use crate::wire_version::WIRE_VERSION;
use std::time::Duration;

use bytes::Bytes;
use tokio::{task::JoinSet, time::timeout};

use super::support::{Mesh, Wire, listen, pair, raw_connect};
use crate::{
    ConnectError, EstablishError, JoinClient, Server, StreamCode,
    tuning::{HANDSHAKE_LIMIT, MAX_HANDSHAKES, MAX_STREAMS, TOKEN_LIMIT, UNAUTHENTICATED_WINDOW},
};

/// Long enough for all packets over loopback to have arrived.
const A_WHILE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_member_has_so_many_streams_at_once() {
    let (connection, session) = pair(&Mesh::new()).await;
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS {
        let mut stream = connection.open().await.unwrap();
        stream.send(&1_u8).await.unwrap();
        streams.push((stream, session.accept_stream().await.unwrap()));
    }
    assert!(
        timeout(A_WHILE, connection.open()).await.is_err(),
        "one more than allowed"
    );
    // quinn announces new streams when an eighth of the old ones has ended.
    for (mut client, mut server) in streams.drain(..64) {
        client.stop(StreamCode::CANCELLED);
        server.stop(StreamCode::CANCELLED);
    }
    timeout(Duration::from_secs(2), connection.open())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn who_joins_has_one_stream_and_little_memory() {
    let mesh = Mesh::new();
    let (address, mut arrivals) = listen(&mesh.node());
    let connection = JoinClient::connect(&address, mesh.ca.fingerprint()).await.unwrap();
    let _session = arrivals.recv().await.unwrap().unwrap();
    let mut stream = connection.open().await.unwrap();
    assert!(timeout(A_WHILE, connection.open()).await.is_err(), "a second stream");
    let body = Bytes::from(vec![7; 1024 * 1024]);
    assert!(
        timeout(A_WHILE, stream.send_bytes(&body)).await.is_err(),
        "a megabyte that nobody reads"
    );
    let sent = connection.statistics().udp_tx.bytes;
    assert!(sent < 2 * u64::from(UNAUTHENTICATED_WINDOW), "{sent} bytes");
}

#[tokio::test]
async fn a_client_cannot_open_streams_before_it_is_known() {
    let mesh = Mesh::new();
    let (address, mut arrivals) = listen(&mesh.node());
    let connection = raw_connect(&address, &format!("pgmesh/{WIRE_VERSION}"), None, &mesh.ca)
        .await
        .unwrap();
    // The client is refused; no byte of its first flight reaches a session.
    if let Ok((mut send, _receive)) = connection.open_bi().await {
        let _ = send.write_all(b"\x01\0\0\0\x01").await;
    }
    assert!(arrivals.recv().await.unwrap().is_err());
    connection.closed().await;
}

#[tokio::test]
async fn a_handshake_that_stops_half_way_ends_and_delays_nobody() {
    let mesh = Mesh::new();
    let (address, mut arrivals) = listen(&mesh.node());
    // The client's first flight passes, and no later packet.
    let wire = Wire::one_datagram_to(&address).await;
    let dialler = mesh.dialler();
    let slow = tokio::spawn(async move { dialler.connect(&wire.address).await.map(|_| ()) });
    let quick = mesh.dialler().connect(&address).await.unwrap();
    let session = arrivals.recv().await.unwrap().unwrap();
    assert_eq!(session.peer().member().unwrap().name.as_str(), "db1");
    assert!(slow.await.unwrap().is_err());
    let ended = timeout(HANDSHAKE_LIMIT + Duration::from_secs(1), arrivals.recv())
        .await
        .unwrap()
        .unwrap();
    let error = ended.unwrap_err();
    assert!(
        matches!(error, EstablishError::Handshake { .. } | EstablishError::Timeout { .. }),
        "{error}"
    );
    assert!(quick.lost().is_none());
}

#[tokio::test]
async fn a_crowd_has_to_prove_its_address_and_then_to_wait() {
    let mesh = Mesh::new();
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), &mesh.node()).unwrap();
    let address = server.local_address().unwrap().to_string();
    // On a busy machine some clients come too late, and try again.
    let mut crowd = JoinSet::new();
    for _ in 0..MAX_HANDSHAKES {
        let (address, dialler) = (address.clone(), mesh.dialler());
        crowd.spawn(async move { while dialler.connect(&address).await.is_err() {} });
    }
    let mut knocking = Vec::new();
    while knocking.len() < MAX_HANDSHAKES {
        let incoming = server.accept().await.unwrap();
        assert_eq!(
            incoming.has_proved_its_address(),
            knocking.len() > MAX_HANDSHAKES / 2,
            "{}",
            knocking.len()
        );
        knocking.push(incoming);
    }
    crowd.shutdown().await;
    // All places are taken: the next client is told at once.
    let latecomer = mesh.dialler();
    tokio::select! {
        result = latecomer.connect(&address) => {
            assert!(matches!(result, Err(ConnectError::Busy { .. })), "{result:?}");
        }
        _ = server.accept() => panic!("one more than allowed"),
    }
    // A place that was given back can be taken again.
    knocking.pop();
    let (result, incoming) = tokio::join!(latecomer.connect(&address), async {
        server.accept().await.unwrap().establish().await
    });
    result.unwrap();
    incoming.unwrap();
}

/// 60 connections without a certificate kept every join out for half a minute.
#[tokio::test]
async fn connections_that_show_no_token_keep_nobody_from_joining() {
    let mesh = Mesh::new();
    let (address, mut arrivals) = listen(&mesh.node());
    let dial = || JoinClient::connect(&address, mesh.ca.fingerprint());
    let (mut idle, mut sessions) = (Vec::new(), Vec::new());
    for _ in 0..60 {
        idle.push(dial().await.unwrap());
        sessions.push(arrivals.recv().await.unwrap().unwrap());
    }
    let joins = dial().await.unwrap();
    let session = arrivals.recv().await.unwrap().unwrap();
    session.join_place().unwrap().has_token();
    // More of them do not push it out, and all of them go by themselves.
    for _ in 0..40 {
        idle.push(dial().await.unwrap());
        sessions.push(arrivals.recv().await.unwrap().unwrap());
    }
    tokio::time::sleep(TOKEN_LIMIT + Duration::from_secs(1)).await;
    assert!(idle.iter().all(|connection| connection.lost().is_some()));
    assert!(joins.lost().is_none(), "{:?}", joins.lost());
}
