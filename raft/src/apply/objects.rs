//! Objects and where they are: replicas, debts, garbage, and the counters over them.
//!
//! For every object that is known and every registered repository there is either a replica or a debt, never both (but
//! for a repository whose backfill has not come to the object yet). In a repository where the object has expired there
//! is neither.

use std::collections::BTreeSet;

use pgmesh_storage::{ArchiveId, RepoKey};

use super::names::{free_generation, stale};
use super::use_judge::Judge;
use super::{Base, Outcome, Step, withdrawn};
use crate::command::{ClaimedObject, NewReplica};
use crate::error::ReadError;
use crate::key::{self, KeyReader};
use crate::model::{
    BackupRecord, ChangeKind, ChunkRecord, Claim, Debt, DebtReason, ExpiredIn, Garbage, GarbageKey, LogIndex, Lost,
    ObjectRef, Replica, RepositoryCounters, RepositoryRecord, SegmentRecord, SessionId, SessionKind, SessionRecord,
    StanzaRecord, StoredObject,
};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;

/// A known object, and the archive that its name mentions.
pub(crate) struct Found {
    pub(crate) object: StoredObject,
    pub(crate) archive: Option<ArchiveId>,
}

impl Found {
    /// A replica of it that became garbage at `since`.
    pub(super) fn garbage(&self, since: LogIndex) -> Garbage {
        Garbage {
            since,
            digest: self.object.digest,
            archive: self.archive,
            plain_length: self.object.plain_length,
        }
    }
}

/// Looks up an object of any kind. Condemned chunks are not found (invariant 5).
pub(crate) fn find<B: Base>(base: &B, object: &ObjectRef) -> Result<Option<Found>, ReadError> {
    let found = match object {
        ObjectRef::Chunk(digest) => base
            .record::<ChunkRecord>(Table::Chunks, &key::chunk(digest))?
            .filter(|chunk| chunk.condemned.is_none())
            .map(|chunk| Found {
                object: StoredObject {
                    digest: *digest,
                    plain_length: u64::from(chunk.length),
                    stored_length: u64::from(chunk.stored_length),
                    replicas: chunk.replicas,
                },
                archive: None,
            }),
        ObjectRef::Segment { stanza, db, file } => {
            let key = key::segment(stanza, *db, &file.to_string());
            let record = base.record::<SegmentRecord>(Table::Segments, &key)?;
            let owner = base.record::<StanzaRecord>(Table::Stanzas, &key::stanza(stanza))?;
            let archive = owner.and_then(|owner| owner.database(*db).map(|db| db.archive_id()));
            record.map(|record| Found {
                object: record.object,
                archive,
            })
        }
        ObjectRef::Manifest { stanza, label } => base
            .record::<BackupRecord>(Table::Backups, &key::backup(stanza, label))?
            .map(|backup| Found {
                object: backup.manifest,
                archive: None,
            }),
        ObjectRef::StanzaInfo { stanza, db } => {
            let owner = base.record::<StanzaRecord>(Table::Stanzas, &key::stanza(stanza))?;
            owner.and_then(|owner| {
                owner.database(*db).map(|database| Found {
                    object: database.info.clone(),
                    archive: Some(database.archive_id()),
                })
            })
        }
    };
    Ok(found)
}

/// Writes an object's replicas into its record.
fn set_replicas<B: Base>(
    step: &mut Step<'_, '_, B>,
    object: &ObjectRef,
    replicas: Vec<Replica>,
) -> Result<(), ReadError> {
    match object {
        ObjectRef::Chunk(digest) => {
            let key = key::chunk(digest);
            if let Some(mut chunk) = step.txn.record::<ChunkRecord>(Table::Chunks, &key)? {
                chunk.replicas = replicas;
                step.txn.put(Table::Chunks, key, &chunk);
            }
        }
        ObjectRef::Segment { stanza, db, file } => {
            let key = key::segment(stanza, *db, &file.to_string());
            if let Some(mut segment) = step.txn.record::<SegmentRecord>(Table::Segments, &key)? {
                segment.object.replicas = replicas;
                step.txn.put(Table::Segments, key, &segment);
            }
        }
        ObjectRef::Manifest { stanza, label } => {
            let key = key::backup(stanza, label);
            if let Some(mut backup) = step.txn.record::<BackupRecord>(Table::Backups, &key)? {
                backup.manifest.replicas = replicas;
                step.txn.put(Table::Backups, key, &backup);
            }
        }
        ObjectRef::StanzaInfo { stanza, db } => {
            let key = key::stanza(stanza);
            if let Some(mut owner) = step.txn.record::<StanzaRecord>(Table::Stanzas, &key)? {
                for database in owner.databases.iter_mut().filter(|known| known.id == *db) {
                    database.info.replicas.clone_from(&replicas);
                }
                step.txn.put(Table::Stanzas, key, &owner);
            }
        }
    }
    Ok(())
}

