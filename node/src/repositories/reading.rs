//! Reading one object from the best of its replicas, and from the next when that fails or is slow.
//!
//! The best is the one where one more request is expected to be answered first (`health`): so a good repository serves
//! alone while it is idle, and several share a load that one cannot carry. The slow tail is hedged: when the chosen one
//! takes much longer than usual, the next best is asked too, and the first good answer counts. Hedges are rationed, but
//! for a repository that keeps silent as no slow one does. A shared repository is one replica, however many ways lead
//! there: another way is taken when no other repository is left to ask. `read_plan.rs` decides all that.

use super::Repositories;
use super::read_plan::{Askable, ReadPlan, ReadStep};
use super::route::RepositoryRoute;
use super::slot::SlotError;
use super::ways::ViaNode;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pgmesh_raft::{Claim, Replica};
use pgmesh_storage::{ObjectName, Payload, RepoKey};
use std::time::Duration;

/// Where a payload came from, and the bad replicas that were found on the way.
#[derive(Debug, Clone)]
pub struct ReadPayload {
    /// The payload, its tag checked.
    pub payload: Payload,
    /// The repository it was read from.
    pub repo: RepoKey,
    /// Replicas that are damaged or missing, to be reported to the catalog (invariant 6).
    pub bad: Vec<BadReplica>,
}

/// A replica that is not as the catalog says.
#[derive(Debug, Clone)]
pub struct BadReplica {
    /// Which, and in which repository it was found so.
    pub claim: Claim,
    /// It is not there at all.
    pub missing: bool,
    /// A description of the damage.
    pub what: String,
}

/// No replica could be read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no replica can be read: {}", reasons.join("; "))]
pub struct ReadFailure {
    /// Why each one could not.
    pub reasons: Vec<String>,
    /// Replicas that are damaged or missing.
    pub bad: Vec<BadReplica>,
    /// All replicas are damaged or missing: trying again does not help.
    pub hopeless: bool,
}

/// The answer of one replica.
type Answer = (RepoKey, Replica, Result<Payload, SlotError>);

impl Askable for RepositoryRoute {
    fn key(&self) -> RepoKey {
        self.key()
    }

    fn way(&self) -> ViaNode {
        self.host().cloned()
    }

    fn rank(&self) -> (bool, u32, Duration) {
        self.rank()
    }

    fn patience(&self) -> Duration {
        self.watch().hedge_after()
    }
}

impl Repositories {
    /// Reads an object. Replicas not in `avoid` are tried first, then by health and expected time.
    ///
    /// # Errors
    /// When no replica can be read. Damaged and missing replicas are named in either case.
    pub async fn read(
        &self,
        object: &ObjectName,
        replicas: &[Replica],
        avoid: &[RepoKey],
    ) -> Result<ReadPayload, ReadFailure> {
        let mut reasons = Vec::new();
        let mut candidates: Vec<(RepositoryRoute, Replica)> = Vec::new();
        for replica in replicas {
            match self.place(replica.repo) {
                Ok(place) => candidates.push((place, *replica)),
                Err(why) => reasons.push(why),
            }
        }
        let mut plan = ReadPlan::new(candidates, avoid);
        let mut bad = Vec::new();
        let mut asked = FuturesUnordered::new();
        loop {
            let limit = match plan.next() {
                ReadStep::GiveUp => break,
                ReadStep::Ask(place, replica) => {
                    asked.push(ask(place, object, replica));
                    self.hedges.earn();
                    continue;
                }
                ReadStep::Wait(limit) => limit,
            };
            let answer = match limit {
                None => asked.next().await,
                Some(limit) => match tokio::time::timeout(limit, asked.next()).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        plan.elapsed(|| self.hedges.spend(), |tried| self.other_ways(tried, None));
                        continue;
                    }
                },
            };
            match answer {
                None => plan.all_answered(),
                Some((repo, _, Ok(payload))) => return Ok(ReadPayload { payload, repo, bad }),
                Some((_, replica, Err(error))) => {
                    let what = pgmesh_protocol::failure::chain(&error);
                    if let (Some(missing), Some(identity)) = (error.condemns(), error.identity()) {
                        let identity = identity.clone();
                        bad.push(BadReplica {
                            claim: Claim { replica, identity },
                            missing,
                            what: what.clone(),
                        });
                    }
                    reasons.push(what);
                    let is_of_the_way = error.is_of_the_way();
                    let ways = is_of_the_way.then(|| self.other_ways(plan.tried(), Some(replica)));
                    plan.failed(ways.unwrap_or_default());
                }
            }
        }
        if replicas.is_empty() {
            reasons.push("no repository has it".to_owned());
        }
        let hopeless = bad.len() == replicas.len();
        Err(ReadFailure { reasons, bad, hopeless })
    }

    /// A way to each replica in shared repositories, or to `only` one of them, that was not tried.
    fn other_ways(&self, tried: &[(Replica, ViaNode)], only: Option<Replica>) -> Vec<(RepositoryRoute, Replica)> {
        let mut replicas: Vec<Replica> = tried.iter().map(|(replica, _)| *replica).collect();
        replicas.sort_unstable();
        replicas.dedup();
        let wanted = replicas
            .into_iter()
            .filter(|replica| only.is_none_or(|only| only == *replica));
        wanted
            .filter_map(|replica| {
                let ways: Vec<ViaNode> = tried
                    .iter()
                    .filter(|(other, _)| *other == replica)
                    .map(|(_, way)| way.clone())
                    .collect();
                Some((self.another_way(replica.repo, &ways)?, replica))
            })
            .collect()
    }
}

async fn ask(place: RepositoryRoute, object: &ObjectName, replica: Replica) -> Answer {
    let answer = place.get(object, replica.generation).await;
    (place.key(), replica, answer)
}
