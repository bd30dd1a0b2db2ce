//! Files that exist whole or not at all, also after a power cut.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// The users who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Everybody: mode 0644.
    Public,
    /// The owner alone: mode 0600.
    Owner,
}

/// The longest key or certificate file, in bytes.
const MAX_FILE_LENGTH: u64 = 1 << 20;

/// A failure at a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// The operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A private key is readable by other users.
    #[error("{} may be read by others (mode {mode:04o}): chmod 0600 it, and issue a new key if others could log in here", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file's content is wrong.
    #[error("{} {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The fault.
        what: String,
    },
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { doing, path, source }
}

/// Replaces `directory/name` by `content`: durable when it returns.
pub(crate) fn write(directory: &Path, name: &str, content: &[u8], audience: Audience) -> Result<(), FileError> {
    let path = directory.join(name);
    let temporary = directory.join(format!(".{name}.{}.tmp", std::process::id()));
    let mode = match audience {
        Audience::Public => 0o644,
        Audience::Owner => 0o600,
    };
    // A leftover of a killed process with our id would keep its own mode: remove it, then create anew.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("removing", &temporary)(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .map_err(io_error("creating", &temporary))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(io_error("writing", &temporary))?;
    fs::rename(&temporary, &path).map_err(io_error("renaming to", &path))?;
    File::open(directory)
        .and_then(|opened| opened.sync_all())
        .map_err(io_error("syncing", directory))
}

/// Removes a file, if it is there.
pub(crate) fn remove(directory: &Path, name: &str) -> Result<(), FileError> {
    let path = directory.join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("removing", &path)(error)),
        _ => Ok(()),
    }
}

/// Writes a file into a directory and removes it.
pub(crate) fn try_out(directory: &Path) -> Result<(), FileError> {
    let name = ".tried";
    write(directory, name, b"", Audience::Owner)?;
    let path = directory.join(name);
    fs::remove_file(&path).map_err(io_error("removing", &path))
}

/// Makes a directory for [`write`], durable when it returns. An existing directory is a success.
pub(crate) fn create_directory(directory: &Path) -> Result<(), FileError> {
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(directory).map_err(io_error("creating", directory))?;
    let parent = directory
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|opened| opened.sync_all())
        .map_err(io_error("syncing", parent))
}

/// Reads a file of bounded length. A file for the owner alone must not be readable by others.
pub(crate) fn read(directory: &Path, name: &str, audience: Audience) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let path = directory.join(name);
    let file = File::open(&path).map_err(io_error("opening", &path))?;
    let mode = file.metadata().map_err(io_error("reading", &path))?.mode() & 0o7777;
    if audience == Audience::Owner && mode & 0o077 != 0 {
        return Err(FileError::Exposed { path, mode });
    }
    let mut content = Zeroizing::new(Vec::with_capacity(4096));
    file.take(MAX_FILE_LENGTH)
        .read_to_end(&mut content)
        .map_err(io_error("reading", &path))?;
    Ok(content)
}

/// Reads the one PEM block of a file, which must have this tag.
pub(crate) fn read_pem(
    directory: &Path,
    name: &str,
    tag: &str,
    audience: Audience,
) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let content = read(directory, name, audience)?;
    let wrong = |what: String| FileError::Content {
        path: directory.join(name),
        what,
    };
    let block = pem::parse(content.as_slice()).map_err(|error| wrong(format!("is not PEM: {error}")))?;
    if block.tag() != tag {
        return Err(wrong(format!("holds a {:?}, not a {tag:?}", block.tag())));
    }
    Ok(Zeroizing::new(block.into_contents()))
}

/// Reads the PEM blocks of a public file, which must all have this tag; there is at least one.
pub(crate) fn read_pems(directory: &Path, name: &str, tag: &str) -> Result<Vec<Vec<u8>>, FileError> {
    let content = read(directory, name, Audience::Public)?;
    let wrong = |what: String| FileError::Content {
        path: directory.join(name),
        what,
    };
    let blocks = pem::parse_many(content.as_slice()).map_err(|error| wrong(format!("is not PEM: {error}")))?;
    match blocks.iter().find(|block| block.tag() != tag) {
        Some(block) => Err(wrong(format!("holds a {:?}, not a {tag:?}", block.tag()))),
        None if blocks.is_empty() => Err(wrong("is not PEM".to_owned())),
        None => Ok(blocks.into_iter().map(pem::Pem::into_contents).collect()),
    }
}

/// Writes public PEM blocks.
pub(crate) fn write_pems(directory: &Path, name: &str, tag: &str, blocks: &[&[u8]]) -> Result<(), FileError> {
    let blocks: Vec<pem::Pem> = blocks.iter().map(|der| pem::Pem::new(tag, *der)).collect();
    write(directory, name, pem::encode_many(&blocks).as_bytes(), Audience::Public)
}

/// Writes one PEM block.
pub(crate) fn write_pem(
    directory: &Path,
    name: &str,
    tag: &str,
    der: &[u8],
    audience: Audience,
) -> Result<(), FileError> {
    let text = Zeroizing::new(pem::encode(&pem::Pem::new(tag, der)));
    write(directory, name, text.as_bytes(), audience)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_for_their_owner() {
        let directory = tempfile::tempdir().unwrap();
        write_pem(directory.path(), "a.key", "PRIVATE KEY", b"secret", Audience::Owner).unwrap();
        let path = directory.path().join("a.key");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let read = read_pem(directory.path(), "a.key", "PRIVATE KEY", Audience::Owner).unwrap();
        assert_eq!(read.as_slice(), b"secret");
        assert!(read_pem(directory.path(), "a.key", "CERTIFICATE", Audience::Owner).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = read_pem(directory.path(), "a.key", "PRIVATE KEY", Audience::Owner).unwrap_err();
        assert!(matches!(error, FileError::Exposed { mode: 0o640, .. }), "{error}");
    }

    #[test]
    fn nothing_but_the_file_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let nested = directory.path().join("a/b");
        create_directory(&nested).unwrap();
        write(&nested, "x", b"1", Audience::Public).unwrap();
        write(&nested, "x", b"2", Audience::Public).unwrap();
        assert_eq!(fs::read(nested.join("x")).unwrap(), b"2");
        assert_eq!(fs::read_dir(&nested).unwrap().count(), 1);
    }
}
