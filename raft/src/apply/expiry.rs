//! What one repository keeps no more: backups, then WAL, then the chunks that nothing needs there.
//!
//! ```text
//! ExpireBackups ── Release (manifest) ── deleted there ── Release (chunks) ── EndRelease
//!     the backup is not listed there any more                                   │
//!                                        kept by no repository: its record goes ┘
//! ```
//!
//! A debt of what has expired vanishes. A replica that is the only good one stays while a repository that keeps the
//! object owes it: it is the source of that copy.

use std::collections::{BTreeMap, BTreeSet};

use pgmesh_postgres::{SegmentName, WalFileName};
use pgmesh_storage::{BackupLabel, BackupType, DbId, Digest, RepoKey, StanzaName};

use super::objects::{
    Found, discard, need_repository, oldest_backup, repositories, settle, throw_away, uncount_replica,
};
use super::uses::{self, Judge};
use super::{Base, Outcome, Step, backup, garbage, stanza, withdrawn};
use crate::command::{ExpireBackups, ExpireWal, HoldBackup, Release};
use crate::error::ReadError;
use crate::key;
use crate::limits;
use crate::model::{
    BackupRecord, ChunkRecord, Database, ExpiredIn, Garbage, LogIndex, ObjectRef, Replica, SegmentRecord, SessionId,
    StanzaRecord, StoredObject,
};
use crate::refusal::{ExpiryRefusal, Refusal};
use crate::reply::Reply;
use crate::table::Table;

/// The repositories that new objects are owed to.
fn registered<B: Base>(step: &Step<'_, '_, B>) -> Result<Vec<RepoKey>, ReadError> {
    let all = repositories(step)?.into_iter();
    let staying = all.filter(|(_, record)| !record.is_retiring());
    Ok(staying.map(|(repo, _)| repo).collect())
}

/// The backups of a stanza, by label.
fn backups<B: Base>(step: &Step<'_, '_, B>, name: &StanzaName) -> Result<Vec<(BackupLabel, BackupRecord)>, ReadError> {
    let prefix = key::stanza_prefix(name);
    let rows = step.txn.records::<BackupRecord>(Table::Backups, &prefix);
    rows.map(|row| {
        let (key, record) = row?;
        let (_, label) = key::read_backup(&key).ok_or_else(|| ReadError::MalformedKey {
            table: Table::Backups,
            key: hex::encode(&key),
        })?;
        Ok((label, record))
    })
    .collect()
}

pub(super) fn expire_backups<B: Base>(step: &mut Step<'_, '_, B>, expire: ExpireBackups) -> Outcome {
    let ExpireBackups {
        stanza: name,
        repo,
        labels,
        why,
    } = expire;
    let owner = stanza::need(step, &name)?;
    need_repository(step, repo)?;
    uses::refuse_staged(&name, &owner)?;
    let all = backups(step, &name)?;
    let asked: BTreeSet<BackupLabel> = labels.into_iter().collect();
    let (going, staying): (Vec<_>, Vec<_>) = all
        .iter()
        .filter(|(_, record)| record.is_kept_in(repo))
        .partition(|(label, _)| asked.contains(label));
    refuse_held(&all, &going, step.at)?;
    refuse_last_full(repo, &going, &staying)?;
    let going: Vec<(BackupLabel, BackupRecord)> = going.into_iter().cloned().collect();
    let labels: Vec<BackupLabel> = going.iter().map(|(label, _)| label.clone()).collect();
    for (label, mut record) in going {
        record.expired.insert(repo);
        let object = ObjectRef::Manifest {
            stanza: name.clone(),
            label: label.clone(),
        };
        settle(step, repo, &object)?;
        step.txn.put(Table::Backups, key::backup(&name, &label), &record);
        step.txn
            .put(Table::Releases, key::release(repo, &name, &label), &step.index);
    }
    if !labels.is_empty() {
        let names: Vec<String> = labels.iter().map(ToString::to_string).collect();
        let what = format!("stanza {name}: {} expired in repo{repo}: {why}", names.join(", "));
        step.audit(limits::shortened(what, limits::REASON));
    }
    Ok(Reply::Expired { labels })
}

