//! The plan for each entry of a manifest: a pure function from entries to actions.
//!
//! A part of the manifest becomes a list of files and a list of chunks. Each chunk is fetched once and says to which
//! files its pieces go, so that a chunk with a hundred small files costs one request.

use super::databases::{database_of, is_needed_to_drop};
use super::local::{Local, Stretch};
use crate::extents::ExtentMap;
use pgmesh_storage::{Digest, EntryKind, FileEntry, PageFingerprint};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// pg_control, which comes last.
pub const PG_CONTROL: &str = "global/pg_control";
/// Its name until everything else is durable: a server does not start without `global/pg_control`.
pub const PG_CONTROL_STAGED: &str = "global/pg_control.pgmesh.tmp";

/// The rules for all entries.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Databases that come back as empty files.
    pub left_out: BTreeSet<u32>,
    /// Paths that stay as they are on disk (`--type=preserve`).
    pub kept: BTreeSet<String>,
}

/// Where the content of a file comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// From chunks.
    Stored,
    /// It is all zeros, and takes no room: its database is left out.
    Zeros,
}

/// A file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePlan {
    /// Where, relative to PGDATA.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// CRC-32C of the whole content.
    pub crc32c: u32,
    /// Last change, Unix seconds.
    pub modified: i64,
    /// Permission bits.
    pub mode: u32,
    /// The owner's name.
    pub user: Option<String>,
    /// The group's name.
    pub group: Option<String>,
    /// The runs that make it up, in order.
    pub runs: Vec<RunPlan>,
    /// Its fingerprints, where they are known.
    pub table: Option<Arc<[PageFingerprint]>>,
    /// Where its content comes from.
    pub content: Content,
}

/// A run of bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunPlan {
    /// How long it is, in bytes.
    pub length: u64,
    /// Its CRC-32C, where it is in its place already.
    pub kept: Option<u32>,
}

impl FilePlan {
    /// Whether no chunk is needed for it.
    pub fn is_there(&self) -> bool {
        self.runs.iter().all(|run| run.kept.is_some())
    }
}

/// A run of bytes of a chunk, and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PiecePlan {
    /// Index in [`PartPlan::files`].
    pub file: usize,
    /// Which run of the file it is.
    pub run: usize,
    /// Where it begins in the chunk.
    pub in_chunk: u32,
    /// Where it begins in the file.
    pub in_file: u64,
    /// How long it is.
    pub length: u32,
}

/// A chunk to be fetched, and where its pieces go, file by file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkPlan {
    /// The chunk.
    pub digest: Digest,
    /// Its pieces.
    pub pieces: Vec<PiecePlan>,
}

/// The plan for a part of the manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartPlan {
    /// The files.
    pub files: Vec<FilePlan>,
    /// The chunks, in the order in which the files need them.
    pub chunks: Vec<ChunkPlan>,
}

/// Plans the files of one part of a manifest. Directories and links are planned from the whole manifest beforehand.
/// `local` has, by path, the files that are in the data directory already; a file that it does not name is fetched.
pub fn plan_part(entries: Vec<FileEntry>, rules: &Rules, mut local: HashMap<String, Local>) -> PartPlan {
    let mut plan = PartPlan::default();
    let mut chunk_of: HashMap<Digest, usize> = HashMap::new();
    for entry in entries {
        let EntryKind::File {
            size, crc32c, extents, ..
        } = entry.kind
        else {
            continue;
        };
        if rules.kept.contains(&entry.path) {
            continue;
        }
        let content = rules.content(&entry.path);
        let local = local.remove(&entry.path).unwrap_or_else(|| Local::unknown(size));
        let file = plan.files.len();
        let mut file_plan = FilePlan {
            path: if entry.path == PG_CONTROL {
                PG_CONTROL_STAGED.to_owned()
            } else {
                entry.path
            },
            size,
            crc32c,
            modified: entry.modified,
            mode: entry.mode,
            user: entry.user,
            group: entry.group,
            runs: Vec::new(),
            table: local.table,
            content,
        };
        if content == Content::Stored {
            let map = ExtentMap::of(&extents);
            for Stretch { bytes, kept } in local.stretches {
                if kept.is_some() {
                    let length = bytes.end - bytes.start;
                    file_plan.runs.push(RunPlan { length, kept });
                    continue;
                }
                let mut in_file = bytes.start;
                for extent in map.slice(bytes) {
                    let piece = PiecePlan {
                        file,
                        run: file_plan.runs.len(),
                        in_chunk: extent.offset,
                        in_file,
                        length: extent.length,
                    };
                    let length = u64::from(extent.length);
                    in_file += length;
                    file_plan.runs.push(RunPlan { length, kept: None });
                    plan.add(&mut chunk_of, extent.digest, piece);
                }
            }
        }
        plan.files.push(file_plan);
    }
    plan
}

impl Rules {
    /// Whether a file gets the content that it had.
    pub fn is_restored(&self, path: &str) -> bool {
        !self.kept.contains(path) && self.content(path) == Content::Stored
    }

