//! A standby's account of its replay, and the requests to it.

use super::client::{PgClient, PgClientError};
use pgmesh_postgres::{Lsn, TimelineId};

/// How far a standby is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayState {
    /// It is a standby still.
    pub in_recovery: bool,
    /// The end of the last record that was replayed; `None` before the first.
    pub replayed: Option<Lsn>,
    /// The timeline of the WAL that it receives; `None` when it does not stream, or its user may not know.
    pub received_timeline: Option<TimelineId>,
    /// WAL comes record by record, not only in finished segments from the archive.
    pub streams: bool,
}

impl PgClient {
    /// How far the standby is.
    pub async fn replay_state(&self) -> Result<ReplayState, PgClientError> {
        let statement = "pg_last_wal_replay_lsn";
        let sql = "select pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_replay_lsn()::text, \
                   (select received_tli from pg_catalog.pg_stat_wal_receiver), \
                   exists (select from pg_catalog.pg_stat_wal_receiver)";
        let row = self.one(statement, sql, &[]).await?;
        let replayed: Option<String> = Self::column(&row, 1, statement)?;
        let timeline: Option<i32> = Self::column(&row, 2, statement)?;
        Ok(ReplayState {
            in_recovery: Self::column(&row, 0, statement)?,
            replayed: replayed
                .map(|text| {
                    text.parse()
                        .map_err(|_| PgClientError::Answer { statement, value: text })
                })
                .transpose()?,
            received_timeline: timeline.and_then(|number| u32::try_from(number).ok()).map(TimelineId),
            streams: Self::column(&row, 3, statement)?,
        })
    }

    /// Whether the standby's replay was paused (`pg_wal_replay_pause`).
    pub async fn replay_is_paused(&self) -> Result<bool, PgClientError> {
        let statement = "pg_is_wal_replay_paused";
        let row = self
            .one(statement, "select pg_catalog.pg_is_wal_replay_paused()", &[])
            .await?;
        Self::column(&row, 0, statement)
    }

    /// Has everything that was replayed up to the last checkpoint written to the files (a restartpoint).
    pub async fn restartpoint(&self) -> Result<(), PgClientError> {
        self.execute("CHECKPOINT", "checkpoint").await
    }

    /// Writes a record that carries `name`, of at most 63 bytes; where it ends.
    pub async fn write_restore_point(&self, name: &str) -> Result<Lsn, PgClientError> {
        let statement = "pg_create_restore_point";
        let sql = "select pg_catalog.pg_create_restore_point($1)::text";
        let row = self.one(statement, sql, &[&name]).await?;
        Self::lsn(&row, 0, statement)
    }

    /// Where each tablespace lies that is a link, by its oid.
    pub async fn tablespace_locations(&self) -> Result<Vec<(u32, String)>, PgClientError> {
        let statement = "pg_tablespace_location";
        let sql = "select oid, pg_catalog.pg_tablespace_location(oid) from pg_catalog.pg_tablespace \
                   where oid not in (1663, 1664)";
        let rows = self.all(statement, sql).await?;
        rows.iter()
            .map(|row| Ok((Self::column(row, 0, statement)?, Self::column(row, 1, statement)?)))
            .collect()
    }
}
