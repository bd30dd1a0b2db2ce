//! The nodes of the mesh: listing them, and changing their part.

use crate::links::{Lane, Recipient};
use crate::membership::Membership;
use pgmesh_protocol::{ExitCode, Failure, MayLeave, NodeAddress, NodeChange, NodeInfo, NodeRole, NodeState};
use pgmesh_raft::{Command, NodeName, NodeRecord, NodeService, View, VotePolicy};
use pgmesh_storage::RepoKey;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the leader may take to find out which nodes answer.
const LEADER_LIMIT: Duration = Duration::from_secs(6);
/// How long the group may take to reach the membership that was asked for.
const CHANGE_LIMIT: Duration = Duration::from_secs(20);

impl Membership {
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
