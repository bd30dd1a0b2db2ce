//! Backups: their manifests, and whether all chunks that they name are there.

use super::chunks::ChunkTable;
use super::report::{Problem, ProblemKind, RebuildEvent};
use super::{Rebuilding, is_bad, unreadable};
use crate::services::{backup_record, claimed_object};
use futures::{Stream, StreamExt, stream};
use pgmesh_postgres::{TimelineId, WalFileName};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::command::{Adopt, ClaimedObject, Cluster, NewChunk};
use pgmesh_raft::{BackupRecord, Claim, Command, Replica, SessionId, limits};
use pgmesh_storage::{
    ArchiveId, BackupLabel, Digest, Generation, ManifestRoot, ObjectName, ObjectPath, PartReader, PartRef, Repository,
    StanzaName, StoreError,
};
use std::collections::{BTreeMap, BTreeSet};

/// Chunks in one command.
const BATCH: usize = 1_000;
/// How many segments of one backup are looked for; a backup that took more is not looked at to its end.
const SEGMENTS_CHECKED: usize = 65_536;

/// The parts of a manifest that are needed on the way: the roots of all backups at once would take too much memory.
#[derive(Debug)]
pub struct FoundBackup {
    /// Its stanza.
    pub stanza: StanzaName,
    /// Its label.
    pub label: BackupLabel,
    /// The cluster's archive.
    pub archive_id: ArchiveId,
    /// The cluster.
    pub cluster: Cluster,
    /// The data directory that it was taken of.
    pub instance: Option<String>,
    record: BackupRecord,
    claims: Vec<Claim>,
    parts: Vec<PartRef>,
}

impl FoundBackup {
    /// The timeline that it was taken on.
    pub fn timeline(&self) -> TimelineId {
        self.record.timeline
    }
}

impl Rebuilding {
    /// Reads a backup's manifest. A problem where it is no good.
    pub(super) async fn read_manifest(
        &mut self,
        stanza: &StanzaName,
        label: &BackupLabel,
        paths: &[ObjectPath],
    ) -> Result<Option<FoundBackup>, Failure> {
        let mut paths = paths.to_vec();
        paths.sort_by_key(|path| std::cmp::Reverse(path.generation()));
        let names: BTreeSet<_> = paths.iter().filter_map(ObjectPath::name).collect();
        let left_out = |what: String| {
            Problem::new(ProblemKind::Manifest, format!("backup {label}"), what)
                .of(stanza)
                .remedy("another repository may have a good copy: rebuild from that one instead")
        };
        if names.len() > 1 {
            let what = "two different manifests lie under its label: it is left out, and both stay where they are";
            self.found(left_out(what.to_owned()));
            return Ok(None);
        }
        let mut why = String::new();
        for path in &paths {
            match self.repository.get_by_path(&path.to_string()).await {
                Ok((_, checked)) => {
                    (self.tell)(RebuildEvent::Read(checked.payload.bytes.len() as u64));
                    match ManifestRoot::decode(&checked.plain) {
                        Ok(root) if root.stanza == *stanza && root.label == *label => {
                            let claims = vec![self.claim(path.generation())];
                            let manifest = claimed_object(&checked.payload, claims);
                            return Ok(Some(self.backup(root, manifest)));
                        }
                        Ok(root) => why = format!("it is that of backup {} of stanza {}", root.label, root.stanza),
                        Err(error) => why = chain(&error),
                    }
                }
                Err(error) if is_bad(&error) => why = chain(&error),
                Err(error) => return Err(unreadable(self.repo, &error)),
            }
        }
        self.found(left_out(format!(
            "its manifest cannot be used, and it is left out: {why}"
        )));
        Ok(None)
    }

