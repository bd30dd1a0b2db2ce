//! Finding chunks that no backup refers to, and condemning them.
//!
//! All manifests are read and the chunks that they name are marked; what is not marked is condemned. Marks are 64-bit
//! prefixes of digests, kept for one part of the digest space at a time, so that memory is bounded whatever the number
//! of chunks (invariant 11). Two digests with one prefix only keep a chunk that could go.
//!
//! A backup that runs has chunks that no manifest names yet: nothing is condemned then. One that begins in the middle
//! may be told that a chunk is there which is condemned a moment later; its commit finds that out, and a commit that
//! comes before the condemnation makes the catalog refuse it (invariants 4 and 5).

use crate::{Failure, Node};
use pgmesh_raft::apply::Base;
use pgmesh_raft::{Command, SessionKind, View};
use pgmesh_storage::{BackupLabel, Digest, StanzaName};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Marks kept at once: 64 MiB and a table's slack.
const MARKS: u64 = 4 << 20;
/// Chunks condemned in one command.
const BATCH: usize = 512;
/// How often a node that does not lead looks whether it does now.
const FOLLOWER_LOOK: Duration = Duration::from_secs(60);
/// How often it runs unasked.
const PERIOD: Duration = Duration::from_secs(24 * 3600);

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
    /// Sweeps when asked to, when a running backup has ended, and once a day, until the node stops.
    pub async fn keep_sweeping(self: Arc<Self>) {
        loop {
            if !self.catalog.is_leader() {
                // Whoever leads does it for the whole mesh; who leads may change.
                let _ = tokio::time::timeout(FOLLOWER_LOOK, self.sweep.notify.notified()).await;
                continue;
            }
            match self.sweep().await {
                Ok(Swept::Done(0)) => {}
                Ok(Swept::Done(chunks)) => {
                    tracing::info!(chunks, "chunks that no backup refers to are condemned");
                    self.repair.wake();
                }
                Ok(Swept::BackupRuns) => {
                    tokio::time::sleep(Duration::from_secs(10)).await;
                    continue;
                }
                Err(failure) => tracing::warn!(error = %failure, "unreferenced chunks were not looked for"),
            }
            // Woken, or the day is over: both mean to look again.
            let _ = tokio::time::timeout(PERIOD, self.sweep.notify.notified()).await;
        }
    }

    async fn sweep(&self) -> Result<Swept, Failure> {
        let mut condemned = 0;
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let mut chunks = 0u64;
        for row in view.all_chunks(None) {
            row?;
            chunks += 1;
        }
        let parts = chunks.div_ceil(MARKS).clamp(1, 256);
        for part in 0..parts {
            if backup_runs(&self.catalog.view())? {
                return Ok(Swept::BackupRuns);
            }
            condemned += self
                .sweep_part(&Part {
                    number: part,
                    of: parts,
                })
                .await?;
        }
        Ok(Swept::Done(condemned))
    }

    async fn sweep_part(&self, part: &Part) -> Result<u64, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        // Chunks first, marks second: a chunk that is committed in between is in neither list.
        let known = chunks_in(&view, part)?;
        let checked_at = view.applied()?;
        let marks = self.marks_in(&view, part).await?;
        let unmarked: Vec<Digest> = known
            .into_iter()
            .filter(|digest| !marks.contains(&prefix(digest)))
            .collect();
        let mut condemned = 0;
        for batch in unmarked.chunks(BATCH) {
            if backup_runs(&self.catalog.view_linearizable().await.map_err(Failure::from)?)? {
                break;
            }
            self.catalog
                .propose(
                    self.actor(),
                    Command::Condemn {
                        chunks: batch.to_vec(),
                        checked_at,
                    },
                )
                .await?;
            condemned += batch.len() as u64;
        }
        Ok(condemned)
    }

    /// The chunks that any backup of any stanza names.
    async fn marks_in(&self, view: &View, part: &Part) -> Result<HashSet<u64>, Failure> {
        let mut backups: Vec<(StanzaName, BackupLabel)> = Vec::new();
        for row in view.stanzas(None) {
            let (stanza, record) = row?;
            if record.deleting {
                continue;
            }
            for row in view.backups(&stanza, None) {
                backups.push((stanza.clone(), row?.0));
            }
        }
        let mut marks = HashSet::new();
        for (stanza, label) in backups {
            // A backup that was removed meanwhile needs no marks; one that cannot be read stops the sweep.
            let Some(root) = self.manifest_root(view, &stanza, &label).await? else {
                continue;
            };
            for manifest_part in &root.parts {
                mark(&mut marks, part, &manifest_part.digest);
                for digest in self.chunks_of_part(view, manifest_part.digest).await? {
                    mark(&mut marks, part, &digest);
                }
            }
        }
        Ok(marks)
    }
}

enum Swept {
    /// So many were condemned.
    Done(u64),
    /// Not now.
    BackupRuns,
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
mod tests {
    use super::*;
    use pgmesh_storage::DigestSuite;

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
}
