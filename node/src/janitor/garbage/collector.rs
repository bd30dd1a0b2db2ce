//! The steps of the collector, and their order; the model in `node/src/model` drives it through random histories.
//!
//! ```text
//! confirm that this node leads ─► read a page in one snapshot ─► delete ─► forget (or keep)
//!        ▲                                                                    │
//!        └──────────────────────── the next page ◄────────────────────────────┘
//! ```
//!
//! The objects to delete are carried from the snapshot to the deletion and never looked up again: in between, a chunk
//! may have been uploaded anew. Its new objects have other names (decision 18), and `Command::Forget` passes the chunk
//! over, since it is not condemned any more as of the position that was read.

use futures::StreamExt;
use futures::stream;
use pgmesh_protocol::{Collected, Failure};
use pgmesh_raft::apply::{Base, Snapshots};
use pgmesh_raft::{
    Command, CondemnedChunk, Garbage, GarbageKey, GarbageObject, ObjectRef, ReadError, Replica, SessionId, View, limits,
};
use pgmesh_storage::{Digest, ObjectName, Portion, RepoKey};
use std::future::Future;

/// How many are deleted and forgotten in one step; few in tests, so that a collection there takes several.
const PAGE: usize = if cfg!(test) { 4 } else { 256 };
/// The limit of `Kept` marks in one command; few in tests, so that several commands are needed there.
const MARKS: usize = if cfg!(test) { 3 } else { limits::ITEMS };
/// Deletions under way at once: a store across a network takes its time for each. Some must wait in tests, too.
const AT_ONCE: usize = if cfg!(test) { 2 } else { 8 };
/// After so many refusals a collection asks a repository for no more kept objects; the next one goes on from there.
const REFUSALS: usize = 1000;

/// The outcome of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deletion {
    /// It is not there any more.
    Deleted,
    /// The repository does not let it go.
    Kept,
    /// Tried again.
    Stays,
}

/// The catalog and the repositories of a node, on which a collection works.
pub(crate) trait Ground: Sync {
    /// The catalog's tables.
    type Tables: Snapshots;
    /// The proof that this node leads, without which nothing is deleted.
    type Lead: Send + Sync;

    /// The catalog, as this node has it.
    fn view(&self) -> View<Self::Tables>;

    /// Has a majority confirm that this node leads; none where it does not.
    fn confirm_lead(&self) -> impl Future<Output = Result<Option<Self::Lead>, Failure>> + Send;

    /// Deletes an object, unless this node does not lead any more.
    fn delete(&self, lead: &Self::Lead, key: &GarbageKey, name: &ObjectName) -> impl Future<Output = Deletion> + Send;

