//! Files in parts, pushed to a node and read from it, over its protocol.

use crate::testing::{Connected, SUITE, TestNode, push_of, segment_of, stanza};
use crate::{SessionTimes, refs};
use pgmesh_postgres::{Lsn, TimelineId};
use pgmesh_protocol::{
    DeleteObject, DeleteStanza, ExitCode, Failure, GetSegment, MESSAGE_LIMIT, PartsTurn, PayloadHead, PushSegment,
    Pushed, SegmentPart, SegmentReply, VerifyEvent,
};
use pgmesh_raft::{Branch, ObjectRef, Replica, Server};
use pgmesh_storage::{Codec, DbId, FilePart, Generation, Payload, RepoKey};
use pgmesh_transport::Stream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

mod edges;

const SIZE: u32 = 32 << 20;
const PARTS: u16 = 4;
/// The plaintext of a part.
const PART: usize = 8 << 20;
const FILE: &str = "000000010000000000000001";

/// A segment whose parts differ.
fn content() -> Vec<u8> {
    let mut bytes = segment_of(1, SIZE);
    for (number, part) in bytes.chunks_mut(PART).enumerate() {
        part[5000..5100].fill(u8::try_from(number).unwrap() + 1);
    }
    bytes
}

fn push_in_parts(content: &[u8]) -> PushSegment {
    let mut push = push_of(FILE, &content[..64]);
    push.payload = PayloadHead {
        digest: SUITE.digest(content),
        codec: Codec::None,
        plain_length: content.len() as u64,
        length: 0,
    };
    push
}

fn payloads(content: &[u8]) -> Vec<Payload> {
    let parts = content.chunks(PART);
    parts
        .map(|part| Payload::pack(SUITE, Codec::Zst, None, part).unwrap())
        .collect()
}

/// Asks, and is told to send.
async fn begin(client: &Connected, push: &PushSegment) -> Result<(Stream, PartsTurn), Failure> {
    let mut stream = client.open().await;
    stream.call(push).await.unwrap();
    let turn = stream
        .recv::<Result<PartsTurn, Failure>>(MESSAGE_LIMIT)
        .await
        .unwrap()?;
    Ok((stream, turn))
}

/// Pushes these parts under this announcement.
async fn push(client: &Connected, announced: &PushSegment, parts: &[Payload]) -> Result<Pushed, Failure> {
    let (mut stream, turn) = begin(client, announced).await?;
    assert!(matches!(turn, PartsTurn::Send), "{turn:?}");
    for part in parts {
        // Who refuses a part does not wait for the others.
        if stream.send(&part.head()).await.is_err() || stream.send_bytes(&part.bytes).await.is_err() {
            break;
        }
    }
    let _ = stream.finish();
    stream.reply::<PushSegment>().await.unwrap()
}

async fn get(client: &Connected, doubted: Vec<u16>) -> Result<(Vec<u8>, Vec<u16>), Failure> {
    let mut stream = client.open().await;
    let get = GetSegment {
        stanza: stanza(),
        file: FILE.into(),
        system_id: None,
        avoid: Vec::new().into(),
        doubted: doubted.into(),
    };
    stream.call(&get).await.unwrap();
    stream.finish().unwrap();
    let reply = stream.reply::<GetSegment>().await.unwrap()?;
    let SegmentReply::InParts { digest, plain_length } = reply else {
        panic!("{reply:?}");
    };
    let (mut found, mut repos) = (Vec::new(), Vec::new());
    for part in FilePart::all(PARTS) {
        let head = stream
            .recv::<Result<SegmentPart, Failure>>(MESSAGE_LIMIT)
            .await
            .unwrap()?;
        let body = stream.recv_bytes(head.payload.length, 8 << 20).await.unwrap();
        let plain = Payload::from_parts(head.payload, body).unwrap().open(SUITE).unwrap();
        assert_eq!(plain.len() as u64, part.length_in(plain_length));
        found.extend_from_slice(&plain);
        repos.push(head.repo);
    }
    assert_eq!(SUITE.digest(&found), digest);
    Ok((found, repos))
}

fn object() -> ObjectRef {
    ObjectRef::Segment {
        stanza: stanza(),
        db: DbId(1),
        file: FILE.parse().unwrap(),
    }
}

fn replicas(site: &TestNode) -> Vec<(u16, u32)> {
    let known = refs::known(&site.node.catalog.view(), &object()).unwrap();
    let replicas = known.map(|known| known.replicas).unwrap_or_default();
    let pair = |replica: &Replica| (replica.repo.get(), replica.generation.0);
    replicas.iter().map(pair).collect()
}

