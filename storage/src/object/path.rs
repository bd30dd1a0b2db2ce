use std::fmt;

use pgmesh_postgres::WalFileName;

use super::name::{ObjectKind, ObjectName};
use super::portion::{FilePart, Portion};
use crate::digest::{Digest, DigestSuite};
use crate::names::{ArchiveId, BackupLabel, Generation, StanzaName};

/// The object with the repository's identity.
pub(crate) const IDENTITY_PATH: &str = "pgmesh.repo";
/// The folder of the key objects.
pub(crate) const KEY_PREFIX: &str = "pgmesh.key";

/// The folder of the marks.
pub(crate) const MARK_PREFIX: &str = "pgmesh.mark";

/// The part of an object's path that stands for its content: the digest, or in an encrypted repository a MAC of it, so
/// that names tell nothing. 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoredName(Digest);

impl StoredName {
    /// The name of content with this digest.
    pub(crate) fn new(digest: Digest, suite: DigestSuite, naming_key: Option<&[u8; 32]>) -> Self {
        Self(match naming_key {
            None => digest,
            Some(key) => Digest(suite.mac(key, &[&digest.0])),
        })
    }
}

impl StoredName {
    /// Its bytes; as good as random.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The digest, in a repository whose names are digests.
    pub(crate) fn unhidden(self) -> Digest {
        self.0
    }
}

impl fmt::Display for StoredName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Debug for StoredName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "StoredName({})", self.0)
    }
}

/// A mark of a repository: see [`Repository::write_mark`](crate::Repository::write_mark).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// Higher than every earlier mark's.
    pub number: u64,
    /// Drawn at random: marks of one number in two copies of a repository differ.
    pub nonce: u64,
}

/// A path in a repository, relative to its root, as far as it can be read without the content.
///
/// [`Display`](fmt::Display) and [`ObjectPath::parse`] are each other's inverse.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectPath {
    /// `pgmesh.repo`
    Identity,
    /// `pgmesh.key/<epoch>-<wrap>`
    Key {
        /// The key epoch.
        epoch: u32,
        /// The number of this wrapping of the epoch's keys.
        wrap: u32,
    },
    /// `pgmesh.mark/<number>-<nonce>`, both of 16 hexadecimal digits
    Mark(Mark),
    /// `chunk/<xx>/<name>`
    Chunk {
        /// The name that stands for the content.
        name: StoredName,
        /// The generation.
        generation: Generation,
    },
    /// `stanza/<stanza>/archive/<archive id>/<tli+log>/<file>-<name>[.p<number>of<parts>]`; history files lie directly
    /// under the archive id.
    Segment {
        /// The stanza.
        stanza: StanzaName,
        /// The cluster's archive.
        archive_id: ArchiveId,
        /// The archived file.
        file: WalFileName,
        /// The name that stands for the content of the whole file.
        name: StoredName,
        /// The generation.
        generation: Generation,
        /// The part, if the file lies in parts.
        part: Option<FilePart>,
    },
    /// `stanza/<stanza>/backup/<label>/manifest-<name>`
    Manifest {
        /// The stanza.
        stanza: StanzaName,
        /// The backup.
        label: BackupLabel,
        /// The name that stands for the content.
        name: StoredName,
        /// The generation.
        generation: Generation,
    },
    /// `stanza/<stanza>/db/<archive id>-<name>`
    StanzaInfo {
        /// The stanza.
        stanza: StanzaName,
        /// The cluster.
        archive_id: ArchiveId,
        /// The name that stands for the content.
        name: StoredName,
        /// The generation.
        generation: Generation,
    },
}

