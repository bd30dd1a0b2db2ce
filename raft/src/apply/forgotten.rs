//! Names that the catalog has forgotten are not assigned again, and names that were assigned before stay valid
//! (decision 18).

use pgmesh_postgres::WalFileName;
use pgmesh_storage::{DbId, Generation};

use super::scenario::*;
use crate::command::Command;
use crate::model::{ChunkState, GarbageKey, GarbageObject, LogIndex, ObjectRef, SessionId, SessionKind};
use crate::refusal::Refusal;
use crate::reply::Reply;

fn upload(world: &mut World, session: SessionId, number: u8, generation: u32, repos: &[u16]) -> Result<Reply, Refusal> {
    let replicas: Vec<_> = repos.iter().map(|repo| replica(*repo, generation)).collect();
    let chunks = vec![new_chunk(number, &replicas)];
    world.run(Command::AddChunks {
        session,
        ack: 1,
        chunks,
    })
}

/// Uploads a chunk and condemns it. When it was condemned.
fn condemn(world: &mut World, number: u8, generation: u32) -> LogIndex {
    let session = world.open_session(SessionKind::Backup);
    upload(world, session, number, generation, &[1, 2]).unwrap();
    world.run(Command::CloseSession { session }).unwrap();
    world.condemn(vec![digest(number)]).unwrap();
    world.applied()
}

fn forget(world: &mut World, number: u8, since: LogIndex) {
    let chunks = vec![condemned(number, since)];
    let kept = Vec::new();
    world.run(Command::Forget { chunks, kept }).unwrap();
}

fn assigned(world: &World, number: u8) -> Generation {
    match world.view().chunk_states(&[digest(number)]).unwrap().remove(0) {
        ChunkState::Absent { generation } => generation,
        present @ ChunkState::Present(_) => panic!("{present:?}"),
    }
}

fn segment(number: u32) -> ObjectRef {
    ObjectRef::Segment {
        stanza: stanza(),
        db: DbId(1),
        file: WalFileName::Segment(segment_name(1, number)),
    }
}

fn retire() -> Command {
    Command::RetireRepository {
        repo: repo(2),
        force: true,
    }
}

fn delete() -> Command {
    Command::DeleteStanza {
        stanza: stanza(),
        force: false,
    }
}

#[test]
fn a_name_that_was_forgotten_is_not_assigned_again() {
    let mut world = World::with_stanza();
    assert_eq!(assigned(&world, 1), Generation(0));
    let since = condemn(&mut world, 1, 0);
    forget(&mut world, 1, since);
    // A DELETE of generation 0 may still be on its way.
    assert_eq!(assigned(&world, 1), Generation(1));
    let view = world.view();
    assert_eq!(view.generation_for(&segment(1), &[]).unwrap(), Generation(1));
    let since = condemn(&mut world, 1, 1);
    forget(&mut world, 1, since);
    assert_eq!(assigned(&world, 1), Generation(2));
}

#[test]
fn uploads_that_are_under_way_are_not_refused_for_what_others_forget() {
    let mut world = World::with_stanza();
    let since = condemn(&mut world, 1, 0);
    let session = world.open_session(SessionKind::Backup);
    let checked_at = world.applied();
    assert_eq!(assigned(&world, 2), Generation(0));
    forget(&mut world, 1, since);
    upload(&mut world, session, 2, 0, &[1]).unwrap();
    // The write to the other repository ends later, under the same name.
    let add = add_replica(session, 2, replica(2, 0));
    assert_eq!(world.run(add), Ok(Reply::Added { accepted: 1 }));
    let mut push = push_segment(1, 1, 1);
    push.checked_at = checked_at;
    let pushed = world.run(Command::PushSegment(Box::new(push)));
    assert!(matches!(pushed, Ok(Reply::Pushed { .. })), "{pushed:?}");
}

#[test]
fn a_chunk_that_was_condemned_again_is_not_forgotten_for_its_first_condemnation() {
    let mut world = World::with_stanza();
    let first = condemn(&mut world, 1, 0);
    let second = condemn(&mut world, 1, 1);
    forget(&mut world, 1, first);
    assert_eq!(
        world.view().condemned(None).map(Result::unwrap).collect::<Vec<_>>(),
        [(digest(1), second)]
    );
    forget(&mut world, 1, second);
    assert_eq!(world.view().condemned(None).count(), 0);
    assert_eq!(world.view().garbage(None).count(), 2, "the objects of the first one");
}

