//! Queries about certificates.

use super::View;
use crate::apply::Base;
use crate::error::ReadError;
use crate::key::{self, KeyReader};
use crate::model::{CertificateRecord, LogIndex};
use crate::table::Table;

impl<B: Base> View<B> {
    /// The certificate that was issued for the public key with this SHA-256.
    pub fn certificate(&self, key: &[u8; 32]) -> Result<Option<CertificateRecord>, ReadError> {
        self.base.record(Table::Certificates, &key::certificate(key))
    }

    /// When a certificate was last revoked.
    pub fn last_revocation(&self) -> Result<LogIndex, ReadError> {
        Ok(self.base.record(Table::Mesh, key::REVOKED)?.unwrap_or_default())
    }

    /// The certificates by their keys, those after `after` if given.
    pub fn certificates(
        &self,
        after: Option<&[u8; 32]>,
    ) -> impl Iterator<Item = Result<([u8; 32], CertificateRecord), ReadError>> + Send {
        let from = after.map_or_else(Vec::new, |known| key::after(key::certificate(known)));
        self.rows(Table::Certificates, &from, &[], |key| KeyReader::new(key).certificate())
    }
}
