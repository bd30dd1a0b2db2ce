//! Commands that the catalog takes and commands that it refuses, one story each.

use pgmesh_postgres::{PgVersion, SystemId, WalFileName};
use pgmesh_storage::{DbId, Generation};

use super::scenario::*;
use crate::command::{Cluster, Command, CommitBackup, NewReplica, PushSegment};
use crate::model::{ChunkState, DebtReason, LogIndex, ObjectRef, Redemption, SessionKind, TokenId, TokenRole};
use crate::refusal::Refusal;
use crate::reply::Reply;

const FIRST: &str = "20250215-020001F";
const SECOND: &str = "20250216-020001F";

#[test]
fn nothing_before_the_mesh_is_founded() {
    let mut world = World::default();
    assert_eq!(world.run(register(1)), Err(Refusal::NoMesh));
    world.run(found("m")).unwrap();
    assert_eq!(world.run(found("m")), Ok(Reply::Done));
    assert!(matches!(world.run(found("n")), Err(Refusal::OtherMesh { .. })));
}

#[test]
fn a_node_keeps_its_name_and_number() {
    let mut world = World::empty();
    assert_eq!(world.run(register_node("n1", 1)), Ok(Reply::Done));
    assert!(matches!(
        world.run(register_node("n1", 2)),
        Err(Refusal::NodeTaken { .. })
    ));
    assert!(matches!(
        world.run(register_node("n2", 1)),
        Err(Refusal::NodeTaken { .. })
    ));
    assert_eq!(world.run(register_node("n2", 2)), Ok(Reply::Done));
}

#[test]
fn a_repository_declared_differently_is_refused_with_the_option() {
    let mut world = World::new();
    assert_eq!(world.run(register(1)), Ok(Reply::Done));
    let mut other = register(1);
    if let Command::RegisterRepository { definition, .. } = &mut other {
        definition.insert("path".to_owned(), "/elsewhere".to_owned());
    }
    assert_eq!(
        world.run(other),
        Err(Refusal::RepositoryDiffers {
            repo: repo(1),
            option: "path".to_owned(),
            known: Some("/r1".to_owned()),
            given: Some("/elsewhere".to_owned()),
        })
    );
    let mut elsewhere = register(1);
    if let Command::RegisterRepository { host, .. } = &mut elsewhere {
        *host = None;
    }
    let refusal = world.run(elsewhere).unwrap_err();
    assert!(refusal.to_string().contains("host=n1"), "{refusal}");
    let mut twice = register(1);
    if let Command::RegisterRepository { repo: number, .. } = &mut twice {
        *number = repo(3);
    }
    assert!(matches!(world.run(twice), Err(Refusal::RepositoryTaken { .. })));
}

#[test]
fn invariant_3_one_name_one_content() {
    let mut world = World::with_stanza();
    assert!(matches!(world.push(push_segment(1, 1, 1)), Ok(Reply::Pushed { .. })));
    assert!(matches!(
        world.push(push_segment(1, 1, 1)),
        Ok(Reply::AlreadyThere { .. })
    ));
    let before = world.view().segments(&stanza(), DbId(1), None).count();
    assert!(matches!(
        world.push(push_segment(1, 1, 2)),
        Err(Refusal::Duplicate { known, given, .. }) if known == digest(1) && given == digest(2)
    ));
    assert_eq!(world.view().segments(&stanza(), DbId(1), None).count(), before);
}

#[test]
fn a_push_to_one_repository_leaves_a_debt_that_another_push_settles() {
    let mut world = World::with_stanza();
    let mut push = push_segment(1, 1, 1);
    push.object.claims = claims(&[replica(1, 0)]);
    world.push(push).unwrap();
    let debts = |world: &World| world.view().debts(repo(2), None).count();
    // The other is the stanza information.
    assert_eq!(debts(&world), 2);
    let counters = world.view().counters(repo(2)).unwrap();
    assert_eq!((counters.debts, counters.debt_bytes), (2, SIZE / 2 + 50));
    world.push(push_segment(1, 1, 1)).unwrap();
    assert_eq!(debts(&world), 1);
    assert_eq!(world.view().counters(repo(2)).unwrap().objects, 1);
}

