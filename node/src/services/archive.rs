//! Pushing WAL.

use super::aside::{Content, Filed};
use crate::archive::Archive;
use crate::core::Core;
use crate::refs;
use crate::replies::unexpected;
use crate::services::passed_over::passed_over;
use crate::services::read::report;
use crate::settings::effective_ack;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use pgmesh_postgres::{
    SegmentName, TimelineHistory, TimelineHistoryEntry, TimelineHistoryError, WalFileName, WalHeader,
};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure, PayloadHead, PushSegment, Pushed};
use pgmesh_raft::apply::Base;
use pgmesh_raft::command::{self, ClaimedObject, NewReplica};
use pgmesh_raft::{
    Branch, CatalogError, Claim, Command, Database, LogIndex, ObjectRef, Refusal, Replica, Reply, SegmentRecord,
    StanzaRecord, View, limits,
};
use pgmesh_runtime::tasks;
use pgmesh_storage::{Digest, Generation, ObjectName, Payload, Portion, RepoKey, StanzaName};
use std::sync::Arc;

/// Histories and the like have so many bytes at most.
const SHORT_FILE: u64 = 1 << 20;
/// How often a push is tried again when the catalog moved under it.
pub(super) const TRIES: usize = 4;

/// Facts that the node has read in the content of a file.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Read<'a> {
    /// The lines of a history file.
    pub(super) branches: &'a [Branch],
    /// The content that a change map was made of.
    pub(super) mapped: Option<Digest>,
}

