//! Objects that lie in a repository and that the catalog does not know: they become garbage.
//!
//! A scan only reports the objects that it has seen. Whether an object is unknown is decided here, at one position of
//! the log; and only garbage is deleted, by the [`collector`](super::garbage). This is safe even if the name may have
//! been assigned and its claim is on its way (decision 36):
//!
//! ```text
//! name assigned ── written ─────────────── claim: refused, written again under a name above
//!                     └─ seen ── seen again ── garbage (the name is taken) ── deleted ── forgotten (below the floor)
//! ```

use std::collections::BTreeSet;

use pgmesh_storage::{Digest, Generation, ObjectPath, RepoKey, StanzaName};

use super::objects::{find, need_repository, oldest_session};
use super::{Base, Outcome, Step, names, stanza};
use crate::command::{DiscardOrphans, NoteOrphans};
use crate::error::ReadError;
use crate::model::{
    CatalogPast, ChunkRecord, EndedScan, Garbage, GarbageKey, ObjectRef, OrphanScan, PlacedIdentity, Replica,
    SightedOrphan, StanzaRecord,
};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;
use crate::{key, limits};

/// No name below was assigned in this era of the catalog. The lost part of the catalog may have known objects that an
/// earlier era has named.
pub(crate) fn era_floor<B: Base>(base: &B) -> Result<Generation, ReadError> {
    Ok(base.record(Table::Mesh, key::ERA_FLOOR)?.unwrap_or_default())
}

/// An era begins.
pub(super) fn raise_era_floor<B: Base>(step: &mut Step<'_, '_, B>) -> Result<(), ReadError> {
    let floor = names::floor(step.txn)?;
    step.txn.put(Table::Mesh, key::ERA_FLOOR.to_vec(), &floor);
    Ok(())
}

/// Whether the catalog knows an object, or has assigned its name to a write that may be under way.
pub(crate) fn is_known<B: Base>(base: &B, name: &GarbageKey, digest: Digest) -> Result<bool, ReadError> {
    let row = key::garbage(name);
    if base.get(Table::Garbage, &row)?.is_some() || base.get(Table::Kept, &row)?.is_some() {
        return Ok(true);
    }
    // A repair that pays the debt may have written the object already. And it may be the last copy of a lost object.
    if base.get(Table::Debts, &key::debt(name.repo, &name.object))?.is_some() {
        return Ok(true);
    }
    let is_it = |held: &Replica| held.repo == name.repo && held.generation == name.generation;
    if let ObjectRef::Chunk(digest) = &name.object {
        // Condemned ones as well.
        let chunk = base.record::<ChunkRecord>(Table::Chunks, &key::chunk(digest))?;
        return Ok(chunk.is_some_and(|chunk| chunk.replicas.iter().any(is_it)));
    }
    Ok(find(base, &name.object)?.is_some_and(|found| {
        // If an object is known by its name alone, any content may be the right one.
        found.object.is_unknown() || found.object.digest == digest && found.object.replicas.iter().any(is_it)
    }))
}

/// Whether this catalog can have assigned a name. No node of this mesh has written a file of any other generation. If
/// such a file became garbage, new names would begin above its generation, and there is none above the last.
pub(crate) fn may_be_assigned<B: Base>(base: &B, name: &GarbageKey) -> Result<bool, ReadError> {
    let held = find(base, &name.object)?.map(|found| found.object.replicas);
    let free = names::free_generation(base, &name.object, &held.unwrap_or_default())?;
    let highest = free.0.saturating_add(limits::GENERATIONS_TRIED);
    Ok(name.generation.0 <= highest && (name.generation.0 as usize) < limits::LOSS_GENERATIONS)
}

/// The record of a repository's scan. Refused while an object that the catalog knows may be neither a replica nor a
/// debt of the repository: the scan would take it for unknown.
fn scan_of<B: Base>(step: &Step<'_, '_, B>, repo: RepoKey, identity: &PlacedIdentity) -> Outcome<OrphanScan> {
    let record = need_repository(step, repo)?;
    let past: CatalogPast = step.txn.record(Table::Mesh, key::PAST)?.unwrap_or_default();
    let is_settled = record.takes_replicas(identity)
        && record.backfill.is_none()
        && past.loss.is_none()
        && past.uncompared.is_empty()
        && past.unlisted.is_empty();
    if !is_settled {
        return Err(Refusal::RepositoryUnsettled(repo).into());
    }
    let known = step.txn.record(Table::OrphanScans, &key::repository(repo))?;
    Ok(known.unwrap_or_default())
}

fn put_scan<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey, scan: &OrphanScan) {
    step.txn.put(Table::OrphanScans, key::repository(repo), scan);
}

