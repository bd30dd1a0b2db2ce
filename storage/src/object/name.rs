use std::fmt;

use pgmesh_postgres::WalFileName;
use serde::{Deserialize, Serialize};

use super::path::{ObjectPath, StoredName};
use super::portion::{FilePart, LARGEST_SINGLE_OBJECT, Portion};
use crate::digest::{Digest, DigestSuite};
use crate::names::{ArchiveId, BackupLabel, Generation, StanzaName};
use crate::payload::MAX_PLAIN_LENGTH;

/// The kind of an object's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectKind {
    /// Pages and small files.
    Chunk,
    /// A WAL segment, or another file that PostgreSQL archives.
    Segment,
    /// The root of a backup's manifest.
    Manifest,
    /// The description of a stanza's database cluster.
    StanzaInfo,
}

impl ObjectKind {
    /// The kind's number in an object's header.
    pub(crate) fn id(self) -> u8 {
        match self {
            Self::Chunk => 1,
            Self::Segment => 2,
            Self::Manifest => 3,
            Self::StanzaInfo => 4,
        }
    }

    /// The most plaintext that an object of this kind may hold, in bytes. If a peer or a bucket claims more, the object
    /// is refused before a byte is read.
    #[must_use]
    pub const fn max_plain_length(self) -> u64 {
        match self {
            // A page-aligned piece, small files together, or a part of a manifest: each about 1 MiB.
            Self::Chunk => 8 << 20,
            // A longer file lies in parts.
            Self::Segment => LARGEST_SINGLE_OBJECT,
            // The digests of its parts: 1,000 files of a backup take 32 bytes here.
            Self::Manifest => MAX_PLAIN_LENGTH,
            Self::StanzaInfo => 1 << 20,
        }
    }

    /// The kind with this number.
    pub(crate) fn from_id(id: u8) -> Option<Self> {
        match id {
            1 => Some(Self::Chunk),
            2 => Some(Self::Segment),
            3 => Some(Self::Manifest),
            4 => Some(Self::StanzaInfo),
            _ => None,
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Chunk => "chunk",
            Self::Segment => "segment",
            Self::Manifest => "manifest",
            Self::StanzaInfo => "stanza-info",
        })
    }
}

/// An object, named by its content: the same in every repository, although the paths differ by the naming key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectName {
    /// A chunk.
    Chunk(Digest),
    /// A file that PostgreSQL archived.
    Segment {
        /// The stanza.
        stanza: StanzaName,
        /// The cluster's archive.
        archive_id: ArchiveId,
        /// The file's name.
        file: WalFileName,
        /// The digest of the whole file.
        digest: Digest,
        /// The objects of the file that the name stands for.
        portion: Portion,
    },
    /// The root of a backup's manifest.
    Manifest {
        /// The stanza.
        stanza: StanzaName,
        /// The backup.
        label: BackupLabel,
        /// The digest of the manifest's root.
        digest: Digest,
    },
    /// The description of a stanza's database cluster.
    StanzaInfo {
        /// The stanza.
        stanza: StanzaName,
        /// The cluster.
        archive_id: ArchiveId,
        /// The digest of the record.
        digest: Digest,
    },
}

impl ObjectName {
    /// The kind of the object.
    #[must_use]
    pub fn kind(&self) -> ObjectKind {
        match self {
            Self::Chunk(_) => ObjectKind::Chunk,
            Self::Segment { .. } => ObjectKind::Segment,
            Self::Manifest { .. } => ObjectKind::Manifest,
            Self::StanzaInfo { .. } => ObjectKind::StanzaInfo,
        }
    }

    /// The digest of the object's plaintext; for a part of a file, the digest of the whole file.
    #[must_use]
    pub fn digest(&self) -> Digest {
        match self {
            Self::Chunk(digest)
            | Self::Segment { digest, .. }
            | Self::Manifest { digest, .. }
            | Self::StanzaInfo { digest, .. } => *digest,
        }
    }

    /// The objects that the name stands for: itself, or all parts of a file.
    #[must_use]
    pub fn objects(&self) -> Vec<Self> {
        match self {
            Self::Segment {
                portion: Portion::AllParts(of),
                ..
            } => FilePart::all(*of).map(|part| self.with(Portion::Part(part))).collect(),
            one => vec![one.clone()],
        }
    }

    /// The part, if the name stands for a part of a file.
    #[must_use]
    pub fn part(&self) -> Option<FilePart> {
        match self {
            Self::Segment { portion, .. } => portion.part(),
            _ => None,
        }
    }

    /// The name of one part of the file.
    #[must_use]
    pub fn of_part(&self, part: FilePart) -> Self {
        self.with(Portion::Part(part))
    }

    fn with(&self, portion: Portion) -> Self {
        let mut name = self.clone();
        if let Self::Segment { portion: own, .. } = &mut name {
            *own = portion;
        }
        name
    }

    /// The object's path in a repository with this naming key (`None`: not encrypted).
    #[must_use]
    pub(crate) fn place(
        &self,
        suite: DigestSuite,
        naming_key: Option<&[u8; 32]>,
        generation: Generation,
    ) -> ObjectPath {
        let name = StoredName::new(self.digest(), suite, naming_key);
        match self {
            Self::Chunk(_) => ObjectPath::Chunk { name, generation },
            Self::Segment {
                stanza,
                archive_id,
                file,
                portion,
                ..
            } => ObjectPath::Segment {
                stanza: stanza.clone(),
                archive_id: *archive_id,
                file: *file,
                name,
                generation,
                part: portion.part(),
            },
            Self::Manifest { stanza, label, .. } => ObjectPath::Manifest {
                stanza: stanza.clone(),
                label: label.clone(),
                name,
                generation,
            },
            Self::StanzaInfo { stanza, archive_id, .. } => ObjectPath::StanzaInfo {
                stanza: stanza.clone(),
                archive_id: *archive_id,
                name,
                generation,
            },
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chunk(digest) => write!(formatter, "chunk {digest}"),
            Self::Segment {
                stanza,
                archive_id,
                file,
                ..
            } => {
                if let Some(part) = self.part() {
                    write!(formatter, "part {part} of ")?;
                }
                write!(formatter, "archived file {file} of {stanza} {archive_id}")
            }
            Self::Manifest { stanza, label, .. } => {
                write!(formatter, "manifest of backup {label} of {stanza}")
            }
            Self::StanzaInfo { stanza, archive_id, .. } => write!(formatter, "information on {stanza} {archive_id}"),
        }
    }
}
