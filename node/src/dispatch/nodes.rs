//! Requests about the nodes of the mesh, and those that nodes ask of each other.

use super::{CHUNK_READ, SEGMENT_READ, Served, body, logged, reply, reply_with_body};
use crate::services::Comer;
use pgmesh_protocol::{
    BODY_LIMIT, CONSENSUS_LIMIT, ChangeNode, Consensus, ExitCode, Failure, JoinRequest, MayLeave, Request,
    SyncRepository,
};
use pgmesh_storage::{ObjectName, wire};
use pgmesh_transport::{Stream, StreamError};
use tokio::sync::mpsc;

impl Served {
    pub(super) async fn serve_nodes(&self, request: Request, stream: &mut Stream) -> Result<(), StreamError> {
        let (node, actor) = (&*self.node, self.actor.as_str());
        match request {
            Request::Renew(renew) => {
                let renewed = match self.member() {
                    Ok(member) => node.membership.renew(member, &renew).await,
                    Err(failure) => Err(failure),
                };
                logged(stream, "certificate renewal", renewed).await
            }
            Request::ListCertificates(list) => reply(stream, node.membership.list_certificates(list).await).await,
            Request::RevokeCertificates(revoke) => {
                let revoked = match self.member() {
                    Ok(member) => node.membership.revoke_certificates(member, revoke).await,
                    Err(failure) => Err(failure),
                };
                logged(stream, "client revoke", revoked).await
            }
            Request::RotateAuthority(asked) => {
                let told = node.membership.rotate_authority(actor, asked).await;
                logged(stream, "mesh rotate-ca", told).await
            }
            Request::ListNodes(_) => reply(stream, node.membership.list_nodes()).await,
            Request::ChangeNode(ChangeNode { name, change }) => {
                logged(
                    stream,
                    "node change",
                    node.membership.change_node(actor, &name, change).await,
                )
                .await
            }
            Request::Status(_) => reply(stream, node.mesh_status().await).await,
            Request::SyncRepository(SyncRepository { repo }) => {
                let (sink, mut events) = mpsc::channel(4);
                let pass_on = async {
                    while let Some(event) = events.recv().await {
                        reply(stream, Ok(event)).await?;
                    }
                    Ok(())
                };
                // Joined, not spawned: when the asker goes, the telling ends with the stream; the repair goes on.
                let ((), passed) = tokio::join!(node.sync_repository(repo, sink), pass_on);
                passed
            }
            other => self.serve_peer(other, stream).await,
        }
    }

    /// Failures for strangers' tokens are in the log once a minute, not one by one.
    pub(super) async fn join(&self, join: JoinRequest, stream: &mut Stream) -> Result<(), StreamError> {
        let comer = Comer {
            address: self.remote,
            place: self.place.as_deref(),
        };
        let name = join.name.to_string();
        let joined = self.node.membership.join(join, &comer).await;
        if let (Err(_), Some(place)) = (&joined, &self.place) {
            place.is_refused();
        }
        match &joined {
            Ok(_) => tracing::info!(name, address = %self.remote, "joined"),
            Err(failure) => tracing::debug!(name, address = %self.remote, "a join was refused: {failure}"),
        }
        reply(stream, joined).await
    }

    async fn serve_peer(&self, request: Request, stream: &mut Stream) -> Result<(), StreamError> {
        let node = &*self.node;
        match request {
            // Between nodes a message may be longer.
            Request::Raft(Consensus(message)) => {
                let decoded = wire::decode(&message, CONSENSUS_LIMIT);
                // It may be large, and the answer may take its time.
                drop(message);
                match decoded {
                    Ok(message) => {
                        let answer = wire::encode(&node.catalog.answer(message).await);
                        stream.send(&Ok::<_, Failure>(Consensus(answer.into()))).await
                    }
                    Err(error) => {
                        let failure =
                            Failure::new(ExitCode::Protocol, "reading a message of the Raft group").because(error);
                        reply::<()>(stream, Err(failure)).await
                    }
                }
            }
            Request::Announce(announce) => {
                let heard = self.member().and_then(|member| node.membership.hear(member, &announce));
                logged(stream, "announcement", heard).await
            }
            Request::Authority(_) => logged(stream, "authority", node.membership.hand_over_authority()).await,
            Request::AuthorityOf(asked) => {
                let key = node.membership.hand_over_one(&asked.authority);
                logged(stream, "authority", key).await
            }
            Request::BeginAnew(begin) => {
                let number = match self.member() {
                    Ok(member) => node.membership.renumber(member, begin).await,
                    Err(failure) => Err(failure),
                };
                logged(stream, "new beginning", number).await
            }
            Request::Vouch(vouch) => reply(stream, Ok(node.vouch(&vouch))).await,
            Request::MayLeave(MayLeave { node_id }) => reply(stream, node.membership.may_leave(node_id).await).await,
            Request::NodeStatus(_) => reply(stream, Ok(node.node_status())).await,
            Request::StoreObject(store) => {
                // As it came, and encrypted once for each repository.
                let copies = 1 + store.targets.len() as u64;
                let _held = node.peer_budget.hold(store.payload.length.saturating_mul(copies)).await;
                let body = body(stream, store.payload, BODY_LIMIT).await?;
                let (ends, mut ended) = mpsc::channel(store.targets.len().max(1));
                let pass_on = async {
                    while let Some(stored) = ended.recv().await {
                        reply(stream, Ok(stored)).await?;
                    }
                    Ok(())
                };
                let ((), passed) = tokio::join!(node.store_object(store, body, ends), pass_on);
                passed
            }
            Request::ReadObject(read) => {
                let memory = match read.object {
                    ObjectName::Segment { .. } => SEGMENT_READ,
                    _ => CHUNK_READ,
                };
                let _held = node.peer_budget.hold(memory).await;
                let (answer, body) = node.read_object(read).await;
                reply_with_body(stream, Ok((answer, body))).await
            }
            Request::DeleteObject(delete) => reply(stream, Ok(node.delete_object(delete).await)).await,
            Request::CollectGarbage(_) => {
                logged(stream, "garbage collection", node.janitor.collect_garbage().await).await
            }
            other => {
                let failure = Failure::new(ExitCode::Assert, format!("{} is not served here", other.name()));
                reply::<()>(stream, Err(failure)).await
            }
        }
    }

    pub(super) fn member(&self) -> Result<&pgmesh_transport::MemberCertificate, Failure> {
        self.peer
            .member()
            .ok_or_else(|| Failure::new(ExitCode::Protocol, "only members of the mesh may ask for this"))
    }
}
