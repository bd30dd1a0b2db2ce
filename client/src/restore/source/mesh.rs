//! Reading through the mesh.

use super::super::options::RestoreSettings;
use super::super::workers::Workers;
use super::decode_root;
use crate::mesh::{AccessSettings, Archived, BAD_COPIES, Backups, Mesh, WantedFile};
use crate::wal_sink::WalSink;
use bytes::Bytes;
use pgmesh_postgres::{SystemId, WalFileName};
use pgmesh_protocol::choice::{Chosen, Restoring};
use pgmesh_protocol::{ChooseBackup, ExitCode, Failure, GetChunk, GetManifest, GetPieces, PayloadHead};
use pgmesh_storage::{BackupLabel, Digest, DigestSuite, ManifestRoot, Payload, RepoKey, StanzaName};
use std::sync::Arc;

/// The mesh as a source.
pub struct MeshSource {
    mesh: Arc<Mesh>,
    stanza: StanzaName,
    workers: Workers,
    /// Where only one repository may be read: that one, and all others.
    only: Option<(RepoKey, Vec<u16>)>,
    suite: DigestSuite,
}

impl MeshSource {
    /// Connects.
    ///
    /// # Errors
    /// No node, no identity; `repo` is none of the mesh's.
    pub async fn connect(access: AccessSettings, options: &RestoreSettings, workers: Workers) -> Result<Self, Failure> {
        let mesh = Arc::new(Mesh::connect(access).await?);
        let suite = mesh.suite().await?;
        let mut source = Self::over(mesh, suite, options.stanza.clone(), workers);
        if let Some(repo) = options.repo {
            let info = source.mesh.info(Some(&source.stanza), Backups::Without).await?;
            let (these, others): (Vec<_>, Vec<_>) = info.repositories.iter().partition(|known| known.key == repo);
            if these.is_empty() {
                return Err(Failure::new(
                    ExitCode::RepoInvalid,
                    format!("the mesh has no repo{repo}"),
                ));
            }
            source.only = Some((repo, others.iter().map(|known| known.key.get()).collect()));
        }
        Ok(source)
    }

    /// Over a connection that there is.
    pub fn over(mesh: Arc<Mesh>, suite: DigestSuite, stanza: StanzaName, workers: Workers) -> Self {
        Self {
            mesh,
            stanza,
            workers,
            only: None,
            suite,
        }
    }

