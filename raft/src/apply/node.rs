//! The nodes of the mesh. A number in the Raft group stands for one disk: a name that comes back with an empty disk
//! gets another number, so that no promise of the old disk is expected of the new one.

use std::collections::BTreeSet;

use pgmesh_storage::RepoKey;

use super::{Base, Outcome, Step, members, rotation, token};
use crate::command::AdmitNode;
use crate::error::ReadError;
use crate::key::{self, KeyReader};
use crate::limits;
use crate::model::{Levels, MeshRecord, NodeName, NodeRecord, NodeService, RepositoryRecord, TokenRole, VotePolicy};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;

/// How many revoked keys of a name are remembered, two for each time that it has left or was replaced.
const REVOKED_KEPT: usize = 128;
/// The longest reason in the audit trail, in characters.
const REASON_CHARACTERS: usize = 500;

/// A node's description of itself.
pub(super) struct NodeDescription {
    pub(super) region: String,
    pub(super) advertise: Vec<String>,
    pub(super) key: [u8; 32],
    pub(super) program: String,
}

pub(super) fn register<B: Base>(step: &mut Step<'_, '_, B>, name: NodeName, record: NodeRecord) -> Outcome {
    for row in step.txn.records::<NodeRecord>(Table::Nodes, &[]) {
        let (key, known) = row?;
        let has_name = key == key::node(&name);
        if has_name != (known.node_id == record.node_id) {
            let known_name = String::from_utf8_lossy(&key).parse();
            return Err(Refusal::NodeTaken {
                known: known_name.unwrap_or_else(|_| name.clone()),
                given: name,
                node_id: record.node_id,
            }
            .into());
        }
        if has_name && known == record {
            return Ok(Reply::Done);
        }
    }
    limits::nodes(count_members(step)? + 1)?;
    step.audit(format!("node {name} registered as number {}", record.node_id));
    let last = last_node_id(step)?.max(record.node_id);
    step.txn.put(Table::Mesh, key::LAST_NODE_ID.to_vec(), &last);
    put(step, &name, &record);
    Ok(Reply::Done)
}

pub(super) fn admit<B: Base>(step: &mut Step<'_, '_, B>, admit: AdmitNode) -> Outcome {
    let AdmitNode {
        redemption,
        name,
        region,
        advertise,
        key,
        administrator,
        program,
        catalog_format,
    } = admit;
    let mesh = step.txn.record::<MeshRecord>(Table::Mesh, key::MESH)?;
    let format = mesh.ok_or(Refusal::NoMesh)?.catalog_format;
    if catalog_format != format {
        return Err(Refusal::NodeFormat {
            node: name,
            known: format,
            given: catalog_format,
        }
        .into());
    }
    let token = token::find(step, &redemption)?;
    let TokenRole::Node {
        name: invited,
        replaces,
    } = &token.role
    else {
        return Err(Refusal::TokenOfOtherRole { is_for_node: false }.into());
    };
    if let Some(used) = token::used_before(&token, &redemption, name.as_str())? {
        let known = need_member(step, &name)?;
        // The answer was lost. A node that has another disk or another number by now had received it.
        if known.key != key || Some(known.node_id) != used.node_id {
            return Err(Refusal::TokenUsed {
                at: used.at,
                name: used.name.clone(),
            }
            .into());
        }
        return Ok(Reply::Joined {
            certificate: used.certificate.clone(),
            node_id: used.node_id,
        });
    }
    if *invited != name {
        return Err(Refusal::TokenOfAnother {
            invited: invited.clone(),
            given: name.to_string(),
        }
        .into());
    }
    token::check_place(step, &name, *replaces)?;
    let known = step.txn.record::<NodeRecord>(Table::Nodes, &key::node(&name))?;
    let revoked = known.map(revoked_of).unwrap_or_default();
    if revoked.contains(&key) {
        return Err(Refusal::KeyRevoked(name).into());
    }
    if replaces.is_none() {
        limits::nodes(count_members(step)? + 1)?;
    }
    let node_id = last_node_id(step)?.saturating_add(1);
    step.txn.put(Table::Mesh, key::LAST_NODE_ID.to_vec(), &node_id);
    let record = NodeRecord {
        node_id,
        region,
        advertise,
        key,
        administrator,
        program,
        service: NodeService::InService,
        vote: VotePolicy::Auto,
        revoked,
        // It says so itself when it has started.
        reaches: BTreeSet::new(),
    };
    put(step, &name, &record);
    token::use_up(step, token, redemption, name.to_string(), Some(node_id))
}

