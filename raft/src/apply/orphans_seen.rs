//! The objects that scans of repositories may make garbage, and the objects that they may not.

use pgmesh_postgres::WalFileName;
use pgmesh_storage::{DbId, Generation, StanzaName};

use super::scenario::{
    World, claim, damaged, digest, garbage_object, identity, new_chunk, push_segment, register, replica, repo,
    segment_name, stanza,
};
use crate::command::{Command, DiscardOrphans, NoteOrphans};
use crate::model::{Amount, GarbageKey, LogIndex, ObjectRef, Orphan, OrphanTally, SessionKind};
use crate::refusal::Refusal;
use crate::reply::Reply;
use std::collections::BTreeSet;

fn chunk(number: u8, generation: u32) -> Orphan {
    Orphan {
        path: format!("chunk/{number}.g{generation}"),
        object: ObjectRef::Chunk(digest(number)),
        digest: digest(number),
        archive: None,
        generation: Generation(generation),
    }
}

fn segment(number: u32, content: u8, generation: u32) -> Orphan {
    let file = WalFileName::Segment(segment_name(1, number));
    Orphan {
        path: format!("segment/{number}-{content}.g{generation}"),
        object: ObjectRef::Segment {
            stanza: stanza(),
            db: DbId(1),
            file,
        },
        digest: digest(content),
        archive: Some("15-1".parse().unwrap()),
        generation: Generation(generation),
    }
}

fn note(sighted: &[&Orphan], gone: &[&Orphan], next: Option<u16>, began: LogIndex) -> Command {
    let path = |orphan: &&Orphan| orphan.path.clone();
    Command::NoteOrphans(Box::new(NoteOrphans {
        repo: repo(2),
        identity: identity("uuid-2"),
        began,
        next,
        found: OrphanTally::default(),
        sighted: sighted.iter().map(|orphan| (path(orphan), 10)).collect(),
        gone: gone.iter().map(path).collect(),
    }))
}

fn discard(orphans: &[&Orphan], began: LogIndex) -> Command {
    Command::DiscardOrphans(Box::new(DiscardOrphans {
        repo: repo(2),
        identity: identity("uuid-2"),
        began,
        orphans: orphans.iter().map(|orphan| (*orphan).clone()).collect(),
    }))
}

fn see(world: &mut World, orphan: &Orphan) {
    let began = world.applied();
    assert_eq!(world.run(note(&[orphan], &[], None, began)), Ok(Reply::Done));
}

/// How many are discarded by a scan that begins now.
fn discarded(world: &mut World, orphan: &Orphan) -> u32 {
    let began = world.applied();
    match world.run(discard(&[orphan], began)) {
        Ok(Reply::Discarded { objects, .. }) => objects,
        other => panic!("{other:?}"),
    }
}

fn is_garbage(world: &World, orphan: &Orphan) -> bool {
    let name = orphan.key(repo(2));
    world.view().garbage(None).any(|row| row.unwrap().0 == name)
}

fn assigned(world: &World, orphan: &Orphan) -> Generation {
    world.view().generation_for(&orphan.object, &[]).unwrap()
}

/// Deletes and forgets all garbage.
fn collect(world: &mut World) {
    let garbage: Vec<_> = world.view().garbage(None).map(garbage_object).collect();
    world.run(Command::ForgetGarbage { garbage }).unwrap();
}

/// Seen by two scans, it is passed over.
fn stays(world: &mut World, orphan: &Orphan) {
    see(world, orphan);
    assert_eq!(discarded(world, orphan), 0, "{orphan:?}");
}

#[test]
fn what_two_scans_have_seen_and_nobody_knows_is_garbage() {
    let mut world = World::with_stanza();
    let orphan = chunk(1, 3);
    assert_eq!(discarded(&mut world, &orphan), 0, "no scan has seen it");
    let began = world.applied();
    see(&mut world, &orphan);
    let same = world.run(discard(&[&orphan], began));
    assert_eq!(same, Ok(Reply::Discarded { objects: 0, bytes: 0 }), "the same scan");
    let before = world.view().orphan_scan(repo(2)).unwrap();
    assert_eq!(before.waiting, Amount { objects: 1, bytes: 10 });
    // A second look at it does not make it younger.
    see(&mut world, &orphan);
    assert_eq!(discarded(&mut world, &orphan), 1);
    assert!(is_garbage(&world, &orphan));
    assert_eq!(assigned(&world, &orphan), Generation(4), "its name is taken");
    let scan = world.view().orphan_scan(repo(2)).unwrap();
    assert_eq!(
        (scan.waiting, scan.discarded),
        (Amount::default(), Amount { objects: 1, bytes: 10 })
    );
    assert_eq!(world.view().orphans(repo(2)).count(), 0);
    let told = world
        .view()
        .audit(world.applied())
        .any(|row| row.unwrap().1.what.contains("nobody knows"));
    assert!(told);
    collect(&mut world);
    assert_eq!(assigned(&world, &orphan), Generation(4), "it stays below the floor");
}

