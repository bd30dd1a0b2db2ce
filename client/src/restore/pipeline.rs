//! Chunks on their way from the source into files: several requests at once, and no more memory than they need.

use super::local::{self, Local};
use super::options::Existing;
use super::pg_manifest::PgManifest;
use super::plain::{self, Plain};
use super::planning::{ChunkPlan, PiecePlan, Rules, plan_part};
use super::source::BackupSource;
use super::survey::Parts;
use super::tables::Tables;
use super::workers::{Workers, abnormal};
use super::writer::{Part, Writer};
use crate::progress::Progress;
use pgmesh_protocol::Failure;
use pgmesh_runtime::tasks;
use pgmesh_storage::{EntryKind, FileEntry, FingerprintSeed, ManifestRoot};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Requests under way for each worker: while one chunk is written, the next ones travel.
const REQUESTS_PER_WORKER: usize = 4;
/// Never more than so many: each holds a chunk of 1 MiB, compressed and then plain (invariant 11).
const MOST_REQUESTS: usize = 32;

/// Parts of the manifest that are planned or not done yet: each is about 15 MiB for 20,000 small files, and may wait
/// for one chunk that travels slowly (invariant 11).
const PARTS_OPEN: usize = 3;

/// The state that the workers share.
pub struct Pipeline {
    /// Where chunks come from.
    pub source: Arc<BackupSource>,
    /// Where they go.
    pub writer: Arc<Writer>,
    /// `process-max`.
    pub workers: Workers,
    /// How many that are.
    pub worker_count: usize,
    /// Whether local files may be right already.
    pub existing: Existing,
    /// Whether size and time are proof enough for them.
    pub trusts_times: bool,
    /// The seed of the backup's fingerprints.
    pub seed: Option<FingerprintSeed>,
    /// How far it is.
    pub progress: Arc<Progress>,
    /// Bytes of plaintext that came from the source.
    pub fetched: AtomicU64,
}

/// Files that are compared at once, each with its fingerprints: at most 2 MiB (invariant 11).
const COMPARED_AHEAD: usize = 8;

