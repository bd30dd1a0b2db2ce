//! Names that users and catalogs see, each parsed once at the border and trusted from there on.

mod archive_id;
mod backup_label;
mod generation;
mod repo_key;
mod stanza_name;
mod trial_folder;

pub use archive_id::{ArchiveId, DbId, ParseArchiveIdError};
pub use backup_label::{BackupLabel, BackupType, ParseBackupLabelError, ParseBackupTypeError};
pub use generation::Generation;
pub use repo_key::{ParseRepoKeyError, RepoKey};
pub use stanza_name::{ParseStanzaNameError, StanzaName};
pub(crate) use trial_folder::{check_folder, is_in_check_folder};

/// Serde for a name by its text. Decoding parses the text, so it cannot make an invalid name.
macro_rules! serde_by_text {
    ($name:ty) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <String as serde::Deserialize>::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}
use serde_by_text;
