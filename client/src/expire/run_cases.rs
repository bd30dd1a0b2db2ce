//! Whole expiries, against a keeper in memory: the order of requests and lines, page by page, in several repositories.

use super::history::Ask;
use super::lines::{Level, Line};
use super::run::{ExpireSettings, Keeper, expire};
use super::sample::{NOW, Sample, retention, sample};
use super::{ExpireReport, Zone};
use crate::caller::Nobody;
use pgmesh_postgres::SegmentName;
use pgmesh_protocol::{
    ExitCode, ExpireBackups, ExpireWal, ExpiredBackups, ExpiredFile, ExpiredWal, Failure, GetRetained, Retained,
    RetainedBackup,
};
use pgmesh_storage::{BackupLabel, DbId, RepoKey};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// Backups and files in one answer.
const PAGE: usize = 2;

/// The content of one repository.
struct Repository {
    sample: Sample,
    backups: BTreeMap<BackupLabel, RetainedBackup>,
    wal: BTreeMap<DbId, BTreeSet<String>>,
    stopped: Option<String>,
    /// It refuses to expire backups.
    broken: bool,
}

#[derive(Default)]
struct Memory(RefCell<BTreeMap<RepoKey, Repository>>);

impl Keeper for Memory {
    async fn retained(&self, ask: &GetRetained) -> Result<Retained, Failure> {
        let repositories = self.0.borrow();
        let repository = &repositories[&ask.repo];
        let left: Vec<&RetainedBackup> = repository
            .backups
            .values()
            .filter(|backup| ask.after.as_ref().is_none_or(|after| backup.label > *after))
            .collect();
        Ok(Retained {
            stopped: repository.stopped.clone(),
            databases: repository.sample.history.databases.clone(),
            more: left.len() > PAGE,
            backups: left.into_iter().take(PAGE).cloned().collect(),
            clock: NOW,
        })
    }

    async fn expire_backups(&self, expire: &ExpireBackups) -> Result<ExpiredBackups, Failure> {
        let mut repositories = self.0.borrow_mut();
        let repository = repositories.get_mut(&expire.repo).unwrap();
        if repository.broken {
            return Err(Failure::new(ExitCode::RepoInvalid, "the repository is away"));
        }
        assert!(
            expire.labels.is_sorted_by(|one, other| one > other),
            "dependents go first"
        );
        repository.backups.retain(|label, _| !expire.labels.contains(label));
        let labels = expire.labels.clone();
        Ok(ExpiredBackups {
            labels: labels.into_vec(),
        })
    }

    async fn expire_wal(&self, expire: &ExpireWal) -> Result<ExpiredWal, Failure> {
        let mut repositories = self.0.borrow_mut();
        let repository = repositories.get_mut(&expire.repo).unwrap();
        let wal = repository.wal.entry(expire.database).or_default();
        let goes = |file: &&String| {
            let Ok(segment) = file.get(..24).unwrap_or("").parse::<SegmentName>() else {
                let timeline = u32::from_str_radix(&file[..8], 16).unwrap();
                return expire.histories_below.is_some_and(|below| timeline < below.0);
            };
            !expire.keep.iter().any(|kept| kept.has(segment)) && expire.before.is_none_or(|before| segment < before)
        };
        let later = wal
            .iter()
            .filter(|file| expire.after.as_deref().is_none_or(|after| file.as_str() > after));
        let files: Vec<String> = later.filter(goes).take(PAGE).cloned().collect();
        if !expire.dry_run {
            wal.retain(|file| !files.contains(file));
        }
        let more = files.last().filter(|_| files.len() == PAGE).cloned();
        let files = files.into_iter().map(|file| ExpiredFile { file, bytes: 16 }).collect();
        Ok(ExpiredWal { files, more })
    }
}

fn key(number: u16) -> RepoKey {
    RepoKey::new(number).unwrap()
}

/// Segments of timeline 1 in directory 0, from 1 to `last`, and a history file.
fn files(last: u32) -> BTreeSet<String> {
    let segments = (1..=last).map(|number| format!("0000000100000000{number:08X}"));
    segments.chain(["00000001.history".to_owned()]).collect()
}

