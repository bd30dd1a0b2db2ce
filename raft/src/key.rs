//! Keys of tables. Their bytes sort as the named objects: numbers big-endian, texts ended by a zero byte (which no name
//! holds) wherever another field follows.

use pgmesh_postgres::TimelineId;
use pgmesh_storage::{BackupLabel, DbId, Digest, Generation, RepoKey, StanzaName};

use crate::model::{GarbageKey, LogIndex, NodeName, ObjectRef, RequestId, SessionId, TokenId};
use crate::table::Table;

/// The mesh record in table `Mesh`.
pub const MESH: &[u8] = b"mesh";
/// The catalog's era and its known loss, in table `Mesh`.
pub const PAST: &[u8] = b"past";
/// The number of applied commands in table `Mesh`.
pub const APPLIED: &[u8] = b"applied";
/// The apply level, and which levels the nodes have.
pub const LEVELS: &[u8] = b"levels";
/// When replicas of chunks were last withdrawn, in table `Mesh`.
pub const WITHDRAWN: &[u8] = b"withdrawn";
/// When a backup was last taken up from a repository, in table `Mesh`.
pub const ADOPTED: &[u8] = b"adopted";
/// The lowest generation that names are assigned with, in table `Mesh`: no name below it is assigned any more, so that
/// none is used twice.
pub const FLOOR: &[u8] = b"floor";
/// When the floor was last raised, in table `Mesh`.
pub const FLOOR_RAISED: &[u8] = b"floor-raised";
/// The floor when the catalog's era began, in table `Mesh`.
pub const ERA_FLOOR: &[u8] = b"era-floor";
/// Set while the catalog has been rebuilt and no repository was given up since, in table `Mesh`: a repository that is
/// registered may hold objects of the lost catalog, and this catalog has never deleted a name in it.
pub const REBUILT: &[u8] = b"rebuilt";
/// When chunks may last have lost a reference because a backup left the catalog, in table `Mesh`.
pub const UNREFERENCED: &[u8] = b"unreferenced";
/// The number of lines in the audit trail, in table `Mesh`.
pub const AUDIT_LINES: &[u8] = b"audit-lines";
/// When a certificate was last revoked, in table `Mesh`.
pub const REVOKED: &[u8] = b"revoked";
/// The number of certificates that are not revoked, in table `Mesh`. From level [`AUTHORITIES`](crate::AUTHORITIES).
pub const CERTIFICATES: &[u8] = b"certificates";
/// The last rotation of the mesh's authority, in table `Mesh`.
pub const ROTATION: &[u8] = b"rotation";
/// The highest node number that was given out, in table `Mesh`.
pub const LAST_NODE_ID: &[u8] = b"last-node-id";
/// The last applied Raft entry and the membership, in table `Raft`.
pub const RAFT_STATE: &[u8] = b"state";

const CHUNK: u8 = 0;
const SEGMENT: u8 = 1;
const MANIFEST: u8 = 2;
const STANZA_INFO: u8 = 3;

/// A key in table `Nodes`.
#[must_use]
pub fn node(name: &NodeName) -> Vec<u8> {
    name.as_str().as_bytes().to_vec()
}

/// A key in tables `Repositories`, `Counters` and `OrphanScans`, and the prefix of a repository's rows in `Debts`,
/// `Orphans` and `Releases`.
#[must_use]
pub fn repository(repo: RepoKey) -> Vec<u8> {
    u16::from(repo).to_be_bytes().to_vec()
}

/// A key in tables `Stanzas` and `Unlisted`.
#[must_use]
pub fn stanza(stanza: &StanzaName) -> Vec<u8> {
    stanza.as_str().as_bytes().to_vec()
}

/// The prefix of all rows of a stanza in tables `Segments` and `Backups`.
#[must_use]
pub fn stanza_prefix(stanza: &StanzaName) -> Vec<u8> {
    let mut key = stanza.as_str().as_bytes().to_vec();
    key.push(0);
    key
}

/// The prefix of all rows of one database of a stanza in table `Segments`.
#[must_use]
pub fn segments(stanza: &StanzaName, db: DbId) -> Vec<u8> {
    let mut key = stanza_prefix(stanza);
    key.extend_from_slice(&db.0.to_be_bytes());
    key
}

