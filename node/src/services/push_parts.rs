//! Pushing a WAL file that lies in parts: received, checked and written part by part, so that it is never whole in
//! memory (invariant 11).
//!
//! ```text
//!   client ─ part n+1 ─► check: length, digest; header of the first; digest of all ─► write_file ─► repositories
//!                                                                  the last part only when all is good
//! ```

use super::archive::{Plan, Planned, PushError, Read, TRIES, check_header, kept_changing, pushed_file, segment_ref};
use super::aside::{Condition, Content};
use super::joined;
use crate::archive::Archive;
use crate::budget::Held;
use crate::exchange::Exchange;
use crate::repositories::{FileWrite, FileWritten, PartToWrite};
use bytes::Bytes;
use futures::stream;
use pgmesh_postgres::wal::{SegmentMap, SegmentMapper};
use pgmesh_postgres::{SegmentName, WalFileName};
use pgmesh_protocol::wal_copies::PARTS_AT_ONCE;
use pgmesh_protocol::{ExitCode, Failure, MESSAGE_LIMIT, PartsTurn, PayloadHead, PushSegment, Pushed};
use pgmesh_raft::command::ClaimedObject;
use pgmesh_raft::{Claim, ObjectRef};
use pgmesh_runtime::tasks;
use pgmesh_storage::{Digest, DigestSuite, FILE_PART_LENGTH, FilePart, Hasher, Payload, Portion, parts_of};
use pgmesh_transport::tuning::STALL_LIMIT;
use pgmesh_transport::{Stream, StreamError};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// A push that was acknowledged.
pub(crate) struct PartsPushed {
    pub(crate) pushed: Pushed,
    /// It was archived before, and the client has been told so.
    pub(crate) was_told: bool,
    /// The change map of a new segment, to be kept after the answer.
    pub(crate) map: Option<SegmentMap>,
}

/// Why a push of parts ended.
pub(crate) enum PushPartsError {
    /// The stream has failed: nobody hears an answer.
    Stream(StreamError),
    /// It is refused.
    Failed(Failure),
}

impl From<Failure> for PushPartsError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<StreamError> for PushPartsError {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

/// A file on its way in.
struct Incoming<'p> {
    push: &'p PushSegment,
    file: WalFileName,
    segment: SegmentName,
    of: u16,
}

/// What all parts were found to be.
struct Received {
    payload_length: u64,
    /// So many bytes are as those of the archived file that it was compared with; none where it was compared with none.
    same: Option<u64>,
    map: Option<SegmentMap>,
}

impl Archive {
    /// Archives one WAL file whose parts follow on the stream, as [`push_segment`](Self::push_segment) does a shorter
    /// one. The parts are asked for only when the catalog wants the file.
    pub(crate) async fn push_parts(
        &self,
        actor: &str,
        push: &PushSegment,
        ex: &mut Exchange<'_>,
    ) -> Result<PartsPushed, PushPartsError> {
        let incoming = incoming(push)?;
        let content = || Content::InParts(push.payload.digest);
        let mut plan = match self.plan_again(push, &incoming.file, content()).await? {
            Planned::Write(plan) => plan,
            Planned::Already(pushed) => {
                ex.turn(PartsTurn::Done(pushed.clone())).await?;
                return Ok(PartsPushed {
                    pushed,
                    was_told: true,
                    map: None,
                });
            }
        };
        let name = plan.name(push, push.payload.digest, Portion::AllParts(incoming.of));
        self.repositories.beside_passed(&name, &mut plan.targets);
        let file = FileWrite {
            name,
            of: incoming.of,
            targets: plan.targets.clone(),
            ack: plan.wanted,
        };
        ex.turn(PartsTurn::Send).await?;
        let condition = plan.filed.condition.take();
        let (sender, parts) = mpsc::channel(1);
        let receive = self.receive_parts(&incoming, &plan, condition, ex, sender);
        let write = async {
            self.repositories
                .write_file(&file, parts)
                .await
                .map_err(PushPartsError::from)
        };
        // Whichever fails ends the other.
        let (received, written) = tokio::try_join!(receive, write)?;
        let (pushed, plan) = self
            .commit_parts(actor, &incoming, plan, &received, written.claims())
            .await?;
        let object = segment_ref(push, &plan.database, &plan.filed.file);
        self.settle_file(object, push.payload.digest, written);
        let is_new = !pushed.already && !pushed.aside;
        let map = received.map.filter(|_| is_new);
        Ok(PartsPushed {
            pushed,
            was_told: false,
            map,
        })
    }

    async fn plan_again(
        &self,
        push: &PushSegment,
        file: &WalFileName,
        content: Content<'_>,
    ) -> Result<Planned, Failure> {
        for _ in 0..TRIES {
            match self.plan_push(push, file, content).await {
                Err(PushError::Moved) => {}
                Err(PushError::Failed(failure)) => return Err(failure),
                Ok(planned) => return Ok(planned),
            }
        }
        Err(kept_changing(push))
    }

