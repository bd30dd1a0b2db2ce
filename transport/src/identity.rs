//! A member's certificate and key.

use std::path::Path;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ED25519, PublicKeyData};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::{
    certificate::{
        CertificateError, Fingerprint, MemberCertificate, is_self_signed, is_vouched_for, mesh_id_of_ca, parse_x509,
    },
    durable_file::{self, Audience, FileError},
    name::{MemberName, MeshId},
    role::Role,
};

/// The certificate of the mesh's authority.
pub const CA_CERTIFICATE_FILE: &str = "ca.crt";
/// The member's certificate.
pub const CERTIFICATE_FILE: &str = "identity.crt";
/// Other authorities, while the mesh's is rotated: a node has this file.
pub const ROOTS_FILE: &str = "roots.crt";
/// The member's private key.
pub const KEY_FILE: &str = "identity.key";

pub(crate) const CERTIFICATE_TAG: &str = "CERTIFICATE";
pub(crate) const KEY_TAG: &str = "PRIVATE KEY";

/// Why an identity is not usable.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate is not a member's.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A key cannot be made or read.
    #[error("{doing}: {source}")]
    Key {
        /// The operation.
        doing: &'static str,
        /// The reason.
        source: rcgen::Error,
    },
    /// The certificate is for another key.
    #[error("the private key is not the one that the certificate of {name} was signed for: join the mesh again")]
    OtherKey {
        /// The member that the certificate names.
        name: MemberName,
    },
    /// The certificate is signed by another authority.
    #[error("the certificate of {name} is not signed by the authority of mesh {mesh_id}: join the mesh again")]
    OtherAuthority {
        /// The member that the certificate names.
        name: MemberName,
        /// The authority's mesh.
        mesh_id: MeshId,
    },
    /// The new certificate is for another member than the present one.
    #[error("the new certificate is not for {name} in the same role and mesh: it is not used")]
    OtherMember {
        /// The present member.
        name: MemberName,
    },
    /// The join token names another authority.
    #[error(
        "the certificate authority has fingerprint {found}, the join token says {expected}: this is not the mesh that the token is for"
    )]
    OtherFingerprint {
        /// The token's fingerprint.
        expected: Fingerprint,
        /// The authority's fingerprint.
        found: Fingerprint,
    },
}

fn key_error(doing: &'static str) -> impl FnOnce(rcgen::Error) -> IdentityError {
    move |source| IdentityError::Key { doing, source }
}

/// A new private key that waits for its certificate. The key never leaves the machine.
pub struct KeyRequest {
    key: KeyPair,
}

impl KeyRequest {
    /// Makes an Ed25519 key.
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(key_error("making a private key"))?;
        Ok(Self { key })
    }

    /// The request for a certificate, in DER, signed by the key. It has no name: the authority decides our name and
    /// role.
    ///
    /// # Errors
    /// Signing failed.
    pub fn csr_der(&self) -> Result<Vec<u8>, IdentityError> {
        csr_for(&self.key)
    }

    /// SHA-256 of the public key, as [`MemberCertificate::key`] has it.
    pub fn key(&self) -> Fingerprint {
        Fingerprint::of(&self.key.subject_public_key_info())
    }

    /// The key of an earlier attempt that was kept under this name, if there is one.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn kept(directory: &Path, name: &str) -> Result<Option<Self>, IdentityError> {
        if !directory.join(name).exists() {
            return Ok(None);
        }
        let key = durable_file::read_pem(directory, name, KEY_TAG, Audience::Owner)?;
        Ok(Some(Self { key: read_key(&key)? }))
    }

    /// Keeps the key in a file with mode 0600, durable when it returns. With it, a host that is killed before the
    /// answer comes asks again, and gets the same answer.
    ///
    /// # Errors
    /// The file system refused.
    pub fn keep(&self, directory: &Path, name: &str) -> Result<(), IdentityError> {
        let key = Zeroizing::new(self.key.serialize_der());
        durable_file::write_pem(directory, name, KEY_TAG, &key, Audience::Owner)?;
        Ok(())
    }

    /// The identity, once the authority has answered.
    ///
    /// # Errors
    /// The authority is not the expected one, or the certificate is not signed by it or not for this key.
    pub fn into_identity(
        self,
        ca_der: &[u8],
        certificate_der: &[u8],
        expected_ca: Fingerprint,
    ) -> Result<Identity, IdentityError> {
        self.into_identity_under(ca_der, certificate_der, expected_ca, &[])
    }

    /// The same, where the authority may be a later one, for which the expected one vouches among the certificates that
    /// the node has shown.
    ///
    /// # Errors
    /// As [`KeyRequest::into_identity`].
    pub fn into_identity_under(
        self,
        ca_der: &[u8],
        certificate_der: &[u8],
        expected_ca: Fingerprint,
        shown: &[Vec<u8>],
    ) -> Result<Identity, IdentityError> {
        let found = Fingerprint::of(ca_der);
        let mut known = shown.iter().filter(|der| Fingerprint::of(der) == expected_ca);
        let is_vouched = known.any(|known| is_vouched_for(known, ca_der, shown).unwrap_or_default());
        if found != expected_ca && !is_vouched {
            return Err(IdentityError::OtherFingerprint {
                expected: expected_ca,
                found,
            });
        }
        Identity::from_parts(ca_der, certificate_der, Zeroizing::new(self.key.serialize_der()))
    }
}

