//! Whether a backup may be committed: whether the catalog knows every chunk that it names as durable (invariant 4), and
//! how long to wait for that.

use super::named::Named;
use pgmesh_protocol::{Failure, QUERY_LIMIT};
use pgmesh_raft::apply::Base;
use pgmesh_raft::{ChunkRecord, CondemnedChunk, LogIndex, SessionId, View};
use pgmesh_storage::{Digest, RepoKey, StanzaName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// How many missing chunks one answer names.
const MISSING_NAMED: usize = 1000;
/// How many condemned chunks are taken back before the others are looked at again.
const CONDEMNED_AT_ONCE: usize = 16 << 10;
/// How long a commit is tried again without coming any further, when the catalog moved under it or chunks are in too
/// few repositories: replicas may be withdrawn for a while, one after the other, and the repair makes them anew.
const LIMIT: Duration = if cfg!(test) {
    Duration::from_secs(10)
} else {
    Duration::from_secs(300)
};
/// The first pause between two tries; it grows with each try.
const PAUSE: Duration = Duration::from_millis(100);
/// The pause before another look at the withdrawn chunks alone.
const SHORT_PAUSE: Duration = Duration::from_millis(10);
/// How many withdrawn chunks are looked at again; if there are more, the manifest is read once more.
const WITHDRAWN_AT_ONCE: usize = 64 << 10;
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Stored bytes, per repository, of the chunks looked at.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    pub(crate) stored: BTreeMap<RepoKey, u64>,
}

/// Chunks that are in fewer repositories than their backup asks for. One is less than another if the backup is nearer
/// to its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Thin {
    /// Whether they are parts of the manifest, which are looked at first.
    pub(crate) are_parts: bool,
    /// How many.
    pub(crate) chunks: u64,
}

/// A look at all chunks of a backup that found each in enough repositories.
#[derive(Debug)]
pub(crate) struct Whole {
    /// They were so at this log position.
    pub(crate) checked_at: LogIndex,
    pub(crate) sums: Sums,
    named: Named,
}

/// The outcome of a second look, at the chunks alone of which replicas were withdrawn since the first.
#[derive(Debug)]
pub(crate) enum Again {
    /// Every chunk is in enough repositories.
    Whole(Whole),
    /// These chunks are to be taken back first. A chunk of another backup may be among them; the next sweep finds it.
    TakeBack(Whole, Vec<CondemnedChunk>),
    /// The manifest must be read again: chunks are missing or thin, or the catalog no longer knows which were
    /// withdrawn.
    Anew,
}

/// Looks again at those chunks of a backup that the catalog has withdrawn replicas of since `before`, or has suspected
/// or condemned. `view` must be a snapshot of a linearizable view.
pub(crate) fn look_again<B: Base>(
    view: &View<B>,
    before: Whole,
    stanza: &StanzaName,
    session: SessionId,
    ack: usize,
) -> Result<Again, Failure> {
    let Some(rows) = view.withdrawn_after(before.checked_at)? else {
        return Ok(Again::Anew);
    };
    let mut chunks = BTreeSet::new();
    for row in rows {
        chunks.extend(row?.into_iter().filter(|digest| before.named.may_have(digest)));
        if chunks.len() > WITHDRAWN_AT_ONCE {
            return Ok(Again::Anew);
        }
    }
    // A chunk that the stanza has no right to is not the backup's, though it may look like one of its chunks.
    let rights = view.rights([stanza])?;
    let mut own = Vec::new();
    for digest in chunks {
        if rights.may_have(&digest)? {
            own.push(digest);
        }
    }
    let mut found = LookedUp::new(stanza, session, ack);
    found.look_up(view, &own)?;
    let checked_at = view.applied()?;
    Ok(match found.checked(checked_at, false) {
        Checked::Whole(_) => Again::Whole(Whole { checked_at, ..before }),
        Checked::Condemned(chunks) => Again::TakeBack(before, chunks),
        Checked::Missing(_) | Checked::Thin(_) => Again::Anew,
    })
}

