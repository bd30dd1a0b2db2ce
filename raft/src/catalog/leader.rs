//! The way to the leader, on this node or another, for proposals and linearizable reads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::error::{ClientWriteError, RaftError};
use openraft::raft::AppendEntriesResponse;
use openraft::{BasicNode, Raft, ServerState, Vote};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::clearance::Clearance;
use crate::command::Proposal;
use crate::consensus::{Batch, TypeConfig};
use crate::network::{call, empty_append};
use crate::peers::{Applied, PeerMessage, PeerReply, Peers, Setback};
use crate::store::LogStore;

/// How long a round of messages that confirms this node's leadership may take. Not openraft's own round, which ends
/// with a heartbeat interval: a majority may be farther away than that.
const ROUND_LIMIT: Duration = Duration::from_secs(2);

/// How often a new leader looks whether its first entry is committed.
const FIRST_ENTRY_PAUSE: Duration = Duration::from_millis(10);

/// All that a node needs to act as the leader, or to ask it.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) node_id: u64,
    pub(super) raft: Raft<TypeConfig>,
    pub(super) log: LogStore,
    pub(super) peers: Arc<dyn Peers>,
    pub(super) leader: watch::Receiver<Option<u64>>,
    /// How long an answer is waited for.
    pub(super) patience: Duration,
    /// Set while this node, as the leader, lets another be elected.
    pub(super) aside: Arc<AtomicBool>,
    /// Says which leader is not followed.
    pub(super) clearance: Arc<Clearance>,
}

impl Way {
    /// Writes proposals into the log as one entry and waits until it is applied: the leader's part.
    pub(super) async fn write(&self, proposals: Vec<Proposal>) -> Result<Vec<Applied>, Setback> {
        self.refuse_aside()?;
        // Without a majority an entry is neither committed nor dropped: openraft would wait for ever.
        let written = timeout(self.patience, self.raft.client_write(Batch(proposals))).await;
        match written {
            Ok(Ok(written)) => {
                let entry = written.log_id.index;
                let applied = written.data.0.into_iter();
                Ok(applied.map(|outcome| Applied { entry, outcome }).collect())
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(leader)))) => Err(Setback::NotLeading {
                leader: leader.leader_id,
            }),
            Ok(Err(RaftError::APIError(error))) => Err(Setback::Silent(error.to_string())),
            Ok(Err(RaftError::Fatal(fatal))) => Err(Setback::Stopped(fatal.to_string())),
            Err(_) => Err(Setback::Silent("no majority of the voters has answered".to_owned())),
        }
    }

    /// Sends proposals to the leader.
    pub(super) async fn forward(&self, proposals: Vec<Proposal>) -> Result<Vec<Applied>, Setback> {
        let expected = proposals.len();
        match self.ask_leader(PeerMessage::Propose(proposals)).await? {
            PeerReply::Proposed(Ok(applied)) if applied.len() == expected => Ok(applied),
            PeerReply::Proposed(Err(setback)) => Err(remote(setback)),
            _ => Err(Setback::Silent(
                "the leader gave an answer of the wrong kind".to_owned(),
            )),
        }
    }

    /// Asks the leader up to which entry all is committed.
    pub(super) async fn remote_read_index(&self) -> Result<u64, Setback> {
        match self.ask_leader(PeerMessage::ReadIndex).await? {
            PeerReply::ReadIndex(index) => index.map_err(remote),
            _ => Err(Setback::Silent(
                "the leader gave an answer of the wrong kind".to_owned(),
            )),
        }
    }

    /// Sends a message to the leader. Gives up when another node has become the leader meanwhile.
    async fn ask_leader(&self, message: PeerMessage) -> Result<PeerReply, Setback> {
        let mut changes = self.leader.clone();
        let leader = *changes.borrow_and_update();
        let target = leader.filter(|leader| *leader != self.node_id);
        let target = target.ok_or(Setback::NotLeading { leader: None })?;
        if let Some((vote, entry)) = self.clearance.contradiction()
            && vote.leader_id.node_id == target
        {
            let why =
                format!("the leader, node {target}, has lost entry {entry}, which was committed: it is not followed");
            return Err(Setback::Silent(why));
        }
        let address = self.address(target).unwrap_or_default();
        let other = changes.wait_for(|now| now.is_some_and(|now| now != target));
        tokio::select! {
            reply = call(&*self.peers, target, &address, self.log.known_of(target), message, self.patience) => {
                reply.map_err(|error| Setback::Silent(error.to_string()))
            }
            // The asked leader may be dead and never answer.
            _ = other => Err(Setback::NotLeading { leader: None }),
        }
    }

    fn address(&self, node_id: u64) -> Option<String> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let node = metrics.membership_config.membership().get_node(&node_id);
        node.map(|node| node.addr.clone())
    }

    /// The index of an entry up to which all was committed when this was called: the leader's part. A majority confirms
    /// that there was no later leader then.
    pub(super) async fn own_read_index(&self) -> Result<u64, Setback> {
        self.refuse_aside()?;
        let (standing, read_index) = self.standing().await?;
        let mut confirmed = BTreeSet::from([self.node_id]);
        let mut rounds: FuturesUnordered<_> = standing
            .voters
            .iter()
            .filter(|(voter, _)| *voter != self.node_id)
            .map(|(voter, address)| async move {
                let message = PeerMessage::Append(empty_append(standing.vote));
                let known = self.log.known_of(*voter);
                let reply = call(&*self.peers, *voter, address, known, message, ROUND_LIMIT).await;
                (*voter, reply)
            })
            .collect();
        let mut silent = Vec::new();
        loop {
            if standing.is_confirmed_by(&confirmed) {
                return Ok(read_index);
            }
            match rounds.next().await {
                Some((voter, Ok(PeerReply::Append(Ok(AppendEntriesResponse::Success))))) => {
                    confirmed.insert(voter);
                }
                Some((_, Ok(PeerReply::Append(Ok(AppendEntriesResponse::HigherVote(_)))))) => {
                    return Err(Setback::NotLeading { leader: None });
                }
                Some((voter, Ok(_))) => silent.push(format!("node {voter} gave an answer of the wrong kind")),
                Some((_, Err(error))) => silent.push(error.to_string()),
                None => return Err(Setback::Silent(silent.join("; "))),
            }
        }
    }
}

