//! How far the rotation of the mesh's authority is: the row in table `Mesh`, its steps, and the authority of each key.

use super::{Base, Outcome, Step, members};
use crate::error::ReadError;
use crate::key;
use crate::limits;
use crate::model::{AuthorityId, Rotation, RotationStep};
use crate::refusal::AuthorityRefusal;
use crate::reply::Reply;
use crate::table::Table;

/// In place of the authority of a key that was first seen while the authority is rotated: a thief of the former
/// authority's key may have made its certificate, and a renewal would make it good.
pub const FIRST_SEEN: AuthorityId = [0; 20];

/// A node has left: it may have been the last one that the others waited for.
pub(super) fn node_left<B: Base>(step: &mut Step<'_, '_, B>) -> Outcome<()> {
    match known(step)?.filter(Rotation::is_under_way) {
        Some(rotation) => settle(step, rotation).map(drop),
        None => Ok(()),
    }
}

/// The next step begins as soon as all nodes have done their part of the present one. A node that joins meanwhile has
/// to do its part, too.
pub(super) fn settle<B: Base>(step: &mut Step<'_, '_, B>, mut rotation: Rotation) -> Outcome {
    let members = members::numbers(step)?;
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
    if known(step)?.as_ref() != Some(&rotation) {
        put(step, &rotation);
    }
    Ok(Reply::Done)
}

pub(super) fn given_up<B: Base>(step: &mut Step<'_, '_, B>, rotation: &mut Rotation) {
    step.audit(format!(
        "authority {} was given up: {} counts alone",
        short(&rotation.next),
        short(&rotation.former)
    ));
    rotation.step = RotationStep::GivenUp;
    end(step, rotation, rotation.next);
}

/// One of the two authorities counts no more.
pub(super) fn end<B: Base>(step: &mut Step<'_, '_, B>, rotation: &mut Rotation, retired: AuthorityId) {
    rotation.ended_at = Some(step.at);
    rotation.ready.clear();
    rotation.retired.push(retired);
    let surplus = rotation.retired.len().saturating_sub(limits::AUTHORITIES);
    rotation.retired.drain(..surplus);
    // Connections by certificates of it end.
    step.txn.put(Table::Mesh, key::REVOKED.to_vec(), &step.index);
}

/// Refuses a certificate that another authority has signed than the one that signs now.
pub(super) fn refuse_other<B: Base>(step: &Step<'_, '_, B>, authority: &AuthorityId) -> Outcome<()> {
    match known(step)? {
        Some(rotation) if rotation.signing() != *authority => Err(AuthorityRefusal::OtherAuthority.into()),
        _ => Ok(()),
    }
}

/// Refuses a certificate of which the command does not say who has signed it, once the authority was rotated: a node
/// has proposed it that has not heard of the level.
pub(super) fn refuse_unnamed<B: Base>(step: &Step<'_, '_, B>) -> Outcome<()> {
    match known(step)? {
        Some(_) => Err(AuthorityRefusal::OtherAuthority.into()),
        None => Ok(()),
    }
}

pub(super) fn issuer<B: Base>(step: &Step<'_, '_, B>, key: &[u8; 32]) -> Result<Option<AuthorityId>, ReadError> {
    step.txn.record(Table::Issuers, &key::certificate(key))
}

/// The last rotation.
pub(super) fn known<B: Base>(step: &Step<'_, '_, B>) -> Result<Option<Rotation>, ReadError> {
    step.txn.record(Table::Mesh, key::ROTATION)
}

pub(super) fn put<B: Base>(step: &mut Step<'_, '_, B>, rotation: &Rotation) {
    step.txn.put(Table::Mesh, key::ROTATION.to_vec(), rotation);
}

/// The first digits of an authority's identifier, as people compare them.
pub(super) fn short(authority: &AuthorityId) -> String {
    hex::encode(authority.get(..8).unwrap_or_default())
}
