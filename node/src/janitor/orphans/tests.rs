#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::*;
use crate::SessionTimes;
use crate::testing::{SUITE, TestNode, stanza};
use pgmesh_protocol::{GetSegment, SegmentReply};
use pgmesh_raft::command::NoteOrphans;
use pgmesh_raft::{Amount, Command, EndedScan, LogIndex, OrphanTally};
use pgmesh_storage::RepoKey;
use pgmesh_storage::{Codec, Digest, FilePart, Generation, ObjectName, ObjectPath, Payload, Portion};

fn repo() -> RepoKey {
    RepoKey::new(1).unwrap()
}

fn slot(site: &TestNode) -> Arc<Slot> {
    site.node.own_slot(repo()).unwrap().clone()
}

/// Writes an object without telling the catalog. Returns its digest.
async fn leave(site: &TestNode, content: &[u8], generation: u32, name: impl FnOnce(Digest) -> ObjectName) -> Digest {
    let payload = Payload::pack(SUITE, Codec::None, None, content).unwrap();
    let repository = slot(site).repository().unwrap();
    let name = name(payload.digest);
    repository.put(&name, Generation(generation), &payload).await.unwrap();
    payload.digest
}

fn path_of(site: &TestNode, digest: Digest, generation: u32) -> std::path::PathBuf {
    let repository = slot(site).repository().unwrap();
    let path = repository.path_of(&ObjectName::Chunk(digest), Generation(generation));
    site.repository().join(path.to_string())
}

async fn scan(site: &TestNode) -> OrphanScan {
    site.node.janitor.find_orphans(&slot(site)).await.unwrap();
    site.node.catalog.view().orphan_scan(repo()).unwrap()
}

/// All of a backup that is committed, and a segment.
async fn with_a_backup(site: &TestNode) -> crate::testing::Connected {
    let client = site.connect().await;
    site.create_stanza(&client).await;
    let label = "20260101-000000F";
    let begun = client.begin_backup(label).await.unwrap();
    let chunk = client.put_chunk(begun.session, &[1; 900]).await.unwrap();
    let (root, part) = crate::testing::manifest_of(label, chunk, 900);
    client.put_chunk(begun.session, &part).await.unwrap();
    client.commit_backup(begun.session, label, &root).await.unwrap();
    client
}

/// All files of the repository, less its marks.
fn files(site: &TestNode) -> Vec<String> {
    let mut files = Vec::new();
    crate::testing::visit(&site.repository(), &mut |path| files.push(path.to_owned()));
    files.retain(|path| !path.contains("pgmesh.mark"));
    files.sort();
    files
}

