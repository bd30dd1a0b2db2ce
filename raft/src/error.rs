//! Errors of the catalog.

use std::path::PathBuf;

use pgmesh_storage::wire;

use crate::refusal::Refusal;
use crate::status::Shortfall;
use crate::table::Table;
use pgmesh_protocol::EntryId;

/// Why the catalog's tables could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The database failed.
    #[error("reading table {table} of the catalog: {source}")]
    Database {
        /// The table.
        table: Table,
        /// RocksDB's error.
        source: rocksdb::Error,
    },
    /// A table that the database does not have.
    #[error("the catalog has no table {0}")]
    NoTable(Table),
    /// A key that is not of this table's form.
    #[error("table {table} of the catalog has a malformed key {key}")]
    MalformedKey {
        /// The table.
        table: Table,
        /// The key in hexadecimal.
        key: String,
    },
    /// A value of a format that this program does not know.
    #[error("table {table} of the catalog has a value of an unknown format ({format:?}) at key {key}")]
    UnknownFormat {
        /// The table.
        table: Table,
        /// The key in hexadecimal.
        key: String,
        /// The format byte; `None` for an empty value.
        format: Option<u8>,
    },
    /// A value that cannot be decoded.
    #[error("table {table} of the catalog has a malformed value at key {key}: {source}")]
    MalformedValue {
        /// The table.
        table: Table,
        /// The key in hexadecimal.
        key: String,
        /// The codec's error.
        source: wire::DecodeError,
    },
}

/// Why the catalog could not carry out a request.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The command was looked at and refused; nothing changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is a catalog already.
    #[error("{} holds a catalog already", .0.display())]
    Exists(PathBuf),
    /// There is no catalog.
    #[error("{} holds no catalog; make one with 'node init'", .0.display())]
    Missing(PathBuf),
    /// Another process has it open.
    #[error("the catalog in {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The catalog is of another format.
    #[error("the catalog has format {found}, this program knows format {known}")]
    Format {
        /// The catalog's format.
        found: u32,
        /// The format that this program knows.
        known: u32,
    },
    /// Commands are applied at a level that this program does not have.
    #[error(
        "the catalog is at apply level {found}, and this program has levels up to {known}: it is older than the mesh. Install the \
         version of pgmesh that the other nodes run"
    )]
    Level {
        /// The catalog's.
        found: u32,
        /// This program's.
        known: u32,
    },
    /// A file operation failed.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// The operation.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The database failed.
    #[error("{doing} {}: {source}", path.display())]
    Database {
        /// The operation.
        doing: &'static str,
        /// To which database.
        path: PathBuf,
        /// RocksDB's error.
        source: rocksdb::Error,
    },
    /// The log does not end where it was recorded to end: its disk has lost writes that it had confirmed.
    #[error(
        "the log in {} has lost its end: it should end with entry {}, and ends with entry {}", path.display(),
        entry(*recorded), entry(*found)
    )]
    LostEnd {
        /// The log's folder.
        path: PathBuf,
        /// The index of the last entry as it was recorded.
        recorded: Option<u64>,
        /// The index of the last entry that was found.
        found: Option<u64>,
    },
    /// The only voter lacks entries that another node has.
    #[error("this node's Raft log lacks entries that the node has written before: {0}")]
    Behind(Shortfall),
    /// The tables lack writes, and the snapshot and the log that are left do not suffice to make them anew.
    #[error("the catalog's tables in {} are damaged ({why}) and cannot be made anew: {missing}", path.display())]
    LostState {
        /// The state's folder.
        path: PathBuf,
        /// The damage.
        why: String,
        /// The missing part.
        missing: String,
    },
    /// The tables could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// This node does not lead the mesh: ask the leader.
    #[error("this node does not lead the mesh{}", leader_hint(*leader_id))]
    NotLeader {
        /// The leader, if one is known.
        leader_id: Option<u64>,
        /// Its address, if known.
        address: Option<String>,
    },
    /// The members of the Raft group could not be changed, or not now.
    #[error("the members of the mesh's Raft group cannot be changed: {0}")]
    Membership(String),
    /// A majority of nodes could not be reached.
    #[error("no majority of the mesh's nodes could be reached: {0}")]
    NoQuorum(String),
    /// A command that is too big for one log entry.
    #[error("a command of {given} bytes is too large for the catalog, which takes {limit} bytes")]
    TooLarge {
        /// Its length in bytes.
        given: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A command that the log could not give back.
    #[error("the catalog refused a command that could not be decoded from the log again; nothing was changed: {0}")]
    Undecodable(String),
    /// An entry of the log, with which this node cannot go on.
    #[error(
        "entry {entry} of the log, {command}, cannot be applied: {why}; if all nodes of the mesh say this, start each \
         of them with 'pgmesh node start --skip-entry={entry}': they then continue without this entry"
    )]
    Unappliable {
        /// The entry.
        entry: EntryId,
        /// Its command and the actor.
        command: String,
        /// The reason.
        why: String,
    },
    /// An entry that cannot be left out.
    #[error("--skip-entry is refused: {0}")]
    CannotSkip(String),
    /// The catalog has stopped: after `shutdown`, or because its disk failed.
    #[error("the catalog has stopped: {0}")]
    Stopped(String),
}

fn entry(index: Option<u64>) -> String {
    index.map_or_else(|| "none".to_owned(), |index| index.to_string())
}

fn leader_hint(leader_id: Option<u64>) -> String {
    match leader_id {
        Some(id) => format!("; node {id} does"),
        None => ", and no leader is known".to_owned(),
    }
}
