//! Readers: threads that take entries from the queue, read files, check pages, and cut content into pieces.

use super::bundle::{BUNDLE_BELOW, Bundle, CHUNK_SIZE};
use super::manifest::{Taken, file_entry};
use super::pages::{PageChecker, ShownRanges};
use super::plan::{Queue, size};
use super::uploader::{Halt, Piece};
use crate::progress::Progress;
use pgmesh_node::{Failure, code};
use pgmesh_postgres::{Entry, EntryKind as WalkedKind, RelationFile};
use pgmesh_storage::{BlockRange, DigestSuite, EntryKind, Extent, FileEntry};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use tokio::sync::mpsc;

/// What all readers of a backup share.
pub struct Reading {
    /// What is still to be read.
    pub queue: Queue,
    /// How digests are made.
    pub suite: DigestSuite,
    /// Check page checksums.
    pub checks_pages: bool,
    /// Counts what was read.
    pub progress: Progress,
}

/// One reader, to be run on a thread of its own: it blocks on files and on channels that are full.
pub struct Reader {
    reading: Arc<Reading>,
    pieces: mpsc::Sender<Piece>,
    taken: mpsc::Sender<Result<Taken, Failure>>,
    bundle: Bundle,
}

/// The content of a file as far as it was read.
#[derive(Default)]
struct Content {
    size: u64,
    crc32c: u32,
    extents: Vec<Extent>,
}

impl Content {
    fn into_kind(self, bad_pages: Vec<BlockRange>) -> EntryKind {
        EntryKind::File {
            size: self.size,
            crc32c: self.crc32c,
            extents: self.extents,
            bad_pages,
        }
    }
}

impl Reader {
    /// A reader that sends content to `pieces`, and to `taken` what became of each entry.
    pub fn new(
        reading: Arc<Reading>,
        pieces: mpsc::Sender<Piece>,
        taken: mpsc::Sender<Result<Taken, Failure>>,
    ) -> Self {
        Self {
            reading,
            pieces,
            taken,
            bundle: Bundle::default(),
        }
    }

    /// Reads until the queue is empty, something fails, or nobody listens any more.
    pub fn run(mut self) {
        if let Err(Halt::Failed(failure)) = self.read_all() {
            // Nobody listens any more: then another failure has been told already.
            let _ = self.taken.blocking_send(Err(failure));
        }
    }

    fn read_all(&mut self) -> Result<(), Halt> {
        let reading = self.reading.clone();
        while let Some(job) = reading.queue.next() {
            for (number, entry) in (job.number..).zip(&job.entries) {
                self.take_entry(number, entry)?;
            }
            self.send_bundle()?;
        }
        Ok(())
    }

    fn take_entry(&mut self, number: u64, entry: &Entry) -> Result<(), Halt> {
        match &entry.kind {
            WalkedKind::Directory => self.done(number, Some(file_entry(entry, EntryKind::Directory))),
            WalkedKind::Link { destination } => {
                let kind = EntryKind::Link {
                    destination: destination.clone(),
                };
                self.done(number, Some(file_entry(entry, kind)))
            }
            WalkedKind::File { .. } => self.take_file(number, entry),
        }
    }