async fn orphans_of_each_kind_go(site: &TestNode) {
    let client = with_a_backup(site).await;
    let known = files(site);
    let first = scan(site).await;
    assert_eq!(first.ended.unwrap().found, OrphanTally::default(), "all is known");
    for number in 1..=5 {
        leave(site, &[number; 500], 0, ObjectName::Chunk).await;
    }
    // A name that is known, of another generation.
    leave(site, &[1; 900], 7, ObjectName::Chunk).await;
    let segment = |digest| ObjectName::Segment {
        stanza: stanza(),
        archive_id: "15-1".parse().unwrap(),
        file: "000000010000000000000001".parse().unwrap(),
        digest,
        portion: Portion::Whole,
    };
    leave(site, &[9; 1 << 20], 0, segment).await;
    let manifest = |digest| ObjectName::Manifest {
        stanza: stanza(),
        label: "20260102-000000F".parse().unwrap(),
        digest,
    };
    leave(site, &[9; 300], 0, manifest).await;
    let info = |digest| ObjectName::StanzaInfo {
        stanza: "gone".parse().unwrap(),
        archive_id: "15-3".parse().unwrap(),
        digest,
    };
    leave(site, &[9; 200], 0, info).await;
    let foreign = site.repository().join("chunk/00/foreign");
    std::fs::create_dir_all(foreign.parent().unwrap()).unwrap();
    std::fs::write(&foreign, "mine").unwrap();

    let seen = scan(site).await;
    let found = seen.ended.unwrap().found;
    assert_eq!(
        (found.unknown.objects, found.foreign, seen.waiting),
        (9, 1, found.unknown)
    );
    assert_eq!(seen.discarded, Amount::default(), "they were seen once");
    site.node.janitor.collect_garbage().await.unwrap();
    assert_eq!(files(site).len(), known.len() + 10);

    // This session begins after the first look, and is still open at the second.
    let begun = client.begin_backup("20260103-000000F").await.unwrap();
    let again = scan(site).await;
    assert_eq!(again.waiting.objects, 0, "it began after the first look");
    assert_eq!(again.discarded, found.unknown);
    site.node
        .backups
        .end_session("test", pgmesh_raft::SessionId(LogIndex(begun.session)), "test")
        .await;
    site.node.janitor.collect_garbage().await.unwrap();
    let left = || -> Vec<String> {
        let all = files(site).into_iter();
        all.filter(|path| !path.ends_with("foreign")).collect()
    };
    // The node may be collecting by itself at that moment.
    site.wait("the orphans to go", |_| left() == known).await;
    assert!(foreign.exists());
    let last = scan(site).await;
    assert_eq!(
        (last.ended.unwrap().found.unknown, last.discarded),
        (Amount::default(), found.unknown)
    );
    // The known objects are whole still.
    let get = GetSegment {
        stanza: stanza(),
        file: "000000010000000000000001".into(),
        system_id: None,
        avoid: Vec::new().into(),
        doubted: Vec::new().into(),
    };
    let read = client.ask(&get, None).await;
    assert!(matches!(read, Ok(SegmentReply::Found { .. })), "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_each_kind_go_after_two_scans() {
    orphans_of_each_kind_go(&TestNode::start(SessionTimes::default()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_in_an_encrypted_repository_are_read_to_know_what_they_are() {
    let site = TestNode::start_encrypted(SessionTimes::default()).await;
    orphans_of_each_kind_go(&site).await;
    let damaged = leave(&site, &[20; 500], 0, ObjectName::Chunk).await;
    let vanished = leave(&site, &[21; 500], 0, ObjectName::Chunk).await;
    let path = path_of(&site, damaged, 0);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(scan(&site).await.waiting.objects, 2);
    std::fs::remove_file(path_of(&site, vanished, 0)).unwrap();
    let after = scan(&site).await;
    assert_eq!(
        (after.waiting.objects, after.ended.unwrap().found.unreadable),
        (0, 1),
        "it takes no room"
    );
    assert!(path.exists());
    // Whether the catalog has assigned a name is known once the object is read.
    leave(&site, &[22; 500], 50, ObjectName::Chunk).await;
    assert_eq!(scan(&site).await.ended.unwrap().found.foreign, 1);
    let read = scan(&site).await;
    assert_eq!(
        (read.ended.unwrap().found.foreign, read.discarded),
        (2, after.discarded)
    );
}

/// Which file the parts of an upload belong to can be told only if all are there: they are counted, and stay.
#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_wal_file_are_counted_and_stay() {
    let site = TestNode::start(SessionTimes::default()).await;
    with_a_backup(&site).await;
    let part = |digest| ObjectName::Segment {
        stanza: stanza(),
        archive_id: "15-1".parse().unwrap(),
        file: "000000010000000000000007".parse().unwrap(),
        digest,
        portion: Portion::Part(FilePart::new(3, 3).unwrap()),
    };
    leave(&site, &[9; 500], 0, part).await;
    for _ in 0..3 {
        let after = scan(&site).await;
        let found = after.ended.unwrap().found;
        assert_eq!((found.unknown.objects, found.unreadable), (1, 1));
        assert_eq!((after.waiting.objects, after.discarded.objects), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_under_way_at_the_first_look_has_ended_before_the_second() {
    let site = TestNode::start(SessionTimes::default()).await;
    let client = with_a_backup(&site).await;
    let begun = client.begin_backup("20260103-000000F").await.unwrap();
    let orphan = leave(&site, &[7; 500], 0, ObjectName::Chunk).await;
    for _ in 0..3 {
        assert_eq!(scan(&site).await.waiting.objects, 1);
    }
    // It is the backup's after all.
    client.put_chunk(begun.session, &[7; 500]).await.unwrap();
    let after = scan(&site).await;
    assert_eq!((after.waiting.objects, after.discarded.objects), (0, 0));
    assert!(path_of(&site, orphan, 0).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_goes_on_in_the_folder_where_the_last_one_was_left() {
    let site = TestNode::start(SessionTimes::default()).await;
    with_a_backup(&site).await;
    let mut before = 0;
    for number in 0..40_u8 {
        let digest = leave(&site, &[number; 700], 0, ObjectName::Chunk).await;
        before += u64::from(digest.as_bytes()[0] < 100);
    }
    assert!((1..40).contains(&before));
    let identity = slot(&site).repository().unwrap().claimed_as().clone();
    let began = site.node.catalog.view().applied().unwrap();
    let found = OrphanTally {
        foreign: 3,
        ..OrphanTally::default()
    };
    site.propose(Command::NoteOrphans(Box::new(NoteOrphans {
        repo: repo(),
        identity,
        began,
        next: Some(100),
        found,
        sighted: Vec::new(),
        gone: Vec::new(),
    })))
    .await;
    let ended = scan(&site).await;
    assert_eq!((ended.began, ended.next), (began, None));
    let found = ended.ended.unwrap().found;
    assert_eq!((found.unknown.objects, found.foreign), (40 - before, 3));
    let next = scan(&site).await;
    assert!(next.began > began);
    assert_eq!(next.waiting.objects, before, "the others were seen for the second time");
}

/// In an encrypted repository a scan knows a chunk only by the names that it read when it began.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_uploaded_while_a_scan_runs_is_not_noted() {
    let site = TestNode::start_encrypted(SessionTimes::default()).await;
    let client = with_a_backup(&site).await;
    let slot = slot(&site);
    let repository = slot.repository().unwrap();
    let begun = Scan::begin(&site.node.janitor, &slot, repository)
        .await
        .unwrap()
        .unwrap();
    let backup = client.begin_backup("20260103-000000F").await.unwrap();
    for number in 40..50 {
        client.put_chunk(backup.session, &[number; 800]).await.unwrap();
    }
    begun.run().await.unwrap();
    let ended = site.node.catalog.view().orphan_scan(repo()).unwrap();
    assert_eq!(
        (ended.ended.unwrap().found, ended.waiting),
        (OrphanTally::default(), Amount::default())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_era_has_named_is_counted_and_takes_no_room() {
    let site = TestNode::start(SessionTimes::default()).await;
    with_a_backup(&site).await;
    leave(&site, &[7; 500], 99, ObjectName::Chunk).await;
    site.propose(Command::RaiseFloor {
        generation: Generation(100),
    })
    .await;
    leave(&site, &[8; 500], 100, ObjectName::Chunk).await;
    let seen = scan(&site).await;
    let found = seen.ended.unwrap().found;
    assert_eq!(
        (found.unknown.objects, found.earlier.objects, seen.waiting.objects),
        (2, 1, 1)
    );
    let after = scan(&site).await;
    assert_eq!((after.discarded.objects, after.waiting.objects), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_assigned_is_foreign() {
    let site = TestNode::start(SessionTimes::default()).await;
    with_a_backup(&site).await;
    for (number, generation) in [(7, 8), (8, 9), (9, u32::MAX)] {
        leave(&site, &[number; 500], generation, ObjectName::Chunk).await;
    }
    let seen = scan(&site).await;
    let found = seen.ended.unwrap().found;
    assert_eq!((found.unknown.objects, found.foreign, seen.waiting.objects), (1, 2, 1));
    let encrypted = TestNode::start_encrypted(SessionTimes::default()).await;
    leave(&encrypted, &[9; 500], u32::MAX, ObjectName::Chunk).await;
    let found = scan(&encrypted).await.ended.unwrap().found;
    assert_eq!((found.unknown.objects, found.foreign), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_room_the_next_scan_begins_at_once() {
    let site = TestNode::start(SessionTimes::default()).await;
    with_a_backup(&site).await;
    let identity = slot(&site).repository().unwrap().claimed_as().clone();
    let began = site.node.catalog.view().applied().unwrap();
    // All of the last folder of chunks, and all of it vanished.
    let mut paths = (0..pgmesh_raft::limits::ORPHANS).map(|number| (format!("chunk/ff/ff{number:062x}"), 1));
    loop {
        let sighted: Vec<_> = paths.by_ref().take(4096).collect();
        if sighted.is_empty() {
            break;
        }
        site.propose(Command::NoteOrphans(Box::new(NoteOrphans {
            repo: repo(),
            identity: identity.clone(),
            began,
            next: None,
            found: OrphanTally::default(),
            sighted,
            gone: Vec::new(),
        })))
        .await;
    }
    let mut number = 0_u8;
    while leave(&site, &[number; 500], 0, ObjectName::Chunk).await.as_bytes()[0] >= 64 {
        number += 1;
    }
    let look = async || site.node.janitor.find_orphans(&slot(&site)).await.unwrap();
    assert!(look().await, "there was no room, and there is now");
    let waiting = || site.node.catalog.view().orphan_scan(repo()).unwrap().waiting.objects;
    // There was room for orphans in the folders that are reported together with the last folder.
    assert!(waiting() <= u64::from(number));
    assert!(!look().await, "there is room for all");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_deleted_nothing_is_proposed() {
    let site = TestNode::start(SessionTimes::default()).await;
    with_a_backup(&site).await;
    leave(&site, &[7; 500], 0, ObjectName::Chunk).await;
    slot(&site).set_may_delete(false);
    for _ in 0..2 {
        let seen = scan(&site).await;
        assert_eq!(
            (seen.ended.unwrap().found.unknown.objects, seen.waiting.objects),
            (1, 0)
        );
    }
    slot(&site).set_may_delete(true);
    for number in [8, 9] {
        leave(&site, &[number; 500], 0, ObjectName::Chunk).await;
    }
    scan(&site).await;
    assert_eq!(scan(&site).await.discarded.objects, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_scan_at_a_time_and_its_reads_are_part_of_the_budget() {
    let site = TestNode::start_encrypted(SessionTimes::default()).await;
    leave(&site, &[7; 500], 0, ObjectName::Chunk).await;
    let other = site.node.janitor.finding_orphans.lock().await;
    let waits = tokio::time::timeout(Duration::from_millis(500), scan(&site)).await;
    assert!(waits.is_err(), "another one is under way");
    drop(other);
    scan(&site).await;
    let held = site.node.budget.hold(u64::MAX).await;
    let reads = async {
        site.wait("it to ask for memory", |_| held.is_wanted()).await;
        drop(held);
    };
    let (seen, ()) = tokio::join!(scan(&site), reads);
    assert_eq!(seen.discarded.objects, 1);
}

#[test]
fn one_node_looks_a_shared_repository_through() {
    let node = |number: u64, service| {
        let record = NodeRecord {
            node_id: number,
            region: String::new(),
            advertise: Vec::new(),
            key: [0; 32],
            administrator: [0; 32],
            program: String::new(),
            service,
            vote: pgmesh_raft::VotePolicy::Auto,
            revoked: Vec::new(),
            reaches: [repo()].into(),
        };
        (format!("n{number}").parse::<NodeName>().unwrap(), record)
    };
    let nodes = [
        node(1, NodeService::Draining),
        node(2, NodeService::InService),
        node(3, NodeService::InService),
    ];
    let name = |leader| scanner(&nodes, leader).map(ToString::to_string);
    assert_eq!(name(Some(3)).as_deref(), Some("n3"));
    for leader in [None, Some(1), Some(9)] {
        assert_eq!(name(leader).as_deref(), Some("n2"), "{leader:?}");
    }
    assert_eq!(scanner(&nodes[..1], Some(1)), None);
}

#[test]
fn every_folder_has_one_number() {
    let chunk = |first: u8| -> ObjectPath {
        let path = format!("chunk/{first:02x}/{first:02x}{}", "0".repeat(62));
        ObjectPath::parse(&path).unwrap()
    };
    for first in 0..=255 {
        let number = scan::folder_of(&chunk(first));
        assert!(
            chunk(first)
                .to_string()
                .starts_with(&format!("{}/", scan::folder(number)))
        );
    }
    assert_eq!(scan::folder(scan::FOLDERS - 1), "stanza");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_drains_or_doubts_its_catalog_looks_through_nothing() {
    let site = TestNode::start(SessionTimes::default()).await;
    with_a_backup(&site).await;
    leave(&site, &[7; 500], 0, ObjectName::Chunk).await;
    let set = async |service| {
        let name = site.node.name.clone();
        site.propose(Command::SetNodeService { name, service }).await;
    };
    set(NodeService::Draining).await;
    assert_eq!(scan(&site).await.ended, None);
    set(NodeService::InService).await;
    let loss = pgmesh_raft::CatalogLoss {
        repo: repo(),
        node: site.node.name.clone(),
        told_by: None,
        position: LogIndex(1 << 20),
        era: 0,
        branch: 0,
        floor: Generation(0),
        written: 1,
        found_at: LogIndex(1),
    };
    let slot = slot(&site);
    site.wait("it to have looked", |node| node.has_looked_lately()).await;
    assert!(site.node.janitor.scans(&slot).unwrap());
    site.propose(Command::ReportLoss(loss)).await;
    assert!(!site.node.janitor.scans(&slot).unwrap());
    assert_eq!(scan(&site).await.ended, None);
}

#[test]
fn a_scan_is_due_when_the_last_one_was_not_finished_or_is_long_ago() {
    let day = Duration::from_secs(86_400);
    let at = |at, next| OrphanScan {
        next,
        ended: Some(EndedScan {
            at,
            found: OrphanTally::default(),
        }),
        ..OrphanScan::default()
    };
    assert!(is_due(&OrphanScan::default(), day, 1000), "none was ever made");
    assert!(!is_due(&at(1000, None), day, 1000 + 86_399) && is_due(&at(1000, None), day, 1000 + 86_400));
    assert!(is_due(&at(1000, Some(3)), day, 1001));
    assert!(is_due(&at(1000, None), day, 999), "the clock was wrong when it ended");
}
