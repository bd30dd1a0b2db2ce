//! Options of buckets as a server sees them, and invalid options.
#![allow(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::error::Error;
use std::net::SocketAddr;

use common::places::{BUCKET, settings};
use common::{chunk, create};
use pgmesh_storage::{Cipher, Generation, Store, StoreError};
use pgmesh_tests::stores::{Bucket, S3Server};

/// Writes an object and reads it; gives its path.
async fn write_and_read(bucket: &Bucket) -> String {
    let store = Store::create(&settings(bucket)).unwrap();
    let repository = create(store.objects(), Cipher::None).await;
    let (name, payload) = chunk(b"some content");
    repository.put(&name, Generation::FIRST, &payload).await.unwrap();
    repository.get(&name, Generation::FIRST).await.unwrap();
    repository.path_of(&name, Generation::FIRST).to_string()
}

/// The bucket of a server whose URLs have `endpoint`, but that is connected to at its real address.
fn elsewhere(server: &S3Server, endpoint: &str) -> Bucket {
    let address: SocketAddr = server.address();
    server
        .bucket(BUCKET, address)
        .with("s3-endpoint", endpoint)
        .with("storage-host", address.ip().to_string())
        .with("storage-port", address.port().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_connected_to_where_the_options_say_whatever_its_endpoint_is() {
    let server = S3Server::start(BUCKET);
    // An unknown name, a port of its own, an address without a server.
    for endpoint in ["http://nowhere", "http://nowhere:9", "http://127.0.0.9:9"] {
        let bucket = elsewhere(&server, endpoint).with("path", format!("p{}", endpoint.len()));
        let path = write_and_read(&bucket).await;
        let name = format!("p{}/{path}", endpoint.len());
        assert!(server.names(BUCKET).contains(&name), "{endpoint}");
    }
    // With the bucket's name before the host's.
    let bucket = elsewhere(&server, "http://s3.amazonaws.com").with("s3-uri-style", "host");
    let path = write_and_read(&bucket).await;
    assert!(server.names(BUCKET).contains(&path));
    // A port alone.
    let address: SocketAddr = server.address();
    let bucket = server
        .bucket(BUCKET, address)
        .with("s3-endpoint", format!("http://{}", address.ip()))
        .with("storage-port", address.port().to_string())
        .with("path", "port");
    write_and_read(&bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_said_of_every_object_is_said() {
    let server = S3Server::start(BUCKET);
    let bucket = server
        .bucket(BUCKET, server.address())
        .with("s3-kms-key-id", "alias/of-a-key")
        .with("storage-tag", "team=dba,tier=cold");
    let path = write_and_read(&bucket).await;
    let header = |name| server.header(BUCKET, &path, name);
    assert_eq!(header("x-amz-server-side-encryption").as_deref(), Some("aws:kms"));
    let key = header("x-amz-server-side-encryption-aws-kms-key-id");
    assert_eq!(key.as_deref(), Some("alias/of-a-key"));
    assert_eq!(header("x-amz-tagging-count").as_deref(), Some("2"));
}

/// The option that the error names, and the reason.
fn refusal(bucket: &Bucket) -> (String, String) {
    match Store::open(&settings(bucket)).unwrap_err() {
        StoreError::Unusable { what, source } => (what, source.to_string()),
        other => panic!("{other}: {:?}", other.source()),
    }
}

#[test]
fn options_that_cannot_be_used_are_named_and_nothing_else_happens() {
    let usable = Bucket::new("s3")
        .with("s3-bucket", BUCKET)
        .with("s3-endpoint", "s3.example.test")
        .with("s3-key", "a key")
        .with("s3-key-secret", "its secret");
    Store::open(&settings(&usable)).unwrap();
    let refused = |changes: &[(&str, &str)]| {
        let change = |bucket: Bucket, (name, value): &(&str, &str)| bucket.with(name, *value);
        refusal(&changes.iter().fold(usable.clone(), change))
    };
    for address in ["http://127.0.0.1:9000", "http://[::1]:9000", "10.0.0.1"] {
        let (what, why) = refused(&[("s3-endpoint", address)]);
        assert_eq!(what, "s3-bucket");
        assert!(why.contains("s3-uri-style=path"), "{why}");
    }
    for wrong in ["http://127.0.0.1:99999", "host:port", "[::1"] {
        let (what, _) = refused(&[("s3-endpoint", wrong), ("s3-uri-style", "path")]);
        assert_eq!(what, "s3-endpoint", "{wrong}");
    }
    assert_eq!(refused(&[("s3-bucket", "a b")]).0, "s3-bucket");
    assert_eq!(
        refused(&[("s3-sse-customer-key", "too short")]).0,
        "s3-sse-customer-key"
    );
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    Store::open(&settings(&usable.clone().with("s3-sse-customer-key", key))).unwrap();
    let (what, why) = refused(&[("s3-sse-customer-key", key), ("s3-kms-key-id", "another")]);
    assert_eq!(what, "s3-sse-customer-key");
    assert!(why.contains("s3-kms-key-id"), "{why}");
    let folder = Bucket::new("posix").with("path", "/").with("object-lock", "compliance");
    assert_eq!(refusal(&folder).0, "object-lock");
    let tagged = Bucket::new("gcs")
        .with("gcs-bucket", BUCKET)
        .with("gcs-key-type", "token")
        .with("gcs-key", "a token")
        .with("storage-tag", "a=b");
    assert_eq!(refusal(&tagged).0, "storage-tag");
}