impl ObjectPath {
    /// Reads a path. `None` for a path that no object of a repository has.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').collect();
        let parsed = match parts.as_slice() {
            [IDENTITY_PATH] => Self::Identity,
            [KEY_PREFIX, key] => {
                let (epoch, wrap) = key.split_once('-')?;
                Self::Key {
                    epoch: epoch.parse().ok()?,
                    wrap: wrap.parse().ok()?,
                }
            }
            [MARK_PREFIX, mark] => {
                let (number, nonce) = mark.split_once('-')?;
                let digits = |text| u64::from_str_radix(text, 16).ok();
                Self::Mark(Mark {
                    number: digits(number)?,
                    nonce: digits(nonce)?,
                })
            }
            ["chunk", _, last] => {
                let (name, generation) = parse_name(last)?;
                Self::Chunk { name, generation }
            }
            ["stanza", stanza, "archive", archive_id, _, last] | ["stanza", stanza, "archive", archive_id, last] => {
                // Split from the end: the file's own name may end with `.partial`.
                let (file, name) = last.rsplit_once('-')?;
                let (name, part) = FilePart::split(name)?;
                let (name, generation) = parse_name(name)?;
                Self::Segment {
                    stanza: stanza.parse().ok()?,
                    archive_id: archive_id.parse().ok()?,
                    file: file.parse().ok()?,
                    name,
                    generation,
                    part,
                }
            }
            ["stanza", stanza, "backup", label, last] => {
                let ("manifest", name, generation) = parse_prefixed(last)? else {
                    return None;
                };
                Self::Manifest {
                    stanza: stanza.parse().ok()?,
                    label: label.parse().ok()?,
                    name,
                    generation,
                }
            }
            ["stanza", stanza, "db", last] => {
                let (archive_id, name, generation) = parse_prefixed(last)?;
                Self::StanzaInfo {
                    stanza: stanza.parse().ok()?,
                    archive_id: archive_id.parse().ok()?,
                    name,
                    generation,
                }
            }
            _ => return None,
        };
        // One path for one object: leading zeros, signs and foreign folders are refused.
        (parsed.to_string() == path).then_some(parsed)
    }

    /// The kind of the object; `None` for the identity, for keys and for marks.
    #[must_use]
    pub fn kind(&self) -> Option<ObjectKind> {
        match self {
            Self::Identity | Self::Key { .. } | Self::Mark(_) => None,
            Self::Chunk { .. } => Some(ObjectKind::Chunk),
            Self::Segment { .. } => Some(ObjectKind::Segment),
            Self::Manifest { .. } => Some(ObjectKind::Manifest),
            Self::StanzaInfo { .. } => Some(ObjectKind::StanzaInfo),
        }
    }

    /// The stanza that the object belongs to; chunks belong to all.
    #[must_use]
    pub fn stanza(&self) -> Option<&StanzaName> {
        match self {
            Self::Identity | Self::Key { .. } | Self::Mark(_) | Self::Chunk { .. } => None,
            Self::Segment { stanza, .. } | Self::Manifest { stanza, .. } | Self::StanzaInfo { stanza, .. } => {
                Some(stanza)
            }
        }
    }

    /// The name that stands for the content; `None` for the identity, for keys and for marks.
    #[must_use]
    pub fn name(&self) -> Option<StoredName> {
        match self {
            Self::Identity | Self::Key { .. } | Self::Mark(_) => None,
            Self::Chunk { name, .. }
            | Self::Segment { name, .. }
            | Self::Manifest { name, .. }
            | Self::StanzaInfo { name, .. } => Some(*name),
        }
    }

    /// The object's generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        match self {
            Self::Identity | Self::Key { .. } | Self::Mark(_) => Generation::FIRST,
            Self::Chunk { generation, .. }
            | Self::Segment { generation, .. }
            | Self::Manifest { generation, .. }
            | Self::StanzaInfo { generation, .. } => *generation,
        }
    }

    /// The part of the archived file that the object holds.
    #[must_use]
    pub fn part(&self) -> Option<FilePart> {
        match self {
            Self::Segment { part, .. } => *part,
            _ => None,
        }
    }

    /// The path without the number of the part: the same for all parts of a file.
    #[must_use]
    pub fn whole(&self) -> Self {
        self.with_part(None)
    }

    /// The path of one part of the file.
    #[must_use]
    pub fn of_part(&self, part: FilePart) -> Self {
        self.with_part(Some(part))
    }

    fn with_part(&self, part: Option<FilePart>) -> Self {
        let mut path = self.clone();
        if let Self::Segment { part: own, .. } = &mut path {
            *own = part;
        }
        path
    }

    /// The object's name, given the digest of its content (for a part: of the whole file); `None` for the identity, for
    /// keys and for marks.
    #[must_use]
    pub fn object_name(&self, digest: Digest) -> Option<ObjectName> {
        Some(match self.clone() {
            Self::Identity | Self::Key { .. } | Self::Mark(_) => return None,
            Self::Chunk { .. } => ObjectName::Chunk(digest),
            Self::Segment {
                stanza,
                archive_id,
                file,
                part,
                ..
            } => ObjectName::Segment {
                stanza,
                archive_id,
                file,
                digest,
                portion: part.map_or(Portion::Whole, Portion::Part),
            },
            Self::Manifest { stanza, label, .. } => ObjectName::Manifest { stanza, label, digest },
            Self::StanzaInfo { stanza, archive_id, .. } => ObjectName::StanzaInfo {
                stanza,
                archive_id,
                digest,
            },
        })
    }
}

/// `<name>[.g<generation>]`
fn parse_name(text: &str) -> Option<(StoredName, Generation)> {
    let (name, generation) = Generation::split(text)?;
    Some((StoredName(name.parse().ok()?), generation))
}

