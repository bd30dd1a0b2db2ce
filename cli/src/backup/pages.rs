//! Page checksums while a relation file is read.

use pgmesh_postgres::page::{self, PAGE_SIZE, PageCheck};
use pgmesh_postgres::Lsn;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Checks the pages of relation files against their checksums.
#[derive(Debug, Clone, Copy)]
pub struct PageChecker {
    /// Where the backup began. Pages written since then may be torn; WAL replay writes them again.
    pub start: Lsn,
}

impl PageChecker {
    /// Checks all whole pages of `piece`, which begins with page `first_block` of the relation's fork and lies at byte
    /// `offset` of `file`. A page that fails is read once more: when it has changed it was torn, and what was read now
    /// takes its place. The numbers of the pages that are really bad are added to `bad`.
    pub fn check(&self, file: &File, offset: u64, first_block: u32, piece: &mut [u8], bad: &mut Vec<u32>) {
        for (index, page) in (0u32..).zip(piece.chunks_exact_mut(PAGE_SIZE)) {
            let block = first_block.wrapping_add(index);
            if !matches!(page::check(page, block), PageCheck::Mismatch { .. }) {
                continue;
            }
            let mut again = [0u8; PAGE_SIZE];
            let at = offset + u64::from(index) * PAGE_SIZE as u64;
            // The file may have been truncated meanwhile: then the page is no more, and WAL replay knows.
            if file.read_exact_at(&mut again, at).is_err() {
                continue;
            }
            if again != *page {
                page.copy_from_slice(&again);
                continue;
            }
            if page::lsn(page) < self.start {
                bad.push(block);
            }
        }
    }
}
