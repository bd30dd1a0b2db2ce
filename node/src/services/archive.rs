//! Pushing and getting WAL.

use super::aside::Filed;
use crate::failure::chain;
use crate::protocol::{GetSegment, PayloadHead, PushSegment, Pushed, SegmentReply};
use crate::refs;
use crate::services::passed_over::passed_over;
use crate::services::read::report;
use crate::settings::effective_ack;
use crate::wal_holes::descents_of;
use crate::{Failure, Node, code};
use bytes::Bytes;
use pgmesh_postgres::{TimelineHistory, TimelineHistoryEntry, TimelineHistoryError, WalFileName, WalHeader, WalHole};
use pgmesh_raft::apply::Base;
use pgmesh_raft::command::{self, ClaimedObject, NewReplica};
use pgmesh_raft::{
    Branch, CatalogError, Claim, Command, Database, LogIndex, ObjectRef, Refusal, Replica, Reply, SegmentRecord,
    StanzaRecord, View, limits,
};
use pgmesh_storage::{Digest, Generation, ObjectName, Payload, RepoKey, StanzaName};
use std::sync::Arc;

/// Histories and the like have so many bytes at most.
const SHORT_FILE: u64 = 1 << 20;
/// How often a push is tried again when the catalog moved under it.
const TRIES: usize = 4;

/// What was read in a file.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Read<'a> {
    /// The lines of a history file.
    pub(super) branches: &'a [Branch],
    /// The content that a change map was made of.
    pub(super) mapped: Option<Digest>,
}

impl Node {
    /// Archives one WAL file: durable in `archive-ack` repositories and committed before it returns (invariant 1).
    pub async fn push_segment(
        &self,
        actor: &str,
        push: PushSegment,
        body: Bytes,
        held: Arc<crate::budget::Held>,
    ) -> Result<Pushed, Failure> {
        let file: WalFileName = push.file.parse().map_err(|error| {
            Failure::new(
                code::OPTION_INVALID,
                format!("'{}' is no name of a WAL file", push.file),
            )
            .because(error)
            .remedy("archive_command must pass %p")
        })?;
        if matches!(file, WalFileName::Map(_) | WalFileName::Aside { .. }) {
            return Err(
                Failure::new(code::OPTION_INVALID, format!("{file} is no file of PostgreSQL's"))
                    .because("a node makes it of the segment that it has archived, or sets it aside"),
            );
        }
        let payload = joined(push.payload, body)?;
        let suite = self.suite();
        let (payload, plain) = tokio::task::spawn_blocking(move || {
            let plain = payload.open(suite);
            (payload, plain)
        })
        .await
        .map_err(|error| Failure::new(code::ASSERT, "checking a WAL file").because(error))?;
        let plain = plain.map_err(|error| {
            Failure::new(code::CHECKSUM, format!("{file} did not arrive as it was sent"))
                .because(error)
                .again()
        })?;
        let branches = check_content(&push, &file, &plain)?;
        drop(plain);
        let read = Read {
            branches: &branches,
            mapped: None,
        };
        self.archive(actor, &push, &file, &payload, read, &held).await
    }

    /// Refuses a push by what it says of itself, before its body takes memory: no file of a cluster is longer than its WAL
    /// segments, but for histories, which are short. What this node does not know yet is looked at later.
    pub(crate) fn expects(&self, push: &PushSegment) -> Result<(), Failure> {
        let record = self.catalog.view().stanza(&push.stanza)?;
        let current = record.as_ref().and_then(StanzaRecord::current);
        let head = push.payload;
        let Some(database) = current.filter(|database| database.system_id == push.system_id) else {
            return Ok(());
        };
        let most = u64::from(database.segment_size.bytes()).max(SHORT_FILE);
        if head.plain_length <= most && head.length <= most {
            return Ok(());
        }
        let what = format!(
            "{} is announced with {} bytes, but the segments of stanza {} have {}",
            push.file,
            head.plain_length.max(head.length),
            push.stanza,
            database.segment_size.bytes()
        );
        Err(Failure::new(code::FILE_INVALID, what).remedy("check pg1-path and archive_command, which must pass %p"))
    }

