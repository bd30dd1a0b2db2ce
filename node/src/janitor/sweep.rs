//! Finding chunks that no backup uses, and condemning them.
//!
//! A sweep walks over all chunks of the catalog and condemns those of which no stanza has a use that a repository keeps
//! a backup of: chunks of backups that were given up, and of deleted stanzas. Chunks that only expired backups needed
//! are found in another way, in proportion to their number (`release`). No manifest is read. Chunks are looked at for
//! one part of the digest space at a time, so that memory is bounded whatever their number (invariant 11).
//!
//! A running backup has chunks that no use shows yet. The sweep leaves a chunk alone if it was added (by log position)
//! since the oldest running backup began, and comes again when that backup has ended. A running backup may also rest on
//! older chunks, such as the chunks of a backup that was killed. If these are condemned, the commit of the running
//! backup takes them back ([`Command::Reprieve`]): while its session is open no node deletes them. So a sweep never
//! waits for a backup, and comes to its end on a mesh where some backup runs at every moment.
//!
//! A backup may be committed after the sweep looked at its chunks. So the catalog judges each chunk once more by its
//! uses when it is condemned, and a chunk is *suspected* first: from then on a backup that names the chunk says so
//! before its commit ([`Command::Reprieve`], invariants 4 and 5).

use crate::janitor::Janitor;
use crate::replies::unexpected;
use pgmesh_protocol::Failure;
use pgmesh_raft::apply::Base;
use pgmesh_raft::{Command, LogIndex, Reply, SessionId, View};
use pgmesh_storage::{Digest, RepoKey};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Chunks looked at at once: their digests take 64 MiB.
const CHUNKS: u64 = 2 << 20;
/// Chunks condemned in one command.
const BATCH: usize = 1024;
/// How often a node looks whether a sweep is due: whether it leads, whether a backup has left the catalog, or has
/// ended.
const LOOK: Duration = if cfg!(test) {
    Duration::from_millis(200)
} else {
    Duration::from_secs(10)
};
/// How often it runs unasked.
const PERIOD: Duration = Duration::from_secs(24 * 3600);
/// The first and the longest pause after a sweep that did not come to its end.
const AGAIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(15 * 60));
/// The first and the longest pause after a sweep that has left chunks alone because a backup ran.
const HELD_AGAIN: (Duration, Duration) = (Duration::from_secs(15 * 60), Duration::from_secs(6 * 3600));
/// The pause after each command while backups run: several times as long as a commit takes from its look to its end.
const GAP: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 100 });

/// When the next sweep is due. Pure.
#[derive(Debug, Default)]
struct Schedule {
    /// The outcome of the last sweep; none before the first.
    last: Option<Rest>,
    /// Failures in a row, and sweeps in a row that left chunks alone.
    failed: u32,
    held: u32,
}

/// The time after a sweep.
#[derive(Debug, Clone, Copy)]
struct Rest {
    /// Backups that left the catalog up to here have been taken into account.
    seen: LogIndex,
    /// The backup because of which chunks were left alone.
    held_by: Option<SessionId>,
    ended_well: bool,
}

impl Schedule {
    /// A sweep has ended.
    fn note(&mut self, seen: LogIndex, swept: Option<&Swept>) {
        let held_by = match swept {
            Some(Swept::Done { held_by, .. }) => *held_by,
            Some(Swept::PutOff) | None => None,
        };
        let ended_well = matches!(swept, Some(Swept::Done { .. }));
        self.failed = if ended_well { 0 } else { self.failed.saturating_add(1) };
        self.held = if held_by.is_some() {
            self.held.saturating_add(1)
        } else {
            0
        };
        self.last = Some(Rest {
            seen,
            held_by,
            ended_well,
        });
    }

    /// Whether the next is due, so long after the last. `unreferenced` is when a backup last left the catalog.
    fn is_due(&self, waited: Duration, unreferenced: LogIndex, is_open: impl FnOnce(SessionId) -> bool) -> bool {
        let Some(rest) = self.last else { return true };
        if !rest.ended_well {
            return waited >= backed_off(AGAIN, self.failed);
        }
        let has_ended = || rest.held_by.is_some_and(|session| !is_open(session));
        waited >= PERIOD || unreferenced > rest.seen || (waited >= backed_off(HELD_AGAIN, self.held) && has_ended())
    }
}

