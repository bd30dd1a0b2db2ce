//! The SQL side of a backup: one connection, and the functions of PostgreSQL's backup API.

use super::address::PgAddress;
use pgmesh_postgres::{Lsn, PgVersion, SystemId, UnsupportedVersion};
use pgmesh_runtime::tasks;
use std::future::Future;
use std::time::Duration;
use tokio_postgres::{Client, NoTls, Row};

/// A failure of the connection or of a statement.
#[derive(Debug, thiserror::Error)]
pub enum PgClientError {
    /// No connection.
    #[error("connecting to PostgreSQL {place}")]
    Connect {
        /// Where it should listen.
        place: String,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// Encryption is demanded, and is not there.
    #[error("PGSSLMODE={mode} demands an encrypted connection to PostgreSQL {place}, which pgmesh does not have yet")]
    Unencrypted {
        /// `PGSSLMODE`.
        mode: String,
        /// Where it should listen.
        place: String,
    },
    /// A statement failed.
    #[error("running {statement}")]
    Statement {
        /// The statement's name: `pg_is_in_recovery`.
        statement: &'static str,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A statement took longer than `db-timeout`.
    #[error("running {statement}: no answer within {limit:?} (db-timeout)")]
    Timeout {
        /// The statement's name.
        statement: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// PostgreSQL's answer is no LSN, number or version.
    #[error("{statement} answered {value:?}, which is not understood")]
    Answer {
        /// The statement's name.
        statement: &'static str,
        /// The answer.
        value: String,
    },
    /// The server is too old or too new.
    #[error(transparent)]
    Version(#[from] UnsupportedVersion),
}

/// Where a backup began.
#[derive(Debug, Clone, Copy)]
pub struct BackupStart {
    /// The checkpoint's redo position.
    pub lsn: Lsn,
    /// The cluster's clock then, Unix seconds.
    pub time: i64,
}

/// Where a backup ended, with the files that belong into it.
#[derive(Debug, Clone)]
pub struct BackupStop {
    /// The backup is consistent from here.
    pub lsn: Lsn,
    /// The cluster's clock then, Unix seconds.
    pub time: i64,
    /// backup_label.
    pub label_file: String,
    /// tablespace_map; empty where there is none.
    pub tablespace_map: String,
}

/// A database of the cluster.
#[derive(Debug, Clone)]
pub struct DatabaseName {
    /// Its oid.
    pub oid: u32,
    /// Its name.
    pub name: String,
}

/// A tablespace of the cluster.
#[derive(Debug, Clone)]
pub struct TablespaceName {
    /// Its oid.
    pub oid: u32,
    /// Its name.
    pub name: String,
}

/// A failure of archive_command.
#[derive(Debug, Clone)]
pub struct ArchiverFailure {
    /// The WAL file that was not archived.
    pub file: String,
    /// When, Unix seconds.
    pub at: i64,
}

/// A connection to the cluster. A non-exclusive backup lives as long as it does.
pub struct PgClient {
    pub(super) client: Client,
    pub(super) timeout: Duration,
    version: PgVersion,
}

impl PgClient {
    /// Connects and asks for the version.
    pub async fn connect(address: &PgAddress) -> Result<Self, PgClientError> {
        if let Some(mode) = address.demanded_encryption() {
            let place = address.to_string();
            return Err(PgClientError::Unencrypted { mode, place });
        }
        let config = address.to_config();
        let failed = |source| PgClientError::Connect {
            place: address.to_string(),
            source,
        };
        let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
        // Ends by itself when the client is dropped; its error also reaches the statement under way.
        tasks::spawn("a connection to PostgreSQL", connection);
        let this = Self {
            version: server_version(&client, address.timeout).await?,
            client,
            timeout: address.timeout,
        };
        // No setting that an administrator makes for other sessions may end ours in the middle of a backup.
        this.execute(
            "session set-up",
            "set statement_timeout = 0; set lock_timeout = 0; set idle_in_transaction_session_timeout = 0; \
             set idle_session_timeout = 0; set search_path = pg_catalog",
        )
        .await?;
        Ok(this)
    }

    /// The server's major version.
    pub fn version(&self) -> PgVersion {
        self.version
    }

    /// The value of a setting, as `show` gives it.
    pub async fn setting(&self, name: &'static str) -> Result<String, PgClientError> {
        let row = self
            .one(name, "select pg_catalog.current_setting($1)", &[&name])
            .await?;
        Self::column(&row, 0, name)
    }

    /// Whether the server is a standby.
    pub async fn in_recovery(&self) -> Result<bool, PgClientError> {
        let row = self
            .one("pg_is_in_recovery", "select pg_catalog.pg_is_in_recovery()", &[])
            .await?;
        Self::column(&row, 0, "pg_is_in_recovery")
    }

    /// The system identifier of the cluster that the server runs.
    pub async fn system_id(&self) -> Result<SystemId, PgClientError> {
        let sql = "select system_identifier from pg_catalog.pg_control_system()";
        let row = self.one("pg_control_system", sql, &[]).await?;
        let signed: i64 = Self::column(&row, 0, "pg_control_system")?;
        // SQL has no unsigned numbers: the same 64 bits.
        Ok(SystemId(signed.cast_unsigned()))
    }

    /// The data directory as the server knows it.
    pub async fn data_directory(&self) -> Result<String, PgClientError> {
        self.setting("data_directory").await
    }

    /// The last failure of archive_command that no success has followed.
    pub async fn archiver_failure(&self) -> Result<Option<ArchiverFailure>, PgClientError> {
        let sql = "select last_failed_wal, extract(epoch from last_failed_time)::bigint from pg_catalog.pg_stat_archiver \
                   where last_failed_time > coalesce(last_archived_time, '-infinity')";
        let statement = "pg_stat_archiver";
        let rows = self.all(statement, sql).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(ArchiverFailure {
            file: Self::column(row, 0, statement)?,
            at: Self::column(row, 1, statement)?,
        }))
    }

    /// When archive_command last succeeded, Unix seconds; none if it never has since the server's statistics began.
    pub async fn archived_at(&self) -> Result<Option<i64>, PgClientError> {
        let statement = "pg_stat_archiver";
        let sql = "select extract(epoch from last_archived_time)::bigint from pg_catalog.pg_stat_archiver";
        let row = self.one(statement, sql, &[]).await?;
        Self::column(&row, 0, statement)
    }

    /// Begins a non-exclusive backup; it lasts until [`Self::stop_backup`] or until this connection ends.
    pub async fn start_backup(&self, label: &str, fast: bool) -> Result<BackupStart, PgClientError> {
        let call = if self.version.has_backup_start() {
            "pg_catalog.pg_backup_start($1, $2)"
        } else {
            "pg_catalog.pg_start_backup($1, $2, false)"
        };
        let sql = format!("select {call}::text, extract(epoch from pg_catalog.clock_timestamp())::bigint");
        let row = self.one("pg_backup_start", &sql, &[&label, &fast]).await?;
        Ok(BackupStart {
            lsn: Self::lsn(&row, 0, "pg_backup_start")?,
            time: Self::column(&row, 1, "pg_backup_start")?,
        })
    }

    /// Ends the backup. Does not wait for the archive: the caller asks the mesh, which knows.
    pub async fn stop_backup(&self) -> Result<BackupStop, PgClientError> {
        let call = if self.version.has_backup_start() {
            "pg_catalog.pg_backup_stop(false)"
        } else {
            "pg_catalog.pg_stop_backup(false, false)"
        };
        let sql = format!(
            "select lsn::text, extract(epoch from pg_catalog.clock_timestamp())::bigint, labelfile, spcmapfile from {call}"
        );
        let row = self.one("pg_backup_stop", &sql, &[]).await?;
        let map: Option<String> = Self::column(&row, 3, "pg_backup_stop")?;
        Ok(BackupStop {
            lsn: Self::lsn(&row, 0, "pg_backup_stop")?,
            time: Self::column(&row, 1, "pg_backup_stop")?,
            label_file: Self::column(&row, 2, "pg_backup_stop")?,
            tablespace_map: map.unwrap_or_default(),
        })
    }

    /// Writes a record and switches to the next WAL segment, so that the one under way is archived. Where it lies.
    pub async fn switch_wal(&self) -> Result<Lsn, PgClientError> {
        // Without a record since the last switch there would be nothing to switch.
        self.write_restore_point("pgmesh").await?;
        let row = self
            .one("pg_switch_wal", "select pg_catalog.pg_switch_wal()::text", &[])
            .await?;
        Self::lsn(&row, 0, "pg_switch_wal")
    }

    /// All databases.
    pub async fn databases(&self) -> Result<Vec<DatabaseName>, PgClientError> {
        let rows = self
            .all(
                "pg_database",
                "select oid, datname::text from pg_catalog.pg_database order by oid",
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(DatabaseName {
                    oid: Self::column(row, 0, "pg_database")?,
                    name: Self::column(row, 1, "pg_database")?,
                })
            })
            .collect()
    }

    /// All tablespaces but the two that lie in the data directory.
    pub async fn tablespaces(&self) -> Result<Vec<TablespaceName>, PgClientError> {
        let sql = "select oid, spcname::text from pg_catalog.pg_tablespace where oid not in (1663, 1664) order by oid";
        let rows = self.all("pg_tablespace", sql).await?;
        rows.iter()
            .map(|row| {
                Ok(TablespaceName {
                    oid: Self::column(row, 0, "pg_tablespace")?,
                    name: Self::column(row, 1, "pg_tablespace")?,
                })
            })
            .collect()
    }

    pub(super) async fn one(
        &self,
        statement: &'static str,
        sql: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Row, PgClientError> {
        self.run(statement, self.client.query_one(sql, parameters)).await
    }

    pub(super) async fn all(&self, statement: &'static str, sql: &str) -> Result<Vec<Row>, PgClientError> {
        self.all_with(statement, sql, &[]).await
    }

    pub(super) async fn all_with(
        &self,
        statement: &'static str,
        sql: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Vec<Row>, PgClientError> {
        self.run(statement, self.client.query(sql, parameters)).await
    }

    pub(super) async fn execute(&self, statement: &'static str, sql: &str) -> Result<(), PgClientError> {
        self.run(statement, self.client.batch_execute(sql)).await
    }

    async fn run<T>(
        &self,
        statement: &'static str,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, PgClientError> {
        within(self.timeout, statement, work).await
    }

    pub(super) fn column<'r, T: tokio_postgres::types::FromSql<'r>>(
        row: &'r Row,
        index: usize,
        statement: &'static str,
    ) -> Result<T, PgClientError> {
        row.try_get(index)
            .map_err(|source| PgClientError::Statement { statement, source })
    }

    pub(super) fn lsn(row: &Row, index: usize, statement: &'static str) -> Result<Lsn, PgClientError> {
        let text: String = Self::column(row, index, statement)?;
        text.parse()
            .map_err(|_| PgClientError::Answer { statement, value: text })
    }
}

/// The first statement: the others depend on the version, and older servers lack settings that are set then.
async fn server_version(client: &Client, limit: Duration) -> Result<PgVersion, PgClientError> {
    let statement = "server_version_num";
    let sql = "select pg_catalog.current_setting('server_version_num')";
    let row = within(limit, statement, client.query_one(sql, &[])).await?;
    let number: String = PgClient::column(&row, 0, statement)?;
    let Ok(number) = number.parse() else {
        return Err(PgClientError::Answer {
            statement,
            value: number,
        });
    };
    Ok(PgVersion::from_server_version_num(number)?)
}

pub(super) async fn within<T>(
    limit: Duration,
    statement: &'static str,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, PgClientError> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result.map_err(|source| PgClientError::Statement { statement, source }),
        Err(_) => Err(PgClientError::Timeout { statement, limit }),
    }
}
