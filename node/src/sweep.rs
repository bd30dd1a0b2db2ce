//! Finding chunks that no backup refers to, and condemning them.
//!
//! All manifests are read and the chunks that they name are marked; what is not marked is condemned. Marks are 64-bit
//! prefixes of digests, kept for one part of the digest space at a time, so that memory is bounded whatever the number
//! of chunks (invariant 11). Two digests with one prefix only keep a chunk that could go.
//!
//! A backup that runs has chunks that no manifest names yet: nothing is condemned then, the sweep waits for a moment without
//! one. A backup that begins in the middle may be told that a chunk is there which is condemned a moment later; its commit
//! finds that out. A commit that comes before the condemnation makes the catalog refuse it (invariants 4 and 5): then only
//! the manifests are read that have come since, so that a sweep comes to its end on a mesh that always commits something.

use crate::{Failure, Node};
use pgmesh_raft::apply::Base;
use pgmesh_raft::{CatalogError, Command, LogIndex, Refusal, SessionKind, View};
use pgmesh_storage::{BackupLabel, Digest, StanzaName};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Marks kept at once: 64 MiB and a table's slack.
const MARKS: u64 = 4 << 20;
/// Chunks condemned in one command.
const BATCH: usize = 512;
/// How often a node that does not lead looks whether it does now.
const FOLLOWER_LOOK: Duration = Duration::from_secs(60);
/// How often it runs unasked.
const PERIOD: Duration = Duration::from_secs(24 * 3600);
/// The first and the longest pause after a sweep that did not come to its end.
const AGAIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(15 * 60));
/// How often a sweep looks whether no backup runs, and how long it keeps its marks in memory meanwhile.
const GAP_LOOK: Duration = Duration::from_secs(1);
const GAP_PATIENCE: Duration = Duration::from_secs(10 * 60);
/// How often in a row the catalog may have moved on when something is to be condemned.
const RECHECKS: usize = 32;

/// Asks for a sweep.
#[derive(Clone, Default)]
pub struct Sweep {
    notify: Arc<Notify>,
}

impl Sweep {
    /// Chunks may have lost their last reference.
    pub fn wake(&self) {
        self.notify.notify_one();
    }
}

impl Node {
    /// Sweeps when asked to, and once a day, until the node stops; what was put off or has failed is tried again.
    pub async fn keep_sweeping(self: Arc<Self>) {
        let mut again = AGAIN.0;
        loop {
            if !self.catalog.is_leader() {
                // Whoever leads does it for the whole mesh; who leads may change.
                let _ = tokio::time::timeout(FOLLOWER_LOOK, self.sweep.notify.notified()).await;
                continue;
            }
            let pause = match self.sweep().await {
                Ok(Swept::Done(chunks)) => {
                    if chunks > 0 {
                        tracing::info!(chunks, "chunks that no backup refers to are condemned");
                        self.repair.wake();
                    }
                    again = AGAIN.0;
                    PERIOD
                }
                outcome => {
                    match outcome {
                        Err(failure) => tracing::warn!(error = %failure, "unreferenced chunks are looked for later"),
                        Ok(_) => {
                            tracing::debug!("backups run or are committed; unreferenced chunks are looked for later")
                        }
                    }
                    let pause = again;
                    again = (again * 2).min(AGAIN.1);
                    pause
                }
            };
            // Woken, or the time is over: both mean to look again.
            let _ = tokio::time::timeout(pause, self.sweep.notify.notified()).await;
        }
    }

    async fn sweep(&self) -> Result<Swept, Failure> {
        if self.doubts_past() || self.may_learn_of_loss() {
            return Ok(Swept::PutOff);
        }
        let mut condemned = 0;
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let mut chunks = 0u64;
        for row in view.all_chunks(None) {
            row?;
            chunks += 1;
        }
        let parts = chunks.div_ceil(MARKS).clamp(1, 256);
        for number in 0..parts {
            match self.sweep_part(Part { number, of: parts }).await? {
                Swept::Done(chunks) => condemned += chunks,
                Swept::PutOff => return Ok(Swept::PutOff),
            }
        }
        Ok(Swept::Done(condemned))
    }

