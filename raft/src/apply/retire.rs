//! Repositories that are forgotten, and repositories whose disk was lost: walks over all rows that mention one, a bounded
//! number of rows a step, with the cursor in the repository's record.
//!
//! While a walk goes on, the repository takes no replicas ([`RepositoryRecord::takes_replicas`]): none can appear behind
//! the cursor.

use pgmesh_storage::{RepoKey, WrappedKey};

use super::node::lose_reach;
use super::objects::{count_kept, free_generation, need_repository, owe, settle, uncount_replica, withdraw};
use super::repository::refuse_known_storage;
use super::{Base, Outcome, Row, Step};
use crate::error::ReadError;
use crate::key::{self, KeyReader};
use crate::model::{
    BackupRecord, ChangeKind, ChunkRecord, Debt, DebtReason, NodeName, ObjectRef, Replica, RepositoryChange,
    RepositoryRecord, SegmentRecord, StanzaRecord, StoredObject,
};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;
use crate::value;

/// How many rows one step looks at; few in tests, so that walks there take several.
const STEP: usize = if cfg!(test) { 3 } else { 2_000 };

/// How many bytes of rows one step looks at, whatever their number: what a command writes is bounded, too.
const STEP_BYTES: usize = 8 << 20;

/// The tables whose rows mention a retired repository. Those that a replaced one is done with come first.
const TABLES: [Table; 7] = [
    Table::Chunks,
    Table::Segments,
    Table::Backups,
    Table::Stanzas,
    Table::Kept,
    Table::Garbage,
    Table::Debts,
];
/// With what the lost one kept: the empty one keeps nothing.
const REPLACED_TABLES: usize = 5;

pub(super) fn retire<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey) -> Outcome {
    let mut record = need_repository(step, repo)?;
    let is_on = record
        .change
        .as_ref()
        .is_some_and(|change| change.kind == ChangeKind::Retiring);
    if !is_on {
        step.audit(format!("repo{repo}: its removal from the mesh began"));
        begin(&mut record, ChangeKind::Retiring);
    }
    if let Some(orphans) = walk(step, repo, &mut record)? {
        step.audit(format!(
            "repo{repo} ({}) was removed from the mesh; {orphans} objects were nowhere else",
            record.uuid
        ));
        lose_reach(step, repo)?;
        step.txn.delete(Table::Repositories, key::repository(repo));
        step.txn.delete(Table::Counters, key::repository(repo));
        return Ok(Reply::Retiring { more: false });
    }
    step.txn.put(Table::Repositories, key::repository(repo), &record);
    Ok(Reply::Retiring { more: true })
}

pub(super) fn replace<B: Base>(
    step: &mut Step<'_, '_, B>,
    repo: RepoKey,
    uuid: String,
    wrapped_keys: Vec<WrappedKey>,
    node: &NodeName,
) -> Outcome {
    let mut record = need_repository(step, repo)?;
    match &record.change {
        Some(change) if change.kind == ChangeKind::Retiring => return Err(changing(repo, change.kind).into()),
        // A second disk may be lost before all of the first one is owed: the walk then begins again.
        Some(_) if record.uuid == uuid => {}
        None if record.uuid == uuid => return Ok(Reply::Replacing { more: false }),
        _ => {
            refuse_known_storage(step, repo, &uuid)?;
            step.audit(format!(
                "repo{repo}: node {node} found an empty repository ({uuid}) in place of {}",
                record.uuid
            ));
            record.uuid = uuid;
            record.wrapped_keys = wrapped_keys;
            begin(&mut record, ChangeKind::Replacing);
        }
    }
    let done = walk(step, repo, &mut record)?;
    if let Some(orphans) = done {
        record.change = None;
        record.replaced = step.index;
        step.audit(format!(
            "repo{repo}: all that the lost disk held is owed; {orphans} objects were nowhere else"
        ));
    }
    step.txn.put(Table::Repositories, key::repository(repo), &record);
    Ok(Reply::Replacing { more: done.is_none() })
}

