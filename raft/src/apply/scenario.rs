//! A catalog in memory that tests talk to.

use std::collections::{BTreeMap, BTreeSet};

use pgmesh_postgres::{Lsn, PgVersion, SegmentName, SegmentSize, SystemId, TimelineId, WalFileName};
use pgmesh_storage::{BackupLabel, DbId, Digest, DigestSuite, Generation, RepoKey, StanzaName};

use super::{MemoryBase, Txn, apply, next_index};
use crate::command::{
    AdmitNode, Adopt, ClaimedObject, Cluster, Command, CommitBackup, NewChunk, NewReplica, NoteUses, Proposal,
    PushSegment,
};
use crate::error::ReadError;
use crate::model::{
    BackupRecord, Branch, Claim, CondemnedChunk, DebtReason, Garbage, GarbageKey, GarbageObject, LogIndex, MeshRecord,
    NodeRecord, NodeService, ObjectRef, PlacedIdentity, Redemption, Replica, RepositoryRecord, RequestId, Server,
    SessionId, SessionKind, StoredObject, TokenId, TokenRole, VotePolicy,
};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::view::View;

pub(crate) const SIZE: u64 = 16 << 20;

/// Applies commands one after the other.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) base: MemoryBase,
    pub(crate) log: Vec<Proposal>,
    pub(crate) at: i64,
}

impl World {
    /// A mesh with a node and two repositories.
    pub(crate) fn new() -> Self {
        let mut world = Self::empty();
        world.run(register(1)).unwrap();
        world.run(register(2)).unwrap();
        world
    }

    pub(crate) fn empty() -> Self {
        let mut world = Self::default();
        world.run(found("m")).unwrap();
        world.run(register_node("n1", 1)).unwrap();
        world
    }

    /// With the stanza `main`.
    pub(crate) fn with_stanza() -> Self {
        let mut world = Self::new();
        world.run(create_stanza(7)).unwrap();
        world
    }

    pub(crate) fn run(&mut self, command: Command) -> Result<Reply, Refusal> {
        self.at += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.at.to_be_bytes());
        self.run_as(RequestId(id), command)
    }

    pub(crate) fn run_as(&mut self, id: RequestId, mut command: Command) -> Result<Reply, Refusal> {
        for identity in identities(&mut command) {
            identity.placed = self.placed(identity);
        }
        let proposal = Proposal {
            id,
            at: self.at,
            actor: "test".to_owned(),
            command,
        };
        self.apply(proposal)
    }

    pub(crate) fn apply(&mut self, proposal: Proposal) -> Result<Reply, Refusal> {
        self.log.push(proposal.clone());
        let mut txn = Txn::new(&self.base);
        let index = next_index(&txn).unwrap();
        let outcome = apply(&mut txn, index, proposal).unwrap();
        let writes = txn.into_writes();
        self.base.write(writes);
        outcome
    }

    /// [`NOW`] stands for the place where the repository is when a command is proposed.
    fn placed(&self, identity: &PlacedIdentity) -> LogIndex {
        let is_it = |record: &RepositoryRecord| record.uuid == identity.uuid;
        let mut all = self
            .view()
            .repositories()
            .unwrap()
            .into_iter()
            .map(|(_, record)| record);
        match identity.placed {
            NOW => all.find(is_it).map(|record| record.placed).unwrap_or_default(),
            placed => placed,
        }
    }

    pub(crate) fn view(&self) -> View<&MemoryBase> {
        View::new(&self.base)
    }

    pub(crate) fn applied(&self) -> LogIndex {
        self.view().applied().unwrap()
    }

    pub(crate) fn open_session(&mut self, kind: SessionKind) -> SessionId {
        let opened = self.run(Command::OpenSession {
            kind,
            stanza: Some(stanza()),
            holder: "test".to_owned(),
            node: "n1".parse().unwrap(),
            resume_key: None,
        });
        match opened {
            Ok(Reply::Session(session)) => session,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn push(&mut self, push: PushSegment) -> Result<Reply, Refusal> {
        let checked_at = self.applied();
        self.run(Command::PushSegment(Box::new(PushSegment { checked_at, ..push })))
    }

    /// Invites a node, in place of the member of its name if there is one, and admits it with this key.
    pub(crate) fn admit(&mut self, name: &str, key: u8) -> Result<Reply, Refusal> {
        let known = self.view().node(&name.parse().unwrap()).unwrap();
        let replaces = known.filter(NodeRecord::is_member).map(|known| known.node_id);
        let token = self.invite(name, replaces).unwrap();
        self.run(admit(token, name, key))
    }

    /// A token for a node, in place of this number.
    pub(crate) fn invite(&mut self, name: &str, replaces: Option<u64>) -> Result<TokenId, Refusal> {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.at.to_be_bytes());
        let id = TokenId(id);
        let role = TokenRole::Node {
            name: name.parse().unwrap(),
            replaces,
        };
        self.run(create_token(id, role, i64::MAX)).map(|_| id)
    }

    /// Suspects and condemns chunks, as a sweep does that finds no backup.
    pub(crate) fn condemn(&mut self, chunks: Vec<Digest>) -> Result<Reply, Refusal> {
        let suspect = Command::Suspect { chunks: chunks.clone() };
        match self.run(suspect)? {
            Reply::Suspected { since: suspected } => self.run(Command::Condemn { chunks, suspected }),
            other => panic!("{other:?}"),
        }
    }

    /// The running backup notes these chunks as its own; uses that end are not noted.
    pub(crate) fn note_uses(&mut self, session: SessionId, text: &str, chunks: &[Digest]) {
        let stage = Command::StageUses {
            stanza: stanza(),
            session,
            label: label(text),
        };
        if self.run(stage).is_err() {
            return;
        }
        let open = self.view().are_open(&stanza(), chunks).unwrap();
        let named = std::iter::zip(chunks, open);
        let (carried, born): (Vec<_>, Vec<_>) = named.partition(|(_, is_open)| *is_open);
        let digests = |of: Vec<(&Digest, bool)>| of.into_iter().map(|(digest, _)| *digest).collect();
        let note = NoteUses {
            session: Some(session),
            stanza: stanza(),
            label: label(text),
            born: digests(born),
            carried: digests(carried),
            died: Vec::new(),
        };
        self.run(Command::NoteUses(Box::new(note))).unwrap();
    }

    pub(crate) fn begin_backup(&mut self, label: &str) -> SessionId {
        let session = self.open_session(SessionKind::Backup);
        self.run(begin(session, label)).unwrap();
        session
    }
}

