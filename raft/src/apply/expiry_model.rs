//! Random histories of backups that come and expire in several repositories, against sets that say what each needs.
//!
//! The node's part, to find births and deaths and the chunks to release, is played by the shortest code that does it.

use std::collections::{BTreeMap, BTreeSet};

use pgmesh_storage::{BackupLabel, Digest, RepoKey, StanzaName};
use proptest::prelude::*;

use super::scenario::{World, claimed, claims, cluster, commit, digest, label, new_chunk, register, replica, repo};
use crate::apply::Base;
use crate::command::{Command, DropUses, ExpireBackups, NewReplica, NoteUses, Release};
use crate::key;
use crate::model::{ChunkRecord, LogIndex, ObjectRef, SessionId, SessionKind, UseEvent};
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::table::Table;

/// The chunks that there may be.
const CHUNKS: std::ops::Range<u8> = 1..14;

/// Where a run of the release of one expired backup is.
type Job = ((RepoKey, StanzaName, BackupLabel), LogIndex);

struct Simulation {
    world: World,
    repos: Vec<RepoKey>,
    stanzas: Vec<StanzaName>,
    /// The chunks that each committed backup names.
    named: BTreeMap<(StanzaName, BackupLabel), BTreeSet<u8>>,
    /// The running backup of each stanza, its chunks, and whether it is staged.
    running: BTreeMap<StanzaName, (SessionId, BackupLabel, BTreeSet<u8>, bool)>,
    number: u32,
    /// Chunks of backups that were given up: the sweep finds them.
    given_up: BTreeSet<u8>,
    /// The chunks that each stanza has shown the content of, since the catalog knows them: it has the right to these,
    /// and to no others.
    shown: BTreeSet<(StanzaName, u8)>,
}

impl Simulation {
    fn new(repos: u16) -> Self {
        let mut world = World::empty();
        for number in 1..=repos {
            world.run(register(number)).unwrap();
        }
        let stanzas: Vec<StanzaName> = vec!["a".parse().unwrap(), "b".parse().unwrap()];
        for (number, stanza) in stanzas.iter().enumerate() {
            let create = Command::CreateStanza {
                stanza: stanza.clone(),
                cluster: cluster(7),
                info: claimed(200 + u8::try_from(number).unwrap(), 100, &[]),
                checked_at: LogIndex(0),
            };
            world.run(create).unwrap();
        }
        Self {
            world,
            repos: (1..=repos).map(repo).collect(),
            stanzas,
            named: BTreeMap::new(),
            running: BTreeMap::new(),
            number: 0,
            given_up: BTreeSet::new(),
            shown: BTreeSet::new(),
        }
    }

    fn chunk(&self, number: u8) -> Option<ChunkRecord> {
        let known = self.world.view().chunks_with_condemned(&[digest(number)]).unwrap();
        known.into_iter().next().flatten()
    }

    fn has_right(&self, stanza: &StanzaName, number: u8) -> bool {
        self.world
            .view()
            .rights([stanza])
            .unwrap()
            .has(&digest(number))
            .unwrap()
    }

    /// A backup of these chunks begins: each is added where it is not there, in the first repository or in all. A
    /// backup that is not honest has the content of none of them.
    fn begin(&mut self, of: usize, chunks: &BTreeSet<u8>, everywhere: bool, is_honest: bool) {
        let stanza = self.stanzas[of].clone();
        if self.running.contains_key(&stanza) {
            return;
        }
        self.number += 1;
        let label = label(&format!("20250101-{:06}F", self.number));
        let opened = self.world.run(Command::OpenSession {
            kind: SessionKind::Backup,
            stanza: Some(stanza.clone()),
            holder: "test".to_owned(),
            node: "n1".parse().unwrap(),
            resume_key: None,
        });
        let Ok(Reply::Session(session)) = opened else {
            panic!("{opened:?}")
        };
        let begin = Command::BeginBackup {
            stanza: stanza.clone(),
            session,
            label: label.clone(),
            system_id: cluster(7).system_id,
        };
        self.world.run(begin).unwrap();
        self.running
            .insert(stanza.clone(), (session, label, chunks.clone(), false));
        if is_honest {
            self.add(&stanza, session, chunks, everywhere);
        }
    }

