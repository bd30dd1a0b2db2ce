//! Which backups go: a table of cases, named after the rules of `docs/retention.md`.

use super::sample::{NOW, hold, retention, sample};
use super::{Ask, History, Zone, plan};
use pgmesh_storage::RepoKey;

/// Rule, history, options, command line, and the sets that go.
const CASES: &[(&str, &str, &str, &str, &str)] = &[
    (
        "R4 a full with all that depends on it",
        "F1 D1 I1 I2 F2",
        "full=1",
        "",
        "full F1 D1 I1 I2",
    ),
    (
        "R4 an incremental of an incremental",
        "F1 I1 I2 I3",
        "",
        "set=I2",
        "adhoc I2 I3",
    ),
    (
        "R4 a differential with its incrementals",
        "F1 D1 I1 D2 I2",
        "",
        "set=D1",
        "adhoc D1 I1",
    ),
    (
        "R6 fulls beyond the newest",
        "F1 F2 F3 F4",
        "full=2",
        "",
        "full F1, full F2",
    ),
    ("R6 not more than there are", "F1 F2", "full=2", "", "-"),
    ("R6 the only one stays", "F1", "full=1", "", "-"),
    ("R6 unset keeps all", "F1 F2 F3", "", "", "-"),
    (
        "R6 all databases count together",
        "F1/1 F2/1 F3/2",
        "full=2",
        "",
        "full F1",
    ),
    (
        "R6 also the last full of an old database",
        "F1/1 F2/2 F3/2",
        "full=2",
        "",
        "full F1",
    ),
    ("R7 pgBackRest's example", "F1 D1 D2 F2", "diff=2", "", "diff D1"),
    ("R7 a full is skipped", "F1 F2 D1", "diff=1", "", "-"),
    ("R7 with its incrementals", "F1 D1 I1 D2 D3", "diff=2", "", "diff D1 I1"),
    (
        "R7 an incremental of the full stays",
        "F1 I1 D1 D2",
        "diff=1",
        "",
        "diff D1",
    ),
    (
        "R7 after the fulls",
        "F1 D1 F2 D2 D3",
        "full=1 diff=1",
        "",
        "full F1 D1, diff D2",
    ),
    (
        "R8 the promise keeps one older",
        "F1@40 F2@30 F3@20",
        "time full=25",
        "",
        "time-based F1",
    ),
    (
        "R8 nothing before the promise",
        "F1@40 F2@30 F3@20",
        "time full=35",
        "",
        "-",
    ),
    ("R8 none is older", "F1@5 F2@3", "time full=7", "", "-"),
    (
        "R8 just at the threshold is not older",
        "F1@40 F2@30 F3@20",
        "time full=30",
        "",
        "-",
    ),
    (
        "R8 with dependents",
        "F1@40 D1@39 F2@30 I1@29 F3@1",
        "time full=10",
        "",
        "time-based F1 D1",
    ),
    ("R8 at least one stays", "F1@400", "time full=1", "", "-"),
    ("R8 unset", "F1@400 F2@300", "time", "", "-"),
    (
        "R8 and differentials",
        "F1@40 D1@30 D2@20 D3@10",
        "time full=60 diff=2",
        "",
        "diff D1",
    ),
    (
        "R23 --set leaves the counts alone",
        "F1 F2 F3 F4",
        "full=1",
        "set=F2",
        "adhoc F2",
    ),
    ("R23 an unknown label", "F1 F2 F3", "full=1", "set=X", "-"),
    ("R24 the only full", "F1 I1", "", "set=F1", "exit 75"),
    ("R24 the newest, with one before", "F1 F2", "", "set=F2", "adhoc F2"),
    (
        "R24 the newest, before it another database's",
        "F1/1 F2/2",
        "",
        "set=F2",
        "exit 75",
    ),
    (
        "R24 the last full of an old database",
        "F1/1 F2/2",
        "",
        "set=F1",
        "adhoc F1",
    ),
    (
        "R24 a dependent of the only full",
        "F1 I1 I2",
        "",
        "set=I1",
        "adhoc I1 I2",
    ),
    ("R27 the oldest", "F1 D1 F2 F3", "full=9", "oldest", "full F1 D1"),
    (
        "R27 whatever the options say",
        "F1 F2 F3",
        "full=1",
        "oldest",
        "full F1",
    ),
    ("R27 not the only one", "F1 I1", "full=1", "oldest", "-"),
    ("R27 else as always", "F1~ F2", "full=1", "oldest", "-"),
    ("mesh: what is owed does not count", "F1 F2 F3~", "full=2", "", "-"),
    ("mesh: the last whole one stays", "F1 F2~ F3~", "full=1", "", "-"),
    ("mesh: ... by time too", "F1@90 F2@50~ F3@40~", "time full=30", "", "-"),
    ("mesh: ... and by --set", "F1 F2~", "", "set=F1", "exit 75"),
    (
        "mesh: what is owed may go by --set",
        "F1 F2~ I1~",
        "",
        "set=F2",
        "adhoc F2 I1",
    ),
    (
        "mesh: dependents that are owed go too",
        "F1 I1~ F2",
        "full=1",
        "",
        "full F1 I1",
    ),
    (
        "mesh: a held one neither goes nor counts",
        "F1! F2 F3 F4",
        "full=2",
        "",
        "full F2",
    ),
    (
        "mesh: a held one holds what it depends on",
        "F1 D1 I1! D2 F2",
        "full=1 diff=1",
        "",
        "diff D2",
    ),
    ("mesh: a held one against --set", "F1! F2", "", "set=F1", "exit 75"),
    ("mesh: ... and its full", "F1 I1! F2", "", "set=F1", "exit 75"),
    (
        "mesh: a dependent of a held one may go",
        "F1! I1 F2",
        "",
        "set=I1",
        "adhoc I1",
    ),
    (
        "mesh: a held one is not the oldest",
        "F1! F2 F3",
        "",
        "oldest",
        "full F2",
    ),
    ("days", "F1@4 F2@3 F3@2 F4@1", "daily=2", "", "full F1, full F2"),
    (
        "the newest of a day",
        "F1@1.2 F2@1.1 F3@0.2 F4@0.1",
        "daily=2",
        "",
        "full F1, full F3",
    ),
    (
        "days without a backup do not count",
        "F1@30 F2@20 F3@1",
        "daily=2",
        "",
        "full F1",
    ),
    // 30 November 2026 is a Monday.
    (
        "weeks begin on Monday",
        "F1@8 F2@7 F3@1 F4@0",
        "weekly=2",
        "",
        "full F1, full F2",
    ),
    ("months", "F1@45 F2@31 F3@29 F4@1", "monthly=2", "", "full F1, full F3"),
    ("years", "F1@700 F2@400 F3@300 F4@1", "yearly=2", "", "full F1, full F3"),
    (
        "added to the count",
        "F1@40 F2@20 F3@2 F4@1",
        "full=1 monthly=2",
        "",
        "full F2, full F3",
    ),
    (
        "added to the time",
        "F1@400 F2@90 F3@40 F4@1",
        "time full=30 yearly=2",
        "",
        "time-based F2",
    ),
    (
        "... with their differentials",
        "F1@40 D1@39 D2@38 F2@1 D3@0",
        "full=1 monthly=2 diff=1",
        "",
        "-",
    ),
    (
        "the calendar does not keep the oldest",
        "F1@40 F2@1",
        "monthly=9",
        "oldest",
        "full F1",
    ),
    ("min: beyond the count", "F1 F2 F3 F4", "full=1 min=3", "", "full F1"),
    ("min: against --set", "F1 F2", "min=2", "set=F1", "exit 75"),
    ("min: against --oldest", "F1 F2", "min=2", "oldest", "-"),
    ("min: counts what is whole", "F1 F2 F3~", "full=1 min=2", "", "-"),
    ("nothing there", "", "full=1", "", "-"),
];

