//! Chunks by right of the stanza (decision 47), on a running node.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::SessionTimes;
use crate::testing::{Connected, SEGMENT, SUITE, TestNode, manifest_of_files, push_of, segment};
use bytes::Bytes;
use pgmesh_postgres::{PgVersion, SegmentSize, SystemId, TimelineId};
use pgmesh_protocol::{
    BackupBegun, BeginBackup, ChunkReply, CommitBackup, CommittedBackup, CreateStanza, ExitCode, Failure, GetChunk,
    GetPieces, PutChunk, QueryChunks, VerifyEvent, VerifyRequest,
};
use pgmesh_storage::{Codec, Digest, ManifestRoot, PartRef, Payload, StanzaName};
use pgmesh_transport::Role;

const FIRST: &str = "20260101-000000F";
const SECOND: &str = "20260102-000000F";
const LENGTH: usize = 900;
const SEGMENT_NAME: &str = "000000010000000000000001";

/// A client's connection, and the stanza that it works for.
struct Host {
    stanza: StanzaName,
    connected: Connected,
}

impl Host {
    /// Joins with a certificate for these stanzas, and creates the first one unless it is there.
    async fn of(site: &TestNode, name: &str, stanzas: &[&str]) -> Self {
        let stanzas: Vec<StanzaName> = stanzas.iter().map(|name| name.parse().unwrap()).collect();
        let stanza = stanzas[0].clone();
        let identity = site.certificate(&Role::Client { stanzas }, name);
        let host = Self {
            stanza,
            connected: site.connect_as(&identity).await,
        };
        if site.node.catalog.view().stanza(&host.stanza).unwrap().is_none() {
            host.create_stanza().await;
        }
        host
    }

    async fn create_stanza(&self) {
        let version = PgVersion::V15;
        let create = CreateStanza {
            stanza: self.stanza.clone(),
            system_id: SystemId(77),
            version,
            catalog_version: version.catalog_version(),
            segment_size: SegmentSize::new(SEGMENT).unwrap(),
            instance: "here".into(),
            machine: String::new().into(),
            timeline: TimelineId(1),
        };
        self.connected.ask(&create, None).await.unwrap();
        let content = segment(1);
        let mut push = push_of(SEGMENT_NAME, &content);
        push.stanza = self.stanza.clone();
        let payload = Payload::pack(SUITE, Codec::None, None, &content).unwrap();
        self.connected.ask(&push, Some(&payload.bytes)).await.unwrap();
    }

    async fn begin(&self, label: &str) -> u64 {
        let begin = BeginBackup {
            stanza: self.stanza.clone(),
            system_id: SystemId(77),
            version: PgVersion::V15,
            instance: Some("here".into()),
            timeline: TimelineId(1),
            label: label.parse().unwrap(),
            holder: "process 7 on db1".into(),
            backup_ack: None,
        };
        let begun: BackupBegun = self.connected.ask(&begin, None).await.unwrap();
        begun.session
    }

    async fn put(&self, session: u64, content: &[u8]) -> (Digest, u64) {
        let payload = Payload::pack(SUITE, Codec::None, None, content).unwrap();
        let put = PutChunk {
            stanza: self.stanza.clone(),
            session,
            payload: payload.head(),
        };
        let stored = self.connected.ask(&put, Some(&payload.bytes)).await.unwrap();
        (payload.digest, stored)
    }

    async fn query(&self, session: u64, chunks: &[Digest]) -> Vec<bool> {
        let query = QueryChunks {
            stanza: self.stanza.clone(),
            session,
            digests: chunks.to_vec().into(),
        };
        self.connected.ask(&query, None).await.unwrap()
    }

    /// The manifest of a backup with a file in each of these chunks: its root, and its part.
    fn manifest(&self, label: &str, chunks: &[Digest]) -> (ManifestRoot, Vec<u8>) {
        let (root, part) = manifest_of_files(label, chunks, LENGTH);
        let mut root = ManifestRoot::decode(&root).unwrap();
        root.stanza = self.stanza.clone();
        (root, part)
    }

