//! Everything that retention decides for one repository.

use super::archives::{WalPlan, wal};
use super::calendar::Zone;
use super::history::{Ask, History};
use super::lines::Line;
use super::retention::{FullType, Retention};
use super::select::{Selection, select};
use pgmesh_protocol::Failure;
use pgmesh_storage::{BackupLabel, BackupType};

/// The decisions about one repository. Nothing is done yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The backups that go and the reasons of those that stay.
    pub selection: Selection,
    /// The WAL that stays. WAL is decided after the backups have gone: its failure does not keep them.
    pub wal: Result<WalPlan, Failure>,
}

/// Decides for one repository.
///
/// # Errors
/// 75: `--set` names a backup that has to stay.
pub fn plan(history: &History, retention: &Retention, ask: &Ask, zone: &Zone) -> Result<Plan, Failure> {
    let selection = select(history, retention, ask, zone)?;
    let wal = wal(history, &selection, retention.full_type == FullType::Time, ask);
    Ok(Plan { selection, wal })
}

impl Plan {
    /// All backups that go, newest first: each before the backups that it depends on.
    #[must_use]
    pub fn labels(&self) -> Vec<BackupLabel> {
        self.selection.labels().into_iter().rev().cloned().collect()
    }

    /// The options that have backups expire, for the audit trail.
    #[must_use]
    pub fn why(&self) -> String {
        let mut reasons: Vec<&str> = self.selection.sets.iter().map(|set| set.why.as_str()).collect();
        reasons.dedup();
        reasons.join("; ")
    }

    /// The lines of the log about backups.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.selection.lines
    }

    /// Whether the backup goes, and why it goes or stays.
    #[must_use]
    pub fn reason(&self, history: &History, label: &BackupLabel) -> (bool, String) {
        if let Some(set) = self.selection.sets.iter().find(|set| set.labels.contains(label)) {
            return match set.labels.first() {
                Some(first) if first != label => (true, format!("{}; depends on {first}", set.why)),
                _ => (true, set.why.clone()),
            };
        }
        let kept = match history.get(label) {
            Some(backup) if backup.hold.is_some() && history.is_held(label) => "held".to_owned(),
            Some(_) if history.is_held(label) => "a dependent of it is held".to_owned(),
            Some(backup) if !backup.is_whole => "not whole in this repository yet".to_owned(),
            _ => match self.selection.kept.get(&label.full_part()) {
                Some(why) if label.backup_type() == BackupType::Full => why.clone(),
                Some(why) => format!("with {}: {why}", label.full_part()),
                None => "no option has it expire".to_owned(),
            },
        };
        (false, kept)
    }
}
