//! How a catalog is doing on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use openraft::LogId;
use serde::{Deserialize, Serialize};

use pgmesh_protocol::EntryId;

/// A node's part in the Raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It takes the writes.
    Leader,
    /// It follows a leader.
    Follower,
    /// It stands for election, or was elected and hears no majority any more.
    Candidate,
    /// It receives the log and has no vote.
    Learner,
    /// It has stopped.
    Stopped,
}

/// Whether a node takes part in consensus: votes, stands for election, follows a leader.
///
/// A node that starts does not know whether its data directory is the one that it left, or an older copy. It takes part
/// when a majority of the group, itself included, has answered, and it has reached every position that the answers
/// name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has started and asks the others.
    Asking {
        /// The voters that have not answered yet.
        silent: BTreeSet<u64>,
    },
    /// It takes part.
    Cleared,
    /// It lacks entries that it has acknowledged, and must come back as an empty node.
    Behind(Shortfall),
}

/// A node's lack, and the node that knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortfall {
    /// The node that knows it.
    pub witness: u64,
    /// The lack.
    pub lack: Lack,
    /// The highest position that it has reached as far as its own disk knows.
    pub reached: Option<LogId<u64>>,
}

/// The kinds of lack of a node that is behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lack {
    /// Entries up to this position, which it has acknowledged or written.
    Entries(LogId<u64>),
    /// Its number: it is not in use any more.
    Number,
    /// The other voters: it took itself for the only one.
    Voters,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let witness = self.witness;
        let reached = position(self.reached);
        match self.lack {
            Lack::Entries(known) => write!(
                f,
                "node {witness} has a record that this log contained {}; now the log ends at {reached}",
                position(Some(known)),
            ),
            Lack::Number => write!(
                f,
                "node {witness} reports that another node has taken the place of this number in the group"
            ),
            Lack::Voters => write!(
                f,
                "node {witness} leads a group of several voters, but this catalog has a single voter: it is an older \
                 copy; its log ends at {reached}"
            ),
        }
    }
}

fn position(id: Option<LogId<u64>>) -> String {
    id.map_or_else(
        || "nothing".to_owned(),
        |id| format!("entry {} of term {}", id.index, id.leader_id.term),
    )
}

/// How a catalog is doing on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogStatus {
    /// This node's identifier.
    pub node_id: u64,
    /// Its part.
    pub role: Role,
    /// The leader, if one is known.
    pub leader: Option<u64>,
    /// The current term.
    pub term: u64,
    /// The last entry of the Raft log.
    pub last_log: Option<u64>,
    /// The last entry that was applied.
    pub last_applied: Option<u64>,
    /// The last entry that is in the snapshot.
    pub snapshot: Option<u64>,
    /// The last entry that was dropped from the log.
    pub purged: Option<u64>,
    /// The identifiers of the nodes that vote.
    pub voters: Vec<u64>,
    /// While the voters change: the voters when the change is done. Until then each decision needs a majority of the
    /// former voters and one of these, and `voters` has them all.
    pub next_voters: Option<BTreeSet<u64>>,
    /// The identifiers of the nodes that receive the log and have no vote.
    pub learners: Vec<u64>,
    /// The addresses of all members, as the Raft group knows them.
    pub addresses: BTreeMap<u64, String>,
    /// Whether it has become part of a group: not before the leader has contacted a node that joins.
    pub initialized: bool,
    /// On the leader: the last entry that each member is known to have.
    pub matched: BTreeMap<u64, Option<u64>>,
    /// On the leader: how long ago the last request was sent that a majority has answered. A transfer that takes long
    /// can make it a few seconds.
    pub quorum_age: Option<Duration>,
    /// The entries of the log that this node has left out.
    pub skipped: Vec<EntryId>,
    /// Why it has stopped, if it has.
    pub failure: Option<String>,
    /// Whether it takes part in consensus.
    pub standing: Standing,
    /// Other nodes that have started and lack entries that they have acknowledged.
    pub behind: BTreeMap<u64, Shortfall>,
    /// Other nodes whose digest chains differ from this node's, and the entry after which it shows.
    pub parted: BTreeMap<u64, u64>,
    /// A leader that this node does not follow, and the entry that it has lost.
    pub contradiction: Option<(u64, EntryId)>,
}

impl CatalogStatus {
    /// Why this node, or the whole group, does not take part in consensus, and how to help; `None` when all is well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let mut sentences = Vec::new();
        match &self.standing {
            Standing::Cleared => {}
            Standing::Asking { silent } if silent.is_empty() => {
                sentences.push(
                    "it has just started and is asking the other nodes which entries it had acknowledged".to_owned(),
                );
            }
            Standing::Asking { silent } => sentences.push(format!(
                "it has just started and takes part in consensus once a majority has told which entries it had \
                 acknowledged; no answer yet from {}",
                nodes(silent)
            )),
            Standing::Behind(shortfall) => sentences.push(format!(
                "its data directory is an older copy, or its disk has lost data that it had confirmed: {shortfall}. \
                 It neither votes nor follows a leader, and comes back by itself, with an empty catalog, as soon as a \
                 majority of the others serves"
            )),
        }
        for (node_id, shortfall) in &self.behind {
            sentences.push(format!(
                "the log of node {node_id} lacks entries that it has acknowledged; it takes no part in consensus: \
                 {shortfall}"
            ));
        }
        if let Some((node_id, index)) = self.parted.first_key_value() {
            let others: BTreeSet<u64> = self.parted.keys().copied().collect();
            sentences.push(format!(
                "its catalog and that of {} differ after entry {index} of the log: one of the nodes runs another \
                 version of pgmesh, or its disk has changed data. These nodes do not work together; a majority of \
                 nodes that agree goes on. Run one version of pgmesh on all nodes; then empty the node-path of the \
                 node that is left alone and let it join again: it copies the catalog of the others (seen at node \
                 {node_id})",
                nodes(&others)
            ));
        }
        if let Some((leader, entry)) = self.contradiction {
            sentences.push(format!(
                "the leader, node {leader}, has lost committed entries, such as {entry}, which this node has: this \
                 node does not follow it. The leader's data directory is an older copy: stop both nodes and put a \
                 newer copy back on the leader. Or, to give up the entries that the leader has lost, let this node \
                 join again with an empty node-path"
            ));
        }
        let lost = self.lost();
        if self.has_lost_majority(&lost) {
            sentences.push(format!(
                "a majority of the voters has lost entries ({}), so no node serves. Stop these voters and put back a \
                 newer copy of the data directory of one of them: if the copy is complete, nothing is lost. Or found \
                 the mesh anew from the repositories with 'pgmesh catalog-rebuild': this loses the records that only \
                 the catalog has, such as settings, debts and the audit trail",
                nodes(&lost)
            ));
        }
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }

    /// The voters that are known to have lost entries.
    fn lost(&self) -> BTreeSet<u64> {
        let itself = matches!(self.standing, Standing::Behind(_)).then_some(self.node_id);
        let known = self.behind.keys().copied().chain(itself);
        known.filter(|node_id| self.voters.contains(node_id)).collect()
    }

    fn has_lost_majority(&self, lost: &BTreeSet<u64>) -> bool {
        !lost.is_empty() && (self.voters.len() - lost.len()) * 2 <= self.voters.len()
    }
}

fn nodes(ids: &BTreeSet<u64>) -> String {
    let names: Vec<String> = ids.iter().map(|id| format!("node {id}")).collect();
    names.join(", ")
}
