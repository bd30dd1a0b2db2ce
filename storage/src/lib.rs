//! The data at rest: objects, their names, encryption and compression, and the repositories that hold them.
//!
//! Knows nothing of networks between nodes, nor of the catalog. The layers, lowest first:
//!
//! 1. names: [`StanzaName`], [`RepoKey`], [`BackupLabel`], [`ArchiveId`], [`Generation`]; [`Digest`] and its
//!    [`DigestSuite`];
//! 2. codecs: [`Codec`] for compression, [`wire`] for structures;
//! 3. [`Payload`]: plaintext compressed once, named by its digest, as it travels from a PostgreSQL host to the
//!    repositories;
//! 4. envelope: encryption and MAC around a payload, under the keys that a [`Passphrase`] unwraps ([`WrappedKey`]);
//! 5. [`ObjectName`] and [`ObjectPath`]: where objects lie;
//! 6. [`Repository`]: durable, create-only, checked puts and gets on any `object_store`; [`PosixStore`] is the one for
//!    directories;
//! 7. manifests: [`ManifestRoot`], and [`FileEntry`] in parts.
//!
//! ```text
//!   plain ── Payload::pack ──▶ Payload ── Repository::put ──▶ envelope ──▶ store
//!   plain ◀── Payload::open ── Payload ◀── Repository::get ── envelope ◀── store
//! ```
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "unit tests may spawn without a name and read the clock"
    )
)]

mod checked_text;
mod classify;
mod codec;
mod digest;
mod envelope;
mod error;
mod identity;
mod keys;
mod manifest;
mod names;
mod object;
mod payload;
mod posix;
mod random;
mod repository;
mod store;
pub mod wire;

pub use checked_text::CheckedTextError;
pub use codec::{Codec, CodecError, ParseCodecError};
pub use digest::{DIGEST_LENGTH, Digest, DigestSuite, Hasher, ParseDigestError, ParseDigestSuiteError};
pub use envelope::{ENVELOPE_FORMAT, EnvelopeError};
pub use error::{Advice, Cause, Damage, StoreError};
pub use identity::{Cipher, ParseCipherError, REPOSITORY_FORMAT, RepositoryIdentity};
pub use keys::{EmptyPassphraseError, HexBytes, KeyDerivation, KeyError, Passphrase, WrappedKey};
pub use manifest::{
    BackupSizes, BlockRange, DatabaseRecord, EntryKind, Extent, FINGERPRINT_PAGE, FileEntry, FileErrors,
    FingerprintError, FingerprintSeed, FingerprintTable, Fingerprints, InvalidEntry, LinkRecord, MANIFEST_FORMAT,
    MAX_PART_LENGTH, ManifestError, ManifestRoot, PART_LENGTH, PageFingerprint, PartError, PartReader, PartRef,
    PartWriter, STANZA_FORMAT, StanzaInfo, StoredTable, TablespaceRecord,
};
pub use names::{
    ArchiveId, BackupLabel, BackupType, DbId, Generation, ParseArchiveIdError, ParseBackupLabelError,
    ParseBackupTypeError, ParseRepoKeyError, ParseStanzaNameError, RepoKey, StanzaName,
};
pub use object::{
    FILE_PART_LENGTH, FilePart, LARGEST_SINGLE_OBJECT, MOST_PARTS, Mark, ObjectKind, ObjectName, ObjectPath, PartsSeen,
    Portion, StoredName, parts_of, prefix,
};
pub use payload::{MAX_FILE_LENGTH, MAX_PLAIN_LENGTH, Payload, PayloadError, PayloadHead};
pub use posix::PosixStore;
pub use random::RandomError;
pub use repository::{Anchor, Checked, Listed, PartsReader, PutOutcome, Repository, WholeFile};
pub use store::{
    CheckOutcome, CheckSize, CheckStep, Conditions, FixedSecrets, ParseStoreKindError, SecretSource, SecretText,
    Secrets, Store, StoreKind, StoreSettings, check_store,
};
