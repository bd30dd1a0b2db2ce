//! The state of a model: the catalog, each node's copy of it, the stores, and the requests on their way.

use super::random::Random;
use pgmesh_postgres::{PgVersion, SegmentName, SegmentSize, SystemId, TimelineId, WalFileName};
use pgmesh_raft::apply::{MemoryBase, Txn, apply, next_index};
use pgmesh_raft::command::{ClaimedObject, Cluster, NewChunk, PushSegment};
use pgmesh_raft::{
    Claim, Command, GarbageKey, LogIndex, MeshRecord, NodeRecord, NodeService, ObjectRef, PlacedIdentity, Proposal,
    Refusal, Replica, Reply, RequestId, SessionKind, View, VotePolicy,
};
use pgmesh_storage::{BackupLabel, DbId, Digest, DigestSuite, Generation, RepoKey, StanzaName};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Nodes of the mesh.
pub(super) const NODES: usize = 3;
/// Different chunks that backups have.
pub(super) const CHUNKS: u8 = 5;
/// Segments that are archived before a history begins: backups rest on them.
const FIRST_SEGMENTS: u32 = 2;

/// One object as it lies in a store: no two contents share a name, since the digest is a part of it.
pub(super) type Row = (ObjectRef, Digest, Generation);

type Work = (usize, Pin<Box<dyn Future<Output = ()> + Send>>);

/// A request that was sent and has not arrived yet.
#[derive(Debug, Clone)]
enum Sent {
    Put(RepoKey, Row, LogIndex),
    Delete(RepoKey, Row),
    Propose(Box<Command>),
}

/// A repository's storage.
#[derive(Debug, Clone, Default)]
pub(super) struct Store {
    pub(super) rows: BTreeSet<Row>,
    /// Which disk it is.
    pub(super) disk: u64,
    /// Whether it lets nothing go.
    pub(super) keeps: bool,
}

impl Store {
    /// The identity that the disk shows.
    pub(super) fn identity(&self, repo: RepoKey) -> String {
        match self.disk {
            0 => format!("uuid-{repo}"),
            disk => format!("uuid-{repo}-{disk}"),
        }
    }
}

/// A node.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// How far it has applied.
    pub(super) base: Arc<MemoryBase>,
    /// Whether it takes itself for the leader.
    pub(super) leads: bool,
}

pub(super) struct State {
    pub(super) base: Arc<MemoryBase>,
    pub(super) members: Vec<Member>,
    /// The node that a majority takes for the leader.
    pub(super) leader: usize,
    pub(super) stores: BTreeMap<RepoKey, Store>,
    pub(super) random: Random,
    late: Vec<Sent>,
    requests: u64,
    labels: u32,
    /// The chunks that each manifest names.
    pub(super) manifests: BTreeMap<BackupLabel, Vec<Digest>>,
    /// WAL files that were acknowledged.
    acknowledged: BTreeMap<ObjectRef, Digest>,
    /// Objects that the catalog counts as good.
    live: Vec<(ObjectRef, Digest, Vec<Replica>)>,
    spawned: Vec<Work>,
    is_changed: bool,
    is_traced: bool,
}

pub(super) struct World(Mutex<State>);