/// The oldest open session.
pub(crate) fn oldest_session<B: Base>(base: &B) -> Result<Option<SessionId>, ReadError> {
    let Some(row) = base.scan(Table::Sessions, &[], &[]).next() else {
        return Ok(None);
    };
    let (key, _) = row?;
    let index = KeyReader::new(&key).index();
    let index = index.ok_or_else(|| ReadError::MalformedKey {
        table: Table::Sessions,
        key: hex::encode(&key),
    })?;
    Ok(Some(SessionId(index)))
}

/// The oldest open session of a backup.
pub(crate) fn oldest_backup<B: Base>(base: &B) -> Result<Option<SessionId>, ReadError> {
    for row in base.scan(Table::Sessions, &[], &[]) {
        let (key, bytes) = row?;
        let record: SessionRecord = crate::value::decode(Table::Sessions, &key, &bytes)?;
        if record.kind == SessionKind::Backup {
            let index = KeyReader::new(&key).index();
            return index
                .map(|index| Some(SessionId(index)))
                .ok_or_else(|| ReadError::MalformedKey {
                    table: Table::Sessions,
                    key: hex::encode(&key),
                });
        }
    }
    Ok(None)
}

pub(super) fn need_session<B: Base>(step: &Step<'_, '_, B>, session: SessionId) -> Outcome<SessionRecord> {
    let record = step
        .txn
        .record(Table::Sessions, &key::session(session))?
        .ok_or(Refusal::SessionEnded(session))?;
    Ok(record)
}

pub(super) fn repositories<B: Base>(step: &Step<'_, '_, B>) -> Result<Vec<(RepoKey, RepositoryRecord)>, ReadError> {
    step.txn
        .records(Table::Repositories, &[])
        .map(|row| {
            let (key, record) = row?;
            let repo = KeyReader::new(&key).repository();
            let repo = repo.ok_or_else(|| ReadError::MalformedKey {
                table: Table::Repositories,
                key: hex::encode(&key),
            })?;
            Ok((repo, record))
        })
        .collect()
}

/// The repositories that may keep an object.
pub(super) struct Keepers {
    /// All but those that are removed by force: a removal that is not forced may be given up.
    pub(super) all: Vec<RepoKey>,
    /// Those whose replicas stay, since no walk goes over them.
    sound: BTreeSet<RepoKey>,
}

impl Keepers {
    pub(super) fn read<B: Base>(step: &Step<'_, '_, B>) -> Result<Self, ReadError> {
        let mut keepers = Self {
            all: Vec::new(),
            sound: BTreeSet::new(),
        };
        for (repo, record) in repositories(step)? {
            let is_going = record.change.as_ref();
            if !is_going.is_some_and(|change| change.kind == ChangeKind::Retiring && change.forced) {
                keepers.all.push(repo);
            }
            if record.change.is_none() {
                keepers.sound.insert(repo);
            }
        }
        Ok(keepers)
    }

    /// Whether an object must stay in a repository that does not keep it any more: another one keeps it, and no replica
    /// is sure to be left as the source of its copy.
    pub(super) fn need_source(&self, stored: &StoredObject, expired: &ExpiredIn, repo: RepoKey) -> bool {
        let is_left = |replica: &Replica| replica.repo != repo && self.sound.contains(&replica.repo);
        let has_replica = stored.replicas.iter().any(|replica| replica.repo == repo);
        let is_kept = self.all.iter().any(|other| *other != repo && !expired.contains(other));
        has_replica && is_kept && !stored.replicas.iter().any(is_left)
    }
}

