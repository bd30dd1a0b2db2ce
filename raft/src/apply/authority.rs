//! The rotation of the mesh's authority (decision 44).
//!
//! ```text
//! begin ─► Spreading: each node fetches the new key and trusts the new authority
//!   all have ─► Showing: each node renews its own certificate under it
//!     all show ─► Signing: the new authority signs, and clients renew (table Issuers)
//!       finish ─► Finished
//!   give up, in Spreading ─► GivenUp
//!   give up, in Showing ─► GivingUp: each node goes back ─► GivenUp
//! ```

use std::collections::BTreeSet;

use super::{AUTHORITIES, Base, Outcome, Step, certificate, node};
use crate::command::{AdmitUnder, AuthorityCommand, BeginRotation, NoteAuthority};
use crate::error::ReadError;
use crate::key;
use crate::limits;
use crate::model::{AuthorityId, CertificateRecord, Rotation, RotationStep};
use crate::refusal::AuthorityRefusal;
use crate::reply::Reply;
use crate::table::Table;

/// In place of the authority of a key that was first seen while the authority is rotated: a thief of the former
/// authority's key may have made its certificate, and a renewal would make it good.
pub const FIRST_SEEN: AuthorityId = [0; 20];

/// Carries a command about certificates and their authority out.
pub(super) fn apply<B: Base>(step: &mut Step<'_, '_, B>, command: AuthorityCommand) -> Outcome {
    certificate::need_level(step, AUTHORITIES)?;
    match command {
        AuthorityCommand::Issue(given) => certificate::issue_under(step, given),
        AuthorityCommand::Note(given) => certificate::note_issued(step, given),
        AuthorityCommand::Admit(given) => admit_under(step, given),
        AuthorityCommand::Begin(given) => begin(step, given),
        AuthorityCommand::TakePart(given) => take_part(step, &given),
        AuthorityCommand::Finish { force } => finish(step, force),
        AuthorityCommand::GiveUp => give_up(step),
    }
}

/// The mesh gets a new authority beside its present one.
fn begin<B: Base>(step: &mut Step<'_, '_, B>, given: BeginRotation) -> Outcome {
    let mut retired = Vec::new();
    if let Some(known) = rotation(step)? {
        if known.is_under_way() && known.next == given.next {
            return Ok(Reply::Done);
        }
        if known.is_under_way() {
            let (at, by) = (known.begun_at, known.begun_by);
            return Err(AuthorityRefusal::UnderWay { at, by }.into());
        }
        if known.signing() != given.former || known.retired.contains(&given.next) {
            return Err(AuthorityRefusal::OtherAuthority.into());
        }
        retired = known.retired;
    }
    if given.next == given.former || given.next == FIRST_SEEN {
        return Err(AuthorityRefusal::OtherAuthority.into());
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
        step: RotationStep::Spreading,
        ready: BTreeSet::new(),
        ended_at: None,
        retired,
    };
    settle(step, rotation)
}

/// A node has done its part of a step. What it says of another step than the present one counts for nothing.
fn take_part<B: Base>(step: &mut Step<'_, '_, B>, given: &NoteAuthority) -> Outcome {
    let known = rotation(step)?.filter(|known| known.is_under_way() && known.next == given.authority);
    let Some(mut rotation) = known else {
        return Err(AuthorityRefusal::NotRotating.into());
    };
    // In both, the node shows the new authority.
    let shows = |of: RotationStep| matches!(of, RotationStep::Showing | RotationStep::Signing);
    if given.step == rotation.step || (shows(given.step) && shows(rotation.step)) {
        rotation.ready.insert(given.node_id);
    }
    settle(step, rotation)
}

/// A node has left: it may have been the last one that the others waited for.
pub(super) fn node_left<B: Base>(step: &mut Step<'_, '_, B>) -> Outcome<()> {
    match rotation(step)?.filter(Rotation::is_under_way) {
        Some(rotation) => settle(step, rotation).map(drop),
        None => Ok(()),
    }
}

/// The next step begins as soon as all nodes have done their part of the present one. A node that joins meanwhile has
/// to do its part, too.
fn settle<B: Base>(step: &mut Step<'_, '_, B>, mut rotation: Rotation) -> Outcome {
    let members = node::member_numbers(step)?;
    rotation.ready.retain(|number| members.contains_key(number));
    if members.keys().all(|number| rotation.ready.contains(number)) {
        match rotation.step {
            RotationStep::Spreading => {
                rotation.step = RotationStep::Showing;
                rotation.ready.clear();
            }
            RotationStep::Showing => {
                rotation.step = RotationStep::Signing;
                step.audit(format!(
                    "all nodes have certificates of the authority {}: it signs from now on",
                    short(&rotation.next)
                ));
            }
            RotationStep::GivingUp => given_up(step, &mut rotation),
            RotationStep::Signing | RotationStep::Finished | RotationStep::GivenUp => {}
        }
    }
    if self::rotation(step)?.as_ref() != Some(&rotation) {
        put(step, &rotation);
    }
    Ok(Reply::Done)
}