    fn backup(&self, root: ManifestRoot, manifest: ClaimedObject) -> FoundBackup {
        let stored = manifest.stored(Vec::new());
        let mut record = backup_record(&root, stored, BTreeMap::new(), std::iter::once(self.repo));
        if let Err(refusal) = limits::annotations(&record.annotations) {
            // A note is no reason to do without the backup.
            tracing::warn!(
                "backup {} of stanza {}: its annotations are left out: {refusal}",
                root.label,
                root.stanza
            );
            record.annotations.clear();
        }
        record.program = limits::shortened(record.program, limits::NAME);
        FoundBackup {
            archive_id: root.archive_id,
            cluster: Cluster {
                system_id: root.system_id,
                version: root.archive_id.version,
                catalog_version: root.catalog_version,
                segment_size: root.segment_size,
            },
            stanza: root.stanza,
            label: root.label,
            instance: root.instance,
            record,
            claims: manifest.claims,
            parts: root.parts,
        }
    }

    /// The claim of an object that was found under this generation.
    pub(super) fn claim(&self, generation: Generation) -> Claim {
        let repo = self.repo;
        Claim {
            replica: Replica { repo, generation },
            identity: self.repository.claimed_as().clone(),
        }
    }

    /// Whether all chunks of a backup are there; notes how long they are. A problem where they are not.
    pub(super) async fn is_whole(&mut self, backup: &FoundBackup, chunks: &mut ChunkTable) -> Result<bool, Failure> {
        let mut missing = Missing::default();
        for part in &backup.parts {
            self.note(chunks, part.digest, part.length, &mut missing);
        }
        let mut bad = None;
        let mut parts = self.parts(backup, chunks);
        while let Some(part) = parts.next().await {
            match part? {
                Ok(part) => {
                    // The object that could be read counts, even if it is not the last writing.
                    chunks.prefer(self.repository.stored_name(part.digest), part.generation);
                    for (digest, length) in part.lengths {
                        self.note(chunks, digest, length, &mut missing);
                    }
                }
                Err(why) => bad = Some(why),
            }
        }
        drop(parts);
        let what = match (bad, missing.first) {
            (None, None) => return Ok(true),
            (Some(why), _) => format!("a part of its list of files cannot be read: {why}"),
            (None, Some(first)) => format!("{} of its chunks are missing, the first: {first}", missing.count),
        };
        self.found(
            Problem::new(
                ProblemKind::BackupIncomplete,
                format!("backup {}", backup.label),
                format!("{what}; it is left out, and what there is of it stays"),
            )
            .of(&backup.stanza)
            .remedy(
                "another repository may have it whole: rebuild from that one; 'pgmesh restore --repo-direct' reads what there is",
            ),
        );
        Ok(false)
    }

    fn note(&self, chunks: &mut ChunkTable, digest: Digest, length: u64, missing: &mut Missing) {
        match chunks.find(&self.repository, self.repository.stored_name(digest)) {
            Some(chunk) => chunk.length = chunk.length.max(u32::try_from(length).unwrap_or(u32::MAX)),
            None => {
                missing.count += 1;
                missing.first.get_or_insert(digest);
            }
        }
    }

    /// The parts of a backup's list of files that are there, some at once, each read and checked.
    fn parts(
        &self,
        backup: &FoundBackup,
        chunks: &mut ChunkTable,
    ) -> impl Stream<Item = Result<Result<Part, String>, Failure>> + Unpin + use<> {
        let mut wanted = Vec::new();
        for part in &backup.parts {
            let name = self.repository.stored_name(part.digest);
            if let Some(chunk) = chunks.find(&self.repository, name) {
                wanted.push((part.digest, chunk.generation));
            }
        }
        let (repository, repo) = (self.repository.clone(), self.repo);
        let reads = wanted.into_iter().map(move |(digest, generation)| {
            let repository = repository.clone();
            async move {
                let read = read_part(&repository, digest, generation).await;
                match read {
                    Ok(part) => Ok(part),
                    Err(error) if is_bad(&error) => Ok(Err(chain(&error))),
                    Err(error) => Err(unreadable(repo, &error)),
                }
            }
        });
        Box::pin(stream::iter(reads).buffered(self.workers))
    }