    fn add(&mut self, stanza: &StanzaName, session: SessionId, chunks: &BTreeSet<u8>, everywhere: bool) {
        for number in chunks {
            if self.chunk(*number).is_some_and(|chunk| chunk.condemned.is_none()) {
                if !self.has_right(stanza, *number) {
                    // It is there: no repository gets another object.
                    let chunks = vec![new_chunk(*number, &[])];
                    let shown = self.world.run(Command::AddChunks {
                        session,
                        ack: 1,
                        chunks,
                    });
                    assert_eq!(shown, Ok(Reply::Done));
                    self.shown.insert((stanza.clone(), *number));
                }
                continue;
            }
            let generation = self
                .world
                .view()
                .generation_for(&ObjectRef::Chunk(digest(*number)), &[])
                .unwrap();
            let held = self.chunk(*number).map(|chunk| chunk.replicas).unwrap_or_default();
            let taken = held.iter().map(|replica| replica.generation.next()).max();
            let generation = generation.max(taken.unwrap_or_default()).0;
            let count = if everywhere { self.repos.len() } else { 1 };
            let replicas: Vec<_> = (1..=u16::try_from(count).unwrap())
                .map(|repo| replica(repo, generation))
                .collect();
            let add = Command::AddChunks {
                session,
                ack: 1,
                chunks: vec![new_chunk(*number, &replicas)],
            };
            self.world.run(add).unwrap();
            self.shown.insert((stanza.clone(), *number));
        }
    }

    /// The node's part before a commit: the uses that the backup begins and ends. Says whether the stanza has the right
    /// to all of them.
    fn stage(&mut self, of: usize) -> bool {
        let stanza = self.stanzas[of].clone();
        let Some((session, label, chunks, is_staged)) = self.running.get_mut(&stanza) else {
            return true;
        };
        *is_staged = true;
        let (session, label, chunks) = (*session, label.clone(), chunks.clone());
        let stage = Command::StageUses {
            stanza: stanza.clone(),
            session,
            label: label.clone(),
            manifest: digest(250),
        };
        self.world.run(stage).unwrap();
        let view = self.world.view();
        let all: Vec<Digest> = chunks.iter().map(|number| digest(*number)).collect();
        let open = view.are_open(&stanza, &all).unwrap();
        let born: Vec<Digest> = std::iter::zip(&all, &open)
            .filter(|(_, open)| !**open)
            .map(|(d, _)| *d)
            .collect();
        let mut records: Vec<_> = view.backups(&stanza, None).map(Result::unwrap).collect();
        let last = records.pop();
        let last_readable = last.iter().chain(records.iter().rev());
        let mut last_readable =
            last_readable.filter(|(_, record)| self.repos.iter().any(|repo| record.is_kept_in(*repo)));
        let prior = last_readable.next().map(|(label, _)| label.clone());
        let is_everywhere = |record: &crate::BackupRecord| self.repos.iter().all(|repo| record.is_kept_in(*repo));
        let carried = match &last {
            Some((_, record)) if is_everywhere(record) => Vec::new(),
            _ => all.clone(),
        };
        let mut candidates: BTreeSet<Digest> = match &prior {
            Some(prior) => self.named[&(stanza.clone(), prior.clone())]
                .iter()
                .map(|n| digest(*n))
                .collect(),
            None => BTreeSet::new(),
        };
        for row in view.backup_uses(&stanza, prior.as_ref().map(|prior| (prior, None))) {
            let ((_, digest), event) = row.unwrap();
            if event == UseEvent::Born {
                candidates.insert(digest);
            }
        }
        let died: Vec<Digest> = candidates.into_iter().filter(|digest| !all.contains(digest)).collect();
        let open = view.are_open(&stanza, &died).unwrap();
        let died = std::iter::zip(died, open)
            .filter(|(_, open)| *open)
            .map(|(d, _)| d)
            .collect();
        let note = NoteUses {
            session: Some(session),
            began: LogIndex(0),
            stanza: stanza.clone(),
            label,
            born,
            carried,
            died,
        };
        let has_all = chunks
            .iter()
            .all(|number| self.shown.contains(&(stanza.clone(), *number)));
        match self.world.run(Command::NoteUses(Box::new(note))) {
            Ok(_) => assert!(has_all, "it names a chunk that it has not shown"),
            Err(Refusal::ChunkMissing { .. }) => assert!(!has_all, "it has shown all its chunks"),
            other => panic!("{other:?}"),
        }
        has_all
    }

