//! The mesh's authority while, and after, it is rotated. No key is in the catalog: nodes hand keys to each other.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// An authority by its public key: the key identifier in each certificate that it has signed.
pub type AuthorityId = [u8; 20];

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RotationStep {
    /// The nodes fetch the new authority's key and trust its certificates. The former one signs.
    Spreading,
    /// All nodes trust it: each renews its own certificate under it. The former one signs for all others.
    Showing,
    /// All nodes show it, so it signs: a client that knows it alone trusts each of them.
    Signing,
    /// It was given up after nodes had begun to show it: each goes back to the former authority.
    GivingUp,
    /// The former authority counts no more.
    Finished,
    /// The new authority counts no more.
    GivenUp,
}

/// The last rotation of the mesh's authority, under way or done. A mesh without one has its first authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// The authority before.
    pub former: AuthorityId,
    /// Its certificate, in DER.
    pub former_certificate: Vec<u8>,
    /// The new authority.
    pub next: AuthorityId,
    /// Its certificate, in DER.
    pub next_certificate: Vec<u8>,
    /// The new authority's key under the former one's signature, in DER: with it, a member that knows the former
    /// authority trusts the new one.
    pub vouched: Vec<u8>,
    /// When it began, in seconds since the Unix epoch.
    pub begun_at: i64,
    /// Who began it, as in the audit trail.
    pub begun_by: String,
    /// How far it is.
    pub step: RotationStep,
    /// The nodes, by number, that have done their part of the step. Those that show the new authority stay in it when
    /// it begins to sign.
    pub ready: BTreeSet<u64>,
    /// When it was finished or given up, in seconds since the Unix epoch.
    pub ended_at: Option<i64>,
    /// Authorities that count no more, the oldest first.
    pub retired: Vec<AuthorityId>,
}

impl Rotation {
    /// The authority that signs for clients, administrators and others.
    #[must_use]
    pub fn signing(&self) -> AuthorityId {
        match self.step {
            RotationStep::Signing | RotationStep::Finished => self.next,
            RotationStep::Spreading | RotationStep::Showing | RotationStep::GivingUp | RotationStep::GivenUp => {
                self.former
            }
        }
    }

    /// The authority of nodes' own certificates, also of a node that joins.
    #[must_use]
    pub fn of_nodes(&self) -> AuthorityId {
        match self.step {
            RotationStep::Showing | RotationStep::Signing | RotationStep::Finished => self.next,
            RotationStep::Spreading | RotationStep::GivingUp | RotationStep::GivenUp => self.former,
        }
    }

    /// Whether both authorities count.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.ended_at.is_none()
    }

    /// The certificate of one of its two authorities, in DER.
    #[must_use]
    pub fn certificate_of(&self, authority: &AuthorityId) -> Option<&[u8]> {
        [
            (&self.former, &self.former_certificate),
            (&self.next, &self.next_certificate),
        ]
        .into_iter()
        .find(|(id, _)| *id == authority)
        .map(|(_, certificate)| certificate.as_slice())
    }
}
