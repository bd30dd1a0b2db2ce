//! Stanzas.

use std::collections::BTreeMap;

use pgmesh_postgres::TimelineId;
use pgmesh_storage::{DbId, StanzaName};

use super::names::assigned_before;
use super::objects::{Found, discard, need_replicas, place_more, place_new, repositories, unreference};
use super::{Base, Outcome, Row, Step, backup, rights, session, use_judge};
use crate::command::{ClaimedObject, Cluster};
use crate::error::ReadError;
use crate::key::KeyReader;
use crate::model::{
    BackupRecord, Database, LogIndex, ObjectRef, SegmentRecord, SessionId, SessionKind, SessionRecord, StanzaRecord,
    Writer,
};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;
use crate::{key, limits};

/// How many rows one step of a deletion removes.
const DELETE_STEP: usize = 1_000;

pub(super) fn need<B: Base>(step: &Step<'_, '_, B>, stanza: &StanzaName) -> Outcome<StanzaRecord> {
    let record = step
        .txn
        .record(Table::Stanzas, &key::stanza(stanza))?
        .ok_or_else(|| Refusal::UnknownStanza(stanza.clone()))?;
    Ok(record)
}

/// A stanza that takes WAL and backups, and its current database.
pub(super) fn need_active<B: Base>(step: &Step<'_, '_, B>, stanza: &StanzaName) -> Outcome<(StanzaRecord, Database)> {
    let record = need(step, stanza)?;
    if record.deleting {
        return Err(Refusal::StanzaDeleting(stanza.clone()).into());
    }
    if let Some(reason) = &record.stopped {
        return Err(Refusal::StanzaStopped {
            stanza: stanza.clone(),
            reason: reason.clone(),
        }
        .into());
    }
    let current = record.current().cloned();
    let current = current.ok_or_else(|| Refusal::UnknownStanza(stanza.clone()))?;
    Ok((record, current))
}

pub(super) fn put<B: Base>(step: &mut Step<'_, '_, B>, stanza: &StanzaName, record: &StanzaRecord) {
    step.txn.put(Table::Stanzas, key::stanza(stanza), record);
}

pub(super) fn create<B: Base>(
    step: &mut Step<'_, '_, B>,
    stanza: StanzaName,
    cluster: Cluster,
    info: ClaimedObject,
    checked_at: LogIndex,
) -> Outcome {
    let key = key::stanza(&stanza);
    if let Some(known) = step.txn.record::<StanzaRecord>(Table::Stanzas, &key)? {
        return same_cluster(step, &stanza, known, cluster, &info);
    }
    let database = new_database(step, &stanza, DbId(1), cluster, info, checked_at)?;
    let record = StanzaRecord {
        databases: vec![database],
        stopped: None,
        deleting: false,
        writers: BTreeMap::new(),
        histories: BTreeMap::new(),
        forgotten: None,
        past: BTreeMap::new(),
        backup: None,
        last_backup: None,
        since: step.index,
    };
    step.audit(format!(
        "stanza {stanza} created for system identifier {}",
        cluster.system_id
    ));
    put(step, &stanza, &record);
    Ok(Reply::Database(DbId(1)))
}

fn new_database<B: Base>(
    step: &mut Step<'_, '_, B>,
    stanza: &StanzaName,
    db: DbId,
    cluster: Cluster,
    info: ClaimedObject,
    checked_at: LogIndex,
) -> Outcome<Database> {
    // A stanza of this name may have come and gone since.
    let claimed: Vec<_> = info.claims.iter().map(|claim| claim.replica).collect();
    assigned_before(step, &claimed, checked_at)?;
    let object = ObjectRef::StanzaInfo {
        stanza: stanza.clone(),
        db,
    };
    let given = info.claims.len();
    let replicas = place_new(step, &object, &info)?;
    if given > 0 {
        // They were written to a disk that was lost meanwhile, perhaps.
        need_replicas(&replicas, 1)?;
    }
    Ok(Database {
        id: db,
        system_id: cluster.system_id,
        version: cluster.version,
        catalog_version: cluster.catalog_version,
        segment_size: cluster.segment_size,
        info: info.stored(replicas),
    })
}