/// A key in table `Segments`, or of the first file at or after `file`.
#[must_use]
pub fn segment(stanza: &StanzaName, db: DbId, file: &str) -> Vec<u8> {
    let mut key = segments(stanza, db);
    key.extend_from_slice(file.as_bytes());
    key
}

/// A key in tables `Pushes` and `ExpiredWal`.
#[must_use]
pub fn last_push(stanza: &StanzaName, db: DbId, timeline: TimelineId) -> Vec<u8> {
    let mut key = segments(stanza, db);
    key.extend_from_slice(&timeline.0.to_be_bytes());
    key
}

/// A key in tables `Chunks` and `Condemned`.
#[must_use]
pub fn chunk(digest: &Digest) -> Vec<u8> {
    digest.as_bytes().to_vec()
}

/// A key in tables `Backups` and `Abandoned`.
#[must_use]
pub fn backup(stanza: &StanzaName, label: &BackupLabel) -> Vec<u8> {
    let mut key = stanza_prefix(stanza);
    key.extend_from_slice(label.as_str().as_bytes());
    key
}

/// The prefix of the rows of one timeline's backups in table `TimelineBackups`.
#[must_use]
pub fn timeline_backups(stanza: &StanzaName, db: DbId, timeline: TimelineId) -> Vec<u8> {
    last_push(stanza, db, timeline)
}

/// A key in table `TimelineBackups`.
#[must_use]
pub fn timeline_backup(stanza: &StanzaName, db: DbId, timeline: TimelineId, label: &BackupLabel) -> Vec<u8> {
    let mut key = timeline_backups(stanza, db, timeline);
    key.extend_from_slice(label.as_str().as_bytes());
    key
}

/// A key in table `Debts`.
#[must_use]
pub fn debt(repo: RepoKey, object: &ObjectRef) -> Vec<u8> {
    let mut key = repository(repo);
    push_object(&mut key, object);
    key
}

/// A key in table `Lost`, and the prefix of all garbage of an object, kept or not. No object's prefix begins another's.
#[must_use]
pub fn object(object: &ObjectRef) -> Vec<u8> {
    let mut key = Vec::with_capacity(40);
    push_object(&mut key, object);
    key
}

/// A key in tables `Garbage` and `Kept`.
#[must_use]
pub fn garbage(garbage: &GarbageKey) -> Vec<u8> {
    let mut key = object(&garbage.object);
    key.extend_from_slice(&u16::from(garbage.repo).to_be_bytes());
    key.extend_from_slice(&garbage.generation.0.to_be_bytes());
    key
}

/// A key in table `Orphans`.
#[must_use]
pub fn orphan(repo: RepoKey, path: &str) -> Vec<u8> {
    let mut key = repository(repo);
    key.extend_from_slice(path.as_bytes());
    key
}

/// A key in table `Sessions`.
#[must_use]
pub fn session(session: SessionId) -> Vec<u8> {
    index(session.0)
}

/// A key in table `Tokens`.
#[must_use]
pub fn token(id: TokenId) -> Vec<u8> {
    id.0.to_vec()
}

/// A key in table `Certificates`.
#[must_use]
pub fn certificate(key: &[u8; 32]) -> Vec<u8> {
    key.to_vec()
}

/// A key in table `RevokedNames`.
#[must_use]
pub fn revoked_name(name: &str) -> Vec<u8> {
    name.to_ascii_lowercase().into_bytes()
}

/// The prefix of all uses of a chunk in table `Uses`.
#[must_use]
pub fn uses(digest: &Digest) -> Vec<u8> {
    digest.as_bytes().to_vec()
}

/// The prefix of a stanza's uses of a chunk in table `Uses`.
#[must_use]
pub fn chunk_uses(digest: &Digest, stanza: &StanzaName) -> Vec<u8> {
    let mut key = uses(digest);
    key.extend_from_slice(&stanza_prefix(stanza));
    key
}

/// A key in table `Uses`.
#[must_use]
pub fn chunk_use(digest: &Digest, stanza: &StanzaName, label: &BackupLabel) -> Vec<u8> {
    let mut key = uses(digest);
    key.extend_from_slice(&backup(stanza, label));
    key
}

