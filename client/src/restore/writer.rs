//! Writing files from checked chunks.
//!
//! A file is opened for as long as one chunk is written to it, so that the number of open files does not grow with the
//! cluster. Its pieces may come in any order: their CRCs are combined when the last piece has been written.

use super::disk::failed;
use super::owners::Owners;
use super::plain::Plain;
use super::planning::{ChunkPlan, Content, FilePlan, PartPlan, PiecePlan};
use super::prepare::FileSystems;
use super::roots::Roots;
use crate::crc::append;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::DigestSuite;
use std::fs::{File, FileTimes, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::OwnedSemaphorePermit;

/// A part of the manifest while its files are written.
pub struct Part {
    /// The plan for the part.
    pub plan: PartPlan,
    states: Vec<Mutex<FileState>>,
    /// A permit, because only so many parts are in memory at once.
    _place: Option<OwnedSemaphorePermit>,
}

/// How far a file has come.
struct FileState {
    missing: usize,
    /// CRC-32C of each run, as far as they are in their places.
    crcs: Vec<u32>,
}

impl Part {
    /// A part of which no file is written yet. `place` is given up when all of them are.
    pub fn new(plan: PartPlan, place: Option<OwnedSemaphorePermit>) -> Self {
        let state = |file: &FilePlan| {
            Mutex::new(FileState {
                missing: file.runs.iter().filter(|run| run.kept.is_none()).count(),
                crcs: file.runs.iter().map(|run| run.kept.unwrap_or(0)).collect(),
            })
        };
        let states = plan.files.iter().map(state).collect();
        Self {
            plan,
            states,
            _place: place,
        }
    }
}

/// Sums of a restore.
#[derive(Debug, Default)]
pub struct Counts {
    /// Bytes written.
    pub written: AtomicU64,
    /// Bytes that were there already.
    pub kept: AtomicU64,
    /// Bytes of databases that are left out.
    pub zeros: AtomicU64,
    /// Files complete.
    pub files: AtomicU64,
}

/// Writes below PGDATA.
pub struct Writer {
    roots: Roots,
    file_systems: FileSystems,
    owners: Owners,
    /// Sums of the restore.
    pub counts: Counts,
}

impl Writer {
    /// Below these directories, on these file systems.
    pub fn new(roots: Roots, file_systems: FileSystems, owners: Owners) -> Self {
        Self {
            roots,
            file_systems,
            owners,
            counts: Counts::default(),
        }
    }

    /// Where files of the backup lie.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The file systems that are to be synced.
    pub fn file_systems(&self) -> &FileSystems {
        &self.file_systems
    }

    /// Whose files are.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Writes the files of a part that need no chunk: empty files, files that are there, and files of databases that
    /// are left out, which take no room. Answers how many bytes of all files need no chunk.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn write_without_chunks(&self, part: &Part) -> Result<u64, Failure> {
        let (mut zeros, mut kept) = (0, 0);
        for (file, state) in part.plan.files.iter().zip(&part.states) {
            let there = file.runs.iter().filter(|run| run.kept.is_some());
            kept += there.map(|run| run.length).sum::<u64>();
            if !file.is_there() {
                continue;
            }
            let (opened, path) = self.open(file)?;
            if file.runs.is_empty() {
                opened.set_len(0).map_err(failed("truncating", &path))?;
            } else {
                check(state, file, &path)?;
            }
            self.finish(&opened, &path, file)?;
            if file.content == Content::Zeros {
                zeros += file.size;
            }
        }
        self.counts.zeros.fetch_add(zeros, Ordering::Relaxed);
        self.counts.kept.fetch_add(kept, Ordering::Relaxed);
        Ok(zeros + kept)
    }

    /// Writes a chunk to all the places that need it. Answers how many bytes that were.
    ///
    /// # Errors
    /// 28 when the chunk is shorter than the manifest says, 26 when a complete file differs from the backed up one; or
    /// the operating system refuses.
    pub fn write_chunk(&self, part: &Part, chunk: &ChunkPlan, plain: &Plain) -> Result<u64, Failure> {
        let mut written = 0;
        for pieces in chunk.pieces.chunk_by(|one, other| one.file == other.file) {
            let Some(file) = file_of(part, pieces) else {
                continue;
            };
            let (opened, path) = self.open(file)?;
            for piece in pieces {
                let bytes = plain.piece(piece).ok_or_else(|| too_short(chunk, file))?;
                opened
                    .write_all_at(bytes, piece.in_file)
                    .map_err(failed("writing", &path))?;
                written += bytes.len() as u64;
                self.note(part, piece, crc32c::crc32c(bytes), &opened, &path)?;
            }
        }
        self.counts.written.fetch_add(written, Ordering::Relaxed);
        Ok(written)
    }

    /// Looks whether all places that need a chunk have it already: a piece that is a whole chunk can be compared by its
    /// digest. Answers how many bytes are there; `None` when the chunk is needed.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn keep_chunk(&self, part: &Part, chunk: &ChunkPlan, suite: DigestSuite) -> Result<Option<u64>, Failure> {
        if chunk.pieces.iter().any(|piece| piece.in_chunk != 0) {
            return Ok(None);
        }
        let mut found = Vec::with_capacity(chunk.pieces.len());
        let mut buffer = Vec::new();
        for piece in &chunk.pieces {
            let Some(file) = file_of(part, std::slice::from_ref(piece)) else {
                return Ok(None);
            };
            if !self.read(file, piece, &mut buffer)? || suite.digest(&buffer) != chunk.digest {
                return Ok(None);
            }
            found.push((piece, file, crc32c::crc32c(&buffer)));
        }
        let mut kept = 0;
        for (piece, file, crc) in found {
            let (opened, path) = self.open(file)?;
            self.note(part, piece, crc, &opened, &path)?;
            kept += u64::from(piece.length);
        }
        self.counts.kept.fetch_add(kept, Ordering::Relaxed);
        Ok(Some(kept))
    }

    /// Opens a file to be written, with its path for messages.
    fn open(&self, file: &FilePlan) -> Result<(File, PathBuf), Failure> {
        let (below, place) = self.roots.find(&file.path);
        Ok((below.write(place, false)?, below.shown(place)))
    }

    /// Reads a piece of a file that may be there; `false` when it is not, or not all of it.
    fn read(&self, file: &FilePlan, piece: &PiecePlan, buffer: &mut Vec<u8>) -> Result<bool, Failure> {
        let (below, place) = self.roots.find(&file.path);
        let Some(file) = below.read(place)? else {
            return Ok(false);
        };
        buffer.resize(piece.length as usize, 0);
        match file.read_exact_at(buffer, piece.in_file) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            done => done.map(|()| true).map_err(failed("reading", &below.shown(place))),
        }
    }

    /// Notes a piece that is in its place, and finishes the file when it was the last one.
    fn note(&self, part: &Part, piece: &PiecePlan, crc: u32, opened: &File, path: &Path) -> Result<(), Failure> {
        let (Some(file), Some(state)) = (part.plan.files.get(piece.file), part.states.get(piece.file)) else {
            return Ok(());
        };
        {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(place) = state.crcs.get_mut(piece.run) {
                *place = crc;
            }
            state.missing = state.missing.saturating_sub(1);
            if state.missing > 0 {
                return Ok(());
            }
        }
        check(state, file, path)?;
        self.finish(opened, path, file)
    }

    /// Size, owner, permissions and time of a file whose content is complete.
    fn finish(&self, opened: &File, path: &Path, file: &FilePlan) -> Result<(), Failure> {
        let changing = || failed("changing the attributes of", path);
        let metadata = opened.metadata().map_err(changing())?;
        if metadata.len() != file.size {
            opened.set_len(file.size).map_err(failed("truncating", path))?;
        }
        self.owners
            .give(opened, path, file.user.as_deref(), file.group.as_deref())?;
        if metadata.permissions().mode() & 0o7777 != file.mode {
            opened
                .set_permissions(Permissions::from_mode(file.mode))
                .map_err(changing())?;
        }
        let offset = Duration::from_secs(file.modified.unsigned_abs());
        let modified = if file.modified < 0 {
            UNIX_EPOCH.checked_sub(offset)
        } else {
            UNIX_EPOCH.checked_add(offset)
        };
        if let Some(modified) = modified {
            opened
                .set_times(FileTimes::new().set_modified(modified))
                .map_err(changing())?;
        }
        // Mounted by itself, as containers do it with configuration.
        if !self.file_systems.has(metadata.dev()) {
            opened.sync_all().map_err(failed("syncing", path))?;
        }
        self.counts.files.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Checks the content of a file, all of whose runs are in their places, by the CRC in the manifest.
fn check(state: &Mutex<FileState>, file: &FilePlan, path: &Path) -> Result<(), Failure> {
    let crcs = std::mem::take(&mut state.lock().unwrap_or_else(PoisonError::into_inner).crcs);
    let combined = combine(&crcs, file.runs.iter().map(|run| run.length));
    if combined == file.crc32c {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::Checksum,
        format!(
            "the restored file {} differs from the file that was backed up",
            path.display()
        ),
    )
    .because(format!(
        "its CRC-32C is {combined:08x}, the manifest says {:08x}",
        file.crc32c
    ))
    .remedy("restore another backup with --set, and report this: it is a defect"))
}

fn file_of<'p>(part: &'p Part, pieces: &[PiecePlan]) -> Option<&'p FilePlan> {
    part.plan.files.get(pieces.first()?.file)
}

/// The CRC-32C of a whole file from the CRCs of its runs.
fn combine(crcs: &[u32], lengths: impl Iterator<Item = u64>) -> u32 {
    crcs.iter()
        .zip(lengths)
        .fold(0, |sum, (crc, length)| append(sum, *crc, length))
}

fn too_short(chunk: &ChunkPlan, file: &FilePlan) -> Failure {
    Failure::new(
        ExitCode::FileInvalid,
        format!("chunk {} does not hold all of {}", chunk.digest, file.path),
    )
    .because("the manifest names bytes past its end")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_crc_of_a_file_follows_from_its_pieces(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..9)) {
            let crcs: Vec<u32> = pieces.iter().map(|piece| crc32c::crc32c(piece)).collect();
            let lengths = pieces.iter().map(|piece| piece.len() as u64);
            prop_assert_eq!(combine(&crcs, lengths), crc32c::crc32c(&pieces.concat()));
        }
    }
}
