//! Writing one object to several repositories at once.
//!
//! The payload is compressed once, on the PG host, and crosses the mesh once to each node that hosts repositories; each
//! repository is written once, by one node, and encrypted there under its own key. The caller gets an answer as soon as
//! enough repositories have it durably. The other writes go on, and [`LateWrites`] tells their outcomes.

use super::Repositories;
use super::remote::{RemoteSlot, write_there};
use super::route::RepositoryRoute;
use super::ways::ViaNode;
use super::write_ends::{End, Ends};
use super::write_plan::{
    ADMITTED_WITHIN, ASIDE_AFTER, Admission, Admitted, WritePlan, WriteStep, admitted, is_given_up, owed,
};
use super::written::Written;
use crate::budget::Held;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::{Claim, NodeName};
use pgmesh_runtime::tasks;
use pgmesh_storage::{Generation, ObjectName, Payload, RepoKey};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How often a waiting write checks whether its repository takes more by now.
const ADMITTED: Duration = Duration::from_millis(50);

/// The outcome of a write when it may be acknowledged.
pub struct WriteOutcome {
    /// Repositories that have it; at least as many as were asked for.
    pub durable: Vec<Written>,
    /// Repositories that do not have it yet.
    pub owed: Vec<RepoKey>,
    /// The generation under which each repository was asked to write it. If a repository has it under a higher
    /// generation, the node there found a damaged object.
    pub asked: BTreeMap<RepoKey, Generation>,
    /// The writes to repositories of `owed` that are still under way.
    pub late: LateWrites,
}

impl WriteOutcome {
    /// The claims for the repositories that have it.
    pub fn claims(&self) -> Vec<Claim> {
        self.durable.iter().map(|written| written.claim.clone()).collect()
    }

    /// The repositories that have it, by number.
    pub fn durable_numbers(&self) -> Vec<u16> {
        self.durable
            .iter()
            .map(|written| written.claim.replica.repo.get())
            .collect()
    }

    /// The repositories that do not have it yet, by number.
    pub fn owed_numbers(&self) -> Vec<u16> {
        self.owed.iter().map(|key| key.get()).collect()
    }
}

/// Writes still under way after the acknowledgement.
pub struct LateWrites {
    under_way: usize,
    ends: mpsc::UnboundedReceiver<End>,
    tasks: JoinSet<()>,
}

impl LateWrites {
    /// The next write that succeeds. A failed write leaves its debt in the catalog.
    pub async fn next(&mut self) -> Option<Written> {
        while let Some((repo, end)) = self.ends.recv().await {
            self.under_way = self.under_way.saturating_sub(1);
            match end {
                Ok(written) => return Some(written),
                Err(error) => {
                    tracing::warn!(%repo, error = %pgmesh_protocol::failure::chain(&error), "a write was not finished; it is owed");
                }
            }
        }
        None
    }

    /// Takes the writes under way, leaving none.
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::nothing())
    }

    /// Nothing under way.
    pub fn is_empty(&self) -> bool {
        self.under_way == 0
    }

    /// Writes whose ends come from a test.
    #[cfg(test)]
    pub(super) fn waiting(ends: mpsc::UnboundedReceiver<End>, under_way: usize) -> Self {
        Self {
            under_way,
            ends,
            tasks: JoinSet::new(),
        }
    }

    fn nothing() -> Self {
        Self {
            under_way: 0,
            ends: mpsc::unbounded_channel().1,
            tasks: JoinSet::new(),
        }
    }
}

impl Drop for LateWrites {
    fn drop(&mut self) {
        // Let them run to their end, unobserved.
        self.tasks.detach_all();
    }
}

/// A write to many, as it is being started.
struct Start<'a> {
    object: &'a ObjectName,
    payload: &'a Payload,
    held: Option<Arc<Held>>,
    ends: mpsc::UnboundedSender<End>,
    tasks: JoinSet<()>,
    /// Set when the caller has the answer. A write that goes on afterwards holds up no caller.
    answered: Arc<AtomicBool>,
}

/// How often a write that goes on after the answer is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Whether others wait for the memory that a write holds.
fn is_wanted(held: Option<&Arc<Held>>) -> bool {
    held.is_some_and(|held| held.is_wanted())
}

