//! The certificates that the mesh has issued to its members, nodes aside.

use std::collections::BTreeSet;
use std::fmt;

use pgmesh_storage::StanzaName;
use serde::{Deserialize, Serialize};

/// The rights of a certificate's holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CertificateRole {
    /// Everything.
    Admin,
    /// Archive, back up and restore these stanzas.
    Client {
        /// The stanzas.
        stanzas: Vec<StanzaName>,
    },
    /// Read how the mesh does; no data.
    Monitor,
    /// Restore these stanzas; write nothing.
    Restore {
        /// The stanzas.
        stanzas: Vec<StanzaName>,
    },
}

impl CertificateRole {
    /// The role's word, as in the certificate's URI.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Client { .. } => "client",
            Self::Monitor => "monitor",
            Self::Restore { .. } => "restore",
        }
    }

    /// Whether two roles give the same rights: the order of their stanzas says nothing.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let of = |role: &Self| role.stanzas().iter().cloned().collect::<BTreeSet<_>>();
        self.kind() == other.kind() && of(self) == of(other)
    }

    /// The stanzas that it is for; none where it is not for some.
    #[must_use]
    pub fn stanzas(&self) -> &[StanzaName] {
        match self {
            Self::Client { stanzas } | Self::Restore { stanzas } => stanzas,
            Self::Admin | Self::Monitor => &[],
        }
    }
}

impl fmt::Display for CertificateRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Self::Admin => return f.write_str("an administrator"),
            Self::Monitor => return f.write_str("a monitor"),
            Self::Client { .. } => "a client of",
            Self::Restore { .. } => "a restoring host of",
        };
        let names: Vec<_> = self.stanzas().iter().map(ToString::to_string).collect();
        write!(f, "{words} {}", names.join(", "))
    }
}

/// A certificate. Its key in the table is the SHA-256 of its public key: a renewed certificate has the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// Its holder's name.
    pub name: String,
    /// The rights of its holder.
    pub role: CertificateRole,
    /// When it was first issued, in seconds since the Unix epoch; where that is not known, when it was first seen.
    pub issued_at: i64,
    /// When the last certificate of this key ends, in seconds since the Unix epoch.
    pub not_after: i64,
    /// When it was last renewed, in seconds since the Unix epoch.
    pub renewed_at: Option<i64>,
    /// Since when, and why, it counts no more.
    pub revoked: Option<Revocation>,
}

impl CertificateRecord {
    /// Whether it is a certificate of this name. Names that differ in case only are one.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// Whether it counts at `now`, in seconds since the Unix epoch.
    #[must_use]
    pub fn is_valid(&self, now: i64) -> bool {
        self.revoked.is_none() && now < self.not_after
    }
}

/// A certificate counts no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Since when, in seconds since the Unix epoch.
    pub at: i64,
    /// Who asked for it, as in the audit trail.
    pub by: String,
    /// Why, in words. Empty where nothing was said.
    pub why: String,
}

impl Revocation {
    /// A revoked name bars certificates that were issued up to so many seconds after the revocation: clocks differ.
    pub const MARGIN: i64 = 3600;

    /// Whether the revocation of a name counts for a certificate that was issued then, in seconds since the Unix
    /// epoch, and that has no row: a later one was issued to another holder. Clocks differ, so a little later counts as
    /// before.
    #[must_use]
    pub fn bars(&self, issued_at: i64) -> bool {
        issued_at <= self.at.saturating_add(Self::MARGIN)
    }
}

/// The first eight bytes of a key's SHA-256, as people compare them.
#[must_use]
pub fn short_key(key: &[u8; 32]) -> String {
    hex::encode(key.get(..8).unwrap_or_default())
}