#[test]
fn rules() {
    for (rule, history, options, ask, expected) in CASES {
        let newest = if history.contains("/2") { 2 } else { 1 };
        let sample = sample(history, newest);
        assert_eq!(
            sample.backups(options, ask),
            *expected,
            "{rule}: {history} | {options} | {ask}"
        );
    }
}

#[test]
fn the_lines_of_the_log_are_pgbackrests() {
    let some = sample("F1:2-3 D1:5-5 F2:7-8", 1);
    assert_eq!(
        some.lines("full=1", ""),
        [
            "Info repo1: expire full backup set F1, D1",
            "Detail repo1: 15-1 archive retention on backup F2, start = 000000010000000000000007",
        ]
    );
    let expected = [
        "Info repo1: expire diff backup D1",
        "Detail repo1: 15-1 archive retention on backup F1, start = 000000010000000000000002, stop = \
         000000010000000000000003",
        "Detail repo1: 15-1 archive retention on backup F2, start = 000000010000000000000007",
    ];
    assert_eq!(some.lines("diff=1 archive=1", ""), expected);
    let not_set = "Info option 'repo1-retention-archive' is not set - archive logs will not be expired";
    assert_eq!(some.lines("", ""), [not_set]);
    let not_met = "Info repo1: time-based archive retention not met - archive logs will not be expired";
    assert_eq!(some.lines("time full=9", ""), [not_met]);
    let too_few = "Warn repo1: expire oldest requested but no eligible full backup to expire";
    assert_eq!(sample("F1", 1).lines("", "oldest"), [too_few, not_set]);
    let latest = "Warn repo1: expiring latest backup F2 - the ability to perform point-in-time-recovery (PITR) may be \
                  affected\nHINT: non-default settings for 'repo1-retention-archive'/'repo1-retention-archive-type' \
                  (even in prior expires) can cause gaps in the WAL.";
    assert_eq!(
        some.lines("", "set=F2"),
        [latest, "Info repo1: expire adhoc backup F2", not_set]
    );
}

