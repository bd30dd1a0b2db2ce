//! Which backup a restore needs, and which one a new backup is compared with: pure, and in memory that does not grow with
//! the number of backups, which are offered one after the other.

use crate::protocol::BackupInfo;
use pgmesh_postgres::Lsn;
use pgmesh_storage::{BackupLabel, BackupType};
use serde::{Deserialize, Serialize};

/// Which backup is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// The newest one.
    Newest,
    /// The one with this label.
    Label(BackupLabel),
    /// The newest one that ended before this time, Unix seconds.
    EndedBefore(i64),
    /// The newest one that is consistent at this position or before.
    ConsistentBy(Lsn),
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoBackup {
    /// The stanza has no backup at all.
    #[error("stanza {0} has no backup")]
    None(String),
    /// There is none of this label.
    #[error("stanza {stanza} has no backup {label}")]
    Unknown {
        /// The stanza.
        stanza: String,
        /// The label asked for.
        label: BackupLabel,
    },
    /// All backups ended after the target.
    #[error("no backup of stanza {stanza} ended before the target {target}; the oldest is {oldest}")]
    TooYoung {
        /// The stanza.
        stanza: String,
        /// The target, in words.
        target: String,
        /// The oldest backup.
        oldest: BackupLabel,
    },
}

/// Chooses among the backups of a stanza.
#[derive(Debug)]
pub struct Chooser<'a> {
    wanted: &'a Wanted,
    /// Restricts time and position targets: a backup of a timeline younger than the target's cannot reach it.
    timeline: Option<u32>,
    best: Option<BackupInfo>,
    oldest: Option<(i64, BackupLabel)>,
}

impl<'a> Chooser<'a> {
    /// Nothing was offered yet.
    pub fn new(wanted: &'a Wanted, timeline: Option<u32>) -> Self {
        Self {
            wanted,
            timeline,
            best: None,
            oldest: None,
        }
    }

    /// Looks at a backup.
    pub fn offer(&mut self, backup: BackupInfo) {
        if self.oldest.as_ref().is_none_or(|(stop, _)| backup.time_stop < *stop) {
            self.oldest = Some((backup.time_stop, backup.label.clone()));
        }
        let reaches = self.timeline.is_none_or(|timeline| backup.timeline <= timeline);
        let fits = match self.wanted {
            Wanted::Newest => reaches,
            Wanted::Label(label) => backup.label == *label,
            Wanted::EndedBefore(time) => reaches && backup.time_stop < *time,
            Wanted::ConsistentBy(lsn) => reaches && backup.lsn_stop <= *lsn,
        };
        let age = |backup: &BackupInfo| (backup.time_stop, backup.label.clone());
        if fits && self.best.as_ref().is_none_or(|best| age(best) < age(&backup)) {
            self.best = Some(backup);
        }
    }

    /// The backup that is wanted.
    ///
    /// # Errors
    /// None of those that were offered.
    pub fn chosen(self, stanza: &str) -> Result<BackupInfo, NoBackup> {
        if let Some(best) = self.best {
            return Ok(best);
        }
        let stanza = stanza.to_owned();
        let Some((_, oldest)) = self.oldest else {
            return Err(NoBackup::None(stanza));
        };
        let target = match self.wanted {
            Wanted::Label(label) => {
                return Err(NoBackup::Unknown {
                    stanza,
                    label: label.clone(),
                });
            }
            Wanted::Newest => "timeline".to_owned(),
            Wanted::EndedBefore(time) => format!("time (Unix {time})"),
            Wanted::ConsistentBy(lsn) => format!("lsn {lsn}"),
        };
        Err(NoBackup::TooYoung { stanza, target, oldest })
    }
}

/// What a new backup begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorChoice {
    /// The type that it will have: full where there is none to compare with.
    pub kind: BackupType,
    /// What it is compared with.
    pub prior: Option<BackupLabel>,
    /// Of all backups of the stanza the one that was begun last: the new one is named to come after it.
    pub newest: Option<BackupLabel>,
}

/// Chooses what a new backup is compared with.
#[derive(Debug)]
pub struct PriorChooser {
    wanted: BackupType,
    database: Option<u32>,
    prior: Option<(i64, BackupLabel)>,
    newest: Option<BackupLabel>,
}

impl PriorChooser {
    /// For a backup of this type of this database of the stanza, if it is one.
    pub fn new(wanted: BackupType, database: Option<u32>) -> Self {
        Self {
            wanted,
            database,
            prior: None,
            newest: None,
        }
    }

    /// Looks at a backup: its label, its database, when it ended.
    pub fn offer(&mut self, label: &BackupLabel, database: u32, time_stop: i64) {
        if self.newest.as_ref().is_none_or(|newest| begun(newest) < begun(label)) {
            self.newest = Some(label.clone());
        }
        let fits = match self.wanted {
            BackupType::Full => false,
            BackupType::Diff => label.backup_type() == BackupType::Full,
            BackupType::Incr => true,
        };
        let is_newer = |(stop, prior): &(i64, BackupLabel)| (*stop, prior) < (time_stop, label);
        if fits && Some(database) == self.database && self.prior.as_ref().is_none_or(is_newer) {
            self.prior = Some((time_stop, label.clone()));
        }
    }