    /// Commits, after it has taken back what was condemned since it began; or gives the backup up.
    fn end(&mut self, of: usize, commits: bool) {
        let stanza = self.stanzas[of].clone();
        let commits = commits && self.stage(of);
        let Some((session, label, chunks, _)) = self.running.remove(&stanza) else {
            return;
        };
        if commits {
            // The look at all chunks: condemned ones are taken back, or uploaded again.
            for number in &chunks {
                if let Some(since) = self.chunk(*number).and_then(|chunk| chunk.condemned)
                    && since > session.0
                {
                    let chunks = vec![crate::CondemnedChunk {
                        digest: digest(*number),
                        since,
                    }];
                    self.world.run(Command::Reprieve { session, chunks }).unwrap();
                }
            }
            self.add(&stanza, session, &chunks, false);
            let checked_at = self.world.applied();
            let mut given = commit(session, label.as_str(), checked_at);
            given.stanza = stanza.clone();
            given.ack = 1;
            given.claims = claims(&[replica(1, self.world.view().floor().unwrap().0)]);
            self.push_wal(&stanza);
            given.checked_at = self.world.applied();
            let committed = self.world.run(Command::CommitBackup(Box::new(given)));
            assert_eq!(committed, Ok(Reply::Done));
            self.named.insert((stanza, label), chunks);
        } else {
            self.given_up.extend(chunks);
        }
        self.world.run(Command::CloseSession { session }).unwrap();
    }

    /// The segments that every backup here needs.
    fn push_wal(&mut self, stanza: &StanzaName) {
        for number in 1..=2 {
            let mut push = super::scenario::push_segment(1, number, 50 + u8::try_from(number).unwrap());
            push.stanza = stanza.clone();
            push.ack = 1;
            let floor = self.world.view().floor().unwrap().0;
            push.object.claims = claims(&[replica(1, floor)]);
            drop(self.world.push(push));
        }
    }

    fn kept(&self, repo: RepoKey) -> Vec<(StanzaName, BackupLabel)> {
        let view = self.world.view();
        let mut kept = Vec::new();
        for stanza in &self.stanzas {
            for row in view.backups(stanza, None) {
                let (label, record) = row.unwrap();
                if record.is_kept_in(repo) {
                    kept.push((stanza.clone(), label));
                }
            }
        }
        kept
    }

    fn expire(&mut self, at: usize, which: usize) {
        let repo = self.repos[at % self.repos.len()];
        let kept = self.kept(repo);
        if kept.is_empty() {
            return;
        }
        let (stanza, label) = kept[which % kept.len()].clone();
        let expire = ExpireBackups {
            stanza: stanza.clone(),
            repo,
            labels: vec![label],
            why: "test".to_owned(),
        };
        match self.world.run(Command::ExpireBackups(Box::new(expire))) {
            Ok(Reply::Expired { labels }) => assert_eq!(labels.len(), 1),
            Err(Refusal::Expiry(_)) => {}
            other => panic!("{other:?}"),
        }
    }

    /// One repository pays its debts.
    fn pay(&mut self, at: usize) {
        let repo = self.repos[at % self.repos.len()];
        let debts: Vec<_> = self.world.view().debts(repo, None).map(Result::unwrap).collect();
        let session = self.world.open_session(SessionKind::Repair);
        for (object, debt) in debts {
            let Some(stored) = self.world.view().object(&object).unwrap() else {
                continue;
            };
            if stored.replicas.is_empty() {
                continue;
            }
            let new = NewReplica {
                object,
                digest: stored.digest,
                claim: super::scenario::claim(crate::Replica {
                    repo,
                    generation: debt.generation,
                }),
            };
            let replicas = vec![new];
            self.world.run(Command::AddReplicas { session, replicas }).unwrap();
        }
        self.world.run(Command::CloseSession { session }).unwrap();
    }

    fn jobs(&self) -> Vec<Job> {
        self.world.view().releases().map(Result::unwrap).collect()
    }

    /// The node's part of a release; says whether it came to its end.
    fn release(&mut self, job: &Job) -> bool {
        let ((repo, stanza, label), since) = job.clone();
        let release = |manifest, chunks| {
            Command::Release(Box::new(Release {
                repo,
                stanza: stanza.clone(),
                label: label.clone(),
                since,
                manifest,
                chunks,
            }))
        };
        match self.world.run(release(true, Vec::new())) {
            Ok(Reply::Released { waiting: 0, .. }) => {}
            Ok(Reply::Released { .. }) | Err(Refusal::Expiry(_)) => return false,
            other => panic!("{other:?}"),
        }
        let chunks = candidates(&self.world, &stanza, &label, repo);
        match self.world.run(release(false, chunks)) {
            Ok(Reply::Released { waiting: 0, .. }) => {}
            Ok(Reply::Released { .. }) => return false,
            other => panic!("{other:?}"),
        }
        let end = Command::EndRelease {
            repo,
            stanza,
            label,
            since,
        };
        assert_eq!(self.world.run(end), Ok(Reply::Done));
        true
    }

