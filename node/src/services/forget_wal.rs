//! `archive-forget`: taking WAL out of the archive that another history of the cluster has otherwise (invariant 12).
//! The end of a timeline goes, the last files first: whenever this ends, no hole is left.

use crate::protocol::{ForgetWal, ForgottenTimeline, ForgottenWal};
use crate::services::stanza::{RECENT_PUSH_SECONDS, current};
use crate::{Failure, Node, code};
use pgmesh_postgres::{TimelineId, WalFileName};
use pgmesh_raft::{CatalogError, Command, Database, Refusal, StanzaRecord, View, limits};
use pgmesh_storage::{BackupLabel, StanzaName};

/// So many backups are named.
const NAMED: usize = 20;
/// How often it is begun again when WAL keeps coming.
const TRIES: usize = 8;

/// The end of one timeline.
struct End {
    told: ForgottenTimeline,
    /// Where the steps begin, the last one first. Each removes what is named so or later.
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

impl Node {
    /// Forgets the end of a timeline and what branches off from it. Refused while it is pushed to, and while backups need
    /// it, unless `force` is given; then these are removed as well.
    pub async fn forget_wal(&self, actor: &str, forget: ForgetWal) -> Result<ForgottenWal, Failure> {
        let from = first_file(&forget)?;
        let mut told = None;
        for _ in 0..TRIES {
            let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
            let (ends, backups) = plan(&view, &forget, from)?;
            let said = describe(&ends, &backups);
            if forget.dry_run {
                return Ok(said);
            }
            if !forget.force {
                refuse_needed(&forget, from, &backups)?;
                self.refuse_recent(&view, &forget, from).await?;
            }
            // What is told is what there was when it began.
            told.get_or_insert(said);
            match self.forget_planned(actor, &forget, ends, backups).await {
                Ok(()) => return Ok(told.unwrap_or_else(|| describe(&[], &[]))),
                Err(CatalogError::Refused(Refusal::Recheck { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::new(
            code::ARCHIVE_TIMEOUT,
            format!(
                "WAL kept being pushed to timeline {} while it was forgotten",
                from.timeline()
            ),
        )
        .remedy("stop the server that pushes it, and run the command again: what is forgotten already stays so"))
    }

    /// Whoever pushes it now would push it again. Not one that is refused since: it was put back to an earlier state.
    async fn refuse_recent(&self, view: &View, forget: &ForgetWal, from: WalFileName) -> Result<(), Failure> {
        let record = view
            .stanza(&forget.stanza)?
            .ok_or_else(|| Failure::from(Refusal::UnknownStanza(forget.stanza.clone())))?;
        let database = current(&record, &forget.stanza)?;
        let refused = self.all_stuck(|stanza| *stanza == forget.stanza).await;
        for start in starts(&record, &database, from) {
            let Some(last) = view.last_push(&forget.stanza, database.id, start.timeline())? else {
                continue;
            };
            let age = crate::now_unix().saturating_sub(last.at);
            let is_concerned = start.segment().is_none_or(|first| last.segment >= first);
            let is_refused = refused
                .iter()
                .any(|stuck| stuck.instance == last.instance && stuck.since >= last.at);
            if is_concerned && !is_refused && (0..RECENT_PUSH_SECONDS).contains(&age) {
                let what = format!(
                    "{} at {} pushed {} to stanza {} {age} seconds ago",
                    last.host, last.address, last.segment, forget.stanza
                );
                return Err(Failure::new(code::ARCHIVE_MISMATCH, what)
                    .because("what it has pushed would be forgotten, and pushed again")
                    .remedy(
                        "if that server is the copy, stop its archiving (archive_mode=off) and wait five minutes, or give --force; if \
                         it is the original, nothing of it is to be forgotten",
                    ));
            }
        }
        Ok(())
    }

    async fn forget_planned(
        &self,
        actor: &str,
        forget: &ForgetWal,
        ends: Vec<End>,
        backups: Vec<BackupLabel>,
    ) -> Result<(), CatalogError> {
        for label in backups {
            let stanza = forget.stanza.clone();
            match self
                .catalog
                .propose(actor, Command::RemoveBackup { stanza, label })
                .await
            {
                Ok(_) | Err(CatalogError::Refused(Refusal::UnknownBackup { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        for from in ends.into_iter().flat_map(|end| end.steps) {
            let command = Command::ForgetWal {
                stanza: forget.stanza.clone(),
                from,
                force: forget.force,
            };
            self.catalog.propose(actor, command).await?;
        }
        Ok(())
    }
}

fn first_file(forget: &ForgetWal) -> Result<WalFileName, Failure> {
    let what = |name: &str| format!("'{name}' names no WAL segment and no timeline history");
    match forget.from.parse() {
        Ok(from @ (WalFileName::Segment(_) | WalFileName::History(_))) => Ok(from),
        Ok(_) => Err(Failure::new(code::OPTION_INVALID, what(&forget.from))),
        Err(error) => Err(Failure::new(code::OPTION_INVALID, what(&forget.from)).because(error)),
    }
    .map_err(|failure| {
        failure.remedy(
            "give the file that is refused: a segment such as 00000001000000000000000A, for it and all behind it on its timeline, or \
             00000002.history for all of timeline 2",
        )
    })
}

/// What goes: the timelines that branch off first, then the end of this one; and the backups that need any of it.
fn plan(view: &View, forget: &ForgetWal, from: WalFileName) -> Result<(Vec<End>, Vec<BackupLabel>), Failure> {
    let record = view
        .stanza(&forget.stanza)?
        .ok_or_else(|| Failure::from(Refusal::UnknownStanza(forget.stanza.clone())))?;
    let database = current(&record, &forget.stanza)?;
    if let Some(running) = record.backup.as_ref().filter(|_| !forget.dry_run) {
        let (stanza, session, label) = (forget.stanza.clone(), running.session, running.label.clone());
        return Err(Refusal::BackupRunning { stanza, session, label }.into());
    }
    let starts = starts(&record, &database, from);
    let mut ends = Vec::new();
    for start in &starts {
        ends.extend(end(view, &forget.stanza, &database, *start)?);
    }
    let knows = |end: &End| end.told.files > 0 || record.histories.contains_key(&end.told.timeline);
    if !ends.iter().any(knows) {
        let what = format!(
            "stanza {} has nothing of timeline {} from {from} on",
            forget.stanza,
            from.timeline()
        );
        return Err(Failure::new(code::FILE_MISSING, what).remedy("nothing needs to be forgotten"));
    }
    let mut backups = Vec::new();
    for row in view.backups(&forget.stanza, None) {
        let (label, backup) = row?;
        if backup.db == database.id && starts.iter().any(|start| backup.needs(*start)) {
            backups.push(label);
        }
    }
    Ok((ends, backups))
}

/// The first file of each timeline that goes. A timeline that leaves another that leaves this one comes first: its number
/// is higher.
fn starts(record: &StanzaRecord, database: &Database, from: WalFileName) -> Vec<WalFileName> {
    let behind = record.branches_behind(from.timeline(), database.start(from));
    let mut timelines: Vec<TimelineId> = behind.collect();
    timelines.sort_unstable_by(|a, b| b.cmp(a));
    let whole = timelines.into_iter().map(WalFileName::History);
    whole.chain([from]).collect()
}

fn end(view: &View, stanza: &StanzaName, database: &Database, from: WalFileName) -> Result<Option<End>, Failure> {
    let timeline = from.timeline();
    // What is known of a timeline is forgotten even where none of its files is archived.
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

fn describe(ends: &[End], backups: &[BackupLabel]) -> ForgottenWal {
    ForgottenWal {
        timelines: ends.iter().map(|end| end.told.clone()).collect(),
        backups: backups.iter().take(NAMED).map(ToString::to_string).collect(),
        backup_count: backups.len() as u64,
    }
}

fn refuse_needed(forget: &ForgetWal, from: WalFileName, backups: &[BackupLabel]) -> Result<(), Failure> {
    let Some(label) = backups.last() else {
        return Ok(());
    };
    let refusal = Refusal::BackupNeedsWal {
        stanza: forget.stanza.clone(),
        file: from,
        label: label.clone(),
        more: u32::try_from(backups.len() - 1).unwrap_or(u32::MAX),
    };
    Err(refusal.into())
}
