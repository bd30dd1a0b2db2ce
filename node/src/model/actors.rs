//! The actors of a mesh. Each works like its service, by the same decisions.

use super::node::{SimNode, Unsaid};
use super::random::Random;
use super::world::{
    CHUNKS, Row, claimed, create_stanza, digest, info, new_chunk, push, segment_digest, segment_name, segment_object,
    stanza,
};
use crate::janitor::garbage::collector::{ask_for_kept_of, collect};
use crate::janitor::repair::owed;
use crate::janitor::sweep::{Part, candidates};
use crate::refs;
use crate::services::{Again, Checked, LookedUp, Whole, chunk_targets, look_again, missing};
use pgmesh_postgres::{Lsn, SystemId, TimelineId};
use pgmesh_raft::command::{
    CommitBackup, DiscardOrphans, DropUses, ExpireBackups, NewReplica, NoteOrphans, NoteUses, Release,
};
use pgmesh_raft::{
    BackupRecord, Claim, Command, GarbageKey, LogIndex, ObjectRef, Orphan, OrphanTally, Refusal, Reply, SessionId,
    SessionKind, StoredObject,
};
use pgmesh_storage::{BackupLabel, DbId, Digest, Generation, RepoKey};
use std::collections::BTreeMap;
use std::pin::Pin;

/// How often a service tries again when the catalog has moved.
const TRIES: usize = 4;

/// Pushes and scans, and little else: sessions are seldom open, so objects that the catalog does not know are deleted
/// soon.
pub(super) fn begin_quiet(node: SimNode, random: &mut Random) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let ack = 1 + random.below(2);
    match random.below(8) {
        0..3 => Box::pin(push_segment(node, 3 + u32::try_from(random.below(4)).unwrap(), ack)),
        3..7 => Box::pin(find_orphans(node, 1 + random.below(3), random.below(64))),
        _ => Box::pin(collection(node)),
    }
}

pub(super) fn begin(node: SimNode, random: &mut Random) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let ack = 1 + random.below(2);
    match random.below(28) {
        0..5 => {
            let mask = 1 + random.below((1 << CHUNKS) - 1);
            let wanted = (0..CHUNKS).filter(|bit| mask >> bit & 1 == 1).map(digest).collect();
            Box::pin(backup(node, wanted, ack))
        }
        5..8 => Box::pin(push_segment(node, 1 + u32::try_from(random.below(4)).unwrap(), ack)),
        8..11 => Box::pin(sweep(node)),
        11..15 => Box::pin(collection(node)),
        15..18 => Box::pin(repair(node, random.below(3), random.below(64))),
        18 => Box::pin(ask_for_kept(node)),
        19..22 => Box::pin(find_orphans(node, 1 + random.below(3), random.below(64))),
        22..24 => Box::pin(expire(node, random.below(3), random.below(64))),
        24..27 => Box::pin(release(node)),
        _ if random.one_in(3) => Box::pin(delete_stanza(node)),
        _ => Box::pin(create(node)),
    }
}

/// Writes an object to repositories until `ack` have it; the other repositories may be written later.
async fn write(
    node: &SimNode,
    object: &ObjectRef,
    digest: Digest,
    targets: Vec<(RepoKey, Generation)>,
    ack: usize,
) -> (Vec<Claim>, Vec<(RepoKey, Generation)>) {
    let mut durable = Vec::new();
    let mut late = Vec::new();
    for (repo, generation) in targets {
        if durable.len() >= ack && node.one_in(2) {
            late.push((repo, generation));
        } else {
            durable.extend(node.put(repo, (object.clone(), digest, generation)).await);
        }
    }
    (durable, late)
}

/// Follows the writes that were still under way when the object was committed.
fn settle(node: &SimNode, object: ObjectRef, digest: Digest, late: Vec<(RepoKey, Generation)>) {
    let own = node.clone();
    node.world.spawn(node.number, async move {
        if late.is_empty() {
            return;
        }
        let Some(session) = own.open(SessionKind::Repair).await else {
            return;
        };
        for (repo, generation) in late {
            if let Some(claim) = own.put(repo, (object.clone(), digest, generation)).await {
                record_replica(&own, session, object.clone(), digest, claim).await;
            }
        }
        own.close(session).await;
    });
}

