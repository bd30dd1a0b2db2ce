//! No command makes a record that cannot be read, however large its fields are.

use std::collections::{BTreeMap, BTreeSet};

use pgmesh_postgres::{Lsn, TimelineId};
use pgmesh_storage::{DbId, Digest, wire};
use proptest::prelude::*;

use super::scenario::{
    World, begin, claim, claimed, claims, commit, create_stanza, digest, label, new_chunk, push_history, push_segment,
    redemption, replica, repo, stanza,
};
use super::{Base, MemoryBase};
use crate::command::{AdmitNode, Adopt, AdoptedFile, Command, NewReplica, Proposal, PushSegment};
use crate::model::{
    AuditRecord, BackupRecord, Branch, CertificateRecord, ChunkRecord, Debt, DebtReason, Garbage, GarbageKey,
    GarbageObject, HistoryRecord, Lineage, LogIndex, NodeRecord, ObjectRef, Redemption, Remembered, RepositoryRecord,
    RequestId, Revocation, SegmentRecord, SessionKind, SessionRecord, StanzaRecord, TokenId, TokenRecord, TokenRole,
    Writer,
};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;
use crate::{key, limits, value};

const LABEL: &str = "20250215-020001F";

fn world() -> World {
    let mut world = World::with_stanza();
    world.push(push_segment(1, 1, 1)).unwrap();
    world.push(push_segment(1, 2, 2)).unwrap();
    let session = world.begin_backup(LABEL);
    let commit = commit(session, LABEL, world.applied());
    world.run(Command::CommitBackup(Box::new(commit))).unwrap();
    world
}

fn annotate(annotations: BTreeMap<String, String>) -> Command {
    Command::Annotate {
        stanza: stanza(),
        label: label(LABEL),
        annotations,
    }
}

/// Decodes every row as a record of its table.
fn read_all(base: &MemoryBase) {
    fn read<T: serde::de::DeserializeOwned>(base: &MemoryBase, table: Table) {
        for row in base.scan(table, &[], &[]) {
            let (key, bytes) = row.unwrap();
            assert!(bytes.len() <= limits::RECORD, "{} bytes in {table}", bytes.len());
            value::decode::<T>(table, &key, &bytes).unwrap();
        }
    }
    read::<NodeRecord>(base, Table::Nodes);
    read::<RepositoryRecord>(base, Table::Repositories);
    read::<StanzaRecord>(base, Table::Stanzas);
    read::<SegmentRecord>(base, Table::Segments);
    read::<ChunkRecord>(base, Table::Chunks);
    read::<Vec<Digest>>(base, Table::Withdrawn);
    read::<BackupRecord>(base, Table::Backups);
    read::<Debt>(base, Table::Debts);
    read::<Garbage>(base, Table::Garbage);
    read::<SessionRecord>(base, Table::Sessions);
    read::<TokenRecord>(base, Table::Tokens);
    read::<CertificateRecord>(base, Table::Certificates);
    read::<[u8; 32]>(base, Table::TokenMakers);
    read::<Revocation>(base, Table::RevokedNames);
    read::<AuditRecord>(base, Table::Audit);
    read::<Remembered>(base, Table::Requests);
}

#[test]
fn eleven_large_annotations_are_refused_and_the_backup_stays_readable() {
    let mut world = world();
    for call in 0..11 {
        let annotations = (0..15).map(|number| (format!("key-{call}-{number}"), "x".repeat(120_000)));
        let refused = world.run(annotate(annotations.collect()));
        assert!(matches!(refused, Err(Refusal::BeyondLimit { .. })), "{refused:?}");
    }
    // Small ones, many times, come to their bound as well, and go away again.
    let mut refused = 0;
    for number in 0..300 {
        let one = BTreeMap::from([(format!("key-{number}"), "y".repeat(100))]);
        refused += u32::from(world.run(annotate(one)).is_err());
    }
    assert!(refused > 100);
    let known = world.view().backup(&stanza(), &label(LABEL)).unwrap().unwrap();
    assert_eq!(known.annotations.len(), limits::ANNOTATIONS);
    let gone = known.annotations.keys().map(|key| (key.clone(), String::new()));
    world.run(annotate(gone.collect())).unwrap();
    read_all(&world.base);
}

