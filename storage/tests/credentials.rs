//! Credentials: wrong ones are reported, and changed ones are taken up while the repository is open.
#![allow(
    clippy::disallowed_methods,
    reason = "a test or an example may spawn without a name and read the clock"
)]
#![allow(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::places::{BUCKET, settings};
use common::{chunk, create};
use pgmesh_storage::{Cipher, Generation, Repository, SecretSource, Secrets, Store, StoreError, StoreSettings};
use pgmesh_tests::stores::{AzureServer, Bucket, GcsServer, S3Server};

/// Secrets that the test changes, as an administrator changes a file.
#[derive(Debug, Default)]
struct File(Mutex<Secrets>);

impl File {
    fn write(&self, bucket: &Bucket) {
        *self.0.lock().unwrap() = settings(bucket).secrets.read().unwrap();
    }
}

impl SecretSource for File {
    fn read(&self) -> Result<Secrets, String> {
        Ok(self.0.lock().unwrap().clone())
    }
}

/// The settings of a bucket whose credentials are in a file.
fn with_file(bucket: &Bucket) -> (StoreSettings, Arc<File>) {
    let file = Arc::new(File::default());
    file.write(bucket);
    let settings = StoreSettings {
        secrets: file.clone(),
        ..settings(bucket)
    };
    (settings, file)
}

async fn open(settings: &StoreSettings) -> Repository {
    create(Store::create(settings).unwrap().objects(), Cipher::None).await
}

async fn write(repository: &Repository, content: &[u8]) -> Result<(), StoreError> {
    let (name, payload) = chunk(content);
    repository.put(&name, Generation::FIRST, &payload).await.map(drop)
}

