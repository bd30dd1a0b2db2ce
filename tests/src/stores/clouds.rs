//! One store of each type.

use super::{AzureServer, Bucket, GcsServer, S3Server};
use pgmesh_chaos::http::HttpProxy;

/// The bucket of each store.
const BUCKET: &str = "backups";

/// An S3, an Azure and a GCS server with a bucket each, and a proxy before each.
#[derive(Debug)]
pub struct Clouds {
    /// moto.
    pub s3: S3Server,
    /// Azurite.
    pub azure: AzureServer,
    /// The server in `gcs`.
    pub gcs: GcsServer,
    /// The proxies, in this order.
    pub proxies: [HttpProxy; 3],
}

impl Clouds {
    /// Starts all.
    #[must_use]
    pub fn start() -> Self {
        let azure = std::thread::spawn(|| AzureServer::start(BUCKET));
        let s3 = S3Server::start(BUCKET);
        let gcs = GcsServer::start(BUCKET);
        let azure = azure.join().expect("an Azure server");
        let addresses = [s3.address(), azure.address(), gcs.address()];
        let proxies = addresses.map(|address| HttpProxy::start(address).expect("starting a proxy"));
        Self {
            s3,
            azure,
            gcs,
            proxies,
        }
    }

    /// A node's options for the buckets through the proxies.
    #[must_use]
    pub fn buckets(&self) -> [Bucket; 3] {
        let [s3, azure, gcs] = [0, 1, 2].map(|number: usize| self.proxies[number].address());
        [
            self.s3.bucket(BUCKET, s3),
            self.azure.bucket(BUCKET, azure),
            self.gcs.bucket(BUCKET, gcs),
        ]
    }

    /// The names of the objects in each bucket.
    #[must_use]
    pub fn names(&self) -> [Vec<String>; 3] {
        [self.s3.names(BUCKET), self.azure.names(BUCKET), self.gcs.names(BUCKET)]
    }

    /// Forgets the counted requests.
    pub fn clear(&self) {
        self.proxies.iter().for_each(HttpProxy::clear);
    }

    /// Texts that open one of the stores, and that only a configuration may hold.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let [s3, azure, _] = self.buckets();
        let option = |bucket: &Bucket, name: &str| bucket.option(name).unwrap_or_default().to_owned();
        let mut secrets = vec![option(&s3, "s3-key-secret"), option(&azure, "azure-key")];
        // Any line of the key gives it away.
        let key_file = self.gcs.key_file(self.gcs.address());
        secrets.extend(key_file.split("\\n").skip(2).take(3).map(str::to_owned));
        secrets
    }
}
