//! Fetching a file of the archive.

use super::link::{Link, lost, message_within, reply_within};
use super::retry::Retry;
use super::{BAD_COPIES, Failed, Mesh};
use crate::wal_sink::{WalSink, give};
use bytes::Bytes;
use pgmesh_postgres::{SystemId, WalFileName, WalHole};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{BODY_LIMIT, ExitCode, Failure, GetSegment, SegmentPart, SegmentReply};
use pgmesh_runtime::tasks;
use pgmesh_storage::{
    Digest, DigestSuite, FILE_PART_LENGTH, FilePart, Hasher, MAX_FILE_LENGTH, Payload, PayloadError, PayloadHead,
    StanzaName, parts_of,
};
use pgmesh_transport::Stream;
use pgmesh_transport::tuning::STALL_LIMIT;
use std::collections::BTreeSet;
use std::time::Duration;

/// The archive's answer about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archived {
    /// The file's content, checked, was given to the sink.
    Found,
    /// The file was never archived, and no WAL behind it is known of (invariant 7).
    Never,
    /// The file is not archived, and an end of recovery here would lose the WAL behind it.
    Hole(WalHole),
}

/// A file that is asked for.
#[derive(Debug, Clone)]
pub struct WantedFile<'a> {
    /// The stanza.
    pub stanza: &'a StanzaName,
    /// Which database of the stanza; the newest where it is not known.
    pub system_id: Option<SystemId>,
    /// The file.
    pub file: WalFileName,
    /// The only repository that it may come from, and all the others.
    pub only: Option<(u16, &'a [u16])>,
}

/// The outcome of one answer.
enum Received {
    Said(Archived),
    /// The bytes that came are not the file's.
    Damaged {
        failure: Failure,
        repos: BTreeSet<u16>,
        /// Each part was good, and all of them together are not the file.
        as_a_whole: bool,
    },
}

impl Mesh {
    /// Fetches a file of the archive, and asks elsewhere when a copy is damaged.
    ///
    /// # Errors
    /// The file cannot be had, or no node can tell whether it was archived; the sink cannot take it.
    pub async fn wal_file(&self, wanted: &WantedFile<'_>, sink: &mut dyn WalSink) -> Result<Archived, Failure> {
        let suite = self.suite().await?;
        let others = wanted.only.map(|(_, others)| others.to_vec());
        let (mut avoid, mut doubted) = (others.unwrap_or_default(), Vec::new());
        let mut bad = 0;
        loop {
            let request = GetSegment {
                stanza: wanted.stanza.clone(),
                file: wanted.file.to_string().into(),
                system_id: wanted.system_id,
                avoid: avoid.clone().into(),
                doubted: std::mem::take(&mut doubted).into(),
            };
            match self.receive_wal(&request, wanted, suite, sink).await? {
                Received::Said(archived) => return Ok(archived),
                Received::Damaged {
                    failure,
                    repos,
                    as_a_whole,
                } => {
                    let is_only = wanted.only.is_some_and(|(only, _)| repos.contains(&only));
                    if bad == BAD_COPIES || is_only {
                        return Err(failure);
                    }
                    tracing::warn!("{failure}; another replica is requested");
                    match as_a_whole {
                        true => doubted.extend(repos),
                        false => avoid.extend(repos),
                    }
                    bad += 1;
                }
            }
        }
    }

    async fn receive_wal(
        &self,
        request: &GetSegment,
        wanted: &WantedFile<'_>,
        suite: DigestSuite,
        sink: &mut dyn WalSink,
    ) -> Result<Received, Failure> {
        let mut retry = Retry::new(self.access.limit);
        loop {
            let attempt = async {
                let link = self.ready::<GetSegment>().await?;
                let receiving = Receiving {
                    link: &link,
                    request,
                    wanted,
                    suite,
                    silence: self.silence(),
                };
                let received = receiving.receive(sink).await;
                received.map_err(|failure| Failed::at(link.clone(), failure))
            };
            match attempt.await {
                Ok(received) => return Ok(received),
                Err(failed) if self.is_late() => return Err(failed.failure),
                Err(failed) => self.settle::<GetSegment>(&mut retry, failed).await?,
            }
        }
    }
}

/// One answer, as it comes.
struct Receiving<'a> {
    link: &'a Link,
    request: &'a GetSegment,
    wanted: &'a WantedFile<'a>,
    suite: DigestSuite,
    silence: Option<Duration>,
}