#[test]
fn the_audit_trail_keeps_its_newest_lines() {
    let mut world = world();
    let line = |number: u8| Command::Audit {
        what: format!("line {number}"),
    };
    let trail = |world: &World| -> Vec<String> {
        let rows = world.view().audit(LogIndex(0)).collect::<Vec<_>>();
        rows.into_iter().map(|row| row.unwrap().1.what).collect()
    };
    world.run(line(1)).unwrap();
    let before = trail(&world);
    // As so many commands would have left it.
    let full = (
        (Table::Mesh, key::AUDIT_LINES.to_vec()),
        Some(value::encode(&limits::AUDIT_LINES)),
    );
    world.base.write([full].into());
    world.run(line(2)).unwrap();
    world.run(Command::StartStanza { stanza: stanza() }).unwrap();
    world.run(line(3)).unwrap();
    let after = trail(&world);
    assert_eq!(after.len(), before.len());
    assert_eq!(after[after.len() - 2..], ["line 2", "line 3"]);
    assert_eq!(after[0], before[2], "the oldest ones went");
}

#[test]
fn what_grows_by_many_small_commands_is_bounded() {
    let mut world = world();
    let limit = u32::try_from(limits::TIMELINES).unwrap();
    let adopt = |timeline: u32| Command::AdoptWriter {
        stanza: stanza(),
        timeline: TimelineId(timeline),
        instance: "i".repeat(limits::INSTANCE),
        machine: "m".repeat(limits::MACHINE),
    };
    // As so many commands would have left it.
    let mut record = world.view().stanza(&stanza()).unwrap().unwrap();
    let actor = "a".repeat(limits::WRITER_HOST);
    let writer = Writer::new(
        "i".repeat(limits::INSTANCE),
        "m".repeat(limits::MACHINE),
        LogIndex(1),
        &actor,
    );
    let timelines = (1..limit).map(TimelineId);
    record.writers = timelines.map(|timeline| (timeline, writer.clone())).collect();
    put_stanza(&mut world, &record);
    world.run(adopt(limit)).unwrap();
    world.run(adopt(limit + 1)).unwrap();
    let record = world.view().stanza(&stanza()).unwrap().unwrap();
    assert_eq!(record.writers.len(), limits::TIMELINES);
    // There is still room for the records of an ordinary cluster.
    let session = world.begin_backup("20250215-020002F");
    world.run(Command::CloseSession { session }).unwrap();
    read_all(&world.base);
}

fn put_stanza(world: &mut World, record: &StanzaRecord) {
    let row = ((Table::Stanzas, b"main".to_vec()), Some(value::encode(record)));
    world.base.write(std::iter::once(row).collect());
}

fn other_writer(mut push: PushSegment) -> PushSegment {
    push.server.instance = "another".to_owned();
    push
}

/// Nightly restore tests that archive by mistake use up timeline after timeline. The primary, on an old one, goes on.
#[test]
fn invariant_12_no_number_of_timelines_stops_an_archiver() {
    let mut world = world();
    let limit = u32::try_from(limits::TIMELINES).unwrap();
    let mut record = world.view().stanza(&stanza()).unwrap().unwrap();
    // The primary writes timeline 1; the tests have left it again and again.
    let history = |timeline: u32| HistoryRecord {
        digest: Digest([7; 32]),
        branches: vec![Branch {
            parent: TimelineId(1),
            switch: Lsn(u64::from(timeline) << 28),
        }],
        since: LogIndex(1),
    };
    record.histories = (2..limit)
        .map(|timeline| (TimelineId(timeline), history(timeline)))
        .collect();
    let writer = |timeline: u32| Writer::new(format!("test {timeline}"), String::new(), LogIndex(1), "test");
    record
        .writers
        .extend((2..limit).map(|timeline| (TimelineId(timeline), writer(timeline))));
    // It was bound before any of them.
    let primary = Writer::new("a".to_owned(), String::new(), LogIndex(1), "test");
    record.writers.insert(TimelineId(1), primary);
    put_stanza(&mut world, &record);
    for timeline in limit..limit + 20 {
        world.push(push_segment(1, timeline, 4)).unwrap();
        world
            .push(push_history(timeline, &[(1, u64::from(timeline) << 28)]))
            .unwrap();
        world.push(other_writer(push_segment(timeline, timeline, 3))).unwrap();
    }
    let record = world.view().stanza(&stanza()).unwrap().unwrap();
    assert!(record.histories.len().max(record.writers.len()) <= limits::TIMELINES);
    let primary = &record.writers[&TimelineId(1)];
    assert_eq!(primary.since, LogIndex(1), "what is written to is not forgotten");
    assert!(
        !record.writers.contains_key(&TimelineId(2)),
        "the one that was silent longest is"
    );
    let mut clone = push_segment(1, 4, 5);
    clone.server.instance = "clone".to_owned();
    let clone = world.push(clone);
    assert!(matches!(clone, Err(Refusal::OtherWriter(_))), "{clone:?}");
    // A forgotten timeline still counts as known, and belongs to the next instance that pushes.
    world.push(other_writer(push_segment(2, 1, 6))).unwrap();
    world.push(push_segment(limit + 20, 1, 7)).unwrap_err();
    read_all(&world.base);
}

