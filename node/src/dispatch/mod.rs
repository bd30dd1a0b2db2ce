//! Serving one connection: one request a stream, looked at by `authorize`, carried out by `services`.

mod arrival;
#[cfg(test)]
mod fairness;
mod memory;
mod nodes;
mod parts;

use crate::Node;
use crate::authorize::{Reader, authorize};
use crate::bounds;
use crate::budget::{Budget, Held, Urgency};
use crate::exchange::{Exchange, Purse, Receiving};
use crate::services::{Got, MapSource};
use crate::sessions::ConnectionNumber;
use pgmesh_protocol::{
    AcceptLoss, AdoptStanza, AnnotateBackup, ArchiveStatus, BeginBackup, BeginRestore, CHUNK_BODY_LIMIT, ChangeMaps,
    ChooseBackup, ChoosePrior, CommitBackup, CreateInvite, CreateStanza, DeleteStanza, EndSession, ExitCode,
    ExpireBackups, ExpireWal, Failure, ForgetWal, GetChunk, GetInfo, GetManifest, GetPieces, GetRetained, GetSegment,
    Hello, HoldBackup, KeepSession, ListRepository, MeshFacts, PayloadHead, PushSegment, PutChunk, QueryChunks,
    ReadRepository, RemoveRepository, ReplaceRepository, Request, ResumeSession, SetStopped, TerminateSession,
    UpdateRepository, UpgradeStanza, VerifyRequest,
};
use pgmesh_raft::{LogIndex, SessionId};
use pgmesh_runtime::tasks;
use pgmesh_storage::{LARGEST_SINGLE_OBJECT, parts_of};
use pgmesh_transport::{Account, JoinPlace, Peer, Role, Session, Stream, StreamError};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::mpsc;

