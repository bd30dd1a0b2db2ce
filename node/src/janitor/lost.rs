//! Objects of which no repository has a good replica, and the backups and WAL that are lost with them.
//!
//! The catalog keeps an index of them. The name of a lost WAL file or manifest says whether it matters. Only the
//! manifests say which backups need a lost chunk: they are read in the background, one part after the other (invariant
//! 11), once for each set of lost chunks.

use crate::janitor::Janitor;
use crate::past::is_taken_over;
use pgmesh_postgres::WalFileName;
use pgmesh_protocol::{CatalogLost, Failure, LostReport, StanzaLosses};
use pgmesh_raft::{CatalogLoss, ObjectRef, View};
use pgmesh_storage::{BackupLabel, Digest, StanzaName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// So many lost objects are counted and looked at; more are "more".
const COUNTED: usize = 10_000;
/// So many WAL files of a stanza are named.
const NAMED: usize = 16;
/// How long a client waits for the search.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether chunks were lost, and how soon a search that could not read everything is made again.
const PERIOD: Duration = Duration::from_secs(60);

/// The search for the backups that lost chunks cost.
pub(crate) struct LostSearch {
    asked: Notify,
    found: watch::Sender<Found>,
}

impl Default for LostSearch {
    fn default() -> Self {
        Self {
            asked: Notify::new(),
            found: watch::Sender::new(Found::default()),
        }
    }
}

/// The result of a search.
#[derive(Debug, Clone, Default)]
struct Found {
    /// The chunks that were looked for.
    chunks: BTreeSet<Digest>,
    /// The backups that need some of them.
    backups: BTreeMap<StanzaName, BTreeSet<BackupLabel>>,
    /// Whether every manifest could be read.
    is_complete: bool,
}

/// The lost objects, by their kinds.
#[derive(Default)]
struct Losses {
    report: LostReport,
    stanzas: BTreeMap<StanzaName, StanzaLosses>,
    chunks: BTreeSet<Digest>,
}

impl Janitor {
    /// Searches until the node stops.
    pub async fn keep_searching_lost(self: Arc<Self>) {
        loop {
            let woken = tokio::time::timeout(PERIOD, self.lost.asked.notified()).await;
            let chunks = match losses(&self.catalog.view()) {
                Ok(losses) => losses.chunks,
                Err(failure) => {
                    tracing::warn!(error = %failure, "lost objects cannot be looked for");
                    continue;
                }
            };
            let is_known = {
                let known = self.lost.found.borrow();
                known.chunks == chunks && (known.is_complete || woken.is_ok())
            };
            if is_known {
                continue;
            }
            let found = self.search_lost(chunks).await;
            self.lost.found.send_replace(found);
        }
    }

    async fn search_lost(&self, chunks: BTreeSet<Digest>) -> Found {
        let mut found = Found {
            is_complete: true,
            ..Found::default()
        };
        if !chunks.is_empty() {
            let view = self.catalog.view();
            for row in view.stanzas(None) {
                let Ok((stanza, _)) = row else {
                    found.is_complete = false;
                    break;
                };
                for row in view.backups(&stanza, None) {
                    let Ok((label, backup)) = row else {
                        found.is_complete = false;
                        break;
                    };
                    if backup.holders().next().is_none() {
                        // It is lost itself, and named as such, or has expired.
                        continue;
                    }
                    match self.needs_any(&view, &stanza, &label, &chunks).await {
                        Ok(false) => {}
                        Ok(true) => drop(found.backups.entry(stanza.clone()).or_default().insert(label)),
                        Err(failure) => {
                            tracing::debug!(%stanza, %label, error = %failure, "a manifest could not be searched");
                            found.is_complete = false;
                        }
                    }
                }
            }
        }
        found.chunks = chunks;
        found
    }

    /// Whether a backup needs one of these chunks.
    async fn needs_any(
        &self,
        view: &View,
        stanza: &StanzaName,
        label: &BackupLabel,
        chunks: &BTreeSet<Digest>,
    ) -> Result<bool, Failure> {
        let Some(root) = self.reads.manifest_root(view, stanza, label).await? else {
            return Ok(false);
        };
        if root.parts.iter().any(|part| chunks.contains(&part.digest)) {
            return Ok(true);
        }
        for part in &root.parts {
            let named = self.reads.chunks_of_part(view, part.digest).await?;
            if named.iter().any(|digest| chunks.contains(digest)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The lost objects, as far as the client may know of them.
    pub(crate) async fn lost_report(
        &self,
        view: &View,
        may_know: impl Fn(&StanzaName) -> bool,
    ) -> Result<LostReport, Failure> {
        let Losses {
            mut report,
            mut stanzas,
            chunks,
        } = losses(view)?;
        if !chunks.is_empty() {
            let mut searched = self.lost.found.subscribe();
            self.lost.asked.notify_one();
            let wait = searched.wait_for(|found| found.chunks == chunks);
            let found = match tokio::time::timeout(PATIENCE, wait).await {
                Ok(Ok(found)) => Some(found.clone()),
                // The search goes on: a client that asks again later gets its outcome.
                Ok(Err(_)) | Err(_) => None,
            };
            report.searching = found.as_ref().is_none_or(|found| !found.is_complete);
            for (stanza, labels) in found.unwrap_or_default().backups {
                for label in labels {
                    // It may have been removed since.
                    if view.backup(&stanza, &label)?.is_some() {
                        entry(&mut stanzas, &stanza).backups.push(label);
                    }
                }
            }
        }
        for losses in stanzas.values_mut() {
            losses.backups.sort_unstable();
            losses.backups.dedup();
        }
        stanzas.retain(|stanza, _| may_know(stanza));
        report.stanzas = stanzas.into_values().collect();
        let past = view.past()?;
        report.uncompared = past.uncompared.iter().map(|repo| repo.get()).collect();
        let is_taken_over = |loss: &CatalogLoss| is_taken_over(loss, &past);
        report.catalog = past.loss.as_ref().map(|loss| CatalogLost {
            taken_over: is_taken_over(loss).then_some(loss.era),
            told_by: loss.told_by.as_ref().map(ToString::to_string),
            repo: loss.repo,
            position: loss.position.0,
            written: loss.written,
            found_at: loss.found_at.0,
        });
        Ok(report)
    }
}

fn losses(view: &View) -> Result<Losses, Failure> {
    let mut losses = Losses::default();
    for row in view.lost(None).take(COUNTED + 1) {
        let (object, lost) = row?;
        if losses.report.objects == COUNTED as u64 {
            losses.report.more = true;
            break;
        }
        match object {
            // One is made anew of its segment, and no recovery asks for the other.
            ObjectRef::Segment {
                file: WalFileName::Map(_) | WalFileName::Aside { .. },
                ..
            } => continue,
            ObjectRef::Chunk(digest) => drop(losses.chunks.insert(digest)),
            ObjectRef::Segment { stanza, file, .. } => {
                let stanza = entry(&mut losses.stanzas, &stanza);
                stanza.wal_files += 1;
                if stanza.wal.len() < NAMED {
                    stanza.wal.push(file.to_string());
                }
            }
            ObjectRef::Manifest { stanza, label } => entry(&mut losses.stanzas, &stanza).backups.push(label),
            ObjectRef::StanzaInfo { stanza, .. } => entry(&mut losses.stanzas, &stanza).description = true,
        }
        let report = &mut losses.report;
        report.objects += 1;
        report.since = Some(report.since.map_or(lost.since, |since| since.min(lost.since)));
    }
    losses.report.chunks = losses.chunks.len() as u64;
    Ok(losses)
}

fn entry<'s>(stanzas: &'s mut BTreeMap<StanzaName, StanzaLosses>, stanza: &StanzaName) -> &'s mut StanzaLosses {
    stanzas.entry(stanza.clone()).or_insert_with(|| StanzaLosses {
        stanza: stanza.to_string(),
        ..StanzaLosses::default()
    })
}
