//! The bytes of a chunk that a restore needs: all of them, or some pieces.

use super::local;
use super::planning::{ChunkPlan, FilePlan, PiecePlan};
use bytes::Bytes;
use pgmesh_storage::FingerprintSeed;

/// A chunk of which no more than this is needed, in bytes, is not fetched whole.
const PIECES_BELOW: u64 = 256 << 10;
/// A chunk of which more pieces than this are needed is fetched whole, too. One request may name more.
const MOST_PIECES: usize = 64;

/// The fetched bytes of a chunk.
#[derive(Debug)]
pub enum Plain {
    /// All of it.
    Whole(Bytes),
    /// The pieces of the plan, one after the other.
    Pieces {
        /// The bytes.
        bytes: Bytes,
        /// Where each piece begins in the chunk, its length, and where it begins in `bytes`.
        places: Vec<(u32, u32, usize)>,
    },
}

impl Plain {
    /// The pieces of these ranges, if the bytes have their lengths.
    pub fn pieces(ranges: &[(u32, u32)], bytes: Bytes) -> Option<Self> {
        let mut at = 0;
        let places = ranges.iter().map(|(offset, length)| {
            let place = (*offset, *length, at);
            at += *length as usize;
            place
        });
        let places = places.collect();
        (at == bytes.len()).then_some(Self::Pieces { bytes, places })
    }

    /// The bytes of a piece.
    pub fn piece(&self, piece: &PiecePlan) -> Option<&[u8]> {
        let length = piece.length as usize;
        let (bytes, from) = match self {
            Self::Whole(bytes) => (bytes, usize::try_from(piece.in_chunk).ok()?),
            Self::Pieces { bytes, places } => {
                let wanted = |place: &&(u32, u32, usize)| (place.0, place.1) == (piece.in_chunk, piece.length);
                (bytes, places.iter().find(wanted)?.2)
            }
        };
        bytes.get(from..from.checked_add(length)?)
    }

    /// How many bytes were fetched.
    pub fn len(&self) -> u64 {
        match self {
            Self::Whole(bytes) | Self::Pieces { bytes, .. } => bytes.len() as u64,
        }
    }

    /// Whether all pieces have their files' fingerprints. The digest of a chunk proves nothing about a part of it.
    pub fn is_right(&self, chunk: &ChunkPlan, files: &[FilePlan], seed: FingerprintSeed) -> bool {
        chunk.pieces.iter().all(|piece| {
            let table = files.get(piece.file).and_then(|file| file.table.as_ref());
            let found = self.piece(piece).zip(table);
            found.is_some_and(|(bytes, table)| local::is_right(bytes, piece.in_file, table, seed))
        })
    }
}

/// The pieces of a chunk to fetch (offset and length of each), where they are short and can be checked without the
/// rest.
pub fn ranges(chunk: &ChunkPlan, files: &[FilePlan]) -> Option<Vec<(u32, u32)>> {
    let wanted: u64 = chunk.pieces.iter().map(|piece| u64::from(piece.length)).sum();
    if wanted > PIECES_BELOW || chunk.pieces.len() > MOST_PIECES {
        return None;
    }
    let is_checkable = |piece: &PiecePlan| {
        let bytes = piece.in_file..piece.in_file + u64::from(piece.length);
        let file = files.get(piece.file);
        file.is_some_and(|file| file.table.is_some() && local::is_of_pages(&bytes, file.size))
    };
    let range = |piece: &PiecePlan| (piece.in_chunk, piece.length);
    let is_checkable = chunk.pieces.iter().all(is_checkable);
    is_checkable.then(|| chunk.pieces.iter().map(range).collect())
}
