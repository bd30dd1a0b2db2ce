//! Where the content of an archived file goes, which may be too long to be held: piece by piece.

use bytes::Bytes;
use pgmesh_postgres::SegmentName;
use pgmesh_postgres::wal::{CreatedTablespaces, TablespaceSearch};
use pgmesh_protocol::{ExitCode, Failure};
use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Takes a file in pieces, the first of which holds its header. The pieces count only when the caller says that the
/// whole file was found good (invariant 6).
pub trait WalSink: Send {
    /// A file follows from its beginning: earlier pieces are void.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    fn begin(&mut self) -> Result<(), Failure>;

    /// Takes the next piece.
    ///
    /// # Errors
    /// The piece cannot be taken: the caller stops.
    fn take(&mut self, piece: &[u8]) -> Result<(), Failure>;
}

/// In memory, for files that are short.
impl WalSink for Vec<u8> {
    fn begin(&mut self) -> Result<(), Failure> {
        self.clear();
        Ok(())
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), Failure> {
        self.extend_from_slice(piece);
        Ok(())
    }
}

/// Gives all of a file that is in memory.
///
/// # Errors
/// As the sink.
pub fn give(sink: &mut dyn WalSink, content: &Bytes) -> Result<(), Failure> {
    sink.begin()?;
    sink.take(content)
}

/// Writes the pieces into a file, and meanwhile looks which tablespaces the segment creates.
pub struct FileSink {
    path: PathBuf,
    file: Option<File>,
    looks_for_tablespaces: Option<SegmentName>,
    search: Option<TablespaceSearch>,
}

impl FileSink {
    /// Into a new file, which is made when the first bytes come. `segment` says whose tablespaces are looked for.
    pub fn at(path: PathBuf, segment: Option<SegmentName>) -> Self {
        Self {
            path,
            file: None,
            looks_for_tablespaces: segment,
            search: None,
        }
    }

    /// Into an open file.
    pub fn into_file(file: File, path: PathBuf, segment: Option<SegmentName>) -> Self {
        Self {
            file: Some(file),
            ..Self::at(path, segment)
        }
    }

    /// The file with all pieces, and the tablespaces that the segment creates.
    ///
    /// # Errors
    /// The sink has taken no piece.
    pub fn finish(self) -> Result<(File, Option<CreatedTablespaces>), Failure> {
        let created = self.search.and_then(TablespaceSearch::finish);
        let file = self.file.ok_or_else(|| {
            Failure::new(
                ExitCode::Assert,
                format!("no content was received for {}", self.path.display()),
            )
        })?;
        Ok((file, created))
    }

    fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
        move |error| Failure::new(ExitCode::Runtime, format!("{} cannot be written", path.display())).because(error)
    }
}

impl WalSink for FileSink {
    fn begin(&mut self) -> Result<(), Failure> {
        let failed = Self::failed(&self.path);
        match &mut self.file {
            Some(file) => file
                .set_len(0)
                .and_then(|()| file.seek(SeekFrom::Start(0)))
                .map(drop)
                .map_err(failed)?,
            // Never a file that another process may still be writing to.
            None => self.file = Some(File::create_new(&self.path).map_err(failed)?),
        }
        self.search = self.looks_for_tablespaces.map(TablespaceSearch::new);
        Ok(())
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), Failure> {
        if let Some(search) = &mut self.search {
            search.feed(piece);
        }
        let failed = Self::failed(&self.path);
        match &mut self.file {
            Some(file) => file.write_all(piece).map_err(failed),
            None => Err(Failure::new(
                ExitCode::Assert,
                format!("{} was not begun", self.path.display()),
            )),
        }
    }
}

const MARK: &str = ".pgmesh.";
const ENDING: &str = ".tmp";

/// The temporary files beside a destination, each with the process that its name tells.
fn left_beside(destination: &Path) -> Vec<(PathBuf, Option<u32>)> {
    let (Some(folder), Some(name)) = (destination.parent(), destination.file_name()) else {
        return Vec::new();
    };
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let name = format!("{}{MARK}", name.to_string_lossy());
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = files.filter_map(|file| {
        let found = file.file_name().to_string_lossy().into_owned();
        let process = found.strip_prefix(&name)?.strip_suffix(ENDING)?;
        let process = process.split('-').next()?.parse().ok();
        Some((file.path(), process))
    });
    files.collect()
}

/// A file that is removed unless it has been given its name.
pub struct Temporary(Option<PathBuf>);

impl Temporary {
    /// A name beside `destination` that no other process has: an archive-get whose server was killed may still be
    /// writing to its own file. Files of processes that have ended are removed.
    pub fn beside(destination: &Path) -> Self {
        let own = std::process::id();
        for (path, process) in left_beside(destination) {
            if process.is_none_or(|process| process == own || !Path::new(&format!("/proc/{process}")).exists()) {
                // Should its process live all the same, then it cannot give the file its name, and says so.
                let _ = fs::remove_file(path);
            }
        }
        let mut name = destination.as_os_str().to_owned();
        name.push(format!(
            "{MARK}{own}-{:016x}{ENDING}",
            RandomState::new().build_hasher().finish()
        ));
        Self(Some(PathBuf::from(name)))
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.0.clone().unwrap_or_default()
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// As the system answers.
    pub fn rename(mut self, to: &Path) -> std::io::Result<()> {
        match &self.0 {
            Some(path) => fs::rename(path, to)?,
            None => return Ok(()),
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Best effort: the next process removes the files of ended processes.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An `archive-get` whose server was killed goes on beside the `archive-get` of the next server.
    #[test]
    fn two_processes_do_not_write_to_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("RECOVERYXLOG");
        let (one, other) = (Temporary::beside(&destination), Temporary::beside(&destination));
        assert_ne!(one.path(), other.path());
        let mut sinks = [&one, &other].map(|temporary| FileSink::at(temporary.path(), None));
        for (sink, content) in sinks.iter_mut().zip(["slow", "quick"]) {
            sink.begin().unwrap();
            sink.take(content.as_bytes()).unwrap();
        }
        other.rename(&destination).unwrap();
        sinks[0].take(b" and late").unwrap();
        assert_eq!(fs::read(&destination).unwrap(), b"quick");
        let mut again = FileSink::at(one.path(), None);
        assert!(again.begin().is_err(), "a file that is there is not taken over");
    }

    #[test]
    fn ended_processes_leave_nothing_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("RECOVERYXLOG");
        let living = folder.path().join("RECOVERYXLOG.pgmesh.1-00000000000000aa.tmp");
        let ended = folder
            .path()
            .join("RECOVERYXLOG.pgmesh.4294967295-00000000000000aa.tmp");
        let other = folder.path().join("000000010000000000000001");
        for file in [&living, &ended, &other] {
            fs::write(file, b"x").unwrap();
        }
        drop(Temporary::beside(&destination));
        assert!(living.exists() && other.exists() && !ended.exists());
    }
}
