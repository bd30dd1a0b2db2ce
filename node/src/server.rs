//! The daemon: accepts connections, serves one request a stream, stops cleanly.

use crate::authorize::authorize;
use crate::failure::chain;
use crate::protocol::{BODY_LIMIT, CHUNK_BODY_LIMIT, MESSAGE_LIMIT, MeshFacts, PayloadHead, Request};
use crate::settings::NodeSettings;
use crate::{Failure, Node, code};
use bytes::Bytes;
use pgmesh_raft::{LogIndex, SessionId};
use pgmesh_transport::{Identity, Peer, Server, Session, Stream, StreamError};
use serde::Serialize;
use std::fs::File;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// How long requests under way may take to end when the node is told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Runs a node until `stop` is done. `ready` is called when it listens.
///
/// # Errors
/// It cannot start: not initialised, in use, port taken.
pub async fn run(
    settings: NodeSettings,
    ready: impl FnOnce(std::net::SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let layout = crate::Layout::new(&settings.path);
    let _lock = lock(&layout)?;
    let identity = Identity::load(&layout.identity()).map_err(|error| {
        Failure::new(
            code::CRYPTO,
            format!("the node's identity in {} cannot be used", layout.identity().display()),
        )
        .because(chain(&error))
    })?;
    let listen = settings.listen;
    // Before the catalog: a port that is taken is said at once.
    let server = Server::bind(listen, &identity).map_err(|error| {
        Failure::new(code::HOST_CONNECT, format!("node-listen {listen} cannot be used"))
            .because(chain(&error))
            .remedy("another program has this UDP port, perhaps another node: give another node-listen")
    })?;
    let address = server.local_address().unwrap_or(listen);
    let node = Arc::new(Node::open(settings).await?);
    node.open_repositories().await;
    let workers = [
        tokio::spawn(node.clone().keep_opening()),
        tokio::spawn(node.clone().keep_repairing()),
        tokio::spawn(node.clone().keep_sweeping()),
    ];
    tracing::info!(node = %node.name, mesh = node.mesh_id(), %address, "node ready");
    ready(address);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            incoming = server.accept() => match incoming {
                Some(incoming) => drop(tokio::spawn(serve_connection(node.clone(), incoming))),
                None => break,
            },
            () = &mut stop => break,
        }
    }
    tracing::info!("stopping");
    server.close(GRACE).await;
    for worker in workers {
        worker.abort();
    }
    node.catalog.shutdown().await?;
    tracing::info!("stopped");
    Ok(())
}

/// One process a data directory.
fn lock(layout: &crate::Layout) -> Result<File, Failure> {
    let path = layout.lock();
    if !layout.marker().exists() {
        return Err(
            Failure::new(code::CONFIG, format!("{} holds no node", layout.root().display()))
                .remedy("run 'pgmesh --config=FILE node init' first"),
        );
    }
    let unusable = |error: &dyn std::fmt::Display| {
        Failure::new(code::LOCK_ACQUIRE, format!("{} cannot be locked", path.display())).because(error.to_string())
    };
    let file = File::create(&path).map_err(|error| unusable(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Failure::new(
            code::LOCK_ACQUIRE,
            format!("a node runs on {} already", layout.root().display()),
        )),
        Err(std::fs::TryLockError::Error(error)) => Err(unusable(&error)),
    }
}

/// Memory that an answer takes until it is sent: as it was stored, and decrypted. A segment is 16 MiB unless a cluster
/// was made with larger ones.
const SEGMENT_READ: u64 = 32 << 20;
const CHUNK_READ: u64 = 2 << 20;

/// What one connection holds: sessions that end with it.
struct Served {
    node: Arc<Node>,
    peer: Peer,
    actor: String,
    sessions: Mutex<Vec<SessionId>>,
}

async fn serve_connection(node: Arc<Node>, incoming: pgmesh_transport::Incoming) {
    let remote = incoming.remote_address();
    let session = match incoming.establish().await {
        Ok(session) => session,
        Err(error) => {
            tracing::warn!(%remote, error = %chain(&error), "a connection was refused");
            return;
        }
    };
    let peer = session.peer().clone();
    let actor = match peer.member() {
        Some(member) => format!("{} {}", member.role.kind(), member.name),
        None => "joining".to_owned(),
    };
    tracing::debug!(%remote, actor, "connected");
    let served = Arc::new(Served {
        node,
        peer,
        actor,
        sessions: Mutex::new(Vec::new()),
    });
    accept_streams(&session, &served).await;
    let sessions = std::mem::take(&mut *served.sessions.lock().unwrap_or_else(PoisonError::into_inner));
    for id in sessions {
        served
            .node
            .end_session(&served.actor, id, "the connection of its holder ended")
            .await;
    }
}