/// The outcome of a look at the chunks.
#[derive(Debug)]
pub(crate) enum Checked {
    /// Every chunk is in enough repositories.
    Whole(Whole),
    /// The mesh does not have these any more.
    Missing(Vec<Digest>),
    /// These were condemned since the session began, or are suspected of being unreferenced, and may be taken back.
    Condemned(Vec<CondemnedChunk>),
    /// The repair makes the replicas that these lack.
    Thin(Thin),
}

/// The chunks of a backup, as far as they were looked up.
pub(crate) struct LookedUp<'a> {
    stanza: &'a StanzaName,
    session: SessionId,
    ack: usize,
    missing: Vec<Digest>,
    condemned: Vec<CondemnedChunk>,
    thin: u64,
    /// Some chunk has no good replica at present.
    is_lost: bool,
    sums: Sums,
    named: Named,
}

impl<'a> LookedUp<'a> {
    /// `session` is that of the stanza's backup, which asks for `ack` replicas of each.
    pub(crate) fn new(stanza: &'a StanzaName, session: SessionId, ack: usize) -> Self {
        Self {
            stanza,
            session,
            ack,
            missing: Vec::new(),
            condemned: Vec::new(),
            thin: 0,
            is_lost: false,
            sums: Sums::default(),
            named: Named::with_room(0),
        }
    }

    /// Makes room for about so many chunks.
    pub(crate) fn with_room(self, chunks: u64) -> Self {
        let named = Named::with_room(chunks);
        Self { named, ..self }
    }

    /// Looks some of the chunks up. A chunk that the stanza has no right to is missing, whatever the catalog knows of
    /// it. The view must be linearizable.
    pub(crate) fn look_up<B: Base>(&mut self, view: &View<B>, digests: &[Digest]) -> Result<(), Failure> {
        let rights = view.rights([self.stanza])?;
        for group in digests.chunks(QUERY_LIMIT) {
            for (digest, chunk) in group.iter().zip(view.chunks_with_condemned(group)?) {
                let is_its = rights.may_have(digest)?;
                self.note(*digest, chunk.filter(|_| is_its));
            }
        }
        Ok(())
    }

    fn note(&mut self, digest: Digest, chunk: Option<ChunkRecord>) {
        self.named.add(&digest);
        match chunk {
            // A chunk that was condemned before the session began may be deleted already.
            Some(ChunkRecord {
                condemned: Some(since), ..
            }) if since > self.session.0 => self.condemned.push(CondemnedChunk { digest, since }),
            None | Some(ChunkRecord { condemned: Some(_), .. }) => self.missing.push(digest),
            Some(ChunkRecord {
                suspected: Some(since), ..
            }) => self.condemned.push(CondemnedChunk { digest, since }),
            Some(record) if record.replicas.len() < self.ack => {
                self.thin += 1;
                self.is_lost |= record.replicas.is_empty();
            }
            Some(record) => {
                for replica in &record.replicas {
                    *self.sums.stored.entry(replica.repo).or_default() += u64::from(record.stored_length);
                }
            }
        }
    }

    /// Whether all that was looked up can be read, though some may be in too few repositories.
    pub(crate) fn is_there(&self) -> bool {
        self.missing.is_empty() && self.condemned.is_empty() && !self.is_lost
    }

    /// Whether some are in too few repositories.
    pub(crate) fn has_thin(&self) -> bool {
        self.thin > 0
    }

    /// Whether there is no use in looking further for now.
    pub(crate) fn is_enough(&self) -> bool {
        self.missing.len() >= MISSING_NAMED || self.condemned.len() >= CONDEMNED_AT_ONCE
    }

    /// The outcome of the look, which began at `checked_at`.
    pub(crate) fn checked(self, checked_at: LogIndex, are_parts: bool) -> Checked {
        if !self.missing.is_empty() {
            Checked::Missing(self.missing)
        } else if !self.condemned.is_empty() {
            Checked::Condemned(self.condemned)
        } else if self.thin > 0 {
            let chunks = self.thin;
            Checked::Thin(Thin { are_parts, chunks })
        } else {
            Checked::Whole(Whole {
                checked_at,
                sums: self.sums,
                named: self.named,
            })
        }
    }
}

