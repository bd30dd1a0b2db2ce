//! Whose the restored files are.

use super::disk::failed;
use pgmesh_node::Failure;
use rustix::fs::{AtFlags, CWD, Gid, Uid};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Gives files to their owners, which only root can. For others, what they write is theirs.
#[derive(Debug)]
pub struct Owners {
    is_root: bool,
    /// Whose PGDATA was: for names that this host does not know.
    fallback: (u32, u32),
    users: Mutex<HashMap<String, u32>>,
    groups: Mutex<HashMap<String, u32>>,
}

impl Owners {
    /// For a restore into this directory.
    pub fn new(pgdata: &Path) -> Result<Self, Failure> {
        let metadata = std::fs::metadata(pgdata).map_err(failed("examining", pgdata))?;
        Ok(Self {
            is_root: rustix::process::geteuid().is_root(),
            fallback: (metadata.uid(), metadata.gid()),
            users: Mutex::default(),
            groups: Mutex::default(),
        })
    }

    /// Gives an open file or directory to its owner.
    pub fn give(&self, file: &File, path: &Path, user: Option<&str>, group: Option<&str>) -> Result<(), Failure> {
        if !self.is_root {
            return Ok(());
        }
        let (user, group) = self.numbers(user, group);
        rustix::fs::fchown(file, Some(user), Some(group))
            .map_err(|error| failed("changing the owner of", path)(error.into()))
    }

    /// Gives a link itself to its owner.
    pub fn give_link(&self, path: &Path, user: Option<&str>, group: Option<&str>) -> Result<(), Failure> {
        if !self.is_root {
            return Ok(());
        }
        let (user, group) = self.numbers(user, group);
        rustix::fs::chownat(CWD, path, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed("changing the owner of", path)(error.into()))
    }

    fn numbers(&self, user: Option<&str>, group: Option<&str>) -> (Uid, Gid) {
        let uid = find(&self.users, user, "user", self.fallback.0, |name| {
            uzers::get_user_by_name(name).map(|user| user.uid())
        });
        let gid = find(&self.groups, group, "group", self.fallback.1, |name| {
            uzers::get_group_by_name(name).map(|group| group.gid())
        });
        (Uid::from_raw(uid), Gid::from_raw(gid))
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
