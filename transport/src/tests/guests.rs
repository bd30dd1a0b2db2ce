//! The share of one client in a server.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::support::{Mesh, Wire, listen};
use crate::{
    ConnectError, Role, StreamCode, StreamError,
    guests::{MAX_KEY_SESSIONS, MAX_KEY_STREAMS, WAITING_STREAMS},
};

/// Long enough for all packets over loopback to have arrived.
const A_WHILE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn one_certificate_does_not_take_every_connection() {
    let mesh = Mesh::new();
    let (address, mut arrivals) = listen(&mesh.node());
    let greedy = mesh.dialler();
    let mut open = Vec::new();
    for _ in 0..MAX_KEY_SESSIONS {
        let connection = greedy.connect(&address).await.unwrap();
        open.push((connection, arrivals.recv().await.unwrap().unwrap()));
    }
    let refused = greedy.connect(&address).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Busy { .. }), "{refused}");
    assert!(refused.is_transient(), "the client asks another node");
    let said = arrivals.recv().await.unwrap().unwrap_err().to_string();
    assert!(said.ends_with("this certificate has 128 connections already"), "{said}");
    let other = Role::Client {
        stanzas: vec!["other".parse().unwrap()],
    };
    for (role, name) in [(&other, "db2"), (&Role::Admin, "admin"), (&Role::Node, "node2")] {
        let client = crate::Client::new(&mesh.identity(role, name)).unwrap();
        let _connection = client.connect(&address).await.unwrap();
        arrivals.recv().await.unwrap().unwrap();
    }
    open.pop();
    let connection = loop {
        if let Ok(connection) = greedy.connect(&address).await {
            break connection;
        }
    };
    drop(connection);
}

#[tokio::test]
async fn the_streams_of_a_certificate_are_counted_over_all_its_connections() {
    let mesh = Mesh::new();
    let (address, mut arrivals) = listen(&mesh.node());
    let client = mesh.dialler();
    let first = client.connect(&address).await.unwrap();
    let first_session = arrivals.recv().await.unwrap().unwrap();
    let second = client.connect(&address).await.unwrap();
    let second_session = arrivals.recv().await.unwrap().unwrap();
    let mut served = Vec::new();
    for _ in 0..MAX_KEY_STREAMS {
        let mut stream = first.open().await.unwrap();
        stream.send(&1_u8).await.unwrap();
        let mut accepted = first_session.accept_stream().await.unwrap();
        accepted.wait_for_place().await.unwrap();
        served.push((accepted, stream));
    }
    let mut waiting = Vec::new();
    for _ in 0..WAITING_STREAMS {
        let mut asks = second.open().await.unwrap();
        asks.send(&1_u8).await.unwrap();
        let mut accepted = timeout(A_WHILE, second_session.accept_stream()).await.unwrap().unwrap();
        let place = tokio::spawn(async move { accepted.wait_for_place().await.map(|()| accepted) });
        waiting.push((asks, place));
    }
    tokio::time::sleep(A_WHILE).await;
    assert!(
        waiting.iter().all(|(_, place)| !place.is_finished()),
        "one more than allowed"
    );
    // The client is told, and the streams behind it are still accepted.
    let mut refused = second.open().await.unwrap();
    refused.send(&1_u8).await.unwrap();
    let mut accepted = timeout(A_WHILE, second_session.accept_stream()).await.unwrap().unwrap();
    let too_many = timeout(A_WHILE, accepted.wait_for_place()).await.unwrap();
    assert!(matches!(too_many, Err(StreamError::TooMany)), "{too_many:?}");
    let told = refused.recv::<u8>(1).await.unwrap_err();
    assert!(matches!(told, StreamError::Reset { code: StreamCode::BUSY }), "{told}");
    assert!(told.is_peer_failure(), "the client asks again, or another node");
    served.pop();
    let (_, first) = waiting.remove(0);
    let _first = timeout(A_WHILE, first).await.unwrap().unwrap().unwrap();
    let (mut asks, second) = waiting.remove(0);
    drop(waiting.split_off(1));
    let over = timeout(Duration::from_secs(10), second).await.unwrap().unwrap();
    assert!(matches!(over, Err(StreamError::TooMany)), "it does not wait for ever");
    let told = asks.recv::<u8>(1).await.unwrap_err();
    assert!(matches!(told, StreamError::Reset { code: StreamCode::BUSY }), "{told}");
}

/// A wait of the server ends when the client gives its stream up, and when its connection is gone.
#[tokio::test]
async fn a_server_hears_that_a_stream_is_given_up() {
    let mesh = Mesh::new();
    let (address, mut arrivals) = listen(&mesh.node());
    let connection = mesh.dialler().connect(&address).await.unwrap();
    let session = arrivals.recv().await.unwrap().unwrap();
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = connection.open().await.unwrap();
        stream.send(&1_u8).await.unwrap();
        streams.push((stream, session.accept_stream().await.unwrap()));
    }
    let (second, of_second) = streams.pop().unwrap();
    let (mut first, of_first) = streams.pop().unwrap();
    assert!(timeout(A_WHILE, of_first.given_up()).await.is_err());
    first.stop(StreamCode::CANCELLED);
    let why = timeout(A_WHILE, of_first.given_up()).await.unwrap();
    assert!(
        matches!(
            why,
            StreamError::Stopped {
                code: StreamCode::CANCELLED
            }
        ),
        "{why}"
    );
    drop((first, second, connection));
    let why = timeout(Duration::from_secs(5), of_second.given_up()).await.unwrap();
    assert!(why.is_peer_failure(), "{why}");
}

/// An answer over a slow link is delivered, however long that takes.
#[tokio::test]
async fn an_answer_that_moves_is_delivered() {
    let mesh = Mesh::new();
    let (address, mut arrivals) = listen(&mesh.node());
    let wire = Wire::slow_to(&address).await;
    let connection = mesh.dialler().connect(&wire.address).await.unwrap();
    let session = arrivals.recv().await.unwrap().unwrap();
    let mut stream = connection.open().await.unwrap();
    stream.send(&1_u8).await.unwrap();
    let mut served = session.accept_stream().await.unwrap();
    let answer = Bytes::from(vec![7; 1 << 20]);
    served.send_bytes(&answer).await.unwrap();
    served.finish().unwrap();
    let limit = Duration::from_millis(500);
    let receiving = async { stream.recv_bytes(1 << 20, 1 << 20).await.unwrap() };
    let began = std::time::Instant::now();
    let (delivered, received) = tokio::join!(served.delivered_moving(limit), receiving);
    delivered.unwrap();
    assert_eq!(received, answer);
    assert!(began.elapsed() > 2 * limit, "{:?}", began.elapsed());
}
