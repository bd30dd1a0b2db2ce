//! A hostile client: takes as much of a node as it gets, with a good certificate of one stanza. Prints a line when all
//! its attacks are under way, and holds on to everything for some seconds.
//!
//! `cargo run -p pgmesh-transport --example hostile -- ADDRESS IDENTITY-FOLDER STANZA SYSTEM-ID SEGMENT SECONDS`, where
//! SEGMENT is one that the stanza has archived.
#![allow(
    clippy::disallowed_methods,
    reason = "a test or an example may spawn without a name and read the clock"
)]

use std::{env, path::Path, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use pgmesh_protocol::{Call, GetSegment, JoinRequest, PushSegment, QueryChunks, Server, VerifyRequest};
use pgmesh_storage::{Codec, DigestSuite, Payload, StanzaName};
use pgmesh_transport::{Client, Connection, Fingerprint, Identity, JoinClient, Stream};
use tokio::time::{sleep, timeout};

type AnyError = Box<dyn std::error::Error>;

/// More than it gets of each.
const CONNECTIONS: usize = 600;
const PUSHES: usize = 64;
const UNREAD: usize = 64;
const JOINS: usize = 200;
/// A step that takes longer is over: it got what it could.
const STEP: Duration = Duration::from_millis(50);

struct Hostile {
    client: Client,
    address: String,
    stanza: StanzaName,
    system: u64,
    segment: String,
    connections: Vec<Connection>,
    streams: Vec<Stream>,
    dripping: Vec<Stream>,
}

fn main() -> Result<(), AnyError> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, identity, stanza, system, segment, seconds] = &arguments[..] else {
        return Err("usage: hostile ADDRESS IDENTITY-FOLDER STANZA SYSTEM-ID SEGMENT SECONDS".into());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let identity = Identity::load(Path::new(identity))?;
        let mut hostile = Hostile {
            client: Client::new(&identity)?,
            address: address.clone(),
            stanza: stanza.parse()?,
            system: system.parse()?,
            segment: segment.clone(),
            connections: Vec::new(),
            streams: Vec::new(),
            dripping: Vec::new(),
        };
        hostile.begin().await?;
        println!(
            "{} connections, {} streams, {} pushes that drip",
            hostile.connections.len(),
            hostile.streams.len(),
            hostile.dripping.len()
        );
        hostile.drip(Duration::from_secs(seconds.parse()?)).await;
        Ok(())
    })
}

impl Hostile {
    async fn begin(&mut self) -> Result<(), AnyError> {
        let first = self.client.connect(&self.address).await?;
        for _ in 0..PUSHES {
            let Some(mut stream) = open(&first).await else { break };
            stream.call(&self.push()).await?;
            self.dripping.push(stream);
        }
        let second = self.client.connect(&self.address).await?;
        for _ in 0..UNREAD {
            let Some(mut stream) = open(&second).await else { break };
            stream.call(&self.get()).await?;
            self.streams.push(stream);
            let Some(mut stream) = open(&second).await else { break };
            stream.call(&self.verify()).await?;
            self.streams.push(stream);
        }
        self.connections.extend([first, second]);
        for _ in 0..CONNECTIONS {
            let Ok(connection) = self.client.connect(&self.address).await else {
                break;
            };
            while let Some(mut stream) = open(&connection).await {
                // Half of a long message.
                let half = self.half_of_a_message();
                if !matches!(timeout(STEP, stream.send_bytes(&half)).await, Ok(Ok(()))) {
                    break;
                }
                self.streams.push(stream);
            }
            self.connections.push(connection);
        }
        self.strangers().await;
        Ok(())
    }

    /// Connections without a certificate, that send half of a message.
    async fn strangers(&mut self) {
        for _ in 0..JOINS {
            let Ok(connection) = JoinClient::connect(&self.address, Fingerprint([0; 32])).await else {
                continue;
            };
            if let Some(mut stream) = open(&connection).await {
                let head = head(JoinRequest::NUMBER, 16 << 10, 8 << 10);
                let _ = timeout(STEP, stream.send_bytes(&head)).await;
                self.streams.push(stream);
            }
            self.connections.push(connection);
        }
    }

    /// Sends a byte of each push now and then.
    async fn drip(&mut self, how_long: Duration) {
        let byte = Bytes::from_static(&[0]);
        let drip = async {
            loop {
                for stream in &mut self.dripping {
                    // A node that gives a stream up has said so.
                    let _ = stream.send_bytes(&byte).await;
                }
                sleep(Duration::from_millis(200)).await;
            }
        };
        let _: Result<(), _> = timeout(how_long, drip).await;
    }

    fn push(&self) -> PushSegment {
        let mut payload = Payload::pack(DigestSuite::Blake3, Codec::None, None, b"x")
            .map(|payload| payload.head())
            .unwrap_or_else(|error| panic!("{error}"));
        (payload.length, payload.plain_length) = (16 << 20, 16 << 20);
        PushSegment {
            stanza: self.stanza.clone(),
            file: "0000000100000000000000F0".to_owned().into(),
            payload,
            system_id: pgmesh_postgres::SystemId(self.system),
            version: pgmesh_postgres::PgVersion::V15,
            header_timeline: pgmesh_postgres::TimelineId(1),
            server: Server {
                instance: "hostile".to_owned(),
                machine: String::new(),
                address: String::new(),
                in_recovery: false,
                timeline: pgmesh_postgres::TimelineId(1),
                branches: Vec::new(),
            },
            archive_ack: None,
        }
    }

    fn get(&self) -> GetSegment {
        GetSegment {
            stanza: self.stanza.clone(),
            file: self.segment.clone().into(),
            system_id: None,
            avoid: Vec::new().into(),
            doubted: Vec::new().into(),
        }
    }

    fn verify(&self) -> VerifyRequest {
        VerifyRequest {
            stanza: Some(self.stanza.clone()),
            repo: None,
            part: None,
        }
    }

    fn half_of_a_message(&self) -> Bytes {
        head(QueryChunks::NUMBER, QueryChunks::MAX, QueryChunks::MAX / 2)
    }
}

/// The beginning of a message of so many bytes.
fn head(number: u16, length: usize, sent: usize) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u32_le(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put_u16_le(number);
    bytes.resize(sent, 0);
    bytes.freeze()
}

async fn open(connection: &Connection) -> Option<Stream> {
    timeout(STEP, connection.open()).await.ok()?.ok()
}
