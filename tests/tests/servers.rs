//! The object stores that other tests rely on behave as they should: `object_store`'s own cases judge them.
#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::azure::{MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::gcp::{GcpCredential, GoogleCloudStorage, GoogleCloudStorageBuilder};
use object_store::path::Path;
use object_store::{
    Certificate, ClientOptions, Error, ObjectStore, ObjectStoreExt, PutMode, RetryConfig, StaticCredentialProvider,
    integration,
};
use pgmesh_tests::http::{Fault, HttpProxy};
use pgmesh_tests::stores::{AzureServer, Bucket, Fitness, GarageServer, GcsServer, S3Server};

const BUCKET: &str = "tests";

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(future)
}

fn builder(address: SocketAddr) -> GoogleCloudStorageBuilder {
    // The one provider of cryptography; another test of this process may have installed it already.
    rustls::crypto::ring::default_provider().install_default().ok();
    GoogleCloudStorageBuilder::new()
        .with_base_url(&format!("http://{address}"))
        .with_bucket_name(BUCKET)
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_retry(RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        })
}

fn with_key(server: &GcsServer) -> GoogleCloudStorage {
    let key = server.key_file(server.address());
    builder(server.address())
        .with_service_account_key(key)
        .build()
        .expect("a client")
}

fn with_token(server: &GcsServer, token: &str) -> GoogleCloudStorage {
    let bearer = token.to_owned();
    let credentials = Arc::new(StaticCredentialProvider::new(GcpCredential { bearer }));
    builder(server.address())
        .with_credentials(credentials)
        .build()
        .expect("a client")
}

#[test]
fn our_gcs_server_passes_the_cases_of_object_store() {
    let server = GcsServer::start(BUCKET);
    let store = with_key(&server);
    run(async {
        integration::put_get_delete_list(&store).await;
        integration::list_with_offset_exclusivity(&store).await;
        integration::list_uses_directories_correctly(&store).await;
        integration::list_with_delimiter(&store).await;
        integration::rename_and_copy(&store).await;
        integration::copy_if_not_exists(&store).await;
        integration::copy_rename_nonexistent_object(&store).await;
        integration::stream_get(&store).await;
        integration::multipart(&store, &store).await;
        integration::multipart_with_opts(&store, &store).await;
        integration::multipart_put_part_out_of_order(&store, &store).await;
        integration::multipart_race_condition(&store, true).await;
        integration::multipart_out_of_order(&store).await;
        integration::list_paginated(&store, &store).await;
        integration::get_opts(&store).await;
        integration::put_opts(&store, true).await;
        integration::put_get_attributes(&store).await;
        let missing = integration::get_nonexistent_object(&store, None).await;
        assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    });
    assert_eq!(server.open_uploads(BUCKET), 0);
}

#[test]
fn our_gcs_server_lists_page_by_page_and_prefixes_once() {
    let server = GcsServer::start(BUCKET);
    let proxy = HttpProxy::start(server.address()).expect("a proxy");
    let key = server.key_file(server.address());
    let store = builder(proxy.address())
        .with_service_account_key(key)
        .build()
        .expect("a client");
    run(async {
        for number in 0..2100 {
            let path = Path::from(format!("a & b/{:02}/{number:04}", number / 100));
            store.put(&path, "x".into()).await.expect("a put");
        }
        proxy.clear();
        let found = store
            .list_with_delimiter(Some(&Path::from("a & b")))
            .await
            .expect("a listing");
        assert_eq!((found.common_prefixes.len(), found.objects.len()), (21, 0));
        let all: Vec<_> = futures_of(store.list(None)).await;
        assert_eq!(all.len(), 2100);
        assert!(all.is_sorted());
    });
    assert_eq!(proxy.count(|request| request.is_list()), 1 + 3);
}

async fn futures_of(
    mut listing: impl futures::Stream<Item = object_store::Result<object_store::ObjectMeta>> + Unpin,
) -> Vec<String> {
    use futures::StreamExt;
    let mut names = Vec::new();
    while let Some(found) = listing.next().await {
        names.push(found.expect("an object").location.to_string());
    }
    names
}

