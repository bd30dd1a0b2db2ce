//! The mesh itself.

use super::{Base, Outcome, Step};
use crate::key;
use crate::model::MeshRecord;
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

pub(super) fn audit<B: Base>(step: &mut Step<'_, '_, B>, what: String) -> Outcome {
    step.audit(what);
    Ok(Reply::Done)
}
