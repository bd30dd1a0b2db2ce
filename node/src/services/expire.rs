//! Retention, as far as a node carries it out: the facts that a host decides on, and the expiry of backups and WAL.

use crate::Node;
use crate::replies::unexpected;
use crate::services::info::hold_info;
use pgmesh_postgres::{SegmentName, WalFileName};
use pgmesh_protocol::{
    ExitCode, ExpireBackups, ExpireWal, ExpiredBackups, ExpiredFile, ExpiredWal, Failure, GetRetained, HoldBackup,
    Retained, RetainedBackup, RetainedDatabase, now_unix,
};
use pgmesh_raft::command::{self, HoldBackup as Hold};
use pgmesh_raft::{BackupRecord, CatalogError, Command, ExpiryRefusal, ObjectRef, Refusal, Reply, View};
use pgmesh_storage::{BackupLabel, DbId, RepoKey, StanzaName};
use std::time::Duration;
use tokio::time::Instant;

/// Backups in one answer: their facts take some hundred bytes each.
const BACKUPS: usize = 1000;
/// Files in one answer, and in one command.
const FILES: usize = if cfg!(test) { 4 } else { 1000 };
/// Files looked at for one answer: of an archive that is kept for the most part, an answer names few.
const LOOKED_AT: usize = if cfg!(test) { 8 } else { 50_000 };
/// Debts looked at for the question whether a backup is whole. Where a repository owes more, no backup counts as whole.
const DEBTS: usize = if cfg!(test) { 8 } else { 20_000 };
/// How long an expiry waits for a commit of the same stanza.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 5 } else { 60 });
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);

