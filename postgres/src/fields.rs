//! Reading numbers at fixed places of a structure that came from a disk.

use std::ops::Range;

/// The little-endian number at `offset`, or `None` when the bytes end before it does.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at(bytes, offset).map(u16::from_le_bytes)
}

/// The little-endian number at `offset`, or `None` when the bytes end before it does.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(u32::from_le_bytes)
}

/// The little-endian number at `offset`, or `None` when the bytes end before it does.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array_at(bytes, offset).map(u64::from_le_bytes)
}

/// The little-endian number at `offset`, or `None` when the bytes end before it does.
pub(crate) fn i64_at(bytes: &[u8], offset: usize) -> Option<i64> {
    array_at(bytes, offset).map(i64::from_le_bytes)
}

fn array_at<const LENGTH: usize>(bytes: &[u8], offset: usize) -> Option<[u8; LENGTH]> {
    let range: Range<usize> = offset..offset.checked_add(LENGTH)?;
    bytes.get(range)?.try_into().ok()
}
