//! Where the content of an archived file goes, which may be too long to be held: piece by piece.

use bytes::Bytes;
use pgmesh_node::{Failure, code};
use pgmesh_postgres::SegmentName;
use pgmesh_postgres::wal::{CreatedTablespaces, TablespaceSearch};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Takes a file in pieces, the first of which holds its header. What it has taken counts only when whoever gives it
/// says that the file was found good (invariant 6).
pub trait WalSink: Send {
    /// A file follows from its beginning: what was taken before is nothing.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    fn begin(&mut self) -> Result<(), Failure>;

    /// Takes the next piece.
    ///
    /// # Errors
    /// When it cannot: whoever gives it stops.
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

/// Into a file, and meanwhile looks which tablespaces the segment creates.
pub struct FileSink {
    path: PathBuf,
    file: Option<File>,
    looks_for_tablespaces: Option<SegmentName>,
    search: Option<TablespaceSearch>,
}

impl FileSink {
    /// Into a file that is made, or replaced, when the first bytes come. `segment` says whose tablespaces are looked for.
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

    /// The file with all that was taken, and the tablespaces that it creates.
    ///
    /// # Errors
    /// Nothing was taken.
    pub fn finish(self) -> Result<(File, Option<CreatedTablespaces>), Failure> {
        let created = self.search.and_then(TablespaceSearch::finish);
        let file = self
            .file
            .ok_or_else(|| Failure::new(code::ASSERT, format!("nothing came for {}", self.path.display())))?;
        Ok((file, created))
    }

    fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
        move |error| Failure::new(code::RUNTIME, format!("{} cannot be written", path.display())).because(error)
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
            None => self.file = Some(File::create(&self.path).map_err(failed)?),
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
                code::ASSERT,
                format!("{} was not begun", self.path.display()),
            )),
        }
    }
}

/// A file that is removed unless it has been given its name.
pub struct Temporary(Option<PathBuf>);

impl Temporary {
    /// At this path.
    pub fn at(path: PathBuf) -> Self {
        Self(Some(path))
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
            // Best effort: the next try overwrites it anyway.
            let _ = fs::remove_file(path);
        }
    }
}
