//! One client does not hurt another (decision 42): pushes of one stanza while a client of another stanza does its
//! worst.

use crate::SessionTimes;
use crate::testing::{Connected, SUITE, TestNode, push_of, segment_of, stanza};
use bytes::Bytes;
use pgmesh_postgres::{PgVersion, SegmentSize, SystemId, TimelineId};
use pgmesh_protocol::{CreateStanza, ExitCode, GetSegment, PushSegment, PutChunk, QUERY_LIMIT, QueryChunks};
use pgmesh_storage::{Codec, Payload, StanzaName};
use pgmesh_transport::{Client, Connection, Role, Stream, Tuning};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const SEGMENT: u32 = 4 << 20;
/// A push takes three times its segment: the budget of a test's node has room for five.
const ATTACKS: usize = 40;

/// A node with two stanzas, and a client of each.
struct Site {
    node: TestNode,
    victim: Connected,
    attacker: Connected,
    pushed: u64,
}

fn other() -> StanzaName {
    "aa".parse().unwrap()
}

fn client_of(site: &TestNode, stanza: StanzaName, name: &str) -> pgmesh_transport::Identity {
    let stanzas = vec![stanza];
    site.certificate(&Role::Client { stanzas }, name)
}

impl Site {
    async fn start() -> Self {
        let node = TestNode::start(SessionTimes::default()).await;
        let victim = node.connect_as(&client_of(&node, stanza(), "db1")).await;
        let attacker = node.connect_as(&client_of(&node, other(), "db2")).await;
        node.create_stanza_of(&victim, SEGMENT).await;
        let create = CreateStanza {
            stanza: other(),
            system_id: SystemId(78),
            version: PgVersion::V15,
            catalog_version: PgVersion::V15.catalog_version(),
            segment_size: SegmentSize::new(SEGMENT).unwrap(),
            instance: "here".to_owned(),
            machine: String::new(),
            timeline: TimelineId(1),
        };
        attacker.ask(&create, None).await.unwrap();
        Self {
            node,
            victim,
            attacker,
            pushed: 0,
        }
    }

    /// Pushes segments of the victim one after the other; how long each took.
    async fn push(&mut self, count: usize) -> Vec<Duration> {
        let mut times = Vec::new();
        for _ in 0..count {
            self.pushed += 1;
            let (push, body) = push_of_stanza(stanza(), 77, self.pushed);
            let began = Instant::now();
            self.victim.ask(&push, Some(&body)).await.unwrap();
            times.push(began.elapsed());
        }
        times.sort();
        times
    }

    /// The victim's pushes alone, then under the attack, take about the same time.
    async fn assert_unhurt(&mut self, attack: &str, alone: &[Duration]) {
        let attacked = self.push(20).await;
        let of = |times: &[Duration], percent: usize| times[(times.len() - 1) * percent / 100].as_millis();
        println!(
            "{attack}: p50 {} ms alone, {} ms attacked; the slowest {} ms alone, {} ms attacked",
            of(alone, 50),
            of(&attacked, 50),
            of(alone, 100),
            of(&attacked, 100)
        );
        // A test's machine may be busy; a push that waits for the attacker takes seconds.
        assert!(
            attacked[attacked.len() - 1] < Duration::from_millis(900),
            "{attack}: {attacked:?}"
        );
    }
}

fn push_of_stanza(stanza: StanzaName, system: u64, number: u64) -> (PushSegment, Bytes) {
    let mut content = segment_of(number, SEGMENT);
    content[24..32].copy_from_slice(&system.to_le_bytes());
    let mut push = push_of(&format!("{:08X}{:08X}{:08X}", 1, 0, number), &content);
    push.stanza = stanza;
    push.system_id = SystemId(system);
    let payload = Payload::pack(SUITE, Codec::None, None, &content).unwrap();
    (push, payload.bytes)
}

