//! Stories of repositories that go, and of a catalog that has lost entries: what the catalog takes and refuses.

use std::collections::BTreeSet;

use pgmesh_storage::{Digest, Generation, RepoKey};

use super::names;
use super::scenario::*;
use crate::command::{Command, NewReplica};
use crate::model::{CatalogLoss, Claim, DebtReason, LogIndex, ObjectRef, SessionKind};
use crate::refusal::Refusal;
use crate::reply::Reply;

fn steps(world: &mut World, command: &Command, more: &Reply) -> usize {
    for number in 1.. {
        if world.run(command.clone()).unwrap() != *more {
            return number;
        }
    }
    unreachable!()
}

#[test]
fn a_retired_repository_leaves_nothing_behind() {
    let mut world = World::with_stanza();
    let session = world.open_session(SessionKind::Backup);
    let only = vec![
        new_chunk(1, &[replica(2, 0)]),
        new_chunk(2, &[replica(1, 0), replica(2, 0)]),
    ];
    world
        .run(Command::AddChunks {
            session,
            ack: 1,
            chunks: only,
        })
        .unwrap();
    for segment in 1..=8 {
        world.push(push_segment(1, segment.into(), segment)).unwrap();
    }
    let retire = Command::RetireRepository {
        repo: repo(2),
        force: true,
    };
    assert_eq!(world.run(retire.clone()), Ok(Reply::Retiring { more: true }));
    // From now on it takes nothing, and nothing is owed to it.
    world.push(push_segment(1, 9, 9)).unwrap();
    assert!(matches!(
        world.run(register(2)),
        Err(Refusal::RepositoryChanging { .. })
    ));
    assert!(steps(&mut world, &retire, &Reply::Retiring { more: true }) > 2);
    assert_eq!(world.run(retire), Err(Refusal::UnknownRepository(repo(2))));
    let view = world.view();
    assert_eq!(view.debts(repo(2), None).count(), 0);
    assert_eq!(view.counters(repo(2)).unwrap().objects, 0);
    for row in view.segments(&stanza(), pgmesh_storage::DbId(1), None) {
        assert_eq!(row.unwrap().1.object.replicas, [replica(1, 0)]);
    }
    let last = view.audit(LogIndex(0)).last().unwrap().unwrap().1.what;
    assert!(last.contains("1 objects were nowhere else"), "{last}");
    assert_eq!(world.run(register(2)), Ok(Reply::Done));
}

#[test]
fn a_replaced_disk_is_owed_all_that_the_lost_one_held() {
    let mut world = World::with_stanza();
    for segment in 1..=8 {
        world.push(push_segment(1, segment.into(), segment)).unwrap();
    }
    let replace = Command::ReplaceRepository {
        repo: repo(2),
        uuid: "new".to_owned(),
        wrapped_keys: Vec::new(),
        node: "n1".parse().unwrap(),
    };
    assert_eq!(world.run(replace.clone()), Ok(Reply::Replacing { more: true }));
    // An object that was written meanwhile is owed: the walk may have gone past it.
    world.push(push_segment(1, 9, 9)).unwrap();
    steps(&mut world, &replace, &Reply::Replacing { more: true });
    assert_eq!(world.run(replace), Ok(Reply::Replacing { more: false }));
    let debts: Vec<_> = world.view().debts(repo(2), None).map(Result::unwrap).collect();
    // Nine segments, and the stanza's information, which was owed before.
    assert_eq!(debts.len(), 10);
    let lost = debts
        .iter()
        .filter(|(_, debt)| debt.reason == DebtReason::Missing)
        .count();
    assert_eq!(lost, 8);
    assert_eq!(world.view().counters(repo(2)).unwrap().objects, 0);
    let (object, debt) = &debts[0];
    assert_eq!(debt.generation, Generation(1), "{object}");
    let session = world.open_session(SessionKind::Repair);
    let add = |generation| Command::AddReplicas {
        session,
        replicas: vec![NewReplica {
            object: debts[0].0.clone(),
            digest: digest(1),
            claim: Claim {
                replica: replica(2, generation),
                identity: identity("new"),
            },
        }],
    };
    assert!(matches!(debts[0].0, ObjectRef::Segment { .. }));
    assert_eq!(world.run(add(0)), Ok(Reply::Added { accepted: 0 }));
    assert_eq!(world.run(add(1)), Ok(Reply::Added { accepted: 1 }));
    let record = world.view().repository(repo(2)).unwrap().unwrap();
    assert_eq!((record.uuid.as_str(), record.change), ("new", None));
}

#[test]
fn a_walk_whose_beginner_is_gone_is_finished_step_by_step() {
    let mut world = World::with_stanza();
    for segment in 1..=8 {
        world.push(push_segment(1, segment.into(), segment)).unwrap();
    }
    let go_on = Command::Backfill { repo: repo(2) };
    let begin = Command::ReplaceRepository {
        repo: repo(2),
        uuid: "new".to_owned(),
        wrapped_keys: Vec::new(),
        node: "n1".parse().unwrap(),
    };
    assert_eq!(world.run(begin), Ok(Reply::Replacing { more: true }));
    steps(&mut world, &go_on, &Reply::Replacing { more: true });
    let record = world.view().repository(repo(2)).unwrap().unwrap();
    assert_eq!((record.uuid.as_str(), record.change), ("new", None));
    assert_eq!(world.view().counters(repo(2)).unwrap().objects, 0);
    assert_eq!(
        world.run(go_on.clone()),
        Ok(Reply::Backfilled { debts: 0, more: false })
    );

    let begin = Command::RetireRepository {
        repo: repo(2),
        force: true,
    };
    assert_eq!(world.run(begin), Ok(Reply::Retiring { more: true }));
    steps(&mut world, &go_on, &Reply::Retiring { more: true });
    assert_eq!(world.run(go_on), Err(Refusal::UnknownRepository(repo(2))));
}

