//! Pages of a file: how many, how long each is, and the CRC of the whole from theirs.

use pgmesh_storage::{FINGERPRINT_PAGE, PageFingerprint};
use std::sync::OnceLock;

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

/// The CRC-32C of a file of `size` bytes from those of its pages.
pub fn combine(pages: &[PageFingerprint], size: u64) -> u32 {
    let whole = usize::try_from(size / PAGE).unwrap_or(usize::MAX).min(pages.len());
    let (whole, rest) = pages.split_at(whole);
    let shift = Shift::over_a_page();
    let sum = whole.iter().fold(0, |sum, page| shift.apply(sum) ^ page.crc32c);
    let end = usize::try_from(size % PAGE).unwrap_or(0);
    rest.iter()
        .fold(sum, |sum, page| crc32c::crc32c_combine(sum, page.crc32c, end))
}

/// What a page of any content does to the CRC of what comes before it: a linear map, byte by byte. `crc32c_combine` works
/// it out anew each time, which takes longer than reading the page.
struct Shift([[u32; 256]; 4]);

impl Shift {
    fn over_a_page() -> &'static Self {
        static SHIFT: OnceLock<Shift> = OnceLock::new();
        SHIFT.get_or_init(|| {
            let mut tables = [[0; 256]; 4];
            for (position, table) in tables.iter_mut().enumerate() {
                for (byte, entry) in (0u32..).zip(table) {
                    *entry = crc32c::crc32c_combine(byte << (8 * position), 0, FINGERPRINT_PAGE);
                }
            }
            Self(tables)
        })
    }

    fn apply(&self, crc: u32) -> u32 {
        let bytes = crc.to_le_bytes();
        let tables = self.0.iter().zip(bytes);
        tables.fold(0, |sum, (table, byte)| {
            sum ^ table.get(usize::from(byte)).copied().unwrap_or(0)
        })
    }
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
