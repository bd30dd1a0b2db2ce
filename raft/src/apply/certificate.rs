//! The certificates of clients, administrators, monitors and restoring hosts. A node's are in its own record.
//!
//! A row is kept for as long as a certificate of its key may be shown: a revocation that is forgotten before the
//! certificate's end would let its holder in again. The proposer's clock decides what has ended, so a row stays for
//! [`KEPT`] longer.

use super::{Base, Outcome, Step, token};
use crate::command::{IssueCertificate, NoteCertificate, RevokeCertificates};
use crate::error::ReadError;
use crate::key;
use crate::limits;
use crate::model::{CertificateRecord, CertificateRole, Levels, Revocation, TokenRecord, TokenRole, short_key};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;

/// The apply level that knows certificates.
pub const CERTIFICATES: u32 = 2;

/// For so long after its end a certificate's row is kept, in seconds: no clock is so wrong.
const KEPT: i64 = 30 * 24 * 3600;
/// The longest reason of a revocation, in characters.
const REASON_CHARACTERS: usize = 500;

type Rows = Vec<([u8; 32], CertificateRecord)>;

/// Refuses what the catalog's level does not know.
pub(super) fn need_level<B: Base>(step: &Step<'_, '_, B>, level: u32) -> Outcome<()> {
    let known: Levels = step.txn.record(Table::Mesh, key::LEVELS)?.unwrap_or_default();
    if known.current < level {
        let current = known.current;
        return Err(Refusal::NeedsLevel { level, current }.into());
    }
    Ok(())
}

/// Uses a token up for a certificate.
pub(super) fn issue<B: Base>(step: &mut Step<'_, '_, B>, issue: IssueCertificate) -> Outcome {
    need_level(step, CERTIFICATES)?;
    let IssueCertificate {
        redemption,
        name,
        key,
        not_after,
    } = issue;
    let known = token::find(step, &redemption)?;
    let Some((role, replaces)) = role_of(&known) else {
        return Err(Refusal::TokenOfOtherRole { is_for_node: true }.into());
    };
    if let Some(used) = token::used_before(&known, &redemption, &name)? {
        refuse_revoked(step, &key)?;
        return Ok(Reply::Joined {
            certificate: used.certificate.clone(),
            node_id: None,
        });
    }
    refuse_revoked(step, &key)?;
    for (other, mut record) in named(step, &name)? {
        if other == key || !record.is_valid(step.at) {
            continue;
        }
        if !replaces {
            return Err(Refusal::NameTaken {
                name,
                role: record.role.kind().to_owned(),
                key: short_key(&other),
            }
            .into());
        }
        strike(step, &other, &mut record, "another host has joined under its name");
    }
    make_room(step, &key)?;
    let record = CertificateRecord {
        name: name.clone(),
        role,
        issued_at: step.at,
        not_after,
        renewed_at: None,
        revoked: None,
    };
    let token = redemption.token;
    let reply = token::use_up(step, known, redemption, name, None)?;
    // In place of the line that does not name the key.
    step.audit(format!(
        "token {token} used: {} joined as {} (key {})",
        record.name,
        record.role,
        short_key(&key)
    ));
    put(step, &key, &record);
    Ok(reply)
}

/// What a token makes, and whether the certificates of its bearer's name are revoked; none for a node's.
fn role_of(token: &TokenRecord) -> Option<(CertificateRole, bool)> {
    match &token.role {
        TokenRole::Node { .. } => None,
        TokenRole::Admin => Some((CertificateRole::Admin, false)),
        TokenRole::Client { stanzas } => Some((
            CertificateRole::Client {
                stanzas: stanzas.clone(),
            },
            false,
        )),
        TokenRole::Member { role, replaces } => Some((role.clone(), *replaces)),
    }
}

/// A certificate was renewed, or one is in use that the catalog does not know: it was issued at an earlier level.
pub(super) fn note<B: Base>(step: &mut Step<'_, '_, B>, note: NoteCertificate) -> Outcome {
    need_level(step, CERTIFICATES)?;
    let NoteCertificate {
        key,
        name,
        role,
        not_after,
        is_renewed,
    } = note;
    refuse_revoked(step, &key)?;
    let known = step
        .txn
        .record::<CertificateRecord>(Table::Certificates, &key::certificate(&key))?;
    let record = match known {
        Some(_) if !is_renewed => return Ok(Reply::Done),
        Some(known) if known.name != name || known.role != role => {
            return Err(Refusal::OtherHolder {
                given: name,
                known: known.name,
            }
            .into());
        }
        Some(known) => CertificateRecord {
            not_after: known.not_after.max(not_after),
            renewed_at: Some(step.at),
            ..known
        },
        None => {
            make_room(step, &key)?;
            CertificateRecord {
                name,
                role,
                issued_at: step.at,
                not_after,
                renewed_at: is_renewed.then_some(step.at),
                revoked: None,
            }
        }
    };
    let what = if is_renewed { "renewed" } else { "first seen" };
    step.audit(format!(
        "certificate of {} {} (key {}) {what}",
        record.role.kind(),
        record.name,
        short_key(&key)
    ));
    put(step, &key, &record);
    Ok(Reply::Done)
}

