//! Keeping this node's repositories open: a closed repository is tried again; an open repository that is not the mesh's
//! any more is closed; a repository that is down and idle is probed.

use super::opening::Again;
use super::slot::{OpenRepository, Opened, Slot};
use crate::core::Core;
use futures::future::join_all;
use pgmesh_protocol::now_unix;
use pgmesh_runtime::random;
use std::sync::Arc;
use std::time::Duration;

/// How soon a repository that could not be opened is tried again; a shared repository after a longer pause each time.
const RETRY: Duration = Duration::from_secs(2);
/// The longest such pause.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// How long the creation of a stanza waits for the first attempts.
const LONGEST_FIRST_ATTEMPTS: Duration = Duration::from_secs(10);

impl Core {
    /// Tries closed repositories again, each at its own pace, until the node stops.
    pub async fn keep_opening(self: Arc<Self>) {
        self.repositories
            .keep_with_each(&self.supervisor, "opening", |slot| self.keep_open(slot))
            .await;
    }

    async fn keep_open(&self, slot: &Slot) {
        let mut pause = RETRY;
        let mut leader = self.catalog.leader_changes();
        loop {
            leader.mark_unchanged();
            let again = match slot.opened() {
                Opened::Closed { .. } => self.open_one(slot).await,
                Opened::Open(open) if self.is_another(slot, &open) => {
                    self.close(slot, "what this node has open is not the mesh's repository any more");
                    self.open_one(slot).await
                }
                // The repository that is there now is checked as if it had never been open.
                Opened::Open(_) if !slot.is_in_place().await => {
                    self.close(slot, "its directory was away");
                    self.open_one(slot).await
                }
                Opened::Open(_) if slot.watch.waits_for_a_probe() => {
                    // The outcome goes into the health.
                    let _ = slot.read(|repository| async move { repository.probe().await }).await;
                    Again::Never
                }
                Opened::Refused { differs: true, .. } if !self.is_redefined(slot) => self.open_one(slot).await,
                Opened::Open(_) | Opened::Refused { .. } => Again::Never,
            };
            let wait = match again {
                Again::Never | Again::Soon => {
                    pause = RETRY;
                    RETRY
                }
                Again::Later => {
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_RETRY);
                    jittered(wait)
                }
                Again::Slowly => jittered(LONGEST_RETRY),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => (),
                // A repository that waited for the mesh is tried at once.
                Ok(()) = leader.changed(), if again == Again::Soon => (),
            }
        }
    }

    /// Whether the mesh knows the repository, with another definition or host than this node's file says.
    fn is_redefined(&self, slot: &Slot) -> bool {
        let record = self.catalog.view().repository(slot.key).ok().flatten();
        record.is_some_and(|record| !self.is_as_declared(slot, &record))
    }

    /// Whether the open repository is not the mesh's under this number any more: redefined, hosted by another node now,
    /// moved, or replaced by way of another node.
    fn is_another(&self, slot: &Slot, open: &OpenRepository) -> bool {
        let record = self.catalog.view().repository(slot.key).ok().flatten();
        record.is_some_and(|record| {
            let is_redefined = slot.settings.is_shared() && !self.is_as_declared(slot, &record);
            is_redefined || record.host != self.host_of(slot) || !record.is_at(open.claimed_as())
        })
    }

    /// Serves it no longer until it has been opened again.
    pub(crate) fn close(&self, slot: &Slot, why: &str) {
        tracing::warn!(repo = %slot.key, why, "repository closed; it is opened again");
        let why = why.to_owned();
        slot.set(Opened::Closed { why, since: now_unix() });
    }

    /// Waits until each declared repository has been tried once: a stanza that is created as soon as a node answers is
    /// not refused because a bucket is slow. At most `io-timeout`, or 10 s where that is longer.
    pub(crate) async fn first_attempts(&self) {
        let limit = self.settings.io_timeout.min(LONGEST_FIRST_ATTEMPTS);
        let attempts = join_all(self.repositories.slots().map(|slot| slot.first_attempt()));
        // If a repository is closed even then, the request's failure says so.
        let _ = tokio::time::timeout(limit, attempts).await;
    }

    /// Why this node's repositories are not open, a sentence; nothing where all are.
    pub(crate) fn why_not_open(&self) -> Option<String> {
        let why = |slot: &Arc<Slot>| Some(format!("repo{}: {}", slot.key, slot.why_not_open()?));
        let reasons: Vec<String> = self.repositories.slots().filter_map(why).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

/// Three quarters to five quarters of a pause: if an opening fails for all nodes at once, they do not all try again at
/// once.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [128];
    // Without randomness all wait the same time.
    let _ = random::fill(&mut byte);
    pause * (768 + 2 * u32::from(byte[0])) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_spread() {
        let pause = Duration::from_secs(8);
        let spread: Vec<Duration> = (0..64).map(|_| jittered(pause)).collect();
        let (least, most) = (spread.iter().min().unwrap(), spread.iter().max().unwrap());
        assert!(
            *least >= Duration::from_secs(6) && *most <= Duration::from_secs(10),
            "{spread:?}"
        );
        assert!(least < most);
    }
}
