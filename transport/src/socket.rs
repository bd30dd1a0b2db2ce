//! UDP sockets and QUIC endpoints on them.

use pgmesh_runtime::random;
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use hmac::{Hmac, KeyInit, Mac};
use quinn::{ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, TokioRuntime, crypto};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use sha2::Sha256;

use crate::{identity::Identity, tuning::Tuning};

/// A bound UDP socket with large buffers; one on `[::]` takes IPv4, too.
fn bound_socket(address: SocketAddr, tuning: &Tuning) -> io::Result<UdpSocket> {
    let family = if address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
    }
    // The kernel may give smaller buffers, which only cost speed.
    let _ = sockopt::set_socket_recv_buffer_size(&socket, tuning.socket_buffer);
    let _ = sockopt::set_socket_send_buffer_size(&socket, tuning.socket_buffer);
    bind(&socket, &address)?;
    Ok(UdpSocket::from(socket))
}

/// An endpoint that only dials, for addresses of one family.
pub(crate) fn client_endpoint(ipv6: bool, tuning: &Tuning) -> io::Result<Endpoint> {
    let any = if ipv6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let socket = bound_socket(SocketAddr::new(any, 0), tuning)?;
    let mut config = EndpointConfig::default();
    config
        .max_udp_payload_size(tuning.largest_mtu)
        .map_err(io::Error::other)?;
    Endpoint::new(config, None, socket, Arc::new(TokioRuntime))
}

/// An endpoint that listens.
///
/// Its stateless reset tokens follow from the identity's key. When the process is killed and started again, the new
/// process can tell the old one's peers at once that their connections are gone (RFC 9000, section 10.3).
pub(crate) fn server_endpoint(
    address: SocketAddr,
    identity: &Identity,
    server: quinn::ServerConfig,
    tuning: &Tuning,
) -> io::Result<Endpoint> {
    let socket = bound_socket(address, tuning)?;
    let reset_key = hmac(identity.key_pkcs8())
        .chain_update(b"pgmesh stateless reset")
        .finalize()
        .into_bytes();
    let mut connection_id_key = [0; 32];
    random::secret(&mut connection_id_key).map_err(io::Error::other)?;
    let mut config = EndpointConfig::new(Arc::new(ResetKey(reset_key.into())));
    config
        .cid_generator(move || {
            Box::new(ConnectionIds {
                key: connection_id_key,
                made: 0,
            })
        })
        .max_udp_payload_size(tuning.largest_mtu)
        .map_err(io::Error::other)?;
    Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))
}

/// Connection ids that look random, and that every process with the identity can reset. quinn's own ids carry a check
/// that only their process knows, and a process stays silent about the ids of all others.
struct ConnectionIds {
    key: [u8; 32],
    made: u64,
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.made += 1;
        let tag = hmac(&self.key)
            .chain_update(self.made.to_le_bytes())
            .finalize()
            .into_bytes();
        let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = tag.into();
        ConnectionId::new(&[a, b, c, d, e, f, g, h])
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn hmac(key: &[u8]) -> Hmac<Sha256> {
    // HMAC takes keys of any length; other MACs do not, so the type has an error.
    match Hmac::<Sha256>::new_from_slice(key) {
        Ok(hmac) => hmac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    }
}

struct ResetKey([u8; 32]);

impl crypto::HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let tag = hmac(&self.0).chain_update(data).finalize().into_bytes();
        signature_out.copy_from_slice(&tag);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), crypto::CryptoError> {
        hmac(&self.0)
            .chain_update(data)
            .verify_slice(signature)
            .map_err(|_| crypto::CryptoError)
    }
}
