//! Reading a file by pages, which are checked.

use super::pages::PageChecker;
use super::plan::size;
use crate::read_at::read_at;
use pgmesh_postgres::{Entry, RelationFile};
use pgmesh_storage::BlockRange;
use std::fs::File;
use std::io;

/// A file of this size or less is read once, and then held in memory.
const HELD: u64 = 1 << 20;

/// A file while it is read.
pub struct PageSource<'file> {
    file: &'file File,
    checker: Option<PageChecker<'file>>,
    held: Option<Vec<u8>>,
    /// The size that the walk saw, in bytes; later bytes are not read.
    pub size: u64,
}

impl<'file> PageSource<'file> {
    /// Before anything was read. `bad`: pages that were bad when they were last read.
    pub fn new(file: &'file File, entry: &Entry, checks_pages: bool, bad: &[BlockRange]) -> Self {
        let relation = checks_pages.then(|| RelationFile::parse(&entry.path)).flatten();
        Self {
            file,
            checker: relation.map(|relation| PageChecker::new(file, relation.first_block(), bad)),
            held: None,
            size: size(entry),
        }
    }

    /// Reads from byte `at`, the beginning of a page: fewer bytes than asked for only where the file ends.
    pub fn read(&mut self, at: u64, length: u64) -> io::Result<Vec<u8>> {
        if self.size > HELD {
            return self.read_anew(at, length);
        }
        if self.held.is_none() {
            self.held = Some(self.read_anew(0, self.size)?);
        }
        let held = self.held.as_deref().unwrap_or_default();
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(held.len());
        let to = usize::try_from(at + length).unwrap_or(usize::MAX).min(held.len());
        Ok(held.get(from..to).unwrap_or_default().to_vec())
    }

    fn read_anew(&mut self, at: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        let have = read_at(self.file, &mut piece, at)?;
        piece.truncate(have);
        if let Some(checker) = &mut self.checker {
            checker.check(at, &mut piece);
        }
        Ok(piece)
    }

    /// The pages that are bad, of the first `pages`.
    pub fn into_bad(self, pages: u32) -> Vec<BlockRange> {
        self.checker.map(|checker| checker.into_bad(pages)).unwrap_or_default()
    }
}