    fn drop_abandoned(&mut self) {
        let abandoned: Vec<_> = self.world.view().abandoned().map(|row| row.unwrap().0).collect();
        for (stanza, label) in abandoned {
            let uses: Vec<_> = self
                .world
                .view()
                .backup_uses(&stanza, None)
                .map(Result::unwrap)
                .collect();
            let chunks = uses
                .into_iter()
                .filter(|((of, _), _)| *of == label)
                .map(|((_, digest), _)| digest);
            let given = DropUses {
                stanza,
                label: label.clone(),
                chunks: chunks.collect(),
                is_last: true,
            };
            let dropped = self.world.run(Command::DropUses(Box::new(given)));
            assert!(
                matches!(dropped, Ok(Reply::Released { .. }) | Err(Refusal::Expiry(_))),
                "{dropped:?}"
            );
        }
    }

    /// Condemned chunks have been deleted, as far as no older session is open.
    fn forget(&mut self) {
        let condemned: Vec<_> = self.world.view().condemned(None).map(Result::unwrap).collect();
        for (digest, since) in condemned {
            let chunks = vec![crate::CondemnedChunk { digest, since }];
            let forget = Command::Forget {
                chunks,
                kept: Vec::new(),
            };
            match self.world.run(forget) {
                Ok(_) => self
                    .shown
                    .retain(|(_, number)| super::scenario::digest(*number) != digest),
                Err(Refusal::SessionOpen { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// A stanza has the right to the chunks that it has shown, and to no others. No row says what a use says.
    fn check_rights(&self) -> Result<(), TestCaseError> {
        for stanza in &self.stanzas {
            for number in CHUNKS {
                let is_shown = self.shown.contains(&(stanza.clone(), number));
                let has_right = self.has_right(stanza, number);
                prop_assert_eq!(has_right, is_shown, "stanza {}, chunk {}", stanza, number);
            }
        }
        let view = self.world.view();
        for row in view.possessions() {
            let (digest, stanza) = row.unwrap();
            let uses = key::chunk_uses(&digest, &stanza);
            prop_assert_eq!(self.world.base.scan(Table::Uses, &uses, &uses).count(), 0);
            prop_assert!(view.chunks_with_condemned(&[digest]).unwrap()[0].is_some());
            let index = key::stanza_possession(&stanza, &digest);
            prop_assert!(self.world.base.get(Table::StanzaPossessions, &index).unwrap().is_some());
        }
        let rows = |table| self.world.base.scan(table, &[], &[]).count();
        prop_assert_eq!(rows(Table::Possessions), rows(Table::StanzaPossessions));
        Ok(())
    }

    /// Everything that a repository needs is there or owed.
    fn check(&self) -> Result<(), TestCaseError> {
        self.check_rights()?;
        let view = self.world.view();
        for repo in &self.repos {
            for kept in self.kept(*repo) {
                for number in &self.named[&kept] {
                    let chunk = self.chunk(*number);
                    let is_there = chunk.as_ref().is_some_and(|chunk| {
                        chunk.condemned.is_none() && chunk.replicas.iter().any(|replica| replica.repo == *repo)
                    });
                    let object = ObjectRef::Chunk(digest(*number));
                    let is_owed = view.debt(*repo, &object).unwrap().is_some();
                    prop_assert!(
                        is_there || is_owed,
                        "repo{} lacks {} of {:?}: {:?}",
                        repo,
                        number,
                        kept,
                        chunk
                    );
                    // Nobody could pay the debt.
                    prop_assert!(
                        chunk.is_some_and(|chunk| !chunk.replicas.is_empty()),
                        "{number} is lost"
                    );
                }
            }
        }
        Ok(())
    }

    /// Nothing is there that nobody needs, once all is released.
    fn check_all_released(&mut self) -> Result<(), TestCaseError> {
        for of in 0..self.stanzas.len() {
            self.end(of, false);
        }
        self.drop_abandoned();
        for _ in 0..3 {
            for at in 0..self.repos.len() {
                self.pay(at);
            }
            for job in self.jobs() {
                self.release(&job);
            }
        }
        prop_assert_eq!(self.jobs(), Vec::new());
        self.check_rights()?;
        let chunks: Vec<_> = self.world.view().all_chunks(None).map(Result::unwrap).collect();
        for (digest_of, chunk) in chunks {
            let number = digest_of.as_bytes()[0];
            let uses = self
                .world
                .base
                .scan(Table::Uses, digest_of.as_bytes(), digest_of.as_bytes());
            let is_left_to_sweep = uses.count() == 0 && self.given_up.contains(&number);
            for repo in &self.repos {
                let is_needed = self.kept(*repo).iter().any(|kept| self.named[kept].contains(&number));
                let is_there = chunk.condemned.is_none() && chunk.replicas.iter().any(|replica| replica.repo == *repo);
                let object = ObjectRef::Chunk(digest_of);
                let is_owed = self.world.view().debt(*repo, &object).unwrap().is_some();
                if !is_left_to_sweep {
                    prop_assert_eq!(is_needed, is_there || is_owed, "repo{}, {}: {:?}", repo, number, chunk);
                }
            }
        }
        Ok(())
    }
}

/// The chunks that an expired backup may have been the last to need.
fn candidates(world: &World, stanza: &StanzaName, label: &BackupLabel, repo: RepoKey) -> Vec<Digest> {
    let view = world.view();
    let kept: Vec<BackupLabel> = view
        .backups(stanza, None)
        .map(Result::unwrap)
        .filter(|(_, record)| record.is_kept_in(repo))
        .map(|(label, _)| label)
        .collect();
    let before = kept.iter().rev().find(|other| *other < label);
    let after = kept.iter().find(|other| *other > label);
    let mut chunks = BTreeSet::new();
    for row in view.backup_uses(stanza, None) {
        let ((of, digest), event) = row.unwrap();
        let is_candidate = match (event, after) {
            (UseEvent::Died, Some(after)) => of > *label && of <= *after,
            (UseEvent::Died, None) => of > *label,
            (UseEvent::Born, None) => before.is_none_or(|before| of > *before) && of <= *label,
            (UseEvent::Born, Some(_)) | (UseEvent::Carried, _) => false,
        };
        if is_candidate {
            chunks.insert(digest);
        }
    }
    chunks.into_iter().collect()
}

#[derive(Debug, Clone)]
enum Act {
    Begin(usize, BTreeSet<u8>, bool, bool),
    Stage(usize),
    End(usize, bool),
    Expire(usize, usize),
    Pay(usize),
    Release(usize),
    Drop,
    Forget,
}

fn act() -> impl Strategy<Value = Act> {
    let chunks = proptest::collection::btree_set(CHUNKS, 1..8);
    prop_oneof![
        4 => (0_usize..2, chunks, any::<bool>(), prop_oneof![6 => Just(true), 1 => Just(false)])
            .prop_map(|(of, chunks, all, is_honest)| Act::Begin(of, chunks, all, is_honest)),
        1 => (0_usize..2).prop_map(Act::Stage),
        4 => (0_usize..2, prop_oneof![4 => Just(true), 1 => Just(false)]).prop_map(|(of, commits)| Act::End(of, commits)),
        3 => (0_usize..3, 0_usize..6).prop_map(|(at, which)| Act::Expire(at, which)),
        1 => (0_usize..3).prop_map(Act::Pay),
        3 => (0_usize..9).prop_map(Act::Release),
        1 => Just(Act::Drop),
        1 => Just(Act::Forget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_needed_is_released_and_nothing_useless_is_kept(
        repos in 1_u16..4,
        acts in proptest::collection::vec(act(), 1..60),
    ) {
        let mut simulation = Simulation::new(repos);
        for act in acts {
            match act {
                Act::Begin(of, chunks, everywhere, is_honest) => {
                    simulation.begin(of, &chunks, everywhere, is_honest);
                }
                Act::Stage(of) => drop(simulation.stage(of)),
                Act::End(of, commits) => simulation.end(of, commits),
                Act::Expire(at, which) => simulation.expire(at, which),
                Act::Pay(at) => simulation.pay(at),
                Act::Release(which) => {
                    let jobs = simulation.jobs();
                    if !jobs.is_empty() {
                        simulation.release(&jobs[which % jobs.len()].clone());
                    }
                }
                Act::Drop => simulation.drop_abandoned(),
                Act::Forget => simulation.forget(),
            }
            simulation.check()?;
        }
        simulation.check_all_released()?;
    }
}
