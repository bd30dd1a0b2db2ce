//! Page fingerprints: which pages of a file changed since a backup, without its content.
//!
//! Every 8 KiB of a file, and its shorter end, has a fingerprint of 12 bytes. A file's table of fingerprints lies
//! beside the manifest, in chunks: a *base*, which is an earlier state of the table, and a *patch*, which lists the
//! differences from it. So a backup in which few pages of a large file changed stores few fingerprints.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use twox_hash::XxHash3_64;

use super::file_entry::Extent;
use crate::random::{self, RandomError};

/// The length of a page with one fingerprint, in bytes: PostgreSQL's `BLCKSZ`. The last page of a file may be shorter.
pub const FINGERPRINT_PAGE: usize = 8192;
/// A fingerprint in a base, in bytes.
const BASE_RECORD: usize = 12;
/// A fingerprint in a patch, with its page's number, in bytes.
const PATCH_RECORD: usize = 16;
/// A file of fewer pages than this (1 MiB) gets a new base whenever a page changes.
const PATCHED_FROM_PAGES: usize = 128;
/// A patch that is longer than this fraction of the table becomes a new base.
const LONGEST_PATCH: usize = 4;

/// The place of a file's fingerprints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprints {
    /// The base: 12 bytes for each page, in order. The file may have more or fewer pages by now.
    pub base: Vec<Extent>,
    /// The patch: 16 bytes for each page that differs from the base or is not in it, in order.
    pub patch: Vec<Extent>,
}

/// The fingerprint of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFingerprint {
    /// XXH3 (64 bits) of the page, seeded with the stanza's secret.
    pub hash: u64,
    /// CRC-32C of the page; the file's CRC is combined from these.
    pub crc32c: u32,
}

/// The seed of a stanza's fingerprints. It is secret: without it, an attacker cannot make two pages with the same
/// fingerprint. It is in the roots of the manifests, which an encrypted repository encrypts, and in no log.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FingerprintSeed(u64);

impl std::fmt::Debug for FingerprintSeed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("FingerprintSeed(…)")
    }
}

impl FingerprintSeed {
    /// Draws a new seed.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub fn draw() -> Result<Self, RandomError> {
        random::bytes().map(|bytes| Self(u64::from_le_bytes(bytes)))
    }

    /// The fingerprint of one page.
    #[must_use]
    pub fn page(self, page: &[u8]) -> PageFingerprint {
        PageFingerprint {
            hash: XxHash3_64::oneshot_with_seed(self.0, page),
            crc32c: crc32c::crc32c(page),
        }
    }
}

/// The bytes are no table of fingerprints.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FingerprintError {
    /// The length is no multiple of a record's length.
    #[error("{0} bytes are not a whole number of fingerprints")]
    Length(usize),
    /// The pages of a patch do not ascend, or lie past the file's end.
    #[error("the fingerprint of page {0} is out of order")]
    Order(u32),
    /// A page has no fingerprint.
    #[error("page {0} has no fingerprint")]
    Missing(usize),
}

/// The fingerprints of a file, page by page, and the base that they were last stored with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FingerprintTable {
    /// One for each page.
    pub pages: Vec<PageFingerprint>,
    base: Vec<PageFingerprint>,
}

/// The form in which a table is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredTable {
    /// As a new base.
    Base(Vec<u8>),
    /// As a patch of the present base.
    Patch(Vec<u8>),
}

impl FingerprintTable {
    /// Reads the table of a file with `page_count` pages.
    ///
    /// # Errors
    /// The bytes are no base, or no patch, or a page has no fingerprint.
    pub fn decode(base: &[u8], patch: &[u8], page_count: usize) -> Result<Self, FingerprintError> {
        let (records, rest) = base.as_chunks::<BASE_RECORD>();
        if !rest.is_empty() {
            return Err(FingerprintError::Length(base.len()));
        }
        let base: Vec<PageFingerprint> = records.iter().map(decode_one).collect();
        let mut pages: Vec<Option<PageFingerprint>> = base.iter().copied().map(Some).collect();
        pages.resize(page_count, None);
        let (records, rest) = patch.as_chunks::<PATCH_RECORD>();
        if !rest.is_empty() {
            return Err(FingerprintError::Length(patch.len()));
        }
        let mut next = 0;
        for record in records {
            let [a, b, c, d, fingerprint @ ..] = record;
            let page = u32::from_le_bytes([*a, *b, *c, *d]);
            if page < next {
                return Err(FingerprintError::Order(page));
            }
            next = page.saturating_add(1);
            // If the file has shrunk, its patch may still have the pages that were cut off.
            if let Some(place) = pages.get_mut(page as usize) {
                *place = Some(decode_one(fingerprint));
            }
        }
        let all = pages.into_iter().enumerate();
        let pages = all.map(|(number, page)| page.ok_or(FingerprintError::Missing(number)));
        Ok(Self {
            pages: pages.collect::<Result<_, _>>()?,
            base,
        })
    }

    /// The form in which the file's new pages are stored.
    #[must_use]
    pub fn with_pages(&self, pages: Vec<PageFingerprint>) -> StoredTable {
        store(&self.base, &pages)
    }
}

/// The form in which `pages` are stored, given the pages of the base; `base` is empty for a file without one.
fn store(base: &[PageFingerprint], pages: &[PageFingerprint]) -> StoredTable {
    let longest = pages.len() * BASE_RECORD / LONGEST_PATCH;
    if pages.len() >= PATCHED_FROM_PAGES
        && let Some(patch) = patch(base, pages, longest)
    {
        return StoredTable::Patch(patch);
    }
    let mut bytes = Vec::with_capacity(pages.len() * BASE_RECORD);
    pages.iter().for_each(|page| encode_one(page, &mut bytes));
    StoredTable::Base(bytes)
}

