//! Reading one object from the best of its replicas, and from the next when that fails or is slow.
//!
//! The best is the one where one more request is expected to be answered first (`health`): so a good repository serves
//! alone while it is idle, and several share a load that one cannot carry. The slow tail is hedged: when the chosen one
//! takes much longer than usual, the next best is asked too, and the first good answer counts. Hedges are rationed, but for
//! a repository that keeps silent as no slow one does.

use super::Repositories;
use super::place::Place;
use super::slot::SlotError;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pgmesh_raft::Replica;
use pgmesh_storage::{ObjectName, Payload, RepoKey};
use std::time::Duration;

/// Where a payload came from, and what was found wrong on the way there.
#[derive(Debug, Clone)]
pub struct Source {
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
    /// Which.
    pub replica: Replica,
    /// It is not there at all.
    pub missing: bool,
    /// What was found.
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

/// What one replica answered.
type Answer = (RepoKey, Replica, Result<Payload, SlotError>);

/// A replica that is silent for this long is overtaken whatever the ration says.
const OVERTAKE_ALWAYS: Duration = Duration::from_millis(500);

impl Repositories {
    /// Reads an object. Replicas not in `avoid` are tried first, then by health and expected time.
    ///
    /// # Errors
    /// When none can be read; what is damaged or missing is told in either case.
    pub async fn read(
        &self,
        object: &ObjectName,
        replicas: &[Replica],
        avoid: &[RepoKey],
    ) -> Result<Source, ReadFailure> {
        let mut reasons = Vec::new();
        let mut candidates: Vec<(Place, Replica)> = Vec::new();
        for replica in replicas {
            match self.place(replica.repo) {
                Ok(place) => candidates.push((place, *replica)),
                Err(why) => reasons.push(why),
            }
        }
        // The best last, where it can be taken from.
        candidates.sort_by_key(|(place, _)| std::cmp::Reverse((avoid.contains(&place.key()), place.rank())));
        let mut bad = Vec::new();
        let mut asked = FuturesUnordered::new();
        loop {
            let Some((place, replica)) = candidates.pop() else {
                break;
            };
            let patience = place.watch().hedge_after();
            asked.push(ask(place, object, replica));
            self.hedges.earn();
            // Waits for answers until one is good, or until the next replica is to be asked.
            // What the asker does not want is asked when nothing else is left, not to be faster.
            let mut is_last = candidates.last().is_none_or(|(next, _)| avoid.contains(&next.key()));
            loop {
                let answer = if is_last {
                    asked.next().await
                } else {
                    match tokio::time::timeout(patience, asked.next()).await {
                        Ok(answer) => answer,
                        Err(_) if self.hedges.spend() => break,
                        Err(_) => match tokio::time::timeout(OVERTAKE_ALWAYS, asked.next()).await {
                            Ok(answer) => answer,
                            Err(_) => break,
                        },
                    }
                };
                match answer {
                    None => break,
                    Some((repo, _, Ok(payload))) => return Ok(Source { payload, repo, bad }),
                    Some((_, replica, Err(error))) => {
                        let what = crate::failure::chain(&error);
                        if let Some(missing) = error.condemns() {
                            bad.push(BadReplica {
                                replica,
                                missing,
                                what: what.clone(),
                            });
                        }
                        reasons.push(what);
                        if !candidates.is_empty() {
                            break;
                        }
                        is_last = true;
                    }
                }
            }
        }
        if replicas.is_empty() {
            reasons.push("no repository has it".to_owned());
        }
        let hopeless = bad.len() == replicas.len();
        Err(ReadFailure { reasons, bad, hopeless })
    }
}

async fn ask(place: Place, object: &ObjectName, replica: Replica) -> Answer {
    let answer = place.get(object, replica.generation).await;
    (place.key(), replica, answer)
}
