//! Random histories of a mesh: writers, repair, garbage collection and damage. Each actor sees the catalog, changes the
//! repositories and proposes a command with delays in between.

mod promises;

use std::collections::{BTreeMap, BTreeSet};

use pgmesh_postgres::WalFileName;
use pgmesh_storage::{Digest, RepoKey};
use proptest::prelude::*;

use super::scenario::{
    World, begin, commit, create_stanza, digest, new_chunk, push_file, register, repo, segment_name, stanza,
};
use super::{Base, MemoryBase, Txn, apply, next_index};
use crate::command::{Command, NewChunk, NewReplica, Proposal};
use crate::model::{
    ChunkState, Claim, CondemnedChunk, DebtReason, GarbageKey, GarbageObject, LogIndex, ObjectRef, Replica, SessionId,
    SessionKind, StoredObject,
};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;
use crate::{key, view::View};

/// The objects that really lie in the repositories.
type Disk = BTreeSet<(ObjectRef, Digest, Replica)>;

/// A step that an actor has done and not told the catalog yet.
enum Promise {
    /// Chunks or WAL were uploaded, or garbage was chosen: propose this.
    Propose(Command),
    /// These chunks are suspected since then: look through the backups, and condemn the chunks that none refers to.
    Look(LogIndex, Vec<Digest>),
    /// A backup that refers to these chunks, all of which were in so many repositories.
    Commit(SessionId, LogIndex, Vec<Digest>, String, u16),
}

#[derive(Default)]
struct Simulation {
    world: World,
    disk: Disk,
    /// All objects that were ever deleted.
    deleted: Disk,
    promises: Vec<Promise>,
    sessions: Vec<SessionId>,
    backups: Vec<Vec<Digest>>,
    names: BTreeMap<ObjectRef, Digest>,
    backup_number: u32,
    /// Whether backups are taken often; they end many sessions.
    is_busy: bool,
    /// Whether the second repository lets nothing go.
    keeps: bool,
    /// The identity of the third repository.
    third: String,
}

impl Simulation {
    fn new() -> Self {
        let mut world = World::with_stanza();
        for segment in [1, 2_u8] {
            let mut push = super::scenario::push_segment(1, segment.into(), segment);
            push.object.claims.truncate(1);
            world.push(push).unwrap();
        }
        let mut simulation = Self {
            world,
            third: "uuid-3".to_owned(),
            ..Self::default()
        };
        let first = simulation.objects();
        for (object, stored) in first {
            for replica in stored.replicas {
                simulation.disk.insert((object.clone(), stored.digest, replica));
            }
        }
        simulation
    }

    fn view(&self) -> View<&MemoryBase> {
        self.world.view()
    }

    fn objects(&self) -> BTreeMap<ObjectRef, StoredObject> {
        let view = self.view();
        let mut names = Vec::new();
        for row in view.all_chunks(None) {
            names.push(ObjectRef::Chunk(row.unwrap().0));
        }
        for row in self.world.base.scan(Table::Segments, &[], &[]) {
            names.push(key::read_segment(&row.unwrap().0).unwrap());
        }
        for row in self.world.base.scan(Table::Backups, &[], &[]) {
            let (stanza, label) = key::read_backup(&row.unwrap().0).unwrap();
            names.push(ObjectRef::Manifest { stanza, label });
        }
        for row in view.stanzas(None) {
            let (stanza, record) = row.unwrap();
            for database in record.databases {
                let stanza = stanza.clone();
                names.push(ObjectRef::StanzaInfo {
                    stanza,
                    db: database.id,
                });
            }
        }
        names
            .into_iter()
            .filter_map(|name| {
                let stored = view.object(&name).unwrap()?;
                Some((name, stored))
            })
            .collect()
    }

    fn repos(&self) -> Vec<RepoKey> {
        let repositories = self.view().repositories().unwrap();
        repositories.into_iter().map(|(repo, _)| repo).collect()
    }

    fn session(&self, a: u8) -> Option<SessionId> {
        let index = usize::from(a).checked_rem(self.sessions.len())?;
        self.sessions.get(index).copied()
    }

    /// A claim of a replica in the repository that has this number now.
    fn claim(&self, replica: Replica) -> Claim {
        let record = self.view().repository(replica.repo).unwrap();
        let identity = record.unwrap().identity();
        Claim { replica, identity }
    }

