//! Memory of the newest requests: if a request is repeated, by way of another node or after a lost answer, it has one
//! effect.
//!
//! A ring has one slot for each of the newest positions. A request that takes a slot displaces the request that had it:
//! the rows are bounded, every command costs the same, and all nodes forget alike (invariant 10).

use pgmesh_storage::{Digest, DigestSuite, wire};

use super::{Base, Txn};
use crate::command::Command;
use crate::error::ReadError;
use crate::key;
use crate::model::{LogIndex, Remembered, RequestId};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;

/// How many positions back a request is remembered. It is repeated for as long as its proposer has patience, a few
/// seconds: far fewer commands than this fit into that time. It is part of the catalog's format.
pub(super) const REMEMBERED: u64 = 1 << 15;

/// The digest of a command: a request identifier that comes again with another command is no repetition.
pub(super) fn digest(command: &Command) -> Digest {
    DigestSuite::Blake3.digest(&wire::encode(command))
}

/// The outcome of a request that was applied before.
pub(super) fn outcome<B: Base>(
    txn: &Txn<'_, B>,
    id: RequestId,
    command: &Digest,
) -> Result<Option<Result<Reply, Refusal>>, ReadError> {
    let known: Option<Remembered> = txn.record(Table::Requests, &key::request(id))?;
    Ok(known.map(|known| {
        if known.command == *command {
            known.outcome
        } else {
            Err(Refusal::OtherRequest(id))
        }
    }))
}

/// Remembers the outcome of the request at `index`, and forgets the request whose slot it takes.
pub(super) fn remember<B: Base>(
    txn: &mut Txn<'_, B>,
    id: RequestId,
    index: LogIndex,
    command: Digest,
    outcome: &Result<Reply, Refusal>,
) -> Result<(), ReadError> {
    let slot = key::request_slot(u32::try_from(index.0 % REMEMBERED).unwrap_or_default());
    if let Some(old) = txn.record::<RequestId>(Table::RequestRing, &slot)? {
        txn.delete(Table::Requests, key::request(old));
    }
    txn.put(Table::RequestRing, slot, &id);
    let remembered = Remembered {
        index,
        command,
        outcome: outcome.clone(),
    };
    txn.put(Table::Requests, key::request(id), &remembered);
    Ok(())
}
