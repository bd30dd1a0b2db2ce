//! Shared repositories: the nodes that reach them, and the objects that they do not let go.

use std::collections::{BTreeMap, BTreeSet};

use pgmesh_storage::{Generation, RepoKey};

use super::scenario::*;
use crate::command::Command;
use crate::model::{ChunkState, GarbageKey, GarbageObject, NodeService, ObjectRef, SessionKind};
use crate::refusal::Refusal;
use crate::reply::Reply;

fn shared(number: u16, bucket: &str, node: &str) -> Command {
    Command::RegisterRepository {
        repo: repo(number),
        definition: BTreeMap::from([
            ("type".to_owned(), "s3".to_owned()),
            ("s3-bucket".to_owned(), bucket.to_owned()),
        ]),
        host: None,
        uuid: format!("uuid-{number}"),
        wrapped_keys: Vec::new(),
        node: node.parse().unwrap(),
    }
}

fn announce(node: &str, node_id: u64, reaches: &[u16]) -> Command {
    Command::AnnounceNode {
        name: node.parse().unwrap(),
        node_id,
        region: String::new(),
        advertise: vec!["localhost:1".to_owned()],
        key: [0; 32],
        program: String::new(),
        reaches: reaches.iter().map(|number| repo(*number)).collect(),
    }
}

fn reaching(world: &World, number: u16) -> Vec<String> {
    let nodes = world.view().reaching(repo(number)).unwrap();
    nodes.into_iter().map(|(name, _)| name.to_string()).collect()
}

#[test]
fn whoever_declares_the_same_registers_the_same_and_another_bucket_is_refused() {
    let mut world = World::with_stanza();
    world.run(register_node("n2", 2)).unwrap();
    world.run(shared(9, "a", "n1")).unwrap();
    let known = world.view().repository(repo(9)).unwrap();
    assert_eq!(world.run(shared(9, "a", "n2")), Ok(Reply::Done));
    assert_eq!(world.view().repository(repo(9)).unwrap(), known);
    let refused = world.run(shared(9, "b", "n2")).unwrap_err();
    assert!(
        matches!(&refused, Refusal::RepositoryDiffers { option, .. } if option == "s3-bucket"),
        "{refused}"
    );
}

#[test]
fn who_reaches_a_shared_repository_is_what_nodes_say_of_repositories_that_are_shared() {
    let mut world = World::with_stanza();
    world.run(register_node("n2", 2)).unwrap();
    world.run(shared(9, "a", "n1")).unwrap();
    // The first repository hangs on a node, and the seventh is none.
    world.run(announce("n2", 2, &[1, 7, 9])).unwrap();
    assert_eq!(reaching(&world, 9), ["n2"]);
    let record = world.view().node(&"n2".parse().unwrap()).unwrap().unwrap();
    assert_eq!(record.reaches, BTreeSet::from([repo(9)]));
    world.run(announce("n1", 1, &[9])).unwrap();
    assert_eq!(reaching(&world, 9), ["n1", "n2"]);

    // The definition changes: a node that declares the old one must not be written through.
    let changed = Command::UpdateRepository {
        repo: repo(9),
        definition: Some(BTreeMap::from([("type".to_owned(), "s3".to_owned())])),
        host: None,
        wrapped_keys: None,
    };
    world.run(changed).unwrap();
    assert!(reaching(&world, 9).is_empty());
    world.run(announce("n2", 2, &[9])).unwrap();
    world.run(announce("n1", 1, &[9])).unwrap();
    let removed = Command::SetNodeService {
        name: "n2".parse().unwrap(),
        service: NodeService::Removed,
    };
    world.run(removed).unwrap();
    assert_eq!(reaching(&world, 9), ["n1"]);
    while world.run(Command::RetireRepository {
        repo: repo(9),
        force: true,
    }) != Ok(Reply::Retiring { more: false })
    {}
    let record = world.view().node(&"n1".parse().unwrap()).unwrap().unwrap();
    assert!(record.reaches.is_empty());
}

