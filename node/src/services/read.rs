//! Reading objects that the catalog knows, and telling it of replicas that are bad.

use crate::authorize::Reader;
use crate::reads::Reads;
use crate::refs::{self, Known};
use crate::repositories::{BadReplica, ReadPayload, RepositoryRoute, SlotError};
use bytes::Bytes;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{
    CHUNK_BODY_LIMIT, ChunkReply, ExitCode, Failure, GetChunk, GetManifest, GetPieces, PIECES_LIMIT, PayloadHead,
};
use pgmesh_raft::{Catalog, Claim, Command, DebtReason, ObjectRef, Refusal, Replica, View, limits};
use pgmesh_runtime::tasks;
use pgmesh_storage::{Codec, Digest, DigestSuite, FilePart, Payload, PayloadError, RepoKey};

/// Memory that a chunk of the usual size takes: compressed, decrypted, and plain.
const USUAL_CHUNK: u64 = 3 << 20;

impl Reads {
    /// Reads a known object from its best replica; bad ones on the way are reported (invariant 6).
    pub(crate) async fn read_known(
        &self,
        object: &ObjectRef,
        known: &Known,
        avoid: &[RepoKey],
    ) -> Result<ReadPayload, Failure> {
        match self.repositories.read(&known.name, &known.replicas, avoid).await {
            Ok(source) => {
                self.report_bad(object, &source.bad).await;
                Ok(source)
            }
            Err(failure) => {
                self.report_bad(object, &failure.bad).await;
                let error = Failure::new(
                    ExitCode::RepoInvalid,
                    format!("{object} cannot be read from any repository"),
                )
                .because(&failure)
                .remedy("'pgmesh check' and 'pgmesh verify' say what is wrong with which repository");
                Err(if failure.hopeless { error } else { error.again() })
            }
        }
    }

    /// Reads replicas once more, to the digest, after their content was found to be wrong: a good tag proves only that
    /// these bytes were written there. Bad replicas are withdrawn.
    pub(crate) async fn doubt(&self, object: &ObjectRef, known: &Known, repos: &[RepoKey]) {
        let mut bad = Vec::new();
        for replica in known.replicas.iter().filter(|replica| repos.contains(&replica.repo)) {
            let Ok(place) = self.repositories.place(replica.repo) else {
                continue;
            };
            let record = self.catalog.view().repository(replica.repo).ok().flatten();
            let checked = match known.parts() {
                Some(of) => self.check_parts(&place, known, of, *replica).await,
                None => place.get_checked(&known.name, replica.generation).await.map(|_| true),
            };
            let error = match (checked, record) {
                (Ok(false), Some(record)) => {
                    bad.push(BadReplica {
                        claim: Claim {
                            replica: *replica,
                            identity: record.identity(),
                        },
                        missing: false,
                        what: "its parts are together another content than its name says".to_owned(),
                    });
                    continue;
                }
                (Ok(_), _) => continue,
                (Err(error), _) => error,
            };
            if let (Some(missing), Some(identity)) = (error.condemns(), error.identity()) {
                bad.push(BadReplica {
                    claim: Claim {
                        replica: *replica,
                        identity: identity.clone(),
                    },
                    missing,
                    what: chain(&error),
                });
            }
        }
        self.report_bad(object, &bad).await;
    }

    /// Whether all parts of a file in one repository are the file: the tag of each says nothing of the whole.
    async fn check_parts(
        &self,
        place: &RepositoryRoute,
        known: &Known,
        of: u16,
        replica: Replica,
    ) -> Result<bool, SlotError> {
        let mut hasher = self.suite().hasher();
        for part in FilePart::all(of) {
            let payload = place.get(&known.name.of_part(part), replica.generation).await?;
            match self.digested(payload, hasher).await {
                Ok((_, digested)) => hasher = digested,
                // The part was checked by the node that read it: damage on the way to this node proves nothing.
                _ => return Ok(true),
            }
        }
        Ok(hasher.finalize() == known.digest)
    }

    /// Withdraws bad replicas from the catalog; each becomes a debt of a new generation, which the repair pays.
    pub(crate) async fn report_bad(&self, object: &ObjectRef, bad: &[BadReplica]) {
        report(&self.catalog, self.actor(), object, bad).await;
        if !bad.is_empty() {
            self.repair.wake();
        }
    }

    /// Reads a chunk.
    pub(crate) async fn get_chunk(&self, reader: Reader<'_>, get: GetChunk) -> Result<(ChunkReply, Bytes), Failure> {
        let source = self.read_chunk(reader, get.digest, &get.avoid).await?;
        let reply = ChunkReply {
            payload: source.payload.head(),
            repo: source.repo.get(),
        };
        Ok((reply, source.payload.bytes))
    }

