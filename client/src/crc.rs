//! The CRC-32C of joined content, from the CRCs of its parts.

use std::sync::OnceLock;

/// The length that parts have as a rule, in bytes: a page.
const PAGE: usize = pgmesh_storage::FINGERPRINT_PAGE;
/// Up to so many pages at once; from there on, working out the map of the whole length is faster.
const MOST_PAGES: usize = 256;

/// The CRC of content whose CRC is `sum`, followed by `length` bytes whose CRC is `crc`.
pub fn append(sum: u32, crc: u32, length: u64) -> u32 {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let pages = length / PAGE;
    if !length.is_multiple_of(PAGE) || pages > MOST_PAGES {
        return crc32c::crc32c_combine(sum, crc, length);
    }
    let shift = Shift::over_a_page();
    (0..pages).fold(sum, |sum, _| shift.apply(sum)) ^ crc
}

/// The effect of a page, of any content, on the CRC of the content before it: a linear map, byte by byte.
/// `crc32c_combine` works it out anew each time, which takes longer than reading the page.
struct Shift([[u32; 256]; 4]);

impl Shift {
    fn over_a_page() -> &'static Self {
        static SHIFT: OnceLock<Shift> = OnceLock::new();
        SHIFT.get_or_init(|| {
            let mut tables = [[0; 256]; 4];
            for (position, table) in tables.iter_mut().enumerate() {
                for (byte, entry) in (0u32..).zip(table) {
                    *entry = crc32c::crc32c_combine(byte << (8 * position), 0, PAGE);
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
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_crc_of_a_whole_follows_from_its_parts(lengths in prop::collection::vec(prop_oneof![0..300usize, Just(PAGE), (1..4usize).prop_map(|pages| pages * PAGE)], 0..9), salt: u8) {
            let part = |length: &usize| -> Vec<u8> { (0..*length).map(|at| (at / 7).to_le_bytes()[0] ^ salt).collect() };
            let parts: Vec<Vec<u8>> = lengths.iter().map(part).collect();
            let sum = parts.iter().fold(0, |sum, part| append(sum, crc32c::crc32c(part), part.len() as u64));
            prop_assert_eq!(sum, crc32c::crc32c(&parts.concat()));
        }
    }

    #[test]
    fn many_pages_are_like_few() {
        for pages in [MOST_PAGES, MOST_PAGES + 1] {
            let length = pages * PAGE;
            assert_eq!(append(7, 9, length as u64), crc32c::crc32c_combine(7, 9, length));
        }
    }
}
