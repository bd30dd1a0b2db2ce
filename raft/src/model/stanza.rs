//! Stanzas and their WAL.

use std::collections::BTreeMap;

use pgmesh_postgres::{Lsn, PgVersion, SegmentName, SegmentSize, SystemId, TimelineId, WalFileName};
use pgmesh_storage::{ArchiveId, BackupLabel, DbId, StanzaName};
use serde::{Deserialize, Serialize};

use super::histories::{self, HistoryRecord};
use super::{Branch, ExpiredIn, LogIndex, Server, SessionId, StoredObject};
use crate::limits;
use crate::refusal::{ExpiryRefusal, OtherMachine, OtherWriter, Refusal};

/// One PostgreSQL cluster that the mesh backs up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StanzaRecord {
    /// The databases it has had, oldest first; the last is the current one. Never empty.
    pub databases: Vec<Database>,
    /// Why it takes no WAL and no backups at present.
    pub stopped: Option<String>,
    /// Set once its deletion has begun: there is no way back.
    pub deleting: bool,
    /// Invariant 12: the instance that writes each timeline of the current database.
    pub writers: BTreeMap<TimelineId, Writer>,
    /// The timeline histories known for the current database.
    #[serde(with = "histories")]
    pub histories: BTreeMap<TimelineId, HistoryRecord>,
    /// The highest timeline of the current database of which neither is known any more; see
    /// [`StanzaRecord::make_room`].
    pub forgotten: Option<TimelineId>,
    /// The same of databases that are not the current one any more.
    pub past: BTreeMap<DbId, Lineage>,
    /// The backup that runs now.
    pub backup: Option<RunningBackup>,
    /// When it was created or WAL was last removed from it: a push that began before must check its replicas again.
    pub since: LogIndex,
}

impl StanzaRecord {
    /// The current database; `None` only for a damaged record.
    #[must_use]
    pub fn current(&self) -> Option<&Database> {
        self.databases.last()
    }

    /// Refuses while a backup is staged: it compares itself with the one before, which must not change meanwhile.
    ///
    /// # Errors
    /// [`ExpiryRefusal::Committing`].
    pub fn refuse_staged(&self, name: &StanzaName) -> Result<(), Refusal> {
        match &self.backup {
            Some(running) if running.is_staged => Err(Refusal::Expiry(ExpiryRefusal::Committing {
                stanza: name.clone(),
                label: running.label.clone(),
            })),
            _ => Ok(()),
        }
    }

    /// The database with this identifier.
    #[must_use]
    pub fn database(&self, db: DbId) -> Option<&Database> {
        self.databases.iter().find(|database| database.id == db)
    }

    /// The timeline histories known for a database.
    pub fn histories_of(&self, db: DbId) -> impl Iterator<Item = (&TimelineId, &HistoryRecord)> {
        let is_current = self.current().is_some_and(|current| current.id == db);
        let past = self.past.get(&db).into_iter().flat_map(|past| &past.histories);
        self.histories.iter().filter(move |_| is_current).chain(past)
    }

    /// The known timelines whose recovery needs this timeline up to a position: they leave it at that position or
    /// later, or descend from a timeline that does.
    pub fn branches_behind(&self, timeline: TimelineId, position: Lsn) -> impl Iterator<Item = TimelineId> {
        let is_behind = move |branch: &Branch| branch.parent == timeline && branch.switch >= position;
        let behind = self
            .histories
            .iter()
            .filter(move |(_, history)| history.branches.iter().any(is_behind));
        behind.map(|(timeline, _)| *timeline)
    }

    /// Makes `database` the current one. The timelines of the database before are kept; a cluster that comes back has
    /// its timelines again.
    pub fn make_current(&mut self, database: Database) {
        let lineage = |known: &Database| {
            (known.system_id == database.system_id)
                .then(|| self.past.get(&known.id))
                .flatten()
        };
        let returned = self
            .databases
            .iter()
            .rev()
            .find_map(lineage)
            .cloned()
            .unwrap_or_default();
        let left = Lineage {
            writers: std::mem::replace(&mut self.writers, returned.writers),
            histories: std::mem::replace(&mut self.histories, returned.histories),
            forgotten: std::mem::replace(&mut self.forgotten, returned.forgotten),
        };
        if let Some(before) = self.databases.last() {
            self.past.insert(before.id, left);
        }
        self.databases.push(database);
    }
}

/// One database (in pgBackRest's sense: one system identifier and major version) of a stanza.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Counted from 1 within the stanza.
    pub id: DbId,
    /// The cluster's system identifier.
    pub system_id: SystemId,
    /// Its major version.
    pub version: PgVersion,
    /// `pg_control`'s catalog version.
    pub catalog_version: u32,
    /// Its WAL segment size.
    pub segment_size: SegmentSize,
    /// The object that describes it in the repositories.
    pub info: StoredObject,
}

impl Database {
    /// The name of its archive.
    #[must_use]
    pub fn archive_id(&self) -> ArchiveId {
        ArchiveId {
            db: self.id,
            version: self.version,
        }
    }

    /// Where the first segment ends that goes with a WAL file. A history file stands for the whole timeline.
    #[must_use]
    pub fn end(&self, file: WalFileName) -> Lsn {
        file.segment().map_or(Lsn(0), |segment| segment.end(self.segment_size))
    }
}

