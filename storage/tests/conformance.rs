//! The conformance suite: every type of repository, encrypted or not, behaves alike.
#![allow(
    clippy::disallowed_methods,
    reason = "a test or an example may spawn without a name and read the clock"
)]
#![allow(clippy::unwrap_used, reason = "a test program")]

mod common;
mod stories;

use std::sync::Arc;

use common::places::{Place, check};
use common::{chunk, create, posix};
use futures::TryStreamExt;
use pgmesh_storage::{Cipher, Conditions, Generation, ObjectPath, Repository, Store, StoreError};
use stories::STORIES;

/// Tells all stories of a type of storage, each of a repository of its own.
async fn conform(place: &Place) {
    for cipher in [Cipher::None, Cipher::Aes256Cbc] {
        for (name, story) in STORIES {
            println!("{name}, {cipher}");
            let settings = place.settings(&format!("{name}/{cipher}"));
            let store = Store::create(&settings).unwrap();
            let repository = create(store.objects(), cipher).await;
            story(repository).await;
        }
    }
}

/// Runs `repo-check` on a place that passes all its steps.
async fn checks(place: &Place) {
    check(&place.settings("checked/path"), &[]).await;
    // The check leaves no object behind.
    let objects = Store::create(&place.settings("")).unwrap().objects();
    let left: Vec<_> = objects.list(None).try_collect().await.unwrap();
    let left: Vec<_> = left
        .iter()
        .filter(|meta| meta.location.as_ref().contains("pgmesh-check"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The server is known to heed conditional writes, and finding that out changes no object.
async fn conditions(place: &Place) {
    let store = Store::create(&place.settings("conditions")).unwrap();
    let repository = create(store.objects(), Cipher::None).await;
    let before = repository.read_raw("pgmesh.repo").await.unwrap();
    assert_eq!(store.learn_conditions().await.unwrap(), Conditions::Heeded);
    assert_eq!(repository.read_raw("pgmesh.repo").await.unwrap(), before);
}

/// A listing of more objects than one page of any server has, and of one folder only.
async fn long_listings(place: &Place) {
    let count = common::number_from_environment("PGMESH_LISTED", 2_100);
    let store = Store::create(&place.settings("listing")).unwrap();
    let repository = create(store.objects(), Cipher::None).await;
    let chunks: Vec<_> = (0..count).map(|number: u32| chunk(&number.to_le_bytes())).collect();
    let puts = chunks
        .iter()
        .map(|(name, payload)| repository.put(name, Generation::FIRST, payload));
    let puts = futures::stream::iter(puts.map(Ok::<_, StoreError>).map(|put| put.unwrap()));
    let stored: Vec<_> = futures::StreamExt::buffer_unordered(puts, 16)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(stored.len(), chunks.len());
    let listed = repository.list_sorted("chunk").await.unwrap();
    assert_eq!(listed.len(), chunks.len());
    let mut expected: Vec<String> = chunks
        .iter()
        .map(|(name, _)| repository.path_of(name, Generation::FIRST).to_string())
        .collect();
    expected.sort();
    let mut found: Vec<String> = listed.iter().map(|(path, _)| path.to_string()).collect();
    found.sort();
    assert!(found == expected);
    assert!(repository.list_sorted("chun").await.unwrap().is_empty());
    // A folder whose name begins with this one's name belongs to another repository.
    let neighbour = Store::create(&place.settings("listing-2")).unwrap();
    let neighbour = create(neighbour.objects(), Cipher::None).await;
    assert!(neighbour.list_sorted("chunk").await.unwrap().is_empty());
}

macro_rules! conforming {
    ($($kind:ident),*) => {
        $(mod $kind {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn tells_all_stories() {
                conform(&Place::$kind()).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn passes_the_check_and_long_listings() {
                let place = Place::$kind();
                checks(&place).await;
                conditions(&place).await;
                long_listings(&place).await;
            }
        })*
    };
}

conforming!(directory, s3, azure, gcs);

/// Garage accepts conditional writes and ignores the condition. pgmesh finds that out. All stories hold, except that
/// several writers of one object may be told that they were first.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_conditions_conforms() {
    let Some(place) = Place::garage() else {
        eprintln!("no garage on this machine: `make test-all` installs it");
        return;
    };
    check(&place.settings("checked"), &["refuse to replace", "writers"]).await;
    for (name, story) in STORIES.iter().filter(|(name, _)| !name.contains("writers")) {
        println!("{name}");
        let store = Store::create(&place.settings(name)).unwrap();
        let repository = create(store.objects(), Cipher::Aes256Cbc).await;
        assert_eq!(store.learn_conditions().await.unwrap(), Conditions::Ignored);
        story(repository).await;
    }
    long_listings(&place).await;
}

#[tokio::test]
async fn a_repository_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = posix(folder.path());
    create(Arc::clone(&store), Cipher::None).await;
    let again = Repository::create(Arc::clone(&store), common::identity(Cipher::None), None).await;
    assert!(matches!(again, Err(StoreError::AlreadyARepository { .. })));
    // Without its identity, the objects there still are a repository's.
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
