//! Random bytes from the operating system.

use thiserror::Error;
use zeroize::Zeroizing;

/// The operating system gave no random bytes.
#[derive(Debug, Error)]
#[error("drawing random bytes from the operating system: {0}")]
pub struct RandomError(getrandom::Error);

/// `N` random bytes.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(RandomError)?;
    Ok(bytes)
}

/// A random key, wiped when dropped.
pub(crate) fn key() -> Result<Zeroizing<[u8; 32]>, RandomError> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *key).map_err(RandomError)?;
    Ok(key)
}
