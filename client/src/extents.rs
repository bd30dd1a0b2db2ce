//! Lists of extents: parts of them, and their growth. A file is the concatenation of its extents.

use pgmesh_storage::Extent;
use std::ops::Range;

/// Where each extent of a file begins, so that parts of it are found quickly.
pub struct ExtentMap<'a> {
    extents: &'a [Extent],
    /// The first byte of each extent.
    starts: Vec<u64>,
}

impl<'a> ExtentMap<'a> {
    /// Of a file's extents.
    pub fn of(extents: &'a [Extent]) -> Self {
        let mut at = 0;
        let starts = extents.iter().map(|extent| {
            let start = at;
            at += u64::from(extent.length);
            start
        });
        Self {
            starts: starts.collect(),
            extents,
        }
    }

    /// The extents that make up a range of the file's bytes. A part of the range past the end is passed over.
    pub fn slice(&self, range: Range<u64>) -> impl Iterator<Item = Extent> + '_ {
        let first = self
            .starts
            .partition_point(|start| *start <= range.start)
            .saturating_sub(1);
        let starts = self.starts.iter().zip(self.extents).skip(first);
        let within = starts.take_while(move |(start, _)| **start < range.end);
        within.filter_map(move |(start, extent)| {
            let from = range.start.max(*start) - start;
            let to = range.end.min(start + u64::from(extent.length)) - start;
            let length = u32::try_from(to.checked_sub(from)?).ok().filter(|length| *length > 0)?;
            Some(Extent {
                digest: extent.digest,
                offset: extent.offset.checked_add(u32::try_from(from).ok()?)?,
                length,
            })
        })
    }
}

/// Adds an extent to a list, to the last one where it goes on there.
pub fn push(extents: &mut Vec<Extent>, extent: Extent) {
    match extents.last_mut() {
        Some(last) if last.digest == extent.digest && last.offset.checked_add(last.length) == Some(extent.offset) => {
            last.length += extent.length;
        }
        _ => extents.push(extent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_storage::Digest;
    use proptest::prelude::*;

    fn extent(chunk: u8, offset: u32, length: u32) -> Extent {
        let digest = Digest([chunk; 32]);
        Extent { digest, offset, length }
    }

    /// Each byte of a file as (chunk, offset).
    fn bytes(extents: &[Extent]) -> Vec<(Digest, u32)> {
        let each = |extent: &Extent| {
            let digest = extent.digest;
            (extent.offset..extent.offset + extent.length).map(move |at| (digest, at))
        };
        extents.iter().flat_map(each).collect()
    }

    #[test]
    fn what_goes_on_is_one_extent() {
        let mut extents = vec![];
        for next in [extent(1, 0, 10), extent(1, 10, 5), extent(2, 15, 5), extent(2, 0, 5)] {
            push(&mut extents, next);
        }
        assert_eq!(extents, [extent(1, 0, 15), extent(2, 15, 5), extent(2, 0, 5)]);
    }

    proptest! {
        #[test]
        fn a_slice_is_the_bytes_of_its_range(
            parts in prop::collection::vec((0u8..3, 0u32..50, 1u32..20), 0..12),
            from in 0u64..150,
            length in 0u64..80,
        ) {
            let extents: Vec<_> = parts.into_iter().map(|(chunk, offset, length)| extent(chunk, offset, length)).collect();
            let all = bytes(&extents);
            let slice: Vec<_> = ExtentMap::of(&extents).slice(from..from + length).collect();
            let (from, to) = (usize::try_from(from).unwrap(), usize::try_from(from + length).unwrap());
            let expected = &all[from.min(all.len())..to.min(all.len())];
            prop_assert_eq!(bytes(&slice), expected);
        }
    }
}
