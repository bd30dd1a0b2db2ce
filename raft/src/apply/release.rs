//! The release of chunks and manifests that nothing needs in a repository any more.

use std::collections::BTreeMap;

use pgmesh_postgres::{SegmentName, WalFileName};
use pgmesh_storage::{BackupLabel, DbId, Digest, RepoKey, StanzaName};

use super::objects::{Found, Keepers, discard, oldest_backup, settle, throw_away, uncount_replica};
use super::use_judge::{self, Judge};
use super::{Base, Outcome, Step, backup, garbage, withdrawn};
use crate::command::Release;
use crate::error::ReadError;
use crate::key;
use crate::model::{
    BackupRecord, ChunkRecord, Database, ExpiredIn, LogIndex, ObjectRef, Replica, SegmentRecord, SessionId,
    StanzaRecord, StoredObject,
};
use crate::reply::Reply;
use crate::table::Table;

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

/// Takes an object's replica and debt out of a repository: without a new debt. Says how many bytes the replica had.
pub(super) fn withdraw<B: Base>(
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
    let garbage = found.garbage(step.index);
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
        owner.refuse_staged(&given.stanza)?;
    }
    use_judge::need_listed(step.txn)?;
    let mut released = Released::default();
    let keepers = Keepers::read(step)?;
    let row = key::release(given.repo, &given.stanza, &given.label);
    // Without this row it was done before: the request comes late.
    if step.txn.record::<LogIndex>(Table::Releases, &row)? == Some(given.since) {
        if given.manifest {
            release_manifest(step, given, &keepers, &mut released)?;
        }
        release_chunks(step, &given.chunks, given.repo, &keepers, &mut released)?;
    }
    withdrawn::note(step, &released.withdrawn)?;
    Ok(released.reply())
}

/// Releases chunks in each repository that does not need them. Returns the sums, and the chunks that are through.
pub(super) fn in_all<B: Base>(
    step: &mut Step<'_, '_, B>,
    name: &StanzaName,
    chunks: &[Digest],
) -> Outcome<(Reply, Vec<Digest>)> {
    if let Some(owner) = step.txn.record::<StanzaRecord>(Table::Stanzas, &key::stanza(name))? {
        owner.refuse_staged(name)?;
    }
    use_judge::need_listed(step.txn)?;
    let (keepers, running) = (Keepers::read(step)?, oldest_backup(step.txn)?);
    let (mut released, mut judge, mut done) = (Released::default(), Judge::default(), Vec::new());
    for digest in chunks {
        let before = released.waiting;
        for repo in &keepers.all {
            release_chunk(step, &mut judge, digest, *repo, &keepers, running, &mut released)?;
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
    keepers: &Keepers,
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
    if keepers.need_source(&record.manifest, &record.expired, given.repo) {
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

fn release_chunks<B: Base>(
    step: &mut Step<'_, '_, B>,
    chunks: &[Digest],
    repo: RepoKey,
    keepers: &Keepers,
    released: &mut Released,
) -> Result<(), ReadError> {
    let (running, mut judge) = (oldest_backup(step.txn)?, Judge::default());
    for digest in chunks {
        release_chunk(step, &mut judge, digest, repo, keepers, running, released)?;
    }
    Ok(())
}

fn release_chunk<B: Base>(
    step: &mut Step<'_, '_, B>,
    judge: &mut Judge,
    digest: &Digest,
    repo: RepoKey,
    keepers: &Keepers,
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
    if is_only_here && !judge.is_needed(step.txn, digest, &keepers.all)? {
        let objects = u32::try_from(chunk.replicas.len()).unwrap_or(u32::MAX);
        released.objects = released.objects.saturating_add(objects);
        released.bytes += u64::from(chunk.stored_length) * u64::from(objects);
        garbage::condemn_one(step, digest, chunk)?;
        released.withdrawn.push((*digest, 0));
        return Ok(());
    }
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
    let (mut useless_in, mut is_elsewhere) = (ExpiredIn::new(), false);
    for other in &keepers.all {
        if !judge.is_needed(step.txn, digest, &[*other])? {
            useless_in.insert(*other);
            let has = found.object.replicas.iter().any(|replica| replica.repo == *other);
            let is_there = has || step.txn.get(Table::Debts, &key::debt(*other, &object))?.is_some();
            is_elsewhere |= *other != repo && is_there;
        }
    }
    if keepers.need_source(&found.object, &useless_in, repo) {
        released.waiting += 1;
        return Ok(());
    }
    // Its release elsewhere finds it by these events.
    if !is_elsewhere {
        judge.prune(step, digest, &keepers.all)?;
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
    since: LogIndex,
) -> Outcome {
    let known = step
        .txn
        .record::<LogIndex>(Table::Releases, &key::release(repo, name, label))?;
    if known == Some(since) {
        if let Some(owner) = step.txn.record::<StanzaRecord>(Table::Stanzas, &key::stanza(name))? {
            owner.refuse_staged(name)?;
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
    let keepers = Keepers::read(step)?;
    if keepers.all.iter().any(|repo| record.is_kept_in(*repo)) {
        return Ok(());
    }
    for repo in &keepers.all {
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

/// Withdraws replicas of chunks in a repository that does not need them, wherever they come from: a backup that was
/// given up may have brought them.
pub(super) fn trim<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey, chunks: &[Digest]) -> Outcome {
    use_judge::need_listed(step.txn)?;
    let (keepers, mut released) = (Keepers::read(step)?, Released::default());
    release_chunks(step, chunks, repo, &keepers, &mut released)?;
    withdrawn::note(step, &released.withdrawn)?;
    Ok(released.reply())
}
