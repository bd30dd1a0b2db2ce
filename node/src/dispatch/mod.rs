//! Serving one connection: one request a stream, looked at by `authorize`, carried out by `services`.

mod arrival;
mod nodes;
mod parts;

use crate::Node;
use crate::authorize::{Reader, authorize};
use crate::bounds;
use crate::budget::Held;
use crate::services::{Got, MapSource};
use crate::sessions::ConnectionNumber;
use bytes::Bytes;
use pgmesh_protocol::{
    AcceptLoss, AdoptStanza, CHUNK_BODY_LIMIT, DeleteStanza, ExitCode, Failure, MESSAGE_LIMIT, MeshFacts, PayloadHead,
    RemoveRepository, ReplaceRepository, Request, SegmentReply, TerminateSession, UpdateRepository,
};
use pgmesh_raft::{LogIndex, SessionId};
use pgmesh_runtime::tasks;
use pgmesh_storage::{LARGEST_SINGLE_OBJECT, parts_of};
use pgmesh_transport::{JoinPlace, Peer, Role, Session, Stream, StreamError};
use serde::Serialize;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Memory that an answer takes until it is sent: as it was stored, and decrypted. A segment is 16 MiB unless a cluster
/// was made with larger ones.
const SEGMENT_READ: u64 = 32 << 20;
const CHUNK_READ: u64 = 2 << 20;

/// One connection.
pub(crate) struct Served {
    node: Arc<Node>,
    peer: Peer,
    actor: String,
    remote: IpAddr,
    number: ConnectionNumber,
    place: Option<Arc<JoinPlace>>,
}

impl Served {
    /// A connection, whose peer is `actor` in the audit trail.
    pub fn new(node: Arc<Node>, session: &Session, actor: String, number: ConnectionNumber) -> Self {
        Self {
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
    let request = match arrival::receive(&served.peer, &mut stream).await {
        Ok(Ok(request)) => request,
        Ok(Err(refusal)) => {
            tracing::warn!(actor = served.actor, "refused: {refusal}");
            let told = reply::<()>(&mut stream, Err(refusal))
                .await
                .and_then(|()| stream.finish());
            if told.is_ok() {
                drop(stream.delivered().await);
            }
            return;
        }
        Err(error) => {
            tracing::debug!(actor = served.actor, %error, "a request did not arrive");
            return;
        }
    };
    let name = request.name();
    let _serving = served.node.backups.serving(served.number);
    let allowed = authorize(&served.peer, &request)
        .and_then(|()| served.node.membership.check_worth(&served.peer, &request))
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
            Request::Hello(_) => {
                let facts = MeshFacts {
                    mesh_id: node.mesh_id().to_owned(),
                    suite: node.suite(),
                    node: node.name.to_string(),
                    nodes: node.membership.addresses(),
                };
                reply(stream, Ok(facts)).await
            }
            Request::PushSegment(mut push) => {
                if let Err(failure) = node.archive.expects(&push) {
                    return logged::<()>(stream, "archive-push", Err(failure)).await;
                }
                push.server.address = self.remote.to_string();
                if parts_of(push.payload.plain_length).is_some() {
                    return self.push_parts(push, stream).await;
                }
                let held = self.hold_copies(push.payload).await;
                let body = body(stream, push.payload, LARGEST_SINGLE_OBJECT).await?;
                let source = MapSource::of(&push, &body, &held);
                let (stanza, file) = (push.stanza.clone(), push.file.clone());
                let server = push.server.clone();
                let pushed = node.archive.push_segment(actor, push, body, held).await;
                let refusal = pushed.as_ref().err();
                let refusal = refusal.map(|failure| (failure, node.catalog.view().applied().unwrap_or_default()));
                node.archive.refused.note(&stanza, actor, &server, &file, refusal);
                let is_new = pushed.as_ref().is_ok_and(|pushed| !pushed.already && !pushed.aside);
                let answered = logged(stream, "archive-push", pushed).await;
                // After the answer: PostgreSQL waits for the push, and for nothing else.
                if let Some(source) = source.filter(|_| is_new) {
                    self.node.archive.clone().map_later(source);
                }
                answered
            }
            Request::GetSegment(get) => {
                let _held = node.budget.hold(SEGMENT_READ).await;
                match self.node.archive.get_segment(get).await {
                    Ok(Got::Said(said)) => reply(stream, Ok(said)).await,
                    Ok(Got::Whole(found, body)) => reply_with_body(stream, Ok((found, Some(body)))).await,
                    Ok(Got::Parts(file)) => self.send_parts(&file, stream).await,
                    Err(failure) => reply_with_body::<SegmentReply>(stream, Err(failure)).await,
                }
            }
            Request::BeginBackup(begin) => {
                logged(
                    stream,
                    "backup",
                    node.backups.begin_backup(actor, begin, self.number).await,
                )
                .await
            }
            Request::BeginRestore(begin) => {
                logged(
                    stream,
                    "restore",
                    node.backups.begin_restore(actor, begin, self.number).await,
                )
                .await
            }
            Request::ResumeSession(resume) => {
                let resumed = node.backups.resume_session(actor, &resume, self.number).await;
                logged(stream, "session resume", resumed).await
            }
            Request::KeepSession(keep) => reply(stream, self.check_held(keep.session)).await,
            Request::QueryChunks(query) => {
                let known = match self.check_held(query.session) {
                    Ok(()) => node.backups.query_chunks(actor, Reader::of(&self.peer), &query).await,
                    Err(failure) => Err(failure),
                };
                reply(stream, known).await
            }
            Request::PutChunk(put) => {
                if let Err(failure) = self.check_held(put.session) {
                    return reply::<u64>(stream, Err(failure)).await;
                }
                let held = self.hold_copies(put.payload).await;
                let body = body(stream, put.payload, CHUNK_BODY_LIMIT).await?;
                reply(stream, node.backups.put_chunk(put, body, held).await).await
            }
            Request::CommitBackup(commit) => {
                let copies = commit.manifest.length.saturating_mul(4);
                let memory = copies.saturating_add(commit.manifest.plain_length);
                let held = Arc::new(node.budget.hold(memory).await);
                let body = body(stream, commit.manifest, CHUNK_BODY_LIMIT).await?;
                if let Err(failure) = self.check_held(commit.session) {
                    // The session ends with its commit: who asks again has not heard that it succeeded.
                    let done = node.backups.committed_before(&commit).await;
                    let answer = done.and_then(|done| done.ok_or(failure));
                    return logged(stream, "backup", answer).await;
                }
                logged(
                    stream,
                    "backup",
                    node.backups.commit_backup(actor, commit, body, held).await,
                )
                .await
            }
            Request::EndSession(end) => {
                if self.check_held(end.session).is_ok() {
                    let session = SessionId(LogIndex(end.session));
                    node.backups
                        .end_session(actor, session, "its holder has ended it")
                        .await;
                }
                reply(stream, Ok(())).await
            }
            Request::ChangeMaps(ask) => reply(stream, node.archive.change_maps(ask).await).await,
            Request::GetManifest(get) => {
                let read = node
                    .reads
                    .get_manifest(get)
                    .await
                    .map(|(head, body)| (head, Some(body)));
                reply_with_body(stream, read).await
            }
            Request::GetChunk(get) => {
                let reader = Reader::of(&self.peer);
                let _held = node.budget.hold(node.reads.cost_of_chunk(reader, get.digest)).await;
                let read = node.reads.get_chunk(reader, get).await;
                reply_with_body(stream, read.map(|(head, body)| (head, Some(body)))).await
            }
            Request::GetPieces(get) => {
                let reader = Reader::of(&self.peer);
                let _held = node.budget.hold(node.reads.cost_of_chunk(reader, get.digest)).await;
                let read = node.reads.get_pieces(reader, get).await;
                reply_with_body(stream, read.map(|(head, body)| (head, Some(body)))).await
            }
            other => self.administer(other, stream).await,
        }
    }

