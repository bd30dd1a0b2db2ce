//! Writing a file that lies in parts to several repositories at once, a few parts at a time.
//!
//! ```text
//!   parts ─► write part n ──► enough have it ─► … ─► the last part ─► claims of repositories with all parts
//!               │                  │
//!               │                  └─► the others go on, within the window
//!               └─► failed, or found a damaged object there: that repository has not got the file, and is asked no more
//! ```
//!
//! A repository that is slower than the others holds up the window. It is waited for a little, in sum; then it is given
//! up for this file, if enough others go on: it owes the file, and the repair copies it.

use super::Repositories;
use super::fanout::{LateWrites, WriteOutcome};
use super::write_plan::Admission;
use super::written::Written;
use crate::budget::Held;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use pgmesh_protocol::wal_copies::PARTS_AT_ONCE;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::Claim;
use pgmesh_storage::{FilePart, Generation, ObjectName, Payload, RepoKey};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
/// So long, in sum, the parts of a file wait for repositories that are slower than the acknowledging ones.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is checked whether another request waits for the memory that they hold.
const LOOK: Duration = Duration::from_millis(100);
/// Files of which it is remembered that a damaged part lies under a name of theirs.
const PASSED: usize = 256;

/// One part, checked.
pub(crate) struct PartToWrite {
    /// Which.
    pub part: FilePart,
    /// Its content.
    pub payload: Payload,
    /// The part of the memory budget that it takes.
    pub held: Arc<Held>,
    /// Given back when enough repositories have it.
    pub turn: OwnedSemaphorePermit,
}

/// Where a file is written to.
pub(crate) struct FileWrite {
    /// The name of all its parts.
    pub name: ObjectName,
    /// How many parts it has.
    pub of: u16,
    /// The repositories, each with the generation to write.
    pub targets: Vec<(RepoKey, Generation)>,
    /// So many of them must have every part.
    pub ack: usize,
}

/// A file of which enough repositories have every part.
pub(crate) struct FileWritten {
    writing: Writing,
}

impl FileWritten {
    /// The repositories that have every part.
    pub fn claims(&self) -> Vec<Claim> {
        self.writing.progress.full()
    }

    /// Whether another repository may still come to have every part.
    pub fn is_done(&self) -> bool {
        self.writing.late.is_empty()
    }

    /// The next repository that has every part by now.
    pub async fn next(&mut self) -> Option<Claim> {
        let before = self.claims();
        while let Some((late, written)) = self.writing.late.next().await {
            self.writing.settle(late, written);
            let mut now = self.claims().into_iter();
            if let Some(new) = now.find(|claim| !before.contains(claim)) {
                return Some(new);
            }
        }
        None
    }
}

/// Repositories that are still writing a part.
struct LatePart {
    late: LateWrites,
    /// Their share of the memory budget.
    held: Weak<Held>,
    pending: BTreeSet<RepoKey>,
}

/// How far a repository is.
#[derive(Default)]
struct Has {
    parts: u16,
    claim: Option<Claim>,
    failed: bool,
}

/// How far the repositories are.
struct Progress {
    of: u16,
    asked: BTreeMap<RepoKey, Generation>,
    has: BTreeMap<RepoKey, Has>,
}

impl Progress {
    fn of(file: &FileWrite) -> Self {
        Self {
            of: file.of,
            asked: file.targets.iter().copied().collect(),
            has: file.targets.iter().map(|(repo, _)| (*repo, Has::default())).collect(),
        }
    }

    /// The repositories that have all parts so far, or may still get them.
    fn going(&self) -> Vec<(RepoKey, Generation)> {
        let goes = |repo: &RepoKey| self.has.get(repo).is_some_and(|has| !has.failed);
        let going = self.asked.iter().filter(|(repo, _)| goes(repo));
        going.map(|(repo, generation)| (*repo, *generation)).collect()
    }

    fn full(&self) -> Vec<Claim> {
        let full = self.has.values().filter(|has| !has.failed && has.parts == self.of);
        full.filter_map(|has| has.claim.clone()).collect()
    }

    /// One part is durable. `Some` if the part lies under another generation than the file: a damaged object stood
    /// there.
    fn wrote(&mut self, written: &Written) -> Option<(RepoKey, Generation)> {
        let replica = written.claim.replica;
        let asked = self.asked.get(&replica.repo).copied();
        let has = self.has.get_mut(&replica.repo)?;
        let is_same_place = has.claim.as_ref().is_none_or(|claim| *claim == written.claim);
        if asked != Some(replica.generation) || !is_same_place {
            has.failed = true;
            return (asked != Some(replica.generation)).then_some((replica.repo, replica.generation));
        }
        has.parts = has.parts.saturating_add(1);
        has.claim = Some(written.claim.clone());
        None
    }

