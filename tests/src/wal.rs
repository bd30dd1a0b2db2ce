//! WAL segments made by hand.

use std::fs;
use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::postgres::Postgres;
use pgmesh_chaos::Random;

/// The long header of a segment's first page (`XLogLongPageHeaderData`): 40 bytes, the page's address at byte 8.
const HEADER_LENGTH: usize = 40;
const ADDRESS: std::ops::Range<usize> = 8..16;

/// Makes segments that carry the right header for a cluster and any content: as many as wanted, without waiting for a
/// server to fill them. The content of a segment follows from its number, so that a test can compare it later without
/// keeping it.
#[derive(Clone, Debug)]
pub struct WalForge {
    account: Account,
    folder: PathBuf,
    header: [u8; HEADER_LENGTH],
    segment_length: usize,
}

impl WalForge {
    /// Takes the header from a segment of a cluster, and writes into a folder beside its data directory.
    #[must_use]
    pub fn new(postgres: &Postgres) -> Self {
        let (header, segment_length) = fs::read_dir(postgres.data().join("pg_wal"))
            .expect("reading pg_wal")
            .flatten()
            .filter(|entry| entry.file_name().len() == 24)
            .find_map(|entry| {
                let content = fs::read(entry.path()).ok()?;
                let header = content.get(..HEADER_LENGTH)?.try_into().ok()?;
                // A segment that was made in advance has no header yet.
                (content.first() != Some(&0)).then_some((header, content.len()))
            })
            .expect("a segment in pg_wal");
        let folder = postgres.socket().join("forge");
        postgres.account().create_folder(&folder);
        Self {
            account: postgres.account(),
            folder,
            header,
            segment_length,
        }
    }

    /// The name of segment `number` of timeline 1.
    #[must_use]
    pub fn name(&self, number: u32) -> String {
        let per_log = u32::try_from((1u64 << 32) / self.segment_length as u64).expect("segments of 1 MiB or more");
        format!("{:08X}{:08X}{:08X}", 1, number / per_log, number % per_log)
    }

    /// The bytes of segment `number`. Half of each page is zero, as compressible as WAL often is.
    #[must_use]
    pub fn content(&self, number: u32) -> Vec<u8> {
        let mut random = Random::new(u64::from(number));
        let mut bytes = vec![0; self.segment_length];
        for page in bytes.chunks_exact_mut(8192) {
            for word in page[HEADER_LENGTH..4096].chunks_exact_mut(8) {
                word.copy_from_slice(&random.bits().to_le_bytes());
            }
        }
        bytes[..HEADER_LENGTH].copy_from_slice(&self.header);
        let address = u64::from(number) * self.segment_length as u64;
        bytes[ADDRESS].copy_from_slice(&address.to_le_bytes());
        bytes
    }

    /// Writes segment `number` to a file of its name, and returns the file's path.
    #[must_use]
    pub fn make(&self, number: u32) -> PathBuf {
        self.write(&self.name(number), &self.content(number))
    }

    /// Writes any bytes to a file of any name, and returns the file's path.
    #[must_use]
    pub fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.join(name);
        self.account.write(&path, content);
        path
    }

    /// As [`write`](Self::write), into a folder of its own: several writers may have the same name at the same time.
    #[must_use]
    pub fn write_in(&self, folder: &str, name: &str, content: &[u8]) -> PathBuf {
        let folder = self.folder.join(folder);
        self.account.create_folder(&folder);
        let path = folder.join(name);
        self.account.write(&path, content);
        path
    }

    /// A path in its folder for a segment that is fetched.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}