/// A backup that is held stays, and with it the backups that it depends on.
fn refuse_held(
    all: &[(BackupLabel, BackupRecord)],
    going: &[&(BackupLabel, BackupRecord)],
    now: i64,
) -> Result<(), Refusal> {
    for (held, record) in all {
        let Some(hold) = record.hold.as_ref().filter(|hold| hold.holds(now)) else {
            continue;
        };
        let needed = needed_by(all, held);
        if let Some((label, _)) = going.iter().find(|(label, _)| needed.contains(label)) {
            return Err(Refusal::Expiry(ExpiryRefusal::Held {
                label: label.clone(),
                held: held.clone(),
                by: hold.by.clone(),
            }));
        }
    }
    Ok(())
}

/// A backup, and the backups that it depends on by pgBackRest's rules.
fn needed_by(all: &[(BackupLabel, BackupRecord)], label: &BackupLabel) -> BTreeSet<BackupLabel> {
    let mut needed = BTreeSet::from([label.clone()]);
    let mut next = Some(label.clone());
    while let Some(label) = next {
        let found = all.binary_search_by(|(known, _)| known.cmp(&label)).ok();
        let prior = found
            .and_then(|at| all.get(at))
            .and_then(|(_, record)| record.prior.clone());
        next = prior.filter(|prior| needed.insert(prior.clone()));
    }
    needed
}

/// The newest full backup of a repository goes only if it keeps another one of the same database.
fn refuse_last_full(
    repo: RepoKey,
    going: &[&(BackupLabel, BackupRecord)],
    staying: &[&(BackupLabel, BackupRecord)],
) -> Result<(), Refusal> {
    let is_full = |(label, _): &&&(BackupLabel, BackupRecord)| label.backup_type() == BackupType::Full;
    let is_there = |record: &BackupRecord| record.manifest.replicas.iter().any(|replica| replica.repo == repo);
    let newest = |of: &[&(BackupLabel, BackupRecord)]| of.iter().filter(is_full).map(|(label, _)| label.clone()).max();
    let Some((label, record)) = going.iter().filter(is_full).max_by(|(a, _), (b, _)| a.cmp(b)) else {
        return Ok(());
    };
    let is_newest = newest(staying).is_none_or(|other| other < *label);
    let mut others = staying.iter().filter(is_full);
    // A full backup that the repository still owes is no reason to expire one that it has.
    let is_enough = if is_newest {
        others.any(|(_, other)| other.db == record.db && (is_there(other) || !is_there(record)))
    } else {
        others.any(|(_, other)| is_there(other)) || !is_there(record)
    };
    if is_enough {
        return Ok(());
    }
    Err(Refusal::Expiry(ExpiryRefusal::LastFull {
        repo,
        label: label.clone(),
    }))
}

pub(super) fn hold<B: Base>(step: &mut Step<'_, '_, B>, given: HoldBackup) -> Outcome {
    let HoldBackup {
        stanza: name,
        label,
        hold,
    } = given;
    let all = backups(step, &name)?;
    let mut record = backup::need_backup(step, &name, &label)?;
    let what = match &hold {
        Some(hold) if hold.why.is_empty() => format!("backup {label} of stanza {name} is held"),
        Some(hold) => format!("backup {label} of stanza {name} is held: {}", hold.why),
        None => format!("backup {label} of stanza {name} is released"),
    };
    record.hold = hold;
    step.audit(limits::shortened(what, limits::REASON));
    step.txn.put(Table::Backups, key::backup(&name, &label), &record);
    Ok(Reply::Held {
        labels: needed_by(&all, &label).into_iter().collect(),
    })
}

/// The stretches of WAL that the backups need that a repository keeps.
fn needed_wal<B: Base>(
    step: &Step<'_, '_, B>,
    name: &StanzaName,
    repo: RepoKey,
    db: DbId,
) -> Result<Vec<(SegmentName, SegmentName)>, ReadError> {
    let kept = backups(step, name)?.into_iter();
    let kept = kept.filter(|(_, record)| record.db == db && record.is_kept_in(repo));
    Ok(kept.map(|(_, record)| (record.wal_start, record.wal_stop)).collect())
}

