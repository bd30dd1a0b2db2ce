//! Backups: invariant 4.

use std::collections::BTreeMap;

use pgmesh_postgres::{SegmentName, SystemId, WalFileName};
use pgmesh_storage::{BackupLabel, DbId, StanzaName};

use super::objects::{Found, discard, need_replicas, need_session, place_new, registered};
use super::{Base, Outcome, Step, stanza, use_judge, withdrawn};
use crate::command::{ClaimedObject, CommitBackup};
use crate::error::ReadError;
use crate::model::{
    BackupRecord, Claim, Database, ObjectRef, RunningBackup, SegmentRecord, SessionId, SessionKind, StoredObject,
};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;
use crate::{key, limits};

pub(super) fn begin<B: Base>(
    step: &mut Step<'_, '_, B>,
    name: &StanzaName,
    session: SessionId,
    label: BackupLabel,
    system_id: SystemId,
) -> Outcome {
    let (mut owner, db) = stanza::need_active(step, name)?;
    let record = need_session(step, session)?;
    if record.kind != SessionKind::Backup || record.stanza.as_ref() != Some(name) {
        return Err(not_begun(name, session, &label));
    }
    // Invariant 12: only backups of the stanza's cluster.
    if system_id != db.system_id {
        return Err(Refusal::SystemIdDiffers {
            stanza: name.clone(),
            known: db.system_id,
            given: system_id,
        }
        .into());
    }
    if let Some(running) = &owner.backup {
        if running.session == session && running.label == label {
            return Ok(Reply::Done);
        }
        return Err(Refusal::BackupRunning {
            stanza: name.clone(),
            session: running.session,
            label: running.label.clone(),
        }
        .into());
    }
    if let Some(last) = last_label(step, name)?
        && label <= last
    {
        return Err(Refusal::LabelNotLater {
            stanza: name.clone(),
            last,
            given: label,
        }
        .into());
    }
    // Its uses of chunks would not count: those of the backup that was given up under this label do not.
    if step.txn.get(Table::Abandoned, &key::backup(name, &label))?.is_some() {
        return Err(Refusal::LabelNotLater {
            stanza: name.clone(),
            last: label.clone(),
            given: label,
        }
        .into());
    }
    owner.backup = Some(RunningBackup {
        session,
        label,
        began_at: step.at,
        is_staged: false,
    });
    stanza::put(step, name, &owner);
    Ok(Reply::Done)
}

fn last_label<B: Base>(step: &Step<'_, '_, B>, name: &StanzaName) -> Result<Option<BackupLabel>, ReadError> {
    let prefix = key::stanza_prefix(name);
    let last = step.txn.scan_back(Table::Backups, &prefix).next().transpose()?;
    Ok(last.and_then(|(key, _)| key::read_backup(&key)).map(|(_, label)| label))
}

fn not_begun(name: &StanzaName, session: SessionId, label: &BackupLabel) -> super::Stop {
    Refusal::BackupNotBegun {
        stanza: name.clone(),
        session,
        label: label.clone(),
    }
    .into()
}

pub(super) fn commit<B: Base>(step: &mut Step<'_, '_, B>, commit: CommitBackup) -> Outcome {
    let CommitBackup {
        stanza: name,
        session,
        label,
        mut record,
        claims,
        ack,
        checked_at,
    } = commit;
    let key = key::backup(&name, &label);
    let committed: Option<BackupRecord> = step.txn.record(Table::Backups, &key)?;
    if committed.is_some_and(|known| known.manifest.digest == record.manifest.digest) {
        return Ok(Reply::Done);
    }
    let (mut owner, db) = stanza::need_active(step, &name)?;
    need_session(step, session)?;
    let holds_lock = owner
        .backup
        .as_ref()
        .is_some_and(|running| running.session == session && running.label == label);
    if !holds_lock || record.db != db.id {
        return Err(not_begun(&name, session, &label));
    }
    // Invariants 4 and 5: no replica that the backup counts as durable may have been condemned or withdrawn since,
    // unless enough others are left.
    let withdrawn = withdrawn::below(step.txn, ack)?;
    if withdrawn > checked_at {
        return Err(Refusal::Recheck { since: withdrawn }.into());
    }
    need_wal(step, &name, &db, &record)?;
    let object = ObjectRef::Manifest {
        stanza: name.clone(),
        label: label.clone(),
    };
    record.began = session.0;
    record.manifest = place_manifest(step, &object, &record.manifest, claims)?;
    need_replicas(&record.manifest.replicas, ack)?;
    let running = owner.backup.take();
    if !running.is_some_and(|running| running.is_staged) {
        // Its uses of chunks are not noted.
        use_judge::doubt(step, &name, true)?;
    }
    stanza::put(step, &name, &owner);
    record.expired.clear();
    record.hold = None;
    step.audit(format!("backup {label} of stanza {name} committed"));
    put_new(step, &name, &label, &record);
    Ok(Reply::Done)
}

/// Writes the record of a backup that was not known.
pub(super) fn put_new<B: Base>(
    step: &mut Step<'_, '_, B>,
    name: &StanzaName,
    label: &BackupLabel,
    record: &BackupRecord,
) {
    let row = key::timeline_backup(name, record.db, record.timeline, label);
    step.txn.put(Table::TimelineBackups, row, &());
    step.txn.put(Table::Backups, key::backup(name, label), record);
}

