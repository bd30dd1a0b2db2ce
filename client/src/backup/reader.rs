//! Readers: threads that take jobs, read files or their changed pages, check pages, and cut content into pieces.

use super::bundle::{BUNDLE_BELOW, CHUNK_SIZE, List};
use super::delta::pages::{PAGE, combine, page_count};
use super::job::{Past, Ready};
use super::manifest::file_entry;
use super::output::Output;
use super::pages::ShownRanges;
use super::plan::size;
use super::queue::{JobQueue, Next, Told};
use super::source::PageSource;
use super::tally::Tally;
use super::uploader::{Halt, Piece};
use crate::progress::Progress;
use pgmesh_postgres::{Entry, EntryKind as WalkedKind};
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::{
    BlockRange, DigestSuite, EntryKind, Extent, FINGERPRINT_PAGE, FileEntry, FingerprintSeed, StoredTable,
};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Files larger than this have no fingerprints, because these are held in memory (invariant 11): files of relations are
/// never as large.
const LARGEST_FINGERPRINTED: u64 = 4 << 30;

/// The state that all readers of a backup share.
pub struct Reading {
    /// The jobs that are still to be read.
    pub queue: JobQueue,
    /// How digests are made.
    pub suite: DigestSuite,
    /// The seed of the fingerprints.
    pub seed: FingerprintSeed,
    /// Check page checksums.
    pub checks_pages: bool,
    /// Counts the bytes that have been read or skipped.
    pub progress: Progress,
    /// Counts the changes that were found.
    pub tally: Tally,
}

/// One reader, to be run on a thread of its own: it blocks on files and on channels that are full.
pub struct Reader {
    pub(super) reading: Arc<Reading>,
    pub(super) output: Output,
}

impl Reader {
    /// A reader that sends content to `pieces`, and the outcome of each entry to `taken`.
    pub fn new(
        reading: Arc<Reading>,
        pieces: mpsc::Sender<Piece>,
        taken: mpsc::Sender<Result<super::manifest::Taken, Failure>>,
    ) -> Self {
        let output = Output::new(reading.suite, pieces, taken);
        Self { reading, output }
    }

    /// Reads until there are no more jobs, a read fails, or the backup has ended. However it ends, it closes the queue:
    /// the others would wait for ever behind the entries that it has taken and not told.
    pub fn run(mut self) {
        let reading = Arc::clone(&self.reading);
        let _closing = reading.queue.closing();
        if let Err(Halt::Failed(failure)) = self.read_all() {
            self.output.fail(failure);
        }
    }

    fn read_all(&mut self) -> Result<(), Halt> {
        let mut told = Told::default();
        loop {
            match self.reading.queue.next(&mut told) {
                Next::Job(job) => {
                    for (number, ready) in (job.number..).zip(job.entries) {
                        self.take(number, ready)?;
                    }
                    self.output.end_job()?;
                }
                Next::Flush => self.output.flush()?,
                Next::End => return self.output.flush(),
            }
        }
    }

    fn take(&mut self, number: u64, ready: Ready) -> Result<(), Halt> {
        let Ready { entry, past } = ready;
        match &entry.kind {
            WalkedKind::Directory => self.output.tell(number, Some(file_entry(&entry, EntryKind::Directory))),
            WalkedKind::Link { destination } => {
                let kind = EntryKind::Link {
                    destination: destination.clone(),
                };
                self.output.tell(number, Some(file_entry(&entry, kind)))
            }
            WalkedKind::File { .. } => match past {
                Past::Same(before) => self.same(number, &entry, *before, None),
                Past::New => self.open(number, &entry, &[], |this, source| this.whole(number, &entry, source)),
                Past::Known(known) => {
                    let bad = known.before.bad_pages().to_vec();
                    self.open(number, &entry, &bad, |this, source| {
                        this.changed(number, &entry, source, *known)
                    })
                }
            },
        }
    }

    fn open(
        &mut self,
        number: u64,
        entry: &Entry,
        bad: &[BlockRange],
        work: impl FnOnce(&mut Self, PageSource<'_>) -> Result<(), Halt>,
    ) -> Result<(), Halt> {
        match File::open(entry.disk_path()) {
            Ok(file) => {
                let source = PageSource::new(&file, entry, self.reading.checks_pages, bad);
                work(self, source)?;
                self.reading.progress.advance(size(entry));
                Ok(())
            }
            // Dropped since the walk: WAL replay drops it too.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::debug!("{} has vanished since the backup began and is left out", entry.path);
                self.reading.progress.advance(size(entry));
                self.output.tell(number, None)
            }
            Err(error) => Err(Halt::Failed(unreadable(entry, &error))),
        }
    }

