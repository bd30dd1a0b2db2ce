//! Which stanza has a right to a chunk: only its clients are told of the chunk and handed it (decision 47).
//!
//! A stanza has the right if it uses the chunk or has used it (table `Uses`), or if it has shown the content, and no
//! use of it says so (table `Possessions`). A row of that table begins with an upload and ends with the birth of the
//! use. It comes back when the last use is dropped while the chunk's record stays.
//!
//! ```text
//! AddChunks ──> possession ── NoteUses (born) ──> use ── expiry, a backup given up, condemned ──> possession
//!                   │                                                                                  │
//!                   └────────────────────── the chunk's record is forgotten ───────────────────────────┘
//! ```
//!
//! All stanzas that are neither deleted nor unlisted have the right by their rows alone. Of an unlisted stanza the uses
//! are not known: it has the right to each chunk until its manifests have been read.

use std::collections::BTreeSet;

use pgmesh_storage::{Digest, StanzaName};

use super::use_judge::malformed;
use super::{Base, Outcome, Row, Step};
use crate::error::ReadError;
use crate::key;
use crate::model::{ChunkRecord, SessionKind, SessionRecord, StanzaRecord, Unlisted};
use crate::refusal::Refusal;
use crate::table::Table;

/// A stanza that may have rights.
#[derive(Debug)]
pub(crate) struct Holder<'n> {
    pub(crate) stanza: &'n StanzaName,
    /// Its uses are not known.
    is_unlisted: bool,
}

impl<'n> Holder<'n> {
    pub(crate) fn read<B: Base>(base: &B, stanza: &'n StanzaName) -> Result<Self, ReadError> {
        let unlisted: Option<Unlisted> = base.record(Table::Unlisted, &key::stanza(stanza))?;
        Ok(Self {
            stanza,
            is_unlisted: unlisted.is_some_and(|unlisted| unlisted.births),
        })
    }

    /// Whether the stanza has the right to the chunk, or its uses are not known yet: a restore goes on, and so does a
    /// backup that carries over what the one before it has.
    pub(crate) fn may_have<B: Base>(&self, base: &B, digest: &Digest) -> Result<bool, ReadError> {
        Ok(self.is_unlisted || self.has(base, digest)?)
    }

    /// Whether the stanza has the right to the chunk for certain.
    pub(crate) fn has<B: Base>(&self, base: &B, digest: &Digest) -> Result<bool, ReadError> {
        Ok(has_use(base, self.stanza, digest)? || has_shown(base, self.stanza, digest)?)
    }
}

fn has_use<B: Base>(base: &B, stanza: &StanzaName, digest: &Digest) -> Result<bool, ReadError> {
    let prefix = key::chunk_uses(digest, stanza);
    let row = base.scan(Table::Uses, &prefix, &prefix).next();
    Ok(row.transpose()?.is_some())
}

fn has_shown<B: Base>(base: &B, stanza: &StanzaName, digest: &Digest) -> Result<bool, ReadError> {
    Ok(base
        .get(Table::Possessions, &key::possession(digest, stanza))?
        .is_some())
}

/// The stanza whose backup uploads under this session.
pub(super) fn uploader<B: Base>(
    step: &Step<'_, '_, B>,
    session: &SessionRecord,
) -> Result<Option<StanzaName>, ReadError> {
    let is_backup = session.kind == SessionKind::Backup;
    let Some(stanza) = session.stanza.as_ref().filter(|_| is_backup) else {
        return Ok(None);
    };
    let owner: Option<StanzaRecord> = step.txn.record(Table::Stanzas, &key::stanza(stanza))?;
    Ok(owner.filter(|owner| !owner.deleting).map(|_| stanza.clone()))
}

/// A stanza has the content of a chunk.
pub(super) fn possess<B: Base>(
    step: &mut Step<'_, '_, B>,
    stanza: &StanzaName,
    digest: &Digest,
) -> Result<(), ReadError> {
    if !has_use(step.txn, stanza, digest)? {
        step.txn.put(Table::Possessions, key::possession(digest, stanza), &());
        step.txn
            .put(Table::StanzaPossessions, key::stanza_possession(stanza, digest), &());
    }
    Ok(())
}

/// A use of the chunk by the stanza is noted: it says the same.
pub(super) fn use_is_noted<B: Base>(
    step: &mut Step<'_, '_, B>,
    stanza: &StanzaName,
    digest: &Digest,
) -> Result<(), ReadError> {
    if has_shown(step.txn, stanza, digest)? {
        drop_row(step, stanza, digest);
    }
    Ok(())
}

