//! The mesh's authority while, and after, it is rotated. No key is in the catalog: nodes hand keys to each other.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// An authority by its public key: the key identifier in each certificate that it has signed.
pub type AuthorityId = [u8; 20];

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
    /// The nodes, by number, that have the new authority's key and trust its certificates.
    pub has: BTreeSet<u64>,
    /// Whether all nodes have had it: from then on each node shows a certificate of it.
    pub is_trusted: bool,
    /// The nodes, by number, whose own certificates are of the new authority.
    pub shows: BTreeSet<u64>,
    /// Whether all nodes have shown it: from then on the new authority signs. A client that knows only the new
    /// authority trusts each of them.
    pub is_signing: bool,
    /// When the former authority was retired, in seconds since the Unix epoch.
    pub finished_at: Option<i64>,
    /// Authorities that count no more, the oldest first.
    pub retired: Vec<AuthorityId>,
}

impl Rotation {
    /// The authority that signs.
    #[must_use]
    pub fn signing(&self) -> AuthorityId {
        match self.is_signing {
            true => self.next,
            false => self.former,
        }
    }

    /// The authority of nodes' own certificates.
    #[must_use]
    pub fn of_nodes(&self) -> AuthorityId {
        match self.is_trusted {
            true => self.next,
            false => self.former,
        }
    }

    /// Whether both authorities count.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.finished_at.is_none()
    }
}