#[test]
fn our_gcs_server_lets_in_only_whom_it_knows() {
    let server = GcsServer::start(BUCKET);
    let path = Path::from("object");
    let refused = |answer: object_store::Result<_>| {
        let error = answer.map(|_: object_store::PutResult| ()).expect_err("a refusal");
        assert!(matches!(error, Error::Unauthenticated { .. }), "{error:?}");
        assert!(error.to_string().contains("AuthenticationRequired"), "{error}");
    };
    run(async {
        with_key(&server).put(&path, "x".into()).await.expect("a put");
        let token = server.token(Duration::from_secs(60));
        with_token(&server, &token).put(&path, "x".into()).await.expect("a put");
        refused(
            with_token(&server, &server.token(Duration::ZERO))
                .put(&path, "x".into())
                .await,
        );
        refused(with_token(&server, "ya29.guessed").put(&path, "x".into()).await);
        let unknown = server.unknown_key_file(server.address());
        let stranger = builder(server.address())
            .with_service_account_key(unknown)
            .build()
            .expect("a client");
        refused(stranger.put(&path, "x".into()).await);
        server.revoke_tokens();
        refused(with_token(&server, &token).put(&path, "x".into()).await);
        refused(with_key(&server).put(&path, "x".into()).await);
        server.trust_key_again();
        server.forbid("DELETE");
        let error = with_key(&server).delete(&path).await.expect_err("no permission");
        assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
        server.allow("DELETE");
        with_key(&server).delete(&path).await.expect("a deletion");
    });
}

#[test]
fn an_ambiguous_put_is_seen_behind_a_proxy() {
    let server = GcsServer::start(BUCKET);
    let proxy = HttpProxy::start(server.address()).expect("a proxy");
    let key = server.key_file(server.address());
    let store = builder(proxy.address())
        .with_service_account_key(key)
        .build()
        .expect("a client");
    let path = Path::from("once");
    run(async {
        proxy.set(Fault::CutAnswer);
        store
            .put_opts(&path, "first".into(), PutMode::Create.into())
            .await
            .expect_err("an answer that is cut");
        proxy.heal().expect("an acceptor");
        let again = store.put_opts(&path, "first".into(), PutMode::Create.into()).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    });
    assert_eq!(server.content(BUCKET, "once").as_deref(), Some(&b"first"[..]));
}

/// One request by hand. Returns the status and the code in the answer's XML.
fn ask(server: &GcsServer, head: &str, body: &[u8]) -> (u16, String) {
    let token = server.token(Duration::from_secs(60));
    let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
    let (method, target) = line.split_once(' ').expect("a method and a target");
    let mut all = vec![("Authorization".to_owned(), format!("Bearer {token}"))];
    all.extend(headers.lines().filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_owned(), value.to_owned()))
    }));
    let answer = pgmesh_tests::http::request(server.address(), method, target, &all, body).expect("an answer");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let code = text
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"));
    (answer.status, code.map_or("", |(code, _)| code).to_owned())
}

