//! Reading what the catalog knows: the part of a node that hands bytes out, each of them checked (invariant 6).
//! The requests of clients are in `services/read.rs`; the reads of the node's other parts are here.

use crate::core::Core;
use crate::refs::{self, Known};
use crate::services::{DOUBTED_AT_ONCE, Doubted, Doubts};
use bytes::Bytes;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::{ObjectRef, View};
use pgmesh_runtime::tasks;
use pgmesh_storage::{BackupLabel, Digest, Hasher, ManifestRoot, PartError, PartReader, Payload, RepoKey, StanzaName};
use std::ops::Deref;
use std::sync::Arc;
use tokio::sync::watch;

/// Reads objects and reports bad replicas.
pub struct Reads {
    core: Arc<Core>,
    /// The files whose copies are read once more.
    pub(crate) doubts: Doubts,
}

impl Deref for Reads {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Reads {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            doubts: Doubts::default(),
        }
    }

    /// Reads a part of a file from its best replica. Replicas are withdrawn as a whole: when none that counts has the
    /// part, one that was withdrawn for another part may have it.
    pub(crate) async fn read_part(
        &self,
        object: &ObjectRef,
        known: &Known,
        avoid: &[RepoKey],
    ) -> Result<(Payload, RepoKey), Failure> {
        match self.read_known(object, known, avoid).await {
            Ok(source) => Ok((source.payload, source.repo)),
            Err(failure) => self.read_withdrawn(known).await.ok_or(failure),
        }
    }

    /// Where no good replica is left: a withdrawn one may be readable after all (a bad cable, a file put back by hand).
    pub(crate) async fn read_withdrawn(&self, known: &Known) -> Option<(Payload, RepoKey)> {
        for (repo, _) in self.catalog.view().repositories().ok()? {
            let Ok(place) = self.repositories.place(repo) else {
                continue;
            };
            if place.admits()
                && let Ok(payload) = place.get_any_generation(&known.name).await
            {
                return Some((payload, repo));
            }
        }
        None
    }

    /// Opens a part, and digests it with all before it.
    pub(crate) async fn digested(&self, payload: Payload, mut hasher: Hasher) -> Result<(Payload, Hasher), Failure> {
        let suite = self.suite();
        let digested = tasks::blocking("digesting a part", move || {
            let plain = payload.open(suite)?;
            hasher.update(&plain);
            Ok((payload, hasher))
        });
        let digested = digested
            .await
            .map_err(|error| Failure::new(ExitCode::Assert, "checking a part of a WAL file").because(error))?;
        digested.map_err(|error: pgmesh_storage::PayloadError| {
            Failure::new(ExitCode::Checksum, "a part of a WAL file is damaged").because(error)
        })
    }

    /// A backup's manifest root, read and checked; `None` when the catalog does not know it (any more).
    pub(crate) async fn manifest_root(
        &self,
        view: &View,
        stanza: &StanzaName,
        label: &BackupLabel,
    ) -> Result<Option<ManifestRoot>, Failure> {
        let object = ObjectRef::Manifest {
            stanza: stanza.clone(),
            label: label.clone(),
        };
        let Some(known) = refs::known(view, &object)? else {
            return Ok(None);
        };
        let source = self.read_known(&object, &known, &[]).await?;
        let plain = source
            .payload
            .open(self.suite())
            .map_err(|error| Failure::new(ExitCode::Checksum, format!("{object} is damaged")).because(error))?;
        ManifestRoot::decode(&plain)
            .map(Some)
            .map_err(|error| Failure::new(ExitCode::Format, format!("{object} is not understood")).because(error))
    }

    /// The distinct chunks that one part of a manifest names, sorted.
    pub(crate) async fn chunks_of_part(&self, view: &View, part: Digest) -> Result<Vec<Digest>, Failure> {
        PartReader::chunks(&self.part(view, part).await?).map_err(not_understood)
    }

    /// One part of a manifest.
    pub(crate) async fn part(&self, view: &View, part: Digest) -> Result<Bytes, Failure> {
        let object = ObjectRef::Chunk(part);
        let known = refs::known(view, &object)?
            .ok_or_else(|| Failure::new(ExitCode::FileMissing, "a part of the manifest is not there"))?;
        let mut avoid = Vec::new();
        loop {
            let source = self.read_known(&object, &known, &avoid).await?;
            match source.payload.open(self.suite()) {
                Ok(plain) => return Ok(plain),
                Err(error) if avoid.contains(&source.repo) => {
                    return Err(
                        Failure::new(ExitCode::Checksum, "a part of the manifest is damaged everywhere").because(error),
                    );
                }
                Err(_) => {
                    self.doubt(&object, &known, &[source.repo]).await;
                    avoid.push(source.repo);
                }
            }
        }
    }
}

pub(crate) fn not_understood(error: PartError) -> Failure {
    Failure::new(ExitCode::Format, "a part of the manifest cannot be used").because(error)
}

/// Takes a file from the list, however its doubt ends.
struct UnderWay {
    reads: Arc<Reads>,
    object: ObjectRef,
    /// Dropped when it is over.
    _sender: watch::Sender<()>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.reads.doubts.files().remove(&self.object);
    }
}

impl Reads {
    /// Has copies of a file [doubted](Self::doubt), beside whoever asked: whoever asks again, because the answer came
    /// too late, finds it under way. None when too many are.
    pub(crate) fn doubt_once(
        self: &Arc<Self>,
        object: &ObjectRef,
        known: &Known,
        repos: &[RepoKey],
    ) -> Option<Doubted> {
        let mut files = self.doubts.files();
        if let Some(under_way) = files.get(object) {
            return Some(Doubted(under_way.clone()));
        }
        if files.len() >= DOUBTED_AT_ONCE {
            return None;
        }
        let (sender, receiver) = watch::channel(());
        files.insert(object.clone(), receiver.clone());
        drop(files);
        let under_way = UnderWay {
            reads: self.clone(),
            object: object.clone(),
            _sender: sender,
        };
        let (known, repos) = (known.clone(), repos.to_vec());
        tasks::spawn("looking into a doubt", async move {
            let reads = &under_way.reads;
            let _turn = reads.doubts.turn.lock().await;
            reads.doubt(&under_way.object, &known, &repos).await;
        });
        Some(Doubted(receiver))
    }
}
