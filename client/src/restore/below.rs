//! A directory, and operations below it: they follow no link, and reach nothing outside.
//!
//! The owner of a data directory can plant links in it, also while a restore runs. If a restore that runs as root
//! followed them, it would overwrite any file of the host. So every path is opened from the directory's descriptor by
//! `openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`; where the kernel or a sandbox refuses that, one name
//! after the other with `O_NOFOLLOW`, which is the same for paths that only go down.

use super::disk::failed;
use pgmesh_protocol::{ExitCode, Failure};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// A directory that is open.
#[derive(Debug)]
pub struct Below {
    directory: File,
    path: PathBuf,
}

/// How a path is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolution {
    /// By the kernel, in one call.
    OneCall,
    /// Name by name.
    NameByName,
}

impl Below {
    /// Opens a directory by its path. Links in this path are the administrator's, and are followed.
    ///
    /// # Errors
    /// It cannot be opened, or is no directory.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed("opening", path)(error.into()))?;
        Ok(Self {
            directory: directory.into(),
            path: path.to_owned(),
        })
    }

    /// Its path, for messages and for callers that only read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory itself.
    pub fn file(&self) -> &File {
        &self.directory
    }

    /// Where a path below it lies, for messages.
    pub fn shown(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        if path.as_os_str().is_empty() {
            self.path.clone()
        } else {
            self.path.join(path)
        }
    }

    /// Opens a file to be written, which is made where it is missing, private to its owner.
    ///
    /// # Errors
    /// It cannot be opened, is no regular file, or has a second name.
    pub fn write(&self, path: impl AsRef<Path>, truncate: bool) -> Result<File, Failure> {
        let path = path.as_ref();
        // Without `NONBLOCK`, a planted pipe would hold the restore up.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = self.opened(path, flags, Mode::from_raw_mode(0o600));
        let file: File = opened.map_err(self.failed("opening", path))?.into();
        let metadata = file.metadata().map_err(failed("examining", &self.shown(path)))?;
        if !metadata.is_file() || metadata.nlink() > 1 {
            let what = format!("{} cannot be overwritten safely", self.shown(path).display());
            return Err(Failure::new(ExitCode::FileInvalid, what)
                .because("it is not a regular file, or a hard link to another file, which would be overwritten, too")
                .remedy("remove it"));
        }
        if truncate {
            file.set_len(0).map_err(failed("truncating", &self.shown(path)))?;
        }
        Ok(file)
    }

    /// Replaces the content of a small file.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_all(&self, path: impl AsRef<Path>, content: &[u8]) -> Result<File, Failure> {
        let path = path.as_ref();
        let mut file = self.write(path, true)?;
        std::io::Write::write_all(&mut file, content).map_err(failed("writing", &self.shown(path)))?;
        Ok(file)
    }

    /// Opens a regular file to be read; none where there is none.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Option<File>, Failure> {
        let path = path.as_ref();
        match self.opened(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()) {
            Ok(file) => Ok(Some(File::from(file))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed("opening", path)(error)),
        }
    }

    /// Opens a directory below it; itself for an empty path.
    ///
    /// # Errors
    /// It is not there, or no directory.
    pub fn directory(&self, path: impl AsRef<Path>) -> Result<Self, Failure> {
        let path = path.as_ref();
        let opened = if path.as_os_str().is_empty() {
            rustix::io::fcntl_dupfd_cloexec(&self.directory, 0)
        } else {
            self.opened(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
        };
        Ok(Self {
            directory: opened.map_err(self.failed("opening", path))?.into(),
            path: self.shown(path),
        })
    }

    /// Makes a directory, private to its owner, and the parents that it lacks. A directory that is there stays as it
    /// is.
    ///
    /// # Errors
    /// It cannot be made, or another kind of entry is there.
    pub fn make_directories(&self, path: impl AsRef<Path>) -> Result<(), Failure> {
        let path = path.as_ref();
        let ancestors: Vec<&Path> = path.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
        for directory in ancestors.into_iter().rev() {
            let (parent, name) = self.parent(directory)?;
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(self.failed("making the directory", directory)(error)),
            }
        }
        self.directory(path).map(drop)
    }

    /// The metadata of the entry at a path, of a link itself; none where there is no entry.
    ///
    /// # Errors
    /// It cannot be examined.
    pub fn metadata(&self, path: impl AsRef<Path>) -> Result<Option<Stat>, Failure> {
        let path = path.as_ref();
        let (parent, name) = match self.parent_of(path) {
            Err(Errno::NOENT) => return Ok(None),
            found => found.map_err(self.failed("examining", path))?,
        };
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed("examining", path)(error)),
        }
    }

    /// The text of a link; none where there is no link.
    ///
    /// # Errors
    /// Its directory cannot be opened.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<Option<PathBuf>, Failure> {
        let (parent, name) = self.parent(path.as_ref())?;
        let said = rustix::fs::readlinkat(&parent, name, Vec::new()).ok();
        Ok(said.map(|said| PathBuf::from(OsString::from_vec(said.into_bytes()))))
    }

    /// Makes a link.
    ///
    /// # Errors
    /// An entry is there, or the link cannot be made.
    pub fn make_link(&self, path: impl AsRef<Path>, destination: &Path) -> Result<(), Failure> {
        let (parent, name) = self.parent(path.as_ref())?;
        rustix::fs::symlinkat(destination, &parent, name).map_err(self.failed("making the link", path.as_ref()))
    }

    /// Gives a link itself to an owner.
    ///
    /// # Errors
    /// It is not there, or the system refuses.
    pub fn give_link(&self, path: impl AsRef<Path>, user: u32, group: u32) -> Result<(), Failure> {
        let (parent, name) = self.parent(path.as_ref())?;
        let (user, group) = (rustix::fs::Uid::from_raw(user), rustix::fs::Gid::from_raw(group));
        rustix::fs::chownat(&parent, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.failed("changing the owner of", path.as_ref()))
    }

    /// Changes the permissions of a file that may not be opened.
    ///
    /// # Errors
    /// It is not there, is a link, or the system refuses.
    pub fn set_mode(&self, path: impl AsRef<Path>, mode: Mode) -> Result<(), Failure> {
        let path = path.as_ref();
        let failed = || self.failed("changing the permissions of", path);
        let file = self.opened(path, OFlags::PATH, Mode::empty()).map_err(failed())?;
        // The only way to a file that even its owner may not open: by its descriptor, which no other user can turn into
        // a link.
        let through = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let is_link = rustix::fs::fstat(&file).map(|found| FileType::from_raw_mode(found.st_mode) == FileType::Symlink);
        if is_link.map_err(failed())? {
            return Err(failed()(Errno::LOOP));
        }
        rustix::fs::chmod(through, mode).map_err(failed())
    }

    /// Renames a file.
    ///
    /// # Errors
    /// The system refuses.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        let ((from_parent, from_name), (to_parent, to_name)) = (self.parent(from.as_ref())?, self.parent(to.as_ref())?);
        rustix::fs::renameat(&from_parent, from_name, &to_parent, to_name)
            .map_err(self.failed("renaming", from.as_ref()))
    }

    /// Removes the entry at a path, and all that is in it. An entry that is not there counts as removed.
    ///
    /// # Errors
    /// An entry cannot be removed.
    pub fn remove(&self, path: impl AsRef<Path>) -> Result<(), Failure> {
        let path = path.as_ref();
        let (parent, name) = match self.parent_of(path) {
            Err(Errno::NOENT) => return Ok(()),
            found => found.map_err(self.failed("removing", path))?,
        };
        remove(parent.as_fd(), name).map_err(self.failed("removing", path))
    }

    /// Removes all its entries, but the names to be kept.
    ///
    /// # Errors
    /// An entry cannot be read or removed.
    pub fn clear(&self, is_kept: &dyn Fn(&OsStr) -> bool) -> Result<(), Failure> {
        for name in self.names()?.iter() {
            if name != super::disk::LOST_FOUND && !is_kept(name) {
                self.remove(name)?;
            }
        }
        Ok(())
    }

    /// Removes all entries of a directory below it, where there is one.
    ///
    /// # Errors
    /// It is no directory, or an entry cannot be removed.
    pub fn clear_directory(&self, path: impl AsRef<Path>) -> Result<(), Failure> {
        match self.metadata(path.as_ref())? {
            None => Ok(()),
            Some(_) => self.directory(path)?.clear(&|_| false),
        }
    }

    /// The names in it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn names(&self) -> Result<Names, Failure> {
        names(self.directory.as_fd()).map_err(self.failed("reading the directory", Path::new("")))
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// It is not there, or a write has failed.
    pub fn sync(&self, path: impl AsRef<Path>) -> Result<(), Failure> {
        let directory = self.directory(path)?;
        let synced = directory.directory.sync_all();
        synced.map_err(failed("syncing the directory", &directory.path))
    }

    fn failed(&self, action: &str, path: &Path) -> impl FnOnce(Errno) -> Failure + use<> {
        let failed = failed(action, &self.shown(path));
        move |error| match error {
            Errno::LOOP | Errno::XDEV => {
                failed(error.into()).remedy("a symbolic link is in the way, and a restore follows none: remove it")
            }
            error => failed(error.into()),
        }
    }

    fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Failure> {
        self.parent_of(path)
            .map_err(self.failed("opening the directory of", path))
    }

    /// The directory that a path lies in, and its name there.
    fn parent_of<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Errno> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::INVAL);
        };
        let parent = if parent.as_os_str().is_empty() {
            rustix::io::fcntl_dupfd_cloexec(&self.directory, 0)?
        } else {
            self.opened(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?
        };
        Ok((parent, name))
    }

    fn opened(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        match open_below(self.directory.as_fd(), path, flags, mode, Resolution::OneCall) {
            // An old kernel, or a sandbox that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => {
                open_below(self.directory.as_fd(), path, flags, mode, Resolution::NameByName)
            }
            opened => opened,
        }
    }
}

