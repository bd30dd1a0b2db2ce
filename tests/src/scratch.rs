//! The folder of one test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::account::Account;

/// A folder for all files of one test. If it is dropped in a panic, it stays, and its name is printed; else it is
/// removed.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    account: Account,
    keep: bool,
}

impl Scratch {
    /// Makes a new folder. Its path is short, since the path of a PostgreSQL socket in it may have at most 107 bytes.
    #[must_use]
    pub fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pgmesh-{name}-{}-{number}", std::process::id()));
        let account = Account::current();
        // A killed run with the same process id may have left a folder of this name.
        if path.exists() {
            fs::remove_dir_all(&path).expect("removing an old scratch folder");
        }
        account.create_folder(&path);
        Self {
            path,
            account,
            keep: false,
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The account that owns it, and that runs programs in it.
    #[must_use]
    pub fn account(&self) -> Account {
        self.account
    }

    /// The path of a file or folder in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Creates a folder in it.
    #[must_use]
    pub fn folder(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.join(name);
        self.account.create_folder(&path);
        path
    }

    /// Leaves the folder there when this value is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the files of this test are kept in {}", self.path.display());
        } else if !self.keep {
            fs::remove_dir_all(&self.path).ok();
        }
    }
}

/// All files below a folder, at any depth.
///
/// # Panics
/// If a folder cannot be read.
#[must_use]
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("reading a folder") {
        let path = entry.expect("an entry of a folder").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}
