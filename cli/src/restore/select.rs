//! Which backup a restore starts from: a pure choice over what `info` tells.

use pgmesh_node::protocol::BackupInfo;
use pgmesh_postgres::Lsn;
use pgmesh_storage::BackupLabel;

/// What the target demands of the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The newest one.
    Newest,
    /// This one.
    Label(BackupLabel),
    /// The newest one that ended before this time, Unix seconds.
    EndedBefore(i64),
    /// The newest one that is consistent at or before this position.
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

/// Chooses. `target_timeline` restricts time and position targets: a backup of a timeline younger than the target's
/// cannot reach it.
pub fn select<'a>(
    stanza: &str,
    backups: &'a [BackupInfo],
    wanted: &Wanted,
    target_timeline: Option<u32>,
) -> Result<&'a BackupInfo, NoBackup> {
    let oldest = backups
        .iter()
        .min_by_key(|backup| backup.time_stop)
        .ok_or_else(|| NoBackup::None(stanza.to_owned()))?;
    let reachable = backups
        .iter()
        .filter(|backup| target_timeline.is_none_or(|timeline| backup.timeline <= timeline));
    let newest = |fits: &dyn Fn(&BackupInfo) -> bool| {
        reachable
            .clone()
            .filter(|backup| fits(backup))
            .max_by_key(|backup| (backup.time_stop, &backup.label))
    };
    let (found, target) = match wanted {
        Wanted::Newest => (newest(&|_| true), "timeline".to_owned()),
        Wanted::Label(label) => {
            return backups
                .iter()
                .find(|backup| backup.label == *label)
                .ok_or_else(|| NoBackup::Unknown {
                    stanza: stanza.to_owned(),
                    label: label.clone(),
                });
        }
        Wanted::EndedBefore(time) => (
            newest(&|backup| backup.time_stop < *time),
            format!("time (Unix {time})"),
        ),
        Wanted::ConsistentBy(lsn) => (newest(&|backup| backup.lsn_stop <= *lsn), format!("lsn {lsn}")),
    };
    found.ok_or_else(|| NoBackup::TooYoung {
        stanza: stanza.to_owned(),
        target,
        oldest: oldest.label.clone(),
    })
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
            references: vec![],
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

    #[test]
    fn the_newest_that_ended_before_the_target_time() {
        let all = three();
        let chosen = |time| select("main", &all, &Wanted::EndedBefore(time), None).map(|b| b.time_stop);
        assert_eq!(chosen(250), Ok(200));
        assert_eq!(
            chosen(300),
            Ok(200),
            "a backup that ends at the target has gone past it, perhaps"
        );
        assert_eq!(chosen(1_000), Ok(300));
        assert!(matches!(chosen(50), Err(NoBackup::TooYoung { .. })));
    }

    #[test]
    fn a_backup_of_a_later_timeline_does_not_reach_an_earlier_one() {
        let all = three();
        let chosen = select("main", &all, &Wanted::Newest, Some(1)).unwrap();
        assert_eq!(chosen.time_stop, 200);
    }

    #[test]
    fn by_position_and_by_label() {
        let all = three();
        assert_eq!(
            select("main", &all, &Wanted::ConsistentBy(Lsn(2_500)), None)
                .unwrap()
                .time_stop,
            200
        );
        let label: BackupLabel = "20260101-000000F".parse().unwrap();
        assert_eq!(
            select("main", &all, &Wanted::Label(label), Some(9)).unwrap().time_stop,
            100
        );
        let unknown: BackupLabel = "20200101-000000F".parse().unwrap();
        assert!(matches!(
            select("main", &all, &Wanted::Label(unknown), None),
            Err(NoBackup::Unknown { .. })
        ));
        let none = select("main", &[], &Wanted::Newest, None).map(|backup| backup.time_stop);
        assert_eq!(none, Err(NoBackup::None("main".to_owned())));
    }
}