/// A cluster that is promoted again and again: each history repeats all before it.
#[test]
fn invariant_12_no_length_of_a_history_stops_an_archiver() {
    let mut world = world();
    let lines = u32::try_from(limits::LINES).unwrap();
    let all: Vec<(u32, u64)> = (1..lines + 60)
        .map(|parent| (parent, u64::from(parent) << 28))
        .collect();
    // As the node proposes it: the newest lines.
    let newest = |timeline: u32| {
        let lines = &all[..usize::try_from(timeline).unwrap() - 1];
        &lines[lines.len().saturating_sub(limits::LINES)..]
    };
    for timeline in lines - 3..lines + 50 {
        world.push(push_history(timeline, newest(timeline))).unwrap();
        world.push(push_segment(timeline, timeline, 1)).unwrap();
    }
    let row = world.base.get(Table::Stanzas, b"main").unwrap().unwrap();
    assert!(
        row.len() < limits::RECORD / 16,
        "{} bytes: each takes a line",
        row.len()
    );
    read_all(&world.base);
    // A history with another past is refused as before, as far as its lines are known.
    let mut foreign = newest(lines + 50).to_vec();
    let middle = foreign.len() / 2;
    foreign[middle].1 += 8;
    let refused = world.push(push_history(lines + 50, &foreign));
    assert!(
        matches!(refused, Err(Refusal::HistoryContradicts { .. })),
        "{refused:?}"
    );
    world.push(push_history(lines + 50, newest(lines + 50))).unwrap();
}

/// Databases that a cluster had before take room, too. `make_room` makes the record small enough, even if the histories
/// take the most room.
#[test]
fn a_stanza_always_has_room_for_its_next_timeline() {
    let mut record = world().view().stanza(&stanza()).unwrap().unwrap();
    let branch = |parent: u32| Branch {
        parent: TimelineId(parent),
        switch: Lsn(u64::from(parent) << 40),
    };
    let branches: Vec<Branch> = (1..=u32::try_from(limits::LINES).unwrap()).map(branch).collect();
    // Histories of which none repeats another: their parents are not known.
    let history = |timeline: u32| HistoryRecord {
        digest: Digest([7; 32]),
        branches: branches.clone(),
        since: LogIndex(u64::from(timeline)),
    };
    record.histories = (5000..6500)
        .map(|timeline| (TimelineId(timeline), history(timeline)))
        .collect();
    let past = Lineage {
        writers: BTreeMap::new(),
        histories: (5000..6500)
            .map(|timeline| (TimelineId(timeline), history(1)))
            .collect(),
        forgotten: None,
    };
    record.past = BTreeMap::from([(DbId(1), past)]);
    record.make_room();
    assert!(value::encode(&record).len() <= limits::STANZA);
    assert!(record.histories.contains_key(&TimelineId(6499)));
    let past = &record.past[&DbId(1)];
    assert!(
        past.histories.len() < 10 && past.forgotten > Some(TimelineId(6400)),
        "nothing was heard of it for longest"
    );
}

/// An ordinary cluster that fails over again and again is not stopped: archiving goes on with every timeline.
#[test]
fn hundreds_of_promotions_are_archived() {
    let mut world = world();
    let mut branches = Vec::new();
    for timeline in 2..300_u32 {
        branches.push((timeline - 1, u64::from(timeline) << 28));
        world.push(push_history(timeline, &branches)).unwrap();
    }
    world.push(push_segment(299, 1, 9)).unwrap();
    let row = world.base.get(Table::Stanzas, b"main").unwrap().unwrap();
    assert!(row.len() < limits::RECORD / 8, "{} bytes", row.len());
    let record = world.view().stanza(&stanza()).unwrap().unwrap();
    assert_eq!(record.histories[&TimelineId(299)].branches.len(), 298);
}

