//! The mesh's certificate authority.

use pgmesh_runtime::{clock, random};
use std::{path::Path, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType,
    SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::{
    certificate::{self, AuthorityId, CertificateError, Fingerprint, SERVER_NAME, mesh_id_of_ca, parse_x509},
    durable_file::{self, Audience},
    identity::{CA_CERTIFICATE_FILE, CERTIFICATE_TAG, Identity, IdentityError, KEY_TAG, KeyRequest},
    name::{MemberName, MeshId},
    role::{MAX_STANZAS, Role},
};

pub use crate::durable_file::FileError;

/// The authority's key, beside the authority's certificate.
pub const CA_KEY_FILE: &str = "ca.key";

/// See [`certificate::BACKDATED`].
const BACKDATED: time::Duration = time::Duration::seconds(certificate::BACKDATED);

/// The longest certificate request, in bytes.
const MAX_REQUEST_LENGTH: usize = 4096;

/// A failure of the certificate authority.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Making a key or signing failed.
    #[error("{doing}: {source}")]
    Crypto {
        /// The operation.
        doing: &'static str,
        /// The reason.
        source: rcgen::Error,
    },
    /// The operating system has no randomness to give.
    #[error("getting random bytes: {0}")]
    Random(random::Error),
    /// The bytes are no certificate request, or its key is of the wrong kind.
    #[error("the certificate request cannot be signed: {0}")]
    Request(String),
    /// A certificate for that role or time cannot be made.
    #[error("a certificate for this role and time cannot be issued: {0}")]
    Terms(String),
    /// The stored authority cannot be read or written.
    #[error("the mesh's certificate authority: {0}")]
    File(#[from] FileError),
    /// The stored certificate is not an authority's.
    #[error("the mesh's certificate authority: {0}")]
    Certificate(#[from] CertificateError),
    /// The signed certificate and the key make no identity.
    #[error("{0}")]
    Identity(#[from] Box<IdentityError>),
}

fn crypto(doing: &'static str) -> impl FnOnce(rcgen::Error) -> CaError {
    move |source| CaError::Crypto { doing, source }
}

/// The certificate authority of a mesh: Ed25519, self-signed, its common name the mesh id.
#[derive(Clone)]
pub struct MeshCa {
    mesh_id: MeshId,
    certificate: CertificateDer<'static>,
    key_pkcs8: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for MeshCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeshCa")
            .field("mesh_id", &self.mesh_id)
            .finish_non_exhaustive()
    }
}

impl MeshCa {
    /// A new authority for a new mesh.
    ///
    /// # Errors
    /// No randomness, or signing failed.
    pub fn create(mesh_id: MeshId) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(crypto("making the authority's key"))?;
        let certificate = authority_params(&mesh_id)?
            .self_signed(&key)
            .map_err(crypto("signing the authority's certificate"))?;
        Ok(Self {
            mesh_id,
            certificate: certificate.into(),
            key_pkcs8: Zeroizing::new(key.serialize_der()),
        })
    }

    /// Reads `ca.crt` and `ca.key` from a directory.
    ///
    /// # Errors
    /// A file is missing, readable by others or malformed, or the two do not belong together.
    pub fn load(directory: &Path) -> Result<Self, CaError> {
        let read = |name, tag, audience| durable_file::read_pem(directory, name, tag, audience);
        let certificate = read(CA_CERTIFICATE_FILE, CERTIFICATE_TAG, Audience::Public)?;
        let key_pkcs8 = read(CA_KEY_FILE, KEY_TAG, Audience::Owner)?;
        Self::from_parts(&certificate, key_pkcs8)
    }

    /// An authority from its certificate in DER and its key in PKCS#8, handed over by another node.
    ///
    /// # Errors
    /// They are malformed or do not belong together.
    pub fn from_parts(certificate_der: &[u8], key_pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, CaError> {
        let mesh_id = mesh_id_of_ca(certificate_der)?;
        let certificate = CertificateDer::from(certificate_der.to_vec());
        let ca = Self {
            mesh_id,
            certificate,
            key_pkcs8,
        };
        let key = ca.key_pair()?;
        if parse_x509(certificate_der)?.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(CaError::Terms(
                "the authority's key is not the one of its certificate".to_owned(),
            ));
        }
        Ok(ca)
    }

    /// Writes `ca.crt` (0644) and then `ca.key` (0600) to a directory, which is made when missing; durable when it
    /// returns. The directory holds no other authority.
    ///
    /// # Errors
    /// The file system refused.
    pub fn save(&self, directory: &Path) -> Result<(), CaError> {
        durable_file::create_directory(directory)?;
        durable_file::write_pem(
            directory,
            CA_CERTIFICATE_FILE,
            CERTIFICATE_TAG,
            &self.certificate,
            Audience::Public,
        )?;
        // Last: where there is a key, `exists` says that the authority is there, and its certificate has to be.
        durable_file::write_pem(directory, CA_KEY_FILE, KEY_TAG, &self.key_pkcs8, Audience::Owner)?;
        Ok(())
    }

    /// Removes what [`MeshCa::save`] has written.
    ///
    /// # Errors
    /// The file system refused.
    pub fn remove(directory: &Path) -> Result<(), CaError> {
        durable_file::remove(directory, CA_KEY_FILE)?;
        durable_file::remove(directory, CA_CERTIFICATE_FILE)?;
        Ok(())
    }

    /// Whether a directory holds an authority's key.
    pub fn exists(directory: &Path) -> bool {
        directory.join(CA_KEY_FILE).exists()
    }

    /// The mesh.
    pub fn mesh_id(&self) -> &MeshId {
        &self.mesh_id
    }

    /// The authority's certificate in DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// The authority's private key in PKCS#8 DER. With it, members can be made: hand it to nodes only, never log it.
    pub fn key_pkcs8(&self) -> &[u8] {
        &self.key_pkcs8
    }

    /// The authority's identifier.
    ///
    /// # Errors
    /// Its certificate was not made by this program.
    pub fn id(&self) -> Result<AuthorityId, CaError> {
        Ok(certificate::authority_id(&self.certificate)?)
    }

    /// A certificate, in DER, by which this authority vouches for another one of its mesh: a member that knows this
    /// authority trusts the other one.
    ///
    /// # Errors
    /// The other authority is another mesh's, or signing failed.
    pub fn vouch_for(&self, other: &Self) -> Result<Vec<u8>, CaError> {
        if other.mesh_id != self.mesh_id {
            return Err(CaError::Terms("the other authority is another mesh's".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_der(&self.certificate, self.key_pair()?)
            .map_err(crypto("reading the authority's certificate"))?;
        let certificate = authority_params(&self.mesh_id)?
            .signed_by(&other.key_pair()?, &issuer)
            .map_err(crypto("signing the other authority's certificate"))?;
        Ok(certificate.der().to_vec())
    }

    /// SHA-256 of the authority's certificate. Join tokens carry it, so that no client trusts on first use.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Signs a request's public key for a role. All other fields of the request are ignored.
    ///
    /// Returns the certificate in DER, valid from a day ago for `validity` from now.
    ///
    /// # Errors
    /// The request is malformed, not signed by its own key or not Ed25519; too many stanzas; signing failed.
    pub fn sign_csr(
        &self,
        csr_der: &[u8],
        role: &Role,
        name: &MemberName,
        validity: Duration,
    ) -> Result<Vec<u8>, CaError> {
        let now = OffsetDateTime::from(clock::now());
        let not_after = time::Duration::try_from(validity)
            .ok()
            .and_then(|validity| now.checked_add(validity))
            .ok_or_else(|| CaError::Terms("it would be valid for too long".to_owned()))?;
        self.sign_between(csr_der, role, name, now - BACKDATED, not_after)
    }

    /// Makes a key and signs it: an identity for this process itself, for `node init`.
    ///
    /// # Errors
    /// Like [`MeshCa::sign_csr`].
    pub fn issue(&self, role: &Role, name: &MemberName, validity: Duration) -> Result<Identity, CaError> {
        let request = KeyRequest::generate().map_err(Box::new)?;
        let csr = request.csr_der().map_err(Box::new)?;
        let certificate = self.sign_csr(&csr, role, name, validity)?;
        let identity = request.into_identity(&self.certificate, &certificate, self.fingerprint());
        Ok(identity.map_err(Box::new)?)
    }

    pub(crate) fn sign_between(
        &self,
        csr_der: &[u8],
        role: &Role,
        name: &MemberName,
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
    ) -> Result<Vec<u8>, CaError> {
        let request = read_request(csr_der)?;
        let mut params = self.member_params(role, name)?;
        params.not_before = not_before;
        params.not_after = not_after;
        let signed = CertificateSigningRequestParams {
            params,
            public_key: request.public_key,
        };
        let issuer = Issuer::from_ca_cert_der(&self.certificate, self.key_pair()?)
            .map_err(crypto("reading the authority's certificate"))?;
        let certificate = signed.signed_by(&issuer).map_err(crypto("signing a certificate"))?;
        Ok(certificate.der().to_vec())
    }

    fn member_params(&self, role: &Role, name: &MemberName) -> Result<CertificateParams, CaError> {
        if role.stanzas().len() > MAX_STANZAS {
            return Err(CaError::Terms(format!(
                "a certificate is for at most {MAX_STANZAS} stanzas"
            )));
        }
        let text = |text: &str| text.try_into().map_err(crypto("naming a certificate"));
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name.as_str());
        params.serial_number = Some(random_serial()?);
        for uri in role.to_uris(&self.mesh_id, name) {
            params.subject_alt_names.push(SanType::URI(text(&uri)?));
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if *role == Role::Node {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            params.subject_alt_names.push(SanType::DnsName(text(SERVER_NAME)?));
        }
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    fn key_pair(&self) -> Result<KeyPair, CaError> {
        let key = PrivatePkcs8KeyDer::from(self.key_pkcs8.as_slice());
        KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ED25519).map_err(crypto("reading the authority's key"))
    }
}

/// Checks a certificate request as [`MeshCa::sign_csr`] does, and signs nothing: it is well-formed, signed by its own
/// key, and that is an Ed25519 key. Returns SHA-256 of the public key, as [`MemberCertificate::key`] has it.
///
/// [`MemberCertificate::key`]: crate::MemberCertificate::key
///
/// # Errors
/// [`CaError::Request`].
pub fn key_of_request(csr_der: &[u8]) -> Result<Fingerprint, CaError> {
    let request = read_request(csr_der)?;
    Ok(Fingerprint::of(&request.public_key.subject_public_key_info()))
}

fn read_request(csr_der: &[u8]) -> Result<CertificateSigningRequestParams, CaError> {
    if csr_der.len() > MAX_REQUEST_LENGTH {
        return Err(CaError::Request(format!(
            "it is longer than {MAX_REQUEST_LENGTH} bytes"
        )));
    }
    // Checks the request's own signature: whoever asks has the key.
    let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der))
        .map_err(|error| CaError::Request(error.to_string()))?;
    if *request.public_key.algorithm() != PKCS_ED25519 {
        return Err(CaError::Request("its key is not Ed25519".to_owned()));
    }
    Ok(request)
}

fn authority_params(mesh_id: &MeshId) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(mesh_id.as_str());
    params.serial_number = Some(random_serial()?);
    // Of no clock: a client checks it where one authority vouches for another.
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    // No peer checks the validity of the authority itself: it ends when the mesh gets another authority.
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, name);
    distinguished_name
}