/// The known timelines of a database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The instance that writes each timeline.
    pub writers: BTreeMap<TimelineId, Writer>,
    /// The timeline histories.
    #[serde(with = "histories")]
    pub histories: BTreeMap<TimelineId, HistoryRecord>,
    /// The highest timeline of which neither is known any more.
    pub forgotten: Option<TimelineId>,
}

/// The server that writes a timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// The fingerprint of the data directory that pushed first.
    pub instance: String,
    /// The fingerprint of the machine that it was last seen on. Empty where that is not known.
    pub machine: String,
    /// The machine whose place this one took by an administrator's word: if the same data directory pushes from there,
    /// it is a clone. Empty where there is none.
    pub barred: String,
    /// When it was bound.
    pub since: LogIndex,
    /// When it last pushed, to within [`SEEN_STEP`](Self::SEEN_STEP).
    pub seen: LogIndex,
    /// The client that pushed first, in words for the user: `client pg1`.
    pub host: String,
}

impl Writer {
    /// After so many commands a push is noted again: a stanza's record is not written with each segment.
    pub const SEEN_STEP: u64 = if cfg!(test) { 8 } else { 1 << 16 };

    /// An instance that pushes for the first time, or is adopted.
    #[must_use]
    pub fn new(instance: String, machine: String, at: LogIndex, actor: &str) -> Self {
        Self {
            instance,
            machine,
            barred: String::new(),
            since: at,
            seen: at,
            host: limits::shortened(actor.to_owned(), limits::WRITER_HOST),
        }
    }

    /// Whether a server with the same data directory is on another machine than the writer. An unknown machine differs
    /// from none.
    #[must_use]
    pub fn is_elsewhere(&self, machine: &str) -> bool {
        !self.machine.is_empty() && !machine.is_empty() && self.machine != machine
    }

    /// Whether an administrator has said that a server with the same data directory on this machine is not the writer.
    #[must_use]
    pub fn bars(&self, machine: &str) -> bool {
        !self.barred.is_empty() && self.barred == machine
    }

    /// The refusal of another instance that pushes in this writer's place.
    #[must_use]
    pub fn refusal(&self, stanza: &StanzaName, timeline: TimelineId, given: &str) -> Refusal {
        Refusal::OtherWriter(OtherWriter {
            stanza: stanza.clone(),
            timeline,
            known: self.instance.clone(),
            host: self.host.clone(),
            given: given.to_owned(),
        })
    }
}

/// The last push of a timeline's writer: the refusal of another server says where the writer was seen last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastPush {
    /// The fingerprint of its data directory.
    pub instance: String,
    /// The fingerprint of its machine. Empty where that is not known.
    pub machine: String,
    /// The client that pushed, in words for the user: `client pg1`.
    pub host: String,
    /// The address that it came from.
    pub address: String,
    /// The pushed segment.
    pub segment: SegmentName,
    /// When, in seconds since the Unix epoch, as the node knew it that took it.
    pub at: i64,
    /// How long after the one before, in seconds.
    pub gap: i64,
    /// When it was committed.
    pub pushed: LogIndex,
}

impl LastPush {
    /// Whether it is too recent for the data directory to have moved since: less than twice as long ago as the cluster
    /// usually takes from one push to the next, within [`Server::MOVED_AFTER`].
    #[must_use]
    pub fn is_recent(&self, now: i64) -> bool {
        self.is_within(now, self.patience())
    }

    /// Whether it was so many seconds ago, or less. Clocks of nodes differ, so a moment ahead is a moment ago.
    #[must_use]
    pub fn is_within(&self, now: i64, seconds: i64) -> bool {
        now.saturating_sub(self.at).saturating_abs() < seconds
    }

    /// For so many seconds it is recent.
    #[must_use]
    pub fn patience(&self) -> i64 {
        let (least, most) = Server::MOVED_AFTER;
        self.gap.saturating_mul(2).clamp(least, most)
    }

    /// The refusal of the same instance on another machine.
    #[must_use]
    pub fn refusal(&self, stanza: &StanzaName, timeline: TimelineId, now: i64) -> Refusal {
        Refusal::OtherMachine(OtherMachine {
            stanza: stanza.clone(),
            timeline,
            host: self.host.clone(),
            address: self.address.clone(),
            segment: self.segment,
            seconds: now.saturating_sub(self.at).max(0),
            wait: self.patience(),
        })
    }
}

/// A backup in progress: the lock on the stanza's backups. It ends with its session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningBackup {
    /// The session that holds the lock.
    pub session: SessionId,
    /// The label that the backup will have.
    pub label: BackupLabel,
    /// When it began, in seconds since the Unix epoch.
    pub began_at: i64,
    /// Set when its uses of chunks begin to be noted: from then on nothing of its stanza expires or is released until
    /// it is committed or given up.
    pub is_staged: bool,
}

/// One archived WAL file; its key is (stanza, database, file name).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRecord {
    /// Content and replicas.
    pub object: StoredObject,
    /// When it was pushed, in seconds since the Unix epoch.
    pub pushed_at: i64,
    /// The log position of the push. It decides which of two files was archived first, not a clock. 0 for a file that
    /// was taken up from a repository when the catalog was rebuilt: it was archived before all others.
    pub pushed: LogIndex,
    /// Repositories that do not keep it any more.
    pub expired: ExpiredIn,
}
