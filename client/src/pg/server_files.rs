//! The files of a server on another host, as its SQL functions give them. Paths are relative to its data directory.

use super::client::{PgClient, PgClientError};

/// A name in a directory of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFile {
    /// Without the directory.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// When it was changed last, Unix seconds.
    pub modified: i64,
    /// A directory; links are followed.
    pub is_directory: bool,
}

impl PgClient {
    /// The entries of a directory; none when it has vanished, and without entries that vanish meanwhile.
    pub async fn server_directory(&self, path: &str) -> Result<Vec<ServerFile>, PgClientError> {
        let statement = "pg_ls_dir and pg_stat_file";
        let sql = "select name, file.size, extract(epoch from file.modification)::bigint, file.isdir \
                   from pg_catalog.pg_ls_dir($1::text, true, false) as name, \
                   lateral pg_catalog.pg_stat_file($1::text || '/' || name, true) as file \
                   where file.size is not null order by name";
        let path = if path.is_empty() { "." } else { path };
        let rows = self.all_with(statement, sql, &[&path]).await?;
        rows.iter()
            .map(|row| {
                let size: i64 = Self::column(row, 1, statement)?;
                Ok(ServerFile {
                    name: Self::column(row, 0, statement)?,
                    size: u64::try_from(size).unwrap_or(0),
                    modified: Self::column(row, 2, statement)?,
                    is_directory: Self::column(row, 3, statement)?,
                })
            })
            .collect()
    }

    /// At most `length` bytes of a file from `offset` on, fewer at its end; `None` when it has vanished.
    pub async fn server_file(&self, path: &str, offset: u64, length: u32) -> Result<Option<Vec<u8>>, PgClientError> {
        let statement = "pg_read_binary_file";
        let sql = "select pg_catalog.pg_read_binary_file($1::text, $2::bigint, $3::bigint, true)";
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let row = self.one(statement, sql, &[&path, &offset, &i64::from(length)]).await?;
        Self::column(&row, 0, statement)
    }
}
