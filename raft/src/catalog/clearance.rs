//! Whether this node takes part in consensus, and its pledge when it does.
//!
//! A log that has lost its end (an older copy of the data directory was put back; the disk ignored flushes and the
//! power failed) breaks the node's promises. As the leader it gives other entries to positions that others hold; as a
//! voter it elects a leader that lacks entries that the voter had acknowledged; as a follower it makes openraft's
//! leader panic. So a node that has started keeps all messages of consensus away from openraft until the others have
//! told what they know of it (`asking.rs`), and goes on comparing: each such message says what its sender knows of this
//! node.
//!
//! A copy may have lost votes, too. The node therefore takes over the highest vote that it is told of, gives no vote in
//! the term of that vote or an earlier term, and elects no candidate that lacks an entry which the others knew to be
//! committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::raft::{VoteRequest, VoteResponse};
use openraft::{LogId, Vote};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::peers::PeerMessage;
use crate::status::{Lack, Shortfall, Standing};
use crate::store::Compared;
use pgmesh_protocol::EntryId;

/// A node that is behind asks again and again. If it has not asked for so long, it is not behind any more, or is down.
const BEHIND_FOR: Duration = Duration::from_secs(10);

/// Whether this node takes part. Shared by all that works for the catalog.
#[derive(Debug)]
pub(super) struct Clearance {
    node_id: u64,
    standing: watch::Sender<Standing>,
    pledge: Mutex<Pledge>,
    /// Other nodes that have started and are behind, and when they were last heard of.
    behind: Mutex<BTreeMap<u64, (Shortfall, Instant)>>,
    /// The vote of a leader that lacks an entry which this node has applied, and the entry.
    contradiction: Mutex<Option<(Vote<u64>, EntryId)>>,
    /// Other nodes whose digest chains differ from this node's, and the entry after which it shows.
    parted: Mutex<BTreeMap<u64, u64>>,
    /// Leaders that have reached this node while it asks, and their addresses.
    leaders: Mutex<BTreeMap<u64, String>>,
}

/// The others' knowledge when this node was cleared.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pledge {
    /// No vote is given in this term or an earlier one: the node may have given it before.
    pub(super) term: Option<u64>,
    /// A candidate that this node elects must have this entry.
    pub(super) committed: Option<LogId<u64>>,
}

impl Clearance {
    pub(super) fn new(node_id: u64, standing: Standing) -> Self {
        Self {
            node_id,
            standing: watch::Sender::new(standing),
            pledge: Mutex::default(),
            behind: Mutex::default(),
            contradiction: Mutex::default(),
            parted: Mutex::default(),
            leaders: Mutex::default(),
        }
    }

    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    pub(super) fn is_cleared(&self) -> bool {
        *self.standing.borrow() == Standing::Cleared
    }

    /// The entries, number or voters that this node lacks.
    pub(super) fn shortfall(&self) -> Option<Shortfall> {
        match &*self.standing.borrow() {
            Standing::Behind(shortfall) => Some(shortfall.clone()),
            Standing::Asking { .. } | Standing::Cleared => None,
        }
    }

    pub(super) fn is_behind(&self) -> bool {
        matches!(*self.standing.borrow(), Standing::Behind(_))
    }

    pub(super) fn is_asking(&self) -> bool {
        matches!(*self.standing.borrow(), Standing::Asking { .. })
    }

    /// The last entry that a candidate must have.
    pub(super) fn needed(&self) -> Option<LogId<u64>> {
        lock(&self.pledge).committed
    }

    /// This node takes part from now on.
    pub(super) fn clear(&self, pledge: Pledge) {
        *lock(&self.pledge) = pledge;
        self.standing.send_if_modified(|standing| {
            let is_asking = matches!(standing, Standing::Asking { .. });
            if is_asking {
                *standing = Standing::Cleared;
            }
            is_asking
        });
    }

    /// This node waits for these voters.
    pub(super) fn wait_for(&self, silent: BTreeSet<u64>) {
        self.standing.send_if_modified(|standing| {
            let news = Standing::Asking { silent };
            let is_news = matches!(standing, Standing::Asking { .. }) && *standing != news;
            if is_news {
                *standing = news;
            }
            is_news
        });
    }

    /// This node lacks entries, its number or its voters, and takes no part any more in this process.
    pub(super) fn fall_behind(&self, shortfall: Shortfall) {
        self.standing.send_if_modified(|standing| {
            if matches!(standing, Standing::Behind(_)) {
                return false;
            }
            tracing::error!(
                node = self.node_id,
                "this node's log lacks entries that it has acknowledged; it takes no part in consensus: {shortfall}"
            );
            *standing = Standing::Behind(shortfall);
            true
        });
    }

    /// Refuses a message that this node must not answer, and says why. `known` is the last entry that the sender,
    /// `from`, knows this node to have had.
    pub(super) fn admit(
        &self,
        message: &PeerMessage,
        from: u64,
        known: Option<LogId<u64>>,
        reached: Option<LogId<u64>>,
    ) -> Result<(), String> {
        if let Some(known) = known
            && Some(known) > reached
        {
            self.fall_behind(Shortfall {
                witness: from,
                lack: Lack::Entries(known),
                reached,
            });
        }
        let standing = self.standing.borrow();
        match (&*standing, message) {
            // A question of a started node is always answered. Proposals and reads are the leader's business, and the
            // leader was elected.
            (Standing::Cleared, _)
            | (_, PeerMessage::WhatOfMe(_))
            | (Standing::Asking { .. }, PeerMessage::Propose(_) | PeerMessage::ReadIndex) => Ok(()),
            (Standing::Asking { .. }, _) => {
                Err("it has just started and is asking the other nodes which entries it had acknowledged".to_owned())
            }
            (Standing::Behind(shortfall), _) => {
                Err(format!("its log lacks entries that it has acknowledged: {shortfall}"))
            }
        }
    }

