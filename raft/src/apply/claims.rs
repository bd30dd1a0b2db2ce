//! Claims count for the repository that they name; removals and deletions that are refused change nothing.

use std::collections::BTreeMap;

use pgmesh_storage::{DbId, Generation, RepoKey};

use super::scenario::*;
use crate::command::{Command, NewChunk, NewReplica, PushSegment};
use crate::model::{Claim, DebtReason, LogIndex, ObjectRef, Replica, SessionKind};
use crate::refusal::Refusal;
use crate::reply::Reply;

fn retire(number: u16, force: bool) -> Command {
    Command::RetireRepository {
        repo: repo(number),
        force,
    }
}

fn backfill(world: &mut World, number: u16) {
    while world.run(Command::Backfill { repo: repo(number) }).unwrap() != (Reply::Backfilled { debts: 0, more: false })
    {
    }
}

fn replace(world: &mut World, number: u16, uuid: &str) {
    let replace = Command::ReplaceRepository {
        repo: repo(number),
        uuid: uuid.to_owned(),
        wrapped_keys: Vec::new(),
        node: "n1".parse().unwrap(),
    };
    while world.run(replace.clone()).unwrap() != (Reply::Replacing { more: false }) {}
}

fn of(replica: Replica, identity: &str) -> Claim {
    Claim {
        replica,
        identity: super::scenario::identity(identity),
    }
}

fn segment_to(number: u8, claims: Vec<Claim>) -> PushSegment {
    let mut push = push_segment(1, number.into(), number);
    push.object.claims = claims;
    push
}

fn segment_ref(number: u8) -> ObjectRef {
    ObjectRef::Segment {
        stanza: stanza(),
        db: DbId(1),
        file: push_segment(1, number.into(), number).file,
    }
}

fn owes(world: &World, repo: RepoKey, object: &ObjectRef) -> bool {
    world.view().debt(repo, object).unwrap().is_some()
}

#[test]
fn invariant_1_a_removed_disk_acknowledges_no_push() {
    let mut world = World::with_stanza();
    world.run(register(3)).unwrap();
    backfill(&mut world, 3);
    // Written to repo3, which is removed and registered again before the catalog hears of it.
    let push = segment_to(1, vec![claim(replica(3, 0))]);
    while world.run(retire(3, true)).unwrap() != (Reply::Retiring { more: false }) {}
    let removed = world.push(push.clone());
    assert_eq!(removed, Err(Refusal::TooFewReplicas { have: 0, need: 1 }));
    let again = Command::RegisterRepository {
        repo: repo(3),
        definition: BTreeMap::from([("path".to_owned(), "/other".to_owned())]),
        host: Some("n1".parse().unwrap()),
        uuid: "another".to_owned(),
        wrapped_keys: Vec::new(),
        node: "n1".parse().unwrap(),
    };
    world.run(again).unwrap();
    assert_eq!(world.push(push), Err(Refusal::TooFewReplicas { have: 0, need: 1 }));
    // With a second claim, which counts, the push is acknowledged, and the debt of repo3 stays.
    let both = vec![claim(replica(1, 0)), claim(replica(3, 0))];
    let pushed = world.push(segment_to(1, both));
    assert_eq!(
        pushed,
        Ok(Reply::Pushed {
            replicas: vec![replica(1, 0)]
        })
    );
    assert!(owes(&world, repo(3), &segment_ref(1)));
}

