//! The blocks of relations that a stretch of WAL has changed. A backup does not read the blocks that cannot have
//! changed.
//!
//! The map chooses the blocks to read, and their content decides which are stored: so a map may name blocks that have
//! not changed, but must not lack a block that has. If a part of the WAL is not understood, there is no map, and the
//! backup reads everything.
//!
//! - [`ChangeMap`]: the map, from WAL or from PostgreSQL's summaries, and the blocks of one file to read;
//! - [`SegmentReader`]: the records of one segment, out of its pages;
//! - [`SegmentMap`], made by a [`SegmentMapper`]: the changes of one segment alone, in a form to be stored;
//! - [`Joiner`]: the maps of consecutive segments, and the records that cross the borders between them;
//! - [`CreatedTablespaces`]: the tablespaces that a segment's records create, read before the segment is replayed.
//!
//! ```text
//!  segment ──► SegmentMapper ──► SegmentMap ──► bytes ──► SegmentMap ─┐
//!  segment ──► SegmentMapper ──► SegmentMap ──► bytes ──► SegmentMap ─┼─► Joiner ──► ChangeMap ──► candidates of a file
//!  segment ──► SegmentMapper ──► SegmentMap ──► bytes ──► SegmentMap ─┘
//! ```

mod change_codec;
mod change_map;
mod changes;
mod codec;
mod error;
mod joiner;
mod page_header;
mod piece;
mod reader;
mod record;
mod segment_map;
mod switch;
mod tablespaces;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests;
mod versions;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod writer;

pub use change_map::{Candidates, ChangeMap, RelationFork};
pub use codec::MapFormatError;
pub use error::{WalError, WalProblem};
pub use joiner::{Joiner, NoMap};
pub use reader::{Each, SegmentReader};
pub use record::{BlockReference, Record};
pub use segment_map::{SegmentMap, SegmentMapper};
pub use switch::SwitchSearch;
pub use tablespaces::{CreatedTablespace, CreatedTablespaces, TablespaceSearch};