    /// Receives and checks the parts, and hands them on. The last one only when the whole file was found good: a set of
    /// parts that is complete is what its name says.
    async fn receive_parts(
        &self,
        incoming: &Incoming<'_>,
        plan: &Plan,
        mut condition: Option<Condition>,
        ex: &mut Exchange<'_>,
        sender: mpsc::Sender<PartToWrite>,
    ) -> Result<Received, PushPartsError> {
        let push = incoming.push;
        let turns = Arc::new(Semaphore::new(PARTS_AT_ONCE));
        let mut inspector = Some(Inspector::new(incoming, plan, self.suite()));
        let mut payload_length = 0;
        for part in FilePart::all(incoming.of) {
            let stopping = || Failure::new(ExitCode::Runtime, "the node is stopping").again();
            let turn = turns.clone().acquire_owned().await.map_err(|_| stopping())?;
            let (payload, held) = self.receive_part(push, part, condition.is_some(), ex).await?;
            payload_length += payload.bytes.len() as u64;
            let (payload, plain, inspecting) = inspect(inspector.take(), part, payload).await?;
            inspector = Some(inspecting);
            if let Some(condition) = &mut condition {
                condition.comparison.add(&self.reads, &plain).await?;
            }
            drop(plain);
            if part.is_last() {
                expect_end(ex.stream(), &push.file).await?;
                let digest = inspector.as_ref().map(Inspector::digest);
                check_whole(push, digest)?;
                if let Some(condition) = &condition {
                    self.check_condition(&plan.database, push, &incoming.file, condition)?;
                }
            }
            let held = Arc::new(held);
            let write = PartToWrite {
                part,
                payload,
                held,
                turn,
            };
            sender.send(write).await.map_err(|_| stopping())?;
        }
        Ok(Received {
            payload_length,
            same: condition.map(|condition| condition.comparison.same()),
            map: inspector.and_then(Inspector::into_map),
        })
    }

    async fn receive_part(
        &self,
        push: &PushSegment,
        part: FilePart,
        is_compared: bool,
        ex: &mut Exchange<'_>,
    ) -> Result<(Payload, Held), PushPartsError> {
        let silent = |_| StreamError::Stalled { after: STALL_LIMIT };
        let head = tokio::time::timeout(STALL_LIMIT, ex.stream().recv::<PayloadHead>(MESSAGE_LIMIT));
        let head = head.await.map_err(silent)??;
        check_head(push, part, &head)?;
        // As it came, encrypted once for each repository, and plain; and as much of the archived file to compare.
        let copies = 1 + self.repositories.keys().len() as u64;
        let compared = if is_compared { 3 * FILE_PART_LENGTH } else { 0 };
        let memory = head.length * copies + head.plain_length + compared;
        let held = ex.hold_part(memory).await?;
        let body: Bytes = ex.part(&held, head, FILE_PART_LENGTH).await?;
        Ok((joined(head, body)?, held))
    }

    /// Commits what was written. Where the catalog has moved meanwhile, what was written may still be what it wants.
    async fn commit_parts(
        &self,
        actor: &str,
        incoming: &Incoming<'_>,
        mut plan: Box<Plan>,
        received: &Received,
        claims: Vec<Claim>,
    ) -> Result<(Pushed, Box<Plan>), Failure> {
        let push = incoming.push;
        for _ in 0..TRIES {
            let object = ClaimedObject {
                digest: push.payload.digest,
                plain_length: push.payload.plain_length,
                stored_length: received.payload_length,
                claims: claims.clone(),
            };
            match self.commit_push(actor, push, &plan, object, Read::default()).await {
                Ok(pushed) => return Ok((pushed, plan)),
                Err(PushError::Failed(failure)) => return Err(failure),
                Err(PushError::Moved) => {}
            }
            let content = Content::InParts(push.payload.digest);
            match self.plan_again(push, &incoming.file, content).await? {
                Planned::Already(pushed) => return Ok((pushed, plan)),
                Planned::Write(next) if fits(&plan, &next, received.same, &claims) => plan = next,
                Planned::Write(_) => break,
            }
        }
        Err(kept_changing(push))
    }

    /// Follows the repositories that were still writing when the file was committed, and clears their debts.
    fn settle_file(&self, object: ObjectRef, digest: Digest, written: FileWritten) {
        if written.is_done() {
            // It may be nothing that is owed; then it finds nothing.
            self.repair.wake();
            return;
        }
        let claims = stream::unfold(written, async |mut written: FileWritten| {
            let claim = written.next().await?;
            Some((claim, written))
        });
        self.claim_late(object, digest, claims);
    }
}

/// Whether what was written for one plan is what another asks for.
fn fits(written: &Plan, next: &Plan, same: Option<u64>, claims: &[Claim]) -> bool {
    // A condition was looked at for the file that was compared with.
    let is_same_file = written.filed.file == next.filed.file
        && match (&written.filed.aside, &next.filed.aside) {
            (Some(was), Some(is)) => was.compared == is.compared,
            (None, None) => true,
            _ => false,
        };
    // Up to where it must be alike now: a history that was archived meanwhile may have moved that.
    let condition = next.filed.condition.as_ref();
    let is_alike = condition.is_none_or(|condition| same.is_some_and(|same| same >= condition.shared));
    let is_wanted = |claim: &&Claim| {
        let replica = claim.replica;
        let mut targets = next.targets.iter();
        targets.any(|(repo, generation)| *repo == replica.repo && *generation <= replica.generation)
    };
    is_same_file && is_alike && claims.iter().filter(is_wanted).count() >= next.wanted
}

