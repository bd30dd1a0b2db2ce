//! Reads the member's name and role from its certificate.

use std::{fmt, str::FromStr};

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate},
};

use crate::{
    name::{MemberName, MeshId},
    role::{MAX_STANZAS, Role},
};

/// The name that every node's certificate carries as its DNS name, and that clients verify.
pub(crate) const SERVER_NAME: &str = "pgmesh";

/// The most alternative names that are read: the role, its stanzas and the DNS name.
const MAX_ALTERNATIVE_NAMES: usize = MAX_STANZAS + 2;

/// The SHA-256 digest of the DER encoding of a certificate, or of a public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate or a public key in DER.
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a certificate fingerprint has 64 hexadecimal digits")]
pub struct InvalidFingerprint;

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidFingerprint)?;
        Ok(Self(bytes))
    }
}

/// An authority by its public key: the key identifier in each certificate that it has signed (RFC 5280, section
/// 4.2.1.1).
pub type AuthorityId = [u8; 20];

/// The identifier of an authority, from its certificate.
pub(crate) fn authority_id(der: &[u8]) -> Result<AuthorityId, CertificateError> {
    let certificate = parse_x509(der)?;
    let found = certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => AuthorityId::try_from(id.0).ok(),
            _ => None,
        });
    found.ok_or_else(|| not_a_member("the authority has no key identifier"))
}

/// The authority that has signed a certificate; zeroes where the certificate does not say it.
fn issuer(certificate: &X509Certificate<'_>) -> AuthorityId {
    let found = certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(of) => AuthorityId::try_from(of.key_identifier.as_ref()?.0).ok(),
            _ => None,
        });
    found.unwrap_or_default()
}

/// Whether the authority that a certificate names has signed it, and is one of these. The name alone is what the signer
/// has written there.
pub(crate) fn is_signed_by_named(der: &[u8], roots: &[CertificateDer<'_>]) -> Result<bool, CertificateError> {
    let certificate = parse_x509(der)?;
    let named = issuer(&certificate);
    for root in roots {
        if authority_id(root).is_ok_and(|id| id == named) {
            let root = parse_x509(root)?;
            return Ok(certificate.verify_signature(Some(root.public_key())).is_ok());
        }
    }
    Ok(false)
}

/// Whether, among these certificates, the authority `known` vouches for the authority `new`: there is a certificate of
/// the new one's key under the known one's signature, for the same mesh.
pub(crate) fn is_vouched_for(known: &[u8], new: &[u8], shown: &[Vec<u8>]) -> Result<bool, CertificateError> {
    let (mesh, old, next) = (mesh_id_of_ca(known)?, parse_x509(known)?, parse_x509(new)?);
    if mesh_id_of_ca(new)? != mesh || next.verify_signature(None).is_err() {
        return Ok(false);
    }
    let vouches = |der: &Vec<u8>| {
        let is_same_mesh = mesh_id_of_ca(der).is_ok_and(|found| found == mesh);
        parse_x509(der).is_ok_and(|certificate| {
            let is_of_key = certificate.public_key().raw == next.public_key().raw;
            is_same_mesh && is_of_key && certificate.verify_signature(Some(old.public_key())).is_ok()
        })
    };
    Ok(shown.iter().any(vouches))
}

/// Whether a certificate is signed by its own key.
pub(crate) fn is_self_signed(der: &[u8]) -> bool {
    parse_x509(der).is_ok_and(|certificate| certificate.is_ca() && certificate.verify_signature(None).is_ok())
}

/// The certificate does not name a member of a mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is not X.509.
    #[error("the certificate cannot be read: {0}")]
    Malformed(String),
    /// It is not a member's certificate.
    #[error("the certificate is not one of a mesh member: {0}")]
    NotAMember(String),
}