    fn take_file(&mut self, number: u64, entry: &Entry) -> Result<(), Halt> {
        match File::open(&entry.disk_path) {
            Ok(file) => self.read_file(number, entry, &file),
            // Dropped since the walk: WAL replay drops it too.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::debug!("{} has vanished since the backup began and is left out", entry.path);
                self.reading.progress.advance(size(entry));
                self.done(number, None)
            }
            Err(error) => Err(Halt::Failed(unreadable(entry, &error))),
        }
    }

    /// Reads at most the size that the walk saw: what a file has grown since is in the WAL. One that has shrunk ends
    /// where it ends.
    fn read_file(&mut self, number: u64, entry: &Entry, file: &File) -> Result<(), Halt> {
        let size = size(entry);
        let mut checker = self.checker(entry, file);
        let mut content = Content::default();
        let last = loop {
            let want = (size - content.size).min(CHUNK_SIZE as u64);
            let mut piece = read_piece(file, want).map_err(|error| Halt::Failed(unreadable(entry, &error)))?;
            if let Some(checker) = &mut checker {
                checker.check(content.size, &mut piece);
            }
            content.crc32c = crc32c::crc32c_append(content.crc32c, &piece);
            content.size += piece.len() as u64;
            self.reading.progress.advance(piece.len() as u64);
            if content.size == size || (piece.len() as u64) < want {
                break piece;
            }
            content.extents.push(self.send_chunk(piece)?);
        };
        self.reading.progress.advance(size - content.size);
        let bad_pages = checker.map(PageChecker::into_bad).unwrap_or_default();
        warn_of(entry, &bad_pages);
        self.finish(number, entry, content, last, bad_pages)
    }

    fn checker<'file>(&self, entry: &Entry, file: &'file File) -> Option<PageChecker<'file>> {
        let relation = self
            .reading
            .checks_pages
            .then(|| RelationFile::parse(&entry.path))
            .flatten()?;
        Some(PageChecker::new(file, relation.first_block()))
    }

    /// Stores the last piece of a file, as a chunk or in the bundle.
    fn finish(
        &mut self,
        number: u64,
        entry: &Entry,
        mut content: Content,
        last: Vec<u8>,
        bad_pages: Vec<BlockRange>,
    ) -> Result<(), Halt> {
        if last.len() >= BUNDLE_BELOW {
            content.extents.push(self.send_chunk(last)?);
            return self.done(number, Some(file_entry(entry, content.into_kind(bad_pages))));
        }
        let entry = file_entry(entry, content.into_kind(bad_pages));
        if last.is_empty() {
            return self.done(number, Some(entry));
        }
        if self.bundle.is_full_for(last.len()) {
            self.send_bundle()?;
        }
        self.bundle.add(number, entry, &last);
        Ok(())
    }

    fn send_chunk(&self, bytes: Vec<u8>) -> Result<Extent, Halt> {
        let digest = self.reading.suite.digest(&bytes);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.pieces
            .blocking_send(Piece { digest, bytes })
            .map_err(|_| Halt::UploadEnded)?;
        Ok(Extent {
            digest,
            offset: 0,
            length,
        })
    }

    fn send_bundle(&mut self) -> Result<(), Halt> {
        let Some(sealed) = self.bundle.seal() else {
            return Ok(());
        };
        let digest = self.send_chunk(sealed.bytes)?.digest;
        for (number, entry) in sealed.waiting.complete(digest) {
            self.done(number, Some(entry))?;
        }
        Ok(())
    }

    fn done(&self, number: u64, entry: Option<FileEntry>) -> Result<(), Halt> {
        let taken = Taken { number, entry };
        self.taken.blocking_send(Ok(taken)).map_err(|_| Halt::UploadEnded)
    }
}

/// Reads up to `want` bytes from where the file stands; fewer only at its end.
fn read_piece(mut file: &File, want: u64) -> io::Result<Vec<u8>> {
    let mut piece = Vec::with_capacity(usize::try_from(want).unwrap_or(CHUNK_SIZE));
    file.by_ref().take(want).read_to_end(&mut piece)?;
    Ok(piece)
}

fn warn_of(entry: &Entry, bad_pages: &[BlockRange]) {
    if !bad_pages.is_empty() {
        tracing::warn!(
            "invalid page checksums found in file {} at pages {}",
            entry.path,
            ShownRanges(bad_pages)
        );
    }
}