/// A stanza in one repository, with WAL up to a segment in each database.
fn repository(history: &str, databases: u32, last: u32) -> Repository {
    let sample = sample(history, databases);
    let backups = sample
        .history
        .backups()
        .map(|backup| (backup.label.clone(), backup.clone()));
    Repository {
        backups: backups.collect(),
        wal: (1..=databases).map(|id| (DbId(id), files(last))).collect(),
        stopped: None,
        broken: false,
        sample,
    }
}

struct Outcome {
    lines: Vec<String>,
    report: Result<ExpireReport, Failure>,
}

impl Memory {
    fn of(repositories: impl IntoIterator<Item = (u16, Repository)>) -> Self {
        let repositories = repositories
            .into_iter()
            .map(|(number, repository)| (key(number), repository));
        Self(RefCell::new(repositories.collect()))
    }

    fn expire(&self, options: &[&str], ask: Ask, dry_run: bool) -> Outcome {
        let repositories = (1..)
            .zip(options)
            .map(|(number, options)| (key(number), retention(options)));
        let settings = ExpireSettings {
            stanza: "main".parse().unwrap(),
            repositories: repositories.collect(),
            zone: Zone::utc(),
            ask,
            dry_run,
        };
        let lines = RefCell::new(Vec::new());
        let log = |line: &Line| {
            let level = match line.level {
                Level::Error => "ERROR",
                Level::Warn => "WARN",
                Level::Info => "INFO",
                Level::Detail => "DETAIL",
            };
            lines.borrow_mut().push(format!("{level}: {}", line.text));
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let report = runtime.block_on(expire(&settings, self, &Nobody, &log));
        let lines = lines.take().iter().map(|line| self.named(line)).collect();
        Outcome { lines, report }
    }

    /// With the names of repository 1 instead of labels.
    fn named(&self, line: &str) -> String {
        let repositories = self.0.borrow();
        let names = repositories[&key(1)].sample.names.iter().rev();
        names.fold(line.to_owned(), |line, (label, name)| {
            line.replace(label.as_str(), name)
        })
    }

    fn backups(&self, number: u16) -> usize {
        self.0.borrow()[&key(number)].backups.len()
    }

    fn wal(&self, number: u16, database: u32) -> usize {
        self.0.borrow()[&key(number)].wal[&DbId(database)].len()
    }
}

const HISTORY: &str = "F1:2-3 D1:5-5 F2:7-8 F3:t2.10-11";

#[test]
fn the_log_is_pgbackrests_line_by_line() {
    let memory = Memory::of([(1, repository(HISTORY, 1, 9))]);
    let expected = [
        "INFO: repo1: expire full backup set F1, D1",
        "INFO: repo1: remove expired backup D1",
        "INFO: repo1: remove expired backup F1",
        "DETAIL: repo1: 15-1 archive retention on backup F2, start = 000000010000000000000007, stop = \
         000000010000000000000008",
        "DETAIL: repo1: 15-1 archive retention on backup F3, start = 00000002000000000000000A",
        "INFO: repo1: 15-1 remove archive, start = 000000010000000000000001, stop = 000000010000000000000006",
        "INFO: repo1: 15-1 remove archive, start = 000000010000000000000009, stop = 000000010000000000000009",
    ];
    let options = ["full=2 archive=1"];
    let dry = memory.expire(&options, Ask::default(), true);
    assert_eq!(
        (memory.backups(1), memory.wal(1, 1)),
        (4, 10),
        "a dry run changes nothing"
    );
    let done = memory.expire(&options, Ask::default(), false);
    assert_eq!(dry.lines, expected);
    assert_eq!(done.lines, expected);
    // A recovery of F2 may ask for the history.
    assert_eq!((memory.backups(1), memory.wal(1, 1)), (2, 3));
    let report = done.report.unwrap();
    let archive = &report.repositories[0].archives[0];
    assert_eq!((archive.files, archive.bytes, archive.ranges.len()), (7, 112, 2));
    assert_eq!(report.failure(), None);
    let again = memory.expire(&options, Ask::default(), false);
    assert_eq!(again.lines.last().unwrap(), "INFO: repo1: 15-1 no archive to remove");
}

#[test]
fn an_archive_that_no_backup_needs_goes_whole() {
    let memory = Memory::of([(1, repository("F1/2:2-3 F2/2:5-6", 2, 9))]);
    let outcome = memory.expire(&["archive=2"], Ask::default(), false);
    assert_eq!(
        outcome.lines[0],
        "INFO: repo1: remove archive path stanza/main/archive/15-1"
    );
    assert_eq!(
        outcome.lines[1],
        "DETAIL: repo1: remove archive path stanza/main/archive/15-1/0000000100000000"
    );
    assert!(
        !outcome.lines.iter().any(|line| line.contains("15-1 remove archive,")),
        "{:?}",
        outcome.lines
    );
    assert_eq!((memory.wal(1, 1), memory.wal(1, 2)), (0, 9), "history files go along");
}

#[test]
fn a_failure_in_one_repository_leaves_the_next_one_to_go_on() {
    let mut broken = repository("F1 F2", 1, 9);
    broken.broken = true;
    let memory = Memory::of([(1, broken), (2, repository("F1 F2", 1, 9))]);
    let outcome = memory.expire(&["full=1", "full=1"], Ask::default(), false);
    assert_eq!((memory.backups(1), memory.backups(2)), (2, 1));
    assert!(
        outcome
            .lines
            .contains(&"ERROR: [103]: repo1: the repository is away".to_owned())
    );
    let failure = outcome.report.unwrap().failure().unwrap();
    assert_eq!(failure.code, ExitCode::Command);
    assert_eq!(
        failure.what,
        "expire command encountered 1 error(s), check the log file for details"
    );
}

#[test]
fn a_label_that_no_repository_has_is_warned_of_once_and_in_the_last_one() {
    let memory = Memory::of([(1, repository("F1 F2", 1, 9)), (2, repository("F1", 1, 9))]);
    let warned = |label: &str| {
        let set = Some(label.parse().unwrap());
        let outcome = memory.expire(&["", ""], Ask { set, ..Ask::default() }, false);
        let is_said = |line: &&String| line.contains("does not exist\nHINT: run the info command");
        let at = outcome.lines.iter().position(|line| is_said(&line));
        (
            at,
            outcome.lines.iter().filter(is_said).count(),
            outcome.report.unwrap().failure(),
        )
    };
    assert_eq!(warned("20200101-000000F"), (Some(1), 1, None));
    let label = memory.0.borrow()[&key(1)].sample.label("F2");
    assert_eq!(warned(label.as_str()).1, 0, "repository 1 has it");
}

#[test]
fn a_stanza_that_is_stopped_expires_nothing() {
    let mut stopped = repository("F1 F2", 1, 9);
    stopped.stopped = Some("upgrade".to_owned());
    let memory = Memory::of([(1, stopped)]);
    let failure = memory.expire(&["full=1"], Ask::default(), false).report.unwrap_err();
    assert_eq!(
        (failure.code, failure.what.as_str()),
        (ExitCode::Stop, "stop file exists for stanza main")
    );
    assert_eq!(memory.backups(1), 2);
}

#[test]
fn one_backup_in_two_repositories_with_different_retention() {
    let memory = Memory::of([(1, repository(HISTORY, 1, 9)), (2, repository(HISTORY, 1, 9))]);
    let outcome = memory.expire(&["full=1", "full=9"], Ask::default(), false);
    assert_eq!((memory.backups(1), memory.backups(2)), (1, 4));
    assert_eq!((memory.wal(1, 1), memory.wal(2, 1)), (0, 10));
    let report = outcome.report.unwrap();
    let gone = |at: usize| {
        report.repositories[at]
            .backups
            .iter()
            .filter(|backup| backup.expired)
            .count()
    };
    assert_eq!((gone(0), gone(1)), (3, 0));
    let text = report.to_string();
    assert!(
        text.contains("repo1: expired 3 backups, 1 stay") && text.contains("repo1-retention-full=1"),
        "{text}"
    );
}