pub(crate) fn found(mesh_id: &str) -> Command {
    Command::FoundMesh(MeshRecord {
        mesh_id: mesh_id.to_owned(),
        suite: DigestSuite::Blake3,
        created: 1,
        catalog_format: MeshRecord::CATALOG_FORMAT,
    })
}

pub(crate) fn register_node(name: &str, node_id: u64) -> Command {
    Command::RegisterNode {
        name: name.parse().unwrap(),
        record: NodeRecord {
            node_id,
            region: String::new(),
            advertise: vec!["localhost:1".to_owned()],
            key: [0; 32],
            administrator: [0; 32],
            program: String::new(),
            service: NodeService::InService,
            vote: VotePolicy::Auto,
            revoked: Vec::new(),
            reaches: BTreeSet::new(),
        },
    }
}

pub(crate) fn create_token(id: TokenId, role: TokenRole, expires: i64) -> Command {
    Command::CreateToken {
        id,
        secret_hash: [9; 32],
        role,
        expires,
    }
}

/// Number `request` of the requests with a token, and the certificate that it is answered with.
pub(crate) fn redemption(token: TokenId, request: u8, certificate: u8) -> Redemption {
    Redemption {
        token,
        secret_hash: [9; 32],
        request: [request; 32],
        certificate: vec![certificate; 3],
    }
}

/// The admission of the node that has this key.
pub(crate) fn admit(token: TokenId, name: &str, key: u8) -> Command {
    Command::AdmitNode(Box::new(AdmitNode {
        redemption: redemption(token, key, key),
        name: name.parse().unwrap(),
        region: "eu".to_owned(),
        advertise: vec![format!("{name}:1")],
        key: [key; 32],
        administrator: [100 + key; 32],
        program: "0.1.0".to_owned(),
        catalog_format: MeshRecord::CATALOG_FORMAT,
    }))
}

pub(crate) fn joined(node_id: u64, certificate: u8) -> Result<Reply, Refusal> {
    Ok(Reply::Joined {
        certificate: vec![certificate; 3],
        node_id: Some(node_id),
    })
}

pub(crate) fn repo(number: u16) -> RepoKey {
    RepoKey::try_from(number).unwrap()
}