/// The new authority is given up. No client has a certificate of it before it signs; nodes have, once all trust it, and
/// go back first.
fn give_up<B: Base>(step: &mut Step<'_, '_, B>) -> Outcome {
    let Some(mut rotation) = rotation(step)? else {
        return Err(AuthorityRefusal::NotRotating.into());
    };
    match rotation.step {
        RotationStep::GivingUp | RotationStep::GivenUp => return Ok(Reply::Done),
        RotationStep::Finished => return Err(AuthorityRefusal::NotRotating.into()),
        RotationStep::Signing => return Err(AuthorityRefusal::Signs.into()),
        RotationStep::Spreading => given_up(step, &mut rotation),
        RotationStep::Showing => {
            step.audit(format!(
                "authority {} is given up: nodes go back to {}",
                short(&rotation.next),
                short(&rotation.former)
            ));
            rotation.step = RotationStep::GivingUp;
            rotation.ready.clear();
        }
    }
    put(step, &rotation);
    Ok(Reply::Done)
}

fn given_up<B: Base>(step: &mut Step<'_, '_, B>, rotation: &mut Rotation) {
    step.audit(format!(
        "authority {} was given up: {} counts alone",
        short(&rotation.next),
        short(&rotation.former)
    ));
    rotation.step = RotationStep::GivenUp;
    end(step, rotation, rotation.next);
}

/// One of the two authorities counts no more.
fn end<B: Base>(step: &mut Step<'_, '_, B>, rotation: &mut Rotation, retired: AuthorityId) {
    rotation.ended_at = Some(step.at);
    rotation.ready.clear();
    rotation.retired.push(retired);
    let surplus = rotation.retired.len().saturating_sub(limits::AUTHORITIES);
    rotation.retired.drain(..surplus);
    // Connections by certificates of it end.
    step.txn.put(Table::Mesh, key::REVOKED.to_vec(), &step.index);
}

/// The former authority counts no more.
fn finish<B: Base>(step: &mut Step<'_, '_, B>, force: bool) -> Outcome {
    let Some(mut rotation) = rotation(step)? else {
        return Err(AuthorityRefusal::NotRotating.into());
    };
    match rotation.step {
        RotationStep::Finished => {
            let (names, more) = (Vec::new(), 0);
            return Ok(Reply::CutOff { names, more });
        }
        RotationStep::GivingUp | RotationStep::GivenUp => return Err(AuthorityRefusal::NotRotating.into()),
        RotationStep::Spreading | RotationStep::Showing | RotationStep::Signing => {}
    }
    let members = node::member_numbers(step)?.into_iter();
    let is_signing = rotation.step == RotationStep::Signing;
    let nodes = members.filter(|(number, _)| !is_signing || !rotation.ready.contains(number));
    let nodes: Vec<String> = nodes.map(|(_, name)| name.to_string()).take(limits::NAMED).collect();
    let left = dependent_on_former(step, &rotation)?;
    let names: Vec<String> = left
        .iter()
        .map(|(_, record)| named(record))
        .take(limits::NAMED)
        .collect();
    let more = left.len().saturating_sub(names.len()) as u64;
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
    rotation.step = RotationStep::Finished;
    let former = rotation.former;
    end(step, &mut rotation, former);
    put(step, &rotation);
    // Their names are free for the certificates that their hosts get by joining again.
    certificate::strike_all(step, left, "the mesh's authority was rotated")?;
    Ok(Reply::CutOff { names, more })
}

/// The certificates that count and have not been shown under the new authority.
fn dependent_on_former<B: Base>(
    step: &Step<'_, '_, B>,
    rotation: &Rotation,
) -> Result<Vec<([u8; 32], CertificateRecord)>, ReadError> {
    let mut left = Vec::new();
    for (key, record) in certificate::rows(step)? {
        if record.is_valid(step.at) && issuer(step, &key)? != Some(rotation.next) {
            left.push((key, record));
        }
    }
    Ok(left)
}

/// Admits a node whose certificate is of the authority of nodes.
fn admit_under<B: Base>(step: &mut Step<'_, '_, B>, given: AdmitUnder) -> Outcome {
    match rotation(step)? {
        Some(rotation) if rotation.of_nodes() != given.authority => Err(AuthorityRefusal::OtherAuthority.into()),
        _ => node::admit(step, given.admit),
    }
}

/// Refuses a certificate that another authority has signed than the one that signs now.
pub(super) fn refuse_other<B: Base>(step: &Step<'_, '_, B>, authority: &AuthorityId) -> Outcome<()> {
    match rotation(step)? {
        Some(rotation) if rotation.signing() != *authority => Err(AuthorityRefusal::OtherAuthority.into()),
        _ => Ok(()),
    }
}

/// Refuses a certificate of which the command does not say who has signed it, once the authority was rotated: a node
/// has proposed it that has not heard of the level.
pub(super) fn refuse_unnamed<B: Base>(step: &Step<'_, '_, B>) -> Outcome<()> {
    match rotation(step)? {
        Some(_) => Err(AuthorityRefusal::OtherAuthority.into()),
        None => Ok(()),
    }
}

pub(super) fn issuer<B: Base>(step: &Step<'_, '_, B>, key: &[u8; 32]) -> Result<Option<AuthorityId>, ReadError> {
    step.txn.record(Table::Issuers, &key::certificate(key))
}

pub(super) fn rotation<B: Base>(step: &Step<'_, '_, B>) -> Result<Option<Rotation>, ReadError> {
    step.txn.record(Table::Mesh, key::ROTATION)
}

fn put<B: Base>(step: &mut Step<'_, '_, B>, rotation: &Rotation) {
    step.txn.put(Table::Mesh, key::ROTATION.to_vec(), rotation);
}

fn named(record: &CertificateRecord) -> String {
    format!("{} {}", record.role.kind(), record.name)
}

/// The first digits of an authority's identifier, as people compare them.
fn short(authority: &AuthorityId) -> String {
    hex::encode(authority.get(..8).unwrap_or_default())
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