/// `<prefix>-<name>[.g<generation>]`
fn parse_prefixed(text: &str) -> Option<(&str, StoredName, Generation)> {
    let (prefix, name) = text.rsplit_once('-')?;
    let (name, generation) = parse_name(name)?;
    Some((prefix, name, generation))
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => formatter.write_str(IDENTITY_PATH),
            Self::Key { epoch, wrap } => write!(formatter, "{KEY_PREFIX}/{epoch:04}-{wrap:04}"),
            Self::Mark(Mark { number, nonce }) => write!(formatter, "{MARK_PREFIX}/{number:016x}-{nonce:016x}"),
            Self::Chunk { name, .. } => {
                let name = name.to_string();
                write!(formatter, "chunk/{name:.2}/{name}")
            }
            Self::Segment {
                stanza,
                archive_id,
                file,
                name,
                ..
            } => {
                let folder = prefix::archived_file(stanza, *archive_id, file);
                write!(formatter, "{folder}/{file}-{name}")
            }
            Self::Manifest {
                stanza, label, name, ..
            } => write!(formatter, "{}/manifest-{name}", prefix::backup(stanza, label)),
            Self::StanzaInfo {
                stanza,
                archive_id,
                name,
                ..
            } => write!(formatter, "{}/{archive_id}-{name}", prefix::databases(stanza)),
        }?;
        formatter.write_str(&self.generation().suffix())?;
        match self.part() {
            Some(part) => write!(formatter, ".p{part}"),
            None => Ok(()),
        }
    }
}

/// The folders of a repository, to list.
pub mod prefix {
    use pgmesh_postgres::WalFileName;

    use crate::names::{ArchiveId, BackupLabel, StanzaName};

    /// All chunks.
    pub const CHUNKS: &str = "chunk";
    /// All stanzas.
    pub const STANZAS: &str = "stanza";

    /// All objects of a stanza, except chunks.
    #[must_use]
    pub fn stanza(stanza: &StanzaName) -> String {
        format!("stanza/{stanza}")
    }

    /// The descriptions of a stanza's database clusters.
    #[must_use]
    pub fn databases(stanza: &StanzaName) -> String {
        format!("stanza/{stanza}/db")
    }

    /// A stanza's manifests.
    #[must_use]
    pub fn backups(stanza: &StanzaName) -> String {
        format!("stanza/{stanza}/backup")
    }

    /// A backup's manifest.
    #[must_use]
    pub fn backup(stanza: &StanzaName, label: &BackupLabel) -> String {
        format!("stanza/{stanza}/backup/{label}")
    }

    /// A cluster's archive.
    #[must_use]
    pub fn archive(stanza: &StanzaName, archive_id: ArchiveId) -> String {
        format!("stanza/{stanza}/archive/{archive_id}")
    }

