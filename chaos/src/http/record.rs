//! Requests that passed a proxy.

use std::time::{Duration, Instant};

/// One request, and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRecord {
    /// Its method.
    pub method: String,
    /// Its path and query, as they came.
    pub target: String,
    /// The status of the answer; `None` if there was none, or not yet. If the answer was cut off, the client may not
    /// have received it.
    pub status: Option<u16>,
    /// The bytes of the request's content so far.
    pub request_bytes: u64,
    /// The bytes of the answer's content that were passed on so far.
    pub response_bytes: u64,
    /// Whether a fault other than a delay was done to it.
    pub faulted: bool,
    /// The time at which its head had come.
    pub began: Instant,
    /// Its duration, once it has ended.
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

    /// Whether it lists objects: of S3 and GCS (`list-type=2`) or of Azure (`comp=list`).
    #[must_use]
    pub fn is_list(&self) -> bool {
        self.method == "GET"
            && (self.has_parameter("list-type") || self.query().split('&').any(|one| one == "comp=list"))
    }

    /// Whether its status is a success.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}
