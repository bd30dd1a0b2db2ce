//! The leader's work for the whole mesh: it makes the Raft group follow the catalog's nodes, and ends the sessions of
//! dead nodes.

use crate::handover::{Handover, Lead};
use crate::membership::Membership;
use crate::membership::group::{Act, Group, Member, Step, Stranded, next_act, stranded_without};
use crate::sessions::Silences;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::{CatalogError, Command, NodeName, NodeRecord, SessionId, SessionRecord};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often the leader looks.
const PERIOD: Duration = Duration::from_millis(500);
/// How often it looks after the sessions of other nodes.
const SESSIONS_PERIOD: Duration = Duration::from_secs(5);
/// A node may vote when it lacks no more than so many entries.
const CAUGHT_UP: u64 = 1000;

/// The last signs of life of the nodes that hold sessions, by the leader's own running time, never by the clocks of two
/// machines. A node that comes back later finds its sessions ended, and its commands under them are refused.
#[derive(Default)]
struct Heard {
    silences: Silences,
    /// The last entry that each node had at the last look.
    matched: BTreeMap<u64, Option<u64>>,
}

impl Membership {
    /// Leads while this node is the leader, until it stops.
    pub async fn keep_leading(self: Arc<Self>) {
        // It outlasts this worker, should that be started again: else each start would cost the mesh its leader.
        let mut lead = self.lead.lock().await;
        let mut heard = Heard::default();
        let mut looked = Instant::now();
        loop {
            tokio::time::sleep(PERIOD).await;
            if !self.catalog.is_leader() {
                heard = Heard::default();
                // A failed attempt to hand over costs the lead for a moment, too: that attempt must not be forgotten.
                if self.catalog.leader().is_some() {
                    lead.handover = Handover::default();
                    lead.slow.lost_lead();
                }
                continue;
            }
            if let Err(failure) = self.follow_catalog(&mut lead).await {
                tracing::warn!(error = %failure, "the group of voters stays as it is for now");
            }
            if looked.elapsed() >= SESSIONS_PERIOD {
                looked = Instant::now();
                if let Err(failure) = self.raise_level().await {
                    tracing::warn!(error = %failure, "commands are applied as before for now");
                }
                if let Err(failure) = self.end_dead_sessions(&mut heard).await {
                    tracing::warn!(error = %failure, "sessions of dead nodes stay for now");
                }
            }
        }
    }

    /// Commands are applied at the highest level that the programs of all nodes have.
    async fn raise_level(&self) -> Result<(), Failure> {
        let view = self.catalog.view();
        let levels = view.levels()?;
        let nodes = view.nodes()?;
        let members = nodes.iter().filter(|(_, record)| record.is_member());
        let of = |record: &NodeRecord| levels.nodes.get(&record.node_id).copied().unwrap_or_default();
        let lowest = members.map(|(_, record)| of(record)).min().unwrap_or_default();
        if lowest > levels.current {
            let raise = Command::RaiseLevel { level: lowest };
            self.catalog.propose(self.actor(), raise).await?;
            tracing::info!(
                level = lowest,
                "commands are applied at a new level, which all nodes have"
            );
        }
        Ok(())
    }

