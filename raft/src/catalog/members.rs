//! Changes of the Raft group. They are the leader's to make, one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers};
use tokio::time::timeout;

use super::Catalog;
use crate::error::CatalogError;

/// How long a leader that steps aside waits for another: several elections.
const ASIDE_LIMIT: Duration = Duration::from_secs(4);

impl Catalog {
    /// Makes a node a learner, or changes the address that a member is reached at. Returns when that is committed; the
    /// learner gets the log, or a snapshot, from then on. The same again changes nothing.
    ///
    /// # Errors
    /// [`CatalogError::NotLeader`]; [`CatalogError::Membership`] while another change is under way;
    /// [`CatalogError::NoQuorum`] when it is not known whether the change was or will be made.
    pub async fn add_learner(&self, node_id: u64, address: &str) -> Result<(), CatalogError> {
        let node = BasicNode::new(address);
        let known = self.members().0.get(&node_id).cloned();
        let nodes = BTreeMap::from([(node_id, node)]);
        match known {
            Some(known) if known == address => Ok(()),
            Some(_) => self.change(ChangeMembers::SetNodes(nodes)).await,
            None => self.change(ChangeMembers::AddNodes(nodes)).await,
        }
    }

    /// Gives the vote to these members and to no others. The others stay as learners. The same again changes nothing,
    /// but for a change that a leader did not bring to its end: that is done then.
    ///
    /// It takes two entries of the log. After the first one each decision needs a majority of the former voters and one
    /// of the new ones (`CatalogStatus::next_voters`). A leader that is interrupted there leaves the group so.
    ///
    /// # Errors
    /// As [`Self::add_learner`]; [`CatalogError::Membership`] also for a node that is no member, or no node at all.
    pub async fn set_voters(&self, voters: BTreeSet<u64>) -> Result<(), CatalogError> {
        self.change(ChangeMembers::ReplaceAllVoters(voters)).await
    }

    /// Takes nodes out of the group, first their vote. Nodes that are no members change nothing.
    ///
    /// # Errors
    /// As [`Self::set_voters`]: a voter must be left.
    pub async fn remove_members(&self, nodes: &BTreeSet<u64>) -> Result<(), CatalogError> {
        let (members, voters) = self.members();
        if voters.intersection(nodes).next().is_some() {
            self.set_voters(voters.difference(nodes).copied().collect()).await?;
        }
        let gone: BTreeSet<_> = members.into_keys().filter(|member| nodes.contains(member)).collect();
        if gone.is_empty() {
            return Ok(());
        }
        self.change(ChangeMembers::RemoveNodes(gone)).await
    }

    /// Lets another voter become the leader: this node gives no sign of itself until the others have elected a leader,
    /// for at most a few seconds. Proposals and reads wait meanwhile, as in any election. Whether another leads now.
    pub async fn step_aside(&self) -> bool {
        self.way.aside.store(true, Ordering::Relaxed);
        self.way.raft.runtime_config().heartbeat(false);
        let mut leader = self.way.leader.clone();
        let other = leader.wait_for(|leader| leader.is_some_and(|leader| leader != self.node_id()));
        let done = matches!(timeout(ASIDE_LIMIT, other).await, Ok(Ok(_)));
        self.way.aside.store(false, Ordering::Relaxed);
        self.way.raft.runtime_config().heartbeat(true);
        done
    }

    /// The addresses of all members, and the numbers of the voters.
    fn members(&self) -> (BTreeMap<u64, String>, BTreeSet<u64>) {
        let metrics = self.way.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let members = membership.nodes().map(|(id, node)| (*id, node.addr.clone()));
        (members.collect(), membership.voter_ids().collect())
    }

    async fn change(&self, change: ChangeMembers<u64, BasicNode>) -> Result<(), CatalogError> {
        let changed = timeout(self.way.patience, self.way.raft.change_membership(change, true)).await;
        match changed {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(leader)))) => Err(CatalogError::NotLeader {
                leader_id: leader.leader_id,
                address: leader.leader_node.map(|node| node.addr),
            }),
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
                Err(CatalogError::Membership(error.to_string()))
            }
            Ok(Err(RaftError::Fatal(fatal))) => Err(CatalogError::Stopped(fatal.to_string())),
            Err(_) => Err(CatalogError::NoQuorum(
                "the change of members was not committed in time".to_owned(),
            )),
        }
    }
}
