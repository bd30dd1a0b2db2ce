//! Commands and views read as many rows as they are about, whatever else the catalog has.

use std::collections::BTreeMap;

use pgmesh_postgres::{TimelineId, WalFileName};
use pgmesh_storage::DbId;

use super::scenario::{World, begin, commit, digest, label, new_chunk, push_segment, replica, segment_name, stanza};
use super::{Base, Counting, Txn, Writes, apply, next_index};
use crate::command::{Command, Proposal};
use crate::model::{BackupRecord, LogIndex, RequestId, SessionId, SessionKind};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;
use crate::{key, limits, value, view::View};

const FILES: u32 = 1_000;
const BACKUPS: u32 = 500;

/// An archive of two timelines with histories and maps, and a backup for every second segment.
fn large() -> World {
    let mut world = World::with_stanza();
    let push = push_segment(1, 1, 1);
    world.push(push).unwrap();
    let row = key::segment(&stanza(), DbId(1), &segment_name(1, 1).to_string());
    let known = world.base.get(Table::Segments, &row).unwrap();
    let mut writes = Writes::new();
    for number in 2..FILES {
        let name = segment_name(1 + number / (FILES / 2), number);
        for file in [WalFileName::Segment(name), WalFileName::Map(name)] {
            let row = key::segment(&stanza(), DbId(1), &file.to_string());
            writes.insert((Table::Segments, row), known.clone());
        }
    }
    for timeline in 2..=9 {
        let file = WalFileName::History(TimelineId(timeline)).to_string();
        writes.insert(
            (Table::Segments, key::segment(&stanza(), DbId(1), &file)),
            known.clone(),
        );
    }
    let record = commit(SessionId(LogIndex(1)), "20250215-000000F", LogIndex(1)).record;
    for number in 0..BACKUPS {
        let timeline = TimelineId(1 + number / (BACKUPS / 2));
        let record = BackupRecord {
            timeline,
            ..record.clone()
        };
        let label = label(&format!("20250215-{number:06}F"));
        let row = key::timeline_backup(&stanza(), DbId(1), timeline, &label);
        writes.insert((Table::TimelineBackups, row), Some(value::encode(&())));
        let row = key::backup(&stanza(), &label);
        writes.insert((Table::Backups, row), Some(value::encode(&record)));
    }
    world.base.write(writes);
    world
}

/// How many rows a command reads.
fn cost(world: &World, command: Command) -> (Result<Reply, Refusal>, u64) {
    let base = Counting::new(&world.base);
    let mut txn = Txn::new(&base);
    let index = next_index(&txn).unwrap();
    let proposal = Proposal {
        id: RequestId([9; 16]),
        at: 1,
        actor: "test".to_owned(),
        command,
    };
    let outcome = apply(&mut txn, index, proposal).unwrap();
    (outcome, base.taken())
}

#[test]
fn a_backup_begins_at_the_same_cost_whatever_the_number_of_backups() {
    let mut world = large();
    let session = world.open_session(SessionKind::Backup);
    let (outcome, rows) = cost(&world, begin(session, "20250216-000000F"));
    assert_eq!(outcome, Ok(Reply::Done));
    assert!(rows < 20, "{rows} rows");
    let (outcome, _) = cost(&world, begin(session, &format!("20250215-{:06}F", BACKUPS - 1)));
    assert!(matches!(outcome, Err(Refusal::LabelNotLater { .. })), "{outcome:?}");
}

#[test]
fn a_view_reads_the_ends_of_what_it_is_asked_for() {
    let world = large();
    let base = Counting::new(&world.base);
    let view = View::new(&base);
    let bounds = view.segment_bounds(&stanza(), DbId(1)).unwrap();
    assert_eq!(bounds, Some((segment_name(1, 1), segment_name(2, FILES - 1))));
    let rows = base.taken();
    assert!(rows < 20, "{rows} rows for the first and the last segment");

    let newest = view.newest_backups(&stanza(), DbId(1)).unwrap();
    let newest: BTreeMap<u32, String> = newest
        .into_iter()
        .map(|(of, label, _)| (of.0, label.to_string()))
        .collect();
    let last = |number: u32| format!("20250215-{number:06}F");
    assert_eq!(
        newest,
        BTreeMap::from([(1, last(BACKUPS / 2 - 1)), (2, last(BACKUPS - 1))])
    );
    let rows = base.taken();
    assert!(rows < 10, "{rows} rows for two timelines");

    let back: Vec<_> = view
        .backups_back(&stanza(), None)
        .take(3)
        .map(|row| row.unwrap().0)
        .collect();
    assert_eq!(back, [1, 2, 3].map(|less| label(&last(BACKUPS - less))));
    assert_eq!(base.taken(), 3);
    let chain = label(&last(7));
    let chain: Vec<_> = view
        .backups_back(&stanza(), Some(&chain))
        .map(|row| row.unwrap().0)
        .collect();
    assert_eq!(chain, [label(&last(7))]);
    assert_eq!(base.taken(), 1);
}

/// A chunk in both repositories that no running backup has added.
fn with_chunks(numbers: std::ops::RangeInclusive<u8>) -> World {
    let mut world = World::with_stanza();
    world.push(push_segment(1, 1, 1)).unwrap();
    world.push(push_segment(1, 2, 2)).unwrap();
    let session = world.open_session(SessionKind::Backup);
    let both = [replica(1, 0), replica(2, 0)];
    let chunks = numbers.map(|number| new_chunk(number, &both)).collect();
    let add = Command::AddChunks {
        session,
        ack: 1,
        chunks,
    };
    world.run(add).unwrap();
    world.run(Command::CloseSession { session }).unwrap();
    world
}

