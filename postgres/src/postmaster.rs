//! `postmaster.pid`: the running server's lock file.

use std::path::{Path, PathBuf};
use std::{fs, io};

use thiserror::Error;

/// The content of a running server's `postmaster.pid` (pidfile.h). A crashed server leaves the file behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostmasterPid {
    /// The process.
    pub pid: u32,
    /// The data directory as the server knows it.
    pub data_directory: String,
    /// The time of its start, Unix seconds.
    pub started: i64,
    /// The port; `None` while the server starts.
    pub port: Option<u16>,
    /// The first of its socket directories; `None` while the server starts, or if it has none.
    pub socket_directory: Option<String>,
}

impl PostmasterPid {
    /// The file's name in PGDATA.
    pub const FILE: &'static str = "postmaster.pid";

    /// Reads the file of a data directory; `None` if there is none, and so no server runs.
    ///
    /// # Errors
    /// The file cannot be read or is malformed.
    pub fn read(pgdata: &Path) -> Result<Option<Self>, PostmasterPidError> {
        let path = pgdata.join(Self::FILE);
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text)
                .map(Some)
                .ok_or(PostmasterPidError::Malformed { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PostmasterPidError::Read { path, source }),
        }
    }

    /// Reads the file's content; `None` if a line of the first three is missing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        // A standalone backend writes its process number negated.
        let pid = lines.next()?.trim().trim_start_matches('-').parse().ok()?;
        let data_directory = lines.next()?.to_owned();
        let started = lines.next()?.trim().parse().ok()?;
        let port = lines.next().and_then(|port| port.trim().parse().ok());
        let socket_directory = lines
            .next()
            .map(str::trim_end)
            .filter(|directory| !directory.is_empty());
        Some(Self {
            pid,
            data_directory,
            started,
            port,
            socket_directory: socket_directory.map(str::to_owned),
        })
    }
}

/// Why `postmaster.pid` could not be read.
#[derive(Debug, Error)]
pub enum PostmasterPidError {
    /// The file could not be read.
    #[error("reading {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not a server's, or a server is just writing it.
    #[error("{} is malformed: a server is just starting, or something else wrote the file", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_servers_file_is_read() {
        let text =
            "4711\n/var/lib/postgresql/15/main\n1739584801\n5433\n/var/run/postgresql\nlocalhost\n  1  2\nready   \n";
        let found = PostmasterPid::parse(text).unwrap();
        assert_eq!(
            (found.pid, found.port, found.started),
            (4711, Some(5433), 1_739_584_801)
        );
        assert_eq!(found.socket_directory.as_deref(), Some("/var/run/postgresql"));
        assert_eq!(PostmasterPid::parse("4711\n/data\n1\n").unwrap().port, None);
        assert_eq!(
            PostmasterPid::parse("4711\n/data\n1\n5433\n\n")
                .unwrap()
                .socket_directory,
            None
        );
        assert_eq!(PostmasterPid::parse("4711\n"), None);
    }

    #[test]
    fn no_file_means_no_server() {
        let pgdata = tempfile::tempdir().unwrap();
        assert_eq!(PostmasterPid::read(pgdata.path()).unwrap(), None);
        fs::write(pgdata.path().join(PostmasterPid::FILE), "x").unwrap();
        assert!(PostmasterPid::read(pgdata.path()).is_err());
    }
}