/// The files of the segment in one repository.
fn files(repository: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![repository.join("stanza")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.to_str().unwrap().contains(FILE) && !path.to_str().unwrap().contains(".map") => {
                    found.push(path);
                }
                false => {}
            }
        }
    }
    found.sort();
    found
}

fn harm(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

struct Archive {
    site: TestNode,
    client: Connected,
    repositories: Vec<PathBuf>,
}

impl Archive {
    /// With a file that was pushed.
    async fn with_file(count: usize) -> (Self, Vec<u8>) {
        let (archive, content) = (Self::new(count).await, content());
        push(&archive.client, &push_in_parts(&content), &payloads(&content))
            .await
            .unwrap();
        (archive, content)
    }

    async fn new(count: usize) -> Self {
        let names = &["repo1", "repo2"][..count];
        let site = TestNode::start_with(SessionTimes::default(), names).await;
        let client = site.connect().await;
        site.create_stanza_of(&client, SIZE).await;
        let repositories = names.iter().map(|name| site.folder().join(name)).collect();
        Self {
            site,
            client,
            repositories,
        }
    }

    fn files(&self, repository: usize) -> Vec<PathBuf> {
        files(&self.repositories[repository - 1])
    }

    /// It is written when all of the file was found good.
    fn has_last_part(&self) -> bool {
        let files = self.files(1);
        files.iter().any(|file| file.to_str().unwrap().ends_with(".p004of004"))
    }

    async fn wait_for_replicas(&self, wanted: &[(u16, u32)]) {
        self.site.wait("the replicas", |_| replicas(&self.site) == wanted).await;
    }

    /// What `verify` finds.
    async fn verify(&self) -> Vec<String> {
        let (sink, mut events) = mpsc::channel(64);
        let request = pgmesh_protocol::VerifyRequest {
            stanza: None,
            repo: None,
            part: None,
        };
        let (mut found, node) = (Vec::new(), &self.site.node);
        let listen = async {
            while let Some(event) = events.recv().await {
                match event {
                    VerifyEvent::Found(finding) => found.push(format!("{:?} {}", finding.kind, finding.subject)),
                    VerifyEvent::Failed(failure) => panic!("{failure}"),
                    _ => {}
                }
            }
        };
        tokio::join!(node.verify_own(request, sink), listen);
        found
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_lies_in_parts_in_every_repository_and_comes_back() {
    let archive = Archive::new(2).await;
    let (content, client) = (content(), &archive.client);
    let pushed = push(client, &push_in_parts(&content), &payloads(&content))
        .await
        .unwrap();
    assert!(!pushed.already && !pushed.durable.is_empty());
    archive.wait_for_replicas(&[(1, 0), (2, 0)]).await;
    for repository in [1, 2] {
        let files = archive.files(repository);
        assert_eq!(files.len(), usize::from(PARTS), "{files:?}");
        assert!(files[0].to_str().unwrap().ends_with(".p001of004"));
    }
    let stored = archive.site.node.catalog.view().object(&object()).unwrap().unwrap();
    assert_eq!(
        (stored.digest, stored.plain_length),
        (SUITE.digest(&content), u64::from(SIZE))
    );
    let sum: usize = payloads(&content).iter().map(|part| part.bytes.len()).sum();
    assert_eq!(stored.stored_length, sum as u64);
    assert!(get(client, Vec::new()).await.unwrap().0 == content);
    // The same again is not sent; other bytes are refused before they are.
    let (_, turn) = begin(client, &push_in_parts(&content)).await.unwrap();
    assert!(
        matches!(turn, PartsTurn::Done(Pushed { already: true, .. })),
        "{turn:?}"
    );
    let mut other = content.clone();
    other[9000] ^= 1;
    let refused = begin(client, &push_in_parts(&other)).await.map(drop).unwrap_err();
    assert_eq!(refused.code, ExitCode::ArchiveDuplicate, "{refused}");
    assert_eq!(archive.verify().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_what_was_announced_is_refused() {
    let archive = Archive::new(1).await;
    let (content, client) = (content(), &archive.client);
    let (announced, good) = (push_in_parts(&content), payloads(&content));
    let refused = async |parts: Vec<Payload>| push(client, &announced, &parts).await.unwrap_err();

    let mut harmed = good.clone();
    harmed[2] = Payload {
        bytes: good[1].bytes.clone(),
        ..good[2].clone()
    };
    assert_eq!(refused(harmed).await.code, ExitCode::Checksum, "a part that is damaged");

    let mut more = good.clone();
    more.push(good[0].clone());
    assert_eq!(refused(more).await.code, ExitCode::Protocol, "a part too many");

    let mut short = good.clone();
    short[1] = Payload::pack(SUITE, Codec::Zst, None, &content[..1000]).unwrap();
    assert_eq!(refused(short).await.code, ExitCode::Protocol, "a part too short");

    // Nobody hears an answer where the stream is cut.
    let (mut stream, _) = begin(client, &announced).await.unwrap();
    stream.send(&good[0].head()).await.unwrap();
    stream.send_bytes(&good[0].bytes).await.unwrap();
    drop(stream);
    let (mut stream, _) = begin(client, &announced).await.unwrap();
    for part in &good[..3] {
        stream.send(&part.head()).await.unwrap();
        stream.send_bytes(&part.bytes).await.unwrap();
    }
    stream.finish().unwrap();
    assert!(stream.reply::<PushSegment>().await.is_err(), "a part too few");

    assert_eq!(replicas(&archive.site), []);
    assert!(
        !archive.has_last_part(),
        "no set of parts is complete: {:?}",
        archive.files(1)
    );
    let unfinished = archive.verify().await;
    assert!(
        unfinished.len() == 1 && unfinished[0].starts_with("Unreferenced"),
        "{unfinished:?}"
    );
    // What lies there is found by the push that comes to its end.
    push(client, &announced, &good).await.unwrap();
    assert_eq!(archive.files(1).len(), usize::from(PARTS));
    assert_eq!(archive.verify().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_are_not_the_file_are_never_complete() {
    let archive = Archive::new(1).await;
    let (content, client) = (content(), &archive.client);
    let (announced, good) = (push_in_parts(&content), payloads(&content));
    let refused = async |parts: Vec<Payload>| push(client, &announced, &parts).await.unwrap_err();

    let mut swapped = good.clone();
    swapped.swap(1, 2);
    let failure = refused(swapped).await;
    assert_eq!(failure.code, ExitCode::Checksum, "in another order: {failure}");
    assert!(failure.again);

    let mut other = content.clone();
    other[20 << 20] ^= 1;
    let failure = refused(payloads(&other)).await;
    // Other bytes may lie under the name of one of its parts by now.
    let codes = [ExitCode::Checksum, ExitCode::ArchiveTimeout];
    assert!(codes.contains(&failure.code), "the file has changed: {failure}");
    // A part may lie there twice, under two generations.
    assert!(!archive.has_last_part(), "no set of parts is complete");
    assert_eq!(replicas(&archive.site), []);
    // Other bytes lie under the names of its parts: it is written beside them, all of it.
    let mut tries = 0;
    while let Err(failure) = push(client, &announced, &good).await {
        assert_eq!(failure.code, ExitCode::ArchiveTimeout, "{failure}");
        tries += 1;
        assert!(tries < 5, "{failure}");
    }
    assert!(get(client, Vec::new()).await.unwrap().0 == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_of_what_is_no_segment_of_the_stanza() {
    let archive = Archive::new(1).await;
    let client = &archive.client;
    let mut content = content();
    content[24] ^= 1;
    let failure = push(client, &push_in_parts(&content), &payloads(&content))
        .await
        .unwrap_err();
    assert_eq!(failure.code, ExitCode::ArchiveMismatch, "{failure}");
    let mut announced = push_in_parts(&content);
    announced.payload.length = 17;
    assert_eq!(
        begin(client, &announced).await.map(drop).unwrap_err().code,
        ExitCode::Protocol
    );
    let mut announced = push_in_parts(&content);
    announced.payload.plain_length = (1 << 30) + 1;
    assert_eq!(
        begin(client, &announced).await.map(drop).unwrap_err().code,
        ExitCode::OptionInvalid
    );
    let mut announced = push_in_parts(&content);
    announced.file = "00000002.history".into();
    assert_eq!(
        begin(client, &announced).await.map(drop).unwrap_err().code,
        ExitCode::FileInvalid
    );
    assert!(archive.files(1).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_6_a_damaged_part_is_read_elsewhere_and_its_file_made_anew() {
    let (archive, content) = Archive::with_file(2).await;
    let client = &archive.client;
    archive.wait_for_replicas(&[(1, 0), (2, 0)]).await;
    // Each repository has lost another part: together they have all.
    harm(&archive.files(1)[1]);
    std::fs::remove_file(&archive.files(2)[3]).unwrap();
    let found = archive.verify().await;
    assert!(
        found
            .iter()
            .any(|found| found.starts_with("Damaged") && found.ends_with(".p002of004")),
        "{found:?}"
    );
    assert!(found.iter().any(|found| found.starts_with("Missing")), "{found:?}");
    archive.wait_for_replicas(&[(1, 1), (2, 1)]).await;
    let (read, _) = get(client, Vec::new()).await.unwrap();
    assert!(read == content);
    // The bad ones go when they are replaced.
    archive
        .site
        .wait("the bad copies to go", |_| {
            let left = |repository| archive.files(repository).len();
            left(1) == usize::from(PARTS) && left(2) == usize::from(PARTS)
        })
        .await;
    assert_eq!(archive.verify().await, Vec::<String>::new());

    // A part that rots is read elsewhere, in the middle of a file.
    harm(&archive.files(1)[2]);
    harm(&archive.files(2)[0]);
    let (read, repos) = get(client, Vec::new()).await.unwrap();
    assert!(read == content);
    assert_eq!((repos[0], repos[2]), (1, 2));
    // While the node looks at one doubted copy it passes over a doubt about the other: then the next reader finds it.
    let began = Instant::now();
    while replicas(&archive.site) != [(1, 2), (2, 2)] {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{:?}",
            replicas(&archive.site)
        );
        archive.verify().await;
    }

    // What is withdrawn for one part has the others.
    harm(&archive.files(1)[2]);
    harm(&archive.files(2)[0]);
    for _ in 0..2 {
        assert!(get(client, Vec::new()).await.unwrap().0 == content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_are_together_another_file_are_withdrawn() {
    let (archive, content) = Archive::with_file(2).await;
    let client = &archive.client;
    archive.wait_for_replicas(&[(1, 0), (2, 0)]).await;
    // Written by whoever had other bytes under this name: the tag is good.
    let known = refs::known(&archive.site.node.catalog.view(), &object())
        .unwrap()
        .unwrap();
    let slot = archive.site.node.own_slot(RepoKey::new(1).unwrap()).unwrap().clone();
    let repository = slot.repository().unwrap();
    let name = known.name.of_part(FilePart::new(2, PARTS).unwrap());
    repository.delete(&name, Generation::FIRST).await.unwrap();
    let wrong = Payload::pack(SUITE, Codec::Zst, None, &vec![9; PART]).unwrap();
    repository.put(&name, Generation::FIRST, &wrong).await.unwrap();
    let found = archive.verify().await;
    assert!(found.iter().any(|found| found.starts_with("Damaged")), "{found:?}");
    archive.wait_for_replicas(&[(1, 1), (2, 0)]).await;

    // A client that finds it says which repositories gave it parts.
    let known = refs::known(&archive.site.node.catalog.view(), &object())
        .unwrap()
        .unwrap();
    let name = known.name.of_part(FilePart::new(4, PARTS).unwrap());
    repository.delete(&name, Generation(1)).await.unwrap();
    repository.put(&name, Generation(1), &wrong).await.unwrap();
    let (read, repos) = get(client, vec![1, 2]).await.unwrap();
    assert!(read == content && repos.iter().all(|repo| *repo == 2), "{repos:?}");
    archive.wait_for_replicas(&[(1, 2), (2, 0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_part_of_a_push_that_was_cut_is_written_beside() {
    let archive = Archive::new(1).await;
    let (content, client) = (content(), &archive.client);
    let (announced, parts) = (push_in_parts(&content), payloads(&content));
    let (mut stream, _) = begin(client, &announced).await.unwrap();
    stream.send(&parts[0].head()).await.unwrap();
    stream.send_bytes(&parts[0].bytes).await.unwrap();
    archive
        .site
        .wait("the first part", |_| !archive.files(1).is_empty())
        .await;
    drop(stream);
    harm(&archive.files(1)[0]);
    // The parts of one file have one generation: it is written again, all of it.
    let failure = push(client, &announced, &parts).await.unwrap_err();
    assert_eq!(failure.code, ExitCode::ArchiveTimeout, "{failure}");
    push(client, &announced, &parts).await.unwrap();
    assert_eq!(replicas(&archive.site), [(1, 1)]);
    assert!(get(client, Vec::new()).await.unwrap().0 == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_takes_every_part_however_often_it_is_cut() {
    let (archive, _) = Archive::with_file(1).await;
    let files = archive.files(1);
    assert_eq!(files.len(), usize::from(PARTS));
    // It was cut after some of them.
    std::fs::remove_file(&files[0]).unwrap();
    std::fs::remove_file(&files[2]).unwrap();
    delete_all(&archive).await.unwrap();
    assert!(archive.files(1).is_empty());
}

async fn delete_all(archive: &Archive) -> Result<(), pgmesh_protocol::RemoteError> {
    let node = &archive.site.node;
    let known = refs::known(&node.catalog.view(), &object()).unwrap().unwrap();
    let repo = RepoKey::new(1).unwrap();
    let delete = DeleteObject {
        repo,
        uuid: node.catalog.view().repository(repo).unwrap().unwrap().uuid.into(),
        object: known.name,
        generation: Generation::FIRST,
        term: node.catalog.status().term,
    };
    node.delete_object(delete).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stanza_that_is_deleted_leaves_no_part() {
    let (archive, _) = Archive::with_file(2).await;
    let client = &archive.client;
    archive.wait_for_replicas(&[(1, 0), (2, 0)]).await;
    let delete = DeleteStanza {
        stanza: stanza(),
        force: true,
        is_down: true,
    };
    client.ask(&delete, None).await.unwrap();
    archive
        .site
        .wait("the parts to go", |_| {
            archive.files(1).is_empty() && archive.files(2).is_empty()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_takes_no_parts_owes_the_file() {
    let archive = Archive::new(2).await;
    let (content, client) = (content(), &archive.client);
    // Nothing can be written below a file.
    let blocked = archive.repositories[1].join("stanza/main/archive");
    std::fs::write(&blocked, b"").unwrap();
    let mut announced = push_in_parts(&content);
    announced.archive_ack = Some(1);
    let pushed = push(client, &announced, &payloads(&content)).await.unwrap();
    assert_eq!((pushed.durable, pushed.owed), (vec![1], vec![2]));
    std::fs::remove_file(&blocked).unwrap();
    archive.wait_for_replicas(&[(1, 0), (2, 0)]).await;
    assert_eq!(archive.files(2).len(), usize::from(PARTS));
    assert_eq!(archive.verify().await, Vec::<String>::new());
}

/// The server whose timeline left timeline 1 at this byte of the segment pushes its rest of it.
fn from_another(content: &[u8], left: u64) -> PushSegment {
    let mut push = push_in_parts(content);
    push.server = Server {
        instance: "there".to_owned(),
        timeline: TimelineId(2),
        branches: vec![Branch {
            parent: TimelineId(1),
            switch: Lsn(u64::from(SIZE) + left),
        }],
        ..push.server
    };
    push
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_3_what_is_set_aside_begins_as_what_is_archived() {
    let (archive, content) = Archive::with_file(1).await;
    let client = &archive.client;
    let mut other = content.clone();
    other[9 << 20] ^= 1;
    // The two part in the second part, before the place where the server's timeline left.
    let announced = from_another(&other, 10 << 20);
    let failure = push(client, &announced, &payloads(&other)).await.unwrap_err();
    assert_eq!(failure.code, ExitCode::ArchiveDuplicate, "{failure}");
    let place = Lsn(u64::from(SIZE) + (9 << 20)).to_string();
    assert!(failure.to_string().contains(&place), "{place}: {failure}");
    let last_parts = |archive: &Archive| {
        let files = archive.files(1);
        let last = files
            .iter()
            .filter(|file| file.to_str().unwrap().contains(".p004of004"));
        last.count()
    };
    assert_eq!(last_parts(&archive), 1, "nothing complete was set aside");
    // Behind that place they may differ.
    let announced = from_another(&other, 9 << 20);
    let pushed = push(client, &announced, &payloads(&other)).await.unwrap();
    assert!(pushed.aside && !pushed.already);
    assert_eq!(last_parts(&archive), 2);
    assert!(
        get(client, Vec::new()).await.unwrap().0 == content,
        "it is not handed out"
    );
    let (_, turn) = begin(client, &announced).await.unwrap();
    assert!(matches!(turn, PartsTurn::Done(Pushed { aside: true, .. })), "{turn:?}");
    assert_eq!(archive.verify().await, Vec::<String>::new());
}
