//! The files of a primary on another host: few and small, since everything large is replicated. They are fetched by SQL
//! when the tree is made, and laid down in a directory that goes when the backup ends.

use super::replicated::REPLICATED;
use crate::pg::{PgClient, PgClientError, ServerFile, database_failure};
use crate::text;
use pgmesh_postgres::{ClusterTree, ControlFile, ControlFileError, Entry, EntryKind, Exclusions, Verdict, WalkOptions};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_postgres::error::SqlState;

/// How much is asked for at once.
const PIECE: u32 = 4 << 20;
/// More than this is no configuration: a log, most likely.
const LIMIT: u64 = 1 << 30;
/// `pg_control` may be caught in the middle of a write; the server writes it in an instant.
const CONTROL_ATTEMPTS: u32 = 10;
const CONTROL_PAUSE: Duration = Duration::from_millis(10);
/// The size of `pg_control` (`PG_CONTROL_FILE_SIZE`).
const CONTROL_SIZE: u32 = 8192;

/// Where the primary's files are laid down.
pub struct Spool {
    directory: tempfile::TempDir,
}

impl Spool {
    /// A new, empty one.
    ///
    /// # Errors
    /// The directory for temporary files cannot be written to.
    pub fn create() -> Result<Self, Failure> {
        let directory = tempfile::Builder::new()
            .prefix("pgmesh-primary-")
            .tempdir()
            .map_err(|error| Failure::new(ExitCode::Runtime, "no temporary directory can be made").because(error))?;
        Ok(Self { directory })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// Lays `pg_control` down as it is now.
    ///
    /// # Errors
    /// The server cannot be asked, or the file cannot be written.
    pub async fn fetch_control(&self, client: &PgClient) -> Result<(), Failure> {
        let (bytes, _) = control(client).await?;
        let path = self.path(ControlFile::PATH);
        let written = async {
            if let Some(folder) = path.parent() {
                tokio::fs::create_dir_all(folder).await?;
            }
            tokio::fs::write(&path, bytes).await
        };
        written.await.map_err(|error| unwritten(&path, &error))
    }
}

/// The server's `pg_control`, whole.
///
/// # Errors
/// The server cannot be asked, or does not allow it; its answer is no `pg_control`.
pub async fn control(client: &PgClient) -> Result<(Vec<u8>, ControlFile), Failure> {
    let mut attempt = 1;
    loop {
        let read = client.server_file(ControlFile::PATH, 0, CONTROL_SIZE).await;
        let bytes = read.map_err(|error| refused(&error))?.unwrap_or_default();
        match ControlFile::parse(&bytes) {
            Ok(control) => return Ok((bytes, control)),
            Err(ControlFileError::Checksum { .. } | ControlFileError::TooShort { .. })
                if attempt < CONTROL_ATTEMPTS =>
            {
                tokio::time::sleep(CONTROL_PAUSE).await;
                attempt += 1;
            }
            Err(error) => {
                return Err(
                    Failure::new(ExitCode::FileInvalid, "the primary's pg_control cannot be used")
                        .because(chain(&error)),
                );
            }
        }
    }
}

/// The tree of the server's files outside the replicated directories, and `pg_control`, all laid down here. The server
/// does not tell the owners of its files: they are taken to belong to the owner of `root`, the standby's directory.
///
/// # Errors
/// As [`Spool::fetch_control`]; the files are too large together.
pub async fn tree(spool: &Spool, client: &PgClient, root: Entry, exclude: &[String]) -> Result<ClusterTree, Failure> {
    let mut options = WalkOptions::new(client.version());
    options.exclude = exclude.to_vec();
    let group_reads = client
        .setting("data_directory_mode")
        .await
        .is_ok_and(|mode| mode.ends_with("750"));
    let mut listing = Listing {
        spool,
        client,
        spool_path: spool.directory.path().into(),
        rules: Exclusions::new(&options),
        group_reads,
        root,
        entries: Vec::new(),
        bytes: 0,
        pending: vec![String::new()],
    };
    while let Some(directory) = listing.pending.pop() {
        listing.read_directory(&directory).await?;
    }
    spool.fetch_control(client).await?;
    let kind = EntryKind::File {
        size: u64::from(CONTROL_SIZE),
    };
    let control = listing.entry(ControlFile::PATH.to_owned(), kind, listing.root.modified);
    listing.entries.push(control);
    listing.entries.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(ClusterTree {
        root: listing.root,
        entries: listing.entries.into_iter().collect(),
        tablespaces: Vec::new(),
        links: Vec::new(),
        skipped: Vec::new(),
    })
}

struct Listing<'a> {
    spool: &'a Spool,
    client: &'a PgClient,
    spool_path: Arc<Path>,
    rules: Exclusions,
    group_reads: bool,
    root: Entry,
    entries: Vec<Entry>,
    bytes: u64,
    pending: Vec<String>,
}