/// Awaits a write, and returns `None` if the write is given up. It is given up once the caller has the answer, the
/// repository is silent, and a healthy repository needs the memory that the write holds (invariant 11). The debt is
/// recorded.
async fn unless_silent<T>(
    look: Duration,
    answered: &AtomicBool,
    is_well: impl Fn() -> bool,
    write: impl Future<Output = T>,
) -> Option<T> {
    let mut write = std::pin::pin!(write);
    loop {
        match tokio::time::timeout(look, &mut write).await {
            Ok(written) => return Some(written),
            Err(_) if is_given_up(answered.load(Ordering::Relaxed), is_well()) => return None,
            Err(_) => {}
        }
    }
}

/// Waits until a repository takes more. Whether the write is to be made then.
async fn is_admitted(
    admits: impl Fn() -> bool,
    is_abandoned: impl Fn() -> bool,
    answered: &AtomicBool,
    limits: (Duration, Duration),
) -> bool {
    let began = tokio::time::Instant::now();
    loop {
        let is_answered = answered.load(Ordering::Relaxed);
        match admitted(admits(), is_abandoned(), is_answered, began.elapsed(), limits) {
            Admitted::Yes => return true,
            Admitted::Never => return false,
            Admitted::NotYet => tokio::time::sleep(ADMITTED).await,
        }
    }
}

impl Start<'_> {
    fn places(&mut self, places: Vec<(RepositoryRoute, Generation)>, tried: &mut Tried) {
        tried.add(&places);
        let mut there: BTreeMap<NodeName, Vec<(Arc<RemoteSlot>, Generation)>> = BTreeMap::new();
        for (place, generation) in places {
            match place {
                RepositoryRoute::Here(_) => self.one(place, generation, false),
                RepositoryRoute::There(slot) => there.entry(slot.host.clone()).or_default().push((slot, generation)),
            }
        }
        for targets in there.into_values() {
            let slots: Vec<Arc<RemoteSlot>> = targets.iter().map(|(slot, _)| slot.clone()).collect();
            let ends = Ends::new(self.ends.clone(), slots.iter().map(|slot| slot.key));
            let write = write_there(targets, self.object.clone(), self.payload.clone(), ends);
            let (held, answered) = (self.held.clone(), self.answered.clone());
            self.tasks.spawn(tasks::named("writing a replica", async move {
                let is_well = || !is_wanted(held.as_ref()) || slots.iter().any(|slot| slot.watch.admits());
                if unless_silent(LOOK, &answered, is_well, write).await.is_none() {
                    let repos: Vec<String> = slots.iter().map(|slot| format!("repo{}", slot.key)).collect();
                    tracing::warn!(
                        repositories = repos.join(", "),
                        "a write to a silent repository is given up; it is owed"
                    );
                }
                drop(held);
            }));
        }
    }

    /// Writes to one repository. With `waits`, the write waits until the repository takes more; if the object is not
    /// acknowledged within [`ASIDE_AFTER`], it is written all the same. The caller may give it up meanwhile.
    fn one(&mut self, place: RepositoryRoute, generation: Generation, waits: bool) {
        let (object, payload, held) = (self.object.clone(), self.payload.clone(), self.held.clone());
        let mut ends = Ends::new(self.ends.clone(), [place.key()]);
        let answered = self.answered.clone();
        self.tasks.spawn(tasks::named("writing a replica", async move {
            if waits {
                let bytes = payload.bytes.len() as u64;
                let admits = || place.admits_write(bytes);
                let limits = (ASIDE_AFTER, ADMITTED_WITHIN);
                if !is_admitted(admits, || ends.is_closed(), &answered, limits).await {
                    tracing::warn!(repo = %place.key(), "it took nothing more for long; the object is owed");
                    return;
                }
            }
            let write = place.put(&object, generation, &payload);
            let is_well = || !is_wanted(held.as_ref()) || !place.can_be_silent() || place.watch().admits();
            let result = unless_silent(LOOK, &answered, is_well, write).await;
            drop((payload, held));
            match result {
                Some(result) => ends.end(place.key(), result),
                None => {
                    tracing::warn!(repo = %place.key(), "a write to a silent repository is given up; it is owed");
                }
            }
        }));
    }
}