/// Deletes the record of a backup.
pub(super) fn drop_record<B: Base>(
    step: &mut Step<'_, '_, B>,
    name: &StanzaName,
    label: &BackupLabel,
    record: &BackupRecord,
) {
    let row = key::timeline_backup(name, record.db, record.timeline, label);
    step.txn.delete(Table::TimelineBackups, row);
    step.txn.delete(Table::Backups, key::backup(name, label));
}

/// The record of a new backup's manifest.
pub(super) fn place_manifest<B: Base>(
    step: &mut Step<'_, '_, B>,
    object: &ObjectRef,
    manifest: &StoredObject,
    claims: Vec<Claim>,
) -> Outcome<StoredObject> {
    let given = ClaimedObject {
        digest: manifest.digest,
        plain_length: manifest.plain_length,
        stored_length: manifest.stored_length,
        claims,
    };
    let replicas = place_new(step, object, &given)?;
    Ok(given.stored(replicas))
}

/// Invariant 4: the WAL from start to stop is archived, without a gap.
fn need_wal<B: Base>(step: &Step<'_, '_, B>, name: &StanzaName, db: &Database, record: &BackupRecord) -> Outcome<()> {
    let (start, stop) = (record.wal_start, record.wal_stop);
    let on_timeline = start.timeline == record.timeline && stop.timeline == record.timeline;
    if !on_timeline || start > stop {
        return Err(Refusal::WalRange { start, stop }.into());
    }
    match first_missing(step, name, db, start, stop)? {
        Some(segment) => Err(Refusal::WalMissing {
            stanza: name.clone(),
            segment,
        }
        .into()),
        None => Ok(()),
    }
}

fn first_missing<B: Base>(
    step: &Step<'_, '_, B>,
    name: &StanzaName,
    db: &Database,
    start: SegmentName,
    stop: SegmentName,
) -> Result<Option<SegmentName>, ReadError> {
    let mut expected = start;
    let from = key::segment(name, db.id, &start.to_string());
    for row in step.txn.scan(Table::Segments, &from, &key::segments(name, db.id)) {
        let (key, bytes) = row?;
        let Some(segment) = complete_segment(&key, db.id) else {
            continue;
        };
        if segment != expected {
            break;
        }
        let record: SegmentRecord = crate::value::decode(Table::Segments, &key, &bytes)?;
        if record.object.replicas.is_empty() {
            break;
        }
        if segment == stop {
            return Ok(None);
        }
        expected = expected.next(db.segment_size);
    }
    Ok(Some(expected))
}

fn complete_segment(key: &[u8], wanted: DbId) -> Option<SegmentName> {
    match key::read_segment(key)? {
        ObjectRef::Segment {
            db,
            file: WalFileName::Segment(name),
            ..
        } if db == wanted => Some(name),
        _ => None,
    }
}

pub(super) fn need_backup<B: Base>(
    step: &Step<'_, '_, B>,
    name: &StanzaName,
    label: &BackupLabel,
) -> Outcome<BackupRecord> {
    let record = step
        .txn
        .record(Table::Backups, &key::backup(name, label))?
        .ok_or_else(|| Refusal::UnknownBackup {
            stanza: name.clone(),
            label: label.clone(),
        })?;
    Ok(record)
}

pub(super) fn annotate<B: Base>(
    step: &mut Step<'_, '_, B>,
    name: &StanzaName,
    label: &BackupLabel,
    annotations: BTreeMap<String, String>,
) -> Outcome {
    let mut record = need_backup(step, name, label)?;
    for (key, value) in annotations {
        if value.is_empty() {
            record.annotations.remove(&key);
        } else {
            record.annotations.insert(key, value);
        }
    }
    limits::annotations(&record.annotations)?;
    step.audit(format!("annotations of backup {label} of stanza {name} changed"));
    step.txn.put(Table::Backups, key::backup(name, label), &record);
    Ok(Reply::Done)
}

/// Others may have been compared with it: each names all its chunks itself, and these stay (invariant 5).
pub(super) fn remove<B: Base>(step: &mut Step<'_, '_, B>, name: &StanzaName, label: &BackupLabel) -> Outcome {
    let record = need_backup(step, name, label)?;
    let object = ObjectRef::Manifest {
        stanza: name.clone(),
        label: label.clone(),
    };
    drop_record(step, name, label, &record);
    let found = Found {
        object: record.manifest,
        archive: None,
    };
    discard(step, &object, &found)?;
    release_everywhere(step, name, label)?;
    step.audit(format!("backup {label} of stanza {name} removed"));
    Ok(Reply::Done)
}

/// A backup has left the catalog at once: all that it alone needed is to be released in each repository.
fn release_everywhere<B: Base>(
    step: &mut Step<'_, '_, B>,
    name: &StanzaName,
    label: &BackupLabel,
) -> Result<(), ReadError> {
    for repo in registered(step)? {
        step.txn
            .put(Table::Releases, key::release(repo, name, label), &step.index);
    }
    Ok(())
}