/// Uses of the chunk by the stanza were dropped. While the chunk is known, the stanza keeps its right: it has had the
/// content, and a restore or a backup that runs may rest on it.
pub(super) fn uses_are_dropped<B: Base>(
    step: &mut Step<'_, '_, B>,
    stanza: &StanzaName,
    digest: &Digest,
) -> Result<(), ReadError> {
    let is_known = step.txn.record::<ChunkRecord>(Table::Chunks, &key::chunk(digest))?;
    match is_known {
        Some(_) => possess(step, stanza, digest),
        None => Ok(()),
    }
}

/// Refuses uses of chunks that the stanza has no right to: a manifest that names a foreign chunk is no proof of having
/// it.
pub(super) fn need<B: Base>(
    step: &Step<'_, '_, B>,
    stanza: &StanzaName,
    chunks: impl IntoIterator<Item = Digest>,
) -> Outcome<()> {
    let holder = Holder::read(step.txn, stanza)?;
    for digest in chunks {
        if !holder.may_have(step.txn, &digest)? {
            let stanza = stanza.clone();
            return Err(Refusal::ChunkMissing { stanza, digest }.into());
        }
    }
    Ok(())
}

/// A chunk's record is forgotten.
pub(super) fn forget<B: Base>(step: &mut Step<'_, '_, B>, digest: &Digest) -> Result<(), ReadError> {
    let prefix = key::possessions(digest);
    let rows: Vec<Row> = step
        .txn
        .scan(Table::Possessions, &prefix, &prefix)
        .collect::<Result<_, _>>()?;
    for (key, _) in rows {
        drop_row(step, &read(&key)?, digest);
    }
    Ok(())
}

/// Drops the first rows of a stanza that is deleted; says how many.
pub(super) fn drop_of_stanza<B: Base>(
    step: &mut Step<'_, '_, B>,
    stanza: &StanzaName,
    limit: usize,
) -> Result<usize, ReadError> {
    let prefix = key::stanza_prefix(stanza);
    let rows = step.txn.scan(Table::StanzaPossessions, &prefix, &prefix).take(limit);
    let rows: Vec<Row> = rows.collect::<Result<_, _>>()?;
    for (key, _) in &rows {
        let digest = key::read_stanza_possession(key).ok_or_else(|| malformed(Table::StanzaPossessions, key))?;
        drop_row(step, stanza, &digest);
    }
    Ok(rows.len())
}

/// The stanzas of these rows of table `Uses` keep their rights.
pub(super) fn keep<B: Base>(
    step: &mut Step<'_, '_, B>,
    stanzas: &BTreeSet<StanzaName>,
    digest: &Digest,
) -> Result<(), ReadError> {
    stanzas
        .iter()
        .try_for_each(|stanza| uses_are_dropped(step, stanza, digest))
}

fn drop_row<B: Base>(step: &mut Step<'_, '_, B>, stanza: &StanzaName, digest: &Digest) {
    step.txn.delete(Table::Possessions, key::possession(digest, stanza));
    step.txn
        .delete(Table::StanzaPossessions, key::stanza_possession(stanza, digest));
}

fn read(key: &[u8]) -> Result<StanzaName, ReadError> {
    key::read_possession(key).ok_or_else(|| malformed(Table::Possessions, key))
}

#[cfg(test)]
mod tests {
    use super::super::scenario::{
        World, claims, cluster, commit, condemned, create_stanza, digest, label, new_chunk, push_segment, replica,
        stanza,
    };
    use super::*;
    use crate::command::{Command, DropUses, EndListing, NoteUses, ShareRights};
    use crate::model::{LogIndex, SessionId};
    use crate::reply::Reply;

    const FIRST: &str = "20250101-000001F";
    const SECOND: &str = "20250101-000002F";

    fn other() -> StanzaName {
        "other".parse().unwrap()
    }

    /// With the stanzas `main` and `other`.
    fn world() -> World {
        let mut world = World::with_stanza();
        let mut create = create_stanza(7);
        if let Command::CreateStanza { stanza, .. } = &mut create {
            *stanza = other();
        }
        world.run(create).unwrap();
        for number in [1, 2] {
            world.push(push_segment(1, number, 50)).ok();
        }
        world
    }

    fn has(world: &World, stanza: &StanzaName, number: u8) -> bool {
        world
            .view()
            .rights([stanza])
            .unwrap()
            .may_have(&digest(number))
            .unwrap()
    }