/// One connection.
pub(crate) struct Served {
    node: Arc<Node>,
    peer: Peer,
    actor: String,
    account: Account,
    receiving: Receiving,
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
            account: session.peer().account(),
            receiving: Receiving::default(),
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
    let (request, message) = match arrival::receive(&served, &mut stream).await {
        Ok(Ok(arrived)) => arrived,
        Ok(Err(refusal)) => {
            tracing::warn!(actor = served.actor, "refused: {refusal}");
            let mut ex = served.exchange(&mut stream);
            if ex.refuse(refusal).await.is_ok() {
                drop(ex.deliver().await);
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
    let mut ex = served.exchange(&mut stream);
    if let Some(message) = message {
        ex.keep(message);
    }
    let result = match allowed {
        Ok(()) => Box::pin(served.answer(request, &mut ex)).await,
        Err(refusal) => {
            // Nothing of it is needed while the refusal is on its way.
            drop(request);
            tracing::warn!(actor = served.actor, request = name, "refused: {refusal}");
            ex.refuse(refusal).await
        }
    };
    let delivered = match result {
        Ok(()) => ex.deliver().await,
        Err(error) => Err(error),
    };
    if let Err(error) = delivered {
        tracing::debug!(actor = served.actor, request = name, %error, "a reply was not delivered");
    }
}

impl Served {
    /// The exchange on a stream of this connection.
    fn exchange<'s>(&'s self, stream: &'s mut Stream) -> Exchange<'s> {
        let purse = Purse {
            account: &self.account,
            budget: self.budget(),
            receiving: &self.receiving,
        };
        Exchange::new(stream, purse)
    }

    /// The memory of the connection's bodies. Nodes have a budget of their own: were it shared, two nodes could wait
    /// for each other's memory for ever.
    fn budget(&self) -> &Budget {
        match self.peer.is_node() {
            true => &self.node.peer_budget,
            false => &self.node.budget,
        }
    }

    /// Carries a request out and replies.
    async fn answer(&self, request: Request, ex: &mut Exchange<'_>) -> Result<(), StreamError> {
        let (node, actor) = (&*self.node, self.actor.as_str());
        if let Some(bytes) = memory::of_answer(node, &self.peer, &request) {
            ex.hold(bytes).await?;
        }
        match request {
            Request::Hello(_) => {
                let facts = MeshFacts {
                    mesh_id: node.mesh_id().to_owned(),
                    suite: node.suite(),
                    node: node.name.to_string(),
                    nodes: node.membership.addresses(),
                };
                ex.reply::<Hello>(Ok(facts)).await
            }
            Request::PushSegment(mut push) => {
                if let Err(failure) = node.archive.expects(&push) {
                    return ex.logged::<PushSegment>(Err(failure)).await;
                }
                push.server.address = self.remote.to_string();
                if parts_of(push.payload.plain_length).is_some() {
                    return self.push_parts(push, ex).await;
                }
                let held = self.hold_copies(ex, push.payload, Urgency::Push).await?;
                let body = ex.body(push.payload, LARGEST_SINGLE_OBJECT).await?;
                let source = MapSource::of(&push, &body, &held);
                let (stanza, file) = (push.stanza.clone(), push.file.clone());
                let server = push.server.clone();
                let pushed = node.archive.push_segment(actor, push, body, held).await;
                let refusal = pushed.as_ref().err();
                let refusal = refusal.map(|failure| (failure, node.catalog.view().applied().unwrap_or_default()));
                node.archive.refused.note(&stanza, actor, &server, &file, refusal);
                let is_new = pushed.as_ref().is_ok_and(|pushed| !pushed.already && !pushed.aside);
                let answered = ex.logged::<PushSegment>(pushed).await;
                // After the answer: PostgreSQL waits for the push, and for nothing else.
                if let Some(source) = source.filter(|_| is_new) {
                    self.node.archive.clone().map_later(source);
                }
                answered
            }
            Request::GetSegment(get) => match self.node.archive.get_segment(get).await {
                Ok(Got::Said(said)) => ex.reply::<GetSegment>(Ok(said)).await,
                Ok(Got::Whole(found, body)) => ex.reply_with_body::<GetSegment>(Ok((found, Some(body)))).await,
                Ok(Got::Parts(file)) => self.send_parts(&file, ex).await,
                Err(failure) => ex.reply_with_body::<GetSegment>(Err(failure)).await,
            },
            Request::BeginBackup(begin) => {
                ex.logged::<BeginBackup>(node.backups.begin_backup(actor, begin, self.number).await)
                    .await
            }
            Request::BeginRestore(begin) => {
                ex.logged::<BeginRestore>(node.backups.begin_restore(actor, begin, self.number).await)
                    .await
            }
            Request::ResumeSession(resume) => {
                let resumed = node.backups.resume_session(actor, &resume, self.number).await;
                ex.logged::<ResumeSession>(resumed).await
            }
            Request::KeepSession(keep) => ex.reply::<KeepSession>(self.check_held(keep.session)).await,
            Request::QueryChunks(query) => {
                let known = match self.check_held(query.session) {
                    Ok(()) => node.backups.query_chunks(actor, Reader::of(&self.peer), &query).await,
                    Err(failure) => Err(failure),
                };
                ex.reply::<QueryChunks>(known).await
            }
            Request::PutChunk(put) => {
                if let Err(failure) = self.check_held(put.session) {
                    return ex.reply::<PutChunk>(Err(failure)).await;
                }
                let held = self.hold_copies(ex, put.payload, Urgency::Usual).await?;
                let body = ex.body(put.payload, CHUNK_BODY_LIMIT).await?;
                ex.reply::<PutChunk>(node.backups.put_chunk(put, body, held).await)
                    .await
            }
            Request::CommitBackup(commit) => {
                let copies = commit.manifest.length.saturating_mul(4);
                let memory = copies.saturating_add(commit.manifest.plain_length);
                // Without a session nothing is received.
                if let Err(failure) = self.check_held(commit.session) {
                    return self.committed(ex, &commit, failure).await;
                }
                let held = ex.hold_for_body(memory, Urgency::Usual).await?;
                let body = ex.body(commit.manifest, CHUNK_BODY_LIMIT).await?;
                if let Err(failure) = self.check_held(commit.session) {
                    return self.committed(ex, &commit, failure).await;
                }
                ex.logged::<CommitBackup>(node.backups.commit_backup(actor, commit, body, held).await)
                    .await
            }
            Request::EndSession(end) => {
                if self.check_held(end.session).is_ok() {
                    let session = SessionId(LogIndex(end.session));
                    node.backups
                        .end_session(actor, session, "its holder has ended it")
                        .await;
                }
                ex.reply::<EndSession>(Ok(())).await
            }
            Request::ChangeMaps(ask) => ex.reply::<ChangeMaps>(node.archive.change_maps(ask).await).await,
            Request::GetManifest(get) => {
                let read = node
                    .reads
                    .get_manifest(get)
                    .await
                    .map(|(head, body)| (head, Some(body)));
                ex.reply_with_body::<GetManifest>(read).await
            }
            Request::GetChunk(get) => {
                let read = node.reads.get_chunk(Reader::of(&self.peer), get).await;
                ex.reply_with_body::<GetChunk>(read.map(|(head, body)| (head, Some(body))))
                    .await
            }
            Request::GetPieces(get) => {
                let read = node.reads.get_pieces(Reader::of(&self.peer), get).await;
                ex.reply_with_body::<GetPieces>(read.map(|(head, body)| (head, Some(body))))
                    .await
            }
            other => self.administer(other, ex).await,
        }
    }

    /// Answers a commit whose session has ended: with its commit, perhaps, and who asks again has not heard that it
    /// succeeded.
    async fn committed(
        &self,
        ex: &mut Exchange<'_>,
        commit: &CommitBackup,
        failure: Failure,
    ) -> Result<(), StreamError> {
        let done = self.node.backups.committed_before(commit).await;
        ex.logged::<CommitBackup>(done.and_then(|done| done.ok_or(failure)))
            .await
    }

    /// The requests that are not about bulk data.
    async fn administer(&self, request: Request, ex: &mut Exchange<'_>) -> Result<(), StreamError> {
        let (node, actor) = (&*self.node, self.actor.as_str());
        match request {
            Request::Info(ask) => ex.reply::<GetInfo>(node.info(&self.peer, ask).await).await,
            Request::ChoosePrior(ask) => ex.reply::<ChoosePrior>(node.choose_prior(ask).await).await,
            Request::ChooseBackup(ask) => ex.reply::<ChooseBackup>(node.choose_backup(ask).await).await,
            Request::ArchiveStatus(ask) => ex.reply::<ArchiveStatus>(node.archive_status(ask).await).await,
            Request::Verify(request) => self.verify(request, ex).await,
            Request::CreateStanza(create) => ex.logged::<CreateStanza>(node.create_stanza(actor, create).await).await,
            Request::UpgradeStanza(upgrade) => {
                ex.logged::<UpgradeStanza>(node.upgrade_stanza(actor, upgrade.cluster).await)
                    .await
            }
            Request::AdoptStanza(AdoptStanza { cluster, force }) => {
                ex.logged::<AdoptStanza>(node.adopt_stanza(actor, cluster, force).await)
                    .await
            }
            Request::ForgetWal(forget) => ex.logged::<ForgetWal>(node.forget_wal(actor, forget).await).await,
            Request::DeleteStanza(DeleteStanza { stanza, force, is_down }) => {
                let deleted = node.delete_stanza(actor, stanza, force, is_down).await;
                ex.logged::<DeleteStanza>(deleted).await
            }
            Request::SetStopped(set) => ex.logged::<SetStopped>(node.set_stopped(actor, set).await).await,
            Request::TerminateSession(TerminateSession { session }) => {
                ex.logged::<TerminateSession>(node.backups.terminate_session(actor, session).await)
                    .await
            }
            Request::AcceptLoss(AcceptLoss { position }) => {
                ex.logged::<AcceptLoss>(node.accept_loss(actor, position).await).await
            }
            Request::GetRetained(ask) => ex.reply::<GetRetained>(node.retained(ask).await).await,
            Request::ExpireBackups(expire) => {
                ex.logged::<ExpireBackups>(node.expire_backups(actor, expire).await)
                    .await
            }
            Request::ExpireWal(expire) => ex.logged::<ExpireWal>(node.expire_wal(actor, expire).await).await,
            Request::HoldBackup(hold) => {
                let held = node.hold_backup(actor, self.peer.is_admin(), hold).await;
                ex.logged::<HoldBackup>(held).await
            }
            Request::Annotate(annotate) => ex.reply::<AnnotateBackup>(node.annotate(actor, annotate).await).await,
            Request::ListRepository(list) => {
                ex.reply::<ListRepository>(node.list_repository(list, self.peer.is_node()).await)
                    .await
            }
            Request::ReadRepository(read) => {
                let read = node
                    .read_repository(read, self.peer.is_node())
                    .await
                    .map(|(head, body)| (head, Some(body)));
                ex.reply_with_body::<ReadRepository>(read).await
            }
            Request::Invite(invite) => {
                let invited = match self.member() {
                    Ok(member) => node.membership.invite(actor, member.key.0, invite).await,
                    Err(failure) => Err(failure),
                };
                ex.reply::<CreateInvite>(invited).await
            }
            Request::Join(join) => self.join(join, ex).await,
            Request::UpdateRepository(UpdateRepository { repo, definition }) => {
                ex.logged::<UpdateRepository>(node.update_repository(actor, repo, &definition).await)
                    .await
            }
            Request::ReplaceRepository(ReplaceRepository { repo }) => {
                ex.logged::<ReplaceRepository>(node.replace_repository(actor, repo, self.peer.is_node()).await)
                    .await
            }
            Request::RemoveRepository(RemoveRepository { repo, force }) => {
                ex.logged::<RemoveRepository>(node.remove_repository(actor, repo, force).await)
                    .await
            }
            other => self.serve_nodes(other, ex).await,
        }
    }

    /// Passes a verification's events on as they come.
    async fn verify(&self, request: VerifyRequest, ex: &mut Exchange<'_>) -> Result<(), StreamError> {
        let _verifying = match self.node.verifications.begin(&self.account) {
            Ok(verifying) => verifying,
            Err(failure) => return ex.logged::<VerifyRequest>(Err(failure)).await,
        };
        let (sink, mut events) = mpsc::channel(64);
        let run = self.node.verify(&self.peer, request, sink);
        // It owns the events: when the asker is gone, they have no receiver any more, and the verification ends.
        let pass_on = async move {
            while let Some(event) = events.recv().await {
                ex.reply::<VerifyRequest>(Ok(event)).await?;
            }
            Ok(())
        };
        // Joined, not spawned: when the asker goes, the verification ends with the stream.
        let ((), passed) = tokio::join!(run, pass_on);
        passed
    }

    /// Memory for a payload on its way into the repositories: compressed, decompressed to be checked, and encrypted
    /// once for each repository of this node.
    async fn hold_copies(
        &self,
        ex: &mut Exchange<'_>,
        payload: PayloadHead,
        urgency: Urgency,
    ) -> Result<Arc<Held>, StreamError> {
        let copies = 1 + self.node.repositories.keys().len() as u64;
        let memory = payload.length.saturating_mul(copies);
        let memory = memory.saturating_add(payload.plain_length);
        ex.hold_for_body(memory, urgency).await
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
