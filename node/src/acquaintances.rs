//! The nodes that this node takes for members although its own catalog does not have them.
//!
//! A node whose catalog is empty, or lags behind, does not know every member: while it was down, nodes may have joined,
//! and a newcomer may lead. Without that leader's log, the node would never hear of the newcomer. But a valid
//! certificate is not enough: each node can sign one, also a node that has left the mesh since. So the node asks the
//! members that it does know: the members in its catalog and in `mesh.json` ([`MeshFile`](crate::MeshFile)), which it
//! was told of when it joined or has remembered since. The catalog's record of a node counts more than an acquaintance.
//! `introductions.rs` asks.

use pgmesh_protocol::KnownMember;
use pgmesh_transport::{MemberCertificate, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The pause before the members are asked for the same node again.
const AGAIN: Duration = Duration::from_secs(1);
/// So many nodes are remembered and asked for at most: as many as a mesh may have.
pub(crate) const MOST: usize = pgmesh_raft::limits::NODES;

/// A node's name and the digits of its key.
type Who = (String, String);

/// Nodes that were remembered, or that members have vouched for.
#[derive(Default)]
pub(crate) struct Acquaintances {
    known: Mutex<BTreeSet<Who>>,
    /// When the members were last asked for a node, and whether they are being asked now.
    asked: Mutex<BTreeMap<Who, (Instant, bool)>>,
}

impl Acquaintances {
    /// The remembered members.
    pub(crate) fn of(members: &[KnownMember]) -> Self {
        let known = members
            .iter()
            .take(MOST)
            .map(|member| (member.name.clone(), member.key.clone()));
        Self {
            known: Mutex::new(known.collect()),
            asked: Mutex::default(),
        }
    }

    /// Whether this node was remembered, or a member has vouched for it.
    pub(crate) fn knows(&self, member: &MemberCertificate) -> bool {
        member.role == Role::Node && lock(&self.known).contains(&who(member))
    }

    pub(crate) fn meet(&self, member: &MemberCertificate) {
        let mut known = lock(&self.known);
        if known.len() < MOST {
            known.insert(who(member));
        }
    }

    /// Whether the members should be asked for this node now. If so, [`Self::asked`] must follow.
    pub(crate) fn begin_asking(&self, member: &MemberCertificate) -> bool {
        let mut asked = lock(&self.asked);
        asked.retain(|_, (at, is_asking)| *is_asking || at.elapsed() < AGAIN);
        if asked.len() >= MOST || asked.contains_key(&who(member)) {
            return false;
        }
        asked.insert(who(member), (Instant::now(), true));
        true
    }

    pub(crate) fn asked(&self, member: &MemberCertificate) {
        lock(&self.asked).insert(who(member), (Instant::now(), false));
    }
}

fn who(member: &MemberCertificate) -> Who {
    (member.name.to_string(), member.key.to_string())
}

/// A panic of another holder leaves nothing half-changed here: go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::unsigned;

    #[test]
    fn what_is_remembered_of_strangers_is_bounded() {
        let acquaintances = Acquaintances::default();
        let member = |number: usize| unsigned(&format!("n{number}"), Role::Node);
        assert!(acquaintances.begin_asking(&member(0)));
        assert!(!acquaintances.begin_asking(&member(0)), "it is asked for already");
        let begun = (1..2 * MOST).filter(|number| acquaintances.begin_asking(&member(*number)));
        assert_eq!(begun.count(), MOST - 1);
        for number in 0..2 * MOST {
            acquaintances.meet(&member(number));
        }
        assert_eq!(lock(&acquaintances.known).len(), MOST);
    }
}
