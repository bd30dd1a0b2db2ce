//! One entry of the log: applied, or left out where it cannot be.

use pgmesh_protocol::EntryId;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::apply::{self, Base, Txn};
use crate::command::Proposal;
use crate::consensus::{Batch, Outcomes};
use crate::error::{CatalogError, ReadError};
use crate::refusal::Refusal;

/// Applies the commands of an entry. Nothing of the transaction's current entry may be used when that fails.
pub(super) fn apply_batch<B: Base>(txn: &mut Txn<'_, B>, id: EntryId, batch: Batch) -> Result<Outcomes, CatalogError> {
    let mut outcomes = Vec::with_capacity(batch.0.len());
    for proposal in batch.0 {
        let command = format!("\"{}\" of {}", proposal.command.name(), proposal.actor);
        // A panic would end all nodes as an error does, and say less.
        let applied = catch_unwind(AssertUnwindSafe(|| {
            let index = apply::next_index(txn)?;
            apply::apply(txn, index, proposal)
        }));
        let why = match applied {
            Ok(Ok(outcome)) => {
                outcomes.push(outcome);
                continue;
            }
            // This node's own disk or database: the others can apply the entry.
            Ok(Err(error @ (ReadError::Database { .. } | ReadError::NoTable(_)))) => return Err(error.into()),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic_text(&*panic),
        };
        return Err(CatalogError::Unappliable {
            entry: id,
            command,
            why,
        });
    }
    Ok(Outcomes(outcomes))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("the program failed: {}", text.unwrap_or_default())
}

/// Leaves an entry out. A caller that waits for one of its commands is told so.
pub(super) fn leave_out<B: Base>(txn: &mut Txn<'_, B>, id: EntryId, batch: &Batch) -> Result<Outcomes, CatalogError> {
    let index = apply::next_index(txn)?;
    apply::skip(txn, index, &id.to_string(), &batch.0);
    let refused = |_: &Proposal| Err(Refusal::Skipped { entry: id.to_string() });
    Ok(Outcomes(batch.0.iter().map(refused).collect()))
}