async fn accept_streams(session: &Session, served: &Arc<Served>) {
    loop {
        match session.accept_stream().await {
            Ok(stream) => drop(tokio::spawn(serve_stream(served.clone(), stream))),
            Err(lost) => {
                if !lost.is_orderly() {
                    tracing::debug!(actor = served.actor, %lost, "disconnected");
                }
                return;
            }
        }
    }
}

async fn serve_stream(served: Arc<Served>, mut stream: Stream) {
    let request: Request = match stream.recv(MESSAGE_LIMIT).await {
        Ok(request) => request,
        Err(error) => {
            tracing::debug!(actor = served.actor, %error, "a request did not arrive");
            return;
        }
    };
    let name = request.name();
    let result = match authorize(&served.peer, &request) {
        Ok(()) => served.answer(request, &mut stream).await,
        Err(refusal) => {
            tracing::warn!(actor = served.actor, request = name, "refused: {refusal}");
            reply::<()>(&mut stream, Err(refusal)).await
        }
    };
    match result.and_then(|()| stream.finish()) {
        // Wait until the reply has arrived: a node that stops must not cut it off.
        Ok(()) => drop(stream.delivered().await),
        Err(error) => tracing::debug!(actor = served.actor, request = name, %error, "a reply was not delivered"),
    }
}

impl Served {
    /// Carries a request out and replies.
    async fn answer(&self, request: Request, stream: &mut Stream) -> Result<(), StreamError> {
        let (node, actor) = (&*self.node, self.actor.as_str());
        match request {
            Request::Hello => {
                let facts = MeshFacts {
                    mesh_id: node.mesh_id().to_owned(),
                    suite: node.suite(),
                    node: node.name.to_string(),
                    nodes: node.addresses(),
                };
                reply(stream, Ok(facts)).await
            }
            Request::PushSegment(push) => {
                // Compressed, decompressed to be checked, and encrypted once for each repository.
                let copies = 1 + node.repositories.keys().len() as u64;
                let memory = push
                    .payload
                    .length
                    .saturating_mul(copies)
                    .saturating_add(push.payload.plain_length);
                let held = Arc::new(node.budget.hold(memory).await);
                let body = body(stream, push.payload, BODY_LIMIT).await?;
                logged(stream, "archive-push", node.push_segment(actor, push, body, held).await).await
            }
            Request::GetSegment(get) => {
                let _held = node.budget.hold(SEGMENT_READ).await;
                reply_with_body(stream, node.get_segment(get).await).await
            }
            Request::BeginBackup(begin) => {
                let begun = node.begin_backup(actor, begin).await;
                if let Ok(begun) = &begun {
                    self.holds(SessionId(LogIndex(begun.session)));
                }
                logged(stream, "backup", begun).await
            }
            Request::QueryChunks(query) => {
                let known = self.check_held(query.session).and_then(|()| node.query_chunks(&query));
                reply(stream, known).await
            }
            Request::PutChunk(put) => {
                if let Err(failure) = self.check_held(put.session) {
                    return reply::<u64>(stream, Err(failure)).await;
                }
                let copies = 1 + node.repositories.keys().len() as u64;
                let memory = put
                    .payload
                    .length
                    .saturating_mul(copies)
                    .saturating_add(put.payload.plain_length);
                let held = Arc::new(node.budget.hold(memory).await);
                let body = body(stream, put.payload, CHUNK_BODY_LIMIT).await?;
                reply(stream, node.put_chunk(put, body, held).await).await
            }
            Request::CommitBackup(commit) => {
                if let Err(failure) = self.check_held(commit.session) {
                    return reply::<()>(stream, Err(failure)).await;
                }
                let held = Arc::new(node.budget.hold(commit.manifest.length.saturating_mul(4)).await);
                let body = body(stream, commit.manifest, CHUNK_BODY_LIMIT).await?;
                logged(stream, "backup", node.commit_backup(actor, commit, body, held).await).await
            }
            Request::AbortBackup { session, .. } => {
                let session = SessionId(LogIndex(session));
                if self.releases(session) {
                    node.end_session(actor, session, "its holder gave it up").await;
                }
                reply(stream, Ok(())).await
            }
            Request::GetManifest(get) => {
                let read = node.get_manifest(get).await.map(|(head, body)| (head, Some(body)));
                reply_with_body(stream, read).await
            }
            Request::GetChunk(get) => {
                let _held = node.budget.hold(CHUNK_READ).await;
                let read = node.get_chunk(get).await.map(|(head, body)| (head, Some(body)));
                reply_with_body(stream, read).await
            }
            other => self.administer(other, stream).await,
        }
    }

