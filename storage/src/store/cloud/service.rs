//! All HTTP requests for a bucket go through this service: it adds signed headers, watches the progress, sorts
//! failures, repeats requests within a budget, and gives a body out only when it is complete.

use pgmesh_runtime::random;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderValue, Method, StatusCode, Uri};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use percent_encoding::percent_decode_str;

use super::budget::{Budget, TRIES, pause};
use super::progress::{Progress, Sent};
use super::transport::Clients;
use super::trouble::{Answer, Trouble, TroubleKind, of_transport};

/// The longest answer that is taken into memory: longer than any object.
const LONGEST_ANSWER: u64 = 2 << 30;

/// Changes a request for an object before it is sent: object lock, checksums, and a signature over them.
#[async_trait]
pub trait Decorate: fmt::Debug + Send + Sync {
    async fn decorate(&self, request: &mut HttpRequest) -> Result<(), Trouble>;
}

/// The client of one bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Service(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clients: Clients,
    /// `HOST[:PORT]` of the bucket's URLs.
    authority: String,
    /// The path of the bucket itself; objects lie below it.
    bucket_path: String,
    timeout: Duration,
    budget: Arc<Budget>,
    decorator: OnceLock<Box<dyn Decorate>>,
}

impl Service {
    pub fn new(clients: Clients, bucket_url: &Uri, timeout: Duration, budget: Arc<Budget>) -> Self {
        let authority = bucket_url.authority().map(ToString::to_string).unwrap_or_default();
        Self(Arc::new(Inner {
            clients,
            authority,
            bucket_path: bucket_url.path().trim_end_matches('/').to_owned(),
            timeout,
            budget,
            decorator: OnceLock::new(),
        }))
    }

    /// Sets the decorator, once. It is set after the construction, because it needs the credentials of the store that
    /// is built upon this service.
    pub fn decorate_with(&self, decorator: Box<dyn Decorate>) {
        // `OnceLock::set` fails only on a second call, and each `build` calls it once.
        let _ = self.0.decorator.set(decorator);
    }
}

impl HttpConnector for Service {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let inner = &self.0;
        let of_bucket = inner.is_of_bucket(request.uri());
        let of_object = of_bucket && inner.is_of_object(request.uri());
        if of_object && let Some(decorator) = inner.decorator.get() {
            decorator.decorate(&mut request).await.map_err(given_up)?;
        }
        let mut tries = 1;
        let began = Instant::now();
        loop {
            let trouble = match inner.once(request.clone(), of_bucket, of_object).await {
                Ok(response) => {
                    inner.budget.earn();
                    return Ok(response);
                }
                Err(trouble) => trouble,
            };
            if !trouble.kind.is_transient() {
                return Err(given_up(trouble));
            }
            if tries >= TRIES || !inner.budget.spend() {
                return Err(given_up(told_tries(trouble, tries, began.elapsed())));
            }
            tries += 1;
            tracing::debug!(method = %request.method(), trouble = %trouble, tries, "a request is tried again");
            tokio::time::sleep(pause(tries, trouble.wait, chance())).await;
        }
    }
}

impl Inner {
    /// Whether a request goes to the bucket, as opposed to a server of tokens.
    fn is_of_bucket(&self, uri: &Uri) -> bool {
        uri.authority()
            .is_some_and(|authority| authority.as_str() == self.authority)
            && self.below(uri).is_some()
    }

    /// Whether the request is for one object, as opposed to the bucket.
    fn is_of_object(&self, uri: &Uri) -> bool {
        self.below(uri).is_some_and(|below| !below.trim_matches('/').is_empty())
    }

    /// The server, and the address that is connected to instead, if there is one.
    fn place(&self) -> String {
        match &self.clients.connect_to {
            Some((host, port)) => format!("{} at {host}:{port}", self.authority),
            None => self.authority.clone(),
        }
    }

