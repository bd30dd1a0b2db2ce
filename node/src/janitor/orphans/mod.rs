//! Finding orphans: objects in a repository that the catalog does not know (decision 36). They come from uploads that
//! were refused, from backups and pushes that were killed before the catalog heard of their objects, and from deletions
//! that were overtaken by a late write.
//!
//! Once in `orphan-scan-interval` each repository is listed, a folder after the other. An object that the catalog does
//! not know is noted in the catalog. If a noted object is still unknown after every session of that time has ended, it
//! is proposed as garbage. `apply` looks at each name once more, and the collector deletes the garbage. So no deletion
//! is decided here. If this node lacks knowledge, because its catalog lags behind, because a scan is repeated, or
//! because another node scans as well, that costs another look and no object.
//!
//! One node scans a repository: its host, or for a shared repository the leader if it reaches it, else the first node
//! that does. The progress of the scan is in the catalog, so another node goes on there. A folder that is not finished
//! is listed again.

mod names;
mod scan;

use crate::janitor::Janitor;
use crate::janitor::sweep::backed_off;
use pgmesh_protocol::{Failure, now_unix};
use pgmesh_raft::{NodeName, NodeRecord, NodeService, OrphanScan};
use scan::Scan;
use std::sync::Arc;
use std::time::Duration;

use crate::repositories::Slot;

/// The longest time between two looks whether a scan is due.
const LOOK: Duration = Duration::from_secs(60);
/// The first and the longest pause after a scan that failed.
const AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

impl Janitor {
    /// Scans repositories until the node stops, one at a time. A repository that hangs holds the others up until its
    /// request is given up.
    pub async fn keep_finding_orphans(self: Arc<Self>) {
        self.repositories
            .keep_with_each(&self.supervisor, "orphans", |slot| self.keep_finding_orphans_in(slot))
            .await;
    }

    async fn keep_finding_orphans_in(&self, slot: &Slot) {
        let interval = self.settings.orphan_scan_interval;
        let (mut failed, mut has_more) = (0_u32, false);
        loop {
            let pause = if failed == 0 { LOOK } else { backed_off(AGAIN, failed) };
            tokio::time::sleep(pause.min(interval / 2)).await;
            let is_due = self.scans(slot).is_ok_and(|scans| scans)
                && self
                    .catalog
                    .view()
                    .orphan_scan(slot.key)
                    .is_ok_and(|scan| has_more || is_due(&scan, interval, now_unix()));
            if !is_due {
                continue;
            }
            match self.find_orphans(slot).await {
                Ok(more) => (failed, has_more) = (0, more),
                Err(failure) => {
                    failed = failed.saturating_add(1);
                    tracing::warn!(repo = %slot.key, error = %failure, "unknown objects of this repository are looked for later");
                }
            }
        }
    }

    /// Looks one repository through, from where the last scan was left. Whether there is more than was noted, so that
    /// the next scan is to begin at once.
    pub(crate) async fn find_orphans(&self, slot: &Slot) -> Result<bool, Failure> {
        let _one = self.finding_orphans.lock().await;
        let Some(repository) = slot.repository() else {
            return Ok(false);
        };
        let Some(scan) = Scan::begin(self, slot, repository).await? else {
            return Ok(false);
        };
        scan.run().await
    }

    /// Whether it is for this node, now, to look a repository through.
    fn scans(&self, slot: &Slot) -> Result<bool, Failure> {
        let view = self.catalog.view();
        let Some(record) = view.repository(slot.key)? else {
            return Ok(false);
        };
        let serves = |service: Option<NodeService>| service == Some(NodeService::InService);
        // In a doubted catalog, objects that it does not know may be needed.
        let may = self.may_forget() && self.is_ours(slot);
        if !may || !serves(view.node(&self.name)?.map(|node| node.service)) {
            return Ok(false);
        }
        // Nothing is unknown in it yet.
        if record.backfill.is_some() || record.change.is_some() {
            return Ok(false);
        }
        if let Some(host) = record.host {
            return Ok(host == self.name);
        }
        let reaching = view.reaching(slot.key)?;
        Ok(scanner(&reaching, self.catalog.leader()) == Some(&self.name))
    }
}

/// The node that scans a shared repository: of the nodes that reach it, the leader, or the first in service.
fn scanner(reaching: &[(NodeName, NodeRecord)], leader: Option<u64>) -> Option<&NodeName> {
    let mut serving = reaching
        .iter()
        .filter(|(_, node)| node.service == NodeService::InService);
    let first = serving.clone().next();
    let leads = serving.find(|(_, node)| Some(node.node_id) == leader);
    leads.or(first).map(|(name, _)| name)
}

/// Whether a repository is to be looked through: the last scan was not finished, or is long ago. The clock may be
/// wrong: then a scan comes too early, or too late.
fn is_due(scan: &OrphanScan, interval: Duration, now: i64) -> bool {
    let Some(ended) = scan.ended.filter(|_| scan.next.is_none()) else {
        return true;
    };
    let interval = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX);
    now < ended.at || now.saturating_sub(ended.at) >= interval
}

#[cfg(test)]
mod tests;
