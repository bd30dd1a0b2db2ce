//! What the catalog takes and refuses of nodes, sessions that move, repeated requests, and repositories that go.

use std::collections::BTreeSet;

use pgmesh_storage::{Digest, Generation, RepoKey};

use super::names;
use super::request::REMEMBERED;
use super::scenario::*;
use crate::command::{Command, NewReplica};
use crate::model::{
    CatalogLoss, Claim, DebtReason, LogIndex, MeshRecord, NodeName, NodeService, ObjectRef, RequestId, SessionKind,
    TokenId, TokenRole, VotePolicy,
};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn admit(node: &str, fingerprint: u8) -> Command {
    Command::AdmitNode {
        name: name(node),
        region: "eu".to_owned(),
        advertise: vec![format!("{node}:1")],
        fingerprint: [fingerprint; 32],
        program: "0.1.0".to_owned(),
        catalog_format: MeshRecord::CATALOG_FORMAT,
    }
}

fn announce(node: &str, node_id: u64, fingerprint: u8) -> Command {
    Command::AnnounceNode {
        name: name(node),
        node_id,
        region: "eu".to_owned(),
        advertise: vec![format!("{node}:2")],
        fingerprint: [fingerprint; 32],
        program: "0.2.0".to_owned(),
        reaches: BTreeSet::new(),
    }
}

fn serve(node: &str, service: NodeService) -> Command {
    Command::SetNodeService {
        name: name(node),
        service,
    }
}

fn admitted(node_id: u64, replaced: Option<u64>) -> Result<Reply, Refusal> {
    Ok(Reply::Admitted { node_id, replaced })
}

fn audit_lines(world: &World) -> usize {
    world.view().audit(LogIndex(0)).count()
}

#[test]
fn numbers_of_nodes_are_never_given_out_twice() {
    let mut world = World::empty();
    world.run(register_node("far", 7)).unwrap();
    assert_eq!(world.run(admit("n2", 2)), admitted(8, None));
    assert_eq!(world.run(admit("n2", 2)), admitted(8, None));
    // Its disk was lost.
    assert_eq!(world.run(admit("n2", 3)), admitted(9, Some(8)));
    let record = world.view().node(&name("n2")).unwrap().unwrap();
    assert_eq!((record.node_id, record.revoked), (9, vec![[2; 32]]));
    assert_eq!(world.run(admit("n2", 2)), Err(Refusal::CertificateRevoked(name("n2"))));
    world.run(serve("n2", NodeService::Removed)).unwrap();
    // It comes back: there is nothing in its place.
    assert_eq!(world.run(admit("n2", 4)), admitted(10, None));
    let record = world.view().node(&name("n2")).unwrap().unwrap();
    assert_eq!(record.service, NodeService::InService);
    assert_eq!(record.revoked, [[2; 32], [3; 32]]);
    assert_eq!(world.run(admit("n3", 5)), admitted(11, None));
}

#[test]
fn a_node_that_begins_anew_gets_a_number_that_nobody_had() {
    let mut world = World::empty();
    world.run(admit("n2", 2)).unwrap();
    let renumber = |node: &str, number: u64, fingerprint: u8| Command::RenumberNode {
        name: name(node),
        number,
        fingerprint: [fingerprint; 32],
        reason: "x".repeat(2_000),
    };
    assert_eq!(world.run(renumber("n2", 2, 2)), admitted(3, Some(2)));
    // The request arrives once more when the node has begun anew: its number stays.
    let late = Refusal::NodeReplaced {
        node: name("n2"),
        known: 3,
        given: 2,
    };
    assert_eq!(world.run(renumber("n2", 2, 2)), Err(late));
    // Its answer was lost, and it asks again; or the old directory was put back once more.
    assert_eq!(world.run(renumber("n2", 3, 2)), admitted(4, Some(3)));
    let record = world.view().node(&name("n2")).unwrap().unwrap();
    assert_eq!((record.node_id, record.fingerprint), (4, [2; 32]));
    assert_eq!(world.run(admit("n3", 3)), admitted(5, None));
    world.run(admit("n2", 6)).unwrap();
    assert_eq!(
        world.run(renumber("n2", 6, 2)),
        Err(Refusal::CertificateRevoked(name("n2"))),
        "a disk that was replaced does not come back"
    );
    world.run(serve("n2", NodeService::Removed)).unwrap();
    assert_eq!(world.run(renumber("n2", 6, 6)), Err(Refusal::NodeRemoved(name("n2"))));
    assert!(matches!(world.run(renumber("n9", 6, 6)), Err(Refusal::UnknownNode(_))));
}

