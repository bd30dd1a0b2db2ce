use std::collections::BTreeMap;

use pgmesh_postgres::{Lsn, SegmentName, SegmentSize, SystemId, TimelineId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::file_entry::BlockRange;
use super::fingerprints::FingerprintSeed;
use crate::digest::Digest;
use crate::names::{ArchiveId, BackupLabel, BackupType, StanzaName};

/// The manifest format that this program writes, and the highest that it reads. Format 1 has no page fingerprints.
pub const MANIFEST_FORMAT: u16 = 2;

/// The format of a stanza's information.
pub const STANZA_FORMAT: u16 = 1;

/// The longest root or stanza information that is read, in bytes.
const MAX_ROOT_LENGTH: usize = 64 << 20;

/// Why a manifest's root, or a stanza's information, cannot be read.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Longer than any manifest.
    #[error("{length} bytes are more than a manifest may have ({MAX_ROOT_LENGTH})")]
    TooLong {
        /// The length in bytes.
        length: usize,
    },
    /// Written by a newer program.
    #[error("the manifest has format {format}, this program reads up to format {MANIFEST_FORMAT}")]
    Format {
        /// The format found.
        format: u16,
    },
    /// No JSON, or a required field is missing.
    #[error("the manifest is not understood: {0}")]
    Content(#[from] serde_json::Error),
}

/// The root of a backup's manifest: all facts of the backup except its files. Unknown fields are ignored, so that newer
/// programs can add fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestRoot {
    /// The format: [`MANIFEST_FORMAT`], or a lower one.
    pub format: u16,
    /// The version of the program that made the backup.
    pub pgmesh_version: String,
    /// The stanza.
    pub stanza: StanzaName,
    /// The backup's label.
    pub label: BackupLabel,
    /// The type of the backup: full, diff or incr.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// The cluster in the stanza, and its version.
    pub archive_id: ArchiveId,
    /// The cluster's system identifier.
    pub system_id: SystemId,
    /// The cluster's catalog version number.
    pub catalog_version: u32,
    /// The backup that this one was compared with.
    #[serde(default)]
    pub prior: Option<BackupLabel>,
    /// The time when the backup began, in seconds since 1970.
    pub start_time: i64,
    /// The time when the backup was complete, in seconds since 1970.
    pub stop_time: i64,
    /// The redo position of the backup's checkpoint: recovery begins there.
    pub start_lsn: Lsn,
    /// The position at which the data directory is consistent.
    pub stop_lsn: Lsn,
    /// The checkpoint that the backup began with.
    pub checkpoint: Lsn,
    /// The timeline that the backup was made on.
    pub timeline: TimelineId,
    /// The instance of the data directory: the writer fence tells it from its copies by this (invariant 12). A catalog
    /// that is rebuilt from a repository learns from it which instance writes the timeline. Not in backups of early
    /// versions.
    #[serde(default)]
    pub instance: Option<String>,
    /// The first segment that recovery needs.
    pub wal_start: SegmentName,
    /// The last segment that recovery needs to be consistent.
    pub wal_stop: SegmentName,
    /// The size of the cluster's segments.
    pub segment_size: SegmentSize,
    /// Whether page checksums were checked; never in a cluster without checksums.
    pub page_checksums: bool,
    /// Files with pages whose checksums did not fit.
    #[serde(default)]
    pub errors: Vec<FileErrors>,
    /// The cluster's tablespaces.
    #[serde(default)]
    pub tablespaces: Vec<TablespaceRecord>,
    /// The cluster's databases.
    #[serde(default)]
    pub databases: Vec<DatabaseRecord>,
    /// Symbolic links in the data directory, except tablespaces.
    #[serde(default)]
    pub links: Vec<LinkRecord>,
    /// The user's notes.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The seed of the page fingerprints; none if the files have no fingerprints.
    #[serde(default)]
    pub fingerprint_seed: Option<FingerprintSeed>,
    /// The time of the last full read of all files, in seconds since 1970: in this backup, or in an earlier backup
    /// whose unchanged pages this one takes over.
    #[serde(default)]
    pub scanned_at: Option<i64>,
    /// Whether the cluster has page checksums. Switching them on or off changes pages without WAL.
    #[serde(default)]
    pub data_checksums: Option<bool>,
    /// Whether the backup was taken from a standby: its files have other times than the primary's.
    #[serde(default)]
    pub from_standby: bool,
    /// The backup's sizes.
    pub sizes: BackupSizes,
    /// The number of files.
    pub file_count: u64,
    /// The content of `backup_label`.
    pub backup_label: String,
    /// The content of `tablespace_map`, if there is one.
    #[serde(default)]
    pub tablespace_map: Option<String>,
    /// The parts with the list of files, in order.
    pub parts: Vec<PartRef>,
}

