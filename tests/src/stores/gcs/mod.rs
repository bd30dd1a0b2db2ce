//! pgmesh's own server for Google Cloud Storage: no emulator speaks the XML API as `object_store` does.
//!
//! It is strict: it refuses every request that Cloud Storage would refuse, or would silently not carry out. All objects
//! are in memory. <https://cloud.google.com/storage/docs/xml-api/overview>
//!
//! - [`identity`]: service accounts, tokens, and the check of requests;
//! - [`call`]: the requests that the server knows, and the refusal of others;
//! - [`bucket`]: objects, their generations and retention, and uploads in parts;
//! - [`answer`]: the XML of errors and listings.

mod answer;
mod bucket;
mod call;
pub(super) mod date;
mod identity;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgmesh_chaos::http::{HttpServer, Request, Response};

use answer::Failure;
use bucket::Bucket;
use call::Call;
use identity::Identities;

use crate::scratch::Scratch;
use crate::stores::Bucket as StoreBucket;
use crate::stores::bucket::endpoint;

/// A running server. It ends, with all that it stores, when it is dropped.
#[derive(Debug)]
pub struct GcsServer {
    server: HttpServer,
    state: Arc<Mutex<State>>,
    scratch: Scratch,
}

#[derive(Debug, Default)]
struct State {
    identities: Identities,
    buckets: BTreeMap<String, Bucket>,
    /// Methods that the credentials do not allow.
    forbidden: BTreeSet<String>,
    /// The generation of the object that was written last: generations grow over all objects.
    generation: u64,
}

impl GcsServer {
    /// Starts a server with a bucket.
    #[must_use]
    pub fn start(bucket: &str) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let server = HttpServer::start(move |request| lock(&shared).answer(&request)).expect("starting a GCS server");
        let scratch = Scratch::new("gcs");
        let server = Self { server, state, scratch };
        server.create_bucket(bucket);
        server
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Makes a bucket.
    pub fn create_bucket(&self, bucket: &str) {
        lock(&self.state).buckets.insert(bucket.to_owned(), Bucket::default());
    }

    /// The key file of a service account with access: `gcs-key` with `gcs-key-type=service`. Clients get tokens at
    /// `address`, that of the server or of a proxy before it.
    #[must_use]
    pub fn key_file(&self, address: SocketAddr) -> String {
        identity::key_file(address, identity::KEY_ID)
    }

    /// The key file of a service account that this server does not know.
    #[must_use]
    pub fn unknown_key_file(&self, address: SocketAddr) -> String {
        identity::key_file(address, "0000000000000000000000000000000000000000")
    }

    /// A token that is valid for some time: `gcs-key` with `gcs-key-type=token`.
    #[must_use]
    pub fn token(&self, lifetime: Duration) -> String {
        lock(&self.state).identities.issue(lifetime)
    }

    /// Sets the lifetime of tokens that the server issues from now on at its token endpoint; an hour by default.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        lock(&self.state).identities.lifetime = lifetime;
    }

    /// Makes all tokens invalid: the issued ones, and those that the service account's key has signed.
    pub fn revoke_tokens(&self) {
        lock(&self.state).identities.revoke();
    }

    /// Ends [`revoke_tokens`](Self::revoke_tokens) for tokens that the service account's key has signed.
    pub fn trust_key_again(&self) {
        lock(&self.state).identities.trusts_key = true;
    }

    /// The number of tokens that the server has issued at its token endpoint.
    #[must_use]
    pub fn issued_tokens(&self) -> usize {
        lock(&self.state).identities.issued
    }

    /// Refuses this method from now on, such as `DELETE` for an account that may only create and read.
    pub fn forbid(&self, method: &str) {
        lock(&self.state).forbidden.insert(method.to_owned());
    }

    /// Ends [`forbid`](Self::forbid).
    pub fn allow(&self, method: &str) {
        lock(&self.state).forbidden.remove(method);
    }

    /// The names of a bucket's objects, in order.
    #[must_use]
    pub fn names(&self, bucket: &str) -> Vec<String> {
        lock(&self.state).buckets[bucket].names()
    }

    /// An object's content, if it is there.
    #[must_use]
    pub fn content(&self, bucket: &str, name: &str) -> Option<Vec<u8>> {
        lock(&self.state).buckets[bucket].content(name)
    }

    /// Replaces the content of an object without pgmesh's knowledge, under any retention.
    pub fn harm(&self, bucket: &str, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = lock(&self.state);
        state.buckets.get_mut(bucket).expect("a bucket").harm(name, change);
    }

    /// The number of uploads in parts that were begun in a bucket and neither completed nor given up.
    #[must_use]
    pub fn open_uploads(&self, bucket: &str) -> usize {
        lock(&self.state).buckets[bucket].open_uploads()
    }

    /// The retention of an object, `MODE until TIME`, if it has one.
    #[must_use]
    pub fn retention(&self, bucket: &str, name: &str) -> Option<String> {
        lock(&self.state).buckets[bucket].retention(name)
    }

    /// A node's options for a bucket, with a service account; `address` is that of the server or of a proxy before it.
    #[must_use]
    pub fn bucket(&self, bucket: &str, address: SocketAddr) -> StoreBucket {
        let file = self.scratch.join(format!("key-{}.json", address.port()));
        self.scratch.account().write(&file, self.key_file(address));
        StoreBucket::new("gcs")
            .with("gcs-bucket", bucket)
            .with("gcs-endpoint", endpoint(address))
            .with("gcs-key-type", "service")
            .with("gcs-key", file.display().to_string())
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn answer(&mut self, request: &Request) -> Response {
        let path = request.head.target().split('?').next().unwrap_or_default();
        match path {
            identity::TOKEN_PATH => return self.identities.answer(request),
            identity::METADATA_PATH => return self.identities.answer_metadata(request),
            _ => {}
        }
        self.serve(request).unwrap_or_else(|failure| failure.response())
    }

    fn serve(&mut self, request: &Request) -> Result<Response, Failure> {
        self.identities.check(&request.head)?;
        let call = Call::read(request)?;
        if self.forbidden.contains(call.method) {
            let matter = format!("the account lacks the permission to {} {}", call.method, call.bucket);
            return Err(Failure::new(403, "AccessDenied", matter));
        }
        let source = self.source(&call)?;
        let bucket = self
            .buckets
            .get_mut(&call.bucket)
            .ok_or_else(|| Failure::new(404, "NoSuchBucket", "The specified bucket does not exist."))?;
        bucket.serve(&call, source, &mut self.generation)
    }

    /// The content that a call is to copy.
    fn source(&self, call: &Call<'_>) -> Result<Option<Vec<u8>>, Failure> {
        let Some(source) = call.header("x-goog-copy-source") else {
            return Ok(None);
        };
        let (bucket, name) = source
            .trim_start_matches('/')
            .split_once('/')
            .ok_or_else(|| Failure::invalid("x-goog-copy-source names no object"))?;
        let content = self
            .buckets
            .get(bucket)
            .and_then(|bucket| bucket.content(&call::decoded(name)?));
        content.map(Some).ok_or_else(Failure::no_such_key)
    }
}