#[test]
fn garbage_is_forgotten_as_of_the_position_that_was_read() {
    let mut world = World::with_stanza();
    world.push(push_segment(1, 1, 1)).unwrap();
    let report = damaged(segment(1), replica(1, 0));
    world.run(report).unwrap();
    let garbage: Vec<_> = world.view().garbage(None).map(garbage_object).collect();
    let another = vec![GarbageObject {
        since: LogIndex(garbage[0].since.0 - 1),
        ..garbage[0].clone()
    }];
    world
        .run(Command::KeepGarbage {
            garbage: another.clone(),
        })
        .unwrap();
    world.run(Command::ForgetGarbage { garbage: another }).unwrap();
    assert_eq!(world.view().garbage(None).count(), 1);
    world.run(Command::ForgetGarbage { garbage }).unwrap();
    assert_eq!(world.view().garbage(None).count(), 0);
    assert_eq!(assigned(&world, 9), Generation(1));
}

#[test]
fn names_are_forgotten_with_the_repository_that_they_were_taken_in() {
    let mut world = World::with_stanza();
    // A condemned chunk of generation 2, and garbage of generation 4.
    condemn(&mut world, 1, 2);
    condemn(&mut world, 2, 4);
    let session = world.open_session(SessionKind::Backup);
    upload(&mut world, session, 2, 5, &[1]).unwrap();
    world.run(retire()).unwrap();
    while world.run(retire()) == Ok(Reply::Retiring { more: true }) {}
    assert_eq!(assigned(&world, 9), Generation(5));
}

#[test]
fn what_the_lost_disk_kept_is_forgotten_and_its_names_with_it() {
    let mut world = World::with_stanza();
    let since = condemn(&mut world, 1, 6);
    let mark = GarbageKey {
        object: ObjectRef::Chunk(digest(1)),
        repo: repo(2),
        generation: Generation(6),
    };
    let chunks = vec![condemned(1, since)];
    let kept = vec![mark];
    world.run(Command::Forget { chunks, kept }).unwrap();
    assert_eq!(assigned(&world, 9), Generation(7));
    let replace = || Command::ReplaceRepository {
        repo: repo(2),
        uuid: "another".to_owned(),
        wrapped_keys: Vec::new(),
        node: "n1".parse().unwrap(),
    };
    while world.run(replace()) != Ok(Reply::Replacing { more: false }) {}
    assert_eq!(world.view().kept(None).count(), 0);
    assert_eq!(assigned(&world, 1), Generation(7));
}

/// Garbage in a repository that is removed is forgotten without waiting for any session.
#[test]
fn a_late_write_to_a_repository_that_was_registered_again_is_passed_over() {
    let mut world = World::with_stanza();
    let mut push = push_segment(1, 1, 1);
    push.checked_at = world.applied();
    world.run(Command::PushSegment(Box::new(push.clone()))).unwrap();
    let report = damaged(segment(1), replica(2, 0));
    world.run(report).unwrap();
    while world.run(retire()) == Ok(Reply::Retiring { more: true }) {}
    world.run(register(2)).unwrap();
    // The same push comes in a second time, and says that generation 0 is there: it may be being deleted.
    let again = world.run(Command::PushSegment(Box::new(push)));
    let replicas = vec![replica(1, 0)];
    assert_eq!(again, Ok(Reply::AlreadyThere { replicas }));
}

#[test]
fn a_stanza_is_described_under_a_name_that_was_not_deleted_since() {
    let mut world = World::new();
    let create = |checked_at, generation| {
        let info = claimed(200, 100, &[replica(1, generation), replica(2, generation)]);
        Command::CreateStanza {
            stanza: stanza(),
            cluster: cluster(7),
            info,
            checked_at,
        }
    };
    let looked = world.applied();
    world.run(create(looked, 0)).unwrap();
    let reason = "test".to_owned();
    world
        .run(Command::StopStanza {
            stanza: stanza(),
            reason,
        })
        .unwrap();
    world.run(delete()).unwrap();
    let garbage: Vec<_> = world.view().garbage(None).map(garbage_object).collect();
    world.run(Command::ForgetGarbage { garbage }).unwrap();
    // Another node had looked at the same time, and its command comes now.
    let since = world.applied();
    assert_eq!(world.run(create(looked, 0)), Err(Refusal::Recheck { since }));
    let looked = world.applied();
    let generation = world
        .view()
        .generation_for(
            &ObjectRef::StanzaInfo {
                stanza: stanza(),
                db: DbId(1),
            },
            &[],
        )
        .unwrap();
    assert_eq!(generation, Generation(1));
    assert_eq!(world.run(create(looked, 1)), Ok(Reply::Database(DbId(1))));
}