    /// Hands over a file whose content has not changed.
    pub(super) fn same(
        &self,
        number: u64,
        entry: &Entry,
        before: FileEntry,
        bad: Option<Vec<BlockRange>>,
    ) -> Result<(), Halt> {
        let mut same = file_entry(entry, before.kind);
        same.fingerprints = before.fingerprints;
        if let (EntryKind::File { bad_pages, .. }, Some(bad)) = (&mut same.kind, bad) {
            *bad_pages = bad;
        } else {
            self.reading.progress.advance(size(entry));
        }
        self.output.tell(number, Some(same))
    }

    /// Reads all of a file, at most the size that the walk saw: later growth is in the WAL. A file that has shrunk ends
    /// where it ends.
    pub(super) fn whole(&mut self, number: u64, entry: &Entry, mut source: PageSource<'_>) -> Result<(), Halt> {
        self.output.begin(number, file_entry(entry, EntryKind::Directory));
        let has_fingerprints = source.size <= LARGEST_FINGERPRINTED;
        let (mut at, mut pages, mut crc) = (0, Vec::new(), 0);
        while at < source.size {
            let want = (source.size - at).min(CHUNK_SIZE as u64);
            let piece = self.read(entry, &mut source, at, want)?;
            let length = piece.len() as u64;
            if has_fingerprints {
                pages.extend(piece.chunks(FINGERPRINT_PAGE).map(|page| self.reading.seed.page(page)));
            } else {
                crc = crc32c::crc32c_append(crc, &piece);
            }
            at += length;
            if piece.len() >= BUNDLE_BELOW {
                self.output.chunk(number, List::Content, piece)?;
            } else {
                self.output.bundled(number, List::Content, &piece)?;
            }
            if length < want {
                break;
            }
        }
        self.reading.tally.stored(at.div_ceil(PAGE), 0);
        if has_fingerprints {
            crc = combine(&pages, at);
            self.store_table(number, &StoredTable::new(&pages), &[])?;
        }
        let bad = source.into_bad(page_count(at));
        warn_of(entry, &bad);
        self.output.finish(number, at, crc, bad)
    }

    pub(super) fn read(
        &self,
        entry: &Entry,
        source: &mut PageSource<'_>,
        at: u64,
        length: u64,
    ) -> Result<Vec<u8>, Halt> {
        let read = source.read(at, length);
        let piece = read.map_err(|error| Halt::Failed(unreadable(entry, &error)))?;
        self.reading.tally.read(piece.len());
        Ok(piece)
    }

    pub(super) fn store_table(&mut self, number: u64, table: &StoredTable, base: &[Extent]) -> Result<(), Halt> {
        match table {
            StoredTable::Base(bytes) => self.output.fingerprints(number, List::Base, bytes),
            StoredTable::Patch(bytes) => {
                base.iter()
                    .for_each(|extent| self.output.keep(number, List::Base, *extent));
                self.output.fingerprints(number, List::Patch, bytes)
            }
        }
    }
}

pub(super) fn warn_of(entry: &Entry, bad_pages: &[BlockRange]) {
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
    let failure = Failure::new(
        ExitCode::Runtime,
        format!("{} cannot be read", entry.disk_path().display()),
    )
    .because(error);
    if error.kind() == ErrorKind::PermissionDenied {
        failure.remedy("let the user that runs pgmesh read it, or exclude it where PostgreSQL does not need it")
    } else {
        failure.remedy("check the file system and the disk below it")
    }
}

#[cfg(test)]
mod tests {
    use super::super::job::ReadyJob;
    use super::super::manifest::{ManifestBuilder, Taken};
    use super::super::plan::{JOB_ENTRIES, Job, Jobs};
    use super::*;
    use crate::progress::NoBar;
    use futures::FutureExt;
    use std::path::Path;
    use std::time::Duration;

    const SUITE: DigestSuite = DigestSuite::Blake3;

    fn entry(directory: &Path, name: &str, size: u64) -> Entry {
        Entry {
            path: name.to_owned(),
            root: directory.into(),
            kind: WalkedKind::File { size },
            modified: 0,
            mode: 0o600,
            user: None,
            group: None,
        }
    }

