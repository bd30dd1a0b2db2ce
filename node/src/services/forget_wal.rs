//! `archive-forget`: taking WAL out of the archive that belongs to another history of the cluster (invariant 12).
//!
//! The client asks twice: first which files would go, and then, with the catalog's position of that answer, to let them
//! go. So a request that is repeated or comes late forgets no WAL that was pushed since. The end of a timeline goes,
//! the last files first: wherever this ends, no hole is left.

use crate::Node;
use crate::services::stanza::{RECENT_PUSH_SECONDS, current};
use pgmesh_postgres::{TimelineId, WalFileName};
use pgmesh_protocol::{ExitCode, Failure, ForgetWal, ForgottenTimeline, ForgottenWal};
use pgmesh_raft::{CatalogError, Command, Database, LogIndex, Refusal, StanzaRecord, View, limits};
use pgmesh_runtime::tasks;
use pgmesh_storage::{BackupLabel, StanzaName};

/// So many backups are named.
const NAMED: usize = 20;
/// How often it is planned again when the catalog moved under it.
const TRIES: usize = 8;

/// The end of one timeline.
struct End {
    told: ForgottenTimeline,
    /// The first file of each step, in the order of the steps: the last files go first. Each step removes the files
    /// from this name on.
    steps: Vec<WalFileName>,
}

impl End {
    /// Nothing yet, from this file on.
    fn new(timeline: TimelineId, from: WalFileName) -> Self {
        Self {
            told: ForgottenTimeline {
                timeline,
                first: from.to_string(),
                last: from.to_string(),
                files: 0,
                bytes: 0,
            },
            steps: vec![from],
        }
    }
}

/// The WAL and the backups that go.
struct Plan {
    /// The catalog's position that it was made at.
    position: LogIndex,
    record: StanzaRecord,
    database: Database,
    /// The first file of each timeline; a timeline that branches off comes before the timeline that it leaves.
    starts: Vec<WalFileName>,
    ends: Vec<End>,
    backups: Vec<BackupLabel>,
    /// Archived timelines whose origin is not known.
    unknown: Vec<TimelineId>,
}

impl Node {
    /// Forgets the end of a timeline, and the timelines and backups that need it; without `upto` it only reports them.
    ///
    /// # Errors
    /// While a server pushes to the timeline, or no archiver is refused because of it, unless `force` is given; where
    /// backups need it, unless these go as well; while a backup or a restore runs.
    pub async fn forget_wal(&self, actor: &str, forget: ForgetWal) -> Result<ForgottenWal, Failure> {
        let from = first_file(&forget)?;
        let plan = self.plan(&forget, from).await?;
        let told = plan.describe();
        let Some(upto) = forget.upto else {
            return Ok(told);
        };
        plan.refuse(&forget, from)?;
        if !forget.force {
            self.refuse_recent(&forget, &plan, from).await?;
        }
        self.carry_out(actor, &forget, plan, from, LogIndex(upto)).await?;
        Ok(told)
    }

