//! What a node answers to its peers.

use futures::future::try_join_all;
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse};
use pgmesh_storage::wire;
use tokio::time::timeout;

use super::ask::PROPOSAL_BYTES;
use super::{Catalog, election};
use crate::command::Proposal;
use crate::consensus::TypeConfig;
use crate::peers::{Applied, PeerMessage, PeerReply, PeerRequest, Setback};

impl Catalog {
    /// Answers a peer's request.
    pub async fn answer(&self, request: PeerRequest) -> PeerReply {
        if request.to != self.node_id {
            return PeerReply::NotMe { node_id: self.node_id };
        }
        let own = self.state.mark();
        if let Some(entry) = own.difference(&request.mark) {
            let skipped = own.skipped.contains(&entry);
            return PeerReply::Differs { entry, skipped };
        }
        match request.message {
            PeerMessage::Append(request) => {
                let reply = self.way.raft.append_entries(request).await;
                if matches!(&reply, Ok(reply) if !matches!(reply, AppendEntriesResponse::HigherVote(_))) {
                    self.signs.seen();
                }
                PeerReply::Append(reply)
            }
            PeerMessage::Vote(request) => {
                let reply = self.way.raft.vote(request).await;
                if matches!(&reply, Ok(reply) if reply.vote_granted) {
                    self.signs.seen();
                }
                PeerReply::Vote(reply)
            }
            PeerMessage::MayStand { last_log } => {
                let is_as_new = last_log >= election::last_log(&self.way);
                PeerReply::MayStand(is_as_new && !self.is_leader() && self.signs.is_leader_missed())
            }
            PeerMessage::Snapshot(request) => PeerReply::Snapshot(self.take_snapshot(request).await),
            PeerMessage::Propose(proposals) => PeerReply::Proposed(self.take_proposals(proposals).await),
            PeerMessage::ReadIndex => PeerReply::ReadIndex(self.leader_read_index().await),
        }
    }

    /// Another node's proposals go into the same entries as this node's own.
    async fn take_proposals(&self, proposals: Vec<Proposal>) -> Result<Vec<Applied>, Setback> {
        self.need_leadership()?;
        let weighed = proposals
            .into_iter()
            .map(|proposal| (wire::encode(&proposal).len(), proposal));
        let weighed: Vec<_> = weighed.collect();
        if weighed.iter().any(|(weight, _)| *weight > PROPOSAL_BYTES) {
            // The asker looks before it sends: this one does not, and its entry could not be read back.
            return Err(Setback::Stopped(format!(
                "a command of more than {PROPOSAL_BYTES} bytes was forwarded"
            )));
        }
        let asked = weighed
            .into_iter()
            .map(|(weight, proposal)| self.own_proposals.ask(proposal, weight));
        timeout(self.way.patience, try_join_all(asked))
            .await
            .unwrap_or_else(|_| Err(no_majority()))
    }

    async fn leader_read_index(&self) -> Result<u64, Setback> {
        self.need_leadership()?;
        timeout(self.way.patience, self.own_reads.ask((), 1))
            .await
            .unwrap_or_else(|_| Err(no_majority()))
    }

    fn need_leadership(&self) -> Result<(), Setback> {
        if self.is_leader() {
            return Ok(());
        }
        Err(Setback::NotLeading { leader: self.leader() })
    }

    /// A leader that did not hear that the last part has arrived sends the whole snapshot again. What this node has
    /// applied already it need not take in a second time.
    async fn take_snapshot(
        &self,
        request: InstallSnapshotRequest<TypeConfig>,
    ) -> Result<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>> {
        let (vote, applied) = {
            let metrics = self.way.raft.metrics();
            let metrics = metrics.borrow();
            (metrics.vote, metrics.last_applied)
        };
        if request.vote == vote && request.meta.last_log_id <= applied {
            return Ok(InstallSnapshotResponse { vote });
        }
        self.way.raft.install_snapshot(request).await
    }
}

fn no_majority() -> Setback {
    Setback::Silent("no majority of the voters has answered".to_owned())
}
