//! How the catalog reaches its peers. The transport is the node's; the catalog hands it messages.

use std::time::Duration;

use futures::future::BoxFuture;
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::{LogId, Vote};
use serde::{Deserialize, Serialize};

use crate::command::Proposal;
use crate::consensus::TypeConfig;
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::status::{Lack, Shortfall};
use crate::store::Mark;
use pgmesh_protocol::EntryId;

/// The longest [`PeerRequest`] and [`PeerReply`] on the wire, in bytes.
pub const MESSAGE_LIMIT: usize = 16 << 20;

/// A request from one node's catalog to another's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerRequest {
    /// The number of the node that is meant. Another node, which may be reached at the same address after the disk of
    /// the first was lost, must not answer for it: it has not promised the same.
    pub to: u64,
    /// The number of the node that sends this. The way to the peers fills it in, as the address and the mark.
    pub from: u64,
    /// Where the sender is reached, as far as the group says it. A node that has started may not know the sender.
    pub address: String,
    /// The highest log position that the sender knows the meant node to have had: the node has acknowledged it to the
    /// sender, or has led it in the sender's log. A node that has less does not answer: its disk has lost something.
    pub known: Option<LogId<u64>>,
    /// How far the sender's state goes, and which entries it has left out.
    pub mark: Mark,
    /// The message.
    pub message: PeerMessage,
}

impl Knowledge {
    /// The started node's lack by this account, if it has reached this position.
    #[must_use]
    pub fn lack(&self, reached: Option<LogId<u64>>) -> Option<Lack> {
        if self.is_replaced {
            return Some(Lack::Number);
        }
        self.known.filter(|known| Some(*known) > reached).map(Lack::Entries)
    }
}

/// The messages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum PeerMessage {
    /// Append these entries.
    Append(AppendEntriesRequest<TypeConfig>),
    /// Vote for me.
    Vote(VoteRequest<u64>),
    /// Take this part of a snapshot.
    Snapshot(InstallSnapshotRequest<TypeConfig>),
    /// To the leader: have these proposals applied.
    Propose(Vec<Proposal>),
    /// To the leader: which entry must a node apply to see all that is committed now?
    ReadIndex,
    /// Has the leader been silent to you, too, and is my log as new as yours?
    MayStand {
        /// The last entry of the asker's log.
        last_log: Option<LogId<u64>>,
    },
    /// I have started: what do you know of me?
    WhatOfMe(Started),
}

impl PeerMessage {
    /// The vote by which a leader sends this to a follower.
    pub(crate) fn vote(&self) -> Option<Vote<u64>> {
        match self {
            Self::Append(request) => Some(request.vote),
            Self::Snapshot(request) => Some(request.vote),
            _ => None,
        }
    }

    /// Whether this sender sends it as a leader that was elected.
    pub(crate) fn is_of_leader(&self, from: u64) -> bool {
        self.vote()
            .is_some_and(|vote| vote.is_committed() && vote.leader_id.node_id == from)
    }
}

/// A node that has started and does not take part yet; see [`Standing`](crate::status::Standing).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its number.
    pub node_id: u64,
    /// The highest position that its log has ever had, as far as its disk knows.
    pub reached: Option<LogId<u64>>,
}

/// A node's knowledge, from its disk, of a node that has started, and of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knowledge {
    /// The highest position that the started node has acknowledged to this one, or led in this one's log.
    pub known: Option<LogId<u64>>,
    /// Whether the started node's number is not in use any more.
    pub is_replaced: bool,
    /// The highest vote that this node has given or seen.
    pub vote: Vote<u64>,
    /// The last entry that it knows to be committed.
    pub committed: Option<LogId<u64>>,
    /// Whether it leads, which a majority without the started node has just confirmed.
    pub leads: bool,
    /// How many nodes vote, as far as it knows.
    pub voters: u64,
    /// The node's own shortfall, if it has one: then it does not take part.
    pub shortfall: Option<Shortfall>,
}

