//! Deletion, decided by log position and sessions, never by a clock (invariant 5).

use pgmesh_storage::{Digest, Generation, RepoKey};

use super::names::{self, retire_name};
use super::objects::{
    count_kept, count_replica, need_session, oldest_backup, oldest_session, owe, repositories, retire,
};
use super::use_judge::Judge;
use super::{Base, Outcome, Step, orphans, rights, use_judge, withdrawn};
use crate::error::ReadError;
use crate::key;
use crate::model::{
    ChunkRecord, CondemnedChunk, Debt, DebtReason, Garbage, GarbageKey, GarbageObject, LogIndex, ObjectRef, Replica,
    SessionId, StoredObject,
};
use crate::refusal::{ExpiryRefusal, Refusal};
use crate::reply::Reply;
use crate::table::Table;

/// Suspects chunks. Every backup that is committed from here on has looked at its chunks since: the commits that have
/// not are refused. If a backup names a suspected chunk, it has taken the suspicion back ([`reprieve`]).
pub(super) fn suspect<B: Base>(step: &mut Step<'_, '_, B>, chunks: &[Digest]) -> Outcome {
    let mut suspected = Vec::new();
    for digest in chunks {
        let key = key::chunk(digest);
        let known = step.txn.record::<ChunkRecord>(Table::Chunks, &key)?;
        let Some(mut record) = known.filter(|record| record.condemned.is_none()) else {
            continue;
        };
        record.suspected = Some(step.index);
        step.txn.put(Table::Chunks, key, &record);
        suspected.push((*digest, 0));
    }
    withdrawn::note(step, &suspected)?;
    Ok(Reply::Suspected { since: step.index })
}

/// Invariant 5: no backup names a chunk that is still suspected since `suspected`. The sweep has looked through the
/// manifests of backups that were committed before; each later backup has taken back the chunks that it names.
pub(super) fn condemn<B: Base>(step: &mut Step<'_, '_, B>, chunks: &[Digest], suspected: LogIndex) -> Outcome {
    // A backup that is taken up from a repository has not looked at any chunk.
    let adopted: LogIndex = step.txn.record(Table::Mesh, key::ADOPTED)?.unwrap_or_default();
    if adopted > suspected {
        return Err(Refusal::Recheck { since: adopted }.into());
    }
    use_judge::need_listed(step.txn)?;
    if let Some(stanza) = use_judge::partial(step.txn)? {
        return Err(Refusal::Expiry(ExpiryRefusal::Unlisted(stanza)).into());
    }
    let mut condemned = Vec::new();
    let running = oldest_backup(step.txn)?;
    let mut judge = Judge::default();
    let registered: Vec<RepoKey> = repositories(step)?.into_iter().map(|(repo, _)| repo).collect();
    for digest in chunks {
        let known = step.txn.record::<ChunkRecord>(Table::Chunks, &key::chunk(digest))?;
        let Some(record) = known.filter(|record| record.condemned.is_none()) else {
            continue;
        };
        // A backup that has been committed since may name it.
        if record.suspected != Some(suspected) || judge.is_needed(step.txn, digest, &registered)? {
            continue;
        }
        // It may be a running backup's, which no manifest shows yet.
        if running.is_some_and(|session| record.added > session.0) {
            continue;
        }
        condemn_one(step, digest, record)?;
        condemned.push((*digest, 0));
    }
    withdrawn::note(step, &condemned)?;
    Ok(Reply::Condemned {
        chunks: u32::try_from(condemned.len()).unwrap_or(u32::MAX),
    })
}

/// Condemns a chunk that is not condemned and that nothing needs. The caller notes it in table `Withdrawn`.
pub(super) fn condemn_one<B: Base>(
    step: &mut Step<'_, '_, B>,
    digest: &Digest,
    mut record: ChunkRecord,
) -> Result<(), ReadError> {
    let stored = StoredObject {
        digest: *digest,
        plain_length: u64::from(record.length),
        stored_length: u64::from(record.stored_length),
        replicas: record.replicas.clone(),
    };
    retire(step, &ObjectRef::Chunk(*digest), &stored)?;
    use_judge::drop_all(step, digest)?;
    record.condemned = Some(step.index);
    record.suspected = None;
    let key = key::chunk(digest);
    step.txn.put(Table::Chunks, key.clone(), &record);
    step.txn.put(Table::Condemned, key, &step.index);
    Ok(())
}

/// A backup may rest on chunks that it was told of before they were condemned. While its session is open no DELETE has
/// been sent for them (invariant 5: an object that was condemned at `since` stays while a session is open that began
/// before), so they are good as they are. Chunks that are only suspected are good whenever the session began.
pub(super) fn reprieve<B: Base>(step: &mut Step<'_, '_, B>, session: SessionId, chunks: &[CondemnedChunk]) -> Outcome {
    need_session(step, session)?;
    let mut reprieved = 0;
    for CondemnedChunk { digest, since } in chunks {
        // A chunk that was condemned before the session began may be deleted already.
        let is_taken_back =
            clear(step, *digest, *since)? || (session.0 < *since && reprieve_one(step, *digest, *since)?);
        if is_taken_back {
            reprieved += 1;
        }
    }
    Ok(Reply::Reprieved { chunks: reprieved })
}

/// Takes a suspicion back.
fn clear<B: Base>(step: &mut Step<'_, '_, B>, digest: Digest, since: LogIndex) -> Outcome<bool> {
    let key = key::chunk(&digest);
    let known = step.txn.record::<ChunkRecord>(Table::Chunks, &key)?;
    let Some(mut record) = known.filter(|record| record.suspected == Some(since)) else {
        return Ok(false);
    };
    record.suspected = None;
    step.txn.put(Table::Chunks, key, &record);
    Ok(true)
}