    async fn commit(&self, session: u64, root: &ManifestRoot) -> Result<CommittedBackup, Failure> {
        let payload = Payload::pack(SUITE, Codec::None, None, &root.encode().unwrap()).unwrap();
        let commit = CommitBackup {
            stanza: self.stanza.clone(),
            session,
            label: root.label.clone(),
            manifest: payload.head(),
        };
        self.connected.ask(&commit, Some(&payload.bytes)).await
    }

    /// Commits a backup that names these chunks, as the honest client does.
    async fn commit_of(&self, session: u64, label: &str, chunks: &[Digest]) -> CommittedBackup {
        let (root, part) = self.manifest(label, chunks);
        self.put(session, &part).await;
        self.commit(session, &root).await.unwrap()
    }

    /// A whole backup of these contents.
    async fn back_up(&self, label: &str, contents: &[u8]) -> Vec<Digest> {
        let session = self.begin(label).await;
        let mut chunks = Vec::new();
        for byte in contents {
            chunks.push(self.put(session, &[*byte; LENGTH]).await.0);
        }
        let committed = self.commit_of(session, label, &chunks).await;
        assert!(matches!(committed, CommittedBackup::Committed { .. }), "{committed:?}");
        chunks
    }

    /// Reads a chunk, whole and in pieces: both are answered alike.
    async fn read(&self, digest: Digest) -> Result<(), Failure> {
        let whole = GetChunk {
            stanza: self.stanza.clone(),
            digest,
            avoid: vec![].into(),
        };
        let pieces = GetPieces {
            stanza: self.stanza.clone(),
            digest,
            ranges: vec![(0, 8)].into(),
            avoid: vec![].into(),
        };
        let whole: Result<ChunkReply, Failure> = self.connected.ask(&whole, None).await;
        let pieces: Result<ChunkReply, Failure> = self.connected.ask(&pieces, None).await;
        let (whole, pieces) = (whole.map(drop), pieces.map(drop));
        assert_eq!(
            whole.as_ref().map_err(ToString::to_string),
            pieces.as_ref().map_err(ToString::to_string)
        );
        whole
    }
}

fn digest_of(content: &[u8]) -> Digest {
    SUITE.digest(content)
}

fn missing(committed: Result<CommittedBackup, Failure>) -> Vec<Digest> {
    match committed {
        Ok(CommittedBackup::Missing(missing)) => missing,
        other => panic!("{other:?}"),
    }
}

fn possessions(site: &TestNode) -> usize {
    site.node.catalog.view().possessions().count()
}

