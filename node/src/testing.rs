//! One node in the process of a test, served on a port of its own, and a client that talks to it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::server::serve;
use crate::{Layout, Node, NodeSettings, SessionTimes, init};
use bytes::Bytes;
use pgmesh_postgres::{Lsn, PgVersion, SegmentSize, SystemId, TimelineId};
use pgmesh_protocol::{
    BackupBegun, BeginBackup, Call, CommitBackup, CommittedBackup, CreateStanza, Failure, PushSegment, PutChunk,
};
use pgmesh_raft::command::{AdmitNode, HandOutToken};
use pgmesh_raft::{Command, NodeName, NodeRecord, NodeService, Redemption, RequestId, SessionId, TokenId, TokenRole};
use pgmesh_storage::{
    BackupSizes, BackupType, Codec, Digest, DigestSuite, EntryKind, Extent, FileEntry, MANIFEST_FORMAT, ManifestRoot,
    PartRef, PartWriter, Passphrase, Payload, StanzaName,
};
use pgmesh_transport::{
    Client, ConnectError, Connection, ConnectionLost, Fingerprint, Identity, MemberCertificate, MeshId, Role, Server,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

#[path = "../tests/common/mod.rs"]
mod common;
pub(crate) use common::{server, settings};

pub(crate) const SUITE: DigestSuite = DigestSuite::Blake3;
pub(crate) const SEGMENT: u32 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// Times short enough for a test to wait for.
pub(crate) const QUICK: SessionTimes = SessionTimes {
    timeout: Duration::from_secs(4),
    orphaned: Duration::from_secs(3),
    unheld: Duration::from_secs(5),
    dead: Duration::from_secs(3),
};

pub(crate) struct TestNode {
    pub(crate) node: Arc<Node>,
    address: String,
    admin: Identity,
    _stop: tokio::sync::oneshot::Sender<()>,
    _running: tokio::task::JoinHandle<Result<crate::Ended, Failure>>,
    folder: tempfile::TempDir,
}

impl TestNode {
    pub(crate) async fn start(sessions: SessionTimes) -> Self {
        Self::start_as(sessions, &["repo"], |_| {}).await
    }

    /// With an encrypted repository.
    pub(crate) async fn start_encrypted(sessions: SessionTimes) -> Self {
        let encrypt = |settings: &mut NodeSettings| {
            for declared in settings.repositories.values_mut() {
                let cipher = ("cipher-type".to_owned(), "aes-256-cbc".to_owned());
                declared.definition.extend([cipher]);
                declared.passphrase = Some(Passphrase::new("secret".to_owned()).unwrap());
            }
        };
        Self::start_as(sessions, &["repo"], encrypt).await
    }

    /// With repositories in these folders, numbered from 1.
    pub(crate) async fn start_with(sessions: SessionTimes, repositories: &[&str]) -> Self {
        Self::start_as(sessions, repositories, |_| {}).await
    }

    async fn start_as(sessions: SessionTimes, repositories: &[&str], change: impl FnOnce(&mut NodeSettings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let places: Vec<std::path::PathBuf> = repositories.iter().map(|name| folder.path().join(name)).collect();
        let places: Vec<&Path> = places.iter().map(std::path::PathBuf::as_path).collect();
        let mut settings = settings(&folder.path().join("node"), &places, sessions);
        change(&mut settings);
        init(&settings, SUITE).await.unwrap();
        let layout = Layout::new(&settings.path);
        let identity = Identity::load(&layout.identity()).unwrap();
        let admin = Identity::load(&layout.admin()).unwrap();
        let server = Arc::new(Server::bind(settings.listen, &identity).unwrap());
        let node = Arc::new(Node::open(settings, identity).await.unwrap().unwrap());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, address) = tokio::sync::oneshot::channel();
        let served = serve(
            node.clone(),
            server,
            |address| ready.send(address).unwrap(),
            async move { drop(stopped.await) },
        );
        let running = tokio::spawn(served);
        let site = Self {
            node,
            address: address.await.unwrap().to_string(),
            admin,
            _stop: stop,
            _running: running,
            folder,
        };
        site.wait("its repositories", |node| {
            node.catalog.view().repositories().unwrap().len() == repositories.len()
        })
        .await;
        site
    }

    pub(crate) async fn connect(&self) -> Connected {
        self.connect_as(&self.admin).await
    }

    /// A certificate of the mesh.
    pub(crate) fn certificate(&self, role: &Role, name: &str) -> Identity {
        let authority = self.node.membership.authority().unwrap();
        let validity = Duration::from_secs(3600);
        authority.issue(role, &name.parse().unwrap(), validity).unwrap()
    }

    pub(crate) async fn connect_as(&self, identity: &Identity) -> Connected {
        self.try_connect_as(identity).await.unwrap()
    }

    /// Where it is served.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) async fn try_connect_as(&self, identity: &Identity) -> Result<Connected, ConnectError> {
        let client = Client::new(identity).unwrap();
        let connection = client.connect(&self.address).await?;
        Ok(Connected {
            connection,
            _client: client,
        })
    }

    pub(crate) async fn wait(&self, what: &str, mut wanted: impl FnMut(&Node) -> bool) {
        let began = Instant::now();
        while !wanted(&self.node) {
            assert!(began.elapsed() < LIMIT, "waiting for {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn propose(&self, command: Command) -> pgmesh_raft::Reply {
        self.node.catalog.propose("test", command).await.unwrap()
    }

    /// The same member with a renewed certificate.
    pub(crate) fn renewed(&self, identity: &Identity) -> Identity {
        let authority = self.node.membership.authority().unwrap();
        let (csr, member) = (identity.renewal_csr_der().unwrap(), identity.member());
        let validity = Duration::from_secs(7200);
        let certificate = authority.sign_csr(&csr, &member.role, &member.name, validity).unwrap();
        identity.renewed(authority.certificate_der(), &certificate).unwrap()
    }

    /// Admits another node, in place of a member of its name if there is one. Returns its number.
    pub(crate) async fn admit(&self, node: &Identity) -> u64 {
        self.admit_with(node, [0; 32]).await
    }

    /// The same with the key of its administrator.
    pub(crate) async fn admit_with(&self, node: &Identity, administrator: [u8; 32]) -> u64 {
        let name: NodeName = node.name().as_str().parse().unwrap();
        let known = self.node.catalog.view().node(&name).unwrap();
        let token = TokenId(RequestId::random().0);
        self.propose(Command::HandOutToken(Box::new(HandOutToken {
            id: token,
            secret_hash: [0; 32],
            role: TokenRole::Node {
                name: name.clone(),
                replaces: known.filter(NodeRecord::is_member).map(|known| known.node_id),
            },
            expires: i64::MAX,
            maker: [200; 32],
        })))
        .await;
        let command = Command::AdmitNode(Box::new(AdmitNode {
            redemption: Redemption {
                token,
                secret_hash: [0; 32],
                request: [0; 32],
                certificate: Vec::new(),
            },
            name,
            region: String::new(),
            advertise: vec!["127.0.0.1:1".to_owned()],
            key: node.member().key.0,
            administrator,
            program: "test".to_owned(),
            catalog_format: pgmesh_raft::MeshRecord::CATALOG_FORMAT,
        }));
        match self.propose(command).await {
            pgmesh_raft::Reply::Joined {
                node_id: Some(node_id), ..
            } => node_id,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn remove(&self, name: &str) {
        let (name, service) = (name.parse().unwrap(), NodeService::Removed);
        self.propose(Command::SetNodeService { name, service }).await;
    }

    pub(crate) fn repository(&self) -> std::path::PathBuf {
        self.folder.path().join("repo")
    }

    /// The folder of the node and its repositories.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn is_open(&self, session: SessionId) -> bool {
        self.node.catalog.view().session(session).unwrap().is_some()
    }

    /// A session of this node that this process knows nothing of.
    pub(crate) async fn open_unknown(&self, command: Command) -> SessionId {
        self.open_as(RequestId::random(), command).await
    }

    pub(crate) async fn open_as(&self, request: RequestId, command: Command) -> SessionId {
        match self.node.catalog.propose_as("test", request, command).await.unwrap() {
            pgmesh_raft::Reply::Session(session) => session,
            other => panic!("{other:?}"),
        }
    }

    /// Creates the stanza `main` and archives its first segment.
    pub(crate) async fn create_stanza(&self, client: &Connected) {
        self.create_stanza_of(client, SEGMENT).await;
        let content = segment(1);
        let push = push_of("000000010000000000000001", &content);
        let payload = Payload::pack(SUITE, Codec::None, None, &content).unwrap();
        let pushed = client.ask(&push, Some(&payload.bytes)).await;
        pushed.unwrap();
    }

    /// A stanza with segments of so many bytes, and nothing in its archive.
    pub(crate) async fn create_stanza_of(&self, client: &Connected, segment_size: u32) {
        let version = PgVersion::V15;
        let create = CreateStanza {
            stanza: stanza(),
            system_id: SystemId(77),
            version,
            catalog_version: version.catalog_version(),
            segment_size: SegmentSize::new(segment_size).unwrap(),
            instance: "here".into(),
            machine: String::new().into(),
            timeline: TimelineId(1),
        };
        client.ask(&create, None).await.unwrap();
    }

    /// Damages all objects of this digest.
    pub(crate) fn damage(&self, digest: Digest) {
        visit(&self.repository(), &mut |path| {
            if path.contains(&digest.to_string()[..16]) {
                let mut bytes = std::fs::read(path).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                std::fs::remove_file(path).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
        });
    }

    /// Whether the repository has the object.
    pub(crate) fn has_file(&self, digest: Digest) -> bool {
        let folder = self.folder.path().join("repo");
        let mut found = false;
        visit(&folder, &mut |path| found |= path.contains(&digest.to_string()[..16]));
        found
    }
}

pub(crate) fn visit(folder: &Path, see: &mut impl FnMut(&str)) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            visit(&entry.path(), see);
        } else {
            see(entry.path().to_str().unwrap());
        }
    }
}

/// A client's connection.
pub(crate) struct Connected {
    connection: Connection,
    _client: Client,
}

impl Connected {
    pub(crate) async fn ask<C: Call>(&self, call: &C, body: Option<&Bytes>) -> Result<C::Reply, Failure> {
        let mut stream = self.connection.open().await.unwrap();
        stream.call(call).await.unwrap();
        if let Some(body) = body {
            // A node that refuses a request may not wait for its body.
            let _ = stream.send_bytes(body).await;
        }
        let _ = stream.finish();
        stream.reply::<C>().await.unwrap()
    }

    /// A new stream.
    pub(crate) async fn open(&self) -> pgmesh_transport::Stream {
        self.connection.open().await.unwrap()
    }

    /// The answer, or none if the request is refused or the connection is at its end.
    pub(crate) async fn ask_once<C: Call>(&self, call: &C) -> Option<C::Reply> {
        let mut stream = self.connection.open().await.ok()?;
        stream.call(call).await.ok()?;
        stream.finish().ok()?;
        stream.reply::<C>().await.ok()?.ok()
    }

    /// Waits for the connection's end.
    pub(crate) async fn closed(&self) -> ConnectionLost {
        tokio::time::timeout(LIMIT, self.connection.closed()).await.unwrap()
    }

    pub(crate) async fn begin_backup(&self, label: &str) -> Result<BackupBegun, Failure> {
        let begin = BeginBackup {
            stanza: stanza(),
            system_id: SystemId(77),
            version: PgVersion::V15,
            instance: Some("here".into()),
            timeline: TimelineId(1),
            label: label.parse().unwrap(),
            holder: "process 7 on db1".into(),
            backup_ack: None,
        };
        self.ask(&begin, None).await
    }

    pub(crate) async fn commit_backup(
        &self,
        session: u64,
        label: &str,
        root: &[u8],
    ) -> Result<CommittedBackup, Failure> {
        let payload = Payload::pack(SUITE, Codec::None, None, root).unwrap();
        let commit = CommitBackup {
            stanza: stanza(),
            session,
            label: label.parse().unwrap(),
            manifest: payload.head(),
        };
        self.ask(&commit, Some(&payload.bytes)).await
    }

    pub(crate) async fn put_chunk(&self, session: u64, content: &[u8]) -> Result<Digest, Failure> {
        let payload = Payload::pack(SUITE, Codec::None, None, content).unwrap();
        let put = PutChunk {
            stanza: stanza(),
            session,
            payload: payload.head(),
        };
        self.ask(&put, Some(&payload.bytes)).await?;
        Ok(payload.digest)
    }
}

/// A push of a file of the stanza `main` by its cluster.
pub(crate) fn push_of(file: &str, content: &[u8]) -> PushSegment {
    PushSegment {
        stanza: stanza(),
        file: file.into(),
        payload: Payload::pack(SUITE, Codec::None, None, content).unwrap().head(),
        system_id: SystemId(77),
        version: PgVersion::V15,
        header_timeline: TimelineId(1),
        server: server(),
        archive_ack: None,
    }
}

/// The certificate of a member of some mesh, as a connection shows it; it has no signature.
pub(crate) fn unsigned(name: &str, role: Role) -> MemberCertificate {
    MemberCertificate {
        mesh_id: MeshId::random().unwrap(),
        name: name.parse().unwrap(),
        role,
        fingerprint: Fingerprint([0; 32]),
        key: Fingerprint([0; 32]),
        not_before: 0,
        not_after: i64::MAX,
        authority: [0; 20],
    }
}

pub(crate) fn stanza() -> StanzaName {
    "main".parse().unwrap()
}

/// A segment of PostgreSQL 15 with nothing but its header.
pub(crate) fn segment(number: u64) -> Vec<u8> {
    segment_of(number, SEGMENT)
}

/// A segment of so many bytes without records.
pub(crate) fn segment_of(number: u64, size: u32) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    bytes[0..2].copy_from_slice(&0xD110u16.to_le_bytes());
    bytes[2..4].copy_from_slice(&2u16.to_le_bytes());
    bytes[4..8].copy_from_slice(&1u32.to_le_bytes());
    bytes[8..16].copy_from_slice(&(number * u64::from(size)).to_le_bytes());
    bytes[24..32].copy_from_slice(&77u64.to_le_bytes());
    bytes[32..36].copy_from_slice(&size.to_le_bytes());
    bytes[36..40].copy_from_slice(&8192u32.to_le_bytes());
    bytes
}