    /// Uploads an object to the repositories that `mask` chooses.
    fn upload(&mut self, object: &ObjectRef, digest: Digest, generation: u32, mask: u8) -> Vec<Claim> {
        let mut claims = Vec::new();
        for repo in self.repos() {
            let number = u16::from(repo);
            if mask >> (number % 3) & 1 == 1 {
                let replica = super::scenario::replica(number, generation);
                self.put((object.clone(), digest, replica));
                claims.push(self.claim(replica));
            }
        }
        claims
    }

    fn step(&mut self, (action, a, b, c): (u8, u8, u8, u8)) {
        match action {
            0 => self.open_session(a),
            1 => self.close_session(a),
            2..=4 => self.upload_chunk(a, b, c),
            5 => self.upload_segment(a, b, c),
            6..=9 => self.keep_promise(a),
            10 | 11 => self.repair(a, b),
            12 => self.report_bad(a, b),
            13 => self.choose_unreferenced(a),
            14 | 15 => self.collect_condemned(),
            16 | 17 => self.collect_garbage(a),
            18 => self.check_backup(a, b),
            21..=24 if self.is_busy => self.check_backup(a, b),
            21..=24 => self.upload_chunk(b, c, a),
            19 if a.is_multiple_of(4) => self.register(a),
            19 => drop(self.world.run(create_stanza(7))),
            20 => drop(self.world.run(Command::Backfill { repo: repo(3) })),
            25 => self.reprieve(a),
            26 if a.is_multiple_of(3) => self.retire(b.is_multiple_of(4)),
            26 => self.replace(a),
            27 => self.keeps = a < 200,
            28 if a < 32 => self.let_go(),
            28 => self.collect_garbage(b),
            _ if a < 50 => self.delete_and_create_stanza(a),
            _ => self.upload_segment(b, c, a),
        }
    }

    /// Registers the third repository, with its objects or with an empty disk in its place.
    fn register(&mut self, a: u8) {
        let third = repo(3);
        let mut command = register(3);
        if let Command::RegisterRepository { uuid, .. } = &mut command
            && self.view().repository(third).unwrap().is_none()
        {
            if a < 128 {
                self.third = format!("uuid-3-{}", self.world.at);
                self.disk.retain(|(_, _, replica)| replica.repo != third);
            }
            uuid.clone_from(&self.third);
        }
        drop(self.world.run(command));
    }

    /// A step of forgetting the third repository. Its objects stay on the disk. Unless it is forced, no object loses
    /// its last replica.
    fn retire(&mut self, force: bool) {
        let third = repo(3);
        let record = self.view().repository(third).unwrap();
        let is_forced = force
            || record
                .and_then(|record| record.change)
                .is_some_and(|change| change.forced);
        let held = |simulation: &Self| -> BTreeSet<ObjectRef> {
            let objects = simulation.objects().into_iter();
            let held = objects.filter(|(_, stored)| !stored.replicas.is_empty());
            held.map(|(object, _)| object).collect()
        };
        let before = held(self);
        drop(self.world.run(Command::RetireRepository { repo: third, force }));
        assert!(
            is_forced || before == held(self),
            "lost by a removal that was not forced"
        );
    }

    /// Loses the disk of a repository, or makes another step of owing the lost replicas.
    fn replace(&mut self, a: u8) {
        let lost = repo(2);
        let record = self.view().repository(lost).unwrap().unwrap();
        let mut uuid = record.uuid;
        if record.change.is_none() {
            uuid = format!("uuid-2-{}-{a}", self.world.at);
            // Writes that are on their way have gone to the lost disk.
            self.disk.retain(|(_, _, replica)| replica.repo != lost);
        }
        let command = Command::ReplaceRepository {
            repo: lost,
            uuid,
            wrapped_keys: Vec::new(),
            node: "n1".parse().unwrap(),
        };
        self.world.run(command).unwrap();
    }

    fn open_session(&mut self, a: u8) {
        let kind = [SessionKind::Backup, SessionKind::Repair][usize::from(a % 2)];
        let session = self.world.open_session(kind);
        self.sessions.push(session);
    }

    fn close_session(&mut self, a: u8) {
        if let Some(session) = self.session(a) {
            self.sessions.retain(|open| *open != session);
            self.world.run(Command::CloseSession { session }).unwrap();
        }
    }

