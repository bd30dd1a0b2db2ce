//! The commands by which uses of chunks are noted: see [`use_judge`](super::use_judge).

use pgmesh_storage::{BackupLabel, Digest, RepoKey, StanzaName};

use super::names::free_generation;
use super::objects::{need_session, owe, repositories};
use super::rights::Holder;
use super::use_judge::{doubt, drop_event, put_event, unlisted_since};
use super::{Base, Outcome, Step, release, rights, stanza};
use crate::command::{DropUses, EndListing, NoteUses, ShareRights};
use crate::key;
use crate::model::{
    ChunkRecord, Debt, DebtReason, ObjectRef, RepositoryRecord, SessionId, StanzaRecord, Unlisted, UseEvent,
};
use crate::refusal::{ExpiryRefusal, Refusal};
use crate::reply::Reply;
use crate::table::Table;

pub(super) fn stage<B: Base>(
    step: &mut Step<'_, '_, B>,
    name: &StanzaName,
    session: SessionId,
    label: &BackupLabel,
    manifest: Digest,
) -> Outcome {
    let mut owner = need_lock(step, name, session, label)?;
    let Some(running) = &mut owner.backup else {
        return Ok(Reply::Done);
    };
    match running.staged {
        Some(staged) if staged == manifest => return Ok(Reply::Done),
        // Uses that were noted for the other manifest would count.
        Some(_) => {
            return Err(Refusal::Expiry(ExpiryRefusal::OtherManifest {
                stanza: name.clone(),
                label: label.clone(),
            })
            .into());
        }
        None => running.staged = Some(manifest),
    }
    stanza::put(step, name, &owner);
    Ok(Reply::Done)
}

fn need_lock<B: Base>(
    step: &Step<'_, '_, B>,
    name: &StanzaName,
    session: SessionId,
    label: &BackupLabel,
) -> Outcome<StanzaRecord> {
    let (owner, _) = stanza::need_active(step, name)?;
    need_session(step, session)?;
    let running = owner.backup.as_ref();
    if running.is_some_and(|running| running.session == session && running.label == *label) {
        return Ok(owner);
    }
    Err(Refusal::BackupNotBegun {
        stanza: name.clone(),
        session,
        label: label.clone(),
    }
    .into())
}

pub(super) fn note<B: Base>(step: &mut Step<'_, '_, B>, note: &NoteUses) -> Outcome {
    let NoteUses {
        stanza: name, label, ..
    } = note;
    match note.session {
        Some(session) => {
            let owner = need_lock(step, name, session, label)?;
            if owner.backup.is_none_or(|running| running.staged.is_none()) {
                return Err(Refusal::Recheck { since: step.index }.into());
            }
            rights::need(step, name, note.born.iter().chain(&note.carried).copied())?;
        }
        None => {
            let Some(unlisted) = unlisted_since(step.txn, name)? else {
                return Ok(Reply::Done);
            };
            if unlisted.since > note.began {
                return Err(Refusal::Recheck { since: unlisted.since }.into());
            }
            // A backup that has left the catalog meanwhile uses nothing.
            if step.txn.get(Table::Backups, &key::backup(name, label))?.is_none() {
                return Ok(Reply::Done);
            }
        }
    }
    if note.session.is_some() {
        let repositories = repositories(step)?;
        for digest in note.born.iter().chain(&note.carried) {
            owe_missing(step, &repositories, digest)?;
        }
    }
    for digest in &note.died {
        put_event(step, name, label, digest, UseEvent::Died);
    }
    for digest in &note.carried {
        // Its birth may have been noted here before.
        if step
            .txn
            .get(Table::Uses, &key::chunk_use(digest, name, label))?
            .is_none()
        {
            put_event(step, name, label, digest, UseEvent::Carried);
        }
    }
    for digest in &note.born {
        put_event(step, name, label, digest, UseEvent::Born);
    }
    for digest in note.born.iter().chain(&note.carried).chain(&note.died) {
        rights::use_is_noted(step, name, digest)?;
    }
    Ok(Reply::Done)
}

