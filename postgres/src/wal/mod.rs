//! Which blocks of which relations did a stretch of WAL change? What a backup need not read, since it cannot have
//! changed.
//!
//! The map chooses what to read, and content decides what is stored: so a map may name more than has changed, and never
//! less. Where anything about the WAL is not understood, there is no map, and everything is read.
//!
//! - [`ChangeMap`]: the answer, whoever gave it, and what it says about one file of a backup;
//! - [`SegmentReader`]: the records of one segment, out of its pages;
//! - [`SegmentMap`], made by a [`SegmentMapper`]: what one segment alone tells, in a form to be stored;
//! - [`Joiner`]: the maps of consecutive segments, and the records that lie in more than one of them;
//! - [`CreatedTablespaces`]: another question to the same records, asked before a segment is replayed.
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
