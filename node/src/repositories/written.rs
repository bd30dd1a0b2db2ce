//! Writing one object to one repository of this node.

use super::slot::{Slot, SlotError};
use pgmesh_raft::limits::GENERATIONS_TRIED;
use pgmesh_raft::{Claim, Replica};
use pgmesh_storage::{Generation, ObjectName, Payload, StoreError};

/// One repository that has the object durably.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The generation, the repository, and the identity of the repository that the bytes went to.
    pub claim: Claim,
    /// Bytes at rest.
    pub stored: u64,
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
            .write(payload.bytes.len() as u64, |repository| {
                let (object, payload) = (object.clone(), payload.clone());
                async move {
                    let stored = repository.put(&object, generation, &payload).await?;
                    Ok((stored, repository.claimed_as().clone()))
                }
            })
            .await;
        match put {
            Ok((stored, identity)) => {
                slot.note_written();
                let repo = slot.key;
                let replica = Replica { repo, generation };
                return Ok(Written {
                    claim: Claim { replica, identity },
                    stored: stored.bytes,
                });
            }
            Err(SlotError::Store {
                source: StoreError::DamagedExists { .. },
                ..
            }) if generation.0 < first.0.saturating_add(GENERATIONS_TRIED) => {
                tracing::warn!(repo = %slot.key, ?object, %generation, "a damaged object stands under this name");
                generation = generation.next();
            }
            Err(error) => return Err(error),
        }
    }
}