/// Gives a stanza whose backup runs the rights that another stanza of the same owner has.
pub(super) fn share<B: Base>(step: &mut Step<'_, '_, B>, given: &ShareRights) -> Outcome {
    let session = need_session(step, given.session)?;
    let Some(stanza) = rights::uploader(step, &session)? else {
        return Ok(Reply::Done);
    };
    let holder = Holder::read(step.txn, &given.from)?;
    for digest in &given.chunks {
        if holder.has(step.txn, digest)? && step.txn.get(Table::Chunks, &key::chunk(digest))?.is_some() {
            rights::possess(step, &stanza, digest)?;
        }
    }
    Ok(Reply::Done)
}

/// A repository that has released a chunk needs it again.
fn owe_missing<B: Base>(
    step: &mut Step<'_, '_, B>,
    repositories: &[(RepoKey, RepositoryRecord)],
    digest: &Digest,
) -> Outcome<()> {
    let chunk = step.txn.record::<ChunkRecord>(Table::Chunks, &key::chunk(digest))?;
    // A condemned one is owed where it is missing when the backup takes it back.
    let Some(chunk) = chunk.filter(|chunk| chunk.condemned.is_none()) else {
        return Ok(());
    };
    let object = ObjectRef::Chunk(*digest);
    for (repo, record) in repositories {
        let has = chunk.replicas.iter().any(|replica| replica.repo == *repo);
        if has || record.is_retiring() || step.txn.get(Table::Debts, &key::debt(*repo, &object))?.is_some() {
            continue;
        }
        let debt = Debt {
            since: step.at,
            reason: DebtReason::Owed,
            generation: free_generation(step.txn, &object, &[])?,
            bytes: u64::from(chunk.stored_length),
        };
        owe(step, *repo, &object, &debt)?;
    }
    Ok(())
}

pub(super) fn drop_abandoned<B: Base>(step: &mut Step<'_, '_, B>, uses: &DropUses) -> Outcome {
    let row = key::backup(&uses.stanza, &uses.label);
    if step.txn.get(Table::Abandoned, &row)?.is_none() {
        return Ok(Reply::Released {
            objects: 0,
            bytes: 0,
            waiting: 0,
        });
    }
    // It may have made repositories owe chunks that they do not need without it.
    let (released, done) = release::in_all(step, &uses.stanza, &uses.chunks)?;
    for digest in done {
        drop_event(step, &uses.stanza, &uses.label, &digest);
        rights::uses_are_dropped(step, &uses.stanza, &digest)?;
    }
    let prefix = key::backup_uses(&uses.stanza, &uses.label);
    if uses.is_last && step.txn.scan(Table::BackupUses, &prefix, &prefix).next().is_none() {
        step.txn.delete(Table::Abandoned, row);
    }
    Ok(released)
}

pub(super) fn end_listing<B: Base>(step: &mut Step<'_, '_, B>, end: &EndListing) -> Outcome {
    match unlisted_since(step.txn, &end.stanza)? {
        Some(Unlisted { since, .. }) if since > end.began => Err(Refusal::Recheck { since }.into()),
        _ => {
            let row = key::stanza(&end.stanza);
            if end.is_partial {
                let unlisted = Unlisted {
                    births: false,
                    is_partial: true,
                    since: step.index,
                };
                step.txn.put(Table::Unlisted, row, &unlisted);
            } else {
                step.txn.delete(Table::Unlisted, row);
            }
            Ok(Reply::Done)
        }
    }
}

/// Deaths of uses could not be noted.
pub(super) fn doubt_deaths<B: Base>(step: &mut Step<'_, '_, B>, name: &StanzaName) -> Outcome {
    doubt(step, name, false)?;
    Ok(Reply::Done)
}
