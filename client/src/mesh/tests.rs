//! A host among nodes that fail: they are played here, over real connections.

use super::*;
use candidates::Ways;
use pgmesh_protocol::{
    BackupBegun, BeginBackup, CommitBackup, CommittedBackup, ListNodes, NodeAddress, NodeInfo, PayloadHead, PutChunk,
    QueryChunks, Request, RestoreBegun, SyncEvent, SyncRepository,
};
use pgmesh_storage::{ArchiveId, BackupLabel, Codec, Digest, Payload};
use pgmesh_transport::{CloseCode, Incoming, MeshCa, MeshId, Role, Server, Stream, StreamError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How a played node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// As it should.
    Good,
    /// It has no majority.
    Alone,
    /// It closes the connection when it is asked anything but hello.
    Dies,
    /// It knows no session.
    Forgetful,
    /// It is alive, and answers nothing but hello.
    Stuck,
    /// It does not know requests with a body, and reads no body.
    Older,
}

/// A played node, and the names of the requests that it got.
struct Played {
    address: String,
    heard: Arc<Mutex<Vec<&'static str>>>,
    task: JoinHandle<()>,
}

struct Stage {
    folder: tempfile::TempDir,
    ca: MeshCa,
    nodes: Vec<Played>,
}

impl Stage {
    /// Nodes n0, n1, …; a host knows the first.
    async fn set(manners: &[Manner]) -> Self {
        let ca = MeshCa::create(MeshId::random().unwrap()).unwrap();
        let servers: Vec<Server> = (0..manners.len())
            .map(|number| {
                let name = format!("n{number}").parse().unwrap();
                let identity = ca.issue(&Role::Node, &name, Duration::from_secs(3600)).unwrap();
                Server::bind("127.0.0.1:0".parse().unwrap(), &identity).unwrap()
            })
            .collect();
        let addresses: Vec<String> = servers
            .iter()
            .map(|server| server.local_address().unwrap().to_string())
            .collect();
        let all: Vec<NodeAddress> = addresses
            .iter()
            .enumerate()
            .map(|(at, address)| said(at, address))
            .collect();
        let nodes = servers
            .into_iter()
            .zip(manners)
            .zip(addresses)
            .map(|((server, manner), address)| {
                let heard = Arc::<Mutex<Vec<&'static str>>>::default();
                let task = tokio::spawn(play(server, *manner, all.clone(), heard.clone()));
                Played { address, heard, task }
            });
        Self {
            nodes: nodes.collect(),
            folder: tempfile::tempdir().unwrap(),
            ca,
        }
    }

    fn mesh(&self) -> Mesh {
        let identity = self
            .ca
            .issue(&Role::Admin, &"db1".parse().unwrap(), Duration::from_secs(3600));
        let access = AccessSettings {
            directory: self.folder.path().to_owned(),
            ways: Ways {
                seeds: vec![self.nodes[0].address.clone()],
                ..Ways::default()
            },
            greeting: Duration::from_secs(5),
            limit: Duration::from_secs(5),
            ends_in_time: true,
        };
        Mesh::with(access, &identity.unwrap()).unwrap()
    }

    fn heard(&self, node: usize) -> Vec<&'static str> {
        self.nodes[node].heard.lock().unwrap().clone()
    }
}

fn said(number: usize, address: &str) -> NodeAddress {
    NodeAddress {
        name: format!("n{number}"),
        region: String::new(),
        addresses: vec![address.to_owned()],
        serves: true,
    }
}

async fn play(server: Server, manner: Manner, all: Vec<NodeAddress>, heard: Arc<Mutex<Vec<&'static str>>>) {
    while let Some(incoming) = server.accept().await {
        tokio::spawn(connection(incoming, manner, all.clone(), heard.clone()));
    }
}

async fn connection(incoming: Incoming, manner: Manner, all: Vec<NodeAddress>, heard: Arc<Mutex<Vec<&'static str>>>) {
    let session = Arc::new(incoming.establish().await.unwrap());
    while let Ok(mut stream) = session.accept_stream().await {
        let (all, heard, session) = (all.clone(), heard.clone(), session.clone());
        tokio::spawn(async move {
            let request = stream.recv_request(1 << 20).await.unwrap();
            heard.lock().unwrap().push(request.name());
            if manner == Manner::Dies && !matches!(request, Request::Hello(_)) {
                return session.close(CloseCode::SHUTTING_DOWN, "stopping");
            }
            if manner == Manner::Stuck && !matches!(request, Request::Hello(_)) {
                return std::future::pending().await;
            }
            // Errors: the host has gone.
            let _ = answer(&mut stream, &request, manner, all).await;
        });
    }
}