    async fn sweep_part(&self, part: Part) -> Result<Swept, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        // Chunks first, marks second: a chunk that is committed in between is in neither list.
        let mut marking = Marking {
            checked_at: view.applied()?,
            unmarked: chunks_in(&view, &part)?,
            marked: HashSet::new(),
            part,
        };
        self.mark(&view, &mut marking).await?;
        self.condemn(marking).await
    }

    /// Condemns what is not marked.
    async fn condemn(&self, mut marking: Marking) -> Result<Swept, Failure> {
        let mut condemned = 0;
        let mut rechecks = 0;
        while !marking.unmarked.is_empty() {
            if !self.wait_for_gap().await? {
                return Ok(Swept::PutOff);
            }
            let batch = marking.unmarked.len().min(BATCH);
            let chunks = marking.unmarked.split_off(marking.unmarked.len() - batch);
            let command = Command::Condemn {
                chunks: chunks.clone(),
                checked_at: marking.checked_at,
            };
            match self.catalog.propose(self.actor(), command).await {
                Ok(_) => {
                    condemned += batch as u64;
                    rechecks = 0;
                }
                Err(CatalogError::Refused(Refusal::Recheck { .. })) if rechecks < RECHECKS => {
                    rechecks += 1;
                    marking.unmarked.extend(chunks);
                    let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
                    marking.checked_at = view.applied()?;
                    self.mark(&view, &mut marking).await?;
                }
                Err(CatalogError::Refused(Refusal::Recheck { .. })) => return Ok(Swept::PutOff),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Swept::Done(condemned))
    }

    /// Waits for a moment in which no backup runs; whether one has come.
    async fn wait_for_gap(&self) -> Result<bool, Failure> {
        let began = Instant::now();
        while backup_runs(&self.catalog.view())?
            || backup_runs(&self.catalog.view_linearizable().await.map_err(Failure::from)?)?
        {
            if began.elapsed() > GAP_PATIENCE || !self.catalog.is_leader() {
                return Ok(false);
            }
            tokio::time::sleep(GAP_LOOK).await;
        }
        Ok(true)
    }

    /// Marks what the backups of all stanzas name that were not read before.
    async fn mark(&self, view: &View, marking: &mut Marking) -> Result<(), Failure> {
        let mut backups: Vec<(StanzaName, BackupLabel, Digest)> = Vec::new();
        for row in view.stanzas(None) {
            let (stanza, record) = row?;
            if record.deleting {
                continue;
            }
            for row in view.backups(&stanza, None) {
                let (label, record) = row?;
                backups.push((stanza.clone(), label, record.manifest.digest));
            }
        }
        let mut marks = HashSet::new();
        for (stanza, label, manifest) in backups {
            if marking.marked.contains(&manifest) {
                continue;
            }
            // A backup that was removed meanwhile needs no marks; one that cannot be read stops the sweep.
            if let Some(root) = self.manifest_root(view, &stanza, &label).await? {
                for manifest_part in &root.parts {
                    mark(&mut marks, &marking.part, &manifest_part.digest);
                    for digest in self.chunks_of_part(view, manifest_part.digest).await? {
                        mark(&mut marks, &marking.part, &digest);
                    }
                }
            }
            marking.marked.insert(manifest);
        }
        marking.unmarked.retain(|digest| !marks.contains(&prefix(digest)));
        Ok(())
    }
}

enum Swept {
    /// So many were condemned.
    Done(u64),
    /// Backups run all the time, or are committed faster than their manifests are read.
    PutOff,
}

/// Where a sweep of one part is.
struct Marking {
    part: Part,
    /// The manifests that were read, by their digests. Manifests of other backups may come under the same labels.
    marked: HashSet<Digest>,
    /// Chunks that none of these names.
    unmarked: Vec<Digest>,
    /// The catalog had no other backups then.
    checked_at: LogIndex,
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

    fn has(&self, digest: &Digest) -> bool {
        u64::from(digest.as_bytes()[0]) * self.of / 256 == self.number
    }
}

