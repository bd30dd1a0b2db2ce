//! The doctor's judgement on meshes in good order and in bad.

use super::*;
use crate::commands::doctor::check::Verdict;
use crate::commands::status::samples::{self, NOW, YEAR};
use pgmesh_protocol::StuckRelease;
use pgmesh_storage::RepoKey;
use std::time::Duration;

fn seen(status: MeshStatus) -> Seen {
    let probe = |name: &str| Probed {
        name: Some(name.to_owned()),
        address: format!("{name}:8433"),
        outcome: Ok((Duration::from_millis(3), env!("CARGO_PKG_VERSION").to_owned())),
    };
    Seen {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        identity: Ok(HostIdentity {
            name: "db1".to_owned(),
            role: "client".to_owned(),
            mesh: "4f2a".to_owned(),
            expires: NOW + YEAR,
        }),
        probes: vec![probe("n1"), probe("n2")],
        status: Some(Ok(status)),
        archive_ack: Some(1),
        asked: NOW - 1,
        answered: NOW + 1,
        ..Seen::default()
    }
}

fn of(checks: &[Check], subject: &str) -> (Verdict, String, ExitCode) {
    let found = checks.iter().find(|check| check.subject == subject);
    let found = found.unwrap_or_else(|| panic!("no check {subject} in {checks:?}"));
    (found.verdict, found.found.clone(), found.code)
}

#[test]
fn a_mesh_in_good_order_passes_every_check() {
    let checks = judge(&seen(samples::healthy()));
    let bad: Vec<&Check> = checks.iter().filter(|check| check.verdict != Verdict::Ok).collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert!(of(&checks, "quorum").1.ends_with("1 more may be lost"));
    assert!(of(&checks, "repositories").1.ends_with("1 may be lost"));
    assert!(of(&checks, "way to n1").1.starts_with("n1:8433 in 3.0 ms"));
}

#[test]
fn a_change_of_the_voters_that_does_not_end_is_a_warning() {
    let mut status = samples::healthy();
    assert!(
        judge(&seen(status.clone()))
            .iter()
            .all(|check| check.subject != "voters")
    );
    status.next_voters = Some(vec!["n1".to_owned(), "n2".to_owned()]);
    let (verdict, found, _) = of(&judge(&seen(status)), "voters");
    assert_eq!(verdict, Verdict::Warn);
    assert!(found.starts_with("joint: they change to n1, n2"), "{found}");
}

#[test]
fn every_trouble_has_its_line_and_remedy() {
    let mut status = samples::mesh();
    if let Ok(own) = &mut status.nodes[1].1 {
        own.clock = NOW + 12;
        own.disk_free = Some(500 << 20);
        own.certificate_expires = NOW + 86_400;
        own.last_applied = Some(0);
        own.program = "9.9.9".to_owned();
    }
    if let Ok(own) = &mut status.nodes[0].1 {
        own.last_applied = Some(5000);
    }
    let mut seen = seen(status);
    seen.archive_ack = None;
    seen.warnings.push("line 7: unknown option".to_owned());
    seen.probes[1].outcome = Err("refused".to_owned());
    let checks = judge(&seen);
    assert!(
        checks
            .iter()
            .all(|check| (check.verdict == Verdict::Ok) == check.remedy.is_none())
    );
    let verdict = |subject| of(&checks, subject).0;
    for subject in [
        "configuration",
        "clock of n2",
        "disk of n2",
        "certificate of n2",
        "node n2",
        "programs",
    ] {
        assert_eq!(verdict(subject), Verdict::Warn, "{subject}");
    }
    assert_eq!(of(&checks, "way to n2").2, ExitCode::HostConnect);
    assert_eq!(of(&checks, "node n3").2, ExitCode::HostConnect);
    assert_eq!(of(&checks, "repo2").2, ExitCode::RepoInvalid);
    // One repository of two is up, and by default two must acknowledge.
    assert_eq!(of(&checks, "repositories").2, ExitCode::ArchiveTimeout);
    assert!(of(&checks, "clock of n2").1.starts_with("11 s ahead of"));
    assert_eq!(
        of(&checks, "quorum"),
        (
            Verdict::Warn,
            "2 of 2 voters answer, 2 are needed: no further node may be lost".to_owned(),
            ExitCode::Ok
        )
    );
}