/// The prefix of a backup's rows in table `BackupUses`.
#[must_use]
pub fn backup_uses(stanza: &StanzaName, label: &BackupLabel) -> Vec<u8> {
    let mut key = backup(stanza, label);
    key.push(0);
    key
}

/// A key in table `BackupUses`.
#[must_use]
pub fn backup_use(stanza: &StanzaName, label: &BackupLabel, digest: &Digest) -> Vec<u8> {
    let mut key = backup_uses(stanza, label);
    key.extend_from_slice(digest.as_bytes());
    key
}

/// The prefix of a chunk's rows in table `Possessions`.
#[must_use]
pub fn possessions(digest: &Digest) -> Vec<u8> {
    digest.as_bytes().to_vec()
}

/// A key in table `Possessions`.
#[must_use]
pub fn possession(digest: &Digest, of: &StanzaName) -> Vec<u8> {
    let mut key = possessions(digest);
    key.extend_from_slice(&stanza(of));
    key
}

/// A key in table `StanzaPossessions`.
#[must_use]
pub fn stanza_possession(stanza: &StanzaName, digest: &Digest) -> Vec<u8> {
    let mut key = stanza_prefix(stanza);
    key.extend_from_slice(digest.as_bytes());
    key
}

/// A key in table `Releases`.
#[must_use]
pub fn release(repo: RepoKey, stanza: &StanzaName, label: &BackupLabel) -> Vec<u8> {
    let mut key = repository(repo);
    key.extend_from_slice(&backup(stanza, label));
    key
}

/// A key in tables `Audit` and `Withdrawn`.
#[must_use]
pub fn index(index: LogIndex) -> Vec<u8> {
    index.0.to_be_bytes().to_vec()
}

/// A key in table `Requests`.
#[must_use]
pub fn request(id: RequestId) -> Vec<u8> {
    id.0.to_vec()
}

/// A key in table `RequestRing`.
#[must_use]
pub fn request_slot(slot: u32) -> Vec<u8> {
    slot.to_be_bytes().to_vec()
}

/// Where a scan starts that goes on after `key`.
#[must_use]
pub fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

fn push_object(key: &mut Vec<u8>, object: &ObjectRef) {
    let text = |key: &mut Vec<u8>, text: &str| {
        key.extend_from_slice(text.as_bytes());
        key.push(0);
    };
    match object {
        ObjectRef::Chunk(digest) => {
            key.push(CHUNK);
            key.extend_from_slice(digest.as_bytes());
        }
        ObjectRef::Segment { stanza, db, file } => {
            key.push(SEGMENT);
            text(key, stanza.as_str());
            key.extend_from_slice(&db.0.to_be_bytes());
            text(key, &file.to_string());
        }
        ObjectRef::Manifest { stanza, label } => {
            key.push(MANIFEST);
            text(key, stanza.as_str());
            text(key, label.as_str());
        }
        ObjectRef::StanzaInfo { stanza, db } => {
            key.push(STANZA_INFO);
            text(key, stanza.as_str());
            key.extend_from_slice(&db.0.to_be_bytes());
        }
    }
}

/// Reads keys back, from left to right. Every method answers `None` for bytes that no key has.
#[derive(Debug)]
pub struct KeyReader<'a>(&'a [u8]);

impl<'a> KeyReader<'a> {
    /// Starts at a key's first byte.
    #[must_use]
    pub fn new(key: &'a [u8]) -> Self {
        Self(key)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn text(&mut self) -> Option<&'a str> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = std::str::from_utf8(self.take(end)?).ok()?;
        self.take(1)?;
        Some(text)
    }

