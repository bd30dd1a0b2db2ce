//! Compares a pushed file with the archived file of its name, piece by piece, up to the first difference.

use crate::reads::Reads;
use crate::refs::Known;
use bytes::Bytes;
use pgmesh_postgres::wal::SwitchSearch;
use pgmesh_postgres::{SegmentName, SegmentSize};
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::ObjectRef;
use pgmesh_runtime::tasks;
use pgmesh_storage::{FILE_PART_LENGTH, FilePart, Payload};

/// A comparison under way. Holds one piece of the archived file at a time.
pub(super) struct Comparison {
    object: ObjectRef,
    known: Known,
    /// The segment and its size; none for other files.
    segment: Option<(SegmentName, SegmentSize)>,
    switch: Option<SwitchSearch>,
    /// The bytes that were alike.
    same: u64,
    parted: bool,
    /// The archived file, where one object holds it.
    whole: Option<Bytes>,
}

impl Comparison {
    pub(super) fn new(object: ObjectRef, known: Known, segment: Option<(SegmentName, SegmentSize)>) -> Self {
        Self {
            object,
            known,
            switch: segment.map(|(name, _)| SwitchSearch::new(name)),
            segment,
            same: 0,
            parted: false,
            whole: None,
        }
    }

    /// Compares the next piece: [`FILE_PART_LENGTH`] bytes, but for the last.
    pub(super) async fn add(&mut self, reads: &Reads, given: &Bytes) -> Result<(), Failure> {
        if self.parted {
            return Ok(());
        }
        let archived = self.archived(reads).await?;
        if let Some(switch) = &mut self.switch {
            switch.feed(&archived);
        }
        let pairs = given.iter().zip(archived.iter());
        let same = pairs.take_while(|(given, archived)| given == archived).count();
        self.same += same as u64;
        self.parted = same < given.len();
        Ok(())
    }

    /// So many bytes are alike. All of them, where both go on alike up to a switch of segments: behind it there are no
    /// records.
    pub(super) fn same(&self) -> u64 {
        let switch = self.switch.as_ref().and_then(SwitchSearch::found);
        let is_behind = |(segment, size): (SegmentName, SegmentSize)| {
            switch.is_some_and(|switch| segment.start(size).0.saturating_add(self.same) >= switch.0)
        };
        match self.segment.is_some_and(is_behind) {
            true => u64::MAX,
            false => self.same,
        }
    }

    /// The archived bytes at the place that was reached.
    async fn archived(&mut self, reads: &Reads) -> Result<Bytes, Failure> {
        let from = self.same;
        if let Some(of) = self.known.parts() {
            let number = u16::try_from(from / FILE_PART_LENGTH + 1).unwrap_or(u16::MAX);
            let Some(part) = FilePart::new(number, of) else {
                return Ok(Bytes::new());
            };
            let known = self.known.of_part(part);
            let read = reads.read_part(&self.object, &known, &[]).await;
            return self.open(reads, read.map_err(Failure::again)?.0).await;
        }
        let whole = match &self.whole {
            Some(whole) => whole.clone(),
            None => {
                let read = reads.read_known(&self.object, &self.known, &[]).await;
                self.open(reads, read.map_err(Failure::again)?.payload).await?
            }
        };
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(whole.len());
        let length = usize::try_from(FILE_PART_LENGTH).unwrap_or(usize::MAX);
        let piece = whole.slice(from..from.saturating_add(length).min(whole.len()));
        self.whole = Some(whole);
        Ok(piece)
    }

    async fn open(&self, reads: &Reads, payload: Payload) -> Result<Bytes, Failure> {
        let suite = reads.suite();
        let opened = tasks::blocking("opening an object", move || payload.open(suite)).await;
        let opened = opened.map_err(|error| Failure::new(ExitCode::Assert, "comparing a WAL file").because(error))?;
        opened.map_err(|error| {
            let what = format!("what is archived as {} cannot be read to be compared", self.object);
            Failure::new(ExitCode::Checksum, what).because(error).again()
        })
    }
}
