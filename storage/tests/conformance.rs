//! What a repository does on every kind of store, encrypted and not.
#![allow(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::{chunk, create, pack, posix};
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use pgmesh_storage::{
    Cipher, Codec, Digest, Generation, ObjectKind, ObjectName, ObjectPath, Payload, Repository, StoreError, Stored,
    prefix,
};

/// Runs a story on each kind of store with each cipher.
async fn on_every_store<S>(story: impl Fn(Repository) -> S)
where
    S: Future<Output = ()>,
{
    for cipher in [Cipher::None, Cipher::Aes256Cbc] {
        let folder = tempfile::tempdir().unwrap();
        let stores: [Arc<dyn ObjectStore>; 2] =
            [Arc::new(InMemory::new()), posix(&folder.path().join("new/repository"))];
        for store in stores {
            story(create(store, cipher).await).await;
        }
    }
}

/// One object of each kind.
fn one_of_each() -> Vec<(ObjectName, Payload)> {
    let stanza: pgmesh_storage::StanzaName = "main".parse().unwrap();
    let archive_id = "15-1".parse().unwrap();
    let segment = |file: &str, payload: Payload| {
        let name = ObjectName::Segment {
            stanza: stanza.clone(),
            archive_id,
            file: file.parse().unwrap(),
            digest: payload.digest,
        };
        (name, payload)
    };
    let manifest = pack(b"manifest");
    let info = pack(b"info");
    vec![
        chunk(&[1; 100_000]),
        segment("000000010000000000000001", pack(&[2; 16 << 20])),
        segment(
            "00000002.history",
            pack(b"1\t0/1000000\tno recovery target specified\n"),
        ),
        (
            ObjectName::Manifest {
                stanza: stanza.clone(),
                label: "20250215-020001F".parse().unwrap(),
                digest: manifest.digest,
            },
            manifest,
        ),
        (
            ObjectName::StanzaInfo {
                stanza: stanza.clone(),
                archive_id,
                digest: info.digest,
            },
            info,
        ),
    ]
}

