//! Requests about the nodes of the mesh, and those that nodes ask of each other.

use super::Served;
use crate::budget::Urgency;
use crate::exchange::Exchange;
use crate::services::Comer;
use pgmesh_protocol::{
    Announce, BODY_LIMIT, BeginAnew, CONSENSUS_LIMIT, ChangeNode, CollectGarbage, Consensus, DeleteObject, ExitCode,
    Failure, GetAuthority, GetAuthorityOf, GetNodeStatus, GetStatus, JoinRequest, ListCertificates, ListNodes,
    MayLeave, ReadObject, RenewCertificate, Request, RevokeCertificates, RotateAuthority, StoreObject, SyncRepository,
    Vouch,
};
use pgmesh_storage::wire;
use pgmesh_transport::StreamError;
use tokio::sync::mpsc;

impl Served {
    pub(super) async fn serve_nodes(&self, request: Request, ex: &mut Exchange<'_>) -> Result<(), StreamError> {
        let (node, actor) = (&*self.node, self.actor.as_str());
        match request {
            Request::Renew(renew) => {
                let renewed = match self.member() {
                    Ok(member) => node.membership.renew(member, &renew).await,
                    Err(failure) => Err(failure),
                };
                ex.logged::<RenewCertificate>(renewed).await
            }
            Request::ListCertificates(list) => {
                ex.reply::<ListCertificates>(node.membership.list_certificates(list).await)
                    .await
            }
            Request::RevokeCertificates(revoke) => {
                let revoked = match self.member() {
                    Ok(member) => node.membership.revoke_certificates(member, revoke).await,
                    Err(failure) => Err(failure),
                };
                ex.logged::<RevokeCertificates>(revoked).await
            }
            Request::RotateAuthority(asked) => {
                let told = node.membership.rotate_authority(actor, asked).await;
                ex.logged::<RotateAuthority>(told).await
            }
            Request::ListNodes(_) => ex.reply::<ListNodes>(node.membership.list_nodes()).await,
            Request::ChangeNode(ChangeNode { name, change }) => {
                ex.logged::<ChangeNode>(node.membership.change_node(actor, &name, change).await)
                    .await
            }
            Request::Status(_) => ex.reply::<GetStatus>(node.mesh_status().await).await,
            Request::SyncRepository(SyncRepository { repo }) => {
                let (sink, mut events) = mpsc::channel(4);
                let pass_on = async {
                    while let Some(event) = events.recv().await {
                        ex.reply::<SyncRepository>(Ok(event)).await?;
                    }
                    Ok(())
                };
                // Joined, not spawned: when the asker goes, the telling ends with the stream; the repair goes on.
                let ((), passed) = tokio::join!(node.sync_repository(repo, sink), pass_on);
                passed
            }
            other => self.serve_peer(other, ex).await,
        }
    }

    /// Failures for strangers' tokens are in the log once a minute, not one by one.
    pub(super) async fn join(&self, join: JoinRequest, ex: &mut Exchange<'_>) -> Result<(), StreamError> {
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
        ex.reply::<JoinRequest>(joined).await
    }

    async fn serve_peer(&self, request: Request, ex: &mut Exchange<'_>) -> Result<(), StreamError> {
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
                        ex.reply::<Consensus>(Ok(Consensus(answer.into()))).await
                    }
                    Err(error) => {
                        let failure =
                            Failure::new(ExitCode::Protocol, "reading a message of the Raft group").because(error);
                        ex.refuse(failure).await
                    }
                }
            }
            Request::Announce(announce) => {
                let heard = self.member().and_then(|member| node.membership.hear(member, &announce));
                ex.logged::<Announce>(heard).await
            }
            Request::Authority(_) => ex.logged::<GetAuthority>(node.membership.hand_over_authority()).await,
            Request::AuthorityOf(asked) => {
                let key = node.membership.hand_over_one(&asked.authority);
                ex.logged::<GetAuthorityOf>(key).await
            }
            Request::BeginAnew(begin) => {
                let number = match self.member() {
                    Ok(member) => node.membership.renumber(member, begin).await,
                    Err(failure) => Err(failure),
                };
                ex.logged::<BeginAnew>(number).await
            }
            Request::Vouch(vouch) => ex.reply::<Vouch>(Ok(node.vouch(&vouch))).await,
            Request::MayLeave(MayLeave { node_id }) => {
                ex.reply::<MayLeave>(node.membership.may_leave(node_id).await).await
            }
            Request::NodeStatus(_) => ex.reply::<GetNodeStatus>(Ok(node.node_status())).await,
            Request::StoreObject(store) => {
                // As it came, and encrypted once for each repository.
                let copies = 1 + store.targets.len() as u64;
                let _held = ex
                    .hold_for_body(store.payload.length.saturating_mul(copies), Urgency::Usual)
                    .await?;
                let body = ex.body(store.payload, BODY_LIMIT).await?;
                let (ends, mut ended) = mpsc::channel(store.targets.len().max(1));
                let pass_on = async {
                    while let Some(stored) = ended.recv().await {
                        ex.reply::<StoreObject>(Ok(stored)).await?;
                    }
                    Ok(())
                };
                let ((), passed) = tokio::join!(node.store_object(store, body, ends), pass_on);
                passed
            }
            Request::ReadObject(read) => {
                let (answer, body) = node.read_object(read).await;
                ex.reply_with_body::<ReadObject>(Ok((answer, body))).await
            }
            Request::DeleteObject(delete) => ex.reply::<DeleteObject>(Ok(node.delete_object(delete).await)).await,
            Request::CollectGarbage(_) => ex.logged::<CollectGarbage>(node.janitor.collect_garbage().await).await,
            other => {
                let failure = Failure::new(ExitCode::Assert, format!("{} is not served here", other.name()));
                ex.refuse(failure).await
            }
        }
    }

    pub(super) fn member(&self) -> Result<&pgmesh_transport::MemberCertificate, Failure> {
        self.peer
            .member()
            .ok_or_else(|| Failure::new(ExitCode::Protocol, "only members of the mesh may ask for this"))
    }
}
