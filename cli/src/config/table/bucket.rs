//! Options of repositories in buckets (`repoN-s3-…`, `repoN-azure-…`, `repoN-gcs-…`, `repoN-storage-…`), named as by
//! pgBackRest.

use super::sets::REPOSITORY;
use crate::config::kind::Kind;
use crate::config::option::{IndexKey, OptionSpec};
use std::time::Duration;

const fn repository(name: &'static str, kind: Kind, help: &'static str) -> OptionSpec {
    OptionSpec::new(name, kind, help)
        .commands(REPOSITORY)
        .indexed(IndexKey::Repo)
}

const STYLES: Kind = Kind::Choice(&["host", "path"]);

/// Options of buckets.
pub const OPTIONS: &[OptionSpec] = &[
    repository("s3-bucket", Kind::Text, "bucket of S3").about("It must exist.", "repo2-s3-bucket=backups"),
    repository("s3-endpoint", Kind::Text, "server of S3").local().about(
        "HOST[:PORT]; https unless http:// stands before it. Default: Amazon's in the region.",
        "repo2-s3-endpoint=s3.example.com",
    ),
    repository("s3-region", Kind::Text, "region of the bucket")
        .about("Servers of one's own take any that they were set up with.", "repo2-s3-region=eu-central-1"),
    repository("s3-uri-style", STYLES, "where the bucket is named")
        .local()
        .about("host: BUCKET.ENDPOINT, as Amazon wants it. path: ENDPOINT/BUCKET. Default: host.", "repo2-s3-uri-style=path"),
    repository(
        "s3-key-type",
        Kind::Choice(&["shared", "auto", "web-id", "pod-id"]),
        "where the credentials come from",
    )
    .local()
    .about(
        "shared: s3-key and s3-key-secret. auto: the role of the instance or container, from its metadata service. \
        web-id: a token in AWS_WEB_IDENTITY_TOKEN_FILE for AWS_ROLE_ARN. pod-id: EKS pod identity. Those that expire are \
        renewed in time. Default: shared.",
        "repo2-s3-key-type=auto",
    ),
    repository("s3-key", Kind::Text, "access key").secret().about(
        "Read again from the file when the server refuses it, so that keys can be rotated while a node runs.",
        "repo2-s3-key=AKIA…",
    ),
    repository("s3-key-secret", Kind::Text, "secret of the access key")
        .secret()
        .about("Only in a file or the environment; read again when the server refuses it.", "repo2-s3-key-secret=…"),
    repository("s3-token", Kind::Text, "session token of temporary keys")
        .secret()
        .about("Where the keys are temporary; read again from the file when it has expired.", "repo2-s3-token=…"),
    repository("s3-kms-key-id", Kind::Text, "key for encryption by the server (SSE-KMS)")
        .secret()
        .about("Beside pgmesh's own encryption, where a policy asks for it.", "repo2-s3-kms-key-id=arn:aws:kms:…"),
    repository("s3-sse-customer-key", Kind::Text, "key for encryption by the server (SSE-C)")
        .secret()
        .about("32 bytes in base64; whoever loses it loses the repository.", "repo2-s3-sse-customer-key=…"),
    repository("s3-requester-pays", Kind::Flag, "whether requests are paid by this account")
    .default("n")
        .local()
        .about("For buckets whose owner lets others pay.", "repo2-s3-requester-pays=y"),
    repository("azure-account", Kind::Text, "storage account of Azure")
        .secret()
        .about("Kept with the credentials, as by pgBackRest.", "repo3-azure-account=backups"),
    repository("azure-container", Kind::Text, "container of Azure").about("It must exist.", "repo3-azure-container=pgmesh"),
    repository("azure-endpoint", Kind::Text, "server of Azure").local().about(
        "HOST[:PORT]; https unless http:// stands before it. Default: blob.core.windows.net.",
        "repo3-azure-endpoint=blob.core.usgovcloudapi.net",
    ),
    repository("azure-uri-style", STYLES, "where the account is named")
        .local()
        .about("host: ACCOUNT.ENDPOINT. path: ENDPOINT/ACCOUNT. Default: host.", "repo3-azure-uri-style=path"),
    repository(
        "azure-key-type",
        Kind::Choice(&["shared", "sas", "auto"]),
        "where the credentials come from",
    )
    .local()
    .about(
        "shared: azure-key is the account's key. sas: azure-key is a shared access signature. auto: a workload identity \
        (AZURE_FEDERATED_TOKEN_FILE) or the machine's managed identity. Default: shared.",
        "repo3-azure-key-type=sas",
    ),
    repository("azure-key", Kind::Text, "key or signature of the account")
        .secret()
        .about("Read again from the file when the server refuses it.", "repo3-azure-key=…"),
    repository("gcs-bucket", Kind::Text, "bucket of Google Cloud Storage")
        .about("It must exist.", "repo4-gcs-bucket=backups"),
    repository("gcs-endpoint", Kind::Text, "server of Google Cloud Storage").local().about(
        "HOST[:PORT]; https unless http:// stands before it. Default: storage.googleapis.com.",
        "repo4-gcs-endpoint=storage.googleapis.com",
    ),
    repository(
        "gcs-key-type",
        Kind::Choice(&["service", "token", "auto"]),
        "where the credentials come from",
    )
    .local()
    .about(
        "service: gcs-key is the file of a service account's key. token: gcs-key is an access token. auto: the \
        application's default credentials, or the machine's or pod's identity from the metadata service. Default: service.",
        "repo4-gcs-key-type=auto",
    ),
    repository("gcs-key", Kind::Text, "file of a service account's key, or a token")
        .secret()
        .about("Read again when the server refuses it.", "repo4-gcs-key=/etc/pgmesh/gcs-key.json"),
    repository("gcs-user-project", Kind::Text, "project that pays for requests")
        .local()
        .about("For buckets whose owner lets others pay.", "repo4-gcs-user-project=backups"),
    repository("storage-host", Kind::Text, "host to connect to instead of the endpoint")
        .local()
        .about("Names and signatures stay those of the endpoint: for proxies and private networks.", "repo2-storage-host=10.0.0.7"),
    repository("storage-port", Kind::Integer { min: 1, max: 65535 }, "port to connect to")
        .local()
        .about("Default: 443, or 80 without encryption.", "repo2-storage-port=9000"),
    repository("storage-ca-file", Kind::Path, "certificates to trust")
        .local()
        .about("PEM; instead of the system's authorities.", "repo2-storage-ca-file=/etc/pgmesh/ca.pem"),
    repository("storage-ca-path", Kind::Path, "directory of certificates to trust")
        .local()
        .about("PEM files; instead of the system's authorities.", "repo2-storage-ca-path=/etc/pgmesh/ca"),
    repository("storage-verify-tls", Kind::Flag, "whether the server's certificate is checked")
    .default("y")
        .local()
        .about("For tests only: with n anybody in between can read the credentials.", "repo2-storage-verify-tls=n"),
    repository("storage-proxy", Kind::Text, "HTTP proxy on the way")
        .secret()
        .about(
            "A URL, with a password where the proxy asks for one. Default: what HTTPS_PROXY and NO_PROXY say; none: no \
            proxy whatever they say.",
            "repo2-storage-proxy=http://proxy:3128",
        ),
    repository(
        "storage-timeout",
        Kind::Duration {
            min: Duration::from_millis(100),
            max: Duration::from_secs(3600),
        },
        "how long a server may be silent",
    )
    .local()
    .about(
        "A request of which no byte moves for so long is given up and tried again. Default: 10s.",
        "repo2-storage-timeout=30s",
    ),
    repository(
        "storage-upload-chunk-size",
        Kind::Size {
            min: 5 << 20,
            max: 1 << 30,
        },
        "length of the parts of an upload",
    )
    .local()
    .about(
        "What is no longer than this is written by one request. Default: 32MiB.",
        "repo2-storage-upload-chunk-size=64MiB",
    ),
    repository("storage-tag", Kind::Map { separator: ',' }, "tags of every object")
        .about("S3 and Azure.", "repo2-storage-tag=team=dba"),
];
