//! What passed a proxy.

use std::time::{Duration, Instant};

/// One request, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRecord {
    /// Its method.
    pub method: String,
    /// Its path and query, as they came.
    pub target: String,
    /// The status of the answer; `None` where there was none, or not yet. Where the answer was cut off, the client may
    /// not have heard it.
    pub status: Option<u16>,
    /// The content of the request that came so far.
    pub request_bytes: u64,
    /// The content of the answer that was passed on so far.
    pub response_bytes: u64,
    /// Whether a fault other than a delay was done to it.
    pub faulted: bool,
    /// When its head had come.
    pub began: Instant,
    /// How long it took, once it is done.
    pub took: Option<Duration>,
}

impl HttpRecord {
    /// Its path, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Its query, empty where there is none.
    #[must_use]
    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// Whether the query has a parameter of this name.
    #[must_use]
    pub fn has_parameter(&self, name: &str) -> bool {
        let mut parameters = self.query().split('&');
        parameters.any(|parameter| parameter.split('=').next() == Some(name))
    }

    /// Whether it asks for names of objects: of S3 and GCS (`list-type=2`) or of Azure (`comp=list`).
    #[must_use]
    pub fn is_list(&self) -> bool {
        self.method == "GET"
            && (self.has_parameter("list-type") || self.query().split('&').any(|one| one == "comp=list"))
    }

    /// Whether the answer says that it was done.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}
