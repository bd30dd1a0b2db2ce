//! Whose WAL the catalog takes (invariants 3 and 12), one story each.

use pgmesh_postgres::{SystemId, TimelineId, WalFileName};
use pgmesh_storage::DbId;

use super::scenario::*;
use crate::command::{Aside, Command, PushSegment};
use crate::model::Server;
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
    assert!(matches!(world.push(copy(2)), Err(Refusal::OtherWriter { .. })));
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
        Err(Refusal::OtherWriter { .. })
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
        // Segments are of 16 MiB: the one with the switch is the fourth.
        server: server(instance, on, if on == 2 { &[(1, 0x0480_0000)] } else { &[] }),
        ..push_segment(timeline, segment.into(), segment)
    };
    let is_refused = |answer| matches!(answer, Err(Refusal::OtherWriter { .. }));
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
    let is_refused = |answer| matches!(answer, Err(Refusal::OtherWriter { .. }));
    assert!(is_refused(world.push(standby(1, 2))));
    world.push(push_segment(1, 2, 2)).unwrap();
    assert!(matches!(world.push(standby(1, 2)), Ok(Reply::AlreadyThere { .. })));
    // The primary is gone, and the standby follows another one.
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
    // What is needed is not set aside.
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
    let at = world.at;
    let is_refused = |answer| matches!(answer, Err(Refusal::OtherMachine { .. }));
    assert!(is_refused(world.push(on_machine("n", 3))));
    world.at = at + Server::MOVED_AFTER - 1;
    let refusal = world.push(on_machine("n", 3)).unwrap_err();
    let text = refusal.to_string();
    assert!(text.contains("10.0.0.2") && text.contains("119 seconds"), "{text}");
    // The same bytes are no harm, and one without a machine of its own differs from nobody.
    assert!(matches!(world.push(on_machine("n", 2)), Ok(Reply::AlreadyThere { .. })));
    world.push(on_machine("", 3)).unwrap();
    assert_eq!(machine(&world), "m");
    // The volume was moved: it goes on by itself.
    world.at += Server::MOVED_AFTER;
    world.push(on_machine("n", 4)).unwrap();
    assert_eq!(machine(&world), "n");
    assert!(is_refused(world.push(on_machine("m", 5))), "now that one is the other");
    // A leader whose clock goes back stops nobody.
    world.at -= 1000;
    world.push(on_machine("m", 5)).unwrap();
    // By an administrator's word at once.
    world.at += 1;
    let adopt = Command::AdoptWriter {
        stanza: stanza(),
        timeline: TimelineId(1),
        instance: "a".to_owned(),
        machine: "o".to_owned(),
    };
    world.run(adopt).unwrap();
    world.push(on_machine("o", 6)).unwrap();
}

#[test]
fn invariant_12_where_a_writer_was_seen_last_is_known() {
    let mut world = World::with_stanza();
    world.at = 100;
    world.push(on_machine("m", 1)).unwrap();
    let last = |world: &World| world.view().last_push(&stanza(), DbId(1), TimelineId(1)).unwrap();
    let seen = last(&world).unwrap();
    assert_eq!(
        (seen.at, seen.address.as_str(), seen.segment),
        (100, "10.0.0.1", segment_name(1, 1))
    );
    // What is not new, and what a standby gives, says nothing of the writer.
    world.at = 200;
    world.push(on_machine("m", 1)).unwrap();
    assert_eq!(last(&world).unwrap().at, 100);
    world.push(on_machine("m", 2)).unwrap();
    assert_eq!(last(&world).unwrap().at, 200);
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

fn forget(from: WalFileName) -> Command {
    Command::ForgetWal {
        stanza: stanza(),
        from,
        force: false,
    }
}

#[test]
fn invariant_12_what_a_copy_has_pushed_can_be_forgotten_and_the_originals_goes_in() {
    let mut world = World::with_stanza();
    let segment = |number: u32| WalFileName::Segment(segment_name(1, number));
    for number in 1..=9_u8 {
        world.push(push_segment(1, number.into(), number)).unwrap();
    }
    let recheck = |answer| matches!(answer, Err(Refusal::Recheck { .. }));
    // So many files at once, the last ones first: no hole is left behind by whoever is killed between two steps.
    assert!(recheck(world.run(forget(segment(5)))), "five are more than four");
    let before = world.view().garbage(None).count();
    world.run(forget(segment(6))).unwrap();
    let names = |world: &World| -> Vec<WalFileName> {
        let view = world.view();
        view.segments(&stanza(), DbId(1), None)
            .map(|row| row.unwrap().0)
            .collect()
    };
    assert_eq!(names(&world), [1, 2, 3, 4, 5].map(segment));
    assert!(world.view().garbage(None).count() > before, "their objects are deleted");
    // The name is free for other content, under another object name.
    let mut other = push_segment(1, 6, 66);
    other.checked_at = world.applied();
    assert!(matches!(world.push(other.clone()), Err(Refusal::StaleGenerations(_))));
    other.object.claims = claims(&[replica(1, 1), replica(2, 1)]);
    world.push(other).unwrap();
    // One that began before what it found was forgotten looks again.
    let late = push_segment(1, 7, 77);
    assert!(recheck(world.push(late)));
}

#[test]
fn invariant_12_what_branches_off_is_forgotten_first_and_a_backups_wal_is_kept() {
    let mut world = World::with_stanza();
    for number in 1..=4_u8 {
        world.push(push_segment(1, number.into(), number)).unwrap();
    }
    let branches = [(1, 0x0380_0000)];
    world.push(push_history(2, &branches)).unwrap();
    let mut second = push_segment(2, 3, 33);
    second.server = server("copy", 2, &branches);
    world.push(second).unwrap();
    let (of_first, history) = (
        WalFileName::Segment(segment_name(1, 3)),
        WalFileName::History(TimelineId(2)),
    );
    assert!(matches!(world.run(forget(of_first)), Err(Refusal::Recheck { .. })));
    world.run(forget(history)).unwrap();
    let record = world.view().stanza(&stanza()).unwrap().unwrap();
    assert!(record.histories.is_empty() && !record.writers.contains_key(&TimelineId(2)));
    // The original's promotion is another one.
    let mut own = push_history(2, &[(1, 0x0480_0000)]);
    own.checked_at = world.applied();
    own.object.claims = claims(&[replica(1, 1), replica(2, 1)]);
    own.object.digest = digest(99);
    world.push(own).unwrap();
    let session = world.begin_backup("20250215-020001F");
    assert!(matches!(
        world.run(forget(of_first)),
        Err(Refusal::BackupRunning { .. })
    ));
    let checked_at = world.applied();
    world
        .run(Command::CommitBackup(Box::new(commit(
            session,
            "20250215-020001F",
            checked_at,
        ))))
        .unwrap();
    let stop = {
        let backup = world
            .view()
            .backup(&stanza(), &label("20250215-020001F"))
            .unwrap()
            .unwrap();
        WalFileName::Segment(backup.wal_stop)
    };
    assert!(matches!(
        world.run(forget(stop)),
        Err(Refusal::BackupNeedsWal { more: 0, .. })
    ));
}