#[test]
fn a_late_write_to_a_lost_disk_pays_no_debt() {
    let mut world = World::with_stanza();
    let session = world.open_session(SessionKind::Backup);
    world.push(segment_to(1, vec![claim(replica(1, 0))])).unwrap();
    replace(&mut world, 2, "new");
    // A node may still have the lost repository open, in a session that began after the replacement.
    let late = world.open_session(SessionKind::Repair);
    let add = |identity: &str| Command::AddReplicas {
        session: late,
        replicas: vec![NewReplica {
            object: segment_ref(1),
            digest: digest(1),
            claim: of(replica(2, 0), identity),
        }],
    };
    assert_eq!(world.run(add("uuid-2")), Ok(Reply::Added { accepted: 0 }));
    assert!(owes(&world, repo(2), &segment_ref(1)));
    assert_eq!(world.run(add("new")), Ok(Reply::Added { accepted: 1 }));
    // A session that began before the replacement goes on with the new one: an ordinary backup is not in its way.
    let chunks = |identity: &str| Command::AddChunks {
        session,
        ack: 1,
        chunks: vec![NewChunk {
            claims: vec![of(replica(2, 0), identity)],
            ..new_chunk(1, &[])
        }],
    };
    let refused = world.run(chunks("uuid-2"));
    assert!(matches!(&refused, Err(Refusal::StaleGenerations(stale)) if stale[0].generation == Generation(0)));
    assert_eq!(world.run(chunks("new")), Ok(Reply::Done));
    let known = world.view().chunks(&[digest(1)]).unwrap();
    assert_eq!(known[0].as_ref().unwrap().replicas, [replica(2, 0)]);
}

#[test]
fn every_claim_of_a_lost_disk_is_passed_over() {
    let mut world = World::new();
    replace(&mut world, 2, "new");
    // Claims of manifests and stanza information are judged like claims of segments and chunks.
    let create = Command::CreateStanza {
        stanza: stanza(),
        cluster: cluster(7),
        info: claimed(200, 100, &[replica(1, 0), replica(2, 0)]),
        checked_at: LogIndex(0),
    };
    world.run(create).unwrap();
    let info = ObjectRef::StanzaInfo {
        stanza: stanza(),
        db: DbId(1),
    };
    assert!(owes(&world, repo(2), &info) && !owes(&world, repo(1), &info));
    for segment in [1, 2] {
        world.push(segment_to(segment, vec![claim(replica(1, 0))])).unwrap();
    }
    let text = "20250215-020001F";
    let session = world.begin_backup(text);
    let mut commit = commit(session, text, world.applied());
    commit.claims = vec![of(replica(2, 0), "uuid-2")];
    let refused = world.run(Command::CommitBackup(Box::new(commit.clone())));
    assert_eq!(refused, Err(Refusal::TooFewReplicas { have: 0, need: 1 }));
    commit.claims = vec![of(replica(2, 0), "new")];
    assert_eq!(world.run(Command::CommitBackup(Box::new(commit))), Ok(Reply::Done));
}

#[test]
fn what_was_read_in_a_lost_disk_says_nothing_of_the_new_one() {
    let mut world = World::with_stanza();
    replace(&mut world, 2, "new");
    let both = vec![claim(replica(1, 0)), of(replica(2, 0), "new")];
    world.push(segment_to(1, both)).unwrap();
    let report = |identity: &str| Command::ReportBad {
        object: segment_ref(1),
        bad: of(replica(2, 0), identity),
        reason: DebtReason::Missing,
        what: "not found".to_owned(),
    };
    assert_eq!(world.run(report("uuid-2")), Ok(Reply::Withdrawn { remaining: 2 }));
    assert!(!owes(&world, repo(2), &segment_ref(1)));
    assert_eq!(world.run(report("new")), Ok(Reply::Withdrawn { remaining: 1 }));
    assert!(owes(&world, repo(2), &segment_ref(1)));
}

/// Eight segments in repo1 alone.
fn with_one_full_repository() -> World {
    let mut world = World::with_stanza();
    for segment in 1..=8 {
        world.push(segment_to(segment, vec![claim(replica(1, 0))])).unwrap();
    }
    while world.run(retire(2, true)).unwrap() != (Reply::Retiring { more: false }) {}
    world
}

#[test]
fn a_repository_stays_while_the_others_are_backfilled() {
    let mut world = with_one_full_repository();
    assert_eq!(world.run(retire(1, true)), Err(Refusal::LastRepository(repo(1))));
    world.run(register(3)).unwrap();
    // Nothing is owed to repo3 yet, and it has nothing.
    assert_eq!(world.view().debts(repo(3), None).count(), 0);
    let refused = world.run(retire(1, false));
    assert!(
        matches!(refused, Err(Refusal::OthersOwe { debts: None, .. })),
        "{refused:?}"
    );
    backfill(&mut world, 3);
    let refused = world.run(retire(1, false));
    assert!(matches!(refused, Err(Refusal::RepositoryNeeded { .. })), "{refused:?}");
    assert_eq!(world.view().repository(repo(1)).unwrap().unwrap().change, None);
    // By force they are lost, and known to be.
    while world.run(retire(1, true)).unwrap() != (Reply::Retiring { more: false }) {}
    assert_eq!(world.view().lost(None).count(), 8 + 1);
}

