//! The certificates of clients, administrators, monitors and restoring hosts. A node's are in its own record.
//!
//! A revocation that is forgotten before the certificate's end would let its holder in again. So a revoked row is not
//! given up by a clock, but only where there are too many; and the name stays in table `RevokedNames`: a key that has
//! no row is refused under it, also one that this catalog has never seen. A later join under the name has a row.

mod room;

use super::{Base, Outcome, Step, rotation, token};
use crate::command::{IssueCertificate, IssueUnder, NoteCertificate, NoteIssued, RevokeCertificates};
use crate::error::ReadError;
use crate::key;
use crate::limits;
use crate::model::{
    AuthorityId, CertificateRecord, CertificateRole, Levels, NodeRecord, Revocation, TokenRecord, TokenRole, short_key,
};
use crate::refusal::{AuthorityRefusal, Refusal};
use crate::reply::Reply;
use crate::table::Table;
use std::collections::BTreeSet;

/// The apply level that knows certificates.
pub const CERTIFICATES: u32 = 2;
/// The apply level that knows when a certificate was issued, and by which authority.
pub const AUTHORITIES: u32 = 3;

/// For so long after its end a certificate's row is listed where there is room, in seconds.
const KEPT: i64 = 30 * 24 * 3600;
/// The longest reason of a revocation, in characters.
const REASON_CHARACTERS: usize = 500;

type Rows = Vec<([u8; 32], CertificateRecord)>;

/// Refuses a command that the catalog's level does not know.
pub(super) fn need_level<B: Base>(step: &Step<'_, '_, B>, level: u32) -> Outcome<()> {
    match current_level(step)? {
        current if current < level => Err(Refusal::NeedsLevel { level, current }.into()),
        _ => Ok(()),
    }
}

/// The catalog's level.
pub(super) fn current_level<B: Base>(step: &Step<'_, '_, B>) -> Result<u32, ReadError> {
    let known: Levels = step.txn.record(Table::Mesh, key::LEVELS)?.unwrap_or_default();
    Ok(known.current)
}