#[test]
fn our_gcs_server_refuses_what_google_refuses() {
    let server = GcsServer::start(BUCKET);
    let refuses = |head: &str, status: u16, code: &str| {
        assert_eq!(ask(&server, head, b"hello"), (status, code.to_owned()), "{head}");
    };
    assert_eq!(
        ask(&server, "PUT /tests/a\nx-goog-hash: crc32c=mnG7TA==", b"hello"),
        (200, String::new())
    );
    refuses("PUT /tests/b\nx-goog-hash: crc32c=AAAAAA==", 400, "BadDigest");
    refuses("PUT /tests/b\nContent-MD5: AAAAAAAAAAAAAAAAAAAAAA==", 400, "BadDigest");
    refuses("PUT /tests/a\nx-goog-if-generation-match: 0", 412, "PreconditionFailed");
    refuses("PUT /tests/a\nx-goog-if-generation-match: none", 400, "InvalidArgument");
    refuses("PUT /tests/b\nx-goog-if-none-match: *", 400, "InvalidArgument");
    refuses("PUT /tests/b\nx-amz-acl: private", 400, "InvalidArgument");
    refuses("PUT /tests/b?acl", 400, "InvalidArgument");
    refuses("GET /tests?list-type=2&marker=a", 400, "InvalidArgument");
    refuses("GET /tests", 400, "InvalidArgument");
    refuses("GET /other/a", 404, "NoSuchBucket");
    refuses("GET /tests/b", 404, "NoSuchKey");
    refuses("GET /tests/a\nRange: bytes=5-", 416, "InvalidRange");
    refuses("DELETE /tests/b", 404, "NoSuchKey");
    refuses("PUT /tests/a?partNumber=1&uploadId=none", 404, "NoSuchUpload");
    refuses(
        "POST /tests/a?uploads\nx-goog-if-generation-match: 0",
        400,
        "InvalidArgument",
    );
    assert_eq!(server.names(BUCKET), ["a"]);

    let lock = "x-goog-object-lock-retain-until-date: 2999-01-01T00:00:00Z";
    refuses(&format!("PUT /tests/kept\n{lock}"), 400, "InvalidArgument");
    refuses(
        &format!("PUT /tests/kept\n{lock}\nx-goog-object-lock-mode: Locked"),
        400,
        "InvalidArgument",
    );
    let kept = format!("PUT /tests/kept\n{lock}\nx-goog-object-lock-mode: COMPLIANCE");
    assert_eq!(ask(&server, &kept, b"hello").0, 200);
    assert!(
        server
            .retention(BUCKET, "kept")
            .is_some_and(|text| text.starts_with("COMPLIANCE until 2999"))
    );
    refuses("DELETE /tests/kept", 403, "RetentionPolicyNotMet");
    refuses("PUT /tests/kept", 403, "RetentionPolicyNotMet");
}

fn option<'a>(bucket: &'a Bucket, name: &str) -> &'a str {
    bucket.option(name).unwrap_or_else(|| panic!("no {name} in {bucket:?}"))
}

fn s3_builder(bucket: &Bucket) -> AmazonS3Builder {
    rustls::crypto::ring::default_provider().install_default().ok();
    AmazonS3Builder::new()
        .with_bucket_name(option(bucket, "s3-bucket"))
        .with_endpoint(option(bucket, "s3-endpoint"))
        .with_region(option(bucket, "s3-region"))
        .with_access_key_id(option(bucket, "s3-key"))
        .with_secret_access_key(option(bucket, "s3-key-secret"))
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_retry(RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        })
}

fn s3(bucket: &Bucket) -> AmazonS3 {
    s3_builder(bucket).build().expect("a client")
}

fn azure(bucket: &Bucket) -> MicrosoftAzure {
    rustls::crypto::ring::default_provider().install_default().ok();
    MicrosoftAzureBuilder::new()
        .with_account(option(bucket, "azure-account"))
        .with_container_name(option(bucket, "azure-container"))
        .with_access_key(option(bucket, "azure-key"))
        .with_endpoint(format!(
            "{}/{}",
            option(bucket, "azure-endpoint"),
            option(bucket, "azure-account")
        ))
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .build()
        .expect("a client")
}

/// Writes an object twice, on the condition that it does not exist, and reads it.
async fn creates_once(store: &dyn ObjectStore, name: &str) {
    let path = Path::from(name);
    let put = |content: &'static str| store.put_opts(&path, content.into(), PutMode::Create.into());
    put("first").await.expect("a put");
    let again = put("second").await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    let found = store
        .get(&path)
        .await
        .expect("a get")
        .bytes()
        .await
        .expect("its content");
    assert_eq!(found, "first");
}