fn pay_all(world: &mut World, number: u16) {
    let session = world.open_session(SessionKind::Repair);
    let debts: Vec<_> = world.view().debts(repo(number), None).map(Result::unwrap).collect();
    let replicas = debts.into_iter().map(|(object, debt)| NewReplica {
        digest: world.view().object(&object).unwrap().unwrap().digest,
        claim: claim(replica(number, debt.generation.0)),
        object,
    });
    let replicas = replicas.collect();
    world.run(Command::AddReplicas { session, replicas }).unwrap();
}

#[test]
fn a_removal_keeps_what_loses_its_other_replica_on_the_way() {
    let mut world = with_one_full_repository();
    world.run(register(3)).unwrap();
    backfill(&mut world, 3);
    pay_all(&mut world, 3);
    assert_eq!(world.run(retire(1, false)), Ok(Reply::Retiring { more: true }));
    let bad = damaged(segment_ref(8), replica(3, 0));
    world.run(bad).unwrap();
    let mut reply = world.run(retire(1, false)).unwrap();
    while reply == (Reply::Retiring { more: true }) {
        reply = world.run(retire(1, false)).unwrap();
    }
    assert_eq!(reply, Reply::StillNeeded { object: segment_ref(8) });
    // It is a repository as before; the withdrawn replicas are owed to it.
    let known = world.view().object(&segment_ref(8)).unwrap().unwrap();
    assert_eq!(known.replicas, [replica(1, 0)]);
    assert_eq!(world.view().lost(None).count(), 0);
    backfill(&mut world, 1);
    assert!(owes(&world, repo(1), &segment_ref(1)));
    pay_all(&mut world, 1);
    pay_all(&mut world, 3);
    while world.run(retire(1, false)).unwrap() != (Reply::Retiring { more: false }) {}
    let known = world.view().object(&segment_ref(8)).unwrap().unwrap();
    assert_eq!(known.replicas, [replica(3, 1)]);
}

#[test]
fn a_lost_disk_is_nobodys_other_replica() {
    let mut world = with_one_full_repository();
    world.run(register(3)).unwrap();
    backfill(&mut world, 3);
    pay_all(&mut world, 3);
    let begun = Command::ReplaceRepository {
        repo: repo(3),
        uuid: "empty".to_owned(),
        wrapped_keys: Vec::new(),
        node: "n1".parse().unwrap(),
    };
    assert_eq!(world.run(begun), Ok(Reply::Replacing { more: true }));
    let refused = world.run(retire(1, false));
    assert!(matches!(refused, Err(Refusal::OthersOwe { .. })), "{refused:?}");
}

#[test]
fn a_deletion_that_is_refused_leaves_the_stanza_running() {
    let mut world = World::with_stanza();
    world.begin_backup("20250215-020001F");
    let delete = || Command::DeleteStanza {
        stanza: stanza(),
        force: true,
    };
    let refused = world.run(delete());
    assert!(matches!(refused, Err(Refusal::BackupRunning { .. })), "{refused:?}");
    assert!(matches!(world.push(push_segment(1, 1, 1)), Ok(Reply::Pushed { .. })));
    let session = world.view().stanza(&stanza()).unwrap().unwrap().backup.unwrap().session;
    world.run(Command::CloseSession { session }).unwrap();
    assert_eq!(world.run(delete()), Ok(Reply::Deleting { more: false }));
}