    /// Archives a file whose content was checked.
    pub(super) async fn archive(
        &self,
        actor: &str,
        push: &PushSegment,
        file: &WalFileName,
        payload: &Payload,
        read: Read<'_>,
        held: &Arc<crate::budget::Held>,
    ) -> Result<Pushed, Failure> {
        for _ in 0..TRIES {
            match self.try_push(actor, push, file, payload, read, held).await {
                Err(PushError::Moved) => {}
                Err(PushError::Failed(failure)) => return Err(failure),
                Ok(pushed) => return Ok(pushed),
            }
        }
        Err(Failure::new(
            code::ARCHIVE_TIMEOUT,
            format!("the catalog kept changing while {file} was pushed"),
        )
        .again())
    }

    async fn try_push(
        &self,
        actor: &str,
        push: &PushSegment,
        file: &WalFileName,
        payload: &Payload,
        read: Read<'_>,
        held: &Arc<crate::budget::Held>,
    ) -> Result<Pushed, PushError> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let checked_at = view.applied()?;
        let (stanza, database) = current_database(&view, &push.stanza)?;
        // Said before anything is written, so that a copy leaves no objects behind; decided again by the catalog.
        if database.system_id != push.system_id {
            let known = database.system_id;
            return Err(Failure::from(Refusal::SystemIdDiffers {
                stanza: push.stanza.clone(),
                known,
                given: push.system_id,
            })
            .into());
        }
        let all = refs::repositories(&view)?;
        let ack = effective_ack(push.archive_ack.or(self.settings.archive_ack), all.len())
            .map_err(|why| Failure::new(code::OPTION_INVALID, "archive-ack cannot be met").because(why))?;
        let Filed { file, aside, known } = self.file_under(&view, &stanza, &database, push, file, payload).await?;
        let (file, is_aside) = (&file, aside.is_some());
        let is_same = |record: &SegmentRecord| record.object.digest == payload.digest;
        let (known_good, targets) = match &known {
            Some(record) if !is_same(record) => {
                return Err(Failure::from(Refusal::Duplicate {
                    stanza: push.stanza.clone(),
                    file: *file,
                    known: record.object.digest,
                    given: payload.digest,
                })
                .into());
            }
            Some(record) if record.object.replicas.len() >= ack => return Ok(already(record, &all, is_aside)),
            Some(record) => (
                record.object.replicas.len(),
                missing(&view.snapshot(), &segment_ref(push, &database, file), record)?,
            ),
            None => (
                0,
                refs::targets_of(&view.snapshot(), &segment_ref(push, &database, file))?,
            ),
        };
        let name = ObjectName::Segment {
            stanza: push.stanza.clone(),
            archive_id: database.archive_id(),
            file: *file,
            digest: payload.digest,
        };
        let wanted = ack.saturating_sub(known_good);
        let mut outcome = self
            .repositories
            .write(&name, payload, &targets, wanted, Some(held.clone()))
            .await?;
        let object = claimed_object(payload, outcome.claims());
        let reply = self
            .commit_push(actor, push, &database, file, aside, object, ack, checked_at, read)
            .await?;
        let (already, replicas) = match reply {
            Reply::Pushed { replicas } => (false, replicas),
            Reply::AlreadyThere { replicas } => (true, replicas),
            other => return Err(unexpected(&other).into()),
        };
        // Another catalog may have taken over meanwhile: what is acknowledged in this one would be lost.
        self.refuse_if_taken_over()?;
        let object = segment_ref(push, &database, file);
        self.settle(object, payload.digest, &mut outcome);
        Ok(pushed(already, is_aside, &replicas, &all))
    }

    #[expect(clippy::too_many_arguments, reason = "each is one field of the command")]
    async fn commit_push(
        &self,
        actor: &str,
        push: &PushSegment,
        database: &Database,
        file: &WalFileName,
        aside: Option<command::Aside>,
        object: ClaimedObject,
        ack: usize,
        checked_at: LogIndex,
        read: Read<'_>,
    ) -> Result<Reply, PushError> {
        let has_header = file.holds_wal();
        let command = Command::PushSegment(Box::new(command::PushSegment {
            stanza: push.stanza.clone(),
            file: *file,
            object,
            ack: u16::try_from(ack).unwrap_or(u16::MAX),
            checked_at,
            system_id: push.system_id,
            server: push.server.clone(),
            aside,
            header_timeline: has_header.then_some(push.header_timeline),
            branches: read.branches.to_vec(),
            mapped: read.mapped,
        }));
        match self.catalog.propose(actor, command).await {
            Ok(reply) => Ok(reply),
            Err(CatalogError::Refused(
                // Another push under the same name: whether they agree is looked at again.
                Refusal::Duplicate { .. }
                | Refusal::Recheck { .. }
                | Refusal::StaleGenerations(_)
                | Refusal::TooFewReplicas { .. },
            )) => Err(PushError::Moved),
            Err(CatalogError::Refused(refusal)) => Err(self
                .explained(&self.catalog.view(), database, push, refusal, None)
                .into()),
            Err(error) => Err(Failure::from(error).into()),
        }
    }

    /// Follows the writes that were still under way when the object was committed, and clears their debts.
    pub(crate) fn settle(&self, object: ObjectRef, digest: Digest, outcome: &mut crate::repositories::WriteOutcome) {
        let mut late = outcome.late.take();
        if late.is_empty() {
            if !outcome.owed.is_empty() {
                self.repair.wake();
            }
            return;
        }
        let (committer, sessions, repair) = (self.committer.clone(), self.sessions.clone(), self.repair.clone());
        let (catalog, actor) = (self.catalog.clone(), self.actor().to_owned());
        let asked = std::mem::take(&mut outcome.asked);
        tokio::spawn(async move {
            let session = match sessions.get().await {
                Ok(session) => session,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "late replicas stay owed");
                    return;
                }
            };
            while let Some(written) = late.next().await {
                match passed_over(&catalog.view(), &object, &asked, std::slice::from_ref(&written)) {
                    Ok(bad) => report(&catalog, &actor, &object, &bad).await,
                    Err(error) => {
                        tracing::warn!(%error, "a late replica stays owed");
                        continue;
                    }
                }
                let replica = NewReplica {
                    object: object.clone(),
                    digest,
                    claim: written.claim,
                };
                committer.replica(session.clone(), replica).await;
            }
            repair.wake();
        });
    }

    /// Reads one WAL file. "Never archived" is the answer of a linearizable read (invariant 7).
    pub async fn get_segment(&self, get: GetSegment) -> Result<(SegmentReply, Option<Bytes>), Failure> {
        let file: WalFileName = get.file.parse().map_err(|error| {
            Failure::new(code::OPTION_INVALID, format!("'{}' is no name of a WAL file", get.file)).because(error)
        })?;
        if let WalFileName::Aside { .. } = file {
            let what = format!("{file} was set aside, and is not handed out to a recovery");
            return Err(Failure::new(code::OPTION_INVALID, what).remedy("'pgmesh repo-get' reads it"));
        }
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let stanza = view
            .stanza(&get.stanza)?
            .ok_or_else(|| Failure::from(Refusal::UnknownStanza(get.stanza.clone())))?;
        // A cluster that came back after an upgrade has several databases, each with a part of its WAL.
        let is_asked = |database: &&Database| match get.system_id {
            None => stanza.current() == Some(*database),
            Some(id) => database.system_id == id,
        };
        let databases: Vec<&Database> = stanza.databases.iter().rev().filter(is_asked).collect();
        if databases.is_empty() {
            return Err(no_such_database(&get));
        }
        let Some((object, known)) = find_file(&view, &get.stanza, &databases, file)? else {
            for database in databases {
                if let Some(hole) = hole(&view, &get.stanza, &stanza, database, file)? {
                    return Ok((SegmentReply::Hole(hole), None));
                }
            }
            // The view is newer than what was looked at when the request came.
            self.refuse_loss(&view)?;
            let past = view.past()?;
            if let Some(repo) = past.unlisted.first() {
                let what = format!("{file} is not in the catalog, which has begun era {}", past.era);
                return Err(Failure::new(code::ARCHIVE_TIMEOUT, what)
                    .because(format!("repo{repo} has not been looked through yet for WAL that the lost part knew"))
                    .remedy(format!(
                        "try again: it takes some minutes after the start. If repo{repo} does not come back, 'pgmesh --repo={repo} \
                         --force repo-remove' says so; --repo-direct restores from one repository alone"
                    ))
                    .again());
            }
            if self.may_learn_of_loss() {
                return Err(Failure::new(
                    code::ARCHIVE_TIMEOUT,
                    format!(
                        "{file} is not in the catalog, and this node has not yet looked at all of its repositories"
                    ),
                )
                .because("it has just started, and they may show that the catalog has lost something")
                .again());
            }
            return Ok((SegmentReply::NeverArchived, None));
        };
        if view.object(&object)?.is_some_and(|stored| stored.is_unknown()) {
            return Err(content_unknown(&file));
        }
        let avoid: Vec<RepoKey> = get.avoid.iter().filter_map(|repo| RepoKey::new(*repo).ok()).collect();
        let source = self.read_known(&object, &known, &avoid).await?;
        let reply = SegmentReply::Found {
            payload: source.payload.head(),
            repo: source.repo.get(),
        };
        Ok((reply, Some(source.payload.bytes)))
    }
}

