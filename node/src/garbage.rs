//! Deleting what nothing refers to any more: objects of deleted stanzas, replaced generations, condemned chunks.
//!
//! Invariant 5: what to delete is decided in the catalog, by log position: an object goes only when every session that
//! began before it became garbage has ended. It is deleted first and forgotten afterwards, so that a crash between the
//! two only deletes again.
//!
//! What a repository does not let go (object lock; `delete=n`) is set aside in the catalog as a mark: its name is not used
//! again, `info` counts it, and nobody tries all the time. Where the credentials may delete, it is asked for again from time to
//! time: locks run out.

use crate::failure::chain;
use crate::repositories::Place;
use crate::{Failure, Node};
use futures::StreamExt;
use futures::stream;
use pgmesh_raft::{Command, Garbage, GarbageKey, LogIndex, ObjectRef, View};
use pgmesh_storage::{Digest, ObjectName, RepoKey};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many are deleted and forgotten in one step.
const PAGE: usize = 256;
/// Deletions under way at once: a store across a network takes its time for each.
const AT_ONCE: usize = 8;
/// How often a repository is asked for what it keeps.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(3600);
/// After so many refusals it is asked no more this time, and the next time from there on.
const REFUSALS: usize = 1000;

/// What became of garbage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Objects that were deleted.
    pub deleted: u64,
    /// Objects that their repository does not let go, and that were not known to be so.
    pub kept: u64,
}

/// What became of one object.
enum Fate {
    /// It is not there any more.
    Deleted,
    /// The repository does not let it go.
    Kept,
    /// Tried again.
    Stays,
}

/// When each repository was last asked for what it keeps, and how far.
#[derive(Default)]
pub struct AskedKept(Mutex<BTreeMap<RepoKey, (Instant, Option<GarbageKey>)>>);

impl AskedKept {
    /// Where to go on with a repository that may be asked now; none where it was asked a while ago.
    fn due(&self, repo: RepoKey, now: Instant) -> Option<Option<GarbageKey>> {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match asked.get(&repo) {
            None => Some(None),
            Some((at, after)) => (now.saturating_duration_since(*at) >= ASK_AGAIN_AFTER).then(|| after.clone()),
        }
    }

    fn asked(&self, repo: RepoKey, now: Instant, after: Option<GarbageKey>) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(repo, (now, after));
    }

    /// It has just refused something: there is no hurry.
    fn refused(&self, repo: RepoKey, now: Instant) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.entry(repo).or_insert((now, None));
    }
}

impl Node {
    /// Deletes what may be deleted now.
    pub async fn collect_garbage(&self) -> Result<Collected, Failure> {
        let Ok(_one_at_a_time) = self.collecting.try_lock() else {
            return Ok(Collected::default());
        };
        let objects = self.collect_objects().await?;
        let chunks = self.collect_chunks().await?;
        if self.catalog.is_leader() {
            self.ask_for_kept().await?;
        }
        Ok(Collected {
            deleted: objects.deleted + chunks.deleted,
            kept: objects.kept + chunks.kept,
        })
    }

    async fn collect_objects(&self) -> Result<Collected, Failure> {
        let mut collected = Collected::default();
        let mut after: Option<GarbageKey> = None;
        loop {
            let view = self.catalog.view();
            let page = view.garbage(after.as_ref()).take(PAGE).collect::<Result<Vec<_>, _>>()?;
            let Some((last, _)) = page.last() else {
                return Ok(collected);
            };
            after = Some(last.clone());
            let mut useless = Vec::new();
            for (key, garbage) in page {
                // A bad replica stays until its successor is there: it may be the only trace of the object.
                if view.may_delete(garbage.since)? && view.debt(key.repo, &key.object)?.is_none() {
                    useless.push((key, garbage));
                }
            }
            let (gone, kept) = self.dispose_of_all(useless).await;
            collected.deleted += gone.len() as u64;
            collected.kept += kept.len() as u64;
            self.tell(gone, |garbage| Command::ForgetGarbage { garbage }).await?;
            self.tell(kept, |garbage| Command::KeepGarbage { garbage }).await?;
        }
    }