/// Uses a token up for a certificate of this authority.
pub(super) fn issue_under<B: Base>(step: &mut Step<'_, '_, B>, given: IssueUnder) -> Outcome {
    let IssueUnder {
        issue: new,
        authority: issuer,
    } = given;
    let (key, certificate) = (new.key, new.redemption.certificate.clone());
    rotation::refuse_other(step, &issuer)?;
    let reply = issue(step, new)?;
    // Not for a request that has come again: its answer is the first certificate.
    if matches!(&reply, Reply::Joined { certificate: joined, .. } if *joined == certificate) {
        put_issuer(step, &key, &issuer);
    }
    Ok(reply)
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
    refuse_revoked(step, &key)?;
    if let Some(used) = token::used_before(&known, &redemption, &name)? {
        return Ok(Reply::Joined {
            certificate: used.certificate.clone(),
            node_id: None,
        });
    }
    if let Some(invited) = &replaces
        && !invited.eq_ignore_ascii_case(&name)
    {
        return Err(Refusal::TokenOfOtherName(invited.clone(), name).into());
    }
    refuse_other_holder(step, &key, &name, &role)?;
    refuse_name_of_node(step, &name)?;
    let others = others_of_name(step, &name, &key, replaces.is_some().then_some(&role))?;
    if replaces.is_some() {
        // The last administrator is replaced by an administrator: one is left.
        let why = "another host has joined under its name";
        bar_name(step, &name, why)?;
        strike_all(step, others, why)?;
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
    put(step, &key, &record)?;
    Ok(reply)
}

/// What a token makes, and the name that its bearer may take from others; none for a node's.
fn role_of(token: &TokenRecord) -> Option<(CertificateRole, Option<String>)> {
    match &token.role {
        TokenRole::Node { .. } => None,
        TokenRole::Admin => Some((CertificateRole::Admin, None)),
        TokenRole::Client { stanzas } => Some((
            CertificateRole::Client {
                stanzas: stanzas.clone(),
            },
            None,
        )),
        TokenRole::Member { role, replaces } => Some((role.clone(), replaces.clone())),
    }
}

/// The rows of other keys that a token takes the name from. Refuses a name that is taken: by a certificate that counts,
/// unless the token replaces those of its role.
fn others_of_name<B: Base>(
    step: &Step<'_, '_, B>,
    name: &str,
    key: &[u8; 32],
    replaced: Option<&CertificateRole>,
) -> Outcome<Rows> {
    let mut others = named(step, name)?;
    others.retain(|(other, record)| other != key && record.is_valid(step.at));
    let keeps = |record: &CertificateRecord| replaced.is_none_or(|role| role.kind() != record.role.kind());
    match others.iter().find(|(_, record)| keeps(record)) {
        None => Ok(others),
        Some((other, record)) => Err(Refusal::name_taken(name, other, record).into()),
    }
}

/// A key keeps its name and role, and a node's key, or its administrator's, is nobody else's.
fn refuse_other_holder<B: Base>(
    step: &Step<'_, '_, B>,
    key: &[u8; 32],
    name: &str,
    role: &CertificateRole,
) -> Outcome<()> {
    let other = |known: String| Refusal::OtherHolder {
        known,
        given: name.to_owned(),
    };
    let known = step
        .txn
        .record::<CertificateRecord>(Table::Certificates, &key::certificate(key))?;
    if let Some(known) = known
        && (known.name != name || known.role != *role)
    {
        return Err(other(known.name).into());
    }
    for (node, record) in nodes(step)? {
        if record.key == *key || record.administrator == *key || record.revoked.contains(key) {
            return Err(other(node).into());
        }
    }
    Ok(())
}

/// A member with the name of a node would be taken for the node's administrator.
fn refuse_name_of_node<B: Base>(step: &Step<'_, '_, B>, name: &str) -> Outcome<()> {
    let mut nodes = nodes(step)?.into_iter().filter(|(_, record)| record.is_member());
    match nodes.find(|(node, _)| node.eq_ignore_ascii_case(name)) {
        None => Ok(()),
        Some((node, record)) => Err(Refusal::NameTaken {
            name: node,
            role: "node".to_owned(),
            stanzas: Vec::new(),
            key: short_key(&record.key),
        }
        .into()),
    }
}

/// A certificate was renewed, or one is in use that the catalog does not know: it was issued at an earlier level. Its
/// authority is not named: a node that has not heard of the later level must not wash away what that knows.
pub(super) fn note<B: Base>(step: &mut Step<'_, '_, B>, note: NoteCertificate) -> Outcome {
    let Some(now) = rotation::known(step)? else {
        return note_at(step, note, None);
    };
    if note.is_renewed {
        return Err(AuthorityRefusal::OtherAuthority.into());
    }
    let key = note.key;
    let is_new = rotation::issuer(step, &key)?.is_none() && find(step, &key)?.is_none();
    let reply = note_at(step, note, None)?;
    if is_new && now.is_under_way() {
        put_issuer(step, &key, &rotation::FIRST_SEEN);
    }
    Ok(reply)
}

/// As [`note`], with the time of issue and the authority.
pub(super) fn note_issued<B: Base>(step: &mut Step<'_, '_, B>, given: NoteIssued) -> Outcome {
    let NoteIssued {
        certificate,
        issued_at,
        authority: by,
    } = given;
    let (key, is_renewed) = (certificate.key, certificate.is_renewed);
    if is_renewed {
        rotation::refuse_other(step, &by)?;
    }
    let (known, issuer) = (find(step, &key)?, rotation::issuer(step, &key)?);
    let now = rotation::known(step)?;
    let is_suspect = known.is_none() || issuer == Some(rotation::FIRST_SEEN);
    // Under the new authority there are only certificates that a node has renewed or issued.
    let is_forgeable = now
        .as_ref()
        .is_some_and(|now| now.is_under_way() && (is_renewed || by != now.next));
    if is_suspect && is_forgeable {
        if is_renewed {
            return Err(AuthorityRefusal::FirstSeen(certificate.name).into());
        }
        let reply = note_at(step, certificate, Some(issued_at))?;
        put_issuer(step, &key, &rotation::FIRST_SEEN);
        return Ok(reply);
    }
    let reply = note_at(step, certificate, Some(issued_at))?;
    let is_first = issuer.is_none() && !(is_renewed && known.is_some());
    // A certificate counts as the new authority's when it is shown: the answer to a renewal may be lost, and its host
    // would be cut off at the end. An earlier certificate of the key may come later, and says nothing.
    let is_shown = !is_renewed && issuer != Some(rotation::FIRST_SEEN);
    let is_moved = is_shown && now.is_some_and(|now| now.signing() == by && by == now.next);
    if is_first || is_moved {
        put_issuer(step, &key, &by);
    }
    Ok(reply)
}

fn note_at<B: Base>(step: &mut Step<'_, '_, B>, note: NoteCertificate, issued_at: Option<i64>) -> Outcome {
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
    let knows_authorities = current_level(step)? >= AUTHORITIES;
    if knows_authorities && known.is_none() {
        refuse_other_holder(step, &key, &name, &role)?;
    }
    let record = match known {
        Some(known) if knows_authorities && (known.name != name || !known.role.is_same(&role)) => {
            return Err(Refusal::OtherHolder {
                given: name,
                known: known.name,
            }
            .into());
        }
        Some(_) if !is_renewed => return Ok(Reply::Done),
        Some(known) if known.name != name || known.role != role => {
            return Err(Refusal::OtherHolder {
                given: name,
                known: known.name,
            }
            .into());
        }
        Some(known) if not_after.saturating_sub(known.not_after) < limits::RENEWAL => return Ok(Reply::Done),
        Some(known) => CertificateRecord {
            not_after: known.not_after.max(not_after),
            renewed_at: Some(step.at),
            ..known
        },
        None => {
            if is_barred(step, &name, issued_at)? {
                return Err(Refusal::CertificateRevoked(name).into());
            }
            make_room(step, &key)?;
            CertificateRecord {
                name,
                role,
                issued_at: issued_at.unwrap_or(step.at),
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
    put(step, &key, &record)?;
    Ok(Reply::Done)
}

/// Revokes all certificates of a name: those that are known and not revoked yet, and those that nobody has shown yet.
pub(super) fn revoke<B: Base>(step: &mut Step<'_, '_, B>, given: &RevokeCertificates) -> Outcome {
    need_level(step, CERTIFICATES)?;
    refuse_revoked(step, &given.asker)?;
    let name = &given.name;
    let all = named(step, name)?;
    let knows_issue = current_level(step)? >= AUTHORITIES;
    if knows_issue && !given.force && all.is_empty() && !is_barred(step, name, None)? {
        return Err(AuthorityRefusal::UnknownName(name.clone()).into());
    }
    if !given.force {
        refuse_last_administrator(step, name, &all, given.asker)?;
    }
    let why: String = given.reason.chars().take(REASON_CHARACTERS).collect();
    // An expired one, too: a clock that is behind would take it.
    let counting: Rows = all.into_iter().filter(|(_, record)| record.revoked.is_none()).collect();
    let certificates = u32::try_from(counting.len()).unwrap_or(u32::MAX);
    // A bar that names the time is made anew: it reaches what was issued meanwhile.
    if certificates == 0 && !knows_issue && is_barred(step, name, None)? {
        return Ok(Reply::Revoked { certificates });
    }
    let mut parts: Vec<String> = counting
        .iter()
        .map(|(key, record)| format!("{} {}", record.role.kind(), short_key(key)))
        .collect();
    bar_name(step, name, &why)?;
    match strike_all(step, counting, &why)? {
        0 => {}
        tokens => parts.push(format!("{tokens} unused tokens of its holder")),
    }
    if parts.is_empty() {
        parts.push("no certificate is known".to_owned());
    }
    let reason = if why.is_empty() {
        String::new()
    } else {
        format!(": {why}")
    };
    let audit = format!("{name} revoked ({}){reason}", parts.join(", "));
    step.audit(limits::shortened(audit, limits::REASON));
    Ok(Reply::Revoked { certificates })
}

fn revocation<B: Base>(step: &Step<'_, '_, B>, why: &str) -> Revocation {
    Revocation {
        at: step.at,
        by: step.actor.to_owned(),
        why: why.to_owned(),
    }
}

/// Strikes these certificates, and takes the unused tokens back that their holders have made. Returns how many.
pub(super) fn strike_all<B: Base>(step: &mut Step<'_, '_, B>, struck: Rows, why: &str) -> Outcome<usize> {
    let keys: BTreeSet<[u8; 32]> = struck.iter().map(|(key, _)| *key).collect();
    let is_administrator = struck.iter().any(|(_, record)| record.role == CertificateRole::Admin);
    for (key, mut record) in struck {
        record.revoked = Some(revocation(step, why));
        put(step, &key, &record)?;
    }
    let mut revoked = rows(step)?;
    revoked.retain(|(_, record)| record.revoked.is_some());
    revoked.sort_by_key(|(key, record)| (record.not_after, *key));
    let surplus = revoked.len().saturating_sub(limits::REVOKED);
    for (key, _) in revoked.iter().take(surplus) {
        delete(step, key)?;
    }
    let mut tokens = token::take_back_made_by(step, &keys)?;
    // Tokens of an early level name no maker: it may be this administrator.
    if is_administrator && current_level(step)? >= AUTHORITIES {
        tokens += token::take_back_unmade(step)?;
    }
    Ok(tokens)
}

/// Whether a certificate of the name, without a row, counts no more that was issued then; any, where that is not known.
fn is_barred<B: Base>(step: &Step<'_, '_, B>, name: &str, issued_at: Option<i64>) -> Result<bool, ReadError> {
    let barred: Option<Revocation> = step.txn.record(Table::RevokedNames, &key::revoked_name(name))?;
    Ok(barred.is_some_and(|barred| issued_at.is_none_or(|at| barred.bars(at))))
}

/// From now on, a key without a row is refused under this name.
fn bar_name<B: Base>(step: &mut Step<'_, '_, B>, name: &str, why: &str) -> Outcome<()> {
    let row = key::revoked_name(name);
    let mut barred = Vec::new();
    for known in step.txn.records::<Revocation>(Table::RevokedNames, &[]) {
        let (known, revocation) = known?;
        if known != row {
            barred.push((revocation.at, known));
        }
    }
    if barred.len() >= limits::REVOKED
        && let Some((_, first)) = barred.into_iter().min()
    {
        step.txn.delete(Table::RevokedNames, first);
    }
    let revocation = revocation(step, why);
    step.txn.put(Table::RevokedNames, row, &revocation);
    step.txn.put(Table::Mesh, key::REVOKED.to_vec(), &step.index);
    Ok(())
}

/// The last administrator who was invited does not shut itself out by mistake.
fn refuse_last_administrator<B: Base>(step: &Step<'_, '_, B>, name: &str, all: &Rows, asker: [u8; 32]) -> Outcome<()> {
    if !all.iter().any(|(key, _)| *key == asker) {
        return Ok(());
    }
    let is_admin = |record: &CertificateRecord| record.role == CertificateRole::Admin && record.is_valid(step.at);
    let others = rows(step)?;
    if others
        .iter()
        .any(|(_, record)| !record.is_called(name) && is_admin(record))
    {
        return Ok(());
    }
    Err(Refusal::LastAdministrator(name.to_owned()).into())
}

/// Refuses a key that was revoked by itself, or with its node.
pub(super) fn refuse_revoked<B: Base>(step: &Step<'_, '_, B>, key: &[u8; 32]) -> Outcome<()> {
    let known = step
        .txn
        .record::<CertificateRecord>(Table::Certificates, &key::certificate(key))?;
    if let Some(record) = known
        && record.revoked.is_some()
    {
        return Err(Refusal::CertificateRevoked(record.name).into());
    }
    let nodes = nodes(step)?;
    match nodes.into_iter().find(|(_, record)| record.revoked.contains(key)) {
        Some((node, _)) => Err(Refusal::CertificateRevoked(node).into()),
        None => Ok(()),
    }
}

/// Gives up the rows that ended long ago, and where there is no room also those that have just ended; refuses one row
/// more than there may be. Revoked rows take no room from others.
fn make_room<B: Base>(step: &mut Step<'_, '_, B>, new: &[u8; 32]) -> Outcome<()> {
    if current_level(step)? >= AUTHORITIES {
        return room::make(step, new);
    }
    let mut all = rows(step)?;
    all.retain(|(key, record)| key != new && record.revoked.is_none());
    let is_full = all.len() >= limits::CERTIFICATES;
    let mut left = all.len();
    for (key, record) in &all {
        // Without its row, a key of a revoked name is refused: a clock that is ahead must not do that.
        let kept = if is_full { 0 } else { KEPT };
        if record.not_after.saturating_add(kept) < step.at && !is_barred(step, &record.name, None)? {
            step.txn.delete(Table::Certificates, key::certificate(key));
            left -= 1;
        }
    }
    if left < limits::CERTIFICATES {
        return Ok(());
    }
    Err(Refusal::TooManyCertificates(left as u64).into())
}

fn find<B: Base>(step: &Step<'_, '_, B>, key: &[u8; 32]) -> Result<Option<CertificateRecord>, ReadError> {
    step.txn.record(Table::Certificates, &key::certificate(key))
}

fn nodes<B: Base>(step: &Step<'_, '_, B>) -> Outcome<Vec<(String, NodeRecord)>> {
    let mut nodes = Vec::new();
    for row in step.txn.records::<NodeRecord>(Table::Nodes, &[]) {
        let (name, record) = row?;
        nodes.push((String::from_utf8_lossy(&name).into_owned(), record));
    }
    Ok(nodes)
}

fn named<B: Base>(step: &Step<'_, '_, B>, name: &str) -> Result<Rows, ReadError> {
    let mut all = rows(step)?;
    all.retain(|(_, record)| record.is_called(name));
    Ok(all)
}

pub(super) fn rows<B: Base>(step: &Step<'_, '_, B>) -> Result<Rows, ReadError> {
    let mut all = Vec::new();
    for row in step.txn.records::<CertificateRecord>(Table::Certificates, &[]) {
        let (key, record) = row?;
        if let Ok(key) = key.try_into() {
            all.push((key, record));
        }
    }
    Ok(all)
}

fn put<B: Base>(step: &mut Step<'_, '_, B>, key: &[u8; 32], record: &CertificateRecord) -> Result<(), ReadError> {
    if current_level(step)? >= AUTHORITIES {
        room::recount(step, key, Some(record))?;
    }
    step.txn.put(Table::Certificates, key::certificate(key), record);
    Ok(())
}

fn delete<B: Base>(step: &mut Step<'_, '_, B>, key: &[u8; 32]) -> Result<(), ReadError> {
    if current_level(step)? >= AUTHORITIES {
        room::recount(step, key, None)?;
    }
    step.txn.delete(Table::Certificates, key::certificate(key));
    step.txn.delete(Table::Issuers, key::certificate(key));
    Ok(())
}

fn put_issuer<B: Base>(step: &mut Step<'_, '_, B>, key: &[u8; 32], issuer: &AuthorityId) {
    step.txn.put(Table::Issuers, key::certificate(key), issuer);
}

#[cfg(test)]
mod tests;
