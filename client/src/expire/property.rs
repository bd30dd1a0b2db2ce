//! Random histories and options.

use super::sample::{Sample, retention, sample};
use super::{History, Plan, Zone, plan};
use pgmesh_protocol::RetainedBackup;
use pgmesh_storage::{BackupLabel, BackupType};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Backups in the notation of `sample`: a type, the database's step, WAL between, whether it is whole, whether it is
/// held, on another timeline.
fn histories() -> impl Strategy<Value = Sample> {
    let backup = (0u8..4, 0u8..12, 1u32..4, 0u8..6, 0u8..8, 0u8..10);
    prop::collection::vec(backup, 0..24).prop_map(|backups| {
        let (mut words, mut database, mut at, mut timeline) = (Vec::new(), 1, 2, 1);
        let count = backups.len();
        for (number, (kind, upgrade, gap, owed, held, promoted)) in backups.into_iter().enumerate() {
            let upgraded = upgrade == 0 && number > 0;
            database += u32::from(upgraded && database == 1);
            timeline += u32::from(promoted == 0);
            let kind = match kind {
                _ if number == 0 || upgraded => 'F',
                0 => 'F',
                1 => 'D',
                _ => 'I',
            };
            let first = at + gap;
            at = first + 1;
            let flags = format!(
                "{}{}",
                if owed == 0 { "~" } else { "" },
                if held == 0 { "!" } else { "" }
            );
            let ago = (count - number) * 9;
            words.push(format!(
                "{kind}{number}@{ago}/{database}:t{timeline}.{first}-{at}{flags}"
            ));
        }
        sample(&words.join(" "), 2)
    })
}

fn options() -> impl Strategy<Value = String> {
    let number = || prop::option::of(1u32..5);
    (
        (number(), any::<bool>(), number(), number(), 0u8..3),
        (number(), number(), number(), 1u32..4),
    )
        .prop_map(
            |((full, time, diff, archive, of_type), (daily, monthly, yearly, min))| {
                let named = [
                    ("full", full.map(|full| if time { full * 20 } else { full })),
                    ("diff", diff),
                    ("archive", archive),
                    ("daily", daily),
                    ("monthly", monthly),
                    ("yearly", yearly),
                    ("min", Some(min)),
                ];
                let mut words: Vec<String> = named
                    .iter()
                    .filter_map(|(name, value)| value.map(|value| format!("{name}={value}")))
                    .collect();
                words.push(format!("atype={}", ["full", "diff", "incr"][usize::from(of_type)]));
                words.extend(time.then(|| "time".to_owned()));
                words.join(" ")
            },
        )
}

fn asks() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(String::new()),
        1 => Just("oldest".to_owned()),
        2 => (0u8..24, 0u8..3).prop_map(|(number, kind)| format!("set={}{number}", ["F", "D", "I"][usize::from(kind)])),
        1 => (0u32..60).prop_map(|before| format!("before={before}")),
    ]
}

fn after(history: &History, plan: &Plan) -> History {
    let gone: BTreeSet<BackupLabel> = plan.labels().into_iter().collect();
    let left: Vec<RetainedBackup> = history
        .backups()
        .filter(|backup| !gone.contains(&backup.label))
        .cloned()
        .collect();
    History::new(history.repo, history.databases.clone(), left, history.now)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_expires_is_needed_by_nothing(some in histories(), options in options(), ask in asks()) {
        let Ok(plan) = some.plan(&options, &ask) else { return Ok(()) };
        let left = after(&some.history, &plan);
        let min = usize::try_from(retention(&options).min.get()).unwrap();
        let before = some.history.whole_fulls().len();
        prop_assert!(left.whole_fulls().len() >= before.min(min).min(before), "{options} {ask}");
        for label in plan.labels() {
            prop_assert!(!some.history.is_held(&label), "a held one goes");
            for dependent in some.history.with_dependents(&label) {
                prop_assert!(left.get(&dependent).is_none(), "a dependent stays");
            }
        }
        for backup in left.backups() {
            let needs = backup.prior.iter().chain([&backup.label]);
            for needed in needs {
                prop_assert!(left.get(needed).is_some(), "a prior goes");
            }
        }
        let newest_first = plan.labels();
        prop_assert!(newest_first.is_sorted_by(|one, other| one > other));
        let wal = plan.wal.unwrap();
        for archive in &wal.archives {
            let of_archive: Vec<_> = left.backups().filter(|backup| backup.database == archive.database).collect();
            prop_assert!(!archive.whole || of_archive.is_empty());
            for backup in of_archive {
                let stays = archive.keep.iter().any(|kept| {
                    kept.has(backup.wal_start) && kept.has(backup.wal_stop)
                });
                prop_assert!(stays, "WAL of {} goes: {options} {ask}", backup.label);
            }
            prop_assert!(archive.keep.windows(2).all(|pair| pair[0].last.is_some_and(|last| last < pair[1].first)));
        }
    }

    #[test]
    fn a_second_run_does_nothing(some in histories(), options in options()) {
        let zone = Zone::utc();
        let retention = retention(&options);
        let first = some.plan(&options, "").unwrap();
        let left = after(&some.history, &first);
        let second = plan(&left, &retention, &super::Ask::default(), &zone).unwrap();
        prop_assert_eq!(second.labels(), Vec::new(), "{}", options);
        // All WAL that stayed once stays again.
        let (first, second) = (first.wal.unwrap(), second.wal.unwrap());
        for again in &second.archives {
            let once = first.archives.iter().find(|archive| archive.database == again.database).unwrap();
            prop_assert_eq!(&once.keep, &again.keep, "{}", options);
        }
    }

    #[test]
    fn each_full_backup_that_a_count_keeps_stays(some in histories(), full in 1u32..5) {
        let plan = some.plan(&format!("full={full}"), "").unwrap();
        let gone = plan.labels();
        let fulls = some.history.backups().rev().filter(|backup| backup.kind == BackupType::Full);
        let newest = fulls.filter(|backup| some.history.counts(backup)).take(usize::try_from(full).unwrap());
        for backup in newest {
            prop_assert!(!gone.contains(&backup.label));
        }
    }
}
