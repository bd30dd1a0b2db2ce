//! Rebuilding the catalog from a repository's description of itself (invariant 8).
//!
//! The adopted objects were acknowledged once, so they pass no fence; but nothing replaces a record of the catalog, and
//! the same again changes nothing.

use std::collections::BTreeMap;

use pgmesh_postgres::WalFileName;
use pgmesh_storage::{BackupLabel, DbId, StanzaName};

use super::backup::{place_manifest, put_new};
use super::objects::place_new;
use super::segment::refuse_contradiction;
use super::{Base, Outcome, Step, stanza, use_judge};
use crate::command::{Adopt, AdoptedDatabase, AdoptedFile, ClaimedObject};
use crate::key;
use crate::model::{
    BackupRecord, Claim, Database, ExpiredIn, HistoryRecord, LogIndex, ObjectRef, SegmentRecord, StanzaRecord,
};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;

pub(super) fn adopt<B: Base>(step: &mut Step<'_, '_, B>, adopt: Adopt) -> Outcome {
    match adopt {
        Adopt::Stanza { stanza, databases } => stanza_with(step, stanza, databases),
        Adopt::WalFiles {
            stanza,
            db,
            files,
            checked_at,
        } => wal_files(step, &stanza, db, files, checked_at),
        Adopt::Backup {
            stanza,
            label,
            record,
            claims,
        } => backup(step, &stanza, label, *record, claims),
    }
}

fn stanza_with<B: Base>(step: &mut Step<'_, '_, B>, name: StanzaName, given: Vec<AdoptedDatabase>) -> Outcome {
    let is_known = step.txn.get(Table::Stanzas, &key::stanza(&name))?.is_some();
    let is_ordered = given.windows(2).all(|pair| pair[0].id < pair[1].id);
    if is_known || given.is_empty() || !is_ordered {
        return Err(Refusal::KnownOtherwise(format!("stanza {name}")).into());
    }
    let mut databases = Vec::new();
    for AdoptedDatabase { id, cluster, info } in given {
        let object = ObjectRef::StanzaInfo {
            stanza: name.clone(),
            db: id,
        };
        let replicas = place_new(step, &object, &info)?;
        databases.push(Database {
            id,
            system_id: cluster.system_id,
            version: cluster.version,
            catalog_version: cluster.catalog_version,
            segment_size: cluster.segment_size,
            info: info.stored(replicas),
        });
    }
    let record = StanzaRecord {
        databases,
        stopped: None,
        deleting: false,
        writers: BTreeMap::new(),
        histories: BTreeMap::new(),
        forgotten: None,
        past: BTreeMap::new(),
        backup: None,
        since: step.index,
    };
    step.audit(format!("stanza {name} taken up from a repository"));
    stanza::put(step, &name, &record);
    Ok(Reply::Done)
}

fn wal_files<B: Base>(
    step: &mut Step<'_, '_, B>,
    name: &StanzaName,
    db: DbId,
    files: Vec<AdoptedFile>,
    checked_at: LogIndex,
) -> Outcome {
    let mut owner = stanza::need(step, name)?;
    // Invariant 1: files that were listed before may be deleted and forgotten by now.
    if checked_at < owner.since {
        return Err(Refusal::Recheck { since: owner.since }.into());
    }
    if owner.database(db).is_none() {
        return Err(Refusal::UnknownStanza(name.clone()).into());
    }
    let is_current = owner.current().is_some_and(|current| current.id == db);
    let mut has_histories = false;
    for AdoptedFile { file, object, branches } in files {
        let is_unknown = object == ClaimedObject::unknown();
        let key = key::segment(name, db, &file.to_string());
        match step.txn.record::<SegmentRecord>(Table::Segments, &key)? {
            Some(known) if is_unknown || known.object.digest == object.digest => continue,
            Some(known) if !known.object.is_unknown() => {
                return Err(Refusal::Duplicate {
                    stanza: name.clone(),
                    file,
                    known: known.object.digest,
                    given: object.digest,
                }
                .into());
            }
            // Not known, or by its name alone, and now there is a good copy.
            Some(_) | None => {}
        }
        if let WalFileName::History(timeline) = file
            && is_current
            && !is_unknown
        {
            refuse_contradiction(&owner, name, timeline, &branches)?;
            let digest = object.digest;
            let since = step.index;
            let history = HistoryRecord {
                digest,
                branches,
                since,
            };
            owner.histories.insert(timeline, history);
            has_histories = true;
        }
        let mut replicas = Vec::new();
        if !is_unknown {
            let place = ObjectRef::Segment {
                stanza: name.clone(),
                db,
                file,
            };
            replicas = place_new(step, &place, &object)?;
        }
        let record = SegmentRecord {
            object: object.stored(replicas),
            pushed_at: step.at,
            pushed: LogIndex(0),
            expired: ExpiredIn::new(),
        };
        step.txn.put(Table::Segments, key, &record);
    }
    if has_histories {
        owner.make_room();
        stanza::put(step, name, &owner);
    }
    Ok(Reply::Done)
}