#[test]
fn marks_belong_to_the_repository_that_they_were_written_to() {
    let mut world = World::with_stanza();
    let mark = |identity: &str, number| Command::MarkRepository {
        repo: repo(2),
        identity: super::scenario::identity(identity),
        number,
        nonce: number * 10,
    };
    let known = |world: &World| {
        let record = world.view().repository(repo(2)).unwrap().unwrap();
        record.mark.map(|mark| (mark.number, mark.nonce))
    };
    world.run(mark("uuid-2", 2)).unwrap();
    world.run(mark("uuid-2", 1)).unwrap();
    world.run(mark("another", 3)).unwrap();
    assert_eq!(known(&world), Some((2, 20)));
    replace(&mut world, 2, "new");
    assert_eq!(known(&world), None);
    world.run(mark("uuid-2", 3)).unwrap();
    assert_eq!(known(&world), None);
}

fn move_to(world: &mut World, number: u16, node: &str) {
    let command = Command::UpdateRepository {
        repo: repo(number),
        definition: None,
        host: Some(Some(node.parse().unwrap())),
        wrapped_keys: None,
    };
    world.run(command).unwrap();
}

/// A claim as a node makes it that has the repository open since then.
fn claim_of(world: &World, replica: Replica) -> Claim {
    let record = world.view().repository(replica.repo).unwrap().unwrap();
    Claim {
        replica,
        identity: record.identity(),
    }
}

#[test]
fn what_the_old_host_of_a_repository_writes_acknowledges_nothing() {
    let mut world = World::with_stanza();
    let before = claim_of(&world, replica(2, 0));
    let bad = |claim: &Claim| Command::ReportBad {
        object: segment_ref(1),
        bad: claim.clone(),
        reason: DebtReason::Missing,
        what: "test".to_owned(),
    };
    move_to(&mut world, 2, "n2");
    let alone = world.push(segment_to(1, vec![before.clone()]));
    assert_eq!(alone, Err(Refusal::TooFewReplicas { have: 0, need: 1 }));
    // The repository is back at its first node, perhaps as a copy that lacks an object written there before the first
    // move.
    move_to(&mut world, 2, "n1");
    let both = vec![claim(replica(1, 0)), before.clone()];
    let pushed = world.push(segment_to(1, both)).unwrap();
    let replicas = vec![replica(1, 0)];
    assert_eq!(pushed, Reply::Pushed { replicas });
    assert!(owes(&world, repo(2), &segment_ref(1)));
    let now = claim_of(&world, replica(2, 0));
    let session = world.open_session(SessionKind::Repair);
    let add = |claim: &Claim| Command::AddReplicas {
        session,
        replicas: vec![NewReplica {
            object: segment_ref(1),
            digest: digest(1),
            claim: claim.clone(),
        }],
    };
    assert_eq!(world.run(add(&before)), Ok(Reply::Added { accepted: 0 }));
    assert_eq!(world.run(add(&now)), Ok(Reply::Added { accepted: 1 }));
    // A replica that is missing at the old place is not withdrawn.
    assert_eq!(world.run(bad(&before)), Ok(Reply::Withdrawn { remaining: 2 }));
    // A mark at the old place does not make the repository an older copy of itself.
    let mark = |claim: &Claim| Command::MarkRepository {
        repo: repo(2),
        identity: claim.identity.clone(),
        number: 7,
        nonce: 70,
    };
    world.run(mark(&before)).unwrap();
    assert_eq!(world.view().repository(repo(2)).unwrap().unwrap().mark, None);
    world.run(mark(&now)).unwrap();
    assert!(world.view().repository(repo(2)).unwrap().unwrap().mark.is_some());
}

#[test]
fn another_definition_is_another_place_and_the_same_one_is_not() {
    let mut world = World::with_stanza();
    let update = |path: &str| Command::UpdateRepository {
        repo: repo(2),
        definition: Some(BTreeMap::from([("path".to_owned(), path.to_owned())])),
        host: None,
        wrapped_keys: None,
    };
    let before = claim_of(&world, replica(2, 0));
    world.run(update("/r2")).unwrap();
    world.run(register(2)).unwrap();
    assert_eq!(claim_of(&world, replica(2, 0)), before);
    world.run(update("/elsewhere")).unwrap();
    assert_ne!(claim_of(&world, replica(2, 0)), before);
}

