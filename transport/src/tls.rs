//! TLS configurations and certificate verifiers: they decide which peers are let in.
//!
//! TLS 1.3 only, ring only, no session resumption and no 0-RTT: a resumed session would skip the certificate checks,
//! and a replayed request could be acted on twice.

use std::sync::{Arc, OnceLock};

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::{
    CertificateError as TlsCertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    server::{
        VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{
    certificate::{Fingerprint, MemberCertificate, is_signed_by_named, mesh_id_of_ca},
    identity::Identity,
    name::MeshId,
    role::Role,
    wire_version::{Purpose, WIRE_VERSION, server_alpns},
};

/// Why there is no TLS configuration: a fault of the identity's files, not of the network.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The certificate, key or protocol version is not usable.
    #[error("setting up TLS: {0}")]
    Tls(#[from] Error),
    /// The authority's certificate is not usable.
    #[error("setting up TLS: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// QUIC lacks its initial cipher suite.
    #[error("setting up TLS: {0}")]
    Quic(#[from] NoInitialCipherSuite),
}

/// Why a client did not accept a node's certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeCertificateProblem {
    /// It is signed by another authority.
    #[error("its certificate is not of mesh {mesh_id}")]
    OtherMesh {
        /// The mesh that the client expects.
        mesh_id: MeshId,
    },
    /// No certificate that the node showed is the authority in the join token.
    #[error("it does not belong to the mesh of the join token (authority {expected})")]
    OtherAuthority {
        /// The authority's fingerprint in the join token.
        expected: Fingerprint,
    },
    /// Its validity has ended.
    #[error("its certificate has expired")]
    Expired,
    /// Its validity has not begun.
    #[error("its certificate is not yet valid: compare the clocks")]
    NotYetValid,
    /// It is a member's, but not a node's.
    #[error("its certificate is not a node's")]
    NotANode,
    /// Another fault.
    #[error("its certificate is not acceptable: {0}")]
    Unacceptable(String),
}

/// The place of a client's verifier for its reason, since TLS carries only an alert.
pub(crate) type Verdict = Arc<OnceLock<NodeCertificateProblem>>;

/// ring, with the cheaper of the two AES-GCM suites first; both are beyond breaking.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(CryptoProvider {
        cipher_suites,
        ..ring::default_provider()
    })
}

fn roots_of(authorities: Vec<CertificateDer<'static>>) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority)?;
    }
    Ok(Arc::new(roots))
}

/// A node's side: clients show a certificate of this mesh or none. The ALPN check decides on a client without one.
pub(crate) fn server_config(identity: &Identity) -> Result<QuicServerConfig, TlsSetupError> {
    let provider = provider();
    let inner = WebPkiClientVerifier::builder_with_provider(roots_of(identity.roots())?, provider.clone())
        .allow_unauthenticated()
        .build()?;
    let verifier = Arc::new(MemberVerifier {
        inner,
        mesh_id: identity.mesh_id().clone(),
        roots: identity.roots(),
    });
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain_with_ca(), identity.private_key())?;
    config.alpn_protocols = server_alpns();
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config.try_into()?)
}

/// A member's side when it dials: it shows its certificate, and accepts only a node of its mesh.
#[derive(Clone)]
pub(crate) struct MemberClientConfig {
    base: rustls::ClientConfig,
    verifier: Arc<WebPkiServerVerifier>,
    mesh_id: MeshId,
}

impl MemberClientConfig {
    pub(crate) fn new(identity: &Identity) -> Result<Self, TlsSetupError> {
        let provider = provider();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots_of(identity.roots())?, provider.clone()).build()?;
        let mut base = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_webpki_verifier(verifier.clone())
            .with_client_auth_cert(identity.chain(), identity.private_key())?;
        finish_client(&mut base, Purpose::Member);
        Ok(Self {
            base,
            verifier,
            mesh_id: identity.mesh_id().clone(),
        })
    }

    /// The configuration of one connection. Its verifier leaves its reason in the verdict.
    pub(crate) fn for_connection(&self) -> Result<(QuicClientConfig, Verdict), TlsSetupError> {
        let verdict = Verdict::default();
        let verifier = NodeVerifier {
            inner: self.verifier.clone(),
            mesh_id: self.mesh_id.clone(),
            verdict: verdict.clone(),
        };
        let mut config = self.base.clone();
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        Ok((config.try_into()?, verdict))
    }
}

/// The side of a client that joins: it has no certificate, and accepts a node of the mesh whose authority has this
/// fingerprint.
pub(crate) fn join_client_config(expected: Fingerprint) -> Result<(QuicClientConfig, Verdict), TlsSetupError> {
    let (provider, verdict) = (provider(), Verdict::default());
    let verifier = PinnedVerifier {
        expected,
        provider: provider.clone(),
        verdict: verdict.clone(),
    };
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    finish_client(&mut config, Purpose::Join);
    Ok((config.try_into()?, verdict))
}