    fn failed(&mut self, repos: impl IntoIterator<Item = RepoKey>) {
        for repo in repos {
            if let Some(has) = self.has.get_mut(&repo) {
                has.failed = true;
            }
        }
    }
}

/// The parts under way.
struct Writing {
    progress: Progress,
    late: FuturesUnordered<BoxFuture<'static, (LatePart, Option<Written>)>>,
    /// The shares of the memory budget that late parts hold, or have held.
    held: Vec<Weak<Held>>,
    /// How many parts each repository is late with.
    behind: BTreeMap<RepoKey, u16>,
    passed: Vec<(RepoKey, Generation)>,
}

impl Writing {
    fn of(file: &FileWrite) -> Self {
        Self {
            progress: Progress::of(file),
            late: FuturesUnordered::new(),
            held: Vec::new(),
            behind: BTreeMap::new(),
            passed: Vec::new(),
        }
    }

    fn wrote(&mut self, written: &Written) {
        self.passed.extend(self.progress.wrote(written));
    }

    /// Enough have a part.
    fn acknowledged(&mut self, outcome: WriteOutcome, held: Weak<Held>) {
        for written in &outcome.durable {
            self.wrote(written);
        }
        let pending: BTreeSet<RepoKey> = outcome.owed.into_iter().collect();
        for repo in &pending {
            *self.behind.entry(*repo).or_default() += 1;
        }
        self.follow(LatePart {
            late: outcome.late,
            held,
            pending,
        });
    }

    /// A late repository has written its part; or, with `None`, no pending repository will.
    fn settle(&mut self, mut part: LatePart, written: Option<Written>) {
        match written {
            Some(written) => {
                let repo = written.claim.replica.repo;
                if part.pending.remove(&repo)
                    && let Some(behind) = self.behind.get_mut(&repo)
                {
                    *behind = behind.saturating_sub(1);
                }
                self.wrote(&written);
                self.follow(part);
            }
            // The pending repositories have failed, or were not even asked.
            None => self.progress.failed(part.pending),
        }
    }

    fn follow(&mut self, mut part: LatePart) {
        if part.late.is_empty() {
            self.progress.failed(part.pending);
            return;
        }
        self.held.push(part.held.clone());
        self.late.push(Box::pin(async move {
            let written = part.late.next().await;
            (part, written)
        }));
    }

    /// The repositories that are late with a part.
    fn slow(&self) -> Vec<RepoKey> {
        let is_late = |repo: &RepoKey| self.behind.get(repo).is_some_and(|behind| *behind > 0);
        let going = self.progress.going().into_iter().map(|(repo, _)| repo);
        going.filter(is_late).collect()
    }

    /// Whether a request waits for memory that late parts hold: the next part may.
    fn hold_what_is_wanted(&mut self) -> bool {
        self.held.retain(|held| held.strong_count() > 0);
        let mut held = self.held.iter().filter_map(Weak::upgrade);
        held.any(|held| held.is_wanted())
    }

    /// Whether so many keep up.
    fn keep_up(&self, ack: usize) -> bool {
        self.progress.going().len() - self.slow().len() >= ack
    }

    /// Gives up the late repositories for this file: their writes go on unobserved.
    fn give_up(&mut self) {
        let slow = self.slow();
        let repos: Vec<String> = slow.iter().map(|repo| format!("repo{repo}")).collect();
        let repositories = repos.join(", ");
        tracing::warn!(
            repositories,
            "slower than the others, and given up for this file; it is owed"
        );
        self.progress.failed(slow);
        self.late.clear();
    }
}

