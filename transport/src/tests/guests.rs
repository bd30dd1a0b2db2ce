//! The share of one client in a server.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::support::{Mesh, listen};
use crate::{
    ConnectError, Role,
    guests::{MAX_KEY_SESSIONS, MAX_KEY_STREAMS},
    window::MAX_SPOILED,
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
        served.push((first_session.accept_stream().await.unwrap(), stream));
    }
    let mut waiting = second.open().await.unwrap();
    waiting.send(&1_u8).await.unwrap();
    let accept = second_session.accept_stream();
    tokio::pin!(accept);
    assert!(timeout(A_WHILE, &mut accept).await.is_err(), "one more than allowed");
    served.pop();
    timeout(A_WHILE, accept).await.unwrap().unwrap();
}

/// The last of 20 connections of one account, with a small share of its windows.
async fn one_of_many(
    mesh: &Mesh,
) -> (
    Vec<(crate::Connection, crate::Session)>,
    crate::Connection,
    crate::Session,
) {
    let (address, mut arrivals) = listen(&mesh.node());
    let client = mesh.dialler();
    let mut open = Vec::new();
    for _ in 0..20 {
        let connection = client.connect(&address).await.unwrap();
        open.push((connection, arrivals.recv().await.unwrap().unwrap()));
    }
    let (connection, session) = open.pop().unwrap();
    (open, connection, session)
}

/// Without memory held for it, a crowd of connections makes the node keep little.
#[tokio::test]
async fn a_window_is_as_large_as_the_memory_that_is_held() {
    let (_others, connection, session) = one_of_many(&Mesh::new()).await;
    let mut stream = connection.open().await.unwrap();
    let body = Bytes::from(vec![7; 1 << 20]);
    let expected = {
        let sending = stream.send_bytes(&body);
        tokio::pin!(sending);
        assert!(
            timeout(A_WHILE, &mut sending).await.is_err(),
            "a megabyte that nobody reads"
        );
        let expected = session.windows().expect(1 << 20);
        timeout(Duration::from_secs(5), sending).await.unwrap().unwrap();
        expected
    };
    let mut served = session.accept_stream().await.unwrap();
    assert_eq!(served.recv_bytes(1 << 20, 1 << 20).await.unwrap(), body);
    expected.arrived();
    let sending = stream.send_bytes(&body);
    assert!(timeout(A_WHILE, sending).await.is_err(), "the credit was for once");
}

#[tokio::test]
async fn a_client_that_gives_up_body_after_body_loses_the_connection() {
    let (others, connection, session) = one_of_many(&Mesh::new()).await;
    for _ in 0..100 {
        drop(session.windows().expect(MAX_SPOILED));
    }
    assert!(connection.lost().is_none(), "the same credit is used again");
    drop(others[18].1.windows().expect(1));
    timeout(Duration::from_secs(5), others[18].0.closed()).await.unwrap();
    assert!(connection.lost().is_none());
}

/// Bodies that wait for memory do not use up the credit of a body that is being read.
#[tokio::test]
async fn bodies_that_wait_stop_no_body_that_is_read() {
    let (_others, connection, session) = one_of_many(&Mesh::new()).await;
    let body = Bytes::from(vec![7; 1 << 20]);
    let mut waiting = Vec::new();
    for number in 0..8_u8 {
        let (connection, body) = (connection.clone(), body.clone());
        let mut stream = connection.open().await.unwrap();
        stream.send(&number).await.unwrap();
        let mut served = session.accept_stream().await.unwrap();
        assert_eq!(served.recv::<u8>(1).await.unwrap(), number);
        let sending = tokio::spawn(async move { stream.send_bytes(&body).await.map(|()| stream) });
        waiting.push((served, session.windows().wait(1 << 20).unwrap(), sending));
    }
    tokio::time::sleep(A_WHILE).await;
    for (mut served, waited, sending) in waiting.into_iter().rev() {
        let expected = waited.granted(1 << 20);
        let read = timeout(Duration::from_secs(5), served.recv_bytes(1 << 20, 1 << 20));
        assert_eq!(read.await.unwrap().unwrap(), body);
        expected.arrived();
        sending.await.unwrap().unwrap();
    }
    let windows = session.windows();
    let waiting: Vec<_> = (0..16).map(|_| windows.wait(1 << 20).unwrap()).collect();
    assert!(windows.wait(1).is_none(), "no more than so much waits");
    drop(waiting);
}
