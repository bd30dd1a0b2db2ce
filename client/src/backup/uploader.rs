//! Sending chunks to the mesh: ask which are new, compress those, send them, several at a time.
//!
//! Pieces come in through a bounded channel, so that reading waits when sending is slow (invariant 11). A query names a
//! piece together with the pieces that wait beside it, which keeps the number of round trips small.

use crate::mesh::Mesh;
use bytes::Bytes;
use pgmesh_protocol::{ExitCode, Failure, PutChunk, QueryChunks};
use pgmesh_runtime::tasks;
use pgmesh_storage::{Codec, Digest, Payload, StanzaName};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinSet;

/// Pieces that wait to be asked about.
const PIECES_WAITING: usize = 8;
/// Pieces asked about at once.
const PIECES_ASKED: usize = 16;
/// Chunks being compressed or sent at once: enough to keep a node with slow disks or a far one busy. With the pieces
/// above and the readers' buffers an upload holds about 50 MiB, for a cluster of any size (invariant 11).
const CHUNKS_IN_FLIGHT: usize = 16;

/// A piece of plaintext with its digest.
pub struct Piece {
    /// Of `bytes`.
    pub digest: Digest,
    /// The plaintext.
    pub bytes: Vec<u8>,
}

/// Why no more pieces are made.
#[derive(Debug)]
pub enum Halt {
    /// This part of the backup has failed.
    Failed(Failure),
    /// The upload takes no more: its own result says why.
    UploadEnded,
}

/// The settings of an upload.
#[derive(Clone)]
pub struct UploadSettings {
    /// The stanza that the backup is of.
    pub stanza: StanzaName,
    /// The backup session.
    pub session: u64,
    /// `compress-type`.
    pub codec: Codec,
    /// `compress-level`.
    pub level: Option<i32>,
    /// `process-max`: how many chunks are compressed at once.
    pub workers: usize,
}

/// Sums of an upload.
#[derive(Debug, Default)]
pub struct UploadCounts {
    /// Bytes of plaintext in chunks that were new.
    pub plain_new: AtomicU64,
    /// Bytes that the new chunks take in one repository.
    pub stored_new: AtomicU64,
    /// Chunks that the mesh had already.
    pub known: AtomicU64,
}

/// The receiving end of the pieces.
pub struct Uploader {
    mesh: Arc<Mesh>,
    settings: UploadSettings,
    compressing: Arc<Semaphore>,
    sending: Arc<Semaphore>,
    counts: Arc<UploadCounts>,
    /// Digests under way, so that equal pieces close to each other are sent once.
    under_way: Arc<Mutex<HashSet<Digest>>>,
}

impl Uploader {
    /// The channel to send pieces into, and the upload itself, to be awaited: it ends when all senders are dropped and
    /// everything is durable.
    pub fn start(
        mesh: Arc<Mesh>,
        settings: UploadSettings,
    ) -> (
        mpsc::Sender<Piece>,
        impl Future<Output = Result<Arc<UploadCounts>, Failure>>,
    ) {
        let (sender, receiver) = mpsc::channel(PIECES_WAITING);
        let uploader = Self {
            mesh,
            compressing: Arc::new(Semaphore::new(settings.workers.max(1))),
            sending: Arc::new(Semaphore::new(CHUNKS_IN_FLIGHT)),
            settings,
            counts: Arc::new(UploadCounts::default()),
            under_way: Arc::new(Mutex::new(HashSet::new())),
        };
        (sender, uploader.run(receiver))
    }

    async fn run(self, mut receiver: mpsc::Receiver<Piece>) -> Result<Arc<UploadCounts>, Failure> {
        let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
        let mut pieces = Vec::with_capacity(PIECES_ASKED);
        loop {
            tokio::select! {
                received = receiver.recv_many(&mut pieces, PIECES_ASKED) => {
                    if received == 0 {
                        break;
                    }
                    for piece in self.new_ones(std::mem::take(&mut pieces)).await? {
                        let permit = self.sending.clone().acquire_owned().await;
                        let job = self.send(piece);
                        tasks.spawn(tasks::named("uploading", async move {
                            let _permit = permit;
                            job.await
                        }));
                    }
                }
                // A failure is noticed at once, also while no pieces come.
                Some(done) = tasks.join_next() => finished(done)?,
            }
        }
        while let Some(done) = tasks.join_next().await {
            finished(done)?;
        }
        Ok(self.counts)
    }

    /// The pieces that the mesh does not have and that are not under way already.
    async fn new_ones(&self, pieces: Vec<Piece>) -> Result<Vec<Piece>, Failure> {
        let request = QueryChunks {
            stanza: self.settings.stanza.clone(),
            session: self.settings.session,
            digests: pieces.iter().map(|piece| piece.digest).collect(),
        };
        let known = self.mesh.call(&request).await?;
        if known.len() != pieces.len() {
            return Err(Failure::new(
                ExitCode::Protocol,
                format!(
                    "the node answered {} of {} chunks asked about",
                    known.len(),
                    pieces.len()
                ),
            ));
        }
        let mut under_way = self.under_way.lock().await;
        let mut new = Vec::new();
        for (piece, known) in pieces.into_iter().zip(known) {
            if known || !under_way.insert(piece.digest) {
                self.counts.known.fetch_add(1, Ordering::Relaxed);
            } else {
                new.push(piece);
            }
        }
        Ok(new)
    }

    fn send(&self, piece: Piece) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        let (mesh, settings) = (self.mesh.clone(), self.settings.clone());
        let (compressing, counts, under_way) = (self.compressing.clone(), self.counts.clone(), self.under_way.clone());
        async move {
            let (digest, plain_length) = (piece.digest, piece.bytes.len() as u64);
            let permit = compressing.acquire_owned().await;
            let (stanza, session) = (settings.stanza.clone(), settings.session);
            let packed = tasks::blocking("packing a piece", move || pack(&settings, piece)).await;
            drop(permit);
            let payload = packed.map_err(|error| abnormal(&error))??;
            let body: Bytes = payload.bytes.clone();
            let request = PutChunk {
                stanza,
                session,
                payload: payload.head(),
            };
            let stored: u64 = mesh.send(&request, &body).await?;
            counts.plain_new.fetch_add(plain_length, Ordering::Relaxed);
            counts.stored_new.fetch_add(stored, Ordering::Relaxed);
            under_way.lock().await.remove(&digest);
            Ok(())
        }
    }
}

/// Compresses a piece, whose plaintext is freed with it.
fn pack(settings: &UploadSettings, piece: Piece) -> Result<Payload, Failure> {
    Payload::pack_known(piece.digest, settings.codec, settings.level, &piece.bytes).map_err(|error| {
        Failure::new(
            ExitCode::Runtime,
            format!("compressing a chunk with {}", settings.codec),
        )
        .because(error)
    })
}

fn finished(joined: Result<Result<(), Failure>, tokio::task::JoinError>) -> Result<(), Failure> {
    joined.map_err(|error| abnormal(&error))?
}

fn abnormal(error: &tokio::task::JoinError) -> Failure {
    Failure::new(ExitCode::Assert, "a worker ended abnormally").because(error)
}
