//! Deleting what nothing refers to any more: objects of deleted stanzas, replaced generations, condemned chunks.
//!
//! Invariant 5: what to delete is decided in the catalog, by log position: an object goes only when every session that
//! began before it became garbage has ended. It is deleted first and forgotten afterwards, so that a crash between the
//! two only deletes again.

use crate::failure::chain;
use crate::{Failure, Node};
use pgmesh_raft::{Command, Garbage, GarbageKey, LogIndex, ObjectRef};
use pgmesh_storage::{Digest, Generation, ObjectName, RepoKey};

/// How many are deleted and forgotten in one step.
const PAGE: usize = 256;

impl Node {
    /// Deletes what may be deleted now. The number of objects deleted.
    pub async fn collect_garbage(&self) -> Result<u64, Failure> {
        let Ok(_one_at_a_time) = self.collecting.try_lock() else {
            return Ok(0);
        };
        Ok(self.collect_objects().await? + self.collect_chunks().await?)
    }

    async fn collect_objects(&self) -> Result<u64, Failure> {
        let mut deleted = 0;
        let mut after: Option<GarbageKey> = None;
        loop {
            let view = self.catalog.view();
            let page = view.garbage(after.as_ref()).take(PAGE).collect::<Result<Vec<_>, _>>()?;
            let Some((last, _)) = page.last() else {
                return Ok(deleted);
            };
            after = Some(last.clone());
            let mut gone = Vec::new();
            for (key, garbage) in page {
                // A bad replica stays until its successor is there: it may be the only trace of the object.
                if !view.may_delete(garbage.since)? || view.debt(key.repo, &key.object)?.is_some() {
                    continue;
                }
                let Some(name) = garbage_name(&key, &garbage) else {
                    tracing::error!(?key, "a garbage record names no object");
                    continue;
                };
                if self.delete_replica(key.repo, &name, key.generation).await {
                    gone.push(key);
                }
            }
            if !gone.is_empty() {
                deleted += gone.len() as u64;
                self.catalog
                    .propose(self.actor(), Command::ForgetGarbage { garbage: gone })
                    .await?;
            }
        }
    }

    async fn collect_chunks(&self) -> Result<u64, Failure> {
        let mut deleted = 0;
        let mut after: Option<Digest> = None;
        loop {
            let view = self.catalog.view();
            let page = view
                .condemned(after.as_ref())
                .take(PAGE)
                .collect::<Result<Vec<(Digest, LogIndex)>, _>>()?;
            let Some((last, _)) = page.last() else {
                return Ok(deleted);
            };
            after = Some(*last);
            let mut gone = Vec::new();
            for (digest, since) in page {
                if view.may_delete(since)? && self.delete_chunk(&view, digest).await? {
                    gone.push(digest);
                }
            }
            if !gone.is_empty() {
                deleted += gone.len() as u64;
                self.catalog
                    .propose(self.actor(), Command::Forget { chunks: gone })
                    .await?;
            }
        }
    }

    /// Deletes all replicas of a condemned chunk.
    async fn delete_chunk(&self, view: &pgmesh_raft::View, digest: Digest) -> Result<bool, Failure> {
        let Some(record) = view.chunks_with_condemned(&[digest])?.pop().flatten() else {
            return Ok(false);
        };
        for replica in record.replicas {
            if !self
                .delete_replica(replica.repo, &ObjectName::Chunk(digest), replica.generation)
                .await
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn delete_replica(&self, repo: RepoKey, name: &ObjectName, generation: Generation) -> bool {
        let Ok(place) = self.repositories.place(repo) else {
            return false;
        };
        if !place.admits() {
            return false;
        }
        match place.delete(name, generation).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%repo, error = %chain(&error), "an object that is not needed any more cannot be deleted");
                false
            }
        }
    }
}

/// The name of an object that the catalog no longer knows, from what the garbage record keeps of it.
fn garbage_name(key: &GarbageKey, garbage: &Garbage) -> Option<ObjectName> {
    let digest = garbage.digest;
    match &key.object {
        ObjectRef::Chunk(digest) => Some(ObjectName::Chunk(*digest)),
        ObjectRef::Manifest { stanza, label } => Some(ObjectName::Manifest {
            stanza: stanza.clone(),
            label: label.clone(),
            digest,
        }),
        ObjectRef::Segment { stanza, file, .. } => Some(ObjectName::Segment {
            stanza: stanza.clone(),
            archive_id: garbage.archive?,
            file: *file,
            digest,
        }),
        ObjectRef::StanzaInfo { stanza, .. } => Some(ObjectName::StanzaInfo {
            stanza: stanza.clone(),
            archive_id: garbage.archive?,
            digest,
        }),
    }
}
