//! Deletion, decided by log position and sessions, never by a clock (invariant 5).

use pgmesh_storage::Digest;

use super::objects::{find, oldest_session, retire, withdraw};
use super::{Base, Outcome, Step};
use crate::key;
use crate::model::{ChunkRecord, Garbage, GarbageKey, LogIndex, ObjectRef};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;

pub(super) fn condemn<B: Base>(step: &mut Step<'_, '_, B>, chunks: &[Digest], checked_at: LogIndex) -> Outcome {
    let committed: LogIndex = step.txn.record(Table::Mesh, key::COMMITTED)?.unwrap_or_default();
    if committed > checked_at {
        return Err(Refusal::Recheck { since: committed }.into());
    }
    let mut condemned = 0;
    for digest in chunks {
        let object = ObjectRef::Chunk(*digest);
        let Some(known) = find(step.txn, &object)? else {
            continue;
        };
        let key = key::chunk(digest);
        let Some(mut record) = step.txn.record::<ChunkRecord>(Table::Chunks, &key)? else {
            continue;
        };
        record.condemned = Some(step.index);
        retire(step, &object, &known.object)?;
        step.txn.put(Table::Chunks, key.clone(), &record);
        step.txn.put(Table::Condemned, key, &step.index);
        condemned += 1;
    }
    if condemned > 0 {
        withdraw(step);
    }
    Ok(Reply::Condemned { chunks: condemned })
}

pub(super) fn forget<B: Base>(step: &mut Step<'_, '_, B>, chunks: &[Digest]) -> Outcome {
    for digest in chunks {
        let key = key::chunk(digest);
        if let Some(since) = step.txn.record::<LogIndex>(Table::Condemned, &key)? {
            need_no_older_session(step, since)?;
            step.txn.delete(Table::Condemned, key.clone());
            step.txn.delete(Table::Chunks, key);
        }
    }
    Ok(Reply::Done)
}

pub(super) fn forget_garbage<B: Base>(step: &mut Step<'_, '_, B>, garbage: &[GarbageKey]) -> Outcome {
    for row in garbage {
        let key = key::garbage(row);
        if let Some(garbage) = step.txn.record::<Garbage>(Table::Garbage, &key)? {
            need_no_older_session(step, garbage.since)?;
            step.txn.delete(Table::Garbage, key);
        }
    }
    Ok(Reply::Done)
}

/// Invariant 5: what a session that began before `since` may still use is neither deleted nor forgotten.
fn need_no_older_session<B: Base>(step: &Step<'_, '_, B>, since: LogIndex) -> Outcome<()> {
    match oldest_session(step.txn)? {
        Some(session) if session.0 < since => Err(Refusal::SessionOpen { session, since }.into()),
        _ => Ok(()),
    }
}