async fn record_replica(node: &SimNode, session: SessionId, object: ObjectRef, digest: Digest, claim: Claim) {
    let replicas = vec![NewReplica { object, digest, claim }];
    let _ = node.ask(Command::AddReplicas { session, replicas }).await;
}

async fn backup(node: SimNode, wanted: Vec<Digest>, ack: usize) {
    let Some(session) = node.open(SessionKind::Backup).await else {
        return;
    };
    let label = node.world.lock().next_label();
    let begun = Command::BeginBackup {
        stanza: stanza(),
        session,
        label: label.clone(),
        system_id: SystemId(7),
    };
    if node.ask(begun).await.is_ok() && upload(&node, session, &wanted, ack).await {
        commit(&node, session, &label, &wanted, ack).await;
    }
    node.close(session).await;
}

async fn upload(node: &SimNode, session: SessionId, wanted: &[Digest], ack: usize) -> bool {
    let stanza = stanza();
    for digest in wanted {
        let view = node.own_view();
        let known = view.chunks(&[*digest]).unwrap().remove(0);
        let is_its = view.rights([&stanza]).unwrap().may_have(digest).unwrap();
        let is_there = is_its && known.is_some_and(|record| record.replicas.len() >= ack);
        if !is_there && !put_chunk(node, session, *digest, ack).await {
            return false;
        }
    }
    true
}

async fn put_chunk(node: &SimNode, session: SessionId, digest: Digest, ack: usize) -> bool {
    let object = ObjectRef::Chunk(digest);
    let mut first = None;
    for _ in 0..TRIES {
        let Ok(targets) = chunk_targets(&node.own_view().snapshot(), digest, first) else {
            return false;
        };
        let (durable, late) = write(node, &object, digest, targets, ack).await;
        if durable.len() < ack {
            return false;
        }
        let chunks = vec![new_chunk(digest, durable)];
        let add = Command::AddChunks {
            session,
            ack: u16::try_from(ack).unwrap(),
            chunks,
        };
        match node.ask(add).await {
            Ok(_) => {
                settle(node, object, digest, late);
                return true;
            }
            Err(Unsaid::Refused(Refusal::StaleGenerations(stale))) => first = Some(stale[0].generation),
            Err(_) => return false,
        }
    }
    false
}

async fn commit(node: &SimNode, session: SessionId, label: &BackupLabel, wanted: &[Digest], ack: usize) {
    let object = ObjectRef::Manifest {
        stanza: stanza(),
        label: label.clone(),
    };
    let content = digest(250);
    let mut before: Option<Whole> = None;
    let mut written = None;
    let mut is_noted = false;
    for _ in 0..TRIES {
        let view = node.view_linearizable().await;
        let again = match before.take() {
            Some(before) => look_again(&view.snapshot(), before, &stanza(), session, ack).unwrap(),
            None => Again::Anew,
        };
        let whole = match again {
            Again::Whole(whole) => whole,
            Again::TakeBack(whole, chunks) => {
                let _ = node.ask(Command::Reprieve { session, chunks }).await;
                before = Some(whole);
                continue;
            }
            Again::Anew => {
                let checked_at = view.applied().unwrap();
                let stanza = stanza();
                let mut found = LookedUp::new(&stanza, session, ack);
                for part in wanted.chunks(2) {
                    found.look_up(&view, part).unwrap();
                    node.pause().await;
                }
                match found.checked(checked_at, false) {
                    Checked::Whole(whole) => whole,
                    Checked::Condemned(chunks) => {
                        let _ = node.ask(Command::Reprieve { session, chunks }).await;
                        continue;
                    }
                    Checked::Thin(_) => continue,
                    Checked::Missing(_) => {
                        // No sweep has deleted them: a session pins the chunks that it was told of.
                        return;
                    }
                }
            }
        };
        if !is_noted {
            if !note_uses(node, session, label, wanted).await {
                return;
            }
            is_noted = true;
            before = Some(whole);
            continue;
        }
        let (durable, late) = match written.take() {
            Some(written) => written,
            None => {
                let targets = refs::targets_of(&view.snapshot(), &object).unwrap();
                write(node, &object, content, targets, ack).await
            }
        };
        node.world.lock().manifests.insert(label.clone(), wanted.to_vec());
        let commit = CommitBackup {
            stanza: stanza(),
            session,
            label: label.clone(),
            record: backup_record(claimed(content, Vec::new()).stored(Vec::new())),
            claims: durable.clone(),
            ack: u16::try_from(ack).unwrap(),
            checked_at: whole.checked_at,
        };
        match node.ask(Command::CommitBackup(Box::new(commit))).await {
            Ok(_) => return settle(node, object, content, late),
            Err(Unsaid::Refused(Refusal::Recheck { .. })) => {
                before = Some(whole);
                written = Some((durable, late));
            }
            Err(Unsaid::Refused(Refusal::StaleGenerations(_))) => {}
            Err(_) => return,
        }
    }
}