#[test]
fn invariant_1_too_few_replicas_are_not_acknowledged() {
    let mut world = World::with_stanza();
    let push = PushSegment {
        ack: 3,
        ..push_segment(1, 1, 1)
    };
    assert_eq!(world.push(push), Err(Refusal::TooFewReplicas { have: 2, need: 3 }));
    assert_eq!(world.view().segments(&stanza(), DbId(1), None).count(), 0);
    assert!(world.view().stanza(&stanza()).unwrap().unwrap().writers.is_empty());
}

#[test]
fn a_stopped_stanza_takes_nothing() {
    let mut world = World::with_stanza();
    let stop = Command::StopStanza {
        stanza: stanza(),
        reason: "maintenance".to_owned(),
    };
    world.run(stop).unwrap();
    let refusal = world.push(push_segment(1, 1, 1)).unwrap_err();
    assert!(refusal.to_string().contains("maintenance"), "{refusal}");
    world.run(Command::StartStanza { stanza: stanza() }).unwrap();
    world.push(push_segment(1, 1, 1)).unwrap();
}

#[test]
fn a_stanza_is_created_once_and_upgraded() {
    let mut world = World::with_stanza();
    assert_eq!(world.run(create_stanza(7)), Ok(Reply::Database(DbId(1))));
    assert!(matches!(
        world.run(create_stanza(8)),
        Err(Refusal::SystemIdDiffers { .. })
    ));
    world.push(push_segment(1, 1, 1)).unwrap();
    let upgrade = |system_id| Command::UpgradeStanza {
        stanza: stanza(),
        cluster: Cluster {
            version: PgVersion::V17,
            ..cluster(system_id)
        },
        info: claimed(201, 100, &[replica(1, 0)]),
        checked_at: LogIndex(0),
    };
    assert!(matches!(world.run(upgrade(7)), Err(Refusal::VersionDiffers { .. })));
    assert_eq!(world.run(upgrade(9)), Ok(Reply::Database(DbId(2))));
    assert_eq!(world.run(upgrade(9)), Ok(Reply::Database(DbId(2))));
    assert!(matches!(
        world.push(push_segment(1, 1, 1)),
        Err(Refusal::SystemIdDiffers { .. })
    ));
    let pushed = world.push(PushSegment {
        system_id: SystemId(9),
        server: server("new", 1, &[]),
        ..push_segment(1, 1, 3)
    });
    assert!(matches!(pushed, Ok(Reply::Pushed { .. })));
}