fn kept(world: &World, repo: RepoKey) -> u64 {
    world.view().counters(repo).unwrap().kept
}

#[test]
fn what_a_repository_keeps_stays_as_a_mark_and_its_name_is_not_used_again() {
    let mut world = World::with_stanza();
    let killed = world.open_session(SessionKind::Backup);
    world
        .run(Command::AddChunks {
            session: killed,
            ack: 1,
            chunks: vec![new_chunk(1, &[replica(1, 0), replica(2, 0)])],
        })
        .unwrap();
    let writer = world.open_session(SessionKind::Backup);
    world.run(Command::CloseSession { session: killed }).unwrap();
    world.condemn(vec![digest(1)]).unwrap();
    let mark = |generation| GarbageKey {
        object: ObjectRef::Chunk(digest(1)),
        repo: repo(2),
        generation: Generation(generation),
    };
    let since = world.applied();
    let forget = || Command::Forget {
        chunks: vec![condemned(1, since)],
        kept: vec![mark(0), mark(5)],
    };
    assert!(matches!(world.run(forget()), Err(Refusal::SessionOpen { .. })));
    world.run(Command::CloseSession { session: writer }).unwrap();
    assert!(world.view().is_useless(&mark(0)).unwrap());
    world.run(forget()).unwrap();
    // The chunk is forgotten, and nothing looks for it any more; only the kept object leaves a mark.
    assert_eq!(world.view().condemned(None).count(), 0);
    assert_eq!(world.view().garbage(None).count(), 0);
    assert_eq!(kept(&world, repo(2)), 1);
    assert!(world.view().is_useless(&mark(0)).unwrap());
    assert!(!world.view().is_useless(&mark(5)).unwrap());

    let writer = world.open_session(SessionKind::Backup);
    let states = world.view().chunk_states(&[digest(1)]).unwrap();
    let generation = Generation(1);
    assert_eq!(states, [ChunkState::Absent { generation }]);
    let again = |generation| Command::AddChunks {
        session: writer,
        ack: 1,
        chunks: vec![new_chunk(1, &[replica(2, generation)])],
    };
    assert!(matches!(world.run(again(0)), Err(Refusal::StaleGenerations(_))));
    world.run(again(1)).unwrap();
    world.run(Command::CloseSession { session: writer }).unwrap();

    // The lock has run out, and the object is deleted after all.
    let garbage = vec![GarbageObject { key: mark(0), since }];
    world.run(Command::ForgetGarbage { garbage }).unwrap();
    assert_eq!(kept(&world, repo(2)), 0);
    assert!(!world.view().is_useless(&mark(1)).unwrap());
}

#[test]
fn marks_go_with_the_repository() {
    let mut world = World::with_stanza();
    let writer = world.open_session(SessionKind::Backup);
    let chunks = vec![new_chunk(1, &[replica(1, 0), replica(2, 0)])];
    world
        .run(Command::AddChunks {
            session: writer,
            ack: 1,
            chunks,
        })
        .unwrap();
    let reason = crate::model::DebtReason::Damaged;
    let bad = Command::ReportBad {
        object: ObjectRef::Chunk(digest(1)),
        bad: claim(replica(2, 0)),
        reason,
        what: "test".to_owned(),
    };
    world.run(bad).unwrap();
    world.run(Command::CloseSession { session: writer }).unwrap();
    let garbage: Vec<_> = world.view().garbage(None).map(garbage_object).collect();
    world
        .run(Command::KeepGarbage {
            garbage: garbage.clone(),
        })
        .unwrap();
    world.run(Command::KeepGarbage { garbage }).unwrap();
    assert_eq!(kept(&world, repo(2)), 1);
    let replace = || Command::ReplaceRepository {
        repo: repo(2),
        uuid: "another".to_owned(),
        wrapped_keys: Vec::new(),
        node: "n1".parse().unwrap(),
    };
    while world.run(replace()) != Ok(Reply::Replacing { more: false }) {}
    assert_eq!(kept(&world, repo(2)), 0);
    assert_eq!(world.view().kept(None).count(), 0);
}
