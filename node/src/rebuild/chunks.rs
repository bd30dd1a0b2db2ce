//! All chunks of a repository in memory, 48 bytes each: a terabyte of backups is about a million of them. Pure.

use pgmesh_storage::{Generation, MAX_PART_LENGTH, Repository, StoredName};
use std::ops::RangeInclusive;

/// Chunks while they are listed, in any order.
#[derive(Debug, Default)]
pub struct Listing(Vec<Chunk>);

/// Chunks by name, the last writing of each first.
#[derive(Debug, Default)]
pub struct ChunkTable(Vec<Chunk>);

/// One object that holds a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    name: StoredName,
    /// The object's length in bytes; `u32::MAX` for longer objects.
    object_length: u32,
    /// Which writing.
    pub generation: Generation,
    /// How far into its plaintext any backup reaches: its length, since the backup that it was written for reaches to
    /// its end.
    pub length: u32,
    /// It is in the catalog.
    pub adopted: bool,
}

impl Listing {
    /// Adds an object.
    pub fn add(&mut self, name: StoredName, generation: Generation, object_length: u64) {
        self.0.push(Chunk {
            name,
            object_length: u32::try_from(object_length).unwrap_or(u32::MAX),
            generation,
            length: 0,
            adopted: false,
        });
    }

    /// The table of all objects that were added.
    pub fn sorted(mut self) -> ChunkTable {
        self.0
            .sort_unstable_by_key(|chunk| (chunk.name, std::cmp::Reverse(chunk.generation)));
        ChunkTable(self.0)
    }
}

impl ChunkTable {
    /// The object that counts for a chunk: the last writing with a plausible length, since a chunk is written anew only
    /// where its object is damaged or deleted.
    pub fn find(&mut self, repository: &Repository, name: StoredName) -> Option<&mut Chunk> {
        let from = self.0.partition_point(|chunk| chunk.name < name);
        let rows = self.0.get_mut(from..)?.iter_mut();
        let mut same = rows.take_while(|chunk| chunk.name == name);
        same.find(|chunk| chunk.is_plausible(repository))
    }

    /// Says which writing of a chunk counts: it was read and is good.
    pub fn prefer(&mut self, name: StoredName, good: Generation) {
        let from = self.0.partition_point(|chunk| chunk.name < name);
        let rows = self.0.get_mut(from..).unwrap_or_default().iter_mut();
        let same = rows.take_while(|chunk| chunk.name == name);
        for chunk in same.filter(|chunk| chunk.generation > good) {
            // A damaged object gets a length that no object has.
            chunk.object_length = 0;
        }
    }

    /// How many are in the catalog, and how many are not.
    pub fn counts(&self) -> (u64, u64) {
        let adopted = self.0.iter().filter(|chunk| chunk.adopted).count() as u64;
        (adopted, self.0.len() as u64 - adopted)
    }
}

impl Chunk {
    fn is_plausible(&self, repository: &Repository) -> bool {
        // Compressing makes nothing longer, and no chunk is longer than a part of a manifest.
        self.bounds(repository)
            .is_some_and(|payload| *payload.end() > 0 && *payload.start() <= MAX_PART_LENGTH as u64)
    }

    fn bounds(&self, repository: &Repository) -> Option<RangeInclusive<u64>> {
        repository.payload_bounds(u64::from(self.object_length))
    }

    /// The length of its payload, in an encrypted repository to within 16 bytes.
    pub fn stored_length(&self, repository: &Repository) -> u32 {
        let bounds = self.bounds(repository).unwrap_or(0..=0);
        u32::try_from(likely(&bounds, u64::from(self.length))).unwrap_or(u32::MAX)
    }
}

/// Which payload length within bounds is likely for a plaintext: all of it where that did not become shorter, else the
/// middle.
fn likely(bounds: &RangeInclusive<u64>, plain: u64) -> u64 {
    if bounds.contains(&plain) {
        return plain;
    }
    bounds.start() + (bounds.end() - bounds.start()) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_takes_little_memory() {
        assert!(size_of::<Chunk>() <= 48, "{}", size_of::<Chunk>());
    }

    #[test]
    fn the_likely_length() {
        assert_eq!(likely(&(100..=100), 5000), 100);
        assert_eq!(likely(&(992..=1007), 1000), 1000);
        assert_eq!(likely(&(992..=1007), 5000), 999);
    }
}