/// A file in the first of these databases that has it.
fn find_file(
    view: &View,
    stanza: &StanzaName,
    databases: &[&Database],
    file: WalFileName,
) -> Result<Option<(ObjectRef, refs::Known)>, Failure> {
    for database in databases {
        let object = ObjectRef::Segment {
            stanza: stanza.clone(),
            db: database.id,
            file,
        };
        if let Some(known) = refs::known(view, &object)? {
            return Ok(Some((object, known)));
        }
    }
    Ok(None)
}

/// Invariant 7: whether the absence of a file is a hole in the archive. Of files other than segments no recovery takes
/// the absence for its end.
fn hole(
    view: &View,
    name: &StanzaName,
    stanza: &StanzaRecord,
    database: &Database,
    file: WalFileName,
) -> Result<Option<WalHole>, Failure> {
    let WalFileName::Segment(segment) = file else {
        return Ok(None);
    };
    let later = view.segment_after(name, database.id, segment)?;
    let descents = descents_of(stanza, database.id);
    Ok(WalHole::judge(segment, database.segment_size, later, descents))
}

pub(super) fn segment_ref(push: &PushSegment, database: &Database, file: &WalFileName) -> ObjectRef {
    ObjectRef::Segment {
        stanza: push.stanza.clone(),
        db: database.id,
        file: *file,
    }
}

