//! Which pages of a file changed, and where they come to lie: pure decisions over page numbers, fingerprints and
//! extents.

pub mod layout;
pub mod pages;
