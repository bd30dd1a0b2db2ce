//! Archiving WAL files: invariants 1, 3 and 12.

use pgmesh_postgres::{SegmentName, TimelineId, WalFileName};
use pgmesh_storage::{Digest, StanzaName};

use super::objects::{Found, need_replicas, place_more, place_new};
use super::{Base, Outcome, Step, stanza};
use crate::command::{Aside, PushSegment};
use crate::model::{
    Branch, Database, ExpiredIn, HistoryRecord, Judgement, Known, LastPush, ObjectRef, SegmentRecord, StanzaRecord,
    Writer,
};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;
use crate::{key, limits};

pub(super) fn push<B: Base>(step: &mut Step<'_, '_, B>, push: PushSegment) -> Outcome {
    let (mut owner, db) = stanza::need_active(step, &push.stanza)?;
    refuse_foreign(&push, &db)?;
    let object = ObjectRef::Segment {
        stanza: push.stanza.clone(),
        db: db.id,
        file: push.file,
    };
    let key = key::segment(&push.stanza, db.id, &push.file.to_string());
    let known = step.txn.record::<SegmentRecord>(Table::Segments, &key)?;
    // A file that is known by its name alone is archived anew.
    let known = known.filter(|known| !known.object.is_unknown());
    if let Some(known) = &known
        && known.object.digest != push.object.digest
    {
        // Invariant 3: one name, one content.
        return Err(Refusal::Duplicate {
            stanza: push.stanza,
            file: push.file,
            known: known.object.digest,
            given: push.object.digest,
        }
        .into());
    }
    // Objects that were uploaded before WAL was removed from the stanza may have been deleted with it.
    if push.checked_at < owner.since {
        return Err(Refusal::Recheck { since: owner.since }.into());
    }
    if let Some(mut known) = known {
        let found = Found {
            object: known.object.clone(),
            archive: Some(db.archive_id()),
        };
        let (_, replicas) = place_more(step, &object, &found, &push.object.claims)?;
        need_replicas(&replicas, push.ack)?;
        if replicas != known.object.replicas {
            known.object.replicas.clone_from(&replicas);
            step.txn.put(Table::Segments, key, &known);
        }
        bind_by_same_bytes(step, &mut owner, &push);
        return Ok(Reply::AlreadyThere { replicas });
    }
    let last_push = last_push(step, &db, &push)?;
    if fence(step, &mut owner, &db, &push, last_push.as_ref())? {
        owner.make_room();
        stanza::put(step, &push.stanza, &owner);
    }
    let replicas = place_new(step, &object, &push.object)?;
    // Invariant 1: durable in enough repositories before it is acknowledged.
    need_replicas(&replicas, push.ack)?;
    let record = SegmentRecord {
        object: push.object.stored(replicas.clone()),
        pushed_at: step.at,
        pushed: step.index,
        expired: ExpiredIn::new(),
    };
    step.txn.put(Table::Segments, key, &record);
    note_push(step, &db, &push, last_push.as_ref());
    Ok(Reply::Pushed { replicas })
}

/// Where the writer of a timeline was seen last, for the server that is refused in its place.
fn note_push<B: Base>(step: &mut Step<'_, '_, B>, db: &Database, push: &PushSegment, before: Option<&LastPush>) {
    let WalFileName::Segment(segment) = push.file else {
        return;
    };
    if !push.server.writes(segment.timeline) {
        return;
    }
    let last = LastPush {
        instance: push.server.instance.clone(),
        machine: push.server.machine.clone(),
        host: limits::shortened(step.actor.to_owned(), limits::WRITER_HOST),
        address: push.server.address.clone(),
        segment,
        at: step.at,
        gap: before.map_or(0, |before| step.at.saturating_sub(before.at).max(0)),
        pushed: step.index,
    };
    let key = key::last_push(&push.stanza, db.id, segment.timeline);
    step.txn.put(Table::Pushes, key, &last);
}

/// A standby may have archived a segment before the server that wrote it. The writer is bound all the same.
fn bind_by_same_bytes<B: Base>(step: &mut Step<'_, '_, B>, owner: &mut StanzaRecord, push: &PushSegment) {
    let timeline = push.file.timeline();
    let writes = matches!(push.file, WalFileName::Segment(_)) && push.server.writes(timeline);
    if writes && !owner.writers.contains_key(&timeline) {
        owner.writers.insert(timeline, writer(step, push));
        stanza::put(step, &push.stanza, owner);
    }
}

fn writer<B: Base>(step: &Step<'_, '_, B>, push: &PushSegment) -> Writer {
    let server = &push.server;
    Writer::new(server.instance.clone(), server.machine.clone(), step.index, step.actor)
}