#[test]
fn without_a_majority_the_quorum_fails_and_the_rest_is_still_told() {
    let mut status = samples::healthy();
    status.quorum = Err("no majority".to_owned());
    status.leader = None;
    for at in [1, 2] {
        status.nodes[at].1 = Err("silent".to_owned());
    }
    let checks = judge(&seen(status));
    assert_eq!(of(&checks, "leader").0, Verdict::Fail);
    assert!(
        of(&checks, "quorum")
            .1
            .starts_with("1 of 3 voters answer, 2 are needed: no majority")
    );
    assert_eq!(of(&checks, "repo1").0, Verdict::Ok);
}

#[test]
fn who_has_no_identity_or_may_not_ask_is_told_what_to_do() {
    let mut without = seen(samples::healthy());
    without.identity = Err(Failure::new(ExitCode::Crypto, "no identity").remedy("join"));
    (without.status, without.probes) = (None, vec![]);
    let checks = judge(&without);
    assert_eq!((checks.len(), of(&checks, "identity").2), (2, ExitCode::Crypto));

    let mut client = seen(samples::healthy());
    client.status = Some(Err(Failure::new(ExitCode::Protocol, "only administrators")));
    assert_eq!(of(&judge(&client), "mesh").0, Verdict::Warn);
    client.status = Some(Err(Failure::new(ExitCode::HostConnect, "nobody").again()));
    assert_eq!(of(&judge(&client), "mesh").2, ExitCode::HostConnect);

    let mut expired = seen(samples::healthy());
    if let Ok(host) = &mut expired.identity {
        host.expires = NOW - 5;
    }
    assert_eq!(of(&judge(&expired), "identity").2, ExitCode::Crypto);
}

#[test]
fn a_repository_that_no_node_could_open_is_not_passed_over() {
    let mut status = samples::healthy();
    let why = "s3://nowhere/: there is no such bucket".to_owned();
    if let (_, Ok(own)) = &mut status.nodes[0] {
        own.repositories
            .push((RepoKey::new(9).unwrap(), HealthInfo::Down { since: 0, why }));
    }
    let name = status.nodes[0].0.name.clone();
    let text = text::render(&status);
    assert!(
        text.contains(&format!(
            "repo9: declared on {name}, not part of the mesh yet: s3://nowhere/"
        )),
        "{text}"
    );
    let checks = judge(&seen(status));
    let (verdict, found, _) = of(&checks, &format!("repo9 on {name}"));
    assert!(verdict == Verdict::Fail && found.contains("no such bucket"), "{found}");
}

#[test]
fn the_ways_to_a_shared_repository_are_judged_one_by_one() {
    let mut status = samples::healthy();
    status.repositories.push(samples::shared());
    let checks = judge(&seen(status.clone()));
    let (verdict, found, _) = of(&checks, "repo3");
    assert_eq!(verdict, Verdict::Ok);
    assert!(
        found.starts_with("s3://walls/mesh is up") && found.contains("7 objects"),
        "{found}"
    );
    assert_eq!(of(&checks, "repo3 on n2").0, Verdict::Warn);
    assert!(of(&checks, "repo3 on n3").1.contains("s3-bucket=walls"));
    assert!(
        of(&checks, "ways to repo3")
            .1
            .starts_with("only node n1 has the repository open")
    );
    for way in &mut status.repositories[2].nodes {
        way.health = HealthInfo::Up;
    }
    let checks = judge(&seen(status));
    assert!(checks.iter().all(|check| check.verdict == Verdict::Ok), "{checks:?}");
}

