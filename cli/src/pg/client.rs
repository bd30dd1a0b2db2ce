//! The SQL side of a backup: one connection, and the functions of PostgreSQL's backup API.

use pgmesh_postgres::{Lsn, PgVersion};
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::{Client, NoTls, Row};

/// Where the cluster listens.
#[derive(Debug, Clone)]
pub struct PgAddress {
    /// `pgN-socket-path`: the folder of the Unix socket.
    pub socket_path: PathBuf,
    /// `pgN-port`.
    pub port: u16,
    /// `pgN-user`; the operating system's user where it is not set.
    pub user: Option<String>,
    /// `pgN-database`.
    pub database: String,
    /// `db-timeout`.
    pub timeout: Duration,
}

/// What can go wrong with the connection or a statement.
#[derive(Debug, thiserror::Error)]
pub enum PgClientError {
    /// No connection.
    #[error("connecting to PostgreSQL on port {port} in {socket_path}")]
    Connect {
        /// The socket's folder.
        socket_path: String,
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A statement failed.
    #[error("running {statement}")]
    Statement {
        /// What it was for.
        statement: &'static str,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A statement took longer than `db-timeout`.
    #[error("running {statement}: no answer within {limit:?} (db-timeout)")]
    Timeout {
        /// What it was for.
        statement: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// PostgreSQL answered something that is no LSN, number or version.
    #[error("{statement} answered {value:?}, which is not understood")]
    Answer {
        /// What it was for.
        statement: &'static str,
        /// What it said.
        value: String,
    },
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

/// A connection to the cluster. A non-exclusive backup lives as long as it does.
pub struct PgClient {
    client: Client,
    timeout: Duration,
    version: PgVersion,
}

impl PgClient {
    /// Connects and asks for the version.
    pub async fn connect(address: &PgAddress) -> Result<Self, PgClientError> {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&address.socket_path)
            .port(address.port)
            .dbname(&address.database)
            .application_name("pgmesh")
            .connect_timeout(address.timeout.min(Duration::from_secs(30)));
        match &address.user {
            Some(user) => config.user(user),
            None => config.user(operating_system_user()),
        };
        if let Ok(password) = std::env::var("PGPASSWORD") {
            config.password(password);
        }
        let failed = |source| PgClientError::Connect {
            socket_path: address.socket_path.display().to_string(),
            port: address.port,
            source,
        };
        let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
        // Ends by itself when the client is dropped; its error also reaches the statement under way.
        tokio::spawn(connection);
        let (version, timeout) = (PgVersion::V15, address.timeout);
        let mut this = Self { client, timeout, version };
        let number = this.setting("server_version_num").await?;
        this.version = number.parse().ok().and_then(|number| PgVersion::from_server_version_num(number).ok()).ok_or(
            PgClientError::Answer { statement: "server_version_num", value: number },
        )?;
        // Nothing that an administrator sets for other sessions may end ours in the middle of a backup.
        this.run(
            "session set-up",
            this.client.batch_execute(
                "set statement_timeout = 0; set lock_timeout = 0; set idle_in_transaction_session_timeout = 0; \
                 set idle_session_timeout = 0; set search_path = pg_catalog",
            ),
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
        let row = self.one(name, "select pg_catalog.current_setting($1)", &[&name]).await?;
        Self::column(&row, 0, name)
    }

    /// Whether the server is a standby.
    pub async fn in_recovery(&self) -> Result<bool, PgClientError> {
        let row = self.one("pg_is_in_recovery", "select pg_catalog.pg_is_in_recovery()", &[]).await?;
        Self::column(&row, 0, "pg_is_in_recovery")
    }

    /// Begins a non-exclusive backup; it lasts until [`Self::stop_backup`] or until this connection ends.
    pub async fn start_backup(&self, label: &str, fast: bool) -> Result<BackupStart, PgClientError> {
        let call = if self.version == PgVersion::V14 {
            "pg_catalog.pg_start_backup($1, $2, false)"
        } else {
            "pg_catalog.pg_backup_start($1, $2)"
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
        let call = if self.version == PgVersion::V14 {
            "pg_catalog.pg_stop_backup(false, false)"
        } else {
            "pg_catalog.pg_backup_stop(false)"
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
        self.one("pg_create_restore_point", "select pg_catalog.pg_create_restore_point('pgmesh')::text", &[]).await?;
        let row = self.one("pg_switch_wal", "select pg_catalog.pg_switch_wal()::text", &[]).await?;
        Self::lsn(&row, 0, "pg_switch_wal")
    }

    /// All databases.
    pub async fn databases(&self) -> Result<Vec<DatabaseName>, PgClientError> {
        let rows = self.all("pg_database", "select oid, datname::text from pg_catalog.pg_database order by oid").await?;
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

    async fn one(
        &self,
        statement: &'static str,
        sql: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Row, PgClientError> {
        self.run(statement, self.client.query_one(sql, parameters)).await
    }

    async fn all(&self, statement: &'static str, sql: &str) -> Result<Vec<Row>, PgClientError> {
        self.run(statement, self.client.query(sql, &[])).await
    }

    async fn run<T>(
        &self,
        statement: &'static str,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, PgClientError> {
        match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => result.map_err(|source| PgClientError::Statement { statement, source }),
            Err(_) => Err(PgClientError::Timeout { statement, limit: self.timeout }),
        }
    }

    fn column<'r, T: tokio_postgres::types::FromSql<'r>>(
        row: &'r Row,
        index: usize,
        statement: &'static str,
    ) -> Result<T, PgClientError> {
        row.try_get(index).map_err(|source| PgClientError::Statement { statement, source })
    }

    fn lsn(row: &Row, index: usize, statement: &'static str) -> Result<Lsn, PgClientError> {
        let text: String = Self::column(row, index, statement)?;
        text.parse().map_err(|_| PgClientError::Answer { statement, value: text })
    }
}

fn operating_system_user() -> String {
    uzers::get_current_username().map_or_else(|| "postgres".to_owned(), |name| name.to_string_lossy().into_owned())
}
