//! Expiry in the repositories of a mesh, one after the other.

use super::archives::ArchivePlan;
use super::calendar::Zone;
use super::history::{Ask, History};
use super::lines::Line;
use super::plan::{Plan, plan};
use super::report::{ArchiveReport, BackupReport, ErrorReport, ExpireReport, RepositoryReport, StretchReport};
use super::retention::Retention;
use super::runs::{self, Runs, Seen};
use crate::caller::Caller;
use crate::mesh::Mesh;
use pgmesh_protocol::{
    EXPIRED_AT_ONCE, ExitCode, ExpireBackups, ExpireWal, ExpiredBackups, ExpiredWal, Failure, GetRetained, Retained,
    RetainedBackup, RetainedDatabase,
};
use pgmesh_storage::{RepoKey, StanzaName};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How often long work on one archive is told in the log.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// Runs of WAL that a report names for one archive; all of them are in the log.
const RANGES: usize = 1000;
/// Files beside segments that wait for the end of an archive; further ones are told at once.
const OTHERS: usize = 1000;
/// Bytes of the reason in the audit trail, at most.
const WHY: usize = 500;

/// What is to expire where.
#[derive(Debug, Clone)]
pub struct ExpireSettings {
    /// The stanza.
    pub stanza: StanzaName,
    /// The repositories, each with its options.
    pub repositories: BTreeMap<RepoKey, Retention>,
    /// The time zone of days, weeks, months and years.
    pub zone: Zone,
    /// The wishes of the command line.
    pub ask: Ask,
    /// Nothing is changed.
    pub dry_run: bool,
}

/// Expires in each repository by itself. A failure in one of them is logged and reported, and the next one goes on.
///
/// # Errors
/// 62: the stanza is stopped. Nothing was done then.
pub async fn run(settings: &ExpireSettings, mesh: &Mesh, caller: &dyn Caller) -> Result<ExpireReport, Failure> {
    expire(settings, mesh, caller, &Line::log).await
}

/// Gives the facts about repositories, and carries out.
pub(super) trait Keeper {
    /// A page of facts.
    async fn retained(&self, ask: &GetRetained) -> Result<Retained, Failure>;
    /// Backups are not kept any longer.
    async fn expire_backups(&self, expire: &ExpireBackups) -> Result<ExpiredBackups, Failure>;
    /// A page of WAL is not kept any longer.
    async fn expire_wal(&self, expire: &ExpireWal) -> Result<ExpiredWal, Failure>;
}

impl Keeper for Mesh {
    async fn retained(&self, ask: &GetRetained) -> Result<Retained, Failure> {
        self.call(ask).await
    }

    async fn expire_backups(&self, expire: &ExpireBackups) -> Result<ExpiredBackups, Failure> {
        self.call(expire).await
    }

    async fn expire_wal(&self, expire: &ExpireWal) -> Result<ExpiredWal, Failure> {
        self.call(expire).await
    }
}

/// As [`run`], with the way to the facts and to the log.
pub(super) async fn expire<K: Keeper>(
    settings: &ExpireSettings,
    keeper: &K,
    caller: &dyn Caller,
    log: &dyn Fn(&Line),
) -> Result<ExpireReport, Failure> {
    let mut report = ExpireReport {
        dry_run: settings.dry_run,
        ..ExpireReport::default()
    };
    let mut found = false;
    let last = settings.repositories.keys().next_back().copied();
    for (repo, retention) in &settings.repositories {
        let mut work = Work {
            settings,
            keeper,
            caller,
            log,
            repo: *repo,
            report: RepositoryReport::new(*repo),
        };
        match work.expire(retention, &mut found, Some(*repo) == last).await {
            Ok(()) => {}
            Err(failure) if failure.code == ExitCode::Stop => return Err(failure),
            Err(failure) => work.give_up(&failure),
        }
        report.repositories.push(work.report);
    }
    Ok(report)
}

