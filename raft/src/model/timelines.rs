//! Which timelines of a stanza are known, when there are more than fit into its record.

use std::collections::BTreeMap;

use pgmesh_postgres::TimelineId;
use pgmesh_storage::DbId;

use super::{HistoryRecord, LogIndex, StanzaRecord, Writer};
use crate::{limits, value};

/// One timeline: when a push or a history of it was last seen, its database (none: the current one), and its number.
type Seen = (LogIndex, Option<DbId>, TimelineId);

impl StanzaRecord {
    /// Forgets writers and histories while there are more than fit, those first that nothing was heard of for the
    /// longest time. A limit that refused the next timeline would stop an archiver for good (invariant 12).
    ///
    /// Of a timeline two facts are forgotten: its writer, so the next instance that pushes is bound to it; and where it
    /// left its parent, unless a later history repeats that line. The timeline still counts as known, so its writer
    /// needs no history to go on. Example: of the 2,049 timelines that nightly restore tests have made, the oldest
    /// test's is forgotten, and not that of the primary, which goes on archiving to timeline 5.
    pub fn make_room(&mut self) {
        loop {
            let mut seen = self.seen();
            let beyond = seen.len().saturating_sub(limits::TIMELINES);
            let is_long = || value::encode(self).len() > limits::STANZA;
            let excess = match beyond {
                0 if seen.len() > 1 && is_long() => (seen.len() / 8).max(1),
                beyond => beyond,
            };
            if excess == 0 {
                return;
            }
            seen.sort_unstable();
            for (_, db, timeline) in seen.into_iter().take(excess) {
                self.forget(db, timeline);
            }
        }
    }

    fn seen(&self) -> Vec<Seen> {
        let mut all = seen_of(None, &self.writers, &self.histories);
        for (db, past) in &self.past {
            all.extend(seen_of(Some(*db), &past.writers, &past.histories));
        }
        all
    }

    fn forget(&mut self, db: Option<DbId>, timeline: TimelineId) {
        let (writers, histories, forgotten) = match db {
            None => (&mut self.writers, &mut self.histories, &mut self.forgotten),
            Some(db) => match self.past.get_mut(&db) {
                Some(past) => (&mut past.writers, &mut past.histories, &mut past.forgotten),
                None => return,
            },
        };
        writers.remove(&timeline);
        histories.remove(&timeline);
        *forgotten = (*forgotten).max(Some(timeline));
    }
}

fn seen_of(
    db: Option<DbId>,
    writers: &BTreeMap<TimelineId, Writer>,
    histories: &BTreeMap<TimelineId, HistoryRecord>,
) -> Vec<Seen> {
    let mut seen: BTreeMap<TimelineId, LogIndex> = BTreeMap::new();
    for (timeline, history) in histories {
        seen.insert(*timeline, history.since);
    }
    for (timeline, writer) in writers {
        let known = seen.entry(*timeline).or_default();
        *known = writer.seen.max(*known);
    }
    seen.into_iter().map(|(timeline, at)| (at, db, timeline)).collect()
}
