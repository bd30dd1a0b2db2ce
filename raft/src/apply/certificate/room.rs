//! The room for certificates, by a count of the rows that are not revoked: a join does not read them all.

use super::{Base, Outcome, Step, is_barred, rows};
use crate::error::ReadError;
use crate::key;
use crate::limits;
use crate::model::CertificateRecord;
use crate::refusal::Refusal;
use crate::table::Table;

/// Keeps the count when the row of a key becomes another one, or goes. Before the row is written.
pub(super) fn recount<B: Base>(
    step: &mut Step<'_, '_, B>,
    key: &[u8; 32],
    new: Option<&CertificateRecord>,
) -> Result<(), ReadError> {
    let old: Option<CertificateRecord> = step.txn.record(Table::Certificates, &key::certificate(key))?;
    let counts = |record: Option<&CertificateRecord>| u64::from(record.is_some_and(|record| record.revoked.is_none()));
    let (before, after) = (counts(old.as_ref()), counts(new));
    if before != after {
        let count = count(step)?.saturating_sub(before).saturating_add(after);
        step.txn.put(Table::Mesh, key::CERTIFICATES.to_vec(), &count);
    }
    Ok(())
}

/// The rows that are not revoked. They are counted once, when the catalog comes to the level that keeps their number.
fn count<B: Base>(step: &Step<'_, '_, B>) -> Result<u64, ReadError> {
    if let Some(known) = step.txn.record(Table::Mesh, key::CERTIFICATES)? {
        return Ok(known);
    }
    let counting = rows(step)?.into_iter().filter(|(_, record)| record.revoked.is_none());
    Ok(counting.count() as u64)
}

/// Where there is no room for one more key, gives up the rows that have ended; refuses if that does not help.
pub(super) fn make<B: Base>(step: &mut Step<'_, '_, B>, new: &[u8; 32]) -> Outcome<()> {
    let known: Option<CertificateRecord> = step.txn.record(Table::Certificates, &key::certificate(new))?;
    if known.is_some_and(|known| known.revoked.is_none()) || count(step)? < limits::CERTIFICATES as u64 {
        return Ok(());
    }
    for (key, record) in rows(step)? {
        // Without its row, a key of a revoked name is refused: a clock that is ahead must not do that.
        if record.revoked.is_none() && record.not_after < step.at && !is_barred(step, &record.name, None)? {
            super::delete(step, &key)?;
        }
    }
    match count(step)? {
        left if left < limits::CERTIFICATES as u64 => Ok(()),
        left => Err(Refusal::TooManyCertificates(left).into()),
    }
}
