use aes::Aes256;
use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use argon2::{Algorithm, Argon2, Params, Version};
use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use super::passphrase::Passphrase;
use super::wrapped::{HexBytes, KeyDerivation, WrappedKey};
use crate::digest::DigestSuite;
use crate::random::{self, RandomError};
use crate::wire;

/// The format of wrapped keys that this program writes, and the only one it reads.
const WRAPPED_KEY_FORMAT: u16 = 1;

/// Argon2id's cost for new wrappings (RFC 9106's second recommendation, with one lane): 64 MiB, 3 passes.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 1;
/// The highest cost that is accepted from a key object, so that a forged one cannot exhaust memory.
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 64;
const MAX_LANES: u32 = 16;

/// Master key and naming key together.
const SECRET_LENGTH: usize = 64;

/// Why keys cannot be wrapped or unwrapped.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The key was wrapped with another passphrase.
    #[error("the passphrase does not open key {epoch:04}-{wrap:04} of repository {repository}")]
    WrongPassphrase {
        /// The repository's id.
        repository: String,
        /// The key's epoch.
        epoch: u32,
        /// The number of this wrapping of the epoch's keys.
        wrap: u32,
    },
    /// The wrapped key has an impossible field.
    #[error("the wrapped key is malformed: {what}")]
    Malformed {
        /// The fault.
        what: &'static str,
    },
    /// Argon2id refuses its parameters.
    #[error("deriving a key from the passphrase: {0}")]
    Derivation(argon2::Error),
    /// The operating system gives no random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// The two secrets of a repository's key epoch. All other keys are derived from them.
pub(crate) struct MasterKeys {
    /// The source of the epoch's encryption and MAC keys.
    pub(crate) master: Zeroizing<[u8; 32]>,
    /// The source of object names. It is the same in every epoch, or objects could not be found.
    pub(crate) naming: Zeroizing<[u8; 32]>,
}

impl MasterKeys {
    /// Fresh random keys.
    pub(crate) fn generate() -> Result<Self, RandomError> {
        Ok(Self {
            master: random::key()?,
            naming: random::key()?,
        })
    }

    /// Encrypts the keys under a passphrase. Takes a tenth of a second and 64 MiB: not for an async thread.
    pub(crate) fn wrap(
        &self,
        passphrase: &Passphrase,
        repository: &str,
        suite: DigestSuite,
        epoch: u32,
        wrap: u32,
    ) -> Result<WrappedKey, KeyError> {
        let salt: [u8; 16] = random::bytes()?;
        let iv: [u8; 16] = random::bytes()?;
        let derivation = KeyDerivation {
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            lanes: LANES,
            salt: HexBytes(salt.to_vec()),
        };
        let keys = WrappingKeys::derive(passphrase, &derivation)?;
        let mut secret = Zeroizing::new([0_u8; SECRET_LENGTH]);
        let (master, naming) = secret.split_at_mut(32);
        master.copy_from_slice(&*self.master);
        naming.copy_from_slice(&*self.naming);
        let mut ciphertext = vec![0; SECRET_LENGTH];
        // The plaintext is random and of whole blocks, so it needs no padding.
        cbc::Encryptor::<Aes256>::new((&*keys.encryption).into(), (&iv).into())
            .encrypt_padded_b2b::<NoPadding>(&*secret, &mut ciphertext)
            .map_err(|_| malformed("the keys do not fill whole blocks"))?;
        let mut wrapped = WrappedKey {
            format: WRAPPED_KEY_FORMAT,
            repository: repository.to_owned(),
            suite,
            epoch,
            wrap,
            derivation,
            iv: HexBytes(iv.to_vec()),
            ciphertext: HexBytes(ciphertext),
            tag: HexBytes(Vec::new()),
        };
        wrapped.tag = HexBytes(keys.tag(&wrapped).to_vec());
        Ok(wrapped)
    }

    /// Decrypts wrapped keys. As costly as [`Self::wrap`].
    pub(crate) fn unwrap(wrapped: &WrappedKey, passphrase: &Passphrase) -> Result<Self, KeyError> {
        if wrapped.format != WRAPPED_KEY_FORMAT {
            return Err(malformed("its format is not known to this program"));
        }
        let iv = <[u8; 16]>::try_from(wrapped.iv.0.as_slice())
            .map_err(|_| malformed("the initialisation vector is not 16 bytes long"))?;
        if wrapped.ciphertext.0.len() != SECRET_LENGTH {
            return Err(malformed("the ciphertext is not 64 bytes long"));
        }
        let keys = WrappingKeys::derive(passphrase, &wrapped.derivation)?;
        // Invariant 6: the MAC before decryption.
        if !bool::from(keys.tag(wrapped).ct_eq(&wrapped.tag.0)) {
            return Err(KeyError::WrongPassphrase {
                repository: wrapped.repository.clone(),
                epoch: wrapped.epoch,
                wrap: wrapped.wrap,
            });
        }
        let mut secret = Zeroizing::new([0_u8; SECRET_LENGTH]);
        cbc::Decryptor::<Aes256>::new((&*keys.encryption).into(), (&iv).into())
            .decrypt_padded_b2b::<NoPadding>(&wrapped.ciphertext.0, &mut *secret)
            .map_err(|_| malformed("the ciphertext does not fill whole blocks"))?;
        let mut unwrapped = Self {
            master: Zeroizing::new([0; 32]),
            naming: Zeroizing::new([0; 32]),
        };
        let (master, naming) = secret.split_at(32);
        unwrapped.master.copy_from_slice(master);
        unwrapped.naming.copy_from_slice(naming);
        Ok(unwrapped)
    }
}