/// Invariant 12: a stanza that exists is created again only by the cluster that it belongs to.
fn same_cluster<B: Base>(
    step: &mut Step<'_, '_, B>,
    stanza: &StanzaName,
    mut known: StanzaRecord,
    cluster: Cluster,
    info: &ClaimedObject,
) -> Outcome {
    if known.deleting {
        return Err(Refusal::StanzaDeleting(stanza.clone()).into());
    }
    let current = known.databases.last_mut();
    let current = current.ok_or_else(|| Refusal::UnknownStanza(stanza.clone()))?;
    refuse_other_cluster(stanza, current, cluster)?;
    let id = current.id;
    if current.info.digest == info.digest {
        let object = ObjectRef::StanzaInfo {
            stanza: stanza.clone(),
            db: id,
        };
        let found = Found {
            archive: Some(current.archive_id()),
            object: current.info.clone(),
        };
        let (_, replicas) = place_more(step, &object, &found, &info.claims, false)?;
        if replicas != current.info.replicas {
            current.info.replicas = replicas;
            put(step, stanza, &known);
        }
    }
    Ok(Reply::Database(id))
}

fn refuse_other_cluster(stanza: &StanzaName, current: &Database, cluster: Cluster) -> Result<(), Refusal> {
    if current.system_id != cluster.system_id {
        return Err(Refusal::SystemIdDiffers {
            stanza: stanza.clone(),
            known: current.system_id,
            given: cluster.system_id,
        });
    }
    if current.version != cluster.version {
        return Err(Refusal::VersionDiffers {
            stanza: stanza.clone(),
            known: current.version,
            given: cluster.version,
        });
    }
    if current.segment_size != cluster.segment_size {
        return Err(Refusal::SegmentSizeDiffers {
            stanza: stanza.clone(),
            known: current.segment_size.bytes(),
            given: cluster.segment_size.bytes(),
        });
    }
    Ok(())
}

pub(super) fn upgrade<B: Base>(
    step: &mut Step<'_, '_, B>,
    stanza: StanzaName,
    cluster: Cluster,
    info: ClaimedObject,
    checked_at: LogIndex,
) -> Outcome {
    let (mut record, current) = need_active(step, &stanza)?;
    if current.system_id == cluster.system_id {
        return same_cluster(step, &stanza, record, cluster, &info);
    }
    refuse_running_backup(&stanza, &record)?;
    let db = DbId(current.id.0.saturating_add(1));
    let database = new_database(step, &stanza, db, cluster, info, checked_at)?;
    record.make_current(database);
    limits::stanza(&record)?;
    record.make_room();
    step.audit(format!(
        "stanza {stanza} upgraded to PostgreSQL {}, system identifier {}",
        cluster.version, cluster.system_id
    ));
    put(step, &stanza, &record);
    Ok(Reply::Database(db))
}

pub(super) fn refuse_running_backup(stanza: &StanzaName, record: &StanzaRecord) -> Result<(), Refusal> {
    match &record.backup {
        Some(running) => Err(Refusal::BackupRunning {
            stanza: stanza.clone(),
            session: running.session,
            label: running.label.clone(),
        }),
        None => Ok(()),
    }
}

pub(super) fn stop<B: Base>(step: &mut Step<'_, '_, B>, stanza: &StanzaName, reason: String) -> Outcome {
    let mut record = need(step, stanza)?;
    step.audit(format!("stanza {stanza} stopped: {reason}"));
    record.stopped = Some(reason);
    put(step, stanza, &record);
    Ok(Reply::Done)
}

