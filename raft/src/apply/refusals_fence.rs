//! Whose WAL the catalog takes (invariants 3 and 12), one story each.

use pgmesh_postgres::{SystemId, TimelineId, WalFileName};
use pgmesh_storage::DbId;

use super::scenario::*;
use crate::command::{Aside, Command, PushSegment};
use crate::model::{Judgement, Known, LogIndex, Server};
use crate::refusal::Refusal;
use crate::reply::Reply;

#[test]
fn invariant_12_another_cluster_and_a_copy_are_refused() {
    let mut world = World::with_stanza();
    let foreign = PushSegment {
        system_id: SystemId(8),
        ..push_segment(1, 1, 1)
    };
    assert!(matches!(world.push(foreign), Err(Refusal::SystemIdDiffers { .. })));
    world.push(push_segment(1, 1, 1)).unwrap();
    let copy = |segment: u8| PushSegment {
        server: server("b", 1, &[]),
        ..push_segment(1, segment.into(), segment)
    };
    assert!(matches!(world.push(copy(2)), Err(Refusal::OtherWriter(_))));
    // The same bytes are no harm: a standby with archive_mode=always sends them.
    assert!(matches!(world.push(copy(1)), Ok(Reply::AlreadyThere { .. })));
    world
        .run(Command::AdoptWriter {
            stanza: stanza(),
            timeline: TimelineId(1),
            instance: "b".to_owned(),
            machine: String::new(),
        })
        .unwrap();
    assert!(world.push(copy(2)).is_ok());
    assert!(matches!(
        world.push(push_segment(1, 3, 3)),
        Err(Refusal::OtherWriter(_))
    ));
    let mut short = push_segment(1, 4, 4);
    short.object.plain_length = 5;
    assert!(matches!(world.push(short), Err(Refusal::WrongLength { .. })));
}

#[test]
fn invariant_12_a_promoted_server_gives_what_lies_before_its_timeline() {
    let mut world = World::with_stanza();
    world.push(push_segment(1, 1, 1)).unwrap();
    let from = |instance: &str, on: u32, timeline, segment: u8| PushSegment {
        // Segments have 16 MiB: the switch lies in the fourth segment.
        server: server(instance, on, if on == 2 { &[(1, 0x0480_0000)] } else { &[] }),
        ..push_segment(timeline, segment.into(), segment)
    };
    let is_refused = |answer| matches!(answer, Err(Refusal::OtherWriter(_)));
    assert!(
        is_refused(world.push(from("b", 1, 1, 2))),
        "it is on the other's timeline"
    );
    world.push(push_history(2, &[(1, 0x0480_0000)])).unwrap();
    assert!(world.push(from("b", 2, 1, 2)).is_ok());
    // Not the archive's: the node sets it aside.
    assert!(matches!(world.push(from("b", 2, 1, 4)), Err(Refusal::Recheck { .. })));
    world.push(from("b", 2, 2, 4)).unwrap();
    assert!(is_refused(world.push(from("c", 2, 2, 5))), "another writes the new one");
    assert!(world.push(from("c", 2, 1, 3)).is_ok(), "its past is the same");
    // The timeline still is its first writer's.
    assert!(world.push(push_segment(1, 5, 5)).is_ok());
}

#[test]
fn invariant_12_a_server_in_recovery_writes_nothing() {
    let mut world = World::with_stanza();
    let standby = |timeline, segment: u8| PushSegment {
        server: Server {
            in_recovery: true,
            ..server("standby", timeline, &[])
        },
        ..push_segment(timeline, segment.into(), segment)
    };
    // It archives first, and the primary is not refused.
    world.push(standby(1, 1)).unwrap();
    let writers = |world: &World| world.view().stanza(&stanza()).unwrap().unwrap().writers;
    assert!(writers(&world).is_empty());
    world.push(push_segment(1, 1, 1)).unwrap();
    assert_eq!(writers(&world)[&TimelineId(1)].instance, "a", "by the same bytes");
    // Of a timeline that has a writer it gives nothing new: its primary may be a copy.
    let is_refused = |answer| matches!(answer, Err(Refusal::OtherWriter(_)));
    assert!(is_refused(world.push(standby(1, 2))));
    world.push(push_segment(1, 2, 2)).unwrap();
    assert!(matches!(world.push(standby(1, 2)), Ok(Reply::AlreadyThere { .. })));
    // The primary is gone, and the standby follows another primary.
    world.push(push_history(2, &[(1, 0x0480_0000)])).unwrap();
    let moved = |segment: u8| PushSegment {
        server: Server {
            in_recovery: true,
            ..server("standby", 2, &[(1, 0x0480_0000)])
        },
        ..push_segment(1, segment.into(), segment)
    };
    world.push(moved(3)).unwrap();
    // The segment in which it changed the timeline it has not received in full.
    assert!(matches!(world.push(moved(4)), Err(Refusal::Recheck { .. })));
    // Other bytes under an archived name are still refused.
    let mut other = moved(2);
    other.object.digest = digest(9);
    assert!(matches!(world.push(other), Err(Refusal::Duplicate { .. })));
}