fn backup<B: Base>(
    step: &mut Step<'_, '_, B>,
    name: &StanzaName,
    label: BackupLabel,
    mut record: BackupRecord,
    claims: Vec<Claim>,
) -> Outcome {
    let owner = stanza::need(step, name)?;
    if owner.database(record.db).is_none() {
        return Err(Refusal::UnknownStanza(name.clone()).into());
    }
    let key = key::backup(name, &label);
    if let Some(known) = step.txn.record::<BackupRecord>(Table::Backups, &key)? {
        if known.manifest.digest == record.manifest.digest {
            return Ok(Reply::Done);
        }
        return Err(Refusal::KnownOtherwise(format!("backup {label} of stanza {name}")).into());
    }
    let object = ObjectRef::Manifest {
        stanza: name.clone(),
        label: label.clone(),
    };
    record.manifest = place_manifest(step, &object, &record.manifest, claims)?;
    record.expired.clear();
    step.audit(format!("backup {label} of stanza {name} taken up from a repository"));
    use_judge::doubt(step, name, true)?;
    // A sweep that looked for chunks that no backup names must look again (invariant 5).
    step.txn.put(Table::Mesh, key::ADOPTED.to_vec(), &step.index);
    put_new(step, name, &label, &record);
    Ok(Reply::Done)
}

#[cfg(test)]
mod tests {
    use pgmesh_postgres::TimelineId;

    use super::super::scenario::{
        World, claimed, claims, cluster, commit, label, push_file, push_history, push_segment, replica, repo,
        segment_name, stanza,
    };
    use super::*;
    use crate::command::Command;
    use crate::model::{Branch, LogIndex, SessionId};

    fn adopt(world: &mut World, adopt: Adopt) -> Result<Reply, Refusal> {
        world.run(Command::Adopt(Box::new(adopt)))
    }

    /// Two databases; the second identifier is 3.
    fn with_stanza() -> World {
        let mut world = World::new();
        let database = |id, system| AdoptedDatabase {
            id: DbId(id),
            cluster: cluster(system),
            info: claimed(u8::try_from(id).unwrap(), 100, &[replica(1, 0)]),
        };
        let databases = vec![database(1, 6), database(3, 7)];
        let stanza = stanza();
        adopt(&mut world, Adopt::Stanza { stanza, databases }).unwrap();
        world
    }

    fn file(file: WalFileName, object: ClaimedObject, branches: Vec<Branch>) -> AdoptedFile {
        AdoptedFile { file, object, branches }
    }

    fn files(world: &mut World, db: u32, files: Vec<AdoptedFile>) -> Result<Reply, Refusal> {
        let (stanza, db, checked_at) = (stanza(), DbId(db), world.applied());
        let adopted = Adopt::WalFiles {
            stanza,
            db,
            files,
            checked_at,
        };
        adopt(world, adopted)
    }

    fn segment(timeline: u32, number: u32) -> WalFileName {
        WalFileName::Segment(segment_name(timeline, number))
    }

    #[test]
    fn what_a_repository_says_is_owed_to_the_others() {
        let mut world = with_stanza();
        let content = claimed(9, 16 << 20, &[replica(1, 2)]);
        files(&mut world, 1, vec![file(segment(1, 5), content.clone(), Vec::new())]).unwrap();
        // The same again changes nothing; another content is refused.
        let counters = world.view().counters(repo(1)).unwrap();
        files(&mut world, 1, vec![file(segment(1, 5), content, Vec::new())]).unwrap();
        assert_eq!(world.view().counters(repo(1)).unwrap(), counters);
        let other = claimed(8, 16 << 20, &[replica(1, 0)]);
        let refused = files(&mut world, 1, vec![file(segment(1, 5), other, Vec::new())]);
        assert!(matches!(refused, Err(Refusal::Duplicate { .. })), "{refused:?}");

        let view = world.view();
        let known = view.segment(&stanza(), DbId(1), &segment(1, 5)).unwrap().unwrap();
        assert_eq!(known.object.replicas, [replica(1, 2)]);
        // Two descriptions and a segment.
        assert_eq!(view.counters(repo(1)).unwrap().objects, 3);
        assert_eq!(view.counters(repo(2)).unwrap().debts, 3);
        let record = view.stanza(&stanza()).unwrap().unwrap();
        assert_eq!(record.current().unwrap().id, DbId(3));
    }

