//! Refusals of expiry.

use pgmesh_storage::{BackupLabel, RepoKey, StanzaName};
use serde::{Deserialize, Serialize};

/// Why backups or chunks do not go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ExpiryRefusal {
    /// The backup, or one that depends on it, is held.
    #[error("backup {label} cannot expire: {by} holds {held}")]
    Held {
        /// The backup that was to expire.
        label: BackupLabel,
        /// The backup that is held.
        held: BackupLabel,
        /// Who asked for it.
        by: String,
    },
    /// The repository would have no full backup left of the cluster that it has the newest one of.
    #[error(
        "repo{repo}: full backup {label} cannot be expired until another full backup has been created on this repo"
    )]
    LastFull {
        /// The repository.
        repo: RepoKey,
        /// The full backup.
        label: BackupLabel,
    },
    /// A backup of the stanza is being committed, and compares itself with the one before.
    #[error("backup {label} of stanza {stanza} is being committed")]
    Committing {
        /// The stanza.
        stanza: StanzaName,
        /// The backup.
        label: BackupLabel,
    },
    /// It is not known which chunks the backups of a stanza use.
    #[error("the backups of stanza {0} have not been read yet for the chunks that they use")]
    Unlisted(StanzaName),
}