pub(super) fn need_repository<B: Base>(step: &Step<'_, '_, B>, repo: RepoKey) -> Outcome<RepositoryRecord> {
    let record = step
        .txn
        .record(Table::Repositories, &key::repository(repo))?
        .ok_or(Refusal::UnknownRepository(repo))?;
    Ok(record)
}

fn count<B: Base>(
    step: &mut Step<'_, '_, B>,
    repo: RepoKey,
    change: impl FnOnce(&mut RepositoryCounters),
) -> Result<(), ReadError> {
    let key = key::repository(repo);
    let mut counters: RepositoryCounters = step.txn.record(Table::Counters, &key)?.unwrap_or_default();
    change(&mut counters);
    step.txn.put(Table::Counters, key, &counters);
    Ok(())
}

pub(super) fn count_replica<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey, bytes: u64) -> Result<(), ReadError> {
    count(step, repo, |counters| {
        counters.objects += 1;
        counters.bytes += bytes;
    })
}

/// Counts a mark of an object that its repository does not let go; `by` is 1 or −1.
pub(super) fn count_kept<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey, by: i8) -> Result<(), ReadError> {
    count(step, repo, |counters| {
        counters.kept = counters.kept.saturating_add_signed(i64::from(by));
    })
}

pub(super) fn uncount_replica<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey, bytes: u64) -> Result<(), ReadError> {
    count(step, repo, |counters| {
        counters.objects = counters.objects.saturating_sub(1);
        counters.bytes = counters.bytes.saturating_sub(bytes);
    })
}

pub(super) fn owe<B: Base>(
    step: &mut Step<'_, '_, B>,
    repo: RepoKey,
    object: &ObjectRef,
    debt: &Debt,
) -> Result<(), ReadError> {
    step.txn.put(Table::Debts, key::debt(repo, object), debt);
    count(step, repo, |counters| {
        counters.debts += 1;
        counters.debt_bytes += debt.bytes;
    })
}

pub(super) fn settle<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey, object: &ObjectRef) -> Result<(), ReadError> {
    let key = key::debt(repo, object);
    if let Some(debt) = step.txn.record::<Debt>(Table::Debts, &key)? {
        step.txn.delete(Table::Debts, key);
        count(step, repo, |counters| {
            counters.debts = counters.debts.saturating_sub(1);
            counters.debt_bytes = counters.debt_bytes.saturating_sub(debt.bytes);
        })?;
    }
    Ok(())
}

pub(super) fn throw_away<B: Base>(step: &mut Step<'_, '_, B>, object: &ObjectRef, replica: Replica, garbage: &Garbage) {
    let key = GarbageKey {
        object: object.clone(),
        repo: replica.repo,
        generation: replica.generation,
    };
    step.txn.put(Table::Garbage, key::garbage(&key), garbage);
}

/// The replicas of the claims that name the repository that is registered under their number (see [`Claim`]). Other
/// claims are passed over, so that the object stays owed to the repository that has the number now: the bytes are in
/// another repository, which was replaced or removed since.
pub(super) fn counting<B: Base>(step: &Step<'_, '_, B>, claims: &[Claim]) -> Result<Vec<Replica>, ReadError> {
    let mut replicas = Vec::with_capacity(claims.len());
    for Claim { replica, identity } in claims {
        let key = key::repository(replica.repo);
        let record = step.txn.record::<RepositoryRecord>(Table::Repositories, &key)?;
        if record.is_some_and(|record| record.takes_replicas(identity)) {
            replicas.push(*replica);
        }
    }
    Ok(replicas)
}