#[test]
fn every_session_of_the_first_scan_has_ended_before_the_second_begins() {
    let mut world = World::with_stanza();
    let session = world.open_session(SessionKind::Backup);
    let orphan = chunk(1, 0);
    see(&mut world, &orphan);
    let younger = world.open_session(SessionKind::Backup);
    assert_eq!(discarded(&mut world, &orphan), 0);
    world.run(Command::CloseSession { session }).unwrap();
    assert_eq!(
        discarded(&mut world, &orphan),
        1,
        "the younger one saw it being unknown"
    );
    // The object stays until the younger session has ended, too.
    let garbage: Vec<_> = world.view().garbage(None).map(garbage_object).collect();
    let forget = Command::ForgetGarbage { garbage };
    assert!(matches!(world.run(forget), Err(Refusal::SessionOpen { session, .. }) if session == younger));
}

#[test]
fn what_the_catalog_knows_stays() {
    let mut world = World::with_stanza();
    // A replica.
    world.push(push_segment(1, 1, 1)).unwrap();
    stays(&mut world, &segment(1, 1, 0));
    // A debt: a repair may have paid it already, also under a name beside a damaged replica.
    let mut push = push_segment(1, 2, 2);
    push.object.claims = vec![claim(replica(1, 0))];
    world.push(push).unwrap();
    stays(&mut world, &segment(2, 2, 0));
    stays(&mut world, &segment(2, 2, 1));
    // Garbage, and an object that its repository keeps.
    let reported = segment(1, 1, 0);
    world.run(damaged(reported.object.clone(), replica(2, 0))).unwrap();
    stays(&mut world, &reported);
    let garbage: Vec<_> = world.view().garbage(None).map(garbage_object).collect();
    world.run(Command::KeepGarbage { garbage }).unwrap();
    stays(&mut world, &reported);
    // A condemned chunk.
    let session = world.open_session(SessionKind::Backup);
    let chunks = vec![new_chunk(1, &[replica(1, 0), replica(2, 0)])];
    world
        .run(Command::AddChunks {
            session,
            ack: 1,
            chunks,
        })
        .unwrap();
    world.run(Command::CloseSession { session }).unwrap();
    stays(&mut world, &chunk(1, 0));
    world.condemn(vec![digest(1)]).unwrap();
    stays(&mut world, &chunk(1, 0));
}

#[test]
fn a_mark_of_what_is_kept_and_garbage_are_known_without_a_debt() {
    let mut world = World::with_stanza();
    let orphan = chunk(5, 0);
    see(&mut world, &orphan);
    assert_eq!(discarded(&mut world, &orphan), 1);
    stays(&mut world, &orphan);
    let garbage: Vec<_> = world.view().garbage(None).map(garbage_object).collect();
    world.run(Command::KeepGarbage { garbage }).unwrap();
    stays(&mut world, &orphan);
    assert_eq!(world.view().kept(None).count(), 1);
}

#[test]
fn of_what_is_known_by_name_alone_every_content_stays() {
    let mut world = World::with_stanza();
    let orphan = segment(7, 9, 0);
    let file = crate::command::AdoptedFile {
        file: WalFileName::Segment(segment_name(1, 7)),
        object: crate::command::ClaimedObject::unknown(),
        branches: Vec::new(),
    };
    let files = crate::command::Adopt::WalFiles {
        stanza: stanza(),
        db: DbId(1),
        files: vec![file],
        checked_at: world.applied(),
    };
    world.run(Command::Adopt(Box::new(files))).unwrap();
    stays(&mut world, &orphan);
}

#[test]
fn another_content_of_a_known_file_and_another_generation_go() {
    let mut world = World::with_stanza();
    world.push(push_segment(1, 1, 1)).unwrap();
    for orphan in [segment(1, 9, 0), segment(1, 1, 5)] {
        see(&mut world, &orphan);
        assert_eq!(discarded(&mut world, &orphan), 1);
    }
    assert!(
        world
            .view()
            .object(&segment(1, 1, 0).object)
            .unwrap()
            .unwrap()
            .replicas
            .contains(&replica(2, 0))
    );
}

