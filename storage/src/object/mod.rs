//! What objects a repository holds, and how they are named.

mod name;
mod path;

pub use name::{ObjectKind, ObjectName};
pub(crate) use path::{IDENTITY_PATH, KEY_PREFIX, MARK_PREFIX};
pub use path::{Mark, ObjectPath, StoredName, prefix};