/// A backup of one file in a chunk: its manifest's root, and the one part.
pub(crate) fn manifest_of(label: &str, chunk: Digest, length: usize) -> (Vec<u8>, Vec<u8>) {
    manifest_of_file("a", label, chunk, length)
}

/// The same of a file with this path.
pub(crate) fn manifest_of_file(path: &str, label: &str, chunk: Digest, length: usize) -> (Vec<u8>, Vec<u8>) {
    manifest_with(label, &[(path.to_owned(), chunk)], length)
}

/// The same of a file in each of these chunks.
pub(crate) fn manifest_of_files(label: &str, chunks: &[Digest], length: usize) -> (Vec<u8>, Vec<u8>) {
    let files = chunks.iter().enumerate();
    let files: Vec<_> = files.map(|(number, chunk)| (format!("f{number:03}"), *chunk)).collect();
    manifest_with(label, &files, length)
}

fn manifest_with(label: &str, files: &[(String, Digest)], length: usize) -> (Vec<u8>, Vec<u8>) {
    let length = u32::try_from(length).unwrap();
    let mut writer = PartWriter::new();
    for (path, chunk) in files {
        let extent = Extent {
            digest: *chunk,
            offset: 0,
            length,
        };
        let file = FileEntry {
            path: path.clone(),
            kind: EntryKind::File {
                size: u64::from(length),
                crc32c: 0,
                extents: vec![extent],
                bad_pages: Vec::new(),
            },
            modified: 0,
            mode: 0o600,
            user: None,
            group: None,
            fingerprints: None,
        };
        writer.push(file).unwrap();
    }
    let part = writer.finish().unwrap();
    let part_ref = PartRef {
        digest: SUITE.digest(&part),
        length: part.len() as u64,
    };
    let first = "000000010000000000000001".parse().unwrap();
    let root = ManifestRoot {
        format: MANIFEST_FORMAT,
        pgmesh_version: "0.1.0".into(),
        stanza: stanza(),
        label: label.parse().unwrap(),
        backup_type: BackupType::Full,
        archive_id: "15-1".parse().unwrap(),
        system_id: SystemId(77),
        catalog_version: PgVersion::V15.catalog_version(),
        prior: None,
        start_time: 1,
        stop_time: 2,
        start_lsn: Lsn(u64::from(SEGMENT) + 40),
        stop_lsn: Lsn(u64::from(SEGMENT) + 80),
        checkpoint: Lsn(u64::from(SEGMENT) + 40),
        timeline: TimelineId(1),
        instance: None,
        wal_start: first,
        wal_stop: first,
        segment_size: SegmentSize::new(SEGMENT).unwrap(),
        page_checksums: true,
        errors: Vec::new(),
        tablespaces: Vec::new(),
        databases: Vec::new(),
        links: Vec::new(),
        annotations: BTreeMap::new(),
        fingerprint_seed: None,
        scanned_at: None,
        data_checksums: None,
        from_standby: false,
        sizes: BackupSizes {
            size: 100,
            delta: 100,
            repository: 50,
            repository_delta: 50,
        },
        file_count: 1,
        backup_label: String::new(),
        tablespace_map: None,
        parts: vec![part_ref],
    };
    (root.encode().unwrap(), part)
}