/// Notes the uses that a backup begins and ends; says whether it could.
async fn note_uses(node: &SimNode, session: SessionId, label: &BackupLabel, wanted: &[Digest]) -> bool {
    let stage = Command::StageUses {
        stanza: stanza(),
        session,
        label: label.clone(),
        manifest: digest(250),
    };
    if node.ask(stage).await.is_err() {
        return false;
    }
    let view = node.view_linearizable().await;
    let are_open = |digests: &[Digest]| view.are_open(&stanza(), digests).unwrap();
    let open = are_open(wanted);
    let named = std::iter::zip(wanted, open);
    let (carried, born): (Vec<_>, Vec<_>) = named.partition(|(_, is_open)| *is_open);
    let digests = |of: Vec<(&Digest, bool)>| of.into_iter().map(|(digest, _)| *digest).collect();
    let all: Vec<Digest> = (0..CHUNKS).map(digest).collect();
    let died = std::iter::zip(&all, are_open(&all)).filter(|(digest, is_open)| *is_open && !wanted.contains(digest));
    let note = NoteUses {
        session: Some(session),
        began: LogIndex(0),
        stanza: stanza(),
        label: label.clone(),
        born: digests(born),
        carried: digests(carried),
        died: died.map(|(digest, _)| *digest).collect(),
    };
    node.pause().await;
    node.ask(Command::NoteUses(Box::new(note))).await.is_ok()
}

/// One repository keeps one backup no more.
async fn expire(node: SimNode, repo: usize, which: usize) {
    let repo = super::world::repo(1 + u16::try_from(repo).unwrap());
    let view = node.view_linearizable().await;
    let stanza_name = stanza();
    let kept = view.backups(&stanza_name, None).map(Result::unwrap);
    let kept: Vec<_> = kept.filter(|(_, record)| record.is_kept_in(repo)).collect();
    if kept.is_empty() {
        return;
    }
    let expire = ExpireBackups {
        stanza: stanza(),
        repo,
        labels: vec![kept[which % kept.len()].0.clone()],
        why: "model".to_owned(),
    };
    let _ = node.ask(Command::ExpireBackups(Box::new(expire))).await;
}

