//! Group commit: facts that come in while the catalog is busy with earlier ones go into it together.

use crate::sessions::OpenSession;
use crate::supervisor::Supervisor;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::command::{NewChunk, NewReplica};
use pgmesh_raft::{Catalog, CatalogError, Command, Refusal, SessionId};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Facts that wait.
const WAITING: usize = 1024;
/// Facts in one command.
const BATCH: usize = 512;

/// The outcome of adding a chunk to the catalog.
#[derive(Debug)]
pub enum ChunkCommit {
    /// It is in the catalog.
    Done,
    /// The chunk was written under a name that is about to be deleted, or its good replicas are in fewer repositories
    /// than its backup asks for: write it again, under this generation.
    Stale(pgmesh_storage::Generation),
}

struct WaitingChunk {
    session: SessionId,
    ack: u16,
    chunk: NewChunk,
    answer: oneshot::Sender<Result<ChunkCommit, Failure>>,
}

/// Commits chunks and late replicas in batches.
#[derive(Clone)]
pub struct Committer {
    chunks: mpsc::Sender<WaitingChunk>,
    replicas: mpsc::Sender<(Arc<OpenSession>, NewReplica)>,
}

impl Committer {
    /// Starts its two tasks; they end when the last clone is dropped. Without them no request would be answered any
    /// more: the node ends with them.
    pub(crate) fn start(supervisor: &Arc<Supervisor>, catalog: Catalog, actor: &str) -> Self {
        let (chunks, waiting_chunks) = mpsc::channel(WAITING);
        let (replicas, waiting_replicas) = mpsc::channel(WAITING);
        let actor = actor.to_owned();
        supervisor.guard(
            "chunk commits",
            commit_chunks(catalog.clone(), actor.clone(), waiting_chunks),
        );
        supervisor.guard("replica commits", commit_replicas(catalog, actor, waiting_replicas));
        Self { chunks, replicas }
    }

    /// Commits a chunk that is durable where it says; returns when the catalog has it.
    pub async fn chunk(&self, session: SessionId, ack: usize, chunk: NewChunk) -> Result<ChunkCommit, Failure> {
        let (answer, answered) = oneshot::channel();
        let gone = || Failure::new(ExitCode::Runtime, "the node is stopping").again();
        self.chunks
            .send(WaitingChunk {
                session,
                ack: u16::try_from(ack).unwrap_or(u16::MAX),
                chunk,
                answer,
            })
            .await
            .map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Records a replica that became durable after its object was committed. The debt that stands for it is forgotten
    /// only when this is committed, so nothing hangs on it being done.
    pub async fn replica(&self, session: Arc<OpenSession>, replica: NewReplica) {
        // The node is stopping: the debt stays, and is paid after the restart.
        let _ = self.replicas.send((session, replica)).await;
    }
}

async fn commit_chunks(catalog: Catalog, actor: String, mut waiting: mpsc::Receiver<WaitingChunk>) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let mut sessions: BTreeMap<(SessionId, u16), Vec<WaitingChunk>> = BTreeMap::new();
        for chunk in batch.drain(..) {
            sessions.entry((chunk.session, chunk.ack)).or_default().push(chunk);
        }
        for ((session, ack), chunks) in sessions {
            commit_session(&catalog, &actor, session, ack, chunks).await;
        }
    }
}

async fn commit_session(catalog: &Catalog, actor: &str, session: SessionId, ack: u16, mut waiting: Vec<WaitingChunk>) {
    // The command is all or nothing. Chunks that are refused by name are answered, and left out of the second try.
    while !waiting.is_empty() {
        let chunks = waiting.iter().map(|waiting| waiting.chunk.clone()).collect();
        match catalog
            .propose(actor, Command::AddChunks { session, ack, chunks })
            .await
        {
            Ok(_) => {
                answer_all(waiting, || Ok(ChunkCommit::Done));
                return;
            }
            Err(CatalogError::Refused(Refusal::StaleGenerations(stale))) => {
                let before = waiting.len();
                let mut rest = Vec::new();
                for chunk in waiting {
                    match stale.iter().find(|stale| stale.digest == chunk.chunk.digest) {
                        Some(stale) => drop(chunk.answer.send(Ok(ChunkCommit::Stale(stale.generation)))),
                        None => rest.push(chunk),
                    }
                }
                waiting = rest;
                if waiting.len() == before {
                    answer_all(waiting, || {
                        Err(Failure::new(
                            ExitCode::Assert,
                            "the catalog refused chunks it did not name",
                        ))
                    });
                    return;
                }
            }
            Err(error) => {
                let failure = Failure::from(error);
                answer_all(waiting, || Err(failure.clone()));
                return;
            }
        }
    }
}

fn answer_all(waiting: Vec<WaitingChunk>, answer: impl Fn() -> Result<ChunkCommit, Failure>) {
    for chunk in waiting {
        // The client may have gone: its chunk is committed all the same.
        drop(chunk.answer.send(answer()));
    }
}

async fn commit_replicas(catalog: Catalog, actor: String, mut waiting: mpsc::Receiver<(Arc<OpenSession>, NewReplica)>) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let mut sessions: BTreeMap<SessionId, (Arc<OpenSession>, Vec<NewReplica>)> = BTreeMap::new();
        for (session, replica) in batch.drain(..) {
            sessions
                .entry(session.id)
                .or_insert_with(|| (session, Vec::new()))
                .1
                .push(replica);
        }
        for (id, (held, replicas)) in sessions {
            let count = replicas.len();
            let command = Command::AddReplicas { session: id, replicas };
            match catalog.propose(&actor, command).await {
                Ok(reply) => tracing::debug!(count, ?reply, "replicas recorded"),
                Err(error) => {
                    tracing::warn!(count, error = %pgmesh_protocol::failure::chain(&error), "late replicas stay owed");
                }
            }
            drop(held);
        }
    }
}