#[test]
fn a_chunk_that_counts_in_too_few_repositories_is_written_again() {
    let mut world = World::with_stanza();
    let session = world.open_session(SessionKind::Backup);
    let lost = claim_of(&world, replica(2, 0));
    move_to(&mut world, 2, "n2");
    let add = |second: Claim| Command::AddChunks {
        session,
        ack: 2,
        chunks: vec![NewChunk {
            claims: vec![claim(replica(1, 0)), second],
            ..new_chunk(1, &[])
        }],
    };
    let refused = world.run(add(lost));
    assert!(
        matches!(&refused, Err(Refusal::StaleGenerations(stale)) if stale[0].digest == digest(1)),
        "{refused:?}"
    );
    assert_eq!(
        world.view().chunks(&[digest(1)]).unwrap(),
        [None],
        "nothing of it has happened"
    );
    assert_eq!(world.run(add(claim(replica(2, 0)))), Ok(Reply::Done));
    // A chunk that is known already is refused as well under a name that was withdrawn.
    let bad = damaged(ObjectRef::Chunk(digest(1)), replica(2, 0));
    world.run(bad).unwrap();
    let refused = world.run(add(claim(replica(2, 0))));
    let stale =
        |refusal: &Refusal| matches!(refusal, Refusal::StaleGenerations(stale) if stale[0].generation == Generation(1));
    assert!(refused.as_ref().is_err_and(stale), "{refused:?}");
    assert_eq!(world.run(add(claim(replica(2, 1)))), Ok(Reply::Done));
}

#[test]
fn a_restore_keeps_its_stanza() {
    let mut world = World::with_stanza();
    world.push(segment_to(1, vec![claim(replica(1, 0))])).unwrap();
    let restore = world.open_session(SessionKind::Restore);
    world
        .run(Command::StopStanza {
            stanza: stanza(),
            reason: "test".to_owned(),
        })
        .unwrap();
    let delete = |force| Command::DeleteStanza {
        stanza: stanza(),
        force,
    };
    let refused = world.run(delete(false)).unwrap_err();
    assert!(
        matches!(&refused, Refusal::RestoreRunning { session, .. } if *session == restore),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("of test"), "{refused}");
    assert!(!world.view().stanza(&stanza()).unwrap().unwrap().deleting);
    assert!(world.view().object(&segment_ref(1)).unwrap().is_some());
    assert_eq!(world.run(delete(true)), Ok(Reply::Deleting { more: false }));
    assert_eq!(world.view().session(restore).unwrap(), None);
}

#[test]
fn neither_the_lost_disk_nor_the_empty_one_takes_replicas_while_the_walk_goes_on() {
    let mut world = World::with_stanza();
    for segment in 1..=8 {
        world.push(segment_to(segment, vec![claim(replica(1, 0))])).unwrap();
    }
    let lost = claim_of(&world, replica(2, 0));
    let replace = Command::ReplaceRepository {
        repo: repo(2),
        uuid: "new".to_owned(),
        wrapped_keys: Vec::new(),
        node: "n1".parse().unwrap(),
    };
    assert_eq!(world.run(replace.clone()), Ok(Reply::Replacing { more: true }));
    let empty = claim_of(&world, replica(2, 0));
    let session = world.open_session(SessionKind::Repair);
    let add = |claim: &Claim| Command::AddReplicas {
        session,
        replicas: vec![NewReplica {
            object: segment_ref(8),
            digest: digest(8),
            claim: claim.clone(),
        }],
    };
    for claim in [&lost, &empty] {
        assert_eq!(world.run(add(claim)), Ok(Reply::Added { accepted: 0 }));
    }
    while world.run(replace.clone()).unwrap() != (Reply::Replacing { more: false }) {}
    // They are at the same place: only the identifier tells them apart.
    assert_eq!(lost.identity.placed, empty.identity.placed);
    assert_eq!(world.run(add(&lost)), Ok(Reply::Added { accepted: 0 }));
    assert_eq!(world.run(add(&empty)), Ok(Reply::Added { accepted: 1 }));
}
