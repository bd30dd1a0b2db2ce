//! Join tokens: with one, a process without a certificate finds a mesh, checks that it is the right one, and is let in
//! once.
//!
//! As text: `pgmesh1.` and, in base64url without padding, the encoded content and the first four bytes of its SHA-256,
//! so that a token that lost a character is told from a token that is refused.

use pgmesh_runtime::random;
use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use pgmesh_protocol::{TokenId, TokenSecret};
use pgmesh_storage::wire;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::{certificate::Fingerprint, role::Role};

const PREFIX: &str = "pgmesh1.";
const CHECKSUM_LENGTH: usize = 4;

/// The longest token, as text.
pub const MAX_TOKEN_LENGTH: usize = 16 * 1024;

/// Why a text is not a token, or a token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as a token does.
    #[error("this is not a join token: it does not begin with {PREFIX:?}")]
    NotAToken,
    /// It was cut, or a character changed.
    #[error("the join token is incomplete or garbled: copy it again, as one piece")]
    Garbled,
    /// The checksum is right, but the content is not understood.
    #[error("the join token was made by another version of pgmesh: {0}")]
    Content(wire::DecodeError),
    /// The operating system has no randomness to give.
    #[error("getting random bytes: {0}")]
    Random(random::Error),
}

/// A join token. Its text is a secret until it is redeemed or has expired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Nodes to ask, each `host:port`.
    pub addresses: Vec<String>,
    /// SHA-256 of the certificate of the mesh's authority; [`JoinClient`](crate::JoinClient) accepts no other.
    pub ca_fingerprint: Fingerprint,
    /// The token's id in the catalog.
    pub id: TokenId,
    /// The secret that proves the token.
    pub secret: TokenSecret,
    /// The role of the new member. The catalog decides; this field only tells.
    pub role: Role,
    /// The time of expiry, seconds since 1970. The catalog decides; this field only tells.
    pub expires: i64,
}

impl JoinToken {
    /// A new token with a random id and secret.
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub fn generate(
        addresses: Vec<String>,
        ca_fingerprint: Fingerprint,
        role: Role,
        expires: i64,
    ) -> Result<Self, TokenError> {
        let mut id = TokenId([0; 8]);
        random::secret(&mut id.0).map_err(TokenError::Random)?;
        let secret = TokenSecret::generate().map_err(TokenError::Random)?;
        Ok(Self {
            addresses,
            ca_fingerprint,
            id,
            secret,
            role,
            expires,
        })
    }

    /// SHA-256 of the secret, which is kept in the catalog instead of the secret.
    pub fn secret_hash(&self) -> [u8; 32] {
        self.secret.hash()
    }

    /// Whether the token has ended at `now`, seconds since 1970, by this machine's clock.
    pub fn is_expired(&self, now: i64) -> bool {
        now >= self.expires
    }
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(content).into();
    [a, b, c, d]
}

/// The text form, secret included.
impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut content = wire::encode(self);
        content.extend(checksum(&content));
        f.write_str(PREFIX)?;
        f.write_str(&URL_SAFE_NO_PAD.encode(&content))?;
        content.zeroize();
        Ok(())
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        if encoded.len() > MAX_TOKEN_LENGTH {
            return Err(TokenError::Garbled);
        }
        let bytes = zeroize::Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TokenError::Garbled)?);
        let (content, stored) = bytes.split_last_chunk::<CHECKSUM_LENGTH>().ok_or(TokenError::Garbled)?;
        if *stored != checksum(content) {
            return Err(TokenError::Garbled);
        }
        wire::decode(content, MAX_TOKEN_LENGTH).map_err(TokenError::Content)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        let role = Role::Client {
            stanzas: vec!["main".parse().unwrap()],
        };
        let addresses = vec!["db1:7400".to_owned(), "[::1]:7400".to_owned()];
        JoinToken::generate(addresses, Fingerprint([7; 32]), role, 1_800_000_000).unwrap()
    }

    #[test]
    fn tokens_round_trip_and_hide_their_secret() {
        let token = token();
        let text = token.to_string();
        assert_eq!(format!(" {text}\n").parse::<JoinToken>().unwrap(), token);
        let debug = format!("{token:?}");
        assert!(debug.contains("(secret)"), "{debug}");
        let secret = wire::encode(&token.secret);
        assert!(!debug.contains(&format!("{secret:?}")), "{debug}");
        assert!(token.secret.matches(&token.secret_hash()));
        assert!(!token.secret.matches(&[0; 32]));
        assert!(!token.is_expired(1_799_999_999));
        assert!(token.is_expired(1_800_000_000));
    }

    #[test]
    fn damaged_tokens_are_told_from_other_texts() {
        let text = token().to_string();
        for end in PREFIX.len()..text.len() {
            assert!(
                matches!(text[..end].parse::<JoinToken>(), Err(TokenError::Garbled)),
                "{end}"
            );
        }
        assert!(matches!("hello".parse::<JoinToken>(), Err(TokenError::NotAToken)));
        assert!(matches!("".parse::<JoinToken>(), Err(TokenError::NotAToken)));
        let mut content = vec![0xff; 10];
        content.extend(checksum(&content));
        let foreign = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(content));
        assert!(matches!(foreign.parse::<JoinToken>(), Err(TokenError::Content(_))));
    }

    proptest! {
        #[test]
        fn a_changed_character_is_found(position in 0_usize..200, new in "[A-Za-z0-9_-]") {
            let text = token().to_string();
            let position = PREFIX.len() + position % (text.len() - PREFIX.len());
            let mut changed = text.clone();
            changed.replace_range(position..=position, &new);
            prop_assume!(changed != text);
            prop_assert!(changed.parse::<JoinToken>().is_err());
        }
    }
}