impl Archive {
    /// Archives one WAL file: durable in `archive-ack` repositories and committed before it returns (invariant 1).
    pub async fn push_segment(
        &self,
        actor: &str,
        push: PushSegment,
        body: Bytes,
        held: Arc<crate::budget::Held>,
    ) -> Result<Pushed, Failure> {
        let file = pushed_file(&push)?;
        let payload = joined(push.payload, body)?;
        let suite = self.suite();
        let (payload, plain) = tasks::blocking("checking a WAL file", move || {
            let plain = payload.open(suite);
            (payload, plain)
        })
        .await
        .map_err(|error| Failure::new(ExitCode::Assert, "checking a WAL file").because(error))?;
        let plain = plain.map_err(|error| {
            Failure::new(ExitCode::Checksum, format!("{file} did not arrive as it was sent"))
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

    /// Refuses a push that announces too much, before its body takes memory: no file of a cluster is longer than its
    /// WAL segments, except histories, which are short. If this node does not know the cluster yet, the push is checked
    /// later.
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
        Err(Failure::new(ExitCode::FileInvalid, what).remedy("check pg1-path and archive_command, which must pass %p"))
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
        Err(kept_changing(push))
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
        let plan = match self.plan_push(push, file, Content::Here(payload)).await? {
            Planned::Write(plan) => plan,
            Planned::Already(pushed) => return Ok(pushed),
        };
        let name = plan.name(push, payload.digest, Portion::Whole);
        let mut outcome = self
            .repositories
            .write(&name, payload, &plan.targets, plan.wanted, Some(held.clone()))
            .await?;
        let object = claimed_object(payload, outcome.claims());
        let pushed = self.commit_push(actor, push, &plan, object, read).await?;
        let object = segment_ref(push, &plan.database, &plan.filed.file);
        self.settle(object, payload.digest, &mut outcome);
        Ok(pushed)
    }

    /// Where a push goes, as the catalog stands. Said before anything is written, so that a copy leaves no objects
    /// behind; decided again by the catalog.
    pub(super) async fn plan_push(
        &self,
        push: &PushSegment,
        file: &WalFileName,
        content: Content<'_>,
    ) -> Result<Planned, PushError> {
        let digest = content.digest();
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let checked_at = view.applied()?;
        let (stanza, database) = current_database(&view, &push.stanza)?;
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
            .map_err(|why| Failure::new(ExitCode::OptionInvalid, "archive-ack cannot be met").because(why))?;
        let filed = self.file_under(&view, &stanza, &database, push, file, content).await?;
        let is_same = |record: &SegmentRecord| record.object.digest == digest;
        let object = segment_ref(push, &database, &filed.file);
        let (known_good, targets) = match &filed.known {
            Some(record) if !is_same(record) => {
                return Err(Failure::from(Refusal::Duplicate {
                    stanza: push.stanza.clone(),
                    file: filed.file,
                    known: record.object.digest,
                    given: digest,
                })
                .into());
            }
            // Repositories that have kept it for as long as they should ask for nothing.
            Some(record) if record.object.replicas.len() + record.expired.len() >= ack => {
                return Ok(Planned::Already(already(record, &all, filed.aside.is_some())));
            }
            Some(record) => (
                record.object.replicas.len() + record.expired.len(),
                missing(&view.snapshot(), &object, record)?,
            ),
            None if has_expired(&view, &push.stanza, &database, filed.file)? => {
                tracing::info!(stanza = %push.stanza, file = %filed.file, "was archived once and has expired: not stored again");
                return Ok(Planned::Already(Pushed {
                    already: true,
                    aside: false,
                    durable: Vec::new(),
                    owed: Vec::new(),
                }));
            }
            None => (0, refs::targets_of(&view.snapshot(), &object)?),
        };
        Ok(Planned::Write(Box::new(Plan {
            database,
            filed,
            all,
            ack,
            wanted: ack.saturating_sub(known_good),
            checked_at,
            targets,
        })))
    }

    /// Commits a written object. Once the push is acknowledged, the object stays.
    pub(super) async fn commit_push(
        &self,
        actor: &str,
        push: &PushSegment,
        plan: &Plan,
        object: ClaimedObject,
        read: Read<'_>,
    ) -> Result<Pushed, PushError> {
        let Filed { file, aside, .. } = &plan.filed;
        let has_header = file.holds_wal();
        let command = Command::PushSegment(Box::new(command::PushSegment {
            stanza: push.stanza.clone(),
            file: *file,
            object,
            ack: u16::try_from(plan.ack).unwrap_or(u16::MAX),
            checked_at: plan.checked_at,
            system_id: push.system_id,
            server: push.server.clone(),
            aside: aside.clone(),
            header_timeline: has_header.then_some(push.header_timeline),
            branches: read.branches.to_vec(),
            mapped: read.mapped,
        }));
        let (already, replicas) = match self.catalog.propose(actor, command).await {
            Ok(Reply::Pushed { replicas }) => (false, replicas),
            Ok(Reply::AlreadyThere { replicas }) => (true, replicas),
            Ok(other) => return Err(unexpected(&other).into()),
            Err(CatalogError::Refused(
                // Another push under the same name: whether they agree is looked at again.
                Refusal::Duplicate { .. }
                | Refusal::Recheck { .. }
                | Refusal::StaleGenerations(_)
                | Refusal::TooFewReplicas { .. },
            )) => return Err(PushError::Moved),
            Err(CatalogError::Refused(refusal)) => {
                let view = self.catalog.view();
                return Err(self.explained(&view, &plan.database, push, refusal, None).into());
            }
            Err(error) => return Err(Failure::from(error).into()),
        };
        // If another catalog has taken over meanwhile, a push acknowledged in this one would be lost.
        self.refuse_if_taken_over()?;
        Ok(pushed(already, aside.is_some(), &replicas, &plan.all))
    }
}

impl Core {
    /// Follows the writes that were still under way when the object was committed, and clears their debts.
    pub(crate) fn settle(&self, object: ObjectRef, digest: Digest, outcome: &mut crate::repositories::WriteOutcome) {
        let late = outcome.late.take();
        if late.is_empty() {
            if !outcome.owed.is_empty() {
                self.repair.wake();
            }
            return;
        }
        let (catalog, actor) = (self.catalog.clone(), self.actor().to_owned());
        let (asked, of) = (std::mem::take(&mut outcome.asked), object.clone());
        let claims = stream::unfold((late, catalog), move |(mut late, catalog)| {
            let (asked, of, actor) = (asked.clone(), of.clone(), actor.clone());
            async move {
                loop {
                    let written = late.next().await?;
                    match passed_over(&catalog.view(), &of, &asked, std::slice::from_ref(&written)) {
                        Ok(bad) => report(&catalog, &actor, &of, &bad).await,
                        Err(error) => {
                            tracing::warn!(%error, "a late replica stays owed");
                            continue;
                        }
                    }
                    return Some((written.claim, (late, catalog)));
                }
            }
        });
        self.claim_late(object, digest, claims);
    }

    /// Claims replicas that are written after the answer.
    pub(super) fn claim_late(
        &self,
        object: ObjectRef,
        digest: Digest,
        claims: impl Stream<Item = Claim> + Send + 'static,
    ) {
        let (committer, sessions, repair) = (self.committer.clone(), self.sessions.clone(), self.repair.clone());
        tasks::spawn("late replicas", async move {
            let session = match sessions.get().await {
                Ok(session) => session,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "late replicas stay owed");
                    return;
                }
            };
            let mut claims = std::pin::pin!(claims);
            while let Some(claim) = claims.next().await {
                let object = object.clone();
                let replica = NewReplica { object, digest, claim };
                committer.replica(session.clone(), replica).await;
            }
            repair.wake();
        });
    }
}

pub(super) fn kept_changing(push: &PushSegment) -> Failure {
    let what = format!("the catalog kept changing while {} was pushed", push.file);
    Failure::new(ExitCode::ArchiveTimeout, what).again()
}

pub(super) fn segment_ref(push: &PushSegment, database: &Database, file: &WalFileName) -> ObjectRef {
    ObjectRef::Segment {
        stanza: push.stanza.clone(),
        db: database.id,
        file: *file,
    }
}

/// Whether a segment that is not in the archive, or later WAL of its timeline, has expired in all repositories.
fn has_expired(view: &View, stanza: &StanzaName, database: &Database, file: WalFileName) -> Result<bool, Failure> {
    let WalFileName::Segment(segment) = file else {
        return Ok(false);
    };
    let upto = view.expired_upto(stanza, database.id, segment.timeline)?;
    Ok(upto.is_some_and(|upto| segment <= upto))
}