/// Releases what an expired backup alone needed, with any chunks: the catalog judges each.
async fn release(node: SimNode) {
    if !node.world.lock().members[node.number].leads {
        return;
    }
    let view = node.view_linearizable().await;
    let abandoned: Vec<_> = view.abandoned().map(|row| row.unwrap().0).collect();
    for (stanza, label) in abandoned {
        let chunks = view.uses_at(&stanza, &label, None).map(|row| row.unwrap().0);
        let given = DropUses {
            chunks: chunks.collect(),
            stanza,
            label,
            is_last: true,
        };
        let _ = node.ask(Command::DropUses(Box::new(given))).await;
    }
    let jobs: Vec<_> = view.releases().map(Result::unwrap).collect();
    for ((repo, stanza, label), since) in jobs {
        let release = |manifest| {
            Command::Release(Box::new(Release {
                repo,
                stanza: stanza.clone(),
                label: label.clone(),
                since,
                manifest,
                chunks: (0..CHUNKS).map(digest).filter(|_| !manifest).collect(),
            }))
        };
        let is_through = |outcome: Result<Reply, Unsaid>| matches!(outcome, Ok(Reply::Released { waiting: 0, .. }));
        if is_through(node.ask(release(true)).await) && is_through(node.ask(release(false)).await) {
            let _ = node
                .ask(Command::EndRelease {
                    repo,
                    stanza,
                    label,
                    since,
                })
                .await;
        }
    }
}

fn backup_record(manifest: StoredObject) -> BackupRecord {
    BackupRecord {
        db: DbId(1),
        started_at: 1,
        stopped_at: 2,
        began: LogIndex(0),
        lsn_start: Lsn(0x0100_0028),
        lsn_stop: Lsn(0x0200_0100),
        wal_start: segment_name(1),
        wal_stop: segment_name(2),
        timeline: TimelineId(1),
        size: 1000,
        delta: 1000,
        stored: BTreeMap::new(),
        stored_delta: BTreeMap::new(),
        files: 3,
        page_errors: false,
        annotations: BTreeMap::new(),
        prior: None,
        manifest,
        program: "0.1.0".to_owned(),
        expired: pgmesh_raft::ExpiredIn::new(),
        hold: None,
    }
}

async fn push_segment(node: SimNode, segment: u32, ack: usize) {
    let (object, content) = (segment_object(segment), segment_digest(segment));
    for _ in 0..TRIES {
        let view = node.view_linearizable().await;
        let checked_at = view.applied().unwrap();
        if view.stanza(&stanza()).unwrap().is_none() {
            return;
        }
        let known = view
            .segment(&stanza(), DbId(1), &super::world::segment_file(segment))
            .unwrap();
        node.pause().await;
        let snapshot = view.snapshot();
        let (good, targets) = match &known {
            Some(record) if record.object.replicas.len() >= ack => return,
            Some(record) => (
                record.object.replicas.len(),
                missing(&snapshot, &object, record).unwrap(),
            ),
            None => (0, refs::targets_of(&snapshot, &object).unwrap()),
        };
        let (durable, late) = write(&node, &object, content, targets, ack.saturating_sub(good)).await;
        let command = push(segment, durable, u16::try_from(ack).unwrap(), checked_at);
        match node.ask(command).await {
            Ok(_) => return settle(&node, object, content, late),
            Err(Unsaid::Refused(
                Refusal::Recheck { .. } | Refusal::StaleGenerations(_) | Refusal::TooFewReplicas { .. },
            )) => {}
            Err(_) => return,
        }
    }
}

async fn sweep(node: SimNode) {
    if !node.world.lock().members[node.number].leads {
        return;
    }
    let view = node.view_linearizable().await;
    let chunks = candidates(&view.snapshot(), &Part::ALL).unwrap().chunks;
    node.pause().await;
    if chunks.is_empty() {
        return;
    }
    let suspect = Command::Suspect { chunks: chunks.clone() };
    let Ok(Reply::Suspected { since: suspected }) = node.ask(suspect).await else {
        return;
    };
    let _ = node.ask(Command::Condemn { chunks, suspected }).await;
}

async fn collection(node: SimNode) {
    // The next collection tries failed deletions again.
    let _ = collect(&node).await;
}

async fn ask_for_kept(node: SimNode) {
    let _ = ask_for_kept_of(&node, super::world::repo(2), None).await;
}