#[test]
fn nothing_is_unknown_in_a_repository_that_is_filled_changed_or_compared() {
    let refused = |world: &mut World| {
        let began = world.applied();
        let unsettled = Err(Refusal::RepositoryUnsettled(repo(2)));
        assert_eq!(world.run(note(&[&chunk(1, 0)], &[], None, began)), unsettled);
        assert_eq!(world.run(discard(&[&chunk(1, 0)], began)), unsettled);
    };
    // It is being filled.
    let mut world = World::empty();
    world.run(register(1)).unwrap();
    world.run(super::scenario::create_stanza(7)).unwrap();
    world.run(register(2)).unwrap();
    refused(&mut world);
    world.run(Command::Backfill { repo: repo(2) }).unwrap();
    see(&mut world, &chunk(1, 0));
    // Its disk is replaced.
    for number in 1..9 {
        world.push(push_segment(1, number, 1)).unwrap();
    }
    let replace = Command::ReplaceRepository {
        repo: repo(2),
        uuid: "new".to_owned(),
        wrapped_keys: Vec::new(),
        node: "n1".parse().unwrap(),
    };
    assert_eq!(world.run(replace.clone()), Ok(Reply::Replacing { more: true }));
    refused(&mut world);
    while world.run(replace.clone()).unwrap() != (Reply::Replacing { more: false }) {}
    // Another repository has its number.
    refused(&mut world);
    assert_eq!(
        world.view().orphans(repo(2)).count(),
        0,
        "what was seen on the lost disk is forgotten"
    );
    assert_eq!(world.view().orphan_scan(repo(2)).unwrap(), Default::default());
}

#[test]
fn nothing_is_unknown_while_the_catalog_may_have_lost_something() {
    let mut world = World::with_stanza();
    see(&mut world, &chunk(1, 0));
    let era = |compare: BTreeSet<_>, era| Command::BeginEra {
        era,
        branch: 7,
        floor: Generation(0),
        last_number: 0,
        compare,
        reason: "test".to_owned(),
    };
    world.run(era(BTreeSet::from([repo(1)]), 1)).unwrap();
    let began = world.applied();
    let unsettled = Err(Refusal::RepositoryUnsettled(repo(2)));
    assert_eq!(world.run(discard(&[&chunk(1, 0)], began)), unsettled);
    let (repo, all) = (repo(1), true);
    world.run(Command::Compared { repo, era: 1, all }).unwrap();
    assert_eq!(discarded(&mut world, &chunk(1, 0)), 1);
    let loss = crate::model::CatalogLoss {
        repo,
        position: LogIndex(5000),
        written: 1,
        found_at: LogIndex(1),
        floor: Generation(0),
        era: 1,
        branch: 7,
        told_by: None,
        node: "n1".parse().unwrap(),
    };
    world.run(Command::ReportLoss(loss)).unwrap();
    let began = world.applied();
    assert_eq!(world.run(note(&[&chunk(1, 0)], &[], None, began)), unsettled);
}

/// The lost part of the catalog may have known it.
#[test]
fn what_an_earlier_era_may_have_named_stays() {
    let mut world = World::with_stanza();
    let begin = Command::BeginEra {
        era: 1,
        branch: 7,
        floor: Generation(1000),
        last_number: 0,
        compare: BTreeSet::new(),
        reason: "test".to_owned(),
    };
    world.run(begin).unwrap();
    stays(&mut world, &chunk(1, 999));
    see(&mut world, &chunk(1, 1000));
    assert_eq!(discarded(&mut world, &chunk(1, 1000)), 1);
    assert_eq!(world.view().era_floor().unwrap(), Generation(1000));
}

/// No node of this mesh has written the file, and no name is left above its generation.
#[test]
fn a_generation_that_was_never_assigned_stays_and_raises_nothing() {
    let mut world = World::with_stanza();
    let (floor, tried) = (world.view().floor().unwrap().0, crate::limits::GENERATIONS_TRIED);
    stays(&mut world, &chunk(1, u32::MAX));
    stays(&mut world, &chunk(1, floor + tried + 1));
    see(&mut world, &chunk(1, floor + tried));
    assert_eq!(discarded(&mut world, &chunk(1, floor + tried)), 1);
    collect(&mut world);
    assert_eq!(world.view().floor().unwrap(), Generation(floor + tried + 1));
    // Beside a replica of a higher generation than the floor.
    let mut push = push_segment(1, 1, 1);
    push.object.claims = vec![claim(replica(1, 30)), claim(replica(2, 30))];
    world.push(push).unwrap();
    stays(&mut world, &segment(1, 1, 31 + tried + 1));
    see(&mut world, &segment(1, 1, 31 + tried));
    assert_eq!(discarded(&mut world, &segment(1, 1, 31 + tried)), 1);
    // The highest generation of all stays, even where the floor has come near.
    let generation = Generation((1 << 31) - 1);
    let begin = Command::BeginEra {
        era: 1,
        branch: 7,
        floor: generation,
        last_number: 0,
        compare: BTreeSet::new(),
        reason: "test".to_owned(),
    };
    world.run(begin).unwrap();
    stays(&mut world, &chunk(2, 1 << 31));
}

