//! Pages of a file: how many, how long each is, and the CRC of the whole from theirs.

use crate::crc::append;
use pgmesh_storage::{FINGERPRINT_PAGE, PageFingerprint};

/// [`FINGERPRINT_PAGE`], for arithmetic with offsets.
pub const PAGE: u64 = FINGERPRINT_PAGE as u64;

/// How many pages a file of `size` bytes has, a shorter one at its end included.
pub fn page_count(size: u64) -> u32 {
    u32::try_from(size.div_ceil(PAGE)).unwrap_or(u32::MAX)
}

/// The length of a page in bytes, in a file of `size` bytes.
pub fn page_length(size: u64, page: u32) -> u64 {
    size.saturating_sub(u64::from(page) * PAGE).min(PAGE)
}

/// The CRC-32C of a file of `size` bytes, combined from its pages' CRCs.
pub fn combine(pages: &[PageFingerprint], size: u64) -> u32 {
    let numbered = (0..).zip(pages);
    numbered.fold(0, |sum, (page, known)| {
        append(sum, known.crc32c, page_length(size, page))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_storage::FingerprintSeed;
    use proptest::prelude::*;

    #[test]
    fn the_last_page_may_be_shorter() {
        assert_eq!([0, 1, 8192, 8193].map(page_count), [0, 1, 1, 2]);
        assert_eq!([0, 1, 2].map(|page| page_length(8200, page)), [8192, 8, 0]);
    }

    proptest! {
        #[test]
        fn the_crc_of_a_file_follows_from_its_pages(size in 0usize..70_000, salt: u8) {
            let content: Vec<u8> = (0..size).map(|at| (at / 7).to_le_bytes()[0] ^ salt).collect();
            let seed = FingerprintSeed::draw().unwrap();
            let pages: Vec<_> = content.chunks(FINGERPRINT_PAGE).map(|page| seed.page(page)).collect();
            prop_assert_eq!(combine(&pages, size as u64), crc32c::crc32c(&content));
        }
    }
}