pub(super) fn start<B: Base>(step: &mut Step<'_, '_, B>, stanza: &StanzaName) -> Outcome {
    let mut record = need(step, stanza)?;
    if record.deleting {
        return Err(Refusal::StanzaDeleting(stanza.clone()).into());
    }
    if record.stopped.take().is_some() {
        step.audit(format!("stanza {stanza} started"));
        put(step, stanza, &record);
    }
    Ok(Reply::Done)
}

pub(super) fn adopt_writer<B: Base>(
    step: &mut Step<'_, '_, B>,
    stanza: &StanzaName,
    timeline: TimelineId,
    instance: String,
    machine: String,
) -> Outcome {
    let mut record = need(step, stanza)?;
    step.audit(format!(
        "instance {instance} adopted as writer of timeline {timeline} of stanza {stanza}"
    ));
    let mut writer = Writer::new(instance, machine, step.index, step.actor);
    // Only the machine tells a clone of this volume from it.
    if let Some(before) = record.writers.get(&timeline)
        && before.instance == writer.instance
        && before.machine != writer.machine
    {
        writer.barred.clone_from(&before.machine);
    }
    record.writers.insert(timeline, writer);
    record.make_room();
    put(step, stanza, &record);
    Ok(Reply::Done)
}

pub(super) fn delete<B: Base>(step: &mut Step<'_, '_, B>, stanza: &StanzaName, force: bool) -> Outcome {
    let mut record = need(step, stanza)?;
    if !record.deleting {
        if record.stopped.is_none() && !force {
            return Err(Refusal::StanzaNotStopped(stanza.clone()).into());
        }
        // Before anything changes: a refusal must not leave a stanza behind that takes no WAL.
        refuse_running_backup(stanza, &record)?;
        let ended = end_restores(step, stanza, force)?;
        step.audit(format!("deletion of stanza {stanza} began{ended}"));
        record.deleting = true;
    }
    let removed = delete_segments(step, stanza, &record, DELETE_STEP)?;
    let removed = removed + delete_backups(step, stanza, DELETE_STEP - removed)?;
    let removed = removed + delete_pushes(step, stanza, DELETE_STEP - removed)?;
    let removed = removed + use_judge::drop_of_stanza(step, stanza, DELETE_STEP - removed)?;
    let removed = removed + rights::drop_of_stanza(step, stanza, DELETE_STEP - removed)?;
    let removed = removed + delete_rest(step, stanza, DELETE_STEP - removed)?;
    if removed == DELETE_STEP {
        record.since = step.index;
        put(step, stanza, &record);
        return Ok(Reply::Deleting { more: true });
    }
    for database in &record.databases {
        let object = ObjectRef::StanzaInfo {
            stanza: stanza.clone(),
            db: database.id,
        };
        let found = Found {
            object: database.info.clone(),
            archive: Some(database.archive_id()),
        };
        discard(step, &object, &found)?;
    }
    step.txn.delete(Table::Unlisted, key::stanza(stanza));
    step.txn.delete(Table::Stanzas, key::stanza(stanza));
    step.audit(format!("stanza {stanza} deleted"));
    Ok(Reply::Deleting { more: false })
}

/// Refuses while restores run; with `force`, ends their sessions. A restore's session protects the objects that it
/// reads, and the catalog must still say where they are: above all the WAL, which no manifest lists. Returns the words
/// to add to the audit trail.
pub(super) fn end_restores<B: Base>(step: &mut Step<'_, '_, B>, stanza: &StanzaName, force: bool) -> Outcome<String> {
    let restores = restores(step, stanza)?;
    let Some((session, holder)) = restores.first() else {
        return Ok(String::new());
    };
    if !force {
        return Err(Refusal::RestoreRunning {
            stanza: stanza.clone(),
            session: *session,
            holder: holder.clone(),
            others: u32::try_from(restores.len() - 1).unwrap_or(u32::MAX),
        }
        .into());
    }
    for (session, _) in &restores {
        session::close(step, *session)?;
    }
    Ok(format!("; {} sessions of restores were ended by it", restores.len()))
}

