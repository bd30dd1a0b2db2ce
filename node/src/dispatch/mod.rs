//! Serving one connection: one request a stream, looked at by `authorize`, carried out by `services`.

mod arrival;
mod bodies;
#[cfg(test)]
mod fairness;
mod memory;
mod nodes;
mod parts;

use crate::Node;
use crate::asker::Asker;
use crate::authorize::authorize;
use crate::bounds;
use crate::read_log::Read;
use crate::sessions::ConnectionNumber;
use bytes::Bytes;
use pgmesh_protocol::{
    AcceptLoss, AdoptStanza, DeleteStanza, ExitCode, Failure, MESSAGE_LIMIT, MeshFacts, PayloadHead, RemoveRepository,
    ReplaceRepository, Request, TerminateSession, UpdateRepository, VerifyEvent,
};
use pgmesh_raft::{LogIndex, SessionId};
use pgmesh_runtime::tasks;
use pgmesh_storage::StanzaName;
use pgmesh_transport::{JoinPlace, Peer, Role, Session, Stream, StreamError};
use serde::Serialize;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Memory that an answer takes until it is sent: as it was stored, and decrypted. A segment is 16 MiB unless a cluster
/// was made with larger ones.
const SEGMENT_READ: u64 = 32 << 20;
/// The same of a chunk that another node asks for.
const CHUNK_READ: u64 = 2 << 20;

/// One connection.
pub(crate) struct Served {
    node: Arc<Node>,
    peer: Peer,
    actor: String,
    remote: IpAddr,
    number: ConnectionNumber,
    place: Option<Arc<JoinPlace>>,
    asker: Asker,
}

impl Served {
    /// A connection, whose peer is `actor` in the audit trail.
    pub fn new(node: Arc<Node>, session: &Session, actor: String, number: ConnectionNumber) -> Self {
        Self {
            asker: Asker::new(&node, session),
            node,
            peer: session.peer().clone(),
            actor,
            remote: session.remote_address().ip().to_canonical(),
            number,
            place: session.join_place().cloned(),
        }
    }

    /// Serves until the connection ends.
    pub async fn accept_streams(self: &Arc<Self>, session: &Session) {
        loop {
            match session.accept_stream().await {
                Ok(stream) => drop(tasks::spawn("serving a stream", serve_stream(self.clone(), stream))),
                Err(lost) => {
                    if !lost.is_orderly() {
                        tracing::debug!(actor = self.actor, %lost, "disconnected");
                    }
                    return;
                }
            }
        }
    }
}

async fn serve_stream(served: Arc<Served>, mut stream: Stream) {
    if let Err(error) = stream.wait_for_place().await {
        tracing::debug!(actor = served.actor, %error, "a request was refused");
        return;
    }
    let received = arrival::receive(&served.peer, &served.asker, &mut stream).await;
    let (request, mut message) = match received {
        Ok(Ok(received)) => received,
        Ok(Err(refusal)) => {
            tracing::warn!(actor = served.actor, "refused: {refusal}");
            if reply::<()>(&mut stream, Err(refusal)).await.is_ok() {
                drop(memory::delivered(&mut stream).await);
            }
            return;
        }
        Err(error) => {
            tracing::debug!(actor = served.actor, %error, "a request did not arrive");
            return;
        }
    };
    if memory::is_held_for(&served.node, &request) {
        message = None;
    }
    let name = request.name();
    let _serving = served.node.backups.serving(served.number);
    let allowed = authorize(&served.peer, &request)
        .and_then(|()| served.node.core.check_worth(&served.peer, &request))
        .and_then(|()| bounds::check(&request))
        .and_then(|()| served.check_draining(&request))
        .and_then(|()| served.node.check_past(&request));
    let result = match allowed {
        Ok(()) => Box::pin(served.answer(request, &mut stream)).await,
        Err(refusal) => {
            // Nothing of it is needed while the refusal is on its way.
            drop(request);
            tracing::warn!(actor = served.actor, request = name, "refused: {refusal}");
            reply::<()>(&mut stream, Err(refusal)).await
        }
    };
    drop(message);
    // Wait until the reply has arrived: a node that stops must not cut it off.
    let delivered = match result {
        Ok(()) => memory::delivered(&mut stream).await,
        Err(error) => Err(error),
    };
    if let Err(error) = delivered {
        tracing::debug!(actor = served.actor, request = name, %error, "a reply was not delivered");
    }
}