pub(crate) fn register(number: u16) -> Command {
    Command::RegisterRepository {
        repo: repo(number),
        definition: BTreeMap::from([("path".to_owned(), format!("/r{number}"))]),
        host: Some("n1".parse().unwrap()),
        uuid: format!("uuid-{number}"),
        wrapped_keys: Vec::new(),
        node: "n1".parse().unwrap(),
    }
}

pub(crate) fn stanza() -> StanzaName {
    "main".parse().unwrap()
}

pub(crate) fn digest(number: u8) -> Digest {
    Digest([number; 32])
}

pub(crate) fn replica(number: u16, generation: u32) -> Replica {
    Replica {
        repo: repo(number),
        generation: Generation(generation),
    }
}

pub(crate) fn stored(number: u8, length: u64, replicas: &[Replica]) -> StoredObject {
    StoredObject {
        digest: digest(number),
        plain_length: length,
        stored_length: length / 2,
        replicas: replicas.to_vec(),
    }
}

/// A claim of a replica in a repository as [`register`] makes it.
pub(crate) fn claim(replica: Replica) -> Claim {
    let identity = identity(&format!("uuid-{}", u16::from(replica.repo)));
    Claim { replica, identity }
}

/// See [`World::placed`].
pub(crate) const NOW: LogIndex = LogIndex(u64::MAX);

pub(crate) fn identity(uuid: &str) -> PlacedIdentity {
    PlacedIdentity {
        uuid: uuid.to_owned(),
        placed: NOW,
    }
}

/// The identities that a command names.
fn identities(command: &mut Command) -> Vec<&mut PlacedIdentity> {
    fn of(claims: &mut [Claim]) -> Vec<&mut PlacedIdentity> {
        claims.iter_mut().map(|claim| &mut claim.identity).collect()
    }
    match command {
        Command::MarkRepository { identity, .. } => vec![identity],
        Command::NoteOrphans(note) => vec![&mut note.identity],
        Command::DiscardOrphans(discard) => vec![&mut discard.identity],
        Command::CreateStanza { info, .. } | Command::UpgradeStanza { info, .. } => of(&mut info.claims),
        Command::PushSegment(push) => of(&mut push.object.claims),
        Command::AddChunks { chunks, .. } => chunks.iter_mut().flat_map(|chunk| of(&mut chunk.claims)).collect(),
        Command::CommitBackup(commit) => of(&mut commit.claims),
        Command::AddReplicas { replicas, .. } => replicas.iter_mut().map(|new| &mut new.claim.identity).collect(),
        Command::ReportBad { bad, .. } => vec![&mut bad.identity],
        Command::Adopt(adopt) => match adopt.as_mut() {
            Adopt::Stanza { databases, .. } => databases.iter_mut().flat_map(|db| of(&mut db.info.claims)).collect(),
            Adopt::WalFiles { files, .. } => files.iter_mut().flat_map(|file| of(&mut file.object.claims)).collect(),
            Adopt::Backup { claims, .. } => of(claims),
        },
        _ => Vec::new(),
    }
}

pub(crate) fn claims(replicas: &[Replica]) -> Vec<Claim> {
    replicas.iter().copied().map(claim).collect()
}

pub(crate) fn claimed(number: u8, length: u64, replicas: &[Replica]) -> ClaimedObject {
    ClaimedObject {
        digest: digest(number),
        plain_length: length,
        stored_length: length / 2,
        claims: claims(replicas),
    }
}

pub(crate) fn cluster(system_id: u64) -> Cluster {
    Cluster {
        system_id: SystemId(system_id),
        version: PgVersion::V15,
        catalog_version: 202_209_061,
        segment_size: SegmentSize::DEFAULT,
    }
}

pub(crate) fn create_stanza(system_id: u64) -> Command {
    Command::CreateStanza {
        stanza: stanza(),
        cluster: cluster(system_id),
        info: claimed(200, 100, &[]),
        checked_at: LogIndex(0),
    }
}

pub(crate) fn segment_name(timeline: u32, segment: u32) -> SegmentName {
    SegmentName {
        timeline: TimelineId(timeline),
        log: 0,
        segment,
    }
}

