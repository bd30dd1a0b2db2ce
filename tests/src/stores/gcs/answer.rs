//! The XML of the server's answers.

use std::fmt::Write;

use pgmesh_chaos::http::Response;

use super::date;
use crate::stores::xml::escaped;

/// The refusal of a request.
#[derive(Debug)]
pub struct Failure {
    status: u16,
    code: &'static str,
    message: String,
}

/// One entry of a listing.
#[derive(Debug)]
pub struct Entry {
    pub name: String,
    pub generation: u64,
    pub modified: time::OffsetDateTime,
    pub tag: String,
    pub size: usize,
}

/// A page of a listing.
#[derive(Debug, Default)]
pub struct Page {
    pub entries: Vec<Entry>,
    pub prefixes: Vec<String>,
    /// The token for the next page, if there is one.
    pub next: Option<String>,
}

impl Failure {
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "InvalidArgument", message)
    }

    pub fn no_such_key() -> Self {
        Self::new(404, "NoSuchKey", "The specified key does not exist.")
    }

    pub fn precondition() -> Self {
        let message = "At least one of the pre-conditions you specified did not hold.";
        Self::new(412, "PreconditionFailed", message)
    }

    pub fn response(&self) -> Response {
        if self.status == 304 {
            return Response::new(304, "");
        }
        let body = format!(
            "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{}</Code><Message>{}</Message></Error>",
            self.code,
            escaped(&self.message)
        );
        let response = Response::new(self.status, body).with_header("Content-Type", "application/xml; charset=UTF-8");
        if self.status == 401 {
            return response.with_header("WWW-Authenticate", "Bearer realm=\"https://accounts.google.com/\"");
        }
        response
    }
}

impl Page {
    pub fn response(&self, bucket: &str, prefix: &str) -> Response {
        let mut xml = format!(
            "<?xml version='1.0' encoding='UTF-8'?>\
             <ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'><Name>{}</Name><Prefix>{}</Prefix>\
             <KeyCount>{}</KeyCount><IsTruncated>{}</IsTruncated>",
            escaped(bucket),
            escaped(prefix),
            self.entries.len() + self.prefixes.len(),
            self.next.is_some()
        );
        if let Some(next) = &self.next {
            write!(xml, "<NextContinuationToken>{}</NextContinuationToken>", escaped(next)).expect("writing a string");
        }
        for entry in &self.entries {
            write!(
                xml,
                "<Contents><Key>{}</Key><Generation>{}</Generation><MetaGeneration>1</MetaGeneration>\
                 <LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                escaped(&entry.name),
                entry.generation,
                date::rfc3339(entry.modified),
                escaped(&entry.tag),
                entry.size
            )
            .expect("writing a string");
        }
        for prefix in &self.prefixes {
            write!(
                xml,
                "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>",
                escaped(prefix)
            )
            .expect("writing a string");
        }
        xml += "</ListBucketResult>";
        document(xml)
    }
}

/// A successful answer with XML.
pub fn document(xml: impl Into<Vec<u8>>) -> Response {
    Response::new(200, xml).with_header("Content-Type", "application/xml; charset=UTF-8")
}