/// How long a commit goes on trying.
pub(crate) struct Patience {
    since: Instant,
    pause: Duration,
    least: Option<Thin>,
}

impl Patience {
    pub(crate) fn begin() -> Self {
        Self {
            since: Instant::now(),
            pause: PAUSE,
            least: None,
        }
    }

    /// Waits a moment for the next try: the catalog has moved, and only the withdrawn chunks need another look.
    ///
    /// # Errors
    /// Nothing has got better for too long.
    pub(crate) async fn wait_shortly(&self, over: impl FnOnce() -> Failure) -> Result<(), Failure> {
        if self.since.elapsed() >= LIMIT {
            return Err(over());
        }
        tokio::time::sleep(SHORT_PAUSE).await;
        Ok(())
    }

    /// Waits for the next try. While fewer and fewer chunks are thin, the commit waits as long as that takes.
    ///
    /// # Errors
    /// Nothing has got better for too long.
    pub(crate) async fn wait(&mut self, thin: Option<Thin>, over: impl FnOnce() -> Failure) -> Result<(), Failure> {
        if let Some(thin) = thin
            && self.least.is_none_or(|least| thin < least)
        {
            self.least = Some(thin);
            self.since = Instant::now();
        }
        if self.since.elapsed() >= LIMIT {
            return Err(over());
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::testing::{Connected, TestNode, manifest_of, stanza};
    use pgmesh_protocol::{CommittedBackup, ExitCode};
    use pgmesh_raft::{Claim, Command, DebtReason, ObjectRef, Reply};

    const LABEL: &str = "20260101-000000F";

    /// A backup that waits for its commit: its session, its manifest, and the one chunk.
    async fn about_to_commit(site: &TestNode, client: &Connected) -> (u64, Vec<u8>, Digest) {
        site.create_stanza(client).await;
        let begun = client.begin_backup(LABEL).await.unwrap();
        let content = [7; 900];
        let chunk = client.put_chunk(begun.session, &content).await.unwrap();
        let (root, part) = manifest_of(LABEL, chunk, content.len());
        client.put_chunk(begun.session, &part).await.unwrap();
        (begun.session, root, chunk)
    }

    /// A reader has found a replica of the chunk damaged.
    async fn withdraw(site: &TestNode, chunk: Digest) {
        let view = site.node.catalog.view();
        let record = view.chunks(&[chunk]).unwrap().remove(0).unwrap();
        let replica = record.replicas[0];
        let identity = view.repository(replica.repo).unwrap().unwrap().identity();
        let report = Command::ReportBad {
            object: ObjectRef::Chunk(chunk),
            bad: Claim { replica, identity },
            reason: DebtReason::Damaged,
            what: "test".to_owned(),
        };
        assert_eq!(site.propose(report).await, Reply::Withdrawn { remaining: 0 });
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_waits_for_the_repair_of_what_was_withdrawn_since_it_was_acknowledged() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        let (session, root, chunk) = about_to_commit(&site, &client).await;
        // A bad cable: the object is good, and the repair finds that out.
        withdraw(&site, chunk).await;
        let committed = client.commit_backup(session, LABEL, &root).await;
        assert!(
            matches!(committed, Ok(CommittedBackup::Committed { .. })),
            "{committed:?}"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_does_not_wait_for_ever_and_says_why() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        let (session, root, chunk) = about_to_commit(&site, &client).await;
        site.damage(chunk);
        withdraw(&site, chunk).await;
        let failure = client.commit_backup(session, LABEL, &root).await.unwrap_err();
        assert_eq!(failure.code, ExitCode::ArchiveTimeout);
        assert!(failure.what.starts_with("1 chunks"), "{failure}");
    }

    /// A look at one chunk, after the look `before`.
    async fn again(site: &TestNode, before: Whole, session: u64) -> Again {
        let view = site.node.catalog.view_linearizable().await.unwrap();
        look_again(&view.snapshot(), before, &stanza(), SessionId(LogIndex(session)), 1).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_withdrawn_elsewhere_costs_a_commit_no_look_at_its_manifest() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let begun = client.begin_backup(LABEL).await.unwrap();
        let own = client.put_chunk(begun.session, &[7; 900]).await.unwrap();
        let other = client.put_chunk(begun.session, &[8; 900]).await.unwrap();
        let (session, main) = (SessionId(LogIndex(begun.session)), stanza());
        let looked = || {
            let view = site.node.catalog.view();
            let checked_at = view.applied().unwrap();
            let mut found = LookedUp::new(&main, session, 1);
            found.look_up(&view, &[own]).unwrap();
            match found.checked(checked_at, false) {
                Checked::Whole(whole) => whole,
                other => panic!("{other:?}"),
            }
        };
        let whole = looked();
        let suspect = |chunk| Command::Suspect { chunks: vec![chunk] };
        site.propose(suspect(other)).await;
        withdraw(&site, other).await;
        let Again::Whole(whole) = again(&site, whole, begun.session).await else {
            panic!("another's chunk is not the backup's")
        };
        let applied = site.node.catalog.view().applied().unwrap();
        assert!(whole.checked_at <= applied);
        let Reply::Suspected { since } = site.propose(suspect(own)).await else {
            panic!()
        };
        let Again::TakeBack(whole, chunks) = again(&site, whole, begun.session).await else {
            panic!("its own chunk is suspected")
        };
        assert_eq!(chunks, [CondemnedChunk { digest: own, since }]);
        site.propose(Command::Reprieve { session, chunks }).await;
        let Again::Whole(whole) = again(&site, whole, begun.session).await else {
            panic!("it was taken back")
        };
        site.damage(own);
        withdraw(&site, own).await;
        assert!(matches!(again(&site, whole, begun.session).await, Again::Anew));
    }

    fn thin(are_parts: bool, chunks: u64) -> Option<Thin> {
        Some(Thin { are_parts, chunks })
    }

    #[tokio::test]
    async fn a_commit_waits_as_long_as_there_are_fewer_and_fewer() {
        let over = || Failure::new(ExitCode::Runtime, "over");
        let mut patience = Patience::begin();
        let first = Instant::now();
        patience.pause = Duration::ZERO;
        patience.least = thin(true, 1);
        for left in (1..50).rev() {
            patience.wait(thin(false, left), over).await.unwrap();
        }
        assert!(patience.since >= first);
        let best = patience.least;
        patience.wait(thin(false, 30), over).await.unwrap();
        assert_eq!(patience.least, best);
        patience.since = first.checked_sub(LIMIT).unwrap();
        assert!(
            patience.wait(thin(false, 1), over).await.is_err(),
            "nothing has got better"
        );
    }

    #[test]
    fn what_was_condemned_before_the_session_is_missing_and_what_was_since_is_taken_back() {
        let record = |condemned| ChunkRecord {
            length: 1,
            stored_length: 1,
            replicas: vec![pgmesh_raft::Replica {
                repo: RepoKey::new(1).unwrap(),
                generation: pgmesh_storage::Generation::FIRST,
            }],
            condemned,
            suspected: None,
            added: LogIndex(1),
        };
        let main = stanza();
        let checked = |ack, condemned: Option<u64>| {
            let mut found = LookedUp::new(&main, SessionId(LogIndex(10)), ack);
            found.note(Digest([1; 32]), Some(record(condemned.map(LogIndex))));
            found.checked(LogIndex(12), false)
        };
        assert!(matches!(checked(1, None), Checked::Whole(whole) if whole.sums.stored.len() == 1));
        assert!(matches!(checked(2, None), Checked::Thin(Thin { chunks: 1, .. })));
        assert!(matches!(checked(1, Some(9)), Checked::Missing(missing) if missing.len() == 1));
        assert!(matches!(checked(1, Some(11)), Checked::Condemned(chunks) if chunks[0].since == LogIndex(11)));
        let mut found = LookedUp::new(&main, SessionId(LogIndex(10)), 1);
        let suspected = Some(LogIndex(9));
        found.note(
            Digest([1; 32]),
            Some(ChunkRecord {
                suspected,
                ..record(None)
            }),
        );
        assert!(
            matches!(found.checked(LogIndex(12), false), Checked::Condemned(chunks) if chunks[0].since == LogIndex(9))
        );
    }
}