#[test]
fn an_entry_that_not_all_nodes_have_left_out_is_a_failure() {
    let entry = "3.17".parse().unwrap();
    let judged = |skips: [bool; 2], applied: [u64; 2]| {
        let mut status = samples::healthy();
        for (at, (_, own)) in status.nodes.iter_mut().take(2).enumerate() {
            let own = own.as_mut().unwrap();
            own.last_applied = Some(applied[at]);
            if skips[at] {
                own.skipped.push(entry);
            }
        }
        status.nodes.truncate(2);
        judge(&seen(status))
    };
    assert!(
        !judged([false, false], [20, 20])
            .iter()
            .any(|check| check.subject == "entry 3.17")
    );
    assert_eq!(of(&judged([true, true], [20, 20]), "entry 3.17").0, Verdict::Ok);
    let behind = of(&judged([true, false], [20, 16]), "entry 3.17");
    assert_eq!(behind.0, Verdict::Warn);
    assert!(behind.1.ends_with("not reached yet by n2"), "{}", behind.1);
    let differs = of(&judged([true, false], [20, 20]), "entry 3.17");
    assert_eq!(differs.0, Verdict::Fail);
    assert!(differs.1.starts_with("skipped by n1, applied by n2"), "{}", differs.1);
}

#[test]
fn wal_that_is_missing_fails_where_no_backup_reaches_the_present() {
    use crate::commands::info::samples::holes;
    let mut status = samples::healthy();
    status.holes.stanzas = vec![holes()];
    let (verdict, found, code) = of(&judge(&seen(status.clone())), "archived WAL");
    assert_eq!((verdict, code), (Verdict::Fail, ExitCode::FileMissing));
    assert!(
        found
            .contains("stanza main: 3 WAL segments, 000000010000000000000005 to 000000010000000000000007, are missing"),
        "{found}"
    );
    assert!(
        found.contains("backup 20260102-000000F cannot be recovered beyond 0/5000000")
            && found.contains("the end of timeline 2"),
        "{found}"
    );
    status.holes.stanzas[0].unreached.clear();
    let (verdict, ..) = of(&judge(&seen(status)), "archived WAL");
    assert_eq!(verdict, Verdict::Warn);
}

#[test]
fn a_worker_that_has_ended_is_an_alarm_and_a_failure_until_it_runs_again() {
    let judged = |is_running| {
        let mut status = samples::healthy();
        status.nodes[0].1.as_mut().unwrap().workers = vec![samples::worker(is_running)];
        of(&judge(&seen(status)), "workers of n1")
    };
    let (verdict, found, _) = judged(true);
    assert_eq!(verdict, Verdict::Warn);
    assert!(
        found.starts_with("worker 'repair' has ended unexpectedly 2 times since the node's start, last at "),
        "{found}"
    );
    assert!(found.ends_with(": it panicked: no; it was started again"), "{found}");
    let (verdict, found, _) = judged(false);
    assert_eq!(verdict, Verdict::Fail);
    assert!(found.ends_with("it does not run"), "{found}");
}

#[test]
fn expired_backups_that_are_not_deleted_for_hours_are_a_warning() {
    let mut status = samples::healthy();
    status.release.backups = vec![(RepoKey::new(1).unwrap(), 3)];
    let stuck = |since| {
        Some(StuckRelease {
            since,
            why: "repo1 is away".to_owned(),
        })
    };
    status.release.stuck = stuck(NOW - 6 * 3600 + 2);
    let checks = judge(&seen(status.clone()));
    assert!(checks.iter().all(|check| check.subject != "expired backups"));
    status.release.stuck = stuck(NOW - 6 * 3600);
    let (verdict, said, _) = of(&judge(&seen(status)), "expired backups");
    assert_eq!(verdict, Verdict::Warn);
    assert!(said.contains("3 of repo1") && said.contains("repo1 is away"), "{said}");
}