impl Served {
    /// Carries a request out and replies.
    async fn answer(&self, request: Request, stream: &mut Stream) -> Result<(), StreamError> {
        let (node, actor) = (&*self.node, self.actor.as_str());
        match request {
            Request::Hello(_) => {
                let facts = MeshFacts {
                    mesh_id: node.mesh_id().to_owned(),
                    suite: node.suite(),
                    node: node.name.to_string(),
                    nodes: node.addresses(),
                };
                reply(stream, Ok(facts)).await
            }
            Request::PushSegment(push) => Box::pin(self.push_segment(push, stream)).await,
            Request::GetSegment(get) => Box::pin(self.get_segment(get, stream)).await,
            Request::BeginBackup(begin) => {
                logged(
                    stream,
                    "backup",
                    node.backups.begin_backup(actor, begin, self.number).await,
                )
                .await
            }
            Request::BeginRestore(begin) => {
                let stanza = begin.stanza.clone();
                let begun = node.backups.begin_restore(actor, begin, self.number).await;
                if begun.is_ok() {
                    self.note_bytes("restore", Some(&stanza), 0);
                }
                logged(stream, "restore", begun).await
            }
            Request::ResumeSession(resume) => {
                let resumed = node.backups.resume_session(actor, &resume, self.number).await;
                logged(stream, "session resume", resumed).await
            }
            Request::KeepSession(keep) => reply(stream, self.check_held(keep.session)).await,
            Request::QueryChunks(query) => {
                let known = self
                    .check_held(query.session)
                    .and_then(|()| node.backups.query_chunks(&query));
                reply(stream, known).await
            }
            Request::PutChunk(put) => Box::pin(self.put_chunk(put, stream)).await,
            Request::CommitBackup(commit) => Box::pin(self.commit_backup(commit, stream)).await,
            Request::EndSession(end) => {
                if self.check_held(end.session).is_ok() {
                    let session = SessionId(LogIndex(end.session));
                    node.backups
                        .end_session(actor, session, "its holder has ended it")
                        .await;
                }
                reply(stream, Ok(())).await
            }
            Request::ChangeMaps(ask) => {
                // The node takes memory for itself to make maps: none is held meanwhile.
                let maps = node.archive.change_maps(ask).await;
                let held = self.asker.hold(stream, MESSAGE_LIMIT as u64).await?;
                memory::answer(stream, &held, maps.map(|maps| (maps, None))).await
            }
            Request::GetChunk(get) => Box::pin(self.get_chunk(get, stream)).await,
            Request::GetPieces(get) => Box::pin(self.get_pieces(get, stream)).await,
            other => match memory::cost_of_answer(node, &other) {
                Some(cost) => self.answer_at_length(other, cost, stream).await,
                None => self.administer(other, stream).await,
            },
        }
    }

    /// The requests with answers that may be long.
    async fn answer_at_length(&self, request: Request, cost: u64, stream: &mut Stream) -> Result<(), StreamError> {
        let node = &*self.node;
        let held = self.asker.hold(stream, cost).await?;
        match request {
            Request::Info(ask) => {
                let info = node.info(&self.peer, ask).await;
                memory::answer(stream, &held, info.map(|info| (info, None))).await
            }
            Request::GetManifest(get) => {
                let (what, stanza) = (format!("manifest of backup {}", get.label), get.stanza.clone());
                let read = node.reads.get_manifest(get).await;
                let read = read.map(|(head, body)| (head, Some(body)));
                self.note_read(&what, Some(&stanza), &read);
                memory::answer(stream, &held, read).await
            }
            Request::ListRepository(list) => {
                let listed = node.list_repository(list, self.peer.is_node()).await;
                memory::answer(stream, &held, listed.map(|listed| (listed, None))).await
            }
            Request::ReadRepository(read) => {
                let what = format!("repo-get of repo{}/{}", read.repo, read.path);
                let read = node.read_repository(read, self.peer.is_node()).await;
                let read = read.map(|(head, body)| (head, Some(body)));
                self.note_read(&what, None, &read);
                memory::answer(stream, &held, read).await
            }
            other => self.administer(other, stream).await,
        }
    }

    /// The requests that are not about bulk data.
    async fn administer(&self, request: Request, stream: &mut Stream) -> Result<(), StreamError> {
        let (node, actor) = (&*self.node, self.actor.as_str());
        match request {
            Request::ChoosePrior(ask) => reply(stream, node.choose_prior(ask).await).await,
            Request::ChooseBackup(ask) => reply(stream, node.choose_backup(ask).await).await,
            Request::ArchiveStatus(ask) => reply(stream, node.archive_status(ask).await).await,
            Request::Verify(request) => self.verify(request, stream).await,
            Request::CreateStanza(create) => {
                logged(stream, "stanza-create", node.create_stanza(actor, create).await).await
            }
            Request::UpgradeStanza(upgrade) => {
                logged(
                    stream,
                    "stanza-upgrade",
                    node.upgrade_stanza(actor, upgrade.cluster).await,
                )
                .await
            }
            Request::AdoptStanza(AdoptStanza { cluster, force }) => {
                logged(stream, "stanza-adopt", node.adopt_stanza(actor, cluster, force).await).await
            }
            Request::ForgetWal(forget) => logged(stream, "archive-forget", node.forget_wal(actor, forget).await).await,
            Request::DeleteStanza(DeleteStanza { stanza, force, is_down }) => {
                let deleted = node.delete_stanza(actor, stanza, force, is_down).await;
                logged(stream, "stanza-delete", deleted).await
            }
            Request::SetStopped(set) => logged(stream, "stop/start", node.set_stopped(actor, set).await).await,
            Request::TerminateSession(TerminateSession { session }) => {
                logged(
                    stream,
                    "session-end",
                    node.backups.terminate_session(actor, session).await,
                )
                .await
            }
            Request::AcceptLoss(AcceptLoss { position }) => {
                logged(stream, "catalog-accept-loss", node.accept_loss(actor, position).await).await
            }
            Request::Annotate(annotate) => reply(stream, node.annotate(actor, annotate).await).await,
            Request::Invite(invite) => {
                let invited = match self.member() {
                    Ok(member) => node.invite(actor, member.key.0, invite).await,
                    Err(failure) => Err(failure),
                };
                reply(stream, invited).await
            }
            Request::Join(join) => self.join(join, stream).await,
            Request::UpdateRepository(UpdateRepository { repo, definition }) => {
                logged(
                    stream,
                    "repo-update",
                    node.update_repository(actor, repo, &definition).await,
                )
                .await
            }
            Request::ReplaceRepository(ReplaceRepository { repo }) => {
                logged(
                    stream,
                    "repo-replace",
                    node.replace_repository(actor, repo, self.peer.is_node()).await,
                )
                .await
            }
            Request::RemoveRepository(RemoveRepository { repo, force }) => {
                logged(stream, "repo-remove", node.remove_repository(actor, repo, force).await).await
            }
            other => self.serve_nodes(other, stream).await,
        }
    }

