//! Withdrawn replicas of chunks, as far as commits must know of them (invariants 4 and 5).
//!
//! A commit rests on a look at each chunk that its backup names, at `checked_at`. The chunks are not in the command:
//! there may be millions. So the catalog remembers when a chunk was last left with so many good replicas, and refuses a
//! commit that asks for more and has looked before that. The node then reads in table `Withdrawn` which chunks these
//! were, and looks again at those of its backup.

use pgmesh_storage::Digest;

use super::{Base, Step};
use crate::error::ReadError;
use crate::model::{LogIndex, WithdrawnMarks};
use crate::table::Table;
use crate::{key, limits, value};

/// The last withdrawal that has left a chunk with fewer than `ack` good replicas.
pub(crate) fn below<B: Base>(base: &B, ack: u16) -> Result<LogIndex, ReadError> {
    Ok(marks(base)?.below(ack))
}

pub(crate) fn marks<B: Base>(base: &B) -> Result<WithdrawnMarks, ReadError> {
    Ok(base.record(Table::Mesh, key::WITHDRAWN)?.unwrap_or_default())
}

/// Remembers that replicas of these chunks were withdrawn at this step, and how many good ones each has left. At most
/// once a step.
pub(super) fn note<B: Base>(step: &mut Step<'_, '_, B>, chunks: &[(Digest, usize)]) -> Result<(), ReadError> {
    if chunks.is_empty() {
        return Ok(());
    }
    let mut marks = marks(step.txn)?;
    for (_, left) in chunks {
        let left = u16::try_from(*left).unwrap_or(u16::MAX);
        marks.left.insert(left, step.index);
    }
    let digests: Vec<Digest> = chunks.iter().map(|(digest, _)| *digest).collect();
    marks.digests += digests.len() as u64;
    drop_oldest(step, &mut marks)?;
    step.txn.put(Table::Withdrawn, key::index(step.index), &digests);
    step.txn.put(Table::Mesh, key::WITHDRAWN.to_vec(), &marks);
    Ok(())
}

/// A row has at least one digest: so many rows go, at most, as digests have come.
fn drop_oldest<B: Base>(step: &mut Step<'_, '_, B>, marks: &mut WithdrawnMarks) -> Result<(), ReadError> {
    if marks.digests <= limits::WITHDRAWN {
        return Ok(());
    }
    // One scan, from behind the dropped rows on.
    let from = key::index(LogIndex(marks.dropped.0.saturating_add(1)));
    let mut gone = Vec::new();
    let mut rows = step.txn.scan(Table::Withdrawn, &from, &[]);
    while marks.digests > limits::WITHDRAWN {
        let Some((row, bytes)) = rows.next().transpose()? else {
            marks.digests = 0;
            break;
        };
        let digests: Vec<Digest> = value::decode(Table::Withdrawn, &row, &bytes)?;
        marks.digests = marks.digests.saturating_sub(digests.len() as u64);
        if let Some(dropped) = key::KeyReader::new(&row).index() {
            marks.dropped = dropped;
        }
        gone.push(row);
    }
    drop(rows);
    for row in gone {
        step.txn.delete(Table::Withdrawn, row);
    }
    Ok(())
}