#[test]
fn the_refusal_of_the_last_full_backup_is_pgbackrests() {
    let some = sample("F1", 1);
    let label = some.label("F1");
    assert_eq!(
        some.plan("", "set=F1").unwrap_err().what,
        format!("full backup {label} cannot be expired until another full backup has been created on this repo")
    );
}

#[test]
fn every_backup_has_a_reason() {
    let some = sample("F1@40! F2@35 I1@34 F3@3 I2@2 F4@1~", 1);
    let plan = some.plan("full=1", "").unwrap();
    let reasons: Vec<String> = some
        .history
        .backups()
        .map(|backup| {
            let (gone, why) = plan.reason(&some.history, &backup.label);
            format!("{} {gone} {why}", some.names[&backup.label])
        })
        .collect();
    let full = "repo1-retention-full=1";
    let [f2, f3] = ["F2", "F3"].map(|name| some.label(name));
    assert_eq!(
        reasons,
        [
            "F1 false held".to_owned(),
            format!("F2 true {full}"),
            format!("I1 true {full}; depends on {f2}"),
            format!("F3 false {full}"),
            format!("I2 false with {f3}: {full}"),
            "F4 false not whole in this repository yet".to_owned(),
        ]
    );
    assert_eq!(plan.why(), full);
}

#[test]
fn a_hold_that_has_ended_is_none() {
    for (until, expected) in [(NOW, 1), (NOW + 1, 0)] {
        let some = sample("F1 F2", 1);
        let mut backups: Vec<_> = some.history.backups().cloned().collect();
        backups[0].hold = Some(hold(Some(until)));
        let databases = some.history.databases.clone();
        let history = History::new(RepoKey::new(1).unwrap(), databases, backups, NOW);
        let plan = plan(&history, &retention("full=1"), &Ask::default(), &Zone::utc()).unwrap();
        assert_eq!(plan.labels().len(), expected, "{until}");
    }
}

#[test]
fn a_day_is_a_day_of_the_time_zone() {
    // 03:00 and 22:00 UTC on the same day; 22:00 of the day before and 17:00 in New York.
    let some = sample("F1@1.375 F2@0.583333 F3@0.1", 1);
    let gone = |zone: &Zone| {
        plan(&some.history, &retention("daily=3"), &Ask::default(), zone)
            .unwrap()
            .labels()
            .len()
    };
    assert_eq!(gone(&Zone::utc()), 1);
    assert_eq!(gone(&Zone::named("America/New_York").unwrap()), 0);
    assert!(Zone::named("Europe/Atlantis").is_err());
}
