//! Repositories that are forgotten, and repositories whose disk was lost: walks over all rows that mention one, a
//! bounded number of rows a step, with the cursor in the repository's record.
//!
//! While a walk goes on, the repository takes no replicas ([`RepositoryRecord::takes_replicas`]): none can appear
//! behind the cursor.

use pgmesh_storage::{Digest, RepoKey, WrappedKey};

use super::mesh::compares_no_more;
use super::names::{free_generation, retire_name};
use super::node::lose_reach;
use super::objects::{count_kept, find, need_repository, note_lost, owe, repositories, settle, uncount_replica};
use super::repository_checks::{changing, refuse_known_storage};
use super::use_judge::{self, Judge};
use super::{Base, Outcome, Row, Step, orphans, release, withdrawn};
use crate::error::ReadError;
use crate::key::{self, KeyReader};
use crate::model::{
    Backfill, BackupRecord, ChangeKind, ChunkRecord, Debt, DebtReason, ExpiredIn, NodeName, ObjectRef, Replica,
    RepositoryChange, RepositoryCounters, RepositoryRecord, SegmentRecord, StanzaRecord, StoredObject,
};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;
use crate::value;

/// How many rows one step looks at; few in tests, so that walks there take several.
const STEP: usize = if cfg!(test) { 3 } else { 2_000 };

/// How many debts of another repository are looked through for objects that are nowhere else.
const MAX_DEBTS_SEARCHED: u64 = if cfg!(test) { 16 } else { 20_000 };
/// How many bytes of rows one step looks at, whatever their number: the writes of a command are bounded, too.
const STEP_BYTES: usize = 8 << 20;

/// The tables whose rows mention a retired repository. The walk over a replaced repository needs only the first ones.
const TABLES: [Table; 9] = [
    Table::Chunks,
    Table::Segments,
    Table::Backups,
    Table::Stanzas,
    Table::Orphans,
    Table::Kept,
    Table::Garbage,
    Table::Debts,
    Table::Releases,
];
/// Up to and with table `Kept`: the empty repository keeps nothing of the lost one.
const REPLACED_TABLES: usize = 6;

pub(super) fn retire<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey, force: bool) -> Outcome {
    let mut record = need_repository(step, repo)?;
    if !record.is_retiring() {
        refuse_needed(step, repo, force)?;
        let how = if force { ", by force" } else { "" };
        step.audit(format!("repo{repo}: its removal from the mesh began{how}"));
        begin(&mut record, ChangeKind::Retiring);
    }
    if let Some(change) = &mut record.change {
        change.forced |= force;
    }
    let orphans = match walk(step, repo, &mut record)? {
        Walked::More => None,
        Walked::Done { orphans } => Some(orphans),
        Walked::StillNeeded(object) => {
            step.audit(format!("repo{repo} stays: {object} is nowhere else"));
            record.change = None;
            // Most of the withdrawn replicas lie there still: the repair finds them when it comes to write them.
            record.backfill = Some(Backfill::default());
            step.txn.put(Table::Repositories, key::repository(repo), &record);
            return Ok(Reply::StillNeeded { object });
        }
    };
    if let Some(orphans) = orphans {
        step.audit(format!(
            "repo{repo} ({}) was removed from the mesh; {orphans} objects were nowhere else",
            record.uuid
        ));
        lose_reach(step, repo)?;
        compares_no_more(step, repo)?;
        step.txn.delete(Table::Mesh, key::REBUILT.to_vec());
        step.txn.delete(Table::Repositories, key::repository(repo));
        step.txn.delete(Table::Counters, key::repository(repo));
        orphans::drop_scan(step, repo);
        return Ok(Reply::Retiring { more: false });
    }
    step.txn.put(Table::Repositories, key::repository(repo), &record);
    Ok(Reply::Retiring { more: true })
}