/// Drives the writes of parts that come, each by `write`. Gives the damaged objects that were met in any case.
async fn drive<F: Future<Output = Result<WriteOutcome, Failure>>>(
    file: &FileWrite,
    mut parts: mpsc::Receiver<PartToWrite>,
    mut patience: Duration,
    write: impl Fn(PartToWrite, Vec<(RepoKey, Generation)>) -> F,
) -> (Writing, Result<(), Failure>) {
    let mut writing = Writing::of(file);
    let mut current = FuturesUnordered::new();
    let (mut next, mut written) = (None, 0u16);
    let outcome = loop {
        let is_full = current.len() + writing.late.len() >= PARTS_AT_ONCE;
        // The last part comes when all others are there: a repository that has it has every part.
        let is_under_way = !current.is_empty() || !writing.late.is_empty();
        // The second part comes when the first has shown which repositories take part.
        let is_first_open = written == 2 && !current.is_empty();
        let waits = |part: &PartToWrite| is_full || is_first_open || (part.part.is_last() && is_under_way);
        if let Some(part) = next.take_if(|part| !waits(part)) {
            let (targets, held) = (writing.progress.going(), Arc::downgrade(&part.held));
            let writes = write(part, targets);
            current.push(async move { Ok::<_, Failure>((writes.await?, held)) });
            continue;
        }
        let waits_for_late = current.is_empty() && !writing.late.is_empty();
        let is_held_up =
            waits_for_late && (next.is_some() || writing.hold_what_is_wanted()) && writing.keep_up(file.ack);
        if is_held_up && patience.is_zero() {
            writing.give_up();
            continue;
        }
        let look = if is_held_up { patience.min(LOOK) } else { LOOK };
        let began = Instant::now();
        tokio::select! {
            part = parts.recv(), if next.is_none() && written < file.of => match part {
                Some(part) => {
                    written = part.part.number();
                    next = Some(part);
                }
                None => break Err(cut_short(&file.name)),
            },
            Some(outcome) = current.next(), if !current.is_empty() => match outcome {
                Ok((outcome, held)) => writing.acknowledged(outcome, held),
                Err(failure) => break Err(failure),
            },
            Some((late, end)) = writing.late.next(), if !writing.late.is_empty() => writing.settle(late, end),
            () = tokio::time::sleep(look), if waits_for_late => {}
            else => {}
        }
        if is_held_up {
            patience = patience.saturating_sub(began.elapsed());
        }
        if writing.progress.going().len() < file.ack {
            break Err(too_few(file, writing.progress.going().len()));
        }
        let is_over = written == file.of && next.is_none() && current.is_empty();
        if is_over && writing.progress.full().len() >= file.ack {
            break Ok(());
        }
    };
    drop(current);
    (writing, outcome)
}

impl Repositories {
    /// Writes the parts that come to all repositories of `file`, and returns when enough of them have every part
    /// (invariant 1). The sender has checked each part, and sends the last one when all of the file was found good.
    ///
    /// # Errors
    /// As [`write`](Self::write). Written parts stay, and the next try finds them.
    pub(crate) async fn write_file(
        &self,
        file: &FileWrite,
        parts: mpsc::Receiver<PartToWrite>,
    ) -> Result<FileWritten, Failure> {
        let (writing, outcome) = drive(file, parts, PATIENCE, |part, targets| {
            self.write_part(file, part, targets)
        })
        .await;
        self.note_passed(&file.name, &writing.passed);
        outcome.map(|()| FileWritten { writing })
    }

    async fn write_part(
        &self,
        file: &FileWrite,
        part: PartToWrite,
        targets: Vec<(RepoKey, Generation)>,
    ) -> Result<WriteOutcome, Failure> {
        let PartToWrite {
            part,
            payload,
            held,
            turn,
        } = part;
        let name = file.name.of_part(part);
        // The first part decides which repositories take part. If a later part passed over a busy repository, that
        // repository would have lost the whole file.
        let admission = match part.number() {
            1 => Admission::PassOver,
            _ => Admission::Wait,
        };
        let how = (file.ack, admission);
        let outcome = self.write_to(&name, &payload, &targets, how, Some(held)).await;
        drop(turn);
        outcome
    }

    /// Remembers where a damaged part stands under a name of a file: when the file is sent again, all of it is written
    /// under the next generation.
    fn note_passed(&self, name: &ObjectName, passed: &[(RepoKey, Generation)]) {
        if passed.is_empty() {
            return;
        }
        let mut known = self.passed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (repo, generation) in passed {
            tracing::warn!(file = %name, %repo, "a damaged part stands under this name; the file is written beside it");
            known.insert((name.clone(), *repo), *generation);
        }
        while known.len() > PASSED {
            known.pop_first();
        }
    }

    /// The generations to write a file under, above those where a damaged part was met.
    pub(crate) fn beside_passed(&self, name: &ObjectName, targets: &mut [(RepoKey, Generation)]) {
        let known = self.passed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (repo, generation) in targets {
            if let Some(passed) = known.get(&(name.clone(), *repo)) {
                *generation = (*generation).max(*passed);
            }
        }
    }
}

fn cut_short(name: &ObjectName) -> Failure {
    Failure::new(ExitCode::Protocol, format!("{name} did not come to its end")).again()
}

fn too_few(file: &FileWrite, have: usize) -> Failure {
    Failure::new(
        ExitCode::ArchiveTimeout,
        format!(
            "{} can be durable in {have} of the {} repositories that must have it before it is acknowledged",
            file.name, file.ack
        ),
    )
    .because("the others did not take every part: the node's log says why")
    .remedy("bring the repository back, or lower archive-ack; PostgreSQL keeps the WAL until then")
    .again()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
