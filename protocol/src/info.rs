//! What `info` and `check` show.

use crate::choice::Restoring;
use crate::{HolesReport, StuckArchiver};
use pgmesh_postgres::{Lsn, SystemId, TimelineId};
use pgmesh_storage::{BackupLabel, BackupType, RepoKey, StanzaName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Asks what is there. An answer is as long as a message may be: whoever wants all goes on where it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetInfo {
    /// Only this stanza; all that the asker may use where it is not given.
    pub stanza: Option<StanzaName>,
    /// With the backups.
    pub backups: bool,
    /// Where the answer before this one ended.
    pub after: Option<InfoCursor>,
}

/// How far an answer has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InfoCursor {
    /// The last stanza in it.
    pub stanza: StanzaName,
    /// The last of its backups; none where the next stanza comes next.
    pub label: Option<BackupLabel>,
}

/// Asks for the backup that a new one is to be compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChoosePrior {
    /// The stanza.
    pub stanza: StanzaName,
    /// The type that the new one is to have.
    pub kind: BackupType,
    /// The cluster's system identifier.
    pub system_id: SystemId,
    /// The timeline that it is on.
    pub timeline: TimelineId,
}

/// Asks for the backup that a restore needs. Reply: [`Chosen`](crate::choice::Chosen).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChooseBackup {
    /// The stanza.
    pub stanza: StanzaName,
    /// Which one, and where it is to lead.
    pub asked: Restoring,
    /// Only those that this repository has.
    pub repo: Option<RepoKey>,
}

/// The mesh as one node sees it, or a part of that.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MeshInfo {
    /// The mesh's identity.
    pub mesh_id: String,
    /// The node that answers.
    pub node: String,
    /// All repositories; none in an answer that goes on with another.
    pub repositories: Vec<RepositoryInfo>,
    /// The stanzas asked for, by name. One whose backups do not fit into an answer is in several.
    pub stanzas: Vec<StanzaInfo>,
    /// Where this ended, if there is more.
    pub more: Option<InfoCursor>,
    /// The node's clock, Unix seconds, to compare with the asker's.
    pub clock: i64,
    /// Why this is only what the node last knew, where no majority of the mesh could be asked.
    pub stale: Option<String>,
    /// What is lost.
    pub lost: LostReport,
    /// The hosts whose WAL is refused.
    pub stuck: Vec<StuckArchiver>,
    /// What is missing from the WAL archives.
    pub holes: HolesReport,
}

/// Objects of which no repository has a good replica: their debts are not paid by waiting.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostReport {
    /// How many; no more than 10,000 are counted.
    pub objects: u64,
    /// Whether there are more.
    pub more: bool,
    /// How many of them are chunks of backups.
    pub chunks: u64,
    /// Since when, Unix seconds.
    pub since: Option<i64>,
    /// What that costs, stanza by stanza.
    pub stanzas: Vec<StanzaLosses>,
    /// The manifests have not all been searched for the chunks: more backups may be concerned.
    pub searching: bool,
    /// The catalog itself has gone back, or another one has taken its place.
    pub catalog: Option<CatalogLost>,
    /// Repositories that are to be compared with the catalog, which has lost its end: until then no backup is taken and
    /// nothing is deleted.
    pub uncompared: Vec<u16>,
}

/// What the catalog has lost, as a repository proves it: all copies of it are old ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogLost {
    /// The repository.
    pub repo: RepoKey,
    /// The number of commands that the catalog had applied once.
    pub position: u64,
    /// When it had, Unix seconds.
    pub written: i64,
    /// The number that it was found to have applied later.
    pub found_at: u64,
    /// Another catalog of the mesh has taken its place, in this era.
    pub taken_over: Option<u32>,
    /// The node that has said so; none where the repository has shown it.
    pub told_by: Option<String>,
}