#[test]
fn a_node_with_another_format_is_not_admitted() {
    let mut world = World::empty();
    let mut old = admit("n2", 2);
    if let Command::AdmitNode { catalog_format, .. } = &mut old {
        *catalog_format = 1;
    }
    let refusal = world.run(old).unwrap_err().to_string();
    assert!(
        refusal.contains("format 1") && refusal.contains(&format!("format {}", MeshRecord::CATALOG_FORMAT)),
        "{refusal}"
    );
}

/// Whoever has a node's token becomes that node, and not one that is only silent.
#[test]
fn a_token_of_a_node_is_for_one_name_and_for_the_place_that_was_meant() {
    let mut world = World::empty();
    let mut number = 0;
    let mut token = |world: &mut World, name: &str, replaces| {
        number += 1;
        let id = TokenId([number; 16]);
        let role = TokenRole::Node {
            name: name.parse().unwrap(),
            replaces,
        };
        let create = Command::CreateToken {
            id,
            secret_hash: [9; 32],
            role,
            expires: 100,
        };
        world.run(create).map(|_| id)
    };
    let redeem = |world: &mut World, id, name: &str| {
        world.run(Command::RedeemToken {
            id,
            secret_hash: [9; 32],
            name: name.to_owned(),
        })
    };
    let exists = |node_id| Refusal::NodeExists {
        node: "n2".parse().unwrap(),
        node_id,
    };
    let admitted = |world: &mut World, fingerprint| match world.run(admit("n2", fingerprint)) {
        Ok(Reply::Admitted { node_id, .. }) => node_id,
        other => panic!("{other:?}"),
    };
    let (first, second) = (
        token(&mut world, "n2", None).unwrap(),
        token(&mut world, "n2", None).unwrap(),
    );
    assert!(matches!(
        redeem(&mut world, first, "n3"),
        Err(Refusal::TokenOfAnother { .. })
    ));
    assert!(redeem(&mut world, first, "n2").is_ok(), "it was not used up");
    let node_id = admitted(&mut world, 2);
    // The other token was made before there was such a node.
    assert_eq!(redeem(&mut world, second, "n2"), Err(exists(node_id)));
    assert_eq!(token(&mut world, "n2", None), Err(exists(node_id)));
    assert_eq!(token(&mut world, "n2", Some(77)), Err(exists(node_id)));
    assert!(matches!(token(&mut world, "n4", Some(1)), Err(Refusal::UnknownNode(_))));
    // Meant: for the disk that was lost, and for no later one.
    let third = token(&mut world, "n2", Some(node_id)).unwrap();
    let fourth = token(&mut world, "n2", Some(node_id)).unwrap();
    assert!(redeem(&mut world, third, "n2").is_ok());
    let later = admitted(&mut world, 3);
    assert_eq!(redeem(&mut world, fourth, "n2"), Err(exists(later)));
}