/// How often a path is resolved anew that was changed meanwhile.
const TRIES: usize = 16;

fn open_below(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    resolution: Resolution,
) -> Result<OwnedFd, Errno> {
    let only_down = path.components().all(|part| matches!(part, Component::Normal(_)));
    if !only_down {
        return Err(Errno::XDEV);
    }
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if resolution == Resolution::OneCall {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let open = || rustix::fs::openat2(directory, path, flags, mode, resolve);
        let mut opened = open();
        for _ in 0..TRIES {
            if !matches!(opened, Err(Errno::AGAIN | Errno::INTR)) {
                break;
            }
            opened = open();
        }
        return opened;
    }
    let mut parent: Option<OwnedFd> = None;
    let mut names = path.iter().peekable();
    while let Some(name) = names.next() {
        let at = parent.as_ref().map_or(directory, AsFd::as_fd);
        if names.peek().is_none() {
            return rustix::fs::openat(at, name, flags, mode);
        }
        let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        parent = Some(rustix::fs::openat(at, name, through, Mode::empty())?);
    }
    Err(Errno::INVAL)
}

/// The names in a directory, each with a zero byte behind it: there may be millions (invariant 11).
#[derive(Debug, Default)]
pub struct Names(Vec<u8>);

impl Names {
    /// The names, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &OsStr> {
        self.0
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(OsStr::from_bytes)
    }
}

