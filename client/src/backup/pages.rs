//! Page checksums while a relation file is read.

use pgmesh_postgres::page::{self, PAGE_SIZE, Page, PageCheck};
use pgmesh_storage::BlockRange;
use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// How long a write of one page that is under way may take before the page is read again.
const SETTLE: Duration = Duration::from_millis(20);
/// How many ranges a message names.
const RANGES_NAMED: usize = 8;

/// Checks the pages of one relation file against their checksums, piece by piece.
pub struct PageChecker<'file> {
    file: &'file File,
    /// The number of the file's first page in its fork.
    first_block: u32,
    /// Numbers within the file.
    bad: BTreeSet<u32>,
}

impl<'file> PageChecker<'file> {
    /// A checker for `file`, whose first page is page `first_block` of the relation's fork. `known`: pages that were
    /// bad when they were last read.
    pub fn new(file: &'file File, first_block: u32, known: &[BlockRange]) -> Self {
        let pages = |range: &BlockRange| range.first..range.first.saturating_add(range.count);
        Self {
            file,
            first_block,
            bad: known.iter().flat_map(pages).collect(),
        }
    }

    /// Checks all whole pages of `piece`, which was read at byte `offset`, a multiple of the page size.
    ///
    /// A page that fails is read once more, a moment later. If it has changed, the server was writing it: the second
    /// read takes its place, and WAL replay writes the page again in any case. If it has not changed, it is bad.
    pub fn check(&mut self, offset: u64, piece: &mut [u8]) {
        let first = u32::try_from(offset / PAGE_SIZE as u64).unwrap_or(u32::MAX);
        let pages = piece.as_chunks_mut::<PAGE_SIZE>().0;
        if !self.bad.is_empty() {
            let last = first.saturating_add(u32::try_from(pages.len()).unwrap_or(u32::MAX));
            self.bad.retain(|page| !(first..last).contains(page));
        }
        let block_of = |index: u32| self.first_block.wrapping_add(first).wrapping_add(index);
        let failed: Vec<(u32, &mut Page)> = (0u32..)
            .zip(pages)
            .filter(|(index, page)| matches!(page::check(page, block_of(*index)), PageCheck::Mismatch { .. }))
            .collect();
        if failed.is_empty() {
            return;
        }
        std::thread::sleep(SETTLE);
        for (index, page) in failed {
            let mut again = [0u8; PAGE_SIZE];
            let at = offset + u64::from(index) * PAGE_SIZE as u64;
            // The file may have been truncated meanwhile: then the page is no more, and WAL replay knows.
            if self.file.read_exact_at(&mut again, at).is_err() {
                continue;
            }
            if again == *page {
                self.bad.insert(first.wrapping_add(index));
            } else {
                *page = again;
            }
        }
    }

    /// The pages that are really bad, of the first `pages`, as ranges of numbers within the file.
    pub fn into_bad(self, pages: u32) -> Vec<BlockRange> {
        ranges(self.bad.range(..pages).copied())
    }
}

/// Joins ascending numbers to ranges.
fn ranges(blocks: impl IntoIterator<Item = u32>) -> Vec<BlockRange> {
    let mut ranges: Vec<BlockRange> = Vec::new();
    for block in blocks {
        match ranges.last_mut() {
            Some(range) if range.first.checked_add(range.count) == Some(block) => range.count += 1,
            _ => ranges.push(BlockRange { first: block, count: 1 }),
        }
    }
    ranges
}

/// Block ranges as a user reads them: `0, 3-5 and 2 more ranges`.
pub struct ShownRanges<'a>(pub &'a [BlockRange]);

impl fmt::Display for ShownRanges<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().take(RANGES_NAMED).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(formatter, "{separator}{}", range.first)?;
            if range.count > 1 {
                write!(formatter, "-{}", u64::from(range.first) + u64::from(range.count) - 1)?;
            }
        }
        match self.0.len().saturating_sub(RANGES_NAMED) {
            0 => Ok(()),
            more => write!(formatter, " and {more} more ranges"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A page with content and the right checksum for `block`.
    fn page(block: u32, fill: u8) -> Page {
        let mut page = [fill; PAGE_SIZE];
        let checksum = page::checksum(&page, block);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    fn file(pages: &[Page]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(pages.as_flattened()).unwrap();
        file
    }

    fn bad(file: &File, first_block: u32, offset: u64, piece: &mut [u8]) -> Vec<BlockRange> {
        let mut checker = PageChecker::new(file, first_block, &[]);
        checker.check(offset, piece);
        checker.into_bad(u32::MAX)
    }

    #[test]
    fn block_numbers_go_on_over_segment_files_and_pieces() {
        let pages = [page(131_072, 1), page(131_073, 2)];
        let file = file(&pages);
        assert!(bad(&file, 131_072, 0, { pages }.as_flattened_mut()).is_empty());
        assert!(bad(&file, 131_072, 8192, &mut { pages[1] }).is_empty());
        let wrong = bad(&file, 0, 0, { pages }.as_flattened_mut());
        assert_eq!(wrong, [BlockRange { first: 0, count: 2 }]);
    }

    #[test]
    fn a_page_that_stays_wrong_is_bad_and_one_that_changed_was_torn() {
        let mut pages = [page(0, 1), page(1, 2), page(2, 3)];
        pages[0][4000] ^= 1;
        let file = file(&pages);
        let mut read = pages;
        // The second was caught in the middle of a write.
        read[1][8000] ^= 1;
        let wrong = bad(&file, 0, 0, read.as_flattened_mut());
        assert_eq!(wrong, [BlockRange { first: 0, count: 1 }]);
        assert_eq!(read[1], pages[1]);
    }

    #[test]
    fn zero_pages_and_the_rest_of_a_page_pass() {
        let pages = [[0; PAGE_SIZE]];
        let file = file(&pages);
        assert!(bad(&file, 0, 0, &mut [0; PAGE_SIZE + 100]).is_empty());
    }

    #[test]
    fn what_was_bad_stays_so_until_it_is_read_again() {
        let pages = [page(0, 1), page(1, 2)];
        let file = file(&pages);
        let known = [BlockRange { first: 0, count: 3 }];
        let mut checker = PageChecker::new(&file, 0, &known);
        checker.check(8192, &mut { pages[1] });
        let bad = checker.into_bad(3);
        assert_eq!(
            bad,
            [BlockRange { first: 0, count: 1 }, BlockRange { first: 2, count: 1 }]
        );
        assert!(PageChecker::new(&file, 0, &known).into_bad(0).is_empty());
    }

    #[test]
    fn a_page_that_was_truncated_away_is_not_bad() {
        let file = file(&[]);
        assert!(bad(&file, 0, 0, &mut [7; PAGE_SIZE]).is_empty());
    }

    #[test]
    fn ranges_are_joined_and_shown() {
        let found = ranges([0, 3, 4, 5, 9]);
        assert_eq!(found.len(), 3);
        assert_eq!(ShownRanges(&found).to_string(), "0, 3-5, 9");
        let many = (0..20).map(|n| n * 2);
        assert!(
            ShownRanges(&ranges(many))
                .to_string()
                .ends_with("14 and 12 more ranges")
        );
    }
}