    fn upload_chunk(&mut self, a: u8, b: u8, mask: u8) {
        let Some(session) = self.session(a) else { return };
        let number = b % 4;
        let state = self.view().chunk_states(&[digest(number)]).unwrap().remove(0);
        let generation = match state {
            ChunkState::Absent { generation } => generation,
            ChunkState::Present(_) => return,
        };
        let object = ObjectRef::Chunk(digest(number));
        let claims = self.upload(&object, digest(number), generation.0, mask);
        let chunks = vec![NewChunk {
            claims,
            ..new_chunk(number, &[])
        }];
        let command = Command::AddChunks {
            session,
            ack: 1,
            chunks,
        };
        self.promises.push(Promise::Propose(command));
    }

    fn upload_segment(&mut self, a: u8, content: u8, mask: u8) {
        let file = WalFileName::Segment(segment_name(1, u32::from(a % 4)));
        let object = ObjectRef::Segment {
            stanza: stanza(),
            db: pgmesh_storage::DbId(1),
            file,
        };
        let content = content % 2 + 100;
        let checked_at = self.world.applied();
        let generation = self.view().generation_for(&object, &[]).unwrap();
        let claims = self.upload(&object, digest(content), generation.0, mask);
        let mut push = push_file(file, content, &[]);
        push.object.claims = claims;
        push.checked_at = checked_at;
        let command = Command::PushSegment(Box::new(push));
        self.promises.push(Promise::Propose(command));
    }

    fn keep_promise(&mut self, a: u8) {
        let Some(index) = usize::from(a).checked_rem(self.promises.len()) else {
            return;
        };
        match self.promises.swap_remove(index) {
            Promise::Propose(command) => drop(self.world.run(command)),
            Promise::Look(suspected, mut chunks) => {
                let referenced: BTreeSet<_> = self.backups.iter().flatten().copied().collect();
                chunks.retain(|chunk| !referenced.contains(chunk));
                let condemn = Command::Condemn { chunks, suspected };
                self.promises.push(Promise::Propose(condemn));
            }
            Promise::Commit(session, checked_at, chunks, label, ack) => {
                let mut commit = commit(session, &label, checked_at);
                commit.ack = ack;
                let manifest = ObjectRef::Manifest {
                    stanza: stanza(),
                    label: label.parse().unwrap(),
                };
                commit.claims.clear();
                for number in 1..=ack {
                    let replica = super::scenario::replica(number, 0);
                    self.disk
                        .insert((manifest.clone(), commit.record.manifest.digest, replica));
                    commit.claims.push(self.claim(replica));
                }
                let outcome = self.world.run(Command::CommitBackup(Box::new(commit)));
                if outcome.is_ok() {
                    // Invariant 4: at its commit all chunks are there.
                    let known = self.view().chunks(&chunks).unwrap();
                    for chunk in known {
                        assert!(chunk.unwrap().replicas.len() >= usize::from(ack));
                    }
                    self.backups.push(chunks);
                }
            }
        }
    }

    fn repair(&mut self, a: u8, b: u8) {
        let Some(session) = self.session(a) else { return };
        let repos = self.repos();
        let owing = repos[usize::from(b) % repos.len()];
        let debts: Vec<_> = self.view().debts(owing, None).map(Result::unwrap).collect();
        let Some(index) = usize::from(a).checked_rem(debts.len()) else {
            return;
        };
        let (object, debt) = &debts[index];
        let digest = self.view().object(object).unwrap().unwrap().digest;
        let replica = Replica {
            repo: owing,
            generation: debt.generation,
        };
        self.put((object.clone(), digest, replica));
        let replicas = vec![NewReplica {
            object: object.clone(),
            digest,
            claim: self.claim(replica),
        }];
        let command = Command::AddReplicas { session, replicas };
        self.promises.push(Promise::Propose(command));
    }

    fn report_bad(&mut self, a: u8, b: u8) {
        let objects: Vec<_> = self.objects().into_iter().collect();
        let Some(index) = usize::from(a).checked_rem(objects.len()) else {
            return;
        };
        let (object, stored) = &objects[index];
        let Some(index) = usize::from(b).checked_rem(stored.replicas.len()) else {
            return;
        };
        let command = Command::ReportBad {
            object: object.clone(),
            bad: self.claim(stored.replicas[index]),
            reason: DebtReason::Damaged,
            what: "test".to_owned(),
        };
        self.world.run(command).unwrap();
    }