    /// Reads all entries with one reader; the pieces and the outcomes of the entries.
    fn read(entries: Vec<Entry>, checks_pages: bool) -> (Vec<Piece>, Vec<Result<Taken, Failure>>) {
        let progress = Progress::start("test", entries.iter().map(size).sum(), Box::new(NoBar));
        let queue = JobQueue::with(1000, 1_000_000);
        for Job { number, entries } in Jobs::of(entries.into_iter().collect()) {
            let ready = |entry| Ready { entry, past: Past::New };
            let entries = entries.into_iter().map(ready).collect();
            queue.put(ReadyJob { number, entries }).now_or_never().unwrap();
        }
        drop(queue.closing());
        let reading = Arc::new(Reading {
            queue,
            suite: SUITE,
            seed: FingerprintSeed::draw().unwrap(),
            checks_pages,
            progress,
            tally: Tally::new(None, Arc::default()),
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

    const AHEAD: usize = 2000;
    const EMPTY: u64 = 10_000;

    /// A file with one page, and empty ones behind it.
    fn one_page_and_empty_files(directory: &Path) -> Vec<Entry> {
        std::fs::write(directory.join("0"), [7; 8192]).unwrap();
        std::fs::write(directory.join("1"), []).unwrap();
        let mut entries = vec![entry(directory, "0", 8192)];
        entries.extend((0..EMPTY).map(|_| entry(directory, "1", 0)));
        entries
    }

    /// Starts two readers of an empty queue; the outcomes that they hand over.
    fn two_readers(pieces: &mpsc::Sender<Piece>) -> (Arc<Reading>, mpsc::Receiver<Result<Taken, Failure>>) {
        let reading = Arc::new(Reading {
            queue: JobQueue::with(2, AHEAD),
            suite: SUITE,
            seed: FingerprintSeed::draw().unwrap(),
            checks_pages: false,
            progress: Progress::start("test", 8192, Box::new(NoBar)),
            tally: Tally::new(None, Arc::default()),
        });
        let (taken, all_taken) = mpsc::channel(10);
        for _ in 0..2 {
            let reader = Reader::new(reading.clone(), pieces.clone(), taken.clone());
            std::thread::spawn(move || reader.run());
        }
        (reading, all_taken)
    }

    async fn feed_all(reading: &Reading, entries: Vec<Entry>) {
        let _closing = reading.queue.closing();
        for Job { number, entries } in Jobs::of(entries.into_iter().collect()) {
            let ready = |entry| Ready { entry, past: Past::New };
            let entries = entries.into_iter().map(ready).collect();
            reading.queue.put(ReadyJob { number, entries }).await;
        }
    }

    /// The upload has ended: one reader finds out, and says nothing of the entry that it read. The other does not wait
    /// for it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_that_ends_early_takes_the_others_along() {
        let directory = tempfile::tempdir().unwrap();
        let entries = one_page_and_empty_files(directory.path());
        let (pieces, pieces_sent) = mpsc::channel(1000);
        drop(pieces_sent);
        let (reading, mut all_taken) = two_readers(&pieces);
        let take = async { while all_taken.recv().await.is_some() {} };
        let both = async {
            tokio::select! {
                biased;
                () = take => {}
                () = async { feed_all(&reading, entries).await; std::future::pending().await } => {}
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(30), both).await;
        ended.expect("a reader waits for ever");
    }

    /// The entry of a file with one page waits for its fingerprints, whose bundle the empty files behind it never fill.
    #[tokio::test(flavor = "multi_thread")]
    async fn no_entry_holds_those_behind_it_back_for_long() {
        let directory = tempfile::tempdir().unwrap();
        let entries = one_page_and_empty_files(directory.path());
        let (pieces, _pieces_sent) = mpsc::channel(1000);
        let mut builder = ManifestBuilder::new(SUITE, pieces.clone());
        let (reading, mut all_taken) = two_readers(&pieces);
        let feed = feed_all(&reading, entries);
        let take = async {
            while let Some(next) = all_taken.recv().await {
                let next = next.unwrap();
                let ahead = next.number - builder.taken();
                assert!(ahead < (AHEAD + JOB_ENTRIES) as u64, "{ahead} entries wait");
                builder.take(next).await.unwrap();
                reading.queue.has_taken(builder.taken());
            }
        };
        let both = async { tokio::join!(feed, take) };
        let ended = tokio::time::timeout(Duration::from_secs(30), both).await;
        ended.expect("a reader holds an entry back for ever");
        assert_eq!(builder.taken(), EMPTY + 1);
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
