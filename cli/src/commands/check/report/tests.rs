use super::*;
use crate::commands::info::samples;
use pgmesh_client::pg::{ArchiverFailure, ReadyFiles, ServerArchiver};

const SEGMENT: &str = "000000010000000000000007";

/// A report on the sample mesh, whose repo2 is down and in debt, with the segment missing or owed.
fn report(missing: &[&str], owed: &[u16]) -> Report {
    let mut report = Report::new("main".parse().unwrap());
    let info = samples::mesh();
    report.saw_mesh(&info, info.clock, info.clock);
    report.saw_cluster(SystemId(17), "15-1".parse().unwrap());
    report.saw_segment(SwitchedSegment {
        name: SEGMENT.parse().unwrap(),
        presence: SegmentPresence {
            missing: missing.iter().map(ToString::to_string).collect(),
            owed: owed.iter().map(|repo| (*repo, SEGMENT.to_owned())).collect(),
            repositories: vec![1, 2],
        },
        limit: Duration::from_secs(60),
    });
    report
}

fn all_up(report: &mut Report) {
    for repository in &mut report.repositories {
        repository.health = HealthInfo::Up;
    }
}

#[test]
fn everywhere_is_ok_and_a_debt_is_named_all_the_same() {
    let mut report = report(&[], &[]);
    all_up(&mut report);
    assert_eq!(report.verdict(), Ok(()));
    let troubles = report.troubles();
    assert!(
        matches!(troubles.as_slice(), [one] if one.starts_with("repo2: owes 12 objects")),
        "{troubles:?}"
    );
    let text = report.text(None);
    for line in [
        "status: ok",
        "repo1: has the segment",
        "repo2: has the segment",
        "repo2: owes 12 objects",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn a_repository_that_is_away_is_named_with_since_and_debt() {
    let report = report(&[], &[2]);
    let failure = report.verdict().unwrap_err();
    assert_eq!(failure.code, ExitCode::RepoInvalid);
    let said = failure.to_string();
    for part in [
        SEGMENT,
        "not in repo2",
        "repo2: down since 20",
        "no such directory",
        "owes 12 objects (24.1MB) since",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!said.contains("repo1"), "{said}");
    let json = report.json(Some(&failure));
    assert_eq!(json["status"]["code"], 103);
    assert_eq!(json["segment"], json!({"name": SEGMENT, "archived": true}));
    assert_eq!(json["repo"][0]["has-segment"], true);
    assert_eq!(json["repo"][1]["has-segment"], false);
    assert_eq!(json["repo"][1]["health"]["state"], "down");
}

#[test]
fn a_repository_that_is_up_and_slow_is_named_too() {
    let mut report = report(&[], &[1]);
    all_up(&mut report);
    let said = report.verdict().unwrap_err().to_string();
    assert!(
        said.contains("repo1: the segment did not reach it within 60 s"),
        "{said}"
    );
}

#[test]
fn one_failed_request_of_a_repository_that_has_the_segment_is_no_verdict() {
    assert_eq!(report(&[], &[]).verdict(), Ok(()));
}

#[test]
fn a_segment_that_is_nowhere_is_a_timeout() {
    let mut report = report(&[SEGMENT], &[]);
    report.saw_archiver(stuck_archiver(), 9000);
    let failure = report.verdict().unwrap_err();
    assert_eq!(failure.code, ExitCode::ArchiveTimeout);
    let said = failure.to_string();
    for part in [
        "not archived within 60 s",
        "000000010000000000000005",
        "repo2: down since",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(report.text(Some(&failure)).contains("repo1: does not have the segment"));
}

fn stuck_archiver() -> Archiver {
    Archiver {
        ready: Some(ReadyFiles {
            count: 3,
            next: "000000010000000000000005".into(),
            since: 0,
        }),
        server: Some(ServerArchiver {
            mode: "always".into(),
            standby: true,
            archived_at: None,
            failure: Some(ArchiverFailure {
                file: "000000010000000000000005".into(),
                at: 0,
            }),
        }),
    }
}

#[test]
fn an_archiver_that_is_stuck_fails_the_check_of_a_standby_that_archives() {
    let mut report = report(&[], &[]);
    report.segment = None;
    report.unswitched("the cluster is a standby");
    report.saw_archiver(stuck_archiver(), 9000);
    let failure = report.verdict().unwrap_err();
    assert_eq!(failure.code, ExitCode::ArchiveTimeout);
    assert!(failure.to_string().contains("3 WAL files wait"), "{failure}");
    assert!(report.text(Some(&failure)).contains("archiver: 3 WAL files wait"));
    let json = report.json(Some(&failure));
    assert_eq!(json["archiver"]["state"], "stuck");
    assert_eq!(json["archiver"]["ready"], 3);
}

#[test]
fn without_a_segment_only_what_is_away_counts() {
    let mut report = report(&[], &[]);
    report.segment = None;
    report.unswitched("the cluster is a standby");
    assert_eq!(report.verdict().unwrap_err().code, ExitCode::RepoInvalid);
    assert!(
        report
            .text(None)
            .contains("wal: not switched: the cluster is a standby")
    );
    all_up(&mut report);
    assert_eq!(report.verdict(), Ok(()));
    assert_eq!(report.json(None)["repo"][0]["has-segment"], Value::Null);
}

#[test]
fn a_repository_outside_the_mesh_that_is_refused_is_named() {
    let mut report = report(&[], &[]);
    report.repositories[1].health = HealthInfo::Refused {
        why: "another definition".into(),
    };
    if let Some(segment) = &mut report.segment {
        segment.presence.repositories = vec![1];
    }
    assert!(report.is_refused(2) && !report.is_refused(1));
    let said = report.verdict().unwrap_err().to_string();
    assert!(said.contains("repo2: not served: another definition"), "{said}");
}

#[test]
fn clocks_that_differ_by_more_than_a_minute_are_named() {
    assert_eq!(clock_difference(1000, 1000, 1000), None);
    assert_eq!(clock_difference(1060, 1000, 1000), None);
    assert_eq!(clock_difference(1061, 1000, 1000), Some(61));
    assert_eq!(clock_difference(939, 1000, 1000), Some(-61));
    // A slow answer is no difference.
    assert_eq!(clock_difference(1100, 1000, 1200), None);
    assert!(clock_difference(i64::MIN, i64::MAX, i64::MAX).is_some());
    let mut report = report(&[], &[]);
    let info = samples::mesh();
    report.saw_mesh(&info, info.clock + 7260, info.clock + 7260);
    assert_eq!(
        report.troubles()[0],
        "the clock of node alpha is 2 h 1 min behind this host's"
    );
}

#[test]
fn wal_that_is_missing_fails_the_check_where_no_backup_reaches_the_present() {
    let mut report = report(&[], &[]);
    let mut info = samples::with_hole();
    report.saw_mesh(&info, info.clock, info.clock);
    all_up(&mut report);
    let failure = report.verdict().unwrap_err();
    assert_eq!(failure.code, ExitCode::FileMissing);
    let said = failure.to_string();
    for part in [
        "no backup can be recovered to the end of timeline 2",
        "000000010000000000000005 to 000000010000000000000007",
        "backup 20260102-000000F cannot be recovered beyond 0/5000000",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert!(failure.remedy.unwrap().contains("archive-push"));
    assert_eq!(report.json(None)["wal-holes"]["hole"][0]["count"], 3);
    // Of a hole that a newer backup has behind it there is no more than a warning.
    info.holes.stanzas[0].unreached.clear();
    report.saw_mesh(&info, info.clock, info.clock);
    all_up(&mut report);
    assert_eq!(report.verdict(), Ok(()));
    assert!(report.troubles().iter().any(|trouble| trouble.contains("missing")));
    assert!(report.text(None).contains("wal: 3 WAL segments"));
}

#[test]
fn a_worker_that_has_ended_is_named_and_does_not_fail_the_check() {
    let mut report = report(&[], &[]);
    let mut info = samples::mesh();
    info.workers = vec![crate::commands::status::samples::worker(true)];
    report.saw_mesh(&info, info.clock, info.clock);
    all_up(&mut report);
    assert_eq!(report.verdict(), Ok(()));
    let line = "node n1: worker 'repair' has ended unexpectedly 2 times since the node's start";
    assert!(report.troubles().iter().any(|trouble| trouble.starts_with(line)));
    assert!(report.text(None).contains(line), "{}", report.text(None));
    assert_eq!(report.json(None)["workers"][0]["ends"], 2);
    assert_eq!(report.json(None)["workers"][0]["running"], true);
}
