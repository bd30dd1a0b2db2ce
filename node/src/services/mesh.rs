//! How a node does, and how the whole mesh does: all nodes are asked.

use super::healths::{Accounts, place_of};
use super::session::session_states;
use crate::Node;
use crate::core::ASK_LIMIT;
use crate::links::Recipient;
use crate::services::info::{debt_info, kept_info};
use futures::future::join_all;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{
    AmountInfo, Failure, MeshStatus, NodeInfo, NodeRole, NodeStatus, OrphanInfo, ReleaseStatus, RepositoryStatus,
    now_unix,
};
use pgmesh_raft::limits::{self, shortened};
use pgmesh_raft::{Amount, OrphanScan, View};
use pgmesh_storage::RepoKey;
use std::collections::BTreeMap;
use std::time::Duration;

/// So many stanzas without a list of their chunks are named.
const UNLISTED: usize = 10;

impl Node {
    /// How this node does.
    pub(crate) fn node_status(&self) -> NodeStatus {
        let status = self.catalog.status();
        let repositories = self.repositories.slots().map(|slot| (slot.key, slot.health()));
        NodeStatus {
            name: self.name.to_string(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: self.started.elapsed().as_secs(),
            clock: now_unix(),
            leader: status.leader,
            term: status.term,
            last_log: status.last_log,
            last_applied: status.last_applied,
            snapshot: status.snapshot,
            certificate_expires: self.membership.certificate_expires(),
            disk_free: free_bytes(self.layout.root()),
            repositories: repositories.collect(),
            trouble: status.trouble(),
            began_anew: self.old_catalog(),
            sessions: self.backups.quiet_sessions(),
            session_timeout: self.settings.sessions.timeout.as_secs(),
            stuck: self.archive.stuck_archivers(),
            workers: self.supervisor.alarms(self.name.as_str()),
            skipped: status.skipped,
            failure: status.failure.map(|why| shortened(why, limits::REASON)),
            release: self.janitor.stuck_release(),
        }
    }

    /// Where the catalog is kept that this node had before it began anew.
    fn old_catalog(&self) -> Option<String> {
        let old = self.layout.old_catalog();
        old.exists().then(|| old.display().to_string())
    }

    /// How the whole mesh does.
    pub(crate) async fn mesh_status(&self) -> Result<MeshStatus, Failure> {
        let quorum = match self.catalog.view_linearizable().await {
            Ok(_) => Ok(()),
            Err(error) => Err(chain(&error)),
        };
        let nodes = self.membership.list_nodes()?;
        let accounts = join_all(nodes.iter().map(|node| self.account_of(&node.name, ASK_LIMIT))).await;
        let trips = join_all(nodes.iter().map(|node| self.round_trip_to(&node.name))).await;
        let view = self.catalog.view();
        let leader = nodes.iter().find(|node| node.role == NodeRole::Leader);
        let repositories = self.repository_states(&view, &nodes, &accounts)?;
        let quiet = accounts.iter().flatten().flat_map(|own| own.sessions.iter().copied());
        let (sessions, sessions_open) = session_states(&view, &quiet.collect())?;
        Ok(MeshStatus {
            mesh_id: self.mesh_id().to_owned(),
            node: self.name.to_string(),
            leader: leader.map(|node| node.name.clone()),
            quorum,
            catalog_format: pgmesh_raft::MeshRecord::CATALOG_FORMAT,
            level: self.catalog.view().levels()?.current,
            next_voters: self.next_voters(&nodes),
            round_trips: trips,
            rotation: crate::rotation::under_way(&view)?,
            lost: self.janitor.lost_report(&view, |_| true).await?,
            holes: self.archive.holes(&view, None, |_| true).await?,
            repositories,
            sessions,
            sessions_open,
            release: release_state(&view, &accounts)?,
            nodes: nodes.into_iter().zip(accounts).collect(),
        })
    }

    fn next_voters(&self, nodes: &[NodeInfo]) -> Option<Vec<String>> {
        let name = |id: u64| {
            let known = nodes.iter().find(|node| node.node_id == id);
            known.map_or_else(|| format!("number {id}"), |node| node.name.clone())
        };
        let next = self.catalog.status().next_voters?;
        Some(next.into_iter().map(name).collect())
    }

    fn repository_states(
        &self,
        view: &View,
        nodes: &[NodeInfo],
        accounts: &[Result<NodeStatus, String>],
    ) -> Result<Vec<RepositoryStatus>, Failure> {
        let accounts: Accounts = nodes
            .iter()
            .map(|node| node.name.clone())
            .zip(accounts.iter().cloned())
            .collect();
        let mut states = Vec::new();
        for (key, record) in view.repositories()? {
            let counters = view.counters(key)?;
            let nodes = self.ways_of(view, key, &record, &accounts)?;
            states.push(RepositoryStatus {
                key,
                kind: record
                    .definition
                    .get("type")
                    .cloned()
                    .unwrap_or_else(|| "posix".to_owned()),
                place: place_of(&record),
                health: self.health_of(key, &record, &nodes, &accounts),
                nodes,
                objects: counters.objects,
                bytes: counters.bytes,
                debt: debt_info(view, key)?,
                kept: kept_info(view, key, &record)?,
                orphans: orphan_info(&view.orphan_scan(key)?),
                host: record.host.map(|host| host.to_string()),
            });
        }
        Ok(states)
    }

    pub(crate) async fn account_of(&self, name: &str, limit: Duration) -> Result<NodeStatus, String> {
        if name == self.name.as_str() {
            return Ok(self.node_status());
        }
        let name = name.parse().map_err(|error| format!("{error}"))?;
        self.ask_within(&name, limit).await.map_err(|error| error.to_string())
    }

    async fn round_trip_to(&self, name: &str) -> Option<u64> {
        let trip = self.links.round_trip(&Recipient::Named(name.parse().ok()?)).await?;
        u64::try_from(trip.as_micros()).ok()
    }
}

/// The objects that scans have found and the catalog does not know.
fn orphan_info(scan: &OrphanScan) -> OrphanInfo {
    let amount = |Amount { objects, bytes }| AmountInfo { objects, bytes };
    let found = scan.ended.map(|ended| ended.found).unwrap_or_default();
    OrphanInfo {
        scanned: scan.ended.map(|ended| ended.at),
        scanning: scan.next.is_some(),
        seen: amount(found.unknown),
        earlier: amount(found.earlier),
        unreadable: found.unreadable,
        foreign: found.foreign,
        waiting: amount(scan.waiting),
        deleted: amount(scan.discarded),
    }
}

fn free_bytes(path: &std::path::Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}
/// The backups that have expired and are not deleted yet.
fn release_state(view: &View, accounts: &[Result<NodeStatus, String>]) -> Result<ReleaseStatus, Failure> {
    let mut backups: BTreeMap<RepoKey, u64> = BTreeMap::new();
    for row in view.releases() {
        let ((repo, ..), _) = row?;
        *backups.entry(repo).or_default() += 1;
    }
    let unlisted = view
        .unlisted()
        .take(UNLISTED)
        .map(|row| row.map(|(stanza, _)| stanza.to_string()));
    let told = accounts.iter().flatten().filter_map(|own| own.release.clone());
    Ok(ReleaseStatus {
        backups: backups.into_iter().collect(),
        unlisted: unlisted.collect::<Result<_, _>>()?,
        stuck: told.min_by_key(|stuck| stuck.since),
    })
}