/// The keys that a passphrase becomes.
struct WrappingKeys {
    encryption: Zeroizing<[u8; 32]>,
    mac: Zeroizing<[u8; 32]>,
}

impl WrappingKeys {
    fn derive(passphrase: &Passphrase, derivation: &KeyDerivation) -> Result<Self, KeyError> {
        if derivation.memory_kib > MAX_MEMORY_KIB || derivation.passes > MAX_PASSES || derivation.lanes > MAX_LANES {
            return Err(malformed(
                "its key derivation needs more memory or rounds than this program allows",
            ));
        }
        let parameters = Params::new(derivation.memory_kib, derivation.passes, derivation.lanes, Some(32))
            .map_err(KeyError::Derivation)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
            .hash_password_into(passphrase.as_bytes(), &derivation.salt.0, &mut *key)
            .map_err(KeyError::Derivation)?;
        Ok(Self {
            encryption: derive(&key, b"pgmesh 1 key wrapping: encryption")?,
            mac: derive(&key, b"pgmesh 1 key wrapping: authentication")?,
        })
    }

    /// The MAC of every field but the tag.
    fn tag(&self, wrapped: &WrappedKey) -> [u8; 32] {
        let untagged = WrappedKey {
            tag: HexBytes(Vec::new()),
            ..wrapped.clone()
        };
        wrapped.suite.mac(&self.mac, &[&wire::encode(&untagged)])
    }
}

/// HKDF-SHA-256 (RFC 5869) without a salt: the input is uniformly random already.
pub(super) fn derive(key: &[u8; 32], purpose: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let mut output = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, key)
        .expand(purpose, &mut *output)
        .map_err(|_| malformed("a derived key has an impossible length"))?;
    Ok(output)
}

fn malformed(what: &'static str) -> KeyError {
    KeyError::Malformed { what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.into()).unwrap()
    }

    #[test]
    fn wrap_and_unwrap() {
        let keys = MasterKeys::generate().unwrap();
        let wrapped = keys
            .wrap(&passphrase("right"), "uuid", DigestSuite::Blake3, 1, 1)
            .unwrap();
        let again = MasterKeys::unwrap(&wrapped, &passphrase("right")).unwrap();
        assert_eq!(again.master, keys.master);
        assert_eq!(again.naming, keys.naming);
        assert!(matches!(
            MasterKeys::unwrap(&wrapped, &passphrase("wrong")),
            Err(KeyError::WrongPassphrase { .. })
        ));
        // Neither the record nor its text form holds a secret.
        let text = serde_json::to_string(&wrapped).unwrap();
        assert!(!text.contains(&hex::encode(*keys.master)));
        assert!(!text.contains(&hex::encode(*keys.naming)));
        assert_eq!(serde_json::from_str::<WrappedKey>(&text).unwrap(), wrapped);
        let bytes = wire::encode(&wrapped);
        assert_eq!(wire::decode::<WrappedKey>(&bytes, 1024).unwrap(), wrapped);
    }

    #[test]
    fn no_field_can_be_changed() {
        let keys = MasterKeys::generate().unwrap();
        let right = passphrase("right");
        let wrapped = keys.wrap(&right, "uuid", DigestSuite::Sha256, 1, 1).unwrap();
        let changes: [fn(&mut WrappedKey); 9] = [
            |key| key.repository = "other".into(),
            |key| key.suite = DigestSuite::Blake3,
            |key| key.epoch = 2,
            |key| key.wrap = 2,
            |key| key.derivation.salt.0[0] ^= 1,
            |key| key.iv.0[15] ^= 1,
            |key| key.ciphertext.0[0] ^= 1,
            |key| key.tag.0[31] ^= 1,
            |key| key.format = 2,
        ];
        for change in changes {
            let mut changed = wrapped.clone();
            change(&mut changed);
            assert!(MasterKeys::unwrap(&changed, &right).is_err(), "{changed:?}");
        }
    }

    #[test]
    fn a_forged_cost_is_refused_before_it_is_paid() {
        let keys = MasterKeys::generate().unwrap();
        let right = passphrase("right");
        let mut wrapped = keys.wrap(&right, "uuid", DigestSuite::Blake3, 1, 1).unwrap();
        wrapped.derivation.memory_kib = u32::MAX;
        assert!(matches!(
            MasterKeys::unwrap(&wrapped, &right),
            Err(KeyError::Malformed { .. })
        ));
    }
}