    /// Tells the catalog.
    fn propose(&self, command: Command) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Deletes the objects that may be deleted now: objects that the catalog does not know any more, and condemned chunks.
pub(crate) async fn collect<G: Ground>(ground: &G) -> Result<Collected, Failure> {
    let objects = collect_objects(ground).await?;
    let chunks = collect_chunks(ground).await?;
    Ok(Collected {
        deleted: objects.deleted + chunks.deleted,
        kept: objects.kept + chunks.kept,
    })
}

async fn collect_objects<G: Ground>(ground: &G) -> Result<Collected, Failure> {
    let mut collected = Collected::default();
    let mut after: Option<GarbageKey> = None;
    while let Some(lead) = ground.confirm_lead().await? {
        let page = garbage_page(&ground.view().snapshot(), after.as_ref())?;
        let Some(last) = page.last else { break };
        after = Some(last);
        let (gone, kept) = dispose_of_all(ground, &lead, page.useless).await;
        collected.deleted += gone.len() as u64;
        collected.kept += kept.len() as u64;
        forget_garbage(ground, gone).await?;
        if !kept.is_empty() {
            ground.propose(Command::KeepGarbage { garbage: kept }).await?;
        }
    }
    Ok(collected)
}

async fn collect_chunks<G: Ground>(ground: &G) -> Result<Collected, Failure> {
    let mut collected = Collected::default();
    let mut after: Option<Digest> = None;
    while let Some(lead) = ground.confirm_lead().await? {
        let page = condemned_page(&ground.view().snapshot(), after.as_ref())?;
        let Some(last) = page.last else { break };
        after = Some(last);
        let mut fates = stream::iter(page.useless)
            .map(|condemned| delete_chunk(ground, &lead, condemned))
            .buffer_unordered(AT_ONCE);
        let mut gone = Vec::new();
        while let Some(fate) = fates.next().await {
            if let Some((chunk, marks)) = fate {
                collected.deleted += u64::from(marks.is_empty());
                collected.kept += marks.len() as u64;
                gone.push((chunk, marks));
            }
        }
        for (chunks, kept) in in_commands(gone) {
            ground.propose(Command::Forget { chunks, kept }).await?;
        }
    }
    Ok(collected)
}

/// The result of asking a repository to delete objects that it has kept.
pub(crate) struct Asked {
    /// Where to go on the next time; none from the beginning.
    pub(crate) after: Option<GarbageKey>,
    /// Some of it was not decided: the repository did not answer, or this node leads no more.
    pub(crate) is_open: bool,
}

/// Asks a repository to delete the objects that it has kept, from `after` on.
pub(crate) async fn ask_for_kept_of<G: Ground>(
    ground: &G,
    repo: RepoKey,
    mut after: Option<GarbageKey>,
) -> Result<Asked, Failure> {
    let (mut refusals, mut is_open) = (0, false);
    while let Some(lead) = ground.confirm_lead().await? {
        let page = kept_page(&ground.view().snapshot(), repo, after.as_ref())?;
        let Some(last) = page.last else {
            return Ok(Asked { after: None, is_open });
        };
        after = Some(last);
        let asked = page.useless.len();
        let (gone, kept) = dispose_of_all(ground, &lead, page.useless).await;
        refusals += asked - gone.len();
        is_open |= gone.len() + kept.len() < asked;
        if !gone.is_empty() {
            tracing::info!(%repo, objects = gone.len(), "objects that were kept are deleted at last");
        }
        forget_garbage(ground, gone).await?;
        if refusals >= REFUSALS {
            return Ok(Asked { after, is_open });
        }
    }
    Ok(Asked { after, is_open: true })
}

async fn forget_garbage<G: Ground>(ground: &G, garbage: Vec<GarbageObject>) -> Result<(), Failure> {
    if garbage.is_empty() {
        return Ok(());
    }
    ground.propose(Command::ForgetGarbage { garbage }).await
}

/// Deletes several objects. Returns the deleted ones, then the kept ones.
async fn dispose_of_all<G: Ground>(
    ground: &G,
    lead: &G::Lead,
    useless: Vec<(GarbageKey, Garbage)>,
) -> (Vec<GarbageObject>, Vec<GarbageObject>) {
    let mut fates = stream::iter(useless)
        .map(|(key, garbage)| async move {
            let fate = match name_of(&key, &garbage) {
                Some(name) => ground.delete(lead, &key, &name).await,
                None => {
                    tracing::error!(?key, "a garbage record names no object");
                    Deletion::Stays
                }
            };
            let since = garbage.since;
            (GarbageObject { key, since }, fate)
        })
        .buffer_unordered(AT_ONCE);
    let (mut gone, mut kept) = (Vec::new(), Vec::new());
    while let Some((object, fate)) = fates.next().await {
        match fate {
            Deletion::Deleted => gone.push(object),
            Deletion::Kept => kept.push(object),
            Deletion::Stays => {}
        }
    }
    (gone, kept)
}

/// Deletes the objects that a condemned chunk had when it was read. When each is deleted, or kept by its repository, it
/// returns the chunk and the kept objects.
async fn delete_chunk<G: Ground>(
    ground: &G,
    lead: &G::Lead,
    condemned: CondemnedObjects,
) -> Option<(CondemnedChunk, Vec<GarbageKey>)> {
    let digest = condemned.chunk.digest;
    let mut kept = Vec::new();
    for replica in condemned.replicas {
        let key = GarbageKey {
            object: ObjectRef::Chunk(digest),
            repo: replica.repo,
            generation: replica.generation,
        };
        match ground.delete(lead, &key, &ObjectName::Chunk(digest)).await {
            Deletion::Deleted => {}
            Deletion::Kept => kept.push(key),
            Deletion::Stays => return None,
        }
    }
    Some((condemned.chunk, kept))
}

/// Distributes chunks, and the marks of their kept objects, over commands within their limit: each repository may keep
/// an object of each chunk.
fn in_commands(gone: Vec<(CondemnedChunk, Vec<GarbageKey>)>) -> Vec<(Vec<CondemnedChunk>, Vec<GarbageKey>)> {
    let mut commands: Vec<(Vec<CondemnedChunk>, Vec<GarbageKey>)> = Vec::new();
    for (chunk, mut marks) in gone {
        match commands.last_mut() {
            Some((chunks, kept)) if kept.len() + marks.len() <= MARKS => {
                chunks.push(chunk);
                kept.append(&mut marks);
            }
            _ => commands.push((vec![chunk], marks)),
        }
    }
    commands
}

/// Some rows of a table, read in one snapshot.
#[derive(Debug)]
struct Page<K, T> {
    /// The key of the last row that was looked at; none when there was none.
    last: Option<K>,
    /// The rows whose objects may be deleted.
    useless: Vec<T>,
}

/// A condemned chunk and its objects.
#[derive(Debug)]
struct CondemnedObjects {
    chunk: CondemnedChunk,
    replicas: Vec<Replica>,
}

/// The next condemned chunks. `view` must be a snapshot, since the replicas are carried to the deletion.
fn condemned_page<B: Base>(
    view: &View<B>,
    after: Option<&Digest>,
) -> Result<Page<Digest, CondemnedObjects>, ReadError> {
    let rows = view.condemned(after).take(PAGE).collect::<Result<Vec<_>, _>>()?;
    let oldest = view.oldest_session()?;
    let digests: Vec<Digest> = rows.iter().map(|(digest, _)| *digest).collect();
    let records = view.chunks_with_condemned(&digests)?;
    let useless = std::iter::zip(&rows, records).filter_map(|((digest, since), record)| {
        let record = record.filter(|record| record.condemned == Some(*since))?;
        may_delete(oldest, *since).then_some(CondemnedObjects {
            chunk: CondemnedChunk {
                digest: *digest,
                since: *since,
            },
            replicas: record.replicas,
        })
    });
    Ok(Page {
        useless: useless.collect(),
        last: digests.last().copied(),
    })
}

/// The next garbage.
fn garbage_page<B: Base>(
    view: &View<B>,
    after: Option<&GarbageKey>,
) -> Result<Page<GarbageKey, (GarbageKey, Garbage)>, ReadError> {
    let rows = view.garbage(after).take(PAGE).collect::<Result<Vec<_>, _>>()?;
    let oldest = view.oldest_session()?;
    let last = rows.last().map(|(key, _)| key.clone());
    let mut useless = Vec::new();
    for (key, garbage) in rows {
        // A bad replica stays until its successor is there: it may be the only trace of the object.
        if may_delete(oldest, garbage.since) && view.debt(key.repo, &key.object)?.is_none() {
            useless.push((key, garbage));
        }
    }
    Ok(Page { last, useless })
}

/// The next marks of objects that a repository keeps. No session can need them: none could when they were set aside.
fn kept_page<B: Base>(
    view: &View<B>,
    repo: RepoKey,
    after: Option<&GarbageKey>,
) -> Result<Page<GarbageKey, (GarbageKey, Garbage)>, ReadError> {
    let rows = view.kept(after);
    let own = rows.filter(|row| row.as_ref().map_or(true, |(key, _)| key.repo == repo));
    let useless = own.take(PAGE).collect::<Result<Vec<_>, _>>()?;
    let last = useless.last().map(|(key, _)| key.clone());
    Ok(Page { last, useless })
}

/// Invariant 5, for many rows of one snapshot.
fn may_delete(oldest: Option<SessionId>, since: pgmesh_raft::LogIndex) -> bool {
    oldest.is_none_or(|session| session.0 > since)
}

/// The name of an object that the catalog no longer knows, from the fields of its garbage record.
fn name_of(key: &GarbageKey, garbage: &Garbage) -> Option<ObjectName> {
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
            portion: Portion::of_length(garbage.plain_length),
        }),
        ObjectRef::StanzaInfo { stanza, .. } => Some(ObjectName::StanzaInfo {
            stanza: stanza.clone(),
            archive_id: garbage.archive?,
            digest,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_raft::LogIndex;
    use pgmesh_storage::Generation;

    fn kept(number: u8, marks: u16) -> (CondemnedChunk, Vec<GarbageKey>) {
        let digest = Digest([number; 32]);
        let since = LogIndex(1);
        let mark = |repo| GarbageKey {
            object: ObjectRef::Chunk(digest),
            repo: RepoKey::new(repo).unwrap(),
            generation: Generation::FIRST,
        };
        (CondemnedChunk { digest, since }, (1..=marks).map(mark).collect())
    }

    #[test]
    fn no_command_has_more_marks_than_it_may() {
        let gone = vec![kept(1, 2), kept(2, 1), kept(3, 0), kept(4, 2), kept(5, 2), kept(6, 0)];
        let commands = in_commands(gone.clone());
        let sizes: Vec<_> = commands
            .iter()
            .map(|(chunks, kept)| (chunks.len(), kept.len()))
            .collect();
        assert_eq!(sizes, [(3, 3), (1, 2), (2, 2)]);
        for (chunks, kept) in &commands {
            let is_of_these =
                |mark: &GarbageKey| chunks.iter().any(|chunk| mark.object == ObjectRef::Chunk(chunk.digest));
            assert!(kept.iter().all(is_of_these));
        }
        assert!(in_commands(Vec::new()).is_empty());
    }
}
