//! Data pages: their checksums and their positions in the WAL.

use crate::Lsn;
use crate::fields::{u16_at, u32_at};

/// The bytes of a data page (`BLCKSZ`). Clusters with other pages are refused when `pg_control` is read.
pub const PAGE_SIZE: usize = 8192;

/// One data page.
pub type Page = [u8; PAGE_SIZE];

/// The lanes that the checksum is computed in (`N_SUMS`).
const LANES: usize = 32;
/// The bytes of one round over all lanes.
const ROW: usize = LANES * size_of::<u32>();
const FNV_PRIME: u32 = 16_777_619;

/// `checksumBaseOffsets` in checksum_impl.h.
const BASE_OFFSETS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// The offset of `pd_checksum` in `PageHeaderData` (bufpage.h).
const CHECKSUM_OFFSET: usize = 8;
/// The offset of `pd_upper`; it is 0 in a page that was never initialised.
const UPPER_OFFSET: usize = 14;

/// The result of a page's check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCheck {
    /// The page was never written: all zero, which is right.
    AllZero,
    /// The stored checksum fits the content and the block number.
    Valid,
    /// The page is damaged, torn, or lies in another block's place.
    Mismatch {
        /// The checksum in the page.
        stored: u16,
        /// The checksum of its content. Equal to `stored` only when the page claims to be uninitialised and is not
        /// zero.
        computed: u16,
    },
}

/// The pages of a piece of a relation file; a remainder shorter than a page is left out.
#[must_use]
pub fn pages(bytes: &[u8]) -> &[Page] {
    bytes.as_chunks().0
}

/// The checksum of a page as block number `block` of its relation's fork (`pg_checksum_page` in checksum_impl.h). The
/// stored checksum does not count. Never 0.
///
/// `block` counts from the beginning of the fork, over all its segment files:
/// [`RelationFile::first_block`](crate::RelationFile::first_block) gives that of a file's first page.
#[must_use]
#[allow(clippy::cast_possible_truncation)] // A remainder of 65535, plus one, fits.
pub fn checksum(page: &Page, block: u32) -> u16 {
    let mut sums = BASE_OFFSETS;
    let mut rows = page.as_chunks::<ROW>().0.iter();
    if let Some(first) = rows.next() {
        // The stored checksum counts as zero.
        let mut first = *first;
        first[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].fill(0);
        mix(&mut sums, &first);
    }
    for row in rows {
        mix(&mut sums, row);
    }
    mix(&mut sums, &[0; ROW]);
    mix(&mut sums, &[0; ROW]);
    let folded = sums.iter().fold(0, |folded, sum| folded ^ sum);
    ((folded ^ block) % 65535 + 1) as u16
}

/// One round of FNV-1a over all lanes. The lanes do not depend on each other, so that the compiler makes vectors of
/// them.
#[inline(always)]
fn mix(sums: &mut [u32; LANES], row: &[u8; ROW]) {
    for (sum, value) in sums.iter_mut().zip(row.as_chunks::<4>().0) {
        let mixed = *sum ^ u32::from_le_bytes(*value);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

/// Checks a page that was read as block number `block` of its relation's fork, as PostgreSQL does when it reads one
/// (`PageIsVerified` in bufpage.c). Only for clusters with checksums.
#[must_use]
pub fn check(page: &Page, block: u32) -> PageCheck {
    let is_new = u16_at(page, UPPER_OFFSET) == Some(0);
    if is_new && *page == [0; PAGE_SIZE] {
        return PageCheck::AllZero;
    }
    let stored = u16_at(page, CHECKSUM_OFFSET).unwrap_or(0);
    let computed = checksum(page, block);
    if stored == computed && !is_new {
        PageCheck::Valid
    } else {
        PageCheck::Mismatch { stored, computed }
    }
}

/// The end of the last WAL record that changed the page (`pd_lsn`); invalid when none did. Meaningless in unlogged
/// relations and in free space maps.
#[must_use]
pub fn lsn(page: &Page) -> Lsn {
    // Two 32-bit numbers, the high one first: not a little-endian 64-bit number.
    let high = u32_at(page, 0).unwrap_or(0);
    let low = u32_at(page, 4).unwrap_or(0);
    Lsn(u64::from(high) << 32 | u64::from(low))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(seed: u64) -> Page {
        let mut state = seed;
        let mut page = [0; PAGE_SIZE];
        for byte in &mut page {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
        page[UPPER_OFFSET] |= 1;
        page
    }

    fn with_checksum(mut page: Page, block: u32) -> Page {
        let sum = checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    /// The algorithm as checksum_impl.h has it, lane by lane.
    fn plain_checksum(page: &Page, block: u32) -> u16 {
        let mut page = *page;
        page[8..10].fill(0);
        let mut result = 0u32;
        for (lane, base) in BASE_OFFSETS.iter().enumerate() {
            let mut sum = *base;
            for round in 0..PAGE_SIZE / ROW + 2 {
                let at = (round * LANES + lane) * 4;
                let value = page
                    .get(at..at + 4)
                    .map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
                let mixed = sum ^ value;
                sum = mixed.wrapping_mul(16_777_619) ^ (mixed >> 17);
            }
            result ^= sum;
        }
        u16::try_from((result ^ block) % 65535 + 1).unwrap()
    }

    #[test]
    fn zero_pages_are_right_everywhere() {
        assert_eq!(check(&[0; PAGE_SIZE], 0), PageCheck::AllZero);
        assert_eq!(check(&[0; PAGE_SIZE], 4711), PageCheck::AllZero);
    }

    #[test]
    fn an_uninitialised_page_with_content_is_damaged() {
        let mut bytes = [0; PAGE_SIZE];
        bytes[8191] = 1;
        assert!(matches!(check(&with_checksum(bytes, 3), 3), PageCheck::Mismatch { .. }));
    }

    #[test]
    fn the_position_has_its_high_half_first() {
        let mut bytes = [0; PAGE_SIZE];
        bytes[..8].copy_from_slice(&[0x16, 0, 0, 0, 0x48, 0xD8, 0x74, 0xB3]);
        assert_eq!(lsn(&bytes).to_string(), "16/B374D848");
    }

    #[test]
    fn pages_of_a_piece() {
        assert_eq!(pages(&[0; 2 * PAGE_SIZE + 5]).len(), 2);
        assert!(pages(&[0; PAGE_SIZE - 1]).is_empty());
    }

    proptest! {
        #[test]
        fn lanes_compute_what_the_header_says(seed: u64, block: u32) {
            let page = page(seed);
            prop_assert_eq!(checksum(&page, block), plain_checksum(&page, block));
        }

        #[test]
        fn a_flipped_bit_or_another_place_is_found(seed: u64, block in 0u32..1_000_000, bit in 0usize..PAGE_SIZE * 8) {
            let good = with_checksum(page(seed), block);
            prop_assert_eq!(check(&good, block), PageCheck::Valid);
            prop_assert_ne!(check(&good, block + 1), PageCheck::Valid);
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(check(&bad, block), PageCheck::Valid);
        }
    }
}
