//! Versions of the wire protocol, negotiated by ALPN.
//!
//! A server also completes the handshake for versions that it does not speak, and then closes the connection with a
//! code that tells its own version. So the other program can name both versions instead of a TLS alert.

/// The version of the wire protocol that this program speaks.
pub const WIRE_VERSION: u16 = 8;

/// The highest version that a server knows how to refuse politely.
const HIGHEST_REFUSED: u16 = 16;

/// The purpose of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Between members; both sides show certificates.
    Member,
    /// Redeeming a join token; the client has no certificate yet.
    Join,
}

impl Purpose {
    pub(crate) fn alpn(self, version: u16) -> Vec<u8> {
        match self {
            Self::Member => format!("pgmesh/{version}"),
            Self::Join => format!("pgmesh-join/{version}"),
        }
        .into_bytes()
    }
}

/// The protocols that a server offers: its own version first, then the versions that it refuses in words.
pub(crate) fn server_alpns() -> Vec<Vec<u8>> {
    let own = [Purpose::Member.alpn(WIRE_VERSION), Purpose::Join.alpn(WIRE_VERSION)];
    let others = (1..=HIGHEST_REFUSED)
        .filter(|version| *version != WIRE_VERSION)
        .flat_map(|version| [Purpose::Member.alpn(version), Purpose::Join.alpn(version)]);
    own.into_iter().chain(others).collect()
}

/// The result of the negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Negotiated {
    /// Our own version, for this purpose.
    Spoken(Purpose),
    /// A version that only the peer speaks.
    Foreign,
}

pub(crate) fn negotiated(alpn: &[u8]) -> Negotiated {
    [Purpose::Member, Purpose::Join]
        .into_iter()
        .find(|purpose| purpose.alpn(WIRE_VERSION) == alpn)
        .map_or(Negotiated::Foreign, Negotiated::Spoken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_version_is_preferred_and_alone_spoken() {
        let alpns = server_alpns();
        let (member, join) = (format!("pgmesh/{WIRE_VERSION}"), format!("pgmesh-join/{WIRE_VERSION}"));
        assert_eq!(alpns[0], member.as_bytes());
        assert_eq!(alpns[1], join.as_bytes());
        assert_eq!(negotiated(member.as_bytes()), Negotiated::Spoken(Purpose::Member));
        assert_eq!(negotiated(join.as_bytes()), Negotiated::Spoken(Purpose::Join));
        for alpn in &alpns[2..] {
            assert_eq!(negotiated(alpn), Negotiated::Foreign);
        }
        assert_eq!(negotiated(b""), Negotiated::Foreign);
    }
}