impl Listing<'_> {
    async fn read_directory(&mut self, directory: &str) -> Result<(), Failure> {
        let found = self
            .client
            .server_directory(directory)
            .await
            .map_err(|error| refused(&error))?;
        for file in found {
            let path = if directory.is_empty() {
                file.name.clone()
            } else {
                format!("{directory}/{}", file.name)
            };
            let verdict = self.rules.verdict(&path);
            if verdict != Verdict::Leave && !REPLICATED.contains(&path.as_str()) {
                self.take(path, &file, verdict).await?;
            }
        }
        Ok(())
    }

    async fn take(&mut self, path: String, file: &ServerFile, verdict: Verdict) -> Result<(), Failure> {
        if file.is_directory {
            let entry = self.entry(path.clone(), EntryKind::Directory, file.modified);
            self.entries.push(entry);
            if verdict == Verdict::Take {
                self.pending.push(path);
            }
            return Ok(());
        }
        self.bytes += file.size;
        if self.bytes > LIMIT {
            return Err(too_much(&path));
        }
        // Bytes that the file has grown by since are left out; a file that has vanished is not in the tree.
        if let Some(size) = self.fetch(&path, file.size).await? {
            let entry = self.entry(path, EntryKind::File { size }, file.modified);
            self.entries.push(entry);
        }
        Ok(())
    }

    /// Lays a file down; its size, unless it has vanished.
    async fn fetch(&self, path: &str, size: u64) -> Result<Option<u64>, Failure> {
        let to = self.spool.path(path);
        let failed = |error: io::Error| unwritten(&to, &error);
        if let Some(folder) = to.parent() {
            tokio::fs::create_dir_all(folder).await.map_err(failed)?;
        }
        let mut written = tokio::fs::File::create(&to).await.map_err(failed)?;
        let mut done = 0;
        while done < size {
            let want = u32::try_from(size - done).unwrap_or(PIECE).min(PIECE);
            let piece = self.client.server_file(path, done, want).await;
            let Some(piece) = piece.map_err(|error| refused(&error))? else {
                return Ok(None);
            };
            if piece.is_empty() {
                break;
            }
            written.write_all(&piece).await.map_err(failed)?;
            done += piece.len() as u64;
        }
        written.flush().await.map_err(failed)?;
        Ok(Some(done))
    }

    fn entry(&self, path: String, kind: EntryKind, modified: i64) -> Entry {
        let mode = match (&kind, self.group_reads) {
            (EntryKind::Directory, false) => 0o700,
            (EntryKind::Directory, true) => 0o750,
            (_, false) => 0o600,
            (_, true) => 0o640,
        };
        Entry {
            root: Arc::clone(&self.spool_path),
            path,
            kind,
            modified,
            mode,
            user: self.root.user.clone(),
            group: self.root.group.clone(),
        }
    }
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    Failure::new(ExitCode::Runtime, format!("{} cannot be written", path.display())).because(error)
}

fn too_much(path: &str) -> Failure {
    let what = format!(
        "the primary has more than {} outside the directories that a standby has too; {path} is part of it",
        text::size(LIMIT)
    );
    Failure::new(ExitCode::Runtime, what)
        .because("these files are fetched through SQL, which is for configuration and not for logs")
        .remedy("leave them out, for example with exclude=log/")
}

/// A failure whose remedy names the rights that the server's user lacks.
fn refused(error: &PgClientError) -> Failure {
    let denied = matches!(error, PgClientError::Statement { source, .. }
        if source.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    if !denied {
        return database_failure(error);
    }
    Failure::new(ExitCode::DbConnect, "the primary does not let its own files be read")
        .because(chain(error))
        .remedy(
            "connect as a superuser (pgN-user), or grant that user pg_read_server_files and the execution of pg_ls_dir, \
             pg_stat_file and pg_read_binary_file; a backup taken on the primary's host needs none of that",
        )
}
