//! Why a connection ended, in words and by its remedy.

use quinn::ConnectionError;

/// An application close code of the wire protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseCode(pub u32);

impl CloseCode {
    /// Done; nothing is wrong.
    pub const DONE: Self = Self(0);
    /// The process is shutting down: try another node.
    pub const SHUTTING_DOWN: Self = Self(1);
    /// The client showed no certificate, and did not come to join.
    pub const NO_CERTIFICATE: Self = Self(2);
    /// The node takes no more connections of this kind at the moment.
    pub const BUSY: Self = Self(3);
    /// A joining connection was open for too long.
    pub const JOIN_EXPIRED: Self = Self(4);
    /// The peer broke the protocol.
    pub const VIOLATION: Self = Self(5);
    /// The peer is not, or not any more, a member with the right to connect.
    pub const FORBIDDEN: Self = Self(6);

    /// Codes from here on mean: "I speak wire protocol (code − this)".
    const VERSION_BASE: u32 = 0x1_0000;

    /// "I speak wire protocol `version`, which you did not offer."
    pub fn speaks(version: u16) -> Self {
        Self(Self::VERSION_BASE + u32::from(version))
    }

    /// The version in a code made by [`CloseCode::speaks`].
    pub fn spoken_version(self) -> Option<u16> {
        self.0
            .checked_sub(Self::VERSION_BASE)
            .and_then(|version| u16::try_from(version).ok())
    }
}

/// A connection is gone. The other side may or may not have carried out the request under way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionLost {
    /// The other side's host answers that no process listens on the port any more.
    #[error("the process at the other end is gone")]
    Gone,
    /// No packet came for the idle time-out.
    #[error("the other end sends no packets any more")]
    Silent,
    /// The other end has restarted and knows nothing of this connection.
    #[error("the other end has restarted")]
    Restarted,
    /// The other end closed the connection on purpose.
    #[error("closed by the other end: {reason} (code {})", code.0)]
    ClosedByPeer {
        /// The close code.
        code: CloseCode,
        /// The other end's words.
        reason: String,
    },
    /// The other end's TLS or QUIC refused us, for example for our certificate.
    #[error("refused by the other end: {reason}")]
    Refused {
        /// The TLS alert, when it is one.
        alert: Option<u8>,
        /// The reason.
        reason: String,
    },
    /// The other end broke QUIC or TLS.
    #[error("protocol failure: {reason}")]
    Protocol {
        /// The reason.
        reason: String,
    },
    /// This side closed the connection.
    #[error("closed by this end")]
    ClosedHere,
}

impl ConnectionLost {
    /// Whether a side closed the connection in good order: no cause for alarm in a log.
    pub fn is_orderly(&self) -> bool {
        match self {
            Self::ClosedHere => true,
            Self::ClosedByPeer { code, .. } => matches!(*code, CloseCode::DONE | CloseCode::SHUTTING_DOWN),
            _ => false,
        }
    }
}

/// QUIC's crypto error codes are 0x100 plus the TLS alert (RFC 9001, section 4.8).
fn tls_alert(code: quinn::TransportErrorCode) -> Option<u8> {
    u64::from(code)
        .checked_sub(0x100)
        .and_then(|alert| u8::try_from(alert).ok())
}

impl From<ConnectionError> for ConnectionLost {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::TimedOut => Self::Silent,
            ConnectionError::Reset => Self::Restarted,
            ConnectionError::LocallyClosed => Self::ClosedHere,
            ConnectionError::ApplicationClosed(close) => Self::ClosedByPeer {
                code: CloseCode(u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX)),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            ConnectionError::ConnectionClosed(close) => {
                let alert = tls_alert(close.error_code);
                let reason = match alert {
                    Some(alert) => alert_in_words(alert),
                    None => close.to_string(),
                };
                Self::Refused { alert, reason }
            }
            other => Self::Protocol {
                reason: other.to_string(),
            },
        }
    }
}

/// The meaning of a TLS alert (RFC 8446, section 6) between members of a mesh.
fn alert_in_words(alert: u8) -> String {
    match alert {
        ALERT_UNKNOWN_CA => "this certificate is not of the mesh that the node belongs to".to_owned(),
        ALERT_CERTIFICATE_EXPIRED => "the node says that this certificate has expired".to_owned(),
        ALERT_NO_APPLICATION_PROTOCOL => "the other end does not speak pgmesh".to_owned(),
        42..=44 | 46 | 51 => format!("the node does not accept this certificate (TLS alert {alert})"),
        _ => format!("TLS alert {alert}"),
    }
}

pub(crate) const ALERT_CERTIFICATE_EXPIRED: u8 = 45;
pub(crate) const ALERT_UNKNOWN_CA: u8 = 48;
pub(crate) const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

/// Whether an alert is about the certificate that was shown.
pub(crate) fn is_certificate_alert(alert: u8) -> bool {
    matches!(alert, 42..=46 | ALERT_UNKNOWN_CA | 51 | 116)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_codes_round_trip_and_others_are_none() {
        assert_eq!(CloseCode::speaks(2).spoken_version(), Some(2));
        assert_eq!(CloseCode::speaks(u16::MAX).spoken_version(), Some(u16::MAX));
        assert_eq!(CloseCode::FORBIDDEN.spoken_version(), None);
        assert_eq!(CloseCode(u32::MAX).spoken_version(), None);
    }
}