async fn wait_until(what: &str, holds: impl AsyncFn() -> bool) {
    let limit = std::time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(std::time::Instant::now() < limit, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn assert_denied(outcome: Result<(), StoreError>, secrets: &Bucket) {
    let error = outcome.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    let told = format!("{error} {error:?}");
    for option in ["s3-key-secret", "azure-key", "gcs-key"] {
        let secret = secrets.option(option).unwrap_or("none of it");
        assert!(!told.contains(secret), "{option}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_s3_rotate() {
    let mut server = S3Server::start(BUCKET);
    server.enforce_credentials();
    let good = server.bucket(BUCKET, server.address());
    let (settings, file) = with_file(&good);
    let repository = open(&settings).await;
    write(&repository, b"with the first key").await.unwrap();
    let unknown = good.clone().with("s3-key", "AKIAUNKNOWN");
    let (settings, _) = with_file(&unknown);
    let store = Store::open(&settings).unwrap();
    assert_denied(Repository::open(store.objects(), None, &[]).await.map(drop), &unknown);
    let wrong = good.clone().with("s3-key-secret", "not-the-secret-0123456789");
    let (settings, _) = with_file(&wrong);
    let store = Store::open(&settings).unwrap();
    assert_denied(Repository::open(store.objects(), None, &[]).await.map(drop), &wrong);
    // The server takes other keys now, and the file has them a moment later.
    server.rotate_credentials();
    assert_denied(write(&repository, b"with a withdrawn key").await, &good);
    file.write(&server.bucket(BUCKET, server.address()));
    write(&repository, b"with the second key").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_gcs_are_made_anew_when_they_are_refused() {
    let server = GcsServer::start(BUCKET);
    let bucket = server.bucket(BUCKET, server.address());
    let repository = open(&with_file(&bucket).0).await;
    write(&repository, b"1").await.unwrap();
    server.revoke_tokens();
    assert_denied(write(&repository, b"3").await, &bucket);
    server.trust_key_again();
    // A refused token is asked for anew, no more than once a second.
    wait_until("a token that is accepted", async || {
        write(&repository, b"4").await.is_ok()
    })
    .await;
    // A key that the server does not know.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.json");
    std::fs::write(&file, server.unknown_key_file(server.address())).unwrap();
    let unknown = bucket.clone().with("gcs-key", file.display().to_string());
    let store = Store::open(&settings(&unknown)).unwrap();
    assert_denied(Repository::open(store.objects(), None, &[]).await.map(drop), &unknown);
    // The file's content changes, but not its name.
    std::fs::write(&file, server.key_file(server.address())).unwrap();
    Repository::open(store.objects(), None, &[]).await.unwrap();
    // A token from elsewhere.
    let token = server.token(Duration::from_secs(2));
    let by_token = bucket.with("gcs-key-type", "token").with("gcs-key", token);
    let (settings, file) = with_file(&by_token);
    let store = Store::open(&settings).unwrap();
    Repository::open(store.objects(), None, &[]).await.unwrap();
    server.revoke_tokens();
    assert_denied(Repository::open(store.objects(), None, &[]).await.map(drop), &by_token);
    file.write(&by_token.with("gcs-key", server.token(Duration::from_secs(60))));
    Repository::open(store.objects(), None, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_of_azure_expire_and_are_replaced() {
    let server = AzureServer::start(BUCKET);
    let by_key = server.bucket(BUCKET, server.address());
    let signature = |expiry: &str| server.shared_access(BUCKET, "racwdl", expiry);
    let valid = by_key
        .clone()
        .with("azure-key-type", "sas")
        .with("azure-key", signature("2099-01-01T00:00:00Z"));
    let expired = valid.clone().with("azure-key", signature("2020-01-01T00:00:00Z"));
    let repository = open(&with_file(&valid).0).await;
    write(&repository, b"signed").await.unwrap();
    let (settings, file) = with_file(&expired);
    let store = Store::open(&settings).unwrap();
    assert_denied(Repository::open(store.objects(), None, &[]).await.map(drop), &expired);
    file.write(&valid);
    let repository = Repository::open(store.objects(), None, &[]).await.unwrap();
    let (name, payload) = chunk(b"renewed");
    repository.put(&name, Generation::FIRST, &payload).await.unwrap();
    repository.delete(&name, Generation::FIRST).await.unwrap();
    let wrong = by_key.with("azure-key", "d3Jvbmcga2V5IHRoYXQgaXMgbm90IHRoZSBhY2NvdW50J3M=");
    let store = Store::open(&with_file(&wrong).0).unwrap();
    assert_denied(Repository::open(store.objects(), None, &[]).await.map(drop), &wrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_may_not_delete_keeps_what_is_not_needed() {
    let server = GcsServer::start(BUCKET);
    server.forbid("DELETE");
    let bucket = server.bucket(BUCKET, server.address());
    let (name, payload) = chunk(b"kept");
    // Without delete=n, the server refuses. With it, no request is sent, and the error is not one of the repository.
    for (delete, retained) in [("y", false), ("n", true)] {
        let settings = settings(&bucket.clone().with("path", delete).with("delete", delete));
        let store = Store::create(&settings).unwrap();
        assert_eq!(store.may_delete(), !retained);
        let repository = create(store.objects(), Cipher::None).await;
        repository.put(&name, Generation::FIRST, &payload).await.unwrap();
        let error = repository.delete(&name, Generation::FIRST).await.unwrap_err();
        assert_eq!(matches!(error, StoreError::Retained { .. }), retained, "{error}");
        assert_eq!(error.is_of_the_repository(), !retained);
        repository.get(&name, Generation::FIRST).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_put_under_lock() {
    let gcs = GcsServer::start(BUCKET);
    let bucket = gcs.bucket(BUCKET, gcs.address());
    let locked = |bucket: &Bucket, mode: &str| {
        settings(
            &bucket
                .clone()
                .with("object-lock", mode)
                .with("object-lock-period", "3600000ms"),
        )
    };
    let (name, payload) = chunk(b"locked");
    let store = Store::create(&locked(&bucket, "compliance")).unwrap();
    let repository = create(store.objects(), Cipher::None).await;
    repository.put(&name, Generation::FIRST, &payload).await.unwrap();
    let path = repository.path_of(&name, Generation::FIRST).to_string();
    assert!(gcs.retention(BUCKET, &path).unwrap().starts_with("COMPLIANCE until "));
    let error = repository.delete(&name, Generation::FIRST).await.unwrap_err();
    assert!(matches!(error, StoreError::Retained { .. }), "{error}");
    assert!(!error.is_of_the_repository());
    repository.get(&name, Generation::FIRST).await.unwrap();
    // An S3 bucket with object lock keeps versions: a DELETE without a version id would hide the object and keep its
    // bytes.
    let s3 = S3Server::start(BUCKET);
    s3.create_locking_bucket("locking");
    for mode in ["governance", "compliance"] {
        let bucket = s3.bucket("locking", s3.address()).with("path", mode);
        let store = Store::create(&locked(&bucket, mode)).unwrap();
        let repository = create(store.objects(), Cipher::None).await;
        repository.put(&name, Generation::FIRST, &payload).await.unwrap();
        let path = format!("{mode}/{}", repository.path_of(&name, Generation::FIRST));
        let retention = s3.retention("locking", &path).unwrap();
        assert!(retention.to_lowercase().starts_with(mode), "{retention}");
        let kept = s3.versions("locking");
        let error = repository.delete(&name, Generation::FIRST).await.unwrap_err();
        assert!(matches!(error, StoreError::Retained { .. }), "{error}");
        assert!(!error.is_of_the_repository());
        assert_eq!(s3.versions("locking"), kept);
        repository.get(&name, Generation::FIRST).await.unwrap();
    }
    // After its lock has ended, an object is deleted with all its bytes.
    let bucket = s3.bucket("locking", s3.address()).with("path", "short");
    let store = Store::create(&settings(
        &bucket
            .with("object-lock", "compliance")
            .with("object-lock-period", "1000ms"),
    ))
    .unwrap();
    let repository = create(store.objects(), Cipher::None).await;
    let kept = s3.versions("locking");
    repository.put(&name, Generation::FIRST, &payload).await.unwrap();
    assert_eq!(s3.versions("locking"), kept + 1);
    wait_until("the lock to end", async || {
        repository.delete(&name, Generation::FIRST).await.is_ok()
    })
    .await;
    assert_eq!(s3.versions("locking"), kept);
    repository.delete(&name, Generation::FIRST).await.unwrap();
}