#[test]
fn invariant_3_what_nobody_needs_is_set_aside_under_a_name_of_its_own() {
    let mut world = World::with_stanza();
    world.push(push_segment(1, 4, 4)).unwrap();
    world.push(push_history(2, &[(1, 0x0480_0000)])).unwrap();
    let of = WalFileName::Segment(segment_name(1, 4));
    let aside = |content: u8, compared: Option<u8>| PushSegment {
        server: server("b", 2, &[(1, 0x0480_0000)]),
        header_timeline: Some(TimelineId(1)),
        aside: Some(Aside {
            of,
            compared: compared.map(digest),
        }),
        ..push_file(
            WalFileName::Aside {
                segment: segment_name(1, 4),
                digest: [content; 8],
            },
            content,
            &[replica(1, 0)],
        )
    };
    let moved = |answer| matches!(answer, Err(Refusal::Recheck { .. }));
    assert!(moved(world.push(aside(9, None))), "it was not compared");
    assert!(moved(world.push(aside(9, Some(5)))), "with something else");
    world.push(aside(9, Some(4))).unwrap();
    // The archive is as it was, and the timeline its writer's.
    let known = world.view().segment(&stanza(), DbId(1), &of).unwrap().unwrap();
    assert_eq!(known.object.digest, digest(4));
    assert!(world.push(push_segment(1, 5, 5)).is_ok());
    // A segment that a recovery needs is not set aside.
    let mut needed = aside(8, None);
    needed.file = WalFileName::Aside {
        segment: segment_name(1, 3),
        digest: [8; 8],
    };
    needed.aside = Some(Aside {
        of: WalFileName::Segment(segment_name(1, 3)),
        compared: None,
    });
    assert!(moved(world.push(needed)));
    // The second of two promotions within one segment.
    let partial = WalFileName::Partial(segment_name(1, 4));
    let first = push_file(partial, 6, &[replica(1, 0)]);
    world.push(first).unwrap();
    let mut second = aside(7, Some(6));
    second.aside = Some(Aside {
        of: partial,
        compared: Some(digest(6)),
    });
    world.push(second).unwrap();
}

#[test]
fn invariant_12_a_timeline_needs_its_history() {
    let mut world = World::with_stanza();
    world.push(push_segment(1, 1, 1)).unwrap();
    assert!(matches!(
        world.push(push_segment(2, 2, 2)),
        Err(Refusal::UnknownTimeline { .. })
    ));
    world.push(push_history(2, &[(1, 0x10)])).unwrap();
    let promoted = PushSegment {
        server: server("b", 2, &[(1, 0x10)]),
        header_timeline: Some(TimelineId(1)),
        ..push_segment(2, 2, 2)
    };
    assert!(world.push(promoted).is_ok());
    let partial = PushSegment {
        server: server("b", 2, &[(1, 0x10)]),
        ..push_file(WalFileName::Partial(segment_name(1, 2)), 9, &[replica(1, 0)])
    };
    assert!(world.push(partial).is_ok());
    assert!(matches!(
        world.push(push_history(2, &[(1, 0x11)])),
        Err(Refusal::Duplicate { .. })
    ));
    assert!(matches!(
        world.push(push_history(3, &[(1, 0x11), (2, 0x20)])),
        Err(Refusal::HistoryContradicts { .. })
    ));
    world.push(push_history(3, &[(1, 0x10), (2, 0x20)])).unwrap();
    let foreign = PushSegment {
        header_timeline: Some(TimelineId(9)),
        ..push_segment(3, 3, 3)
    };
    assert!(matches!(world.push(foreign), Err(Refusal::ForeignHeader { .. })));
}

