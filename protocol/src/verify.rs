//! Reading and checking everything.

use crate::bounded::{List, VerifiedRepositories};
use pgmesh_storage::{RepoKey, StanzaName};
use serde::{Deserialize, Serialize};

/// Asks to read and check all objects, or some of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// Only this stanza's backups and WAL (with the chunks they need); all where it is not given.
    pub stanza: Option<StanzaName>,
    /// Only this repository.
    pub repo: Option<u16>,
    /// Between nodes: the asked node's part. A shared repository is verified by one node.
    pub part: Option<List<RepoKey, VerifiedRepositories>>,
}

/// A fault, or an object worth a note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The kind of the finding.
    pub kind: FindingKind,
    /// In which repository, where it is in one.
    pub repo: Option<u16>,
    /// The stanza, where it belongs to one.
    pub stanza: Option<String>,
    /// The object, segment range or backup.
    pub subject: String,
    /// The finding, in a sentence.
    pub what: String,
}

/// The kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// An object whose tag, digest, length or form is wrong.
    Damaged,
    /// An object that the catalog says is there, and is not.
    Missing,
    /// A repository, or a part of it, that could not be read.
    Unreadable,
    /// A committed backup that depends on damaged or missing objects.
    BackupDamaged,
    /// WAL that is missing although WAL behind it is known of, and that a backup needs to be recovered beyond it.
    WalGap,
    /// WAL that is missing between two archived segments of a timeline, and that no backup needs. No fault.
    WalGapUnneeded,
    /// A replica that is known to be owed and not yet made.
    Owed,
    /// An object that nothing refers to: left by an upload that was not finished. No fault.
    Unreferenced,
    /// A file that is no object of the repository. For example, another repository lies below this one. No fault of
    /// this repository's.
    ///
    /// This variant stays the last one: kinds travel by their number.
    Foreign,
}

impl FindingKind {
    /// Whether the finding makes `verify` exit with an error. Owed replicas, unneeded WAL, unreferenced objects and
    /// foreign files are no damage.
    pub fn is_error(self) -> bool {
        !matches!(
            self,
            Self::WalGapUnneeded | Self::Owed | Self::Unreferenced | Self::Foreign
        )
    }

    /// The name in JSON and text output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
            Self::BackupDamaged => "backup-damaged",
            Self::WalGap => "wal-gap",
            Self::WalGapUnneeded => "wal-gap-unneeded",
            Self::Owed => "owed",
            Self::Unreferenced => "unreferenced",
            Self::Foreign => "foreign",
        }
    }
}

/// The progress of a verification.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum VerifyEvent {
    /// So far.
    Progress {
        /// Objects read.
        objects: u64,
        /// Bytes read.
        bytes: u64,
    },
    /// A finding.
    Found(Finding),
    /// The end.
    Done(VerifySummary),
    /// It could not go on.
    Failed(crate::Failure),
}

/// How many damaged backups, and how many ranges of WAL, a summary names.
pub const NAMED: usize = 2000;

/// Sums of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifySummary {
    /// Objects read and checked.
    pub objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Backups resolved.
    pub backups: u64,
    /// Backups found damaged, `stanza/label` each: the first [`NAMED`].
    pub damaged_backups: Vec<String>,
    /// WAL segments in the archive.
    pub segments: u64,
    /// Per stanza and database: `main 15-1`, timelines and their ranges, in words: the first [`NAMED`].
    pub archives: Vec<String>,
}
