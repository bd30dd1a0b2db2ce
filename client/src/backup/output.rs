//! The output of a reader: pieces of content for the upload, and entries for the manifest as soon as all their extents
//! are known.

use super::bundle::{BUNDLE_BELOW, Bundle, CHUNK_SIZE, List, Slot};
use super::manifest::Taken;
use super::uploader::{Halt, Piece};
use crate::extents;
use pgmesh_protocol::Failure;
use pgmesh_storage::{BlockRange, Digest, DigestSuite, EntryKind, Extent, FileEntry, Fingerprints};
use std::collections::HashMap;
use tokio::sync::mpsc;

/// Fingerprints are gathered over several jobs, up to so many bytes: those of 43 MiB of files. A backup reads them
/// without the content, so they do not lie among it.
const MARKS_LENGTH: usize = 64 << 10;
/// And of no more files, because these wait for them (invariant 11).
const MARKS_WAITING: usize = 512;
/// Stands for the digest of a bundle that is not full yet.
const NOT_YET: Digest = Digest([0; 32]);

/// The output of one reader.
pub struct Output {
    suite: DigestSuite,
    pieces: mpsc::Sender<Piece>,
    taken: mpsc::Sender<Result<Taken, Failure>>,
    content: Bundle,
    marks: Bundle,
    open: HashMap<u64, OpenFile>,
}

/// A file whose entry is not complete.
struct OpenFile {
    entry: FileEntry,
    extents: Vec<Extent>,
    fingerprints: Fingerprints,
    /// How many extents wait for the digest of a bundle.
    waiting: usize,
    /// The reader has finished the file.
    finished: bool,
}

impl OpenFile {
    fn list(&mut self, list: List) -> &mut Vec<Extent> {
        match list {
            List::Content => &mut self.extents,
            List::Base => &mut self.fingerprints.base,
            List::Patch => &mut self.fingerprints.patch,
        }
    }

    fn into_entry(self) -> FileEntry {
        let mut entry = self.entry;
        if let EntryKind::File { extents, .. } = &mut entry.kind {
            *extents = self.extents;
        }
        let has_fingerprints = !self.fingerprints.base.is_empty() || !self.fingerprints.patch.is_empty();
        entry.fingerprints = has_fingerprints.then_some(self.fingerprints);
        entry
    }
}

impl Output {
    /// Into these channels.
    pub fn new(suite: DigestSuite, pieces: mpsc::Sender<Piece>, taken: mpsc::Sender<Result<Taken, Failure>>) -> Self {
        Self {
            suite,
            pieces,
            taken,
            content: Bundle::default(),
            marks: Bundle::default(),
            open: HashMap::new(),
        }
    }

    /// Begins a file, which is entry `number`.
    pub fn begin(&mut self, number: u64, entry: FileEntry) {
        let file = OpenFile {
            entry,
            extents: Vec::new(),
            fingerprints: Fingerprints::default(),
            waiting: 0,
            finished: false,
        };
        self.open.insert(number, file);
    }

    /// Adds to a file an extent that lies in a chunk already.
    pub fn keep(&mut self, number: u64, list: List, extent: Extent) {
        if let Some(file) = self.open.get_mut(&number) {
            extents::push(file.list(list), extent);
        }
    }

