//! PostgreSQL's own `backup_manifest`, so that `pg_verifybackup` can judge a restore (backup_manifest.c).

use std::io::{self, Write};

use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::{Lsn, PgVersion, SystemId, TimelineId};

const LAST_MODIFIED: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second] GMT");

/// One file of a backup, as its `backup_manifest` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestFile<'a> {
    /// Relative to PGDATA, tablespaces as `pg_tblspc/<oid>/…`. Bytes that are not UTF-8 are allowed.
    pub path: &'a [u8],
    /// The size in bytes.
    pub size: u64,
    /// The time of its last change, Unix seconds.
    pub modified: i64,
    /// The CRC-32C of its content.
    pub crc32c: u32,
}

/// The WAL of one timeline that a backup needs to become consistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first position.
    pub start: Lsn,
    /// The position after the last byte.
    pub end: Lsn,
}

/// Writes a `backup_manifest`: version 1, or 2 with the system identifier for PostgreSQL 17 and later.
///
/// The file itself, `pg_wal`, `postgresql.auto.conf` and the signal files need no entries: `pg_verifybackup` passes
/// them over.
#[derive(Debug)]
pub struct ManifestWriter<W: Write> {
    out: W,
    hasher: Sha256,
    is_first_file: bool,
}

impl<W: Write> ManifestWriter<W> {
    /// Begins a manifest.
    ///
    /// # Errors
    /// `out` takes no bytes.
    pub fn new(out: W, version: PgVersion, system_id: SystemId) -> io::Result<Self> {
        let mut writer = Self {
            out,
            hasher: Sha256::new(),
            is_first_file: true,
        };
        let manifest_version = if version.has_system_id_in_manifest() { 2 } else { 1 };
        writer.put(&format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": {manifest_version},\n"
        ))?;
        if version.has_system_id_in_manifest() {
            writer.put(&format!("\"System-Identifier\": {system_id},\n"))?;
        }
        writer.put("\"Files\": [")?;
        Ok(writer)
    }

    /// Adds a file. Files may come in any order.
    ///
    /// # Errors
    /// `out` takes no bytes, or the time of the last change lies outside the years 0 to 9999.
    pub fn file(&mut self, file: ManifestFile<'_>) -> io::Result<()> {
        let separator = if self.is_first_file { "\n" } else { ",\n" };
        self.is_first_file = false;
        let path = match std::str::from_utf8(file.path) {
            Ok(path) => format!("\"Path\": {}", serde_json::to_string(path)?),
            Err(_) => format!("\"Encoded-Path\": \"{}\"", hex::encode(file.path)),
        };
        let modified = OffsetDateTime::from_unix_timestamp(file.modified)
            .map_err(io::Error::other)?
            .format(LAST_MODIFIED)
            .map_err(io::Error::other)?;
        // PostgreSQL prints the CRC byte by byte as it lies in memory.
        let checksum = hex::encode(file.crc32c.to_le_bytes());
        self.put(&format!(
            "{separator}{{ {path}, \"Size\": {size}, \"Last-Modified\": \"{modified}\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{checksum}\" }}",
            size = file.size
        ))
    }

    /// Ends the manifest with the WAL that the backup needs, the newest timeline first, and with its own checksum.
    /// Flushes `out` and gives it back.
    ///
    /// # Errors
    /// `out` takes no bytes.
    pub fn finish(mut self, wal_ranges: &[WalRange]) -> io::Result<W> {
        let ranges: Vec<String> = wal_ranges
            .iter()
            .map(|range| {
                format!(
                    "{{ \"Timeline\": {}, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}",
                    range.timeline, range.start, range.end
                )
            })
            .collect();
        self.put(&format!("\n],\n\"WAL-Ranges\": [\n{}\n],\n", ranges.join(",\n")))?;
        // The checksum covers all lines before its own.
        let checksum = hex::encode(self.hasher.finalize());
        writeln!(self.out, "\"Manifest-Checksum\": \"{checksum}\"}}")?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        self.hasher.update(text.as_bytes());
        self.out.write_all(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(version: PgVersion, files: &[ManifestFile<'_>]) -> String {
        let mut writer = ManifestWriter::new(Vec::new(), version, SystemId(7_123)).unwrap();
        for file in files {
            writer.file(*file).unwrap();
        }
        let range = WalRange {
            timeline: TimelineId(1),
            start: Lsn(0x200_0028),
            end: Lsn(0x200_0100),
        };
        String::from_utf8(writer.finish(&[range]).unwrap()).unwrap()
    }

    #[test]
    fn the_form_is_postgresqls() {
        let file = ManifestFile {
            path: b"base/1/\"112\"",
            size: 8192,
            modified: 0,
            crc32c: 0x1234_5678,
        };
        let odd = ManifestFile {
            path: b"\xFF",
            size: 0,
            modified: 1_739_584_801,
            crc32c: 0,
        };
        let text = manifest(PgVersion::V15, &[file, odd]);
        let (covered, last) = text.split_at(text.find("\"Manifest-Checksum\"").unwrap());
        assert_eq!(
            covered,
            "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n\
             { \"Path\": \"base/1/\\\"112\\\"\", \"Size\": 8192, \"Last-Modified\": \"1970-01-01 00:00:00 GMT\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"78563412\" },\n\
             { \"Encoded-Path\": \"ff\", \"Size\": 0, \"Last-Modified\": \"2025-02-15 02:00:01 GMT\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"00000000\" }\n],\n\
             \"WAL-Ranges\": [\n{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }\n],\n"
        );
        assert_eq!(
            last,
            format!(
                "\"Manifest-Checksum\": \"{}\"}}\n",
                hex::encode(Sha256::digest(covered))
            )
        );
    }

    #[test]
    fn from_17_on_it_names_the_cluster() {
        let text = manifest(PgVersion::V17, &[]);
        assert!(text.starts_with("{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 7123,\n"));
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }
}