/// A part of the manifest, which is a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRef {
    /// The chunk.
    pub digest: Digest,
    /// Its plaintext's length, in bytes.
    pub length: u64,
}

/// The sizes of a backup, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSizes {
    /// The sum of all files' sizes: the bytes that a restore writes.
    pub size: u64,
    /// The bytes that were read and not found in the prior backup.
    pub delta: u64,
    /// The stored length of all chunks that the backup names.
    pub repository: u64,
    /// The stored length of the chunks that this backup added.
    pub repository_delta: u64,
}

/// A file with pages whose checksums did not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileErrors {
    /// The file's path, relative to PGDATA.
    pub path: String,
    /// The blocks.
    pub blocks: Vec<BlockRange>,
}

/// A tablespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablespaceRecord {
    /// Its oid: the name of the link in `pg_tblspc`.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// The link's destination.
    pub destination: String,
}

/// A database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseRecord {
    /// Its oid: the name of its directory.
    pub oid: u32,
    /// Its name.
    pub name: String,
}

/// A symbolic link in the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRecord {
    /// The link's path, relative to PGDATA.
    pub path: String,
    /// The link's destination.
    pub destination: String,
}

impl ManifestRoot {
    /// The directory of the cluster's version in every tablespace: `PG_15_202209061`.
    #[must_use]
    pub fn tablespace_directory(&self) -> String {
        format!("PG_{}_{}", self.archive_id.version, self.catalog_version)
    }

    /// The root as it is stored: the plaintext of the manifest object.
    ///
    /// # Errors
    /// The root is longer than a manifest may be.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        encode(self)
    }

    /// Reads a root.
    ///
    /// # Errors
    /// Too long, of a newer format, or not understood.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        decode(bytes)
    }
}

/// The description of a stanza's database cluster, so that a repository explains itself (invariant 8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StanzaInfo {
    /// The format: 1.
    pub format: u16,
    /// The stanza.
    pub stanza: StanzaName,
    /// The cluster in the stanza, and its version.
    pub archive_id: ArchiveId,
    /// The cluster's system identifier.
    pub system_id: SystemId,
    /// The cluster's catalog version number.
    pub catalog_version: u32,
    /// The size of the cluster's segments.
    pub segment_size: SegmentSize,
    /// The time of the record, in seconds since 1970.
    pub created: i64,
}