/// The repositories that lack a known segment, each with the generation to write.
pub(crate) fn missing<B: Base>(
    view: &View<B>,
    object: &ObjectRef,
    record: &SegmentRecord,
) -> Result<Vec<(RepoKey, Generation)>, Failure> {
    let mut targets = refs::targets_of_known(view, object, &record.object.replicas)?;
    targets.retain(|(key, _)| !record.object.replicas.iter().any(|has| has.repo == *key));
    Ok(targets)
}

/// What a push may end in, besides success.
enum PushError {
    /// The catalog moved since the look at it: look again.
    Moved,
    Failed(Failure),
}

impl From<Failure> for PushError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<pgmesh_raft::ReadError> for PushError {
    fn from(error: pgmesh_raft::ReadError) -> Self {
        Self::Failed(error.into())
    }
}

/// The stanza and its current database, where it takes WAL.
pub(crate) fn current_database(view: &View, stanza: &StanzaName) -> Result<(StanzaRecord, Database), Failure> {
    let record = view
        .stanza(stanza)?
        .ok_or_else(|| Failure::from(Refusal::UnknownStanza(stanza.clone())))?;
    if record.deleting {
        return Err(Refusal::StanzaDeleting(stanza.clone()).into());
    }
    if let Some(reason) = &record.stopped {
        return Err(Refusal::StanzaStopped {
            stanza: stanza.clone(),
            reason: reason.clone(),
        }
        .into());
    }
    match record.current().cloned() {
        Some(database) => Ok((record, database)),
        None => Err(Failure::new(
            code::FORMAT,
            format!("the catalog's record of stanza {stanza} names no database"),
        )),
    }
}

/// Checks a file's content against its name and the stanza; the branches of a history file.
fn check_content(push: &PushSegment, file: &WalFileName, plain: &[u8]) -> Result<Vec<Branch>, Failure> {
    let invalid = |error: &dyn std::error::Error| {
        Failure::new(code::FILE_INVALID, format!("{file} is not what its name says")).because(chain(error))
    };
    match file {
        WalFileName::Segment(name) | WalFileName::Partial(name) => {
            let header = WalHeader::parse(plain).map_err(|error| invalid(&error))?;
            header
                .check(*name, plain.len() as u64)
                .map_err(|error| invalid(&error))?;
            if header.system_id != push.system_id {
                return Err(Failure::new(
                    code::ARCHIVE_MISMATCH,
                    format!(
                        "{file} was written by cluster {}, not by {}",
                        header.system_id, push.system_id
                    ),
                ));
            }
            Ok(Vec::new())
        }
        WalFileName::History(_)
        | WalFileName::BackupHistory { .. }
        | WalFileName::Map(_)
        | WalFileName::Aside { .. } => branches_of(*file, plain).map_err(|error| invalid(&error)),
    }
}

