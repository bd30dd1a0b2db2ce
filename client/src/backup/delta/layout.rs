//! Which pages of a file are stored anew and which stay where they are: a pure decision.
//!
//! Changed pages are stored. With time a file would come to lie in ever more chunks, of which it needs ever less, and a
//! restore would read several times its size. So the pages of the least used chunks are stored anew together with the
//! changed pages, until a restore reads little more for the file than its size: [`READ_WANTED`] where a backup may
//! store so much, and never more than [`READ_BOUND`].

use super::pages::{PAGE, page_count, page_length};
use crate::extents::ExtentMap;
use pgmesh_storage::{Digest, Extent};
use roaring::RoaringBitmap;
use std::collections::HashMap;
use std::ops::Range;

/// A restore should read no more for a file than this, in percent of its size, where the file is larger than
/// [`BOUNDED_FROM`]. With a lower limit, backups would store more pages that did not change; with a higher one,
/// restores would be slower.
const READ_WANTED: u64 = 125;
/// A restore never reads more for such a file, in percent of its size.
const READ_BOUND: u64 = 150;
/// To reach [`READ_WANTED`], a backup stores so many unchanged pages, in percent of the changed ones...
const MORE_OF_CHANGED: u64 = 25;
/// ...or in percent of the file, where that is more.
const MORE_OF_FILE: u64 = 8;
/// Smaller files are not worth the arithmetic: they share their chunks with others.
const BOUNDED_FROM: u64 = 1 << 20;
/// A region of the file of as many pages as a chunk holds...
const REGION: u32 = 128;
/// ...is stored as a chunk of its own when so many of them changed.
const REGION_CHANGED: u64 = 112;

/// A run of pages with one fate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The pages.
    pub pages: Range<u32>,
    /// How a backup treats them.
    pub treatment: Treatment,
}

/// How a backup treats pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// They stay where they were.
    Keep,
    /// They may have changed: they are read, and stored if they did.
    Store,
    /// They are read and stored, changed or not.
    Rewrite,
}

/// The pages of a file of `size` bytes that no backup has stored yet: new pages, and a last page whose length changed.
pub fn new_pages(before: u64, size: u64) -> Range<u32> {
    let (old, new) = (page_count(before), page_count(size));
    // A last page whose length changed is another page.
    let is_same = |page: u32| page_length(before, page) == page_length(size, page);
    let same = old.min(new);
    let first = if same > 0 && !is_same(same - 1) { same - 1 } else { same };
    first..new
}

/// Decides about all pages of a file of `size` bytes that had these extents. `changed`: pages that may have changed,
/// new ones included.
pub fn plan(extents: &[Extent], size: u64, changed: &RoaringBitmap) -> Vec<Run> {
    let pages = page_count(size);
    let mut rewritten = RoaringBitmap::new();
    for region in 0..pages.div_ceil(REGION) {
        let range = region * REGION..((region + 1) * REGION).min(pages);
        if changed.range_cardinality(range.clone()) >= REGION_CHANGED {
            rewritten.insert_range(range);
        }
    }
    if size > BOUNDED_FROM {
        rewritten |= least_used(extents, size, &(changed | &rewritten));
    }
    let treatment = |page: u32| match (rewritten.contains(page), changed.contains(page)) {
        (true, _) => Treatment::Rewrite,
        (false, true) => Treatment::Store,
        (false, false) => Treatment::Keep,
    };
    let mut runs: Vec<Run> = Vec::new();
    for page in 0..pages {
        let treatment = treatment(page);
        match runs.last_mut() {
            Some(run) if run.treatment == treatment => run.pages.end = page + 1,
            _ => runs.push(Run {
                pages: page..page + 1,
                treatment,
            }),
        }
    }
    runs
}

/// A chunk, as far as this file is concerned.
struct Use {
    /// From where to where the file uses it.
    span: Range<u32>,
    /// How many bytes of it stay in use.
    live: u64,
    /// The pages that lie in it and stay.
    pages: Vec<u32>,
}

impl Use {
    fn span(&self) -> u64 {
        u64::from(self.span.end - self.span.start)
    }
}

/// The unchanged pages that are stored anew so that a restore reads no more than [`READ_WANTED`], or at least
/// [`READ_BOUND`].
fn least_used(extents: &[Extent], size: u64, stored: &RoaringBitmap) -> RoaringBitmap {
    let mut uses = uses(extents, size, stored);
    let new: u64 = stored.iter().map(|page| page_length(size, page)).sum();
    let mut read = new + uses.iter().map(Use::span).sum::<u64>();
    let [wanted, bound] = [READ_WANTED, READ_BOUND].map(|percent| size / 100 * percent);
    let allowed = (new / 100 * MORE_OF_CHANGED).max(size / 100 * MORE_OF_FILE);
    let mut more = 0;
    // Of chunks that are used alike, the earlier ones in the file come first: the order is the same each time.
    uses.sort_by_key(|one| (one.live * 1000 / one.span().max(1), one.pages.first().copied()));
    let mut rewritten = RoaringBitmap::new();
    for one in uses {
        if read <= wanted || (read <= bound && more + one.live > allowed) {
            break;
        }
        read = read + one.live - one.span();
        more += one.live;
        rewritten.extend(one.pages);
    }
    rewritten
}