/// The work in one repository.
struct Work<'w, K> {
    settings: &'w ExpireSettings,
    keeper: &'w K,
    caller: &'w dyn Caller,
    log: &'w dyn Fn(&Line),
    repo: RepoKey,
    report: RepositoryReport,
}

impl<K: Keeper> Work<'_, K> {
    fn say(&self, line: Line) {
        (self.log)(&line);
    }

    /// The next repository goes on.
    fn give_up(&mut self, failure: &Failure) {
        let remedy = failure
            .remedy
            .as_deref()
            .map_or(String::new(), |remedy| format!("\nHINT: {remedy}"));
        let code = failure.code.number();
        self.say(Line::error(format!(
            "[{code:03}]: repo{}: {failure}{remedy}",
            self.repo
        )));
        let message = failure.to_string();
        self.report.errors.push(ErrorReport { code, message });
    }

    async fn expire(&mut self, retention: &Retention, found: &mut bool, is_last: bool) -> Result<(), Failure> {
        let history = self.history().await?;
        let ask = &self.settings.ask;
        // A label is in a repository also if it has to stay there.
        *found |= ask.set.as_ref().is_some_and(|label| history.get(label).is_some());
        let plan = plan(&history, retention, ask, &self.settings.zone)?;
        if let Some(label) = ask.set.as_ref().filter(|_| is_last && !*found) {
            self.say(Line::warn(format!(
                "backup {label} does not exist\nHINT: run the info command and confirm the backup is listed"
            )));
        }
        plan.lines().iter().for_each(self.log);
        self.backups(&history, &plan).await?;
        let wal = plan.wal?;
        wal.lines.iter().for_each(self.log);
        for archive in &wal.archives {
            self.archive(archive).await?;
        }
        Ok(())
    }

    async fn history(&self) -> Result<History, Failure> {
        let mut ask = GetRetained {
            stanza: self.settings.stanza.clone(),
            repo: self.repo,
            after: None,
        };
        let mut backups: Vec<RetainedBackup> = Vec::new();
        loop {
            let answer = self.keeper.retained(&ask).await?;
            if let Some(reason) = answer.stopped {
                let what = format!("stop file exists for stanza {}", self.settings.stanza);
                return Err(Failure::new(ExitCode::Stop, what).because(reason));
            }
            let databases: Vec<RetainedDatabase> = answer.databases;
            let last = answer.backups.last().map(|backup| backup.label.clone());
            backups.extend(answer.backups);
            // A node that repeats itself must not keep the client here for ever.
            if !answer.more || last.is_none() || last <= ask.after {
                return Ok(History::new(self.repo, databases, backups, answer.clock));
            }
            ask.after = last;
        }
    }

    async fn backups(&mut self, history: &History, plan: &Plan) -> Result<(), Failure> {
        let labels = plan.labels();
        let mut why = plan.why();
        why.truncate(why.floor_char_boundary(WHY));
        for labels in labels.chunks(EXPIRED_AT_ONCE).filter(|_| !self.settings.dry_run) {
            let request = ExpireBackups {
                stanza: self.settings.stanza.clone(),
                repo: self.repo,
                labels: labels.to_vec().into(),
                why: why.clone().into(),
            };
            self.keeper.expire_backups(&request).await?;
        }
        for label in &labels {
            self.say(Line::info(format!("repo{}: remove expired backup {label}", self.repo)));
        }
        for backup in history.backups() {
            let (expired, reason) = plan.reason(history, &backup.label);
            self.report.backups.push(BackupReport {
                label: backup.label.clone(),
                expired,
                reason,
                bytes: backup.stored_delta,
            });
        }
        Ok(())
    }

    async fn archive(&mut self, plan: &ArchivePlan) -> Result<(), Failure> {
        plan.lines.iter().for_each(self.log);
        let (repo, id) = (self.repo, plan.archive.to_string());
        if plan.whole {
            let path = runs::path(self.settings.stanza.as_str(), &id, "");
            self.say(Line::info(format!("repo{repo}: remove archive path {path}")));
        }
        let mut told = Told {
            repo,
            plan,
            log: self.log,
            stanza: self.settings.stanza.as_str(),
            others: Vec::new(),
            report: ArchiveReport {
                id: id.clone(),
                ranges: Vec::new(),
                files: 0,
                bytes: 0,
            },
        };
        let outcome = self.pages(plan, &mut told).await;
        let others = std::mem::take(&mut told.others);
        if told.report.files == 0 && !plan.whole && outcome.is_ok() {
            self.say(Line::info(format!("repo{repo}: {id} no archive to remove")));
        }
        others.iter().for_each(|file| told.other(file));
        self.report.archives.push(told.report);
        outcome
    }

    /// Page by page, so that an archive of any length needs little memory.
    async fn pages(&self, plan: &ArchivePlan, told: &mut Told<'_>) -> Result<(), Failure> {
        let bar = self.caller.bar("expire", 0);
        let mut runs = Runs::new(&plan.keep, plan.before);
        let mut said = Instant::now();
        let mut request = ExpireWal {
            stanza: self.settings.stanza.clone(),
            repo: self.repo,
            database: plan.database,
            keep: plan.keep.clone().into(),
            before: plan.before,
            histories_below: plan.histories_below,
            dry_run: self.settings.dry_run,
            after: None,
        };
        loop {
            let page = self.keeper.expire_wal(&request).await?;
            for file in page.files {
                bar.grow(file.bytes);
                bar.advance(file.bytes);
                told.count(file.bytes);
                runs.next(file).into_iter().for_each(|seen| told.tell(seen));
            }
            if said.elapsed() >= TOLD_EVERY {
                said = Instant::now();
                self.say(Line::info(format!(
                    "repo{}: {} {} WAL files so far",
                    self.repo, plan.archive, told.report.files
                )));
            }
            let Some(more) = page.more.filter(|more| Some(more.as_str()) != request.after.as_deref()) else {
                break;
            };
            request.after = Some(more.into());
        }
        runs.end().into_iter().for_each(|seen| told.tell(seen));
        Ok(())
    }
}