async fn answer(
    stream: &mut Stream,
    request: &Request,
    manner: Manner,
    all: Vec<NodeAddress>,
) -> Result<(), StreamError> {
    let ended = || Failure::new(ExitCode::LockAcquire, "the session has ended");
    match request {
        Request::Hello(_) => stream.send(&Ok::<_, Failure>(facts(all))).await?,
        _ if manner == Manner::Alone => {
            let alone = Failure::new(ExitCode::HostConnect, "no majority").again();
            stream.send(&Err::<(), _>(alone)).await?;
        }
        Request::PutChunk(_) if manner == Manner::Older => {
            let unknown = Failure::new(ExitCode::Protocol, "this node does not know request 6");
            stream.send(&Err::<(), _>(unknown)).await?;
        }
        Request::BeginBackup(_) => stream.send(&Ok::<_, Failure>(begun())).await?,
        Request::BeginRestore(_) => {
            let begun = RestoreBegun {
                session: 7,
                resume_key: [9; 16],
            };
            stream.send(&Ok::<_, Failure>(begun)).await?;
        }
        Request::ResumeSession(_) if manner == Manner::Forgetful => stream.send(&Err::<(), _>(ended())).await?,
        Request::ResumeSession(resume) => {
            // Others shall have time to come before it is done.
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!((resume.session, resume.resume_key), (7, [9; 16]));
            assert!(resume.turn > 0 && [0, 2].contains(&resume.backup_ack));
            stream.send(&Ok::<_, Failure>(())).await?;
        }
        Request::QueryChunks(query) => stream.send(&Ok::<_, Failure>(vec![true; query.digests.len()])).await?,
        Request::CommitBackup(commit) => {
            stream.recv_bytes(commit.manifest.length, 1 << 20).await?;
            let committed = CommittedBackup::Committed {
                durable: vec![1],
                owed: vec![],
            };
            stream.send(&Ok::<_, Failure>(committed)).await?;
        }
        Request::ListNodes(_) => stream.send(&Ok::<_, Failure>(Vec::<NodeInfo>::new())).await?,
        Request::SyncRepository(_) => {
            let done = SyncEvent::Done { objects: 3 };
            stream.send(&Ok::<_, Failure>(done)).await?;
        }
        _ => stream.send(&Ok::<_, Failure>(())).await?,
    }
    stream.finish()?;
    stream.delivered().await
}

fn facts(nodes: Vec<NodeAddress>) -> MeshFacts {
    MeshFacts {
        mesh_id: String::new(),
        suite: DigestSuite::Blake3,
        node: String::new(),
        nodes,
    }
}

fn begin() -> BeginBackup {
    BeginBackup {
        stanza: "main".parse().unwrap(),
        system_id: pgmesh_postgres::SystemId(1),
        version: "15".parse().unwrap(),
        instance: None,
        timeline: pgmesh_postgres::TimelineId(1),
        label: label(),
        holder: String::new().into(),
        backup_ack: None,
    }
}

fn begun() -> BackupBegun {
    BackupBegun {
        session: 7,
        suite: DigestSuite::Blake3,
        archive_id: ArchiveId {
            db: pgmesh_storage::DbId(1),
            version: "15".parse().unwrap(),
        },
        repositories: vec![1],
        backup_ack: 2,
        prior: None,
        writer: None,
        resume_key: [9; 16],
    }
}

fn label() -> BackupLabel {
    "20261123-020001F".parse().unwrap()
}

fn query() -> QueryChunks {
    QueryChunks {
        stanza: "main".parse().unwrap(),
        session: 7,
        digests: vec![Digest([0; 32])].into(),
    }
}

fn commit(manifest: PayloadHead) -> CommitBackup {
    CommitBackup {
        stanza: "main".parse().unwrap(),
        session: 7,
        label: label(),
        manifest,
    }
}

#[tokio::test]
async fn a_node_without_a_majority_is_left_for_one_that_has_it() {
    let stage = Stage::set(&[Manner::Alone, Manner::Good]).await;
    let mesh = stage.mesh();
    mesh.greet().await.unwrap();
    let began = Instant::now();
    mesh.call(&ListNodes).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(stage.heard(0), ["hello", "node list"]);
    assert_eq!(stage.heard(1), ["node list"]);
    // The next command goes to the other node at once, though it knows only the first by its configuration.
    stage.mesh().call(&ListNodes).await.unwrap();
    assert_eq!(stage.heard(0).len(), 2);
}

