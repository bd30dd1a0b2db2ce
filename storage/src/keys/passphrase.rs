use std::fmt;

use thiserror::Error;
use zeroize::Zeroizing;

/// A repository's passphrase: wiped from memory when dropped, and never shown (invariant 9).
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

/// An empty passphrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the passphrase is empty")]
pub struct EmptyPassphraseError;

impl Passphrase {
    /// Takes a passphrase as it was configured.
    ///
    /// # Errors
    /// An empty text.
    pub fn new(text: String) -> Result<Self, EmptyPassphraseError> {
        let text = Zeroizing::new(text);
        if text.is_empty() {
            Err(EmptyPassphraseError)
        } else {
            Ok(Self(text))
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Passphrase(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_shown() {
        let passphrase = Passphrase::new("secret".into()).unwrap();
        assert_eq!(format!("{passphrase:?}"), "Passphrase(…)");
        assert_eq!(Passphrase::new(String::new()).unwrap_err(), EmptyPassphraseError);
    }
}
