//! Which repositories keep a backup, and which chunks backups use.

use std::collections::BTreeSet;

use pgmesh_storage::RepoKey;
use serde::{Deserialize, Serialize};

use super::LogIndex;

/// The repositories that do not keep an object any more, though others may. Empty for most objects.
pub type ExpiredIn = BTreeSet<RepoKey>;

/// An event in the use of a chunk by a stanza; its key is (digest, stanza, label).
///
/// The backups of a stanza are in the order of their labels. A chunk is *in use* from the backup where it was born up
/// to, and without, the backup where it died; if it comes back, it is born again. For example, chunk C of backups b1,
/// b2 and b4 was born at b1, died at b3, and was born again at b4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UseEvent {
    /// The backup is the first one that names the chunk.
    Born,
    /// The backup is the first one that does not name it any more.
    Died,
    /// The backup names it, as the one before did, which some repository does not keep: that repository owes it anew.
    Carried,
}

/// Why a backup does not expire, whatever the rules of retention say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Since when, in seconds since the Unix epoch.
    pub since: i64,
    /// Until when, in seconds since the Unix epoch; `None`: until it is released.
    pub until: Option<i64>,
    /// Who asked for it, as in the audit trail.
    pub by: String,
    /// Why, in words. Empty where nothing was said.
    pub why: String,
}

impl Hold {
    /// Whether it holds at `now`, in seconds since the Unix epoch.
    #[must_use]
    pub fn holds(&self, now: i64) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// A stanza whose uses of chunks are not known in full; its key is the stanza. A node reads the manifests of its
/// backups, and notes their uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlisted {
    /// Whether chunks may be in use of which no birth is known: until it is listed, no chunk is released. Otherwise
    /// only deaths are missing, and chunks stay that could go.
    pub births: bool,
    /// Whether manifests were passed over that are lost in all repositories: no chunk that the stanza ever used is
    /// released, and none without a use is condemned. They may be found again.
    pub is_partial: bool,
    /// When it was last found to be so.
    pub since: LogIndex,
}
