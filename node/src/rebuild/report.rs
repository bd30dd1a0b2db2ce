//! Progress and results of a rebuilding of the catalog.

use serde::Serialize;
use std::sync::Arc;

/// A message of progress.
#[derive(Debug)]
pub enum RebuildEvent<'a> {
    /// So many objects are listed so far.
    Listed(u64),
    /// So many bytes will be read: WAL, and the manifests of backups with their lists of files.
    Reading(u64),
    /// So many bytes more are read.
    Read(u64),
    /// A problem was found.
    Found(&'a Problem),
}

/// The function that is told of each event.
pub type Tell = Arc<dyn Fn(RebuildEvent<'_>) + Send + Sync>;

/// An object of the repository that could not be taken up as it was, or a decision for the administrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Its kind.
    pub kind: ProblemKind,
    /// The stanza that it concerns.
    pub stanza: Option<String>,
    /// The object, file, backup or range.
    pub subject: String,
    /// The finding and its consequence.
    pub what: String,
    /// The administrator's next step.
    pub remedy: Option<String>,
}

/// Kinds of [`Problem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// A key object cannot be used.
    Key,
    /// The description of a stanza's cluster could not be read.
    Description,
    /// A backup's manifest is no good: the backup is left out.
    Manifest,
    /// A backup lacks chunks: it is left out.
    BackupIncomplete,
    /// WAL that a backup cannot do without is not there.
    BackupWal,
    /// An archived file has no good copy.
    WalDamaged,
    /// Two contents lie under the name of one archived file (invariant 3).
    WalDuplicate,
    /// The upload of a file was cut, before it was archived.
    WalCut,
    /// An archived file belongs to another cluster, or contradicts the other files.
    WalForeign,
    /// Segments between others are missing.
    WalGap,
    /// The writer of a timeline is unknown.
    Writer,
}

/// One stanza as it was rebuilt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RebuiltStanza {
    /// Its name.
    pub name: String,
    /// Its databases, oldest first, as `15-1`.
    pub databases: Vec<String>,
    /// How many backups it has.
    pub backups: u64,
    /// How many archived files have a good copy.
    pub wal_files: u64,
}

/// The outcome of a rebuilding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// The mesh.
    pub mesh_id: String,
    /// SHA-256 of the certificate of its new authority.
    pub ca_fingerprint: String,
    /// The repository's number.
    pub repo: u16,
    /// Its stanzas.
    pub stanzas: Vec<RebuiltStanza>,
    /// How many chunks backups name.
    pub chunks: u64,
    /// Objects that nothing names; they are left alone.
    pub unnamed: u64,
    /// The problems that were found.
    pub problems: Vec<Problem>,
}

impl Problem {
    /// Without a stanza and a remedy.
    pub(super) fn new(kind: ProblemKind, subject: impl ToString, what: impl Into<String>) -> Self {
        Self {
            kind,
            stanza: None,
            subject: subject.to_string(),
            what: what.into(),
            remedy: None,
        }
    }

    /// Of a stanza.
    #[must_use]
    pub(super) fn of(mut self, stanza: &pgmesh_storage::StanzaName) -> Self {
        self.stanza = Some(stanza.to_string());
        self
    }

    /// With the administrator's next step.
    #[must_use]
    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(stanza) = &self.stanza {
            write!(f, "stanza {stanza}: ")?;
        }
        write!(f, "{}: {}", self.subject, self.what)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}