    fn choose_unreferenced(&mut self, a: u8) {
        let referenced: BTreeSet<_> = self.backups.iter().flatten().copied().collect();
        let chosen = (0..4).filter(|bit| a >> bit & 1 == 1).map(digest);
        let chunks: Vec<_> = chosen.filter(|chunk| !referenced.contains(chunk)).collect();
        let suspect = Command::Suspect { chunks: chunks.clone() };
        match self.world.run(suspect) {
            Ok(Reply::Suspected { since }) => self.promises.push(Promise::Look(since, chunks)),
            other => panic!("{other:?}"),
        }
    }

    /// Deletes condemned chunks from the repositories; the catalog is told later.
    fn collect_condemned(&mut self) {
        let (mut chunks, mut kept) = (Vec::new(), Vec::new());
        let condemned: Vec<_> = self.view().condemned(None).map(Result::unwrap).collect();
        for (digest, since) in condemned {
            if !self.view().may_delete(since).unwrap() {
                continue;
            }
            let key = key::chunk(&digest);
            let record: crate::ChunkRecord = self.world.base.record(Table::Chunks, &key).unwrap().unwrap();
            for replica in record.replicas {
                let object = ObjectRef::Chunk(digest);
                if self.keeps_all_of(replica.repo) {
                    kept.push(GarbageKey {
                        object,
                        repo: replica.repo,
                        generation: replica.generation,
                    });
                } else {
                    self.delete((object, digest, replica));
                }
            }
            chunks.push(CondemnedChunk { digest, since });
        }
        self.promises.push(Promise::Propose(Command::Forget { chunks, kept }));
    }

    /// A session takes back all chunks that it may.
    fn reprieve(&mut self, a: u8) {
        let Some(session) = self.session(a) else { return };
        let condemned: Vec<_> = self.view().condemned(None).map(Result::unwrap).collect();
        let chunks = condemned.into_iter();
        let chunks = chunks.map(|(digest, since)| CondemnedChunk { digest, since }).collect();
        drop(self.world.run(Command::Reprieve { session, chunks }));
    }

    fn collect_garbage(&mut self, a: u8) {
        let rows: Vec<_> = self.view().garbage(None).map(Result::unwrap).collect();
        let (mut garbage, mut kept) = (Vec::new(), Vec::new());
        for (index, (key, row)) in rows.into_iter().enumerate() {
            if index % 2 == usize::from(a % 2) || !self.view().may_delete(row.since).unwrap() {
                continue;
            }
            let since = row.since;
            if self.keeps_all_of(key.repo) {
                kept.push(GarbageObject { key, since });
                continue;
            }
            self.remove(&key, row.digest);
            garbage.push(GarbageObject { key, since });
        }
        self.promises.push(Promise::Propose(Command::ForgetGarbage { garbage }));
        self.promises
            .push(Promise::Propose(Command::KeepGarbage { garbage: kept }));
    }

    fn keeps_all_of(&self, owner: RepoKey) -> bool {
        self.keeps && owner == repo(2)
    }

    fn remove(&mut self, key: &GarbageKey, digest: Digest) {
        let replica = Replica {
            repo: key.repo,
            generation: key.generation,
        };
        self.delete((key.object.clone(), digest, replica));
    }

    /// A DELETE may come twice, or late: it must never hit anything that is put there afterwards.
    fn delete(&mut self, row: (ObjectRef, Digest, Replica)) {
        self.disk.remove(&row);
        self.deleted.insert(row);
    }

    fn put(&mut self, row: (ObjectRef, Digest, Replica)) {
        assert!(!self.deleted.contains(&row), "a name is used twice: {row:?}");
        self.disk.insert(row);
    }

    /// The repository lets go, for once, of the objects that it has kept.
    fn let_go(&mut self) {
        let rows: Vec<_> = self.view().kept(None).map(Result::unwrap).collect();
        let mut garbage = Vec::new();
        for (key, row) in rows {
            self.remove(&key, row.digest);
            let since = row.since;
            garbage.push(GarbageObject { key, since });
        }
        self.promises.push(Promise::Propose(Command::ForgetGarbage { garbage }));
    }

