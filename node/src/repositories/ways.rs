//! Which way leads to a repository.
//!
//! One on a directory has one way: through the node that hosts it. A shared one has as many as nodes reach it, this one
//! among them where its own file declares it: that way is taken while it is well, else the best of the others by their
//! health. Which nodes reach it is in the catalog; how they do, each node finds out by its own requests.

use super::Repositories;
use super::remote::RemoteSlot;
use super::route::RepositoryRoute;
use super::slot::{Opened, Slot};
use pgmesh_protocol::failure::chain;
use pgmesh_raft::{NodeName, NodeService, RepositoryRecord, View};
use pgmesh_storage::RepoKey;
use std::sync::Arc;

/// By which node: none is this one.
pub(crate) type ViaNode = Option<NodeName>;

impl Repositories {
    /// Where a repository is reached.
    ///
    /// # Errors
    /// In words: no known node hosts or reaches it.
    pub fn place(&self, key: RepoKey) -> Result<RepositoryRoute, String> {
        let view = self.catalog.view();
        match view.repository(key) {
            Ok(Some(record)) if record.host.is_none() => self.shared_place(&view, key, &record),
            Ok(record) => self.hosted_place(&view, key, record),
            Err(error) => Err(chain(&error)),
        }
    }

    fn hosted_place(
        &self,
        view: &View,
        key: RepoKey,
        record: Option<RepositoryRecord>,
    ) -> Result<RepositoryRoute, String> {
        let (host, uuid) = record.map_or((None, String::new()), |record| (record.host, record.uuid));
        if let Some(host) = host.as_ref().filter(|host| **host != self.me)
            && let Ok(Some(record)) = view.node(host)
            && !record.is_member()
        {
            return Err(format!("node {host}, which hosts repo{key}, was removed from the mesh"));
        }
        let is_another = |slot: &Slot| {
            let open = slot.repository();
            open.is_some_and(|open| !uuid.is_empty() && open.identity().uuid != uuid)
        };
        if let (Some(slot), Some(host)) = (self.slot(key), &host)
            && *host == self.me
            && is_another(slot)
        {
            return Err(format!(
                "what node {host} has open is not the mesh's repo{key} any more"
            ));
        }
        match (self.slot(key), host) {
            // The catalog says which node hosts it. If another node has taken it over, this node's file is out of date.
            (Some(slot), None) => Ok(RepositoryRoute::Here(slot.clone())),
            (Some(slot), Some(host)) if host == self.me => Ok(RepositoryRoute::Here(slot.clone())),
            (None, Some(host)) if host == self.me => Err(format!(
                "node {host} hosts repo{key}, but its file does not declare it any more"
            )),
            (_, Some(host)) => Ok(RepositoryRoute::There(self.remote(key, host, &uuid))),
            (None, None) => Err(format!("repo{key} is not declared on this node")),
        }
    }

    fn shared_place(&self, view: &View, key: RepoKey, record: &RepositoryRecord) -> Result<RepositoryRoute, String> {
        let own = self.slot(key).filter(|slot| slot.is_defined_by(record));
        let here = own.filter(|slot| slot.has_open(&record.uuid));
        if let Some(slot) = here.filter(|slot| slot.admits()) {
            return Ok(RepositoryRoute::Here(slot.clone()));
        }
        let there = self.ways_there(view, key, &record.uuid)?.into_iter().next();
        match (here, there) {
            (_, Some(way)) if way.watch.admits() => Ok(RepositoryRoute::There(way)),
            (Some(slot), _) => Ok(RepositoryRoute::Here(slot.clone())),
            (None, Some(way)) => Ok(RepositoryRoute::There(way)),
            (None, None) => Err(self.why_unreached(key, own)),
        }
    }

    /// The nodes through which a shared repository is reached, the best first: sorted by health, and nodes that are
    /// being drained last.
    fn ways_there(&self, view: &View, key: RepoKey, uuid: &str) -> Result<Vec<Arc<RemoteSlot>>, String> {
        let nodes = view.reaching(key).map_err(|error| chain(&error))?;
        let others = nodes.into_iter().filter(|(name, _)| *name != self.me);
        let mut ways: Vec<_> = others
            .map(|(name, record)| {
                let way = self.remote(key, name, uuid);
                ((record.service != NodeService::InService, way.watch.rank()), way)
            })
            .collect();
        ways.sort_by_key(|(rank, _)| *rank);
        Ok(ways.into_iter().map(|(_, way)| way).collect())
    }

    fn why_unreached(&self, key: RepoKey, own: Option<&Arc<Slot>>) -> String {
        let nobody = "no other node is known to reach it";
        match own.map(|slot| slot.opened()) {
            Some(Opened::Closed { why, .. } | Opened::Refused { why, .. }) => {
                format!("repo{key} is not open on node {}: {why}; {nobody}", self.me)
            }
            Some(Opened::Open(_)) => format!("what node {} has open is not repo{key} any more; {nobody}", self.me),
            None => format!(
                "repo{key} is not declared on node {} as the mesh has it, and {nobody}",
                self.me
            ),
        }
    }

    /// A way to a shared repository that was not tried yet, if it should be asked now.
    pub(crate) fn another_way(&self, key: RepoKey, tried: &[ViaNode]) -> Option<RepositoryRoute> {
        let view = self.catalog.view();
        let record = view.repository(key).ok()??;
        if record.host.is_some() {
            return None;
        }
        let is_new = |way: &ViaNode| !tried.contains(way);
        let is_open = |slot: &Slot| slot.is_defined_by(&record) && slot.has_open(&record.uuid);
        let here = self.slot(key).filter(|slot| is_open(slot) && slot.admits());
        if let Some(slot) = here.filter(|_| is_new(&None)) {
            return Some(RepositoryRoute::Here(slot.clone()));
        }
        let ways = self.ways_there(&view, key, &record.uuid).ok()?.into_iter();
        let mut new = ways.filter(|way| way.watch.admits() && is_new(&Some(way.host.clone())));
        new.next().map(RepositoryRoute::There)
    }

    /// The way to a shared repository through one of these nodes, if it should be asked now: a payload that goes to the
    /// node anyway need not cross the mesh twice.
    pub(crate) fn way_through(&self, key: RepoKey, hosts: &[NodeName], bytes: u64) -> Option<RepositoryRoute> {
        let view = self.catalog.view();
        let record = view.repository(key).ok()??;
        let ways = self.ways_there(&view, key, &record.uuid).ok()?.into_iter();
        let mut through = ways.filter(|way| hosts.contains(&way.host));
        let found = through.find(|way| way.watch.admits() && way.watch.admits_write(bytes));
        found.map(RepositoryRoute::There)
    }
}
