//! Messages and bodies.

use bytes::Bytes;
use tokio::time::timeout;

use super::support::{Mesh, pair};
use crate::{Connection, Session, Stream, StreamCode, StreamError, tuning::Tuning};

use std::time::Duration;

const MIB: usize = 1024 * 1024;

async fn streams(connection: &Connection, session: &Session) -> (Stream, Stream) {
    let mut client = connection.open().await.unwrap();
    client.send("hello").await.unwrap();
    let mut server = session.accept_stream().await.unwrap();
    assert_eq!(server.recv::<String>(64).await.unwrap(), "hello");
    (client, server)
}

#[tokio::test]
async fn messages_and_bodies_arrive_as_they_were_sent() {
    let (connection, session) = pair(&Mesh::new()).await;
    let (mut client, mut server) = streams(&connection, &session).await;
    let body = Bytes::from((0..=250).cycle().take(3 * MIB + 17).collect::<Vec<u8>>());
    let sent = body.clone();
    let sending = tokio::spawn(async move {
        client.send(&(1_u8, sent.len() as u64)).await.unwrap();
        client.send_bytes(&sent).await.unwrap();
        client.send(&()).await.unwrap();
        client.send_bytes(&Bytes::new()).await.unwrap();
        client.send(&"end".to_owned()).await.unwrap();
        client.finish().unwrap();
        client.delivered().await.unwrap();
        client
    });
    let (_, length) = server.recv::<(u8, u64)>(64).await.unwrap();
    assert_eq!(server.recv_bytes(length, 4 * MIB).await.unwrap(), body);
    // An empty message, an empty body.
    server.recv::<()>(0).await.unwrap();
    assert_eq!(server.recv_bytes(0, 0).await.unwrap(), Bytes::new());
    assert_eq!(server.recv_optional::<String>(64).await.unwrap().unwrap(), "end");
    assert_eq!(server.recv_optional::<String>(64).await.unwrap(), None);
    let mut client = sending.await.unwrap();
    assert!(matches!(client.send("more").await, Err(StreamError::Misused(_))));
    server.send(&true).await.unwrap();
    assert!(client.recv::<bool>(8).await.unwrap());
}