    fn upload(world: &mut World, session: SessionId, number: u8) {
        let is_there = world.view().chunks(&[digest(number)]).unwrap()[0].is_some();
        let replicas: &[_] = if is_there { &[] } else { &[replica(1, 0), replica(2, 0)] };
        let add = Command::AddChunks {
            session,
            ack: 1,
            chunks: vec![new_chunk(number, replicas)],
        };
        world.run(add).unwrap();
    }

    fn open(world: &mut World, kind: SessionKind, stanza: &StanzaName) -> SessionId {
        let open = Command::OpenSession {
            kind,
            stanza: Some(stanza.clone()),
            holder: "test".to_owned(),
            node: "n1".parse().unwrap(),
            resume_key: None,
        };
        match world.run(open) {
            Ok(Reply::Session(session)) => session,
            other => panic!("{other:?}"),
        }
    }

    fn begin(world: &mut World, stanza: &StanzaName, text: &str) -> SessionId {
        let session = open(world, SessionKind::Backup, stanza);
        let begin = Command::BeginBackup {
            stanza: stanza.clone(),
            session,
            label: label(text),
            system_id: cluster(7).system_id,
        };
        world.run(begin).unwrap();
        session
    }

    /// The running backup is staged, and names this chunk.
    fn note(
        world: &mut World,
        stanza: &StanzaName,
        session: SessionId,
        text: &str,
        number: u8,
    ) -> Result<Reply, Refusal> {
        let stage = Command::StageUses {
            stanza: stanza.clone(),
            session,
            label: label(text),
            manifest: digest(250),
        };
        world.run(stage).unwrap();
        let note = NoteUses {
            session: Some(session),
            began: LogIndex(0),
            stanza: stanza.clone(),
            label: label(text),
            born: vec![digest(number)],
            carried: Vec::new(),
            died: Vec::new(),
        };
        world.run(Command::NoteUses(Box::new(note)))
    }

    /// A committed backup of the stanza `main` with one chunk.
    fn back_up(world: &mut World, text: &str, number: u8) {
        let session = begin(world, &stanza(), text);
        upload(world, session, number);
        note(world, &stanza(), session, text, number).unwrap();
        let mut given = commit(session, text, world.applied());
        given.claims = claims(&[replica(1, 0), replica(2, 0)]);
        world.run(Command::CommitBackup(Box::new(given))).unwrap();
        world.run(Command::CloseSession { session }).unwrap();
    }

    fn rows(world: &World) -> usize {
        world.view().possessions().count()
    }

    #[test]
    fn an_upload_gives_the_right_to_its_stanza_alone_and_a_commit_leaves_no_row() {
        let mut world = world();
        let session = begin(&mut world, &stanza(), FIRST);
        upload(&mut world, session, 1);
        assert!(has(&world, &stanza(), 1) && !has(&world, &other(), 1));
        assert_eq!(rows(&world), 1);
        world.run(Command::CloseSession { session }).unwrap();
        // A backup that was killed begins again, through any node.
        assert!(has(&world, &stanza(), 1));
        back_up(&mut world, SECOND, 1);
        assert!(has(&world, &stanza(), 1) && !has(&world, &other(), 1));
        assert_eq!(rows(&world), 0);
        assert_eq!(world.base.scan(Table::StanzaPossessions, &[], &[]).count(), 0);
    }

    #[test]
    fn a_manifest_that_names_a_foreign_chunk_gives_no_right_to_it() {
        let mut world = world();
        back_up(&mut world, FIRST, 1);
        let session = begin(&mut world, &other(), FIRST);
        let missing = |number| {
            Err(Refusal::ChunkMissing {
                stanza: other(),
                digest: digest(number),
            })
        };
        assert_eq!(note(&mut world, &other(), session, FIRST, 1), missing(1));
        assert_eq!(note(&mut world, &other(), session, FIRST, 2), missing(2));
        assert!(!has(&world, &other(), 1));
        upload(&mut world, session, 1);
        assert_eq!(note(&mut world, &other(), session, FIRST, 1), Ok(Reply::Done));
        assert!(has(&world, &other(), 1));
    }

