//! The facts that retention decides on: the backups of a stanza in one repository.

use pgmesh_postgres::SegmentName;
use pgmesh_protocol::{RetainedBackup, RetainedDatabase};
use pgmesh_storage::{BackupLabel, BackupType, DbId, RepoKey};
use std::collections::{BTreeMap, BTreeSet};

/// The wishes of the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ask {
    /// `--set`: this backup and its dependents.
    pub set: Option<BackupLabel>,
    /// `--oldest`: the oldest full backup.
    pub oldest: bool,
    /// `--archive-expire-before`: WAL before this segment.
    pub before: Option<SegmentName>,
}

/// The backups and databases of a stanza in one repository at a moment.
#[derive(Debug, Clone)]
pub struct History {
    /// The repository.
    pub repo: RepoKey,
    /// The stanza's databases, oldest first.
    pub databases: Vec<RetainedDatabase>,
    /// Unix seconds.
    pub now: i64,
    backups: BTreeMap<BackupLabel, RetainedBackup>,
    held: BTreeSet<BackupLabel>,
}

impl History {
    /// From the answers of a node. A hold that has ended by `now` (Unix seconds) is none.
    #[must_use]
    pub fn new(repo: RepoKey, databases: Vec<RetainedDatabase>, backups: Vec<RetainedBackup>, now: i64) -> Self {
        let backups: BTreeMap<_, _> = backups
            .into_iter()
            .map(|backup| (backup.label.clone(), backup))
            .collect();
        let mut held = BTreeSet::new();
        for backup in backups.values() {
            let holds = |hold: &pgmesh_protocol::HoldInfo| hold.until.is_none_or(|until| until > now);
            if backup.hold.as_ref().is_some_and(holds) {
                held.extend(with_ancestors(&backups, &backup.label));
            }
        }
        Self {
            repo,
            databases,
            now,
            backups,
            held,
        }
    }

    /// All backups, by label: each full backup before its dependents, and these before the next full backup.
    pub fn backups(&self) -> impl DoubleEndedIterator<Item = &RetainedBackup> {
        self.backups.values()
    }

    /// The backup of a label.
    #[must_use]
    pub fn get(&self, label: &BackupLabel) -> Option<&RetainedBackup> {
        self.backups.get(label)
    }

    /// Whether the backup, or a dependent of it, is held.
    #[must_use]
    pub fn is_held(&self, label: &BackupLabel) -> bool {
        self.held.contains(label)
    }

    /// Whether retention counts the backup: the repository has all of it, and it is not held.
    #[must_use]
    pub fn counts(&self, backup: &RetainedBackup) -> bool {
        backup.is_whole && !self.is_held(&backup.label)
    }

    /// The full backups that the repository has whole, held ones included, oldest first.
    #[must_use]
    pub fn whole_fulls(&self) -> Vec<&RetainedBackup> {
        let fulls = self.backups().filter(|backup| backup.kind == BackupType::Full);
        fulls.filter(|backup| backup.is_whole).collect()
    }

    /// The backup and all that depend on it, oldest first.
    #[must_use]
    pub fn with_dependents(&self, label: &BackupLabel) -> Vec<BackupLabel> {
        let mut found = BTreeSet::from([label.clone()]);
        // A backup sorts after the backups that it depends on: one pass finds them all.
        for backup in self.backups.range(label.clone()..).map(|(_, backup)| backup) {
            let of_full = label.backup_type() == BackupType::Full && backup.label.full_part() == *label;
            if of_full || backup.prior.as_ref().is_some_and(|prior| found.contains(prior)) {
                found.insert(backup.label.clone());
            }
        }
        found.into_iter().collect()
    }

    /// Whether a backup's database is the newest one.
    #[must_use]
    pub fn is_current(&self, database: DbId) -> bool {
        self.databases.last().is_some_and(|current| current.id == database)
    }
}

/// A backup and the backups that it depends on.
fn with_ancestors(backups: &BTreeMap<BackupLabel, RetainedBackup>, label: &BackupLabel) -> BTreeSet<BackupLabel> {
    let mut found = BTreeSet::from([label.clone()]);
    let mut next = Some(label);
    while let Some(backup) = next.and_then(|label| backups.get(label)) {
        next = backup.prior.as_ref().filter(|prior| found.insert((*prior).clone()));
    }
    // By its name too, should a backup between be missing here.
    found.insert(label.full_part());
    found
}
