//! Which WAL stays: a table of cases, named after the rules of `docs/retention.md`.

use super::sample::{sample, segment};
use pgmesh_postgres::TimelineId;

/// Rule, history, options, command line, and the WAL that stays.
const CASES: &[(&str, &str, &str, &str, &str)] = &[
    (
        "R9 by time: as many fulls as remain",
        "F1@40:2 F2@30:5 F3@20:8",
        "time full=25",
        "",
        "1: 5-",
    ),
    ("R9 nothing expired", "F1@40:2 F2@30:5 F3@20:8", "time full=35", "", "-"),
    (
        "R9 retention-archive says otherwise",
        "F1@40:2 F2@30:5 F3@20:8",
        "time full=25 archive=1",
        "",
        "1: 5-5 8-",
    ),
    ("R10 the number of fulls", "F1:2 F2:5 F3:8", "full=2", "", "1: 5-"),
    (
        "R10 diff counts fulls and differentials",
        "F1:2 D1:4 F2:6 D2:8",
        "diff=2 atype=diff",
        "",
        "1: 2-2 6-",
    ),
    ("R10 incr is not set", "F1:2 I1:5", "full=1 atype=incr", "", "-"),
    ("R11 too soon", "F1:2 F2:5", "full=3", "", "-"),
    ("R11 just enough", "F1:2 F2:5", "archive=2", "", "1: 2-"),
    ("R11 no backups", "", "archive=1", "", "-"),
    ("R11 what is owed does not count", "F1:2 F2:5~", "archive=2", "", "-"),
    (
        "R12 the oldest of the retained set",
        "F1:2 F2:5 F3:8 F4:11",
        "archive=2",
        "",
        "1: 2-2 5-5 8-",
    ),
    (
        "R12 incrementals count where they are named",
        "F1:2 I1:4 I2:6",
        "archive=1 atype=incr",
        "",
        "1: 2-2 4-4 6-",
    ),
    (
        "R12 an old database keeps one to play through",
        "F1/1:2 F2/1:5 F3/2:3 F4/2:8",
        "archive=1",
        "",
        "1: 2-2 5-, 2: 3-3 8-",
    ),
    (
        "R12 the retained set spans databases",
        "F1/1:2 F2/1:5 F3/2:3",
        "archive=2",
        "",
        "1: 2-2 5-, 2: 3-",
    ),
    (
        "R13 older backups of any type",
        "F1:2-3 D1:5-6 I1:8-9 F2:20",
        "archive=1",
        "",
        "1: 2-3 5-6 8-9 20-",
    ),
    (
        "R13 by name: a lower timeline is before",
        "F1:90-91 F2:t2.20",
        "archive=1",
        "",
        "1: 90-91 t2.20-",
    ),
    (
        "R13 a newer backup on a lower timeline",
        "F1:t2.20 I1:t1.30-31",
        "archive=1",
        "",
        "1: 30-31 t2.20-",
    ),
    (
        "R14 an old database without a backup",
        "F1/2:3 F2/2:8",
        "archive=1",
        "",
        "1: all, 2: 3-3 8-",
    ),
    (
        "R14 the current one stays",
        "F1/1:2 F2/1:5",
        "full=1 archive=1",
        "",
        "1: 5-",
    ),
    (
        "R14 ... without a backup of its own",
        "F1/1:2",
        "archive=1",
        "newest=2",
        "1: 2-",
    ),
    (
        "mesh: an old database with a backup that is owed",
        "F1/1:2~ F2/2:3",
        "archive=1",
        "",
        "1: 2-, 2: 3-",
    ),
    (
        "mesh: an old database with a held one",
        "F1/1:2! F2/2:3",
        "archive=1",
        "",
        "1: 2-, 2: 3-",
    ),
    (
        "mesh: a held one keeps its own WAL",
        "F1:2-3! F2:5 F3:8",
        "full=1",
        "",
        "1: 2-3 8-",
    ),
    (
        "mesh: so does one that is owed",
        "F1:2 F2:5~ F3:8 F4:11",
        "full=2",
        "",
        "1: 5-5 8-",
    ),
    (
        "R23 --set expires WAL as well",
        "F1:2 F2:5 F3:8",
        "full=2",
        "set=F2",
        "1: 2-",
    ),
    (
        "R27 the oldest with its WAL",
        "F1:2 F2:5 F3:8",
        "archive=9 atype=incr",
        "oldest",
        "1: 5-",
    ),
    (
        "R28 although too soon",
        "F1:9 F2:12",
        "full=5",
        "before=4",
        "1: 9- before 4",
    ),
    ("R28 although it is not set", "F1:9", "", "before=4", "1: 9- before 4"),
    (
        "R28 caps",
        "F1:2 F2:9 F3:12",
        "full=2 archive=1",
        "before=5",
        "1: 9-9 12- before 5",
    ),
    (
        "R28 no backup in the current database",
        "",
        "full=1",
        "before=5",
        "1: before 5",
    ),
    (
        "calendar: WAL from the oldest full that stays",
        "F1@90:2 F2@40:5 F3@20:8 F4@1:11",
        "monthly=2",
        "",
        "1: 5-",
    ),
    (
        "calendar: beside a count, the count",
        "F1@40:2 F2@20:5 F3@1:8",
        "full=1 monthly=9",
        "",
        "1: 2-2 8-",
    ),
    (
        "calendar: beside a time, the time",
        "F1@400:2 F2@90:5 F3@40:8 F4@1:11",
        "time full=30 yearly=2",
        "",
        "1: 2-2 8-",
    ),
];

#[test]
fn rules() {
    for (rule, history, options, ask, expected) in CASES {
        let newest = if history.contains("/2") || ask.contains("newest=2") {
            2
        } else {
            1
        };
        let ask = ask.replace("newest=2", "");
        let some = sample(history, newest);
        assert_eq!(
            some.wal(options, &ask),
            *expected,
            "{rule}: {history} | {options} | {ask}"
        );
    }
}

#[test]
fn a_backup_of_no_known_database_ends_the_expiry_of_wal() {
    let some = sample("F1 F2/3:9 F3", 2);
    assert_eq!(some.wal("full=2", ""), "exit 29");
    assert_eq!(some.backups("full=2", ""), "full F1", "backups have expired by then");
}

#[test]
fn history_files_below_the_timelines_of_all_backups_go() {
    let below = |history: &str, options: &str, ask: &str| {
        let plan = sample(history, 1).plan(options, ask).unwrap();
        plan.wal.unwrap().archives[0].histories_below
    };
    assert_eq!(below("F1:t2.2 F2:t3.20", "archive=1", ""), Some(TimelineId(2)));
    assert_eq!(below("F1:t3.20", "archive=1", ""), Some(TimelineId(3)));
    assert_eq!(below("F1:2 F2:t3.20", "archive=2", ""), Some(TimelineId(1)));
    assert_eq!(
        below("F1:t3.20", "", "before=30"),
        Some(TimelineId(1)),
        "WAL of timeline 1 from 30 on stays"
    );
}

#[test]
fn a_database_without_wal_is_left_alone() {
    let some = sample("F1/1:2 F2/2:5", 2);
    let mut history = some.history.clone();
    history.databases[0].has_wal = false;
    let some = super::sample::Sample {
        history,
        names: some.names,
    };
    assert_eq!(some.wal("archive=1", ""), "2: 5-");
    let kept = some.plan("archive=1", "").unwrap().wal.unwrap().archives[0].keep[0];
    assert!(kept.has(segment(1, 5)) && !kept.has(segment(1, 4)));
}
