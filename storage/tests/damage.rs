//! Damage of every kind to the files of a repository: never wrong bytes, always the right error.
#![allow(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::{SUITE, chunk, create, files, passphrase, posix};
use pgmesh_storage::{
    Cipher, Codec, Damage, EnvelopeError, FILE_PART_LENGTH, FilePart, Generation, ObjectName, Payload, Portion,
    PosixStore, Repository, StoreError, prefix,
};

const CIPHERS: [Cipher; 2] = [Cipher::None, Cipher::Aes256Cbc];

/// Overwrites a file of a repository, as rot or a foreign hand would.
fn overwrite(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

/// Every way to read the object finds the damage.
async fn assert_damaged(repository: &Repository, name: &ObjectName, what: &str) {
    let path = repository.path_of(name, Generation::FIRST).to_string();
    let errors = [
        repository.get_checked(name, Generation::FIRST).await.err(),
        repository.get(name, Generation::FIRST).await.err(),
        repository.get_by_path(&path).await.err(),
        repository.verify_path(&path).await.err(),
    ];
    for error in errors {
        match error {
            Some(StoreError::Damaged { path: damaged, .. }) => assert_eq!(damaged, path),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_flipped_byte_anywhere_in_an_object() {
    for cipher in CIPHERS {
        let folder = tempfile::tempdir().unwrap();
        let repository = create(posix(folder.path()), cipher).await;
        let (name, payload) = chunk(&[4; 1000]);
        repository.put(&name, Generation::FIRST, &payload).await.unwrap();
        let file = folder
            .path()
            .join(repository.path_of(&name, Generation::FIRST).to_string());
        let good = fs::read(&file).unwrap();
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 0x20;
            overwrite(&file, &bad);
            assert_damaged(&repository, &name, &format!("byte {index}")).await;
        }
        for length in 0..good.len() {
            overwrite(&file, &good[..length]);
            assert_damaged(&repository, &name, &format!("cut at {length}")).await;
        }
        overwrite(&file, &[good.as_slice(), b"x"].concat());
        assert_damaged(&repository, &name, "a byte too many").await;
        overwrite(&file, &good);
        repository.get_checked(&name, Generation::FIRST).await.unwrap();
    }
}

#[tokio::test]
async fn two_objects_that_changed_places() {
    for cipher in CIPHERS {
        let folder = tempfile::tempdir().unwrap();
        let repository = create(posix(folder.path()), cipher).await;
        let (one, two) = (chunk(b"one"), chunk(b"two"));
        for (name, payload) in [&one, &two] {
            repository.put(name, Generation::FIRST, payload).await.unwrap();
        }
        let file = |name| {
            folder
                .path()
                .join(repository.path_of(name, Generation::FIRST).to_string())
        };
        let (first, second) = (file(&one.0), file(&two.0));
        let (first_bytes, second_bytes) = (fs::read(&first).unwrap(), fs::read(&second).unwrap());
        overwrite(&first, &second_bytes);
        overwrite(&second, &first_bytes);
        for (name, _) in [&one, &two] {
            assert_damaged(&repository, name, "swapped").await;
            assert!(matches!(
                repository.get(name, Generation::FIRST).await,
                Err(StoreError::Damaged {
                    what: Damage::Envelope(EnvelopeError::Tag),
                    ..
                })
            ));
        }
    }
}

#[tokio::test]
async fn an_object_of_another_repository_with_the_same_passphrase() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ours = create(posix(here.path()), Cipher::Aes256Cbc).await;
    let theirs = create(posix(there.path()), Cipher::Aes256Cbc).await;
    let (name, payload) = chunk(b"content");
    ours.put(&name, Generation::FIRST, &payload).await.unwrap();
    theirs.put(&name, Generation::FIRST, &payload).await.unwrap();
    let path = |repository: &Repository| repository.path_of(&name, Generation::FIRST).to_string();
    assert_ne!(path(&ours), path(&theirs), "names tell nothing");
    fs::copy(there.path().join(path(&theirs)), here.path().join(path(&ours))).unwrap();
    assert_damaged(&ours, &name, "another repository's").await;
}

#[tokio::test]
async fn a_put_over_a_damaged_object_is_told_so_and_takes_the_next_generation() {
    for cipher in CIPHERS {
        let folder = tempfile::tempdir().unwrap();
        let repository = create(posix(folder.path()), cipher).await;
        let (name, payload) = chunk(&[4; 1000]);
        repository.put(&name, Generation::FIRST, &payload).await.unwrap();
        let file = folder
            .path()
            .join(repository.path_of(&name, Generation::FIRST).to_string());
        for bad in [vec![], vec![0; 200], vec![0xff; 10_000]] {
            overwrite(&file, &bad);
            let error = repository.put(&name, Generation::FIRST, &payload).await.unwrap_err();
            assert!(matches!(error, StoreError::DamagedExists { .. }), "{error}");
            // Invariant 2: it was not repaired in place.
            assert_eq!(fs::read(&file).unwrap(), bad);
        }
        repository.put(&name, Generation(1), &payload).await.unwrap();
        let (generation, checked) = repository.get_any_generation(&name).await.unwrap();
        assert_eq!(generation, Generation(1));
        assert_eq!(checked.payload, payload);
    }
}

#[tokio::test]
async fn good_bytes_under_a_name_that_a_listing_made_up() {
    let folder = tempfile::tempdir().unwrap();
    let repository = create(posix(folder.path()), Cipher::None).await;
    for path in ["chunk/aa/x", "other", "stanza/main/backup/20250215-020001F/manifest"] {
        assert!(matches!(
            repository.get_by_path(path).await,
            Err(StoreError::Damaged { what: Damage::Path, .. })
        ));
    }
}

#[tokio::test]
async fn a_wrong_passphrase_and_none_and_one_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let store = posix(folder.path());
    create(Arc::clone(&store), Cipher::Aes256Cbc).await;
    let open = |passphrase| Repository::open(Arc::clone(&store), passphrase, &[]);
    assert!(matches!(
        open(Some(passphrase("wrong"))).await,
        Err(StoreError::WrongPassphrase { .. })
    ));
    assert!(matches!(open(None).await, Err(StoreError::PassphraseNeeded)));
    open(Some(passphrase("right"))).await.unwrap();
    let plain = tempfile::tempdir().unwrap();
    let store = posix(plain.path());
    create(Arc::clone(&store), Cipher::None).await;
    let opened = Repository::open(store, Some(passphrase("right")), &[]).await;
    assert!(matches!(opened, Err(StoreError::PassphraseNotNeeded)));
}

#[tokio::test]
async fn a_flipped_byte_in_the_key_object() {
    let folder = tempfile::tempdir().unwrap();
    let store = posix(folder.path());
    let repository = create(Arc::clone(&store), Cipher::Aes256Cbc).await;
    let (name, payload) = chunk(b"content");
    repository.put(&name, Generation::FIRST, &payload).await.unwrap();
    let path = "pgmesh.key/0001-0001";
    let file = folder.path().join(path);
    let good = fs::read(&file).unwrap();
    for index in 0..good.len() {
        let mut bad = good.clone();
        bad[index] ^= 0x20;
        overwrite(&file, &bad);
        let opened = Repository::open(Arc::clone(&store), Some(passphrase("right")), &[]).await;
        assert!(
            matches!(opened, Err(StoreError::NoKey { damaged: Some(_) })),
            "byte {index}"
        );
        let found = repository.verify_path(path).await;
        assert!(matches!(found, Err(StoreError::Damaged { .. })), "byte {index}");
    }
    // The catalog's key stands in for the damaged key object, and the damage is reported.
    let known = repository.wrapped_keys();
    let opened = Repository::open(Arc::clone(&store), Some(passphrase("right")), known)
        .await
        .unwrap();
    assert_eq!(opened.problems().len(), 1);
    opened.get_checked(&name, Generation::FIRST).await.unwrap();
    fs::remove_file(&file).unwrap();
    let opened = Repository::open(Arc::clone(&store), Some(passphrase("right")), known)
        .await
        .unwrap();
    opened.get_checked(&name, Generation::FIRST).await.unwrap();
    // Another repository's key is no help.
    let other = tempfile::tempdir().unwrap();
    let other = create(posix(other.path()), Cipher::Aes256Cbc).await;
    let opened = Repository::open(store, Some(passphrase("right")), other.wrapped_keys()).await;
    assert!(matches!(opened, Err(StoreError::NoKey { damaged: None })));
}

#[tokio::test]
async fn a_newer_key_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = posix(folder.path());
    create(Arc::clone(&store), Cipher::Aes256Cbc).await;
    let first = folder.path().join("pgmesh.key/0001-0001");
    let mut bad = fs::read(&first).unwrap();
    bad[5] ^= 1;
    // Another wrapping of the same epoch is not needed; without the newest epoch, its objects would seem damaged.
    overwrite(&folder.path().join("pgmesh.key/0001-0002"), &bad);
    let opened = Repository::open(Arc::clone(&store), Some(passphrase("right")), &[])
        .await
        .unwrap();
    assert_eq!(opened.problems().len(), 1);
    overwrite(&folder.path().join("pgmesh.key/0002-0001"), &bad);
    let opened = Repository::open(store, Some(passphrase("right")), &[]).await;
    assert!(matches!(opened, Err(StoreError::NoKey { damaged: Some(_) })));
}

