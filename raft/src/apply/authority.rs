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

use super::rotation::{FIRST_SEEN, end, given_up, issuer, put, settle, short};
use super::{AUTHORITIES, Base, Outcome, Step, certificate, members, node, rotation};
use crate::command::{AdmitUnder, AuthorityCommand, BeginRotation, NoteAuthority};
use crate::error::ReadError;
use crate::limits;
use crate::model::{CertificateRecord, Rotation, RotationStep};
use crate::refusal::AuthorityRefusal;
use crate::reply::Reply;

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
    if let Some(known) = rotation::known(step)? {
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
    let known = rotation::known(step)?.filter(|known| known.is_under_way() && known.next == given.authority);
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

/// The new authority is given up. No client has a certificate of it before it signs; nodes have, once all trust it, and
/// go back first.
fn give_up<B: Base>(step: &mut Step<'_, '_, B>) -> Outcome {
    let Some(mut rotation) = rotation::known(step)? else {
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

/// The former authority counts no more.
fn finish<B: Base>(step: &mut Step<'_, '_, B>, force: bool) -> Outcome {
    let Some(mut rotation) = rotation::known(step)? else {
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
    let members = members::numbers(step)?.into_iter();
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
    match rotation::known(step)? {
        Some(rotation) if rotation.of_nodes() != given.authority => Err(AuthorityRefusal::OtherAuthority.into()),
        _ => node::admit(step, given.admit),
    }
}

fn named(record: &CertificateRecord) -> String {
    format!("{} {}", record.role.kind(), record.name)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