fn finish_client(config: &mut rustls::ClientConfig, purpose: Purpose) {
    config.alpn_protocols = vec![purpose.alpn(WIRE_VERSION)];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
}

/// The error that makes rustls close the connection with a certificate alert.
fn refuse(reason: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(TlsCertificateError::Other(OtherError(Arc::new(reason))))
}

/// A server's check of a client's certificate: webpki checks chain and purpose; then the client must be a member of
/// this mesh, and its certificate signed by the authority that it names: webpki does not look at that name, and a thief
/// of the former authority's key would name the new one.
#[derive(Debug)]
struct MemberVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    mesh_id: MeshId,
    roots: Vec<CertificateDer<'static>>,
}

impl ClientCertVerifier for MemberVerifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let member = MemberCertificate::parse(end_entity).map_err(refuse)?;
        let is_signed = is_signed_by_named(end_entity, &self.roots).map_err(refuse)?;
        if member.mesh_id != self.mesh_id || !is_signed {
            return Err(Error::InvalidCertificate(TlsCertificateError::UnknownIssuer));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The check of both kinds of clients: webpki's checks (chain, time, name, `serverAuth`), then the node role in this
/// mesh. A PG host's certificate is of the same authority: without this check, a stolen one could pose as a node.
fn verify_node(
    webpki: &WebPkiServerVerifier,
    mesh_id: &MeshId,
    (end_entity, shown): (&CertificateDer<'_>, &[CertificateDer<'_>]),
    server_name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, NodeCertificateProblem> {
    // An authority signs members directly; between them is at most a later authority, for which it vouches.
    let verified = webpki
        .verify_server_cert(end_entity, shown, server_name, &[], now)
        .map_err(|error| problem_of(error, mesh_id))?;
    let member = MemberCertificate::parse(end_entity)
        .map_err(|error| NodeCertificateProblem::Unacceptable(error.to_string()))?;
    if member.mesh_id != *mesh_id {
        return Err(NodeCertificateProblem::OtherMesh {
            mesh_id: mesh_id.clone(),
        });
    }
    if member.role != Role::Node {
        return Err(NodeCertificateProblem::NotANode);
    }
    Ok(verified)
}

fn problem_of(error: Error, mesh_id: &MeshId) -> NodeCertificateProblem {
    use TlsCertificateError as E;
    match error {
        Error::InvalidCertificate(E::UnknownIssuer | E::BadSignature) => NodeCertificateProblem::OtherMesh {
            mesh_id: mesh_id.clone(),
        },
        Error::InvalidCertificate(E::Expired | E::ExpiredContext { .. }) => NodeCertificateProblem::Expired,
        Error::InvalidCertificate(E::NotValidYet | E::NotValidYetContext { .. }) => NodeCertificateProblem::NotYetValid,
        Error::InvalidCertificate(
            E::InvalidPurpose | E::InvalidPurposeContext { .. } | E::NotValidForName | E::NotValidForNameContext { .. },
        ) => NodeCertificateProblem::NotANode,
        other => NodeCertificateProblem::Unacceptable(other.to_string()),
    }
}

fn leave(verdict: &Verdict, problem: NodeCertificateProblem) -> Error {
    // One handshake checks one certificate, so there is no earlier verdict.
    let _ = verdict.set(problem.clone());
    refuse(problem)
}

/// A member's check of a node's certificate.
#[derive(Debug)]
struct NodeVerifier {
    inner: Arc<WebPkiServerVerifier>,
    mesh_id: MeshId,
    verdict: Verdict,
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_node(
            &self.inner,
            &self.mesh_id,
            (end_entity, intermediates),
            server_name,
            now,
        )
        .map_err(|problem| leave(&self.verdict, problem))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The check of a client that joins: among the shown certificates must be the authority that the token names, and that
/// authority must have signed the node's own. No trust on first use.
#[derive(Debug)]
struct PinnedVerifier {
    expected: Fingerprint,
    provider: Arc<CryptoProvider>,
    verdict: Verdict,
}

impl PinnedVerifier {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, NodeCertificateProblem> {
        let unacceptable = |error: &dyn std::fmt::Display| NodeCertificateProblem::Unacceptable(error.to_string());
        let ca = shown
            .iter()
            .find(|certificate| Fingerprint::of(certificate) == self.expected)
            .ok_or(NodeCertificateProblem::OtherAuthority {
                expected: self.expected,
            })?;
        let mesh_id = mesh_id_of_ca(ca).map_err(|error| unacceptable(&error))?;
        let roots = roots_of(vec![ca.clone().into_owned()]).map_err(|error| unacceptable(&error))?;
        let webpki = WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone())
            .build()
            .map_err(|error| unacceptable(&error))?;
        verify_node(&webpki, &mesh_id, (end_entity, shown), server_name, now)
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, server_name, now)
            .map_err(|problem| leave(&self.verdict, problem))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