#[test]
fn what_the_catalog_has_lost_is_known_until_it_is_given_up() {
    let mut world = World::empty();
    let loss = |era, position| CatalogLoss {
        repo: RepoKey::new(1).unwrap(),
        node: "n2".parse().unwrap(),
        position: LogIndex(position),
        era,
        branch: 0,
        told_by: None,
        floor: Generation(3),
        written: 17,
        found_at: LogIndex(5),
    };
    let known = |world: &World| world.view().past().unwrap();
    assert_eq!(world.run(Command::ReportLoss(loss(0, 40))), Ok(Reply::Done));
    assert_eq!(known(&world).loss, Some(loss(0, 40)));
    // Another node reports less, and another more.
    assert_eq!(world.run(Command::ReportLoss(loss(0, 30))), Ok(Reply::Done));
    assert_eq!(known(&world).loss, Some(loss(0, 40)));
    assert_eq!(world.run(Command::ReportLoss(loss(0, 70))), Ok(Reply::Done));
    // Of all reports the highest floor counts.
    let higher = CatalogLoss {
        floor: Generation(4),
        ..loss(0, 60)
    };
    assert_eq!(world.run(Command::ReportLoss(higher)), Ok(Reply::Done));
    assert_eq!(known(&world).loss.unwrap().floor, Generation(4));
    let accept = |position| Command::AcceptLoss {
        position: LogIndex(position),
        branch: 77,
    };
    assert_eq!(world.run(accept(40)), Err(Refusal::NoSuchLoss(LogIndex(40))));
    assert_eq!(world.run(accept(70)), Ok(Reply::Done));
    assert_eq!(
        (known(&world).era, known(&world).branch, known(&world).loss),
        (1, 77, None)
    );
    // No name that was assigned up to that position is assigned again.
    let object = ObjectRef::Chunk(Digest([9; 32]));
    let free = names::free_generation(&world.base, &object, &[]).unwrap();
    assert_eq!(free, Generation(4 + 70 + (1 << 24)));
    // A report that was late.
    assert_eq!(world.run(Command::ReportLoss(loss(0, 90))), Ok(Reply::Done));
    assert_eq!(known(&world).loss, None);
    assert_eq!(world.run(accept(90)), Err(Refusal::NoSuchLoss(LogIndex(90))));
    // A repository of a later era, which an old copy of this catalog does not know.
    assert_eq!(world.run(Command::ReportLoss(loss(3, 2))), Ok(Reply::Done));
    assert_eq!(world.run(accept(2)), Ok(Reply::Done));
    assert_eq!(known(&world).era, 4);
    // The floor has risen, and rises from there.
    let free = names::free_generation(&world.base, &object, &[]).unwrap();
    assert_eq!(free, Generation(4 + 70 + (1 << 24) + 2 + (1 << 24)));
}

#[test]
fn an_era_begins_once_and_above_what_is_known() {
    let mut world = World::empty();
    let known = |world: &World| world.view().past().unwrap();
    let begin = |era, branch| Command::BeginEra {
        era,
        branch,
        floor: Generation(1 << 25),
        last_number: 1000,
        compare: BTreeSet::from([repo(1), repo(2)]),
        reason: "node n1 was rescued".to_owned(),
    };
    assert_eq!(world.run(begin(2, 9)), Ok(Reply::Done));
    assert_eq!((known(&world).era, known(&world).branch), (2, 9));
    // A repetition, and another rescue that has begun the same era.
    assert_eq!(world.run(begin(2, 9)), Ok(Reply::Done));
    let refused = Refusal::EraHasBegun { given: 2, known: 2 };
    assert_eq!(world.run(begin(2, 8)), Err(refused));
    let object = ObjectRef::Chunk(Digest([9; 32]));
    let free = names::free_generation(&world.base, &object, &[]).unwrap();
    assert_eq!(free, Generation(1 << 25));
    assert_eq!(world.admit("late", 9), joined(1001, 9));
    // A report of an earlier era is late.
    let compared = |era, all| Command::Compared {
        repo: repo(1),
        era,
        all,
    };
    assert_eq!(world.run(compared(1, true)), Ok(Reply::Done));
    assert!(known(&world).uncompared.contains(&repo(1)));
    assert_eq!(world.run(compared(2, false)), Ok(Reply::Done));
    assert!(known(&world).uncompared.contains(&repo(1)) && !known(&world).unlisted.contains(&repo(1)));
    assert_eq!(world.run(compared(2, true)), Ok(Reply::Done));
    assert_eq!(known(&world).uncompared, BTreeSet::from([repo(2)]));
}