pub(super) fn expire_wal<B: Base>(step: &mut Step<'_, '_, B>, expire: &ExpireWal) -> Outcome {
    let ExpireWal {
        stanza: name,
        repo,
        db,
        files,
    } = expire;
    let mut owner = stanza::need(step, name)?;
    need_repository(step, *repo)?;
    let Some(database) = owner.database(*db).cloned() else {
        return Err(Refusal::UnknownStanza(name.clone()).into());
    };
    let needed = needed_wal(step, name, *repo, *db)?;
    let registered = registered(step)?;
    let (mut count, mut waiting, mut is_any_gone) = (0_u32, 0_u32, false);
    for file in files {
        let is_needed = |segment: SegmentName| needed.iter().any(|(start, stop)| *start <= segment && segment <= *stop);
        if file.segment().is_some_and(is_needed) {
            continue;
        }
        let row = key::segment(name, *db, &file.to_string());
        let Some(mut record) = step.txn.record::<SegmentRecord>(Table::Segments, &row)? else {
            continue;
        };
        let object = ObjectRef::Segment {
            stanza: name.clone(),
            db: *db,
            file: *file,
        };
        let found = Found {
            object: record.object.clone(),
            archive: Some(database.archive_id()),
        };
        if is_only_source(step, &object, &record.object, &record.expired, *repo, &registered)? {
            waiting += 1;
            continue;
        }
        withdraw(step, &object, &found, *repo, &mut record.object.replicas)?;
        count += u32::from(record.expired.insert(*repo));
        if registered.iter().all(|repo| record.expired.contains(repo)) {
            drop_segment(step, &row, &object, record)?;
            is_any_gone = true;
        } else {
            step.txn.put(Table::Segments, row, &record);
        }
    }
    if is_any_gone {
        // A push that began before may have found a file that is gone now.
        owner.since = step.index;
        stanza::put(step, name, &owner);
    }
    Ok(Reply::ExpiredWal { files: count, waiting })
}

/// Forgets a file that no repository keeps any more.
pub(super) fn drop_segment<B: Base>(
    step: &mut Step<'_, '_, B>,
    row: &[u8],
    object: &ObjectRef,
    record: SegmentRecord,
) -> Result<(), ReadError> {
    let ObjectRef::Segment { stanza: name, db, file } = object else {
        return Ok(());
    };
    let owner: Option<StanzaRecord> = step.txn.record(Table::Stanzas, &key::stanza(name))?;
    let found = Found {
        object: record.object,
        archive: owner.and_then(|owner| owner.database(*db).map(Database::archive_id)),
    };
    discard(step, object, &found)?;
    step.txn.delete(Table::Segments, row.to_vec());
    note_expired(step, name, *db, *file)
}

/// Invariant 7: a segment up to here that is not there has expired; it was archived once.
fn note_expired<B: Base>(
    step: &mut Step<'_, '_, B>,
    name: &StanzaName,
    db: DbId,
    file: WalFileName,
) -> Result<(), ReadError> {
    let WalFileName::Segment(segment) = file else {
        return Ok(());
    };
    let key = key::last_push(name, db, segment.timeline);
    let known: Option<SegmentName> = step.txn.record(Table::ExpiredWal, &key)?;
    if known.is_none_or(|known| known < segment) {
        step.txn.put(Table::ExpiredWal, key, &segment);
    }
    Ok(())
}

