//! A volume of its own for a data directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::account::Account;
use crate::outcome::run;

/// A file system in a file. Its format keeps no birth times, and its root directory has the same inode number on every
/// such volume. It is unmounted when this value is dropped; the file stays.
#[derive(Debug)]
pub struct Volume {
    image: PathBuf,
    path: PathBuf,
}

impl Volume {
    /// Makes a file system of `mebibytes` in a file and mounts it on a folder, which it creates. `None` if the tests
    /// may not mount file systems.
    #[must_use]
    pub fn create(image: &Path, path: &Path, mebibytes: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let mut make = Command::new("mke2fs");
        // Inodes of 128 bytes have no place for a birth time. No blocks are reserved for root.
        make.args(["-q", "-t", "ext2", "-I", "128", "-m", "0"])
            .arg(image)
            .arg(format!("{mebibytes}M"));
        run(make).succeeds();
        let volume = Self::mount(image, path)?;
        let found = path.join("lost+found");
        std::fs::remove_dir(&found).unwrap_or_else(|error| panic!("removing {}: {error}", found.display()));
        Account::current().create_folder(path);
        Some(volume)
    }

    /// Mounts the file system in a file on a folder, which it creates.
    fn mount(image: &Path, path: &Path) -> Option<Self> {
        Account::current().create_folder(path);
        let mut command = Command::new("mount");
        command.args(["-o", "loop"]).arg(image).arg(path);
        if run(command).code() != Some(0) {
            return None;
        }
        Some(Self {
            image: image.to_owned(),
            path: path.to_owned(),
        })
    }

    /// Unmounts it and mounts it on another folder, as a new container gets it.
    ///
    /// # Panics
    /// If it cannot be mounted, or is in use.
    #[must_use]
    pub fn mount_again(self, path: &Path) -> Self {
        let image = self.image.clone();
        let mut command = Command::new("umount");
        command.arg(&self.path);
        run(command).succeeds();
        std::mem::forget(self);
        Self::mount(&image, path).expect("it could be mounted before")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        // Lazy: a program that still has a file open there does not keep it mounted.
        command.arg("--lazy").arg(&self.path);
        let _ = run(command);
    }
}