    /// The requests that are not about bulk data.
    async fn administer(&self, request: Request, stream: &mut Stream) -> Result<(), StreamError> {
        let (node, actor) = (&*self.node, self.actor.as_str());
        match request {
            Request::Info(ask) => reply(stream, node.info(&self.peer, ask).await).await,
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
            Request::GetRetained(ask) => reply(stream, node.retained(ask).await).await,
            Request::ExpireBackups(expire) => logged(stream, "expire", node.expire_backups(actor, expire).await).await,
            Request::ExpireWal(expire) => logged(stream, "expire of WAL", node.expire_wal(actor, expire).await).await,
            Request::HoldBackup(hold) => {
                let held = node.hold_backup(actor, self.peer.is_admin(), hold).await;
                logged(stream, "hold", held).await
            }
            Request::Annotate(annotate) => reply(stream, node.annotate(actor, annotate).await).await,
            Request::ListRepository(list) => reply(stream, node.list_repository(list, self.peer.is_node()).await).await,
            Request::ReadRepository(read) => {
                let read = node
                    .read_repository(read, self.peer.is_node())
                    .await
                    .map(|(head, body)| (head, Some(body)));
                reply_with_body(stream, read).await
            }
            Request::Invite(invite) => {
                let invited = match self.member() {
                    Ok(member) => node.membership.invite(actor, member.key.0, invite).await,
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
        let (sink, mut events) = mpsc::channel(64);
        let run = self.node.verify(&self.peer, request, sink);
        // It owns the events: when the asker is gone, they have no receiver any more, and the verification ends.
        let pass_on = async move {
            while let Some(event) = events.recv().await {
                reply(stream, Ok(event)).await?;
            }
            Ok(())
        };
        // Joined, not spawned: when the asker goes, the verification ends with the stream.
        let ((), passed) = tokio::join!(run, pass_on);
        passed
    }

    /// Memory for a payload on its way into the repositories: compressed, decompressed to be checked, and encrypted
    /// once for each repository of this node.
    async fn hold_copies(&self, payload: PayloadHead) -> Arc<Held> {
        let copies = 1 + self.node.repositories.keys().len() as u64;
        let memory = payload.length.saturating_mul(copies);
        let memory = memory.saturating_add(payload.plain_length);
        Arc::new(self.node.budget.hold(memory).await)
    }

    fn check_held(&self, session: u64) -> Result<(), Failure> {
        self.node.backups.clients.check_held(session, self.number)
    }

    /// A node that is being drained sends its clients elsewhere; backups that run here are taken along by their
    /// holders.
    fn check_draining(&self, request: &Request) -> Result<(), Failure> {
        let role = self.peer.member().map(|member| &member.role);
        let is_client = matches!(role, Some(Role::Client { .. } | Role::Restore { .. }));
        if !is_client || matches!(request, Request::Hello(_)) || !self.node.membership.is_draining() {
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
