//! The refusal of a name that another member has.

use super::Refusal;
use crate::model::{CertificateRecord, short_key};

impl Refusal {
    /// The certificate of the key `other` counts under `name`.
    #[must_use]
    pub fn name_taken(name: &str, other: &[u8; 32], record: &CertificateRecord) -> Self {
        Self::NameTaken {
            name: name.to_owned(),
            role: record.role.kind().to_owned(),
            stanzas: record.role.stanzas().to_vec(),
            key: short_key(other),
        }
    }
}