impl StanzaInfo {
    /// The record as it is stored.
    ///
    /// # Errors
    /// None in practice: a value of this type is always short enough.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        encode(self)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Too long, of a newer format, or not understood.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        decode(bytes)
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, ManifestError> {
    let bytes = serde_json::to_vec(value)?;
    check_length(&bytes)?;
    Ok(bytes)
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, ManifestError> {
    #[derive(Deserialize)]
    struct Format {
        format: u16,
    }
    check_length(bytes)?;
    // The format is read first: the fields of a newer format may not be understood.
    let Format { format } = serde_json::from_slice(bytes)?;
    if format == 0 || format > MANIFEST_FORMAT {
        return Err(ManifestError::Format { format });
    }
    Ok(serde_json::from_slice(bytes)?)
}

fn check_length(bytes: &[u8]) -> Result<(), ManifestError> {
    let length = bytes.len();
    if length <= MAX_ROOT_LENGTH {
        Ok(())
    } else {
        Err(ManifestError::TooLong { length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> ManifestRoot {
        let label: BackupLabel = "20250215-020001F".parse().unwrap();
        ManifestRoot {
            format: MANIFEST_FORMAT,
            pgmesh_version: "0.1.0".into(),
            stanza: "main".parse().unwrap(),
            label: label.clone(),
            backup_type: BackupType::Full,
            archive_id: "15-1".parse().unwrap(),
            system_id: SystemId(u64::MAX),
            catalog_version: 202_209_061,
            prior: None,
            start_time: 1,
            stop_time: 2,
            start_lsn: Lsn(0x16_B374_D848),
            stop_lsn: Lsn(u64::MAX),
            checkpoint: Lsn(3),
            timeline: TimelineId(1),
            instance: Some("1-2".into()),
            wal_start: "000000010000000000000001".parse().unwrap(),
            wal_stop: "000000010000000000000002".parse().unwrap(),
            segment_size: SegmentSize::default(),
            page_checksums: true,
            errors: vec![FileErrors {
                path: "base/1/2".into(),
                blocks: vec![BlockRange { first: 1, count: 2 }],
            }],
            tablespaces: vec![TablespaceRecord {
                oid: 16384,
                name: "fast".into(),
                destination: "/mnt/fast".into(),
            }],
            databases: vec![DatabaseRecord {
                oid: 5,
                name: "postgres".into(),
            }],
            links: vec![LinkRecord {
                path: "pg_wal".into(),
                destination: "/wal".into(),
            }],
            annotations: BTreeMap::from([("why".into(), "\"quoted\"\n".into())]),
            fingerprint_seed: Some(FingerprintSeed::draw().unwrap()),
            scanned_at: Some(4),
            data_checksums: Some(true),
            from_standby: true,
            sizes: BackupSizes {
                size: 4,
                delta: 3,
                repository: 2,
                repository_delta: 1,
            },
            file_count: 9,
            backup_label: "START WAL LOCATION: 0/1\n".into(),
            tablespace_map: Some("16384 /mnt/fast\n".into()),
            parts: vec![PartRef {
                digest: Digest([7; 32]),
                length: 5,
            }],
        }
    }

    #[test]
    fn a_root_round_trips() {
        let root = root();
        assert_eq!(ManifestRoot::decode(&root.encode().unwrap()).unwrap(), root);
    }

    #[test]
    fn unknown_fields_are_ignored_and_later_formats_refused() {
        let mut json: serde_json::Value = serde_json::from_slice(&root().encode().unwrap()).unwrap();
        json["later"] = "addition".into();
        json.as_object_mut().unwrap().remove("tablespace_map");
        json.as_object_mut().unwrap().remove("instance");
        let read = ManifestRoot::decode(json.to_string().as_bytes()).unwrap();
        assert_eq!((read.tablespace_map, read.instance), (None, None));
        json["format"] = 1.into();
        assert_eq!(ManifestRoot::decode(json.to_string().as_bytes()).unwrap().format, 1);
        json["format"] = 3.into();
        assert!(matches!(
            ManifestRoot::decode(json.to_string().as_bytes()),
            Err(ManifestError::Format { format: 3 })
        ));
        assert!(ManifestRoot::decode(b"{}").is_err());
        assert!(ManifestRoot::decode(&vec![b' '; MAX_ROOT_LENGTH + 1]).is_err());
    }

    #[test]
    fn stanza_information_round_trips() {
        let info = StanzaInfo {
            format: MANIFEST_FORMAT,
            stanza: "main".parse().unwrap(),
            archive_id: "15-1".parse().unwrap(),
            system_id: SystemId(7),
            catalog_version: 202_209_061,
            segment_size: SegmentSize::default(),
            created: 17,
        };
        assert_eq!(StanzaInfo::decode(&info.encode().unwrap()).unwrap(), info);
    }
}