/// Takes in the claimed replicas of an object that was not known, as far as they count, and owes it to all other
/// repositories. Returns the replicas that its record is to have.
pub(super) fn place_new<B: Base>(
    step: &mut Step<'_, '_, B>,
    object: &ObjectRef,
    given: &ClaimedObject,
) -> Outcome<Vec<Replica>> {
    let counting = counting(step, &given.claims)?;
    if let Some(stale) = stale(step, object, given.digest, &counting)? {
        return Err(Refusal::StaleGenerations(vec![stale]).into());
    }
    // Uploads that are still under way have the same name as the finished ones, and shall count, too.
    let given_under = counting.iter().map(|replica| replica.generation).min();
    let generation = match given_under {
        Some(generation) => generation,
        None => free_generation(step.txn, object, &[])?,
    };
    let mut replicas = Vec::new();
    for (repo, record) in repositories(step)? {
        if record.is_retiring() {
            continue;
        }
        if let Some(replica) = counting.iter().find(|replica| replica.repo == repo) {
            replicas.push(*replica);
            count_replica(step, repo, given.stored_length)?;
        } else {
            let debt = Debt {
                since: step.at,
                reason: DebtReason::Owed,
                generation,
                bytes: given.stored_length,
            };
            owe(step, repo, object, &debt)?;
        }
    }
    note_lost(step, object, &replicas);
    Ok(replicas)
}

/// Keeps the index of the objects of which no good replica is left: no node can pay their debts.
pub(super) fn note_lost<B: Base>(step: &mut Step<'_, '_, B>, object: &ObjectRef, replicas: &[Replica]) {
    let key = key::object(object);
    if replicas.is_empty() {
        step.txn.put(Table::Lost, key, &Lost { since: step.at });
    } else {
        step.txn.delete(Table::Lost, key);
    }
}

/// Takes in further replicas of a known object, as far as their claims count, and settles their debts. Returns how many
/// count, and the replicas that the record is to have. A replica of a generation below the debt's is passed over: its
/// name may be deleted.
pub(super) fn place_more<B: Base>(
    step: &mut Step<'_, '_, B>,
    object: &ObjectRef,
    known: &Found,
    claims: &[Claim],
    is_brought: bool,
) -> Outcome<(u32, Vec<Replica>)> {
    let mut replicas = known.object.replicas.clone();
    let mut accepted = 0;
    for replica in &counting(step, claims)? {
        if let Some(held) = replicas.iter().find(|held| held.repo == replica.repo) {
            if held.generation == replica.generation {
                accepted += 1;
            } else {
                // Nothing will ever refer to the other one.
                let garbage = known.garbage(step.index);
                throw_away(step, object, *replica, &garbage);
            }
            continue;
        }
        let debt: Option<Debt> = step.txn.record(Table::Debts, &key::debt(replica.repo, object))?;
        let lowest = match debt {
            Some(debt) => debt.generation,
            // The repository was registered after the object was known. It may have been removed before that; then its
            // garbage was forgotten without waiting for any session.
            None => {
                // A running backup needs the chunk that it brings, wherever it has expired.
                if !is_brought && has_expired(step.txn, &mut Judge::default(), object, replica.repo)? {
                    let garbage = known.garbage(step.index);
                    throw_away(step, object, *replica, &garbage);
                    continue;
                }
                free_generation(step.txn, object, &[])?
            }
        };
        if replica.generation >= lowest {
            settle(step, replica.repo, object)?;
            count_replica(step, replica.repo, known.object.stored_length)?;
            replicas.push(*replica);
            accepted += 1;
        }
    }
    replicas.sort_unstable();
    if known.object.replicas.is_empty() {
        note_lost(step, object, &replicas);
    }
    Ok((accepted, replicas))
}

/// Whether a repository keeps an object no more: nothing owes it there.
pub(super) fn has_expired<B: Base>(
    base: &B,
    judge: &mut Judge,
    object: &ObjectRef,
    repo: RepoKey,
) -> Result<bool, ReadError> {
    match object {
        ObjectRef::Chunk(digest) => Ok(Judge::is_used(base, digest)? && !judge.is_needed(base, digest, &[repo])?),
        ObjectRef::Segment { stanza, db, file } => {
            let key = key::segment(stanza, *db, &file.to_string());
            let record = base.record::<SegmentRecord>(Table::Segments, &key)?;
            Ok(record.is_some_and(|record| record.expired.contains(&repo)))
        }
        ObjectRef::Manifest { stanza, label } => {
            let record = base.record::<BackupRecord>(Table::Backups, &key::backup(stanza, label))?;
            Ok(record.is_some_and(|record| !record.is_kept_in(repo)))
        }
        ObjectRef::StanzaInfo { .. } => Ok(false),
    }
}