    /// All that is left, as text.
    pub fn rest(&mut self) -> Option<&'a str> {
        let text = std::str::from_utf8(self.0).ok();
        self.0 = &[];
        text
    }

    /// A stanza's name, with another field behind it.
    pub fn stanza(&mut self) -> Option<StanzaName> {
        self.text()?.parse().ok()
    }

    /// A database identifier.
    pub fn db(&mut self) -> Option<DbId> {
        Some(DbId(u32::from_be_bytes(self.array()?)))
    }

    /// A repository's number.
    pub fn repository(&mut self) -> Option<RepoKey> {
        RepoKey::try_from(u16::from_be_bytes(self.array()?)).ok()
    }

    /// A generation.
    pub fn generation(&mut self) -> Option<Generation> {
        Some(Generation(u32::from_be_bytes(self.array()?)))
    }

    /// A timeline.
    pub fn timeline(&mut self) -> Option<TimelineId> {
        Some(TimelineId(u32::from_be_bytes(self.array()?)))
    }

    /// A digest.
    pub fn digest(&mut self) -> Option<Digest> {
        Some(Digest(self.array()?))
    }

    /// A log position.
    pub fn index(&mut self) -> Option<LogIndex> {
        Some(LogIndex(u64::from_be_bytes(self.array()?)))
    }

    /// A token's identifier.
    pub fn token(&mut self) -> Option<TokenId> {
        Some(TokenId(self.array()?))
    }

    /// SHA-256 of a public key.
    pub fn certificate(&mut self) -> Option<[u8; 32]> {
        self.array()
    }

    /// An object.
    pub fn object(&mut self) -> Option<ObjectRef> {
        match self.array()? {
            [CHUNK] => Some(ObjectRef::Chunk(self.digest()?)),
            [SEGMENT] => Some(ObjectRef::Segment {
                stanza: self.stanza()?,
                db: self.db()?,
                file: self.text()?.parse().ok()?,
            }),
            [MANIFEST] => Some(ObjectRef::Manifest {
                stanza: self.stanza()?,
                label: self.text()?.parse().ok()?,
            }),
            [STANZA_INFO] => Some(ObjectRef::StanzaInfo {
                stanza: self.stanza()?,
                db: self.db()?,
            }),
            _ => None,
        }
    }

    /// `Some(value)` if nothing is left.
    #[must_use]
    pub fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

/// Reads a key of tables `Garbage` and `Kept`.
#[must_use]
pub fn read_garbage(key: &[u8]) -> Option<GarbageKey> {
    let mut reader = KeyReader::new(key);
    let garbage = GarbageKey {
        object: reader.object()?,
        repo: reader.repository()?,
        generation: reader.generation()?,
    };
    reader.end(garbage)
}

/// Reads a key of table `Orphans`.
#[must_use]
pub fn read_orphan(key: &[u8]) -> Option<(RepoKey, String)> {
    let mut reader = KeyReader::new(key);
    Some((reader.repository()?, reader.rest()?.to_owned()))
}

/// Reads a key of table `Lost`.
#[must_use]
pub fn read_object(key: &[u8]) -> Option<ObjectRef> {
    let mut reader = KeyReader::new(key);
    let object = reader.object()?;
    reader.end(object)
}

/// Reads a key of table `Debts`.
#[must_use]
pub fn read_debt(key: &[u8]) -> Option<(RepoKey, ObjectRef)> {
    let mut reader = KeyReader::new(key);
    let debt = (reader.repository()?, reader.object()?);
    reader.end(debt)
}

/// Reads a key of table `Segments`.
#[must_use]
pub fn read_segment(key: &[u8]) -> Option<ObjectRef> {
    let mut reader = KeyReader::new(key);
    Some(ObjectRef::Segment {
        stanza: reader.stanza()?,
        db: reader.db()?,
        file: reader.rest()?.parse().ok()?,
    })
}

/// Reads a key of table `Backups`.
#[must_use]
pub fn read_backup(key: &[u8]) -> Option<(StanzaName, BackupLabel)> {
    let mut reader = KeyReader::new(key);
    Some((reader.stanza()?, reader.rest()?.parse().ok()?))
}

/// Reads a key of table `Uses`: stanza and label.
#[must_use]
pub fn read_chunk_use(key: &[u8]) -> Option<(StanzaName, BackupLabel)> {
    let mut reader = KeyReader::new(key);
    reader.digest()?;
    Some((reader.stanza()?, reader.rest()?.parse().ok()?))
}

/// Reads a key of table `BackupUses`: label and digest.
#[must_use]
pub fn read_backup_use(key: &[u8]) -> Option<(BackupLabel, Digest)> {
    let mut reader = KeyReader::new(key);
    reader.stanza()?;
    let label = reader.text()?.parse().ok()?;
    let digest = reader.digest()?;
    reader.end((label, digest))
}