    #[test]
    fn the_right_outlives_a_backup_that_was_given_up_after_it_was_staged() {
        let mut world = world();
        back_up(&mut world, FIRST, 1);
        let session = begin(&mut world, &other(), FIRST);
        upload(&mut world, session, 1);
        note(&mut world, &other(), session, FIRST, 1).unwrap();
        assert_eq!(rows(&world), 0);
        world.run(Command::CloseSession { session }).unwrap();
        let drop_uses = DropUses {
            stanza: other(),
            label: label(FIRST),
            chunks: vec![digest(1)],
            is_last: true,
        };
        world.run(Command::DropUses(Box::new(drop_uses))).unwrap();
        let use_of = key::chunk_uses(&digest(1), &other());
        assert_eq!(world.base.scan(Table::Uses, &use_of, &use_of).count(), 0);
        assert!(has(&world, &other(), 1));
        assert_eq!(rows(&world), 1);
    }

    #[test]
    fn the_right_ends_with_the_chunk() {
        let mut world = world();
        let session = begin(&mut world, &stanza(), FIRST);
        upload(&mut world, session, 1);
        world.run(Command::CloseSession { session }).unwrap();
        world.condemn(vec![digest(1)]).unwrap();
        let since = world.applied();
        // A restore or a backup that began before goes on.
        assert!(has(&world, &stanza(), 1));
        let forget = Command::Forget {
            chunks: vec![condemned(1, since)],
            kept: Vec::new(),
        };
        world.run(forget).unwrap();
        assert!(!has(&world, &stanza(), 1));
        assert_eq!(
            (
                rows(&world),
                world.base.scan(Table::StanzaPossessions, &[], &[]).count()
            ),
            (0, 0)
        );
    }

    #[test]
    fn another_stanza_of_that_name_inherits_nothing() {
        let mut world = world();
        back_up(&mut world, FIRST, 1);
        for number in [1, 2, 3] {
            let session = begin(&mut world, &other(), &format!("20250101-00000{number}F"));
            upload(&mut world, session, number);
            world.run(Command::CloseSession { session }).unwrap();
        }
        let delete = || Command::DeleteStanza {
            stanza: other(),
            force: true,
        };
        while world.run(delete()) == Ok(Reply::Deleting { more: true }) {}
        assert_eq!(rows(&world), 0);
        let mut create = create_stanza(7);
        if let Command::CreateStanza { stanza, .. } = &mut create {
            *stanza = other();
        }
        drop(world.run(create));
        assert!(!has(&world, &other(), 1) && has(&world, &stanza(), 1));
    }

    #[test]
    fn rights_are_shared_by_a_running_backup_and_by_those_who_have_them() {
        let mut world = world();
        back_up(&mut world, FIRST, 1);
        let session = begin(&mut world, &other(), FIRST);
        let share = |world: &mut World, session, from: StanzaName| {
            let share = ShareRights {
                session,
                from,
                chunks: vec![digest(1), digest(2)],
            };
            world.run(Command::ShareRights(Box::new(share))).unwrap();
        };
        share(&mut world, session, other());
        assert!(!has(&world, &other(), 1));
        let restore = open(&mut world, SessionKind::Restore, &other());
        share(&mut world, restore, stanza());
        assert!(!has(&world, &other(), 1));
        share(&mut world, session, stanza());
        assert!(has(&world, &other(), 1) && !has(&world, &other(), 2));
        note(&mut world, &other(), session, FIRST, 1).unwrap();
        assert_eq!(rows(&world), 0);
    }

    #[test]
    fn whoever_does_not_take_a_backup_shows_nothing() {
        let mut world = world();
        let repair = open(&mut world, SessionKind::Repair, &other());
        upload(&mut world, repair, 1);
        assert!(!has(&world, &other(), 1));
        assert_eq!(rows(&world), 0);
    }

    #[test]
    fn a_stanza_whose_uses_are_not_known_has_all_rights_until_they_are() {
        let mut world = world();
        let session = begin(&mut world, &other(), FIRST);
        upload(&mut world, session, 1);
        world.run(Command::CloseSession { session }).unwrap();
        // Committed without being staged: as by a rebuild, the uses are not noted.
        let session = begin(&mut world, &stanza(), FIRST);
        let mut given = commit(session, FIRST, world.applied());
        given.claims = claims(&[replica(1, 0)]);
        assert!(!has(&world, &stanza(), 1));
        world.run(Command::CommitBackup(Box::new(given))).unwrap();
        assert!(has(&world, &stanza(), 1));
        assert!(!world.view().rights([&stanza()]).unwrap().has(&digest(1)).unwrap());
        let end = EndListing {
            stanza: stanza(),
            began: world.applied(),
            is_partial: true,
        };
        world.run(Command::EndListing(Box::new(end))).unwrap();
        assert!(!has(&world, &stanza(), 1));
    }
}