#[test]
fn a_node_announces_itself_with_the_number_of_its_disk() {
    let mut world = World::empty();
    world.run(admit("n2", 2)).unwrap();
    let before = audit_lines(&world);
    assert_eq!(world.run(announce("n2", 2, 3)), Ok(Reply::Done));
    assert_eq!(audit_lines(&world), before + 1);
    // Nothing has changed: no line.
    assert_eq!(world.run(announce("n2", 2, 3)), Ok(Reply::Done));
    assert_eq!(audit_lines(&world), before + 1);
    let record = world.view().node(&name("n2")).unwrap().unwrap();
    assert_eq!(record.advertise, ["n2:2"]);
    assert_eq!((record.fingerprint, record.revoked.len()), ([3; 32], 0));
    assert_eq!(world.run(announce("x", 2, 3)), Err(Refusal::UnknownNode(name("x"))));
    let replaced = Refusal::NodeReplaced {
        node: name("n2"),
        known: 2,
        given: 1,
    };
    assert_eq!(world.run(announce("n2", 1, 3)), Err(replaced));
    world.run(admit("n2", 9)).unwrap();
    assert_eq!(
        world.run(announce("n2", 3, 3)),
        Err(Refusal::CertificateRevoked(name("n2")))
    );
    world.run(serve("n2", NodeService::Removed)).unwrap();
    assert_eq!(world.run(announce("n2", 3, 9)), Err(Refusal::NodeRemoved(name("n2"))));
}

#[test]
fn a_node_is_drained_and_removed() {
    let mut world = World::empty();
    assert_eq!(
        world.run(serve("n1", NodeService::Removed)),
        Err(Refusal::LastNode(name("n1")))
    );
    world.run(admit("n2", 2)).unwrap();
    world.run(serve("n2", NodeService::Draining)).unwrap();
    world.run(serve("n2", NodeService::InService)).unwrap();
    let vote = |vote| Command::SetNodeVote { name: name("n2"), vote };
    world.run(vote(VotePolicy::Never)).unwrap();
    assert_eq!(world.view().node(&name("n2")).unwrap().unwrap().vote, VotePolicy::Never);
    world.run(serve("n2", NodeService::Removed)).unwrap();
    assert_eq!(world.run(serve("n2", NodeService::Removed)), Ok(Reply::Done));
    let gone = || Err(Refusal::NodeRemoved(name("n2")));
    assert_eq!(world.run(serve("n2", NodeService::InService)), gone());
    assert_eq!(world.run(vote(VotePolicy::Always)), gone());
    assert_eq!(world.view().node(&name("n2")).unwrap().unwrap().revoked, [[2; 32]]);
    let open = Command::OpenSession {
        kind: SessionKind::Repair,
        stanza: None,
        holder: "n2".to_owned(),
        node: name("n2"),
        resume_key: None,
    };
    assert_eq!(world.run(open), gone());
}

#[test]
fn a_session_goes_on_by_way_of_another_node() {
    let mut world = World::empty();
    world.run(admit("n2", 2)).unwrap();
    let open = |resume_key| Command::OpenSession {
        kind: SessionKind::Backup,
        stanza: None,
        holder: "pg1".to_owned(),
        node: name("n1"),
        resume_key,
    };
    let Ok(Reply::Session(session)) = world.run(open(Some([7; 16]))) else {
        panic!();
    };
    let adopt = |turn, node: &str, key| Command::AdoptSession {
        session,
        turn,
        node: name(node),
        key: [key; 16],
    };
    let opened = session.0;
    assert_eq!(world.run(adopt(1, "n2", 8)), Err(Refusal::SessionKeyDiffers(session)));
    let second = lease_of(world.run(adopt(1, "n2", 7)));
    let expire = |lease| Command::ExpireSession {
        session,
        lease,
        reason: "its connection is gone".to_owned(),
    };
    // The node that it left does not end it.
    assert_eq!(world.run(expire(Some(opened))), Ok(Reply::Done));
    assert_eq!(world.view().session(session).unwrap().unwrap().node, name("n2"));
    // Nor does its own node, when the holder has come back to it since.
    let third = lease_of(world.run(adopt(2, "n2", 7)));
    assert_eq!(world.run(expire(Some(second))), Ok(Reply::Done));
    assert_eq!(world.view().session(session).unwrap().unwrap().lease, third);
    assert_eq!(world.run(expire(Some(third))), Ok(Reply::Done));
    assert_eq!(world.view().session(session).unwrap(), None);
    assert_eq!(world.run(adopt(3, "n2", 7)), Err(Refusal::SessionEnded(session)));
    let Ok(Reply::Session(without)) = world.run(open(None)) else {
        panic!();
    };
    let adopt = Command::AdoptSession {
        session: without,
        turn: 1,
        node: name("n2"),
        key: [0; 16],
    };
    assert_eq!(world.run(adopt), Err(Refusal::SessionKeyDiffers(without)));
}

