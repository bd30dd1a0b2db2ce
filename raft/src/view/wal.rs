//! Queries about the WAL of a database.

use super::View;
use crate::apply::{Base, Rows};
use crate::error::ReadError;
use crate::key;
use crate::model::{LastPush, ObjectRef, SegmentRecord};
use crate::table::Table;
use pgmesh_postgres::{SegmentName, TimelineId, WalFileName};
use pgmesh_storage::{DbId, StanzaName};

impl<B: Base> View<B> {
    /// A WAL file. Invariant 7: only on a linearizable view does `None` mean that it was never archived.
    pub fn segment(
        &self,
        stanza: &StanzaName,
        db: DbId,
        file: &WalFileName,
    ) -> Result<Option<SegmentRecord>, ReadError> {
        let key = key::segment(stanza, db, &file.to_string());
        self.base.record(Table::Segments, &key)
    }

    /// The WAL files of one database by name, those after `after` if given.
    pub fn segments(
        &self,
        stanza: &StanzaName,
        db: DbId,
        after: Option<&WalFileName>,
    ) -> impl Iterator<Item = Result<(WalFileName, SegmentRecord), ReadError>> + Send {
        let prefix = key::segments(stanza, db);
        let from = after.map_or_else(
            || prefix.clone(),
            |file| key::after(key::segment(stanza, db, &file.to_string())),
        );
        self.wal_files(&from, &prefix)
    }

    /// The WAL files of one database by name, `from` and those after it.
    pub fn segments_from(
        &self,
        stanza: &StanzaName,
        db: DbId,
        from: &WalFileName,
    ) -> impl Iterator<Item = Result<(WalFileName, SegmentRecord), ReadError>> + Send {
        let from = key::segment(stanza, db, &from.to_string());
        self.wal_files(&from, &key::segments(stanza, db))
    }

    fn wal_files(
        &self,
        from: &[u8],
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(WalFileName, SegmentRecord), ReadError>> + Send + use<'_, B> {
        self.rows(Table::Segments, from, prefix, |key| match key::read_segment(key)? {
            ObjectRef::Segment { file, .. } => Some(file),
            _ => None,
        })
    }

    /// The first and last complete segment of one database, by name, for `info`. Looks at both ends of its WAL files
    /// only.
    pub fn segment_bounds(
        &self,
        stanza: &StanzaName,
        db: DbId,
    ) -> Result<Option<(SegmentName, SegmentName)>, ReadError> {
        let prefix = key::segments(stanza, db);
        let first = first_segment(self.base.scan(Table::Segments, &prefix, &prefix))?;
        let last = first_segment(self.base.scan_back(Table::Segments, &prefix))?;
        Ok(first.zip(last))
    }

    /// The timelines of one database of which WAL files are archived. Looks at one file of each.
    pub fn timelines(&self, stanza: &StanzaName, db: DbId) -> Result<Vec<TimelineId>, ReadError> {
        let prefix = key::segments(stanza, db);
        let mut timelines = Vec::new();
        let mut from = prefix.clone();
        while let Some(row) = self.base.scan(Table::Segments, &from, &prefix).next() {
            let row = row?.0;
            let Some(ObjectRef::Segment { file, .. }) = key::read_segment(&row) else {
                break;
            };
            timelines.push(file.timeline());
            let Some(next) = file.timeline().0.checked_add(1) else {
                break;
            };
            from = key::segment(stanza, db, &format!("{next:08X}"));
        }
        Ok(timelines)
    }

    /// The last push of a timeline's writer.
    pub fn last_push(
        &self,
        stanza: &StanzaName,
        db: DbId,
        timeline: TimelineId,
    ) -> Result<Option<LastPush>, ReadError> {
        self.base.record(Table::Pushes, &key::last_push(stanza, db, timeline))
    }

    /// The last push of each timeline's writer.
    pub fn last_pushes(
        &self,
        stanza: &StanzaName,
        db: DbId,
    ) -> impl Iterator<Item = Result<LastPush, ReadError>> + Send {
        let prefix = key::segments(stanza, db);
        let rows = self.rows(Table::Pushes, &prefix, &prefix, |_| Some(()));
        rows.map(|row| row.map(|((), push)| push))
    }

    /// The last complete segment of a timeline. Looks at the end of its WAL files only.
    pub fn last_segment(
        &self,
        stanza: &StanzaName,
        db: DbId,
        timeline: TimelineId,
    ) -> Result<Option<(SegmentName, SegmentRecord)>, ReadError> {
        let prefix = key::segment(stanza, db, &format!("{:08X}", timeline.0));
        let Some(name) = first_segment(self.base.scan_back(Table::Segments, &prefix))? else {
            return Ok(None);
        };
        let record = self.segment(stanza, db, &WalFileName::Segment(name))?;
        Ok(record.map(|record| (name, record)))
    }

    /// An archived segment of the same timeline with a greater name, complete or not: it proves that `segment`, which
    /// is not archived, is a hole (invariant 7). Reads the rows up to the first such segment.
    pub fn segment_after(
        &self,
        stanza: &StanzaName,
        db: DbId,
        segment: SegmentName,
    ) -> Result<Option<SegmentName>, ReadError> {
        for row in self.segments(stanza, db, Some(&WalFileName::Segment(segment))) {
            match row?.0 {
                file if file.timeline() != segment.timeline => break,
                WalFileName::Segment(later) | WalFileName::Partial(later) if later > segment => return Ok(Some(later)),
                _ => {}
            }
        }
        Ok(None)
    }
}

/// The first complete segment in the order of the rows.
fn first_segment(rows: Rows<'_>) -> Result<Option<SegmentName>, ReadError> {
    for row in rows {
        if let Some(ObjectRef::Segment {
            file: WalFileName::Segment(name),
            ..
        }) = key::read_segment(&row?.0)
        {
            return Ok(Some(name));
        }
    }
    Ok(None)
}