/// The same answer, less the digest that was asked for.
fn words(failure: &Failure, digest: Digest) -> String {
    failure.to_string().replace(&digest.to_string(), "DIGEST")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_of_another_stanza_is_neither_handed_out_nor_confirmed() {
    let site = TestNode::start(SessionTimes::default()).await;
    let (bb, aa) = (
        Host::of(&site, "db-bb", &["bb"]).await,
        Host::of(&site, "db-aa", &["aa"]).await,
    );
    let table = bb.back_up(FIRST, &[7]).await[0];
    let nothing = digest_of(b"no chunk of this mesh");
    // Both are answered alike: it tells nothing of whether the chunk exists.
    for _ in 0..2 {
        let (foreign, unknown) = (aa.read(table).await.unwrap_err(), aa.read(nothing).await.unwrap_err());
        assert_eq!(foreign.code, ExitCode::FileMissing, "{foreign}");
        assert_eq!(words(&foreign, table), words(&unknown, nothing));
    }
    let session = aa.begin(FIRST).await;
    assert_eq!(aa.query(session, &[table, nothing]).await, [false, false]);

    // As a chunk of a file, beside one that does not exist.
    let (root, part) = aa.manifest(FIRST, &[table, nothing]);
    aa.put(session, &part).await;
    let mut named = missing(aa.commit(session, &root).await);
    named.sort_unstable();
    let mut expected = vec![table, nothing];
    expected.sort_unstable();
    assert_eq!(named, expected);
    // As a part of the manifest: it would be read, and judged by its content.
    let (mut root, _) = aa.manifest(FIRST, &[nothing]);
    let length = LENGTH as u64;
    root.parts = [table, nothing].map(|digest| PartRef { digest, length }).to_vec();
    let mut named = missing(aa.commit(session, &root).await);
    named.sort_unstable();
    assert_eq!(named, expected);
    // None of this was a proof of having it.
    assert!(aa.read(table).await.is_err());
    assert_eq!(aa.query(session, &[table]).await, [false]);

    // Whoever has the content shows it: then the chunk is the stanza's, too, and is stored once.
    let objects = |site: &TestNode| {
        let repo = pgmesh_storage::RepoKey::new(1).unwrap();
        site.node.catalog.view().counters(repo).unwrap().objects
    };
    let before = objects(&site);
    let (shown, _) = aa.put(session, &[7; LENGTH]).await;
    assert_eq!((shown, objects(&site)), (table, before));
    assert_eq!(aa.query(session, &[table]).await, [true]);
    aa.read(table).await.unwrap();
    let committed = aa.commit_of(session, FIRST, &[table]).await;
    assert!(matches!(committed, CommittedBackup::Committed { .. }), "{committed:?}");
    aa.read(table).await.unwrap();
}

/// A body with other content than its digest says is refused before anything is said of the chunk.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_is_shown_by_its_content_and_by_nothing_else() {
    let site = TestNode::start(SessionTimes::default()).await;
    let (bb, aa) = (
        Host::of(&site, "db-bb", &["bb"]).await,
        Host::of(&site, "db-aa", &["aa"]).await,
    );
    let table = bb.back_up(FIRST, &[7]).await[0];
    let session = aa.begin(FIRST).await;
    let wrong = async |digest| {
        let mut payload = Payload::pack(SUITE, Codec::None, None, &[8; LENGTH]).unwrap();
        payload.digest = digest;
        let put = PutChunk {
            stanza: aa.stanza.clone(),
            session,
            payload: payload.head(),
        };
        let body: Bytes = payload.bytes.clone();
        aa.connected.ask(&put, Some(&body)).await.unwrap_err()
    };
    let (foreign, unknown) = (wrong(table).await, wrong(digest_of(b"nothing")).await);
    assert_eq!(foreign.code, ExitCode::Checksum, "{foreign}");
    assert_eq!(words(&foreign, table), words(&unknown, digest_of(b"nothing")));
    assert_eq!(aa.query(session, &[table]).await, [false]);
    // The compression that another stanza has chosen shows nowhere in the answer.
    let packed = Payload::pack(SUITE, Codec::Zst, None, &[9; LENGTH]).unwrap();
    let put = PutChunk {
        stanza: bb.stanza.clone(),
        session: bb.begin(SECOND).await,
        payload: packed.head(),
    };
    bb.connected.ask(&put, Some(&packed.bytes)).await.unwrap();
    let (_, there) = aa.put(session, &[9; LENGTH]).await;
    let (_, new) = aa.put(session, &[10; LENGTH]).await;
    assert_eq!(there, new);
}