/// The newest lines of a history file, as many as the catalog knows; none of other files. The file may have any number:
/// an archiver is not stopped by the number of its cluster's promotions.
pub(crate) fn branches_of(file: WalFileName, plain: &[u8]) -> Result<Vec<Branch>, TimelineHistoryError> {
    let WalFileName::History(timeline) = file else {
        return Ok(Vec::new());
    };
    let history = TimelineHistory::parse(timeline, plain)?;
    let branch = |entry: &TimelineHistoryEntry| Branch {
        parent: entry.parent,
        switch: entry.switch,
    };
    let beyond = history.entries.len().saturating_sub(limits::LINES);
    Ok(history.entries.iter().skip(beyond).map(branch).collect())
}

pub(crate) fn claimed_object(payload: &Payload, claims: Vec<Claim>) -> ClaimedObject {
    ClaimedObject {
        digest: payload.digest,
        plain_length: payload.plain_length,
        stored_length: payload.bytes.len() as u64,
        claims,
    }
}

fn already(record: &SegmentRecord, all: &[RepoKey], aside: bool) -> Pushed {
    pushed(true, aside, &record.object.replicas, all)
}

fn pushed(already: bool, aside: bool, replicas: &[Replica], all: &[RepoKey]) -> Pushed {
    let durable: Vec<u16> = replicas.iter().map(|replica| replica.repo.get()).collect();
    let owed = all
        .iter()
        .map(|key| key.get())
        .filter(|key| !durable.contains(key))
        .collect();
    Pushed {
        already,
        aside,
        durable,
        owed,
    }
}

/// Invariant 7: it was archived, so "not found" would be a lie, and would end a recovery early.
fn content_unknown(file: &WalFileName) -> Failure {
    Failure::new(
        code::FILE_MISSING,
        format!("{file} was archived once, but the repository that the catalog was rebuilt from has no good copy of it"),
    )
    .remedy(
        "if the cluster still has it in pg_wal, push it again with 'pgmesh archive-push'; else recover to a target before it, \
         or from a later backup",
    )
}

fn no_such_database(get: &GetSegment) -> Failure {
    let given = get.system_id.map_or_else(|| "none".to_owned(), |id| id.to_string());
    Failure::new(
        code::ARCHIVE_MISMATCH,
        format!("stanza {} has no database with system identifier {given}", get.stanza),
    )
    .remedy("check --stanza and pg1-path")
}

/// An answer that does not belong to the command.
pub(crate) fn unexpected(reply: &Reply) -> Failure {
    Failure::new(
        code::ASSERT,
        "the catalog gave an answer that does not belong to the command",
    )
    .because(format!("{reply:?}"))
}

/// A payload, once its body has arrived.
pub(crate) fn joined(head: PayloadHead, body: Bytes) -> Result<Payload, Failure> {
    Payload::from_parts(head, body)
        .map_err(|error| Failure::new(code::PROTOCOL, "a body does not fit what was announced").because(error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::testing::{SEGMENT, TestNode, push_of, stanza};
    use pgmesh_postgres::TimelineId;
    use std::fmt::Write;

    #[test]
    fn of_a_very_long_history_the_newest_lines_are_told() {
        let own = u32::try_from(limits::LINES).unwrap() + 500;
        let mut text = String::new();
        for parent in 1..own {
            writeln!(text, "{parent}\t{parent:X}/8000000\tno recovery target specified").unwrap();
        }
        let file = WalFileName::History(TimelineId(own));
        let branches = branches_of(file, text.as_bytes()).unwrap();
        assert_eq!(branches.len(), limits::LINES);
        assert_eq!(branches.last().unwrap().parent, TimelineId(own - 1));
    }

    /// Memory for a body is taken by what is said of it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_push_that_announces_more_than_a_segment_is_refused_before_its_body() {
        let site = TestNode::start(SessionTimes::default()).await;
        let mut push = push_of("000000010000000000000002", &[0; 64]);
        assert!(
            site.node.expects(&push).is_ok(),
            "of a stanza that is not known nothing is known"
        );
        site.create_stanza(&site.connect().await).await;
        push.payload.plain_length = u64::from(SEGMENT);
        assert!(site.node.expects(&push).is_ok());
        push.payload.plain_length = 1 << 30;
        let failure = site.node.expects(&push).unwrap_err();
        assert_eq!(failure.code, code::FILE_INVALID);
        assert!(failure.what.contains(&stanza().to_string()), "{failure}");
    }
}
