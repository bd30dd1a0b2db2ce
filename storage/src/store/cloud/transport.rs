//! The HTTP client of one bucket: its certificates, its address, its proxy.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Client, Proxy, Url};

use super::options::{Options, secret, unusable};
use crate::error::StoreError;
use crate::store::Secrets;

/// The time-out of a connection attempt.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The same for a metadata service: it is one hop away, or does not exist.
const METADATA_CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Idle connections that are kept.
const IDLE: usize = 32;

/// The clients of one bucket.
#[derive(Clone, Debug)]
pub struct Clients {
    /// For the bucket.
    pub bucket: Client,
    /// The host and port to connect to instead: `storage-host` and `storage-port`.
    pub connect_to: Option<(String, u16)>,
    /// For token servers, which issue credentials.
    pub tokens: Client,
    /// For this machine's own metadata service, which issues credentials: never through a proxy.
    pub metadata: Client,
}

impl Clients {
    /// The URL to connect to for a request to the bucket. A host name stays as it is, for TLS: the client's resolver
    /// sends it to the other host. The resolver is not asked about an IP address, and a port in the URL overrides its
    /// port: those two are changed here.
    pub fn way_to(&self, mut url: Url) -> Url {
        let Some((host, port)) = &self.connect_to else {
            return url;
        };
        if url.domain().is_none() {
            let host = if host.contains(':') && !host.starts_with('[') {
                format!("[{host}]")
            } else {
                host.clone()
            };
            // If `storage-host` is no host, the connection fails.
            let _ = url.set_host(Some(&host));
        }
        let _ = url.set_port(Some(*port));
        url
    }

    pub fn build(options: &Options, secrets: &Secrets) -> Result<Self, StoreError> {
        // reqwest takes the process's TLS provider. If one is installed already, it is the same.
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let mut bucket = with_proxy(trusted(usual(), options)?, secret(secrets, "storage-proxy"))?;
        if let Some((host, port)) = options.connect_to.clone() {
            bucket = bucket.dns_resolver(Elsewhere { host, port });
        }
        let tokens = with_proxy(trusted(usual(), options)?, secret(secrets, "storage-proxy"))?;
        let metadata = usual().connect_timeout(METADATA_CONNECT_LIMIT).no_proxy();
        let build = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|error| StoreError::Unusable {
                what: "the HTTP client".to_owned(),
                source: Box::new(error),
            })
        };
        Ok(Self {
            bucket: build(bucket)?,
            connect_to: options.connect_to.clone(),
            tokens: build(tokens)?,
            metadata: build(metadata)?,
        })
    }
}

fn usual() -> reqwest::ClientBuilder {
    Client::builder()
        .user_agent(concat!("pgmesh/", env!("CARGO_PKG_VERSION")))
        // A redirect would take the credentials elsewhere, and signatures do not survive one.
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .connect_timeout(CONNECT_LIMIT)
        .pool_max_idle_per_host(IDLE)
        .pool_idle_timeout(Duration::from_secs(30))
        .referer(false)
}

/// `storage-ca-file` and `storage-ca-path` are trusted instead of the system's authorities, as by pgBackRest.
fn trusted(builder: reqwest::ClientBuilder, options: &Options) -> Result<reqwest::ClientBuilder, StoreError> {
    if !options.verify_tls {
        return Ok(builder.tls_danger_accept_invalid_certs(true));
    }
    let mut certificates = Vec::new();
    if let Some(file) = &options.ca_file {
        certificates.append(&mut bundle("storage-ca-file", file)?);
    }
    if let Some(folder) = &options.ca_path {
        for file in files_of(folder)? {
            // The folder may hold other files, for example revocation lists.
            certificates.append(&mut bundle("storage-ca-path", &file).unwrap_or_default());
        }
    }
    if options.ca_file.is_none() && options.ca_path.is_none() {
        return Ok(builder);
    }
    if certificates.is_empty() {
        return Err(unusable(
            "storage-ca-file or storage-ca-path",
            "there is no certificate in it",
        ));
    }
    Ok(builder.tls_certs_only(certificates))
}

fn bundle(option: &str, file: &Path) -> Result<Vec<Certificate>, StoreError> {
    let pem = std::fs::read(file).map_err(|error| unusable(option, format!("{}: {error}", file.display())))?;
    Certificate::from_pem_bundle(&pem).map_err(|error| unusable(option, format!("{}: {error}", file.display())))
}

fn files_of(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = std::fs::read_dir(folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let entries = entries.map_err(|error| unusable("storage-ca-path", format!("{}: {error}", folder.display())))?;
    Ok(entries
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect())
}

/// `storage-proxy`; without that option, the environment's `HTTPS_PROXY` and `NO_PROXY`.
fn with_proxy(builder: reqwest::ClientBuilder, proxy: Option<&str>) -> Result<reqwest::ClientBuilder, StoreError> {
    match proxy {
        None => Ok(builder),
        Some("none") => Ok(builder.no_proxy()),
        Some(url) => {
            // The URL may carry a password: it is not repeated.
            let proxy = Proxy::all(url).map_err(|_| unusable("storage-proxy", "it is no URL of a proxy"))?;
            Ok(builder.proxy(proxy))
        }
    }
}

/// Resolves every name to one host: `storage-host`.
#[derive(Debug)]
struct Elsewhere {
    host: String,
    port: u16,
}

impl Resolve for Elsewhere {
    fn resolve(&self, _name: Name) -> Resolving {
        let place = (self.host.clone(), self.port);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host(place).await?.collect();
            let addresses: Addrs = Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}
