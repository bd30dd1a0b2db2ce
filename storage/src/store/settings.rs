use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::kind::StoreKind;
use super::secrets::{FixedSecrets, SecretSource};
use crate::error::StoreError;

/// The options of one repository. Their names are without the prefix `repoN-`.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// The options that are equal on all nodes: type, path, bucket, endpoint.
    pub definition: BTreeMap<String, String>,
    /// This machine's own options: time-outs, certificates, proxies.
    pub local: BTreeMap<String, String>,
    /// Credentials.
    pub secrets: Arc<dyn SecretSource>,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            definition: BTreeMap::new(),
            local: BTreeMap::new(),
            secrets: Arc::new(FixedSecrets::default()),
        }
    }
}

impl StoreSettings {
    /// `type`; the default is a directory.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] for an unknown type.
    pub fn kind(&self) -> Result<StoreKind, StoreError> {
        let text = self.definition.get("type").map_or("posix", String::as_str);
        text.parse().map_err(|error| StoreError::Unusable {
            what: "the type of the repository".to_owned(),
            source: Box::<super::ParseStoreKindError>::new(error),
        })
    }

    /// `path`: a directory, or in a bucket the path before all objects' names.
    #[must_use]
    pub fn path(&self) -> &str {
        self.definition.get("path").map_or("/var/lib/pgmesh", String::as_str)
    }

    /// `path` as the prefix of all names in a bucket; empty for the bucket's root.
    #[must_use]
    pub fn path_in_bucket(&self) -> &str {
        self.definition.get("path").map_or("", |path| path.trim_matches('/'))
    }

    /// An option that is no secret; `None` if it is empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.definition.get(name).or_else(|| self.local.get(name));
        found.map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// The repository's place, for messages: `/backup/repo1`, `s3://bucket/path`.
impl fmt::Display for StoreSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bucket = match self.kind() {
            Ok(StoreKind::S3) => Some(("s3", "s3-bucket")),
            Ok(StoreKind::Azure) => Some(("azure", "azure-container")),
            Ok(StoreKind::Gcs) => Some(("gs", "gcs-bucket")),
            Ok(StoreKind::Posix) | Err(_) => None,
        };
        match bucket {
            Some((scheme, option)) => {
                write!(
                    formatter,
                    "{scheme}://{}/{}",
                    self.get(option).unwrap_or("?"),
                    self.path_in_bucket()
                )
            }
            None => formatter.write_str(self.path()),
        }
    }
}