/// The chunks of a part that are known and not condemned.
pub(crate) fn chunks_in<B: Base>(view: &View<B>, part: &Part) -> Result<Vec<Digest>, Failure> {
    let mut known = Vec::new();
    for row in view.all_chunks(None) {
        let (digest, record) = row?;
        if record.condemned.is_none() && part.has(&digest) {
            known.push(digest);
        }
    }
    Ok(known)
}

fn mark(marks: &mut HashSet<u64>, part: &Part, digest: &Digest) {
    if part.has(digest) {
        marks.insert(prefix(digest));
    }
}

fn prefix(digest: &Digest) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

pub(crate) fn backup_runs<B: Base>(view: &View<B>) -> Result<bool, Failure> {
    Ok(view
        .sessions()?
        .iter()
        .any(|(_, session)| session.kind == SessionKind::Backup))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::protocol::{CommitBackup, CommittedBackup, Request};
    use crate::testing::{Connected, SUITE, TestNode, manifest_of, stanza};
    use pgmesh_storage::{Codec, DigestSuite, Payload};

    #[test]
    fn every_digest_is_in_exactly_one_part() {
        for of in [1, 2, 3, 7, 256] {
            for seed in 0u32..500 {
                let digest = DigestSuite::Blake3.digest(&seed.to_le_bytes());
                let parts = (0..of)
                    .filter(|number| Part { number: *number, of }.has(&digest))
                    .count();
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
        let payload = Payload::pack(SUITE, Codec::None, None, &root).unwrap();
        let commit = Request::CommitBackup(CommitBackup {
            stanza: stanza(),
            session: begun.session,
            label: label.parse().unwrap(),
            manifest: payload.head(),
        });
        let committed = client.ask(&commit, Some(&payload.bytes)).await.unwrap();
        assert!(matches!(committed, CommittedBackup::Committed { .. }));
        chunk
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_backup_that_is_committed_while_the_sweep_marks_does_not_end_it() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let kept = back_up(&client, "20260101-000000F", &[1; 900]).await;
        // Left by a backup that was given up; and one that the next backup will name.
        let begun = client.begin_backup("20260102-000000F").await.unwrap();
        let left = client.put_chunk(begun.session, &[2; 900]).await.unwrap();
        let named = client.put_chunk(begun.session, &[3; 900]).await.unwrap();
        site.node.end_session("test", begun_id(begun.session), "given up").await;

        let view = site.node.catalog.view_linearizable().await.unwrap();
        let part = Part { number: 0, of: 1 };
        let mut marking = Marking {
            checked_at: view.applied().unwrap(),
            unmarked: chunks_in(&view, &part).unwrap(),
            marked: HashSet::new(),
            part,
        };
        site.node.mark(&view, &mut marking).await.unwrap();
        assert_eq!(marking.unmarked.len(), 2);
        assert_eq!(back_up(&client, "20260103-000000F", &[3; 900]).await, named);
        assert!(matches!(site.node.condemn(marking).await.unwrap(), Swept::Done(1)));
        let chunks = site.node.catalog.view().chunks(&[kept, left, named]).unwrap();
        let is_there: Vec<bool> = chunks.iter().map(Option::is_some).collect();
        assert_eq!(is_there, [true, false, true]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_sweep_waits_for_the_end_of_a_backup_with_its_marks() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let first = client.begin_backup("20260101-000000F").await.unwrap();
        let left = client.put_chunk(first.session, &[2; 900]).await.unwrap();
        let sweeping = site.node.clone();
        let sweep = tokio::spawn(async move { sweeping.sweep().await });
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(!sweep.is_finished() && site.node.catalog.view().chunks(&[left]).unwrap()[0].is_some());
        site.node.end_session("test", begun_id(first.session), "given up").await;
        assert!(matches!(sweep.await.unwrap().unwrap(), Swept::Done(1)));
    }

    fn begun_id(session: u64) -> pgmesh_raft::SessionId {
        pgmesh_raft::SessionId(LogIndex(session))
    }
}
