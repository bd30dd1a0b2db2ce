//! Reading one object from the best of its replicas, and from the next when that fails.

use super::Repositories;
use super::slot::SlotError;
use pgmesh_raft::Replica;
use pgmesh_storage::{ObjectName, Payload, RepoKey, StoreError};

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

impl Repositories {
    /// Reads an object. Replicas are tried one after the other: those not in `avoid` first, then by health and latency.
    ///
    /// # Errors
    /// When none can be read; what is damaged or missing is told in either case.
    pub async fn read(
        &self,
        object: &ObjectName,
        replicas: &[Replica],
        avoid: &[RepoKey],
    ) -> Result<Source, ReadFailure> {
        let mut ranked: Vec<_> = replicas
            .iter()
            .filter_map(|replica| self.slot(replica.repo).map(|slot| (slot, *replica)))
            .collect();
        ranked.sort_by_key(|(slot, _)| (avoid.contains(&slot.key), slot.rank()));
        let mut bad = Vec::new();
        let mut reasons: Vec<String> = replicas
            .iter()
            .filter(|replica| self.slot(replica.repo).is_none())
            .map(|replica| format!("repo{} is not declared on this node", replica.repo))
            .collect();
        for (slot, replica) in ranked {
            let read = slot
                .request(|repository| {
                    let object = object.clone();
                    async move { repository.get(&object, replica.generation).await }
                })
                .await;
            match read {
                Ok(payload) => {
                    return Ok(Source {
                        payload,
                        repo: slot.key,
                        bad,
                    });
                }
                Err(error) => {
                    let what = crate::failure::chain(&error);
                    if let Some(missing) = condemns(&error) {
                        bad.push(BadReplica {
                            replica,
                            missing,
                            what: what.clone(),
                        });
                    }
                    reasons.push(what);
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

/// Whether an error says that the replica itself is bad: `Some(true)` when it is missing, `Some(false)` when damaged.
/// A repository that cannot be reached says nothing about its objects.
pub(crate) fn condemns(error: &SlotError) -> Option<bool> {
    match error {
        SlotError::Store {
            source: StoreError::NotFound { .. },
            ..
        } => Some(true),
        SlotError::Store {
            source: StoreError::Damaged { .. },
            ..
        } => Some(false),
        SlotError::Store { .. } | SlotError::NotOpen { .. } | SlotError::Silent { .. } => None,
    }
}