/// 127 random bits: positive, as RFC 5280 demands (section 4.1.2.2), and never the same twice.
fn random_serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    random::secret(&mut bytes).map_err(CaError::Random)?;
    let [first, ..] = &mut bytes;
    *first = *first & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::MemberCertificate;

    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    fn new_ca() -> MeshCa {
        MeshCa::create(MeshId::random().unwrap()).unwrap()
    }

    fn name() -> MemberName {
        "db1".parse().unwrap()
    }

    #[test]
    fn a_certificate_says_what_was_signed() {
        let ca = new_ca();
        let stanzas = vec!["main".parse().unwrap(), "other.1".parse().unwrap()];
        for role in [
            Role::Node,
            Role::Admin,
            Role::Client { stanzas },
            Role::Client { stanzas: vec![] },
            Role::Monitor,
            Role::Restore {
                stanzas: vec!["main".parse().unwrap()],
            },
        ] {
            let csr = KeyRequest::generate().unwrap().csr_der().unwrap();
            let member = MemberCertificate::parse(&ca.sign_csr(&csr, &role, &name(), YEAR).unwrap()).unwrap();
            assert_eq!(key_of_request(&csr).unwrap(), member.key);
            assert_eq!(
                (&member.mesh_id, &member.name, &member.role),
                (ca.mesh_id(), &name(), &role)
            );
            assert_eq!(member.not_after - member.not_before, 366 * 86_400);
        }
    }

    #[test]
    fn a_request_gets_no_more_than_it_is_given() {
        // A request for a CA certificate of a node, signed as a client's.
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::new(vec!["pgmesh".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        let uri = format!("pgmesh://{}/node/evil", "m");
        params
            .subject_alt_names
            .push(SanType::URI(uri.as_str().try_into().unwrap()));
        let csr = params.serialize_request(&key).unwrap();
        let ca = new_ca();
        let role = Role::Client { stanzas: vec![] };
        let der = ca.sign_csr(csr.der(), &role, &name(), YEAR).unwrap();
        assert_eq!(MemberCertificate::parse(&der).unwrap().role, role);
        let certificate = parse_x509(&der).unwrap();
        assert!(!certificate.is_ca());
        assert_eq!(
            certificate
                .subject_alternative_name()
                .unwrap()
                .unwrap()
                .value
                .general_names
                .len(),
            1
        );
    }

    #[test]
    fn bad_requests_are_refused() {
        let ca = new_ca();
        let sign = |csr: &[u8]| {
            let signed = ca.sign_csr(csr, &Role::Admin, &name(), YEAR);
            assert_eq!(key_of_request(csr).is_ok(), signed.is_ok());
            signed
        };
        assert!(matches!(sign(b"no"), Err(CaError::Request(_))));
        assert!(matches!(sign(&[0; 5000]), Err(CaError::Request(_))));
        let mut tampered = KeyRequest::generate().unwrap().csr_der().unwrap();
        *tampered.last_mut().unwrap() ^= 1;
        assert!(matches!(sign(&tampered), Err(CaError::Request(_))));
        let other_kind = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let csr = CertificateParams::default().serialize_request(&other_kind).unwrap();
        assert!(matches!(sign(csr.der()), Err(CaError::Request(_))));
        let good = KeyRequest::generate().unwrap().csr_der().unwrap();
        let many = Role::Client {
            stanzas: vec!["s".parse().unwrap(); MAX_STANZAS + 1],
        };
        assert!(matches!(
            ca.sign_csr(&good, &many, &name(), YEAR),
            Err(CaError::Terms(_))
        ));
        assert!(matches!(
            ca.sign_csr(&good, &Role::Admin, &name(), Duration::MAX),
            Err(CaError::Terms(_))
        ));
    }

    #[test]
    fn the_authority_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let ca = new_ca();
        assert!(!MeshCa::exists(directory.path()));
        ca.save(directory.path()).unwrap();
        assert!(MeshCa::exists(directory.path()));
        let read = MeshCa::load(directory.path()).unwrap();
        assert_eq!((read.mesh_id(), read.fingerprint()), (ca.mesh_id(), ca.fingerprint()));
        new_ca().save(&directory.path().join("other")).unwrap();
        std::fs::copy(directory.path().join("other/ca.crt"), directory.path().join("ca.crt")).unwrap();
        assert!(matches!(MeshCa::load(directory.path()), Err(CaError::Terms(_))));
    }
}