fn uses(extents: &[Extent], size: u64, stored: &RoaringBitmap) -> Vec<Use> {
    let map = ExtentMap::of(extents);
    let mut uses: HashMap<Digest, Use> = HashMap::new();
    // A restore reads the span between the first and the last byte in use, with the pages between them that changed or
    // are no longer in the file.
    for extent in extents {
        let end = extent.offset.saturating_add(extent.length);
        let one = uses.entry(extent.digest).or_insert_with(|| Use {
            span: extent.offset..end,
            live: 0,
            pages: Vec::new(),
        });
        one.span = one.span.start.min(extent.offset)..one.span.end.max(end);
    }
    for page in (0..page_count(size)).filter(|page| !stored.contains(*page)) {
        let start = u64::from(page) * PAGE;
        for part in map.slice(start..start + page_length(size, page)) {
            if let Some(one) = uses.get_mut(&part.digest) {
                one.live += u64::from(part.length);
                one.pages.push(page);
            }
        }
    }
    uses.into_values().filter(|one| one.live > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file as a full backup stores it.
    fn whole(size: u64) -> Vec<Extent> {
        let chunk = u64::from(REGION) * PAGE;
        let extent = |number: u64| Extent {
            digest: Digest([number.to_le_bytes()[0]; 32]),
            offset: 0,
            length: u32::try_from(size.saturating_sub(number * chunk).min(chunk)).unwrap(),
        };
        (0..size.div_ceil(chunk)).map(extent).collect()
    }

    fn counts(runs: &[Run]) -> [u32; 3] {
        [Treatment::Keep, Treatment::Store, Treatment::Rewrite].map(|treatment| {
            let pages = runs
                .iter()
                .filter(|run| run.treatment == treatment)
                .map(|run| run.pages.len());
            u32::try_from(pages.sum::<usize>()).unwrap()
        })
    }

    #[test]
    fn new_pages_are_those_that_nobody_stored() {
        assert_eq!(new_pages(0, 8193), 0..2);
        assert_eq!(new_pages(8192, 3 * 8192), 1..3);
        assert_eq!(new_pages(8193, 3 * 8192), 1..3);
        assert_eq!(new_pages(3 * 8192, 8192), 1..1);
        assert_eq!(new_pages(3 * 8192, 8193), 1..2);
        assert_eq!(new_pages(100, 100), 1..1);
    }

    #[test]
    fn few_changes_are_stored_page_by_page() {
        let size = 100 << 20;
        let extents = whole(size);
        let changed: RoaringBitmap = (0..page_count(size)).step_by(100).collect();
        let runs = plan(&extents, size, &changed);
        assert_eq!(counts(&runs), [12_672, 128, 0]);
        assert_eq!(plan(&extents, size, &RoaringBitmap::new()).len(), 1);
    }

    #[test]
    fn a_region_that_changed_almost_whole_is_one_chunk_again() {
        let size = 4 << 20;
        let extents = whole(size);
        let changed: RoaringBitmap = (128..128 + 112).collect();
        let runs = plan(&extents, size, &changed);
        assert_eq!(counts(&runs), [384, 0, 128]);
    }

    #[test]
    fn what_a_restore_reads_is_what_is_wanted_or_nearly_at_little_cost() {
        let size = 64 << 20;
        let extents = whole(size);
        let pages = page_count(size);
        for percent in [10, 30, 50, 55, 60, 70, 80] {
            // Spread evenly, as a multiplicative hash does.
            let changed: RoaringBitmap = (0..pages).filter(|page| page * 37 % 100 < percent).collect();
            let runs = plan(&extents, size, &changed);
            let [_, _, rewritten] = counts(&runs);
            let more = rewritten.saturating_sub(u32::try_from(changed.len()).unwrap() * rewritten / pages);
            let kept: RoaringBitmap = runs
                .iter()
                .filter(|run| run.treatment == Treatment::Keep)
                .flat_map(|run| run.pages.clone())
                .collect();
            let chunks: std::collections::BTreeSet<_> = kept.iter().map(|page| page / REGION).collect();
            let read = u64::from(pages) - kept.len() + chunks.len() as u64 * u64::from(REGION);
            // Where a third to two thirds of the file changed, a backup may not store enough pages to reach
            // READ_WANTED.
            let most = if (30..=70).contains(&percent) { 140 } else { READ_WANTED };
            assert!(
                read * 100 <= u64::from(pages) * (most + 1),
                "{percent}: {read} of {pages}"
            );
            let cost = (u64::from(pages) - kept.len()) * 100 / changed.len();
            assert!(
                cost <= 127,
                "{percent} %: {cost} % of what changed is stored, {more} more"
            );
        }
    }

    proptest! {
        #[test]
        fn every_page_has_one_fate_and_changed_ones_are_looked_at(
            size in 0u64..(3 << 20),
            before in 0u64..(3 << 20),
            changed in prop::collection::vec(0u32..400, 0..100),
        ) {
            let extents = whole(before);
            let pages = page_count(size);
            let mut changed: RoaringBitmap = changed.into_iter().filter(|page| *page < pages).collect();
            changed.insert_range(new_pages(before, size));
            let runs = plan(&extents, size, &changed);
            let mut next = 0;
            for run in &runs {
                prop_assert_eq!(run.pages.start, next);
                next = run.pages.end;
                for page in run.pages.clone() {
                    prop_assert!(run.treatment != Treatment::Keep || !changed.contains(page));
                    prop_assert!(run.treatment != Treatment::Store || changed.contains(page));
                }
            }
            prop_assert_eq!(next, pages);
        }
    }
}