fn patch(base: &[PageFingerprint], pages: &[PageFingerprint], longest: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for (number, page) in (0u32..).zip(pages) {
        if base.get(number as usize) != Some(page) {
            bytes.extend_from_slice(&number.to_le_bytes());
            encode_one(page, &mut bytes);
            if bytes.len() > longest {
                return None;
            }
        }
    }
    Some(bytes)
}

impl StoredTable {
    /// The stored form of a file's first table.
    #[must_use]
    pub fn new(pages: &[PageFingerprint]) -> Self {
        store(&[], pages)
    }

    /// The length in bytes of the first table of a file with `page_count` pages.
    #[must_use]
    pub const fn first_length(page_count: usize) -> usize {
        page_count * BASE_RECORD
    }
}

impl Fingerprints {
    /// Whether the lengths of the extents are possible.
    pub(super) fn is_plausible(&self) -> bool {
        let is_whole = |extents: &[Extent], record: usize| {
            let sum: u64 = extents.iter().map(|extent| u64::from(extent.length)).sum();
            sum.is_multiple_of(record as u64) && extents.iter().all(|extent| extent.length > 0)
        };
        is_whole(&self.base, BASE_RECORD) && is_whole(&self.patch, PATCH_RECORD)
    }
}

fn decode_one(record: &[u8; BASE_RECORD]) -> PageFingerprint {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *record;
    PageFingerprint {
        hash: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        crc32c: u32::from_le_bytes([i, j, k, l]),
    }
}

fn encode_one(page: &PageFingerprint, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&page.hash.to_le_bytes());
    bytes.extend_from_slice(&page.crc32c.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(number: u64) -> PageFingerprint {
        PageFingerprint {
            hash: number.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            crc32c: number.to_le_bytes()[0].into(),
        }
    }

    #[test]
    fn the_seed_decides_and_the_crc_is_that_of_the_page() {
        let (one, other) = (FingerprintSeed(1), FingerprintSeed(2));
        let content = [7u8; FINGERPRINT_PAGE];
        assert_ne!(one.page(&content).hash, other.page(&content).hash);
        assert_eq!(one.page(&content), one.page(&content));
        assert_eq!(one.page(&content).crc32c, crc32c::crc32c(&content));
        assert_eq!(format!("{:?}", FingerprintSeed::draw().unwrap()), "FingerprintSeed(…)");
    }

    #[test]
    fn few_changes_of_a_large_table_are_a_patch_and_many_a_base() {
        let pages: Vec<_> = (0..1000).map(page).collect();
        let StoredTable::Base(base) = StoredTable::new(&pages) else {
            panic!("the first is a base")
        };
        assert_eq!(base.len(), StoredTable::first_length(1000));
        let table = FingerprintTable::decode(&base, &[], 1000).unwrap();
        let mut changed = pages.clone();
        changed[3] = page(5000);
        changed.push(page(6000));
        let StoredTable::Patch(patch) = table.with_pages(changed.clone()) else {
            panic!("two changes are a patch")
        };
        assert_eq!(patch.len(), 2 * PATCH_RECORD);
        assert_eq!(FingerprintTable::decode(&base, &patch, 1001).unwrap().pages, changed);
        changed[..400].fill(page(7000));
        assert!(matches!(table.with_pages(changed), StoredTable::Base(_)));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let StoredTable::Base(base) = StoredTable::new(&[page(1), page(2)]) else {
            panic!("a base")
        };
        let decode = FingerprintTable::decode;
        assert_eq!(decode(&base[1..], &[], 2), Err(FingerprintError::Length(23)));
        assert_eq!(decode(&base, &[0; 17], 2), Err(FingerprintError::Length(17)));
        assert_eq!(decode(&base, &[], 3), Err(FingerprintError::Missing(2)));
        assert_eq!(decode(&base, &[0; 32], 2), Err(FingerprintError::Order(0)));
        assert_eq!(
            decode(&base, &[], 1).unwrap().pages,
            [page(1)],
            "a file that was truncated"
        );
    }

    proptest! {
        #[test]
        fn a_table_is_found_again_through_any_history(
            histories in prop::collection::vec((1usize..600, prop::collection::vec((0usize..600, any::<u64>()), 0..60)), 1..12)
        ) {
            let (mut base, mut patch) = (Vec::new(), Vec::new());
            let mut pages: Vec<PageFingerprint> = Vec::new();
            for (count, changes) in histories {
                let table = FingerprintTable::decode(&base, &patch, pages.len()).unwrap();
                prop_assert_eq!(&table.pages, &pages);
                pages.resize(count, page(9));
                for (at, value) in changes {
                    if let Some(place) = pages.get_mut(at) {
                        *place = page(value);
                    }
                }
                match table.with_pages(pages.clone()) {
                    StoredTable::Base(bytes) => (base, patch) = (bytes, Vec::new()),
                    StoredTable::Patch(bytes) => patch = bytes,
                }
            }
            prop_assert_eq!(FingerprintTable::decode(&base, &patch, pages.len()).unwrap().pages, pages);
        }

        #[test]
        fn any_bytes_are_read_or_refused(base: Vec<u8>, patch: Vec<u8>, count in 0usize..100) {
            let _ = FingerprintTable::decode(&base, &patch, count);
        }
    }
}
