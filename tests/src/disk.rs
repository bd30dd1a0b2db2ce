//! A disk that is soon full.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::account::Account;
use crate::outcome::run;

/// A small file system in memory, mounted on a folder; unmounted when it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `mebibytes` on a folder, which it creates. `None` where the tests may not mount anything.
    #[must_use]
    pub fn mount(path: &Path, mebibytes: u32) -> Option<Self> {
        let account = Account::current();
        account.create_folder(path);
        let mut command = Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={mebibytes}m"))
            .arg("tmpfs")
            .arg(path);
        if run(command).code() != Some(0) {
            return None;
        }
        let disk = Self { path: path.to_owned() };
        account.create_folder(path);
        Some(disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        // Lazy: a program that still has a file open there does not keep it mounted.
        command.arg("--lazy").arg(&self.path);
        let _ = run(command);
    }
}