    /// Adds a whole backup's chunks to the catalog, and then the backup.
    pub(super) async fn adopt_backup(
        &mut self,
        session: SessionId,
        backup: &FoundBackup,
        chunks: &mut ChunkTable,
    ) -> Result<(), Failure> {
        let mut stored = 0;
        let mut batch = Vec::new();
        for part in &backup.parts {
            stored += self.add_chunk(part.digest, chunks, &mut batch);
        }
        let mut parts = self.parts(backup, chunks);
        while let Some(part) = parts.next().await {
            let part = part?.map_err(|why| {
                Failure::new(
                    ExitCode::RepoInvalid,
                    format!("a part of backup {} was readable a moment ago", backup.label),
                )
                .because(why)
                .again()
            })?;
            for digest in part.lengths.into_keys() {
                stored += self.add_chunk(digest, chunks, &mut batch);
                if batch.len() >= BATCH {
                    self.add_chunks(session, std::mem::take(&mut batch)).await?;
                }
            }
        }
        drop(parts);
        self.add_chunks(session, batch).await?;
        let mut record = backup.record.clone();
        record.stored.insert(self.repo, stored);
        self.check_wal(backup)?;
        let adopt = Adopt::Backup {
            stanza: backup.stanza.clone(),
            label: backup.label.clone(),
            record: Box::new(record),
            claims: backup.claims.clone(),
        };
        self.propose(Command::Adopt(Box::new(adopt))).await?;
        Ok(())
    }

    /// Puts a chunk into the batch, if it is not in the catalog yet; its stored length.
    fn add_chunk(&self, digest: Digest, chunks: &mut ChunkTable, batch: &mut Vec<NewChunk>) -> u64 {
        let Some(chunk) = chunks.find(&self.repository, self.repository.stored_name(digest)) else {
            return 0;
        };
        let stored_length = chunk.stored_length(&self.repository);
        if !std::mem::replace(&mut chunk.adopted, true) {
            batch.push(NewChunk {
                digest,
                length: chunk.length,
                stored_length,
                claims: vec![self.claim(chunk.generation)],
            });
        }
        u64::from(stored_length)
    }

    async fn add_chunks(&self, session: SessionId, chunks: Vec<NewChunk>) -> Result<(), Failure> {
        if !chunks.is_empty() {
            self.propose(Command::AddChunks {
                session,
                ack: 1,
                chunks,
            })
            .await?;
        }
        Ok(())
    }

    /// Says when WAL that a backup cannot do without has no good copy. The backup stays: the cluster may archive the
    /// WAL again, and until then a recovery stops there, and loudly.
    fn check_wal(&mut self, backup: &FoundBackup) -> Result<(), Failure> {
        let view = self.catalog.view();
        let size = backup.cluster.segment_size;
        let mut name = backup.record.wal_start;
        for _ in 0..SEGMENTS_CHECKED {
            let file = WalFileName::Segment(name);
            let known = view.segment(&backup.stanza, backup.archive_id.db, &file)?;
            if known.is_none_or(|known| known.object.is_unknown()) {
                self.found(
                    Problem::new(
                        ProblemKind::BackupWal,
                        format!("backup {}", backup.label),
                        format!(
                            "it cannot be made consistent without WAL segment {name}, of which no good copy is there"
                        ),
                    )
                    .of(&backup.stanza)
                    .remedy(
                        "restore an earlier or later backup, or push the segment again if the cluster still has it",
                    ),
                );
                break;
            }
            if name >= backup.record.wal_stop {
                break;
            }
            name = name.next(size);
        }
        Ok(())
    }
}

/// One part of a list of files.
struct Part {
    digest: Digest,
    generation: Generation,
    lengths: BTreeMap<Digest, u64>,
}

#[derive(Default)]
struct Missing {
    count: u64,
    first: Option<Digest>,
}

async fn read_part(
    repository: &Repository,
    digest: Digest,
    generation: Generation,
) -> Result<Result<Part, String>, StoreError> {
    let name = ObjectName::Chunk(digest);
    let (generation, checked) = match repository.get_checked(&name, generation).await {
        Ok(checked) => (generation, checked),
        Err(error) if is_bad(&error) => repository.get_any_generation(&name).await?,
        Err(error) => return Err(error),
    };
    let lengths = PartReader::chunk_lengths(&checked.plain);
    Ok(lengths
        .map(|lengths| Part {
            digest,
            generation,
            lengths,
        })
        .map_err(|error| chain(&error)))
}