#[tokio::test]
async fn a_flipped_byte_in_the_identity() {
    let folder = tempfile::tempdir().unwrap();
    let store = posix(folder.path());
    let repository = create(Arc::clone(&store), Cipher::None).await;
    let file = folder.path().join("pgmesh.repo");
    let good = fs::read(&file).unwrap();
    for index in 0..good.len() {
        let mut bad = good.clone();
        bad[index] ^= 1;
        overwrite(&file, &bad);
        let opened = Repository::open(Arc::clone(&store), None, &[]).await;
        assert!(matches!(opened, Err(StoreError::Damaged { .. })), "byte {index}");
        assert!(repository.probe().await.is_err());
        assert!(repository.verify_path("pgmesh.repo").await.is_err());
    }
}

#[tokio::test]
async fn a_creation_that_was_interrupted_is_done_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = posix(folder.path());
    create(Arc::clone(&store), Cipher::Aes256Cbc).await;
    fs::remove_file(folder.path().join("pgmesh.repo")).unwrap();
    let repository = create(Arc::clone(&store), Cipher::Aes256Cbc).await;
    assert_eq!(files(&folder.path().join("pgmesh.key")).len(), 2);
    let opened = Repository::open(store, Some(passphrase("right")), &[]).await.unwrap();
    assert_eq!(opened.identity(), repository.identity());
    assert_eq!(opened.wrapped_keys(), repository.wrapped_keys());
}