    fn check_backup(&mut self, a: u8, b: u8) {
        if a.is_multiple_of(2) {
            // No other session's lock is in the way.
            while !self.sessions.is_empty() {
                self.close_session(0);
            }
            self.open_session(0);
        }
        let Some(session) = self.sessions.last().copied() else {
            return;
        };
        self.backup_number += 1;
        let label = format!("20250215-{:06}F", self.backup_number);
        if self.world.run(begin(session, &label)).is_err() {
            return;
        }
        let ack = 1 + u16::from(b >> 4 & 1);
        let chosen: Vec<_> = (0..4).filter(|bit| b >> bit & 1 == 1).map(digest).collect();
        self.clear(session, &chosen);
        let checked_at = self.world.applied();
        let known = self.view().chunks(&chosen).unwrap();
        let are_there =
            |chunk: &crate::ChunkRecord| chunk.replicas.len() >= usize::from(ack) && chunk.suspected.is_none();
        let found: Vec<_> = std::iter::zip(chosen, known)
            .filter(|(_, chunk)| chunk.as_ref().is_some_and(are_there))
            .map(|(digest, _)| digest)
            // Uploaded by a repair, or for a stanza of that name that was deleted.
            .filter(|digest| self.view().rights([&stanza()]).unwrap().has(digest).unwrap())
            .collect();
        if !b.is_multiple_of(64) {
            self.world.note_uses(session, &label, &found);
        }
        self.promises
            .push(Promise::Commit(session, checked_at, found, label, ack));
    }

    /// A backup takes suspicions of its chunks back.
    fn clear(&mut self, session: SessionId, chunks: &[Digest]) {
        let known = self.view().chunks(chunks).unwrap();
        let suspected = std::iter::zip(chunks, known).filter_map(|(digest, chunk)| {
            let since = chunk?.suspected?;
            Some(CondemnedChunk { digest: *digest, since })
        });
        let chunks: Vec<_> = suspected.collect();
        if !chunks.is_empty() {
            drop(self.world.run(Command::Reprieve { session, chunks }));
        }
    }

    fn delete_and_create_stanza(&mut self, a: u8) {
        let reason = "test".to_owned();
        if !a.is_multiple_of(3) {
            drop(self.world.run(Command::StopStanza {
                stanza: stanza(),
                reason,
            }));
        }
        let deleted = self.world.run(Command::DeleteStanza {
            stanza: stanza(),
            force: a.is_multiple_of(3),
        });
        if deleted == Ok(Reply::Deleting { more: false }) {
            self.names.clear();
            self.backups.clear();
        }
        drop(self.world.run(Command::StartStanza { stanza: stanza() }));
        if a.is_multiple_of(2) {
            drop(self.world.run(create_stanza(7)));
        }
    }
}

fn replay(log: &[Proposal], cuts: &[usize]) -> (MemoryBase, Vec<Result<Reply, Refusal>>) {
    let mut base = MemoryBase::default();
    let mut outcomes = Vec::new();
    let mut start = 0;
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (log.len() + 1)).collect();
    cuts.push(log.len());
    cuts.sort_unstable();
    for cut in cuts {
        let mut txn = Txn::new(&base);
        for proposal in &log[start..cut] {
            let index = next_index(&txn).unwrap();
            outcomes.push(apply(&mut txn, index, proposal.clone()).unwrap());
        }
        start = cut;
        let writes = txn.into_writes();
        base.write(writes);
    }
    (base, outcomes)
}

/// Histories of a run: hundreds, and `PGMESH_TIMES` times as many where it is set (`make test-all`).
fn cases() -> u32 {
    let times = std::env::var("PGMESH_TIMES").ok().and_then(|times| times.parse().ok());
    600 * times.unwrap_or(1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mesh_keeps_its_promises(
        actions in proptest::collection::vec((0_u8..29, any::<u8>(), any::<u8>(), any::<u8>()), 1..160),
        cuts in proptest::collection::vec(any::<usize>(), 0..6),
        is_busy: bool,
    ) {
        let mut simulation = Simulation::new();
        simulation.is_busy = is_busy;
        for action in actions {
            simulation.step(action);
            simulation.check();
        }
        // Invariant 10: the same commands in other batches come to the same state, byte for byte.
        let log = &simulation.world.log;
        let (one, outcomes) = replay(log, &[]);
        let (two, again) = replay(log, &cuts);
        prop_assert_eq!(&one, &simulation.world.base);
        prop_assert_eq!(&one, &two);
        prop_assert_eq!(outcomes, again);
    }
}