/// Whether the repository has the only good replica of an object that another one owes and keeps.
fn is_only_source<B: Base>(
    step: &Step<'_, '_, B>,
    object: &ObjectRef,
    stored: &StoredObject,
    expired: &ExpiredIn,
    repo: RepoKey,
    registered: &[RepoKey],
) -> Result<bool, ReadError> {
    if !matches!(stored.replicas.as_slice(), [only] if only.repo == repo) {
        return Ok(false);
    }
    for other in registered
        .iter()
        .filter(|other| **other != repo && !expired.contains(other))
    {
        if step.txn.get(Table::Debts, &key::debt(*other, object))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes an object's replica and debt out of a repository: without a new debt. Says how many bytes the replica had.
fn withdraw<B: Base>(
    step: &mut Step<'_, '_, B>,
    object: &ObjectRef,
    found: &Found,
    repo: RepoKey,
    replicas: &mut Vec<Replica>,
) -> Result<Option<u64>, ReadError> {
    settle(step, repo, object)?;
    let Some(position) = replicas.iter().position(|replica| replica.repo == repo) else {
        return Ok(None);
    };
    let replica = replicas.remove(position);
    uncount_replica(step, repo, found.object.stored_length)?;
    let garbage = Garbage {
        since: step.index,
        digest: found.object.digest,
        archive: found.archive,
        plain_length: found.object.plain_length,
    };
    throw_away(step, object, replica, &garbage);
    Ok(Some(found.object.stored_length))
}

/// The sums of a release.
#[derive(Default)]
struct Released {
    objects: u32,
    bytes: u64,
    waiting: u32,
    /// Chunks that have lost a replica, and how many they have left.
    withdrawn: Vec<(Digest, usize)>,
}

impl Released {
    fn reply(&self) -> Reply {
        Reply::Released {
            objects: self.objects,
            bytes: self.bytes,
            waiting: self.waiting,
        }
    }
}

pub(super) fn release<B: Base>(step: &mut Step<'_, '_, B>, given: &Release) -> Outcome {
    let owner = stanza_of(step, given)?;
    if let Some(owner) = &owner {
        uses::refuse_staged(&given.stanza, owner)?;
    }
    uses::need_listed(step.txn)?;
    let mut released = Released::default();
    let registered = registered(step)?;
    let row = key::release(given.repo, &given.stanza, &given.label);
    // Without the row it was done before: the request comes late.
    if step.txn.get(Table::Releases, &row)?.is_some() {
        if given.manifest {
            release_manifest(step, given, &registered, &mut released)?;
        }
        let running = oldest_backup(step.txn)?;
        let mut judge = Judge::default();
        for digest in &given.chunks {
            release_chunk(
                step,
                &mut judge,
                digest,
                given.repo,
                &registered,
                running,
                &mut released,
            )?;
        }
    }
    withdrawn::note(step, &released.withdrawn)?;
    Ok(released.reply())
}

/// Releases chunks in each repository that does not need them. Returns the sums, and the chunks that are through.
pub(super) fn release_in_all<B: Base>(
    step: &mut Step<'_, '_, B>,
    name: &StanzaName,
    chunks: &[Digest],
) -> Outcome<(Reply, Vec<Digest>)> {
    if let Some(owner) = step.txn.record::<StanzaRecord>(Table::Stanzas, &key::stanza(name))? {
        uses::refuse_staged(name, &owner)?;
    }
    uses::need_listed(step.txn)?;
    let (registered, running) = (registered(step)?, oldest_backup(step.txn)?);
    let (mut released, mut judge, mut done) = (Released::default(), Judge::default(), Vec::new());
    for digest in chunks {
        let before = released.waiting;
        for repo in &registered {
            release_chunk(step, &mut judge, digest, *repo, &registered, running, &mut released)?;
        }
        if released.waiting == before {
            done.push(*digest);
        }
    }
    // Each chunk as it was left in the end.
    let left: BTreeMap<Digest, usize> = released.withdrawn.iter().copied().collect();
    withdrawn::note(step, &left.into_iter().collect::<Vec<_>>())?;
    Ok((released.reply(), done))
}

fn stanza_of<B: Base>(step: &Step<'_, '_, B>, given: &Release) -> Result<Option<StanzaRecord>, ReadError> {
    step.txn.record(Table::Stanzas, &key::stanza(&given.stanza))
}

fn release_manifest<B: Base>(
    step: &mut Step<'_, '_, B>,
    given: &Release,
    registered: &[RepoKey],
    released: &mut Released,
) -> Result<(), ReadError> {
    let row = key::backup(&given.stanza, &given.label);
    let Some(mut record) = step.txn.record::<BackupRecord>(Table::Backups, &row)? else {
        return Ok(());
    };
    if record.is_kept_in(given.repo) {
        return Ok(());
    }
    let object = ObjectRef::Manifest {
        stanza: given.stanza.clone(),
        label: given.label.clone(),
    };
    if is_only_source(step, &object, &record.manifest, &record.expired, given.repo, registered)? {
        released.waiting += 1;
        return Ok(());
    }
    let found = Found {
        object: record.manifest.clone(),
        archive: None,
    };
    if let Some(bytes) = withdraw(step, &object, &found, given.repo, &mut record.manifest.replicas)? {
        released.objects += 1;
        released.bytes += bytes;
        step.txn.put(Table::Backups, row, &record);
    }
    Ok(())
}

fn release_chunk<B: Base>(
    step: &mut Step<'_, '_, B>,
    judge: &mut Judge,
    digest: &Digest,
    repo: RepoKey,
    registered: &[RepoKey],
    running: Option<SessionId>,
    released: &mut Released,
) -> Result<(), ReadError> {
    let row = key::chunk(digest);
    let known = step.txn.record::<ChunkRecord>(Table::Chunks, &row)?;
    let Some(mut chunk) = known.filter(|chunk| chunk.condemned.is_none()) else {
        return Ok(());
    };
    if judge.is_needed(step.txn, digest, &[repo])? {
        return Ok(());
    }
    // A running backup may have added it, which no use shows yet.
    if running.is_some_and(|session| chunk.added > session.0) {
        released.waiting += 1;
        return Ok(());
    }
    // Replicas elsewhere go when that repository's manifests are gone.
    let is_only_here = chunk.replicas.iter().all(|replica| replica.repo == repo);
    if is_only_here && !judge.is_needed(step.txn, digest, registered)? {
        let objects = u32::try_from(chunk.replicas.len()).unwrap_or(u32::MAX);
        released.objects = released.objects.saturating_add(objects);
        released.bytes += u64::from(chunk.stored_length) * u64::from(objects);
        garbage::condemn_one(step, digest, chunk)?;
        released.withdrawn.push((*digest, 0));
        return Ok(());
    }
    judge.prune(step, digest, registered)?;
    let object = ObjectRef::Chunk(*digest);
    let found = Found {
        object: StoredObject {
            digest: *digest,
            plain_length: u64::from(chunk.length),
            stored_length: u64::from(chunk.stored_length),
            replicas: chunk.replicas.clone(),
        },
        archive: None,
    };
    let mut useless_in = ExpiredIn::new();
    for other in registered {
        if !judge.is_needed(step.txn, digest, &[*other])? {
            useless_in.insert(*other);
        }
    }
    if is_only_source(step, &object, &found.object, &useless_in, repo, registered)? {
        released.waiting += 1;
        return Ok(());
    }
    if let Some(bytes) = withdraw(step, &object, &found, repo, &mut chunk.replicas)? {
        released.objects += 1;
        released.bytes += bytes;
        released.withdrawn.push((*digest, chunk.replicas.len()));
        step.txn.put(Table::Chunks, row, &chunk);
    }
    Ok(())
}

pub(super) fn end_release<B: Base>(
    step: &mut Step<'_, '_, B>,
    repo: RepoKey,
    name: &StanzaName,
    label: &BackupLabel,
) -> Outcome {
    if step
        .txn
        .get(Table::Releases, &key::release(repo, name, label))?
        .is_some()
    {
        if let Some(owner) = step.txn.record::<StanzaRecord>(Table::Stanzas, &key::stanza(name))? {
            uses::refuse_staged(name, &owner)?;
        }
        drop_release(step, repo, name, label)?;
    }
    Ok(Reply::Done)
}

/// Drops the row of a release; with the last row of a backup that no repository keeps, the backup's record.
pub(super) fn drop_release<B: Base>(
    step: &mut Step<'_, '_, B>,
    repo: RepoKey,
    name: &StanzaName,
    label: &BackupLabel,
) -> Result<(), ReadError> {
    step.txn.delete(Table::Releases, key::release(repo, name, label));
    let key = key::backup(name, label);
    let Some(record) = step.txn.record::<BackupRecord>(Table::Backups, &key)? else {
        return Ok(());
    };
    let registered = registered(step)?;
    if registered.iter().any(|repo| record.is_kept_in(*repo)) {
        return Ok(());
    }
    for repo in &registered {
        if step
            .txn
            .get(Table::Releases, &key::release(*repo, name, label))?
            .is_some()
        {
            return Ok(());
        }
    }
    backup::drop_record(step, name, label, &record);
    let object = ObjectRef::Manifest {
        stanza: name.clone(),
        label: label.clone(),
    };
    let found = Found {
        object: record.manifest,
        archive: None,
    };
    discard(step, &object, &found)?;
    step.audit(format!(
        "backup {label} of stanza {name} is kept by no repository any more"
    ));
    Ok(())
}

/// A backup has left the catalog at once: all that it alone needed is to be released in each repository.
pub(super) fn release_everywhere<B: Base>(
    step: &mut Step<'_, '_, B>,
    name: &StanzaName,
    label: &BackupLabel,
) -> Result<(), ReadError> {
    for repo in registered(step)? {
        let since: LogIndex = step.index;
        step.txn.put(Table::Releases, key::release(repo, name, label), &since);
    }
    Ok(())
}