    /// Reads pieces of a chunk. The whole of it is read and checked (invariant 6); only the pieces travel.
    pub(crate) async fn get_pieces(&self, reader: Reader<'_>, get: GetPieces) -> Result<(ChunkReply, Bytes), Failure> {
        let total: u64 = get.ranges.iter().map(|(_, length)| u64::from(*length)).sum();
        if get.ranges.len() > PIECES_LIMIT || total > CHUNK_BODY_LIMIT {
            let what = format!(
                "{total} bytes in {} pieces of one chunk are too much at once",
                get.ranges.len()
            );
            return Err(Failure::new(ExitCode::Protocol, what));
        }
        let mut avoid = get.avoid;
        loop {
            let ReadPayload { payload, repo, .. } = self.read_chunk(reader, get.digest, &avoid).await?;
            let (suite, ranges) = (self.suite(), get.ranges.clone());
            let cut = tasks::blocking("cutting a chunk", move || cut(&payload, suite, &ranges)).await;
            match cut.map_err(|error| Failure::new(ExitCode::Assert, "cutting a chunk").because(error))? {
                Ok(pieces) => {
                    let payload = pieces?;
                    let reply = ChunkReply {
                        payload: payload.head(),
                        repo: repo.get(),
                    };
                    return Ok((reply, payload.bytes));
                }
                Err(error) if avoid.contains(&repo.get()) => {
                    let what = format!("chunk {} is damaged everywhere", get.digest);
                    return Err(Failure::new(ExitCode::Checksum, what).because(error));
                }
                Err(_) => {
                    let object = ObjectRef::Chunk(get.digest);
                    if let Some(known) = refs::known(&self.catalog.view(), &object)? {
                        self.doubt(&object, &known, &[repo]).await;
                    }
                    avoid.push(repo.get());
                }
            }
        }
    }

    /// Memory that reading a chunk takes until it is sent: as it was stored, decrypted, and plain.
    pub(crate) fn cost_of_chunk(&self, reader: Reader<'_>, digest: Digest) -> u64 {
        match known_to(&self.catalog.view(), reader, digest) {
            Ok(Some(known)) => {
                let stored_twice = known.stored_length.saturating_mul(2);
                stored_twice.saturating_add(known.plain_length)
            }
            // A chunk that is condemned, or that the reader has no right to as far as this node has heard, is taken to
            // be of the usual size.
            _ => USUAL_CHUNK,
        }
    }

    /// Reads a chunk. A chunk that the reader has no right to is answered as one that the mesh does not have.
    async fn read_chunk(&self, reader: Reader<'_>, digest: Digest, avoid: &[u16]) -> Result<ReadPayload, Failure> {
        let object = ObjectRef::Chunk(digest);
        let unknown = || Failure::new(ExitCode::FileMissing, format!("the mesh has no {object}"));
        let mut known = known_to(&self.catalog.view(), reader, digest)?;
        if known.is_none() {
            // This node may lag behind the leader.
            known = match self.catalog.view_linearizable().await {
                Ok(view) => match known_to(&view, reader, digest)? {
                    Some(known) => Some(known),
                    None => condemned_to(&view, reader, digest)?,
                },
                Err(error) => match condemned_to(&self.catalog.view(), reader, digest)? {
                    Some(known) => Some(known),
                    None => return Err(error.into()),
                },
            };
        }
        let known = known.ok_or_else(unknown)?;
        let avoid: Vec<RepoKey> = avoid.iter().filter_map(|repo| RepoKey::new(*repo).ok()).collect();
        self.read_known(&object, &known, &avoid).await
    }

    /// Reads a backup's manifest.
    pub async fn get_manifest(&self, get: GetManifest) -> Result<(PayloadHead, Bytes), Failure> {
        let object = ObjectRef::Manifest {
            stanza: get.stanza.clone(),
            label: get.label.clone(),
        };
        let known = match self.catalog.view_linearizable().await {
            Ok(view) => refs::known(&view, &object)?,
            // Without a majority a restore goes on with this node's last view: nothing can be deleted meanwhile.
            Err(error) => match refs::known(&self.catalog.view(), &object)? {
                Some(known) => Some(known),
                None => return Err(error.into()),
            },
        };
        let known = known.ok_or_else(|| {
            Failure::from(Refusal::UnknownBackup {
                stanza: get.stanza,
                label: get.label,
            })
        })?;
        let source = self.read_known(&object, &known, &[]).await?;
        Ok((source.payload.head(), source.payload.bytes))
    }
}

