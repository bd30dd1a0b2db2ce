//! Failures of requests to a bucket, sorted by their remedy.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, Method, StatusCode};

use crate::error::StoreError;

/// The most of a server's own words that a message repeats.
const WORDS: usize = 300;

/// Why a request to a bucket failed, in a sentence without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The kind of failure.
    pub kind: TroubleKind,
    /// The sentence.
    pub what: String,
    /// The pause that the server asks for.
    pub wait: Option<Duration>,
}

/// Kinds of failure, by their remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TroubleKind {
    /// The server cannot be connected to: tried again.
    Connect,
    /// No byte has moved for `storage-timeout`: tried again.
    Silent,
    /// The connection broke, or the body is shorter than announced: tried again.
    Cut,
    /// The server asks for less: tried again, later.
    Throttled,
    /// The server failed: tried again.
    Server,
    /// Another request writes the same object: tried again.
    Conflict,
    /// The credentials are wrong or have expired: read anew, then given up.
    Credentials,
    /// The credentials do not allow the request: read anew, then given up.
    Permission,
    /// The clocks of this machine and the server differ too much: given up.
    ClockSkew,
    /// There is no such bucket or container: given up.
    NoBucket,
    /// The certificate is not trusted, or the server speaks no TLS: given up.
    Tls,
    /// The bucket lies elsewhere, or the server is no object store: given up.
    WrongPlace,
    /// The server has no room left.
    Full,
    /// The server does not know this kind of request: given up.
    Unsupported,
    /// The server refuses the request: given up.
    Refused,
    /// The object may not be deleted yet.
    Retained,
}

impl TroubleKind {
    /// Whether the same request may succeed a moment later.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Connect | Self::Silent | Self::Cut | Self::Throttled | Self::Server | Self::Conflict
        )
    }

    /// Whether other credentials may help.
    pub fn is_of_credentials(self) -> bool {
        matches!(self, Self::Credentials | Self::Permission)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.what)
    }
}

impl StdError for Trouble {}

impl Trouble {
    pub fn new(kind: TroubleKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            wait: None,
        }
    }

    /// The trouble in an error's chain of causes.
    pub fn of<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(trouble) = error.downcast_ref::<Self>() {
                return Some(trouble);
            }
            cause = error.source();
        }
        None
    }

    /// The same as an error of the repository.
    pub fn into_store_error(self, action: &'static str, path: &str) -> StoreError {
        let path = path.to_owned();
        match self.kind {
            TroubleKind::Retained => StoreError::Retained { path, why: self.what },
            TroubleKind::Full => StoreError::Full {
                action,
                path,
                source: Box::new(self),
            },
            TroubleKind::Credentials | TroubleKind::Permission | TroubleKind::ClockSkew => StoreError::Denied {
                action,
                path,
                source: Box::new(self),
            },
            TroubleKind::NoBucket
            | TroubleKind::Tls
            | TroubleKind::WrongPlace
            | TroubleKind::Unsupported
            | TroubleKind::Refused => StoreError::Misplaced {
                action,
                path,
                source: Box::new(self),
            },
            kind => {
                debug_assert!(kind.is_transient());
                StoreError::Unavailable {
                    action,
                    path,
                    source: Box::new(self),
                }
            }
        }
    }
}

/// A server's answer.
pub struct Answer<'a> {
    pub method: &'a Method,
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
    /// Whether the request was for one object, as opposed to a listing or a token.
    pub of_object: bool,
}

/// Error codes of S3, GCS and Azure with the same meaning.
const NO_BUCKET: &[&str] = &[
    "NoSuchBucket",
    "ContainerNotFound",
    "ContainerBeingDeleted",
    "ContainerDisabled",
    "AccountBeingCreated",
    "ResourceNotFound",
    "InvalidBucketName",
];
const NO_OBJECT: &[&str] = &["NoSuchKey", "BlobNotFound", "NoSuchVersion", "NoSuchUpload"];
const CREDENTIALS: &[&str] = &[
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "InvalidSecurity",
    "AuthorizationHeaderMalformed",
    "AuthenticationRequired",
    "AuthenticationFailed",
    "AuthorizationFailure",
    "InvalidAuthenticationInfo",
    "NoAuthenticationInformation",
    "UserProjectAccountProblem",
];
const SKEW: &[&str] = &["RequestTimeTooSkewed", "RequestExpired"];
const THROTTLED: &[&str] = &[
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "ServerBusy",
    "TooManyRequests",
    "OperationTimedOut",
    "RequestTimeout",
];
const CONFLICT: &[&str] = &["ConditionalRequestConflict", "OperationAborted"];
const RETAINED: &[&str] = &[
    "BlobImmutableDueToPolicy",
    "BlobImmutableDueToLegalHold",
    "RetentionPolicyNotMet",
    "ObjectUnderActiveHold",
    "ObjectIsRetained",
    "ObjectLocked",
    "UnmodifiableObject",
];
const WRONG_PLACE: &[&str] = &[
    "PermanentRedirect",
    "TemporaryRedirect",
    "IllegalLocationConstraintException",
    "AccountNotFound",
    "InvalidUri",
];
const UNSUPPORTED: &[&str] = &["NotImplemented", "UnsupportedHeader", "MethodNotAllowed"];
const FULL: &[&str] = &[
    "InsufficientStorage",
    "QuotaExceeded",
    "XMinioStorageFull",
    "StorageLimitExceeded",
];

