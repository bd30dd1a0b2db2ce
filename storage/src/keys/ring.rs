use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use super::master::{KeyError, MasterKeys, derive};

/// The keys of an opened repository: one naming key, and encryption and MAC keys for each epoch.
pub(crate) struct KeyRing {
    naming: Zeroizing<[u8; 32]>,
    epochs: BTreeMap<u32, EpochKeys>,
    current: u32,
}

/// The keys that objects of one epoch are encrypted and authenticated with.
pub(crate) struct EpochKeys {
    pub(crate) encryption: Zeroizing<[u8; 32]>,
    pub(crate) mac: Zeroizing<[u8; 32]>,
}

impl KeyRing {
    /// The ring of these epochs' keys; new objects are written with the highest. `None` without any.
    pub(crate) fn new(masters: &BTreeMap<u32, MasterKeys>) -> Result<Option<Self>, KeyError> {
        let Some((current, newest)) = masters.last_key_value() else {
            return Ok(None);
        };
        let mut epochs = BTreeMap::new();
        for (epoch, keys) in masters {
            if keys.naming != newest.naming {
                return Err(KeyError::Malformed {
                    what: "its naming key differs from that of another epoch",
                });
            }
            epochs.insert(
                *epoch,
                EpochKeys {
                    encryption: derive(&keys.master, b"pgmesh 1 object: encryption")?,
                    mac: derive(&keys.master, b"pgmesh 1 object: authentication")?,
                },
            );
        }
        Ok(Some(Self {
            naming: derive(&newest.naming, b"pgmesh 1 object: naming")?,
            epochs,
            current: *current,
        }))
    }

    /// The key that object names are made with.
    pub(crate) fn naming(&self) -> &[u8; 32] {
        &self.naming
    }

    /// The epoch that new objects are written with, and its keys.
    pub(crate) fn current(&self) -> Option<(u32, &EpochKeys)> {
        Some((self.current, self.epochs.get(&self.current)?))
    }

    /// The keys of an epoch.
    pub(crate) fn epoch(&self, epoch: u32) -> Option<&EpochKeys> {
        self.epochs.get(&epoch)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "KeyRing(current epoch {})", self.current)
    }
}