fn names(directory: BorrowedFd<'_>) -> Result<Names, Errno> {
    let mut names = Names::default();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes_with_nul();
        if !matches!(name, b".\0" | b"..\0") {
            names.0.extend_from_slice(name);
        }
    }
    Ok(names)
}

fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let is_directory = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        found => FileType::from_raw_mode(found?.st_mode) == FileType::Directory,
    };
    if is_directory {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        for name in names(directory.as_fd())?.iter() {
            remove(directory.as_fd(), name)?;
        }
    }
    let flags = if is_directory {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    match rustix::fs::unlinkat(parent, name, flags) {
        // A file system is mounted there, and has been emptied.
        Err(Errno::BUSY) if is_directory => Ok(()),
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn scene() -> (tempfile::TempDir, Below) {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("top");
        fs::create_dir_all(top.join("base/5")).unwrap();
        fs::write(directory.path().join("secret"), "secret").unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/file"), "outside").unwrap();
        let below = Below::open(&top).unwrap();
        (directory, below)
    }

    #[test]
    fn no_link_is_followed_whichever_way_a_path_is_resolved() {
        let (directory, below) = scene();
        let top = below.path().to_owned();
        symlink("../secret", top.join("planted")).unwrap();
        symlink("../outside", top.join("folder")).unwrap();
        symlink("5", top.join("base/inside")).unwrap();
        for resolution in [Resolution::OneCall, Resolution::NameByName] {
            let open = |path: &str| {
                let mode = Mode::from_raw_mode(0o600);
                open_below(
                    below.file().as_fd(),
                    Path::new(path),
                    OFlags::WRONLY | OFlags::CREATE,
                    mode,
                    resolution,
                )
            };
            for path in [
                "planted",
                "folder/file",
                "folder/new",
                "base/inside/new",
                "../secret",
                "base/../../secret",
                "/etc/new",
                ".",
            ] {
                assert!(open(path).is_err(), "{path} {resolution:?}");
            }
            open(&format!("base/5/{resolution:?}")).unwrap();
        }
        assert!(below.write("planted", true).is_err() && below.read("planted").is_err());
        assert!(below.make_directories("folder/new").is_err() && below.directory("folder").is_err());
        assert!(below.make_link("folder/new", Path::new("x")).is_err());
        assert!(below.rename("base/5", "folder/5").is_err());
        assert!(below.clear_directory("folder").is_err());
        assert_eq!(fs::read_to_string(directory.path().join("secret")).unwrap(), "secret");
        assert_eq!(fs::read_dir(directory.path().join("outside")).unwrap().count(), 1);
        assert_eq!(below.read_link("folder").unwrap(), Some(PathBuf::from("../outside")));
        assert_eq!(below.read("nothing").unwrap().map(drop), None);
        assert!(below.metadata("nothing/at/all").unwrap().is_none());
    }

    #[test]
    fn links_are_removed_and_not_what_they_lead_to() {
        let (directory, below) = scene();
        let top = below.path().to_owned();
        symlink("../../outside", top.join("base/folder")).unwrap();
        fs::write(top.join("base/5/1"), "x").unwrap();
        fs::create_dir(top.join("keep")).unwrap();
        below.remove("base/5/1").unwrap();
        below.remove("base/5/2").unwrap();
        below.clear(&|name| name == "keep").unwrap();
        assert!(below.names().unwrap().iter().eq(["keep"]));
        assert!(directory.path().join("outside/file").exists());
    }

    #[test]
    fn what_has_a_second_name_or_is_no_file_is_not_written_to() {
        let (directory, below) = scene();
        let top = below.path().to_owned();
        fs::hard_link(directory.path().join("secret"), top.join("second")).unwrap();
        rustix::fs::mknodat(below.file(), "pipe", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        for path in ["second", "pipe", "base"] {
            assert!(below.write(path, true).is_err(), "{path}");
        }
        assert_eq!(fs::read_to_string(directory.path().join("secret")).unwrap(), "secret");
        below.make_directories("a/b/c").unwrap();
        below.make_directories("a/b/c").unwrap();
        below.write_all("a/b/c/d", b"long").unwrap();
        below.write_all("a/b/c/d", b"new").unwrap();
        assert_eq!(fs::read_to_string(top.join("a/b/c/d")).unwrap(), "new");
    }
}
