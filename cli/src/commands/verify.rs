//! `verify`: has the mesh read and check all objects, and reports the findings.
//!
//! Exits 26 if an object is damaged or missing or the WAL has a gap, and 103 if there is no such finding, but a
//! repository could not be read: a monitor that watches the exit code must not take an outage for rot. Owed objects,
//! objects without a reference, and files that are no objects of the repository are listed as notes.

use super::stanza;
use crate::config::Config;
use crate::output::{self, OutputFormat, size};
use crate::progress::Counter;
use crate::settings;
use pgmesh_client::mesh::{Heard, Mesh};
use pgmesh_protocol::{ExitCode, Failure, Finding, FindingKind, VerifyEvent, VerifyRequest, VerifySummary};
use serde_json::{Value, json};
use std::fmt::Write;
use std::ops::ControlFlow;

/// Verifies one stanza, or all; in one repository, or in all.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    if config.text("set").is_some() {
        return Err(
            Failure::new(ExitCode::OptionInvalid, "verify --set is not available yet")
                .remedy("leave --set out: every backup of the stanza is verified"),
        );
    }
    let request = VerifyRequest {
        part: None,
        stanza: config.stanza().map(|_| stanza(config)).transpose()?,
        repo: super::info::repository(config)?.map(pgmesh_storage::RepoKey::get),
    };
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let mut report = Report::default();
    let outcome = watch(&mesh, &request, &mut report).await;
    // If the verification broke off, its findings so far are shown all the same; the failure decides the exit code.
    if outcome.is_ok() || !report.findings.is_empty() {
        match OutputFormat::of(config) {
            OutputFormat::Json => output::print_json(&report.json())?,
            OutputFormat::Text => output::print(&report.text())?,
        }
    }
    outcome?;
    Ok(report.exit_code())
}

/// Collects the mesh's events until the verification ends.
async fn watch(mesh: &Mesh, request: &VerifyRequest, report: &mut Report) -> Result<(), Failure> {
    let reading = Counter::start("verify");
    let events = mesh.events(request, |heard| match heard {
        // Another node begins anew, and finds again the findings of the last one.
        Heard::Begun => {
            *report = Report::default();
            ControlFlow::Continue(())
        }
        Heard::Event(VerifyEvent::Progress { objects, bytes }) => {
            (report.summary.objects, report.summary.bytes) = (objects, bytes);
            reading.show(so_far(objects, bytes, report.errors()));
            ControlFlow::Continue(())
        }
        Heard::Event(VerifyEvent::Found(finding)) => {
            report.findings.push(finding);
            ControlFlow::Continue(())
        }
        Heard::Event(VerifyEvent::Done(summary)) => {
            (report.summary, report.complete) = (summary, true);
            ControlFlow::Break(Ok(()))
        }
        Heard::Event(VerifyEvent::Failed(failure)) => ControlFlow::Break(Err(failure)),
    });
    events.await
}

fn so_far(objects: u64, bytes: u64, errors: usize) -> String {
    let trouble = if errors == 0 {
        String::new()
    } else {
        format!(", {}", counted(errors, "error"))
    };
    format!("{objects} objects, {} read{trouble}", size(bytes))
}

/// The result of a verification.
#[derive(Debug, Default)]
struct Report {
    findings: Vec<Finding>,
    /// The sums; if the verification broke off, the sums so far.
    summary: VerifySummary,
    /// The verification did not break off.
    complete: bool,
}

impl Report {
    fn errors(&self) -> usize {
        self.findings.iter().filter(|finding| finding.kind.is_error()).count()
    }

    /// Errors about stored objects; a repository that could not be asked is not one of them.
    fn faults(&self) -> usize {
        let errors = self.findings.iter().filter(|finding| finding.kind.is_error());
        errors.filter(|finding| finding.kind != FindingKind::Unreadable).count()
    }

    fn exit_code(&self) -> ExitCode {
        match (self.errors(), self.faults()) {
            (0, _) => ExitCode::Ok,
            (_, 0) => ExitCode::RepoInvalid,
            _ => ExitCode::Checksum,
        }
    }

    fn status(&self) -> &'static str {
        match (self.complete, self.errors(), self.faults()) {
            (false, ..) => "incomplete",
            (true, 0, _) => "ok",
            // The objects that could be read are in order; about the rest, nothing is known.
            (true, _, 0) => "incomplete",
            (true, ..) => "error",
        }
    }

    /// A line for each finding, then the archives, the damaged backups, and the sum.
    fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            text.push_str(&line(finding));
            text.push('\n');
        }
        let summary = &self.summary;
        for archive in &summary.archives {
            // Writing to a String does not fail.
            let _ = writeln!(text, "archive: {archive}");
        }
        for backup in &summary.damaged_backups {
            let _ = writeln!(text, "damaged backup: {backup}");
        }
        let notes = self.findings.len() - self.errors();
        let _ = writeln!(
            text,
            "checked: {} objects ({}), {} WAL segments, {} backups, {} of them damaged",
            summary.objects,
            size(summary.bytes),
            summary.segments,
            summary.backups,
            summary.damaged_backups.len()
        );
        let _ = writeln!(
            text,
            "status: {} ({}, {})",
            self.status(),
            counted(self.errors(), "error"),
            counted(notes, "note")
        );
        text
    }

    fn json(&self) -> Value {
        let summary = &self.summary;
        json!({
            "status": self.status(),
            "objects": summary.objects,
            "bytes": summary.bytes,
            "segments": summary.segments,
            "backups": summary.backups,
            "damaged-backups": summary.damaged_backups,
            "findings": self.findings.iter().map(finding_json).collect::<Value>(),
            "archives": summary.archives,
        })
    }
}

