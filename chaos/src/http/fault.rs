//! The faults that a proxy does to requests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::record::HttpRecord;

/// The fault that a proxy does to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request reaches the server later, and the answer the client. Other requests are not delayed by it.
    Delay {
        /// On the way there.
        request: Duration,
        /// On the way back.
        response: Duration,
    },
    /// So many bytes a second, for each request alone and in each direction.
    Bandwidth(u64),
    /// The proxy answers instead of the server, which does not get the request.
    Answer(Answer),
    /// The connection is reset as soon as the head of the request has come.
    Reset,
    /// No answer comes, and the connection stays open.
    BlackHole,
    /// The connections break after so many bytes of the request's body have reached the server.
    CutRequest(u64),
    /// The server carries the request out and answers; the client's connection breaks instead of passing the answer.
    CutAnswer,
    /// The client's connection breaks after so many bytes of the answer's body.
    Truncate(u64),
    /// After so many bytes of the answer's body no more bytes come, and the connection stays open.
    Stall(u64),
    /// The answer's `Content-Length` is larger than its body by so much, or smaller if negative. Then the connection is
    /// closed.
    WrongLength(i64),
    /// One bit of the answer's body is flipped: in the middle of the piece that has its first bytes.
    FlipBit,
}

/// An answer of a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers beside `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

/// A fault, and the requests that suffer it.
#[derive(Clone)]
pub struct Rule {
    pub(super) fault: Fault,
    filter: Option<Filter>,
    /// The number of requests that it still applies to; `None` without end.
    pub(super) left: Option<usize>,
}

type Filter = Arc<dyn Fn(&HttpRecord) -> bool + Send + Sync>;

impl Answer {
    /// An error in the form of S3 and GCS.
    #[must_use]
    pub fn error(status: u16, code: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <Error><Code>{code}</Code><Message>injected: {code}</Message><RequestId>0</RequestId></Error>"
        );
        Self {
            status,
            headers: vec![("Content-Type".to_owned(), "application/xml".to_owned())],
            body,
        }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl Fault {
    /// A delay in each direction.
    #[must_use]
    pub fn delay_each_way(delay: Duration) -> Self {
        Self::Delay {
            request: delay,
            response: delay,
        }
    }

    /// 503 `SlowDown`, as S3 throttles.
    #[must_use]
    pub fn slow_down() -> Self {
        Self::Answer(Answer::error(503, "SlowDown"))
    }

    /// 500 `InternalError`.
    #[must_use]
    pub fn internal_error() -> Self {
        Self::Answer(Answer::error(500, "InternalError"))
    }

    /// 403 with a code such as `AccessDenied`, `RequestTimeTooSkewed` or `SignatureDoesNotMatch`.
    #[must_use]
    pub fn forbidden(code: &str) -> Self {
        Self::Answer(Answer::error(403, code))
    }

    /// 429 that tells the client to come again later.
    #[must_use]
    pub fn too_many_requests(retry_after: Duration) -> Self {
        let seconds = retry_after.as_secs().to_string();
        Self::Answer(Answer::error(429, "TooManyRequests").with_header("Retry-After", &seconds))
    }
}

impl Rule {
    /// Applies to all requests, without end.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            filter: None,
            left: None,
        }
    }

    /// Applies only to the next so many requests.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.left = Some(times);
        self
    }

    /// Applies only to requests for which `filter` is true. Only the method and the target of the record are known
    /// then.
    #[must_use]
    pub fn when(mut self, filter: impl Fn(&HttpRecord) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Arc::new(filter));
        self
    }

    /// Applies only to requests with this method.
    #[must_use]
    pub fn on(self, method: &str) -> Self {
        let method = method.to_owned();
        self.when(move |request| request.method == method)
    }

    pub(super) fn matches(&self, request: &HttpRecord) -> bool {
        self.left != Some(0) && self.filter.as_ref().is_none_or(|filter| filter(request))
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("fault", &self.fault)
            .field("filtered", &self.filter.is_some())
            .field("left", &self.left)
            .finish()
    }
}

/// All effects of the rules on one request.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) request_delay: Duration,
    pub(super) response_delay: Duration,
    pub(super) bytes_per_second: Option<u64>,
    pub(super) fault: Option<Fault>,
}

impl Effects {
    /// The effects of the rules that match a request: delays add up, and the narrowest bandwidth and the first other
    /// fault count. Each used rule has one use less.
    pub(super) fn of(rules: &mut [Rule], request: &HttpRecord) -> Self {
        let mut effects = Self::default();
        for rule in rules.iter_mut().filter(|rule| rule.matches(request)) {
            match &rule.fault {
                Fault::Delay { request, response } => {
                    effects.request_delay += *request;
                    effects.response_delay += *response;
                }
                Fault::Bandwidth(rate) => {
                    let narrowest = effects.bytes_per_second.unwrap_or(u64::MAX).min(*rate);
                    effects.bytes_per_second = Some(narrowest);
                }
                _ if effects.fault.is_some() => continue,
                other => effects.fault = Some(other.clone()),
            }
            rule.left = rule.left.map(|left| left.saturating_sub(1));
        }
        effects
    }
}