impl Pipeline {
    /// Restores all files of a backup; `manifest` hears of them, where PostgreSQL's own is wanted.
    ///
    /// # Errors
    /// The first failure of any file.
    pub async fn run(
        self: &Arc<Self>,
        root: &ManifestRoot,
        rules: &Rules,
        mut manifest: Option<&mut PgManifest>,
    ) -> Result<(), Failure> {
        let requests = (self.worker_count * REQUESTS_PER_WORKER).min(MOST_REQUESTS);
        let requests = Arc::new(Semaphore::new(requests));
        let places = Arc::new(Semaphore::new(PARTS_OPEN));
        let mut parts = Parts::of(&self.source, root);
        let mut tables = Tables::of(&self.source);
        let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
        loop {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            reap(&mut tasks)?;
            let Some(entries) = parts.next().await? else { break };
            if let Some(manifest) = manifest.as_deref_mut() {
                manifest.add(&entries)?;
            }
            let local = self.compare(&entries, rules, &mut tables).await?;
            let part = Arc::new(Part::new(plan_part(entries, rules, local), place));
            self.write_without_chunks(&part).await?;
            for chunk in 0..part.plan.chunks.len() {
                let permit = Arc::clone(&requests).acquire_owned().await;
                let (this, part) = (Arc::clone(self), Arc::clone(&part));
                tasks.spawn(tasks::named("restoring", async move {
                    let _permit = permit;
                    this.restore_chunk(part, chunk).await
                }));
                reap(&mut tasks)?;
            }
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|error| abnormal(&error))??;
        }
        self.fetched.fetch_add(tables.fetched, Ordering::Relaxed);
        Ok(())
    }

    /// The pages of a part's files that are in the data directory already, by the files' paths.
    async fn compare(
        &self,
        entries: &[FileEntry],
        rules: &Rules,
        tables: &mut Tables<'_>,
    ) -> Result<HashMap<String, Local>, Failure> {
        let mut locals = HashMap::new();
        if self.existing != Existing::Compare {
            return Ok(locals);
        }
        let mut tasks: JoinSet<Result<(String, Local), Failure>> = JoinSet::new();
        for entry in entries.iter().filter(|entry| rules.is_restored(&entry.path)) {
            let EntryKind::File { size, crc32c, .. } = entry.kind else {
                continue;
            };
            let (below, place) = self.writer.roots().find(&entry.path);
            let found = match self.trusts_times {
                true => below.metadata(place)?,
                false => None,
            };
            if found.is_some_and(|found| local::has_size_and_time(&found, entry)) {
                locals.insert(entry.path.clone(), Local::trusted(size, crc32c));
            } else if let (Some(seed), Some(fingerprints)) = (self.seed, &entry.fingerprints) {
                let table = match tables.read(fingerprints, size).await {
                    Ok(table) => table.pages,
                    Err(failure) => {
                        tracing::warn!(
                            "all of {} is fetched, since its page fingerprints cannot be read: {failure}",
                            entry.path
                        );
                        continue;
                    }
                };
                let (workers, name) = (self.workers.clone(), entry.path.clone());
                let (path, file) = (below.shown(place), below.read(place)?);
                tasks.spawn(tasks::named("comparing", async move {
                    let compare = move || Local::compare(file.as_ref(), &path, size, table, seed);
                    Ok((name, workers.run(compare).await?))
                }));
                while tasks.len() > COMPARED_AHEAD {
                    take_compared(&mut tasks, &mut locals).await?;
                }
            }
        }
        while !tasks.is_empty() {
            take_compared(&mut tasks, &mut locals).await?;
        }
        Ok(locals)
    }

    async fn write_without_chunks(&self, part: &Arc<Part>) -> Result<(), Failure> {
        let (writer, part) = (Arc::clone(&self.writer), Arc::clone(part));
        let zeros = self.workers.run(move || writer.write_without_chunks(&part)).await?;
        self.progress.advance(zeros);
        Ok(())
    }

    async fn restore_chunk(&self, part: Arc<Part>, at: usize) -> Result<(), Failure> {
        let Some(chunk) = part.plan.chunks.get(at) else {
            return Ok(());
        };
        let is_unknown = |piece: &PiecePlan| part.plan.files.get(piece.file).is_none_or(|file| file.table.is_none());
        let may_be_there = self.existing == Existing::Compare && chunk.pieces.iter().all(is_unknown);
        if may_be_there && self.keep_chunk(&part, at).await? {
            return Ok(());
        }
        let plain = match self.fetch_pieces(&part, chunk).await? {
            Some(plain) => plain,
            None => Plain::Whole(self.source.chunk(chunk.digest).await?),
        };
        self.fetched.fetch_add(plain.len(), Ordering::Relaxed);
        let writer = Arc::clone(&self.writer);
        let write = move || match part.plan.chunks.get(at) {
            Some(chunk) => writer.write_chunk(&part, chunk, &plain),
            None => Ok(0),
        };
        self.progress.advance(self.workers.run(write).await?);
        Ok(())
    }

    /// The pieces of a chunk that are needed, where these are few and can be checked.
    async fn fetch_pieces(&self, part: &Part, chunk: &ChunkPlan) -> Result<Option<Plain>, Failure> {
        let Some((seed, ranges)) = self.seed.zip(plain::ranges(chunk, &part.plan.files)) else {
            return Ok(None);
        };
        let Some(bytes) = self.source.pieces(chunk.digest, &ranges).await? else {
            return Ok(None);
        };
        let plain = Plain::pieces(&ranges, bytes);
        let right = plain.filter(|plain| plain.is_right(chunk, &part.plan.files, seed));
        if right.is_none() {
            // Invariant 6: pieces that cannot be proved are not written; a whole chunk can be proved.
            tracing::warn!(
                "pieces of chunk {} do not match their fingerprints; the whole chunk is fetched",
                chunk.digest
            );
        }
        Ok(right)
    }

    async fn keep_chunk(&self, part: &Arc<Part>, at: usize) -> Result<bool, Failure> {
        let suite = self.source.suite();
        let (writer, part) = (Arc::clone(&self.writer), Arc::clone(part));
        let keep = move || match part.plan.chunks.get(at) {
            Some(chunk) => writer.keep_chunk(&part, chunk, suite),
            None => Ok(None),
        };
        let kept = self.workers.run(keep).await?;
        self.progress.advance(kept.unwrap_or(0));
        Ok(kept.is_some())
    }
}

/// Fails when a task that has ended has failed.
fn reap(tasks: &mut JoinSet<Result<(), Failure>>) -> Result<(), Failure> {
    while let Some(done) = tasks.try_join_next() {
        done.map_err(|error| abnormal(&error))??;
    }
    Ok(())
}

async fn take_compared(
    tasks: &mut JoinSet<Result<(String, Local), Failure>>,
    found: &mut HashMap<String, Local>,
) -> Result<(), Failure> {
    if let Some(done) = tasks.join_next().await {
        let (path, local) = done.map_err(|error| abnormal(&error))??;
        found.insert(path, local);
    }
    Ok(())
}
