//! The mesh itself.

use pgmesh_storage::Generation;

use super::{Base, Outcome, Step, names};
use crate::key;
use crate::model::{CatalogLoss, CatalogPast, LogIndex, MeshRecord};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;

/// At most so many commands are applied between two proofs: in an hour, 4,000 a second.
const COMMANDS_AFTER_PROOF: u64 = 1 << 24;

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

/// A node has found the proof that the catalog has been farther than it is.
pub(super) fn report_loss<B: Base>(step: &mut Step<'_, '_, B>, loss: CatalogLoss) -> Outcome {
    let past: CatalogPast = step.txn.record(Table::Mesh, key::PAST)?.unwrap_or_default();
    // Given up meanwhile, or reported by another node.
    let is_news = loss.era >= past.era
        && past
            .loss
            .as_ref()
            .is_none_or(|known| (known.era, known.position) < (loss.era, loss.position));
    if is_news {
        step.audit(format!(
            "the catalog has lost what came after position {}: repo{} shows that it had come to {}",
            loss.found_at, loss.repo, loss.position
        ));
        let past = CatalogPast {
            loss: Some(loss),
            ..past
        };
        step.txn.put(Table::Mesh, key::PAST.to_vec(), &past);
    }
    Ok(Reply::Done)
}

/// What the catalog has lost is given up.
pub(super) fn accept_loss<B: Base>(step: &mut Step<'_, '_, B>, position: LogIndex) -> Outcome {
    let past: CatalogPast = step.txn.record(Table::Mesh, key::PAST)?.unwrap_or_default();
    let Some(loss) = past.loss.filter(|loss| loss.position == position) else {
        return Err(Refusal::NoSuchLoss(position).into());
    };
    step.audit(format!(
        "what the catalog had after position {} up to {} is given up",
        loss.found_at, loss.position
    ));
    // Names that the lost commands have assigned must not be assigned again. A command raises the highest generation by
    // one at most, or raises the floor; and some were applied after the proof was written.
    let known = names::floor(step.txn)?.max(loss.floor);
    let commands = loss.position.0.saturating_add(COMMANDS_AFTER_PROOF);
    let floor = u32::try_from(commands)
        .ok()
        .and_then(|commands| known.0.checked_add(commands));
    let Some(floor) = floor else {
        return Err(Refusal::LossTooLarge.into());
    };
    names::raise_floor(step, Generation(floor))?;
    let past = CatalogPast {
        // Above that of the proof: it may be newer than the catalog knows.
        era: past.era.max(loss.era).saturating_add(1),
        loss: None,
    };
    step.txn.put(Table::Mesh, key::PAST.to_vec(), &past);
    Ok(Reply::Done)
}