#[test]
fn moto_stores_behind_a_proxy_and_checks_credentials_where_asked() {
    let mut server = S3Server::start(BUCKET);
    let proxy = HttpProxy::start(server.address()).expect("a proxy");
    let bucket = server.bucket(BUCKET, proxy.address());
    let path = Path::from("a & b/c d");
    run(async {
        creates_once(&s3(&bucket), "a & b/c d").await;
        assert_eq!(server.names(BUCKET), ["a & b/c d"]);
        server.harm(BUCKET, "a & b/c d", |content| content.extend_from_slice(b" and more"));
        assert_eq!(server.content(BUCKET, "a & b/c d"), b"first and more");
        server.enforce_credentials();
        let error = s3(&bucket).get(&path).await.expect_err("an unknown key");
        assert!(error.to_string().contains("InvalidAccessKeyId"), "{error}");
        let bucket = server.bucket(BUCKET, proxy.address());
        s3(&bucket).get(&path).await.expect("a get");
        let error = s3(&bucket.clone().with("s3-key-secret", "another")).get(&path).await;
        let error = error.expect_err("a wrong signature");
        assert!(error.to_string().contains("SignatureDoesNotMatch"), "{error}");
        s3(&bucket).put(&Path::from("d"), "x".into()).await.expect("a put");
        assert_eq!(server.names(BUCKET).len(), 2);
    });
    assert_eq!(proxy.count(|request| request.method == "PUT"), 3);
    assert_eq!(server.open_uploads(BUCKET), 0);
}

#[test]
fn moto_speaks_tls_with_fit_and_unfit_certificates() {
    for fitness in [Fitness::Fit, Fitness::OtherHost, Fitness::Expired] {
        let server = S3Server::start_with_tls(BUCKET, fitness);
        let bucket = server.bucket(BUCKET, server.address());
        let authority = std::fs::read(server.ca_file()).expect("the authority's certificate");
        let authority = Certificate::from_pem(&authority).expect("a certificate");
        let trusting = ClientOptions::new().with_root_certificate(authority);
        let store = s3_builder(&bucket)
            .with_client_options(trusting)
            .build()
            .expect("a client");
        let answer = run(store.put(&Path::from("a"), "x".into()));
        assert_eq!(answer.is_ok(), fitness == Fitness::Fit, "{fitness:?}: {answer:?}");
        let stranger = run(s3(&bucket).put(&Path::from("a"), "x".into()));
        stranger.expect_err("an unknown authority");
    }
}

#[test]
fn azurite_stores_behind_a_proxy() {
    let server = AzureServer::start(BUCKET);
    let proxy = HttpProxy::start(server.address()).expect("a proxy");
    run(creates_once(
        &azure(&server.bucket(BUCKET, proxy.address())),
        "a & b/c d",
    ));
    assert_eq!(server.names(BUCKET), ["a & b/c d"]);
    server.harm(BUCKET, "a & b/c d", |content| content.extend_from_slice(b" and more"));
    assert_eq!(server.content(BUCKET, "a & b/c d"), b"first and more");
    let target = format!("/devstoreaccount1/{BUCKET}/a%20%26%20b/c%20d");
    let status = |permissions: &str| {
        let signature = server.shared_access(BUCKET, permissions, "2999-01-01T00:00:00Z");
        let target = format!("{target}?{signature}");
        pgmesh_tests::http::request(server.address(), "GET", &target, &[], &[])
            .expect("an answer")
            .status
    };
    assert_eq!([status("r"), status("w")], [200, 403]);
}

#[test]
fn garage_stores_and_ignores_conditions() {
    if !GarageServer::is_installed() {
        eprintln!("no garage on this machine: `make test-all` installs it");
        return;
    }
    let server = GarageServer::start(BUCKET);
    let store = s3(&server.bucket(BUCKET, server.address()));
    let path = Path::from("a & b/c d");
    run(async {
        for content in ["first", "second"] {
            store
                .put_opts(&path, content.into(), PutMode::Create.into())
                .await
                .expect("a put");
        }
        let found = store
            .get(&path)
            .await
            .expect("a get")
            .bytes()
            .await
            .expect("its content");
        assert_eq!(
            found, "second",
            "it has learnt conditions: then the tests need another server that has not"
        );
    });
}
