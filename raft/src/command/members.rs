//! Who becomes a member of the mesh, and who is one no more.

use serde::{Deserialize, Serialize};

use crate::model::{CertificateRole, NodeName, Redemption};

/// A node to admit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmitNode {
    /// The token for a node of this name, and the request that uses it up.
    pub redemption: Redemption,
    /// Its name.
    pub name: NodeName,
    /// Its region; empty where none is set.
    pub region: String,
    /// The `host:port` addresses that it is reached at.
    pub advertise: Vec<String>,
    /// SHA-256 of the public key of its certificate.
    pub key: [u8; 32],
    /// The same of its administrator's.
    pub administrator: [u8; 32],
    /// Its program's version.
    pub program: String,
    /// The catalog format that its program writes.
    pub catalog_format: u32,
}

/// A certificate that is issued for a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueCertificate {
    /// The token.
    pub redemption: Redemption,
    /// The name that the bearer will have.
    pub name: String,
    /// SHA-256 of the public key.
    pub key: [u8; 32],
    /// When the certificate ends, in seconds since the Unix epoch.
    pub not_after: i64,
}

/// A certificate that is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteCertificate {
    /// SHA-256 of the public key.
    pub key: [u8; 32],
    /// Its holder's name.
    pub name: String,
    /// What its holder may do.
    pub role: CertificateRole,
    /// When it ends, in seconds since the Unix epoch.
    pub not_after: i64,
    /// Whether it was renewed; otherwise it was only seen.
    pub is_renewed: bool,
}

/// Certificates that are to count no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeCertificates {
    /// Their holder's name.
    pub name: String,
    /// Why, for the audit trail and for their holder.
    pub reason: String,
    /// SHA-256 of the public key of the administrator who asks.
    pub asker: [u8; 32],
    /// Also when the asker is the last administrator who was invited.
    pub force: bool,
}