/// The lost part of the catalog has named objects below the floor that giving it up raises.
#[test]
fn what_a_lost_part_of_the_catalog_may_have_named_stays_when_the_loss_is_accepted() {
    let mut world = World::with_stanza();
    let loss = crate::model::CatalogLoss {
        repo: repo(1),
        position: LogIndex(5000),
        written: 1,
        found_at: LogIndex(1),
        floor: Generation(40),
        era: 0,
        branch: 0,
        told_by: None,
        node: "n1".parse().unwrap(),
    };
    world.run(Command::ReportLoss(loss)).unwrap();
    let accept = Command::AcceptLoss {
        position: LogIndex(5000),
        branch: 7,
    };
    world.run(accept).unwrap();
    for number in [1, 2] {
        let (repo, era, all) = (repo(number), 1, true);
        world.run(Command::Compared { repo, era, all }).unwrap();
    }
    let floor = world.view().floor().unwrap();
    assert!(floor > Generation(5040));
    assert_eq!(world.view().era_floor().unwrap(), floor);
    stays(&mut world, &chunk(1, 3));
    stays(&mut world, &chunk(1, floor.0 - 1));
    see(&mut world, &chunk(1, floor.0));
    assert_eq!(discarded(&mut world, &chunk(1, floor.0)), 1);
}

/// A node that listed the archive long ago: the file may be deleted and forgotten by now.
#[test]
fn invariant_1_wal_that_was_listed_before_it_was_deleted_is_not_adopted() {
    let mut world = World::with_stanza();
    let orphan = segment(1, 1, 0);
    let adopt = |checked_at| {
        Command::Adopt(Box::new(crate::command::Adopt::WalFiles {
            stanza: stanza(),
            db: DbId(1),
            files: vec![crate::command::AdoptedFile {
                file: WalFileName::Segment(segment_name(1, 1)),
                object: super::scenario::claimed(1, 16 << 20, &[replica(2, 0)]),
                branches: Vec::new(),
            }],
            checked_at,
        }))
    };
    let listed = world.applied();
    see(&mut world, &orphan);
    assert_eq!(discarded(&mut world, &orphan), 1);
    let since = world.applied();
    assert_eq!(world.run(adopt(listed)), Err(Refusal::Recheck { since }));
    collect(&mut world);
    assert_eq!(world.run(adopt(listed)), Err(Refusal::Recheck { since }));
    assert_eq!(world.view().object(&orphan.object).unwrap(), None);
}

#[test]
fn what_a_rebuilt_catalog_found_beside_its_repository_stays() {
    let mut world = World::with_stanza();
    let generation = Generation(2000);
    world.run(Command::RaiseFloor { generation }).unwrap();
    stays(&mut world, &chunk(1, 1999));
}

/// A push has no session: its claim may come when the name was deleted and forgotten.
#[test]
fn invariant_1_a_push_that_looked_before_is_not_acknowledged_by_what_was_deleted() {
    let mut world = World::with_stanza();
    let mut push = push_segment(1, 1, 1);
    push.checked_at = world.applied();
    let orphan = segment(1, 1, 0);
    see(&mut world, &orphan);
    assert_eq!(discarded(&mut world, &orphan), 1);
    let since = world.applied();
    let late = Command::PushSegment(Box::new(push));
    assert_eq!(world.run(late.clone()), Err(Refusal::Recheck { since }));
    collect(&mut world);
    assert_eq!(world.run(late), Err(Refusal::Recheck { since }));
    // It looks again, and gets another name.
    assert_eq!(assigned(&world, &orphan), Generation(1));
    let mut again = push_segment(1, 1, 1);
    again.object.claims = vec![claim(replica(1, 1)), claim(replica(2, 1))];
    assert!(matches!(world.push(again), Ok(Reply::Pushed { .. })));
}

