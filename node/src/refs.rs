//! From the catalog's name of an object to the name under which it lies in a repository.

use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::apply::Base;
use pgmesh_raft::{ObjectRef, Orphan, Replica, View};
use pgmesh_storage::{ArchiveId, Digest, FilePart, Generation, ObjectName, ObjectPath, Portion, RepoKey, parts_of};

/// One object, as the catalog knows it.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its name at rest, less the generation.
    pub name: ObjectName,
    /// The digest of its plaintext.
    pub digest: Digest,
    /// Its good replicas.
    pub replicas: Vec<Replica>,
    /// Its bytes as stored, less the envelope.
    pub stored_length: u64,
    /// Bytes of its plaintext.
    pub plain_length: u64,
}

impl Known {
    /// The parts that it lies in; none where it is one object.
    pub fn parts(&self) -> Option<u16> {
        match &self.name {
            ObjectName::Segment { .. } => parts_of(self.plain_length),
            _ => None,
        }
    }

    /// One part of it, in the same repositories.
    pub fn of_part(&self, part: FilePart) -> Self {
        let plain_length = part.length_in(self.plain_length);
        Self {
            name: self.name.of_part(part),
            digest: self.digest,
            replicas: self.replicas.clone(),
            // They compress alike, more or less.
            stored_length: self.stored_length.min(plain_length),
            plain_length,
        }
    }
}

/// Looks an object up; `None` when the catalog does not know it (any more).
pub fn known<B: Base>(view: &View<B>, object: &ObjectRef) -> Result<Option<Known>, Failure> {
    let Some(stored) = view.object(object)? else {
        return Ok(None);
    };
    let Some(name) = name(view, object, stored.digest, stored.plain_length)? else {
        return Ok(None);
    };
    Ok(Some(Known {
        name,
        digest: stored.digest,
        replicas: stored.replicas,
        stored_length: stored.stored_length,
        plain_length: stored.plain_length,
    }))
}

/// A condemned chunk, which counts as absent for everything but reading (invariant 5): it is not deleted while a
/// session is open that began before it was condemned. `None` if the chunk is not condemned.
pub fn condemned(view: &View, digest: Digest) -> Result<Option<Known>, Failure> {
    let record = view.chunks_with_condemned(&[digest])?.pop().flatten();
    Ok(record.filter(|chunk| chunk.condemned.is_some()).map(|chunk| Known {
        name: ObjectName::Chunk(digest),
        digest,
        replicas: chunk.replicas,
        stored_length: u64::from(chunk.stored_length),
        plain_length: u64::from(chunk.length),
    }))
}

/// The name at rest of an object with this digest.
pub fn name<B: Base>(
    view: &View<B>,
    object: &ObjectRef,
    digest: Digest,
    plain_length: u64,
) -> Result<Option<ObjectName>, Failure> {
    let archive_id = |stanza, db| -> Result<_, Failure> {
        Ok(view
            .stanza(stanza)?
            .and_then(|record| record.database(db).map(|database| database.archive_id())))
    };
    Ok(match object {
        ObjectRef::Chunk(digest) => Some(ObjectName::Chunk(*digest)),
        ObjectRef::Segment { stanza, db, file } => archive_id(stanza, *db)?.map(|archive_id| ObjectName::Segment {
            stanza: stanza.clone(),
            archive_id,
            file: *file,
            digest,
            portion: Portion::of_length(plain_length),
        }),
        ObjectRef::Manifest { stanza, label } => Some(ObjectName::Manifest {
            stanza: stanza.clone(),
            label: label.clone(),
            digest,
        }),
        ObjectRef::StanzaInfo { stanza, db } => archive_id(stanza, *db)?.map(|archive_id| ObjectName::StanzaInfo {
            stanza: stanza.clone(),
            archive_id,
            digest,
        }),
    })
}

/// All registered repositories, each of which gets a new object.
pub fn repositories<B: Base>(view: &View<B>) -> Result<Vec<RepoKey>, Failure> {
    let all: Vec<_> = view.repositories()?.into_iter().map(|(key, _)| key).collect();
    if all.is_empty() {
        return Err(Failure::new(ExitCode::RepoInvalid, "the mesh has no repository")
            .remedy("declare one in the node's file (repo1-path=…) and start the node again"));
    }
    Ok(all)
}

/// Where a new object is to be written, and under which generation. This assigns names (decision 18): ask a snapshot,
/// and of a chunk within a session, in a view that has applied the session's opening.
pub fn targets_of<B: Base>(view: &View<B>, object: &ObjectRef) -> Result<Vec<(RepoKey, Generation)>, Failure> {
    let generation = view.generation_for(object, &[])?;
    Ok(repositories(view)?.into_iter().map(|key| (key, generation)).collect())
}

/// The same for an object that is known and has these replicas: where it is, under its name there, so that it is
/// confirmed; where it is owed, under the name that the debt asks for.
pub fn targets_of_known<B: Base>(
    view: &View<B>,
    object: &ObjectRef,
    replicas: &[Replica],
) -> Result<Vec<(RepoKey, Generation)>, Failure> {
    let free = view.generation_for(object, replicas)?;
    repositories(view)?
        .into_iter()
        .map(|key| {
            let held = replicas.iter().find(|replica| replica.repo == key);
            let generation = match held {
                Some(replica) => replica.generation,
                None => view.debt(key, object)?.map_or(free, |debt| debt.generation),
            };
            Ok((key, generation))
        })
        .collect()
}

/// The catalog's name of the object that has this name at rest.
pub fn object_ref(name: &ObjectName) -> ObjectRef {
    match name {
        ObjectName::Chunk(digest) => ObjectRef::Chunk(*digest),
        ObjectName::Segment {
            stanza,
            archive_id,
            file,
            ..
        } => ObjectRef::Segment {
            stanza: stanza.clone(),
            db: archive_id.db,
            file: *file,
        },
        ObjectName::Manifest { stanza, label, .. } => ObjectRef::Manifest {
            stanza: stanza.clone(),
            label: label.clone(),
        },
        ObjectName::StanzaInfo { stanza, archive_id, .. } => ObjectRef::StanzaInfo {
            stanza: stanza.clone(),
            db: archive_id.db,
        },
    }
}

/// The catalog's name for the content of this digest at a path; `None` for the repository's own objects, such as keys.
/// The collector derives the path from it again.
pub fn orphan(text: &str, path: &ObjectPath, digest: Digest) -> Option<Orphan> {
    let name = path.object_name(digest)?;
    Some(Orphan {
        path: text.to_owned(),
        object: object_ref(&name),
        digest,
        archive: archive_in(&name),
        generation: path.generation(),
    })
}

/// The archive that a name at rest mentions.
fn archive_in(name: &ObjectName) -> Option<ArchiveId> {
    match name {
        ObjectName::Segment { archive_id, .. } | ObjectName::StanzaInfo { archive_id, .. } => Some(*archive_id),
        ObjectName::Chunk(_) | ObjectName::Manifest { .. } => None,
    }
}
