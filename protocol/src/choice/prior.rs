//! The backup that a new backup is compared with.

use pgmesh_storage::{BackupLabel, BackupType};
use serde::{Deserialize, Serialize};

/// How a new backup begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorChoice {
    /// The new backup's type: full where there is no backup to compare with.
    pub kind: BackupType,
    /// The backup that the new one is compared with.
    pub prior: Option<BackupLabel>,
    /// The stanza's last label: the new backup's label comes after it.
    pub newest: Option<BackupLabel>,
}

/// Chooses the backup that a new backup is compared with.
#[derive(Debug)]
pub struct PriorChooser {
    wanted: BackupType,
    database: Option<u32>,
    prior: Option<BackupLabel>,
    newest: Option<BackupLabel>,
}

impl PriorChooser {
    /// For a backup of this type. `database`: the cluster's database in the stanza, if the stanza has it. `newest`: the
    /// stanza's last label, of any history.
    pub fn new(wanted: BackupType, database: Option<u32>, newest: Option<BackupLabel>) -> Self {
        Self {
            wanted,
            database,
            prior: None,
            newest,
        }
    }

    /// Looks at a backup: its label, its database, and whether it is of the history that the cluster has now. A backup
    /// of a branch that was given up is no prior. Neither is a backup that does not depend on the newest full backup:
    /// labels sort as the backups were made, and the label of a dependent backup begins with that of its full backup.
    pub fn offer(&mut self, label: &BackupLabel, database: u32, is_of_history: bool) {
        let fits = match self.wanted {
            BackupType::Full => false,
            BackupType::Diff => label.backup_type() == BackupType::Full,
            BackupType::Incr => true,
        };
        let is_of_chain = self.newest.as_ref().map(BackupLabel::full_part) == Some(label.full_part());
        let is_newer = self.prior.as_ref().is_none_or(|prior| prior < label);
        if fits && is_of_history && is_of_chain && Some(database) == self.database && is_newer {
            self.prior = Some(label.clone());
        }
    }

    /// Whether a prior is found. A later offer with a lower label cannot change the choice.
    pub fn is_decided(&self) -> bool {
        self.prior.is_some()
    }

    /// The choice, after all offers.
    pub fn chosen(self) -> PriorChoice {
        PriorChoice {
            kind: if self.prior.is_some() {
                self.wanted
            } else {
                BackupType::Full
            },
            prior: self.prior,
            newest: self.newest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(offers: &[(&str, u32, bool)], wanted: BackupType, database: Option<u32>) -> PriorChoice {
        let newest = offers.iter().map(|(label, ..)| label.parse().unwrap()).max();
        let mut chooser = PriorChooser::new(wanted, database, newest);
        for (label, database, is_of_history) in offers {
            chooser.offer(&label.parse().unwrap(), *database, *is_of_history);
        }
        chooser.chosen()
    }

    #[test]
    fn a_backup_of_another_history_is_no_prior() {
        let incr = "20260101-000000F_20260102-000000I";
        let chosen = choose(
            &[("20260101-000000F", 1, true), (incr, 1, false)],
            BackupType::Incr,
            Some(1),
        );
        assert_eq!(
            (chosen.kind, chosen.prior.unwrap().as_str()),
            (BackupType::Incr, "20260101-000000F")
        );
        assert_eq!(chosen.newest.unwrap().as_str(), incr, "the new one is named after it");
        // Labels that begin with the first full backup's sort before the second full backup's.
        let two = [("20260101-000000F", 1, true), ("20260102-000000F", 1, false)];
        let chosen = choose(&two, BackupType::Incr, Some(1));
        assert_eq!((chosen.kind, chosen.prior), (BackupType::Full, None));
    }

    #[test]
    fn what_a_new_backup_is_compared_with() {
        let all = [
            ("20260101-000000F", 1, true),
            ("20260102-000000F", 2, true),
            ("20260102-000000F_20260103-000000D", 2, true),
            ("20260102-000000F_20260104-000000I", 2, true),
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
