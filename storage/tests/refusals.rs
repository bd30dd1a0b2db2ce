//! File systems that refuse: full, read-only, or not as they should be. Mounts small file systems, so it needs root.
#![allow(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::fs;

use common::{Tmpfs, chunk, create, files, posix};
use pgmesh_storage::{Cipher, Generation, ObjectName, Payload, PosixStore, StoreError, prefix};

/// Objects that do not compress, 100 KiB each.
fn objects() -> impl Iterator<Item = (ObjectName, Payload)> {
    (0_u32..).map(|number| {
        let mut seed = number.wrapping_add(1);
        let plain: Vec<u8> = std::iter::repeat_with(|| {
            // Marsaglia's xorshift.
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            seed.to_le_bytes()[0]
        })
        .take(100 << 10)
        .collect();
        chunk(&plain)
    })
}

#[tokio::test]
async fn a_full_file_system() {
    let tmpfs = Tmpfs::mount();
    let repository = create(posix(tmpfs.path()), Cipher::Aes256Cbc).await;
    let mut stored = Vec::new();
    let (refused, error) = 'full: {
        for (name, payload) in objects().take(100) {
            match repository.put(&name, Generation::FIRST, &payload).await {
                Ok(_) => stored.push(name),
                Err(error) => break 'full ((name, payload), error),
            }
        }
        panic!("10 MB fitted into 1 MiB");
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert!(error.to_string().contains("No space left"), "{error}");
    assert!(stored.len() >= 5);
    // Nothing of the refused object is visible or left; the acknowledged objects are whole.
    assert!(matches!(
        repository.get(&refused.0, Generation::FIRST).await,
        Err(StoreError::NotFound { .. })
    ));
    assert_eq!(
        repository.list_sorted(prefix::CHUNKS).await.unwrap().len(),
        stored.len()
    );
    assert!(files(&tmpfs.path().join("pgmesh.tmp")).is_empty());
    for name in &stored {
        repository.get_checked(name, Generation::FIRST).await.unwrap();
    }
    // After a deletion has made room, writing succeeds again.
    repository.delete(&stored[0], Generation::FIRST).await.unwrap();
    repository.put(&refused.0, Generation::FIRST, &refused.1).await.unwrap();
}

#[tokio::test]
async fn a_read_only_file_system() {
    let tmpfs = Tmpfs::mount();
    let repository = create(posix(tmpfs.path()), Cipher::None).await;
    let (name, payload) = chunk(b"content");
    repository.put(&name, Generation::FIRST, &payload).await.unwrap();
    tmpfs.remount_read_only();
    let error = repository.put(&name, Generation(1), &payload).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    assert!(error.is_of_the_repository());
    let error = repository.delete(&name, Generation::FIRST).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    repository.get_checked(&name, Generation::FIRST).await.unwrap();
    // A restore from one repository alone opens it without writing.
    let store = std::sync::Arc::new(PosixStore::open(tmpfs.path()).unwrap());
    let again = pgmesh_storage::Repository::open(store, None, &[]).await.unwrap();
    again.get_checked(&name, Generation::FIRST).await.unwrap();
}

#[tokio::test]
async fn a_file_where_a_directory_should_be() {
    let folder = tempfile::tempdir().unwrap();
    let repository = create(posix(folder.path()), Cipher::None).await;
    fs::write(folder.path().join("chunk"), "in the way").unwrap();
    let (name, payload) = chunk(b"content");
    let error = repository.put(&name, Generation::FIRST, &payload).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("chunk"), "{error}");
    assert!(files(&folder.path().join("pgmesh.tmp")).is_empty());
    // Invariant 7: it is unknown which objects the directory would hold.
    let error = repository.get(&name, Generation::FIRST).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
}

#[test]
fn a_repository_that_is_not_there() {
    let error = PosixStore::open(std::path::Path::new("/nonexistent/pgmesh")).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("/nonexistent/pgmesh"), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(PosixStore::open(file.path()).is_err());
    assert!(PosixStore::create(&file.path().join("below")).is_err());
}
