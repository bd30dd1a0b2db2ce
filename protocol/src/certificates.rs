//! Certificates of clients, administrators, monitors and restoring hosts.

use crate::bounded::{MemberNameText, Reason, Text};
use serde::{Deserialize, Serialize};

/// Asks for certificates.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListCertificates {
    /// Only those after this key: where the answer before this one ended.
    pub after: Option<[u8; 32]>,
}

/// A part of the certificates.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CertificatePage {
    /// As many as an answer has room for, in the order of their keys.
    pub certificates: Vec<CertificateInfo>,
    /// There are more after the last of them.
    pub more: bool,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateInfo {
    /// SHA-256 of its public key: it stays when it is renewed.
    pub key: [u8; 32],
    /// Its holder's name.
    pub name: String,
    /// `client`, `admin`, `monitor` or `restore`.
    pub role: String,
    /// The stanzas that it is for; none where it is not for some.
    pub stanzas: Vec<String>,
    /// When it was first issued, Unix seconds.
    pub issued_at: i64,
    /// When the last certificate of this key ends, Unix seconds.
    pub not_after: i64,
    /// When it was last renewed, Unix seconds.
    pub renewed_at: Option<i64>,
    /// Since when it counts no more.
    pub revoked: Option<CertificateRevoked>,
    /// Whether it has to move to another authority.
    pub move_to_next: AuthorityMove,
}

/// Whether a certificate has to move to another authority, while the mesh's is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorityMove {
    /// No: no rotation is under way, or it has shown a certificate of the new authority.
    Done,
    /// It has not shown a certificate of the new authority yet.
    Due,
    /// Its key was first seen during the rotation: it is not renewed, and has to join again.
    Barred,
}

/// A certificate counts no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRevoked {
    /// Since when, Unix seconds.
    pub at: i64,
    /// Who asked for it.
    pub by: String,
    /// Why; empty where nothing was said.
    pub why: String,
}

/// Revokes the certificates of a name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RevokeCertificates {
    /// The name.
    pub name: Text<MemberNameText>,
    /// Why, for the audit trail and for their holder.
    pub reason: Text<Reason>,
    /// Also when the asker is the last administrator who was invited.
    pub force: bool,
}

/// What was revoked.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct RevokedCertificates {
    /// How many; 0 where all had been revoked before.
    pub certificates: u32,
}