#[tokio::test]
async fn a_slow_receiver_holds_the_sender_back() {
    let (connection, session) = pair(&Mesh::new()).await;
    let (mut client, mut server) = streams(&connection, &session).await;
    let body = Bytes::from(vec![7; 64 * MIB]);
    // The server does not read, so the send cannot end. The bytes in flight are at most the window.
    let stuck = timeout(Duration::from_millis(500), client.send_bytes(&body)).await;
    assert!(stuck.is_err());
    let sent = connection.statistics().udp_tx.bytes;
    let window = u64::from(Tuning::default().stream_window);
    assert!(
        (window..2 * window).contains(&sent),
        "{sent} bytes sent, the window is {window}"
    );
    // A stream whose send was cancelled half-way cannot be used, but its receiver can read the bytes before.
    assert!(matches!(
        client.send("x").await,
        Err(StreamError::Misused("a cancelled send"))
    ));
    assert_eq!(server.recv_bytes(MIB as u64, MIB).await.unwrap().len(), MIB);
    // Other streams are not held up.
    let (mut client, mut server) = streams(&connection, &session).await;
    let sending = tokio::spawn(async move { client.send_bytes(&body).await.map(|()| client) });
    for _ in 0..64 {
        assert_eq!(
            server.recv_bytes(MIB as u64, MIB).await.unwrap(),
            Bytes::from(vec![7; MIB])
        );
    }
    sending.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_cut_short_never_looks_complete() {
    let (connection, session) = pair(&Mesh::new()).await;
    // The task that sends is gone.
    let (client, mut server) = streams(&connection, &session).await;
    drop(client);
    let error = server.recv_optional::<u8>(8).await.unwrap_err();
    assert!(
        matches!(
            error,
            StreamError::Reset {
                code: StreamCode::ABANDONED
            }
        ),
        "{error}"
    );
    assert!(error.is_peer_failure());
    // The sender finishes in the middle of a body.
    let (mut client, mut server) = streams(&connection, &session).await;
    client.send_bytes(&Bytes::from_static(b"half")).await.unwrap();
    client.finish().unwrap();
    assert!(matches!(server.recv_bytes(8, 8).await, Err(StreamError::Ended)));
    // … of a message's length.
    let (mut client, mut server) = streams(&connection, &session).await;
    client.send_bytes(&Bytes::from_static(&[9, 0])).await.unwrap();
    client.finish().unwrap();
    assert!(matches!(server.recv_optional::<u8>(8).await, Err(StreamError::Ended)));
    // … of a message.
    let (mut client, mut server) = streams(&connection, &session).await;
    client.send_bytes(&Bytes::from_static(&[9, 0, 0, 0, 1])).await.unwrap();
    client.finish().unwrap();
    assert!(matches!(server.recv_optional::<u8>(16).await, Err(StreamError::Ended)));
    // … right after its length.
    let (mut client, mut server) = streams(&connection, &session).await;
    client.send_bytes(&Bytes::from_static(&[9, 0, 0, 0])).await.unwrap();
    client.finish().unwrap();
    assert!(matches!(server.recv_optional::<u8>(16).await, Err(StreamError::Ended)));
}

#[tokio::test]
async fn what_is_too_long_or_garbage_is_refused_unread() {
    let (connection, session) = pair(&Mesh::new()).await;
    let (mut client, mut server) = streams(&connection, &session).await;
    client
        .send_bytes(&Bytes::from_static(&[0xff, 0xff, 0xff, 0xff]))
        .await
        .unwrap();
    let error = server.recv::<String>(1024).await.unwrap_err();
    assert!(
        matches!(
            error,
            StreamError::TooLong {
                length: 0xffff_ffff,
                max: 1024
            }
        ),
        "{error}"
    );
    assert!(error.is_violation());
    let error = server.recv_bytes(u64::MAX, 1024).await.unwrap_err();
    assert!(matches!(error, StreamError::TooLong { .. }), "{error}");
    let (mut client, mut server) = streams(&connection, &session).await;
    client.send(&[0xff_u8; 16]).await.unwrap();
    let error = server.recv::<String>(1024).await.unwrap_err();
    assert!(matches!(error, StreamError::Malformed(_)), "{error}");
}

#[tokio::test]
async fn either_side_may_stop_with_a_code() {
    let (connection, session) = pair(&Mesh::new()).await;
    let (mut client, mut server) = streams(&connection, &session).await;
    server.stop(StreamCode::CANCELLED);
    let body = Bytes::from(vec![7; 64 * MIB]);
    let error = client.send_bytes(&body).await.unwrap_err();
    assert!(
        matches!(
            error,
            StreamError::Stopped {
                code: StreamCode::CANCELLED
            }
        ),
        "{error}"
    );
    assert!(!error.is_peer_failure());
    let error = client.recv::<u8>(8).await.unwrap_err();
    assert!(
        matches!(
            error,
            StreamError::Reset {
                code: StreamCode::CANCELLED
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn receiving_goes_on_where_it_was_cancelled() {
    let (connection, session) = pair(&Mesh::new()).await;
    let (mut client, mut server) = streams(&connection, &session).await;
    let frame = [5, 0, 0, 0, 4, b'w', b'o', b'r', b'd'];
    for byte in frame {
        // One byte arrives, one attempt: `recv` is polled, reads the byte, and is dropped.
        let attempt = timeout(Duration::from_millis(20), server.recv::<String>(64)).await;
        assert!(attempt.is_err(), "{attempt:?}");
        client.send_bytes(&Bytes::copy_from_slice(&[byte])).await.unwrap();
    }
    assert_eq!(server.recv::<String>(64).await.unwrap(), "word");
}

#[tokio::test]
async fn halves_serve_two_tasks() {
    let (connection, session) = pair(&Mesh::new()).await;
    let (client, server) = streams(&connection, &session).await;
    let (mut requests, mut answers) = client.split();
    let asking = tokio::spawn(async move {
        for number in 0..1000_u32 {
            requests.send(&number).await.unwrap();
        }
        requests.finish().unwrap();
        requests.delivered().await.unwrap();
    });
    let answering = tokio::spawn(async move {
        let (mut answers, mut requests) = server.split();
        while let Some(number) = requests.recv_optional::<u32>(8).await.unwrap() {
            answers.send(&(number * 2)).await.unwrap();
        }
        answers.finish().unwrap();
        answers.delivered().await.unwrap();
    });
    for number in 0..1000_u32 {
        assert_eq!(answers.recv::<u32>(8).await.unwrap(), number * 2);
    }
    assert_eq!(answers.recv_optional::<u32>(8).await.unwrap(), None);
    asking.await.unwrap();
    answering.await.unwrap();
}