    /// The folder of an archived file.
    #[must_use]
    pub fn archived_file(stanza: &StanzaName, archive_id: ArchiveId, file: &WalFileName) -> String {
        let archive = archive(stanza, archive_id);
        match file.segment() {
            Some(segment) => format!("{archive}/{}", segment.directory()),
            None => archive,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn the_layout_is_the_documented_one() {
        let digest: Digest = DIGEST.parse().unwrap();
        let stanza: StanzaName = "main".parse().unwrap();
        let archive_id: ArchiveId = "15-1".parse().unwrap();
        let segment = |file: &str| ObjectName::Segment {
            stanza: stanza.clone(),
            archive_id,
            file: file.parse().unwrap(),
            digest,
            portion: Portion::Whole,
        };
        let path = |name: &ObjectName, generation| {
            name.place(DigestSuite::Blake3, None, Generation(generation))
                .to_string()
        };
        assert_eq!(path(&ObjectName::Chunk(digest), 0), format!("chunk/00/{DIGEST}"));
        assert_eq!(
            path(&segment("000000010000000200000003"), 1),
            format!("stanza/main/archive/15-1/0000000100000002/000000010000000200000003-{DIGEST}.g1")
        );
        assert_eq!(
            path(&segment("000000010000000200000003.partial"), 0),
            format!("stanza/main/archive/15-1/0000000100000002/000000010000000200000003.partial-{DIGEST}")
        );
        assert_eq!(
            path(&segment("00000002.history"), 0),
            format!("stanza/main/archive/15-1/00000002.history-{DIGEST}")
        );
        let part = FilePart::new(3, 128).unwrap();
        assert_eq!(
            path(&segment("000000010000000200000003").of_part(part), 1),
            format!("stanza/main/archive/15-1/0000000100000002/000000010000000200000003-{DIGEST}.g1.p003of128")
        );
        let label = "20250215-020001F".parse().unwrap();
        let manifest = ObjectName::Manifest {
            stanza: stanza.clone(),
            label,
            digest,
        };
        assert_eq!(
            path(&manifest, 2),
            format!("stanza/main/backup/20250215-020001F/manifest-{DIGEST}.g2")
        );
        let info = ObjectName::StanzaInfo {
            stanza: stanza.clone(),
            archive_id,
            digest,
        };
        assert_eq!(path(&info, 0), format!("stanza/main/db/15-1-{DIGEST}"));
        let segment_part = segment("000000010000000200000003").of_part(part);
        for name in [
            manifest,
            info,
            ObjectName::Chunk(digest),
            segment("00000002.history"),
            segment_part,
        ] {
            let parsed = ObjectPath::parse(&path(&name, 7)).unwrap();
            assert_eq!(parsed.object_name(digest), Some(name.clone()));
            assert_eq!(parsed.kind(), Some(name.kind()));
            assert_eq!(parsed.generation(), Generation(7));
        }
    }

    #[test]
    fn names_in_an_encrypted_repository_tell_nothing() {
        let digest: Digest = DIGEST.parse().unwrap();
        let place = |key| {
            ObjectName::Chunk(digest)
                .place(DigestSuite::Blake3, Some(key), Generation::FIRST)
                .to_string()
        };
        assert!(!place(&[1; 32]).contains(DIGEST));
        assert_ne!(place(&[1; 32]), place(&[2; 32]));
        assert_eq!(place(&[1; 32]), place(&[1; 32]));
    }

    #[test]
    fn foreign_paths_are_not_read() {
        let upper = DIGEST.to_uppercase();
        for path in [
            String::new(),
            "pgmesh.repo/".into(),
            "pgmesh.key/1-1".into(),
            "pgmesh.key/0001-00001".into(),
            format!("chunk/01/{DIGEST}"),
            format!("chunk/{DIGEST}"),
            format!("chunk/00/{upper}"),
            format!("chunk/00/{DIGEST}.g0"),
            format!("/chunk/00/{DIGEST}"),
            format!("stanza/../archive/15-1/00000002.history-{DIGEST}"),
            format!("stanza/main/archive/15-1/x/00000002.history-{DIGEST}"),
            format!("stanza/main/archive/15-1/000000010000000200000003-{DIGEST}"),
            format!("stanza/main/archive/15-1/0000000100000003/000000010000000200000003-{DIGEST}"),
            format!("stanza/main/archive/15-1/0000000100000002/000000010000000200000003-{DIGEST}.p3of128"),
            format!("stanza/main/archive/15-1/0000000100000002/000000010000000200000003-{DIGEST}.p003of128.g1"),
            format!("stanza/main/archive/15-1/0000000100000002/000000010000000200000003-{DIGEST}.p001of2"),
            format!("chunk/00/{DIGEST}.p003of128"),
            format!("stanza/main/backup/20250215-020001F/other-{DIGEST}"),
        ] {
            assert_eq!(ObjectPath::parse(&path), None, "{path}");
        }
    }

    fn any_path() -> impl Strategy<Value = ObjectPath> {
        let name = any::<[u8; 32]>().prop_map(|bytes| StoredName(Digest(bytes)));
        let generation = prop_oneof![Just(0), any::<u32>()].prop_map(Generation);
        let stanza = "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}".prop_map(|text| text.parse().unwrap());
        let archive_id = (14_u32..=18, 1_u32..).prop_map(|(version, db)| format!("{version}-{db}").parse().unwrap());
        let label = "[0-9]{8}-[0-9]{6}F(_[0-9]{8}-[0-9]{6}[DI])?".prop_map(|text| text.parse().unwrap());
        let file = prop_oneof![
            "0000000[1-9][0-9A-F]{8}000000[0-9A-F]{2}(.partial)?",
            "[0-9A-F]{7}[1-9].history"
        ]
        .prop_filter_map("a WAL file name", |text| text.parse().ok());
        let part = prop::option::of((3_u16..=128, any::<prop::sample::Index>()).prop_map(|(of, index)| {
            let number = u16::try_from(index.index(usize::from(of))).unwrap() + 1;
            FilePart::new(number, of).unwrap()
        }));
        (0..5, name, generation, stanza, archive_id, label, file, part).prop_map(
            |(kind, name, generation, stanza, archive_id, label, file, part)| match kind {
                0 => ObjectPath::Identity,
                1 => ObjectPath::Key {
                    epoch: generation.0,
                    wrap: 1,
                },
                2 => ObjectPath::Chunk { name, generation },
                3 => ObjectPath::Segment {
                    stanza,
                    archive_id,
                    file,
                    name,
                    generation,
                    part,
                },
                _ => ObjectPath::Manifest {
                    stanza,
                    label,
                    name,
                    generation,
                },
            },
        )
    }

    proptest! {
        #[test]
        fn paths_round_trip(path in any_path()) {
            let text = path.to_string();
            prop_assert_eq!(ObjectPath::parse(&text), Some(path));
        }

        #[test]
        fn any_text_is_answered(text in "[a-z0-9./-]{0,80}") {
            if let Some(path) = ObjectPath::parse(&text) {
                prop_assert_eq!(path.to_string(), text);
            }
        }
    }
}
