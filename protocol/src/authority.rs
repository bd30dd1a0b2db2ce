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
}

/// How far a rotation is.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// Whether the new authority signs: all nodes show it.
    pub is_signing: bool,
    /// Nodes that do not trust it yet, or whose own certificates are of the former authority.
    pub nodes: Vec<String>,
    /// Clients, administrators and others whose certificates are of the former authority: the first of them. After the
    /// end: those that were cut off.
    pub clients: Vec<String>,
    /// How many more there are.
    pub more: u64,
    /// When it ended, Unix seconds.
    pub finished_at: Option<i64>,
}

/// Asks a node for the authority with this key identifier, key included.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct GetAuthorityOf {
    /// The identifier.
    pub authority: [u8; 20],
}
