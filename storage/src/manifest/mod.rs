//! The manifest of a backup: its description and its list of files.
//!
//! A manifest is a small root, an object of its own that is written last, and parts with the list of files, which are
//! stored as chunks. The root is JSON, so that it can grow fields; parts are [`wire`](crate::wire) encoded.

mod file_entry;
mod fingerprints;
mod part_reader;
mod part_writer;
mod root;

pub use file_entry::{BlockRange, EntryKind, Extent, FileEntry, InvalidEntry};
pub use fingerprints::{
    FINGERPRINT_PAGE, FingerprintError, FingerprintSeed, FingerprintTable, Fingerprints, PageFingerprint, StoredTable,
};
pub use part_reader::{MAX_PART_LENGTH, PartError, PartReader};
pub use part_writer::{PART_LENGTH, PartWriter};
pub use root::{
    BackupSizes, DatabaseRecord, FileErrors, LinkRecord, MANIFEST_FORMAT, ManifestError, ManifestRoot, PartRef,
    STANZA_FORMAT, StanzaInfo, TablespaceRecord,
};