/// The body is longer than what is under way at once: the node's answer is there before it is sent.
#[tokio::test]
async fn a_refusal_arrives_though_the_node_takes_nothing_of_a_long_body() {
    let stage = Stage::set(&[Manner::Older]).await;
    let mesh = stage.mesh();
    mesh.greet().await.unwrap();
    let body = Bytes::from(vec![7; 64 << 20]);
    let put = PutChunk {
        stanza: "main".parse().unwrap(),
        session: 7,
        payload: PayloadHead {
            digest: Digest([0; 32]),
            codec: Codec::None,
            plain_length: body.len() as u64,
            length: body.len() as u64,
        },
    };
    let refused = mesh.send(&put, &body).await.unwrap_err();
    assert_eq!(refused.code, ExitCode::Protocol, "{refused}");
    assert_eq!(refused.what, "this node does not know request 6");
}

#[tokio::test]
async fn what_postgresql_waits_for_ends_in_time_though_a_node_is_stuck() {
    let stage = Stage::set(&[Manner::Stuck, Manner::Good]).await;
    let mesh = stage.mesh();
    mesh.greet().await.unwrap();
    mesh.call(&ListNodes).await.unwrap();
    assert_eq!(stage.heard(0), ["hello", "node list"]);
    assert_eq!(stage.heard(1), ["node list"]);
    let alone = Stage::set(&[Manner::Stuck, Manner::Stuck]).await;
    let failure = alone.mesh().call(&ListNodes).await.unwrap_err();
    assert_eq!(failure.code, ExitCode::HostConnect);
    assert!(failure.what.contains("was not answered by n"), "{failure}");
}

#[tokio::test]
async fn a_node_that_goes_away_in_the_middle_is_replaced_within_a_second() {
    let stage = Stage::set(&[Manner::Dies, Manner::Good]).await;
    let mesh = stage.mesh();
    mesh.greet().await.unwrap();
    let began = Instant::now();
    mesh.call(&ListNodes).await.unwrap();
    let request = SyncRepository {
        repo: pgmesh_storage::RepoKey::new(1).unwrap(),
    };
    let mut made = 0;
    mesh.events(&request, |heard| match heard {
        Heard::Event(SyncEvent::Done { objects }) => {
            made = objects;
            ControlFlow::Break(Ok(()))
        }
        _ => ControlFlow::Continue(()),
    })
    .await
    .unwrap();
    assert_eq!(made, 3);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // A process that is gone without a word.
    for node in &stage.nodes {
        node.task.abort();
    }
    let failure = stage.mesh().greet().await.unwrap_err();
    assert_eq!(failure.code, ExitCode::HostConnect);
    for node in &stage.nodes {
        assert!(failure.cause.as_ref().unwrap().contains(&node.address), "{failure}");
    }
}

#[tokio::test]
async fn a_backup_session_moves_along_once_and_before_all_else() {
    let stage = Stage::set(&[Manner::Good, Manner::Good]).await;
    let mesh = Arc::new(stage.mesh());
    mesh.begin_backup(begin()).await.unwrap();
    mesh.call(&query()).await.unwrap();
    assert_eq!(
        stage.heard(0),
        ["backup begin", "chunk query"],
        "it is this connection's already"
    );
    let link = mesh.link().await.unwrap();
    mesh.nodes.learn(
        &facts(vec![said(0, &stage.nodes[0].address), said(1, &stage.nodes[1].address)]).nodes,
        reached(&link),
    );
    mesh.leave(&link).await;
    let many: Vec<_> = (0..8)
        .map(|_| {
            let mesh = mesh.clone();
            tokio::spawn(async move { mesh.call(&query()).await })
        })
        .collect();
    for one in many {
        assert_eq!(one.await.unwrap().unwrap(), [true]);
    }
    let heard = stage.heard(1);
    assert_eq!(heard[0], "session resume");
    assert_eq!(
        heard.iter().filter(|name| **name == "session resume").count(),
        1,
        "{heard:?}"
    );
    assert_eq!(heard.len(), 9);
    mesh.forget_session();
    mesh.leave(&mesh.link().await.unwrap()).await;
    mesh.call(&ListNodes).await.unwrap();
    assert_eq!(stage.heard(0).last(), Some(&"node list"));
    assert!(!stage.heard(0).contains(&"session resume"));
}