    fn content(&self, path: &str) -> Content {
        let is_left_out = database_of(path).is_some_and(|database| self.left_out.contains(&database));
        if is_left_out && !is_needed_to_drop(path) {
            Content::Zeros
        } else {
            Content::Stored
        }
    }
}

impl PartPlan {
    fn add(&mut self, chunk_of: &mut HashMap<Digest, usize>, digest: Digest, piece: PiecePlan) {
        let known = chunk_of.get(&digest).and_then(|at| self.chunks.get_mut(*at));
        match known {
            Some(chunk) => chunk.pieces.push(piece),
            None => {
                chunk_of.insert(digest, self.chunks.len());
                self.chunks.push(ChunkPlan {
                    digest,
                    pieces: vec![piece],
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_storage::{DigestSuite, Extent};
    use proptest::prelude::*;

    fn entry(path: &str, extents: Vec<Extent>) -> FileEntry {
        let size = extents.iter().map(|extent| u64::from(extent.length)).sum();
        FileEntry {
            path: path.to_owned(),
            kind: EntryKind::File {
                size,
                crc32c: 0,
                extents,
                bad_pages: vec![],
            },
            modified: 0,
            mode: 0o600,
            user: None,
            group: None,
            fingerprints: None,
        }
    }

    fn extent(digest: Digest, offset: u32, length: u32) -> Extent {
        Extent { digest, offset, length }
    }

    #[test]
    fn a_bundle_is_fetched_once_for_all_its_files() {
        let digest = DigestSuite::Blake3.digest(b"bundle");
        let plan = plan_part(
            vec![
                entry("a", vec![extent(digest, 0, 3)]),
                entry("b", vec![extent(digest, 3, 2)]),
            ],
            &Rules::default(),
            HashMap::new(),
        );
        assert_eq!(plan.files.len(), 2);
        let [chunk] = plan.chunks.as_slice() else {
            panic!("{plan:?}")
        };
        assert_eq!(chunk.pieces.iter().map(|piece| piece.file).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn databases_left_out_need_no_chunk_and_kept_files_no_action() {
        let digest = DigestSuite::Blake3.digest(b"x");
        let rules = Rules {
            left_out: BTreeSet::from([16_400]),
            kept: BTreeSet::from(["postgresql.auto.conf".to_owned()]),
        };
        let paths = [
            "base/16400/2619",
            "base/16400/PG_VERSION",
            "base/5/2619",
            "postgresql.auto.conf",
            "global/pg_control",
        ];
        let entries = paths.map(|path| entry(path, vec![extent(digest, 0, 1)])).to_vec();
        let plan = plan_part(entries, &rules, HashMap::new());
        let zeros: Vec<_> = plan
            .files
            .iter()
            .filter(|file| file.content == Content::Zeros)
            .collect();
        assert_eq!(
            zeros.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(),
            ["base/16400/2619"]
        );
        assert_eq!(zeros[0].size, 1);
        assert_eq!(plan.files.last().unwrap().path, PG_CONTROL_STAGED);
        assert_eq!(plan.files.len(), 4);
        assert_eq!(plan.chunks[0].pieces.len(), 3);
    }

    proptest! {
        /// Carried out on chunks of random bytes, a plan gives each file the bytes that its extents name.
        #[test]
        fn a_plan_restores_every_file(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..8),
            files in prop::collection::vec(
                prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..6),
                0..12,
            ),
        ) {
            let digests: Vec<Digest> = chunks.iter().map(|chunk| DigestSuite::Blake3.digest(chunk)).collect();
            let mut entries = Vec::new();
            let mut expected = Vec::new();
            for (number, extents) in files.iter().enumerate() {
                let mut content = Vec::new();
                let extents = extents.iter().map(|(chunk, from, to)| {
                    let chunk_at = chunk.index(chunks.len());
                    let chunk = &chunks[chunk_at];
                    let from = from.index(chunk.len());
                    let to = from + 1 + to.index(chunk.len() - from);
                    content.extend_from_slice(&chunk[from..to]);
                    extent(digests[chunk_at], u32::try_from(from).unwrap(), u32::try_from(to - from).unwrap())
                });
                let extents = extents.collect();
                entries.push(entry(&format!("file{number}"), extents));
                expected.push(content);
            }
            let plan = plan_part(entries, &Rules::default(), HashMap::new());
            let mut seen = BTreeSet::new();
            let mut written: Vec<Vec<u8>> =
                plan.files.iter().map(|file| vec![0; usize::try_from(file.size).unwrap()]).collect();
            for chunk in &plan.chunks {
                prop_assert!(seen.insert(chunk.digest), "a chunk is planned once");
                let bytes = &chunks[digests.iter().position(|digest| *digest == chunk.digest).unwrap()];
                for piece in &chunk.pieces {
                    prop_assert_eq!(plan.files[piece.file].runs[piece.run].length, u64::from(piece.length));
                    let (at, length) = (usize::try_from(piece.in_file).unwrap(), piece.length as usize);
                    let from = piece.in_chunk as usize;
                    written[piece.file][at..at + length].copy_from_slice(&bytes[from..from + length]);
                }
            }
            prop_assert_eq!(written, expected);
        }
    }
}
