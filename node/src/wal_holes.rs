//! Holes in the WAL archives, and the recovery targets that they cost.
//!
//! A hole is WAL that is missing although WAL behind it is known of, on the same timeline or on a timeline that left it
//! later (invariant 7). A recovery stops before the hole; so every backup that was taken before it has lost the WAL
//! behind it.

mod cost;
mod runs;

use crate::archive::Archive;
use crate::services::clusters_of;
use crate::wal_ranges::{Hole, Ranges};
use cost::{Spans, cost};
use pgmesh_postgres::{Descent, SegmentName, TimelineTree, WalFileName};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure, HoleInfo, HolesReport, StanzaHoles};
use pgmesh_raft::apply::Base;
use pgmesh_raft::{Database, StanzaRecord, View};
use pgmesh_runtime::tasks;
use pgmesh_storage::{DbId, StanzaName};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

pub(crate) use runs::WalRuns;

/// So many holes are named in one answer.
const NAMED: usize = 256;

impl Archive {
    /// The holes of the requested stanzas, with their costs. Holes that stop the recovery of no backup are left out.
    pub(crate) async fn holes(
        &self,
        view: &View,
        only: Option<&StanzaName>,
        may_know: impl Fn(&StanzaName) -> bool,
    ) -> Result<HolesReport, Failure> {
        let mut names = Vec::new();
        match only {
            Some(only) => names.extend(view.stanza(only)?.map(|_| only.clone())),
            None => {
                for row in view.stanzas(None) {
                    names.push(row?.0);
                }
                self.wal_runs.keep_only(&names);
            }
        }
        names.retain(|name| may_know(name));
        let (view, runs) = (view.clone(), self.wal_runs.clone());
        // The first look at an archive reads the names of all its segments.
        let looked = tasks::blocking("looking for missing WAL", move || look(&view, &runs, &names));
        looked
            .await
            .map_err(|error| Failure::new(ExitCode::Assert, "looking for holes in the WAL").because(chain(&error)))?
    }
}

fn look(view: &View, runs: &WalRuns, names: &[StanzaName]) -> Result<HolesReport, Failure> {
    let mut report = HolesReport::default();
    for name in names {
        let Some(record) = view.stanza(name)? else {
            continue;
        };
        let mut found = StanzaHoles {
            stanza: name.to_string(),
            ..StanzaHoles::default()
        };
        for database in &record.databases {
            let ranges = runs.of(view, name, &record, database)?;
            let Looked { holes, unreached } = costly(view, name, &record, database, &ranges)?;
            for (hole, info) in holes {
                if report.named < NAMED {
                    report.named += 1;
                    found.holes.push(with_time(view, name, database, &hole, info)?);
                } else {
                    found.more += 1;
                }
            }
            if record.current() == Some(database) {
                found.unreached = unreached;
            }
        }
        if !found.holes.is_empty() || found.more > 0 {
            report.stanzas.push(found);
        }
    }
    Ok(report)
}

/// The costly holes of one archive.
pub(crate) struct Looked {
    pub holes: Vec<(Hole, HoleInfo)>,
    /// The timelines on which the history ends and to whose end no backup can be recovered, because of holes.
    pub unreached: Vec<u32>,
}

/// The holes of one archive that keep a backup from being recovered as far as there is WAL.
pub(crate) fn costly<B: Base>(
    view: &View<B>,
    name: &StanzaName,
    record: &StanzaRecord,
    database: &Database,
    ranges: &Ranges,
) -> Result<Looked, Failure> {
    let tree = tree_of(record, database.id);
    let mut holes = ranges.holes(&tree);
    drop_expired(view, name, database, &mut holes)?;
    let mut looked = Looked {
        holes: Vec::new(),
        unreached: Vec::new(),
    };
    if holes.is_empty() {
        return Ok(looked);
    }
    let mut spans = Spans::new(database.segment_size, &tree);
    for row in view.backups(name, None) {
        let (label, backup) = row?;
        if backup.db == database.id {
            spans.add(label, &backup);
        }
    }
    let ends = clusters_of(view, name, record)?.ends(database.id.0);
    looked.unreached = spans.unreached(&ends, &holes);
    for hole in holes {
        if let Some(info) = cost(&spans, &hole, database.archive_id().to_string()) {
            looked.holes.push((hole, info));
        }
    }
    Ok(looked)
}

/// WAL that has expired is not missing.
fn drop_expired<B: Base>(
    view: &View<B>,
    name: &StanzaName,
    database: &Database,
    holes: &mut Vec<Hole>,
) -> Result<(), Failure> {
    let mut expired = BTreeMap::new();
    for timeline in holes.iter().map(|hole| hole.missing.last.timeline) {
        if let Entry::Vacant(entry) = expired.entry(timeline) {
            entry.insert(view.expired_upto(name, database.id, timeline)?);
        }
    }
    holes.retain(|hole| {
        let upto = expired.get(&hole.missing.last.timeline).copied().flatten();
        upto.is_none_or(|upto| hole.missing.last > upto)
    });
    Ok(())
}

/// The lines of the histories that are known of a database.
pub(crate) fn descents_of(record: &StanzaRecord, db: DbId) -> impl Iterator<Item = Descent> {
    record.histories_of(db).flat_map(|(timeline, history)| {
        history.branches.iter().map(|branch| Descent {
            timeline: *timeline,
            parent: branch.parent,
            switch: branch.switch,
        })
    })
}

/// Which timeline of a database descends from which.
pub(crate) fn tree_of(record: &StanzaRecord, db: DbId) -> TimelineTree {
    descents_of(record, db).collect()
}

/// When the last segment before the hole was archived: about the time up to which a recovery gets.
fn with_time(
    view: &View,
    name: &StanzaName,
    database: &Database,
    hole: &Hole,
    info: HoleInfo,
) -> Result<HoleInfo, Failure> {
    let size = database.segment_size;
    let first = hole.missing.first;
    let before = SegmentName::ending_at(first.timeline, first.start(size), size);
    let archived = view.segment(name, database.id, &WalFileName::Segment(before))?;
    Ok(HoleInfo {
        until: archived.map(|record| record.pushed_at),
        ..info
    })
}