impl Way {
    /// Every message of this leader is a sign of it, and keeps the others from electing another.
    fn refuse_aside(&self) -> Result<(), Setback> {
        if self.aside.load(Ordering::Relaxed) {
            return Err(Setback::Silent("the leader is stepping aside for another".to_owned()));
        }
        Ok(())
    }

    /// A new leader begins with an entry of its own; this waits until that is committed.
    async fn standing(&self) -> Result<(Standing, u64), Setback> {
        let deadline = Instant::now() + ROUND_LIMIT;
        loop {
            let state = self.raft.with_raft_state(Standing::of).await;
            let standing = state
                .map_err(|fatal| Setback::Stopped(fatal.to_string()))?
                .map_err(|leader| Setback::NotLeading { leader })?;
            if let Some(read_index) = standing.read_index {
                return Ok((standing, read_index));
            }
            if Instant::now() > deadline {
                return Err(Setback::Silent("no majority of the voters has answered".to_owned()));
            }
            sleep(FIRST_ENTRY_PAUSE).await;
        }
    }
}

/// This node learns the leader itself: the answering node's word on it does not count.
fn remote(setback: Setback) -> Setback {
    match setback {
        Setback::Stopped(reason) => Setback::Silent(format!("the leader's catalog has stopped: {reason}")),
        other => other,
    }
}

/// A leader's vote, its voters, and how far it has committed, all of one moment.
struct Standing {
    vote: Vote<u64>,
    voters: Vec<(u64, String)>,
    /// More than one while membership changes: a majority of each is needed.
    configs: Vec<BTreeSet<u64>>,
    /// The last committed entry, once an entry of this leader's own is committed: before, entries of earlier leaders
    /// may be committed without this leader knowing it.
    read_index: Option<u64>,
}

impl Standing {
    /// `Err` with the leader, if one is known, where this node does not lead.
    fn of<I>(state: &openraft::RaftState<u64, BasicNode, I>) -> Result<Self, Option<u64>>
    where
        I: openraft::Instant,
    {
        let vote = *state.vote_ref();
        let leader = vote.leader_id();
        if state.server_state != ServerState::Leader {
            return Err(vote.is_committed().then_some(leader.node_id));
        }
        let membership = state.membership_state.effective().membership();
        let voters = membership.voter_ids();
        let voters = voters.filter_map(|voter| membership.get_node(&voter).map(|node| (voter, node.addr.clone())));
        let own = state.committed.filter(|id| {
            let of = id.leader_id;
            (of.term, of.node_id) == (leader.term, leader.node_id)
        });
        Ok(Self {
            vote,
            voters: voters.collect(),
            configs: membership.get_joint_config().clone(),
            read_index: own.map(|id| id.index),
        })
    }

    fn is_confirmed_by(&self, nodes: &BTreeSet<u64>) -> bool {
        self.configs
            .iter()
            .all(|config| config.intersection(nodes).count() * 2 > config.len())
    }
}
