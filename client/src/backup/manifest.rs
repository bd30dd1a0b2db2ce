//! The manifest while it grows: entries in the order of the walk, parts that are sent as chunks when they are full.

use super::uploader::{Halt, Piece};
use pgmesh_postgres::Entry;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::{Digest, DigestSuite, EntryKind, FileEntry, FileErrors, PartRef, PartWriter};
use std::collections::BTreeMap;
use tokio::sync::mpsc;

/// The outcome of one entry.
#[derive(Debug)]
pub struct Taken {
    /// Its number in the order of the walk.
    pub number: u64,
    /// The entry; none when the file has vanished.
    pub entry: Option<FileEntry>,
}

/// The list of files when it is complete.
#[derive(Debug, Default)]
pub struct FileList {
    /// Its parts, in order.
    pub parts: Vec<PartRef>,
    /// Files with bad pages.
    pub errors: Vec<FileErrors>,
    /// The sizes of all files, in bytes.
    pub size: u64,
    /// The number of files.
    pub files: u64,
}

/// Puts entries in order and writes the parts of the manifest.
pub struct ManifestBuilder {
    suite: DigestSuite,
    pieces: mpsc::Sender<Piece>,
    writer: PartWriter,
    /// The number of the entry that comes next.
    next: u64,
    /// Entries that came before their turn. Readers do not run far ahead of each other: see `queue`.
    early: BTreeMap<u64, Option<FileEntry>>,
    list: FileList,
}

impl ManifestBuilder {
    /// A builder that sends its parts to `pieces`.
    pub fn new(suite: DigestSuite, pieces: mpsc::Sender<Piece>) -> Self {
        Self {
            suite,
            pieces,
            writer: PartWriter::new(),
            next: 0,
            early: BTreeMap::new(),
            list: FileList::default(),
        }
    }

    /// Takes the outcome of an entry, in any order.
    pub async fn take(&mut self, taken: Taken) -> Result<(), Halt> {
        self.early.insert(taken.number, taken.entry);
        while let Some(entry) = self.early.remove(&self.next) {
            self.next += 1;
            if let Some(entry) = entry {
                self.push(entry).await?;
            }
        }
        Ok(())
    }

    /// How many entries have come, in order.
    pub fn taken(&self) -> u64 {
        self.next
    }

    /// Adds an entry behind all others.
    pub async fn push(&mut self, entry: FileEntry) -> Result<(), Halt> {
        if let EntryKind::File { size, bad_pages, .. } = &entry.kind {
            self.list.size += size;
            self.list.files += 1;
            if !bad_pages.is_empty() {
                let errors = FileErrors {
                    path: entry.path.clone(),
                    blocks: bad_pages.clone(),
                };
                self.list.errors.push(errors);
            }
        }
        let parts = self.writer.push(entry).map_err(|error| {
            Halt::Failed(Failure::new(ExitCode::FileInvalid, "a file cannot be written to the manifest").because(error))
        })?;
        for part in parts {
            self.send(part).await?;
        }
        Ok(())
    }

    /// Sends a chunk and answers with its digest.
    pub async fn send_chunk(&mut self, bytes: Vec<u8>) -> Result<Digest, Halt> {
        let digest = self.suite.digest(&bytes);
        self.pieces
            .send(Piece { digest, bytes })
            .await
            .map_err(|_| Halt::UploadEnded)?;
        Ok(digest)
    }

    /// Sends the last part.
    pub async fn finish(mut self) -> Result<FileList, Halt> {
        if let Some(part) = std::mem::take(&mut self.writer).finish() {
            self.send(part).await?;
        }
        Ok(self.list)
    }

    async fn send(&mut self, part: Vec<u8>) -> Result<(), Halt> {
        let length = part.len() as u64;
        let digest = self.send_chunk(part).await?;
        self.list.parts.push(PartRef { digest, length });
        Ok(())
    }
}

/// An entry of the walk, as the manifest has it.
pub fn file_entry(entry: &Entry, kind: EntryKind) -> FileEntry {
    FileEntry {
        path: entry.path.clone(),
        kind,
        modified: entry.modified,
        // Not setuid, setgid and sticky: a data directory has no use for these bits, and a restore with them gives
        // rights away.
        mode: entry.mode & 0o777,
        user: entry.user.as_deref().map(str::to_owned),
        group: entry.group.as_deref().map(str::to_owned),
        fingerprints: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_storage::{BlockRange, PartReader};

    fn file(number: u64, bad_pages: Vec<BlockRange>) -> FileEntry {
        FileEntry {
            path: format!("file{number}"),
            kind: EntryKind::File {
                size: 0,
                crc32c: 0,
                extents: vec![],
                bad_pages,
            },
            modified: 0,
            mode: 0o600,
            user: None,
            group: None,
            fingerprints: None,
        }
    }

    #[tokio::test]
    async fn entries_are_written_in_order_whatever_order_they_come_in() {
        let (pieces, mut sent) = mpsc::channel(100);
        let mut builder = ManifestBuilder::new(DigestSuite::Blake3, pieces);
        for number in [2, 0, 4, 3, 1] {
            // The fourth has vanished.
            let entry = (number != 3).then(|| file(number, vec![]));
            builder.take(Taken { number, entry }).await.unwrap();
        }
        assert_eq!(builder.taken(), 5);
        builder
            .push(file(9, vec![BlockRange { first: 1, count: 1 }]))
            .await
            .unwrap();
        let list = builder.finish().await.unwrap();
        assert_eq!((list.files, list.errors.len()), (5, 1));
        let piece = sent.recv().await.unwrap();
        assert_eq!(
            list.parts,
            [PartRef {
                digest: piece.digest,
                length: piece.bytes.len() as u64
            }]
        );
        let read = PartReader::new().entries(&piece.bytes).unwrap();
        let paths: Vec<_> = read.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["file0", "file1", "file2", "file4", "file9"]);
        assert!(sent.recv().await.is_none());
    }

    #[tokio::test]
    async fn an_upload_that_has_ended_stops_it() {
        let (pieces, sent) = mpsc::channel(1);
        drop(sent);
        let mut builder = ManifestBuilder::new(DigestSuite::Blake3, pieces);
        builder.push(file(0, vec![])).await.unwrap();
        assert!(matches!(builder.finish().await, Err(Halt::UploadEnded)));
    }
}