    /// The path below the bucket's path, decoded: clients escape more characters of a path than they must.
    fn below(&self, uri: &Uri) -> Option<String> {
        let path = percent_decode_str(uri.path()).decode_utf8().ok()?;
        let below = path.strip_prefix(self.bucket_path.as_str())?;
        (below.is_empty() || below.starts_with('/')).then(|| below.to_owned())
    }

    async fn once(&self, request: HttpRequest, of_bucket: bool, of_object: bool) -> Result<HttpResponse, Trouble> {
        let client = match (of_bucket, is_metadata(request.uri())) {
            (true, _) => &self.clients.bucket,
            (false, true) => &self.clients.metadata,
            (false, false) => &self.clients.tokens,
        };
        let method = request.method().clone();
        let host = request.uri().host().unwrap_or("?").to_owned();
        let progress = Progress::default();
        let exchange = self.exchange(client, request, of_bucket, &progress);
        let exchanged = tokio::select! {
            exchanged = exchange => exchanged,
            () = progress.stalled(self.timeout) => {
                let what = format!("the server is silent for {:?} (storage-timeout)", self.timeout);
                Err(Trouble::new(TroubleKind::Silent, what))
            }
        };
        let (parts, body) = exchanged.map_err(|trouble| match of_bucket {
            // The server's name is added to every failure.
            true => Trouble {
                what: format!("{}: {}", self.place(), trouble.what),
                ..trouble
            },
            false => Trouble {
                what: format!("asking {host} for a token: {}", trouble.what),
                ..trouble
            },
        })?;
        let answer = Answer {
            method: &method,
            status: parts.status,
            headers: &parts.headers,
            body: &body,
            of_object,
        };
        // An answer of a token server is `object_store`'s to read, but its failures are sorted here.
        match answer.trouble() {
            Some(trouble) if of_bucket => Err(trouble),
            Some(trouble) => Err(of_credentials(trouble, parts.status)),
            None => Ok(HttpResponse::from_parts(parts, body.into())),
        }
    }

    /// Sends a request and reads the whole answer. Each step is reported to `progress`.
    async fn exchange(
        &self,
        client: &reqwest::Client,
        request: HttpRequest,
        of_bucket: bool,
        progress: &Progress,
    ) -> Result<(http::response::Parts, Bytes), Trouble> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string().parse::<reqwest::Url>();
        let mut url = url.map_err(|error| Trouble::new(TroubleKind::Refused, format!("no URL: {error}")))?;
        if of_bucket {
            url = self.clients.way_to(url);
        }
        let is_head = parts.method == Method::HEAD;
        let mut outgoing = reqwest::Request::new(parts.method, url);
        *outgoing.headers_mut() = parts.headers;
        if self.clients.connect_to.is_some()
            && of_bucket
            && !outgoing.headers().contains_key(HOST)
            && let Ok(host) = HeaderValue::from_str(&self.authority)
        {
            // The `Host` that signatures cover, not the address that is connected to.
            outgoing.headers_mut().insert(HOST, host);
        }
        let length = body.content_length();
        if length > 0 {
            // Without this header, a body in pieces would be sent with chunked encoding, which S3 refuses.
            outgoing.headers_mut().insert(CONTENT_LENGTH, length.into());
            *outgoing.body_mut() = Some(reqwest::Body::wrap(Sent::new(body, progress.clone())));
        }
        let mut response = client
            .execute(outgoing)
            .await
            .map_err(|error| of_transport(&error.without_url()))?;
        progress.made();
        let said = response.content_length().filter(|_| !is_head);
        if said.is_some_and(|length| length > LONGEST_ANSWER) {
            return Err(Trouble::new(
                TroubleKind::Refused,
                "the answer is longer than any object",
            ));
        }
        let mut whole = BytesMut::with_capacity(said.and_then(|length| usize::try_from(length).ok()).unwrap_or(0));
        while let Some(piece) = response
            .chunk()
            .await
            .map_err(|error| of_transport(&error.without_url()))?
        {
            progress.made();
            if (whole.len() + piece.len()) as u64 > LONGEST_ANSWER {
                return Err(Trouble::new(
                    TroubleKind::Refused,
                    "the answer is longer than any object",
                ));
            }
            whole.extend_from_slice(&piece);
        }
        if let Some(length) = said.filter(|length| *length != whole.len() as u64) {
            let what = format!("the connection ended after {} of {length} bytes", whole.len());
            return Err(Trouble::new(TroubleKind::Cut, what));
        }
        let mut answer = http::Response::new(());
        *answer.status_mut() = response.status();
        *answer.headers_mut() = std::mem::take(response.headers_mut());
        Ok((answer.into_parts().0, whole.freeze()))
    }
}