impl Receiving<'_> {
    async fn receive(&self, sink: &mut dyn WalSink) -> Result<Received, Failure> {
        let mut stream = self.link.ask_patiently(self.request, None, self.silence).await?;
        let answer = reply_within::<GetSegment>(self.link, &mut stream, self.silence).await?;
        match answer {
            SegmentReply::NeverArchived => Ok(Received::Said(Archived::Never)),
            SegmentReply::Hole(hole) => Ok(Received::Said(Archived::Hole(hole))),
            SegmentReply::Found { payload, repo } => {
                self.check_repository(repo)?;
                let body = self.body(&mut stream, &payload, BODY_LIMIT).await?;
                let suite = self.suite;
                let opened = Payload::from_parts(payload, body).and_then(|payload| payload.open(suite));
                match opened {
                    Ok(content) => {
                        give(sink, &content)?;
                        Ok(Received::Said(Archived::Found))
                    }
                    Err(error) => Ok(self.damaged(repo, &error)),
                }
            }
            SegmentReply::InParts { digest, plain_length } => {
                self.receive_parts(&mut stream, digest, plain_length, sink).await
            }
        }
    }

    async fn receive_parts(
        &self,
        stream: &mut Stream,
        digest: Digest,
        plain_length: u64,
        sink: &mut dyn WalSink,
    ) -> Result<Received, Failure> {
        let of = parts_of(plain_length).filter(|_| plain_length <= MAX_FILE_LENGTH);
        let of = of.ok_or_else(|| self.unfitting(format!("a file of {plain_length} bytes cannot come in parts")))?;
        let mut hasher = self.suite.hasher();
        let mut repos = BTreeSet::new();
        sink.begin()?;
        for part in FilePart::all(of) {
            let limit = self.silence.unwrap_or(STALL_LIMIT);
            let head: SegmentPart = message_within::<GetSegment, _>(self.link, stream, Some(limit)).await?;
            self.check_repository(head.repo)?;
            let expected = part.length_in(plain_length);
            if head.payload.plain_length != expected {
                let length = head.payload.plain_length;
                return Err(self.unfitting(format!("part {part} has {length} bytes, not {expected}")));
            }
            let body = self.body(stream, &head.payload, FILE_PART_LENGTH).await?;
            match opened(head.payload, body, self.suite, hasher).await? {
                // Invariant 6: the sink may use the bytes only when the whole file was checked.
                Ok((plain, digested)) => {
                    sink.take(&plain)?;
                    hasher = digested;
                }
                Err(error) => return Ok(self.damaged(head.repo, &error)),
            }
            repos.insert(head.repo);
        }
        if hasher.finalize() == digest {
            return Ok(Received::Said(Archived::Found));
        }
        let what = format!("the parts of {} together do not match its digest", self.wanted.file);
        Ok(Received::Damaged {
            failure: Failure::new(ExitCode::Checksum, what),
            repos,
            as_a_whole: true,
        })
    }

    async fn body(&self, stream: &mut Stream, head: &PayloadHead, limit: u64) -> Result<Bytes, Failure> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let received = stream.recv_bytes(head.length, limit).await;
        received.map_err(|error| lost::<GetSegment>(&error))
    }

    fn check_repository(&self, repo: u16) -> Result<(), Failure> {
        match self.wanted.only {
            Some((only, _)) if only != repo => Err(Failure::new(
                ExitCode::RepoInvalid,
                format!("repo{only} lacks a good replica of an object that is needed"),
            )
            .remedy("restore without --repo: the mesh then reads each object from any repository with a good replica")),
            _ => Ok(()),
        }
    }

    fn damaged(&self, repo: u16, error: &PayloadError) -> Received {
        let what = format!("the replica of {} in repo{repo} is damaged", self.wanted.file);
        Received::Damaged {
            failure: Failure::new(ExitCode::Checksum, what).because(chain(error)),
            repos: BTreeSet::from([repo]),
            as_a_whole: false,
        }
    }

    fn unfitting(&self, why: String) -> Failure {
        let what = format!("node {} sent data that cannot be a WAL file", self.link.node());
        Failure::new(ExitCode::Protocol, what).because(why)
    }
}

/// Opens a part, and digests it with all before it.
async fn opened(
    head: PayloadHead,
    body: Bytes,
    suite: DigestSuite,
    mut hasher: Hasher,
) -> Result<Result<(Bytes, Hasher), PayloadError>, Failure> {
    let opening = tasks::blocking("opening a WAL file", move || {
        let plain = Payload::from_parts(head, body)?.open(suite)?;
        hasher.update(&plain);
        Ok((plain, hasher))
    });
    opening
        .await
        .map_err(|error| Failure::new(ExitCode::Assert, "opening a part of a WAL file").because(error))
}
