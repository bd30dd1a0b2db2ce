//! The rotation of the mesh's certificate authority.

use serde::{Deserialize, Serialize};

/// Changes the mesh's authority, or tells how far that is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum RotateAuthority {
    /// Begins a rotation; if one is under way, tells how far it is.
    Begin,
    /// Retires the former authority.
    Finish {
        /// Also where clients have certificates of it: they have to join again.
        force: bool,
    },
    /// Gives the new authority up.
    GiveUp,
}

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RotationState {
    /// The nodes fetch the new authority's key.
    Spreading,
    /// The nodes renew their own certificates.
    Showing,
    /// The new authority signs, and clients renew.
    Renewing,
    /// The nodes go back to the former authority.
    GivingUp,
    /// The former authority counts no more.
    Finished,
    /// The new authority counts no more.
    GivenUp,
}

/// A rotation of the mesh's authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRotation {
    /// The first digits of the former authority's key identifier.
    pub former: String,
    /// The same of the new authority.
    pub next: String,
    /// When it began, Unix seconds.
    pub begun_at: i64,
    /// Who began it.
    pub begun_by: String,
    /// Whether this request began it.
    pub is_new: bool,
    /// How far it is.
    pub state: RotationState,
    /// Nodes that have not done their part of the state.
    pub nodes: Vec<String>,
    /// Clients, administrators and others that have not shown a certificate of the new authority: the first of them.
    /// After the end: those that were cut off.
    pub clients: Vec<String>,
    /// How many more there are.
    pub more: u64,
    /// Those of `clients` whose key was first seen during the rotation: they are not renewed, and have to join again.
    pub suspects: Vec<String>,
    /// When it ended, Unix seconds.
    pub ended_at: Option<i64>,
}

/// Asks a node for the authority with this key identifier, key included.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct GetAuthorityOf {
    /// The identifier.
    pub authority: [u8; 20],
}