/// Keeps streams open that send a byte now and then.
async fn drip(mut streams: Vec<Stream>, body: Bytes) {
    for at in 0..body.len() {
        for stream in &mut streams {
            // A node that gives a stream up has said so.
            let _ = stream.send_bytes(&body.slice(at..=at)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_never_come_keep_no_other_stanza_waiting() {
    let mut site = Site::start().await;
    let alone = site.push(20).await;
    let mut streams = Vec::new();
    for number in 1..=ATTACKS as u64 {
        let (push, _) = push_of_stanza(other(), 78, number);
        let mut stream = site.attacker.open().await;
        stream.call(&push).await.unwrap();
        streams.push(stream);
    }
    let dripping = tokio::spawn(drip(streams, Bytes::from(vec![0; 1000])));
    tokio::time::sleep(Duration::from_millis(500)).await;
    site.assert_unhurt("pushes that drip", &alone).await;
    dripping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_keep_no_other_stanza_waiting() {
    let mut site = Site::start().await;
    let alone = site.push(20).await;
    let (push, body) = push_of_stanza(other(), 78, 1);
    site.attacker.ask(&push, Some(&body)).await.unwrap();
    let get = GetSegment {
        stanza: other(),
        file: push.file.clone(),
        system_id: None,
        avoid: Vec::new(),
        doubted: Vec::new(),
    };
    let mut unread = Vec::new();
    for _ in 0..ATTACKS {
        let mut stream = site.attacker.open().await;
        stream.call(&get).await.unwrap();
        unread.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    site.assert_unhurt("answers that nobody reads", &alone).await;
    drop(unread);
}

/// A stanza that has not been here before waits for a second, and not for the attacker's time-out.
#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_gets_memory_that_silent_senders_hold() {
    let mut site = Site::start().await;
    let mut streams = Vec::new();
    for number in 1..=ATTACKS as u64 {
        let (push, _) = push_of_stanza(other(), 78, number);
        let mut stream = site.attacker.open().await;
        stream.call(&push).await.unwrap();
        streams.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let first = site.push(1).await;
    assert!(first[0] < Duration::from_secs(4), "{first:?}");
    let then = site.push(10).await;
    assert!(then[9] < Duration::from_millis(900), "{then:?}");
}

/// A long message is not read before there is memory for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_message_takes_memory_of_the_budget() {
    let site = Site::start().await;
    let query = QueryChunks {
        stanza: other(),
        session: 1,
        digests: vec![SUITE.digest(b"x"); QUERY_LIMIT],
    };
    let unheld = site.attacker.ask(&query, None).await.unwrap_err();
    assert_eq!(unheld.code, ExitCode::LockAcquire);
    let all = site.node.node.budget.hold(u64::MAX).await;
    let busy = site.attacker.ask(&query, None).await.unwrap_err();
    assert_eq!((busy.code, busy.again), (ExitCode::HostConnect, true));
    assert!(busy.what.starts_with("node alpha is busy: "), "{busy}");
    let put = PutChunk {
        stanza: other(),
        session: 1,
        payload: Payload::pack(SUITE, Codec::None, None, b"x").unwrap().head(),
    };
    let short = site.attacker.ask(&put, None).await.unwrap_err();
    assert_eq!(short.code, ExitCode::LockAcquire, "a short message takes none");
    drop(all);
}

/// All attacks at once, by one certificate with all the connections that it gets, which sends as much as it can and
/// reads nothing. The attacker is in the same process, and keeps little itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_a_node_under_attack_is_its_budgets_and_a_little() {
    let mut site = Site::start().await;
    for number in 1..=3 {
        let (push, body) = push_of_stanza(other(), 78, number);
        site.attacker.ask(&push, Some(&body)).await.unwrap();
    }
    site.push(3).await;
    let before = peak_memory();
    let tuning = Tuning {
        stream_window: 32 << 10,
        connection_window: 32 << 10,
        ..Tuning::default()
    };
    let identity = client_of(&site.node, other(), "db2");
    let client = Client::with(&identity, tuning).unwrap();
    let (push, body) = push_of_stanza(other(), 78, 4);
    let mut attack = JoinSet::new();
    let mut connections = Vec::new();
    while connections.len() < 200 {
        let Ok(connection) = client.connect(site.node.address()).await else {
            break;
        };
        for number in 0..16 {
            attack.spawn(misuse(connection.clone(), number, push.clone(), body.clone()));
        }
        connections.push(connection);
    }
    assert!(connections.len() >= 100, "{}", connections.len());
    let times = site.push(10).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = (peak_memory() - before) >> 20;
    let budgets = 64 + 32;
    println!("the node grew by {grown} MiB, its budgets are {budgets} MiB; pushes beside it took {times:?}");
    assert!(grown < budgets + 150, "{grown} MiB");
}

/// A stream that takes what it gets and gives nothing back.
async fn misuse(connection: Connection, number: usize, push: PushSegment, body: Bytes) {
    let Ok(mut stream) = connection.open().await else {
        return;
    };
    let sent = match number % 4 {
        // All but the end of a body.
        0 | 1 => match stream.call(&push).await {
            Ok(()) => stream.send_bytes(&body.slice(..body.len() - 1)).await,
            refused => refused,
        },
        // An answer that nobody reads.
        2 => {
            let get = GetSegment {
                stanza: other(),
                file: "000000010000000000000001".to_owned(),
                system_id: None,
                avoid: Vec::new(),
                doubted: Vec::new(),
            };
            stream.call(&get).await
        }
        // Half of a long message.
        _ => {
            let message = [140_000_u32.to_le_bytes().as_slice(), &5_u16.to_le_bytes()].concat();
            match stream.send_bytes(&message.into()).await {
                Ok(()) => stream.send_bytes(&body.slice(..100_000)).await,
                refused => refused,
            }
        }
    };
    if sent.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// The most memory that this process has had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib = line.split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() << 10
}