/// The repositories that lack a known segment, each with the generation to write.
pub(crate) fn missing<B: Base>(
    view: &View<B>,
    object: &ObjectRef,
    record: &SegmentRecord,
) -> Result<Vec<(RepoKey, Generation)>, Failure> {
    let mut targets = refs::targets_of_known(view, object, &record.object.replicas)?;
    let has = |key: &RepoKey| record.object.replicas.iter().any(|has| has.repo == *key);
    targets.retain(|(key, _)| !has(key) && !record.expired.contains(key));
    Ok(targets)
}

/// Where a push goes.
pub(super) struct Plan {
    pub(super) database: Database,
    pub(super) filed: Filed,
    /// All repositories of the mesh.
    all: Vec<RepoKey>,
    /// So many repositories must have the file.
    ack: usize,
    /// So many of the targets must.
    pub(super) wanted: usize,
    checked_at: LogIndex,
    /// The repositories that lack it, each with the generation to write.
    pub(super) targets: Vec<(RepoKey, Generation)>,
}

impl Plan {
    pub(super) fn name(&self, push: &PushSegment, digest: Digest, portion: Portion) -> ObjectName {
        ObjectName::Segment {
            stanza: push.stanza.clone(),
            archive_id: self.database.archive_id(),
            file: self.filed.file,
            digest,
            portion,
        }
    }
}

/// The plan for a push.
pub(super) enum Planned {
    /// It is written.
    Write(Box<Plan>),
    /// The same bytes are archived.
    Already(Pushed),
}

/// The ways in which a push can fail.
pub(super) enum PushError {
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
            ExitCode::Format,
            format!("the catalog's record of stanza {stanza} names no database"),
        )),
    }
}

/// The file that is pushed.
pub(super) fn pushed_file(push: &PushSegment) -> Result<WalFileName, Failure> {
    let file: WalFileName = push.file.parse().map_err(|error| {
        Failure::new(
            ExitCode::OptionInvalid,
            format!("'{}' is no name of a WAL file", push.file),
        )
        .because(error)
        .remedy("archive_command must pass %p")
    })?;
    if matches!(file, WalFileName::Map(_) | WalFileName::Aside { .. }) {
        return Err(
            Failure::new(ExitCode::OptionInvalid, format!("{file} is no file of PostgreSQL's"))
                .because("a node makes it of the segment that it has archived, or sets it aside"),
        );
    }
    Ok(file)
}

/// Checks the header of a segment of so many bytes, of which the first are given.
pub(super) fn check_header(push: &PushSegment, name: SegmentName, length: u64, begin: &[u8]) -> Result<(), Failure> {
    let file = &push.file;
    let invalid = |error: &dyn std::error::Error| {
        Failure::new(ExitCode::FileInvalid, format!("{file} is not what its name says")).because(chain(error))
    };
    let header = WalHeader::parse(begin).map_err(|error| invalid(&error))?;
    header.check(name, length).map_err(|error| invalid(&error))?;
    if header.system_id == push.system_id {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::ArchiveMismatch,
        format!(
            "{file} was written by cluster {}, not by {}",
            header.system_id, push.system_id
        ),
    ))
}

/// Checks a file's content against its name and the stanza; the branches of a history file.
fn check_content(push: &PushSegment, file: &WalFileName, plain: &[u8]) -> Result<Vec<Branch>, Failure> {
    let invalid = |error: &dyn std::error::Error| {
        Failure::new(ExitCode::FileInvalid, format!("{file} is not what its name says")).because(chain(error))
    };
    match file {
        WalFileName::Segment(name) | WalFileName::Partial(name) => {
            check_header(push, *name, plain.len() as u64, plain)?;
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

/// A payload, once its body has arrived.
pub(crate) fn joined(head: PayloadHead, body: Bytes) -> Result<Payload, Failure> {
    Payload::from_parts(head, body)
        .map_err(|error| Failure::new(ExitCode::Protocol, "a body does not fit what was announced").because(error))
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

    /// The memory for a body is taken by its announced length.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_push_that_announces_more_than_a_segment_is_refused_before_its_body() {
        let site = TestNode::start(SessionTimes::default()).await;
        let mut push = push_of("000000010000000000000002", &[0; 64]);
        assert!(
            site.node.archive.expects(&push).is_ok(),
            "of a stanza that is not known nothing is known"
        );
        site.create_stanza(&site.connect().await).await;
        push.payload.plain_length = u64::from(SEGMENT);
        assert!(site.node.archive.expects(&push).is_ok());
        push.payload.plain_length = 1 << 30;
        let failure = site.node.archive.expects(&push).unwrap_err();
        assert_eq!(failure.code, ExitCode::FileInvalid);
        assert!(failure.what.contains(&stanza().to_string()), "{failure}");
    }
}