fn csr_for(key: &KeyPair) -> Result<Vec<u8>, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params
        .serialize_request(key)
        .map_err(key_error("signing a certificate request"))?;
    Ok(request.der().to_vec())
}

fn read_key(pkcs8: &[u8]) -> Result<KeyPair, IdentityError> {
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &PKCS_ED25519)
        .map_err(key_error("reading the private key"))
}

/// This process's identity in its mesh: its certificate and key. Cheap enough to clone; never printed with its key.
#[derive(Clone)]
pub struct Identity {
    ca: CertificateDer<'static>,
    /// Other authorities whose certificates count, and certificates by which one vouches for the other.
    others: Vec<CertificateDer<'static>>,
    certificate: CertificateDer<'static>,
    key_pkcs8: Zeroizing<Vec<u8>>,
    member: MemberCertificate,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("member", &self.member)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads `ca.crt`, `identity.crt` and `identity.key` from a directory.
    ///
    /// # Errors
    /// A file is missing, malformed, the key readable by others, or they do not belong together.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        let read = |name, tag, audience| durable_file::read_pem(directory, name, tag, audience);
        let certificates = durable_file::read_pems(directory, CERTIFICATE_FILE, CERTIFICATE_TAG)?;
        let (certificate, ca) = match certificates.as_slice() {
            // A later authority comes with the certificate: one file is replaced by one rename.
            [certificate, ca, ..] => (certificate.clone(), ca.clone()),
            _ => (
                read(CERTIFICATE_FILE, CERTIFICATE_TAG, Audience::Public)?.to_vec(),
                read(CA_CERTIFICATE_FILE, CERTIFICATE_TAG, Audience::Public)?.to_vec(),
            ),
        };
        let key = read(KEY_FILE, KEY_TAG, Audience::Owner)?;
        let mut identity = Self::from_parts(&ca, &certificate, key)?;
        if directory.join(ROOTS_FILE).exists() {
            let others = durable_file::read_pems(directory, ROOTS_FILE, CERTIFICATE_TAG)?;
            identity.others = others.into_iter().map(CertificateDer::from).collect();
        }
        Ok(identity)
    }

    /// The same identity, which trusts these authorities as well and shows these certificates behind its own: in DER,
    /// those of authorities and those by which one vouches for another.
    #[must_use]
    pub fn with_others(self, others: &[Vec<u8>]) -> Self {
        let others = others.iter().cloned().map(CertificateDer::from).collect();
        Self { others, ..self }
    }

    /// The certificates of [`Identity::with_others`], in DER.
    pub fn others(&self) -> Vec<Vec<u8>> {
        self.others.iter().map(|der| der.to_vec()).collect()
    }

    /// Writes the other authorities' certificates: durable when it returns.
    ///
    /// # Errors
    /// The file system refused.
    pub fn save_others(&self, directory: &Path) -> Result<(), IdentityError> {
        if self.others.is_empty() {
            durable_file::remove(directory, ROOTS_FILE)?;
            return Ok(());
        }
        let others: Vec<&[u8]> = self.others.iter().map(AsRef::as_ref).collect();
        durable_file::write_pems(directory, ROOTS_FILE, CERTIFICATE_TAG, &others)?;
        Ok(())
    }

    /// Writes the three files, the key with mode 0600, into a directory, which is made if it is missing; durable when
    /// it returns.
    ///
    /// # Errors
    /// The file system refused.
    pub fn save(&self, directory: &Path) -> Result<(), IdentityError> {
        durable_file::create_directory(directory)?;
        durable_file::write_pem(
            directory,
            CA_CERTIFICATE_FILE,
            CERTIFICATE_TAG,
            &self.ca,
            Audience::Public,
        )?;
        durable_file::write_pem(directory, KEY_FILE, KEY_TAG, &self.key_pkcs8, Audience::Owner)?;
        // Last: after a crash before this, the certificate is missing or does not fit the key, and `load` reports that.
        self.save_certificate(directory)
    }

    /// Makes a directory for an identity, and makes sure that files can be written there.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub fn prepare(directory: &Path) -> Result<(), IdentityError> {
        durable_file::create_directory(directory)?;
        durable_file::try_out(directory)?;
        Ok(())
    }

    /// Whether a directory holds a member's certificate.
    pub fn exists(directory: &Path) -> bool {
        directory.join(CERTIFICATE_FILE).exists()
    }

    /// An identity from certificates in DER and a key in PKCS#8.
    ///
    /// # Errors
    /// A certificate or the key is malformed, or they do not belong together. Expiry is no error here: see
    /// [`Identity::expires_at`].
    pub fn from_parts(
        ca_der: &[u8],
        certificate_der: &[u8],
        key_pkcs8: Zeroizing<Vec<u8>>,
    ) -> Result<Self, IdentityError> {
        let member = MemberCertificate::parse(certificate_der)?;
        let mesh_id = mesh_id_of_ca(ca_der)?;
        let authority = parse_x509(ca_der)?;
        let certificate = parse_x509(certificate_der)?;
        if mesh_id != member.mesh_id || certificate.verify_signature(Some(authority.public_key())).is_err() {
            return Err(IdentityError::OtherAuthority {
                name: member.name,
                mesh_id,
            });
        }
        let key = read_key(&key_pkcs8)?;
        if certificate.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(IdentityError::OtherKey { name: member.name });
        }
        Ok(Self {
            ca: CertificateDer::from(ca_der.to_vec()),
            others: Vec::new(),
            certificate: CertificateDer::from(certificate_der.to_vec()),
            key_pkcs8,
            member,
        })
    }

    /// A request for a newer certificate of the same key, in DER. The key stays, so that a renewal replaces a single
    /// file: a crash leaves the old certificate or the new one.
    ///
    /// # Errors
    /// Signing failed.
    pub fn renewal_csr_der(&self) -> Result<Vec<u8>, IdentityError> {
        csr_for(&read_key(&self.key_pkcs8)?)
    }

    /// The same member with a newer certificate.
    ///
    /// # Errors
    /// The certificate is not from the same authority, not for this key, or not for this name and role.
    pub fn renewed(&self, ca_der: &[u8], certificate_der: &[u8]) -> Result<Self, IdentityError> {
        self.renewed_under(ca_der, certificate_der, &[])
    }

    /// The same member with a newer certificate, perhaps of a later authority: the present one must vouch for it among
    /// the certificates that the node has shown.
    ///
    /// # Errors
    /// As [`Identity::renewed`].
    pub fn renewed_under(
        &self,
        ca_der: &[u8],
        certificate_der: &[u8],
        shown: &[Vec<u8>],
    ) -> Result<Self, IdentityError> {
        let (expected, found) = (self.ca_fingerprint(), Fingerprint::of(ca_der));
        if found != expected && !is_vouched_for(&self.ca, ca_der, shown)? {
            return Err(IdentityError::OtherFingerprint { expected, found });
        }
        self.reissued(ca_der, certificate_der)
    }

    /// The same member with another certificate of any authority of its mesh: for a node, which signs for itself and
    /// goes by the catalog.
    ///
    /// # Errors
    /// The certificate is not from this authority, the authority of another mesh, or the certificate not for this key,
    /// name and role.
    pub fn reissued(&self, ca_der: &[u8], certificate_der: &[u8]) -> Result<Self, IdentityError> {
        let mut new = Self::from_parts(ca_der, certificate_der, self.key_pkcs8.clone())?;
        new.others.clone_from(&self.others);
        if new.mesh_id() != self.mesh_id() || new.name() != self.name() || new.role() != self.role() {
            let name = self.name().clone();
            return Err(IdentityError::OtherMember { name });
        }
        Ok(new)
    }

    /// Replaces only the certificate, beside the existing key: durable when it returns. If the authority is another one
    /// than the directory's, it is written into the same file, so that a crash leaves a usable pair.
    ///
    /// # Errors
    /// The file system refused.
    pub fn save_certificate(&self, directory: &Path) -> Result<(), IdentityError> {
        let known = durable_file::read_pem(directory, CA_CERTIFICATE_FILE, CERTIFICATE_TAG, Audience::Public)?;
        let is_known = known.as_slice() == self.ca.as_ref();
        let both = [self.certificate.as_ref(), self.ca.as_ref()];
        let written = if is_known { &both[..1] } else { &both[..] };
        durable_file::write_pems(directory, CERTIFICATE_FILE, CERTIFICATE_TAG, written)?;
        if !is_known {
            durable_file::write_pem(
                directory,
                CA_CERTIFICATE_FILE,
                CERTIFICATE_TAG,
                &self.ca,
                Audience::Public,
            )?;
        }
        Ok(())
    }

    /// The mesh.
    pub fn mesh_id(&self) -> &MeshId {
        &self.member.mesh_id
    }

    /// The member's name.
    pub fn name(&self) -> &MemberName {
        &self.member.name
    }

    /// The member's role.
    pub fn role(&self) -> &Role {
        &self.member.role
    }

    /// The content of the certificate.
    pub fn member(&self) -> &MemberCertificate {
        &self.member
    }

    /// SHA-256 of the member's certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.member.fingerprint
    }

    /// SHA-256 of the authority's certificate.
    pub fn ca_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.ca)
    }

    /// The end of the certificate's validity, seconds since 1970.
    pub fn expires_at(&self) -> i64 {
        self.member.not_after
    }

    /// The authority's certificate in DER.
    pub fn ca_der(&self) -> &[u8] {
        &self.ca
    }

    /// The member's certificate in DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// The authorities whose certificates count.
    pub(crate) fn roots(&self) -> Vec<CertificateDer<'static>> {
        let others = self.others.iter().filter(|der| is_self_signed(der));
        std::iter::once(&self.ca).chain(others).cloned().collect()
    }

    pub(crate) fn key_pkcs8(&self) -> &[u8] {
        &self.key_pkcs8
    }

    /// The certificate alone, as a client shows it.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    /// The certificate, its authority's and the other authorities', as a server shows them: a client that joins has to
    /// see its authority, and a client that knows a former one has to see that it vouches for the new one.
    pub(crate) fn chain_with_ca(&self) -> Vec<CertificateDer<'static>> {
        let own = [self.certificate.clone(), self.ca.clone()];
        own.into_iter().chain(self.others.iter().cloned()).collect()
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key_pkcs8.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::ca::MeshCa;

    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    fn issue(ca: &MeshCa) -> Identity {
        ca.issue(&Role::Node, &"n1".parse().unwrap(), YEAR).unwrap()
    }

    #[test]
    fn an_identity_is_kept_and_its_key_not_shown() {
        let ca = MeshCa::create(MeshId::random().unwrap()).unwrap();
        let (directory, identity) = (tempfile::tempdir().unwrap(), issue(&ca));
        let path = directory.path().join("identity");
        assert!(!Identity::exists(&path));
        identity.save(&path).unwrap();
        assert!(Identity::exists(&path));
        let read = Identity::load(&path).unwrap();
        assert_eq!(read.member(), identity.member());
        assert_eq!(read.key_pkcs8(), identity.key_pkcs8());
        // The public one is.
        let (shown, private) = (format!("{identity:?}"), identity.key_pkcs8());
        assert!(!shown.contains("pkcs8") && !shown.contains(&format!("{private:?}")));
        assert!(!shown.contains(&hex::encode(private)));
    }

    #[test]
    fn mixed_files_are_found() {
        let mesh_id = MeshId::random().unwrap();
        let ca = MeshCa::create(mesh_id.clone()).unwrap();
        // An impostor with the same mesh id.
        let impostor = MeshCa::create(mesh_id).unwrap();
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (file, other) in [(KEY_FILE, &ca), (CA_CERTIFICATE_FILE, &impostor)] {
            issue(&ca).save(one.path()).unwrap();
            issue(other).save(two.path()).unwrap();
            fs::copy(two.path().join(file), one.path().join(file)).unwrap();
            let error = Identity::load(one.path()).unwrap_err();
            match file {
                KEY_FILE => assert!(matches!(error, IdentityError::OtherKey { .. }), "{error}"),
                _ => assert!(matches!(error, IdentityError::OtherAuthority { .. }), "{error}"),
            }
        }
    }

    #[test]
    fn a_certificate_is_renewed_for_the_same_key_and_member_only() {
        let ca = MeshCa::create(MeshId::random().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let old = issue(&ca);
        old.save(directory.path()).unwrap();
        let csr = old.renewal_csr_der().unwrap();
        let sign = |ca: &MeshCa, role: &Role, name: &str| ca.sign_csr(&csr, role, &name.parse().unwrap(), 2 * YEAR);
        let certificate = sign(&ca, &Role::Node, "n1").unwrap();
        let new = old.renewed(ca.certificate_der(), &certificate).unwrap();
        assert!(new.expires_at() > old.expires_at());
        new.save_certificate(directory.path()).unwrap();
        let read = Identity::load(directory.path()).unwrap();
        assert_eq!((read.member(), read.key_pkcs8()), (new.member(), old.key_pkcs8()));

        let (other_name, other_role) = (sign(&ca, &Role::Node, "n2"), sign(&ca, &Role::Admin, "n1"));
        for certificate in [other_name.unwrap(), other_role.unwrap()] {
            let error = old.renewed(ca.certificate_der(), &certificate).unwrap_err();
            assert!(matches!(error, IdentityError::OtherMember { .. }), "{error}");
        }
        let error = old
            .renewed(ca.certificate_der(), issue(&ca).certificate_der())
            .unwrap_err();
        assert!(matches!(error, IdentityError::OtherKey { .. }), "{error}");
        let impostor = MeshCa::create(ca.mesh_id().clone()).unwrap();
        let certificate = sign(&impostor, &Role::Node, "n1").unwrap();
        assert!(old.renewed(impostor.certificate_der(), &certificate).is_err());
        assert!(old.renewed(ca.certificate_der(), &certificate).is_err());
    }

    #[test]
    fn an_answer_from_another_mesh_is_refused() {
        let ca = MeshCa::create(MeshId::random().unwrap()).unwrap();
        let other = MeshCa::create(MeshId::random().unwrap()).unwrap();
        let request = KeyRequest::generate().unwrap();
        let name = "n1".parse().unwrap();
        let certificate = other
            .sign_csr(&request.csr_der().unwrap(), &Role::Node, &name, YEAR)
            .unwrap();
        let error = request
            .into_identity(other.certificate_der(), &certificate, ca.fingerprint())
            .unwrap_err();
        assert!(matches!(error, IdentityError::OtherFingerprint { .. }), "{error}");
    }

    /// A token that was used up for nothing would keep its name from its bearer.
    #[test]
    fn a_directory_that_cannot_be_written_is_found_before_a_token_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let fresh = folder.path().join("identity");
        Identity::prepare(&fresh).unwrap();
        assert_eq!(fs::read_dir(&fresh).unwrap().count(), 0, "nothing is left there");
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Identity::prepare(&file).is_err());
        // A directory where the file would be made that tries it out.
        fs::create_dir_all(fresh.join(".tried/full")).unwrap();
        assert!(Identity::prepare(&fresh).is_err());
    }
}
