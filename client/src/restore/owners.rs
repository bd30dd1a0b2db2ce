//! Whose the restored files are.
//!
//! Only root can give files away. They go to the owner of PGDATA, not to the owner in the backup: a backup in a
//! repository that others can write to could otherwise put files of root into the data directory. With `--keep-owners`
//! they get the owners that they had.

use super::below::Below;
use super::disk::failed;
use super::survey::DirectoryEntry;
use pgmesh_protocol::Failure;
use rustix::fs::{Gid, Uid};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Gives files to their owners, which only root can. Files that another user restores are that user's.
#[derive(Debug)]
pub struct Owners {
    is_root: bool,
    /// Files get the owners that the backup names.
    keeps: bool,
    /// The owner of PGDATA.
    owner: (u32, u32),
    /// The server's owner in the backup, by name.
    usual: (Option<String>, Option<String>),
    has_warned: AtomicBool,
    users: Mutex<HashMap<String, u32>>,
    groups: Mutex<HashMap<String, u32>>,
}

impl Owners {
    /// For a restore into this directory. `like`: a directory in the backup that belonged to the server. A data
    /// directory of root's, as `mkdir` makes it, goes to its owner.
    ///
    /// # Errors
    /// The directory cannot be examined.
    pub fn new(pgdata: &Below, like: Option<&DirectoryEntry>, keeps: bool) -> Result<Self, Failure> {
        let metadata = pgdata.file().metadata().map_err(failed("examining", pgdata.path()))?;
        let mut owners = Self {
            is_root: rustix::process::geteuid().is_root(),
            keeps,
            owner: (metadata.uid(), metadata.gid()),
            usual: (
                like.and_then(|like| like.user.clone()),
                like.and_then(|like| like.group.clone()),
            ),
            has_warned: AtomicBool::new(false),
            users: Mutex::default(),
            groups: Mutex::default(),
        };
        if owners.is_root && metadata.uid() == 0 {
            owners.owner = owners.named(owners.usual.0.as_deref(), owners.usual.1.as_deref());
        }
        Ok(owners)
    }

    /// Gives an open file or directory to its owner.
    ///
    /// # Errors
    /// The system refuses.
    pub fn give(&self, file: &File, path: &Path, user: Option<&str>, group: Option<&str>) -> Result<(), Failure> {
        if !self.is_root {
            return Ok(());
        }
        let (user, group) = self.numbers(path, user, group);
        rustix::fs::fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
            .map_err(|error| failed("changing the owner of", path)(error.into()))
    }

    /// Gives a link itself to its owner.
    ///
    /// # Errors
    /// The system refuses.
    pub fn give_link(&self, below: &Below, path: &str, user: Option<&str>, group: Option<&str>) -> Result<(), Failure> {
        if !self.is_root {
            return Ok(());
        }
        let (user, group) = self.numbers(&below.shown(path), user, group);
        below.give_link(path, user, group)
    }

    fn numbers(&self, path: &Path, user: Option<&str>, group: Option<&str>) -> (u32, u32) {
        if self.keeps {
            return self.named(user, group);
        }
        let is_other = |name: Option<&str>, usual: &Option<String>| name.is_some() && name != usual.as_deref();
        let is_unusual = is_other(user, &self.usual.0) || is_other(group, &self.usual.1);
        if is_unusual && !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{} belonged to {}:{}: it goes to the owner of the data directory like all files; --keep-owners \
                 restores the former owners",
                path.display(),
                user.unwrap_or("nobody known"),
                group.unwrap_or("nobody known")
            );
        }
        self.owner
    }

    fn named(&self, user: Option<&str>, group: Option<&str>) -> (u32, u32) {
        let user = find(&self.users, user, "user", self.owner.0, |name| {
            uzers::get_user_by_name(name).map(|user| user.uid())
        });
        let group = find(&self.groups, group, "group", self.owner.1, |name| {
            uzers::get_group_by_name(name).map(|group| group.gid())
        });
        (user, group)
    }
}

fn find(
    known: &Mutex<HashMap<String, u32>>,
    name: Option<&str>,
    what: &str,
    fallback: u32,
    look_up: impl FnOnce(&str) -> Option<u32>,
) -> u32 {
    let Some(name) = name else { return fallback };
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(number) = known.get(name) {
        return *number;
    }
    let number = look_up(name).unwrap_or_else(|| {
        tracing::warn!("this host has no {what} '{name}': its files go to number {fallback}, as the data directory");
        fallback
    });
    known.insert(name.to_owned(), number);
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(user: &str) -> DirectoryEntry {
        DirectoryEntry {
            mode: 0o700,
            user: Some(user.to_owned()),
            group: None,
        }
    }

    #[test]
    fn files_go_to_the_owner_of_the_data_directory_unless_owners_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let below = Below::open(directory.path()).unwrap();
        let mut owners = Owners::new(&below, Some(&entry("nobody-known")), false).unwrap();
        let own = owners.owner;
        owners.owner = (4242, 4343);
        assert_eq!(owners.numbers(Path::new("x"), Some("root"), Some("root")), (4242, 4343));
        owners.keeps = true;
        assert_eq!(owners.numbers(Path::new("x"), Some("root"), None), (0, 4343));

        // A directory that root has just made goes to the server.
        if rustix::process::geteuid().is_root() {
            assert_eq!(own.0, 0, "an unknown name is nobody's");
            let of_nobody = Owners::new(&below, Some(&entry("nobody")), false).unwrap();
            let nobody = uzers::get_user_by_name("nobody").unwrap().uid();
            assert_eq!(of_nobody.owner.0, nobody);
        }
    }
}