impl World {
    pub(super) fn new(seed: u64, is_traced: bool) -> Self {
        static FIRST: OnceLock<(Arc<MemoryBase>, BTreeMap<RepoKey, Store>)> = OnceLock::new();
        let (base, stores) = FIRST.get_or_init(|| {
            let mut state = State::empty();
            state.found();
            (state.base, state.stores)
        });
        let mut state = State::empty();
        state.base = base.clone();
        state.stores = stores.clone();
        for member in &mut state.members {
            member.base = base.clone();
        }
        state.members[0].leads = true;
        state.requests = 1 << 32;
        state.random = Random::new(!seed);
        state.is_traced = is_traced;
        state.learn();
        Self(Mutex::new(state))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn trace(&self, what: impl FnOnce() -> String) {
        self.lock().trace(what);
    }

    /// Begins another actor on a node.
    pub(super) fn spawn(&self, node: usize, work: impl Future<Output = ()> + Send + 'static) {
        self.lock().spawned.push((node, Box::pin(work)));
    }

    pub(super) fn spawned(&self) -> Vec<Work> {
        std::mem::take(&mut self.lock().spawned)
    }

    /// A node's process ends, and begins anew: it follows.
    pub(super) fn restart(&self, node: usize) {
        let mut state = self.lock();
        state.trace(|| format!("node {node} restarts"));
        state.members[node].leads = false;
        if state.leader == node {
            state.elect((node + 1) % NODES);
        }
        state.catch_up(node);
    }

    /// A request that was on its way arrives; false if there is none.
    pub(super) fn deliver(&self, random: &mut Random, is_last: bool) -> bool {
        let mut state = self.lock();
        if state.late.is_empty() {
            return false;
        }
        let index = random.below(state.late.len());
        let late = state.late[index].clone();
        // A request may arrive more than once; a proposal has its identifier and has one effect.
        if is_last || matches!(late, Sent::Propose(_)) || !random.one_in(3) {
            state.late.swap_remove(index);
        }
        state.trace(|| format!("late: {late:?}"));
        match late {
            Sent::Put(repo, row, placed) => state.put(repo, row, placed),
            Sent::Delete(repo, row) => state.delete(repo, &row),
            Sent::Propose(command) => drop(state.apply(*command)),
        }
        true
    }

    /// Invariants 1, 4 and 5.
    pub(super) fn check(&self) {
        self.lock().check();
    }

    /// A hash of the catalog and the stores, by which two runs are compared.
    pub(super) fn fingerprint(&self) -> u64 {
        let state = self.lock();
        let mut hasher = DefaultHasher::new();
        format!("{:?} {:?}", state.base, state.stores).hash(&mut hasher);
        hasher.finish()
    }
}

impl State {
    fn empty() -> Self {
        let base = Arc::new(MemoryBase::default());
        let member = Member {
            base: base.clone(),
            leads: false,
        };
        Self {
            base,
            members: vec![member; NODES],
            leader: 0,
            stores: BTreeMap::new(),
            random: Random::new(0),
            late: Vec::new(),
            requests: 0,
            labels: 0,
            manifests: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            live: Vec::new(),
            spawned: Vec::new(),
            is_changed: false,
            is_traced: false,
        }
    }

    /// A mesh with three nodes and repositories, a stanza, its first segments, and chunks of a backup that was killed.
    fn found(&mut self) {
        let founding = Command::FoundMesh(MeshRecord {
            mesh_id: "model".to_owned(),
            suite: DigestSuite::Blake3,
            created: 1,
            catalog_format: MeshRecord::CATALOG_FORMAT,
        });
        self.apply(founding).unwrap();
        for number in 1..=NODES {
            self.apply(register_node(number)).unwrap();
        }
        for number in 1..=3 {
            self.stores.insert(repo(number), Store::default());
            self.apply(register(number)).unwrap();
        }
        let replicas = self.put_everywhere(&info(), digest(200));
        self.apply(create_stanza(replicas, LogIndex(0))).unwrap();
        for segment in 1..=FIRST_SEGMENTS {
            let object = segment_object(segment);
            let content = segment_digest(segment);
            let replicas = self.put_everywhere(&object, content);
            self.apply(push(segment, replicas, 1, LogIndex(1000))).unwrap();
        }
        let session = self.apply(open_session(SessionKind::Backup, 1)).unwrap();
        let Reply::Session(session) = session else {
            panic!("{session:?}")
        };
        for number in 0..CHUNKS - 1 {
            let replicas = self.put_everywhere(&ObjectRef::Chunk(digest(number)), digest(number));
            let chunks = vec![new_chunk(digest(number), replicas)];
            self.apply(Command::AddChunks {
                session,
                ack: 1,
                chunks,
            })
            .unwrap();
        }
        self.apply(Command::CloseSession { session }).unwrap();
    }

    fn put_everywhere(&mut self, object: &ObjectRef, digest: Digest) -> Vec<Claim> {
        let row = (object.clone(), digest, Generation::FIRST);
        for store in self.stores.values_mut() {
            store.rows.insert(row.clone());
        }
        let generation = Generation::FIRST;
        let repos = self.stores.keys().copied();
        repos.map(|repo| self.claim(Replica { repo, generation })).collect()
    }

    pub(super) fn trace(&self, what: impl FnOnce() -> String) {
        if self.is_traced {
            eprintln!("{}", what());
        }
    }

    pub(super) fn view(&self) -> View<Arc<MemoryBase>> {
        View::new(self.base.clone())
    }

    pub(super) fn apply(&mut self, command: Command) -> Result<Reply, Refusal> {
        self.requests += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.requests.to_be_bytes());
        let told = self.is_traced.then(|| format!("{command:?}"));
        let pushed = match &command {
            Command::PushSegment(push) => Some((push.file, push.object.digest)),
            _ => None,
        };
        let is_deletion = matches!(command, Command::DeleteStanza { .. });
        let proposal = Proposal {
            id: RequestId(id),
            at: 1,
            actor: "model".to_owned(),
            command,
        };
        let mut txn = Txn::new(self.base.as_ref());
        let index = next_index(&txn).unwrap();
        let outcome = apply(&mut txn, index, proposal).unwrap();
        let writes = txn.into_writes();
        Arc::make_mut(&mut self.base).write(writes);
        if let Some(told) = told {
            eprintln!("{index}: {told}\n    {outcome:?}");
        }
        match (pushed, &outcome) {
            (Some((file, digest)), Ok(_)) => {
                self.acknowledged.insert(wal_object(file), digest);
            }
            (None, Ok(_)) if is_deletion => self.acknowledged.clear(),
            _ => {}
        }
        self.learn();
        outcome
    }

