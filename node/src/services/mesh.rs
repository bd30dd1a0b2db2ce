//! The nodes of the mesh: listing them, changing their part, asking all how they do.

use super::healths::{Accounts, place_of};
use super::session::session_states;
use crate::Node;
use crate::links::{Lane, LinkError, Recipient};
use crate::services::info::{debt_info, kept_info};
use futures::future::join_all;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{
    AmountInfo, ExitCode, Failure, GetNodeStatus, MayLeave, MeshStatus, NodeAddress, NodeChange, NodeInfo, NodeRole,
    NodeState, NodeStatus, OrphanInfo, RepositoryStatus, now_unix,
};
use pgmesh_raft::limits::{self, shortened};
use pgmesh_raft::{Amount, Command, NodeName, NodeRecord, NodeService, OrphanScan, View, VotePolicy};
use pgmesh_storage::RepoKey;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long another node may take to say how it does.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// How long the leader may take to find out which nodes answer.
const LEADER_LIMIT: Duration = Duration::from_secs(6);
/// How long the group may take to reach the membership that was asked for.
const CHANGE_LIMIT: Duration = Duration::from_secs(20);

impl Node {
    /// All nodes, for clients to remember.
    pub(crate) fn addresses(&self) -> Vec<NodeAddress> {
        let nodes = self.catalog.view().nodes().unwrap_or_default();
        let present = nodes.into_iter().filter(|(_, record)| record.is_member());
        present
            .map(|(name, record)| NodeAddress {
                name: name.to_string(),
                region: record.region,
                addresses: record.advertise,
                serves: record.service == NodeService::InService,
            })
            .collect()
    }

    /// Whether this node is being drained.
    pub(crate) fn is_draining(&self) -> bool {
        let record = self.catalog.view().node(&self.name).ok().flatten();
        record.is_some_and(|record| record.service != NodeService::InService)
    }

    /// The nodes as the catalog has them.
    pub(crate) fn list_nodes(&self) -> Result<Vec<NodeInfo>, Failure> {
        let view = self.catalog.view();
        let status = self.catalog.status();
        let mut hosted = hosted(&view)?;
        let levels = view.levels()?;
        let nodes = view.nodes()?.into_iter();
        Ok(nodes
            .filter(|(_, record)| record.is_member())
            .map(|(name, record)| {
                let role = match record.node_id {
                    id if status.leader == Some(id) => NodeRole::Leader,
                    id if status.voters.contains(&id) => NodeRole::Voter,
                    id if status.learners.contains(&id) => NodeRole::Learner,
                    _ => NodeRole::Joining,
                };
                let repositories = hosted.remove(&name).unwrap_or_default();
                let level = levels.nodes.get(&record.node_id).copied();
                node_info(&name, record, role, repositories, level)
            })
            .collect())
    }

    /// Changes a node's part, and waits until it is so.
    pub(crate) async fn change_node(&self, actor: &str, name: &str, change: NodeChange) -> Result<(), Failure> {
        let unknown = || {
            Failure::new(ExitCode::OptionInvalid, format!("the mesh has no node '{name}'"))
                .remedy("'pgmesh node list' names the nodes there are")
        };
        let node: NodeName = name.parse().map_err(|_| unknown())?;
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let record = view
            .node(&node)?
            .filter(|record| record.is_member())
            .ok_or_else(unknown)?;
        if change == NodeChange::Drain {
            refuse_last_in_service(&view, &node)?;
        }
        let service = |service| Command::SetNodeService {
            name: node.clone(),
            service,
        };
        let vote = |vote| Command::SetNodeVote {
            name: node.clone(),
            vote,
        };
        let command = match change {
            NodeChange::Remove { force } => {
                refuse_host(&view, &node, force)?;
                if !force {
                    self.refuse_stranding(&view, record.node_id).await?;
                }
                service(NodeService::Removed)
            }
            NodeChange::Drain => service(NodeService::Draining),
            NodeChange::Resume => service(NodeService::InService),
            NodeChange::Promote => vote(VotePolicy::Always),
            NodeChange::Demote => {
                self.refuse_stranding(&view, record.node_id).await?;
                vote(VotePolicy::Never)
            }
        };
        self.catalog.propose(actor, command).await?;
        self.wait_for_group(&node, record.node_id, change).await
    }

    /// Asks the leader whether the others can decide without this voter.
    async fn refuse_stranding(&self, view: &View, node_id: u64) -> Result<(), Failure> {
        if self.catalog.is_leader() {
            return self.may_leave(node_id).await;
        }
        let leader = self.catalog.leader();
        let mut nodes = view.nodes()?.into_iter();
        let Some((name, _)) = nodes.find(|(_, record)| Some(record.node_id) == leader) else {
            return Err(
                Failure::new(ExitCode::Runtime, "no leader is known that could say who answers")
                    .remedy("run the command again")
                    .again(),
            );
        };
        let request = MayLeave { node_id };
        let answer = self
            .links
            .call(&Recipient::Named(name), Lane::Data, &request, LEADER_LIMIT)
            .await;
        Ok(answer?)
    }