/// The answer of a node's catalog.
#[derive(Debug, Serialize, Deserialize)]
pub enum PeerReply {
    /// To `Append`.
    Append(Result<AppendEntriesResponse<u64>, RaftError<u64>>),
    /// To `Vote`.
    Vote(Result<VoteResponse<u64>, RaftError<u64>>),
    /// To `Snapshot`.
    Snapshot(Result<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>>),
    /// To `Propose`: one outcome for each proposal.
    Proposed(Result<Vec<Applied>, Setback>),
    /// To `ReadIndex`: the index of a Raft entry.
    ReadIndex(Result<u64, Setback>),
    /// To `MayStand`.
    MayStand(bool),
    /// To `WhatOfMe`.
    Knowledge(Knowledge),
    /// To all messages of consensus, while the node does not take part.
    NotYet {
        /// Why not.
        why: String,
    },
    /// To a message that was meant for another node.
    NotMe {
        /// The number of the node that answers.
        node_id: u64,
    },
    /// To a message from a node whose state has left out other entries.
    Differs {
        /// The entry that one node has left out and the other has applied.
        entry: EntryId,
        /// Whether it is the answering node that has left it out.
        skipped: bool,
    },
    /// To a message from a node whose digest chain differs.
    Parted {
        /// The index of the first compared entry after which the states are not the same.
        index: u64,
    },
}

/// The outcome of a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The index of the Raft entry with whose application it shows.
    pub entry: u64,
    /// The outcome.
    pub outcome: Result<Reply, Refusal>,
}

/// Why a request to the leader was not carried out, as far as is known. It may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Setback {
    /// The asked node does not lead.
    #[error("{}", not_leading(*leader))]
    NotLeading {
        /// The leader that it knows of.
        leader: Option<u64>,
    },
    /// No answer, or none of a majority.
    #[error("{0}")]
    Silent(String),
    /// The catalog has stopped.
    #[error("the catalog has stopped: {0}")]
    Stopped(String),
}

fn not_leading(leader: Option<u64>) -> String {
    match leader {
        Some(leader) => format!("the asked node does not lead, node {leader} does"),
        None => "no leader is known".to_owned(),
    }
}

/// Why a peer did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It could not be reached, or not in time.
    #[error("node {node_id} at {address} cannot be reached: {reason}")]
    Unreachable {
        /// The peer.
        node_id: u64,
        /// Where it was looked for.
        address: String,
        /// Why, in words.
        reason: String,
    },
    /// Another node is there: the peer's disk was replaced, or its address given to another host.
    #[error("node {node_id} at {address} has become node {is}")]
    NotItself {
        /// The peer.
        node_id: u64,
        /// Where it was looked for.
        address: String,
        /// The node that is there.
        is: u64,
    },
    /// It does not take part in consensus, or not yet.
    #[error("node {node_id} at {address} does not take part: {why}")]
    NotYet {
        /// The peer.
        node_id: u64,
        /// Its address.
        address: String,
        /// Why, in its own words.
        why: String,
    },
    /// One of the two nodes has left out an entry of the log that the other has applied.
    #[error(
        "node {node_id} has {} entry {entry} of the log, this node has {} it: their catalogs differ; 'pgmesh doctor' says what to do",
        did(*skipped),
        did(!*skipped)
    )]
    Differs {
        /// The peer.
        node_id: u64,
        /// The entry.
        entry: EntryId,
        /// Whether it is the peer that has left it out.
        skipped: bool,
    },
    /// Its digest chain differs from this node's.
    #[error(
        "the catalogs of node {node_id} and of this node differ after entry {index} of the log: one of the two runs \
         another version of pgmesh, or its disk has changed data; 'pgmesh doctor' says what to do"
    )]
    Parted {
        /// The peer.
        node_id: u64,
        /// The index of the entry.
        index: u64,
    },
    /// Its answer was of another kind than the request.
    #[error("node {node_id} at {address} gave an answer of the wrong kind")]
    WrongReply {
        /// The peer.
        node_id: u64,
        /// Its address.
        address: String,
    },
}

fn did(skipped: bool) -> &'static str {
    if skipped { "skipped" } else { "applied" }
}

/// Carries messages to other nodes. Consensus has its own connection, so that a heartbeat never queues behind bulk
/// data, and each call its own stream, so that it never queues behind another call.
pub trait Peers: Send + Sync + 'static {
    /// Sends a request to a peer and waits for its answer, at most for `limit`. A call whose future is dropped may or
    /// may not have been delivered.
    fn call(
        &self,
        node_id: u64,
        address: String,
        request: PeerRequest,
        limit: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, PeerError>>;
}

/// No way to any peer: right for a group of one voter, which dials no node.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn call(
        &self,
        node_id: u64,
        address: String,
        _request: PeerRequest,
        _limit: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, PeerError>> {
        Box::pin(std::future::ready(Err(PeerError::Unreachable {
            node_id,
            address,
            reason: "this program connects to no other nodes".to_owned(),
        })))
    }
}