/// `error: damaged: repo1: chunk/…: the tag does not fit`.
fn line(finding: &Finding) -> String {
    let weight = if finding.kind.is_error() { "error" } else { "note" };
    let mut line = format!("{weight}: {}", finding.kind.name());
    if let Some(repo) = finding.repo {
        let name = format!("repo{repo}");
        // A finding about a whole repository has the repository as its subject.
        if finding.subject != name {
            let _ = write!(line, ": {name}");
        }
    }
    // The path of an object begins with its stanza's folder; a label and a segment's name do not tell the stanza.
    if let Some(stanza) = &finding.stanza
        && !finding.subject.contains('/')
    {
        let _ = write!(line, ": stanza {stanza}");
    }
    let _ = write!(line, ": {}: {}", finding.subject, finding.what.replace('\n', " "));
    line
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "kind": finding.kind.name(),
        "repo": finding.repo,
        "stanza": finding.stanza,
        "subject": finding.subject,
        "what": finding.what,
    })
}

fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(kind: FindingKind, repo: Option<u16>, stanza: Option<&str>, subject: &str) -> Finding {
        Finding {
            kind,
            repo,
            stanza: stanza.map(str::to_owned),
            subject: subject.into(),
            what: "the tag is wrong".into(),
        }
    }

    fn summary() -> VerifySummary {
        VerifySummary {
            objects: 1234,
            bytes: 3 << 30,
            backups: 2,
            damaged_backups: vec!["main/20260102-000000F".into()],
            segments: 56,
            archives: vec!["main 15-1: timeline 1: A to B (56 segments)".into()],
        }
    }

    #[test]
    fn a_finding_is_one_line_that_says_where() {
        let damaged = finding(
            FindingKind::Damaged,
            Some(1),
            Some("main"),
            "stanza/main/archive/15-1/x",
        );
        assert_eq!(
            line(&damaged),
            "error: damaged: repo1: stanza/main/archive/15-1/x: the tag is wrong"
        );
        let gap = finding(FindingKind::WalGap, None, Some("main"), "A to B");
        assert_eq!(line(&gap), "error: wal-gap: stanza main: A to B: the tag is wrong");
        let owed = finding(FindingKind::Owed, Some(2), None, "repo2");
        assert_eq!(line(&owed), "note: owed: repo2: the tag is wrong");
    }

    #[test]
    fn damage_is_an_error_and_named() {
        let findings = vec![
            finding(FindingKind::Damaged, Some(1), None, "chunk/ab/abc"),
            finding(FindingKind::Unreferenced, Some(2), None, "chunk/cd/cde"),
            finding(FindingKind::BackupDamaged, Some(1), Some("main"), "20260102-000000F"),
        ];
        let report = Report {
            findings,
            summary: summary(),
            complete: true,
        };
        assert_eq!(report.exit_code(), ExitCode::Checksum);
        let text = report.text();
        assert!(text.contains("archive: main 15-1: timeline 1"), "{text}");
        assert!(text.contains("damaged backup: main/20260102-000000F\n"), "{text}");
        assert!(
            text.contains("checked: 1234 objects (3GB), 56 WAL segments, 2 backups, 1 of them damaged\n"),
            "{text}"
        );
        assert!(text.ends_with("status: error (2 errors, 1 note)\n"), "{text}");
        let json = report.json();
        assert_eq!(json["status"], "error");
        assert_eq!(json["objects"], 1234);
        assert_eq!(json["damaged-backups"], json!(["main/20260102-000000F"]));
        let expected = json!({
            "kind": "unreferenced", "repo": 2, "stanza": null, "subject": "chunk/cd/cde", "what": "the tag is wrong",
        });
        assert_eq!(json["findings"][1], expected);
    }

    #[test]
    fn what_is_owed_or_left_over_is_no_error() {
        for kind in [FindingKind::Owed, FindingKind::Unreferenced, FindingKind::Foreign] {
            let summary = VerifySummary {
                damaged_backups: vec![],
                ..summary()
            };
            let report = Report {
                findings: vec![finding(kind, Some(2), None, "repo2")],
                summary,
                complete: true,
            };
            assert_eq!(report.exit_code(), ExitCode::Ok);
            assert_eq!(report.status(), "ok");
            assert!(report.text().ends_with("status: ok (no errors, 1 note)\n"));
        }
    }

    #[test]
    fn a_repository_that_cannot_be_read_is_no_damage() {
        let report = |kinds: &[FindingKind]| Report {
            findings: kinds
                .iter()
                .map(|kind| finding(*kind, Some(2), None, "repo2"))
                .collect(),
            summary: VerifySummary::default(),
            complete: true,
        };
        let away = report(&[FindingKind::Unreadable, FindingKind::Owed]);
        assert_eq!((away.exit_code(), away.status()), (ExitCode::RepoInvalid, "incomplete"));
        let text = away.text();
        assert!(text.ends_with("status: incomplete (1 error, 1 note)\n"), "{text}");
        for fault in [
            FindingKind::Damaged,
            FindingKind::Missing,
            FindingKind::BackupDamaged,
            FindingKind::WalGap,
        ] {
            let both = report(&[FindingKind::Unreadable, fault]);
            assert_eq!((both.exit_code(), both.status()), (ExitCode::Checksum, "error"));
        }
    }

    #[test]
    fn a_verification_that_broke_off_is_not_ok() {
        let findings = vec![finding(FindingKind::Damaged, Some(1), None, "chunk/x")];
        let report = Report {
            findings,
            ..Report::default()
        };
        assert_eq!(report.json()["status"], "incomplete");
        let text = report.text();
        assert!(
            text.starts_with("error: damaged: repo1: chunk/x")
                && text.ends_with("status: incomplete (1 error, no notes)\n"),
            "{text}"
        );
    }
}
