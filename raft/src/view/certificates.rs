//! Queries about certificates.

use super::View;
use crate::apply::Base;
use crate::error::ReadError;
use crate::key::{self, KeyReader};
use crate::model::{AuthorityId, CertificateRecord, LogIndex, Revocation, Rotation};
use crate::table::Table;

impl<B: Base> View<B> {
    /// The certificate that was issued for the public key with this SHA-256.
    pub fn certificate(&self, key: &[u8; 32]) -> Result<Option<CertificateRecord>, ReadError> {
        self.base.record(Table::Certificates, &key::certificate(key))
    }

    /// The last revocation of all certificates of a name: those count no more that have no row of their own.
    pub fn revoked_name(&self, name: &str) -> Result<Option<Revocation>, ReadError> {
        self.base.record(Table::RevokedNames, &key::revoked_name(name))
    }

    /// The authority that has signed the last certificate of a key, where that is known.
    pub fn issuer(&self, key: &[u8; 32]) -> Result<Option<AuthorityId>, ReadError> {
        self.base.record(Table::Issuers, &key::certificate(key))
    }

    /// The number of certificates that are not revoked; none below level [`AUTHORITIES`](crate::AUTHORITIES).
    pub fn certificate_count(&self) -> Result<Option<u64>, ReadError> {
        self.base.record(Table::Mesh, key::CERTIFICATES)
    }

    /// The last rotation of the mesh's authority.
    pub fn rotation(&self) -> Result<Option<Rotation>, ReadError> {
        self.base.record(Table::Mesh, key::ROTATION)
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
