//! Queries over the applied state.
//!
//! Every method reads the database at the moment it is called: its answer is at least as new as the view, and two calls
//! may see two states. Decisions that need several reads of one state take a [`View::snapshot`]. Methods block on disk
//! reads; call methods that walk a table from a blocking thread. Walks are iterators: they hold one row at a time
//! (invariant 11), see the table as it was when they began, and can go on later after a key.

mod certificates;
mod orphans;
mod rights;
mod uses;
mod wal;

pub use rights::Rights;

use std::sync::Arc;

use pgmesh_postgres::TimelineId;
use pgmesh_storage::{BackupLabel, DbId, Digest, Generation, RepoKey, StanzaName};
use serde::de::DeserializeOwned;

use crate::apply::{Base, Rows, Snapshots, names, objects, repository, withdrawn};
use crate::error::ReadError;
use crate::key::{self, KeyReader};
use crate::model::{
    AuditRecord, BackupRecord, CatalogPast, ChunkRecord, ChunkState, Debt, Garbage, GarbageKey, Levels, LogIndex, Lost,
    MeshRecord, NodeName, NodeRecord, ObjectRef, Replica, RepositoryCounters, RepositoryRecord, SessionId,
    SessionRecord, StanzaRecord, StoredObject, TokenId, TokenRecord,
};
use crate::store::StateDb;
use crate::table::Table;
use crate::value;

/// A readable catalog. Cheap to clone; keeping one for long keeps a replaced database alive, so take a new one for
/// every request.
#[derive(Debug, Clone)]
pub struct View<B = Arc<StateDb>> {
    base: B,
}

impl<B: Snapshots> View<B> {
    /// The same catalog as it is at this moment, for a decision that rests on several reads. Until it is dropped, rows
    /// that are overwritten take up space: hold it for the reads, not for the work that follows.
    pub fn snapshot(&self) -> View<B::Snapshot<'_>> {
        View::new(self.base.snapshot())
    }
}

impl<B: Base> View<B> {
    /// A view of these tables.
    pub fn new(base: B) -> Self {
        Self { base }
    }

    /// The number of commands that have been applied.
    ///
    /// # Errors
    /// [`ReadError`], as from every method of this type.
    pub fn applied(&self) -> Result<LogIndex, ReadError> {
        Ok(self.base.record(Table::Mesh, key::APPLIED)?.unwrap_or_default())
    }

    /// When a backup last left the catalog: chunks may have lost their last reference.
    pub fn unreferenced(&self) -> Result<LogIndex, ReadError> {
        Ok(self.base.record(Table::Mesh, key::UNREFERENCED)?.unwrap_or_default())
    }

    /// The mesh; `None` until it was founded.
    pub fn mesh(&self) -> Result<Option<MeshRecord>, ReadError> {
        self.base.record(Table::Mesh, key::MESH)
    }

    /// The lowest generation that names are assigned with.
    pub fn floor(&self) -> Result<Generation, ReadError> {
        names::floor(&self.base)
    }

    /// The level that commands are applied at, and the levels that the nodes' programs have.
    pub fn levels(&self) -> Result<Levels, ReadError> {
        Ok(self.base.record(Table::Mesh, key::LEVELS)?.unwrap_or_default())
    }

    /// The catalog's era, and whether a part of the catalog is known to be lost.
    pub fn past(&self) -> Result<CatalogPast, ReadError> {
        Ok(self.base.record(Table::Mesh, key::PAST)?.unwrap_or_default())
    }

