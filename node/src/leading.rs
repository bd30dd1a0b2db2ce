//! What the leader does for the whole mesh: the Raft group follows the catalog's nodes, and sessions of nodes that have
//! died end.

use crate::membership::{Group, Member, Step, next_step};
use crate::sessions::Silences;
use crate::{Failure, Node};
use pgmesh_raft::{NodeName, NodeService};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the leader looks.
const PERIOD: Duration = Duration::from_millis(500);
/// How often it looks after the sessions of other nodes.
const SESSIONS_PERIOD: Duration = Duration::from_secs(5);
/// A node may vote when it lacks no more than so many entries.
const CAUGHT_UP: u64 = 1000;

/// What the leader has heard of the nodes that hold sessions. Measured by its own running time, never by the clocks of
/// two machines; a node that comes back later finds its sessions ended, and what it does under them refused.
#[derive(Default)]
struct Heard {
    silences: Silences,
    /// The last entry that each node had at the last look.
    matched: BTreeMap<u64, Option<u64>>,
}

impl Node {
    /// Leads while this node is the leader, until it stops.
    pub async fn keep_leading(self: Arc<Self>) {
        let mut heard = Heard::default();
        let mut looked = Instant::now();
        loop {
            tokio::time::sleep(PERIOD).await;
            if !self.catalog.is_leader() {
                heard = Heard::default();
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

    /// Ends the sessions of nodes that have been silent for long enough for their holders to have gone elsewhere.
    async fn end_dead_sessions(&self, heard: &mut Heard) -> Result<(), Failure> {
        // Without a majority nobody can go elsewhere: the grace begins anew when there is one.
        let view = match self.catalog.view_linearizable().await {
            Ok(view) => view,
            Err(error) => {
                heard.silences.forget();
                return Err(error.into());
            }
        };
        let sessions = view.sessions()?;
        let holders: BTreeSet<NodeName> = sessions
            .iter()
            .map(|(_, record)| record.node.clone())
            .filter(|name| *name != self.name)
            .collect();
        let matched = self.catalog.status().matched;
        let before = std::mem::replace(&mut heard.matched, matched);
        let advances = |node_id: u64| {
            let of = |matched: &BTreeMap<u64, Option<u64>>| matched.get(&node_id).copied().flatten();
            of(&before).is_some_and(|before| of(&heard.matched).is_some_and(|now| now > before))
        };
        let asked = holders.into_iter().map(|name| async {
            let record = view.node(&name).ok().flatten().filter(|record| record.is_member());
            let is_alive = match record {
                // A node that takes log entries lives, even where it is too busy to answer.
                Some(record) => advances(record.node_id) || self.ask_node(&name).await.is_ok(),
                None => false,
            };
            (name, is_alive)
        });
        let round = futures::future::join_all(asked).await;
        let limit = self.settings.sessions.dead;
        for name in heard.silences.observe(self.running.now(), &round, limit) {
            for (session, record) in sessions.iter().filter(|(_, record)| record.node == name) {
                let reason = format!("node {name}, which kept it alive, is gone");
                self.expire(*session, record.lease, &reason).await;
            }
        }
        Ok(())
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
