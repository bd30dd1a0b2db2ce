//! What is told of a catalog that is being rebuilt.

use serde::Serialize;
use std::sync::Arc;

/// What is told on the way.
#[derive(Debug)]
pub enum RebuildEvent<'a> {
    /// So many objects are listed so far.
    Listed(u64),
    /// So many bytes will be read: WAL, and of backups what says which chunks they consist of.
    Reading(u64),
    /// So many bytes more are read.
    Read(u64),
    /// Something is not as it should be.
    Found(&'a Problem),
}

/// Who is told.
pub type Tell = Arc<dyn Fn(RebuildEvent<'_>) + Send + Sync>;

/// Something in the repository that could not be taken up as it was, or that the administrator must decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What kind of thing it is.
    pub kind: ProblemKind,
    /// The stanza that it concerns.
    pub stanza: Option<String>,
    /// The object, file, backup or range.
    pub subject: String,
    /// What was found, and what has become of it.
    pub what: String,
    /// What to do.
    pub remedy: Option<String>,
}

/// Kinds of [`Problem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// A key object cannot be used.
    Key,
    /// What a stanza's cluster is was not to be read.
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
    /// An archived file of another cluster, or one that contradicts the others.
    WalForeign,
    /// Segments between others are missing.
    WalGap,
    /// Nobody knows who writes a timeline.
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
    /// How many archived files, of which a good copy is there.
    pub wal_files: u64,
}

/// What came of it.
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
    /// What was not as it should be.
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

    /// With what to do.
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
