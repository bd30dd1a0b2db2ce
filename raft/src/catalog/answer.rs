//! A node's answers to its peers.

use std::time::Duration;

use futures::future::try_join_all;
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse};
use openraft::{LogId, ServerState};
use pgmesh_storage::wire;
use tokio::time::timeout;

use super::ask::PROPOSAL_BYTES;
use super::{Catalog, election};
use crate::command::Proposal;
use crate::consensus::TypeConfig;
use crate::error::CatalogError;
use crate::peers::{Applied, Knowledge, PeerMessage, PeerReply, PeerRequest, Setback, Started};
use crate::status::{Lack, Shortfall};
use crate::store::{Mark, entry_id};
use pgmesh_protocol::EntryId;

/// How long a leader may take to confirm, to a node that has started, that it still leads.
const CONFIRM_LIMIT: Duration = Duration::from_millis(500);

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
        if let Some(index) = self.clearance.judge_parted(request.from, own.compare(&request.mark)) {
            return PeerReply::Parted { index };
        }
        let reached = self.way.log.reached();
        if let Some(witness) = self.leader_elsewhere(&request.message) {
            self.clearance.fall_behind(Shortfall {
                witness,
                lack: Lack::Voters,
                reached,
            });
        }
        // openraft refuses a leader that was deposed.
        let leads = request.message.is_of_leader(request.from)
            && request.message.vote() >= Some(self.way.raft.server_metrics().borrow().vote);
        if leads && request.known <= reached {
            self.clearance.note_leader(request.from, request.address.clone());
        }
        if let Err(why) = self
            .clearance
            .admit(&request.message, request.from, request.known, reached)
        {
            return PeerReply::NotYet { why };
        }
        if leads && let Some(vote) = request.message.vote() {
            let known = self.clearance.contradiction().filter(|(of, _)| *of == vote);
            let found = match known {
                Some((_, entry)) => Some(entry),
                None => {
                    self.contradiction(&request.message, own.contradicts(&request.mark))
                        .await
                }
            };
            if let Some(entry) = found {
                self.clearance.note_contradiction(vote, entry);
                return PeerReply::NotYet {
                    why: format!("this leader has lost entry {entry}, which was committed"),
                };
            }
        }
        if leads && let Err(error) = self.take_over_skips(&request.mark).await {
            return PeerReply::NotYet { why: error.to_string() };
        }
        match request.message {
            PeerMessage::Append(request) => {
                let is_whole = request.prev_log_id >= self.way.raft.data_metrics().borrow().last_applied;
                let reply = self.way.raft.append_entries(request).await;
                if is_whole && matches!(reply, Ok(AppendEntriesResponse::Success)) {
                    // The leader was replaced, or a newer copy of its data directory was put back.
                    self.clearance.forget_contradiction();
                }
                if matches!(&reply, Ok(reply) if !matches!(reply, AppendEntriesResponse::HigherVote(_))) {
                    self.signs.seen();
                }
                PeerReply::Append(reply)
            }
            PeerMessage::Vote(request) => {
                let vote = {
                    let metrics = self.way.raft.server_metrics();
                    let metrics = metrics.borrow();
                    // A node that has joined gives no vote before it has caught up.
                    let is_new = metrics.membership_config.membership().voter_ids().next().is_none();
                    if is_new {
                        let why = "it has joined, and its catalog is still empty".to_owned();
                        return PeerReply::NotYet { why };
                    }
                    metrics.vote
                };
                if let Some(refusal) = self.clearance.refuse_vote(&request, vote) {
                    return PeerReply::Vote(Ok(refusal));
                }
                let reply = self.way.raft.vote(request).await;
                if matches!(&reply, Ok(reply) if reply.vote_granted) {
                    self.signs.seen();
                }
                PeerReply::Vote(reply)
            }
            PeerMessage::MayStand { last_log } => {
                let is_as_new = last_log >= election::last_log(&self.way).max(self.clearance.needed());
                PeerReply::MayStand(is_as_new && !self.is_leader() && self.signs.is_leader_missed())
            }
            PeerMessage::Snapshot(request) => PeerReply::Snapshot(self.take_snapshot(request).await),
            PeerMessage::Propose(proposals) => PeerReply::Proposed(self.take_proposals(proposals).await),
            PeerMessage::ReadIndex => PeerReply::ReadIndex(self.leader_read_index().await),
            PeerMessage::WhatOfMe(started) => match self.knowledge(&started).await {
                Some(knowledge) => PeerReply::Knowledge(knowledge),
                None => PeerReply::NotYet {
                    why: "its catalog has stopped".to_owned(),
                },
            },
        }
    }

    /// Leaves out the entries that the leader has left out, before openraft sees them: this node has begun with an
    /// empty catalog since, or has not come so far. They stay left out after a restart, too.
    async fn take_over_skips(&self, leader: &Mark) -> Result<(), CatalogError> {
        if leader.skipped.is_empty() {
            return Ok(());
        }
        let unknown = self.state.unknown_skips(&leader.skipped);
        if unknown.is_empty() {
            return Ok(());
        }
        tracing::warn!(entries = ?unknown, "the leader has skipped entries of the log; this node skips them, too");
        self.state.skip(self.way.log.skip(&unknown).await?);
        Ok(())
    }

    /// An entry that this node has applied, and in whose place the leader that sends this has another one. It was
    /// committed, so the leader has lost it: if the leader is the only voter, no election keeps it from leading without
    /// the entry. openraft would replace the entry here.
    ///
    /// `by_terms` is a contradiction that is told by where the terms begin: heartbeats say nothing of the log, and a
    /// snapshot may go beyond the compared entries.
    async fn contradiction(&self, message: &PeerMessage, by_terms: Option<EntryId>) -> Option<EntryId> {
        let applied = self.way.raft.data_metrics().borrow().last_applied?;
        if by_terms.is_some() {
            return by_terms;
        }
        let given: Vec<LogId<u64>> = match message {
            PeerMessage::Append(append) => {
                let entries = append.entries.iter().map(|entry| entry.log_id);
                append.prev_log_id.into_iter().chain(entries).collect()
            }
            PeerMessage::Snapshot(part) => part.meta.last_log_id.into_iter().collect(),
            _ => return None,
        };
        for theirs in given.into_iter().filter(|theirs| theirs.index <= applied.index) {
            let own = if theirs.index == applied.index {
                Some(applied)
            } else {
                self.way.log.entry_at(theirs.index).await
            };
            if let Some(own) = own.filter(|own| *own != theirs) {
                return Some(entry_id(own));
            }
        }
        None
    }

    /// The leader of a later term that sends entries to this node, which leads as the only voter. In one group that
    /// cannot be: no other node can be elected. This node's copy is from before the others joined.
    fn leader_elsewhere(&self, message: &PeerMessage) -> Option<u64> {
        let vote = message.vote()?;
        let metrics = self.way.raft.server_metrics();
        let metrics = metrics.borrow();
        let is_alone = metrics.membership_config.membership().voter_ids().eq([self.node_id]);
        let leads = metrics.state == ServerState::Leader;
        let is_other = vote.is_committed() && vote > metrics.vote && vote.leader_id.node_id != self.node_id;
        (is_alone && leads && is_other).then_some(vote.leader_id.node_id)
    }

    /// This node's knowledge of a node that has started; `None` when consensus has ended here.
    async fn knowledge(&self, started: &Started) -> Option<Knowledge> {
        let leads = self.is_leader() && matches!(timeout(CONFIRM_LIMIT, self.own_reads.ask((), 1)).await, Ok(Ok(_)));
        // After the confirmation: an acknowledgement that arrived meanwhile counts.
        let known = self.way.log.known_of(started.node_id);
        let is_replaced = self.is_replaced(started.node_id);
        let raft_state = self.way.raft.with_raft_state(|state| {
            let voters = state.membership_state.effective().membership().voter_ids().count();
            (*state.vote_ref(), state.committed, voters as u64)
        });
        let (vote, committed, voters): (_, Option<LogId<u64>>, u64) = raft_state.await.ok()?;
        let knowledge = Knowledge {
            known,
            is_replaced,
            vote,
            committed,
            leads,
            voters,
            shortfall: self.clearance.shortfall(),
        };
        let shortfall = knowledge.lack(started.reached).map(|lack| Shortfall {
            witness: self.node_id,
            lack,
            reached: started.reached,
        });
        self.clearance.note_started(started.node_id, shortfall);
        Some(knowledge)
    }

    /// Whether a number is not in use any more: its node has got a higher one. Numbers are given out in order, once.
    fn is_replaced(&self, node_id: u64) -> bool {
        let nodes = self.view().nodes().unwrap_or_default();
        let is_used = nodes.iter().any(|(_, record)| record.node_id == node_id);
        !is_used && nodes.iter().any(|(_, record)| record.node_id > node_id)
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
        if self.is_elected() {
            return Ok(());
        }
        Err(Setback::NotLeading { leader: self.leader() })
    }

    /// A leader that did not hear that the last part has arrived sends the whole snapshot again. Entries that this node
    /// has applied already it need not take in a second time.
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
