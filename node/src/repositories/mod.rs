//! The repositories that this node serves: opening them, writing to all at once, reading from the best one.

mod fanout;
mod opening;
mod reading;
mod slot;

pub(crate) use fanout::{WriteOutcome, write_one};
pub(crate) use reading::{BadReplica, Source, condemns};
pub(crate) use slot::{Slot, SlotError};

use crate::settings::NodeSettings;
use pgmesh_storage::RepoKey;
use std::collections::BTreeMap;
use std::sync::Arc;

/// All repositories declared in this node's file. The set is fixed while the node runs; each slot opens when it can.
#[derive(Clone)]
pub struct Repositories {
    slots: Arc<BTreeMap<RepoKey, Arc<Slot>>>,
}

impl Repositories {
    /// One closed slot for each declared repository; [`Self::open_all`] opens them.
    pub fn declared(settings: &NodeSettings) -> Self {
        let slots = settings
            .repositories
            .iter()
            .map(|(key, repository)| (*key, Arc::new(Slot::new(*key, repository.clone(), settings.io_timeout))))
            .collect();
        Self { slots: Arc::new(slots) }
    }

    /// The slot of a repository, if this node declares it.
    pub fn slot(&self, key: RepoKey) -> Option<&Arc<Slot>> {
        self.slots.get(&key)
    }

    /// All slots by number.
    pub fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.slots.values()
    }

    /// The numbers of all declared repositories.
    pub fn keys(&self) -> Vec<RepoKey> {
        self.slots.keys().copied().collect()
    }
}