/// Refuses to forget a repository while objects would have no other replica. Every other repository that is not being
/// backfilled owes every object that it does not hold. So an object that is nowhere else is among the debts of each of
/// them, and it suffices to search the repository that owes least.
fn refuse_needed<B: Base>(step: &Step<'_, '_, B>, repo: RepoKey, force: bool) -> Outcome<()> {
    let mut others = repositories(step)?;
    others.retain(|(other, record)| *other != repo && !record.is_retiring());
    let Some((first, _)) = others.first() else {
        return Err(Refusal::LastRepository(repo).into());
    };
    if force {
        return Ok(());
    }
    let mut least: Option<(u64, RepoKey)> = None;
    for (other, _) in others
        .iter()
        .filter(|(_, record)| record.backfill.is_none() && record.change.is_none())
    {
        let counters = step.txn.record(Table::Counters, &key::repository(*other))?;
        let counters: RepositoryCounters = counters.unwrap_or_default();
        least = least.into_iter().chain([(counters.debts, *other)]).min();
    }
    let Some((debts, other)) = least else {
        let (other, debts) = (*first, None);
        return Err(Refusal::OthersOwe { repo, other, debts }.into());
    };
    if debts > MAX_DEBTS_SEARCHED {
        let debts = Some(debts);
        return Err(Refusal::OthersOwe { repo, other, debts }.into());
    }
    let prefix = key::repository(other);
    for row in step.txn.scan(Table::Debts, &prefix, &prefix) {
        let (key, _) = row?;
        let (_, object) = key::read_debt(&key).ok_or_else(|| ReadError::MalformedKey {
            table: Table::Debts,
            key: hex::encode(&key),
        })?;
        let held = find(step.txn, &object)?.map(|found| found.object.replicas);
        let held = held.unwrap_or_default();
        let stays = |replica: &Replica| {
            others
                .iter()
                .any(|(other, record)| replica.repo == *other && record.change.is_none())
        };
        if !held.is_empty() && !held.iter().any(stays) {
            return Err(Refusal::RepositoryNeeded { repo, object }.into());
        }
    }
    Ok(())
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
            record.mark = None;
            record.was_of_lost_catalog = false;
            // The lost disk may be found again, and be registered under another number.
            step.txn.delete(Table::Mesh, key::REBUILT.to_vec());
            begin(&mut record, ChangeKind::Replacing);
        }
    }
    replace_step(step, repo, record)
}

/// The next step of the change that is under way, as it was begun.
pub(super) fn go_on<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey, record: RepositoryRecord) -> Outcome {
    match &record.change {
        Some(change) if change.kind == ChangeKind::Retiring => retire(step, repo, change.forced),
        _ => replace_step(step, repo, record),
    }
}

fn replace_step<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey, mut record: RepositoryRecord) -> Outcome {
    let mut more = true;
    if let Walked::Done { orphans } = walk(step, repo, &mut record)? {
        more = false;
        record.change = None;
        step.audit(format!(
            "repo{repo}: all that the lost disk held is owed; {orphans} objects were nowhere else"
        ));
        compares_no_more(step, repo)?;
        orphans::drop_scan(step, repo);
    }
    step.txn.put(Table::Repositories, key::repository(repo), &record);
    Ok(Reply::Replacing { more })
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
        // The replicas on a lost disk cannot be kept.
        forced: kind == ChangeKind::Replacing,
    });
}

/// The result of one step of a walk.
enum Walked {
    /// Rows are left.
    More,
    /// All rows were looked at.
    Done {
        /// How many objects have lost their last replica.
        orphans: u64,
    },
    /// The object's last replica would be withdrawn, and the walk is not forced.
    StillNeeded(ObjectRef),
}

