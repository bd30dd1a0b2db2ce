//! The rotation of the mesh's authority (decision 44).
//!
//! ```text
//! begin ─► each node fetches the new key and trusts it (has)
//!   all have ─► each node renews its own certificate (shows)
//!   all show ─► the new authority signs, and clients renew (table Issuers)
//! finish
//! ```

use std::collections::BTreeSet;

use super::{AUTHORITIES, Base, Outcome, Step, certificate, node};
use crate::command::{AuthorityCommand, BeginRotation, NoteAuthority};
use crate::error::ReadError;
use crate::key;
use crate::limits;
use crate::model::{AuthorityId, CertificateRecord, Rotation};
use crate::refusal::AuthorityRefusal;
use crate::reply::Reply;
use crate::table::Table;

/// In place of the authority of a key that was first seen while the authority is rotated: a thief of the former
/// authority's key may have made its certificate, and a renewal would make it good.
pub const FIRST_SEEN: AuthorityId = [0; 20];

/// Carries a command about certificates and their authority out.
pub(super) fn apply<B: Base>(step: &mut Step<'_, '_, B>, command: AuthorityCommand) -> Outcome {
    match command {
        AuthorityCommand::Issue(given) => certificate::issue_under(step, given),
        AuthorityCommand::Note(given) => certificate::note_issued(step, given),
        AuthorityCommand::Begin(given) => begin(step, given),
        AuthorityCommand::TakePart(given) => take_part(step, &given),
        AuthorityCommand::Finish { force } => finish(step, force),
    }
}

/// The mesh gets a new authority beside its present one.
fn begin<B: Base>(step: &mut Step<'_, '_, B>, given: BeginRotation) -> Outcome {
    certificate::need_level(step, AUTHORITIES)?;
    let known = rotation(step)?;
    let mut retired = Vec::new();
    if let Some(known) = known {
        if known.is_under_way() && known.next == given.next {
            return Ok(Reply::Done);
        }
        if known.is_under_way() {
            let (at, by) = (known.begun_at, known.begun_by);
            return Err(AuthorityRefusal::UnderWay { at, by }.into());
        }
        if known.next != given.former || known.retired.contains(&given.next) || known.next == given.next {
            return Err(AuthorityRefusal::OtherAuthority.into());
        }
        retired = known.retired;
    }
    step.audit(format!("a new authority {} is added: both count", short(&given.next)));
    let rotation = Rotation {
        former: given.former,
        former_certificate: given.former_certificate,
        next: given.next,
        next_certificate: given.next_certificate,
        vouched: given.vouched,
        begun_at: step.at,
        begun_by: step.actor.to_owned(),
        has: BTreeSet::new(),
        is_trusted: false,
        shows: BTreeSet::new(),
        is_signing: false,
        finished_at: None,
        retired,
    };
    settle(step, rotation)
}

/// What a node has of the new authority.
fn take_part<B: Base>(step: &mut Step<'_, '_, B>, given: &NoteAuthority) -> Outcome {
    certificate::need_level(step, AUTHORITIES)?;
    let known = rotation(step)?.filter(|known| known.is_under_way() && known.next == given.authority);
    let Some(mut rotation) = known else {
        return Err(AuthorityRefusal::NotRotating.into());
    };
    rotation.has.insert(given.node_id);
    if given.shows && rotation.is_trusted {
        rotation.shows.insert(given.node_id);
    }
    settle(step, rotation)
}

/// Nodes show certificates of the new authority as soon as all of them trust it, and it signs as soon as all show it;
/// from then on, whichever node joins.
fn settle<B: Base>(step: &mut Step<'_, '_, B>, mut rotation: Rotation) -> Outcome {
    let members = node::member_numbers(step)?;
    rotation.has.retain(|number| members.contains_key(number));
    rotation.shows.retain(|number| members.contains_key(number));
    let all_in = |numbers: &BTreeSet<u64>| members.keys().all(|number| numbers.contains(number));
    rotation.is_trusted |= all_in(&rotation.has);
    if !rotation.is_signing && rotation.is_trusted && all_in(&rotation.shows) {
        rotation.is_signing = true;
        step.audit(format!(
            "all nodes have certificates of the authority {}: it signs from now on",
            short(&rotation.next)
        ));
    }
    if self::rotation(step)?.as_ref() != Some(&rotation) {
        step.txn.put(Table::Mesh, key::ROTATION.to_vec(), &rotation);
    }
    Ok(Reply::Done)
}

