//! The log as openraft calls it.

use super::{COMMITTED, Inner, LogStore, META, NODE_ID, PURGED, READ_BYTES, VOTE, storage_error};
use crate::consensus::TypeConfig;
use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{Entry, ErrorSubject, ErrorVerb, LogId, OptionalSend, RaftLogReader, StorageError, Vote};
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<TypeConfig>>, StorageError<u64>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => Some(end.saturating_add(1)),
            Bound::Excluded(end) => Some(*end),
            Bound::Unbounded => None,
        };
        self.run(move |inner| inner.entries(start, end, usize::MAX))
            .await
            .map_err(storage_error(ErrorSubject::Logs, ErrorVerb::Read))
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry<TypeConfig>>, StorageError<u64>> {
        self.run(move |inner| inner.entries(start, Some(end), READ_BYTES))
            .await
            .map_err(storage_error(ErrorSubject::Logs, ErrorVerb::Read))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError<u64>> {
        let last_purged_log_id = self.read(PURGED).await?;
        let last = self
            .run(Inner::last_entry)
            .await
            .map_err(storage_error(ErrorSubject::Logs, ErrorVerb::Read))?;
        Ok(LogState {
            last_purged_log_id,
            last_log_id: last.or(last_purged_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        let vote = *vote;
        self.run(move |inner| inner.write_one(VOTE, &vote, true))
            .await
            .map_err(storage_error(ErrorSubject::Vote, ErrorVerb::Write))
    }

    /// openraft makes a node whose own vote is committed the leader again as soon as it starts. If the end of its log
    /// is gone, it would give positions that others hold to other entries. So its own vote comes back as a vote that no
    /// voter has granted yet, and the node leads when it is elected. A vote for another node stays as it is.
    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        self.run(|inner| {
            let node_id = inner.read::<u64>(META, NODE_ID)?;
            let vote = inner.read::<Vote<u64>>(META, VOTE)?;
            Ok(vote.map(|vote| Vote {
                committed: vote.committed && Some(vote.leader_id.node_id) != node_id,
                ..vote
            }))
        })
        .await
        .map_err(storage_error(ErrorSubject::Vote, ErrorVerb::Read))
    }

    /// Not synced: it lies behind the entries in the same write-ahead log, so it can be lost but never be ahead of
    /// them.
    async fn save_committed(&mut self, committed: Option<LogId<u64>>) -> Result<(), StorageError<u64>> {
        let Some(committed) = committed else {
            return Ok(());
        };
        self.run(move |inner| inner.write_one(COMMITTED, &committed, false))
            .await
            .map_err(storage_error(ErrorSubject::Logs, ErrorVerb::Write))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<u64>>, StorageError<u64>> {
        self.read(COMMITTED).await
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        self.inner.pace.begin();
        let appended = self.run(move |inner| inner.append(&entries)).await;
        self.inner.pace.end();
        match appended {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                let text = error.to_string();
                callback.log_io_completed(Err(std::io::Error::other(text)));
                Err(storage_error(ErrorSubject::Logs, ErrorVerb::Write)(error))
            }
        }
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.run(move |inner| inner.truncate(log_id.index))
            .await
            .map_err(storage_error(ErrorSubject::Log(log_id), ErrorVerb::Delete))
    }

    /// openraft purges the log while it still puts the snapshot in place that holds the purged entries. If the node is
    /// killed in between, it would have neither.
    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        let held = match self.inner.state.get() {
            Some(state) => state.wait_until_held(log_id.index).await,
            None => Ok(()),
        };
        let purged = match held {
            Ok(()) => self.run(move |inner| inner.purge(log_id)).await,
            Err(error) => Err(error),
        };
        purged.map_err(storage_error(ErrorSubject::Log(log_id), ErrorVerb::Delete))
    }
}