impl Repositories {
    /// Writes to all of `targets` and returns when `ack` of them have it durably (invariant 1).
    ///
    /// A repository that is put aside, or has its limit of requests under way, gets no request, unless `ack` cannot be
    /// reached without it. `held` is the part of the memory budget that the payload takes. With the answer, the part
    /// that the late writes do not need is given back.
    ///
    /// # Errors
    /// [`ExitCode::ArchiveTimeout`] when fewer than `ack` succeed: nothing may be acknowledged. Objects that were
    /// written stay, and the next try finds them.
    pub async fn write(
        &self,
        object: &ObjectName,
        payload: &Payload,
        targets: &[(RepoKey, Generation)],
        ack: usize,
        held: Option<Arc<Held>>,
    ) -> Result<WriteOutcome, Failure> {
        self.write_to(object, payload, targets, (ack, Admission::PassOver), held)
            .await
    }

    /// As [`write`](Self::write); `admission` says how repositories are treated that take nothing more at present.
    pub(super) async fn write_to(
        &self,
        object: &ObjectName,
        payload: &Payload,
        targets: &[(RepoKey, Generation)],
        (ack, admission): (usize, Admission),
        held: Option<Arc<Held>>,
    ) -> Result<WriteOutcome, Failure> {
        let bytes = payload.bytes.len() as u64;
        let Chosen {
            chosen,
            aside,
            mut reasons,
        } = self.choose(targets, bytes);
        let mut plan = WritePlan::new(ack, chosen, aside, admission);
        self.gather(plan.first(), bytes);
        let (sender, mut ends) = mpsc::unbounded_channel();
        // Which ways to a shared repository were taken, and the generation that is written there.
        let mut tried = Tried::default();
        let generations: BTreeMap<RepoKey, Generation> = targets.iter().copied().collect();
        let mut start = Start {
            object,
            payload,
            held: held.clone(),
            ends: sender,
            tasks: JoinSet::new(),
            answered: Arc::default(),
        };
        let mut durable: Vec<Written> = Vec::new();
        loop {
            let limit = match plan.next() {
                WriteStep::Write(places) => {
                    start.places(places, &mut tried);
                    continue;
                }
                WriteStep::WriteWhenAdmitted(places) => {
                    tried.add(&places);
                    for (place, generation) in places {
                        start.one(place, generation, true);
                    }
                    continue;
                }
                WriteStep::Wait(limit) => limit,
                WriteStep::Acknowledge => break,
                WriteStep::Refuse => return Err(too_few(object, ack, durable.len(), &reasons)),
            };
            let end = match limit {
                None => ends.recv().await,
                Some(limit) => match tokio::time::timeout(limit, ends.recv()).await {
                    Ok(end) => end,
                    Err(_) => {
                        plan.elapsed();
                        continue;
                    }
                },
            };
            match end {
                None => plan.all_ended(),
                Some((_, Ok(written))) => {
                    durable.push(written);
                    plan.wrote();
                }
                Some((key, Err(error))) => {
                    reasons.push(pgmesh_protocol::failure::chain(&error));
                    // A shared repository may be well, and only the way there not.
                    let generation = generations.get(&key).filter(|_| error.is_of_the_way());
                    let another = generation.and_then(|generation| {
                        let place = self.another_way(key, tried.ways(key))?;
                        Some((place, *generation))
                    });
                    plan.failed(another);
                }
            }
        }
        // A write that is finished already costs no later catalog entry.
        while let Ok((_, end)) = ends.try_recv() {
            match end {
                Ok(written) => {
                    durable.push(written);
                    plan.wrote();
                }
                Err(_) => plan.failed(None),
            }
        }
        let under_way = plan.under_way();
        let Start { tasks, answered, .. } = start;
        answered.store(true, Ordering::Relaxed);
        if let Some(held) = &held {
            held.keep_only(bytes.saturating_mul(2 * under_way as u64));
        }
        let has = |key: RepoKey| durable.iter().any(|written| written.claim.replica.repo == key);
        let owed = owed(targets.iter().map(|(key, _)| *key), has);
        Ok(WriteOutcome {
            durable,
            owed,
            asked: generations,
            late: LateWrites { under_way, ends, tasks },
        })
    }
}

/// Where a write goes.
struct Chosen {
    chosen: Vec<(RepositoryRoute, Generation)>,
    /// Repositories that take nothing more at present.
    aside: Vec<(RepositoryRoute, Generation)>,
    /// Why the others get nothing.
    reasons: Vec<String>,
}

