//! Stories of nodes, sessions that move, and repeated requests: what the catalog takes and refuses.

use std::collections::BTreeSet;

use super::request::REMEMBERED;
use super::scenario::*;
use crate::command::Command;
use crate::limits;
use crate::model::{
    LogIndex, MeshRecord, NodeName, NodeService, RequestId, SessionKind, TokenId, TokenRole, VotePolicy,
};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn announce(node: &str, node_id: u64, key: u8) -> Command {
    Command::AnnounceNode {
        name: name(node),
        node_id,
        region: "eu".to_owned(),
        advertise: vec![format!("{node}:2")],
        key: [key; 32],
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

fn renumbered(node_id: u64, replaced: u64) -> Result<Reply, Refusal> {
    Ok(Reply::Renumbered { node_id, replaced })
}

fn audit_lines(world: &World) -> usize {
    world.view().audit(LogIndex(0)).count()
}

#[test]
fn numbers_of_nodes_are_never_given_out_twice() {
    let mut world = World::empty();
    world.run(register_node("far", 7)).unwrap();
    assert_eq!(world.admit("n2", 2), joined(8, 2));
    // Its disk was lost.
    assert_eq!(world.admit("n2", 3), joined(9, 3));
    let record = world.view().node(&name("n2")).unwrap().unwrap();
    assert_eq!((record.node_id, record.revoked), (9, vec![[2; 32], [102; 32]]));
    assert_eq!(world.admit("n2", 2), Err(Refusal::KeyRevoked(name("n2"))));
    world.run(serve("n2", NodeService::Removed)).unwrap();
    // It comes back: there is nothing in its place.
    assert_eq!(world.admit("n2", 4), joined(10, 4));
    let record = world.view().node(&name("n2")).unwrap().unwrap();
    assert_eq!(record.service, NodeService::InService);
    assert_eq!(record.revoked, [[2; 32], [102; 32], [3; 32], [103; 32]]);
    assert_eq!(world.admit("n3", 5), joined(11, 5));
}

#[test]
fn a_node_that_begins_anew_gets_a_number_that_nobody_had() {
    let mut world = World::empty();
    world.admit("n2", 2).unwrap();
    let renumber = |node: &str, number: u64, key: u8| Command::RenumberNode {
        name: name(node),
        number,
        key: [key; 32],
        reason: "x".repeat(2_000),
    };
    assert_eq!(world.run(renumber("n2", 2, 9)), Err(Refusal::OtherKey(name("n2"))));
    assert_eq!(world.run(renumber("n2", 2, 2)), renumbered(3, 2));
    // The request arrives once more when the node has begun anew: its number stays.
    let late = Refusal::NodeReplaced {
        node: name("n2"),
        known: 3,
        given: 2,
    };
    assert_eq!(world.run(renumber("n2", 2, 2)), Err(late));
    // Its answer was lost, and it asks again; or the old directory was put back once more.
    assert_eq!(world.run(renumber("n2", 3, 2)), renumbered(4, 3));
    let record = world.view().node(&name("n2")).unwrap().unwrap();
    assert_eq!((record.node_id, record.key), (4, [2; 32]));
    assert_eq!(world.admit("n3", 3), joined(5, 3));
    world.admit("n2", 6).unwrap();
    assert_eq!(
        world.run(renumber("n2", 6, 2)),
        Err(Refusal::KeyRevoked(name("n2"))),
        "a disk that was replaced does not come back"
    );
    world.run(serve("n2", NodeService::Removed)).unwrap();
    assert_eq!(world.run(renumber("n2", 6, 6)), Err(Refusal::NodeRemoved(name("n2"))));
    assert!(matches!(world.run(renumber("n9", 6, 6)), Err(Refusal::UnknownNode(_))));
}

#[test]
fn a_node_with_another_format_is_not_admitted() {
    let mut world = World::empty();
    let token = world.invite("n2", None).unwrap();
    let mut old = admit(token, "n2", 2);
    if let Command::AdmitNode(admit) = &mut old {
        admit.catalog_format = 1;
    }
    let refusal = world.run(old).unwrap_err().to_string();
    assert!(
        refusal.contains("format 1") && refusal.contains(&format!("format {}", MeshRecord::CATALOG_FORMAT)),
        "{refusal}"
    );
    assert_eq!(
        world.run(admit(token, "n2", 2)),
        joined(2, 2),
        "the token is still good"
    );
}

/// The bearer of a node's token takes that node's place, and not the place of another node that is only silent.
#[test]
fn a_token_of_a_node_is_for_one_name_and_for_the_place_that_was_meant() {
    let mut world = World::empty();
    let exists = |node_id| Refusal::NodeExists {
        node: name("n2"),
        node_id,
    };
    let (first, second) = (world.invite("n2", None).unwrap(), world.invite("n2", None).unwrap());
    let other = world.run(admit(first, "n3", 3));
    assert!(matches!(other, Err(Refusal::TokenOfAnother { .. })), "{other:?}");
    assert_eq!(world.run(admit(first, "n2", 2)), joined(2, 2), "it was not used up");
    // The other token was made before there was such a node.
    assert_eq!(world.run(admit(second, "n2", 3)), Err(exists(2)));
    assert_eq!(world.invite("n2", None), Err(exists(2)));
    assert_eq!(world.invite("n2", Some(77)), Err(exists(2)));
    assert!(matches!(world.invite("n4", Some(1)), Err(Refusal::UnknownNode(_))));
    // Meant: for the disk that was lost, and for no later one, however close after each other they are used.
    let (third, fourth) = (
        world.invite("n2", Some(2)).unwrap(),
        world.invite("n2", Some(2)).unwrap(),
    );
    assert_eq!(world.run(admit(third, "n2", 4)), joined(3, 4));
    assert_eq!(world.run(admit(fourth, "n2", 5)), Err(exists(3)));
    assert_eq!(world.view().node(&name("n2")).unwrap().unwrap().key, [4; 32]);
}

/// The catalog's memory of requests is no part of it: by then it has forgotten this one.
#[test]
fn an_admission_is_answered_again_until_the_node_has_left() {
    let mut world = World::empty();
    let token = world.invite("n2", None).unwrap();
    assert_eq!(world.run(admit(token, "n2", 2)), joined(2, 2));
    let before = world.view().node(&name("n2")).unwrap();
    // The answer was lost. Another node has signed another certificate for the same key meanwhile.
    let mut again = admit(token, "n2", 2);
    if let Command::AdmitNode(admit) = &mut again {
        admit.redemption.certificate = vec![77; 3];
    }
    world.at = i64::MAX - 100;
    assert_eq!(world.run(again.clone()), joined(2, 2), "the first certificate counts");
    assert_eq!(world.view().node(&name("n2")).unwrap(), before);
    assert_eq!(world.admit("n3", 3), joined(3, 3), "no number was given out");
    // Another request by the same token, for this name or for another one.
    for other in [admit(token, "n2", 4), admit(token, "n4", 2)] {
        assert!(matches!(world.run(other), Err(Refusal::TokenUsed { .. })));
    }
    world.run(serve("n2", NodeService::Removed)).unwrap();
    assert_eq!(world.run(again.clone()), Err(Refusal::NodeRemoved(name("n2"))));
    // Nor when the name has come back with another disk.
    world.admit("n2", 5).unwrap();
    assert!(matches!(world.run(again), Err(Refusal::TokenUsed { .. })));
    assert_eq!(world.view().node(&name("n2")).unwrap().unwrap().key, [5; 32]);
}

#[test]
fn an_admission_rests_on_a_token_for_a_node_that_is_known_and_good() {
    let mut world = World::empty();
    let unknown = TokenId([77; 16]);
    assert_eq!(world.run(admit(unknown, "n2", 2)), Err(Refusal::TokenUnknown));
    let token = world.invite("n2", None).unwrap();
    let mut guessed = admit(token, "n2", 2);
    if let Command::AdmitNode(admit) = &mut guessed {
        admit.redemption.secret_hash = [8; 32];
    }
    assert_eq!(world.run(guessed), Err(Refusal::TokenUnknown));
    let admin = TokenId([78; 16]);
    world.run(create_token(admin, TokenRole::Admin, i64::MAX)).unwrap();
    let not_for_node = Err(Refusal::TokenOfOtherRole { is_for_node: false });
    assert_eq!(world.run(admit(admin, "n2", 2)), not_for_node);
    let redeem = |token| Command::RedeemToken {
        redemption: redemption(token, 2, 2),
        name: "n2".to_owned(),
    };
    let for_node = Err(Refusal::TokenOfOtherRole { is_for_node: true });
    assert_eq!(world.run(redeem(token)), for_node);
    let late = TokenId([79; 16]);
    let role = TokenRole::Node {
        name: name("n2"),
        replaces: None,
    };
    world.run(create_token(late, role, world.at + 2)).unwrap();
    let expired = world.run(admit(late, "n2", 2));
    assert!(matches!(expired, Err(Refusal::TokenExpired { .. })), "{expired:?}");
    assert_eq!(world.view().node(&name("n2")).unwrap(), None);
    // None of that has used a token up.
    assert_eq!(world.run(admit(token, "n2", 2)), joined(2, 2));
    assert!(world.run(redeem(admin)).is_ok());
}

#[test]
fn a_node_that_was_removed_does_not_come_back_by_a_token_that_was_left_over() {
    let mut world = World::empty();
    let (first, second) = (world.invite("n2", None).unwrap(), world.invite("n2", None).unwrap());
    let other = world.invite("n3", None).unwrap();
    world.run(admit(first, "n2", 2)).unwrap();
    world.run(serve("n2", NodeService::Removed)).unwrap();
    assert_eq!(world.run(admit(second, "n2", 3)), Err(Refusal::TokenUnknown));
    assert!(world.run(admit(other, "n3", 4)).is_ok());
}

#[test]
fn the_records_of_tokens_are_bounded_and_a_good_one_is_not_forgotten() {
    let mut world = World::empty();
    let id = |number: usize| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        TokenId(id)
    };
    let count = |world: &World| world.view().tokens().count();
    let is_known = |world: &World, number| world.view().token(id(number)).unwrap().is_some();
    let create = |number, expires| create_token(id(number), TokenRole::Admin, expires);
    let redeem = |number| Command::RedeemToken {
        redemption: redemption(id(number), 1, 1),
        name: "x".to_owned(),
    };
    let far = i64::MAX;
    for number in 0..limits::TOKENS {
        world.run(create(number, if number == 5 { 3000 } else { far })).unwrap();
    }
    let full = world.run(create(2000, far));
    assert!(matches!(full, Err(Refusal::BeyondLimit { .. })), "{full:?}");
    // Used tokens make room, first the token that was used first.
    for number in [9, 8] {
        world.run(redeem(number)).unwrap();
    }
    world.run(create(2000, far)).unwrap();
    assert_eq!((is_known(&world, 9), is_known(&world, 8)), (false, true));
    assert_eq!(world.run(redeem(9)), Err(Refusal::TokenUnknown));
    assert!(world.run(redeem(8)).is_ok(), "the same request once more");
    world.at = 3000;
    world.run(create(2001, far)).unwrap();
    assert_eq!(
        (is_known(&world, 5), is_known(&world, 8)),
        (false, true),
        "it had expired"
    );
    assert_eq!(count(&world), limits::TOKENS);
}

#[test]
fn a_node_announces_itself_with_the_number_of_its_disk() {
    let mut world = World::empty();
    world.admit("n2", 2).unwrap();
    let before = audit_lines(&world);
    assert_eq!(world.run(announce("n2", 2, 2)), Ok(Reply::Done));
    assert_eq!(audit_lines(&world), before + 1);
    // Nothing has changed: no line.
    assert_eq!(world.run(announce("n2", 2, 2)), Ok(Reply::Done));
    assert_eq!(audit_lines(&world), before + 1);
    let record = world.view().node(&name("n2")).unwrap().unwrap();
    assert_eq!(record.advertise, ["n2:2"]);
    assert_eq!((record.key, record.revoked.len()), ([2; 32], 0));
    assert_eq!(world.run(announce("x", 2, 3)), Err(Refusal::UnknownNode(name("x"))));
    let replaced = Refusal::NodeReplaced {
        node: name("n2"),
        known: 2,
        given: 1,
    };
    assert_eq!(world.run(announce("n2", 1, 2)), Err(replaced));
    assert_eq!(world.run(announce("n2", 2, 4)), Err(Refusal::OtherKey(name("n2"))));
    world.admit("n2", 9).unwrap();
    assert_eq!(world.run(announce("n2", 3, 2)), Err(Refusal::KeyRevoked(name("n2"))));
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
    world.admit("n2", 2).unwrap();
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
    assert_eq!(
        world.view().node(&name("n2")).unwrap().unwrap().revoked,
        [[2; 32], [102; 32]]
    );
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
    world.admit("n2", 2).unwrap();
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
    world.admit("n2", 2).unwrap();
    world.admit("n3", 3).unwrap();
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
    world.admit("n2", 2).unwrap();
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
