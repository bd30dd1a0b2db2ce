//! The chunk index.

use super::names::{free_generation, stale};
use super::objects::{Found, counting, find, need_session, place_more, place_new, throw_away};
use super::{Base, Outcome, Step, rights};
use crate::command::{ClaimedObject, NewChunk};
use crate::error::ReadError;
use crate::key;
use crate::model::{ChunkRecord, Debt, Garbage, ObjectRef, Replica, SessionId};
use crate::refusal::{Refusal, StaleGeneration};
use crate::reply::Reply;
use crate::table::Table;

pub(super) fn add<B: Base>(step: &mut Step<'_, '_, B>, session: SessionId, ack: u16, chunks: Vec<NewChunk>) -> Outcome {
    // Invariant 5: the session keeps the uploaded objects from being deleted before this step.
    let session = need_session(step, session)?;
    let uploader = rights::uploader(step, &session)?;
    let mut all_stale = Vec::new();
    for chunk in chunks {
        all_stale.extend(add_one(step, &chunk, ack)?);
        if let Some(stanza) = &uploader {
            rights::possess(step, stanza, &chunk.digest)?;
        }
    }
    if all_stale.is_empty() {
        Ok(Reply::Done)
    } else {
        Err(Refusal::StaleGenerations(all_stale).into())
    }
}

fn add_one<B: Base>(step: &mut Step<'_, '_, B>, chunk: &NewChunk, ack: u16) -> Outcome<Option<StaleGeneration>> {
    let object = ObjectRef::Chunk(chunk.digest);
    match find(step.txn, &object)? {
        Some(known) => add_to_known(step, chunk, ack, &object, &known),
        None => {
            throw_away_condemned(step, chunk, &object)?;
            let counting = counting(step, &chunk.claims)?;
            if let Some(stale) = stale(step, &object, chunk.digest, &counting)? {
                return Ok(Some(stale));
            }
            if !are_enough(&counting, ack) {
                // Some went to repositories that have been replaced, moved or removed since: it is uploaded again.
                let generation = free_generation(step.txn, &object, &[])?;
                let digest = chunk.digest;
                return Ok(Some(StaleGeneration { digest, generation }));
            }
            let given = ClaimedObject {
                digest: chunk.digest,
                plain_length: u64::from(chunk.length),
                stored_length: u64::from(chunk.stored_length),
                claims: chunk.claims.clone(),
            };
            let record = ChunkRecord {
                length: chunk.length,
                stored_length: chunk.stored_length,
                replicas: place_new(step, &object, &given)?,
                condemned: None,
                suspected: None,
                added: step.index,
            };
            step.txn.put(Table::Chunks, key::chunk(&chunk.digest), &record);
            Ok(None)
        }
    }
}

fn add_to_known<B: Base>(
    step: &mut Step<'_, '_, B>,
    chunk: &NewChunk,
    ack: u16,
    object: &ObjectRef,
    known: &Found,
) -> Outcome<Option<StaleGeneration>> {
    let key = key::chunk(&chunk.digest);
    let Some(mut record) = step.txn.record::<ChunkRecord>(Table::Chunks, &key)? else {
        return Ok(None);
    };
    // A catalog that was rebuilt knows of a chunk only how far backups reach into it.
    record.length = record.length.max(chunk.length);
    if record.length != chunk.length {
        return Err(Refusal::LengthDiffers {
            digest: chunk.digest,
            known: record.length,
            given: chunk.length,
        }
        .into());
    }
    let (_, replicas) = place_more(step, object, known, &chunk.claims, true)?;
    if !are_enough(&replicas, ack) {
        return Ok(Some(StaleGeneration {
            digest: chunk.digest,
            generation: highest_owed(step, chunk, object)?,
        }));
    }
    record.replicas = replicas;
    record.added = step.index;
    step.txn.put(Table::Chunks, key, &record);
    Ok(None)
}

/// Invariant 4 begins here: a chunk that is acknowledged is in as many repositories as its backup asks for.
fn are_enough(replicas: &[Replica], ack: u16) -> bool {
    replicas.len() >= usize::from(ack.max(1))
}

/// The generation that satisfies the debts of all repositories that the chunk was offered in.
fn highest_owed<B: Base>(
    step: &Step<'_, '_, B>,
    chunk: &NewChunk,
    object: &ObjectRef,
) -> Result<pgmesh_storage::Generation, ReadError> {
    let mut generation = pgmesh_storage::Generation::FIRST;
    for claim in &chunk.claims {
        let key = key::debt(claim.replica.repo, object);
        if let Some(debt) = step.txn.record::<Debt>(Table::Debts, &key)? {
            generation = generation.max(debt.generation);
        }
    }
    Ok(generation)
}

/// Invariant 5: a condemned chunk is not revived. Its objects stay condemned, as garbage, and the upload is a new
/// generation under another name.
fn throw_away_condemned<B: Base>(
    step: &mut Step<'_, '_, B>,
    chunk: &NewChunk,
    object: &ObjectRef,
) -> Result<(), ReadError> {
    let key = key::chunk(&chunk.digest);
    let Some(old) = step.txn.record::<ChunkRecord>(Table::Chunks, &key)? else {
        return Ok(());
    };
    if let Some(since) = old.condemned {
        let garbage = Garbage {
            since,
            digest: chunk.digest,
            archive: None,
            plain_length: 0,
        };
        for replica in old.replicas {
            throw_away(step, object, replica, &garbage);
        }
        step.txn.delete(Table::Condemned, key.clone());
        step.txn.delete(Table::Chunks, key);
    }
    Ok(())
}