/// What a push of parts is of; refused when no file of PostgreSQL's is so long.
fn incoming(push: &PushSegment) -> Result<Incoming<'_>, Failure> {
    let file = pushed_file(push)?;
    let (WalFileName::Segment(segment) | WalFileName::Partial(segment)) = file else {
        let what = format!("{file} is announced with {} bytes", push.payload.plain_length);
        return Err(Failure::new(ExitCode::FileInvalid, what).because("only segments of WAL are as long"));
    };
    let of =
        parts_of(push.payload.plain_length).ok_or_else(|| unfitting(push, "it does not lie in parts".to_owned()))?;
    Ok(Incoming {
        push,
        file,
        segment,
        of,
    })
}

fn unfitting(push: &PushSegment, why: String) -> Failure {
    let what = format!("what was sent of {} does not fit what was announced", push.file);
    Failure::new(ExitCode::Protocol, what).because(why)
}

/// Bounds what a part announces, before it takes memory.
fn check_head(push: &PushSegment, part: FilePart, head: &PayloadHead) -> Result<(), Failure> {
    let wanted = part.length_in(push.payload.plain_length);
    if head.plain_length == wanted && head.length <= wanted {
        return Ok(());
    }
    let (plain, length) = (head.plain_length, head.length);
    Err(unfitting(
        push,
        format!("part {part} has {plain} bytes, {length} compressed, where {wanted} were expected"),
    ))
}

/// Nothing follows the last part.
async fn expect_end(stream: &mut Stream, file: &str) -> Result<(), PushPartsError> {
    let silent = |_| StreamError::Stalled { after: STALL_LIMIT };
    let end = tokio::time::timeout(STALL_LIMIT, stream.recv_optional::<PayloadHead>(MESSAGE_LIMIT));
    match end.await.map_err(silent)?? {
        None => Ok(()),
        Some(_) => {
            let what = format!("more was sent of {file} than was announced");
            Err(Failure::new(ExitCode::Protocol, what).into())
        }
    }
}

fn check_whole(push: &PushSegment, found: Option<Digest>) -> Result<(), Failure> {
    if found == Some(push.payload.digest) {
        return Ok(());
    }
    let what = format!("{} is not what was announced: its digest is another one", push.file);
    Err(Failure::new(ExitCode::Checksum, what)
        .because("it has changed while it was sent, or did not arrive as it was sent")
        .again())
}

/// Looks at every part in its order.
struct Inspector {
    push: PushSegment,
    segment: SegmentName,
    suite: DigestSuite,
    hasher: Hasher,
    mapper: Option<SegmentMapper>,
}

impl Inspector {
    fn new(incoming: &Incoming<'_>, plan: &Plan, suite: DigestSuite) -> Self {
        let Incoming { push, segment, .. } = incoming;
        // PostgreSQL summarises its WAL itself from 17 on; of what is set aside, and of half a segment, nobody asks.
        let is_mapped = matches!(plan.filed.file, WalFileName::Segment(_)) && !push.version.has_wal_summaries();
        let database = &plan.database;
        let mapper = || SegmentMapper::new(*segment, database.segment_size, database.archive_id().version);
        Self {
            push: (*push).clone(),
            segment: *segment,
            suite,
            hasher: suite.hasher(),
            mapper: is_mapped.then(mapper),
        }
    }

    fn take(&mut self, part: FilePart, payload: &Payload) -> Result<Bytes, Failure> {
        let plain = payload.open(self.suite).map_err(|error| {
            let what = format!("part {part} of {} did not arrive as it was sent", self.push.file);
            Failure::new(ExitCode::Checksum, what).because(error).again()
        })?;
        if part.number() == 1 {
            // Before anything is written.
            check_header(&self.push, self.segment, self.push.payload.plain_length, &plain)?;
        }
        self.hasher.update(&plain);
        if let Some(mapper) = &mut self.mapper {
            mapper.feed(&plain);
        }
        Ok(plain)
    }

    fn digest(&self) -> Digest {
        self.hasher.clone().finalize()
    }

    fn into_map(self) -> Option<SegmentMap> {
        self.mapper.map(SegmentMapper::finish)
    }
}

/// Opens a part and looks at it, on a thread of its own.
async fn inspect(
    inspector: Option<Inspector>,
    part: FilePart,
    payload: Payload,
) -> Result<(Payload, Bytes, Inspector), Failure> {
    let abnormal = || Failure::new(ExitCode::Assert, "checking a part of a WAL file");
    let mut inspector = inspector.ok_or_else(abnormal)?;
    let inspected = tasks::blocking("inspecting a part", move || {
        let plain = inspector.take(part, &payload)?;
        Ok((payload, plain, inspector))
    });
    inspected.await.map_err(|error| abnormal().because(error))?
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
