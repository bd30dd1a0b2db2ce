//! A node of the model: its view of the catalog, and the outcome of its requests.

use super::random::Random;
use super::world::{NODES, Row, World, open_session};
use crate::janitor::garbage::collector::{Deletion, Ground};
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::apply::{Base, MemoryBase, Rows, Snapshots};
use pgmesh_raft::table::Table;
use pgmesh_raft::{
    Claim, Command, GarbageKey, PlacedIdentity, ReadError, Refusal, Replica, Reply, SessionId, SessionKind, View,
};
use pgmesh_storage::{Generation, ObjectName, RepoKey};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Why a proposal got no reply.
#[derive(Debug)]
pub(super) enum Unsaid {
    Refused(Refusal),
    /// It was applied, or will be, or never will be.
    Lost,
}

#[derive(Clone)]
pub(super) struct SimNode {
    pub(super) world: Arc<World>,
    pub(super) number: usize,
}

impl SimNode {
    pub(super) fn new(world: &Arc<World>, number: usize) -> Self {
        assert!(number < NODES);
        Self {
            world: world.clone(),
            number,
        }
    }

    fn dice(&self, roll: impl FnOnce(&mut Random) -> bool) -> bool {
        roll(&mut self.world.lock().random)
    }

    pub(super) fn one_in(&self, sides: usize) -> bool {
        self.dice(|random| random.one_in(sides))
    }

    /// Other actors may run meanwhile.
    pub(super) fn pause(&self) -> Pause {
        Pause(self.world.lock().random.below(3))
    }

    /// A view that is not the latest, perhaps.
    pub(super) fn own_view(&self) -> View<NodeTables> {
        View::new(NodeTables {
            world: self.world.clone(),
            number: self.number,
        })
    }

    pub(super) async fn view_linearizable(&self) -> View<NodeTables> {
        self.pause().await;
        self.world.lock().catch_up(self.number);
        self.pause().await;
        self.own_view()
    }

    /// Asks for a change; when this returns with an answer this node has applied it.
    pub(super) async fn ask(&self, command: Command) -> Result<Reply, Unsaid> {
        self.pause().await;
        let outcome = {
            let mut state = self.world.lock();
            if state.random.one_in(24) {
                state.propose_later(command);
                return Err(Unsaid::Lost);
            }
            let outcome = state.apply(command);
            state.catch_up(self.number);
            outcome
        };
        self.pause().await;
        if self.one_in(32) {
            return Err(Unsaid::Lost);
        }
        outcome.map_err(Unsaid::Refused)
    }

    pub(super) async fn open(&self, kind: SessionKind) -> Option<SessionId> {
        match self.ask(open_session(kind, self.number)).await {
            Ok(Reply::Session(session)) => Some(session),
            _ => None,
        }
    }

    pub(super) async fn close(&self, session: SessionId) {
        let _ = self.ask(Command::CloseSession { session }).await;
    }

    /// Writes an object; the claim of it, once it is durable, names the disk that it was written to, and its place as
    /// this node knows it: the repository may have moved.
    pub(super) async fn put(&self, repo: RepoKey, row: Row) -> Option<Claim> {
        let generation = row.2;
        let disk = self.disk(repo);
        let record = self.own_view().repository(repo).unwrap();
        let placed = record.map(|record| record.placed).unwrap_or_default();
        self.pause().await;
        let is_written = {
            let mut state = self.world.lock();
            match state.random.below(12) {
                // Its repository is down, or its disk was replaced since this began.
                0 => None,
                _ if state.stores.get(&repo).map(|store| store.disk) != disk => None,
                1 => {
                    state.put_later(repo, row, placed);
                    None
                }
                _ => {
                    state.put(repo, row, placed);
                    let mut claim = state.claim(Replica { repo, generation });
                    claim.identity.placed = placed;
                    Some(claim)
                }
            }
        };
        self.pause().await;
        is_written
    }

    /// The objects in a repository, and the repository's identity.
    pub(super) fn listing(&self, repo: RepoKey) -> (Vec<Row>, PlacedIdentity) {
        let state = self.world.lock();
        let rows = state
            .stores
            .get(&repo)
            .map(|store| store.rows.iter().cloned().collect());
        let generation = Generation::FIRST;
        (
            rows.unwrap_or_default(),
            state.claim(Replica { repo, generation }).identity,
        )
    }

    fn disk(&self, repo: RepoKey) -> Option<u64> {
        self.world.lock().stores.get(&repo).map(|store| store.disk)
    }
}

impl Ground for SimNode {
    type Tables = NodeTables;
    type Lead = ();

    fn view(&self) -> View<NodeTables> {
        self.own_view()
    }

    async fn confirm_lead(&self) -> Result<Option<()>, Failure> {
        self.pause().await;
        {
            let mut state = self.world.lock();
            if state.leader != self.number || !state.members[self.number].leads {
                return Ok(None);
            }
            state.catch_up(self.number);
        }
        self.pause().await;
        Ok(Some(()))
    }

    async fn delete(&self, _lead: &(), key: &GarbageKey, name: &ObjectName) -> Deletion {
        self.pause().await;
        let fate = {
            let mut state = self.world.lock();
            let row = (key.object.clone(), name.digest(), key.generation);
            let dice = state.random.below(12);
            if !state.members[self.number].leads || !state.stores.contains_key(&key.repo) || dice == 0 {
                Deletion::Stays
            } else if state.stores.get(&key.repo).is_some_and(|store| store.keeps) {
                Deletion::Kept
            } else if dice < 3 {
                // The request was given up, and arrives all the same.
                state.delete_later(key, name.digest());
                Deletion::Stays
            } else {
                if dice < 5 {
                    // The request was sent a second time, and the first is still on its way.
                    state.delete_later(key, name.digest());
                }
                state.delete(key.repo, &row);
                Deletion::Deleted
            }
        };
        self.pause().await;
        fate
    }

    async fn propose(&self, command: Command) -> Result<(), Failure> {
        match self.ask(command).await {
            Ok(_) => Ok(()),
            Err(why) => Err(Failure::new(ExitCode::Runtime, format!("{why:?}"))),
        }
    }
}

/// The tables that a node has applied, as they are at each read.
pub(super) struct NodeTables {
    world: Arc<World>,
    number: usize,
}

impl NodeTables {
    fn now(&self) -> Arc<MemoryBase> {
        self.world.lock().members[self.number].base.clone()
    }
}

impl Base for NodeTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.now().get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], prefix: &[u8]) -> Rows<'_> {
        let rows: Vec<_> = self.now().scan(table, from, prefix).collect();
        Box::new(rows.into_iter())
    }

    fn scan_back(&self, table: Table, prefix: &[u8]) -> Rows<'_> {
        let rows: Vec<_> = self.now().scan_back(table, prefix).collect();
        Box::new(rows.into_iter())
    }
}

impl Snapshots for NodeTables {
    type Snapshot<'a> = Arc<MemoryBase>;

    fn snapshot(&self) -> Arc<MemoryBase> {
        self.now()
    }
}

/// Lets the scheduler choose the next actor, so many times.
pub(super) struct Pause(usize);

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0 == 0 {
            return Poll::Ready(());
        }
        self.0 -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