    /// What was chosen.
    pub fn chosen(self) -> PriorChoice {
        let prior = self.prior.map(|(_, label)| label);
        PriorChoice {
            kind: if prior.is_some() { self.wanted } else { BackupType::Full },
            prior,
            newest: self.newest,
        }
    }
}

/// When a backup was begun, as its label says: the later of the two times in the label of a dependent one.
fn begun(label: &BackupLabel) -> &str {
    let last = label.as_str().rsplit('_').next().unwrap_or_default();
    last.trim_end_matches(['F', 'D', 'I'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_storage::RepoKey;
    use std::collections::BTreeMap;

    fn backup(label: &str, time_stop: i64, lsn_stop: u64, timeline: u32) -> BackupInfo {
        BackupInfo {
            label: label.parse().unwrap(),
            kind: "full".to_owned(),
            prior: None,
            error: false,
            database: 1,
            wal_start: String::new(),
            wal_stop: String::new(),
            lsn_start: Lsn(lsn_stop - 1),
            lsn_stop: Lsn(lsn_stop),
            timeline,
            time_start: time_stop - 10,
            time_stop,
            size: 0,
            delta: 0,
            stored_size: 0,
            stored_delta: 0,
            repositories: vec![RepoKey::new(1).unwrap()],
            owed: vec![],
            annotations: BTreeMap::new(),
            program: String::new(),
        }
    }

    fn three() -> Vec<BackupInfo> {
        vec![
            backup("20260101-000000F", 100, 1_000, 1),
            backup("20260102-000000F", 200, 2_000, 1),
            backup("20260103-000000F", 300, 3_000, 2),
        ]
    }

    fn chosen(backups: Vec<BackupInfo>, wanted: &Wanted, timeline: Option<u32>) -> Result<i64, NoBackup> {
        let mut chooser = Chooser::new(wanted, timeline);
        backups.into_iter().for_each(|backup| chooser.offer(backup));
        chooser.chosen("main").map(|backup| backup.time_stop)
    }

    #[test]
    fn the_newest_that_ended_before_the_target_time() {
        let by_time = |time| chosen(three(), &Wanted::EndedBefore(time), None);
        assert_eq!(by_time(250), Ok(200));
        assert_eq!(
            by_time(300),
            Ok(200),
            "a backup that ends at the target has gone past it, perhaps"
        );
        assert_eq!(by_time(1_000), Ok(300));
        assert!(matches!(by_time(50), Err(NoBackup::TooYoung { .. })));
    }

    #[test]
    fn a_backup_of_a_later_timeline_does_not_reach_an_earlier_one() {
        assert_eq!(chosen(three(), &Wanted::Newest, Some(1)), Ok(200));
    }

    #[test]
    fn by_position_and_by_label() {
        assert_eq!(chosen(three(), &Wanted::ConsistentBy(Lsn(2_500)), None), Ok(200));
        let label: BackupLabel = "20260101-000000F".parse().unwrap();
        assert_eq!(chosen(three(), &Wanted::Label(label), Some(9)), Ok(100));
        let unknown: BackupLabel = "20200101-000000F".parse().unwrap();
        assert!(matches!(
            chosen(three(), &Wanted::Label(unknown), None),
            Err(NoBackup::Unknown { .. })
        ));
        let none = chosen(vec![], &Wanted::Newest, None);
        assert_eq!(none, Err(NoBackup::None("main".to_owned())));
    }

    #[test]
    fn what_a_new_backup_is_compared_with() {
        let all = [
            ("20260101-000000F", 1, 100),
            ("20260101-000000F_20260104-000000I", 1, 400),
            ("20260102-000000F", 2, 200),
        ];
        let choose = |kind, database| {
            let mut chooser = PriorChooser::new(kind, database);
            for (label, database, stop) in all {
                chooser.offer(&label.parse().unwrap(), database, stop);
            }
            let PriorChoice { kind, prior, newest } = chooser.chosen();
            assert_eq!(newest.unwrap().as_str(), all[1].0, "whatever it is compared with");
            (kind, prior.map(|label| label.to_string()))
        };
        assert_eq!(choose(BackupType::Full, Some(1)), (BackupType::Full, None));
        assert_eq!(
            choose(BackupType::Incr, Some(1)),
            (BackupType::Incr, Some(all[1].0.into()))
        );
        assert_eq!(
            choose(BackupType::Diff, Some(1)),
            (BackupType::Diff, Some(all[0].0.into()))
        );
        assert_eq!(
            choose(BackupType::Incr, Some(2)),
            (BackupType::Incr, Some(all[2].0.into()))
        );
        assert_eq!(choose(BackupType::Incr, Some(3)), (BackupType::Full, None));
        assert_eq!(choose(BackupType::Incr, None), (BackupType::Full, None));
    }
}