#[test]
fn a_rebuilt_catalog_begins_where_it_is_told() {
    let mut world = World::with_stanza();
    let raise = |generation| Command::RaiseFloor {
        generation: Generation(generation),
    };
    world.run(raise(1000)).unwrap();
    assert_eq!(assigned(&world, 1), Generation(1000));
    world.run(raise(3)).unwrap();
    assert_eq!(assigned(&world, 1), Generation(1000));
}

fn reprieve(world: &mut World, session: SessionId, number: u8, since: LogIndex) -> Result<Reply, Refusal> {
    let chunks = vec![condemned(number, since)];
    world.run(Command::Reprieve { session, chunks })
}

#[test]
fn invariant_5_only_a_session_that_is_older_takes_a_condemned_chunk_back() {
    let mut world = World::with_stanza();
    let killed = world.open_session(SessionKind::Backup);
    upload(&mut world, killed, 1, 0, &[1]).unwrap();
    let older = world.open_session(SessionKind::Backup);
    world.run(Command::CloseSession { session: killed }).unwrap();
    world.condemn(vec![digest(1)]).unwrap();
    let since = world.applied();
    let younger = world.open_session(SessionKind::Backup);
    let before = world.applied();
    assert_eq!(
        reprieve(&mut world, younger, 1, since),
        Ok(Reply::Reprieved { chunks: 0 })
    );
    assert_eq!(
        reprieve(&mut world, older, 1, LogIndex(since.0 + 1)),
        Ok(Reply::Reprieved { chunks: 0 })
    );
    assert_eq!(
        reprieve(&mut world, older, 1, since),
        Ok(Reply::Reprieved { chunks: 1 })
    );
    let known = world.view().chunks(&[digest(1)]).unwrap().remove(0).unwrap();
    assert_eq!((known.replicas, known.condemned), (vec![replica(1, 0)], None));
    assert!(known.added > before);
    let object = ObjectRef::Chunk(digest(1));
    assert!(
        world.view().debt(repo(2), &object).unwrap().is_some(),
        "as it was before it was condemned"
    );
    assert_eq!(world.view().condemned(None).count(), 0);
    assert_eq!(
        reprieve(&mut world, older, 1, since),
        Ok(Reply::Reprieved { chunks: 0 }),
        "once"
    );
    world.run(Command::CloseSession { session: older }).unwrap();
    let ended = reprieve(&mut world, older, 1, since);
    assert_eq!(ended, Err(Refusal::SessionEnded(older)));
}

#[test]
fn a_chunk_is_not_taken_back_from_a_disk_that_was_lost_meanwhile() {
    let mut world = World::with_stanza();
    let killed = world.open_session(SessionKind::Backup);
    upload(&mut world, killed, 1, 0, &[1, 2]).unwrap();
    upload(&mut world, killed, 2, 0, &[2]).unwrap();
    let older = world.open_session(SessionKind::Backup);
    world.run(Command::CloseSession { session: killed }).unwrap();
    world.condemn(vec![digest(1), digest(2)]).unwrap();
    let since = world.applied();
    let replace = Command::ReplaceRepository {
        repo: repo(2),
        uuid: "new".to_owned(),
        wrapped_keys: Vec::new(),
        node: "n1".parse().unwrap(),
    };
    while world.run(replace.clone()).unwrap() != (Reply::Replacing { more: false }) {}
    assert_eq!(
        reprieve(&mut world, older, 1, since),
        Ok(Reply::Reprieved { chunks: 1 })
    );
    let known = world.view().chunks(&[digest(1)]).unwrap().remove(0).unwrap();
    assert_eq!(known.replicas, [replica(1, 0)]);
    let debt = world
        .view()
        .debt(repo(2), &ObjectRef::Chunk(digest(1)))
        .unwrap()
        .unwrap();
    assert!(debt.generation > Generation(0), "a late DELETE may hit the old name");
    assert_eq!(assigned(&world, 9), Generation(1), "which no other object gets either");
    assert_eq!(
        reprieve(&mut world, older, 2, since),
        Ok(Reply::Reprieved { chunks: 0 }),
        "nothing is left of it"
    );
}