    /// A node.
    pub fn node(&self, name: &NodeName) -> Result<Option<NodeRecord>, ReadError> {
        self.base.record(Table::Nodes, &key::node(name))
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> Result<Vec<(NodeName, NodeRecord)>, ReadError> {
        self.rows(Table::Nodes, &[], &[], |key| KeyReader::new(key).rest()?.parse().ok())
            .collect()
    }

    /// A repository.
    pub fn repository(&self, repo: RepoKey) -> Result<Option<RepositoryRecord>, ReadError> {
        self.base.record(Table::Repositories, &key::repository(repo))
    }

    /// All repositories, by number.
    pub fn repositories(&self) -> Result<Vec<(RepoKey, RepositoryRecord)>, ReadError> {
        self.rows(Table::Repositories, &[], &[], |key| KeyReader::new(key).repository())
            .collect()
    }

    /// The counted objects and debts of a repository.
    pub fn counters(&self, repo: RepoKey) -> Result<RepositoryCounters, ReadError> {
        Ok(self
            .base
            .record(Table::Counters, &key::repository(repo))?
            .unwrap_or_default())
    }

    /// A stanza.
    pub fn stanza(&self, stanza: &StanzaName) -> Result<Option<StanzaRecord>, ReadError> {
        self.base.record(Table::Stanzas, &key::stanza(stanza))
    }

    /// Stanzas by name, those after `after` if given.
    pub fn stanzas(
        &self,
        after: Option<&StanzaName>,
    ) -> impl Iterator<Item = Result<(StanzaName, StanzaRecord), ReadError>> + Send {
        let from = after.map_or_else(Vec::new, |stanza| key::after(key::stanza(stanza)));
        self.rows(Table::Stanzas, &from, &[], |key| {
            KeyReader::new(key).rest()?.parse().ok()
        })
    }

    /// The chunks with these digests, in their order. Condemned ones count as absent (invariant 5).
    pub fn chunks(&self, digests: &[Digest]) -> Result<Vec<Option<ChunkRecord>>, ReadError> {
        let records = self.chunks_with_condemned(digests)?;
        Ok(records
            .into_iter()
            .map(|record| record.filter(|chunk| chunk.condemned.is_none()))
            .collect())
    }

    /// For each digest, whether the chunk is there, or the generation to upload it under. Ask within a session, on a
    /// snapshot of a view that has applied the session's opening.
    pub fn chunk_states(&self, digests: &[Digest]) -> Result<Vec<ChunkState>, ReadError> {
        let records = self.chunks_with_condemned(digests)?;
        std::iter::zip(digests, records)
            .map(|(digest, record)| match record {
                Some(record) if record.condemned.is_none() => Ok(ChunkState::Present(record)),
                record => {
                    let held = record.map(|chunk| chunk.replicas).unwrap_or_default();
                    let object = ObjectRef::Chunk(*digest);
                    let generation = names::free_generation(&self.base, &object, &held)?;
                    Ok(ChunkState::Absent { generation })
                }
            })
            .collect()
    }

    /// The chunks with these digests, in their order, with condemned ones.
    pub fn chunks_with_condemned(&self, digests: &[Digest]) -> Result<Vec<Option<ChunkRecord>>, ReadError> {
        let keys: Vec<_> = digests.iter().map(key::chunk).collect();
        let values = self.base.get_many(Table::Chunks, &keys)?;
        std::iter::zip(keys, values)
            .map(|(key, bytes)| {
                bytes
                    .map(|bytes| value::decode(Table::Chunks, &key, &bytes))
                    .transpose()
            })
            .collect()
    }

    /// All chunks by digest, with condemned ones, those after `after` if given.
    pub fn all_chunks(
        &self,
        after: Option<&Digest>,
    ) -> impl Iterator<Item = Result<(Digest, ChunkRecord), ReadError>> + Send {
        self.by_digest(Table::Chunks, after)
    }

    /// Condemned chunks by digest, and when they were condemned, those after `after` if given.
    pub fn condemned(
        &self,
        after: Option<&Digest>,
    ) -> impl Iterator<Item = Result<(Digest, LogIndex), ReadError>> + Send {
        self.by_digest(Table::Condemned, after)
    }

    fn by_digest<T: DeserializeOwned>(
        &self,
        table: Table,
        after: Option<&Digest>,
    ) -> impl Iterator<Item = Result<(Digest, T), ReadError>> + Send {
        let from = after.map_or_else(Vec::new, |digest| key::after(key::chunk(digest)));
        self.rows(table, &from, &[], |key| {
            let mut reader = KeyReader::new(key);
            let digest = reader.digest()?;
            reader.end(digest)
        })
    }

    /// The generation to upload an object under that has these replicas; of a chunk that may be condemned ask
    /// [`Self::chunk_states`]. It reads several tables: ask a snapshot.
    pub fn generation_for(&self, object: &ObjectRef, held: &[Replica]) -> Result<Generation, ReadError> {
        names::free_generation(&self.base, object, held)
    }

    /// Content and replicas of any object; `None` if it is unknown or condemned.
    pub fn object(&self, object: &ObjectRef) -> Result<Option<StoredObject>, ReadError> {
        Ok(objects::find(&self.base, object)?.map(|found| found.object))
    }

    /// A backup.
    pub fn backup(&self, stanza: &StanzaName, label: &BackupLabel) -> Result<Option<BackupRecord>, ReadError> {
        self.base.record(Table::Backups, &key::backup(stanza, label))
    }

    /// The backups of a stanza by label, those after `after` if given.
    pub fn backups(
        &self,
        stanza: &StanzaName,
        after: Option<&BackupLabel>,
    ) -> impl Iterator<Item = Result<(BackupLabel, BackupRecord), ReadError>> + Send {
        let prefix = key::stanza_prefix(stanza);
        let from = after.map_or_else(|| prefix.clone(), |label| key::after(key::backup(stanza, label)));
        self.rows(Table::Backups, &from, &prefix, |key| {
            key::read_backup(key).map(|(_, label)| label)
        })
    }

    /// The backups of a stanza, the last one first: in the order in which they were begun, since labels sort as the
    /// backups were made. If `chain` is given, only the full backup of that label and the backups that depend on it.
    pub fn backups_back(
        &self,
        stanza: &StanzaName,
        chain: Option<&BackupLabel>,
    ) -> impl Iterator<Item = Result<(BackupLabel, BackupRecord), ReadError>> + Send {
        let prefix = match chain {
            Some(full) => key::backup(stanza, full),
            None => key::stanza_prefix(stanza),
        };
        let rows = self.base.scan_back(Table::Backups, &prefix);
        read_rows(rows, Table::Backups, |key| {
            key::read_backup(key).map(|(_, label)| label)
        })
    }

    /// The last backup by label of each timeline of one database. Looks at three rows of each.
    pub fn newest_backups(
        &self,
        stanza: &StanzaName,
        db: DbId,
    ) -> Result<Vec<(TimelineId, BackupLabel, BackupRecord)>, ReadError> {
        let prefix = key::segments(stanza, db);
        let mut newest = Vec::new();
        let mut from = prefix.clone();
        while let Some(row) = self.base.scan(Table::TimelineBackups, &from, &prefix).next() {
            let Some((timeline, _)) = key::read_timeline_backup(&row?.0) else {
                break;
            };
            let of_timeline = key::timeline_backups(stanza, db, timeline);
            let last = self.base.scan_back(Table::TimelineBackups, &of_timeline).next();
            let last = last.transpose()?.and_then(|(key, _)| key::read_timeline_backup(&key));
            if let Some((_, label)) = last
                && let Some(record) = self.backup(stanza, &label)?
            {
                newest.push((timeline, label, record));
            }
            let Some(next) = timeline.0.checked_add(1) else {
                break;
            };
            from = key::timeline_backups(stanza, db, TimelineId(next));
        }
        Ok(newest)
    }

    /// The chunks of which replicas were withdrawn after a position, or which were condemned or suspected since, with
    /// repetitions; `None` if that is not known any more. Ask a snapshot.
    pub fn withdrawn_after(
        &self,
        position: LogIndex,
    ) -> Result<Option<impl Iterator<Item = Result<Vec<Digest>, ReadError>> + Send>, ReadError> {
        if withdrawn::marks(&self.base)?.dropped > position {
            return Ok(None);
        }
        let from = key::after(key::index(position));
        let rows = self.rows(Table::Withdrawn, &from, &[], |_| Some(()));
        Ok(Some(rows.map(|row| row.map(|((), digests)| digests))))
    }

    /// The last backup of a stanza by label.
    pub fn last_backup(&self, stanza: &StanzaName) -> Result<Option<BackupLabel>, ReadError> {
        let row = self.base.scan_back(Table::Backups, &key::stanza_prefix(stanza)).next();
        let key = row.transpose()?.map(|(key, _)| key);
        Ok(key.and_then(|key| key::read_backup(&key)).map(|(_, label)| label))
    }

    /// A debt.
    pub fn debt(&self, repo: RepoKey, object: &ObjectRef) -> Result<Option<Debt>, ReadError> {
        self.base.record(Table::Debts, &key::debt(repo, object))
    }

    /// The debts of a repository by object, those after `after` if given.
    pub fn debts(
        &self,
        repo: RepoKey,
        after: Option<&ObjectRef>,
    ) -> impl Iterator<Item = Result<(ObjectRef, Debt), ReadError>> + Send {
        let prefix = key::repository(repo);
        let from = after.map_or_else(|| prefix.clone(), |object| key::after(key::debt(repo, object)));
        self.rows(Table::Debts, &from, &prefix, |key| {
            key::read_debt(key).map(|(_, object)| object)
        })
    }

    /// Garbage by object, that after `after` if given.
    pub fn garbage(
        &self,
        after: Option<&GarbageKey>,
    ) -> impl Iterator<Item = Result<(GarbageKey, Garbage), ReadError>> + Send {
        let from = after.map_or_else(Vec::new, |garbage| key::after(key::garbage(garbage)));
        self.rows(Table::Garbage, &from, &[], key::read_garbage)
    }

    /// Garbage that its repository does not let go, by object, that after `after` if given.
    pub fn kept(
        &self,
        after: Option<&GarbageKey>,
    ) -> impl Iterator<Item = Result<(GarbageKey, Garbage), ReadError>> + Send {
        let from = after.map_or_else(Vec::new, |garbage| key::after(key::garbage(garbage)));
        self.rows(Table::Kept, &from, &[], key::read_garbage)
    }

    /// So many known objects, those after `after` if given: chunks that are not condemned, WAL files, manifests, then
    /// the information on stanzas.
    pub fn objects_after(
        &self,
        after: Option<&ObjectRef>,
        limit: usize,
    ) -> Result<Vec<(ObjectRef, StoredObject)>, ReadError> {
        repository::objects_after(&self.base, after, limit)
    }

    /// Objects of which no good replica is left, those after `after` if given; no node can pay their debts by copying.
    pub fn lost(&self, after: Option<&ObjectRef>) -> impl Iterator<Item = Result<(ObjectRef, Lost), ReadError>> + Send {
        let from = after.map_or_else(Vec::new, |object| key::after(key::object(object)));
        self.rows(Table::Lost, &from, &[], key::read_object)
    }

    /// Whether an object is known to be of no use any more: condemned, garbage, or garbage that its repository keeps.
    pub fn is_useless(&self, garbage: &GarbageKey) -> Result<bool, ReadError> {
        let row = key::garbage(garbage);
        if self.base.get(Table::Garbage, &row)?.is_some() || self.base.get(Table::Kept, &row)?.is_some() {
            return Ok(true);
        }
        let ObjectRef::Chunk(digest) = &garbage.object else {
            return Ok(false);
        };
        let chunk: Option<ChunkRecord> = self.base.record(Table::Chunks, &key::chunk(digest))?;
        Ok(chunk.is_some_and(|chunk| {
            let has = |replica: &Replica| replica.repo == garbage.repo && replica.generation == garbage.generation;
            chunk.condemned.is_some() && chunk.replicas.iter().any(has)
        }))
    }

    /// The members of the mesh that reach a shared repository, by name.
    pub fn reaching(&self, repo: RepoKey) -> Result<Vec<(NodeName, NodeRecord)>, ReadError> {
        let mut nodes = self.nodes()?;
        nodes.retain(|(_, record)| record.is_member() && record.reaches.contains(&repo));
        Ok(nodes)
    }

    /// Whether an object that was condemned, or became garbage, at `since` may be deleted from repositories (invariant
    /// 5).
    pub fn may_delete(&self, since: LogIndex) -> Result<bool, ReadError> {
        Ok(self.oldest_session()?.is_none_or(|session| session.0 > since))
    }

    /// A session.
    pub fn session(&self, session: SessionId) -> Result<Option<SessionRecord>, ReadError> {
        self.base.record(Table::Sessions, &key::session(session))
    }

    /// All open sessions, oldest first.
    pub fn sessions(&self) -> Result<Vec<(SessionId, SessionRecord)>, ReadError> {
        self.rows(Table::Sessions, &[], &[], |key| {
            KeyReader::new(key).index().map(SessionId)
        })
        .collect()
    }

    /// The oldest open session.
    pub fn oldest_session(&self) -> Result<Option<SessionId>, ReadError> {
        objects::oldest_session(&self.base)
    }

    /// The oldest open session of a backup.
    pub fn oldest_backup(&self) -> Result<Option<SessionId>, ReadError> {
        objects::oldest_backup(&self.base)
    }

    /// A join token.
    pub fn token(&self, id: TokenId) -> Result<Option<TokenRecord>, ReadError> {
        self.base.record(Table::Tokens, &key::token(id))
    }

    /// All join tokens, with used and expired ones.
    pub fn tokens(&self) -> impl Iterator<Item = Result<(TokenId, TokenRecord), ReadError>> + Send {
        self.rows(Table::Tokens, &[], &[], |key| KeyReader::new(key).token())
    }

    /// The audit trail from a position on.
    pub fn audit(&self, from: LogIndex) -> impl Iterator<Item = Result<(LogIndex, AuditRecord), ReadError>> + Send {
        self.rows(Table::Audit, &key::index(from), &[], |key| KeyReader::new(key).index())
    }

    fn rows<K, T: DeserializeOwned>(
        &self,
        table: Table,
        from: &[u8],
        prefix: &[u8],
        read_key: fn(&[u8]) -> Option<K>,
    ) -> impl Iterator<Item = Result<(K, T), ReadError>> + Send + use<'_, K, T, B> {
        read_rows(self.base.scan(table, from, prefix), table, read_key)
    }
}

fn read_rows<K, T: DeserializeOwned>(
    rows: Rows<'_>,
    table: Table,
    read_key: fn(&[u8]) -> Option<K>,
) -> impl Iterator<Item = Result<(K, T), ReadError>> + Send + use<'_, K, T> {
    rows.map(move |row| {
        let (key, bytes) = row?;
        let name = read_key(&key).ok_or_else(|| ReadError::MalformedKey {
            table,
            key: hex::encode(&key),
        })?;
        Ok((name, value::decode(table, &key, &bytes)?))
    })
}
