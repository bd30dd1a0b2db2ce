//! The label of the next backup.

use pgmesh_storage::{BackupLabel, BackupType};
use time::macros::format_description;
use time::{Duration, OffsetDateTime, PrimitiveDateTime};

/// A label for a backup that begins now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenLabel {
    /// The label.
    pub label: BackupLabel,
    /// The clock stands before the newest backup: it was set back.
    pub clock_is_behind: bool,
}

/// The label of a backup that begins at `now`, in the offset that `now` carries, and is compared with `prior`. It is
/// later than all `existing` labels, also if the clock was set back, because labels must sort as the backups were made.
pub fn choose<'a>(
    now: OffsetDateTime,
    kind: BackupType,
    prior: Option<&BackupLabel>,
    existing: impl IntoIterator<Item = &'a BackupLabel>,
) -> ChosenLabel {
    let now = PrimitiveDateTime::new(now.date(), now.time());
    let newest = existing.into_iter().filter_map(made_at).max();
    let after_newest = newest.and_then(|newest| newest.checked_add(Duration::SECOND));
    let at = after_newest.map_or(now, |after| after.max(now)).assume_utc();
    ChosenLabel {
        label: match prior {
            Some(prior) => BackupLabel::dependent(prior, kind, at),
            None => BackupLabel::full(at),
        },
        clock_is_behind: newest.is_some_and(|newest| newest > now),
    }
}

/// When a backup was made, as its label says: the later of the two times in the label of a dependent one.
fn made_at(label: &BackupLabel) -> Option<PrimitiveDateTime> {
    let last = label.as_str().rsplit('_').next()?.trim_end_matches(['F', 'D', 'I']);
    PrimitiveDateTime::parse(last, format_description!("[year][month][day]-[hour][minute][second]")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    fn labels(texts: &[&str]) -> Vec<BackupLabel> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn full(now: OffsetDateTime, existing: &[BackupLabel]) -> ChosenLabel {
        choose(now, BackupType::Full, None, existing)
    }

    #[test]
    fn a_dependent_one_is_named_after_its_full_backup() {
        let now = datetime!(2026-11-23 05:15:53 UTC);
        let made = labels(&["20261122-230000F", "20261122-230000F_20261123-010000D"]);
        let label = |kind, prior| choose(now, kind, Some(prior), &made).label.to_string();
        assert_eq!(label(BackupType::Diff, &made[0]), "20261122-230000F_20261123-051553D");
        assert_eq!(label(BackupType::Incr, &made[1]), "20261122-230000F_20261123-051553I");
    }

    #[test]
    fn the_clock_names_the_backup() {
        let now = datetime!(2026-11-23 05:15:53.9 +1);
        let chosen = full(now, &[]);
        assert_eq!(chosen.label.as_str(), "20261123-051553F");
        assert!(!chosen.clock_is_behind);
        let chosen = full(now, &labels(&["20261122-230000F", "20261122-230000F_20261123-051552I"]));
        assert_eq!(chosen.label.as_str(), "20261123-051553F");
    }

    #[test]
    fn a_clock_set_back_does_not_put_a_backup_before_others() {
        let existing = labels(&["20261122-230000F_20261231-235959I", "20261123-000000F"]);
        let chosen = full(datetime!(2026-11-23 05:15:53 UTC), &existing);
        assert_eq!(chosen.label.as_str(), "20270101-000000F");
        assert!(chosen.clock_is_behind);
    }

    #[test]
    fn two_backups_in_one_second_differ() {
        let chosen = full(datetime!(2026-11-23 05:15:53 UTC), &labels(&["20261123-051553F"]));
        assert_eq!(chosen.label.as_str(), "20261123-051554F");
        assert!(!chosen.clock_is_behind);
    }

    #[test]
    fn a_label_that_is_no_time_does_no_harm() {
        let chosen = full(datetime!(2026-11-23 05:15:53 UTC), &labels(&["99999999-999999F"]));
        assert_eq!(chosen.label.as_str(), "20261123-051553F");
    }

    proptest! {
        #[test]
        fn labels_always_ascend(times in prop::collection::vec(0i64..4_000_000_000, 1..20)) {
            let mut made: Vec<BackupLabel> = Vec::new();
            for time in times {
                // Every third one is a full backup; the others go with the last of these, as the last backup does.
                let prior = made.last().filter(|_| !made.len().is_multiple_of(3));
                let kind = if made.len() % 3 == 1 { BackupType::Diff } else { BackupType::Incr };
                let next = choose(OffsetDateTime::from_unix_timestamp(time).unwrap(), kind, prior, &made).label;
                prop_assert!(made.last().is_none_or(|last| *last < next), "{made:?} {next}");
                made.push(next);
            }
        }
    }
}
