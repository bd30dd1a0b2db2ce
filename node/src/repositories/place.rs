//! A repository as this node reaches it: hosted here, or by another node.

use super::remote::RemoteSlot;
use super::slot::{Slot, SlotError};
use super::watch::Watch;
use pgmesh_storage::{Generation, ObjectName, Payload, RepoKey};
use std::sync::Arc;
use std::time::Duration;

/// One repository.
#[derive(Clone)]
pub(crate) enum Place {
    /// This node's own file declares it.
    Here(Arc<Slot>),
    /// Another node hosts it.
    There(Arc<RemoteSlot>),
}

impl Place {
    pub fn key(&self) -> RepoKey {
        match self {
            Self::Here(slot) => slot.key,
            Self::There(slot) => slot.key,
        }
    }

    pub fn watch(&self) -> &Arc<Watch> {
        match self {
            Self::Here(slot) => &slot.watch,
            Self::There(slot) => &slot.watch,
        }
    }

    /// Whether requests should be sent there now.
    pub fn admits(&self) -> bool {
        match self {
            Self::Here(slot) => slot.admits(),
            Self::There(slot) => slot.watch.admits(),
        }
    }

    /// Whether a write of so many bytes should be sent there now.
    pub fn admits_write(&self, bytes: u64) -> bool {
        self.admits() && self.watch().admits_write(bytes)
    }

    /// Where it stands among replicas; lower is better.
    pub fn rank(&self) -> (bool, u32, Duration) {
        let (aside, failures, expected) = self.watch().rank();
        (aside || !self.admits(), failures, expected)
    }

    /// Reads an object; its tag has been checked by whoever hosts it, its digest has not.
    pub async fn get(&self, object: &ObjectName, generation: Generation) -> Result<Payload, SlotError> {
        match self {
            Self::Here(slot) => {
                let object = object.clone();
                slot.read(|repository| async move { repository.get(&object, generation).await })
                    .await
            }
            Self::There(slot) => slot.get(object, Some(generation)).await,
        }
    }

    /// Reads an object under whichever generation is good.
    pub async fn get_any_generation(&self, object: &ObjectName) -> Result<Payload, SlotError> {
        match self {
            Self::Here(slot) => {
                let object = object.clone();
                slot.read(|repository| async move { repository.get_any_generation(&object).await })
                    .await
                    .map(|(_, checked)| checked.payload)
            }
            Self::There(slot) => slot.get(object, None).await,
        }
    }

    /// Deletes an object; one that is not there is deleted.
    pub async fn delete(&self, object: &ObjectName, generation: Generation) -> Result<(), SlotError> {
        match self {
            Self::Here(slot) => {
                let object = object.clone();
                slot.request(|repository| async move { repository.delete(&object, generation).await })
                    .await
            }
            Self::There(slot) => slot.delete(object, generation).await,
        }
    }
}
