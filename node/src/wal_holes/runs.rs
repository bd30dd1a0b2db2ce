//! The runs of archived segments, remembered from one look to the next.
//!
//! An archive may have millions of segments, and `info` is asked every minute. A run that was found once stays whole
//! until WAL is removed from the stanza, which its record tells (`StanzaRecord::since`); so a later look reads only the
//! names between and behind the runs that are known.

use crate::wal_ranges::{Range, Ranges};
use pgmesh_postgres::{SegmentName, SegmentSize, WalFileName};
use pgmesh_raft::apply::Base;
use pgmesh_raft::{Database, LogIndex, ReadError, StanzaRecord, View};
use pgmesh_storage::{DbId, StanzaName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// No archive of a real server has as many runs. If an archive has more, only so many are looked at (invariant 11).
const RUNS: usize = 10_000;

/// The runs that the last look at each archive has found.
#[derive(Debug, Default)]
pub(crate) struct WalRuns {
    known: Mutex<BTreeMap<StanzaName, BTreeMap<DbId, Known>>>,
}

#[derive(Debug, Clone)]
struct Known {
    /// [`StanzaRecord::since`] at that time.
    since: LogIndex,
    ranges: Ranges,
}

impl WalRuns {
    /// The runs of an archive as it is now. Reads only the names that are new since the last look.
    pub fn of<B: Base>(
        &self,
        view: &View<B>,
        stanza: &StanzaName,
        record: &StanzaRecord,
        database: &Database,
    ) -> Result<Ranges, ReadError> {
        let known = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let known = known.get(stanza).and_then(|archives| archives.get(&database.id));
            known.filter(|known| known.since == record.since).cloned()
        };
        let before = known.map_or_else(|| Ranges::new(database.segment_size), |known| known.ranges);
        let visit = |after: Option<WalFileName>, see: &mut dyn FnMut(WalFileName, bool) -> bool| {
            for row in view.segments(stanza, database.id, after.as_ref()) {
                let (file, record) = row?;
                if !see(file, record.object.is_unknown()) {
                    break;
                }
            }
            Ok::<_, ReadError>(())
        };
        let ranges = read(&before, database.segment_size, visit)?;
        if ranges.count() > RUNS {
            tracing::warn!(%stanza, "its WAL has more than {RUNS} holes: those behind are not looked for");
        }
        // WAL that was removed during the look is seen at the next one: its removal gives the stanza another `since`.
        let found = Known {
            since: record.since,
            ranges: ranges.clone(),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(stanza.clone()).or_default().insert(database.id, found);
        Ok(ranges)
    }

    /// Forgets the archives of stanzas that are no more.
    pub fn keep_only(&self, stanzas: &[StanzaName]) {
        let stanzas: BTreeSet<&StanzaName> = stanzas.iter().collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|stanza, _| stanzas.contains(stanza));
    }
}

/// Reads the names that are not in a known run. A segment of which only the name is known counts as missing: no
/// recovery gets past it.
///
/// `visit` shows the files behind a given file, in the order of their names, each with whether only its name is known,
/// until `see` says that it is enough.
fn read<E>(
    known: &Ranges,
    size: SegmentSize,
    visit: impl Fn(Option<WalFileName>, &mut dyn FnMut(WalFileName, bool) -> bool) -> Result<(), E>,
) -> Result<Ranges, E> {
    let mut ranges = Ranges::new(size);
    let mut after: Option<SegmentName> = None;
    loop {
        let mut jumped = None;
        visit(after.map(WalFileName::Segment), &mut |file, is_unknown| {
            match file {
                WalFileName::Segment(name) => match known.containing(name) {
                    Some(run) => jumped = Some(rest_of(run, name, size)),
                    None if !is_unknown => ranges.add(name),
                    None => {}
                },
                WalFileName::Partial(name) => ranges.add_partial(name),
                _ => {}
            }
            jumped.is_none() && ranges.count() <= RUNS
        })?;
        let Some(run) = jumped else {
            return Ok(ranges);
        };
        after = Some(run.last);
        ranges.add_range(run);
    }
}

/// A run, from the segment `from` on.
fn rest_of(run: &Range, from: SegmentName, size: SegmentSize) -> Range {
    let start = |name: SegmentName| name.start(size).0;
    Range {
        first: from,
        last: run.last,
        count: start(run.last).saturating_sub(start(from)) / u64::from(size.bytes()) + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_postgres::TimelineId;
    use std::cell::Cell;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn name((timeline, segment): (u32, u32)) -> SegmentName {
        SegmentName {
            timeline: TimelineId(timeline),
            log: 0,
            segment,
        }
    }

    /// The runs among these files, and how many rows were looked at.
    fn look(known: &Ranges, files: &BTreeSet<(u32, u32)>) -> (Vec<Range>, Ranges, usize) {
        let rows = Cell::new(0);
        let visit = |after: Option<WalFileName>, see: &mut dyn FnMut(WalFileName, bool) -> bool| {
            let after = after.and_then(|file| file.segment());
            for file in files
                .iter()
                .map(|file| name(*file))
                .filter(|file| after.is_none_or(|after| after < *file))
            {
                rows.set(rows.get() + 1);
                if !see(WalFileName::Segment(file), false) {
                    break;
                }
            }
            Ok::<_, std::convert::Infallible>(())
        };
        let Ok(ranges) = read(known, SIZE, visit);
        (ranges.ranges().cloned().collect(), ranges, rows.get())
    }

    proptest::proptest! {
        #[test]
        fn what_is_remembered_changes_no_answer(
            before in proptest::collection::btree_set((1u32..4, 0u32..20), 0..40),
            more in proptest::collection::btree_set((1u32..4, 0u32..20), 0..10),
        ) {
            let (_, known, _) = look(&Ranges::new(SIZE), &before);
            let now = before.union(&more).copied().collect();
            let (again, ..) = look(&known, &now);
            let (fresh, ..) = look(&Ranges::new(SIZE), &now);
            proptest::prop_assert_eq!(again, fresh);
        }
    }

    #[test]
    fn a_long_run_is_passed_over() {
        let mut files: BTreeSet<(u32, u32)> = (0..200).map(|segment| (1, segment)).collect();
        let (_, known, rows) = look(&Ranges::new(SIZE), &files);
        assert_eq!(rows, 200);
        files.extend([(1, 200), (2, 200)]);
        let (runs, _, rows) = look(&known, &files);
        assert_eq!(rows, 3, "one to know the run by, and what is new");
        assert_eq!(runs.iter().map(|run| run.count).collect::<Vec<_>>(), [201, 1]);
    }
}