    /// Passes a verification's events on as they come.
    async fn verify(&self, request: pgmesh_protocol::VerifyRequest, stream: &mut Stream) -> Result<(), StreamError> {
        // Objects are read to the end, several at once: a client verifies once at a time.
        let wait = self.node.backups.verifications.begin(self.asker.account());
        let began = tokio::select! {
            began = wait => began,
            gone = stream.given_up() => return Err(gone),
        };
        let _counted = match began {
            Ok(counted) => counted,
            Err(busy) => return reply(stream, Ok(VerifyEvent::Failed(busy))).await,
        };
        let stanza = request.stanza.clone();
        let (sink, mut events) = mpsc::channel(64);
        let run = self.node.verify(&self.peer, request, sink);
        let pass_on = async {
            while let Some(event) = events.recv().await {
                if matches!(event, VerifyEvent::Done(_)) {
                    self.note_bytes("verify", stanza.as_ref(), 0);
                }
                reply(stream, Ok(event)).await?;
            }
            Ok(())
        };
        // Joined, not spawned: when the asker goes, the verification ends with the stream.
        let ((), passed) = tokio::join!(run, pass_on);
        passed
    }

    /// Notes for the audit trail that the peer has read, if there was something to read.
    fn note_read<T>(&self, what: &str, stanza: Option<&StanzaName>, read: &Result<(T, Option<Bytes>), Failure>) {
        if read.is_ok() {
            self.note_bytes(what, stanza, memory::length_of(read));
        }
    }

    /// The same, with the number of bytes. A node reads for others: those are noted where they have asked.
    fn note_bytes(&self, what: &str, stanza: Option<&StanzaName>, bytes: u64) {
        if !self.peer.is_node() {
            let now = self.node.running.now();
            let read = Read { what, stanza, bytes };
            self.node.read_log.note(&self.actor, self.remote, &read, now);
        }
    }

    fn check_held(&self, session: u64) -> Result<(), Failure> {
        self.node.backups.clients.check_held(session, self.number)
    }

    /// A node that is being drained sends its clients elsewhere; backups that run here are taken along by their
    /// holders.
    fn check_draining(&self, request: &Request) -> Result<(), Failure> {
        let role = self.peer.member().map(|member| &member.role);
        let is_client = matches!(role, Some(Role::Client { .. } | Role::Restore { .. }));
        if !is_client || matches!(request, Request::Hello(_)) || !self.node.is_draining() {
            return Ok(());
        }
        Err(Failure::new(
            ExitCode::HostConnect,
            format!("node {} is being drained and serves no clients", self.node.name),
        )
        .remedy("another node of the mesh does: give more than one mesh-node")
        .again())
    }
}

async fn body(stream: &mut Stream, head: PayloadHead, limit: u64) -> Result<Bytes, StreamError> {
    stream
        .recv_bytes(head.length, usize::try_from(limit).unwrap_or(usize::MAX))
        .await
}

async fn reply<T: Serialize>(stream: &mut Stream, result: Result<T, Failure>) -> Result<(), StreamError> {
    match stream.send_within(&result, MESSAGE_LIMIT).await {
        // The asker would take it for a violation of the protocol, and not know what to do.
        Err(StreamError::TooLong { length, max }) => {
            let what = format!("the answer has {length} bytes, a message at most {max}");
            tracing::error!("{what}");
            stream.send(&Err::<T, _>(Failure::new(ExitCode::Assert, what))).await
        }
        sent => sent,
    }
}

/// A reply whose failure belongs into the node's log as well.
async fn logged<T: Serialize>(
    stream: &mut Stream,
    request: &'static str,
    result: Result<T, Failure>,
) -> Result<(), StreamError> {
    if let Err(failure) = &result {
        tracing::warn!(request, code = failure.code.number(), "{failure}");
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
            tracing::warn!(code = failure.code.number(), "{failure}");
            reply::<T>(stream, Err(failure)).await
        }
    }
}
