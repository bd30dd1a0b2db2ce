//! Places of every type that a repository may lie in, each a real one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use pgmesh_chaos::http::HttpProxy;
use pgmesh_storage::{CheckOutcome, CheckSize, FixedSecrets, SecretText, StoreSettings, check_store};
use pgmesh_tests::stores::{AzureServer, Bucket, GarageServer, GcsServer, S3Server};

/// The bucket or container of all tests.
pub const BUCKET: &str = "pgmesh-test";

/// Options that are secrets; the same list as in the program's table.
const SECRETS: &[&str] = &[
    "s3-key",
    "s3-key-secret",
    "s3-token",
    "s3-kms-key-id",
    "s3-sse-customer-key",
    "azure-account",
    "azure-key",
    "gcs-key",
    "storage-proxy",
];

/// A place, and the proxy before it.
pub struct Place {
    server: Server,
    proxy: Option<HttpProxy>,
}

pub enum Server {
    Directory(tempfile::TempDir),
    S3(S3Server),
    Azure(AzureServer),
    Gcs(GcsServer),
    Garage(GarageServer),
}

impl Place {
    pub fn directory() -> Self {
        Self::of(Server::Directory(tempfile::tempdir().unwrap()))
    }

    pub fn s3() -> Self {
        Self::of(Server::S3(S3Server::start(BUCKET)))
    }

    pub fn azure() -> Self {
        Self::of(Server::Azure(AzureServer::start(BUCKET)))
    }

    pub fn gcs() -> Self {
        Self::of(Server::Gcs(GcsServer::start(BUCKET)))
    }

    /// Garage, if `make test-all` has installed it.
    pub fn garage() -> Option<Self> {
        GarageServer::is_installed().then(|| Self::of(Server::Garage(GarageServer::start(BUCKET))))
    }

    fn of(server: Server) -> Self {
        let mut place = Self { server, proxy: None };
        if let Some(address) = place.address() {
            place.proxy = Some(HttpProxy::start(address).unwrap());
        }
        place
    }

    fn address(&self) -> Option<SocketAddr> {
        match &self.server {
            Server::Directory(_) => None,
            Server::S3(server) => Some(server.address()),
            Server::Azure(server) => Some(server.address()),
            Server::Gcs(server) => Some(server.address()),
            Server::Garage(server) => Some(server.address()),
        }
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The proxy that counts requests and harms them.
    pub fn proxy(&self) -> &HttpProxy {
        self.proxy.as_ref().unwrap()
    }

    /// The options of a bucket.
    pub fn bucket(&self) -> Bucket {
        let address = self.proxy().address();
        match &self.server {
            Server::Directory(_) => panic!("a directory is no bucket"),
            Server::S3(server) => server.bucket(BUCKET, address),
            Server::Azure(server) => server.bucket(BUCKET, address),
            Server::Gcs(server) => server.bucket(BUCKET, address),
            Server::Garage(server) => server.bucket(BUCKET, address),
        }
    }

    /// The settings of a repository at a path in it.
    pub fn settings(&self, path: &str) -> StoreSettings {
        match &self.server {
            Server::Directory(folder) => {
                let path = folder.path().join("repositories").join(path);
                let definition = [("type", "posix".to_owned()), ("path", path.display().to_string())];
                StoreSettings {
                    definition: definition.map(|(name, value)| (name.to_owned(), value)).into(),
                    ..StoreSettings::default()
                }
            }
            _ => settings(&self.bucket().with("path", path)),
        }
    }
}

/// The options of a bucket as storage takes them.
pub fn settings(bucket: &Bucket) -> StoreSettings {
    let (mut definition, mut secrets) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in bucket.options() {
        if SECRETS.contains(&name.as_str()) {
            secrets.insert(name.clone(), SecretText::new(value.clone()));
        } else {
            definition.insert(name.clone(), value.clone());
        }
    }
    StoreSettings {
        definition,
        local: BTreeMap::new(),
        secrets: Arc::new(FixedSecrets(secrets)),
    }
}

/// Asserts that all steps of `repo-check` are good, except the named ones, which give a note.
pub async fn check(settings: &StoreSettings, notes: &[&str]) {
    let steps = check_store(settings, CheckSize::default(), |_| {}).await.unwrap();
    for step in &steps {
        let expected = notes.iter().any(|note| step.what.contains(note));
        match &step.outcome {
            CheckOutcome::Good => assert!(!expected, "nothing to say of {:?}", step.what),
            CheckOutcome::Note(text) => assert!(expected, "{:?}: {text}", step.what),
            CheckOutcome::Bad(text) => panic!("{:?}: {text}", step.what),
        }
    }
    assert_eq!(steps.len(), 10);
}