/// The log and the report about one archive.
struct Told<'t> {
    repo: RepoKey,
    plan: &'t ArchivePlan,
    log: &'t dyn Fn(&Line),
    stanza: &'t str,
    /// History files and others that belong to no segment, until the segments have been told.
    others: Vec<String>,
    report: ArchiveReport,
}

impl Told<'_> {
    fn other(&self, file: &str) {
        let kind = if file.ends_with(".history") {
            "history file"
        } else {
            "file"
        };
        self.say(Line::detail(format!(
            "repo{}: {} remove {kind} {file}",
            self.repo, self.plan.archive
        )));
    }

    fn say(&self, line: Line) {
        (self.log)(&line);
    }

    fn count(&mut self, bytes: u64) {
        self.report.files = self.report.files.saturating_add(1);
        self.report.bytes = self.report.bytes.saturating_add(bytes);
    }

    fn tell(&mut self, seen: Seen) {
        let (repo, id) = (self.repo, self.plan.archive);
        match seen {
            Seen::Directory(directory) => {
                let path = runs::path(self.stanza, &id.to_string(), &directory);
                self.say(Line::detail(format!("repo{repo}: remove archive path {path}")));
            }
            // As in pgBackRest: a path that goes whole is one line, and other files come after the segments.
            Seen::Other(_) if self.plan.whole => {}
            Seen::Other(file) if self.others.len() < OTHERS => self.others.push(file.file),
            Seen::Other(file) => self.other(&file.file),
            Seen::Run(run) => {
                if !self.plan.whole {
                    self.say(Line::info(format!(
                        "repo{repo}: {id} remove archive, start = {}, stop = {}",
                        run.start, run.stop
                    )));
                }
                if self.report.ranges.len() < RANGES {
                    self.report.ranges.push(StretchReport {
                        start: run.start,
                        stop: run.stop,
                        files: run.files,
                        bytes: run.bytes,
                    });
                }
            }
        }
    }
}