/// The former authority counts no more.
fn finish<B: Base>(step: &mut Step<'_, '_, B>, force: bool) -> Outcome {
    certificate::need_level(step, AUTHORITIES)?;
    let Some(mut rotation) = rotation(step)? else {
        return Err(AuthorityRefusal::NotRotating.into());
    };
    if !rotation.is_under_way() {
        let (names, more) = (Vec::new(), 0);
        return Ok(Reply::CutOff { names, more });
    }
    let members = node::member_numbers(step)?.into_iter();
    let nodes = members.filter(|(number, _)| !rotation.is_signing || !rotation.shows.contains(number));
    let nodes: Vec<String> = nodes.map(|(_, name)| name.to_string()).take(limits::NAMED).collect();
    let (mut names, mut left) = (Vec::new(), Vec::new());
    let mut more = 0;
    for (key, record) in certificate::rows(step)? {
        if !record.is_valid(step.at) || issuer(step, &key)? == Some(rotation.next) {
            continue;
        }
        match names.len() < limits::NAMED {
            true => names.push(named(&record)),
            false => more += 1,
        }
        left.push((key, record));
    }
    // A node that is cut off could not be told so: it has to go first.
    if !nodes.is_empty() || !(force || names.is_empty()) {
        let clients = names;
        return Err(AuthorityRefusal::StillNeeded { nodes, clients, more }.into());
    }
    let cut_off = match (names.join(", "), more) {
        (none, _) if none.is_empty() => String::new(),
        (some, 0) => format!("; cut off: {some}"),
        (some, more) => format!("; cut off: {some}, {more} more"),
    };
    let what = format!("authority {} is retired{cut_off}", short(&rotation.former));
    step.audit(limits::shortened(what, limits::REASON));
    rotation.finished_at = Some(step.at);
    rotation.retired.push(rotation.former);
    let surplus = rotation.retired.len().saturating_sub(limits::AUTHORITIES);
    rotation.retired.drain(..surplus);
    step.txn.put(Table::Mesh, key::ROTATION.to_vec(), &rotation);
    // Their names are free for the certificates that their hosts get by joining again.
    certificate::strike_all(step, left, "the mesh's authority was rotated")?;
    // Connections by certificates of it end.
    step.txn.put(Table::Mesh, key::REVOKED.to_vec(), &step.index);
    Ok(Reply::CutOff { names, more })
}

/// Refuses a certificate that another authority has signed than the one that signs now.
pub(super) fn refuse_other<B: Base>(step: &Step<'_, '_, B>, authority: &AuthorityId) -> Outcome<()> {
    match rotation(step)? {
        Some(rotation) if rotation.signing() != *authority => Err(AuthorityRefusal::OtherAuthority.into()),
        _ => Ok(()),
    }
}

/// Whether both authorities count.
pub(super) fn is_under_way<B: Base>(step: &Step<'_, '_, B>) -> Result<bool, ReadError> {
    Ok(rotation(step)?.is_some_and(|rotation| rotation.is_under_way()))
}

pub(super) fn issuer<B: Base>(step: &Step<'_, '_, B>, key: &[u8; 32]) -> Result<Option<AuthorityId>, ReadError> {
    step.txn.record(Table::Issuers, &key::certificate(key))
}

fn rotation<B: Base>(step: &Step<'_, '_, B>) -> Result<Option<Rotation>, ReadError> {
    step.txn.record(Table::Mesh, key::ROTATION)
}

fn named(record: &CertificateRecord) -> String {
    format!("{} {}", record.role.kind(), record.name)
}

/// The first digits of an authority's identifier, as people compare them.
fn short(authority: &AuthorityId) -> String {
    hex::encode(authority.get(..8).unwrap_or_default())
}

#[cfg(test)]
mod tests;
