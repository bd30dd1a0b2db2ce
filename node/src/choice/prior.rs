//! The backup that a new one is compared with.

use pgmesh_storage::{BackupLabel, BackupType};
use serde::{Deserialize, Serialize};

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
    /// The newest full backup of the stanza, of whatever history.
    newest_full: Option<BackupLabel>,
}

impl PriorChooser {
    /// For a backup of this type of this database of the stanza, if it is one.
    pub fn new(wanted: BackupType, database: Option<u32>) -> Self {
        Self {
            wanted,
            database,
            prior: None,
            newest: None,
            newest_full: None,
        }
    }

    /// Looks at a backup: its label, its database, when it ended, and whether it is of the history that the cluster has
    /// now. One of a branch that was given up is no prior.
    pub fn offer(&mut self, label: &BackupLabel, database: u32, time_stop: i64, is_of_history: bool) {
        if self.newest.as_ref().is_none_or(|newest| begun(newest) < begun(label)) {
            self.newest = Some(label.clone());
        }
        self.newest_full = self.newest_full.take().max(Some(label.full_part()));
        let fits = match self.wanted {
            BackupType::Full => false,
            BackupType::Diff => label.backup_type() == BackupType::Full,
            BackupType::Incr => true,
        };
        let is_newer = |(stop, prior): &(i64, BackupLabel)| {
            (prior.full_part(), *stop, prior) < (label.full_part(), time_stop, label)
        };
        if fits && is_of_history && Some(database) == self.database && self.prior.as_ref().is_none_or(is_newer) {
            self.prior = Some((time_stop, label.clone()));
        }
    }

    /// What was chosen. Labels sort as the backups were made, and a dependent one begins with its full backup's: so
    /// where the newest full backup is of another history, the new one is a full one.
    pub fn chosen(self) -> PriorChoice {
        let prior = self.prior.map(|(_, label)| label);
        let prior = prior.filter(|prior| self.newest_full == Some(prior.full_part()));
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

    fn choose(offers: &[(&str, u32, i64, bool)], wanted: BackupType, database: Option<u32>) -> PriorChoice {
        let mut chooser = PriorChooser::new(wanted, database);
        for (label, database, stop, is_of_history) in offers {
            chooser.offer(&label.parse().unwrap(), *database, *stop, *is_of_history);
        }
        chooser.chosen()
    }

    #[test]
    fn a_backup_of_another_history_is_no_prior() {
        let incr = "20260101-000000F_20260102-000000I";
        let chosen = choose(
            &[("20260101-000000F", 1, 100, true), (incr, 1, 200, false)],
            BackupType::Incr,
            Some(1),
        );
        assert_eq!(
            (chosen.kind, chosen.prior.unwrap().as_str()),
            (BackupType::Incr, "20260101-000000F")
        );
        assert_eq!(chosen.newest.unwrap().as_str(), incr, "the new one is named after it");
        // No label that begins with the first full backup's comes after the second one's.
        let two = [("20260101-000000F", 1, 100, true), ("20260102-000000F", 1, 200, false)];
        let chosen = choose(&two, BackupType::Incr, Some(1));
        assert_eq!((chosen.kind, chosen.prior), (BackupType::Full, None));
    }

    #[test]
    fn what_a_new_backup_is_compared_with() {
        let all = [
            ("20260101-000000F", 1, 100, true),
            ("20260102-000000F", 2, 200, true),
            ("20260102-000000F_20260103-000000D", 2, 300, true),
            ("20260102-000000F_20260104-000000I", 2, 400, true),
        ];
        let choose = |kind, database| {
            let PriorChoice { kind, prior, newest } = choose(&all, kind, database);
            assert_eq!(newest.unwrap().as_str(), all[3].0, "whatever it is compared with");
            (kind, prior.map(|label| label.to_string()))
        };
        assert_eq!(choose(BackupType::Full, Some(2)), (BackupType::Full, None));
        assert_eq!(
            choose(BackupType::Incr, Some(2)),
            (BackupType::Incr, Some(all[3].0.into()))
        );
        assert_eq!(
            choose(BackupType::Diff, Some(2)),
            (BackupType::Diff, Some(all[1].0.into()))
        );
        assert_eq!(choose(BackupType::Incr, Some(1)), (BackupType::Full, None));
        assert_eq!(choose(BackupType::Incr, Some(3)), (BackupType::Full, None));
        assert_eq!(choose(BackupType::Incr, None), (BackupType::Full, None));
    }
}
