//! The share of one account in a server's connections.

use std::time::Duration;

use tokio::time::timeout;

use super::support::{Mesh, listen};
use crate::{StreamCode, StreamError};

/// Long enough for all packets over loopback to have arrived.
const A_WHILE: Duration = Duration::from_millis(300);
/// For what happens.
const LIMIT: Duration = Duration::from_secs(10);

/// Where there are many, a connection behind sixteen of its account has four streams, and more when older ones have
/// ended.
#[tokio::test]
async fn the_many_connections_of_an_account_have_few_streams_each() {
    let mesh = Mesh::new();
    let (address, mut arrivals) = listen(&mesh.node());
    let client = mesh.dialler();
    let mut older = Vec::new();
    for _ in 0..64 {
        let connection = client.connect(&address).await.unwrap();
        older.push((connection, arrivals.recv().await.unwrap().unwrap()));
    }
    let connection = client.connect(&address).await.unwrap();
    let session = arrivals.recv().await.unwrap().unwrap();
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = connection.open().await.unwrap();
        stream.send(&1_u8).await.unwrap();
        streams.push((stream, session.accept_stream().await.unwrap()));
    }
    assert!(timeout(A_WHILE, connection.open()).await.is_err(), "a fifth one");
    older.truncate(8);
    // A stream that has ended makes place for another one; the server looks at the rank when it comes.
    streams.pop();
    for _ in 0..12 {
        let mut stream = timeout(LIMIT, connection.open())
            .await
            .expect("a wider connection")
            .unwrap();
        stream.send(&1_u8).await.unwrap();
        let accepted = timeout(LIMIT, session.accept_stream()).await.unwrap().unwrap();
        streams.push((stream, accepted));
    }
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
    let why = timeout(LIMIT, of_first.given_up()).await.unwrap();
    let is_told = matches!(why, StreamError::Stopped { code } if code == StreamCode::CANCELLED);
    assert!(is_told, "{why}");
    drop((first, second, connection));
    let why = timeout(LIMIT, of_second.given_up()).await.unwrap();
    assert!(why.is_peer_failure(), "{why}");
}