/// A file that must be in the backup and cannot be.
pub fn unreadable(entry: &Entry, error: &io::Error) -> Failure {
    let failure = Failure::new(code::RUNTIME, format!("{} cannot be read", entry.disk_path.display())).because(error);
    if error.kind() == ErrorKind::PermissionDenied {
        failure.remedy("let the user that runs pgmesh read it, or exclude it where PostgreSQL does not need it")
    } else {
        failure.remedy("check the file system and the disk below it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const SUITE: DigestSuite = DigestSuite::Blake3;

    fn entry(directory: &Path, name: &str, size: u64) -> Entry {
        Entry {
            path: name.to_owned(),
            disk_path: directory.join(name),
            kind: WalkedKind::File { size },
            modified: 0,
            mode: 0o600,
            user: None,
            group: None,
        }
    }

    /// Reads all entries with one reader; the pieces and what became of the entries.
    fn read(entries: Vec<Entry>, checks_pages: bool) -> (Vec<Piece>, Vec<Result<Taken, Failure>>) {
        let progress = Progress::start("test", entries.iter().map(size).sum());
        let reading = Arc::new(Reading {
            queue: Queue::new(entries),
            suite: SUITE,
            checks_pages,
            progress,
        });
        let (pieces, mut pieces_sent) = mpsc::channel(1000);
        let (taken, mut all_taken) = mpsc::channel(1000);
        Reader::new(reading.clone(), pieces, taken).run();
        let (done, total) = reading.progress.state();
        let all_taken: Vec<_> = std::iter::from_fn(|| all_taken.blocking_recv()).collect();
        assert!(
            done == total || all_taken.iter().any(Result::is_err),
            "{done} of {total}"
        );
        (std::iter::from_fn(|| pieces_sent.blocking_recv()).collect(), all_taken)
    }

    /// The content that an entry's extents give.
    fn content(entry: &FileEntry, pieces: &[Piece]) -> Vec<u8> {
        entry.check().unwrap();
        let EntryKind::File { extents, .. } = &entry.kind else {
            panic!("no file")
        };
        let part = |extent: &Extent| {
            let piece = pieces.iter().find(|piece| piece.digest == extent.digest).unwrap();
            piece.bytes[extent.offset as usize..][..extent.length as usize].to_vec()
        };
        extents.iter().flat_map(part).collect()
    }

    #[test]
    fn every_file_is_found_again_in_its_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let lengths = [
            0,
            1,
            8192,
            BUNDLE_BELOW,
            CHUNK_SIZE,
            CHUNK_SIZE + 1,
            3 * CHUNK_SIZE - 5,
            200_000,
            250_000,
        ];
        let mut entries = Vec::new();
        let mut contents = Vec::new();
        for (number, length) in lengths.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..length)
                .map(|at| (at / 100 * (number + 3)).to_le_bytes()[0])
                .collect();
            std::fs::write(directory.path().join(number.to_string()), &bytes).unwrap();
            entries.push(entry(directory.path(), &number.to_string(), length as u64));
            contents.push(bytes);
        }
        let (pieces, taken) = read(entries, false);
        assert_eq!(taken.len(), lengths.len());
        for taken in taken {
            let taken = taken.unwrap();
            let (file, expected) = (taken.entry.unwrap(), &contents[usize::try_from(taken.number).unwrap()]);
            assert_eq!(content(&file, &pieces), *expected, "{}", file.path);
            let EntryKind::File { crc32c, .. } = file.kind else {
                panic!("no file")
            };
            assert_eq!(crc32c, crc32c::crc32c(expected));
        }
        assert!(pieces.iter().all(|piece| piece.bytes.len() <= CHUNK_SIZE));
    }

    #[test]
    fn files_that_vanish_shrink_or_grow_do_no_harm() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("grown"), [1; 9000]).unwrap();
        std::fs::write(directory.path().join("shrunk"), [2; 100]).unwrap();
        let at = directory.path();
        let (pieces, taken) = read(
            vec![
                entry(at, "gone", 5),
                entry(at, "grown", 8192),
                entry(at, "shrunk", 8192),
            ],
            false,
        );
        let files: Vec<_> = taken.into_iter().map(|taken| taken.unwrap().entry).collect();
        assert!(files[0].is_none());
        assert_eq!(content(files[1].as_ref().unwrap(), &pieces), [1; 8192]);
        assert_eq!(content(files[2].as_ref().unwrap(), &pieces), [2; 100]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_the_cause() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("odd")).unwrap();
        let (_, taken) = read(vec![entry(directory.path(), "odd", 5)], false);
        let failure = taken.into_iter().next().unwrap().unwrap_err();
        assert!(failure.what.contains("odd") && failure.cause.unwrap().contains("directory"));
    }

    #[test]
    fn bad_pages_are_recorded_and_the_file_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("base/5")).unwrap();
        std::fs::write(directory.path().join("base/5/16384"), vec![7; CHUNK_SIZE + 8192]).unwrap();
        let (pieces, taken) = read(
            vec![entry(directory.path(), "base/5/16384", CHUNK_SIZE as u64 + 8192)],
            true,
        );
        let file = taken.into_iter().next().unwrap().unwrap().entry.unwrap();
        assert_eq!(content(&file, &pieces).len(), CHUNK_SIZE + 8192);
        let EntryKind::File { bad_pages, .. } = file.kind else {
            panic!("no file")
        };
        assert_eq!(bad_pages, [BlockRange { first: 0, count: 129 }]);
    }
}
