//! A file that the prior backup has: fingerprints find its changed pages, and these are stored.

use super::bundle::{BUNDLE_BELOW, CHUNK_SIZE, List};
use super::delta::layout::{Run, Treatment, new_pages, plan};
use super::delta::pages::{PAGE, combine, page_count, page_length};
use super::job::Known;
use super::manifest::file_entry;
use super::reader::{Reader, warn_of};
use super::source::PageSource;
use super::uploader::Halt;
use crate::extents::ExtentMap;
use pgmesh_postgres::Entry;
use pgmesh_storage::{EntryKind, FINGERPRINT_PAGE, PageFingerprint};
use roaring::RoaringBitmap;
use std::ops::Range;

/// A file of which more changed is stored anew as a whole.
const WHOLE_FROM_PERCENT: u64 = 90;

/// A file while its changed pages are stored.
struct Changing<'a> {
    number: u64,
    entry: &'a Entry,
    /// Its fingerprints in the prior backup.
    before: &'a [PageFingerprint],
    map: ExtentMap<'a>,
    /// Its fingerprints now, as far as they are known.
    table: Vec<PageFingerprint>,
    /// Pages that were stored because they changed, and pages that were stored though they did not.
    changed: u64,
    rewritten: u64,
}

impl Reader {
    /// Reads the pages of a file that may have changed, and stores the pages that did.
    pub(super) fn changed(
        &mut self,
        number: u64,
        entry: &Entry,
        mut source: PageSource<'_>,
        known: Known,
    ) -> Result<(), Halt> {
        let pages = page_count(source.size);
        let mut changed = match &known.look {
            Some(some) => some.clone(),
            None => self.compare(entry, &mut source, &known)?,
        };
        changed.insert_range(new_pages(known.before.size(), source.size));
        changed.remove_range(pages..);
        if changed.is_empty() && source.size == known.before.size() {
            let bad = source.into_bad(pages);
            warn_of(entry, &bad);
            return self.same(number, entry, known.before, Some(bad));
        }
        if changed.len() * 100 > u64::from(pages) * WHOLE_FROM_PERCENT {
            return self.whole(number, entry, source);
        }
        self.output.begin(number, file_entry(entry, EntryKind::Directory));
        let extents = known.before.extents();
        let mut file = Changing {
            number,
            entry,
            before: &known.table.pages,
            map: ExtentMap::of(extents),
            table: known.table.pages.clone(),
            changed: 0,
            rewritten: 0,
        };
        file.table.truncate(pages as usize);
        let mut end = source.size;
        for run in plan(extents, source.size, &changed) {
            if run.treatment == Treatment::Keep {
                self.keep(&file, bytes_of(source.size, &run.pages));
            } else if let Some(short) = self.take_run(&mut file, &mut source, run)? {
                end = short;
                break;
            }
        }
        let Changing {
            mut table,
            changed,
            rewritten,
            ..
        } = file;
        self.reading.tally.stored(changed, rewritten);
        table.truncate(page_count(end) as usize);
        let crc = combine(&table, end);
        self.store_table(number, &known.table.with_pages(table), known.base())?;
        let bad = source.into_bad(page_count(end));
        warn_of(entry, &bad);
        self.output.finish(number, end, crc, bad)
    }

    /// The pages whose fingerprints differ from those in the prior backup.
    fn compare(&self, entry: &Entry, source: &mut PageSource<'_>, known: &Known) -> Result<RoaringBitmap, Halt> {
        let mut changed = RoaringBitmap::new();
        let (mut at, mut page) = (0, 0);
        while at < source.size {
            let want = (source.size - at).min(CHUNK_SIZE as u64);
            let piece = self.read(entry, source, at, want)?;
            for content in piece.chunks(FINGERPRINT_PAGE) {
                if known.table.pages.get(page as usize) != Some(&self.reading.seed.page(content)) {
                    changed.insert(page);
                    self.reading.tally.compare(entry, known, page, content);
                }
                page += 1;
            }
            at += piece.len() as u64;
            if (piece.len() as u64) < want {
                // The file has shrunk: when these pages are read again, they are found to be gone.
                changed.insert_range(page..page_count(source.size));
                break;
            }
        }
        Ok(changed)
    }

    fn keep(&mut self, file: &Changing<'_>, bytes: Range<u64>) {
        for extent in file.map.slice(bytes) {
            self.output.keep(file.number, List::Content, extent);
        }
    }

    /// Reads a run of pages and stores the changed ones, or all. Answers where the file ends, if it ends before the
    /// run.
    fn take_run(
        &mut self,
        file: &mut Changing<'_>,
        source: &mut PageSource<'_>,
        run: Run,
    ) -> Result<Option<u64>, Halt> {
        let range = bytes_of(source.size, &run.pages);
        let (mut at, mut page) = (range.start, run.pages.start);
        while at < range.end {
            // A chunk's worth that ends where chunks of the whole file do.
            let border = (at / CHUNK_SIZE as u64 + 1) * CHUNK_SIZE as u64;
            let want = range.end.min(border) - at;
            let piece = self.read(file.entry, source, at, want)?;
            let length = piece.len() as u64;
            self.take_piece(file, at, page, piece, run.treatment)?;
            at += length;
            page = page_count(at);
            if length < want {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Takes a piece that was read at byte `at`, the beginning of page `first`.
    fn take_piece(
        &mut self,
        file: &mut Changing<'_>,
        at: u64,
        first: u32,
        piece: Vec<u8>,
        treatment: Treatment,
    ) -> Result<(), Halt> {
        let mut stored = 0..0;
        for (page, content) in (first..).zip(piece.chunks(FINGERPRINT_PAGE)) {
            let now = self.reading.seed.page(content);
            let is_same = file.before.get(page as usize) == Some(&now);
            file.place(page, now);
            let end = stored.end + content.len();
            if is_same && treatment == Treatment::Store {
                self.store(file, &piece, &stored)?;
                let from = at + stored.end as u64;
                self.keep(file, from..from + content.len() as u64);
                stored = end..end;
            } else {
                stored.end = end;
                *(if is_same {
                    &mut file.rewritten
                } else {
                    &mut file.changed
                }) += 1;
            }
        }
        if stored.len() >= BUNDLE_BELOW && stored.len() == piece.len() {
            return self.output.chunk(file.number, List::Content, piece);
        }
        self.store(file, &piece, &stored)
    }

    fn store(&mut self, file: &Changing<'_>, piece: &[u8], range: &Range<usize>) -> Result<(), Halt> {
        let pages = piece.get(range.clone()).unwrap_or_default();
        self.output.pages(file.number, pages, FINGERPRINT_PAGE)
    }
}

impl Changing<'_> {
    fn place(&mut self, page: u32, now: PageFingerprint) {
        match self.table.get_mut(page as usize) {
            Some(place) => *place = now,
            None => self.table.push(now),
        }
    }
}

/// The bytes of a run of pages, in a file of `size` bytes.
fn bytes_of(size: u64, pages: &Range<u32>) -> Range<u64> {
    let end = match pages.end.checked_sub(1) {
        Some(last) => u64::from(last) * PAGE + page_length(size, last),
        None => 0,
    };
    u64::from(pages.start) * PAGE..end
}