#[tokio::test]
async fn what_was_put_is_got_by_name_and_by_path() {
    on_every_store(|repository| async move {
        let objects = one_of_each();
        for (name, payload) in &objects {
            let stored = repository.put(name, Generation::FIRST, payload).await.unwrap();
            assert!(!stored.already);
            let length = repository.stored_length(name, Generation::FIRST).await.unwrap();
            assert_eq!(length, stored.bytes);
            assert_eq!(repository.get(name, Generation::FIRST).await.unwrap(), *payload);
            let checked = repository.get_checked(name, Generation::FIRST).await.unwrap();
            assert_eq!(checked.plain, payload.open(repository.suite()).unwrap());
        }
        let listed = repository.list_sorted("").await.unwrap();
        let by_path: BTreeSet<_> = listed
            .iter()
            .filter(|(path, _)| path.kind().is_some())
            .map(|(path, _)| path.to_string())
            .collect();
        assert_eq!(by_path.len(), objects.len());
        for path in by_path {
            let (name, checked) = repository.get_by_path(&path).await.unwrap();
            assert!(objects.contains(&(name, checked.payload)), "{path}");
        }
        let mut every = 0;
        for (path, length) in &listed {
            assert_eq!(repository.verify_path(&path.to_string()).await.unwrap(), *length);
            every += 1;
        }
        let keys = usize::from(repository.is_encrypted());
        assert_eq!(every, objects.len() + 1 + keys);
        repository.probe().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn listings_are_by_folder() {
    on_every_store(|repository| async move {
        for (name, payload) in one_of_each() {
            repository.put(&name, Generation::FIRST, &payload).await.unwrap();
        }
        let main = "main".parse().unwrap();
        let kinds = |folder: String| {
            let repository = repository.clone();
            async move {
                let listed = repository.list_sorted(&folder).await.unwrap();
                listed.iter().filter_map(|(path, _)| path.kind()).collect::<Vec<_>>()
            }
        };
        assert_eq!(kinds(prefix::CHUNKS.into()).await, [ObjectKind::Chunk]);
        assert_eq!(kinds(prefix::backups(&main)).await, [ObjectKind::Manifest]);
        assert_eq!(kinds(prefix::databases(&main)).await, [ObjectKind::StanzaInfo]);
        let archive_id = "15-1".parse().unwrap();
        assert_eq!(kinds(prefix::archive(&main, archive_id)).await.len(), 2);
        assert_eq!(kinds(prefix::stanza(&main)).await.len(), 4);
        assert!(kinds("stanza/mai".into()).await.is_empty());
        assert!(kinds("stanza/none".into()).await.is_empty());
        let raw: Vec<_> = repository.list("").try_collect().await.unwrap();
        assert!(raw.iter().any(|listed| listed.path == "pgmesh.repo"));
        for file in ["000000010000000000000001", "00000002.history"] {
            let file = file.parse().unwrap();
            let found = repository.find_archived(&main, archive_id, &file).await.unwrap();
            assert_eq!(found.len(), 1);
        }
        let other = "000000010000000000000002".parse().unwrap();
        assert!(
            repository
                .find_archived(&main, archive_id, &other)
                .await
                .unwrap()
                .is_empty()
        );
    })
    .await;
}

#[tokio::test]
async fn a_second_put_finds_the_first() {
    on_every_store(|repository| async move {
        let (name, payload) = chunk(&[5; 9000]);
        let first = repository.put(&name, Generation::FIRST, &payload).await.unwrap();
        let path = repository.path_of(&name, Generation::FIRST).to_string();
        let before = repository.read_raw(&path).await.unwrap();
        // The same content, compressed in another way.
        let again = Payload::pack(repository.suite(), Codec::Gz, None, &[5; 9000]).unwrap();
        let second = repository.put(&name, Generation::FIRST, &again).await.unwrap();
        assert_eq!(second, Stored { already: true, ..first });
        // Invariant 2: not a byte was changed.
        assert_eq!(repository.read_raw(&path).await.unwrap(), before);
    })
    .await;
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    on_every_store(|repository| async move {
        let (name, payload) = chunk(b"x");
        let gone = |error| matches!(error, StoreError::NotFound { .. });
        assert!(gone(repository.get(&name, Generation::FIRST).await.unwrap_err()));
        assert!(gone(repository.get_checked(&name, Generation(3)).await.unwrap_err()));
        assert!(gone(repository.get_any_generation(&name).await.unwrap_err()));
        assert!(gone(
            repository.stored_length(&name, Generation::FIRST).await.unwrap_err()
        ));
        repository.delete(&name, Generation::FIRST).await.unwrap();
        repository.put(&name, Generation::FIRST, &payload).await.unwrap();
        repository.delete(&name, Generation::FIRST).await.unwrap();
        assert!(gone(repository.get(&name, Generation::FIRST).await.unwrap_err()));
    })
    .await;
}

#[tokio::test]
async fn a_payload_under_a_name_that_is_not_its_own_is_refused() {
    on_every_store(|repository| async move {
        let (_, payload) = chunk(b"x");
        let name = ObjectName::Chunk(Digest([0; 32]));
        let error = repository.put(&name, Generation::FIRST, &payload).await.unwrap_err();
        assert!(matches!(error, StoreError::WrongPayload { .. }));
    })
    .await;
}

#[tokio::test]
async fn generations_stand_side_by_side() {
    on_every_store(|repository| async move {
        let (name, payload) = chunk(&[9; 5000]);
        for generation in [0, 1, 7] {
            repository.put(&name, Generation(generation), &payload).await.unwrap();
        }
        assert_eq!(repository.list_sorted(prefix::CHUNKS).await.unwrap().len(), 3);
        for generation in [0, 1, 7] {
            let (found, _) = repository.get_any_generation(&name).await.unwrap();
            assert_eq!(found, Generation(generation));
            repository.delete(&name, Generation(generation)).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn sixteen_writers_of_one_object_agree() {
    on_every_store(|repository| async move {
        let (name, payload) = chunk(&[3; 70_000]);
        let writers: Vec<_> = (0..16)
            .map(|_| {
                let (repository, name, payload) = (repository.clone(), name.clone(), payload.clone());
                tokio::spawn(async move { repository.put(&name, Generation::FIRST, &payload).await })
            })
            .collect();
        let mut new = 0;
        for writer in writers {
            new += usize::from(!writer.await.unwrap().unwrap().already);
        }
        assert_eq!(new, 1, "one of them wrote it");
        assert_eq!(
            repository.get_checked(&name, Generation::FIRST).await.unwrap().payload,
            payload
        );
    })
    .await;
}

#[tokio::test]
async fn a_repository_is_made_once() {
    on_every_store(|repository| async move {
        let (name, payload) = chunk(b"kept");
        repository.put(&name, Generation::FIRST, &payload).await.unwrap();
        assert!(repository.wrapped_keys().len() == usize::from(repository.is_encrypted()));
        assert!(repository.problems().is_empty());
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let store = posix(folder.path());
    create(Arc::clone(&store), Cipher::None).await;
    let again = Repository::create(Arc::clone(&store), common::identity(Cipher::None), None).await;
    assert!(matches!(again, Err(StoreError::AlreadyARepository { .. })));
    // Without its identity, what lies there still is a repository's.
    let repository = Repository::open(Arc::clone(&store), None, &[]).await.unwrap();
    let (name, payload) = chunk(b"kept");
    repository.put(&name, Generation::FIRST, &payload).await.unwrap();
    std::fs::remove_file(folder.path().join("pgmesh.repo")).unwrap();
    let again = Repository::create(Arc::clone(&store), common::identity(Cipher::None), None).await;
    assert!(matches!(again, Err(StoreError::AlreadyARepository { .. })));
    assert!(matches!(
        Repository::open(store, None, &[]).await,
        Err(StoreError::NotARepository { .. })
    ));
}

#[tokio::test]
async fn of_eight_makers_one_wins_and_the_others_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = posix(folder.path());
    let makers: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let passphrase = common::passphrase("right");
                Repository::create(store, common::identity(Cipher::Aes256Cbc), Some(passphrase)).await
            })
        })
        .collect();
    let mut made = Vec::new();
    for maker in makers {
        match maker.await.unwrap() {
            Ok((repository, _)) => made.push(repository),
            Err(error) => assert!(matches!(error, StoreError::AlreadyARepository { .. }), "{error}"),
        }
    }
    assert_eq!(made.len(), 1);
    let (name, payload) = chunk(b"x");
    made[0].put(&name, Generation::FIRST, &payload).await.unwrap();
    let opened = Repository::open(store, Some(common::passphrase("right")), &[])
        .await
        .unwrap();
    assert_eq!(opened.identity(), made[0].identity());
    opened.get_checked(&name, Generation::FIRST).await.unwrap();
    assert_eq!(ObjectPath::parse("pgmesh.key/0001-0001").unwrap().kind(), None);
}
