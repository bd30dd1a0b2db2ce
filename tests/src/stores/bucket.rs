//! A node's options for a bucket.

use std::net::SocketAddr;

/// The options of a repository in a bucket, named as in a node's file, without `repoN-`.
#[derive(Clone, Debug)]
pub struct Bucket {
    options: Vec<(String, String)>,
}

impl Bucket {
    /// A bucket of a type (`s3`, `azure` or `gcs`).
    #[must_use]
    pub fn new(kind: &str) -> Self {
        Self { options: Vec::new() }.with("type", kind)
    }

    /// The same with one more option, or with another value of an option that it has.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.options.retain(|(other, _)| other != name);
        self.options.push((name.to_owned(), value.into()));
        self
    }

    /// The same without an option.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.options.retain(|(other, _)| other != name);
        self
    }

    /// All options, in order.
    #[must_use]
    pub fn options(&self) -> &[(String, String)] {
        &self.options
    }

    /// The value of an option.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        let found = self.options.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The lines of a node's file for repository `number`.
    #[must_use]
    pub fn lines(&self, number: usize) -> String {
        let options = self.options.iter();
        options
            .map(|(name, value)| format!("repo{number}-{name}={value}\n"))
            .collect()
    }

    /// The same as arguments of a command.
    #[must_use]
    pub fn arguments(&self, number: usize) -> Vec<String> {
        let options = self.options.iter();
        options
            .map(|(name, value)| format!("--repo{number}-{name}={value}"))
            .collect()
    }
}

/// The endpoint of a server without TLS.
pub(super) fn endpoint(address: SocketAddr) -> String {
    format!("http://{address}")
}