    async fn tell(&self, keys: Vec<GarbageKey>, command: fn(Vec<GarbageKey>) -> Command) -> Result<(), Failure> {
        if !keys.is_empty() {
            self.catalog.propose(self.actor(), command(keys)).await?;
        }
        Ok(())
    }

    /// Deletes several; those that are gone, and those that are kept.
    async fn dispose_of_all(&self, useless: Vec<(GarbageKey, Garbage)>) -> (Vec<GarbageKey>, Vec<GarbageKey>) {
        let mut fates = stream::iter(useless)
            .map(|(key, garbage)| async move {
                let fate = match garbage_name(&key, &garbage) {
                    Some(name) => self.dispose(&key, &name).await,
                    None => {
                        tracing::error!(?key, "a garbage record names no object");
                        Fate::Stays
                    }
                };
                (key, fate)
            })
            .buffer_unordered(AT_ONCE);
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        while let Some((key, fate)) = fates.next().await {
            match fate {
                Fate::Deleted => gone.push(key),
                Fate::Kept => kept.push(key),
                Fate::Stays => {}
            }
        }
        (gone, kept)
    }

    async fn collect_chunks(&self) -> Result<Collected, Failure> {
        let mut collected = Collected::default();
        let mut after: Option<Digest> = None;
        loop {
            let view = self.catalog.view();
            let page = view
                .condemned(after.as_ref())
                .take(PAGE)
                .collect::<Result<Vec<(Digest, LogIndex)>, _>>()?;
            let Some((last, _)) = page.last() else {
                return Ok(collected);
            };
            after = Some(*last);
            let mut useless = Vec::new();
            for (digest, since) in page {
                if view.may_delete(since)? {
                    useless.push(digest);
                }
            }
            let mut fates = stream::iter(useless)
                .map(|digest| self.delete_chunk(&view, digest))
                .buffer_unordered(AT_ONCE);
            let (mut chunks, mut kept) = (Vec::new(), Vec::new());
            while let Some(fate) = fates.next().await {
                if let Some((digest, mut marks)) = fate? {
                    collected.deleted += u64::from(marks.is_empty());
                    collected.kept += marks.len() as u64;
                    chunks.push(digest);
                    kept.append(&mut marks);
                }
            }
            if !chunks.is_empty() {
                let command = Command::Forget { chunks, kept };
                self.catalog.propose(self.actor(), command).await?;
            }
        }
    }

    /// Deletes all replicas of a condemned chunk. Answers when none is left but those that their repositories keep, and names
    /// these.
    async fn delete_chunk(&self, view: &View, digest: Digest) -> Result<Option<(Digest, Vec<GarbageKey>)>, Failure> {
        let Some(record) = view.chunks_with_condemned(&[digest])?.pop().flatten() else {
            return Ok(None);
        };
        let mut kept = Vec::new();
        for replica in record.replicas {
            let key = GarbageKey {
                object: ObjectRef::Chunk(digest),
                repo: replica.repo,
                generation: replica.generation,
            };
            match self.dispose(&key, &ObjectName::Chunk(digest)).await {
                Fate::Deleted => {}
                Fate::Kept => kept.push(key),
                Fate::Stays => return Ok(None),
            }
        }
        Ok(Some((digest, kept)))
    }

    async fn dispose(&self, key: &GarbageKey, name: &ObjectName) -> Fate {
        let repo = key.repo;
        let Ok(place) = self.repositories.place(repo) else {
            return Fate::Stays;
        };
        if !self.may_delete(&place) {
            return Fate::Kept;
        }
        if !place.admits() {
            return Fate::Stays;
        }
        match place.delete(name, key.generation).await {
            Ok(()) => Fate::Deleted,
            Err(error) if error.is_retained() => {
                tracing::debug!(%repo, why = %chain(&error), "an object that is not needed any more is kept");
                self.asked_kept.refused(repo, Instant::now());
                Fate::Kept
            }
            Err(error) => {
                tracing::warn!(%repo, error = %chain(&error), "an object that is not needed any more cannot be deleted");
                Fate::Stays
            }
        }
    }

