//! A repository as this node reaches it: by itself, or through another node.

use super::remote::{RemoteSlot, write_there};
use super::slot::{Slot, SlotError};
use super::watch::Watch;
use super::write_ends::Ends;
use super::written::{Written, write_one};
use pgmesh_raft::{Lead, NodeName};
use pgmesh_storage::{Generation, ObjectName, Payload, RepoKey};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// One repository.
#[derive(Clone)]
pub(crate) enum RepositoryRoute {
    /// This node's own file declares it.
    Here(Arc<Slot>),
    /// Another node hosts it, or has a way there.
    There(Arc<RemoteSlot>),
}

impl RepositoryRoute {
    pub fn key(&self) -> RepoKey {
        match self {
            Self::Here(slot) => slot.key,
            Self::There(slot) => slot.key,
        }
    }

    /// The node through which it is reached; none for this one.
    pub fn host(&self) -> Option<&NodeName> {
        match self {
            Self::Here(_) => None,
            Self::There(slot) => Some(&slot.host),
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

    /// Whether a write there that is not answered can be given up: a thread that writes to a disk cannot be called
    /// back, nor the memory that it holds.
    pub fn can_be_silent(&self) -> bool {
        match self {
            Self::Here(slot) => slot.settings.is_shared(),
            Self::There(_) => true,
        }
    }

    /// Where it stands among replicas; lower is better.
    pub fn rank(&self) -> (bool, u32, Duration) {
        let (aside, failures, expected) = self.watch().rank();
        (aside || !self.admits(), failures, expected)
    }

    /// Reads an object. The node that hosts the repository has checked its tag, and not its digest.
    pub async fn get(&self, object: &ObjectName, generation: Generation) -> Result<Payload, SlotError> {
        match self {
            Self::Here(slot) => {
                let object = object.clone();
                slot.read(|repository| async move { repository.get(&object, generation).await })
                    .await
            }
            Self::There(slot) => slot.get(object, Some(generation), false).await,
        }
    }

    /// Reads an object. The node that hosts the repository has checked its digest, too.
    pub async fn get_checked(&self, object: &ObjectName, generation: Generation) -> Result<Payload, SlotError> {
        match self {
            Self::Here(slot) => {
                let object = object.clone();
                slot.read(|repository| async move { repository.get_checked(&object, generation).await })
                    .await
                    .map(|checked| checked.payload)
            }
            Self::There(slot) => slot.get(object, Some(generation), true).await,
        }
    }

    /// Reads an object under any generation whose object is good.
    pub async fn get_any_generation(&self, object: &ObjectName) -> Result<Payload, SlotError> {
        match self {
            Self::Here(slot) => {
                let object = object.clone();
                slot.read(|repository| async move { repository.get_any_generation(&object).await })
                    .await
                    .map(|(_, checked)| checked.payload)
            }
            Self::There(slot) => slot.get(object, None, true).await,
        }
    }

    /// Writes an object, under the first generation from this one on whose name is free of damage.
    pub async fn put(
        &self,
        object: &ObjectName,
        generation: Generation,
        payload: &Payload,
    ) -> Result<Written, SlotError> {
        let slot = match self {
            Self::Here(slot) => return write_one(slot, object, generation, payload).await,
            Self::There(slot) => slot,
        };
        let (sender, mut ends) = mpsc::unbounded_channel();
        write_there(
            vec![(slot.clone(), generation)],
            object.clone(),
            payload.clone(),
            Ends::new(sender, [slot.key]),
        )
        .await;
        match ends.recv().await {
            Some((_, end)) => end,
            None => Err(SlotError::Away {
                repo: slot.key,
                why: format!("node {} did not say what became of it", slot.host),
            }),
        }
    }

    /// Deletes an object; an object that is not there counts as deleted. Only the leader may.
    pub async fn delete(&self, lead: &Lead, object: &ObjectName, generation: Generation) -> Result<(), SlotError> {
        match self {
            Self::Here(slot) => {
                let object = object.clone();
                slot.request(|repository| async move { repository.delete(&object, generation).await })
                    .await
            }
            Self::There(slot) => slot.delete(lead, object, generation).await,
        }
    }
}
