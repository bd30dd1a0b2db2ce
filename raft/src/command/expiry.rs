//! Expiry: which uses of chunks a backup begins and ends, and what a repository keeps no more.

use pgmesh_postgres::WalFileName;
use pgmesh_storage::{BackupLabel, DbId, Digest, RepoKey, StanzaName};
use serde::{Deserialize, Serialize};

use crate::model::{Hold, LogIndex, SessionId};

/// Uses of chunks, from the manifests of a backup and of the one before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteUses {
    /// The session of the running backup; `None` where the uses of a committed backup are listed.
    pub session: Option<SessionId>,
    /// The position of the catalog when the listing began: refused if the stanza was doubted again since. 0 for a
    /// running backup.
    pub began: LogIndex,
    /// The stanza.
    pub stanza: StanzaName,
    /// The backup.
    pub label: BackupLabel,
    /// Chunks that the backup names and of which the stanza had no open use. Each repository that lacks one owes it.
    pub born: Vec<Digest>,
    /// Other chunks that it names: each repository that lacks one owes it.
    pub carried: Vec<Digest>,
    /// Chunks with an open use that it does not name.
    pub died: Vec<Digest>,
}

/// Rights to chunks that a stanza gets from another stanza of the same owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareRights {
    /// The session of the stanza's running backup.
    pub session: SessionId,
    /// The other stanza, which is of the certificate under which the backup runs.
    pub from: StanzaName,
    /// The chunks; those that it has no right to are passed over.
    pub chunks: Vec<Digest>,
}

/// Uses of a backup that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropUses {
    /// The stanza.
    pub stanza: StanzaName,
    /// The backup.
    pub label: BackupLabel,
    /// The chunks whose uses go.
    pub chunks: Vec<Digest>,
    /// Whether all are gone with them.
    pub is_last: bool,
}

/// All uses of a stanza's chunks are known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndListing {
    /// The stanza.
    pub stanza: StanzaName,
    /// The position of the catalog when the stanza's backups were read: refused if the stanza was doubted again since.
    pub began: LogIndex,
    /// Whether a manifest, or a part of one, is lost in all repositories, so that its uses are not known.
    pub is_partial: bool,
}

/// Backups that one repository keeps no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpireBackups {
    /// The stanza.
    pub stanza: StanzaName,
    /// The repository.
    pub repo: RepoKey,
    /// The backups; those that are not kept there are passed over.
    pub labels: Vec<BackupLabel>,
    /// Why, for the audit trail.
    pub why: String,
}

/// WAL files that one repository keeps no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpireWal {
    /// The stanza.
    pub stanza: StanzaName,
    /// The repository.
    pub repo: RepoKey,
    /// The database.
    pub db: DbId,
    /// The files.
    pub files: Vec<WalFileName>,
}

/// Objects that an expired backup may have been the last in a repository to need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The repository.
    pub repo: RepoKey,
    /// The stanza.
    pub stanza: StanzaName,
    /// The expired backup.
    pub label: BackupLabel,
    /// When it expired: the same label may have expired again since.
    pub since: LogIndex,
    /// Whether its manifest goes. It must be deleted before the chunks that it names: a repository explains itself.
    pub manifest: bool,
    /// Chunks.
    pub chunks: Vec<Digest>,
}

/// Holds a backup, or releases it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldBackup {
    /// The stanza.
    pub stanza: StanzaName,
    /// The backup.
    pub label: BackupLabel,
    /// The hold; none releases the backup.
    pub hold: Option<Hold>,
    /// Whether an administrator asks: others only hold longer.
    pub is_administrator: bool,
}