pub(super) fn note<B: Base>(step: &mut Step<'_, '_, B>, note: NoteOrphans) -> Outcome {
    let repo = note.repo;
    let mut scan = scan_of(step, repo, &note.identity)?;
    // Another node has begun a later one.
    if note.began < scan.began {
        return Ok(Reply::Done);
    }
    for path in &note.gone {
        forget(step, &mut scan, key::orphan(repo, path))?;
    }
    for (path, bytes) in note.sighted {
        let row = key::orphan(repo, &path);
        let is_new = step.txn.get(Table::Orphans, &row)?.is_none();
        if is_new && scan.waiting.objects < limits::ORPHANS {
            let seen = step.index;
            step.txn.put(Table::Orphans, row, &SightedOrphan { seen, bytes });
            scan.waiting.add(bytes);
        }
    }
    scan.began = note.began;
    scan.next = note.next;
    scan.found = note.found;
    if scan.next.is_none() {
        let (at, found) = (step.at, note.found);
        scan.ended = Some(EndedScan { at, found });
    }
    put_scan(step, repo, &scan);
    Ok(Reply::Done)
}

/// Takes a row out; says how many bytes it was about, if it was there.
fn forget<B: Base>(
    step: &mut Step<'_, '_, B>,
    scan: &mut OrphanScan,
    row: Vec<u8>,
) -> Result<Option<SightedOrphan>, ReadError> {
    let known = step.txn.record::<SightedOrphan>(Table::Orphans, &row)?;
    if let Some(sighted) = &known {
        scan.waiting.remove(sighted.bytes);
        step.txn.delete(Table::Orphans, row);
    }
    Ok(known)
}

/// Invariant 5: an object that is not known at this position is garbage from here on.
pub(super) fn discard<B: Base>(step: &mut Step<'_, '_, B>, given: DiscardOrphans) -> Outcome {
    let repo = given.repo;
    let mut scan = scan_of(step, repo, &given.identity)?;
    let (oldest, lowest) = (oldest_session(step.txn)?, era_floor(step.txn)?);
    let mut stanzas: BTreeSet<StanzaName> = BTreeSet::new();
    let (mut objects, mut bytes, mut first) = (0_u32, 0_u64, None);
    for orphan in given.orphans {
        let row = key::orphan(repo, &orphan.path);
        let sighted = step.txn.record::<SightedOrphan>(Table::Orphans, &row)?;
        let Some(sighted) = sighted.filter(|sighted| sighted.is_due(given.began, oldest)) else {
            continue;
        };
        let name = orphan.key(repo);
        // Garbage is named by the digest of a whole file, which one part of it does not tell.
        if ObjectPath::parse(&orphan.path).is_some_and(|path| path.part().is_some()) {
            continue;
        }
        // An object that stays takes no room from others.
        forget(step, &mut scan, row)?;
        if orphan.generation < lowest || is_known(step.txn, &name, orphan.digest)? || !may_be_assigned(step.txn, &name)?
        {
            continue;
        }
        let garbage = Garbage {
            since: step.index,
            digest: orphan.digest,
            archive: orphan.archive,
            // Parts of a WAL file are not proposed: this is one object.
            plain_length: 0,
        };
        step.txn.put(Table::Garbage, key::garbage(&name), &garbage);
        scan.discarded.add(sighted.bytes);
        if let ObjectRef::Segment { stanza, .. } = orphan.object {
            stanzas.insert(stanza);
        }
        objects += 1;
        bytes += sighted.bytes;
        first.get_or_insert(orphan.path);
    }
    // A push has no session. A push that looked before must look again: its name may be forgotten by then.
    for name in stanzas {
        if let Some(mut owner) = step.txn.record::<StanzaRecord>(Table::Stanzas, &key::stanza(&name))? {
            owner.since = step.index;
            stanza::put(step, &name, &owner);
        }
    }
    if let Some(first) = first {
        step.audit(format!(
            "repo{repo}: {objects} objects that nobody knows are deleted, {bytes} bytes: {first}{}",
            if objects > 1 { ", …" } else { "" }
        ));
    }
    put_scan(step, repo, &scan);
    Ok(Reply::Discarded { objects, bytes })
}

/// A walk drops the rows of a repository that is removed or replaced.
pub(super) fn drop_row<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey, row: Vec<u8>) -> Result<(), ReadError> {
    let known = step.txn.record(Table::OrphanScans, &key::repository(repo))?;
    let mut scan: OrphanScan = known.unwrap_or_default();
    forget(step, &mut scan, row)?;
    put_scan(step, repo, &scan);
    Ok(())
}

/// Its scans are forgotten with the repository, or with its lost disk.
pub(super) fn drop_scan<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey) {
    step.txn.delete(Table::OrphanScans, key::repository(repo));
}
