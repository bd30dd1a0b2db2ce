//! Files that lie in parts: each is read as a whole, when its first part is listed.

use super::{Lies, Verification};
use crate::refs;
use crate::repositories::{OpenRepository, SlotError};
use pgmesh_protocol::{Failure, Finding, FindingKind};
use pgmesh_raft::{GarbageKey, ObjectRef, Replica, View};
use pgmesh_storage::{DbId, FilePart, ObjectPath, PartsSeen, RepoKey, StoreError};
use std::collections::BTreeMap;

/// The sets of parts that a listing has shown, as long as they are not complete: a repository has very many files
/// (invariant 11).
#[derive(Default)]
pub(super) struct Sets(BTreeMap<(ObjectPath, u16), PartsSeen>);

impl Sets {
    /// Adds a part; the file, when all of it was shown.
    pub(super) fn add(&mut self, path: &ObjectPath, part: FilePart) -> Option<ObjectPath> {
        let (file, of) = (path.whole(), part.of());
        let seen = self
            .0
            .entry((file.clone(), of))
            .or_insert_with(|| PartsSeen::first(part));
        seen.add(part);
        if !seen.is_complete() {
            return None;
        }
        self.0.remove(&(file.clone(), of));
        Some(file)
    }
}

/// Reads all parts of a file for the first of them, to the digest of the whole; nothing for the others.
pub(super) async fn check_part(
    repo: RepoKey,
    repository: &OpenRepository,
    path: &ObjectPath,
    part: FilePart,
) -> Result<Lies, SlotError> {
    if part.number() == 1 {
        let checked = repository.read_parts(path, part.of()).check().await;
        checked.map_err(|source| SlotError::Store {
            repo,
            identity: Box::new(repository.claimed_as().clone()),
            source,
        })?;
    }
    Ok(Lies::Part)
}

/// The path that an error is about.
pub(super) fn damaged_path(error: &SlotError, listed: &str) -> String {
    match error {
        SlotError::Store {
            source: StoreError::Damaged { path, .. },
            ..
        } => path.clone(),
        _ => listed.to_owned(),
    }
}

impl Verification<'_> {
    /// Reports incomplete sets of parts to which no archive refers. Missing parts of the other sets are found with all
    /// other missing objects.
    pub(super) async fn unreferenced_sets(
        &mut self,
        view: &View,
        repo: RepoKey,
        repository: &OpenRepository,
        sets: Sets,
    ) -> Result<(), Failure> {
        for (path, of) in sets.0.into_keys() {
            let what = format!(
                "no archive refers to these parts, of which there should be {of} (left by an upload that was not finished)"
            );
            self.unreferenced_set(view, repo, repository, path, what).await?;
        }
        Ok(())
    }

    /// Says when nothing refers to a file of which all parts are there.
    pub(super) async fn unreferenced_file(
        &mut self,
        view: &View,
        repo: RepoKey,
        repository: &OpenRepository,
        path: ObjectPath,
    ) -> Result<(), Failure> {
        let what = "no archive refers to these parts of a file (left by an upload that was not finished)";
        self.unreferenced_set(view, repo, repository, path, what.to_owned())
            .await
    }

    async fn unreferenced_set(
        &mut self,
        view: &View,
        repo: RepoKey,
        repository: &OpenRepository,
        path: ObjectPath,
        what: String,
    ) -> Result<(), Failure> {
        let now = self.node.catalog.view();
        if refers_to(view, repo, repository, &path)? || refers_to(&now, repo, repository, &path)? {
            return Ok(());
        }
        self.found(Finding {
            kind: FindingKind::Unreferenced,
            repo: Some(repo.get()),
            stanza: None,
            subject: path.to_string(),
            what,
        })
        .await
    }
}

/// Whether the catalog knows of a file at this path, or that it is of no use and on its way out, or kept.
fn refers_to(view: &View, repo: RepoKey, repository: &OpenRepository, path: &ObjectPath) -> Result<bool, Failure> {
    let ObjectPath::Segment {
        stanza,
        archive_id,
        file,
        generation,
        ..
    } = path
    else {
        return Ok(false);
    };
    let db: DbId = archive_id.db;
    let (object, generation) = (
        ObjectRef::Segment {
            stanza: stanza.clone(),
            db,
            file: *file,
        },
        *generation,
    );
    let replica = Replica { repo, generation };
    let known = refs::known(view, &object)?;
    if known.is_some_and(|known| {
        known.replicas.contains(&replica) && repository.path_of(&known.name, generation).whole() == *path
    }) {
        return Ok(true);
    }
    Ok(view.is_useless(&GarbageKey {
        object,
        repo,
        generation,
    })?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_kept_only_until_it_is_complete() {
        let path = |file: u8, number: u16| {
            let name = "7".repeat(64);
            let path = format!(
                "stanza/main/archive/15-1/0000000100000000/00000001000000000000000{file}-{name}.p{number:03}of003"
            );
            let path = ObjectPath::parse(&path).unwrap();
            (path.clone(), path.part().unwrap())
        };
        let mut sets = Sets::default();
        let mut add = |file, number| {
            let (path, part) = path(file, number);
            (sets.add(&path, part), sets.0.len())
        };
        assert_eq!(add(1, 2), (None, 1));
        assert_eq!(add(2, 1), (None, 2));
        assert_eq!(add(1, 1), (None, 2));
        assert_eq!(add(1, 3), (Some(path(1, 1).0.whole()), 1), "it is judged at once");
    }
}