    /// Walks the timelines: on a thread where that may take its time.
    async fn plan(&self, forget: &ForgetWal, from: WalFileName) -> Result<Plan, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let stanza = forget.stanza.clone();
        tasks::blocking("planning what WAL is forgotten", move || plan(&view, &stanza, from))
            .await
            .map_err(|error| Failure::new(ExitCode::Assert, "planning what is forgotten").because(error))?
    }

    /// A server that pushes the timeline now would push its WAL again. A server that is refused since its last push
    /// does not count: it was put back to an earlier state.
    async fn refuse_recent(&self, forget: &ForgetWal, plan: &Plan, from: WalFileName) -> Result<(), Failure> {
        let refused = self.all_stuck(|stanza| *stanza == forget.stanza).await;
        let view = self.catalog.view();
        for start in &plan.starts {
            let Some(last) = view.last_push(&forget.stanza, plan.database.id, start.timeline())? else {
                continue;
            };
            let is_concerned = start.segment().is_none_or(|first| last.segment >= first);
            let is_refused = refused.iter().any(|stuck| {
                (&stuck.instance, &stuck.machine) == (&last.instance, &last.machine) && stuck.position >= last.pushed.0
            });
            let now = pgmesh_protocol::now_unix();
            if is_concerned && !is_refused && last.is_within(now, RECENT_PUSH_SECONDS) {
                let what = format!(
                    "{} at {} pushed {} to stanza {} {} seconds ago",
                    last.host,
                    last.address,
                    last.segment,
                    forget.stanza,
                    now.saturating_sub(last.at).max(0)
                );
                return Err(Failure::new(ExitCode::ArchiveMismatch, what)
                    .because("what it has pushed would be forgotten, and pushed again")
                    .remedy(
                        "if that server is the copy, stop its archiving (archive_mode=off) and wait five minutes, or give --force; if \
                         it is the original, nothing of it is to be forgotten",
                    ));
            }
        }
        let names = format!(" archive-forget {from}'");
        let is_named = |remedy: &String| remedy.contains(&names);
        if !refused.iter().any(|stuck| stuck.remedy.as_ref().is_some_and(is_named)) {
            let what = format!(
                "no server of stanza {} is refused because of {from} at present",
                forget.stanza
            );
            return Err(Failure::new(ExitCode::CommandInvalid, what)
                .because("what is forgotten cannot be brought back, and nothing seems to wait for it")
                .remedy("'pgmesh status' names who is refused, and the file to give; --force goes on all the same"));
        }
        Ok(())
    }

    async fn carry_out(
        &self,
        actor: &str,
        forget: &ForgetWal,
        mut plan: Plan,
        from: WalFileName,
        upto: LogIndex,
    ) -> Result<(), Failure> {
        for _ in 0..TRIES {
            match self.forget_planned(actor, forget, plan.ends, upto).await {
                Ok(()) => return Ok(()),
                Err(CatalogError::Refused(Refusal::Recheck { .. })) => {}
                Err(error) => return Err(error.into()),
            }
            plan = match self.plan(forget, from).await {
                Ok(plan) => plan,
                // Another request of the same wish was faster.
                Err(failure) if failure.code == ExitCode::FileMissing => return Ok(()),
                Err(failure) => return Err(failure),
            };
        }
        Err(Failure::new(
            ExitCode::ArchiveTimeout,
            format!("timeline {} kept changing while it was forgotten", from.timeline()),
        )
        .remedy("run the command again: what is forgotten already stays so"))
    }

    async fn forget_planned(
        &self,
        actor: &str,
        forget: &ForgetWal,
        ends: Vec<End>,
        upto: LogIndex,
    ) -> Result<(), CatalogError> {
        for from in ends.into_iter().flat_map(|end| end.steps) {
            let command = Command::ForgetWal {
                stanza: forget.stanza.clone(),
                from,
                upto,
                with_backups: forget.with_backups,
                force: forget.force,
            };
            self.catalog.propose(actor, command).await?;
        }
        Ok(())
    }
}

impl Plan {
    fn describe(&self) -> ForgottenWal {
        ForgottenWal {
            timelines: self.ends.iter().map(|end| end.told.clone()).collect(),
            backups: self.backups.iter().take(NAMED).map(ToString::to_string).collect(),
            backup_count: self.backups.len() as u64,
            position: self.position.0,
        }
    }

    /// Looked at before anything is done; the catalog looks again.
    fn refuse(&self, forget: &ForgetWal, from: WalFileName) -> Result<(), Failure> {
        let stanza = forget.stanza.clone();
        if let Some(running) = &self.record.backup {
            let (session, label) = (running.session, running.label.clone());
            return Err(Refusal::BackupRunning { stanza, session, label }.into());
        }
        if let Some(label) = self.backups.first().filter(|_| !forget.with_backups) {
            let (label, more) = (label.clone(), u32::try_from(self.backups.len() - 1).unwrap_or(u32::MAX));
            let file = from;
            return Err(Refusal::BackupNeedsWal {
                stanza,
                file,
                label,
                more,
            }
            .into());
        }
        if let Some(timeline) = self.unknown.first().filter(|_| !forget.force) {
            let what = format!("whether timeline {timeline} of stanza {stanza} needs {from} is not known");
            return Err(Failure::new(ExitCode::CommandInvalid, what)
                .because("so many timelines have come since that its history is not in the catalog any more")
                .remedy(format!(
                    "'pgmesh --stanza={stanza} repo-get' reads its history file; --force goes on all the same"
                )));
        }
        Ok(())
    }
}

