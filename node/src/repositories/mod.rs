//! The mesh's repositories as this node reaches them: opening its own, writing to all at once, reading from the best.

mod fanout;
mod hedges;
mod opening;
mod place;
mod reading;
mod remote;
mod slot;
mod watch;

pub(crate) use fanout::{WriteOutcome, write_one};
pub(crate) use place::Place;
pub(crate) use reading::{BadReplica, Source};
pub(crate) use slot::{Slot, SlotError};

use crate::links::Links;
use crate::settings::NodeSettings;
use hedges::Hedges;
use pgmesh_raft::{Catalog, NodeName};
use pgmesh_storage::RepoKey;
use remote::RemoteSlot;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// All repositories of the mesh. Those that this node's file declares are its own, and fixed while it runs; each opens when
/// it can. The others are found in the catalog.
#[derive(Clone)]
pub struct Repositories {
    slots: Arc<BTreeMap<RepoKey, Arc<Slot>>>,
    remote: Arc<Mutex<BTreeMap<RepoKey, Arc<RemoteSlot>>>>,
    hedges: Arc<Hedges>,
    catalog: Catalog,
    me: NodeName,
    links: Arc<Links>,
    io_timeout: Duration,
}

impl Repositories {
    /// One closed slot for each declared repository; [`crate::Node::keep_opening`] opens them.
    pub fn declared(settings: &NodeSettings, me: NodeName, catalog: Catalog, links: Arc<Links>) -> Self {
        let slots = settings
            .repositories
            .iter()
            .map(|(key, repository)| (*key, Arc::new(Slot::new(*key, repository.clone(), settings.io_timeout))))
            .collect();
        Self {
            slots: Arc::new(slots),
            remote: Arc::default(),
            hedges: Arc::default(),
            catalog,
            me,
            links,
            io_timeout: settings.io_timeout,
        }
    }

    /// The slot of a repository, if this node declares it.
    pub fn slot(&self, key: RepoKey) -> Option<&Arc<Slot>> {
        self.slots.get(&key)
    }

    /// This node's own slots by number.
    pub fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.slots.values()
    }

    /// The numbers of this node's own repositories.
    pub fn keys(&self) -> Vec<RepoKey> {
        self.slots.keys().copied().collect()
    }

    /// Where a repository is reached.
    ///
    /// # Errors
    /// In words: nobody who is known hosts it.
    pub fn place(&self, key: RepoKey) -> Result<Place, String> {
        let view = self.catalog.view();
        let host = match view.repository(key) {
            Ok(record) => record.and_then(|record| record.host),
            Err(error) => return Err(crate::failure::chain(&error)),
        };
        if let Some(host) = host.as_ref().filter(|host| **host != self.me)
            && let Ok(Some(record)) = view.node(host)
            && !record.is_member()
        {
            return Err(format!("node {host}, which hosts repo{key}, was removed from the mesh"));
        }
        match (self.slots.get(&key), host) {
            // The catalog says who hosts it: a file that still declares what another node has taken over is not right.
            (Some(slot), None) => Ok(Place::Here(slot.clone())),
            (Some(slot), Some(host)) if host == self.me => Ok(Place::Here(slot.clone())),
            (None, Some(host)) if host == self.me => Err(format!(
                "node {host} hosts repo{key}, but its file does not declare it any more"
            )),
            (_, Some(host)) => Ok(Place::There(self.remote(key, host))),
            (None, None) => Err(format!("repo{key} is not declared on this node")),
        }
    }

    /// Forgets what was held against the repositories of a node: it has been started anew.
    pub fn forgive(&self, host: &NodeName) {
        let remote = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in remote.values().filter(|slot| slot.host == *host) {
            slot.watch.forgive();
        }
    }

    fn remote(&self, key: RepoKey, host: NodeName) -> Arc<RemoteSlot> {
        let mut remote = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = remote.get(&key)
            && known.host == host
        {
            return known.clone();
        }
        let slot = Arc::new(RemoteSlot::new(key, host, self.links.clone(), self.io_timeout));
        remote.insert(key, slot.clone());
        slot
    }
}
