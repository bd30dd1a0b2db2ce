//! Names at rest: which generation an object is uploaded under (invariants 2 and 5).
//!
//! A name (object, repository, generation) that the collector may have deleted is never assigned again: a DELETE that
//! is late would hit the new object. While the catalog remembers such a name, as a replica of a condemned chunk, as
//! garbage or as a mark of an object that its repository keeps, the name is *taken*. When the catalog forgets it, the
//! *floor* rises above its generation. A name is assigned above the taken ones and not below the floor.
//!
//! ```text
//! assigned ── uploaded ── claimed (a replica) ── withdrawn (taken) ── deleted ── forgotten (below the floor)
//! ```
//!
//! A claim is judged by the taken names alone: the floor may have risen since the name was assigned, for another
//! object. This is right because a name that was taken after it was assigned is not forgotten before its claim can come
//! ([`assigned_before`] and decision 18).

use pgmesh_storage::{Digest, Generation};

use super::{Base, Outcome, Step};
use crate::error::ReadError;
use crate::key;
use crate::model::{LogIndex, ObjectRef, Replica};
use crate::refusal::{Refusal, StaleGeneration};
use crate::table::Table;

/// The lowest generation that names are assigned with.
pub(crate) fn floor<B: Base>(base: &B) -> Result<Generation, ReadError> {
    Ok(base.record(Table::Mesh, key::FLOOR)?.unwrap_or_default())
}

/// The generation to upload an object under: above all of `held` and all that is taken, and not below the floor. The
/// name is free in every repository.
pub(crate) fn free_generation<B: Base>(
    base: &B,
    object: &ObjectRef,
    held: &[Replica],
) -> Result<Generation, ReadError> {
    let held = held.iter().map(|replica| replica.generation.next()).max();
    let lowest = lowest_claim(base, object)?.max(floor(base)?);
    Ok(lowest.max(held.unwrap_or_default()))
}

/// The lowest generation above the object's garbage, kept or not: a claim must have it or a higher one, whenever its
/// name was assigned.
pub(super) fn lowest_claim<B: Base>(base: &B, object: &ObjectRef) -> Result<Generation, ReadError> {
    let mut lowest = Generation::FIRST;
    let prefix = key::object(object);
    for table in [Table::Garbage, Table::Kept] {
        for row in base.scan(table, &prefix, &prefix) {
            let (key, _) = row?;
            let garbage = key::read_garbage(&key).ok_or_else(|| ReadError::MalformedKey {
                table,
                key: hex::encode(&key),
            })?;
            lowest = lowest.max(garbage.generation.next());
        }
    }
    Ok(lowest)
}

/// Invariant 5: if a replica of `given` has a name that may be deleted any moment, returns the generation that must be
/// used instead.
pub(super) fn stale<B: Base>(
    step: &Step<'_, '_, B>,
    object: &ObjectRef,
    digest: Digest,
    given: &[Replica],
) -> Result<Option<StaleGeneration>, ReadError> {
    let lowest = lowest_claim(step.txn, object)?;
    if given.iter().all(|replica| replica.generation >= lowest) {
        return Ok(None);
    }
    let generation = free_generation(step.txn, object, &[])?;
    Ok(Some(StaleGeneration { digest, generation }))
}

/// A name of this generation is forgotten: no name of its generation, or of a lower one, is assigned from now on.
pub(super) fn retire_name<B: Base>(step: &mut Step<'_, '_, B>, generation: Generation) -> Result<(), ReadError> {
    raise_floor(step, generation.next()).map(drop)
}

/// Raises the floor; says whether it was lower.
pub(super) fn raise_floor<B: Base>(step: &mut Step<'_, '_, B>, to: Generation) -> Result<bool, ReadError> {
    if floor(step.txn)? >= to {
        return Ok(false);
    }
    step.txn.put(Table::Mesh, key::FLOOR.to_vec(), &to);
    step.txn.put(Table::Mesh, key::FLOOR_RAISED.to_vec(), &step.index);
    Ok(true)
}

/// For a claim that neither a session nor a known object pins: refused where a name that was assigned at `checked_at`
/// may have been used and forgotten since.
pub(super) fn assigned_before<B: Base>(step: &Step<'_, '_, B>, given: &[Replica], checked_at: LogIndex) -> Outcome<()> {
    let raised: LogIndex = step.txn.record(Table::Mesh, key::FLOOR_RAISED)?.unwrap_or_default();
    let floor = floor(step.txn)?;
    if raised > checked_at && given.iter().any(|replica| replica.generation < floor) {
        return Err(Refusal::Recheck { since: raised }.into());
    }
    Ok(())
}