    async fn follow_catalog(&self, lead: &mut Lead) -> Result<(), Failure> {
        let faster = lead.slow.observe(&self.catalog.append_times(), Instant::now());
        let members = || -> Result<Vec<Member>, Failure> { Ok(members_of(&self.catalog.view().nodes()?)) };
        let confirmed = async {
            match self.catalog.confirm_lead().await {
                Ok(_) => members().map(Some),
                Err(CatalogError::NotLeader { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        let act = |members: &[Member]| {
            let (most, me) = (self.settings.voters, self.mesh.node_id);
            next_act(members, &self.group(), most, me, &faster)
        };
        match decide(&members()?, confirmed, act).await? {
            None => Ok(()),
            Some(Act::HandOver { successors, why }) => {
                self.hand_over(&mut lead.handover, successors, why).await;
                if !faster.is_empty() {
                    lead.slow.handed_over(Instant::now());
                }
                Ok(())
            }
            Some(Act::Change { step, successors }) => {
                // A leader that shall not vote any more lets another node take over, which then makes the change.
                let why = "this node loses its vote";
                if self.hand_over(&mut lead.handover, successors, why).await {
                    return Ok(());
                }
                tracing::info!(?step, "the group of voters changes");
                self.change_group(step).await
            }
        }
    }

    async fn change_group(&self, step: Step) -> Result<(), Failure> {
        match step {
            Step::Remove(gone) => self.catalog.remove_members(&gone).await?,
            Step::SetVoters(voters) => self.catalog.set_voters(voters).await?,
            Step::AddLearner(node_id) => {
                let nodes = self.catalog.view().nodes()?;
                let found = nodes.iter().find(|(_, record)| record.node_id == node_id);
                let address = found.and_then(|(_, record)| record.advertise.first().cloned());
                let address = address.unwrap_or_default();
                self.catalog.add_learner(node_id, &address).await?;
            }
        }
        Ok(())
    }

    /// Lets another of these nodes lead, if any of them answers. Whether another node leads now.
    async fn hand_over(&self, handover: &mut Handover, successors: BTreeSet<u64>, why: &str) -> bool {
        if !handover.may_try(&successors, Instant::now()) {
            return false;
        }
        let nodes = self.catalog.view().nodes().unwrap_or_default();
        let asked = nodes
            .into_iter()
            .filter(|(_, record)| successors.contains(&record.node_id));
        let asked = asked.map(|(name, record)| async move {
            let account = self.ask_node(&name).await;
            let is_well = account.is_ok_and(|account| account.failure.is_none());
            is_well.then_some(record.node_id)
        });
        let alive: BTreeSet<u64> = futures::future::join_all(asked).await.into_iter().flatten().collect();
        if !handover.may_try(&alive, Instant::now()) {
            return false;
        }
        tracing::info!(why, to = ?alive, "the lead is handed over");
        if self.catalog.step_aside().await {
            return true;
        }
        tracing::warn!(why, to = ?alive, "none of them has taken the lead: it is tried again later");
        handover.failed(alive, Instant::now());
        false
    }

    /// Refuses that a voter loses its vote while the others could decide nothing without it. Only the leader answers:
    /// it knows the voters, and asks which of them are there.
    pub(crate) async fn may_leave(&self, node_id: u64) -> Result<(), Failure> {
        if !self.catalog.is_leader() {
            let what = format!("node {} does not lead any more", self.name);
            return Err(Failure::new(ExitCode::Runtime, what)
                .remedy("run the command again")
                .again());
        }
        let nodes = self.catalog.view().nodes()?;
        let behind = self.catalog.status().behind;
        let asked = nodes.iter().map(|(name, record)| async {
            let is_well = match record.node_id {
                id if id == self.mesh.node_id => self.catalog.status().failure.is_none(),
                _ => self.ask_node(name).await.is_ok_and(|account| account.failure.is_none()),
            };
            (is_well && !behind.contains_key(&record.node_id)).then_some(record.node_id)
        });
        let answering: BTreeSet<u64> = futures::future::join_all(asked).await.into_iter().flatten().collect();
        match stranded_without(&self.group(), node_id, &answering) {
            None => Ok(()),
            Some(stranded) => Err(refuse_to_strand(&nodes, node_id, &stranded)),
        }
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
            next_voters: status.next_voters,
        }
    }

    /// Ends the sessions of nodes that have been silent for long enough for their holders to have gone elsewhere.
    async fn end_dead_sessions(&self, heard: &mut Heard) -> Result<(), Failure> {
        let round = self.ask_holders(&mut heard.matched).await;
        let alive = round.as_ref().map(|round| round.alive.as_slice());
        let limit = self.settings.sessions.dead;
        let dead = heard
            .silences
            .observe(self.running.now(), alive.map_err(Clone::clone), limit)?;
        for (session, record) in round?.sessions.iter().filter(|(_, record)| dead.contains(&record.node)) {
            let reason = format!("node {}, which kept it alive, is gone", record.node);
            self.backups.expire(*session, record.lease, &reason).await;
        }
        Ok(())
    }

    /// Asks the nodes that hold sessions whether they are there. `matched` is the last entry that each node had before.
    async fn ask_holders(&self, matched: &mut BTreeMap<u64, Option<u64>>) -> Result<Round, Failure> {
        let view = self.catalog.view_linearizable().await?;
        let sessions = view.sessions()?;
        let holders: BTreeSet<NodeName> = sessions
            .iter()
            .map(|(_, record)| record.node.clone())
            .filter(|name| *name != self.name)
            .collect();
        let before = std::mem::replace(matched, self.catalog.status().matched);
        let advances = |node_id: u64| {
            let of = |matched: &BTreeMap<u64, Option<u64>>| matched.get(&node_id).copied().flatten();
            of(&before).is_some_and(|before| of(matched).is_some_and(|now| now > before))
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
        let alive = futures::future::join_all(asked).await;
        Ok(Round { sessions, alive })
    }
}

/// A round of questions to the nodes that hold sessions.
struct Round {
    sessions: Vec<(SessionId, SessionRecord)>,
    alive: Vec<(NodeName, bool)>,
}

/// The decision, from members that a majority has confirmed. A leader that has just been elected may not have applied
/// all committed entries: it would take a node for removed that its own catalog does not have yet. It looks twice a
/// second, and hardly ever has to act, so it asks the majority only when its own view says so.
async fn decide<T>(
    own: &[Member],
    confirmed: impl Future<Output = Result<Option<Vec<Member>>, Failure>>,
    decision: impl Fn(&[Member]) -> Option<T>,
) -> Result<Option<T>, Failure> {
    if decision(own).is_none() {
        return Ok(None);
    }
    Ok(confirmed.await?.and_then(|members| decision(&members)))
}

fn refuse_to_strand(nodes: &[(NodeName, NodeRecord)], leaver: u64, stranded: &Stranded) -> Failure {
    let name_of = |id: &u64| {
        let found = nodes.iter().find(|(_, record)| record.node_id == *id);
        found.map_or_else(|| format!("number {id}"), |(name, _)| name.to_string())
    };
    let names = |ids: &BTreeSet<u64>| ids.iter().map(name_of).collect::<Vec<_>>();
    let (leaver, silent) = (name_of(&leaver), names(&stranded.silent));
    let (first, listed) = (silent.first().cloned().unwrap_or_default(), silent.join(", "));
    let verb = if silent.len() == 1 { "does" } else { "do" };
    Failure::new(
        ExitCode::CommandInvalid,
        format!("node {leaver} keeps its vote, because {listed} {verb} not answer"),
    )
    .because(format!(
        "without {leaver}, {} would be left to vote, of which {} must answer: nothing could be archived, and no node removed, until \
         {first} comes back, if it does",
        names(&stranded.voters).join(", "),
        stranded.voters.len() / 2 + 1
    ))
    .remedy(format!(
        "start {first} again; or, if it is gone for good, remove it first: 'pgmesh node remove {first}'. 'pgmesh node remove {leaver} \
         --force' goes ahead all the same"
    ))
}

fn members_of(nodes: &[(NodeName, NodeRecord)]) -> Vec<Member> {
    let members = nodes.iter().map(|(_, record)| Member {
        node_id: record.node_id,
        service: record.service,
        vote: record.vote,
    });
    members.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::membership::group::next_step;
    use pgmesh_raft::{NodeService, VotePolicy};

    fn members(ids: &[u64]) -> Vec<Member> {
        let member = |id: &u64| Member {
            node_id: *id,
            service: NodeService::InService,
            vote: VotePolicy::Auto,
        };
        ids.iter().map(member).collect()
    }

    /// Node 3 was admitted and made a learner under the leader before. The new leader has this in its log, and has not
    /// applied it.
    #[tokio::test]
    async fn a_leader_removes_nobody_whom_its_own_catalog_does_not_have_yet() {
        let group = Group {
            voters: BTreeSet::from([1, 2]),
            learners: BTreeSet::from([3]),
            ..Group::default()
        };
        let decision = |members: &[Member]| next_step(members, &group, 5);
        let remove = Some(Step::Remove(BTreeSet::from([3])));
        let (without, with) = (members(&[1, 2]), members(&[1, 2, 3]));
        assert_eq!(decision(&without), remove);
        let decided = decide(&without, async { Ok(Some(with.clone())) }, decision).await;
        assert_eq!(decided.unwrap(), None);
        let decided = decide(&with, async { Ok(Some(without.clone())) }, decision).await;
        assert_eq!(decided.unwrap(), None, "it looks again in half a second");
        let decided = decide(&without, async { Ok(Some(without.clone())) }, decision).await;
        assert_eq!(decided.unwrap(), remove);
        // It leads no more.
        let decided = decide(&without, async { Ok(None) }, decision).await;
        assert_eq!(decided.unwrap(), None);
    }
}