    /// The requests that are not about bulk data.
    async fn administer(&self, request: Request, stream: &mut Stream) -> Result<(), StreamError> {
        let (node, actor) = (&*self.node, self.actor.as_str());
        match request {
            Request::Info { stanza } => reply(stream, node.info(&self.peer, stanza).await).await,
            Request::ArchiveStatus(ask) => reply(stream, node.archive_status(ask).await).await,
            Request::Verify(request) => self.verify(request, stream).await,
            Request::CreateStanza(create) => {
                logged(stream, "stanza-create", node.create_stanza(actor, create).await).await
            }
            Request::UpgradeStanza(create) => {
                logged(stream, "stanza-upgrade", node.upgrade_stanza(actor, create).await).await
            }
            Request::DeleteStanza { stanza, force } => {
                logged(stream, "stanza-delete", node.delete_stanza(actor, stanza, force).await).await
            }
            Request::SetStopped(set) => logged(stream, "stop/start", node.set_stopped(actor, set).await).await,
            Request::Annotate(annotate) => reply(stream, node.annotate(actor, annotate).await).await,
            Request::ListRepository(list) => reply(stream, node.list_repository(list).await).await,
            Request::ReadRepository(read) => {
                let read = node.read_repository(read).await.map(|(head, body)| (head, Some(body)));
                reply_with_body(stream, read).await
            }
            Request::Invite(invite) => reply(stream, node.invite(actor, invite).await).await,
            Request::Join(join) => logged(stream, "join", node.join(join).await).await,
            Request::UpdateRepository { repo, definition } => {
                logged(
                    stream,
                    "repo-update",
                    node.update_repository(actor, repo, &definition).await,
                )
                .await
            }
            other => {
                let failure = Failure::new(code::ASSERT, format!("{} is not served here", other.name()));
                reply::<()>(stream, Err(failure)).await
            }
        }
    }

    /// Passes a verification's events on as they come.
    async fn verify(&self, request: crate::protocol::VerifyRequest, stream: &mut Stream) -> Result<(), StreamError> {
        let (sink, mut events) = mpsc::channel(64);
        let run = self.node.verify(request, sink);
        let pass_on = async {
            while let Some(event) = events.recv().await {
                reply(stream, Ok(event)).await?;
            }
            Ok(())
        };
        // Joined, not spawned: when the asker goes, the verification ends with the stream.
        let ((), passed) = tokio::join!(run, pass_on);
        passed
    }

    fn holds(&self, session: SessionId) {
        self.sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(session);
    }

    /// A session serves only the connection that opened it: another client's is none of its business.
    fn check_held(&self, session: u64) -> Result<(), Failure> {
        let held = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if held.contains(&SessionId(LogIndex(session))) {
            return Ok(());
        }
        Err(Failure::new(
            code::LOCK_ACQUIRE,
            format!("backup session {session} has ended, or is another connection's"),
        )
        .remedy("run the backup again: what is stored already is not sent twice"))
    }

    /// Whether this connection held it; it does no longer.
    fn releases(&self, session: SessionId) -> bool {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let before = sessions.len();
        sessions.retain(|held| *held != session);
        sessions.len() < before
    }
}

async fn body(stream: &mut Stream, head: PayloadHead, limit: u64) -> Result<Bytes, StreamError> {
    stream
        .recv_bytes(head.length, usize::try_from(limit).unwrap_or(usize::MAX))
        .await
}

async fn reply<T: Serialize>(stream: &mut Stream, result: Result<T, Failure>) -> Result<(), StreamError> {
    stream.send(&result).await
}

/// A reply whose failure belongs into the node's log as well.
async fn logged<T: Serialize>(
    stream: &mut Stream,
    request: &'static str,
    result: Result<T, Failure>,
) -> Result<(), StreamError> {
    if let Err(failure) = &result {
        tracing::warn!(request, code = failure.code, "{failure}");
    }
    reply(stream, result).await
}

async fn reply_with_body<T: Serialize>(
    stream: &mut Stream,
    result: Result<(T, Option<Bytes>), Failure>,
) -> Result<(), StreamError> {
    match result {
        Ok((head, body)) => {
            reply(stream, Ok(head)).await?;
            match body {
                Some(body) => stream.send_bytes(&body).await,
                None => Ok(()),
            }
        }
        Err(failure) => {
            tracing::warn!(code = failure.code, "{failure}");
            reply::<T>(stream, Err(failure)).await
        }
    }
}
