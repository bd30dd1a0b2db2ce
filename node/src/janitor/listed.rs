//! How often stanzas whose manifests are lost are listed.

use pgmesh_storage::StanzaName;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How soon a stanza with lost manifests is listed again.
const LIST_AGAIN: Duration = Duration::from_secs(3600);

/// When the uses of stanzas with lost manifests were last listed.
#[derive(Debug, Default)]
pub(super) struct Listed(Mutex<BTreeMap<StanzaName, Instant>>);

impl Listed {
    /// Whether the stanza is to be listed again; notes that it is.
    pub(super) fn is_due(&self, stanza: &StanzaName) -> bool {
        let mut listed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_due = listed
            .get(stanza)
            .is_none_or(|at| now.saturating_duration_since(*at) >= LIST_AGAIN);
        if is_due {
            listed.insert(stanza.clone(), now);
        }
        is_due
    }
}
