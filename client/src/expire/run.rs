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
    EXPIRED_AT_ONCE, ExitCode, ExpireBackups, ExpireWal, Failure, GetRetained, RetainedBackup, RetainedDatabase,
};
use pgmesh_storage::{RepoKey, StanzaName};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How often long work on one archive is told in the log.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// Runs of WAL that a report names for one archive; all of them are in the log.
const RANGES: usize = 1000;
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
    let mut report = ExpireReport {
        dry_run: settings.dry_run,
        ..ExpireReport::default()
    };
    let mut found = false;
    let last = settings.repositories.keys().next_back().copied();
    for (repo, retention) in &settings.repositories {
        let mut work = Work {
            settings,
            mesh,
            caller,
            repo: *repo,
            report: RepositoryReport {
                repo: repo.get(),
                backups: Vec::new(),
                archives: Vec::new(),
                errors: Vec::new(),
            },
        };
        match work.expire(retention, &mut found, Some(*repo) == last).await {
            Ok(()) => {}
            Err(failure) if failure.code == ExitCode::Stop => return Err(failure),
            Err(failure) => {
                let remedy = failure
                    .remedy
                    .as_deref()
                    .map_or(String::new(), |remedy| format!("\nHINT: {remedy}"));
                tracing::error!("[{:03}]: repo{repo}: {failure}{remedy}", failure.code.number());
                work.report.errors.push(ErrorReport {
                    code: failure.code.number(),
                    message: failure.to_string(),
                });
            }
        }
        report.repositories.push(work.report);
    }
    Ok(report)
}

/// The work in one repository.
struct Work<'w> {
    settings: &'w ExpireSettings,
    mesh: &'w Mesh,
    caller: &'w dyn Caller,
    repo: RepoKey,
    report: RepositoryReport,
}

impl Work<'_> {
    async fn expire(&mut self, retention: &Retention, found: &mut bool, is_last: bool) -> Result<(), Failure> {
        let history = self.history().await?;
        let ask = &self.settings.ask;
        // A label is in a repository also if it has to stay there.
        *found |= ask.set.as_ref().is_some_and(|label| history.get(label).is_some());
        let plan = plan(&history, retention, ask, &self.settings.zone)?;
        if let Some(label) = ask.set.as_ref().filter(|_| is_last && !*found) {
            Line::warn(format!(
                "backup {label} does not exist\nHINT: run the info command and confirm the backup is listed"
            ))
            .log();
        }
        plan.lines().iter().for_each(Line::log);
        self.backups(&history, &plan).await?;
        let wal = plan.wal?;
        wal.lines.iter().for_each(Line::log);
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
            let answer = self.mesh.call(&ask).await?;
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
                labels: labels.to_vec(),
                why: why.clone(),
            };
            self.mesh.call(&request).await?;
        }
        for label in &labels {
            tracing::info!("repo{}: remove expired backup {label}", self.repo);
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
        plan.lines.iter().for_each(Line::log);
        let (repo, id) = (self.repo, plan.archive.to_string());
        if plan.whole {
            let path = runs::path(self.settings.stanza.as_str(), &id, "");
            tracing::info!("repo{repo}: remove archive path {path}");
        }
        let mut told = Told {
            repo,
            plan,
            stanza: self.settings.stanza.as_str(),
            report: ArchiveReport {
                id: id.clone(),
                ranges: Vec::new(),
                files: 0,
                bytes: 0,
            },
        };
        let outcome = self.pages(plan, &mut told).await;
        if told.report.files == 0 && !plan.whole && outcome.is_ok() {
            tracing::info!("repo{repo}: {id} no archive to remove");
        }
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
            keep: plan.keep.clone(),
            before: plan.before,
            histories_below: plan.histories_below,
            dry_run: self.settings.dry_run,
            after: None,
        };
        loop {
            let page = self.mesh.call(&request).await?;
            for file in page.files {
                bar.grow(file.bytes);
                bar.advance(file.bytes);
                told.count(file.bytes);
                runs.next(file).into_iter().for_each(|seen| told.tell(seen));
            }
            if said.elapsed() >= TOLD_EVERY {
                said = Instant::now();
                tracing::info!(
                    "repo{}: {} {} WAL files so far",
                    self.repo,
                    plan.archive,
                    told.report.files
                );
            }
            let Some(more) = page.more.filter(|more| Some(more) != request.after.as_ref()) else {
                break;
            };
            request.after = Some(more);
        }
        runs.end().into_iter().for_each(|seen| told.tell(seen));
        Ok(())
    }
}

/// The log and the report about one archive.
struct Told<'t> {
    repo: RepoKey,
    plan: &'t ArchivePlan,
    stanza: &'t str,
    report: ArchiveReport,
}

impl Told<'_> {
    fn count(&mut self, bytes: u64) {
        self.report.files = self.report.files.saturating_add(1);
        self.report.bytes = self.report.bytes.saturating_add(bytes);
    }

    fn tell(&mut self, seen: Seen) {
        let (repo, id) = (self.repo, self.plan.archive);
        match seen {
            Seen::Directory(directory) => {
                let path = runs::path(self.stanza, &id.to_string(), &directory);
                Line::detail(format!("repo{repo}: remove archive path {path}")).log();
            }
            Seen::Other(file) => {
                let kind = if file.file.ends_with(".history") {
                    "history file"
                } else {
                    "file"
                };
                Line::detail(format!("repo{repo}: {id} remove {kind} {}", file.file)).log();
            }
            Seen::Run(run) => {
                if !self.plan.whole {
                    tracing::info!(
                        "repo{repo}: {id} remove archive, start = {}, stop = {}",
                        run.start,
                        run.stop
                    );
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