fn first_file(forget: &ForgetWal) -> Result<WalFileName, Failure> {
    let what = format!("'{}' names no WAL segment and no timeline history", forget.from);
    let failure = match forget.from.parse() {
        Ok(from @ (WalFileName::Segment(_) | WalFileName::History(_))) => return Ok(from),
        Ok(_) => Failure::new(ExitCode::OptionInvalid, what),
        Err(error) => Failure::new(ExitCode::OptionInvalid, what).because(error),
    };
    Err(failure.remedy(
        "give the file that the refusal names: a segment such as 00000001000000000000000A, for it and all behind it on its timeline, \
         or 00000002.history for all of timeline 2",
    ))
}

fn plan(view: &View, stanza: &StanzaName, from: WalFileName) -> Result<Plan, Failure> {
    let position = view.applied()?;
    let record = view
        .stanza(stanza)?
        .ok_or_else(|| Failure::from(Refusal::UnknownStanza(stanza.clone())))?;
    let database = current(&record, stanza)?;
    let starts = starts(&record, &database, from);
    let mut ends = Vec::new();
    for start in &starts {
        ends.extend(end(view, stanza, &database, *start)?);
    }
    let knows = |end: &End| end.told.files > 0 || record.histories.contains_key(&end.told.timeline);
    if !ends.iter().any(knows) {
        let what = format!(
            "stanza {stanza} has nothing of timeline {} from {from} on",
            from.timeline()
        );
        return Err(Failure::new(ExitCode::FileMissing, what).remedy("nothing needs to be forgotten"));
    }
    let mut backups = Vec::new();
    for row in view.backups(stanza, None) {
        let (label, backup) = row?;
        if backup.db == database.id && starts.iter().any(|start| backup.needs(*start)) {
            backups.push(label);
        }
    }
    let mut unknown = view.timelines(stanza, database.id)?;
    unknown.retain(|timeline| *timeline > from.timeline() && !record.histories.contains_key(timeline));
    Ok(Plan {
        position,
        record,
        database,
        starts,
        ends,
        backups,
        unknown,
    })
}

/// The first file of each timeline that goes. A timeline that leaves another that leaves this one comes first: its
/// number is higher.
fn starts(record: &StanzaRecord, database: &Database, from: WalFileName) -> Vec<WalFileName> {
    let behind = record.branches_behind(from.timeline(), database.end(from));
    let mut timelines: Vec<TimelineId> = behind.collect();
    timelines.sort_unstable_by(|a, b| b.cmp(a));
    let whole = timelines.into_iter().map(WalFileName::History);
    whole.chain([from]).collect()
}

fn end(view: &View, stanza: &StanzaName, database: &Database, from: WalFileName) -> Result<Option<End>, Failure> {
    let timeline = from.timeline();
    // The catalog's facts on a timeline are forgotten even where none of its files is archived.
    let mut end = matches!(from, WalFileName::History(_)).then(|| End::new(timeline, from));
    for row in view.segments_from(stanza, database.id, &from) {
        let (file, record) = row?;
        if file.timeline() != timeline {
            break;
        }
        let end = end.get_or_insert_with(|| End::new(timeline, from));
        if end.told.files > 0 && end.told.files.is_multiple_of(limits::FORGOTTEN_FILES as u64) {
            end.steps.push(file);
        }
        end.told.files += 1;
        end.told.last = file.to_string();
        let copies = record.object.replicas.len() as u64;
        end.told.bytes = end
            .told
            .bytes
            .saturating_add(copies.saturating_mul(record.object.stored_length));
    }
    if let Some(end) = &mut end {
        end.steps.reverse();
    }
    Ok(end)
}