/// The pause after so many in a row.
pub(crate) fn backed_off((first, longest): (Duration, Duration), in_a_row: u32) -> Duration {
    let doubled = 1_u32.checked_shl(in_a_row.saturating_sub(1)).unwrap_or(u32::MAX);
    first.saturating_mul(doubled).min(longest)
}

impl Janitor {
    /// Sweeps when a backup has left the catalog, and once a day, until the node stops. A sweep that has failed is
    /// tried again. The leader learns of removed backups from the catalog, so any node may take the request to remove
    /// one.
    pub async fn keep_sweeping(self: Arc<Self>) {
        let mut schedule = Schedule::default();
        let mut ended = Instant::now();
        loop {
            if !self.catalog.is_leader() {
                // The leader sweeps for the whole mesh. A new leader begins with a sweep.
                schedule = Schedule::default();
            } else if self.sweep_is_due(&schedule, ended.elapsed()) {
                let seen = self.catalog.view().applied().unwrap_or_default();
                let swept = self.sweep().await;
                match &swept {
                    Ok(Swept::Done {
                        condemned: chunks @ 1..,
                        ..
                    }) => {
                        self.repair.wake();
                        tracing::info!(chunks, "chunks that no backup refers to are condemned");
                    }
                    Ok(Swept::Done { .. }) => {}
                    Ok(Swept::PutOff) => {
                        tracing::debug!("the catalog is doubted; unreferenced chunks are looked for later");
                    }
                    Err(failure) => tracing::warn!(error = %failure, "unreferenced chunks are looked for later"),
                }
                schedule.note(seen, swept.as_ref().ok());
                ended = Instant::now();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn sweep_is_due(&self, schedule: &Schedule, waited: Duration) -> bool {
        let view = self.catalog.view();
        let unreferenced = view.unreferenced().unwrap_or_default();
        schedule.is_due(waited, unreferenced, |session| {
            view.session(session).is_ok_and(|session| session.is_some())
        })
    }

    async fn sweep(&self) -> Result<Swept, Failure> {
        if !self.may_forget() {
            return Ok(Swept::PutOff);
        }
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        if view.condemning_held_by()?.is_some() {
            // Uses are not all known.
            return Ok(Swept::PutOff);
        }
        let mut chunks = 0u64;
        for row in view.all_chunks(None) {
            row?;
            chunks += 1;
        }
        let parts = chunks.div_ceil(CHUNKS).clamp(1, 256);
        let (mut all, mut held) = (0, None);
        for number in 0..parts {
            match self.sweep_part(Part::new(number, parts)).await? {
                Swept::Done { condemned, held_by } => {
                    all += condemned;
                    held = held.max(held_by);
                }
                Swept::PutOff => return Ok(Swept::PutOff),
            }
        }
        Ok(Swept::Done {
            condemned: all,
            held_by: held,
        })
    }

    async fn sweep_part(&self, part: Part) -> Result<Swept, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let candidates = candidates(&view.snapshot(), &part)?;
        self.trim(&candidates.misplaced).await?;
        Ok(Swept::Done {
            condemned: self.condemn(&candidates.chunks).await?,
            held_by: candidates.held_by,
        })
    }

    /// Withdraws replicas from repositories that do not need them, while others do.
    async fn trim(&self, misplaced: &BTreeMap<RepoKey, Vec<Digest>>) -> Result<(), Failure> {
        for (repo, chunks) in misplaced {
            for chunks in chunks.chunks(BATCH) {
                let (repo, chunks) = (*repo, chunks.to_vec());
                self.catalog
                    .propose(self.actor(), Command::Trim { repo, chunks })
                    .await?;
                self.let_commits_through(GAP).await;
            }
        }
        Ok(())
    }

    /// Condemns the chunks of which the catalog knows no use.
    async fn condemn(&self, chunks: &[Digest]) -> Result<u64, Failure> {
        let mut condemned = 0;
        for chunks in chunks.chunks(BATCH) {
            let suspected = self.suspect(chunks.to_vec()).await?;
            let chunks = chunks.to_vec();
            let command = Command::Condemn { chunks, suspected };
            if let Reply::Condemned { chunks } = self.catalog.propose(self.actor(), command).await? {
                condemned += u64::from(chunks);
            }
            self.let_commits_through(GAP).await;
        }
        Ok(condemned)
    }

    /// Says that no backup seems to use these. Since when they are suspected.
    async fn suspect(&self, chunks: Vec<Digest>) -> Result<LogIndex, Failure> {
        let reply = self.catalog.propose(self.actor(), Command::Suspect { chunks }).await?;
        self.let_commits_through(GAP).await;
        match reply {
            Reply::Suspected { since } => Ok(since),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits a moment while a backup runs: its commit is refused when a replica of a chunk is withdrawn between the
    /// commit's look and the commit itself.
    pub(super) async fn let_commits_through(&self, gap: Duration) {
        let running = self.catalog.view().oldest_backup();
        if running.is_ok_and(|running| running.is_some()) {
            tokio::time::sleep(gap).await;
        }
    }
}

#[derive(Debug)]
enum Swept {
    /// It has come to its end.
    Done {
        /// So many were condemned.
        condemned: u64,
        /// The oldest running backup, where chunks were left alone because they were added since it began.
        held_by: Option<SessionId>,
    },
    /// The catalog is doubted.
    PutOff,
}

/// One part of the digest space.
pub(crate) struct Part {
    number: u64,
    of: u64,
}

impl Part {
    /// All of it.
    #[cfg(test)]
    pub(crate) const ALL: Self = Self { number: 0, of: 1 };

    /// The part of this number, of so many, at most 256.
    pub(crate) fn new(number: u64, of: u64) -> Self {
        Self { number, of }
    }

    /// Whether a digest is in it.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        u64::from(digest.as_bytes()[0]) * self.of / 256 == self.number
    }
}

/// Chunks that may be condemned if no manifest names them.
pub(crate) struct Candidates {
    pub(crate) chunks: Vec<Digest>,
    /// Other chunks that some repository needs, by the repositories that have a replica and do not.
    misplaced: BTreeMap<RepoKey, Vec<Digest>>,
    /// The running backup because of which some others may not.
    held_by: Option<SessionId>,
}

/// The chunks of a part that are known, not condemned and not in use, without those a running backup may have added.
/// The view must be a snapshot: each chunk's position is compared with the session of the oldest running backup.
pub(crate) fn candidates<B: Base>(view: &View<B>, part: &Part) -> Result<Candidates, Failure> {
    let running = view.oldest_backup()?;
    let all: Vec<RepoKey> = view.repositories()?.into_iter().map(|(repo, _)| repo).collect();
    let mut judge = view.judge();
    let mut known = Candidates {
        chunks: Vec::new(),
        misplaced: BTreeMap::new(),
        held_by: None,
    };
    for row in view.all_chunks(None) {
        let (digest, record) = row?;
        if record.condemned.is_some() || !part.has(&digest) {
            continue;
        }
        if judge.is_needed(&digest, &all)? {
            for replica in &record.replicas {
                if !judge.is_needed(&digest, &[replica.repo])? {
                    known.misplaced.entry(replica.repo).or_default().push(digest);
                }
            }
            continue;
        }
        match running.filter(|session| record.added > session.0) {
            Some(session) => known.held_by = Some(session),
            None => known.chunks.push(digest),
        }
    }
    Ok(known)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::testing::{Connected, SUITE, TestNode, manifest_of, stanza};
    use pgmesh_protocol::CommittedBackup;
    use pgmesh_raft::SessionKind;
    use pgmesh_storage::DigestSuite;

    #[test]
    fn every_digest_is_in_exactly_one_part() {
        for of in [1, 2, 3, 7, 256] {
            for seed in 0u32..500 {
                let digest = DigestSuite::Blake3.digest(&seed.to_le_bytes());
                let parts = (0..of).filter(|number| Part::new(*number, of).has(&digest)).count();
                assert_eq!(parts, 1, "{of} parts, {digest}");
            }
        }
    }

    /// A backup of one file in a chunk of this content, committed as a client does it.
    async fn back_up(client: &Connected, label: &str, content: &[u8]) -> Digest {
        let begun = client.begin_backup(label).await.unwrap();
        let chunk = client.put_chunk(begun.session, content).await.unwrap();
        let (root, part) = manifest_of(label, chunk, content.len());
        client.put_chunk(begun.session, &part).await.unwrap();
        let committed = client.commit_backup(begun.session, label, &root).await.unwrap();
        assert!(matches!(committed, CommittedBackup::Committed { .. }));
        chunk
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_backup_that_is_committed_during_the_sweep_keeps_its_chunks() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let kept = back_up(&client, "20260101-000000F", &[1; 900]).await;
        // The chunk `left` is of a backup that was given up; the next backup will name `named`.
        let begun = client.begin_backup("20260102-000000F").await.unwrap();
        let left = client.put_chunk(begun.session, &[2; 900]).await.unwrap();
        let named = client.put_chunk(begun.session, &[3; 900]).await.unwrap();
        site.node
            .backups
            .end_session("test", begun_id(begun.session), "given up")
            .await;

        let view = site.node.catalog.view_linearizable().await.unwrap();
        let found = candidates(&view, &Part::ALL).unwrap().chunks;
        assert_eq!(found.len(), 2);
        assert_eq!(back_up(&client, "20260103-000000F", &[3; 900]).await, named);
        assert_eq!(site.node.janitor.condemn(&found).await.unwrap(), 1);
        let chunks = site.node.catalog.view().chunks(&[kept, left, named]).unwrap();
        let is_there: Vec<bool> = chunks.iter().map(Option::is_some).collect();
        assert_eq!(is_there, [true, false, true]);
    }

    /// A sweep's outcome: how many were condemned, and whether others were left alone.
    async fn swept(site: &TestNode) -> (u64, bool) {
        match site.node.janitor.sweep().await.unwrap() {
            Swept::Done { condemned, held_by } => (condemned, held_by.is_some()),
            Swept::PutOff => panic!("it was put off"),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_sweep_comes_to_its_end_while_some_backup_runs_at_every_moment() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        site.propose(other_stanza()).await;
        let given_up = client.begin_backup("20260101-000000F").await.unwrap();
        let left = client.put_chunk(given_up.session, &[2; 900]).await.unwrap();
        // The next one begins before that ends, and so on.
        let session = site.open_unknown(other_backup(&site)).await;
        site.node
            .backups
            .end_session("test", begun_id(given_up.session), "given up")
            .await;
        assert_eq!(
            swept(&site).await,
            (1, false),
            "it was added before the oldest running backup began"
        );
        let there = |digest| site.node.catalog.view().chunks(&[digest]).unwrap()[0].is_some();
        assert!(!there(left));
        let own = client.begin_backup("20260102-000000F").await.unwrap();
        let added = client.put_chunk(own.session, &[3; 900]).await.unwrap();
        site.node
            .backups
            .end_session("test", begun_id(own.session), "given up")
            .await;
        assert_eq!(swept(&site).await, (0, true), "it may be the running backup's");
        assert!(there(added));
        let next = site.open_unknown(other_backup(&site)).await;
        site.propose(Command::CloseSession { session }).await;
        assert_eq!(swept(&site).await, (1, false));
        site.propose(Command::CloseSession { session: next }).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_backup_takes_back_what_was_condemned_while_it_ran() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let killed = client.begin_backup("20260101-000000F").await.unwrap();
        let content = [2; 900];
        let chunk = client.put_chunk(killed.session, &content).await.unwrap();
        site.node
            .backups
            .end_session("test", begun_id(killed.session), "killed")
            .await;
        // It is run again, and is told that the chunk is there.
        let label = "20260102-000000F";
        let again = client.begin_backup(label).await.unwrap();
        let query = pgmesh_protocol::QueryChunks {
            stanza: stanza(),
            session: again.session,
            digests: vec![chunk].into(),
        };
        assert_eq!(client.ask(&query, None).await.unwrap(), [true]);
        assert_eq!(swept(&site).await, (1, false));
        assert!(site.node.catalog.view().chunks(&[chunk]).unwrap()[0].is_none());
        site.node.janitor.collect_garbage().await.unwrap();
        let (root, part) = manifest_of(label, chunk, content.len());
        client.put_chunk(again.session, &part).await.unwrap();
        assert!(matches!(
            client.commit_backup(again.session, label, &root).await,
            Ok(CommittedBackup::Committed { .. })
        ));
        site.node.janitor.collect_garbage().await.unwrap();
        assert!(site.node.catalog.view().chunks(&[chunk]).unwrap()[0].is_some() && site.has_file(chunk));
        assert_eq!(swept(&site).await, (0, false));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_leader_releases_whoever_has_removed_a_backup() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let label = "20260101-000000F";
        let chunk = back_up(&client, label, &[1; 900]).await;
        // Some sweeps have passed; nothing asks this node for one.
        tokio::time::sleep(LOOK * 3).await;
        assert!(site.has_file(chunk));
        let label = label.parse().unwrap();
        let stanza = stanza();
        site.propose(Command::RemoveBackup { stanza, label }).await;
        site.wait("the chunk to go", |_| !site.has_file(chunk)).await;
    }

    #[test]
    fn a_sweep_is_due_when_a_backup_has_left_has_ended_or_a_day_is_over() {
        let mut schedule = Schedule::default();
        let at = LogIndex;
        let is_due = |schedule: &Schedule, waited, unreferenced, is_open: bool| {
            schedule.is_due(waited, LogIndex(unreferenced), |_| is_open)
        };
        let soon = Duration::from_secs(1);
        assert!(is_due(&schedule, Duration::ZERO, 0, true), "who begins to lead sweeps");
        let done = |held_by| Swept::Done { condemned: 0, held_by };
        schedule.note(at(10), Some(&done(None)));
        assert!(!is_due(&schedule, PERIOD / 2, 10, false) && is_due(&schedule, PERIOD, 10, false));
        assert!(is_due(&schedule, soon, 11, false), "a backup was removed since");
        schedule.note(at(20), Some(&done(Some(SessionId(at(5))))));
        assert!(!is_due(&schedule, HELD_AGAIN.0, 10, true), "it runs still");
        assert!(!is_due(&schedule, soon, 10, false) && is_due(&schedule, HELD_AGAIN.0, 10, false));
        schedule.note(at(30), Some(&done(Some(SessionId(at(25))))));
        assert!(!is_due(&schedule, HELD_AGAIN.0, 10, false), "ever later");
        schedule.note(at(40), Some(&Swept::PutOff));
        schedule.note(at(40), None);
        assert!(!is_due(&schedule, AGAIN.0, 99, false) && is_due(&schedule, AGAIN.0 * 2, 10, false));
        for _ in 0..100 {
            schedule.note(at(40), None);
        }
        assert!(is_due(&schedule, AGAIN.1, 10, false));
    }

    fn other_stanza() -> Command {
        Command::CreateStanza {
            stanza: "other".parse().unwrap(),
            cluster: pgmesh_raft::command::Cluster {
                system_id: pgmesh_postgres::SystemId(78),
                version: pgmesh_postgres::PgVersion::V15,
                catalog_version: 202_209_061,
                segment_size: pgmesh_postgres::SegmentSize::DEFAULT,
            },
            info: pgmesh_raft::command::ClaimedObject {
                digest: SUITE.digest(b"other"),
                plain_length: 5,
                stored_length: 5,
                claims: Vec::new(),
            },
            checked_at: LogIndex(0),
        }
    }

    fn other_backup(site: &TestNode) -> Command {
        Command::OpenSession {
            kind: SessionKind::Backup,
            stanza: Some("other".parse().unwrap()),
            holder: "test".to_owned(),
            node: site.node.name.clone(),
            resume_key: None,
        }
    }

    fn begun_id(session: u64) -> SessionId {
        SessionId(LogIndex(session))
    }
}