    /// Adds to a file a piece that is a chunk of its own.
    pub fn chunk(&mut self, number: u64, list: List, bytes: Vec<u8>) -> Result<(), Halt> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let digest = self.send(bytes)?;
        let extent = Extent {
            digest,
            offset: 0,
            length,
        };
        self.keep(number, list, extent);
        Ok(())
    }

    /// Adds to a file a small piece that is not divided.
    pub fn bundled(&mut self, number: u64, list: List, piece: &[u8]) -> Result<(), Halt> {
        if piece.len() > self.bundle(list).room() {
            self.seal(list)?;
        }
        self.add_to_bundle(number, list, piece);
        Ok(())
    }

    /// Adds to a file's content pages that fill bundles one after the other.
    pub fn pages(&mut self, number: u64, mut pages: &[u8], page: usize) -> Result<(), Halt> {
        while !pages.is_empty() {
            let room = self.content.room() / page * page;
            if room == 0 {
                self.seal(List::Content)?;
                continue;
            }
            let (piece, rest) = pages.split_at(room.min(pages.len()));
            self.add_to_bundle(number, List::Content, piece);
            pages = rest;
        }
        Ok(())
    }

    /// Adds fingerprints to a file.
    pub fn fingerprints(&mut self, number: u64, list: List, bytes: &[u8]) -> Result<(), Halt> {
        for piece in bytes.chunks(CHUNK_SIZE) {
            if piece.len() < BUNDLE_BELOW {
                self.bundled(number, list, piece)?;
            } else {
                self.chunk(number, list, piece.to_vec())?;
            }
        }
        if self.marks.len() >= MARKS_LENGTH || self.marks.waiting() >= MARKS_WAITING {
            self.seal(List::Base)?;
        }
        Ok(())
    }

    /// Finishes a file whose extents have all been added, with its size, CRC and bad pages.
    pub fn finish(&mut self, number: u64, size: u64, crc32c: u32, bad_pages: Vec<BlockRange>) -> Result<(), Halt> {
        let Some(file) = self.open.get_mut(&number) else {
            return Ok(());
        };
        file.entry.kind = EntryKind::File {
            size,
            crc32c,
            extents: Vec::new(),
            bad_pages,
        };
        file.finished = true;
        self.tell_if_complete(number)
    }

    /// Hands over an entry that is complete, or none where the file has vanished.
    pub fn tell(&self, number: u64, entry: Option<FileEntry>) -> Result<(), Halt> {
        let taken = Taken { number, entry };
        self.taken.blocking_send(Ok(taken)).map_err(|_| Halt::UploadEnded)
    }

    /// The files that belong together have all been added. The same files give the same bundles.
    pub fn end_job(&mut self) -> Result<(), Halt> {
        self.seal(List::Content)
    }

    /// Ends all bundles as they are: there are no more files, or the manifest waits for entries that wait for a bundle.
    pub fn flush(&mut self) -> Result<(), Halt> {
        self.seal(List::Content)?;
        self.seal(List::Base)
    }

    /// Hands over a failure, which ends the backup.
    pub fn fail(&self, failure: Failure) {
        // If the receiver is gone, another failure has ended the backup already.
        let _ = self.taken.blocking_send(Err(failure));
    }

    fn bundle(&mut self, list: List) -> &mut Bundle {
        match list {
            List::Content => &mut self.content,
            List::Base | List::Patch => &mut self.marks,
        }
    }

    fn add_to_bundle(&mut self, number: u64, list: List, piece: &[u8]) {
        let bundle = match list {
            List::Content => &mut self.content,
            List::Base | List::Patch => &mut self.marks,
        };
        let Some(file) = self.open.get_mut(&number).filter(|_| !piece.is_empty()) else {
            return;
        };
        let offset = bundle.add(piece);
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        let last = bundle.last();
        let extents = file.list(list);
        let slot = |index| Slot {
            file: number,
            list,
            index,
        };
        // Pages that follow each other in the file follow each other in the bundle.
        match extents.len().checked_sub(1).zip(extents.last_mut()) {
            Some((index, before)) if last == Some(slot(index)) && before.offset + before.length == offset => {
                before.length += length;
            }
            _ => {
                let index = extents.len();
                extents.push(Extent {
                    digest: NOT_YET,
                    offset,
                    length,
                });
                bundle.wait(slot(index));
                file.waiting += 1;
            }
        }
    }

    fn seal(&mut self, list: List) -> Result<(), Halt> {
        let Some((bytes, slots)) = self.bundle(list).seal() else {
            return Ok(());
        };
        let digest = self.send(bytes)?;
        for slot in slots {
            if let Some(file) = self.open.get_mut(&slot.file) {
                if let Some(extent) = file.list(slot.list).get_mut(slot.index) {
                    extent.digest = digest;
                }
                file.waiting = file.waiting.saturating_sub(1);
            }
            self.tell_if_complete(slot.file)?;
        }
        Ok(())
    }

    fn tell_if_complete(&mut self, number: u64) -> Result<(), Halt> {
        let is_complete = |file: &OpenFile| file.finished && file.waiting == 0;
        if !self.open.get(&number).is_some_and(is_complete) {
            return Ok(());
        }
        match self.open.remove(&number) {
            Some(file) => self.tell(number, Some(file.into_entry())),
            None => Ok(()),
        }
    }

    fn send(&self, bytes: Vec<u8>) -> Result<Digest, Halt> {
        let digest = self.suite.digest(&bytes);
        self.pieces
            .blocking_send(Piece { digest, bytes })
            .map_err(|_| Halt::UploadEnded)?;
        Ok(digest)
    }
}