pub(super) fn renumber<B: Base>(
    step: &mut Step<'_, '_, B>,
    name: &NodeName,
    number: u64,
    key: [u8; 32],
    reason: &str,
) -> Outcome {
    let known = need_member(step, name)?;
    if known.node_id != number {
        return Err(Refusal::NodeReplaced {
            node: name.clone(),
            known: known.node_id,
            given: number,
        }
        .into());
    }
    check_key(&known, name, key)?;
    let node_id = last_node_id(step)?.saturating_add(1);
    let old = known.node_id;
    let reason: String = reason.chars().take(REASON_CHARACTERS).collect();
    step.audit(format!(
        "node {name} begins anew as number {node_id} in place of {old}: {reason}"
    ));
    step.txn.put(Table::Mesh, key::LAST_NODE_ID.to_vec(), &node_id);
    put(step, name, &NodeRecord { node_id, ..known });
    Ok(Reply::Renumbered { node_id, replaced: old })
}

pub(super) fn announce<B: Base>(
    step: &mut Step<'_, '_, B>,
    name: &NodeName,
    node_id: u64,
    given: NodeDescription,
    mut reaches: BTreeSet<RepoKey>,
) -> Outcome {
    let known = need(step, name)?;
    let is_shared = shared_repositories(step)?;
    if !known.is_member() {
        return Err(Refusal::NodeRemoved(name.clone()).into());
    }
    if known.node_id != node_id {
        return Err(Refusal::NodeReplaced {
            node: name.clone(),
            known: known.node_id,
            given: node_id,
        }
        .into());
    }
    check_key(&known, name, given.key)?;
    reaches.retain(|repo| is_shared.contains(repo));
    let record = NodeRecord {
        region: given.region,
        advertise: given.advertise,
        reaches,
        program: given.program,
        ..known.clone()
    };
    if record != known {
        step.audit(format!(
            "node {name} is reached at {} in region '{}', runs {}{}",
            record.advertise.join(", "),
            record.region,
            record.program,
            reached(&record.reaches)
        ));
        put(step, name, &record);
    }
    Ok(Reply::Done)
}

/// A node says which levels its program has. Numbers that are no member's any more are forgotten.
pub(super) fn note_level<B: Base>(step: &mut Step<'_, '_, B>, node_id: u64, level: u32) -> Outcome {
    let members = members::numbers(step)?;
    let known: Levels = step.txn.record(Table::Mesh, key::LEVELS)?.unwrap_or_default();
    let mut levels = known.clone();
    levels.nodes.retain(|known, _| members.contains_key(known));
    if members.contains_key(&node_id) {
        levels.nodes.insert(node_id, level);
    }
    if levels == known {
        return Ok(Reply::Done);
    }
    step.txn.put(Table::Mesh, key::LEVELS.to_vec(), &levels);
    Ok(Reply::Done)
}

pub(super) fn raise_level<B: Base>(step: &mut Step<'_, '_, B>, level: u32) -> Outcome {
    let mut levels: Levels = step.txn.record(Table::Mesh, key::LEVELS)?.unwrap_or_default();
    if levels.current >= level {
        return Ok(Reply::Done);
    }
    for (node_id, node) in members::numbers(step)? {
        let known = levels.nodes.get(&node_id).copied();
        if known.is_none_or(|known| known < level) {
            return Err(Refusal::LevelTooNew { level, node, known }.into());
        }
    }
    step.audit(format!("commands are applied at level {level}, which all nodes have"));
    levels.current = level;
    step.txn.put(Table::Mesh, key::LEVELS.to_vec(), &levels);
    Ok(Reply::Done)
}

pub(super) fn set_service<B: Base>(step: &mut Step<'_, '_, B>, name: &NodeName, service: NodeService) -> Outcome {
    let mut record = need(step, name)?;
    if record.service == service {
        return Ok(Reply::Done);
    }
    // There is no way back but by another invitation: its keys were revoked.
    if !record.is_member() {
        return Err(Refusal::NodeRemoved(name.clone()).into());
    }
    if service == NodeService::Removed {
        if count_members(step)? <= 1 {
            return Err(Refusal::LastNode(name.clone()).into());
        }
        leave(&mut record);
        token::take_back(step, name)?;
        // Empty at a level that notes no makers.
        token::take_back_made_by(step, &BTreeSet::from([record.administrator]))?;
    }
    step.audit(format!("node {name} (number {}) is {service}", record.node_id));
    record.service = service;
    put(step, name, &record);
    rotation::node_left(step)?;
    Ok(Reply::Done)
}

