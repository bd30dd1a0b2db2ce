//! Objects that a rebuilt catalog takes in from a repository.

use pgmesh_postgres::WalFileName;
use pgmesh_storage::{BackupLabel, DbId, StanzaName};
use serde::{Deserialize, Serialize};

use super::{ClaimedObject, Cluster};
use crate::model::{BackupRecord, Branch, Claim, LogIndex};

/// An object as a repository describes it. The proposer has read and checked it; the catalog adds it only where nothing
/// contradicts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Adopt {
    /// A stanza that the catalog does not have, with all its databases.
    Stanza {
        /// Its name.
        stanza: StanzaName,
        /// Its databases, in the order of their identifiers, at least one.
        databases: Vec<AdoptedDatabase>,
    },
    /// WAL files of one database of a known stanza. All or nothing.
    WalFiles {
        /// The stanza.
        stanza: StanzaName,
        /// The database.
        db: DbId,
        /// The files.
        files: Vec<AdoptedFile>,
        /// The position of the catalog before the archive was listed. Refused with
        /// [`Refusal::Recheck`](crate::Refusal::Recheck) when objects of the stanza may have been deleted since.
        checked_at: LogIndex,
    },
    /// A backup whose chunks are all known.
    Backup {
        /// The stanza.
        stanza: StanzaName,
        /// Its label.
        label: BackupLabel,
        /// The backup, as its manifest says.
        record: Box<BackupRecord>,
        /// Where its manifest is.
        claims: Vec<Claim>,
    },
}

/// One database of a stanza, as its repository describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptedDatabase {
    /// Its identifier.
    pub id: DbId,
    /// The cluster.
    pub cluster: Cluster,
    /// The object that describes it, and where it is.
    pub info: ClaimedObject,
}

/// One WAL file, as found in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptedFile {
    /// The file.
    pub file: WalFileName,
    /// Its content, and where it is; [`ClaimedObject::unknown`] where no good content was found.
    pub object: ClaimedObject,
    /// The lines of a history file; empty for other files.
    pub branches: Vec<Branch>,
}