/// Reads a key of table `Possessions`: the stanza.
#[must_use]
pub fn read_possession(key: &[u8]) -> Option<StanzaName> {
    let mut reader = KeyReader::new(key);
    reader.digest()?;
    reader.rest()?.parse().ok()
}

/// Reads a key of table `StanzaPossessions`: the digest.
#[must_use]
pub fn read_stanza_possession(key: &[u8]) -> Option<Digest> {
    let mut reader = KeyReader::new(key);
    reader.stanza()?;
    let digest = reader.digest()?;
    reader.end(digest)
}

/// Reads a key of table `Releases`.
#[must_use]
pub fn read_release(key: &[u8]) -> Option<(RepoKey, StanzaName, BackupLabel)> {
    let mut reader = KeyReader::new(key);
    Some((reader.repository()?, reader.stanza()?, reader.rest()?.parse().ok()?))
}

/// Reads a key of table `TimelineBackups`: timeline and label.
#[must_use]
pub fn read_timeline_backup(key: &[u8]) -> Option<(TimelineId, BackupLabel)> {
    let mut reader = KeyReader::new(key);
    reader.stanza()?;
    reader.db()?;
    Some((reader.timeline()?, reader.rest()?.parse().ok()?))
}

/// A row's subject, in words.
#[must_use]
pub fn describe(table: Table, key: &[u8]) -> String {
    let text = || std::str::from_utf8(key).unwrap_or_default();
    match table {
        Table::Nodes => format!("node {}", text()),
        Table::Stanzas => format!("stanza {}", text()),
        Table::Repositories => match KeyReader::new(key).repository() {
            Some(repo) => format!("repo{repo}"),
            None => "a repository".to_owned(),
        },
        Table::Backups => match read_backup(key) {
            Some((stanza, label)) => format!("backup {label} of stanza {stanza}"),
            None => "a backup".to_owned(),
        },
        other => format!("a record in table {other}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_object() -> impl Strategy<Value = ObjectRef> {
        let stanza = "[a-z0-9][a-zA-Z0-9_.-]{0,5}".prop_map(|text| text.parse::<StanzaName>().unwrap());
        prop_oneof![
            any::<[u8; 32]>().prop_map(|bytes| ObjectRef::Chunk(Digest(bytes))),
            (stanza.clone(), any::<u32>(), "[0-9A-F]{8}\\.history").prop_map(|(stanza, db, file)| {
                ObjectRef::Segment {
                    stanza,
                    db: DbId(db),
                    file: file.parse().unwrap(),
                }
            }),
            stanza.clone().prop_map(|stanza| ObjectRef::Manifest {
                stanza,
                label: "20250215-020001F".parse().unwrap(),
            }),
            (stanza, any::<u32>()).prop_map(|(stanza, db)| ObjectRef::StanzaInfo { stanza, db: DbId(db) }),
        ]
    }

    proptest! {
        #[test]
        fn keys_come_back(object in any_object(), number in 1_u16..=256, generation: u32) {
            let repo = RepoKey::try_from(number).unwrap();
            prop_assert_eq!(read_debt(&debt(repo, &object)), Some((repo, object.clone())));
            let garbage_key = GarbageKey { object, repo, generation: Generation(generation) };
            prop_assert_eq!(read_garbage(&garbage(&garbage_key)), Some(garbage_key));
        }

        #[test]
        fn no_object_begins_another(a in any_object(), b in any_object()) {
            prop_assert_eq!(object(&a).starts_with(&object(&b)), a == b);
        }

        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>) {
            let _ = (read_debt(&bytes), read_garbage(&bytes), read_segment(&bytes), read_backup(&bytes));
        }
    }

    #[test]
    fn rows_of_a_stanza_stay_together() {
        let a: StanzaName = "main".parse().unwrap();
        let b: StanzaName = "main-2".parse().unwrap();
        assert!(!stanza_prefix(&b).starts_with(&stanza_prefix(&a)));
        assert!(segment(&a, DbId(1), "F") < segment(&a, DbId(2), "0"));
        assert!(segment(&a, DbId(256), "F") < segment(&b, DbId(1), "0"));
    }
}
