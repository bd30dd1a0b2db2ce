//! The report of `info` and `check`.

use crate::alarms::{StuckArchiver, WorkerAlarm};
use crate::expire::HoldInfo;
use crate::holes::HolesReport;
use pgmesh_postgres::{Lsn, SystemId};
use pgmesh_storage::{BackupLabel, RepoKey, StanzaName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Asks for the report. An answer is as long as a message may be; the client asks again from where it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetInfo {
    /// Only this stanza; without it, all stanzas that the client may use.
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

/// The mesh as one node sees it, or a part of that.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MeshInfo {
    /// The mesh's identity.
    pub mesh_id: String,
    /// The node that answers.
    pub node: String,
    /// All repositories; none in an answer that goes on with another.
    pub repositories: Vec<RepositoryInfo>,
    /// The stanzas asked for, by name. If a stanza's backups do not fit into one answer, the stanza is in several.
    pub stanzas: Vec<StanzaInfo>,
    /// Where this answer ended, if there is more.
    pub more: Option<InfoCursor>,
    /// The node's clock, Unix seconds, to compare with the client's.
    pub clock: i64,
    /// Why the report is only the node's last knowledge, where the node reached no majority of the mesh.
    pub stale: Option<String>,
    /// Lost objects, and their cost.
    pub lost: LostReport,
    /// The hosts whose WAL is refused.
    pub stuck: Vec<StuckArchiver>,
    /// Holes in the WAL archives, and their cost.
    pub holes: HolesReport,
    /// Background workers of nodes that have ended unexpectedly; without the texts of panics, which may name other
    /// stanzas.
    pub workers: Vec<WorkerAlarm>,
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
    /// Their cost, stanza by stanza.
    pub stanzas: Vec<StanzaLosses>,
    /// The manifests have not all been searched for the chunks: more backups may be concerned.
    pub searching: bool,
    /// The catalog itself has gone back, or another one has taken its place.
    pub catalog: Option<CatalogLost>,
    /// Repositories that are to be compared with the catalog, which has lost its end: until then no backup is taken and
    /// nothing is deleted.
    pub uncompared: Vec<u16>,
}

/// A loss of the end of the catalog, as a repository proves it: all copies of the catalog are old ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogLost {
    /// The repository.
    pub repo: RepoKey,
    /// The number of commands that the catalog had once applied.
    pub position: u64,
    /// When it had applied them, Unix seconds.
    pub written: i64,
    /// The number of commands that it was later found to have applied.
    pub found_at: u64,
    /// Another catalog of the mesh has taken its place, in this era.
    pub taken_over: Option<u32>,
    /// The node that reported it; none where the repository has shown it.
    pub told_by: Option<String>,
}

/// The cost of lost objects for a stanza.
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
    /// The repositories' description of the stanza's cluster is lost; only a rebuild of the catalog needs it.
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
    /// Its health.
    pub health: HealthInfo,
    /// The replicas that it owes.
    pub debt: DebtInfo,
    /// The garbage that it does not let go.
    pub kept: KeptInfo,
}

/// The health of a repository.
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

/// Garbage that its repository does not let go.
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
    /// The holder of the backup lock.
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
    /// Repositories that have all of the backup, and repositories that owe some of it.
    pub repositories: Vec<RepoKey>,
    /// Repositories that still owe its manifest.
    pub owed: Vec<RepoKey>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// The program that made it.
    pub program: String,
    /// The hold on the backup itself.
    pub hold: Option<HoldInfo>,
}