#[test]
fn a_history_that_arrives_late_must_agree_too() {
    let mut world = World::with_stanza();
    world.push(push_history(3, &[(1, 0x10), (2, 0x20)])).unwrap();
    assert!(matches!(
        world.push(push_history(2, &[(1, 0x11)])),
        Err(Refusal::HistoryContradicts { .. })
    ));
    world.push(push_history(2, &[(1, 0x10)])).unwrap();
}

#[test]
fn an_archive_may_begin_on_any_timeline() {
    let mut world = World::with_stanza();
    world.push(push_segment(5, 1, 1)).unwrap();
    assert!(matches!(
        world.push(push_segment(6, 1, 2)),
        Err(Refusal::UnknownTimeline { .. })
    ));
}

/// A push of a segment of timeline 1 by the server `a` on a machine.
fn on_machine(machine: &str, segment: u8) -> PushSegment {
    PushSegment {
        server: Server {
            machine: machine.to_owned(),
            address: format!("10.0.0.{segment}"),
            ..server("a", 1, &[])
        },
        ..push_segment(1, segment.into(), segment)
    }
}

#[test]
fn invariant_12_a_clone_on_another_machine_waits_until_the_first_is_silent() {
    let mut world = World::with_stanza();
    // A writer that was bound before machines were told is bound to the first that is told.
    world.push(on_machine("", 1)).unwrap();
    world.push(on_machine("m", 2)).unwrap();
    let machine = |world: &World| {
        let record = world.view().stanza(&stanza()).unwrap().unwrap();
        record.writers[&TimelineId(1)].machine.clone()
    };
    assert_eq!(machine(&world), "m");
    // Each step takes a second.
    let at = world.at;
    let is_refused = |answer| matches!(answer, Err(Refusal::OtherMachine(_)));
    let (least, most) = Server::MOVED_AFTER;
    for seconds in [1, least - 1, 1 - least] {
        world.at = at + seconds - 1;
        let refusal = world.push(on_machine("n", 3));
        assert!(
            refusal
                .clone()
                .is_err_and(|refusal| refusal.to_string().contains("10.0.0.2")),
            "{refusal:?}"
        );
        assert!(is_refused(refusal));
    }
    // The same bytes are no harm, and a server whose machine is unknown differs from no machine.
    assert!(matches!(world.push(on_machine("n", 2)), Ok(Reply::AlreadyThere { .. })));
    world.push(on_machine("", 3)).unwrap();
    assert_eq!(machine(&world), "m");
    // A server that seldom pushes is waited for longer.
    world.at += 200;
    world.push(on_machine("m", 4)).unwrap();
    world.at += 390;
    assert!(is_refused(world.push(on_machine("n", 5))));
    // The volume was moved: it goes on by itself.
    world.at += most;
    world.push(on_machine("n", 5)).unwrap();
    assert_eq!(machine(&world), "n");
    assert!(is_refused(world.push(on_machine("m", 6))), "now that one is the other");
    // A clock that was far ahead stops no server.
    world.at -= 10_000;
    world.push(on_machine("m", 6)).unwrap();
    // By an administrator's word at once, and that holds.
    let adopt = Command::AdoptWriter {
        stanza: stanza(),
        timeline: TimelineId(1),
        instance: "a".to_owned(),
        machine: "o".to_owned(),
    };
    world.run(adopt).unwrap();
    world.push(on_machine("o", 7)).unwrap();
    world.at += 10_000;
    let barred = world.push(on_machine("m", 8));
    assert!(matches!(barred, Err(Refusal::OtherWriter(_))), "{barred:?}");
    world.push(on_machine("p", 8)).unwrap();
    world.at += 10_000;
    assert!(world.push(on_machine("m", 9)).is_err(), "it is barred still");
}

#[test]
fn invariant_12_where_a_writer_was_seen_last_is_known() {
    let mut world = World::with_stanza();
    world.at = 99;
    world.push(on_machine("m", 1)).unwrap();
    let last = |world: &World| world.view().last_push(&stanza(), DbId(1), TimelineId(1)).unwrap();
    let seen = last(&world).unwrap();
    assert_eq!(
        (seen.at, seen.address.as_str(), seen.segment),
        (100, "10.0.0.1", segment_name(1, 1))
    );
    // A push that is not new, and a push by a standby, say nothing of the writer.
    world.at = 198;
    world.push(on_machine("m", 1)).unwrap();
    assert_eq!(last(&world).unwrap().at, 100);
    world.push(on_machine("m", 2)).unwrap();
    let seen = last(&world).unwrap();
    assert_eq!((seen.at, seen.gap, seen.pushed), (200, 100, world.applied()));
    world
        .run(Command::StopStanza {
            stanza: stanza(),
            reason: "gone".to_owned(),
        })
        .unwrap();
    while world.run(Command::DeleteStanza {
        stanza: stanza(),
        force: false,
    }) == Ok(Reply::Deleting { more: true })
    {}
    assert_eq!(last(&world), None);
}

