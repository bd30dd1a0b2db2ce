//! The requests to the server.

use pgmesh_chaos::http::Request;

use super::answer::Failure;

/// Google's headers that requests may have, beside those with the prefix `x-goog-meta-`.
const KNOWN_HEADERS: [&str; 11] = [
    "x-goog-acl",
    "x-goog-content-sha256",
    "x-goog-copy-source",
    "x-goog-date",
    "x-goog-hash",
    "x-goog-if-generation-match",
    "x-goog-object-lock-mode",
    "x-goog-object-lock-retain-until-date",
    "x-goog-request-reason",
    "x-goog-storage-class",
    "x-goog-user-project",
];

/// A request, well formed.
#[derive(Debug)]
pub struct Call<'a> {
    pub method: &'a str,
    pub bucket: String,
    /// Empty for a request for the bucket.
    pub object: String,
    parameters: Vec<(String, String)>,
    request: &'a Request,
}

impl<'a> Call<'a> {
    pub fn read(request: &'a Request) -> Result<Self, Failure> {
        let (path, query) = request
            .head
            .target()
            .split_once('?')
            .unwrap_or((request.head.target(), ""));
        let path = path
            .strip_prefix('/')
            .ok_or_else(|| Failure::new(400, "InvalidURI", "the path begins with no slash"))?;
        let (bucket, object) = path.split_once('/').unwrap_or((path, ""));
        let part =
            |part| decoded(part).ok_or_else(|| Failure::new(400, "InvalidURI", "Couldn't parse the specified URI."));
        let call = Self {
            method: request.head.method(),
            bucket: part(bucket)?,
            object: part(object)?,
            parameters: parameters(query),
            request,
        };
        call.check_headers()?;
        call.check_parameters()?;
        Ok(call)
    }

    fn check_headers(&self) -> Result<(), Failure> {
        let names = self.request.head.headers().iter().map(|(name, _)| name.as_str());
        for name in names {
            let known = KNOWN_HEADERS.contains(&name) || name.starts_with("x-goog-meta-");
            if name.starts_with("x-amz-") || name.starts_with("x-ms-") || name.starts_with("x-goog-") && !known {
                return Err(Failure::invalid(format!("the header {name} is not supported")));
            }
        }
        if matches!(self.method, "PUT" | "POST") && self.header("content-length").is_none() {
            let message = "You must provide the Content-Length HTTP header.";
            return Err(Failure::new(411, "MissingContentLength", message));
        }
        if self.object.len() > 1024 {
            return Err(Failure::new(400, "KeyTooLong", "the name is longer than 1024 bytes"));
        }
        if self.object.contains(['\r', '\n']) {
            return Err(Failure::new(400, "InvalidObjectName", "a name has no line breaks"));
        }
        Ok(())
    }

    fn check_parameters(&self) -> Result<(), Failure> {
        let known: &[&str] = match (self.method, self.object.is_empty()) {
            ("GET", true) => &[
                "list-type",
                "prefix",
                "delimiter",
                "max-keys",
                "continuation-token",
                "start-after",
                "fetch-owner",
            ],
            ("GET" | "HEAD", false) => &["generation"],
            ("PUT", false) => &["partNumber", "uploadId"],
            ("POST", false) => &["uploads", "uploadId"],
            ("DELETE", false) => &["generation", "uploadId"],
            _ => {
                return Err(Failure::new(
                    405,
                    "MethodNotAllowed",
                    "The specified method is not allowed.",
                ));
            }
        };
        for (number, (name, _)) in self.parameters.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                return Err(Failure::invalid(format!(
                    "the query parameter {name} is not supported here"
                )));
            }
            if self.parameters.iter().take(number).any(|(other, _)| other == name) {
                return Err(Failure::invalid(format!("the query parameter {name} comes twice")));
            }
        }
        if self.object.is_empty() && self.parameter("list-type") != Some("2") {
            return Err(Failure::invalid("only listings of type 2 are known here"));
        }
        Ok(())
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A parameter that is a number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        parse(name, self.parameter(name))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.request.head.header(name)
    }

    /// A header that is a number.
    pub fn header_number(&self, name: &str) -> Result<Option<u64>, Failure> {
        parse(name, self.header(name))
    }

    /// The headers that are stored with an object and come back with it.
    pub fn kept_headers(&self) -> Vec<(String, String)> {
        let kept = |name: &str| {
            name.starts_with("x-goog-meta-")
                || [
                    "content-type",
                    "content-encoding",
                    "content-language",
                    "content-disposition",
                    "cache-control",
                ]
                .contains(&name)
        };
        let headers = self.request.head.headers().iter();
        headers.filter(|(name, _)| kept(name)).cloned().collect()
    }

    pub fn body(&self) -> &'a [u8] {
        &self.request.body
    }
}

fn parse(name: &str, text: Option<&str>) -> Result<Option<u64>, Failure> {
    let Some(text) = text else { return Ok(None) };
    text.parse()
        .map(Some)
        .map_err(|_| Failure::invalid(format!("{name} is no number: {text:?}")))
}

/// The pairs of a query or of a form.
pub fn parameters(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let text = |text: &str| decoded(&text.replace('+', " ")).unwrap_or_default();
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

/// Text without its percent encoding; `None` if the encoding is malformed.
pub fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(behind.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = behind.get(2..)?;
        } else {
            bytes.push(first);
            rest = behind;
        }
    }
    String::from_utf8(bytes).ok()
}