    /// The way to the mesh.
    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.mesh
    }

    /// The backup that is wanted: the node chooses, so that the answer is as long for thousands of backups as for one.
    pub async fn choose(&self, asked: &Restoring) -> Result<Chosen, Failure> {
        let request = ChooseBackup {
            stanza: self.stanza.clone(),
            asked: asked.clone(),
            repo: self.only.as_ref().map(|(repo, _)| *repo),
        };
        self.mesh.call(&request).await
    }

    /// The root of a backup's manifest.
    pub async fn manifest(&self, label: &BackupLabel) -> Result<ManifestRoot, Failure> {
        let request = GetManifest {
            stanza: self.stanza.clone(),
            label: label.clone(),
        };
        let mut bad = 0;
        loop {
            let (head, body) = self.mesh.fetch(&request, |head| Some(head.length)).await?;
            match self.open(head, body).await {
                Ok(plain) => return decode_root(&plain, &self.stanza, label),
                Err(failure) if bad < BAD_COPIES => tracing::warn!("{failure}; it is requested again"),
                Err(failure) => return Err(failure),
            }
            bad += 1;
        }
    }

    /// A chunk's plaintext. A bad copy is asked for again from elsewhere.
    pub async fn chunk(&self, digest: Digest) -> Result<Bytes, Failure> {
        let mut avoid = self.avoid();
        let mut bad = 0;
        loop {
            let request = GetChunk {
                stanza: self.stanza.clone(),
                digest,
                avoid: avoid.clone().into(),
            };
            let (reply, body) = self.mesh.fetch(&request, |reply| Some(reply.payload.length)).await?;
            self.check_repository(reply.repo)?;
            let opened = if reply.payload.digest == digest {
                self.open(reply.payload, body).await
            } else {
                Err(bad_copy(digest, format!("the node sent {}", reply.payload.digest)))
            };
            match opened {
                Ok(plain) => return Ok(plain),
                Err(failure) if bad < BAD_COPIES && !self.is_only(reply.repo) => {
                    tracing::warn!("from repo{}: {failure}; another replica is requested", reply.repo);
                    avoid.push(reply.repo);
                }
                Err(failure) => return Err(failure),
            }
            bad += 1;
        }
    }

    /// Pieces of a chunk's plaintext, one after the other.
    pub async fn pieces(&self, digest: Digest, ranges: &[(u32, u32)]) -> Result<Bytes, Failure> {
        let request = GetPieces {
            stanza: self.stanza.clone(),
            digest,
            ranges: ranges.to_vec().into(),
            avoid: self.avoid().into(),
        };
        let mut bad = 0;
        loop {
            let (reply, body) = self.mesh.fetch(&request, |reply| Some(reply.payload.length)).await?;
            self.check_repository(reply.repo)?;
            match self.open(reply.payload, body).await {
                Ok(plain) => return Ok(plain),
                Err(failure) if bad < BAD_COPIES => tracing::warn!("{failure}; it is requested again"),
                Err(failure) => return Err(failure),
            }
            bad += 1;
        }
    }

    /// An archived file, into the sink. Whether it is there.
    ///
    /// # Errors
    /// It cannot be had, or the sink cannot take it.
    pub async fn archived(
        &self,
        system_id: SystemId,
        file: WalFileName,
        sink: &mut dyn WalSink,
    ) -> Result<bool, Failure> {
        let only = self.only.as_ref();
        let wanted = WantedFile {
            stanza: &self.stanza,
            system_id: Some(system_id),
            file,
            only: only.map(|(repo, others)| (repo.get(), others.as_slice())),
        };
        Ok(self.mesh.wal_file(&wanted, sink).await? == Archived::Found)
    }

    /// How digests are made.
    pub fn suite(&self) -> DigestSuite {
        self.suite
    }

    fn avoid(&self) -> Vec<u16> {
        self.only.as_ref().map(|(_, others)| others.clone()).unwrap_or_default()
    }

    fn is_only(&self, repo: u16) -> bool {
        self.only.as_ref().is_some_and(|(only, _)| only.get() == repo)
    }

    fn check_repository(&self, repo: u16) -> Result<(), Failure> {
        match &self.only {
            Some((only, _)) if only.get() != repo => Err(Failure::new(
                ExitCode::RepoInvalid,
                format!("repo{only} lacks a good replica of an object that is needed"),
            )
            .remedy("restore without --repo: the mesh then reads each object from any repository with a good replica")),
            _ => Ok(()),
        }
    }

    /// Decompresses a payload and checks its digest (invariant 6).
    async fn open(&self, head: PayloadHead, body: Option<Bytes>) -> Result<Bytes, Failure> {
        let suite = self.suite;
        self.workers
            .run(move || open(head, body.unwrap_or_default(), suite))
            .await
    }
}

fn open(head: PayloadHead, bytes: Bytes, suite: DigestSuite) -> Result<Bytes, Failure> {
    let payload = Payload::from_parts(head, bytes).map_err(|error| bad_copy(head.digest, error))?;
    payload.open(suite).map_err(|error| bad_copy(head.digest, error))
}

fn bad_copy(digest: Digest, cause: impl std::fmt::Display) -> Failure {
    Failure::new(
        ExitCode::Checksum,
        format!("the content of object {digest} does not match its digest"),
    )
    .because(cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_storage::Codec;

    #[test]
    fn invariant_6_a_payload_is_opened_only_with_its_own_digest() {
        for suite in [DigestSuite::Blake3, DigestSuite::Sha256] {
            let payload = Payload::pack(suite, Codec::Zst, None, &[7; 5000]).unwrap();
            let plain = open(payload.head(), payload.bytes.clone(), suite).unwrap();
            assert_eq!(plain.as_ref(), &[7; 5000][..]);
            let other = Payload::pack(suite, Codec::Zst, None, &[8; 5000]).unwrap();
            let mut head = other.head();
            head.digest = payload.digest;
            assert_eq!(open(head, other.bytes, suite).unwrap_err().code, ExitCode::Checksum);
            let mut head = payload.head();
            head.length += 1;
            assert!(open(head, payload.bytes, suite).is_err());
        }
    }
}
