//! A connection as the client sees it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls_pki_types::CertificateDer;

use crate::{
    certificate::{CertificateError, MemberCertificate},
    liveness::{ConnectionEnd, Watch},
    lost::{CloseCode, ConnectionLost},
    stream::Stream,
    welcome::Welcome,
};

/// A connection to a node, accepted by both sides. Clones are the same connection; it closes when the last clone and
/// all streams are dropped.
#[derive(Debug, Clone)]
pub struct Connection {
    inner: quinn::Connection,
    node: Arc<MemberCertificate>,
    authorities: Vec<Vec<u8>>,
    program: Arc<str>,
    fate: Arc<ConnectionEnd>,
    _watch: Arc<Watch>,
}

impl Connection {
    pub(crate) fn new(inner: quinn::Connection, welcome: Welcome) -> Result<Self, CertificateError> {
        let shown = inner
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
            .unwrap_or_default();
        let mut shown = shown.into_iter();
        let node = shown
            .next()
            .ok_or_else(|| CertificateError::NotAMember("the node showed no certificate".to_owned()))?;
        let fate = Arc::<ConnectionEnd>::default();
        Ok(Self {
            node: Arc::new(MemberCertificate::parse(&node)?),
            authorities: shown.map(|der| der.to_vec()).collect(),
            program: welcome.program.into(),
            _watch: Arc::new(Watch::start(inner.clone(), fate.clone())),
            inner,
            fate,
        })
    }

    /// Opens a stream; waits while the node's limit of open streams is reached. The node sees the stream with its first
    /// bytes.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn open(&self) -> Result<Stream, ConnectionLost> {
        let halves = self.inner.open_bi().await.map_err(|error| self.fate.lost(error))?;
        Ok(Stream::new(halves, &self.fate))
    }

    /// The node at the other end, by its verified certificate.
    pub fn node(&self) -> &MemberCertificate {
        &self.node
    }

    /// The version of the node's program, as the node says.
    pub fn node_program(&self) -> &str {
        &self.program
    }

    /// The certificate, in DER, that the node showed as its authority's. Only a [`JoinClient`](crate::JoinClient) has
    /// checked it; other clients know the authority from their identity.
    pub fn shown_ca_der(&self) -> Option<&[u8]> {
        self.authorities.first().map(Vec::as_slice)
    }

    /// The certificates, in DER, that the node showed behind its own: its authority's first; while that is rotated,
    /// also another authority's, and the certificate by which one vouches for the other.
    pub fn shown_authorities(&self) -> &[Vec<u8>] {
        &self.authorities
    }

    /// The node's address.
    pub fn remote_address(&self) -> SocketAddr {
        self.inner.remote_address()
    }

    /// The measured round-trip time.
    pub fn rtt(&self) -> Duration {
        self.inner.rtt()
    }

    /// The reason of the connection's end; `None` while it lives as far as is known.
    pub fn lost(&self) -> Option<ConnectionLost> {
        self.inner.close_reason().map(|error| self.fate.lost(error))
    }

    /// Waits for the connection's end.
    pub async fn closed(&self) -> ConnectionLost {
        self.fate.lost(self.inner.closed().await)
    }

    /// Closes the connection in good order. Data that is not yet delivered is lost: see
    /// [`SendHalf::delivered`](crate::SendHalf::delivered).
    pub fn close(&self) {
        self.inner.close(CloseCode::DONE.0.into(), b"done");
    }

    /// Traffic so far, for measurements and metrics.
    pub fn statistics(&self) -> quinn::ConnectionStats {
        self.inner.stats()
    }
}