    /// A node has applied all that is committed.
    pub(super) fn catch_up(&mut self, node: usize) {
        self.members[node].base = self.base.clone();
    }

    /// A majority follows another leader. The leader before does not know it yet.
    pub(super) fn elect(&mut self, node: usize) {
        self.trace(|| format!("node {node} is elected"));
        self.leader = node;
        self.members[node].leads = true;
        self.catch_up(node);
    }

    /// Writes to the place that a node has open. If the repository has left it, the object is not in the repository.
    pub(super) fn put(&mut self, repo: RepoKey, row: Row, placed: LogIndex) {
        let is_left = self.placed(repo) != placed;
        self.trace(|| format!("PUT repo{repo}, {is_left} {row:?}"));
        if let Some(store) = self.stores.get_mut(&repo).filter(|_| !is_left) {
            store.rows.insert(row);
        }
    }

    /// Where the catalog has a repository now.
    fn placed(&self, repo: RepoKey) -> LogIndex {
        let record = self.view().repository(repo).unwrap();
        record.map(|record| record.placed).unwrap_or_default()
    }

    pub(super) fn delete(&mut self, repo: RepoKey, row: &Row) {
        self.trace(|| format!("DELETE repo{repo} {row:?}"));
        if let Some(store) = self.stores.get_mut(&repo) {
            self.is_changed |= store.rows.remove(row);
        }
    }

    /// A claim of a replica, made on the repository's present disk and at its present place.
    pub(super) fn claim(&self, replica: Replica) -> Claim {
        let store = self.stores.get(&replica.repo);
        Claim {
            replica,
            identity: PlacedIdentity {
                uuid: store.map(|store| store.identity(replica.repo)).unwrap_or_default(),
                placed: self.placed(replica.repo),
            },
        }
    }

    pub(super) fn has(&self, repo: RepoKey, row: &Row) -> bool {
        self.stores.get(&repo).is_some_and(|store| store.rows.contains(row))
    }

    pub(super) fn put_later(&mut self, repo: RepoKey, row: Row, placed: LogIndex) {
        self.late.push(Sent::Put(repo, row, placed));
    }

    pub(super) fn delete_later(&mut self, key: &GarbageKey, digest: Digest) {
        let row = (key.object.clone(), digest, key.generation);
        self.late.push(Sent::Delete(key.repo, row));
    }

    pub(super) fn propose_later(&mut self, command: Command) {
        self.late.push(Sent::Propose(Box::new(command)));
    }

    pub(super) fn next_label(&mut self) -> BackupLabel {
        self.labels += 1;
        format!("20250215-{:06}F", self.labels).parse().unwrap()
    }

    /// The objects that the catalog counts as good, with their replicas.
    pub(super) fn objects(&self) -> Vec<(ObjectRef, Vec<Replica>)> {
        let objects = self.live.iter();
        objects
            .map(|(object, _, replicas)| (object.clone(), replicas.clone()))
            .collect()
    }

    /// Reads the objects that the catalog counts as good.
    fn learn(&mut self) {
        self.is_changed = true;
        let view = self.view();
        let mut live = Vec::new();
        for row in view.all_chunks(None) {
            let (digest, record) = row.unwrap();
            if record.condemned.is_none() {
                live.push((ObjectRef::Chunk(digest), digest, record.replicas));
            }
        }
        for row in view.stanzas(None) {
            let (stanza, record) = row.unwrap();
            for database in record.databases {
                let (stanza, db) = (stanza.clone(), database.id);
                let object = ObjectRef::StanzaInfo { stanza, db };
                live.push((object, database.info.digest, database.info.replicas));
            }
            for row in view.segments(&stanza, DbId(1), None) {
                let (file, record) = row.unwrap();
                live.push((wal_object(file), record.object.digest, record.object.replicas));
            }
            for row in view.backups(&stanza, None) {
                let (label, record) = row.unwrap();
                let stanza = stanza.clone();
                let object = ObjectRef::Manifest { stanza, label };
                live.push((object, record.manifest.digest, record.manifest.replicas));
            }
        }
        self.live = live;
    }