impl Node {
    /// The backups and archives of a stanza that one repository keeps.
    pub async fn retained(&self, ask: GetRetained) -> Result<Retained, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let GetRetained { stanza, repo, after } = &ask;
        let record = view
            .stanza(stanza)?
            .ok_or_else(|| Failure::from(Refusal::UnknownStanza(stanza.clone())))?;
        need_repository(&view, *repo)?;
        let mut databases = Vec::new();
        for database in &record.databases {
            let mut has_wal = false;
            for row in view.segments(stanza, database.id, None) {
                let (_, segment) = row?;
                has_wal = !segment.expired.contains(repo);
                if has_wal {
                    break;
                }
            }
            databases.push(RetainedDatabase {
                id: database.id,
                archive_id: database.archive_id(),
                system_id: database.system_id,
                version: database.version,
                has_wal,
            });
        }
        let owed = Owed::of(&view, stanza, *repo)?;
        let mut backups = Vec::new();
        let mut more = false;
        for row in view.backups(stanza, after.as_ref()) {
            let (label, record) = row?;
            if !record.is_kept_in(*repo) {
                continue;
            }
            if backups.len() >= BACKUPS {
                more = true;
                break;
            }
            backups.push(RetainedBackup {
                kind: label.backup_type(),
                prior: record.prior.clone(),
                database: record.db,
                wal_start: record.wal_start,
                wal_stop: record.wal_stop,
                time_start: record.started_at,
                time_stop: record.stopped_at,
                stored_delta: record.stored_delta.get(repo).copied().unwrap_or_default(),
                is_whole: owed.is_whole(&label, &record),
                hold: hold_info(&record),
                label,
            });
        }
        Ok(Retained {
            stopped: record.stopped,
            databases,
            backups,
            more,
            clock: now_unix(),
        })
    }

    /// Expires backups in one repository. Waits a while for a commit of the same stanza.
    pub async fn expire_backups(&self, actor: &str, expire: ExpireBackups) -> Result<ExpiredBackups, Failure> {
        let command = Command::ExpireBackups(Box::new(command::ExpireBackups {
            stanza: expire.stanza,
            repo: expire.repo,
            labels: expire.labels.into_vec(),
            why: expire.why.into_string(),
        }));
        let until = Instant::now() + PATIENCE;
        loop {
            match self.catalog.propose(actor, command.clone()).await {
                Ok(Reply::Expired { labels }) => return Ok(ExpiredBackups { labels }),
                Ok(other) => return Err(unexpected(&other)),
                Err(CatalogError::Refused(Refusal::Expiry(ExpiryRefusal::Committing { .. })))
                    if Instant::now() < until =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Expires a page of WAL files in one repository, or says which they would be.
    pub async fn expire_wal(&self, actor: &str, expire: ExpireWal) -> Result<ExpiredWal, Failure> {
        let after = match &expire.after {
            None => None,
            Some(text) => Some(text.parse::<WalFileName>().map_err(|error| {
                Failure::new(ExitCode::OptionInvalid, format!("'{text}' is no name of a WAL file")).because(error)
            })?),
        };
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        need_repository(&view, expire.repo)?;
        let mut page = Page::of(&view, &expire, after.as_ref())?;
        if !expire.dry_run && !page.files.is_empty() {
            let command = command::ExpireWal {
                stanza: expire.stanza.clone(),
                repo: expire.repo,
                db: expire.database,
                files: page.files.iter().map(|(file, _)| *file).collect(),
            };
            self.catalog
                .propose(actor, Command::ExpireWal(Box::new(command)))
                .await?;
            // Files that another repository has no copy of yet have stayed.
            let view = self.catalog.view();
            let is_gone = |file: &WalFileName| -> Result<bool, Failure> {
                let record = view.segment(&expire.stanza, expire.database, file)?;
                Ok(record.is_none_or(|record| record.expired.contains(&expire.repo)))
            };
            let mut gone = Vec::new();
            for (file, bytes) in page.files {
                if is_gone(&file)? {
                    gone.push((file, bytes));
                }
            }
            page.files = gone;
        }
        let file = |(file, bytes): (WalFileName, u64)| ExpiredFile {
            file: file.to_string(),
            bytes,
        };
        Ok(ExpiredWal {
            files: page.files.into_iter().map(file).collect(),
            more: page.more.map(|file| file.to_string()),
        })
    }

    /// Holds a backup, or releases it.
    pub async fn hold_backup(
        &self,
        actor: &str,
        is_administrator: bool,
        given: HoldBackup,
    ) -> Result<Vec<BackupLabel>, Failure> {
        if let Some(until) = given.hold.as_ref().and_then(|hold| hold.until)
            && until <= now_unix()
        {
            return Err(Failure::new(ExitCode::OptionInvalid, "the hold would end in the past")
                .remedy("give a later time as --until"));
        }
        let hold = given.hold.map(|wish| pgmesh_raft::Hold {
            since: now_unix(),
            until: wish.until,
            by: actor.to_owned(),
            why: wish.why.into_string(),
        });
        let command = Command::HoldBackup(Box::new(Hold {
            stanza: given.stanza,
            label: given.label,
            hold,
            is_administrator,
        }));
        match self.catalog.propose(actor, command).await? {
            Reply::Held { labels } => Ok(labels),
            other => Err(unexpected(&other)),
        }
    }
}

fn need_repository(view: &View, repo: RepoKey) -> Result<(), Failure> {
    match view.repository(repo)? {
        Some(_) => Ok(()),
        None => Err(Refusal::UnknownRepository(repo).into()),
    }
}

/// What a repository owes of a stanza.
struct Owed {
    repo: RepoKey,
    /// Uses of chunks that it owes: the backups from the first label up to, and without, the second one.
    uses: Vec<(BackupLabel, Option<BackupLabel>)>,
    /// Segments that it owes.
    segments: Vec<(DbId, SegmentName)>,
    /// It owes more than was looked at.
    is_unknown: bool,
}

impl Owed {
    fn of(view: &View, stanza: &StanzaName, repo: RepoKey) -> Result<Self, Failure> {
        let mut owed = Self {
            repo,
            uses: Vec::new(),
            segments: Vec::new(),
            is_unknown: false,
        };
        let mut looked_at = 0;
        // Chunks come first, then WAL files.
        for row in view.debts(repo, None) {
            let (object, _) = row?;
            looked_at += 1;
            if looked_at > DEBTS {
                owed.is_unknown = true;
                break;
            }
            match object {
                ObjectRef::Chunk(digest) => owed.uses.extend(view.uses_of(stanza, &digest)?),
                ObjectRef::Segment {
                    stanza: of,
                    db,
                    file: WalFileName::Segment(segment),
                } if of == *stanza => owed.segments.push((db, segment)),
                _ => {}
            }
        }
        // Without knowledge of the uses, any owed chunk may be a backup's.
        owed.is_unknown |= looked_at > 0 && view.release_held_by()?.is_some();
        Ok(owed)
    }

    /// Whether the repository has all of a backup: its manifest, its chunks and its WAL.
    fn is_whole(&self, label: &BackupLabel, record: &BackupRecord) -> bool {
        let has_manifest = record.manifest.replicas.iter().any(|replica| replica.repo == self.repo);
        let is_within = |(born, died): &(BackupLabel, Option<BackupLabel>)| {
            born <= label && died.as_ref().is_none_or(|died| label < died)
        };
        let needs = |(db, segment): &(DbId, SegmentName)| {
            *db == record.db && record.wal_start <= *segment && *segment <= record.wal_stop
        };
        has_manifest && !self.is_unknown && !self.uses.iter().any(is_within) && !self.segments.iter().any(needs)
    }
}

/// WAL files that expire, with their bytes in the repository.
#[derive(Default)]
struct Page {
    files: Vec<(WalFileName, u64)>,
    /// Where the next page goes on.
    more: Option<WalFileName>,
}

impl Page {
    fn of(view: &View, expire: &ExpireWal, after: Option<&WalFileName>) -> Result<Self, Failure> {
        // The catalog keeps this WAL whatever is asked; it is not named, either. A dry run asks before the backups have
        // expired that would: its host names the WAL that the others need.
        let mut needed = Vec::new();
        let backups = (!expire.dry_run).then(|| view.backups(&expire.stanza, None));
        for row in backups.into_iter().flatten() {
            let (_, record) = row?;
            if record.db == expire.database && record.is_kept_in(expire.repo) {
                needed.push((record.wal_start, record.wal_stop));
            }
        }
        let mut page = Self::default();
        for (number, row) in view.segments(&expire.stanza, expire.database, after).enumerate() {
            let (file, record) = row?;
            if page.files.len() >= FILES || number >= LOOKED_AT {
                break;
            }
            // Reset at the end: the last file that was looked at.
            page.more = Some(file);
            if record.expired.contains(&expire.repo) || !goes(expire, &needed, file) {
                continue;
            }
            let is_there = record.object.replicas.iter().any(|replica| replica.repo == expire.repo);
            let bytes = if is_there { record.object.stored_length } else { 0 };
            page.files.push((file, bytes));
        }
        let is_end = match &page.more {
            None => true,
            Some(last) => {
                let mut rest = view.segments(&expire.stanza, expire.database, Some(last));
                rest.next().transpose()?.is_none()
            }
        };
        if is_end {
            page.more = None;
        }
        Ok(page)
    }
}

/// Whether a file is to go.
fn goes(expire: &ExpireWal, needed: &[(SegmentName, SegmentName)], file: WalFileName) -> bool {
    match file.segment() {
        None => expire
            .histories_below
            .is_some_and(|timeline| file.timeline() < timeline),
        Some(segment) => {
            let is_kept = expire.keep.iter().any(|stretch| stretch.has(segment));
            let is_needed = needed.iter().any(|(start, stop)| *start <= segment && segment <= *stop);
            !is_kept && !is_needed && expire.before.is_none_or(|before| segment < before)
        }
    }
}