/// Revokes all certificates of a name that are not revoked yet.
pub(super) fn revoke<B: Base>(step: &mut Step<'_, '_, B>, given: &RevokeCertificates) -> Outcome {
    need_level(step, CERTIFICATES)?;
    let name = &given.name;
    let all = named(step, name)?;
    if all.is_empty() {
        return Err(Refusal::UnknownCertificate(name.clone()).into());
    }
    if !given.force {
        refuse_last_administrator(step, name, &all, given.asker)?;
    }
    let why: String = given.reason.chars().take(REASON_CHARACTERS).collect();
    let mut keys = Vec::new();
    for (key, mut record) in all {
        // An expired one, too: a clock that is behind would take it.
        if record.revoked.is_some() {
            continue;
        }
        keys.push(format!("{} {}", record.role.kind(), short_key(&key)));
        strike(step, &key, &mut record, &why);
    }
    let certificates = u32::try_from(keys.len()).unwrap_or(u32::MAX);
    if certificates > 0 {
        let reason = if why.is_empty() {
            String::new()
        } else {
            format!(": {why}")
        };
        let audit = format!("{name} revoked ({}){reason}", keys.join(", "));
        step.audit(limits::shortened(audit, limits::REASON));
    }
    Ok(Reply::Revoked { certificates })
}

fn strike<B: Base>(step: &mut Step<'_, '_, B>, key: &[u8; 32], record: &mut CertificateRecord, why: &str) {
    record.revoked = Some(Revocation {
        at: step.at,
        by: step.actor.to_owned(),
        why: why.to_owned(),
    });
    put(step, key, record);
    step.txn.put(Table::Mesh, key::REVOKED.to_vec(), &step.index);
}

/// The last administrator who was invited does not shut itself out by mistake.
fn refuse_last_administrator<B: Base>(step: &Step<'_, '_, B>, name: &str, all: &Rows, asker: [u8; 32]) -> Outcome<()> {
    if !all.iter().any(|(key, _)| *key == asker) {
        return Ok(());
    }
    let is_admin = |record: &CertificateRecord| record.role == CertificateRole::Admin && record.is_valid(step.at);
    let others = rows(step)?;
    if others.iter().any(|(_, record)| record.name != name && is_admin(record)) {
        return Ok(());
    }
    Err(Refusal::LastAdministrator(name.to_owned()).into())
}

fn refuse_revoked<B: Base>(step: &Step<'_, '_, B>, key: &[u8; 32]) -> Outcome<()> {
    let known = step
        .txn
        .record::<CertificateRecord>(Table::Certificates, &key::certificate(key))?;
    match known {
        Some(record) if record.revoked.is_some() => Err(Refusal::CertificateRevoked(record.name).into()),
        _ => Ok(()),
    }
}

/// Forgets what ended long ago, and refuses one row more than there may be.
fn make_room<B: Base>(step: &mut Step<'_, '_, B>, new: &[u8; 32]) -> Outcome<()> {
    let mut all = rows(step)?;
    all.retain(|(key, _)| key != new);
    let ended_before = |record: &CertificateRecord, at: i64| record.not_after.saturating_add(KEPT) < at;
    let is_full = all.len() >= limits::CERTIFICATES;
    let mut left = all.len();
    for (key, record) in &all {
        let has_ended = ended_before(record, step.at);
        let is_of_no_use = is_full && record.revoked.is_none() && record.not_after < step.at;
        if has_ended || is_of_no_use {
            step.txn.delete(Table::Certificates, key::certificate(key));
            left -= 1;
        }
    }
    if left < limits::CERTIFICATES {
        return Ok(());
    }
    Err(Refusal::BeyondLimit {
        what: "the certificates of the mesh".to_owned(),
        given: left as u64 + 1,
        limit: limits::CERTIFICATES as u64,
    }
    .into())
}

fn named<B: Base>(step: &Step<'_, '_, B>, name: &str) -> Result<Rows, ReadError> {
    let mut all = rows(step)?;
    all.retain(|(_, record)| record.name == name);
    Ok(all)
}

fn rows<B: Base>(step: &Step<'_, '_, B>) -> Result<Rows, ReadError> {
    let mut all = Vec::new();
    for row in step.txn.records::<CertificateRecord>(Table::Certificates, &[]) {
        let (key, record) = row?;
        if let Ok(key) = key.try_into() {
            all.push((key, record));
        }
    }
    Ok(all)
}

fn put<B: Base>(step: &mut Step<'_, '_, B>, key: &[u8; 32], record: &CertificateRecord) {
    step.txn.put(Table::Certificates, key::certificate(key), record);
}

#[cfg(test)]
mod tests;
