//! The mesh itself.

use std::collections::BTreeSet;

use pgmesh_storage::{Generation, RepoKey};

use super::{Base, Outcome, Step, names, orphans};
use crate::error::ReadError;
use crate::key::{self, KeyReader};
use crate::model::{CatalogLoss, CatalogPast, LogIndex, MeshRecord, RepositoryRecord};
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
        step.audit(match &loss.told_by {
            Some(other) => format!("another catalog of the mesh has taken over, as node {other} says"),
            None => format!(
                "the catalog has lost what came after position {}: repo{} shows that it had come to {}",
                loss.found_at, loss.repo, loss.position
            ),
        });
        let floor = past
            .loss
            .as_ref()
            .map_or(loss.floor, |known| known.floor.max(loss.floor));
        let past = CatalogPast {
            loss: Some(CatalogLoss { floor, ..loss }),
            ..past
        };
        step.txn.put(Table::Mesh, key::PAST.to_vec(), &past);
    } else if let Some(known) = past
        .loss
        .as_ref()
        .filter(|known| loss.era >= past.era && known.floor < loss.floor)
    {
        // Of each report the highest floor counts: no name of any of these catalogs is assigned again.
        let known = CatalogLoss {
            floor: loss.floor,
            ..known.clone()
        };
        let past = CatalogPast {
            loss: Some(known),
            ..past
        };
        step.txn.put(Table::Mesh, key::PAST.to_vec(), &past);
    }
    Ok(Reply::Done)
}

/// An administrator gives up the lost part of the catalog.
pub(super) fn accept_loss<B: Base>(step: &mut Step<'_, '_, B>, position: LogIndex, branch: u64) -> Outcome {
    let past: CatalogPast = step.txn.record(Table::Mesh, key::PAST)?.unwrap_or_default();
    let Some(loss) = past.loss.as_ref().filter(|loss| loss.position == position) else {
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
    orphans::raise_era_floor(step)?;
    let past = CatalogPast {
        // Above that of the proof: it may be newer than the catalog knows.
        era: past.era.max(loss.era).saturating_add(1),
        branch,
        loss: None,
        // The catalog that wrote the proof may have deleted objects since.
        uncompared: all_repositories(step)?,
        unlisted: all_repositories(step)?,
    };
    step.txn.put(Table::Mesh, key::PAST.to_vec(), &past);
    Ok(Reply::Done)
}

pub(super) fn begin_era<B: Base>(
    step: &mut Step<'_, '_, B>,
    next: CatalogPast,
    floor: Generation,
    last_number: u64,
    reason: &str,
) -> Outcome {
    let past: CatalogPast = step.txn.record(Table::Mesh, key::PAST)?.unwrap_or_default();
    if (past.era, past.branch) == (next.era, next.branch) {
        return Ok(Reply::Done);
    }
    if past.era >= next.era {
        return Err(Refusal::EraHasBegun {
            given: next.era,
            known: past.era,
        }
        .into());
    }
    step.audit(format!("era {} of the catalog begins: {reason}", next.era));
    names::raise_floor(step, floor)?;
    orphans::raise_era_floor(step)?;
    let known: u64 = step.txn.record(Table::Mesh, key::LAST_NODE_ID)?.unwrap_or_default();
    step.txn
        .put(Table::Mesh, key::LAST_NODE_ID.to_vec(), &known.max(last_number));
    step.txn.put(Table::Mesh, key::PAST.to_vec(), &next);
    Ok(Reply::Done)
}

/// Refuses a command if a part of the catalog is lost, or another catalog has taken its place.
pub(super) fn refuse_lost<B: Base>(step: &Step<'_, '_, B>) -> Outcome<()> {
    let past: CatalogPast = step.txn.record(Table::Mesh, key::PAST)?.unwrap_or_default();
    match past.loss {
        Some(loss) => Err(Refusal::CatalogLost(loss.position).into()),
        None => Ok(()),
    }
}

pub(super) fn compared<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey, era: u32, all: bool) -> Outcome {
    let mut past: CatalogPast = step.txn.record(Table::Mesh, key::PAST)?.unwrap_or_default();
    // A report of an earlier era came late.
    if past.era != era {
        return Ok(Reply::Done);
    }
    let is_news = past.unlisted.remove(&repo) | (all && past.uncompared.remove(&repo));
    if is_news {
        let what = if all {
            "was compared with the catalog"
        } else {
            "was looked through for WAL"
        };
        step.audit(format!("repo{repo} {what}"));
        step.txn.put(Table::Mesh, key::PAST.to_vec(), &past);
    }
    Ok(Reply::Done)
}

/// A repository that is forgotten, or whose objects are written anew, need not be compared any more.
pub(super) fn compares_no_more<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey) -> Result<(), ReadError> {
    let mut past: CatalogPast = step.txn.record(Table::Mesh, key::PAST)?.unwrap_or_default();
    if past.uncompared.remove(&repo) | past.unlisted.remove(&repo) {
        step.txn.put(Table::Mesh, key::PAST.to_vec(), &past);
    }
    Ok(())
}

fn all_repositories<B: Base>(step: &Step<'_, '_, B>) -> Result<BTreeSet<RepoKey>, ReadError> {
    let mut all = BTreeSet::new();
    for row in step.txn.records::<RepositoryRecord>(Table::Repositories, &[]) {
        all.extend(KeyReader::new(&row?.0).repository());
    }
    Ok(all)
}
