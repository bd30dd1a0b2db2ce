//! What the leader does for the whole mesh: the Raft group follows the catalog's nodes, and sessions of nodes that have
//! died end.

use crate::failure::chain;
use crate::membership::{Group, Member, Step, next_step};
use crate::{Failure, Node};
use pgmesh_raft::{Command, NodeName, NodeService, limits};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the leader looks.
const PERIOD: Duration = Duration::from_millis(500);
/// How often it looks after the sessions of other nodes.
const SESSIONS_PERIOD: Duration = Duration::from_secs(5);
/// A node that nobody has heard of for so long holds no sessions any more. Measured by the leader's own running time, never
/// by a clock of two machines; a node that comes back later finds its session ended, and what it does under it refused.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// A node may vote when it lacks no more than so many entries.
const CAUGHT_UP: u64 = 1000;

impl Node {
    /// Leads while this node is the leader, until it stops.
    pub async fn keep_leading(self: Arc<Self>) {
        let mut heard: HashMap<NodeName, Instant> = HashMap::new();
        let mut looked = Instant::now();
        loop {
            tokio::time::sleep(PERIOD).await;
            if !self.catalog.is_leader() {
                heard.clear();
                continue;
            }
            if let Err(failure) = self.follow_catalog().await {
                tracing::warn!(error = %failure, "the group of voters stays as it is for now");
            }
            if looked.elapsed() >= SESSIONS_PERIOD {
                looked = Instant::now();
                if let Err(failure) = self.end_dead_sessions(&mut heard).await {
                    tracing::warn!(error = %failure, "sessions of dead nodes stay for now");
                }
            }
        }
    }

    async fn follow_catalog(&self) -> Result<(), Failure> {
        let nodes = self.catalog.view().nodes()?;
        let members: Vec<Member> = nodes
            .iter()
            .map(|(_, record)| Member {
                node_id: record.node_id,
                service: record.service,
                vote: record.vote,
            })
            .collect();
        let Some(step) = next_step(&members, &self.group(), self.settings.voters) else {
            return self.leave_the_lead(&members).await;
        };
        // A leader that shall not vote any more lets another take over, which then makes the change.
        if takes_vote(&step, self.mesh.node_id) && self.catalog.step_aside().await {
            return Ok(());
        }
        tracing::info!(?step, "the group of voters changes");
        match step {
            Step::Remove(gone) => self.catalog.remove_members(&gone).await?,
            Step::SetVoters(voters) => self.catalog.set_voters(voters).await?,
            Step::AddLearner(node_id) => {
                let found = nodes.iter().find(|(_, record)| record.node_id == node_id);
                let address = found.and_then(|(_, record)| record.advertise.first().cloned());
                let address = address.unwrap_or_default();
                self.catalog.add_learner(node_id, &address).await?;
            }
        }
        Ok(())
    }

    /// A node that is being drained does not lead, where another can.
    async fn leave_the_lead(&self, members: &[Member]) -> Result<(), Failure> {
        let draining = |member: &&Member| member.service == NodeService::Draining;
        let is_draining = members
            .iter()
            .filter(draining)
            .any(|member| member.node_id == self.mesh.node_id);
        let voters = self.catalog.status().voters;
        let others = members
            .iter()
            .filter(|member| voters.contains(&member.node_id) && !draining(member))
            .count();
        if is_draining && others > 0 {
            self.catalog.step_aside().await;
        }
        Ok(())
    }

    fn group(&self) -> Group {
        let status = self.catalog.status();
        let last = status.last_log.unwrap_or_default();
        let caught_up = |id: &u64| {
            let matched = status.matched.get(id).copied().flatten();
            *id == status.node_id || matched.is_some_and(|matched| matched.saturating_add(CAUGHT_UP) >= last)
        };
        let voters: BTreeSet<u64> = status.voters.iter().copied().collect();
        let learners: BTreeSet<u64> = status.learners.iter().copied().collect();
        Group {
            caught_up: voters.union(&learners).filter(|id| caught_up(id)).copied().collect(),
            voters,
            learners,
        }
    }

    async fn end_dead_sessions(&self, heard: &mut HashMap<NodeName, Instant>) -> Result<(), Failure> {
        let view = self.catalog.view();
        let sessions = view.sessions()?;
        let holders: BTreeSet<NodeName> = sessions
            .iter()
            .map(|(_, record)| record.node.clone())
            .filter(|name| *name != self.name)
            .collect();
        let asked = holders.into_iter().map(|name| async {
            let is_alive = self.ask_node(&name).await.is_ok();
            (name, is_alive)
        });
        for (name, is_alive) in futures::future::join_all(asked).await {
            let since = heard.entry(name.clone()).or_insert_with(Instant::now);
            let is_removed = view.node(&name)?.is_none_or(|record| !record.is_member());
            if is_alive && !is_removed {
                *since = Instant::now();
            } else if is_removed || since.elapsed() > DEAD_AFTER {
                for (session, _) in sessions.iter().filter(|(_, record)| record.node == name) {
                    self.expire(
                        self.actor(),
                        *session,
                        Some(name.clone()),
                        &format!("node {name}, which held it, is gone"),
                    )
                    .await;
                }
            }
        }
        Ok(())
    }

    /// Ends a session, but for one that a node other than `node` has taken over.
    pub(crate) async fn expire(
        &self,
        actor: &str,
        session: pgmesh_raft::SessionId,
        node: Option<NodeName>,
        reason: &str,
    ) {
        let command = Command::ExpireSession {
            session,
            reason: limits::shortened(reason.to_owned(), limits::REASON),
            node,
        };
        if let Err(error) = self.catalog.propose(actor, command).await {
            tracing::warn!(%session, error = %chain(&error), "a session could not be ended");
        }
    }
}

/// Whether a step takes the vote of a node, and leaves somebody else's.
fn takes_vote(step: &Step, node_id: u64) -> bool {
    match step {
        Step::Remove(gone) => gone.contains(&node_id),
        Step::SetVoters(voters) => !voters.contains(&node_id),
        Step::AddLearner(_) => false,
    }
}
