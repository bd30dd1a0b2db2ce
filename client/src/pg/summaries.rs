//! PostgreSQL's own summaries of the WAL (`summarize_wal`, from 17 on), through its SQL functions.

use super::client::{PgClient, PgClientError, within};
use futures::TryStreamExt;
use pgmesh_postgres::{ChangeMap, Fork, Lsn, RelationFork, TimelineId};
use std::ops::Range;
use std::pin::pin;
use tokio_postgres::types::ToSql;

/// A summary that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalSummary {
    /// Of this timeline.
    pub timeline: TimelineId,
    /// From here...
    pub start: Lsn,
    /// ...to here.
    pub end: Lsn,
}

impl PgClient {
    /// Whether the server summarizes its WAL.
    pub async fn summarizes_wal(&self) -> Result<bool, PgClientError> {
        let sql = "select pg_catalog.current_setting('summarize_wal', true)";
        let row = self.one("summarize_wal", sql, &[]).await?;
        let value: Option<String> = Self::column(&row, 0, "summarize_wal")?;
        Ok(value.as_deref() == Some("on"))
    }

    /// The summaries that touch a stretch of a timeline's WAL.
    pub async fn wal_summaries(&self, timeline: TimelineId, wal: Range<Lsn>) -> Result<Vec<WalSummary>, PgClientError> {
        const STATEMENT: &str = "pg_available_wal_summaries";
        let sql = "select tli, start_lsn::text, end_lsn::text from pg_catalog.pg_available_wal_summaries() \
                   where tli = $1 and end_lsn > $2::text::pg_lsn and start_lsn < $3::text::pg_lsn";
        let number = i64::from(timeline.0);
        let (start, end) = (wal.start.to_string(), wal.end.to_string());
        let rows = within(
            self.timeout,
            STATEMENT,
            self.client.query(sql, &[&number, &start, &end]),
        )
        .await?;
        let summary = |row| {
            Ok(WalSummary {
                timeline,
                start: Self::lsn(row, 1, STATEMENT)?,
                end: Self::lsn(row, 2, STATEMENT)?,
            })
        };
        rows.iter().map(summary).collect()
    }

    /// The blocks that these summaries name.
    pub async fn changed_blocks(&self, summaries: &[WalSummary]) -> Result<ChangeMap, PgClientError> {
        const STATEMENT: &str = "pg_wal_summary_contents";
        let sql = "select relfilenode, reltablespace, reldatabase, relforknumber, relblocknumber, is_limit_block \
                   from pg_catalog.pg_wal_summary_contents($1, $2::text::pg_lsn, $3::text::pg_lsn)";
        let mut map = ChangeMap::default();
        for summary in summaries {
            let timeline = i64::from(summary.timeline.0);
            let (start, end) = (summary.start.to_string(), summary.end.to_string());
            let parameters: [&(dyn ToSql + Sync); 3] = [&timeline, &start, &end];
            let rows = self.client.query_raw(sql, parameters);
            let mut rows = pin!(within(self.timeout, STATEMENT, rows).await?);
            // As they come: a summary may have as many rows as there are pages (invariant 11).
            while let Some(row) = within(self.timeout, STATEMENT, rows.try_next()).await? {
                let fork: i16 = Self::column(&row, 3, STATEMENT)?;
                let Some(fork) = u32::try_from(fork).ok().and_then(Fork::from_number) else {
                    return Err(PgClientError::Answer {
                        statement: STATEMENT,
                        value: format!("fork {fork}"),
                    });
                };
                let relation = RelationFork {
                    tablespace: Self::column(&row, 1, STATEMENT)?,
                    database: Self::column(&row, 2, STATEMENT)?,
                    relation: Self::column(&row, 0, STATEMENT)?,
                    fork,
                };
                let block: i64 = Self::column(&row, 4, STATEMENT)?;
                let block = u32::try_from(block).map_err(|_| PgClientError::Answer {
                    statement: STATEMENT,
                    value: format!("block {block}"),
                })?;
                if Self::column(&row, 5, STATEMENT)? {
                    map.add_limit(relation, block);
                } else {
                    map.add_block(relation, block);
                }
            }
        }
        Ok(map)
    }
}
