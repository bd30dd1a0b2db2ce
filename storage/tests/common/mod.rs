//! The code that the tests of this folder share.
#![allow(dead_code, clippy::unwrap_used, reason = "shared by several test programs")]

pub mod places;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use pgmesh_storage::{
    Cipher, Codec, DigestSuite, ObjectName, Passphrase, Payload, PosixStore, Repository, RepositoryIdentity,
};

pub const SUITE: DigestSuite = DigestSuite::Blake3;

pub fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.to_owned()).unwrap()
}

pub fn identity(cipher: Cipher) -> RepositoryIdentity {
    RepositoryIdentity::generate("mesh", SUITE, cipher, 17).unwrap()
}

/// A new repository in a store; the passphrase is "right".
pub async fn create(store: Arc<dyn ObjectStore>, cipher: Cipher) -> Repository {
    let passphrase = (cipher != Cipher::None).then(|| passphrase("right"));
    let (repository, _) = Repository::create(store, identity(cipher), passphrase).await.unwrap();
    repository
}

pub fn posix(root: &Path) -> Arc<dyn ObjectStore> {
    Arc::new(PosixStore::create(root).unwrap())
}

pub fn pack(plain: &[u8]) -> Payload {
    Payload::pack(SUITE, Codec::Zst, None, plain).unwrap()
}

/// A payload, and the name of the chunk with this content.
pub fn chunk(plain: &[u8]) -> (ObjectName, Payload) {
    let payload = pack(plain);
    (ObjectName::Chunk(payload.digest), payload)
}

/// All files below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A temporary directory with a file system mounted on it; both are removed on drop.
pub struct Tmpfs {
    folder: tempfile::TempDir,
}

impl Tmpfs {
    /// Mounts a file system of one mebibyte.
    pub fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tmpfs = Self { folder };
        tmpfs.run(&["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "pgmesh-test"]);
        tmpfs
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn remount_read_only(&self) {
        self.run(&["mount", "-o", "remount,ro"]);
    }

    fn run(&self, command: &[&str]) {
        let (program, arguments) = command.split_first().unwrap();
        let output = std::process::Command::new(program)
            .args(arguments)
            .arg(self.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "this test mounts a small file system and so needs root: `{}` said: {}",
            command.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .status();
    }
}

/// A number that the environment may set, to test more than usual.
pub fn number_from_environment(name: &str, usual: u32) -> u32 {
    let set = std::env::var(name).ok();
    set.map_or(usual, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}