#[tokio::test(flavor = "multi_thread")]
async fn stanzas_of_one_certificate_share_their_chunks_without_sending_them_again() {
    let site = TestNode::start(SessionTimes::default()).await;
    let (bb, cc) = (
        Host::of(&site, "db-bb", &["bb"]).await,
        Host::of(&site, "db-cc", &["cc"]).await,
    );
    let (table, foreign) = (bb.back_up(FIRST, &[7]).await[0], cc.back_up(FIRST, &[8]).await[0]);
    let both = Host::of(&site, "db-both", &["aa", "bb"]).await;
    both.read(table).await.unwrap();
    let session = both.begin(FIRST).await;
    assert_eq!(both.query(session, &[table, foreign]).await, [true, false]);
    let committed = both.commit_of(session, FIRST, &[table]).await;
    assert!(matches!(committed, CommittedBackup::Committed { .. }), "{committed:?}");
    // The stanza has the right itself, whoever asks.
    let alone = Host::of(&site, "db-aa", &["aa"]).await;
    alone.read(table).await.unwrap();
    assert!(alone.read(foreign).await.is_err());
    assert_eq!(possessions(&site), 0, "a use says it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restoring_host_reads_its_stanzas_chunks_and_an_administrator_all() {
    let site = TestNode::start(SessionTimes::default()).await;
    let (bb, aa) = (
        Host::of(&site, "db-bb", &["bb"]).await,
        Host::of(&site, "db-aa", &["aa"]).await,
    );
    let (table, own) = (bb.back_up(FIRST, &[7]).await[0], aa.back_up(FIRST, &[8]).await[0]);
    let as_role = async |role: Role, name: &str| {
        let identity = site.certificate(&role, name);
        Host {
            stanza: aa.stanza.clone(),
            connected: site.connect_as(&identity).await,
        }
    };
    let stanzas = vec![aa.stanza.clone()];
    let restoring = as_role(Role::Restore { stanzas }, "db9").await;
    restoring.read(own).await.unwrap();
    assert_eq!(restoring.read(table).await.unwrap_err().code, ExitCode::FileMissing);
    let administrator = as_role(Role::Admin, "root").await;
    administrator.read(table).await.unwrap();
    // A backup by an administrator is its stanza's all the same: nothing is learned from its speed, either.
    let session = administrator.begin(SECOND).await;
    assert_eq!(administrator.query(session, &[own, table]).await, [true, false]);
}

/// The chunks that it has sent are the stanza's from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backup_sends_nothing_twice() {
    let site = TestNode::start(SessionTimes::default()).await;
    let aa = Host::of(&site, "db-aa", &["aa"]).await;
    let session = aa.begin(FIRST).await;
    let (sent, _) = aa.put(session, &[7; LENGTH]).await;
    let end = pgmesh_protocol::EndSession {
        stanza: aa.stanza.clone(),
        session,
    };
    aa.connected.ask(&end, None).await.unwrap();
    let session = aa.begin(SECOND).await;
    assert_eq!(aa.query(session, &[sent]).await, [true]);
    let committed = aa.commit_of(session, SECOND, &[sent]).await;
    assert!(matches!(committed, CommittedBackup::Committed { .. }), "{committed:?}");
    assert_eq!(possessions(&site), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_of_one_stanza_tells_of_no_other_s_chunks() {
    let site = TestNode::start(SessionTimes::default()).await;
    let (bb, aa) = (
        Host::of(&site, "db-bb", &["bb"]).await,
        Host::of(&site, "db-aa", &["aa"]).await,
    );
    let (table, own) = (bb.back_up(FIRST, &[7]).await[0], aa.back_up(FIRST, &[8, 9]).await[0]);
    site.damage(table);
    site.damage(own);
    let verify = VerifyRequest {
        part: None,
        stanza: Some(aa.stanza.clone()),
        repo: None,
    };
    let mut stream = aa.connected.open().await;
    stream.call(&verify).await.unwrap();
    stream.finish().unwrap();
    let mut subjects = Vec::new();
    let summary = loop {
        match stream.reply::<VerifyRequest>().await.unwrap().unwrap() {
            VerifyEvent::Found(finding) => subjects.push(finding.subject),
            VerifyEvent::Progress { .. } => {}
            VerifyEvent::Done(summary) => break summary,
            VerifyEvent::Failed(failure) => panic!("{failure}"),
        }
    };
    assert!(
        subjects.iter().any(|subject| subject.contains(&own.to_string())),
        "{subjects:?}"
    );
    assert!(
        !subjects.iter().any(|subject| subject.contains(&table.to_string())),
        "{subjects:?}"
    );
    // Of the stanza: two chunks and a part of the manifest, the manifest, its description, its WAL, and the identity.
    assert_eq!(summary.objects, 7, "{summary:?}");
}