#[test]
fn a_request_that_comes_again_with_another_command_is_refused() {
    let mut world = world();
    let id = RequestId([7; 16]);
    let note = |text: &str| Command::Audit { what: text.to_owned() };
    assert_eq!(world.run_as(id, note("one")), Ok(Reply::Done));
    let lines = world.view().audit(LogIndex(0)).count();
    assert_eq!(world.run_as(id, note("two")), Err(Refusal::OtherRequest(id)));
    // The first command's answer stays.
    assert_eq!(world.run_as(id, note("one")), Ok(Reply::Done));
    assert_eq!(world.view().audit(LogIndex(0)).count(), lines);
}

fn text() -> impl Strategy<Value = String> {
    let length = prop_oneof![
        8 => 0_usize..40,
        8 => 100_usize..5_000,
        4 => Just(120_000),
        1 => Just(2 << 20)
    ];
    (length, any::<char>()).prop_map(|(length, letter)| {
        let count = length / letter.len_utf8();
        letter.to_string().repeat(count)
    })
}

fn texts() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map(text(), text(), 0..6)
}

fn count() -> impl Strategy<Value = usize> {
    prop_oneof![0_usize..5, 200_usize..400, Just(5_000), Just(20_000)]
}

/// Commands whose texts and lists are as large as anyone may send them.
fn command() -> impl Strategy<Value = Command> {
    let whole = Just(()).boxed();
    prop_oneof![
        texts().prop_map(annotate),
        text().prop_map(|reason| Command::StopStanza {
            stanza: stanza(),
            reason
        }),
        whole.prop_map(|()| Command::StartStanza { stanza: stanza() }),
        (1_u32..5000, text()).prop_map(|(timeline, instance)| Command::AdoptWriter {
            stanza: stanza(),
            timeline: TimelineId(timeline),
            instance: instance.clone(),
            machine: instance,
        }),
        text().prop_map(|holder| Command::OpenSession {
            kind: SessionKind::Backup,
            stanza: Some(stanza()),
            holder,
            node: "n1".parse().unwrap(),
            resume_key: None
        }),
        (text(), text(), count()).prop_map(|(region, program, count)| Command::AdmitNode(Box::new(AdmitNode {
            redemption: redemption(TokenId([2; 16]), 2, 2),
            name: "n2".parse().unwrap(),
            region,
            advertise: vec!["host:1".to_owned(); count],
            key: [2; 32],
            administrator: [3; 32],
            program,
            catalog_format: crate::MeshRecord::CATALOG_FORMAT
        }))),
        (texts(), text()).prop_map(|(definition, uuid)| Command::RegisterRepository {
            repo: repo(3),
            definition,
            host: None,
            uuid,
            wrapped_keys: Vec::new(),
            node: "n1".parse().unwrap()
        }),
        texts().prop_map(|definition| Command::UpdateRepository {
            repo: repo(2),
            definition: Some(definition),
            host: None,
            wrapped_keys: None
        }),
        (2_u32..4000, count()).prop_map(|(timeline, count)| {
            let mut push = push_history(timeline, &[]);
            let branch = |parent: usize| Branch {
                parent: TimelineId(u32::try_from(parent).unwrap()),
                switch: Lsn(u64::MAX),
            };
            push.branches = (1..=count).map(branch).collect();
            push.checked_at = LogIndex(1 << 40);
            Command::PushSegment(Box::new(push))
        }),
        text().prop_map(|instance| {
            let mut push = push_segment(1, 3, 3);
            push.server.instance = instance;
            push.checked_at = LogIndex(1 << 40);
            Command::PushSegment(Box::new(push))
        }),
        count().prop_map(|count| {
            let mut push = push_segment(1, 4, 4);
            push.object.claims = vec![claim(replica(1, 0)); count];
            push.checked_at = LogIndex(1 << 40);
            Command::PushSegment(Box::new(push))
        }),
        count().prop_map(|count| Command::AddChunks {
            session: crate::SessionId(LogIndex(8)),
            ack: 1,
            chunks: vec![new_chunk(1, &[replica(1, 0)]); count]
        }),
        count().prop_map(|count| Command::Suspect {
            chunks: vec![digest(1); count]
        }),
        count().prop_map(|count| Command::Condemn {
            chunks: vec![digest(1); count],
            suspected: LogIndex(1 << 40)
        }),
        count().prop_map(|count| {
            let key = GarbageKey {
                object: ObjectRef::Chunk(Digest([9; 32])),
                repo: repo(1),
                generation: pgmesh_storage::Generation(0),
            };
            let garbage = GarbageObject {
                key,
                since: LogIndex(1),
            };
            Command::KeepGarbage {
                garbage: vec![garbage; count],
            }
        }),
        count().prop_map(|count| {
            let new = NewReplica {
                object: ObjectRef::Chunk(digest(1)),
                digest: digest(1),
                claim: claim(replica(2, 0)),
            };
            Command::AddReplicas {
                session: crate::SessionId(LogIndex(8)),
                replicas: vec![new; count],
            }
        }),
        text().prop_map(|what| Command::ReportBad {
            object: ObjectRef::Manifest {
                stanza: stanza(),
                label: label(LABEL)
            },
            bad: claim(replica(1, 0)),
            reason: DebtReason::Damaged,
            what
        }),
        count().prop_map(|count| Command::CreateToken {
            id: TokenId([1; 16]),
            secret_hash: [1; 32],
            role: TokenRole::Client {
                stanzas: vec![stanza(); count]
            },
            expires: i64::MAX
        }),
        (text(), count()).prop_map(|(name, count)| Command::RedeemToken {
            redemption: Redemption {
                token: TokenId([1; 16]),
                secret_hash: [1; 32],
                request: [1; 32],
                certificate: vec![1; count * 1000],
            },
            name
        }),
        text().prop_map(|what| Command::Audit { what }),
        (texts(), text()).prop_map(|(annotations, program)| {
            let mut record = commit(crate::SessionId(LogIndex(1)), LABEL, LogIndex(1)).record;
            record.annotations = annotations;
            record.program = program;
            Command::Adopt(Box::new(Adopt::Backup {
                stanza: stanza(),
                label: label("20250216-020001F"),
                record: Box::new(record),
                claims: claims(&[replica(1, 0)]),
            }))
        }),
        (5_u32..4000, count()).prop_map(|(timeline, count)| {
            let branch = Branch {
                parent: TimelineId(1),
                switch: Lsn(1),
            };
            let file = AdoptedFile {
                file: pgmesh_postgres::WalFileName::History(TimelineId(timeline)),
                object: claimed(77, 50, &[replica(1, 0)]),
                branches: vec![branch; count],
            };
            Command::Adopt(Box::new(Adopt::WalFiles {
                stanza: stanza(),
                db: DbId(1),
                files: vec![file],
                checked_at: LogIndex(1 << 40),
            }))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 64, ..ProptestConfig::default() })]

    /// Whether the commands are accepted or refused, every record can still be read, and every command could be read
    /// back from the log.
    #[test]
    fn no_command_makes_a_record_that_cannot_be_read(
        commands in proptest::collection::vec((command(), text()), 1..12),
        labels in proptest::collection::btree_set(2_u8..28, 0..3),
    ) {
        let mut world = world();
        for (number, (command, actor)) in commands.into_iter().enumerate() {
            let is_early = number % 3 > 0;
            let actor = if is_early { "test".to_owned() } else { actor };
            let proposal = Proposal { id: RequestId([u8::try_from(number).unwrap(); 16]), at: 1, actor, command };
            let bytes = wire::encode(&proposal);
            prop_assert_eq!(&wire::decode::<Proposal>(&bytes, bytes.len()).unwrap(), &proposal);
            let before = world.base.clone();
            if world.apply(proposal).is_err() {
                let kept = |base: &MemoryBase, table| base.scan(table, &[], &[]).collect::<Result<BTreeSet<_>, _>>().unwrap();
                for table in [Table::Backups, Table::Stanzas, Table::Repositories, Table::Audit, Table::Sessions] {
                    prop_assert_eq!(kept(&before, table), kept(&world.base, table), "a refusal changes nothing");
                }
            }
            read_all(&world.base);
        }
        // An ordinary cluster goes on with its backups.
        drop(world.run(Command::StartStanza { stanza: stanza() }));
        drop(world.run(create_stanza(7)));
        for day in labels {
            let session = world.open_session(SessionKind::Backup);
            let name = format!("202503{day:02}-020001F");
            let begun = world.run(begin(session, &name));
            prop_assert!(begun.is_ok(), "{:?}", begun);
            world.run(Command::CloseSession { session }).unwrap();
        }
    }
}
