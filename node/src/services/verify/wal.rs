//! The WAL archives: ranges and holes on each timeline.

use super::Verification;
use crate::wal_holes;
use crate::wal_ranges::{Range, Ranges};
use pgmesh_postgres::WalFileName;
use pgmesh_protocol::{Failure, Finding, FindingKind, NAMED, StanzaHoles};
use pgmesh_raft::{Database, StanzaRecord, View};
use pgmesh_storage::StanzaName;

impl Verification<'_> {
    /// The archive's ranges and holes.
    pub(super) async fn wal(&mut self, view: &View, stanza: &StanzaName, record: &StanzaRecord) -> Result<(), Failure> {
        for database in &record.databases {
            let mut ranges = Ranges::new(database.segment_size);
            for row in view.segments(stanza, database.id, None) {
                match row? {
                    (WalFileName::Segment(name), _) => {
                        self.summary.segments += 1;
                        ranges.add(name);
                    }
                    (WalFileName::Partial(name), _) => ranges.add_partial(name),
                    _ => {}
                }
            }
            let room = NAMED.saturating_sub(self.summary.archives.len());
            for range in ranges.ranges().take(room) {
                self.summary
                    .archives
                    .push(format!("{stanza} {}: {range}", database.archive_id()));
            }
            self.holes(view, stanza, record, database, &ranges).await?;
        }
        Ok(())
    }

    /// Tells the holes of an archive, with the recovery targets that they cost.
    async fn holes(
        &mut self,
        view: &View,
        stanza: &StanzaName,
        record: &StanzaRecord,
        database: &Database,
        ranges: &Ranges,
    ) -> Result<(), Failure> {
        let costly = wal_holes::costly(view, stanza, record, database, ranges)?;
        let unreached = StanzaHoles {
            unreached: costly.unreached,
            ..StanzaHoles::default()
        };
        let mut unreached = unreached.unreached_sentence();
        let unneeded = ranges.gaps().into_iter().filter(|gap| {
            let mut holes = costly.holes.iter();
            !holes.any(|(hole, _)| hole.missing == *gap)
        });
        for gap in unneeded {
            let what = format!(
                "{} WAL segments are missing from archive {}; no backup needs them",
                gap.count,
                database.archive_id()
            );
            self.found_gap(FindingKind::WalGapUnneeded, stanza, &gap, what).await?;
        }
        for (hole, info) in costly.holes {
            let more = unreached.take().map_or_else(String::new, |more| format!("; {more}"));
            let what = format!("{}{more}", info.sentence(|_| String::new()));
            self.found_gap(FindingKind::WalGap, stanza, &hole.missing, what).await?;
        }
        Ok(())
    }

    async fn found_gap(
        &mut self,
        kind: FindingKind,
        stanza: &StanzaName,
        missing: &Range,
        what: String,
    ) -> Result<(), Failure> {
        let subject = match missing.count {
            1 => missing.first.to_string(),
            _ => format!("{} to {}", missing.first, missing.last),
        };
        self.found(Finding {
            kind,
            repo: None,
            stanza: Some(stanza.to_string()),
            subject,
            what,
        })
        .await
    }
}