pub(crate) fn push_file(file: WalFileName, content: u8, replicas: &[Replica]) -> PushSegment {
    let length = if file.holds_wal() { SIZE } else { 50 };
    PushSegment {
        stanza: stanza(),
        file,
        object: claimed(content, length, replicas),
        ack: 1,
        checked_at: LogIndex(0),
        system_id: SystemId(7),
        server: server("a", file.timeline().0, &[]),
        aside: None,
        mapped: None,
        header_timeline: file.holds_wal().then(|| file.timeline()),
        branches: Vec::new(),
    }
}

/// A server that is not in recovery.
pub(crate) fn server(instance: &str, timeline: u32, branches: &[(u32, u64)]) -> Server {
    Server {
        instance: instance.to_owned(),
        machine: String::new(),
        address: String::new(),
        in_recovery: false,
        timeline: TimelineId(timeline),
        branches: self::branches(branches),
    }
}

fn branches(lines: &[(u32, u64)]) -> Vec<Branch> {
    let branch = |(parent, switch): &(u32, u64)| Branch {
        parent: TimelineId(*parent),
        switch: Lsn(*switch),
    };
    lines.iter().map(branch).collect()
}

pub(crate) fn push_segment(timeline: u32, segment: u32, content: u8) -> PushSegment {
    let file = WalFileName::Segment(segment_name(timeline, segment));
    push_file(file, content, &[replica(1, 0), replica(2, 0)])
}

pub(crate) fn push_history(timeline: u32, branches: &[(u32, u64)]) -> PushSegment {
    let file = WalFileName::History(TimelineId(timeline));
    let bytes = branches.iter().flat_map(|(_, lsn)| lsn.to_le_bytes());
    let content = bytes.fold(0, u8::wrapping_add);
    PushSegment {
        branches: self::branches(branches),
        ..push_file(file, content, &[replica(1, 0)])
    }
}

/// A replica that was found damaged.
pub(crate) fn damaged(object: ObjectRef, replica: Replica) -> Command {
    Command::ReportBad {
        object,
        bad: claim(replica),
        reason: DebtReason::Damaged,
        what: "test".to_owned(),
    }
}

/// One more replica of a chunk.
pub(crate) fn add_replica(session: SessionId, chunk: u8, replica: Replica) -> Command {
    Command::AddReplicas {
        session,
        replicas: vec![NewReplica {
            object: ObjectRef::Chunk(digest(chunk)),
            digest: digest(chunk),
            claim: claim(replica),
        }],
    }
}

pub(crate) fn new_chunk(number: u8, replicas: &[Replica]) -> NewChunk {
    NewChunk {
        digest: digest(number),
        length: 1000,
        stored_length: 400,
        claims: claims(replicas),
    }
}

pub(crate) fn condemned(number: u8, since: LogIndex) -> CondemnedChunk {
    let digest = digest(number);
    CondemnedChunk { digest, since }
}

/// A row of garbage, as its deletion is reported.
pub(crate) fn garbage_object(row: Result<(GarbageKey, Garbage), ReadError>) -> GarbageObject {
    let (key, garbage) = row.unwrap();
    let since = garbage.since;
    GarbageObject { key, since }
}

pub(crate) fn label(text: &str) -> BackupLabel {
    text.parse().unwrap()
}

pub(crate) fn begin(session: SessionId, text: &str) -> Command {
    Command::BeginBackup {
        stanza: stanza(),
        session,
        label: label(text),
        system_id: SystemId(7),
    }
}

pub(crate) fn commit(session: SessionId, text: &str, checked_at: LogIndex) -> CommitBackup {
    CommitBackup {
        stanza: stanza(),
        session,
        label: label(text),
        record: BackupRecord {
            db: DbId(1),
            started_at: 1,
            stopped_at: 2,
            began: LogIndex(0),
            lsn_start: Lsn(0x0100_0028),
            lsn_stop: Lsn(0x0200_0100),
            wal_start: segment_name(1, 1),
            wal_stop: segment_name(1, 2),
            timeline: TimelineId(1),
            size: 1000,
            delta: 1000,
            stored: BTreeMap::new(),
            stored_delta: BTreeMap::new(),
            files: 3,
            page_errors: false,
            annotations: BTreeMap::new(),
            prior: None,
            manifest: stored(250, 10, &[]),
            program: "0.1.0".to_owned(),
            expired: crate::ExpiredIn::new(),
            hold: None,
        },
        claims: claims(&[replica(1, 0)]),
        ack: 1,
        checked_at,
    }
}