/// The metadata services of machines and containers.
fn is_metadata(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or("");
    host.starts_with("169.254.")
        || host == "metadata.google.internal"
        || host == "metadata"
        || host == "localhost"
        || host.starts_with("127.")
        || host.starts_with("[fd00:ec2")
}

/// If a token server refuses, the credentials are wrong.
fn of_credentials(trouble: Trouble, status: StatusCode) -> Trouble {
    let kind = match trouble.kind {
        kind if kind.is_transient() => kind,
        TroubleKind::ClockSkew => TroubleKind::ClockSkew,
        _ => TroubleKind::Credentials,
    };
    Trouble {
        kind,
        what: format!("the token server gave no token for these credentials: it answered {status}"),
        wait: trouble.wait,
    }
}

fn told_tries(trouble: Trouble, tries: u32, elapsed: Duration) -> Trouble {
    if tries == 1 {
        return trouble;
    }
    Trouble {
        what: format!("{} ({tries} tries in {:.1} s)", trouble.what, elapsed.as_secs_f64()),
        ..trouble
    }
}

/// An error of a kind that `object_store` does not repeat.
fn given_up(trouble: Trouble) -> HttpError {
    HttpError::new(HttpErrorKind::Decode, trouble)
}

/// A random number, for pauses only. If the system has no randomness, a counter stands in.
fn chance() -> u32 {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut bytes = [0; 4];
    match random::fill(&mut bytes) {
        Ok(()) => u32::from_ne_bytes(bytes),
        Err(_) => {
            let count = COUNTER.fetch_add(0x9E37_79B9, Ordering::Relaxed);
            u32::try_from(count & u64::from(u32::MAX)).unwrap_or(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inner(bucket_url: &str) -> Inner {
        let nothing = reqwest::Client::new;
        let clients = Clients {
            bucket: nothing(),
            tokens: nothing(),
            metadata: nothing(),
            connect_to: None,
        };
        let service = Service::new(clients, &bucket_url.parse().unwrap(), Duration::ZERO, Arc::default());
        Arc::into_inner(service.0).unwrap()
    }

    #[test]
    fn requests_for_objects_are_told_from_those_for_the_bucket_and_for_tokens() {
        rustls::crypto::ring::default_provider().install_default().unwrap();
        let service = inner("http://127.0.0.1:80/pgmesh-test");
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        for object in [
            "http://127.0.0.1:80/pgmesh-test/a/b",
            "http://127.0.0.1:80/pgmesh%2Dtest/a%2Fb?uploads",
        ] {
            assert!(
                service.is_of_bucket(&uri(object)) && service.is_of_object(&uri(object)),
                "{object}"
            );
        }
        for bucket in [
            "http://127.0.0.1:80/pgmesh-test",
            "http://127.0.0.1:80/pgmesh%2Dtest/?list-type=2",
        ] {
            assert!(
                service.is_of_bucket(&uri(bucket)) && !service.is_of_object(&uri(bucket)),
                "{bucket}"
            );
        }
        for other in [
            "http://127.0.0.1:80/token",
            "http://127.0.0.1:80/pgmesh-tests/a",
            "http://127.0.0.1:81/pgmesh-test/a",
        ] {
            assert!(!service.is_of_bucket(&uri(other)), "{other}");
        }
        let by_host = inner("https://bucket.s3.example.com");
        assert!(by_host.is_of_object(&uri("https://bucket.s3.example.com/a")));
        assert!(!by_host.is_of_object(&uri("https://bucket.s3.example.com/?list-type=2")));
    }
}
