//! Writing one object to several repositories at once.
//!
//! The payload is compressed once, on the PG host; each repository encrypts it under its own key. The caller gets an
//! answer as soon as enough repositories have it durably; the others go on, and what they come to is told by [`Late`].

use super::Repositories;
use super::slot::{Slot, SlotError};
use crate::budget::Held;
use crate::{Failure, code};
use pgmesh_raft::Replica;
use pgmesh_storage::{Generation, ObjectName, Payload, RepoKey, StoreError};
use std::sync::Arc;
use tokio::task::JoinSet;

/// How many damaged objects in a row under one name are passed over before a repository is given up.
const GENERATIONS_TRIED: u32 = 8;

/// One repository that has the object durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Where and under which generation.
    pub replica: Replica,
    /// Bytes at rest.
    pub stored: u64,
}

/// What has become of a write when it may be acknowledged.
pub struct WriteOutcome {
    /// Repositories that have it; at least as many as were asked for.
    pub durable: Vec<Written>,
    /// Repositories that do not have it yet.
    pub owed: Vec<RepoKey>,
    /// Those of `owed` that are still at it.
    pub late: Late,
}

impl WriteOutcome {
    /// The repositories that have it, by number.
    pub fn durable_numbers(&self) -> Vec<u16> {
        self.durable.iter().map(|written| written.replica.repo.get()).collect()
    }

    /// The repositories that do not have it yet, by number.
    pub fn owed_numbers(&self) -> Vec<u16> {
        self.owed.iter().map(|key| key.get()).collect()
    }
}

/// Writes still under way after the acknowledgement. Dropping it lets them run to their end unobserved.
pub struct Late {
    tasks: JoinSet<(RepoKey, Result<Written, SlotError>)>,
}

impl Late {
    /// The next one that is done; failures are left to the debts.
    pub async fn next(&mut self) -> Option<Written> {
        while let Some(joined) = self.tasks.join_next().await {
            match joined {
                Ok((_, Ok(written))) => return Some(written),
                Ok((repo, Err(error))) => {
                    tracing::warn!(%repo, error = %crate::failure::chain(&error), "a write was not finished; it is owed");
                }
                Err(error) => tracing::error!(%error, "a write ended abnormally; it is owed"),
            }
        }
        None
    }

    /// Takes what is under way, leaving nothing.
    pub fn take(&mut self) -> Self {
        Self {
            tasks: std::mem::take(&mut self.tasks),
        }
    }

    /// Nothing under way.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

impl Repositories {
    /// Writes to all of `targets` and returns when `ack` of them have it durably (invariant 1).
    ///
    /// Repositories that are put aside get no request, unless `ack` cannot be reached without them. `held` is the part of
    /// the memory budget that the payload takes; it is given back when the last write is done.
    ///
    /// # Errors
    /// [`code::ARCHIVE_TIMEOUT`] when fewer than `ack` succeed: nothing may be acknowledged. What was written stays, and
    /// is found again by the next try.
    pub async fn write(
        &self,
        object: &ObjectName,
        payload: &Payload,
        targets: &[(RepoKey, Generation)],
        ack: usize,
        held: Option<Arc<Held>>,
    ) -> Result<WriteOutcome, Failure> {
        let mut tasks = JoinSet::new();
        let mut aside = Vec::new();
        let mut reasons = Vec::new();
        for (key, generation) in targets {
            match self.slot(*key) {
                None => reasons.push(format!("repo{key} is not declared on this node")),
                Some(slot) if slot.admits() => {
                    spawn_write(&mut tasks, slot.clone(), object, *generation, payload, held.clone());
                }
                Some(slot) => aside.push((slot.clone(), *generation)),
            }
        }
        if tasks.len() < ack {
            for (slot, generation) in aside.drain(..) {
                spawn_write(&mut tasks, slot, object, generation, payload, held.clone());
            }
        }
        let mut durable: Vec<Written> = Vec::new();
        while durable.len() < ack {
            match tasks.join_next().await {
                Some(Ok((_, Ok(written)))) => durable.push(written),
                Some(Ok((_, Err(error)))) => reasons.push(crate::failure::chain(&error)),
                Some(Err(error)) => reasons.push(format!("a write ended abnormally: {error}")),
                None => return Err(too_few(object, ack, durable.len(), &reasons)),
            }
        }
        // What is finished already costs no later catalog entry.
        while let Some(joined) = tasks.try_join_next() {
            if let Ok((_, Ok(written))) = joined {
                durable.push(written);
            }
        }
        let has = |key: &RepoKey| durable.iter().any(|written| written.replica.repo == *key);
        let owed = targets.iter().map(|(key, _)| *key).filter(|key| !has(key)).collect();
        Ok(WriteOutcome {
            durable,
            owed,
            late: Late { tasks },
        })
    }
}

fn spawn_write(
    tasks: &mut JoinSet<(RepoKey, Result<Written, SlotError>)>,
    slot: Arc<Slot>,
    object: &ObjectName,
    generation: Generation,
    payload: &Payload,
    held: Option<Arc<Held>>,
) {
    let (object, payload) = (object.clone(), payload.clone());
    tasks.spawn(async move {
        let result = write_one(&slot, &object, generation, &payload).await;
        drop((payload, held));
        (slot.key, result)
    });
}

/// Writes to one repository. An object of that name that is already there and damaged is passed over: the next
/// generation is written beside it (invariant 2).
pub(crate) async fn write_one(
    slot: &Slot,
    object: &ObjectName,
    first: Generation,
    payload: &Payload,
) -> Result<Written, SlotError> {
    let mut generation = first;
    loop {
        let put = slot
            .request(|repository| {
                let (object, payload) = (object.clone(), payload.clone());
                async move { repository.put(&object, generation, &payload).await }
            })
            .await;
        match put {
            Ok(stored) => {
                return Ok(Written {
                    replica: Replica {
                        repo: slot.key,
                        generation,
                    },
                    stored: stored.bytes,
                });
            }
            Err(SlotError::Store {
                source: StoreError::DamagedExists { .. },
                ..
            }) if generation.0 < first.0 + GENERATIONS_TRIED => {
                tracing::warn!(repo = %slot.key, ?object, %generation, "a damaged object stands under this name");
                generation = generation.next();
            }
            Err(error) => return Err(error),
        }
    }
}

fn too_few(object: &ObjectName, ack: usize, have: usize, reasons: &[String]) -> Failure {
    let what = match object {
        ObjectName::Segment { file, .. } => format!("WAL file {file}"),
        ObjectName::Chunk(_) => "a chunk of the backup".to_owned(),
        ObjectName::Manifest { label, .. } => format!("the manifest of backup {label}"),
        ObjectName::StanzaInfo { stanza, .. } => format!("the description of stanza {stanza}"),
    };
    Failure::new(
        code::ARCHIVE_TIMEOUT,
        format!("{what} is durable in {have} of the {ack} repositories that must have it before it is acknowledged"),
    )
    .because(reasons.join("; "))
    .remedy("bring the repository back, or lower archive-ack (WAL) or backup-ack (backups); PostgreSQL keeps the WAL until then")
    .again()
}