impl Repositories {
    fn choose(&self, targets: &[(RepoKey, Generation)], bytes: u64) -> Chosen {
        let (mut chosen, mut aside, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
        for (key, generation) in targets {
            if self.takes_nothing(*key) {
                reasons.push(format!(
                    "repo{key} is being replaced or removed, and takes nothing at present"
                ));
                continue;
            }
            match self.place(*key) {
                Err(why) => reasons.push(why),
                Ok(place) if place.admits_write(bytes) => chosen.push((place, *generation)),
                Ok(place) => aside.push((place, *generation)),
            }
        }
        Chosen { chosen, aside, reasons }
    }

    /// Whether the catalog counts no replica in a repository at present: an object written there would not count, and
    /// its writer would wait in vain.
    fn takes_nothing(&self, key: RepoKey) -> bool {
        let record = self.catalog.view().repository(key).ok().flatten();
        record.is_some_and(|record| record.change.is_some())
    }

    /// Saves a crossing of the mesh. If a shared repository would be reached through a node that gets no other write,
    /// its write goes through a node that gets the payload anyway, where that node reaches it.
    fn gather(&self, chosen: &mut [(RepositoryRoute, Generation)], bytes: u64) {
        let hosts: Vec<NodeName> = chosen.iter().filter_map(|(place, _)| place.host().cloned()).collect();
        for (place, _) in chosen.iter_mut() {
            let Some(host) = place.host() else { continue };
            let is_alone = hosts.iter().filter(|other| *other == host).count() == 1;
            let others: Vec<NodeName> = hosts.iter().filter(|other| *other != host).cloned().collect();
            if is_alone && let Some(through) = self.way_through(place.key(), &others, bytes) {
                *place = through;
            }
        }
    }
}

/// By which ways each repository was tried.
#[derive(Default)]
struct Tried(BTreeMap<RepoKey, Vec<ViaNode>>);

impl Tried {
    fn add(&mut self, places: &[(RepositoryRoute, Generation)]) {
        for (place, _) in places {
            let ways = self.0.entry(place.key()).or_default();
            ways.push(place.host().cloned());
        }
    }

    fn ways(&self, key: RepoKey) -> &[ViaNode] {
        self.0.get(&key).map_or(&[], Vec::as_slice)
    }
}

fn too_few(object: &ObjectName, ack: usize, have: usize, reasons: &[String]) -> Failure {
    let what = match object {
        ObjectName::Segment { file, .. } => format!("WAL file {file}"),
        ObjectName::Chunk(_) => "a chunk of the backup".to_owned(),
        ObjectName::Manifest { label, .. } => format!("the manifest of backup {label}"),
        ObjectName::StanzaInfo { stanza, .. } => format!("the description of stanza {stanza}"),
    };
    Failure::new(
        ExitCode::ArchiveTimeout,
        format!("{what} is durable in {have} of the {ack} repositories that must have it before it is acknowledged"),
    )
    .because(reasons.join("; "))
    .remedy("bring the repository back, or lower archive-ack (WAL) or backup-ack (backups); PostgreSQL keeps the WAL until then")
    .again()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_is_given_up_only_when_it_is_late_and_its_repository_silent() {
        let (look, long) = (Duration::from_millis(1), Duration::from_millis(50));
        let never = || std::future::pending::<()>();
        let answered = AtomicBool::new(false);
        // Before the answer the write waits, even if the repository seems silent.
        let early = tokio::time::timeout(long, unless_silent(look, &answered, || false, never()));
        assert!(early.await.is_err());
        answered.store(true, Ordering::Relaxed);
        let late = tokio::time::timeout(long, unless_silent(look, &answered, || true, never()));
        assert!(late.await.is_err());
        assert_eq!(unless_silent(look, &answered, || false, never()).await, None);
        assert_eq!(unless_silent(look, &answered, || false, async { 7 }).await, Some(7));
    }

    #[tokio::test]
    async fn a_repository_that_takes_no_more_is_waited_for_but_not_for_ever() {
        let (yes, no) = (|| true, || false);
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(600));
        let answered = AtomicBool::new(false);
        assert!(is_admitted(yes, no, &answered, (long, long)).await);
        // It may be needed.
        assert!(is_admitted(no, no, &answered, (short, long)).await);
        answered.store(true, Ordering::Relaxed);
        assert!(!is_admitted(no, no, &answered, (long, short)).await);
        assert!(!is_admitted(no, yes, &answered, (long, long)).await);
    }
}
