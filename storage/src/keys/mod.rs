//! Passphrases, wrapped keys, and the keys that objects are encrypted, authenticated and named with.

mod master;
mod passphrase;
mod ring;
mod wrapped;

pub use master::KeyError;
pub(crate) use master::MasterKeys;
pub use passphrase::{EmptyPassphraseError, Passphrase};
pub(crate) use ring::{EpochKeys, KeyRing};
pub use wrapped::{HexBytes, KeyDerivation, WrappedKey};