#[tokio::test]
async fn an_idle_session_is_taken_up_without_a_request() {
    let stage = Stage::set(&[Manner::Good, Manner::Good]).await;
    let mesh = stage.mesh();
    mesh.greet().await.unwrap();
    mesh.begin_backup(begin()).await.unwrap();
    let first = mesh.link().await.unwrap();
    let resumed = async {
        first.connection.close();
        while !stage.heard(1).contains(&"session resume") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        never = mesh.keep_session() => match never {},
        done = tokio::time::timeout(Duration::from_secs(2), resumed) => done.unwrap(),
    }
}

#[tokio::test]
async fn a_commit_is_repeated_though_its_session_has_ended() {
    let stage = Stage::set(&[Manner::Good, Manner::Forgetful]).await;
    let mesh = stage.mesh();
    mesh.greet().await.unwrap();
    mesh.begin_backup(begin()).await.unwrap();
    mesh.leave(&mesh.link().await.unwrap()).await;
    let refused = mesh.call(&query()).await.unwrap_err();
    assert_eq!(refused.code, ExitCode::LockAcquire);
    let manifest = Payload::pack(DigestSuite::Blake3, Codec::None, None, b"root").unwrap();
    let committed = mesh.send(&commit(manifest.head()), &manifest.bytes).await.unwrap();
    assert!(matches!(committed, CommittedBackup::Committed { .. }));
}

#[tokio::test]
async fn all_addresses_that_fail_are_named_and_a_stranger_is_not_trusted() {
    let (stage, other) = (Stage::set(&[Manner::Good]).await, Stage::set(&[Manner::Good]).await);
    let mut mesh = stage.mesh();
    mesh.access.ways.seeds = vec![other.nodes[0].address.clone()];
    mesh.nodes = Nodes::open(stage.folder.path().to_owned(), "m".to_owned(), mesh.access.ways.clone());
    let failure = mesh.greet().await.unwrap_err();
    assert_eq!(failure.code, ExitCode::HostConnect);
    assert!(!failure.again, "asking again does not change a certificate: {failure}");
}

#[tokio::test]
async fn every_node_is_probed_by_itself() {
    let stage = Stage::set(&[Manner::Good, Manner::Alone]).await;
    let mesh = stage.mesh();
    mesh.greet().await.unwrap();
    let probed = mesh.probe().await;
    let names: Vec<Option<&str>> = probed.iter().map(|one| one.name.as_deref()).collect();
    assert_eq!(names, [Some("n0"), Some("n1")]);
    assert!(probed.iter().all(|one| one.outcome.is_ok()), "{probed:?}");
}

#[tokio::test]
async fn a_client_that_works_says_so_and_one_that_hangs_does_not() {
    let stage = Stage::set(&[Manner::Good]).await;
    let mesh = stage.mesh();
    mesh.begin_backup(begin()).await.unwrap();
    let keeps = || {
        stage
            .heard(0)
            .iter()
            .filter(|name| **name == "session keep-alive")
            .count()
    };
    let watched = async {
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert_eq!(keeps(), 0, "nothing is done");
        let waiting = mesh.activity().wait();
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert!(keeps() >= 1);
        drop(waiting);
    };
    tokio::select! {
        never = mesh.keep_session() => match never {},
        () = watched => {}
    }
}

#[tokio::test]
async fn a_restore_needs_no_session_and_goes_on_when_its_own_has_ended() {
    let restore = restore_of("main".parse().unwrap());
    // No majority anywhere: it is not waited for long, and reads go on.
    let stage = Stage::set(&[Manner::Alone]).await;
    let mesh = stage.mesh();
    let began = Instant::now();
    mesh.begin_restore(&restore).await;
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    assert!(mesh.greet().await.is_ok());
    mesh.end_session().await;

    let stage = Stage::set(&[Manner::Good, Manner::Forgetful]).await;
    let mesh = stage.mesh();
    mesh.greet().await.unwrap();
    mesh.begin_restore(&restore).await;
    mesh.leave(&mesh.link().await.unwrap()).await;
    // No request waits for the session; by and by another is opened.
    mesh.call(&ListNodes).await.unwrap();
    assert_eq!(stage.heard(1), ["node list"]);
    let another = async {
        while !stage.heard(1).contains(&"restore begin") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        never = mesh.keep_restore(&restore) => match never {},
        done = tokio::time::timeout(Duration::from_secs(5), another) => done.unwrap(),
    }
    assert!(stage.heard(1).contains(&"session resume"));
    mesh.end_session().await;
    assert_eq!(stage.heard(1).last(), Some(&"session end"));
}
