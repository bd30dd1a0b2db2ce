//! The objects of a repository, and their names.

mod name;
mod path;
mod portion;

pub use name::{ObjectKind, ObjectName};
pub(crate) use path::{IDENTITY_PATH, KEY_PREFIX, MARK_PREFIX};
pub use path::{Mark, ObjectPath, StoredName, prefix};
pub use portion::{FILE_PART_LENGTH, FilePart, LARGEST_SINGLE_OBJECT, MOST_PARTS, PartsSeen, Portion, parts_of};