impl Answer<'_> {
    /// The failure that the answer means. `None` for an answer that the caller handles: a success, a missing object, or
    /// an object that exists already.
    pub fn trouble(&self) -> Option<Trouble> {
        let code = self.code();
        let is = |codes: &[&str]| code.as_deref().is_some_and(|code| codes.contains(&code));
        let kind = match self.status.as_u16() {
            200..=299 | 304 | 412 | 416 => return None,
            _ if is(NO_BUCKET) => TroubleKind::NoBucket,
            _ if is(RETAINED) => TroubleKind::Retained,
            _ if is(SKEW) || self.speaks_of_skew() => TroubleKind::ClockSkew,
            _ if is(CREDENTIALS) => TroubleKind::Credentials,
            _ if is(THROTTLED) => TroubleKind::Throttled,
            _ if is(CONFLICT) => TroubleKind::Conflict,
            _ if is(UNSUPPORTED) => TroubleKind::Unsupported,
            _ if is(FULL) => TroubleKind::Full,
            _ if is(WRONG_PLACE) => TroubleKind::WrongPlace,
            // "Not found" is believed only if the server names the missing object (invariant 7). A HEAD has no body to
            // name it in.
            404 if self.of_object && (is(NO_OBJECT) || *self.method == Method::HEAD) => return None,
            404 => TroubleKind::WrongPlace,
            409 => return None,
            300..=399 => TroubleKind::WrongPlace,
            401 => TroubleKind::Credentials,
            403 => TroubleKind::Permission,
            408 | 429 | 503 => TroubleKind::Throttled,
            501 | 405 => TroubleKind::Unsupported,
            507 => TroubleKind::Full,
            500..=599 => TroubleKind::Server,
            _ => TroubleKind::Refused,
        };
        Some(Trouble {
            kind,
            what: self.sentence(kind, code.as_deref()),
            wait: self.retry_after(),
        })
    }

    /// The server's own code, from Azure's header or the XML of all three.
    fn code(&self) -> Option<String> {
        if let Some(code) = self.headers.get("x-ms-error-code") {
            return code.to_str().ok().map(str::to_owned);
        }
        element(self.body, "Code").map(|code| printable(&code))
    }

    fn speaks_of_skew(&self) -> bool {
        // Azure says it in the detail of AuthenticationFailed, a token server in its description.
        let text = String::from_utf8_lossy(self.body);
        self.status != StatusCode::NOT_FOUND
            && (text.contains("Request date header too old") || text.contains("reasonable timeframe"))
    }

    fn sentence(&self, kind: TroubleKind, code: Option<&str>) -> String {
        let said = match (code, element(self.body, "Message")) {
            (Some(code), Some(words)) => format!("{} {code}: {}", self.status.as_u16(), printable(&words)),
            (Some(code), None) => format!("{} {code}", self.status.as_u16()),
            (None, Some(words)) => format!("{}: {}", self.status.as_u16(), printable(&words)),
            (None, None) => self.status.to_string(),
        };
        let meaning = match kind {
            TroubleKind::Throttled => "the server asks for fewer requests",
            TroubleKind::Server | TroubleKind::Connect | TroubleKind::Silent | TroubleKind::Cut => "the server failed",
            TroubleKind::Conflict => "another request for the same object is under way",
            TroubleKind::Credentials => "the server does not accept the credentials",
            TroubleKind::Permission => "the credentials do not allow this",
            TroubleKind::ClockSkew => {
                "the server's clock and this machine's differ too much for it to accept signatures; set the clock"
            }
            TroubleKind::NoBucket => "there is no such bucket or container; create it first, or correct its name",
            TroubleKind::Tls => "the server cannot be trusted",
            TroubleKind::WrongPlace => "this is not where the bucket is; check endpoint, region and uri-style",
            TroubleKind::Full => "the server has no room left",
            TroubleKind::Unsupported => "the server does not know this kind of request",
            TroubleKind::Refused => "the server refuses the request",
            TroubleKind::Retained => "the object is under retention",
        };
        format!("{meaning} ({said})")
    }

    fn retry_after(&self) -> Option<Duration> {
        let seconds = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds))
    }
}

/// The text of the first element of that name. Errors of the three servers are flat XML.
fn element(body: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(body.get(..body.len().min(16 << 10))?);
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = rest.split_once(&format!("</{name}>"))?;
    let inner = inner.trim();
    (!inner.is_empty()).then(|| inner.to_owned())
}