    /// Whether there is any use in asking a repository to delete something.
    fn may_delete(&self, place: &Place) -> bool {
        let record = self.catalog.view().repository(place.key()).ok().flatten();
        let says_no = record.is_some_and(|record| never_deletes(&record.definition));
        let finds_no = matches!(place, Place::Here(slot) if !slot.may_delete());
        !says_no && !finds_no
    }

    /// Asks repositories for what they have kept so far.
    async fn ask_for_kept(&self) -> Result<(), Failure> {
        let view = self.catalog.view();
        for (repo, _) in view.repositories()? {
            if view.counters(repo)?.kept == 0 {
                continue;
            }
            let may = self
                .repositories
                .place(repo)
                .is_ok_and(|place| self.may_delete(&place) && place.admits());
            let now = Instant::now();
            if let Some(after) = self.asked_kept.due(repo, now).filter(|_| may) {
                let after = self.ask_for_kept_of(&view, repo, after).await?;
                self.asked_kept.asked(repo, now, after);
            }
        }
        Ok(())
    }

    /// Where to go on the next time; none from the beginning.
    async fn ask_for_kept_of(
        &self,
        view: &View,
        repo: RepoKey,
        mut after: Option<GarbageKey>,
    ) -> Result<Option<GarbageKey>, Failure> {
        let mut refusals = 0;
        loop {
            let rows = view.kept(after.as_ref());
            let own = rows.filter(|row| row.as_ref().map_or(true, |(key, _)| key.repo == repo));
            let page = own.take(PAGE).collect::<Result<Vec<_>, _>>()?;
            let Some((last, _)) = page.last() else { return Ok(None) };
            after = Some(last.clone());
            let asked = page.len();
            let (gone, _) = self.dispose_of_all(page).await;
            refusals += asked - gone.len();
            if !gone.is_empty() {
                tracing::info!(%repo, objects = gone.len(), "objects that were kept are deleted at last");
            }
            self.tell(gone, |garbage| Command::ForgetGarbage { garbage }).await?;
            if refusals >= REFUSALS {
                return Ok(after);
            }
        }
    }
}

/// `delete=n`: the credentials cannot delete, and nobody shall try.
pub(crate) fn never_deletes(definition: &BTreeMap<String, String>) -> bool {
    definition.get("delete").is_some_and(|value| value == "n")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_that_keeps_things_is_asked_at_most_once_an_hour_and_from_where_it_was_left() {
        let (kept, repo, start) = (AskedKept::default(), RepoKey::new(3).unwrap(), Instant::now());
        assert_eq!(kept.due(repo, start), Some(None));
        kept.refused(repo, start);
        assert_eq!(kept.due(repo, start + ASK_AGAIN_AFTER / 2), None);
        let later = start + ASK_AGAIN_AFTER;
        assert_eq!(kept.due(repo, later), Some(None));
        let last = GarbageKey {
            object: ObjectRef::Chunk(Digest([7; 32])),
            repo,
            generation: pgmesh_storage::Generation::FIRST,
        };
        kept.asked(repo, later, Some(last.clone()));
        kept.refused(repo, later);
        assert_eq!(kept.due(repo, later + ASK_AGAIN_AFTER / 2), None);
        assert_eq!(kept.due(repo, later + ASK_AGAIN_AFTER), Some(Some(last)));
        assert_eq!(
            kept.due(RepoKey::new(4).unwrap(), later),
            Some(None),
            "others are not concerned"
        );
    }

    #[test]
    fn only_what_says_so_never_deletes() {
        let says = |value: &str| never_deletes(&BTreeMap::from([("delete".to_owned(), value.to_owned())]));
        assert_eq!(
            (says("n"), says("y"), never_deletes(&BTreeMap::new())),
            (true, false, false)
        );
    }
}
