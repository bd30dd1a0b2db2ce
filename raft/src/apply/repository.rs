//! Repositories.

use std::collections::BTreeMap;

use pgmesh_storage::{Generation, RepoKey, WrappedKey};

use super::names::{free_generation, lowest_claim};
use super::node::lose_reach;
use super::objects::{Keepers, has_expired, need_repository, owe};
use super::repository_checks::{changing, refuse_known_storage};
use super::use_judge::Judge;
use super::{Base, Outcome, Step};
use crate::error::ReadError;
use crate::key::{self, KeyReader};
use crate::limits;
use crate::model::{
    Backfill, BackupRecord, ChangeKind, ChunkRecord, Debt, DebtReason, ExpiredIn, NodeName, ObjectRef, PlacedIdentity,
    RepositoryMark, RepositoryRecord, SegmentRecord, StanzaRecord, StoredObject,
};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;

/// How many objects one backfill step looks at.
const BACKFILL_STEP: usize = 2_000;

pub(super) fn register<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey, mut given: RepositoryRecord) -> Outcome {
    let key = key::repository(repo);
    if let Some(mut known) = step.txn.record::<RepositoryRecord>(Table::Repositories, &key)? {
        if known.is_retiring() {
            return Err(changing(repo, ChangeKind::Retiring).into());
        }
        if let Some(refusal) = difference(repo, &known, &given) {
            return Err(refusal.into());
        }
        let before = known.wrapped_keys.len();
        for wrapped in given.wrapped_keys {
            if !known.wrapped_keys.contains(&wrapped) {
                known.wrapped_keys.push(wrapped);
            }
        }
        if known.wrapped_keys.len() != before {
            limits::repository(&known)?;
            step.txn.put(Table::Repositories, key, &known);
        }
        return Ok(Reply::Done);
    }
    refuse_known_storage(step, repo, &given.uuid)?;
    given.backfill = has_objects(step)?.then(Backfill::default);
    given.was_of_lost_catalog = given.backfill.is_some() && step.txn.get(Table::Mesh, key::REBUILT)?.is_some();
    step.audit(format!("repo{repo} registered by node {}", given.registered_by));
    step.txn.put(Table::Repositories, key, &given);
    Ok(Reply::Done)
}

fn difference(repo: RepoKey, known: &RepositoryRecord, given: &RepositoryRecord) -> Option<Refusal> {
    let differs = |option: &str, known: Option<String>, given: Option<String>| {
        (known != given).then(|| Refusal::RepositoryDiffers {
            repo,
            option: option.to_owned(),
            known,
            given,
        })
    };
    let options = known.definition.keys().chain(given.definition.keys());
    let mut options: Vec<_> = options.collect();
    options.sort_unstable();
    options
        .into_iter()
        .find_map(|option| {
            let known = known.definition.get(option).cloned();
            differs(option, known, given.definition.get(option).cloned())
        })
        .or_else(|| {
            let host = |record: &RepositoryRecord| record.host.as_ref().map(ToString::to_string);
            differs("host", host(known), host(given))
        })
        .or_else(|| differs("uuid", Some(known.uuid.clone()), Some(given.uuid.clone())))
}

pub(super) fn update<B: Base>(
    step: &mut Step<'_, '_, B>,
    repo: RepoKey,
    definition: Option<BTreeMap<String, String>>,
    host: Option<Option<NodeName>>,
    wrapped_keys: Option<Vec<WrappedKey>>,
) -> Outcome {
    let mut record = need_repository(step, repo)?;
    if record.is_retiring() {
        return Err(changing(repo, ChangeKind::Retiring).into());
    }
    let mut changed = Vec::new();
    let is_moved = |record: &RepositoryRecord| {
        definition.as_ref().is_some_and(|given| *given != record.definition)
            || host.as_ref().is_some_and(|given| *given != record.host)
    };
    if is_moved(&record) {
        record.placed = step.index;
    }
    if let Some(definition) = definition {
        // Nodes that declare it otherwise must not write to another place.
        lose_reach(step, repo)?;
        changed.push("definition");
        record.definition = definition;
    }
    if let Some(host) = host {
        changed.push("host");
        record.host = host;
    }
    if let Some(wrapped_keys) = wrapped_keys {
        changed.push("wrapped keys");
        record.wrapped_keys = wrapped_keys;
    }
    step.audit(format!("repo{repo} updated: {}", changed.join(", ")));
    step.txn.put(Table::Repositories, key::repository(repo), &record);
    Ok(Reply::Done)
}

/// Remembers the newest mark.
pub(super) fn mark<B: Base>(
    step: &mut Step<'_, '_, B>,
    repo: RepoKey,
    identity: &PlacedIdentity,
    number: u64,
    nonce: u64,
) -> Outcome {
    let mut record = need_repository(step, repo)?;
    let is_newer = record.mark.as_ref().is_none_or(|known| known.number < number);
    // A mark that lies at a place that the repository has left would make it an older copy of itself.
    if record.is_at(identity) && is_newer {
        let at = step.at;
        record.mark = Some(RepositoryMark { number, nonce, at });
        step.txn.put(Table::Repositories, key::repository(repo), &record);
    }
    Ok(Reply::Done)
}

