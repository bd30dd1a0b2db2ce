//! The membership: this node's own identity and its part in the Raft group, and the members of the mesh: invitations,
//! joins, certificates, and nodes that are drained or removed.
//!
//! `leading.rs` makes the Raft group follow the catalog, by the pure steps of `membership/group.rs`. `announcing.rs`
//! tells the others where this node is, `renewal.rs` renews certificates, `rotation.rs` moves them to another
//! authority, `certificates.rs` notes and revokes them,
//! `shut_out.rs` refuses members that were removed or revoked. `services/{admin,joining}.rs` invite and admit,
//! `services/members.rs` lists nodes and changes their part.

pub(crate) mod group;

use crate::backups::Backups;
use crate::core::Core;
use crate::failed_joins::FailedJoins;
use crate::handover::Lead;
use pgmesh_raft::LogIndex;
use pgmesh_transport::Identity;
use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::{Mutex, watch};

/// Knows who this node is, and decides who else is a member.
pub struct Membership {
    pub(crate) core: Arc<Core>,
    /// The sessions of nodes and clients that are gone are ended there.
    pub(crate) backups: Arc<Backups>,
    /// Whether another node shall lead: what the leader remembers of its attempts to hand over.
    pub(crate) lead: Mutex<Lead>,
    /// Joins with unknown tokens, which are limited.
    pub(crate) failed_joins: FailedJoins,
    /// The position of the last revocation that this node has applied.
    pub(crate) revocations: watch::Sender<LogIndex>,
    /// Held while this node's identity is read, renewed and written: a renewal and a rotation would write over each
    /// other's files.
    pub(crate) identity_files: std::sync::Mutex<()>,
    /// Held while the authorities' keys on this node's disk change.
    pub(crate) authorities: Mutex<()>,
    identity: RwLock<Identity>,
}

impl Deref for Membership {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Membership {
    pub(crate) fn new(core: Arc<Core>, backups: Arc<Backups>, identity: Identity) -> Self {
        Self {
            core,
            backups,
            lead: Mutex::default(),
            failed_joins: FailedJoins::default(),
            revocations: watch::Sender::default(),
            identity_files: std::sync::Mutex::default(),
            authorities: Mutex::default(),
            identity: RwLock::new(identity),
        }
    }

    /// SHA-256 of this node's public key.
    pub(crate) fn key(&self) -> [u8; 32] {
        self.identity().member().key.0
    }

    /// When this node's certificate ends, Unix seconds.
    pub(crate) fn certificate_expires(&self) -> i64 {
        self.identity().expires_at()
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Uses a renewed certificate from now on.
    pub(crate) fn replace_identity(&self, renewed: Identity) {
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = renewed;
    }
}
