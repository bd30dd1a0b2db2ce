//! Reading objects that the catalog knows, and telling it of replicas that are bad.

use crate::failure::chain;
use crate::protocol::{ChunkReply, GetChunk, GetManifest, PayloadHead};
use crate::refs::{self, Known};
use crate::repositories::{BadReplica, Source};
use crate::{Failure, Node, code};
use bytes::Bytes;
use pgmesh_raft::{Command, DebtReason, ObjectRef, Refusal};
use pgmesh_storage::RepoKey;

impl Node {
    /// Reads a known object from its best replica; bad ones on the way are reported (invariant 6).
    pub(crate) async fn read_known(
        &self,
        object: &ObjectRef,
        known: &Known,
        avoid: &[RepoKey],
    ) -> Result<Source, Failure> {
        match self.repositories.read(&known.name, &known.replicas, avoid).await {
            Ok(source) => {
                self.report_bad(object, &source.bad).await;
                Ok(source)
            }
            Err(failure) => {
                self.report_bad(object, &failure.bad).await;
                let error = Failure::new(
                    code::REPO_INVALID,
                    format!("{object} cannot be read from any repository"),
                )
                .because(&failure)
                .remedy("'pgmesh check' and 'pgmesh verify' say what is wrong with which repository");
                Err(if failure.hopeless { error } else { error.again() })
            }
        }
    }

    /// Withdraws bad replicas from the catalog; each becomes a debt of a new generation, which the repair pays.
    pub(crate) async fn report_bad(&self, object: &ObjectRef, bad: &[BadReplica]) {
        for replica in bad {
            let (repo, generation) = (replica.replica.repo, replica.replica.generation);
            tracing::warn!(%object, %repo, what = replica.what, "a replica is bad; it is made anew from another one");
            let command = Command::ReportBad {
                repo,
                object: object.clone(),
                generation,
                reason: if replica.missing {
                    DebtReason::Missing
                } else {
                    DebtReason::Damaged
                },
                what: replica.what.clone(),
            };
            if let Err(error) = self.catalog.propose(self.actor(), command).await {
                tracing::warn!(%object, %repo, error = %chain(&error), "a bad replica could not be reported");
            }
        }
        if !bad.is_empty() {
            self.repair.wake();
        }
    }

    /// Reads a chunk.
    pub async fn get_chunk(&self, get: GetChunk) -> Result<(ChunkReply, Bytes), Failure> {
        let object = ObjectRef::Chunk(get.digest);
        let unknown = || Failure::new(code::FILE_MISSING, format!("the mesh has no {object}"));
        let mut known = refs::known(&self.catalog.view(), &object)?;
        if known.is_none() {
            // This node may lag behind the leader.
            let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
            known = refs::known(&view, &object)?;
        }
        let known = known.ok_or_else(unknown)?;
        let avoid: Vec<RepoKey> = get.avoid.iter().filter_map(|repo| RepoKey::new(*repo).ok()).collect();
        let source = self.read_known(&object, &known, &avoid).await?;
        let reply = ChunkReply {
            payload: source.payload.head(),
            repo: source.repo.get(),
        };
        Ok((reply, source.payload.bytes))
    }

    /// Reads a backup's manifest.
    pub async fn get_manifest(&self, get: GetManifest) -> Result<(PayloadHead, Bytes), Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let object = ObjectRef::Manifest {
            stanza: get.stanza.clone(),
            label: get.label.clone(),
        };
        let known = refs::known(&view, &object)?.ok_or_else(|| {
            Failure::from(Refusal::UnknownBackup {
                stanza: get.stanza,
                label: get.label,
            })
        })?;
        let source = self.read_known(&object, &known, &[]).await?;
        Ok((source.payload.head(), source.payload.bytes))
    }
}
