//! Files that lie in parts: each is read as a whole, when its first part is listed.

use super::{Lies, Verification};
use crate::protocol::{Finding, FindingKind};
use crate::repositories::{OpenRepository, SlotError};
use crate::{Failure, refs};
use pgmesh_raft::{GarbageKey, ObjectRef, Replica, View};
use pgmesh_storage::{DbId, FilePart, ObjectPath, PartsSeen, RepoKey, StoreError};
use std::collections::BTreeMap;

/// The sets of parts that a listing has shown.
#[derive(Default)]
pub(super) struct Sets(BTreeMap<(ObjectPath, u16), PartsSeen>);

impl Sets {
    pub(super) fn add(&mut self, path: &ObjectPath, part: FilePart) {
        let set = self.0.entry((path.whole(), part.of()));
        set.or_insert_with(|| PartsSeen::first(part)).add(part);
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
    /// Says which sets of parts nothing refers to. What is missing of the others is found with all that is missing.
    pub(super) async fn unreferenced_sets(
        &mut self,
        view: &View,
        repo: RepoKey,
        repository: &OpenRepository,
        sets: Sets,
    ) -> Result<(), Failure> {
        for ((path, of), seen) in sets.0 {
            let now = self.node.catalog.view();
            if refers_to(view, repo, repository, &path)? || refers_to(&now, repo, repository, &path)? {
                continue;
            }
            let what = if seen.is_complete() {
                "no archive refers to these parts of a file (left by an upload that was not finished)".to_owned()
            } else {
                format!(
                    "no archive refers to these parts, of which there should be {of} (left by an upload that was not finished)"
                )
            };
            self.found(Finding {
                kind: FindingKind::Unreferenced,
                repo: Some(repo.get()),
                stanza: None,
                subject: path.to_string(),
                what,
            })
            .await?;
        }
        Ok(())
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