/// The refusal of whatever must wait for a walk's end.
pub(super) fn changing(repo: RepoKey, kind: ChangeKind) -> Refusal {
    let doing = match kind {
        ChangeKind::Retiring => "removed from the mesh",
        ChangeKind::Replacing => "made good after the loss of its disk",
    };
    Refusal::RepositoryChanging {
        repo,
        doing: doing.to_owned(),
    }
}

fn begin(record: &mut RepositoryRecord, kind: ChangeKind) {
    if kind == ChangeKind::Retiring {
        record.backfill = None;
    }
    record.change = Some(RepositoryChange {
        kind,
        table: 0,
        after: None,
        orphans: 0,
    });
}

/// One step. Answers the number of orphans when the walk has come to its end.
fn walk<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey, record: &mut RepositoryRecord) -> Outcome<Option<u64>> {
    let Some(change) = &mut record.change else {
        return Ok(Some(0));
    };
    let end = match change.kind {
        ChangeKind::Retiring => TABLES.len(),
        ChangeKind::Replacing => REPLACED_TABLES,
    };
    let mut left = STEP;
    let mut has_withdrawn = false;
    while let Some(table) = TABLES
        .get(..end)
        .and_then(|tables| tables.get(usize::from(change.table)))
        .copied()
    {
        let (rows, more) = next_rows(step, table, repo, change.after.take(), left)?;
        for row in &rows {
            let visit = Visit {
                repo,
                kind: change.kind,
            };
            let (withdrawn, orphans) = visit.row(step, table, row)?;
            has_withdrawn |= withdrawn;
            change.orphans += orphans;
        }
        if more {
            change.after = rows.into_iter().next_back().map(|(key, _)| key);
            break;
        }
        left -= rows.len();
        change.table += 1;
    }
    if has_withdrawn {
        withdraw(step);
    }
    let is_done = usize::from(change.table) >= end;
    Ok(is_done.then_some(change.orphans))
}

/// The next rows, and whether there may be more.
fn next_rows<B: Base>(
    step: &Step<'_, '_, B>,
    table: Table,
    repo: RepoKey,
    after: Option<Vec<u8>>,
    limit: usize,
) -> Result<(Vec<Row>, bool), ReadError> {
    let prefix = match table {
        Table::Debts => key::repository(repo),
        _ => Vec::new(),
    };
    let from = after.map_or_else(|| prefix.clone(), key::after);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for row in step.txn.scan(table, &from, &prefix) {
        let row = row?;
        bytes += row.1.len();
        rows.push(row);
        if rows.len() == limit || bytes >= STEP_BYTES {
            return Ok((rows, true));
        }
    }
    Ok((rows, false))
}

/// What is done to each row.
#[derive(Clone, Copy)]
struct Visit {
    repo: RepoKey,
    kind: ChangeKind,
}

