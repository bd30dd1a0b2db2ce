use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The longest stanza name, in bytes.
const MAX_LENGTH: usize = 64;

/// The name of a stanza: one PostgreSQL cluster.
///
/// A letter or digit, then at most 63 letters, digits, `_`, `.` or `-` (all ASCII), so that it is safe as a part of a
/// path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StanzaName(String);

impl StanzaName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StanzaName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl AsRef<str> for StanzaName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// A text that is no stanza name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not a stanza name: {text:?} (a letter or digit, then at most 63 letters, digits, '_', '.' or '-')")]
pub struct ParseStanzaNameError {
    text: String,
}

impl FromStr for StanzaName {
    type Err = ParseStanzaNameError;

    fn from_str(text: &str) -> Result<Self, ParseStanzaNameError> {
        let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let goes_on_well = text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
        if starts_well && goes_on_well && text.len() <= MAX_LENGTH {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseStanzaNameError {
                text: text.chars().take(80).collect(),
            })
        }
    }
}

super::serde_by_text!(StanzaName);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    #[test]
    fn what_is_a_name_and_what_is_not() {
        for good in ["main", "1", "a.b-c_D", &"x".repeat(64)] {
            assert_eq!(good.parse::<StanzaName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "-a", "a/b", "a b", "ä", "a\0", &"x".repeat(65)] {
            assert!(bad.parse::<StanzaName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn decoding_checks_too() {
        let name: StanzaName = "main".parse().unwrap();
        assert_eq!(wire::decode::<StanzaName>(&wire::encode(&name), 64).unwrap(), name);
        assert!(wire::decode::<StanzaName>(&wire::encode("../x"), 64).is_err());
    }
}