#[tokio::test]
async fn no_secret_and_no_plaintext_lies_in_an_encrypted_repository() {
    let folder = tempfile::tempdir().unwrap();
    let repository = create(posix(folder.path()), Cipher::Aes256Cbc).await;
    let plain = b"a very telling sentence, longer than a block of the cipher";
    let (name, payload) = chunk(plain);
    repository.put(&name, Generation::FIRST, &payload).await.unwrap();
    let digest = payload.digest.to_string();
    for file in files(folder.path()) {
        assert!(!file.display().to_string().contains(&digest));
        let bytes = fs::read(&file).unwrap();
        for secret in [&b"right"[..], &plain[..16], digest.as_bytes()] {
            let found = bytes.windows(secret.len()).any(|window| window == secret);
            assert!(!found, "{}", file.display());
        }
    }
    assert!(!format!("{repository:?}").contains("right"));
}

#[tokio::test]
async fn a_repository_whose_file_system_is_gone_is_not_an_empty_one() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("mounted");
    let repository = create(posix(&root), Cipher::None).await;
    let (name, payload) = chunk(b"content");
    repository.put(&name, Generation::FIRST, &payload).await.unwrap();
    let away = base.path().join("away");
    fs::rename(&root, &away).unwrap();
    for mount_point in [false, true] {
        if mount_point {
            fs::create_dir(&root).unwrap();
        }
        // Invariant 7: "not found" would be a guess.
        let got = repository.get(&name, Generation::FIRST).await;
        assert!(matches!(got, Err(StoreError::Unavailable { .. })), "{got:?}");
        let listed = repository.list_sorted(prefix::CHUNKS).await;
        assert!(matches!(listed, Err(StoreError::Unavailable { .. })), "{listed:?}");
        // Invariant 1: an object in the mount point would be lost with the next mount.
        let put = repository.put(&name, Generation(1), &payload).await;
        assert!(matches!(put, Err(StoreError::Unavailable { .. })), "{put:?}");
        let deleted = repository.delete(&name, Generation::FIRST).await;
        assert!(deleted.is_err(), "{deleted:?}");
        assert!(repository.probe().await.is_err());
    }
    assert!(files(&root).is_empty());
    fs::remove_dir(&root).unwrap();
    fs::rename(&away, &root).unwrap();
    repository.get_checked(&name, Generation::FIRST).await.unwrap();
}

#[tokio::test]
async fn what_a_killed_process_left_is_not_listed_and_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let repository = create(posix(folder.path()), Cipher::None).await;
    let before = repository.list_sorted("").await.unwrap();
    let left = folder.path().join("pgmesh.tmp/0011223344556677#0");
    fs::write(&left, "half an object").unwrap();
    fs::write(folder.path().join("pgmesh.tmp/other"), "x").unwrap();
    assert_eq!(repository.list_sorted("").await.unwrap(), before);
    let store = PosixStore::open(folder.path()).unwrap();
    assert_eq!(store.remove_leftovers().unwrap(), 2);
    assert!(!left.exists());
    assert_eq!(repository.list_sorted("").await.unwrap(), before);
}

#[tokio::test]
async fn a_part_that_stands_in_the_place_of_another_is_found() {
    for cipher in CIPHERS {
        let folder = tempfile::tempdir().unwrap();
        let repository = create(posix(folder.path()), cipher).await;
        let plain = vec![3; usize::try_from(FILE_PART_LENGTH).unwrap()];
        let payload = Payload::pack(SUITE, Codec::Zst, None, &plain).unwrap();
        let name = ObjectName::Segment {
            stanza: "main".parse().unwrap(),
            archive_id: "15-1".parse().unwrap(),
            file: "000000010000000000000001".parse().unwrap(),
            digest: SUITE.digest(b"all of it"),
            portion: Portion::AllParts(3),
        };
        let part = |number, of| name.of_part(FilePart::new(number, of).unwrap());
        let file = |name: &ObjectName| {
            let path = repository.path_of(name, Generation::FIRST);
            folder.path().join(path.to_string())
        };
        repository.put(&part(1, 3), Generation::FIRST, &payload).await.unwrap();
        for other in [part(2, 3), part(1, 4)] {
            fs::copy(file(&part(1, 3)), file(&other)).unwrap();
            assert_damaged(&repository, &other, "another part").await;
        }
    }
}
