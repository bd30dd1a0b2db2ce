//! Forgetting WAL that another history of the cluster has otherwise (invariant 12).

use pgmesh_postgres::WalFileName;
use pgmesh_storage::{BackupLabel, DbId, StanzaName};

use super::objects::{Found, discard};
use super::{Base, Outcome, Step, backup, stanza};
use crate::command::ClaimedObject;
use crate::error::ReadError;
use crate::model::{BackupRecord, Database, ExpiredIn, LogIndex, ObjectRef, SegmentRecord};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;
use crate::{key, limits, value};

/// The fields of [`Command::ForgetWal`](crate::Command::ForgetWal).
pub(super) struct Wish {
    pub(super) from: WalFileName,
    pub(super) upto: LogIndex,
    pub(super) with_backups: bool,
    pub(super) force: bool,
}

struct Row {
    key: Vec<u8>,
    file: WalFileName,
    record: SegmentRecord,
}

/// Removes the files of a timeline from a given file on: the end of the timeline, so that no hole is left whichever
/// step comes last.
pub(super) fn forget<B: Base>(step: &mut Step<'_, '_, B>, name: &StanzaName, wish: &Wish) -> Outcome {
    let mut owner = stanza::need(step, name)?;
    if owner.deleting {
        return Err(Refusal::StanzaDeleting(name.clone()).into());
    }
    let database = owner.current().cloned();
    let database = database.ok_or_else(|| Refusal::UnknownStanza(name.clone()))?;
    let rows = rows(step, name, database.id, wish.from)?;
    if is_done(name, wish, &rows)? {
        return Ok(Reply::Done);
    }
    stanza::refuse_running_backup(name, &owner)?;
    let timeline = wish.from.timeline();
    let mut needing = owner.branches_behind(timeline, database.end(wish.from));
    if rows.len() > limits::FORGOTTEN_FILES || needing.next().is_some() {
        return Err(Refusal::Recheck { since: step.index }.into());
    }
    drop(needing);
    let backups = remove_backups(step, name, database.id, wish)?;
    let ended = stanza::end_restores(step, name, wish.force)?;
    let count = rows.len();
    for row in rows {
        forget_row(step, name, &database, row, wish.from)?;
    }
    if let WalFileName::History(_) = wish.from {
        owner.histories.remove(&timeline);
        owner.writers.remove(&timeline);
        step.txn
            .delete(Table::Pushes, key::last_push(name, database.id, timeline));
    }
    // A push that began before may have found a file that is gone now.
    owner.since = step.index;
    stanza::put(step, name, &owner);
    let what = format!(
        "{count} WAL files of stanza {name} forgotten, timeline {timeline} from {} on{backups}{ended}",
        wish.from
    );
    step.audit(limits::shortened(what, limits::REASON));
    Ok(Reply::Done)
}

/// Whether the wish was carried out before: the request is repeated, or comes late, and other files have taken the
/// place of the forgotten ones.
fn is_done(name: &StanzaName, wish: &Wish, rows: &[Row]) -> Result<bool, Refusal> {
    let is_newer = |row: &&Row| row.record.pushed > wish.upto;
    match rows.iter().find(is_newer) {
        None => Ok(false),
        Some(_) if rows.iter().all(|row| is_newer(&row)) => Ok(true),
        Some(row) => Err(Refusal::WalSince {
            stanza: name.clone(),
            file: row.file,
        }),
    }
}

fn forget_row<B: Base>(
    step: &mut Step<'_, '_, B>,
    name: &StanzaName,
    database: &Database,
    row: Row,
    from: WalFileName,
) -> Outcome<()> {
    let Row { key, file, record } = row;
    let object = ObjectRef::Segment {
        stanza: name.clone(),
        db: database.id,
        file,
    };
    let was_known = !record.object.is_unknown();
    let found = Found {
        object: record.object,
        archive: Some(database.archive_id()),
    };
    discard(step, &object, &found)?;
    if file == from && matches!(file, WalFileName::Segment(_)) && was_known {
        // Invariant 7: up to the first difference between the two contents the segment has records that were archived.
        // Until the other content comes, or this name is forgotten as well, a client that asks for the segment is told
        // that it is missing.
        let record = SegmentRecord {
            object: ClaimedObject::unknown().stored(Vec::new()),
            pushed_at: step.at,
            pushed: step.index,
            expired: ExpiredIn::new(),
        };
        step.txn.put(Table::Segments, key, &record);
    } else {
        step.txn.delete(Table::Segments, key);
    }
    Ok(())
}

/// The files of the timeline from the first one on, one more than may be forgotten at most.
fn rows<B: Base>(
    step: &Step<'_, '_, B>,
    name: &StanzaName,
    db: DbId,
    from: WalFileName,
) -> Result<Vec<Row>, ReadError> {
    let prefix = key::segment(name, db, &format!("{:08X}", from.timeline().0));
    let first = key::segment(name, db, &from.to_string());
    let mut rows = Vec::new();
    let found = step.txn.scan(Table::Segments, &first, &prefix);
    for row in found.take(limits::FORGOTTEN_FILES + 1) {
        let (key, bytes) = row?;
        let record = value::decode(Table::Segments, &key, &bytes)?;
        let Some(ObjectRef::Segment { file, .. }) = key::read_segment(&key) else {
            return Err(ReadError::MalformedKey {
                table: Table::Segments,
                key: hex::encode(&key),
            });
        };
        rows.push(Row { key, file, record });
    }
    Ok(rows)
}

/// Removes the backups that need the WAL: without it they cannot be restored. Returns the words to add to the audit
/// trail.
fn remove_backups<B: Base>(step: &mut Step<'_, '_, B>, name: &StanzaName, db: DbId, wish: &Wish) -> Outcome<String> {
    let needing = needing(step, name, db, wish.from)?;
    let Some(label) = needing.first() else {
        return Ok(String::new());
    };
    if !wish.with_backups {
        return Err(Refusal::BackupNeedsWal {
            stanza: name.clone(),
            file: wish.from,
            label: label.clone(),
            more: u32::try_from(needing.len() - 1).unwrap_or(u32::MAX),
        }
        .into());
    }
    for label in &needing {
        backup::remove(step, name, label)?;
    }
    let labels: Vec<String> = needing.iter().map(ToString::to_string).collect();
    Ok(format!(", with backups {}", labels.join(", ")))
}

fn needing<B: Base>(
    step: &Step<'_, '_, B>,
    name: &StanzaName,
    db: DbId,
    from: WalFileName,
) -> Result<Vec<BackupLabel>, ReadError> {
    let prefix = key::stanza_prefix(name);
    let mut needing = Vec::new();
    for row in step.txn.records::<BackupRecord>(Table::Backups, &prefix) {
        let (key, backup) = row?;
        if backup.db == db && backup.needs(from) {
            needing.extend(key::read_backup(&key).map(|(_, label)| label));
        }
    }
    Ok(needing)
}