    fn check(&mut self) {
        if !std::mem::take(&mut self.is_changed) {
            return;
        }
        let known = self.live.iter().map(|(object, digest, _)| (object, digest));
        let known: BTreeMap<_, _> = known.collect();
        for (object, digest) in &self.acknowledged {
            assert_eq!(
                known.get(object),
                Some(&digest),
                "{object} was acknowledged and is lost"
            );
        }
        let repositories: BTreeMap<_, _> = self.view().repositories().unwrap().into_iter().collect();
        for (object, digest, replicas) in &self.live {
            for Replica { repo, generation } in replicas {
                let record = repositories.get(repo).unwrap();
                // Its disk is lost; all that it held is being owed anew.
                if record.change.is_some() {
                    continue;
                }
                let row = (object.clone(), *digest, *generation);
                assert!(
                    self.has(*repo, &row),
                    "{object}, generation {generation}, was deleted from repo{repo}"
                );
            }
            if let ObjectRef::Manifest { label, .. } = object {
                for chunk in &self.manifests[label] {
                    let is_known = known.contains_key(&ObjectRef::Chunk(*chunk));
                    assert!(is_known, "chunk {chunk} of the committed backup {label} is gone");
                }
            }
        }
    }
}

pub(super) fn stanza() -> StanzaName {
    "main".parse().unwrap()
}

pub(super) fn repo(number: u16) -> RepoKey {
    RepoKey::new(number).unwrap()
}

pub(super) fn digest(number: u8) -> Digest {
    Digest([number; 32])
}

pub(super) fn info() -> ObjectRef {
    ObjectRef::StanzaInfo {
        stanza: stanza(),
        db: DbId(1),
    }
}

pub(super) fn segment_file(segment: u32) -> WalFileName {
    WalFileName::Segment(segment_name(segment))
}

pub(super) fn segment_name(segment: u32) -> SegmentName {
    SegmentName {
        timeline: TimelineId(1),
        log: 0,
        segment,
    }
}

fn wal_object(file: WalFileName) -> ObjectRef {
    ObjectRef::Segment {
        stanza: stanza(),
        db: DbId(1),
        file,
    }
}

pub(super) fn segment_object(segment: u32) -> ObjectRef {
    wal_object(segment_file(segment))
}

pub(super) fn segment_digest(segment: u32) -> Digest {
    digest(100 + u8::try_from(segment).unwrap())
}

fn register_node(number: usize) -> Command {
    Command::RegisterNode {
        name: node_name(number - 1),
        record: NodeRecord {
            node_id: number as u64,
            region: String::new(),
            advertise: Vec::new(),
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

pub(super) fn node_name(node: usize) -> pgmesh_raft::NodeName {
    format!("n{}", node + 1).parse().unwrap()
}

pub(super) fn register(number: u16) -> Command {
    Command::RegisterRepository {
        repo: repo(number),
        definition: BTreeMap::new(),
        host: None,
        uuid: format!("uuid-{number}"),
        wrapped_keys: Vec::new(),
        node: node_name(0),
    }
}

pub(super) fn open_session(kind: SessionKind, node: usize) -> Command {
    Command::OpenSession {
        kind,
        stanza: Some(stanza()),
        holder: "model".to_owned(),
        node: node_name(node),
        resume_key: None,
    }
}

pub(super) fn new_chunk(digest: Digest, claims: Vec<Claim>) -> NewChunk {
    NewChunk {
        digest,
        length: 1000,
        stored_length: 400,
        claims,
    }
}

pub(super) fn create_stanza(claims: Vec<Claim>, checked_at: LogIndex) -> Command {
    Command::CreateStanza {
        stanza: stanza(),
        cluster: Cluster {
            system_id: SystemId(7),
            version: PgVersion::V15,
            catalog_version: 202_209_061,
            segment_size: SegmentSize::DEFAULT,
        },
        info: claimed(digest(200), claims),
        checked_at,
    }
}

pub(super) fn claimed(digest: Digest, claims: Vec<Claim>) -> ClaimedObject {
    ClaimedObject {
        digest,
        plain_length: u64::from(SegmentSize::DEFAULT.bytes()),
        stored_length: 500,
        claims,
    }
}

pub(super) fn push(segment: u32, claims: Vec<Claim>, ack: u16, checked_at: LogIndex) -> Command {
    Command::PushSegment(Box::new(PushSegment {
        stanza: stanza(),
        file: segment_file(segment),
        object: claimed(segment_digest(segment), claims),
        ack,
        checked_at,
        system_id: SystemId(7),
        server: pgmesh_raft::Server {
            instance: "a".to_owned(),
            machine: String::new(),
            address: String::new(),
            in_recovery: false,
            timeline: TimelineId(1),
            branches: Vec::new(),
        },
        aside: None,
        mapped: None,
        header_timeline: Some(TimelineId(1)),
        branches: Vec::new(),
    }))
}