#[test]
fn invariant_12_what_a_later_line_of_a_history_leaves_out_is_nobodys_past() {
    let mut world = World::with_stanza();
    for number in 1..=4_u8 {
        world.push(push_segment(1, number.into(), number)).unwrap();
    }
    let first = [(1, 0x0480_0000)];
    world.push(push_history(2, &first)).unwrap();
    // In the third segment, though timeline 2 begins in the fourth.
    let second = [(1, 0x0480_0000), (2, 0x0380_0000)];
    world.push(push_history(3, &second)).unwrap();
    let beyond = PushSegment {
        server: server("c", 3, &second),
        ..push_segment(1, 3, 33)
    };
    // The node sets it aside: it is compared up to where the server's own past ends.
    let judged = world.push(beyond);
    assert!(matches!(judged, Err(Refusal::Duplicate { .. })), "{judged:?}");
    let record = world.view().stanza(&stanza()).unwrap().unwrap();
    let known = Known {
        content: Some(digest(3)),
        last_push: None,
        now: 0,
    };
    let judgement = record.judge(&stanza(), segment(3), &server("c", 3, &second), known, digest(33));
    let upto = pgmesh_postgres::Lsn(0x0380_0000);
    assert_eq!(judgement, Ok(Judgement::Aside { upto }));
}

fn forget(from: WalFileName, upto: LogIndex) -> Command {
    Command::ForgetWal {
        stanza: stanza(),
        from,
        upto,
        with_backups: false,
        force: false,
    }
}

fn segment(number: u32) -> WalFileName {
    WalFileName::Segment(segment_name(1, number))
}

/// The names that are archived, and whether their content is known.
fn archived(world: &World) -> Vec<(WalFileName, bool)> {
    let (view, stanza) = (world.view(), stanza());
    let rows = view.segments(&stanza, DbId(1), None);
    rows.map(|row| row.unwrap())
        .map(|(file, record)| (file, !record.object.is_unknown()))
        .collect()
}

/// A push of a name of which a file was forgotten: under another object name.
fn again(push: PushSegment, content: u8) -> PushSegment {
    let mut push = push;
    push.object.digest = digest(content);
    push.object.claims = claims(&[replica(1, 1), replica(2, 1)]);
    push
}

#[test]
fn invariant_12_what_a_copy_has_pushed_can_be_forgotten_and_the_originals_goes_in() {
    let mut world = World::with_stanza();
    for number in 1..=9_u8 {
        world.push(push_segment(1, number.into(), number)).unwrap();
    }
    let upto = world.applied();
    // So many files at once, the last ones first: an administrator's program that is killed between two steps leaves no
    // hole behind.
    let refused = world.run(forget(segment(5), upto));
    assert!(
        matches!(refused, Err(Refusal::Recheck { .. })),
        "five are more than four"
    );
    let before = world.view().garbage(None).count();
    world.run(forget(segment(6), upto)).unwrap();
    assert!(world.view().garbage(None).count() > before, "their objects are deleted");
    // Invariant 7: no client is told that the first of the forgotten files was never archived.
    let known = |numbers: &[u32]| -> Vec<_> { numbers.iter().map(|number| (segment(*number), true)).collect() };
    let mut with_mark = known(&[1, 2, 3, 4, 5]);
    with_mark.push((segment(6), false));
    assert_eq!(archived(&world), with_mark);
    // The name is free for other content, under another object name.
    let stale = world.push(push_segment(1, 6, 66));
    assert!(matches!(stale, Err(Refusal::StaleGenerations(_))), "{stale:?}");
    world.push(again(push_segment(1, 6, 66), 66)).unwrap();
    assert_eq!(archived(&world), known(&[1, 2, 3, 4, 5, 6]));
    // A push that began before, and found a file that is gone, looks again.
    let late = PushSegment {
        checked_at: upto,
        ..again(push_segment(1, 7, 77), 77)
    };
    let late = world.run(Command::PushSegment(Box::new(late)));
    assert!(matches!(late, Err(Refusal::Recheck { .. })), "{late:?}");
}