    async fn wait_for_group(&self, node: &NodeName, id: u64, change: NodeChange) -> Result<(), Failure> {
        let is_so = || {
            let status = self.catalog.status();
            let votes = status.voters.contains(&id);
            // Until the change of the voters is at its end, the loss of one node may stop the group.
            let is_changing = status.next_voters.is_some() && !matches!(change, NodeChange::Drain | NodeChange::Resume);
            !is_changing
                && match change {
                    NodeChange::Remove { .. } => !votes && !status.learners.contains(&id),
                    NodeChange::Promote => votes,
                    NodeChange::Demote => !votes,
                    NodeChange::Drain | NodeChange::Resume => true,
                }
        };
        let waiting = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        // A node that has removed itself hears no more of the group.
        let itself = *node == self.name && matches!(change, NodeChange::Remove { .. });
        let limit = if itself { Duration::from_secs(3) } else { CHANGE_LIMIT };
        match tokio::time::timeout(limit, waiting).await {
            Ok(()) => Ok(()),
            Err(_) if itself => Ok(()),
            Err(_) => Err(Failure::new(
                ExitCode::Runtime,
                format!("the change of node {node} is recorded, but the group of voters has not followed yet"),
            )
            .remedy("'pgmesh status' shows how far it is: a node must have caught up before it votes, and one must keep voting")),
        }
    }

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
            certificate_expires: self.certificate_expires(),
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
        let nodes = self.list_nodes()?;
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
            lost: self.janitor.lost_report(&view, |_| true).await?,
            holes: self.archive.holes(&view, None, |_| true).await?,
            repositories,
            sessions,
            sessions_open,
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

    /// Asks another node how it does: the way to find out whether it is there.
    pub(crate) async fn ask_node(&self, name: &NodeName) -> Result<NodeStatus, LinkError> {
        self.ask_within(name, ASK_LIMIT).await
    }

    async fn ask_within(&self, name: &NodeName, limit: Duration) -> Result<NodeStatus, LinkError> {
        let whom = Recipient::Named(name.clone());
        self.links.call(&whom, Lane::Data, &GetNodeStatus, limit).await
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

/// Which repositories each node hosts.
fn hosted(view: &View) -> Result<BTreeMap<NodeName, Vec<RepoKey>>, Failure> {
    let mut hosted: BTreeMap<NodeName, Vec<RepoKey>> = BTreeMap::new();
    for (key, record) in view.repositories()? {
        if let Some(host) = record.host {
            hosted.entry(host).or_default().push(key);
        }
    }
    Ok(hosted)
}

/// At least one node must serve the clients.
fn refuse_last_in_service(view: &View, node: &NodeName) -> Result<(), Failure> {
    let others = view
        .nodes()?
        .into_iter()
        .filter(|(name, record)| name != node && record.service == NodeService::InService);
    if others.count() > 0 {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::CommandInvalid,
        format!("node {node} is the last that serves clients: without it nothing would be archived"),
    )
    .remedy("'pgmesh node resume NAME' puts another one into service first"))
}

/// A node that is removed takes the repositories that it hosts with it. If it is the last node that reaches a shared
/// repository, the way there goes, too. The operator must confirm that with `force`.
fn refuse_host(view: &View, node: &NodeName, force: bool) -> Result<(), Failure> {
    if force {
        return Ok(());
    }
    let hosted = hosted(view)?.remove(node).unwrap_or_default();
    if !hosted.is_empty() {
        return Err(Failure::new(
            ExitCode::CommandInvalid,
            format!("node {node} hosts {}", named(&hosted)),
        )
        .remedy(
            "declare the repository on another node that reaches its files and run 'pgmesh repo-update' there first, or forget \
             it: 'pgmesh repo-remove'; or give --force: the repository is then away until another node declares it",
        ));
    }
    let mut last = Vec::new();
    for (key, record) in view.repositories()? {
        let reaching = view.reaching(key)?;
        if record.host.is_none() && reaching.len() == 1 && reaching.iter().any(|(name, _)| name == node) {
            last.push(key);
        }
    }
    if last.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::CommandInvalid,
        format!("node {node} is the last that reaches {}", named(&last)),
    )
    .remedy(
        "declare the repository, with its credentials, on another node first, or forget it: 'pgmesh repo-remove'; or give \
         --force: the repository is then away until another node declares it",
    ))
}

fn named(keys: &[RepoKey]) -> String {
    let names: Vec<String> = keys.iter().map(|key| format!("repo{key}")).collect();
    names.join(", ")
}

fn node_info(
    name: &NodeName,
    record: NodeRecord,
    role: NodeRole,
    repositories: Vec<RepoKey>,
    level: Option<u32>,
) -> NodeInfo {
    NodeInfo {
        name: name.to_string(),
        node_id: record.node_id,
        region: record.region,
        addresses: record.advertise,
        role,
        state: if record.service == NodeService::InService {
            NodeState::InService
        } else {
            NodeState::Draining
        },
        program: record.program,
        level,
        repositories,
    }
}

fn free_bytes(path: &std::path::Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}