impl Visit {
    /// Says whether a replica was withdrawn, and how many objects have none any more.
    fn row<B: Base>(self, step: &mut Step<'_, '_, B>, table: Table, row: &Row) -> Result<(bool, u64), ReadError> {
        let (key, bytes) = row;
        let malformed = || ReadError::MalformedKey {
            table,
            key: hex::encode(key),
        };
        match table {
            Table::Chunks => {
                let mut chunk: ChunkRecord = value::decode(table, key, bytes)?;
                let digest = KeyReader::new(key).digest().ok_or_else(malformed)?;
                if chunk.condemned.is_some() {
                    // It counts as absent already; the sweep must not look for it in a repository that is gone.
                    if self.kind == ChangeKind::Retiring {
                        chunk.replicas.retain(|replica| replica.repo != self.repo);
                        step.txn.put(table, key.clone(), &chunk);
                    }
                    return Ok((false, 0));
                }
                let mut stored = StoredObject {
                    digest,
                    plain_length: u64::from(chunk.length),
                    stored_length: u64::from(chunk.stored_length),
                    replicas: std::mem::take(&mut chunk.replicas),
                };
                let withdrawn = self.object(step, &ObjectRef::Chunk(digest), &mut stored)?;
                let orphans = orphans(withdrawn, &stored);
                if withdrawn {
                    chunk.replicas = stored.replicas;
                    step.txn.put(table, key.clone(), &chunk);
                }
                Ok((withdrawn, orphans))
            }
            Table::Segments => {
                let mut record: SegmentRecord = value::decode(table, key, bytes)?;
                let object = key::read_segment(key).ok_or_else(malformed)?;
                let withdrawn = self.object(step, &object, &mut record.object)?;
                if withdrawn {
                    step.txn.put(table, key.clone(), &record);
                }
                Ok((withdrawn, orphans(withdrawn, &record.object)))
            }
            Table::Backups => {
                let mut record: BackupRecord = value::decode(table, key, bytes)?;
                let (stanza, label) = key::read_backup(key).ok_or_else(malformed)?;
                let object = ObjectRef::Manifest { stanza, label };
                let withdrawn = self.object(step, &object, &mut record.manifest)?;
                if withdrawn {
                    step.txn.put(table, key.clone(), &record);
                }
                Ok((withdrawn, orphans(withdrawn, &record.manifest)))
            }
            Table::Stanzas => self.stanza(step, row),
            Table::Garbage | Table::Kept => {
                let garbage = key::read_garbage(key).ok_or_else(malformed)?;
                if garbage.repo == self.repo {
                    step.txn.delete(table, key.clone());
                    if table == Table::Kept {
                        count_kept(step, self.repo, -1)?;
                    }
                }
                Ok((false, 0))
            }
            _ => {
                let (repo, object) = key::read_debt(key).ok_or_else(malformed)?;
                settle(step, repo, &object)?;
                Ok((false, 0))
            }
        }
    }

    fn stanza<B: Base>(self, step: &mut Step<'_, '_, B>, (key, bytes): &Row) -> Result<(bool, u64), ReadError> {
        let mut record: StanzaRecord = value::decode(Table::Stanzas, key, bytes)?;
        let stanza = KeyReader::new(key).rest().and_then(|name| name.parse().ok());
        let stanza: pgmesh_storage::StanzaName = stanza.ok_or_else(|| ReadError::MalformedKey {
            table: Table::Stanzas,
            key: hex::encode(key),
        })?;
        let mut any = false;
        let mut lost = 0;
        for database in &mut record.databases {
            let object = ObjectRef::StanzaInfo {
                stanza: stanza.clone(),
                db: database.id,
            };
            let withdrawn = self.object(step, &object, &mut database.info)?;
            any |= withdrawn;
            lost += orphans(withdrawn, &database.info);
        }
        if any {
            step.txn.put(Table::Stanzas, key.clone(), &record);
        }
        Ok((any, lost))
    }

    /// Withdraws the object's replica in the repository, if there is one.
    fn object<B: Base>(
        self,
        step: &mut Step<'_, '_, B>,
        object: &ObjectRef,
        stored: &mut StoredObject,
    ) -> Result<bool, ReadError> {
        let position = stored.replicas.iter().position(|replica| replica.repo == self.repo);
        let Some(position) = position else {
            return Ok(false);
        };
        let lost: Replica = stored.replicas.remove(position);
        uncount_replica(step, self.repo, stored.stored_length)?;
        if self.kind == ChangeKind::Replacing {
            let debt = Debt {
                since: step.at,
                reason: DebtReason::Missing,
                // Above the lost one's: whoever still holds the old disk's word for it is not believed.
                generation: free_generation(step.txn, object, &[lost])?,
                bytes: stored.stored_length,
            };
            owe(step, self.repo, object, &debt)?;
        }
        Ok(true)
    }
}

fn orphans(withdrawn: bool, stored: &StoredObject) -> u64 {
    u64::from(withdrawn && stored.replicas.is_empty())
}