fn has_objects<B: Base>(step: &Step<'_, '_, B>) -> Result<bool, ReadError> {
    for table in [Table::Stanzas, Table::Chunks] {
        if step.txn.scan(table, &[], &[]).next().transpose()?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn backfill<B: Base>(step: &mut Step<'_, '_, B>, repo: RepoKey) -> Outcome {
    let mut record = need_repository(step, repo)?;
    if record.change.is_some() {
        return super::retire::go_on(step, repo, record);
    }
    let Some(cursor) = record.backfill.take() else {
        return Ok(Reply::Backfilled { debts: 0, more: false });
    };
    let objects = objects_after(step.txn, cursor.after.as_ref(), BACKFILL_STEP)?;
    let more = objects.len() == BACKFILL_STEP;
    let (mut debts, mut judge) = (0, Judge::default());
    let keepers = Keepers::read(step)?;
    for (object, stored) in &objects {
        // No node can make an object of unknown content.
        if stored.is_unknown() {
            continue;
        }
        let holds = stored.replicas.iter().any(|replica| replica.repo == repo);
        let owes = step.txn.get(Table::Debts, &key::debt(repo, object))?.is_some();
        if holds || owes || has_expired(step.txn, &mut judge, object, repo)? {
            continue;
        }
        if expire_in_new(step, repo, object, stored, &keepers)? {
            continue;
        }
        let debt = Debt {
            since: step.at,
            reason: DebtReason::Owed,
            generation: owed_generation(step, &record, object, stored)?,
            bytes: stored.stored_length,
        };
        owe(step, repo, object, &debt)?;
        debts += 1;
    }
    record.backfill = more.then(|| Backfill {
        after: objects.last().map(|(object, _)| object.clone()),
    });
    step.txn.put(Table::Repositories, key::repository(repo), &record);
    Ok(Reply::Backfilled { debts, more })
}

/// Whether an object that nobody has any more, since it has expired everywhere before the repository was registered,
/// expires there as well.
fn expire_in_new<B: Base>(
    step: &mut Step<'_, '_, B>,
    repo: RepoKey,
    object: &ObjectRef,
    stored: &StoredObject,
    keepers: &Keepers,
) -> Result<bool, ReadError> {
    let has_expired_elsewhere = |expired: &ExpiredIn| {
        let mut others = keepers.all.iter().filter(|other| **other != repo);
        !expired.is_empty() && others.all(|other| expired.contains(other))
    };
    match object {
        ObjectRef::Manifest { stanza, label } => {
            let row = key::backup(stanza, label);
            let record: Option<BackupRecord> = step.txn.record(Table::Backups, &row)?;
            let Some(mut record) = record.filter(|record| !record.expired.is_empty()) else {
                return Ok(false);
            };
            if record.holders().next().is_some() || !has_expired_elsewhere(&record.expired) {
                return Ok(false);
            }
            record.expired.insert(repo);
            step.txn.put(Table::Backups, row, &record);
            step.txn
                .put(Table::Releases, key::release(repo, stanza, label), &step.index);
            Ok(true)
        }
        ObjectRef::Segment { stanza, db, file } if stored.replicas.is_empty() => {
            let row = key::segment(stanza, *db, &file.to_string());
            let record: Option<SegmentRecord> = step.txn.record(Table::Segments, &row)?;
            let Some(mut record) = record.filter(|record| has_expired_elsewhere(&record.expired)) else {
                return Ok(false);
            };
            record.expired.insert(repo);
            step.txn.put(Table::Segments, row, &record);
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// The name under which a repository that is backfilled is to have an object.
///
/// A repository of the mesh whose catalog was lost has most objects already, under the generations that they have
/// elsewhere. The rebuilt catalog has never deleted anything there, so these names are safe below the floor: the repair
/// finds the objects instead of uploading them once more.
fn owed_generation<B: Base>(
    step: &Step<'_, '_, B>,
    record: &RepositoryRecord,
    object: &ObjectRef,
    stored: &StoredObject,
) -> Result<Generation, ReadError> {
    let elsewhere = stored.replicas.iter().map(|replica| replica.generation).min();
    if let Some(generation) = elsewhere.filter(|_| record.was_of_lost_catalog)
        && generation >= lowest_claim(step.txn, object)?
    {
        return Ok(generation);
    }
    free_generation(step.txn, object, &[])
}

/// The next `limit` known objects after a given one: chunks, WAL files, manifests, then stanza information.
pub(crate) fn objects_after<B: Base>(
    base: &B,
    after: Option<&ObjectRef>,
    limit: usize,
) -> Result<Vec<(ObjectRef, StoredObject)>, ReadError> {
    let mut objects = Vec::new();
    let kind = after.map_or(0, |object| match object {
        ObjectRef::Chunk(_) => 0,
        ObjectRef::Segment { .. } => 1,
        ObjectRef::Manifest { .. } => 2,
        ObjectRef::StanzaInfo { .. } => 3,
    });
    let walks: [Walk<B>; 4] = [chunks_after, segments_after, manifests_after, infos_after];
    for (number, walk) in walks.into_iter().enumerate().skip(kind) {
        let after = after.filter(|_| number == kind);
        walk(base, after, limit, &mut objects)?;
        if objects.len() >= limit {
            break;
        }
    }
    Ok(objects)
}

type Objects = Vec<(ObjectRef, StoredObject)>;

type Walk<B> = fn(&B, Option<&ObjectRef>, usize, &mut Objects) -> Result<(), ReadError>;

fn malformed(table: Table, key: &[u8]) -> ReadError {
    ReadError::MalformedKey {
        table,
        key: hex::encode(key),
    }
}

fn chunks_after<B: Base>(
    base: &B,
    after: Option<&ObjectRef>,
    limit: usize,
    objects: &mut Objects,
) -> Result<(), ReadError> {
    let from = match after {
        Some(ObjectRef::Chunk(digest)) => key::after(key::chunk(digest)),
        _ => Vec::new(),
    };
    for row in base.scan(Table::Chunks, &from, &[]) {
        if objects.len() >= limit {
            break;
        }
        let (key, bytes) = row?;
        let chunk: ChunkRecord = crate::value::decode(Table::Chunks, &key, &bytes)?;
        let digest = KeyReader::new(&key).digest();
        let digest = digest.ok_or_else(|| malformed(Table::Chunks, &key))?;
        if chunk.condemned.is_none() {
            let stored = StoredObject {
                digest,
                plain_length: u64::from(chunk.length),
                stored_length: u64::from(chunk.stored_length),
                replicas: chunk.replicas,
            };
            objects.push((ObjectRef::Chunk(digest), stored));
        }
    }
    Ok(())
}

fn segments_after<B: Base>(
    base: &B,
    after: Option<&ObjectRef>,
    limit: usize,
    objects: &mut Objects,
) -> Result<(), ReadError> {
    let from = match after {
        Some(ObjectRef::Segment { stanza, db, file }) => key::after(key::segment(stanza, *db, &file.to_string())),
        _ => Vec::new(),
    };
    for row in base.scan(Table::Segments, &from, &[]) {
        if objects.len() >= limit {
            break;
        }
        let (key, bytes) = row?;
        let record: SegmentRecord = crate::value::decode(Table::Segments, &key, &bytes)?;
        let object = key::read_segment(&key);
        let object = object.ok_or_else(|| malformed(Table::Segments, &key))?;
        objects.push((object, record.object));
    }
    Ok(())
}

fn manifests_after<B: Base>(
    base: &B,
    after: Option<&ObjectRef>,
    limit: usize,
    objects: &mut Objects,
) -> Result<(), ReadError> {
    let from = match after {
        Some(ObjectRef::Manifest { stanza, label }) => key::after(key::backup(stanza, label)),
        _ => Vec::new(),
    };
    for row in base.scan(Table::Backups, &from, &[]) {
        if objects.len() >= limit {
            break;
        }
        let (key, bytes) = row?;
        let record: BackupRecord = crate::value::decode(Table::Backups, &key, &bytes)?;
        let name = key::read_backup(&key);
        let (stanza, label) = name.ok_or_else(|| malformed(Table::Backups, &key))?;
        objects.push((ObjectRef::Manifest { stanza, label }, record.manifest));
    }
    Ok(())
}

fn infos_after<B: Base>(
    base: &B,
    after: Option<&ObjectRef>,
    limit: usize,
    objects: &mut Objects,
) -> Result<(), ReadError> {
    let (from, last) = match after {
        Some(ObjectRef::StanzaInfo { stanza, db }) => (key::stanza(stanza), Some((stanza, db))),
        _ => (Vec::new(), None),
    };
    for row in base.scan(Table::Stanzas, &from, &[]) {
        let (key, bytes) = row?;
        let record: StanzaRecord = crate::value::decode(Table::Stanzas, &key, &bytes)?;
        let stanza = KeyReader::new(&key).rest().and_then(|name| name.parse().ok());
        let stanza = stanza.ok_or_else(|| malformed(Table::Stanzas, &key))?;
        for database in record.databases {
            let done = last.is_some_and(|(name, db)| *name == stanza && database.id <= *db);
            if done {
                continue;
            }
            if objects.len() >= limit {
                return Ok(());
            }
            let object = ObjectRef::StanzaInfo {
                stanza: stanza.clone(),
                db: database.id,
            };
            objects.push((object, database.info));
        }
    }
    Ok(())
}
