//! The mesh's repositories as this node reaches them: opening its own, writing to all at once, reading from the best.

mod fanout;
mod hedges;
mod keeping_open;
mod marking;
mod marks;
mod opening;
mod parts;
mod read_plan;
mod reading;
mod remote;
mod route;
mod slot;
mod watch;
mod ways;
mod write_ends;
mod write_plan;
mod written;

pub(crate) use fanout::WriteOutcome;
pub(crate) use marking::Ahead;
pub(crate) use marks::{Walk, next_mark};
pub(crate) use opening::There;
pub(crate) use parts::{FileWrite, FileWritten, PartToWrite};
pub(crate) use reading::{BadReplica, ReadPayload};
pub(crate) use route::RepositoryRoute;
pub(crate) use slot::{OpenRepository, Opened, Slot, SlotError};
pub(crate) use ways::ViaNode;
pub(crate) use written::{Written, write_one};

use crate::links::Links;
use crate::settings::NodeSettings;
use crate::supervisor::Supervisor;
use futures::future::join_all;
use hedges::Hedges;
use pgmesh_raft::{Catalog, NodeName};
use pgmesh_storage::{Generation, ObjectName, RepoKey};
use remote::RemoteSlot;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A repository by way of a node.
type RemoteSlots = BTreeMap<(RepoKey, NodeName), Arc<RemoteSlot>>;

/// All repositories of the mesh. The repositories that this node's file declares are its own, and fixed while it runs;
/// each opens when it can. Other repositories are found in the catalog.
#[derive(Clone)]
pub struct Repositories {
    slots: Arc<BTreeMap<RepoKey, Arc<Slot>>>,
    remote: Arc<Mutex<RemoteSlots>>,
    hedges: Arc<Hedges>,
    catalog: Catalog,
    me: NodeName,
    links: Arc<Links>,
    io_timeout: Duration,
    passed: Passed,
}

/// Files with a damaged part in a repository, and the generation above the damaged part's.
type Passed = Arc<Mutex<BTreeMap<(ObjectName, RepoKey), Generation>>>;

impl Repositories {
    /// One closed slot for each declared repository; [`crate::core::Core::keep_opening`] opens them.
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
            passed: Passed::default(),
        }
    }

    /// The slot of a repository, if this node declares it.
    pub fn slot(&self, key: RepoKey) -> Option<&Arc<Slot>> {
        self.slots.get(&key)
    }

    /// This node's slot of a repository, if the repository of this identity is open there.
    pub fn serving(&self, key: RepoKey, uuid: &str) -> Option<&Arc<Slot>> {
        self.slots.get(&key).filter(|slot| slot.has_open(uuid))
    }

    /// This node's own slots by number.
    pub fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.slots.values()
    }

    /// The worker `name` works on each of this node's slots at the same time, for ever. The panic of the work on one
    /// slot stops that on no other.
    pub(crate) async fn keep_with_each<'a, Work: Future<Output = ()>>(
        &'a self,
        supervisor: &Supervisor,
        name: &'static str,
        work: impl Fn(&'a Slot) -> Work,
    ) {
        let work = &work;
        let keep = |slot: &'a Arc<Slot>| async move {
            let of = format!("repo{}", slot.key);
            supervisor.keep(name, &of, || work(slot)).await;
        };
        join_all(self.slots.values().map(keep)).await;
        // A node without repositories has nothing to do here.
        std::future::pending::<()>().await;
    }

    /// The numbers of this node's own repositories.
    pub fn keys(&self) -> Vec<RepoKey> {
        self.slots.keys().copied().collect()
    }

    /// Forgets past failures of the repositories of a node that has been started anew.
    pub fn forgive(&self, host: &NodeName) {
        let remote = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in remote.values().filter(|slot| slot.host == *host) {
            slot.watch.forgive();
        }
    }

    fn remote(&self, key: RepoKey, host: NodeName, uuid: &str) -> Arc<RemoteSlot> {
        let mut remote = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        let way = (key, host.clone());
        if let Some(known) = remote.get(&way).filter(|known| known.uuid == uuid) {
            return known.clone();
        }
        let links = self.links.clone();
        let slot = Arc::new(RemoteSlot::new(key, host, uuid.to_owned(), links, self.io_timeout));
        remote.insert(way, slot.clone());
        slot
    }
}