/// A server's message, fit for one line of a log. Some servers repeat the signature that they expected in other
/// elements of the XML: only code and message are passed on.
fn printable(words: &str) -> String {
    let line = words.lines().next().unwrap_or("");
    let line = line
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&");
    line.chars().filter(|letter| !letter.is_control()).take(WORDS).collect()
}

/// The failure that a transport error means.
pub fn of_transport(error: &reqwest::Error) -> Trouble {
    let mut words = Vec::new();
    let mut tls = false;
    let mut cause: Option<&(dyn StdError + 'static)> = StdError::source(error);
    while let Some(error) = cause {
        tls |= is_tls(error);
        words.push(error.to_string());
        cause = error.source();
    }
    // Each level repeats the message below it; the deepest message is the most precise.
    let deepest = words.pop().unwrap_or_else(|| "the request failed".to_owned());
    if tls {
        return Trouble::new(
            TroubleKind::Tls,
            format!(
                "the server cannot be trusted, or speaks no TLS: {deepest}; check the endpoint and storage-ca-file"
            ),
        );
    }
    if error.is_timeout() {
        Trouble::new(TroubleKind::Silent, format!("the server does not answer: {deepest}"))
    } else if error.is_connect() {
        Trouble::new(TroubleKind::Connect, format!("the server cannot be reached: {deepest}"))
    } else {
        Trouble::new(TroubleKind::Cut, format!("the connection was cut: {deepest}"))
    }
}

fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    if error.is::<rustls::Error>() {
        return true;
    }
    // rustls errors are wrapped in I/O errors, and `source` passes over the inner error of an I/O error.
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    inner.is_some_and(|inner| is_tls(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(method: Method, status: u16, headers: &[(&'static str, &str)], body: &str) -> Option<TroubleKind> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let answer = Answer {
            method: &method,
            status: StatusCode::from_u16(status).unwrap(),
            headers: &map,
            body: body.as_bytes(),
            of_object: true,
        };
        answer.trouble().map(|trouble| trouble.kind)
    }

    fn code(status: u16, code: &str) -> Option<TroubleKind> {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>");
        judged(Method::GET, status, &[], &body)
    }

    #[test]
    fn invariant_7_not_found_is_believed_only_of_a_server_that_says_what() {
        assert_eq!(code(404, "NoSuchKey"), None);
        assert_eq!(code(404, "NoSuchBucket"), Some(TroubleKind::NoBucket));
        assert_eq!(
            judged(Method::GET, 404, &[], "<html>nginx</html>"),
            Some(TroubleKind::WrongPlace)
        );
        assert_eq!(judged(Method::HEAD, 404, &[], ""), None);
        let azure = |code| judged(Method::GET, 404, &[("x-ms-error-code", code)], "");
        assert_eq!(azure("BlobNotFound"), None);
        assert_eq!(azure("ContainerNotFound"), Some(TroubleKind::NoBucket));
    }

    #[test]
    fn each_answer_has_its_kind() {
        assert_eq!(code(503, "SlowDown"), Some(TroubleKind::Throttled));
        assert_eq!(code(500, "InternalError"), Some(TroubleKind::Server));
        assert_eq!(code(403, "AccessDenied"), Some(TroubleKind::Permission));
        assert_eq!(code(403, "SignatureDoesNotMatch"), Some(TroubleKind::Credentials));
        assert_eq!(code(400, "ExpiredToken"), Some(TroubleKind::Credentials));
        assert_eq!(code(403, "RequestTimeTooSkewed"), Some(TroubleKind::ClockSkew));
        assert_eq!(code(301, "PermanentRedirect"), Some(TroubleKind::WrongPlace));
        assert_eq!(code(409, "ConditionalRequestConflict"), Some(TroubleKind::Conflict));
        assert_eq!(code(409, "BlobImmutableDueToPolicy"), Some(TroubleKind::Retained));
        assert_eq!(code(409, "BlobAlreadyExists"), None);
        assert_eq!(code(412, "PreconditionFailed"), None);
        assert_eq!(code(501, "NotImplemented"), Some(TroubleKind::Unsupported));
        assert_eq!(code(400, "InvalidArgument"), Some(TroubleKind::Refused));
    }

    #[test]
    fn a_sentence_repeats_the_server_but_not_what_it_computed() {
        let body = "<Error><Code>SignatureDoesNotMatch</Code><Message>The request signature we calculated does not \
                    match</Message><StringToSign>AWS4 secret</StringToSign></Error>";
        let answer = Answer {
            method: &Method::PUT,
            status: StatusCode::FORBIDDEN,
            headers: &HeaderMap::new(),
            body: body.as_bytes(),
            of_object: true,
        };
        let what = answer.trouble().unwrap().what;
        assert!(what.contains("does not accept the credentials"), "{what}");
        assert!(what.contains("403 SignatureDoesNotMatch"), "{what}");
        assert!(!what.contains("secret"), "{what}");
    }
}