/// Turns all replicas of an object into garbage and drops its debts. The record itself is the caller's.
pub(super) fn discard<B: Base>(step: &mut Step<'_, '_, B>, object: &ObjectRef, known: &Found) -> Result<(), ReadError> {
    let garbage = known.garbage(step.index);
    for replica in &known.object.replicas {
        throw_away(step, object, *replica, &garbage);
    }
    retire(step, object, &known.object)
}

/// Takes an object out of the counters and drops its debts.
pub(super) fn retire<B: Base>(
    step: &mut Step<'_, '_, B>,
    object: &ObjectRef,
    known: &StoredObject,
) -> Result<(), ReadError> {
    for replica in &known.replicas {
        uncount_replica(step, replica.repo, known.stored_length)?;
    }
    for (repo, _) in repositories(step)? {
        settle(step, repo, object)?;
    }
    if known.replicas.is_empty() {
        step.txn.delete(Table::Lost, key::object(object));
    }
    Ok(())
}

pub(super) fn add_replicas<B: Base>(step: &mut Step<'_, '_, B>, session: SessionId, given: Vec<NewReplica>) -> Outcome {
    need_session(step, session)?;
    let mut total = 0;
    for new in given {
        let Some(known) = find(step.txn, &new.object)? else {
            continue;
        };
        if known.object.digest != new.digest {
            continue;
        }
        let (accepted, replicas) = place_more(step, &new.object, &known, &[new.claim], false)?;
        total += accepted;
        set_replicas(step, &new.object, replicas)?;
    }
    Ok(Reply::Added { accepted: total })
}

/// Invariant 6: a bad replica no longer counts, and a new one under another name is owed.
pub(super) fn report_bad<B: Base>(
    step: &mut Step<'_, '_, B>,
    object: &ObjectRef,
    bad: &Claim,
    reason: DebtReason,
    what: &str,
) -> Outcome {
    let Claim { replica: bad, identity } = bad;
    let repo = bad.repo;
    let record: Option<RepositoryRecord> = step.txn.record(Table::Repositories, &key::repository(repo))?;
    // A report on another repository says nothing of the repository that has its number now.
    let record = record.filter(|record| record.is_at(identity));
    let Some(known) = find(step.txn, object)? else {
        return Ok(Reply::Withdrawn { remaining: 0 });
    };
    let mut replicas = known.object.replicas.clone();
    let position = replicas.iter().position(|replica| replica == bad);
    if let (Some(position), Some(record)) = (position, record) {
        replicas.remove(position);
        uncount_replica(step, repo, known.object.stored_length)?;
        let garbage = known.garbage(step.index);
        throw_away(step, object, *bad, &garbage);
        if !record.is_retiring() {
            let debt = Debt {
                since: step.at,
                reason,
                generation: free_generation(step.txn, object, &[])?,
                bytes: known.object.stored_length,
            };
            owe(step, repo, object, &debt)?;
        }
        set_replicas(step, object, replicas.clone())?;
        note_lost(step, object, &replicas);
        if let ObjectRef::Chunk(digest) = object {
            withdrawn::note(step, &[(*digest, replicas.len())])?;
        }
        step.audit(format!("bad replica of {object} in repo{repo}: {what}"));
    }
    Ok(Reply::Withdrawn {
        remaining: u16::try_from(replicas.len()).unwrap_or(u16::MAX),
    })
}

/// Remembers that a backup has left the catalog at this step: chunks may have lost their last reference.
pub(super) fn unreference<B: Base>(step: &mut Step<'_, '_, B>) {
    step.txn.put(Table::Mesh, key::UNREFERENCED.to_vec(), &step.index);
}

/// Invariants 1 and 4: enough replicas.
pub(super) fn need_replicas(replicas: &[Replica], need: u16) -> Outcome<()> {
    let have = u16::try_from(replicas.len()).unwrap_or(u16::MAX);
    if have < need.max(1) {
        return Err(Refusal::TooFewReplicas { have, need }.into());
    }
    Ok(())
}
