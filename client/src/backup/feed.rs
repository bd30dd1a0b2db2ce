//! Jobs for the readers, each file with its record in the prior backup.
//!
//! The prior backup's manifest has its entries in the order of the walk, as this one will: the two are read side by
//! side, part by part (invariant 11).

use super::context::Context;
use super::job::{Known, Past, Ready, ReadyJob};
use super::plan::Job;
use super::prior::Prior;
use super::queue::JobQueue;
use super::selection::PageSelection;
use crate::restore::{Parts, Tables};
use pgmesh_postgres::{Entry, EntryKind as WalkedKind};
use pgmesh_protocol::Failure;
use pgmesh_storage::{EntryKind, FileEntry, Fingerprints};
use roaring::RoaringBitmap;
use std::collections::VecDeque;

/// Queues all jobs. A file whose past cannot be read is stored anew: that costs time and room, and loses nothing.
///
/// # Errors
/// The mesh cannot be asked which chunks it has.
pub async fn feed(
    context: &Context,
    jobs: impl Iterator<Item = Job>,
    prior: Option<&Prior>,
    queue: &JobQueue,
) -> Result<(), Failure> {
    let _closing = queue.closing();
    let mut reading = prior.map(PriorReading::of);
    for Job { number, entries } in jobs {
        let mut ready = Vec::with_capacity(entries.len());
        for entry in entries {
            let past = match &mut reading {
                Some(reading) if matches!(entry.kind, WalkedKind::File { .. }) => reading.past_of(&entry).await,
                _ => Past::New,
            };
            ready.push(Ready { entry, past });
        }
        if reading.is_some() {
            Prior::settle(context, &mut ready).await?;
        }
        queue.put(ReadyJob { number, entries: ready }).await;
    }
    Ok(())
}

/// The prior backup while it is read.
struct PriorReading<'a> {
    prior: &'a Prior,
    parts: Option<Parts<'a>>,
    entries: VecDeque<FileEntry>,
    tables: Tables<'a>,
}

impl<'a> PriorReading<'a> {
    fn of(prior: &'a Prior) -> Self {
        Self {
            prior,
            parts: Some(Parts::of(&prior.source, &prior.root)),
            entries: VecDeque::new(),
            tables: Tables::of(&prior.source),
        }
    }

    async fn past_of(&mut self, entry: &Entry) -> Past {
        let Some(before) = self.find(&entry.path).await else {
            return Past::New;
        };
        let Some(fingerprints) = before.fingerprints.clone().or_else(|| is_empty(&before)) else {
            return Past::New;
        };
        let PageSelection { pages, named } = self.prior.select(entry, &before);
        if pages.as_ref().is_some_and(RoaringBitmap::is_empty) && super::plan::size(entry) == before.size() {
            return Past::Same(Box::new(before));
        }
        match self.tables.read(&fingerprints, before.size()).await {
            Ok(table) => Past::Known(Box::new(Known {
                before,
                look: pages,
                table,
                named,
            })),
            Err(failure) => {
                tracing::warn!(
                    "the fingerprints of {} cannot be read: it is stored anew; {failure}",
                    entry.path
                );
                Past::New
            }
        }
    }

    /// The file of this path. Paths are asked for in order.
    async fn find(&mut self, path: &str) -> Option<FileEntry> {
        loop {
            while let Some(entry) = self.entries.pop_front() {
                if !matches!(entry.kind, EntryKind::File { .. }) || entry.path.as_str() < path {
                    continue;
                }
                if entry.path == path {
                    return Some(entry);
                }
                self.entries.push_front(entry);
                return None;
            }
            match self.parts.as_mut()?.next().await {
                Ok(Some(entries)) => self.entries.extend(entries),
                Ok(None) => self.parts = None,
                Err(failure) => {
                    tracing::warn!(
                        "the list of files of the prior backup cannot be read further, so the remaining files are \
                         stored anew: {failure}"
                    );
                    self.parts = None;
                }
            }
        }
    }
}

/// An empty file has no fingerprints, and needs none.
fn is_empty(entry: &FileEntry) -> Option<Fingerprints> {
    (entry.size() == 0).then(Fingerprints::default)
}