fn restores<B: Base>(step: &Step<'_, '_, B>, stanza: &StanzaName) -> Result<Vec<(SessionId, String)>, ReadError> {
    let mut restores = Vec::new();
    for row in step.txn.records::<SessionRecord>(Table::Sessions, &[]) {
        let (key, record) = row?;
        if record.kind == SessionKind::Restore && record.stanza.as_ref() == Some(stanza) {
            let session = KeyReader::new(&key).index().map(SessionId);
            let session = session.ok_or_else(|| ReadError::MalformedKey {
                table: Table::Sessions,
                key: hex::encode(&key),
            })?;
            restores.push((session, record.holder));
        }
    }
    Ok(restores)
}

fn first_keys<B: Base>(
    step: &Step<'_, '_, B>,
    table: Table,
    stanza: &StanzaName,
    limit: usize,
) -> Result<Vec<Row>, ReadError> {
    let prefix = key::stanza_prefix(stanza);
    step.txn.scan(table, &prefix, &prefix).take(limit).collect()
}

fn delete_segments<B: Base>(
    step: &mut Step<'_, '_, B>,
    stanza: &StanzaName,
    owner: &StanzaRecord,
    limit: usize,
) -> Result<usize, ReadError> {
    let rows = first_keys(step, Table::Segments, stanza, limit)?;
    for (key, bytes) in &rows {
        let record: SegmentRecord = crate::value::decode(Table::Segments, key, bytes)?;
        if let Some(object @ ObjectRef::Segment { db, .. }) = &key::read_segment(key) {
            let found = Found {
                object: record.object,
                archive: owner.database(*db).map(Database::archive_id),
            };
            discard(step, object, &found)?;
        }
        step.txn.delete(Table::Segments, key.clone());
    }
    Ok(rows.len())
}

fn delete_pushes<B: Base>(step: &mut Step<'_, '_, B>, stanza: &StanzaName, limit: usize) -> Result<usize, ReadError> {
    let rows = first_keys(step, Table::Pushes, stanza, limit)?;
    for (key, _) in &rows {
        step.txn.delete(Table::Pushes, key.clone());
    }
    Ok(rows.len())
}

/// Rows that only say what has expired, or is to be released. The sweep finds the chunks that nothing needs any more.
fn delete_rest<B: Base>(step: &mut Step<'_, '_, B>, stanza: &StanzaName, limit: usize) -> Result<usize, ReadError> {
    let mut removed = 0;
    for table in [Table::Abandoned, Table::ExpiredWal] {
        let rows = first_keys(step, table, stanza, limit.saturating_sub(removed))?;
        removed += rows.len();
        for (key, _) in rows {
            step.txn.delete(table, key);
        }
    }
    for (repo, _) in repositories(step)? {
        let mut prefix = key::repository(repo);
        prefix.extend_from_slice(&key::stanza_prefix(stanza));
        let rows = step.txn.scan(Table::Releases, &prefix, &prefix);
        let rows: Vec<Row> = rows.take(limit.saturating_sub(removed)).collect::<Result<_, _>>()?;
        removed += rows.len();
        for (key, _) in rows {
            step.txn.delete(Table::Releases, key);
        }
    }
    Ok(removed)
}

fn delete_backups<B: Base>(step: &mut Step<'_, '_, B>, stanza: &StanzaName, limit: usize) -> Result<usize, ReadError> {
    let rows = first_keys(step, Table::Backups, stanza, limit)?;
    for (key, bytes) in &rows {
        let record: BackupRecord = crate::value::decode(Table::Backups, key, bytes)?;
        if let Some((stanza, label)) = key::read_backup(key) {
            backup::drop_record(step, &stanza, &label, &record);
            let found = Found {
                object: record.manifest,
                archive: None,
            };
            discard(step, &ObjectRef::Manifest { stanza, label }, &found)?;
        }
        unreference(step);
    }
    Ok(rows.len())
}
