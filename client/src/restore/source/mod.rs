//! Where a restore reads from: the mesh, or repositories directly.

mod archive;
mod direct;
mod mesh;
mod repositories;

pub use archive::DirectArchive;
use direct::DirectSource;
use mesh::MeshSource;
#[cfg(test)]
pub use repositories::Opening;
pub use repositories::{DirectRepositories, PassphraseSource, RepositorySettings, identity as direct_identity};

use super::options::RestoreSettings;
use super::workers::Workers;
use crate::mesh::{AccessSettings, Mesh};
use crate::wal_sink::WalSink;
use bytes::Bytes;
use pgmesh_postgres::{SystemId, WalFileName};
use pgmesh_protocol::choice::{Chosen, Restoring};
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::{BackupLabel, Digest, DigestSuite, Extent, ManifestRoot, StanzaName};
use std::sync::Arc;

/// Where WAL files and backups are read.
#[derive(Debug, Clone)]
pub enum SourceSettings {
    /// Through the mesh.
    Mesh(AccessSettings),
    /// In these repositories (`repo-direct`), without any node.
    Direct(Vec<RepositorySettings>),
}

/// Where a restore reads from. All bytes that come out have been checked against their digests (invariant 6).
pub enum BackupSource {
    /// The mesh, which knows the best replica of each object.
    Mesh(MeshSource),
    /// Repositories of the configuration, without any node or catalog (invariant 8).
    Direct(DirectSource),
}

/// The bytes of an extent, out of its chunk's plaintext.
///
/// # Errors
/// 28: the chunk is shorter than that.
pub fn extent_of<'c>(chunk: &'c Bytes, extent: &Extent) -> Result<&'c [u8], Failure> {
    let from = extent.offset as usize;
    chunk
        .get(from..from.saturating_add(extent.length as usize))
        .ok_or_else(|| {
            let what = format!("chunk {} is shorter than the manifest says", extent.digest);
            Failure::new(ExitCode::FileInvalid, what)
        })
}

impl BackupSource {
    /// Connects to the mesh, or opens the repositories.
    ///
    /// # Errors
    /// No node, no identity, no repository.
    pub async fn open(settings: SourceSettings, options: &RestoreSettings, workers: &Workers) -> Result<Self, Failure> {
        Ok(match settings {
            SourceSettings::Direct(repositories) => {
                let repositories = DirectRepositories::open(repositories).await?;
                Self::Direct(DirectSource::new(repositories, options.stanza.clone()))
            }
            SourceSettings::Mesh(access) => Self::Mesh(MeshSource::connect(access, options, workers.clone()).await?),
        })
    }

    /// The mesh, over a connection that there is.
    pub fn over(mesh: Arc<Mesh>, suite: DigestSuite, stanza: StanzaName, workers: Workers) -> Self {
        Self::Mesh(MeshSource::over(mesh, suite, stanza, workers))
    }

    /// The mesh, where that is the source: repositories that are read directly know no sessions.
    pub fn mesh(&self) -> Option<&Arc<Mesh>> {
        match self {
            Self::Mesh(source) => Some(source.mesh()),
            Self::Direct(_) => None,
        }
    }

    /// The backup that is wanted, and the timeline to follow.
    ///
    /// # Errors
    /// 75 where there is no such stanza or none that fits; 37 where the history has several ends; or it cannot be found
    /// out.
    pub async fn choose(&self, asked: &Restoring) -> Result<Chosen, Failure> {
        match self {
            Self::Mesh(source) => source.choose(asked).await,
            Self::Direct(source) => source.choose(asked).await,
        }
    }

    /// The root of a backup's manifest.
    ///
    /// # Errors
    /// It cannot be read from anywhere, or is not understood.
    pub async fn manifest(&self, label: &BackupLabel) -> Result<ManifestRoot, Failure> {
        match self {
            Self::Mesh(source) => source.manifest(label).await,
            Self::Direct(source) => source.manifest(label).await,
        }
    }

    /// A chunk's plaintext.
    ///
    /// # Errors
    /// It cannot be read from anywhere.
    pub async fn chunk(&self, digest: Digest) -> Result<Bytes, Failure> {
        match self {
            Self::Mesh(source) => source.chunk(digest).await,
            Self::Direct(source) => source.chunk(digest).await,
        }
    }

    /// Pieces of a chunk's plaintext (offset and length of each), one after the other; none where only the whole chunk
    /// can be had. A node has checked the chunk, but the caller must check the pieces.
    ///
    /// # Errors
    /// It cannot be read from anywhere.
    pub async fn pieces(&self, digest: Digest, ranges: &[(u32, u32)]) -> Result<Option<Bytes>, Failure> {
        match self {
            Self::Mesh(source) => source.pieces(digest, ranges).await.map(Some),
            Self::Direct(_) => Ok(None),
        }
    }

    /// Gives an archived file to the sink. Whether it was archived.
    ///
    /// # Errors
    /// It cannot be read, or whether it exists cannot be known (invariant 7).
    pub async fn archived(
        &self,
        system_id: SystemId,
        file: WalFileName,
        sink: &mut dyn WalSink,
    ) -> Result<bool, Failure> {
        match self {
            Self::Mesh(source) => source.archived(system_id, file, sink).await,
            Self::Direct(source) => source.archived(system_id, file, sink).await,
        }
    }

    /// How digests are made.
    pub fn suite(&self) -> DigestSuite {
        match self {
            Self::Mesh(source) => source.suite(),
            Self::Direct(source) => source.suite(),
        }
    }
}

/// Reads the root of a manifest, and checks that it is the one asked for.
fn decode_root(plain: &[u8], stanza: &StanzaName, label: &BackupLabel) -> Result<ManifestRoot, Failure> {
    let root = ManifestRoot::decode(plain).map_err(|error| {
        Failure::new(
            ExitCode::Format,
            format!("the manifest of backup {label} cannot be read"),
        )
        .because(error)
    })?;
    if root.stanza != *stanza || root.label != *label {
        return Err(Failure::new(
            ExitCode::BackupSetInvalid,
            format!(
                "the manifest of backup {label} of {stanza} is that of {} of {}",
                root.label, root.stanza
            ),
        ));
    }
    Ok(root)
}