    #[test]
    fn a_stanza_is_taken_up_once_and_in_order() {
        let mut world = with_stanza();
        let databases = vec![AdoptedDatabase {
            id: DbId(1),
            cluster: cluster(6),
            info: claimed(1, 100, &[replica(1, 0)]),
        }];
        let stanza = stanza();
        let refused = adopt(&mut world, Adopt::Stanza { stanza, databases });
        assert!(matches!(refused, Err(Refusal::KnownOtherwise(_))), "{refused:?}");
    }

    #[test]
    fn a_file_known_by_name_alone_is_archived_anew() {
        let mut world = with_stanza();
        files(
            &mut world,
            3,
            vec![file(segment(1, 1), ClaimedObject::unknown(), Vec::new())],
        )
        .unwrap();
        let known = world.view().segment(&stanza(), DbId(3), &segment(1, 1)).unwrap();
        assert!(
            known.unwrap().object.is_unknown(),
            "invariant 7: it is no file that was never archived"
        );
        assert_eq!(world.view().counters(repo(2)).unwrap().debts, 2, "nobody can make it");
        assert!(matches!(world.push(push_segment(1, 1, 4)), Ok(Reply::Pushed { .. })));
        // From then on invariant 3 holds for it.
        let other = world.push(push_segment(1, 1, 5));
        assert!(matches!(other, Err(Refusal::Duplicate { .. })), "{other:?}");
    }

    #[test]
    fn a_new_repository_is_not_owed_what_nobody_knows() {
        let mut world = with_stanza();
        files(
            &mut world,
            3,
            vec![file(segment(1, 1), ClaimedObject::unknown(), Vec::new())],
        )
        .unwrap();
        world.run(super::super::scenario::register(3)).unwrap();
        let backfill = world.run(Command::Backfill { repo: repo(3) }).unwrap();
        assert_eq!(backfill, Reply::Backfilled { debts: 2, more: false });
    }

    #[test]
    fn histories_and_writers_fence_as_before() {
        let mut world = with_stanza();
        let branch = |parent, switch| Branch {
            parent: TimelineId(parent),
            switch: pgmesh_postgres::Lsn(switch),
        };
        let history = |timeline| WalFileName::History(TimelineId(timeline));
        let two = file(history(2), claimed(20, 50, &[replica(1, 0)]), vec![branch(1, 100)]);
        files(&mut world, 3, vec![two]).unwrap();
        let wrong = file(
            history(3),
            claimed(30, 50, &[replica(1, 0)]),
            vec![branch(1, 90), branch(2, 200)],
        );
        let refused = files(&mut world, 3, vec![wrong]);
        assert!(
            matches!(refused, Err(Refusal::HistoryContradicts { .. })),
            "{refused:?}"
        );
        world
            .run(Command::AdoptWriter {
                stanza: stanza(),
                timeline: TimelineId(2),
                instance: "a".to_owned(),
                machine: String::new(),
            })
            .unwrap();
        let mut clone = push_segment(2, 5, 7);
        clone.server.instance = "b".to_owned();
        assert!(matches!(world.push(clone), Err(Refusal::OtherWriter(_))));
        assert!(matches!(world.push(push_segment(2, 5, 7)), Ok(Reply::Pushed { .. })));
        assert!(matches!(
            world.push(push_history(3, &[(1, 90), (2, 120)])),
            Err(Refusal::HistoryContradicts { .. })
        ));
        let known = push_file(history(2), 20, &[replica(1, 0)]);
        assert!(matches!(world.push(known), Ok(Reply::AlreadyThere { .. })));
    }

    #[test]
    fn a_backup_is_taken_up_once() {
        let mut world = with_stanza();
        let mut record = commit(SessionId(LogIndex(1)), "20250215-020001F", LogIndex(1)).record;
        record.db = DbId(3);
        let backup = |record: &BackupRecord| Adopt::Backup {
            stanza: stanza(),
            label: label("20250215-020001F"),
            record: Box::new(record.clone()),
            claims: claims(&[replica(1, 0)]),
        };
        adopt(&mut world, backup(&record)).unwrap();
        adopt(&mut world, backup(&record)).unwrap();
        assert_eq!(world.view().counters(repo(1)).unwrap().objects, 3);
        record.manifest.digest = super::super::scenario::digest(99);
        let refused = adopt(&mut world, backup(&record));
        assert!(matches!(refused, Err(Refusal::KnownOtherwise(_))), "{refused:?}");
    }
}
