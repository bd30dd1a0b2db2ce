//! Forgetting WAL that another history of the cluster wrote (invariant 12).

use pgmesh_postgres::WalFileName;
use pgmesh_storage::{DbId, StanzaName};

use super::objects::{Found, discard};
use super::{Base, Outcome, Step, stanza};
use crate::error::ReadError;
use crate::limits;
use crate::model::{BackupRecord, ObjectRef, SegmentRecord};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;
use crate::{key, value};

/// Removes what a timeline has from a file on: the end of it, so that whatever step comes last leaves no hole.
pub(super) fn forget<B: Base>(
    step: &mut Step<'_, '_, B>,
    name: &StanzaName,
    from: WalFileName,
    force: bool,
) -> Outcome {
    let mut owner = stanza::need(step, name)?;
    if owner.deleting {
        return Err(Refusal::StanzaDeleting(name.clone()).into());
    }
    let database = owner.current().cloned();
    let database = database.ok_or_else(|| Refusal::UnknownStanza(name.clone()))?;
    stanza::refuse_running_backup(name, &owner)?;
    refuse_needed(step, name, database.id, from)?;
    let timeline = from.timeline();
    let since = database.start(from);
    if owner.branches_behind(timeline, since).next().is_some() {
        return Err(Refusal::Recheck { since: step.index }.into());
    }
    let rows = rows(step, name, database.id, from)?;
    if rows.len() > limits::FORGOTTEN_FILES {
        return Err(Refusal::Recheck { since: step.index }.into());
    }
    let ended = stanza::end_restores(step, name, force)?;
    let count = rows.len();
    for (key, object, record) in rows {
        let found = Found {
            object: record.object,
            archive: Some(database.archive_id()),
        };
        discard(step, &object, &found)?;
        step.txn.delete(Table::Segments, key);
    }
    if let WalFileName::History(_) = from {
        owner.histories.remove(&timeline);
        owner.writers.remove(&timeline);
    }
    step.txn
        .delete(Table::Pushes, key::last_push(name, database.id, timeline));
    // A push that began before may have found what is gone now.
    owner.since = step.index;
    stanza::put(step, name, &owner);
    step.audit(format!(
        "{count} WAL files of stanza {name} forgotten: timeline {timeline} from {from} on{ended}"
    ));
    Ok(Reply::Done)
}

/// The files of the timeline from the first one on, one more than may be forgotten at most.
fn rows<B: Base>(
    step: &Step<'_, '_, B>,
    name: &StanzaName,
    db: DbId,
    from: WalFileName,
) -> Result<Vec<(Vec<u8>, ObjectRef, SegmentRecord)>, ReadError> {
    let prefix = key::segment(name, db, &format!("{:08X}", from.timeline().0));
    let first = key::segment(name, db, &from.to_string());
    let mut rows = Vec::new();
    for row in step
        .txn
        .scan(Table::Segments, &first, &prefix)
        .take(limits::FORGOTTEN_FILES + 1)
    {
        let (key, bytes) = row?;
        let record = value::decode(Table::Segments, &key, &bytes)?;
        let object = key::read_segment(&key).ok_or_else(|| ReadError::MalformedKey {
            table: Table::Segments,
            key: hex::encode(&key),
        })?;
        rows.push((key, object, record));
    }
    Ok(rows)
}

/// A backup whose WAL is gone cannot be restored: it is removed first, by name.
fn refuse_needed<B: Base>(step: &Step<'_, '_, B>, name: &StanzaName, db: DbId, from: WalFileName) -> Outcome<()> {
    let prefix = key::stanza_prefix(name);
    let mut needing = None;
    let mut more = 0_u32;
    for row in step.txn.records::<BackupRecord>(Table::Backups, &prefix) {
        let (key, backup) = row?;
        if backup.db == db && backup.needs(from) {
            match &needing {
                None => needing = key::read_backup(&key).map(|(_, label)| label),
                Some(_) => more = more.saturating_add(1),
            }
        }
    }
    match needing {
        None => Ok(()),
        Some(label) => Err(Refusal::BackupNeedsWal {
            stanza: name.clone(),
            file: from,
            label,
            more,
        }
        .into()),
    }
}
