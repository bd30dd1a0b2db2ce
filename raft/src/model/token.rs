//! Join tokens.

use std::fmt;

use pgmesh_storage::StanzaName;
use serde::{Deserialize, Serialize};

use super::{CertificateRole, NodeName};

/// A token's identifier, as it stands in the token's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId(pub [u8; 16]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The role that a token gives its bearer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenRole {
    /// A node.
    Node {
        /// The only name that it may have.
        name: NodeName,
        /// The number of the node of this name whose place it takes: its disk is lost. None if there was none.
        replaces: Option<u64>,
    },
    /// An administrator.
    Admin,
    /// A client of these stanzas.
    Client {
        /// The stanzas.
        stanzas: Vec<StanzaName>,
    },
    /// A member that the catalog notes the certificate of.
    Member {
        /// What it may do.
        role: CertificateRole,
        /// Whether other certificates of its name are revoked. Without it the name must be free.
        replaces: bool,
    },
}

/// A token that was handed out. The secret itself is nowhere (invariant 9).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Hash of the secret.
    pub secret_hash: [u8; 32],
    /// The bearer's role.
    pub role: TokenRole,
    /// When it expires, in seconds since the Unix epoch.
    pub expires: i64,
    /// The use of the token, if it was used.
    pub redeemed: Option<Redeemed>,
}

impl fmt::Debug for TokenRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRecord")
            .field("role", &self.role)
            .field("expires", &self.expires)
            .field("redeemed", &self.redeemed)
            .finish_non_exhaustive()
    }
}

/// The one use of a token. The same request gets the same answer again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redeemed {
    /// When, in seconds since the Unix epoch.
    pub at: i64,
    /// The name in the certificate that was given for it.
    pub name: String,
    /// Digest of the request.
    pub request: [u8; 32],
    /// The certificate that was given, DER.
    pub certificate: Vec<u8>,
    /// The number of the node that was admitted; none for other members.
    pub node_id: Option<u64>,
}

/// The token that an admission rests on, and the request that uses it up.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redemption {
    /// The token's identifier.
    pub token: TokenId,
    /// Hash of the secret that was presented.
    pub secret_hash: [u8; 32],
    /// Digest of the bearer's request: the same for each repetition, another one for every other request.
    pub request: [u8; 32],
    /// The certificate that the proposer has signed for the bearer, DER. It counts if the token is not used up yet.
    pub certificate: Vec<u8>,
}

impl fmt::Debug for Redemption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redemption")
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}
