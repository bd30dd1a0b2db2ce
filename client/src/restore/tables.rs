//! Page fingerprints of a backup, read from the chunks that hold them.

use super::source::{BackupSource, extent_of};
use bytes::Bytes;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::{Digest, Extent, FINGERPRINT_PAGE, FingerprintTable, Fingerprints};
use std::collections::VecDeque;

/// Chunks that are kept at hand: the fingerprints of neighbouring files lie in one.
const CHUNKS_KEPT: usize = 4;

/// Reads tables of fingerprints, one after the other.
pub struct Tables<'a> {
    source: &'a BackupSource,
    kept: VecDeque<(Digest, Bytes)>,
    /// Bytes of plaintext that came from the source.
    pub fetched: u64,
}

impl<'a> Tables<'a> {
    /// Of backups in this source.
    pub fn of(source: &'a BackupSource) -> Self {
        Self {
            source,
            kept: VecDeque::new(),
            fetched: 0,
        }
    }

    /// The table of a file of `size` bytes.
    ///
    /// # Errors
    /// A chunk cannot be read, or does not hold the fingerprints.
    pub async fn read(&mut self, fingerprints: &Fingerprints, size: u64) -> Result<FingerprintTable, Failure> {
        let base = self.bytes(&fingerprints.base).await?;
        let patch = self.bytes(&fingerprints.patch).await?;
        let pages = usize::try_from(size.div_ceil(FINGERPRINT_PAGE as u64)).unwrap_or(usize::MAX);
        FingerprintTable::decode(&base, &patch, pages)
            .map_err(|error| Failure::new(ExitCode::Format, "page fingerprints are not understood").because(error))
    }

    async fn bytes(&mut self, extents: &[Extent]) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        for extent in extents {
            let chunk = self.chunk(extent.digest).await?;
            bytes.extend_from_slice(extent_of(&chunk, extent)?);
        }
        Ok(bytes)
    }

    async fn chunk(&mut self, digest: Digest) -> Result<Bytes, Failure> {
        if let Some((_, chunk)) = self.kept.iter().find(|(kept, _)| *kept == digest) {
            return Ok(chunk.clone());
        }
        let chunk = self.source.chunk(digest).await?;
        self.fetched += chunk.len() as u64;
        if self.kept.len() >= CHUNKS_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((digest, chunk.clone()));
        Ok(chunk)
    }
}