/// What lost objects cost a stanza.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StanzaLosses {
    /// Its name.
    pub stanza: String,
    /// Backups that cannot be restored in full.
    pub backups: Vec<BackupLabel>,
    /// The first lost WAL files: a recovery stops before each.
    pub wal: Vec<String>,
    /// How many WAL files are lost.
    pub wal_files: u64,
    /// What its repositories say of its cluster is lost; needed to rebuild the catalog only.
    pub description: bool,
}

/// One repository.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RepositoryInfo {
    /// Its number.
    pub key: RepoKey,
    /// `posix`, …
    pub kind: String,
    /// `aes-256-cbc` or `none`.
    pub cipher: String,
    /// The node that hosts it; none for a shared one.
    pub host: Option<String>,
    /// How it does.
    pub health: HealthInfo,
    /// What it owes.
    pub debt: DebtInfo,
    /// What it does not let go.
    pub kept: KeptInfo,
}

/// How a repository does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthInfo {
    /// Requests succeed.
    Up,
    /// Requests have failed since then.
    Down {
        /// Unix seconds.
        since: i64,
        /// The last error, in words.
        why: String,
    },
    /// This node does not serve it: wrong passphrase, differing definition.
    Refused {
        /// In words, with the remedy.
        why: String,
    },
}

/// Replicas that should be there and are not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebtInfo {
    /// Objects.
    pub objects: u64,
    /// Bytes at rest, about.
    pub bytes: u64,
    /// When the oldest began, Unix seconds.
    pub since: Option<i64>,
}

/// Objects that nothing needs any more and that their repository does not let go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptInfo {
    /// Objects.
    pub objects: u64,
    /// `object lock` or `delete=n`; empty where nothing is kept.
    pub why: String,
}

/// One stanza.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StanzaInfo {
    /// Its name.
    pub name: String,
    /// Why it is stopped, if it is.
    pub stopped: Option<String>,
    /// Who holds the backup lock.
    pub backup_held_by: Option<String>,
    /// Its databases, oldest first.
    pub databases: Vec<DatabaseInfo>,
    /// The WAL archive of each database that has any.
    pub archives: Vec<ArchiveInfo>,
    /// Its backups by label, as far as they were asked for.
    pub backups: Vec<BackupInfo>,
}

/// One database of a stanza.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DatabaseInfo {
    /// 1, 2, …
    pub id: u32,
    /// The cluster's system identifier.
    pub system_id: SystemId,
    /// `15`.
    pub version: String,
}

/// The archive of one database.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ArchiveInfo {
    /// The database.
    pub database: u32,
    /// `15-1`.
    pub id: String,
    /// First segment.
    pub min: String,
    /// Last segment.
    pub max: String,
}

/// One backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupInfo {
    /// Its label.
    pub label: BackupLabel,
    /// `full`, `diff` or `incr`.
    pub kind: String,
    /// The backup before it that it shares pages with.
    pub prior: Option<BackupLabel>,
    /// Page checksums failed.
    pub error: bool,
    /// The database.
    pub database: u32,
    /// First segment needed.
    pub wal_start: String,
    /// Last segment needed for consistency.
    pub wal_stop: String,
    /// Where it began.
    pub lsn_start: Lsn,
    /// Where it is consistent.
    pub lsn_stop: Lsn,
    /// The timeline it was taken on.
    pub timeline: u32,
    /// Unix seconds.
    pub time_start: i64,
    /// Unix seconds.
    pub time_stop: i64,
    /// Bytes of the cluster.
    pub size: u64,
    /// Bytes read and stored anew.
    pub delta: u64,
    /// Bytes that the backup's chunks take in one repository.
    pub stored_size: u64,
    /// Bytes that this backup added to one repository.
    pub stored_delta: u64,
    /// Repositories that have all of it, and those that owe some of it.
    pub repositories: Vec<RepoKey>,
    /// Repositories that still owe its manifest.
    pub owed: Vec<RepoKey>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// The program that made it.
    pub program: String,
}