async fn repair(node: SimNode, repo: usize, which: usize) {
    let repo = super::world::repo(1 + u16::try_from(repo).unwrap());
    let debts: Vec<_> = node.own_view().debts(repo, None).map(|row| row.unwrap().0).collect();
    if debts.is_empty() {
        return;
    }
    let object = &debts[which % debts.len()];
    node.pause().await;
    let Some(session) = node.open(SessionKind::Repair).await else {
        return;
    };
    if let Some((known, debt)) = owed(&node.own_view().snapshot(), repo, object).unwrap() {
        node.pause().await;
        let has_source = known.replicas.iter().any(|replica| {
            let row = (object.clone(), known.digest, replica.generation);
            node.world.lock().has(replica.repo, &row)
        });
        let generation = debt.generation;
        if has_source && let Some(claim) = node.put(repo, (object.clone(), known.digest, generation)).await {
            record_replica(&node, session, object.clone(), known.digest, claim).await;
        }
    }
    node.close(session).await;
}

fn name(repo: RepoKey, row: &Row) -> GarbageKey {
    GarbageKey {
        object: row.0.clone(),
        repo,
        generation: row.2,
    }
}

/// A scan reports its sightings, and then discards the orphans. Half of the scans do not look at the catalog before,
/// and report live objects as well: the catalog decides.
async fn find_orphans(node: SimNode, repo: usize, which: usize) {
    let repo = super::world::repo(u16::try_from(repo).unwrap());
    let (rows, identity) = node.listing(repo);
    if rows.is_empty() {
        return;
    }
    let seen = |row: &Row| format!("{row:?}");
    let view = node.view_linearizable().await;
    let began = view.applied().unwrap();
    let looks = node.one_in(2);
    let is_seen = |row: &&Row| !looks || !view.knows(&name(repo, row), row.1).unwrap();
    let seen_now: Vec<&Row> = rows.iter().filter(is_seen).collect();
    let some = seen_now.iter().cycle().skip(which).take(seen_now.len().min(3));
    let sighted = some.map(|row| (seen(row), 1)).collect();
    let note = NoteOrphans {
        repo,
        identity,
        began,
        next: None,
        found: OrphanTally::default(),
        sighted,
        gone: Vec::new(),
    };
    if node.ask(Command::NoteOrphans(Box::new(note))).await.is_err() {
        return;
    }
    let began = node.view_linearizable().await.applied().unwrap();
    let (rows, identity) = node.listing(repo);
    let orphans = rows.iter().map(|row| Orphan {
        path: seen(row),
        object: row.0.clone(),
        digest: row.1,
        archive: Some("15-1".parse().unwrap()),
        generation: row.2,
    });
    let discard = DiscardOrphans {
        repo,
        identity,
        began,
        orphans: orphans.collect(),
    };
    if let Ok(Reply::Discarded { objects, .. }) = node.ask(Command::DiscardOrphans(Box::new(discard))).await {
        node.world.trace(|| format!("{objects} orphans in repo{repo}"));
        let _ = collect(&node).await;
    }
}

async fn delete_stanza(node: SimNode) {
    let (stanza, reason) = (stanza(), "model".to_owned());
    if node.ask(Command::StopStanza { stanza, reason }).await.is_err() {
        return;
    }
    let stanza = super::world::stanza();
    let force = false;
    if node.ask(Command::DeleteStanza { stanza, force }).await.is_err() {
        let stanza = super::world::stanza();
        let _ = node.ask(Command::StartStanza { stanza }).await;
    }
    collection(node).await;
}

async fn create(node: SimNode) {
    for _ in 0..TRIES {
        let view = node.view_linearizable().await;
        let checked_at = view.applied().unwrap();
        if view.stanza(&stanza()).unwrap().is_some() {
            return;
        }
        let targets = refs::targets_of(&view.snapshot(), &info()).unwrap();
        let (durable, late) = write(&node, &info(), digest(200), targets, 1).await;
        match node.ask(create_stanza(durable, checked_at)).await {
            Ok(Reply::Database(_)) => return settle(&node, info(), digest(200), late),
            Err(Unsaid::Refused(
                Refusal::Recheck { .. } | Refusal::StaleGenerations(_) | Refusal::TooFewReplicas { .. },
            )) => {}
            _ => return,
        }
    }
}