fn leave(record: &mut NodeRecord) {
    record.revoked = revoked_of(record.clone());
    record.service = NodeService::Removed;
}

pub(super) fn set_vote<B: Base>(step: &mut Step<'_, '_, B>, name: &NodeName, vote: VotePolicy) -> Outcome {
    let mut record = need(step, name)?;
    if !record.is_member() {
        return Err(Refusal::NodeRemoved(name.clone()).into());
    }
    if record.vote != vote {
        step.audit(format!("vote of node {name} (number {}) set to {vote}", record.node_id));
        record.vote = vote;
        put(step, name, &record);
    }
    Ok(Reply::Done)
}

/// A shared repository that is forgotten, or whose definition changed, is reached by no node until the nodes announce
/// it again.
pub(super) fn lose_reach<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey) -> Result<(), ReadError> {
    let rows = step.txn.records::<NodeRecord>(Table::Nodes, &[]);
    for row in rows.collect::<Result<Vec<_>, _>>()? {
        let (key, mut record) = row;
        if record.reaches.remove(&repo) {
            step.txn.put(Table::Nodes, key, &record);
        }
    }
    Ok(())
}

fn shared_repositories<B: Base>(step: &Step<'_, '_, B>) -> Result<BTreeSet<RepoKey>, ReadError> {
    let mut shared = BTreeSet::new();
    for row in step.txn.records::<RepositoryRecord>(Table::Repositories, &[]) {
        let (key, record) = row?;
        if record.host.is_none() && !record.is_retiring() {
            shared.extend(KeyReader::new(&key).repository());
        }
    }
    Ok(shared)
}

fn reached(reaches: &BTreeSet<RepoKey>) -> String {
    if reaches.is_empty() {
        return String::new();
    }
    let names: Vec<String> = reaches.iter().map(|repo| format!("repo{repo}")).collect();
    format!(", reaches {}", names.join(", "))
}

/// A node that is part of the mesh.
pub(super) fn need_member<B: Base>(step: &Step<'_, '_, B>, name: &NodeName) -> Outcome<NodeRecord> {
    let record = need(step, name)?;
    if !record.is_member() {
        return Err(Refusal::NodeRemoved(name.clone()).into());
    }
    Ok(record)
}

fn need<B: Base>(step: &Step<'_, '_, B>, name: &NodeName) -> Outcome<NodeRecord> {
    let record = step.txn.record(Table::Nodes, &key::node(name))?;
    Ok(record.ok_or_else(|| Refusal::UnknownNode(name.clone()))?)
}

fn put<B: Base>(step: &mut Step<'_, '_, B>, name: &NodeName, record: &NodeRecord) {
    step.txn.put(Table::Nodes, key::node(name), record);
}

fn count_members<B: Base>(step: &Step<'_, '_, B>) -> Result<usize, ReadError> {
    let mut members = 0;
    for row in step.txn.records::<NodeRecord>(Table::Nodes, &[]) {
        members += usize::from(row?.1.is_member());
    }
    Ok(members)
}

/// The highest number that was ever given out.
fn last_node_id<B: Base>(step: &Step<'_, '_, B>) -> Result<u64, ReadError> {
    Ok(step.txn.record(Table::Mesh, key::LAST_NODE_ID)?.unwrap_or_default())
}

/// A key that is not the node's says nothing in its name.
fn check_key(known: &NodeRecord, name: &NodeName, key: [u8; 32]) -> Result<(), Refusal> {
    if known.revoked.contains(&key) {
        return Err(Refusal::KeyRevoked(name.clone()));
    }
    if known.key != key {
        return Err(Refusal::OtherKey(name.clone()));
    }
    Ok(())
}

/// All keys under a node's name that count no more when the node has left.
fn revoked_of(record: NodeRecord) -> Vec<[u8; 32]> {
    let mut revoked = record.revoked;
    for key in [record.key, record.administrator] {
        if !revoked.contains(&key) {
            revoked.push(key);
        }
    }
    let surplus = revoked.len().saturating_sub(REVOKED_KEPT);
    revoked.drain(..surplus);
    revoked
}