/// A catalog that was rebuilt from repo1, which has a chunk and a segment; then the mesh's other repositories come
/// back.
fn rebuilt() -> World {
    let mut world = World::empty();
    world.run(register(1)).unwrap();
    world
        .run(Command::RaiseFloor {
            generation: Generation(1000),
        })
        .unwrap();
    world.run(create_stanza(7)).unwrap();
    let session = world.open_session(SessionKind::Repair);
    upload(&mut world, session, 1, 3, &[1]).unwrap();
    world.run(Command::CloseSession { session }).unwrap();
    world
}

fn owed(world: &mut World, number: u16, chunk: u8) -> Generation {
    let repo = repo(number);
    while world.run(Command::Backfill { repo }).unwrap() != (Reply::Backfilled { debts: 0, more: false }) {}
    let object = ObjectRef::Chunk(digest(chunk));
    world.view().debt(repo, &object).unwrap().unwrap().generation
}

#[test]
fn what_another_repository_of_a_lost_catalog_holds_is_taken_up_under_its_name() {
    let mut world = rebuilt();
    world.run(register(2)).unwrap();
    assert_eq!(owed(&mut world, 2, 1), Generation(3));
    let session = world.open_session(SessionKind::Repair);
    let add = add_replica(session, 1, replica(2, 3));
    assert_eq!(world.run(add), Ok(Reply::Added { accepted: 1 }));
    // New objects are named above all that the lost catalog may have used.
    assert_eq!(assigned(&world, 9), Generation(1000));
    // A name that this catalog may have deleted there is not used again.
    world.run(damaged(ObjectRef::Chunk(digest(1)), replica(2, 3))).unwrap();
    assert_eq!(owed(&mut world, 2, 1), Generation(1000));
}

#[test]
fn a_repository_that_this_catalog_knew_before_is_filled_above_the_floor() {
    for is_replaced in [false, true] {
        let mut world = rebuilt();
        world.run(register(2)).unwrap();
        let repo = repo(2);
        if is_replaced {
            let uuid = "new".to_owned();
            let (wrapped_keys, node) = (Vec::new(), "n1".parse().unwrap());
            let replace = Command::ReplaceRepository {
                repo,
                uuid,
                wrapped_keys,
                node,
            };
            while world.run(replace.clone()).unwrap() != (Reply::Replacing { more: false }) {}
            // The lost disk is found again.
            let mut found = register(2);
            if let Command::RegisterRepository { repo, .. } = &mut found {
                *repo = super::scenario::repo(3);
            }
            world.run(found).unwrap();
            assert_eq!(owed(&mut world, 3, 1), Generation(1000));
        } else {
            let force = true;
            while world.run(Command::RetireRepository { repo, force }).unwrap() != (Reply::Retiring { more: false }) {}
            world.run(register(2)).unwrap();
            assert_eq!(owed(&mut world, 2, 1), Generation(1000));
        }
    }
}

#[test]
fn a_chunk_that_is_taken_back_does_not_count_where_a_walk_has_not_come_to_it_yet() {
    let mut world = World::with_stanza();
    let killed = world.open_session(SessionKind::Backup);
    for number in 1..=9 {
        upload(&mut world, killed, number, 0, &[1, 2]).unwrap();
    }
    let older = world.open_session(SessionKind::Backup);
    world.run(Command::CloseSession { session: killed }).unwrap();
    world.condemn(vec![digest(9)]).unwrap();
    let since = world.applied();
    let replace = Command::ReplaceRepository {
        repo: repo(2),
        uuid: "new".to_owned(),
        wrapped_keys: Vec::new(),
        node: "n1".parse().unwrap(),
    };
    assert_eq!(world.run(replace.clone()), Ok(Reply::Replacing { more: true }));
    assert_eq!(
        reprieve(&mut world, older, 9, since),
        Ok(Reply::Reprieved { chunks: 1 })
    );
    let replicas = |world: &World| world.view().chunks(&[digest(9)]).unwrap().remove(0).unwrap().replicas;
    assert_eq!(replicas(&world), [replica(1, 0)]);
    while world.run(replace.clone()).unwrap() != (Reply::Replacing { more: false }) {}
    assert_eq!(replicas(&world), [replica(1, 0)]);
    let counters = world.view().counters(repo(2)).unwrap();
    assert_eq!(
        (counters.objects, counters.debts),
        (0, 9 + 1),
        "chunks, and the stanza's description"
    );
}