    /// While this node asks, a leader that it may not know of has reached it: that leader is asked, too. The voters may
    /// have changed while this node was down, and the voters that its disk names may not answer any more.
    pub(super) fn note_leader(&self, node_id: u64, address: String) {
        if self.is_asking() && node_id != self.node_id {
            lock(&self.leaders).insert(node_id, address);
        }
    }

    /// A leader has another entry in the place of an entry that this node has applied.
    pub(super) fn note_contradiction(&self, vote: Vote<u64>, entry: EntryId) {
        let news = Some((vote, entry));
        let before = std::mem::replace(&mut *lock(&self.contradiction), news);
        if before != news {
            tracing::error!(
                node = vote.leader_id.node_id,
                %entry,
                "the leader has lost a committed entry; this node does not follow it"
            );
        }
    }

    /// A leader has all entries that this node has applied.
    pub(super) fn forget_contradiction(&self) {
        *lock(&self.contradiction) = None;
    }

    /// The vote of the leader that is not followed, and the entry that it has lost.
    pub(super) fn contradiction(&self) -> Option<(Vote<u64>, EntryId)> {
        *lock(&self.contradiction)
    }

    /// Another node's digest chain differs from this node's.
    pub(super) fn note_parted(&self, node_id: u64, index: u64) {
        if lock(&self.parted).insert(node_id, index).is_none() {
            tracing::error!(
                node = node_id,
                index,
                "this node and another one do not work together: their catalogs differ after a log entry"
            );
        }
    }

    /// The entry after which another node's state is not this one's, if it is not. A difference counts until a later
    /// entry shows the same state: two nodes that are far from each other have nothing to compare.
    pub(super) fn judge_parted(&self, node_id: u64, compared: Compared) -> Option<u64> {
        let known = lock(&self.parted).get(&node_id).copied();
        match (compared, known) {
            (Compared::Parted(index), _) => {
                self.note_parted(node_id, index);
                Some(index)
            }
            (Compared::Same(index), Some(known)) if index >= known => {
                lock(&self.parted).remove(&node_id);
                None
            }
            (_, known) => known,
        }
    }

    /// The nodes whose digest chains differ from this node's, and the entries after which it shows.
    pub(super) fn parted(&self) -> BTreeMap<u64, u64> {
        lock(&self.parted).clone()
    }

    /// Leaders that have reached this node since this was called the last time.
    pub(super) fn take_leaders(&self) -> BTreeMap<u64, String> {
        std::mem::take(&mut *lock(&self.leaders))
    }

    /// The answer to a request for a vote that must not be given; `None` when openraft decides.
    pub(super) fn refuse_vote(&self, request: &VoteRequest<u64>, own_vote: Vote<u64>) -> Option<VoteResponse<u64>> {
        let pledge = *lock(&self.pledge);
        let is_given = pledge.term.is_some_and(|term| request.vote.leader_id.term <= term);
        if !is_given && request.last_log_id >= pledge.committed {
            return None;
        }
        Some(VoteResponse {
            vote: own_vote,
            vote_granted: false,
            last_log_id: pledge.committed,
        })
    }

    /// Another node has told its position, or its shortfall.
    pub(super) fn note_started(&self, node_id: u64, shortfall: Option<Shortfall>) {
        let mut behind = lock(&self.behind);
        match shortfall {
            None => drop(behind.remove(&node_id)),
            Some(shortfall) => {
                if !behind.contains_key(&node_id) {
                    tracing::error!(
                        node = node_id,
                        "another node's log lacks entries that it has acknowledged; it takes no part in consensus: \
                         {shortfall}"
                    );
                }
                behind.insert(node_id, (shortfall, Instant::now()));
            }
        }
    }

    /// Other nodes that are behind now.
    pub(super) fn behind(&self) -> BTreeMap<u64, Shortfall> {
        let mut behind = lock(&self.behind);
        behind.retain(|_, (_, at)| at.elapsed() < BEHIND_FOR);
        behind
            .iter()
            .map(|(id, (shortfall, _))| (*id, shortfall.clone()))
            .collect()
    }
}

/// A panic of another holder leaves nothing half-changed here: go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    #[test]
    fn the_first_message_of_one_that_knows_more_ends_the_part_of_this_node() {
        let id = |index| Some(LogId::new(CommittedLeaderId::new(3, 1), index));
        for message in [PeerMessage::ReadIndex, PeerMessage::MayStand { last_log: None }] {
            let clearance = Clearance::new(1, Standing::Cleared);
            assert!(clearance.admit(&message, 2, id(10), id(10)).is_ok());
            assert!(clearance.admit(&message, 2, id(11), id(10)).is_err());
            assert!(matches!(&*clearance.standing().borrow(), Standing::Behind(shortfall) if shortfall.witness == 2));
        }
    }
}
