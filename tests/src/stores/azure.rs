//! Azurite: an Azure Blob Storage in JavaScript.

use std::net::SocketAddr;
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use pgmesh_chaos::http::Response;
use sha2::Sha256;

use super::Bucket;
use super::bucket::endpoint;
use super::gcs::date;
use super::program::{Server, installed};
use super::xml::{element, elements, encoded_path, encoded_value, unescaped};
use crate::process::Process;

/// The account and the key of every Azurite, which are public.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const VERSION: &str = "2023-11-03";

/// A running Azurite. It ends, with all that it stores, when it is dropped.
#[derive(Debug)]
pub struct AzureServer {
    server: Server,
}

impl AzureServer {
    /// Starts Azurite with a container.
    ///
    /// # Panics
    /// If Azurite is not installed, or does not start.
    #[must_use]
    pub fn start(container: &str) -> Self {
        let server = Server::start("azurite", |address, _| {
            let path = "azurite/node_modules/.bin/azurite-blob";
            let mut command = Command::new(installed(path, "azurite-blob", "make setup"));
            command.args([
                "--silent",
                "--skipApiVersionCheck",
                "--inMemoryPersistence",
                "--disableTelemetry",
            ]);
            command.args(["--blobHost", "127.0.0.1", "--blobPort", &address.port().to_string()]);
            command
        });
        let server = Self { server };
        server.create_container(container);
        server
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The options of a node for a container, with the account's key; `address` is that of the server or of a proxy
    /// before it.
    #[must_use]
    pub fn bucket(&self, container: &str, address: SocketAddr) -> Bucket {
        Bucket::new("azure")
            .with("azure-account", ACCOUNT)
            .with("azure-container", container)
            .with("azure-endpoint", endpoint(address))
            .with("azure-uri-style", "path")
            .with("azure-key", KEY)
    }

    /// Makes a container.
    pub fn create_container(&self, container: &str) {
        self.ask("PUT", container, &[("restype", "container")], &[]);
    }

    /// The names of a container's blobs, in order.
    #[must_use]
    pub fn names(&self, container: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut marker = String::new();
        loop {
            let query = [("comp", "list"), ("marker", &marker), ("restype", "container")];
            let answer = self.ask("GET", container, &query, &[]);
            let page = String::from_utf8_lossy(&answer.body);
            names.extend(elements(&page, "Name").into_iter().map(unescaped));
            match element(&page, "NextMarker") {
                Some(next) => marker = next,
                None => return names,
            }
        }
    }

    /// A blob's content.
    ///
    /// # Panics
    /// If there is no such blob.
    #[must_use]
    pub fn content(&self, container: &str, name: &str) -> Vec<u8> {
        self.ask("GET", &format!("{container}/{name}"), &[], &[]).body
    }

    /// Replaces the content of a blob without pgmesh's knowledge.
    pub fn harm(&self, container: &str, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.content(container, name);
        change(&mut content);
        self.ask("PUT", &format!("{container}/{name}"), &[], &content);
    }

    /// A shared access signature for a container: `azure-key` with `azure-key-type=sas`. `permissions` as `racwdl`.
    #[must_use]
    pub fn shared_access(&self, container: &str, permissions: &str, expiry: &str) -> String {
        // https://learn.microsoft.com/rest/api/storageservices/create-service-sas, for this version.
        let to_sign =
            format!("{permissions}\n\n{expiry}\n/blob/{ACCOUNT}/{container}\n\n\n\n{VERSION}\nc\n\n\n\n\n\n\n");
        let signature = encoded_value(&signed(&to_sign));
        format!(
            "sp={permissions}&se={}&sv={VERSION}&sr=c&sig={signature}",
            encoded_value(expiry)
        )
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.server.process()
    }

    /// SIGKILL: it does not come back.
    pub fn kill(&mut self) {
        self.server.process_mut().kill();
    }

    /// SIGSTOP: it keeps its port and its connections, and sends nothing.
    pub fn pause(&self) {
        self.server.pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.server.resume();
    }

    /// A request signed with the account's key; `query` is in order of names.
    /// <https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key>
    fn ask(&self, method: &str, path: &str, query: &[(&str, &str)], body: &[u8]) -> Response {
        let path = format!("/{ACCOUNT}/{}", encoded_path(path));
        let length = if body.is_empty() {
            String::new()
        } else {
            body.len().to_string()
        };
        let mut headers = vec![
            ("x-ms-date", date::http(date::now())),
            ("x-ms-version", VERSION.to_owned()),
        ];
        if method == "PUT" && query.is_empty() {
            headers.insert(0, ("x-ms-blob-type", "BlockBlob".to_owned()));
        }
        let mut to_sign = format!("{method}\n\n\n{length}\n\n\n\n\n\n\n\n\n");
        for (name, value) in &headers {
            to_sign += &format!("{name}:{value}\n");
        }
        to_sign += &format!("/{ACCOUNT}{path}");
        for (name, value) in query {
            to_sign += &format!("\n{name}:{value}");
        }
        headers.push(("Authorization", format!("SharedKey {ACCOUNT}:{}", signed(&to_sign))));
        let headers: Vec<_> = headers
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let pairs: Vec<_> = query
            .iter()
            .map(|(name, value)| format!("{name}={}", encoded_value(value)))
            .collect();
        let target = if query.is_empty() {
            path
        } else {
            format!("{path}?{}", pairs.join("&"))
        };
        self.server.ask(method, &target, &headers, body)
    }
}

fn signed(text: &str) -> String {
    let key = BASE64_STANDARD.decode(KEY).expect("the key's base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key of any length");
    mac.update(text.as_bytes());
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}
