//! The mesh and its nodes.

use super::{Base, Outcome, Step};
use crate::key;
use crate::model::{MeshRecord, NodeName, NodeRecord};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;

pub(super) fn found<B: Base>(step: &mut Step<'_, '_, B>, record: MeshRecord) -> Outcome {
    if record.catalog_format != MeshRecord::CATALOG_FORMAT {
        return Err(Refusal::OtherFormat {
            known: MeshRecord::CATALOG_FORMAT,
            given: record.catalog_format,
        }
        .into());
    }
    match step.txn.record::<MeshRecord>(Table::Mesh, key::MESH)? {
        Some(known) if known == record => Ok(Reply::Done),
        Some(known) => Err(Refusal::OtherMesh {
            known: known.mesh_id,
            given: record.mesh_id,
        }
        .into()),
        None => {
            step.audit(format!("mesh {} founded", record.mesh_id));
            step.txn.put(Table::Mesh, key::MESH.to_vec(), &record);
            Ok(Reply::Done)
        }
    }
}

pub(super) fn register_node<B: Base>(step: &mut Step<'_, '_, B>, name: NodeName, record: NodeRecord) -> Outcome {
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
    step.audit(format!("node {name} registered as number {}", record.node_id));
    step.txn.put(Table::Nodes, key::node(&name), &record);
    Ok(Reply::Done)
}

pub(super) fn audit<B: Base>(step: &mut Step<'_, '_, B>, what: String) -> Outcome {
    step.audit(what);
    Ok(Reply::Done)
}