fn reprieve_one<B: Base>(step: &mut Step<'_, '_, B>, digest: Digest, since: LogIndex) -> Outcome<bool> {
    let key = key::chunk(&digest);
    let known = step.txn.record::<ChunkRecord>(Table::Chunks, &key)?;
    let Some(mut record) = known.filter(|record| record.condemned == Some(since)) else {
        return Ok(false);
    };
    let repositories = repositories(step)?;
    // A replica that a walk withdraws is not counted again behind the walk's back.
    let stays = |replica: &Replica| {
        let mut staying = repositories.iter().filter(|(_, record)| record.change.is_none());
        staying.any(|(repo, _)| *repo == replica.repo)
    };
    let (staying, lost): (Vec<Replica>, Vec<Replica>) = record.replicas.iter().copied().partition(stays);
    if staying.is_empty() {
        return Ok(false);
    }
    for replica in &lost {
        retire_name(step, replica.generation)?;
    }
    let object = ObjectRef::Chunk(digest);
    let bytes = u64::from(record.stored_length);
    let generation = names::free_generation(step.txn, &object, &staying)?;
    for (repo, repository) in &repositories {
        if staying.iter().any(|replica| replica.repo == *repo) {
            count_replica(step, *repo, bytes)?;
        } else if !repository.is_retiring() {
            let debt = Debt {
                since: step.at,
                reason: DebtReason::Owed,
                generation,
                bytes,
            };
            owe(step, *repo, &object, &debt)?;
        }
    }
    record.replicas = staying;
    record.condemned = None;
    record.added = step.index;
    step.txn.delete(Table::Condemned, key.clone());
    step.txn.put(Table::Chunks, key, &record);
    Ok(true)
}

pub(super) fn forget<B: Base>(step: &mut Step<'_, '_, B>, chunks: &[CondemnedChunk], kept: &[GarbageKey]) -> Outcome {
    for CondemnedChunk { digest, since } in chunks {
        let (key, since) = (key::chunk(digest), *since);
        // A chunk that was uploaded again and condemned again since has other objects, which the collector has not
        // deleted.
        if step.txn.record::<LogIndex>(Table::Condemned, &key)? == Some(since) {
            need_no_older_session(step, since)?;
            let record = step.txn.record::<ChunkRecord>(Table::Chunks, &key)?;
            let replicas = record.map(|record| record.replicas).unwrap_or_default();
            let garbage = Garbage {
                since,
                digest: *digest,
                archive: None,
                plain_length: 0,
            };
            for mark in kept.iter().filter(|mark| mark.object == ObjectRef::Chunk(*digest)) {
                let replica = Replica {
                    repo: mark.repo,
                    generation: mark.generation,
                };
                if replicas.contains(&replica) {
                    set_aside(step, mark, &garbage)?;
                }
            }
            for replica in &replicas {
                retire_name(step, replica.generation)?;
            }
            step.txn.delete(Table::Condemned, key.clone());
            step.txn.delete(Table::Chunks, key);
            rights::forget(step, digest)?;
        }
    }
    Ok(Reply::Done)
}

pub(super) fn forget_garbage<B: Base>(step: &mut Step<'_, '_, B>, garbage: &[GarbageObject]) -> Outcome {
    for GarbageObject { key: row, since } in garbage {
        let key = key::garbage(row);
        let is_same = |known: Option<Garbage>| known.is_some_and(|known| known.since == *since);
        if is_same(step.txn.record(Table::Garbage, &key)?) {
            need_no_older_session(step, *since)?;
            retire_name(step, row.generation)?;
            step.txn.delete(Table::Garbage, key);
        } else if is_same(step.txn.record(Table::Kept, &key)?) {
            // No session was older when it was set aside, and none can have become so.
            retire_name(step, row.generation)?;
            step.txn.delete(Table::Kept, key);
            count_kept(step, row.repo, -1)?;
        }
    }
    Ok(Reply::Done)
}

pub(super) fn keep<B: Base>(step: &mut Step<'_, '_, B>, garbage: &[GarbageObject]) -> Outcome {
    for GarbageObject { key: row, since } in garbage {
        let key = key::garbage(row);
        let known = step.txn.record::<Garbage>(Table::Garbage, &key)?;
        if let Some(garbage) = known.filter(|known| known.since == *since) {
            need_no_older_session(step, *since)?;
            step.txn.delete(Table::Garbage, key);
            set_aside(step, row, &garbage)?;
        }
    }
    Ok(Reply::Done)
}

pub(super) fn raise_floor<B: Base>(step: &mut Step<'_, '_, B>, generation: Generation) -> Outcome {
    step.txn.put(Table::Mesh, key::REBUILT.to_vec(), &step.index);
    if names::raise_floor(step, generation)? {
        step.audit(format!("new objects have generation {generation} or a higher one"));
    }
    // Objects that lie in repositories were named before.
    orphans::raise_era_floor(step)?;
    Ok(Reply::Done)
}

/// Invariant 5: an object that stays in the repository keeps its name, too.
fn set_aside<B: Base>(step: &mut Step<'_, '_, B>, row: &GarbageKey, garbage: &Garbage) -> Outcome<()> {
    let key = key::garbage(row);
    if step.txn.get(Table::Kept, &key)?.is_none() {
        step.txn.put(Table::Kept, key, garbage);
        count_kept(step, row.repo, 1)?;
    }
    Ok(())
}

/// Invariant 5: an object that a session from before `since` may still use is neither deleted nor forgotten.
fn need_no_older_session<B: Base>(step: &Step<'_, '_, B>, since: LogIndex) -> Outcome<()> {
    match oldest_session(step.txn)? {
        Some(session) if session.0 < since => Err(Refusal::SessionOpen { session, since }.into()),
        _ => Ok(()),
    }
}