fn lease_of(adopted: Result<Reply, Refusal>) -> LogIndex {
    match adopted {
        Ok(Reply::Adopted { lease }) => lease,
        other => panic!("{other:?}"),
    }
}

/// The holder lost node n2 while its adoption was under way, and went on to n3: the late adoption must not give the
/// session to n2, which does not hold it and would end it.
#[test]
fn a_late_adoption_takes_no_session_from_the_node_that_holds_it() {
    let mut world = World::empty();
    world.run(admit("n2", 2)).unwrap();
    world.run(admit("n3", 3)).unwrap();
    let open = Command::OpenSession {
        kind: SessionKind::Backup,
        stanza: None,
        holder: "pg1".to_owned(),
        node: name("n1"),
        resume_key: Some([7; 16]),
    };
    let request = RequestId([3; 16]);
    let Ok(Reply::Session(session)) = world.run_as(request, open) else {
        panic!();
    };
    let record = world.view().session(session).unwrap().unwrap();
    assert_eq!((record.request, record.lease), (request, session.0));
    let adopt = |turn, node: &str| Command::AdoptSession {
        session,
        turn,
        node: name(node),
        key: [7; 16],
    };
    let lease = lease_of(world.run(adopt(2, "n3")));
    assert_eq!(world.run(adopt(1, "n2")), Err(Refusal::SessionMoved(session)));
    let record = world.view().session(session).unwrap().unwrap();
    assert_eq!((record.node, record.lease), (name("n3"), lease));
}

#[test]
fn a_repeated_request_has_one_effect_and_the_same_answer() {
    let mut world = World::new();
    let open = || Command::OpenSession {
        kind: SessionKind::Verify,
        stanza: None,
        holder: "x".to_owned(),
        node: name("n1"),
        resume_key: None,
    };
    let id = RequestId([1; 16]);
    let first = world.run_as(id, open()).unwrap();
    let applied = world.applied();
    assert_eq!(world.run_as(id, open()).unwrap(), first);
    assert_eq!(world.view().sessions().unwrap().len(), 1);
    assert_eq!(world.applied(), LogIndex(applied.0 + 1));
    // A refusal stands, even when it would not be given any more.
    let refused = RequestId([2; 16]);
    let serve = || serve("n1", NodeService::Removed);
    assert!(world.run_as(refused, serve()).is_err());
    world.run(admit("n2", 2)).unwrap();
    assert!(world.run_as(refused, serve()).is_err());
    assert!(world.run(serve()).is_ok());
}

#[test]
fn the_memory_of_requests_is_bounded() {
    let mut world = World::empty();
    let audit = || Command::Audit { what: "x".to_owned() };
    let id = RequestId([1; 16]);
    world.run_as(id, audit()).unwrap();
    for _ in 0..REMEMBERED - 1 {
        world.run(audit()).unwrap();
    }
    let is_known = |world: &World| {
        super::Base::get(&world.base, Table::Requests, &[1; 16])
            .unwrap()
            .is_some()
    };
    assert!(is_known(&world));
    world.run(audit()).unwrap();
    assert!(!is_known(&world));
    world.run_as(id, audit()).unwrap();
    let newest = world.view().audit(LogIndex(0)).last().unwrap().unwrap();
    assert_eq!(newest.0, world.applied(), "forgotten");
    let count = |table| super::Base::scan(&world.base, table, &[], &[]).count();
    assert_eq!(count(Table::Requests) as u64, REMEMBERED);
    assert_eq!(count(Table::RequestRing) as u64, REMEMBERED);
}

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
        node: name("n1"),
    };
    assert_eq!(world.run(replace.clone()), Ok(Reply::Replacing { more: true }));
    // What was written meanwhile is owed: the walk may have gone past it.
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
        node: name("n1"),
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
        node: name("n2"),
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
    assert!(matches!(
        world.run(admit("late", 9)),
        Ok(Reply::Admitted { node_id: 1001, .. })
    ));
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
