use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

/// A key or token: wiped from memory when dropped, and never shown (invariant 9).
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes charge of a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<redacted>")
    }
}

/// The secret options of one repository; their names are without the prefix `repoN-`.
pub type Secrets = BTreeMap<String, SecretText>;

/// The source of a repository's secret options. They are read anew each time, since they are rotated while a node runs.
pub trait SecretSource: fmt::Debug + Send + Sync {
    /// The secrets as they are now. Blocks for as long as reading a file does.
    ///
    /// # Errors
    /// The file or option that cannot be read, in words without secrets.
    fn read(&self) -> Result<Secrets, String>;
}

/// Secrets that do not change.
#[derive(Clone, Debug, Default)]
pub struct FixedSecrets(pub Secrets);

impl SecretSource for FixedSecrets {
    fn read(&self) -> Result<Secrets, String> {
        Ok(self.0.clone())
    }
}
