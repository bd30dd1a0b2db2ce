//! The catalog's tables, each a column family of the state database.

use std::fmt;

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Single values: the mesh, the number of applied commands, the last node number, when replicas were last
    /// withdrawn.
    Mesh,
    /// Node name → node.
    Nodes,
    /// Number → repository.
    Repositories,
    /// Number → the counted objects and debts of the repository.
    Counters,
    /// Name → stanza.
    Stanzas,
    /// Stanza, database, file name → WAL file.
    Segments,
    /// Stanza, database, timeline → the last push of its writer.
    Pushes,
    /// Digest → chunk.
    Chunks,
    /// Digest → when it was condemned; an index into `Chunks`.
    Condemned,
    /// Stanza, label → backup.
    Backups,
    /// Stanza, database, timeline, label → nothing; an index into `Backups`.
    TimelineBackups,
    /// Log position → the chunks of which replicas were withdrawn there, or which were condemned or suspected; the last
    /// ones only.
    Withdrawn,
    /// Repository, object → debt.
    Debts,
    /// Object → when its last good replica was withdrawn; an index of the objects that no node can repair by copying.
    Lost,
    /// Object, repository, generation → garbage.
    Garbage,
    /// Object, repository, generation → garbage that the repository does not let go (object lock, no right to delete):
    /// a mark, so that its name is not used again.
    Kept,
    /// Repository, path → an object that lies there and that a scan did not find in the catalog.
    Orphans,
    /// Number → how far the repository was looked through for such objects.
    OrphanScans,
    /// Session identifier → session.
    Sessions,
    /// Token identifier → token.
    Tokens,
    /// Log position → audit line.
    Audit,
    /// Request identifier → the outcome of the request; the newest ones only.
    Requests,
    /// Slot of a ring → request identifier: which request is forgotten next.
    RequestRing,
    /// The record by which Raft knows the state: last applied entry and membership. `apply` does not see it.
    Raft,
    /// SHA-256 of a public key → the certificate that was issued for it. Behind the others: a table's place is part of
    /// the digest of what a command writes.
    Certificates,
    /// Token identifier → SHA-256 of the public key of the administrator who made the token.
    TokenMakers,
    /// Name in lower case → the revocation: a key that has no row in `Certificates` is refused under it.
    RevokedNames,
    /// Digest, stanza, label → what happens there in the use of the chunk by the backups of the stanza.
    Uses,
    /// Stanza, label, digest → the same; an index into `Uses`.
    BackupUses,
    /// Stanza, label → nothing: a backup that noted uses and was given up. They do not count.
    Abandoned,
    /// Repository, stanza, label → when the backup expired there: the chunks that only it needed are to be released.
    Releases,
    /// Stanza → why its uses of chunks are not known in full.
    Unlisted,
    /// Stanza, database, timeline → the last segment that has expired in all repositories.
    ExpiredWal,
    /// Digest, stanza → nothing: the stanza has shown the content of the chunk, and has no use of it.
    Possessions,
    /// Stanza, digest → nothing; an index into `Possessions`.
    StanzaPossessions,
    /// SHA-256 of a public key → the authority that has signed its last certificate; none where that is not known.
    Issuers,
}

impl Table {
    /// All tables.
    pub const ALL: [Self; 36] = [
        Self::Mesh,
        Self::Nodes,
        Self::Repositories,
        Self::Counters,
        Self::Stanzas,
        Self::Segments,
        Self::Pushes,
        Self::Chunks,
        Self::Condemned,
        Self::Backups,
        Self::TimelineBackups,
        Self::Withdrawn,
        Self::Debts,
        Self::Lost,
        Self::Garbage,
        Self::Kept,
        Self::Orphans,
        Self::OrphanScans,
        Self::Sessions,
        Self::Tokens,
        Self::Audit,
        Self::Requests,
        Self::RequestRing,
        Self::Raft,
        Self::Certificates,
        Self::TokenMakers,
        Self::RevokedNames,
        Self::Uses,
        Self::BackupUses,
        Self::Abandoned,
        Self::Releases,
        Self::Unlisted,
        Self::ExpiredWal,
        Self::Possessions,
        Self::StanzaPossessions,
        Self::Issuers,
    ];

    /// The column family's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Nodes => "nodes",
            Self::Repositories => "repositories",
            Self::Counters => "counters",
            Self::Stanzas => "stanzas",
            Self::Segments => "segments",
            Self::Pushes => "pushes",
            Self::Chunks => "chunks",
            Self::Condemned => "condemned",
            Self::Backups => "backups",
            Self::TimelineBackups => "timeline-backups",
            Self::Withdrawn => "withdrawn",
            Self::Debts => "debts",
            Self::Lost => "lost",
            Self::Garbage => "garbage",
            Self::Kept => "kept",
            Self::Orphans => "orphans",
            Self::OrphanScans => "orphan-scans",
            Self::Sessions => "sessions",
            Self::Tokens => "tokens",
            Self::Audit => "audit",
            Self::Requests => "requests",
            Self::RequestRing => "request-ring",
            Self::Raft => "raft",
            Self::Certificates => "certificates",
            Self::TokenMakers => "token-makers",
            Self::RevokedNames => "revoked-names",
            Self::Uses => "uses",
            Self::BackupUses => "backup-uses",
            Self::Abandoned => "abandoned",
            Self::Releases => "releases",
            Self::Unlisted => "unlisted",
            Self::ExpiredWal => "expired-wal",
            Self::Possessions => "possessions",
            Self::StanzaPossessions => "stanza-possessions",
            Self::Issuers => "certificate-issuers",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
