//! Sending a file that lies in parts: read, compressed and sent part by part.

use super::link::{Link, lost, message_within, reply_within};
use super::retry::Retry;
use super::{Failed, Mesh};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure, PartsTurn, PushSegment, Pushed};
use pgmesh_runtime::tasks;
use pgmesh_storage::{Codec, Digest, DigestSuite, FILE_PART_LENGTH, FilePart, Payload, parts_of};
use pgmesh_transport::{Stream, StreamError};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long the reason is waited for when a node takes no more of a file.
const REASON: Duration = Duration::from_secs(2);
/// So much of a file is digested at once.
const PIECE: usize = 1 << 20;

/// A file that lies in parts.
#[derive(Debug, Clone)]
pub struct PartedFile {
    file: Arc<File>,
    path: PathBuf,
    length: u64,
    codec: Codec,
    level: Option<i32>,
}

impl PartedFile {
    /// An open file of so many bytes.
    pub fn new(file: File, path: PathBuf, length: u64, codec: Codec, level: Option<i32>) -> Self {
        Self {
            file: Arc::new(file),
            path,
            length,
            codec,
            level,
        }
    }

    /// Its length, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The digest of all of it.
    ///
    /// # Errors
    /// It cannot be read, or is not as long as it was.
    pub async fn digest(&self, suite: DigestSuite) -> Result<Digest, Failure> {
        let file = self.clone();
        let digesting = tasks::blocking("digesting a WAL file", move || {
            let (mut hasher, mut piece, mut read) = (suite.hasher(), vec![0; PIECE], 0u64);
            loop {
                let length = file.file.read_at(&mut piece, read)?;
                if length == 0 {
                    break;
                }
                hasher.update(piece.get(..length).unwrap_or_default());
                read += length as u64;
            }
            let is_whole = read == file.length;
            is_whole.then(|| hasher.finalize()).ok_or_else(|| {
                let what = format!(
                    "its length changed from {} to {read} bytes while it was read",
                    file.length
                );
                io::Error::new(io::ErrorKind::InvalidData, what)
            })
        });
        digesting
            .await
            .map_err(abnormal)?
            .map_err(|error| self.unreadable(error))
    }

    /// Reads and compresses one part, on a thread of its own.
    fn pack(&self, part: FilePart, suite: DigestSuite) -> JoinHandle<Result<Payload, Failure>> {
        let file = self.clone();
        tasks::blocking("reading a part", move || {
            let from = u64::from(part.number() - 1) * FILE_PART_LENGTH;
            let length = usize::try_from(part.length_in(file.length)).unwrap_or_default();
            let mut plain = vec![0; length];
            let read = file.file.read_exact_at(&mut plain, from);
            read.map_err(|error| file.unreadable(error))?;
            Payload::pack(suite, file.codec, file.level, &plain).map_err(|error| {
                Failure::new(ExitCode::OptionInvalid, format!("compressing with {}", file.codec)).because(chain(&error))
            })
        })
    }

    fn unreadable(&self, error: io::Error) -> Failure {
        let what = format!("WAL file {} cannot be read", self.path.display());
        Failure::new(ExitCode::FileMissing, what).because(error)
    }
}

impl Mesh {
    /// Pushes a file whose parts follow the request, which is repeated like any other. A file that is archived already
    /// is not sent.
    ///
    /// # Errors
    /// As the node answers; the file cannot be read.
    pub async fn send_parts(&self, push: &PushSegment, file: &PartedFile) -> Result<Pushed, Failure> {
        let suite = self.suite().await?;
        let mut retry = Retry::new(self.access.limit);
        loop {
            let attempt = async {
                let link = self.ready::<PushSegment>().await?;
                let sent = link.push_parts(push, file, suite, self.silence()).await;
                sent.map_err(|failure| Failed::at(link, failure))
            };
            match attempt.await {
                Ok(pushed) => return Ok(pushed),
                Err(failed) if self.is_late() => return Err(failed.failure),
                Err(failed) => self.settle::<PushSegment>(&mut retry, failed).await?,
            }
        }
    }
}

impl Link {
    async fn push_parts(
        &self,
        push: &PushSegment,
        file: &PartedFile,
        suite: DigestSuite,
        silence: Option<Duration>,
    ) -> Result<Pushed, Failure> {
        let of = parts_of(file.length).ok_or_else(|| Failure::new(ExitCode::Assert, "a short file has no parts"))?;
        let mut stream = self.begin(push, silence).await?;
        match message_within::<PushSegment, _>(self, &mut stream, silence).await? {
            PartsTurn::Done(pushed) => return Ok(pushed),
            PartsTurn::Send => {}
        }
        let mut parts = FilePart::all(of);
        let mut packing = parts.next().map(|part| file.pack(part, suite));
        while let Some(packed) = packing.take() {
            let payload = packed.await.map_err(abnormal)??;
            // The next one is compressed while this one is sent.
            packing = parts.next().map(|part| file.pack(part, suite));
            let sent = async {
                stream.send(&payload.head()).await?;
                stream.send_bytes(&payload.bytes).await
            };
            if let Err(error) = sent.await {
                return Err(ended_early(&mut stream, &error).await);
            }
        }
        if let Err(error) = stream.finish() {
            return Err(ended_early(&mut stream, &error).await);
        }
        reply_within::<PushSegment>(self, &mut stream, silence).await
    }
}

/// Why a node takes no more of a file: it may have said so.
async fn ended_early(stream: &mut Stream, error: &StreamError) -> Failure {
    let said = tokio::time::timeout(REASON, super::reply::<PushSegment>(stream)).await;
    match said {
        Ok(Err(failure)) => failure,
        Ok(Ok(_)) | Err(_) => lost::<PushSegment>(error),
    }
}

fn abnormal(error: tokio::task::JoinError) -> Failure {
    Failure::new(ExitCode::Assert, "compressing a WAL file ended abnormally").because(error)
}