/// The owner of a certificate. Its fields count only after a verifier has accepted the certificate's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberCertificate {
    /// The mesh.
    pub mesh_id: MeshId,
    /// The member's name.
    pub name: MemberName,
    /// The member's role.
    pub role: Role,
    /// SHA-256 of the certificate.
    pub fingerprint: Fingerprint,
    /// SHA-256 of the public key, as the certificate encodes it (`SubjectPublicKeyInfo`). A renewed certificate is for
    /// the same key, so this tells the member apart from another holder of a certificate with its name.
    pub key: Fingerprint,
    /// Start of validity, seconds since 1970.
    pub not_before: i64,
    /// End of validity, seconds since 1970.
    pub not_after: i64,
    /// The authority that has signed it.
    pub authority: AuthorityId,
}

/// Certificates are valid from a day before they are signed, in seconds, so that a member whose clock lags by hours
/// still joins.
pub(crate) const BACKDATED: i64 = 24 * 3600;

impl MemberCertificate {
    /// When it was signed, in seconds since 1970, by the clock of the node that did.
    pub fn issued_at(&self) -> i64 {
        self.not_before.saturating_add(BACKDATED)
    }

    /// Reads a certificate in DER: strictly, so that only certificates like those of [`MeshCa`](crate::MeshCa) are
    /// accepted.
    ///
    /// # Errors
    /// It is malformed, carries no role or more than one, or a role that does not fit its extended key usage.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = parse_x509(der)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(malformed)?
            .ok_or_else(|| not_a_member("it has no alternative names"))?;
        let names = &names.value.general_names;
        if names.len() > MAX_ALTERNATIVE_NAMES {
            return Err(not_a_member("it has too many alternative names"));
        }
        let uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let (mesh_id, name, role) = Role::from_uris(uris).map_err(not_a_member)?;
        check_usage(&certificate, &role)?;
        Ok(Self {
            mesh_id,
            name,
            role,
            fingerprint: Fingerprint::of(der),
            key: Fingerprint::of(certificate.public_key().raw),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            authority: issuer(&certificate),
        })
    }
}

/// Only a node may act as a server; every member may act as a client.
fn check_usage(certificate: &X509Certificate<'_>, role: &Role) -> Result<(), CertificateError> {
    let usage = certificate
        .extended_key_usage()
        .map_err(malformed)?
        .ok_or_else(|| not_a_member("it has no extended key usage"))?;
    if !usage.value.client_auth {
        return Err(not_a_member("it may not be used by a client"));
    }
    if usage.value.server_auth != (*role == Role::Node) {
        return Err(not_a_member("its role does not fit its extended key usage"));
    }
    Ok(())
}

/// Parses one certificate, and refuses bytes behind it.
pub(crate) fn parse_x509(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(malformed)?;
    if !rest.is_empty() {
        return Err(CertificateError::Malformed(format!("{} bytes follow it", rest.len())));
    }
    Ok(certificate)
}

/// The mesh of a certificate authority, from its certificate's common name.
pub(crate) fn mesh_id_of_ca(der: &[u8]) -> Result<MeshId, CertificateError> {
    let certificate = parse_x509(der)?;
    if !certificate.is_ca() {
        return Err(not_a_member("it is not a certificate authority's"));
    }
    let mut names = certificate.subject().iter_common_name();
    let name = names
        .next()
        .ok_or_else(|| not_a_member("the authority has no common name"))?;
    name.as_str()
        .map_err(malformed)?
        .parse()
        .map_err(|error: crate::name::InvalidName| not_a_member(error.to_string()))
}

fn malformed(error: impl fmt::Display) -> CertificateError {
    CertificateError::Malformed(error.to_string())
}

fn not_a_member(what: impl Into<String>) -> CertificateError {
    CertificateError::NotAMember(what.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fingerprints_round_trip() {
        let fingerprint = Fingerprint::of(b"x");
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        assert_eq!("00".parse::<Fingerprint>(), Err(InvalidFingerprint));
    }

    proptest! {
        #[test]
        fn garbage_is_answered(bytes: Vec<u8>) {
            prop_assert!(MemberCertificate::parse(&bytes).is_err());
            prop_assert!(mesh_id_of_ca(&bytes).is_err());
        }
    }
}
