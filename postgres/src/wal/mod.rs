//! Which blocks of which relations did a stretch of WAL change? What a backup need not read, since it cannot have changed.
//!
//! The map chooses what to read, and content decides what is stored: so a map may name more than has changed, and never less.
//!
//! - [`ChangeMap`]: the answer, whoever gave it, and what it says about one file of a backup.

mod change_map;

pub use change_map::{Candidates, ChangeMap, RelationFork};