const LABEL: &str = "20250216-000000F";

fn committed(world: &mut World, session: SessionId, ack: u16, checked_at: LogIndex) -> Result<Reply, Refusal> {
    let mut commit = commit(session, LABEL, checked_at);
    commit.ack = ack;
    commit.claims = super::scenario::claims(&[replica(1, 0), replica(2, 0)]);
    world.run(Command::CommitBackup(Box::new(commit)))
}

fn report(world: &mut World, object: crate::model::ObjectRef, number: u16) {
    let bad = super::scenario::damaged(object, replica(number, 0));
    world.run(bad).unwrap();
}

#[test]
fn invariant_4_a_withdrawn_replica_refuses_the_commits_that_want_more_than_is_left() {
    use crate::model::ObjectRef;
    let mut world = with_chunks(1..=1);
    let session = world.begin_backup(LABEL);
    let checked_at = world.applied();
    let chunk = || ObjectRef::Chunk(digest(1));
    report(&mut world, chunk(), 2);
    let wants_two = committed(&mut world, session, 2, checked_at);
    assert!(matches!(wants_two, Err(Refusal::Recheck { .. })), "{wants_two:?}");
    report(&mut world, chunk(), 1);
    let wants_one = committed(&mut world, session, 1, checked_at);
    assert!(matches!(wants_one, Err(Refusal::Recheck { .. })), "{wants_one:?}");
}

#[test]
fn a_commit_is_not_refused_for_what_harms_no_backup() {
    use crate::model::ObjectRef;
    let mut world = with_chunks(1..=1);
    let session = world.begin_backup(LABEL);
    let checked_at = world.applied();
    // A WAL file is looked at by the commit itself; of the chunk one replica is left.
    let file = WalFileName::Segment(segment_name(1, 1));
    let segment = ObjectRef::Segment {
        stanza: stanza(),
        db: DbId(1),
        file,
    };
    report(&mut world, segment, 2);
    report(&mut world, ObjectRef::Chunk(digest(1)), 2);
    assert_eq!(committed(&mut world, session, 1, checked_at), Ok(Reply::Done));
}

#[test]
fn invariant_5_a_suspected_chunk_is_condemned_unless_a_backup_took_it_back() {
    let mut world = with_chunks(1..=3);
    let session = world.begin_backup(LABEL);
    let checked_at = world.applied();
    let chunks = vec![digest(1), digest(2)];
    let suspect = Command::Suspect { chunks: chunks.clone() };
    let Ok(Reply::Suspected { since }) = world.run(suspect) else {
        panic!()
    };
    let unaware = committed(&mut world, session, 1, checked_at);
    assert!(matches!(unaware, Err(Refusal::Recheck { .. })), "{unaware:?}");
    // The backup looks again, and takes back the chunk that it names.
    let chunks_back = vec![super::scenario::condemned(1, since)];
    let reprieve = Command::Reprieve {
        session,
        chunks: chunks_back,
    };
    assert_eq!(world.run(reprieve), Ok(Reply::Reprieved { chunks: 1 }));
    let checked_at = world.applied();
    world.note_uses(session, LABEL, &[digest(1)]);
    assert_eq!(committed(&mut world, session, 1, checked_at), Ok(Reply::Done));
    // A commit does not stop a sweep: a chunk that the backup does not name is condemned.
    let condemn = Command::Condemn {
        chunks: vec![digest(1), digest(2), digest(3)],
        suspected: since,
    };
    assert_eq!(world.run(condemn.clone()), Ok(Reply::Condemned { chunks: 1 }));
    let there: Vec<bool> = world
        .view()
        .chunks(&[1, 2, 3].map(digest))
        .unwrap()
        .iter()
        .map(Option::is_some)
        .collect();
    assert_eq!(there, [true, false, true]);
    // Late, and after another sweep has begun, it condemns nothing.
    world
        .run(Command::Suspect {
            chunks: vec![digest(1)],
        })
        .unwrap();
    assert_eq!(world.run(condemn), Ok(Reply::Condemned { chunks: 0 }));
}

#[test]
fn what_was_withdrawn_is_known_as_long_as_there_is_room() {
    let mut world = with_chunks(1..=20);
    let start = world.applied();
    let withdrawn = |world: &World, after: LogIndex| {
        let view = world.view();
        let rows = view.withdrawn_after(after).unwrap()?;
        Some(rows.flat_map(Result::unwrap).collect::<Vec<_>>())
    };
    assert_eq!(withdrawn(&world, start), Some(vec![]));
    world
        .run(Command::Suspect {
            chunks: vec![digest(1), digest(2)],
        })
        .unwrap();
    let second = world.applied();
    world
        .run(Command::Suspect {
            chunks: vec![digest(3)],
        })
        .unwrap();
    assert_eq!(withdrawn(&world, start), Some(vec![digest(1), digest(2), digest(3)]));
    assert_eq!(withdrawn(&world, second), Some(vec![digest(3)]));
    let most = u8::try_from(limits::WITHDRAWN).unwrap() - 1;
    let chunks: Vec<_> = (4..4 + most).map(digest).collect();
    world.run(Command::Suspect { chunks: chunks.clone() }).unwrap();
    assert_eq!(withdrawn(&world, start), None, "the first row had to go");
    assert_eq!(
        withdrawn(&world, second).map(|known| known.len()),
        Some(1 + chunks.len())
    );
    assert_eq!(world.base.scan(Table::Withdrawn, &[], &[]).count(), 2);
}
