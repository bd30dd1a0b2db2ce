//! One listing of a repository: which stanzas, archives and backups there are, and all chunks.

use super::chunks::{ChunkTable, Listing};
use super::report::{RebuildEvent, Tell};
use futures::TryStreamExt;
use pgmesh_postgres::{TimelineId, WalFileName};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::{ArchiveId, BackupLabel, Generation, ObjectPath, Repository, StanzaName, prefix};
use std::collections::{BTreeMap, BTreeSet};

/// How many objects are listed between two words of progress.
const PROGRESS_EVERY: u64 = 10_000;

/// No mesh comes to this generation: a file of such a name, put there by hand, must not use up the generations that are
/// left.
const NOT_BELIEVED: Generation = Generation(1 << 30);

/// The objects of a repository, by name alone. Of the WAL only the folders are kept: an archive has some hundred files
/// in each (invariant 11).
#[derive(Debug, Default)]
pub struct Inventory {
    /// The stanzas.
    pub stanzas: BTreeMap<StanzaName, FoundStanza>,
    /// The number of objects, without chunks and the repository's own objects; files whose names fit no object count
    /// too.
    pub others: u64,
    /// The bytes of WAL and manifests.
    pub bytes: u64,
    /// The highest generation that any object has.
    pub highest: Generation,
}

/// One stanza, by the names of its objects.
#[derive(Debug, Default)]
pub struct FoundStanza {
    /// The descriptions of its databases.
    pub infos: BTreeMap<ArchiveId, Vec<ObjectPath>>,
    /// Its backups.
    pub manifests: BTreeMap<BackupLabel, Vec<ObjectPath>>,
    /// Its archives.
    pub archives: BTreeMap<ArchiveId, FoundArchive>,
}

/// One archive, by the names of its files.
#[derive(Debug, Default)]
pub struct FoundArchive {
    /// The folders of its segments. Their order is that of timelines and positions.
    pub folders: BTreeSet<String>,
    /// Its history files; one per timeline.
    pub histories: Vec<ObjectPath>,
    /// The timelines that it has complete segments of.
    pub timelines: BTreeSet<TimelineId>,
}

impl Inventory {
    /// Lists all of a repository.
    ///
    /// # Errors
    /// It cannot be listed.
    pub async fn take(repository: &Repository, tell: &Tell) -> Result<(Self, ChunkTable), Failure> {
        let (mut inventory, mut chunks) = (Self::default(), Listing::default());
        let mut listed = 0u64;
        let mut objects = repository.list("");
        let unlistable = |error: &pgmesh_storage::StoreError| {
            Failure::new(ExitCode::RepoInvalid, "the repository cannot be listed").because(chain(error))
        };
        while let Some(object) = objects.try_next().await.map_err(|error| unlistable(&error))? {
            listed += 1;
            if listed.is_multiple_of(PROGRESS_EVERY) {
                tell(RebuildEvent::Listed(listed));
            }
            let path = ObjectPath::parse(&object.path);
            let generation = path.as_ref().map_or(Generation::FIRST, ObjectPath::generation);
            if generation < NOT_BELIEVED {
                inventory.highest = inventory.highest.max(generation);
            }
            match path {
                Some(ObjectPath::Chunk { name, generation }) => chunks.add(name, generation, object.length),
                path => inventory.add(path, object.length),
            }
        }
        tell(RebuildEvent::Listed(listed));
        Ok((inventory, chunks.sorted()))
    }

    fn add(&mut self, path: Option<ObjectPath>, length: u64) {
        match &path {
            None => self.others += 1,
            Some(ObjectPath::Identity | ObjectPath::Key { .. } | ObjectPath::Mark(_) | ObjectPath::Chunk { .. }) => {}
            Some(path @ ObjectPath::StanzaInfo { stanza, archive_id, .. }) => {
                self.others += 1;
                let infos = &mut self.stanza(stanza).infos;
                infos.entry(*archive_id).or_default().push(path.clone());
            }
            Some(path @ ObjectPath::Manifest { stanza, label, .. }) => {
                self.others += 1;
                self.bytes += length;
                let manifests = &mut self.stanza(stanza).manifests;
                manifests.entry(label.clone()).or_default().push(path.clone());
            }
            Some(
                path @ ObjectPath::Segment {
                    stanza,
                    archive_id,
                    file,
                    part,
                    ..
                },
            ) => {
                // A file counts once, however many parts it lies in.
                self.others += u64::from(part.is_none_or(|part| part.number() == 1));
                self.bytes += length;
                let archive = self.stanza(stanza).archives.entry(*archive_id).or_default();
                match file {
                    WalFileName::History(_) => archive.histories.push(path.clone()),
                    file => {
                        let folder = prefix::archived_file(stanza, *archive_id, file);
                        if !archive.folders.contains(&folder) {
                            archive.folders.insert(folder);
                        }
                    }
                }
                if let WalFileName::Segment(segment) = file {
                    archive.timelines.insert(segment.timeline);
                }
            }
        }
    }

    fn stanza(&mut self, name: &StanzaName) -> &mut FoundStanza {
        self.stanzas.entry(name.clone()).or_default()
    }
}