/// Invariant 12: only WAL of the stanza's cluster.
fn refuse_foreign(push: &PushSegment, db: &Database) -> Result<(), Refusal> {
    if push.system_id != db.system_id {
        return Err(Refusal::SystemIdDiffers {
            stanza: push.stanza.clone(),
            known: db.system_id,
            given: push.system_id,
        });
    }
    let size = u64::from(db.segment_size.bytes());
    if push.file.holds_wal() && push.object.plain_length != size {
        return Err(Refusal::WrongLength {
            stanza: push.stanza.clone(),
            file: push.file,
            known: size,
            given: push.object.plain_length,
        });
    }
    Ok(())
}

/// Invariant 12: only the timelines that the stanza knows, each by its writer. Says whether the stanza's record
/// changed.
fn fence<B: Base>(
    step: &Step<'_, '_, B>,
    owner: &mut StanzaRecord,
    db: &Database,
    push: &PushSegment,
    last_push: Option<&LastPush>,
) -> Outcome<bool> {
    let timeline = push.file.timeline();
    if let WalFileName::History(_) = push.file {
        refuse_contradiction(owner, &push.stanza, timeline, &push.branches)?;
        let history = HistoryRecord {
            digest: push.object.digest,
            branches: push.branches.clone(),
            since: step.index,
        };
        owner.histories.insert(timeline, history);
        return Ok(true);
    }
    refuse_unknown_timeline(owner, push, timeline)?;
    if push.file.holds_wal() {
        refuse_foreign_header(owner, push, timeline)?;
    }
    let binds = match (&push.aside, push.file) {
        (Some(aside), _) => {
            refuse_aside(step, owner, db, push, aside, last_push)?;
            return Ok(false);
        }
        // Only a file that was judged is set aside. A change map is made by a node, of a segment that was archived: the
        // server that wrote the segment was judged then.
        (None, WalFileName::Aside { .. }) => return Err(Refusal::Recheck { since: step.index }.into()),
        (None, WalFileName::Map(segment)) => {
            refuse_stale_map(step, db, push, segment)?;
            return Ok(false);
        }
        (None, file) => {
            let known = known(step, None, last_push);
            match owner.judge(&push.stanza, file, &push.server, known, push.object.digest)? {
                Judgement::Archive { binds } => binds,
                // The node looks again, and sets it aside.
                Judgement::Aside { .. } => return Err(Refusal::Recheck { since: step.index }.into()),
            }
        }
    };
    match owner.writers.get_mut(&timeline) {
        before if binds => {
            let barred = before.map(|before| std::mem::take(&mut before.barred));
            let writer = Writer {
                barred: barred.unwrap_or_default(),
                ..writer(step, push)
            };
            owner.writers.insert(timeline, writer);
            Ok(true)
        }
        Some(writer)
            if writer.instance == push.server.instance
                && step.index.0.saturating_sub(writer.seen.0) >= Writer::SEEN_STEP =>
        {
            writer.seen = step.index;
            Ok(true)
        }
        None | Some(_) => Ok(false),
    }
}

fn last_push<B: Base>(step: &Step<'_, '_, B>, db: &Database, push: &PushSegment) -> Outcome<Option<LastPush>> {
    let key = key::last_push(&push.stanza, db.id, push.file.timeline());
    Ok(step.txn.record(Table::Pushes, &key)?)
}

fn known<'a, B: Base>(step: &Step<'_, '_, B>, content: Option<Digest>, last_push: Option<&'a LastPush>) -> Known<'a> {
    Known {
        content,
        last_push,
        now: step.at,
    }
}

/// No recovery may ask for a file that is set aside, and the content that is archived now must be the one that it was
/// compared with.
fn refuse_aside<B: Base>(
    step: &Step<'_, '_, B>,
    owner: &StanzaRecord,
    db: &Database,
    push: &PushSegment,
    aside: &Aside,
    last_push: Option<&LastPush>,
) -> Outcome<()> {
    let moved = || Refusal::Recheck { since: step.index };
    if push.file.segment() != aside.of.segment() {
        return Err(moved().into());
    }
    let key = key::segment(&push.stanza, db.id, &aside.of.to_string());
    let archived = step.txn.record::<SegmentRecord>(Table::Segments, &key)?;
    let archived = archived.filter(|archived| !archived.object.is_unknown());
    let content = archived.map(|archived| archived.object.digest);
    let known = known(step, content, last_push);
    match owner.judge(&push.stanza, aside.of, &push.server, known, push.object.digest)? {
        Judgement::Aside { .. } if content == aside.compared => Ok(()),
        _ => Err(moved().into()),
    }
}