#[test]
fn a_backup_that_has_written_it_writes_it_again_under_another_name() {
    let mut world = World::with_stanza();
    let orphan = chunk(1, 0);
    see(&mut world, &orphan);
    // It found the object there, and has not said so yet.
    let session = world.open_session(SessionKind::Backup);
    assert_eq!(discarded(&mut world, &orphan), 1);
    let add = |generation| Command::AddChunks {
        session,
        ack: 1,
        chunks: vec![new_chunk(1, &[replica(2, generation)])],
    };
    let refused = world.run(add(0));
    let asked =
        |refusal: &Refusal| matches!(refusal, Refusal::StaleGenerations(stale) if stale[0].generation == Generation(1));
    assert!(refused.as_ref().is_err_and(asked), "{refused:?}");
    assert_eq!(world.run(add(1)), Ok(Reply::Done));
    assert!(is_garbage(&world, &orphan));
}

#[test]
fn what_was_seen_is_bounded_and_makes_room() {
    let mut world = World::with_stanza();
    let all: Vec<Orphan> = (1..=6).map(|number| chunk(number, 0)).collect();
    let began = world.applied();
    let sighted: Vec<&Orphan> = all.iter().collect();
    world.run(note(&sighted, &[], Some(9), began)).unwrap();
    let scan = world.view().orphan_scan(repo(2)).unwrap();
    assert_eq!((scan.waiting.objects, scan.next, scan.ended), (4, Some(9), None));
    world.run(note(&[&all[5]], &[&all[0], &all[5]], None, began)).unwrap();
    let seen: Vec<String> = world.view().orphans(repo(2)).map(|row| row.unwrap().0).collect();
    assert_eq!(
        seen,
        [&all[1], &all[2], &all[3], &all[5]].map(|orphan| orphan.path.clone())
    );
    let ended = world.view().orphan_scan(repo(2)).unwrap().ended.unwrap();
    assert_eq!(ended.at, world.at);
    // The report of an earlier scan comes late.
    let late = LogIndex(began.0 - 1);
    world.run(note(&[], &[&all[1]], Some(3), late)).unwrap();
    assert_eq!(world.view().orphan_scan(repo(2)).unwrap().next, None);
    assert_eq!(world.view().orphans(repo(2)).count(), 4);
    let long = Orphan {
        path: "x".repeat(600),
        ..chunk(1, 0)
    };
    for command in [
        note(&[&long], &[], None, began),
        note(&[], &[&long], None, began),
        discard(&[&long], began),
    ] {
        assert!(matches!(world.run(command), Err(Refusal::BeyondLimit { .. })));
    }
}

#[test]
fn a_repository_that_is_removed_takes_what_was_seen_along() {
    let mut world = World::with_stanza();
    for number in 1..=4 {
        see(&mut world, &chunk(number, 0));
    }
    let retire = || Command::RetireRepository {
        repo: repo(2),
        force: true,
    };
    while world.run(retire()).unwrap() != (Reply::Retiring { more: false }) {}
    assert_eq!(world.view().orphans(repo(2)).count(), 0);
    assert_eq!(world.view().orphan_scan(repo(2)).unwrap(), Default::default());
}

#[test]
fn the_object_of_a_stanza_that_is_gone_goes() {
    let mut world = World::with_stanza();
    let elsewhere: StanzaName = "other".parse().unwrap();
    let orphan = Orphan {
        object: ObjectRef::StanzaInfo {
            stanza: elsewhere,
            db: DbId(1),
        },
        archive: Some("15-1".parse().unwrap()),
        ..chunk(8, 0)
    };
    see(&mut world, &orphan);
    assert_eq!(discarded(&mut world, &orphan), 1);
    let garbage: Vec<(GarbageKey, _)> = world.view().garbage(None).map(Result::unwrap).collect();
    assert_eq!(garbage[0].1.archive, orphan.archive);
}

#[test]
fn a_part_of_a_file_is_passed_over_whoever_proposes_it() {
    let mut world = World::with_stanza();
    let folder = "stanza/main/archive/15-1/0000000100000000";
    let file = segment_name(1, 7);
    let digits = "a".repeat(64);
    let part = Orphan {
        path: format!("{folder}/{file}-{digits}.g3.p003of128"),
        ..segment(7, 7, 3)
    };
    stays(&mut world, &part);
    assert_eq!(world.view().orphans(repo(2)).count(), 1, "and it is passed over again");
    let whole = Orphan {
        path: format!("{folder}/{file}-{digits}.g3"),
        ..part
    };
    see(&mut world, &whole);
    assert_eq!(discarded(&mut world, &whole), 1);
}
