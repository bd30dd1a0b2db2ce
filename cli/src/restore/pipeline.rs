//! Chunks on their way from the source into files: several requests at once, and no more memory than they need.

use super::options::Existing;
use super::pg_manifest::PgManifest;
use super::planning::{Rules, plan_part};
use super::source::Source;
use super::survey::Parts;
use super::workers::{Workers, abnormal};
use super::writer::{Part, Writer};
use crate::progress::Progress;
use pgmesh_node::Failure;
use pgmesh_storage::ManifestRoot;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Requests under way for each worker: while one chunk is written, the next ones travel.
const REQUESTS_PER_WORKER: usize = 4;
/// Never more than so many: each holds a chunk of 1 MiB, compressed and then plain (invariant 11).
const MOST_REQUESTS: usize = 32;

/// What the workers share.
pub struct Pipeline {
    /// Where chunks come from.
    pub source: Arc<Source>,
    /// Where they go.
    pub writer: Arc<Writer>,
    /// `process-max`.
    pub workers: Workers,
    /// How many that are.
    pub worker_count: usize,
    /// Whether local files may be right already.
    pub existing: Existing,
    /// How far it is.
    pub progress: Arc<Progress>,
    /// Bytes of plaintext that came from the source.
    pub fetched: AtomicU64,
}

impl Pipeline {
    /// Restores all files of a backup; `manifest` hears of them, where PostgreSQL's own is wanted.
    ///
    /// # Errors
    /// The first that any of the files meets.
    pub async fn run(
        self: &Arc<Self>,
        root: &ManifestRoot,
        rules: &Rules,
        mut manifest: Option<&mut PgManifest>,
    ) -> Result<(), Failure> {
        let requests = (self.worker_count * REQUESTS_PER_WORKER).min(MOST_REQUESTS);
        let requests = Arc::new(Semaphore::new(requests));
        let mut parts = Parts::of(&self.source, root);
        let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
        while let Some(entries) = parts.next().await? {
            if let Some(manifest) = manifest.as_deref_mut() {
                manifest.add(&entries)?;
            }
            let part = Arc::new(Part::new(plan_part(entries, rules)));
            self.write_without_chunks(&part).await?;
            for chunk in 0..part.plan.chunks.len() {
                let permit = Arc::clone(&requests).acquire_owned().await;
                let (this, part) = (Arc::clone(self), Arc::clone(&part));
                tasks.spawn(async move {
                    let _permit = permit;
                    this.restore_chunk(part, chunk).await
                });
                while let Some(done) = tasks.try_join_next() {
                    done.map_err(|error| abnormal(&error))??;
                }
            }
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|error| abnormal(&error))??;
        }
        Ok(())
    }

    async fn write_without_chunks(&self, part: &Arc<Part>) -> Result<(), Failure> {
        let (writer, part) = (Arc::clone(&self.writer), Arc::clone(part));
        let zeros = self.workers.run(move || writer.write_without_chunks(&part)).await?;
        self.progress.advance(zeros);
        Ok(())
    }

    async fn restore_chunk(&self, part: Arc<Part>, at: usize) -> Result<(), Failure> {
        let Some(digest) = part.plan.chunks.get(at).map(|chunk| chunk.digest) else {
            return Ok(());
        };
        if self.existing == Existing::Compare && self.keep_chunk(&part, at).await? {
            return Ok(());
        }
        let plain = self.source.chunk(digest).await?;
        self.fetched.fetch_add(plain.len() as u64, Ordering::Relaxed);
        let writer = Arc::clone(&self.writer);
        let write = move || match part.plan.chunks.get(at) {
            Some(chunk) => writer.write_chunk(&part, chunk, &plain),
            None => Ok(0),
        };
        self.progress.advance(self.workers.run(write).await?);
        Ok(())
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