/// A change map must be of the content that is archived now: an incremental backup reads the pages that the map names
/// and no others.
fn refuse_stale_map<B: Base>(
    step: &Step<'_, '_, B>,
    db: &Database,
    push: &PushSegment,
    segment: SegmentName,
) -> Outcome<()> {
    let name = WalFileName::Segment(segment).to_string();
    let key = key::segment(&push.stanza, db.id, &name);
    let archived = step.txn.record::<SegmentRecord>(Table::Segments, &key)?;
    match archived.filter(|archived| !archived.object.is_unknown()) {
        Some(archived) if push.mapped == Some(archived.object.digest) => Ok(()),
        _ => Err(Refusal::StaleMap {
            stanza: push.stanza.clone(),
            segment,
        }
        .into()),
    }
}

/// A timeline is known when it is timeline 1, the first timeline that the archive sees, or mentioned by an archived
/// history, even if that history had to be forgotten.
fn refuse_unknown_timeline(owner: &StanzaRecord, push: &PushSegment, timeline: TimelineId) -> Result<(), Refusal> {
    let is_known = timeline == TimelineId(1)
        || owner.writers.is_empty()
        || owner.forgotten.is_some_and(|forgotten| timeline <= forgotten)
        || owner.writers.contains_key(&timeline)
        || owner.histories.contains_key(&timeline)
        || owner
            .histories
            .values()
            .any(|history| position(&history.branches, timeline).is_some());
    if is_known {
        return Ok(());
    }
    Err(Refusal::UnknownTimeline {
        stanza: push.stanza.clone(),
        timeline,
    })
}

/// The first segment of a timeline may carry a header of the timeline that it was copied from.
fn refuse_foreign_header(owner: &StanzaRecord, push: &PushSegment, timeline: TimelineId) -> Result<(), Refusal> {
    let Some(header) = push.header_timeline else {
        return Ok(());
    };
    let descends = header == timeline
        || match owner.histories.get(&timeline) {
            Some(history) => position(&history.branches, header).is_some(),
            None => header < timeline,
        };
    if descends {
        return Ok(());
    }
    Err(Refusal::ForeignHeader {
        stanza: push.stanza.clone(),
        file: push.file,
        header,
    })
}

fn position(branches: &[Branch], parent: TimelineId) -> Option<usize> {
    branches.iter().position(|branch| branch.parent == parent)
}

/// Where two histories share a timeline they must say the same of how it came about.
pub(super) fn refuse_contradiction(
    owner: &StanzaRecord,
    stanza: &StanzaName,
    timeline: TimelineId,
    branches: &[Branch],
) -> Result<(), Refusal> {
    for (known_timeline, known) in &owner.histories {
        let pair = if let Some(end) = position(branches, *known_timeline) {
            // The given timeline descends from the known one.
            (known.branches.as_slice(), branches.get(..end))
        } else if let Some(end) = position(&known.branches, timeline) {
            // The known timeline descends from the given one.
            let Some(before) = known.branches.get(..end) else {
                continue;
            };
            (before, Some(branches))
        } else {
            continue;
        };
        let (known_lines, given_lines) = both_kept(pair.0, &known.branches, pair.1.unwrap_or_default(), branches);
        for line in 0..known_lines.len().max(given_lines.len()) {
            let (known, given) = (known_lines.get(line), given_lines.get(line));
            if known != given {
                let parent = given.or(known).map_or(timeline, |branch| branch.parent);
                return Err(Refusal::HistoryContradicts {
                    stanza: stanza.clone(),
                    timeline,
                    other: *known_timeline,
                    parent,
                    known: known.map(|branch| branch.switch),
                    given: given.map(|branch| branch.switch),
                });
            }
        }
    }
    Ok(())
}

/// The lines that two histories share, without lines that one of them may lack because the first lines of a very long
/// history are not kept.
fn both_kept<'a>(
    known: &'a [Branch],
    all_known: &[Branch],
    given: &'a [Branch],
    all_given: &[Branch],
) -> (&'a [Branch], &'a [Branch]) {
    let is_cut = |lines: &[Branch]| lines.len() >= limits::LINES;
    let last = |lines: &'a [Branch], count: usize| lines.get(lines.len().saturating_sub(count)..).unwrap_or(lines);
    if known.len() > given.len() && is_cut(all_given) {
        (last(known, given.len()), given)
    } else if given.len() > known.len() && is_cut(all_known) {
        (known, last(given, known.len()))
    } else {
        (known, given)
    }
}