/// Looks a chunk up for a reader. The same is read of a chunk that is not there and of one that is not the reader's.
fn known_to(view: &View, reader: Reader<'_>, digest: Digest) -> Result<Option<Known>, Failure> {
    let may_read = reader.may_read(view, &digest)?;
    let known = refs::known(view, &ObjectRef::Chunk(digest))?;
    Ok(known.filter(|_| may_read))
}

/// The same of a condemned chunk.
fn condemned_to(view: &View, reader: Reader<'_>, digest: Digest) -> Result<Option<Known>, Failure> {
    let may_read = reader.may_read(view, &digest)?;
    let known = refs::condemned(view, digest)?;
    Ok(known.filter(|_| may_read))
}

/// Withdraws bad replicas from the catalog.
pub(super) async fn report(catalog: &Catalog, actor: &str, object: &ObjectRef, bad: &[BadReplica]) {
    for replica in bad {
        let repo = replica.claim.replica.repo;
        tracing::warn!(%object, %repo, what = replica.what, "a replica is bad; it is made anew from another one");
        let command = Command::ReportBad {
            object: object.clone(),
            bad: replica.claim.clone(),
            reason: if replica.missing {
                DebtReason::Missing
            } else {
                DebtReason::Damaged
            },
            // A long text is shortened, so that the report is accepted.
            what: limits::shortened(replica.what.clone(), limits::REASON),
        };
        if let Err(error) = catalog.propose(actor, command).await {
            tracing::warn!(%object, %repo, error = %chain(&error), "a bad replica could not be reported");
        }
    }
}

/// The pieces of an opened chunk, packed again. The outer error is of the chunk, the inner error of the ranges.
fn cut(payload: &Payload, suite: DigestSuite, ranges: &[(u32, u32)]) -> Result<Result<Payload, Failure>, PayloadError> {
    let plain = payload.open(suite)?;
    let mut pieces = Vec::new();
    for (offset, length) in ranges {
        let from = *offset as usize;
        let Some(piece) = plain.get(from..from.saturating_add(*length as usize)) else {
            let what = format!("chunk {} has no {length} bytes at {offset}", payload.digest);
            return Ok(Err(Failure::new(ExitCode::FileInvalid, what)));
        };
        pieces.extend_from_slice(piece);
    }
    // The fastest: it is unpacked at once, at the other end of one network.
    let packed = Payload::pack(suite, Codec::Lz4, None, &pieces);
    Ok(packed.map_err(|error| Failure::new(ExitCode::Runtime, "packing pieces of a chunk").because(error)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use crate::SessionTimes;
    use crate::refs;
    use crate::repositories::RepositoryRoute;
    use crate::testing::{SUITE, TestNode, stanza};
    use pgmesh_protocol::{ExitCode, GetPieces};
    use pgmesh_raft::ObjectRef;
    use pgmesh_storage::{Codec, Payload};

    /// A good tag proves that these bytes were written there, and nothing of whether they are the right ones.
    #[tokio::test(flavor = "multi_thread")]
    async fn invariant_6_a_replica_with_a_good_tag_and_other_content_is_withdrawn_when_it_is_found() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let begun = client.begin_backup("20260101-000000F").await.unwrap();
        let digest = client.put_chunk(begun.session, &[7; 4096]).await.unwrap();
        let object = ObjectRef::Chunk(digest);
        let known = || refs::known(&site.node.catalog.view(), &object).unwrap().unwrap();
        site.wait("the chunk to be known", |node| {
            refs::known(&node.catalog.view(), &object).unwrap().is_some()
        })
        .await;
        let first = known();
        let replica = first.replicas[0];
        site.node.reads.doubt(&object, &first, &[replica.repo]).await;
        assert_eq!(
            known().replicas,
            [replica],
            "one that is right stays, whoever doubts it"
        );
        let Ok(RepositoryRoute::Here(slot)) = site.node.repositories.place(replica.repo) else {
            panic!("the node has no repository of its own");
        };
        let repository = slot.repository().unwrap();
        repository.delete(&first.name, replica.generation).await.unwrap();
        let mut wrong = Payload::pack(SUITE, Codec::None, None, b"something else").unwrap();
        wrong.digest = digest;
        repository.put(&first.name, replica.generation, &wrong).await.unwrap();
        let pieces = GetPieces {
            stanza: stanza(),
            digest,
            ranges: vec![(0, 8)].into(),
            avoid: vec![].into(),
        };
        let failure = client.ask(&pieces, None).await.unwrap_err();
        assert!(
            [ExitCode::Checksum, ExitCode::RepoInvalid].contains(&failure.code),
            "{failure}"
        );
        assert!(known().replicas.is_empty(), "it is withdrawn");
    }
}