#[test]
fn invariant_1_a_wish_to_forget_that_comes_late_or_twice_takes_nothing_newer() {
    let mut world = World::with_stanza();
    for number in 1..=3_u8 {
        world.push(push_segment(1, number.into(), number)).unwrap();
    }
    let upto = world.applied();
    let wish = forget(segment(2), upto);
    world.run(wish.clone()).unwrap();
    assert_eq!(world.run(wish.clone()), Ok(Reply::Done), "twice");
    assert_eq!(archived(&world), [(segment(1), true), (segment(2), false)]);
    world.push(again(push_segment(1, 2, 22), 22)).unwrap();
    world.push(again(push_segment(1, 3, 33), 33)).unwrap();
    let with_both = [1, 2, 3].map(|number| (segment(number), true));
    assert_eq!(world.run(wish), Ok(Reply::Done), "late");
    assert_eq!(archived(&world), with_both);
    // Some of the files are older than `upto`, and some are newer: a server pushes on.
    let mixed = world.run(forget(segment(1), upto));
    assert!(matches!(mixed, Err(Refusal::WalSince { .. })), "{mixed:?}");
    assert_eq!(archived(&world), with_both);
    // The mark goes when it is forgotten once more.
    let upto = world.applied();
    world.run(forget(segment(3), upto)).unwrap();
    let upto = world.applied();
    world.run(forget(segment(3), upto)).unwrap();
    assert_eq!(archived(&world), [1, 2].map(|number| (segment(number), true)));
}

#[test]
fn invariant_12_what_branches_off_is_forgotten_first_and_a_backups_wal_with_the_backup() {
    const LABEL: &str = "20250215-020001F";
    let mut world = World::with_stanza();
    for number in 1..=4_u8 {
        world.push(push_segment(1, number.into(), number)).unwrap();
    }
    // In the third segment: a recovery along timeline 2 reads timeline 1 up to the second.
    let branches = [(1, 0x0380_0000)];
    world.push(push_history(2, &branches)).unwrap();
    let mut second = push_segment(2, 3, 33);
    second.server = server("copy", 2, &branches);
    world.push(second).unwrap();
    let history = WalFileName::History(TimelineId(2));
    let upto = world.applied();
    let refused = world.run(forget(segment(2), upto));
    assert!(matches!(refused, Err(Refusal::Recheck { .. })), "{refused:?}");
    world.run(forget(segment(3), upto)).unwrap();
    world.run(forget(history, upto)).unwrap();
    let record = world.view().stanza(&stanza()).unwrap().unwrap();
    assert!(record.histories.is_empty() && !record.writers.contains_key(&TimelineId(2)));
    // The original has another promotion.
    world.push(again(push_history(2, &[(1, 0x0480_0000)]), 99)).unwrap();
    let session = world.begin_backup(LABEL);
    let upto = world.applied();
    let running = world.run(forget(segment(2), upto));
    assert!(matches!(running, Err(Refusal::BackupRunning { .. })), "{running:?}");
    let commit = commit(session, LABEL, upto);
    world.run(Command::CommitBackup(Box::new(commit))).unwrap();
    let upto = world.applied();
    world.run(forget(history, upto)).unwrap();
    let needed = world.run(forget(segment(2), upto));
    assert!(
        matches!(needed, Err(Refusal::BackupNeedsWal { more: 0, .. })),
        "{needed:?}"
    );
    let mut with_backups = forget(segment(2), upto);
    if let Command::ForgetWal { with_backups, .. } = &mut with_backups {
        *with_backups = true;
    }
    world.run(with_backups).unwrap();
    assert!(world.view().backup(&stanza(), &label(LABEL)).unwrap().is_none());
}

#[test]
fn invariant_4_a_change_map_is_of_what_is_archived_now() {
    let mut world = World::with_stanza();
    world.push(push_segment(1, 1, 1)).unwrap();
    let map = |content: u8| PushSegment {
        mapped: Some(digest(content)),
        ..push_file(WalFileName::Map(segment_name(1, 1)), 5, &[replica(1, 0)])
    };
    let is_stale = |answer| matches!(answer, Err(Refusal::StaleMap { .. }));
    assert!(is_stale(world.push(map(2))));
    let upto = world.applied();
    world.run(forget(segment(1), upto)).unwrap();
    assert!(is_stale(world.push(map(1))), "the segment was forgotten meanwhile");
    world.push(again(push_segment(1, 1, 11), 11)).unwrap();
    assert!(is_stale(world.push(map(1))));
    world.push(map(11)).unwrap();
}
