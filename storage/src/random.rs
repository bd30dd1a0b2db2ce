//! Random bytes from the operating system.

use pgmesh_runtime::random;
use thiserror::Error;
use zeroize::Zeroizing;

/// The operating system gave no random bytes.
#[derive(Debug, Error)]
#[error("drawing random bytes from the operating system: {0}")]
pub struct RandomError(random::Error);

/// `N` random bytes.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    random::secret(&mut bytes).map_err(RandomError)?;
    Ok(bytes)
}

/// A random key, wiped when dropped.
pub(crate) fn key() -> Result<Zeroizing<[u8; 32]>, RandomError> {
    let mut key = Zeroizing::new([0; 32]);
    random::secret(&mut *key).map_err(RandomError)?;
    Ok(key)
}