/// One step.
fn walk<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey, record: &mut RepositoryRecord) -> Outcome<Walked> {
    let Some(change) = &mut record.change else {
        return Ok(Walked::Done { orphans: 0 });
    };
    let end = match change.kind {
        ChangeKind::Retiring => TABLES.len(),
        ChangeKind::Replacing => REPLACED_TABLES,
    };
    let mut left = STEP;
    let all = repositories(step)?;
    let remaining = all
        .iter()
        .filter(|(other, record)| *other != repo && !record.is_retiring());
    let remaining: Vec<RepoKey> = remaining.map(|(other, _)| *other).collect();
    let staying = all.into_iter();
    let staying = staying.filter(|(other, record)| *other != repo && record.change.is_none());
    let staying: Vec<RepoKey> = staying.map(|(other, _)| other).collect();
    let mut visit = Visit {
        repo,
        kind: change.kind,
        remaining,
        staying: (!change.forced).then_some(staying),
        withdrawn: Vec::new(),
        orphans: change.orphans,
        needed: None,
        are_listed: use_judge::unlisted(step.txn)?.is_none(),
        judge: Judge::default(),
    };
    while let Some(table) = TABLES
        .get(..end)
        .and_then(|tables| tables.get(usize::from(change.table)))
        .copied()
    {
        let (rows, more) = next_rows(step, table, repo, change.after.take(), left)?;
        for row in &rows {
            visit.row(step, table, row)?;
        }
        if visit.needed.is_some() {
            break;
        }
        if more {
            change.after = rows.into_iter().next_back().map(|(key, _)| key);
            break;
        }
        left -= rows.len();
        change.table += 1;
    }
    withdrawn::note(step, &visit.withdrawn)?;
    change.orphans = visit.orphans;
    match visit.needed {
        Some(object) => Ok(Walked::StillNeeded(object)),
        None if usize::from(change.table) < end => Ok(Walked::More),
        None => Ok(Walked::Done { orphans: visit.orphans }),
    }
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
        Table::Debts | Table::Orphans | Table::Releases => key::repository(repo),
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

/// The work on each row.
struct Visit {
    repo: RepoKey,
    kind: ChangeKind,
    /// The repositories that are left.
    remaining: Vec<RepoKey>,
    /// The repositories whose replicas stay, since no walk goes over them. `None` where the walk is forced.
    staying: Option<Vec<RepoKey>>,
    /// Chunks that have lost a replica, and how many they have left.
    withdrawn: Vec<(Digest, usize)>,
    /// How many objects have lost their last replica.
    orphans: u64,
    /// An object whose last replica was left in its place.
    needed: Option<ObjectRef>,
    /// Whether all uses of chunks are known.
    are_listed: bool,
    judge: Judge,
}

impl Visit {
    fn row<B: Base>(&mut self, step: &mut Step<'_, '_, B>, table: Table, row: &Row) -> Result<(), ReadError> {
        let (key, bytes) = row;
        let malformed = || ReadError::MalformedKey {
            table,
            key: hex::encode(key),
        };
        match table {
            Table::Chunks => self.chunk(step, row)?,
            Table::Segments => {
                let mut record: SegmentRecord = value::decode(table, key, bytes)?;
                let object = key::read_segment(key).ok_or_else(malformed)?;
                let is_changed = self.object(step, &object, &mut record.object, &record.expired)?;
                let is_forgotten = self.kind == ChangeKind::Retiring && record.expired.remove(&self.repo);
                if self.is_kept_nowhere(&record.expired) && record.object.replicas.is_empty() {
                    release::drop_segment(step, key, &object, record)?;
                } else if is_changed || is_forgotten {
                    step.txn.put(table, key.clone(), &record);
                }
            }
            Table::Backups => {
                let mut record: BackupRecord = value::decode(table, key, bytes)?;
                let (stanza, label) = key::read_backup(key).ok_or_else(malformed)?;
                let object = ObjectRef::Manifest {
                    stanza: stanza.clone(),
                    label: label.clone(),
                };
                let is_changed = self.object(step, &object, &mut record.manifest, &record.expired)?;
                let is_forgotten = self.kind == ChangeKind::Retiring && record.expired.remove(&self.repo);
                if is_changed || is_forgotten {
                    step.txn.put(table, key.clone(), &record);
                }
                if let Some(other) = self.remaining.first().filter(|_| self.is_kept_nowhere(&record.expired)) {
                    // The end of the release finds that nobody keeps the backup.
                    let row = key::release(*other, &stanza, &label);
                    step.txn.put(Table::Releases, row, &step.index);
                }
            }
            Table::Stanzas => self.stanza(step, row)?,
            Table::Orphans => orphans::drop_row(step, self.repo, key.clone())?,
            Table::Garbage | Table::Kept => {
                let garbage = key::read_garbage(key).ok_or_else(malformed)?;
                if garbage.repo == self.repo {
                    retire_name(step, garbage.generation)?;
                    step.txn.delete(table, key.clone());
                    if table == Table::Kept {
                        count_kept(step, self.repo, -1)?;
                    }
                }
            }
            Table::Releases => {
                let (repo, stanza, label) = key::read_release(key).ok_or_else(malformed)?;
                release::drop_release(step, repo, &stanza, &label)?;
            }
            _ => {
                let (repo, object) = key::read_debt(key).ok_or_else(malformed)?;
                settle(step, repo, &object)?;
            }
        }
        Ok(())
    }

    /// Whether the repository that is forgotten was the last one to keep an object.
    fn is_kept_nowhere(&self, expired: &ExpiredIn) -> bool {
        let is_forgetting = self.kind == ChangeKind::Retiring && !self.remaining.is_empty();
        is_forgetting && self.remaining.iter().all(|other| expired.contains(other))
    }

    fn chunk<B: Base>(&mut self, step: &mut Step<'_, '_, B>, (key, bytes): &Row) -> Result<(), ReadError> {
        let table = Table::Chunks;
        let mut chunk: ChunkRecord = value::decode(table, key, bytes)?;
        let digest = KeyReader::new(key).digest().ok_or_else(|| ReadError::MalformedKey {
            table,
            key: hex::encode(key),
        })?;
        if chunk.condemned.is_some() {
            // It counts as absent already; the collector must not look for it in a repository that is gone, nor a
            // session that takes it back count on a disk that is lost.
            let of_it: Vec<Replica> = chunk
                .replicas
                .extract_if(.., |replica| replica.repo == self.repo)
                .collect();
            // It may be being deleted, or be deleted late.
            for replica in &of_it {
                retire_name(step, replica.generation)?;
            }
            if !of_it.is_empty() {
                step.txn.put(table, key.clone(), &chunk);
            }
            return Ok(());
        }
        let mut stored = StoredObject {
            digest,
            plain_length: u64::from(chunk.length),
            stored_length: u64::from(chunk.stored_length),
            replicas: std::mem::take(&mut chunk.replicas),
        };
        if self.object(step, &ObjectRef::Chunk(digest), &mut stored, &ExpiredIn::new())? {
            chunk.replicas = stored.replicas;
            step.txn.put(table, key.clone(), &chunk);
        }
        Ok(())
    }

    fn stanza<B: Base>(&mut self, step: &mut Step<'_, '_, B>, (key, bytes): &Row) -> Result<(), ReadError> {
        let mut record: StanzaRecord = value::decode(Table::Stanzas, key, bytes)?;
        let stanza = KeyReader::new(key).rest().and_then(|name| name.parse().ok());
        let stanza: pgmesh_storage::StanzaName = stanza.ok_or_else(|| ReadError::MalformedKey {
            table: Table::Stanzas,
            key: hex::encode(key),
        })?;
        let mut any = false;
        for database in &mut record.databases {
            let object = ObjectRef::StanzaInfo {
                stanza: stanza.clone(),
                db: database.id,
            };
            any |= self.object(step, &object, &mut database.info, &ExpiredIn::new())?;
        }
        if any {
            step.txn.put(Table::Stanzas, key.clone(), &record);
        }
        Ok(())
    }

    /// Whether one of these repositories keeps an object.
    fn is_kept_in_any<B: Base>(
        &mut self,
        step: &Step<'_, '_, B>,
        object: &ObjectRef,
        expired: &ExpiredIn,
        repos: &[RepoKey],
    ) -> Result<bool, ReadError> {
        match object {
            // Without all uses, any chunk may be needed.
            ObjectRef::Chunk(digest) if self.are_listed && Judge::is_used(step.txn, digest)? => {
                self.judge.is_needed(step.txn, digest, repos)
            }
            _ => Ok(repos.iter().any(|repo| !expired.contains(repo))),
        }
    }

    /// Whether the object would be lost with its replica in the repository: a replica that another repository is about
    /// to release is none.
    fn is_last<B: Base>(
        &mut self,
        step: &Step<'_, '_, B>,
        object: &ObjectRef,
        stored: &StoredObject,
        expired: &ExpiredIn,
    ) -> Result<bool, ReadError> {
        let Some(staying) = self.staying.clone() else {
            return Ok(false);
        };
        let held: Vec<RepoKey> = staying
            .into_iter()
            .filter(|repo| stored.replicas.iter().any(|replica| replica.repo == *repo))
            .collect();
        // Without another replica it is the last one, however the uses are judged.
        if !held.is_empty() && self.is_kept_in_any(step, object, expired, &held)? {
            return Ok(false);
        }
        let mut keeping = self.remaining.clone();
        keeping.push(self.repo);
        self.is_kept_in_any(step, object, expired, &keeping)
    }

    /// Withdraws the object's replica in the repository, if there is one; says whether it did.
    fn object<B: Base>(
        &mut self,
        step: &mut Step<'_, '_, B>,
        object: &ObjectRef,
        stored: &mut StoredObject,
        expired: &ExpiredIn,
    ) -> Result<bool, ReadError> {
        let position = stored.replicas.iter().position(|replica| replica.repo == self.repo);
        let Some(position) = position else {
            return Ok(false);
        };
        if self.is_last(step, object, stored, expired)? {
            self.needed.get_or_insert_with(|| object.clone());
            return Ok(false);
        }
        let lost: Replica = stored.replicas.remove(position);
        uncount_replica(step, self.repo, stored.stored_length)?;
        if self.kind == ChangeKind::Replacing {
            let debt = Debt {
                since: step.at,
                reason: DebtReason::Missing,
                // Above the lost replica's generation: a claim that rests on the old disk is passed over.
                generation: free_generation(step.txn, object, &[lost])?,
                bytes: stored.stored_length,
            };
            owe(step, self.repo, object, &debt)?;
        }
        if let ObjectRef::Chunk(digest) = object {
            self.withdrawn.push((*digest, stored.replicas.len()));
        }
        if stored.replicas.is_empty() {
            self.orphans += 1;
            note_lost(step, object, &[]);
        }
        Ok(true)
    }
}