#[test]
fn invariant_7_a_cluster_that_comes_back_after_an_upgrade_keeps_its_histories() {
    let mut world = World::with_stanza();
    world.push(push_history(2, &[(1, 0x0800_0100)])).unwrap();
    world.push(push_segment(2, 8, 1)).unwrap();
    let upgrade = |number, system_id| Command::UpgradeStanza {
        stanza: stanza(),
        cluster: cluster(system_id),
        info: claimed(number, 100, &[replica(1, 0)]),
        checked_at: LogIndex(0),
    };
    let known = |world: &World, db| {
        let record = world.view().stanza(&stanza()).unwrap().unwrap();
        record
            .histories_of(DbId(db))
            .map(|(timeline, _)| timeline.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(world.run(upgrade(201, 9)), Ok(Reply::Database(DbId(2))));
    assert_eq!((known(&world, 1), known(&world, 2)), (vec![2], vec![]));
    assert_eq!(world.run(upgrade(202, 7)), Ok(Reply::Database(DbId(3))));
    assert_eq!((known(&world, 1), known(&world, 3)), (vec![2], vec![2]));
    // It goes on where it was, as the same writer of the same timeline.
    assert!(matches!(world.push(push_segment(2, 9, 2)), Ok(Reply::Pushed { .. })));
}

#[test]
fn a_deleted_stanza_leaves_only_garbage() {
    let mut world = World::with_stanza();
    world.push(push_segment(1, 1, 1)).unwrap();
    let delete = || Command::DeleteStanza {
        stanza: stanza(),
        force: false,
    };
    assert_eq!(world.run(delete()), Err(Refusal::StanzaNotStopped(stanza())));
    let stop = Command::StopStanza {
        stanza: stanza(),
        reason: "gone".to_owned(),
    };
    world.run(stop).unwrap();
    assert_eq!(world.run(delete()), Ok(Reply::Deleting { more: false }));
    assert_eq!(world.run(delete()), Err(Refusal::UnknownStanza(stanza())));
    let view = world.view();
    assert_eq!(view.garbage(None).count(), 2);
    assert_eq!(view.debts(repo(1), None).count() + view.debts(repo(2), None).count(), 0);
    assert_eq!(view.counters(repo(1)).unwrap().objects, 0);
    // The name is free again, under other object names, and a push from before must not count its replicas.
    world.run(create_stanza(7)).unwrap();
    let old = Command::PushSegment(Box::new(push_segment(1, 1, 1)));
    assert!(matches!(world.run(old), Err(Refusal::Recheck { .. })));
    assert!(matches!(
        world.push(push_segment(1, 1, 1)),
        Err(Refusal::StaleGenerations(stale)) if stale[0].generation == Generation(1)
    ));
}

#[test]
fn invariant_4_a_backup_needs_its_wal_and_a_fresh_check() {
    let mut world = World::with_stanza();
    world.push(push_segment(1, 1, 1)).unwrap();
    // Left by a backup that was killed.
    let killed = world.open_session(SessionKind::Backup);
    let chunks = vec![new_chunk(1, &[replica(1, 0)])];
    world
        .run(Command::AddChunks {
            session: killed,
            ack: 1,
            chunks,
        })
        .unwrap();
    world.run(Command::CloseSession { session: killed }).unwrap();
    let session = world.begin_backup(FIRST);
    let checked_at = world.applied();
    let run = |world: &mut World, commit: CommitBackup| world.run(Command::CommitBackup(Box::new(commit)));
    assert!(matches!(
        run(&mut world, commit(session, FIRST, checked_at)),
        Err(Refusal::WalMissing { segment, .. }) if segment == segment_name(1, 2)
    ));
    world.push(push_segment(1, 2, 2)).unwrap();
    world.condemn(vec![digest(1)]).unwrap();
    assert!(matches!(
        run(&mut world, commit(session, FIRST, checked_at)),
        Err(Refusal::Recheck { .. })
    ));
    let checked_at = world.applied();
    let greedy = CommitBackup {
        ack: 2,
        ..commit(session, FIRST, checked_at)
    };
    assert!(matches!(run(&mut world, greedy), Err(Refusal::TooFewReplicas { .. })));
    assert_eq!(run(&mut world, commit(session, FIRST, checked_at)), Ok(Reply::Done));
    assert_eq!(run(&mut world, commit(session, FIRST, checked_at)), Ok(Reply::Done));
    assert!(world.view().stanza(&stanza()).unwrap().unwrap().backup.is_none());
}

#[test]
fn one_backup_at_a_time_and_labels_go_up() {
    let mut world = World::with_stanza();
    world.push(push_segment(1, 1, 1)).unwrap();
    world.push(push_segment(1, 2, 2)).unwrap();
    let first = world.begin_backup(SECOND);
    let second = world.open_session(SessionKind::Backup);
    assert!(matches!(
        world.run(begin(second, SECOND)),
        Err(Refusal::BackupRunning { .. })
    ));
    world
        .run(Command::ExpireSession {
            session: first,
            lease: None,
            reason: "gone".to_owned(),
        })
        .unwrap();
    world.run(begin(second, SECOND)).unwrap();
    let checked_at = world.applied();
    let late = commit(first, SECOND, checked_at);
    let late = world.run(Command::CommitBackup(Box::new(late)));
    assert_eq!(late, Err(Refusal::SessionEnded(first)));
    let good = commit(second, SECOND, checked_at);
    world.run(Command::CommitBackup(Box::new(good))).unwrap();
    let third = world.open_session(SessionKind::Backup);
    assert!(matches!(
        world.run(begin(third, FIRST)),
        Err(Refusal::LabelNotLater { .. })
    ));
    let remove = Command::RemoveBackup {
        stanza: stanza(),
        label: label(SECOND),
    };
    world.run(remove).unwrap();
    assert_eq!(world.view().backups(&stanza(), None).count(), 0);
    let index = super::Base::scan(&world.base, crate::table::Table::TimelineBackups, &[], &[]);
    assert_eq!(index.count(), 0, "it left the index of its timeline");
    let earlier = world.run(begin(third, FIRST));
    assert!(
        matches!(earlier, Err(Refusal::LabelNotLater { .. })),
        "labels order the uses of chunks"
    );
}

#[test]
fn invariant_5_what_a_session_may_use_is_not_forgotten() {
    let mut world = World::with_stanza();
    let killed = world.open_session(SessionKind::Backup);
    let chunks = vec![new_chunk(1, &[replica(1, 0), replica(2, 0)])];
    world
        .run(Command::AddChunks {
            session: killed,
            ack: 1,
            chunks,
        })
        .unwrap();
    let condemn = |world: &mut World| world.condemn(vec![digest(1)]);
    // While the backup runs that has added the chunk, the catalog cannot tell whether it refers to it.
    let nothing = condemn(&mut world);
    assert_eq!(nothing, Ok(Reply::Condemned { chunks: 0 }));
    let writer = world.open_session(SessionKind::Backup);
    world.run(Command::CloseSession { session: killed }).unwrap();
    condemn(&mut world).unwrap();
    assert_eq!(world.view().chunks(&[digest(1)]).unwrap(), [None]);
    let since = world.view().condemned(None).next().unwrap().unwrap().1;
    assert!(!world.view().may_delete(since).unwrap());
    let forget = || Command::Forget {
        chunks: vec![condemned(1, since)],
        kept: Vec::new(),
    };
    assert_eq!(
        world.run(forget()),
        Err(Refusal::SessionOpen { session: writer, since })
    );
    // Uploading it again makes a new generation; the old one is refused.
    let again = |generation| vec![new_chunk(1, &[replica(1, generation)])];
    let stale = world.run(Command::AddChunks {
        session: writer,
        ack: 1,
        chunks: again(0),
    });
    assert!(matches!(stale, Err(Refusal::StaleGenerations(_))));
    let states = world.view().chunk_states(&[digest(1)]).unwrap();
    assert_eq!(
        states,
        [ChunkState::Absent {
            generation: Generation(1)
        }]
    );
    world
        .run(Command::AddChunks {
            session: writer,
            ack: 1,
            chunks: again(1),
        })
        .unwrap();
    world.run(forget()).unwrap();
    let known = world.view().chunks(&[digest(1)]).unwrap();
    assert_eq!(known[0].as_ref().unwrap().replicas, [replica(1, 1)]);
    let garbage: Vec<_> = world.view().garbage(None).map(garbage_object).collect();
    assert_eq!(garbage.len(), 2);
    let forget_garbage = || Command::ForgetGarbage {
        garbage: garbage.clone(),
    };
    assert!(matches!(world.run(forget_garbage()), Err(Refusal::SessionOpen { .. })));
    world.run(Command::CloseSession { session: writer }).unwrap();
    assert!(world.view().may_delete(since).unwrap());
    world.run(forget_garbage()).unwrap();
    assert_eq!(world.view().garbage(None).count(), 0);
    let after = world.run(Command::AddChunks {
        session: writer,
        ack: 1,
        chunks: again(1),
    });
    assert_eq!(after, Err(Refusal::SessionEnded(writer)));
}

#[test]
fn invariant_6_a_bad_replica_is_owed_under_another_name() {
    let mut world = World::with_stanza();
    world.push(push_segment(1, 1, 1)).unwrap();
    let object = ObjectRef::Segment {
        stanza: stanza(),
        db: DbId(1),
        file: WalFileName::Segment(segment_name(1, 1)),
    };
    let report = || Command::ReportBad {
        object: object.clone(),
        bad: claim(replica(1, 0)),
        reason: DebtReason::Damaged,
        what: "wrong tag".to_owned(),
    };
    assert_eq!(world.run(report()), Ok(Reply::Withdrawn { remaining: 1 }));
    assert_eq!(world.run(report()), Ok(Reply::Withdrawn { remaining: 1 }));
    let debt = world.view().debt(repo(1), &object).unwrap().unwrap();
    assert_eq!((debt.reason, debt.generation), (DebtReason::Damaged, Generation(1)));
    let session = world.open_session(SessionKind::Repair);
    let add = |generation| Command::AddReplicas {
        session,
        replicas: vec![NewReplica {
            object: object.clone(),
            digest: digest(1),
            claim: claim(replica(1, generation)),
        }],
    };
    assert_eq!(world.run(add(0)), Ok(Reply::Added { accepted: 0 }));
    assert_eq!(world.run(add(1)), Ok(Reply::Added { accepted: 1 }));
    assert_eq!(world.view().debt(repo(1), &object).unwrap(), None);
    let known = world.view().object(&object).unwrap().unwrap();
    assert_eq!(known.replicas, [replica(1, 1), replica(2, 0)]);
    // Pushing the segment again does not bring the bad replica back.
    world.push(push_segment(1, 1, 1)).unwrap();
    assert_eq!(world.view().object(&object).unwrap().unwrap(), known);
}

#[test]
fn a_new_repository_is_owed_everything() {
    let mut world = World::with_stanza();
    world.push(push_segment(1, 1, 1)).unwrap();
    world.run(register(3)).unwrap();
    world.push(push_segment(1, 2, 2)).unwrap();
    assert_eq!(world.view().debts(repo(3), None).count(), 1);
    assert_eq!(
        world.run(Command::Backfill { repo: repo(3) }),
        Ok(Reply::Backfilled { debts: 2, more: false })
    );
    assert_eq!(world.view().debts(repo(3), None).count(), 3);
    let record = world.view().repository(repo(3)).unwrap().unwrap();
    assert!(record.backfill.is_none());
}

#[test]
fn a_token_is_good_once_and_in_time() {
    let mut world = World::empty();
    let id = TokenId([1; 16]);
    let create = |id, expires| create_token(id, TokenRole::Admin, expires);
    let redeem = |id, hash, request| Command::RedeemToken {
        redemption: Redemption {
            secret_hash: [hash; 32],
            ..redemption(id, request, request)
        },
        name: "x".to_owned(),
    };
    let joined = || {
        Ok(Reply::Joined {
            certificate: vec![1; 3],
            node_id: None,
        })
    };
    world.run(create(id, 100)).unwrap();
    assert_eq!(world.run(redeem(TokenId([2; 16]), 9, 1)), Err(Refusal::TokenUnknown));
    assert_eq!(world.run(redeem(id, 8, 1)), Err(Refusal::TokenUnknown));
    assert_eq!(world.run(redeem(id, 9, 1)), joined());
    assert!(matches!(world.run(redeem(id, 9, 2)), Err(Refusal::TokenUsed { .. })));
    let late = TokenId([3; 16]);
    world.run(create(late, 100)).unwrap();
    world.at = 200;
    assert_eq!(
        world.run(redeem(late, 9, 1)),
        Err(Refusal::TokenExpired { expires: 100 })
    );
    assert_eq!(world.run(redeem(id, 9, 1)), joined(), "the first request, once more");
    assert!(world.view().audit(LogIndex(0)).count() >= 4);
}

#[test]
fn a_backup_may_go_though_a_later_one_was_compared_with_it() {
    let mut world = World::with_stanza();
    world.push(push_segment(1, 1, 1)).unwrap();
    world.push(push_segment(1, 2, 2)).unwrap();
    let first = world.begin_backup(FIRST);
    let checked_at = world.applied();
    let full = commit(first, FIRST, checked_at);
    world.run(Command::CommitBackup(Box::new(full))).unwrap();
    let second = world.open_session(SessionKind::Backup);
    world.run(begin(second, SECOND)).unwrap();
    let remove = Command::RemoveBackup {
        stanza: stanza(),
        label: label(FIRST),
    };
    // Also while the later one is under way: its chunks are looked up at its commit.
    world.run(remove).unwrap();
    let checked_at = world.applied();
    let mut incr = commit(second, SECOND, checked_at);
    incr.record.prior = Some(label(FIRST));
    world.run(Command::CommitBackup(Box::new(incr))).unwrap();
    assert_eq!(world.view().backups(&stanza(), None).count(), 1);
}

#[test]
fn a_chunk_of_which_a_rebuilt_catalog_knows_only_a_part_is_known_in_whole_when_it_comes_again() {
    let mut world = World::with_stanza();
    let session = world.open_session(SessionKind::Backup);
    let mut add = |length| {
        let mut chunk = new_chunk(1, &[replica(1, 0)]);
        chunk.length = length;
        world.run(Command::AddChunks {
            session,
            ack: 1,
            chunks: vec![chunk],
        })
    };
    add(100).unwrap();
    add(120).unwrap();
    assert_eq!(
        add(100),
        Err(Refusal::LengthDiffers {
            digest: digest(1),
            known: 120,
            given: 100,
        })
    );
}
