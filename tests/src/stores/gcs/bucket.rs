//! Buckets and their objects.

mod conditions;
mod listing;
mod parts;

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest, Md5};
use pgmesh_chaos::http::Response;
use time::OffsetDateTime;

use super::answer::{Failure, document};
use super::call::Call;
use super::date;
use crate::stores::xml::escaped;
use conditions::Retention;
use parts::Upload;

/// The objects of a bucket by name, and the uploads that are under way. Versioning is on: replaced content can still be
/// read by its generation, but of a deleted object no version stays.
#[derive(Debug, Default)]
pub struct Bucket {
    objects: BTreeMap<String, Vec<Version>>,
    uploads: BTreeMap<String, Upload>,
}

/// The content of an object in one generation.
#[derive(Clone, Debug)]
struct Version {
    generation: u64,
    content: Vec<u8>,
    headers: Vec<(String, String)>,
    tag: String,
    modified: OffsetDateTime,
    retention: Option<Retention>,
}

impl Bucket {
    pub fn names(&self) -> Vec<String> {
        self.objects.keys().cloned().collect()
    }

    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        self.current(name).map(|version| version.content.clone())
    }

    pub fn harm(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let version = self.objects.get_mut(name).and_then(|versions| versions.last_mut());
        change(&mut version.expect("an object").content);
    }

    pub fn open_uploads(&self) -> usize {
        self.uploads.len()
    }

    pub fn retention(&self, name: &str) -> Option<String> {
        let retention = self.current(name)?.retention.as_ref()?;
        Some(format!("{} until {}", retention.mode, date::rfc3339(retention.until)))
    }

    fn current(&self, name: &str) -> Option<&Version> {
        self.objects.get(name).and_then(|versions| versions.last())
    }

    /// Carries out a call. `source` is the content to copy, and `generation` the generation of the object that was
    /// written last.
    pub fn serve(
        &mut self,
        call: &Call<'_>,
        source: Option<Vec<u8>>,
        generation: &mut u64,
    ) -> Result<Response, Failure> {
        let upload = call.parameter("uploadId");
        match (call.method, upload) {
            ("GET", _) if call.object.is_empty() => self.list(call),
            ("GET" | "HEAD", _) => self.get(call),
            ("PUT", None) => self.put(call, source, generation),
            ("PUT", Some(upload)) => self.put_part(call, upload),
            ("POST", None) => self.begin_upload(call, generation),
            ("POST", Some(upload)) => self.complete_upload(call, upload, generation),
            ("DELETE", None) => self.delete(call),
            ("DELETE", Some(upload)) => self.give_up_upload(call, upload),
            _ => Err(Failure::new(
                405,
                "MethodNotAllowed",
                "The specified method is not allowed.",
            )),
        }
    }

    fn get(&self, call: &Call<'_>) -> Result<Response, Failure> {
        let versions = self.objects.get(&call.object).ok_or_else(Failure::no_such_key)?;
        let wanted = call.number("generation")?;
        let version = versions
            .iter()
            .rfind(|version| wanted.is_none_or(|wanted| wanted == version.generation))
            .ok_or_else(Failure::no_such_key)?;
        conditions::check_read(call, &version.tag, version.modified)?;
        let size = version.content.len();
        let (status, range) = match call.header("range") {
            None => (200, 0..size),
            Some(range) => (206, conditions::range(range, size)?),
        };
        let content = version.content.get(range.clone()).unwrap_or_default();
        let mut response = version.describe(Response::new(status, content));
        if status == 206 {
            let text = format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1));
            response = response.with_header("Content-Range", text);
        }
        Ok(response)
    }

    fn put(&mut self, call: &Call<'_>, source: Option<Vec<u8>>, generation: &mut u64) -> Result<Response, Failure> {
        if call.parameter("partNumber").is_some() {
            return Err(Failure::invalid("partNumber without uploadId"));
        }
        let copies = source.is_some();
        check_hashes(call)?;
        self.check_write(call)?;
        let content = source.unwrap_or_else(|| call.body().to_vec());
        let tag = format!("\"{}\"", hex(&Md5::digest(&content)));
        let retention = Retention::asked(call)?;
        let version = self.add(&call.object, content, call.kept_headers(), tag, retention, generation);
        if copies {
            let body = format!(
                "<?xml version='1.0' encoding='UTF-8'?><CopyObjectResult><ETag>{}</ETag><LastModified>{}</LastModified></CopyObjectResult>",
                escaped(&version.tag),
                date::rfc3339(version.modified)
            );
            return Ok(version.tell(document(body)));
        }
        Ok(version.tell(Response::new(200, "")))
    }

    /// Whether an object may be written now.
    fn check_write(&self, call: &Call<'_>) -> Result<(), Failure> {
        let current = self.current(&call.object);
        if let Some(wanted) = call.header_number("x-goog-if-generation-match")?
            && wanted != current.map_or(0, |version| version.generation)
        {
            return Err(Failure::precondition());
        }
        current.map_or(Ok(()), Version::check_unretained)
    }

    fn add(
        &mut self,
        name: &str,
        content: Vec<u8>,
        headers: Vec<(String, String)>,
        tag: String,
        retention: Option<Retention>,
        generation: &mut u64,
    ) -> &Version {
        *generation += 1;
        let versions = self.objects.entry(name.to_owned()).or_default();
        versions.push(Version {
            generation: *generation,
            content,
            headers,
            tag,
            modified: date::now(),
            retention,
        });
        versions.last().expect("it was added")
    }

    fn delete(&mut self, call: &Call<'_>) -> Result<Response, Failure> {
        let version = self.current(&call.object).ok_or_else(Failure::no_such_key)?;
        let wanted = call
            .number("generation")?
            .or(call.header_number("x-goog-if-generation-match")?);
        if wanted.is_some_and(|wanted| wanted != version.generation) {
            return Err(Failure::precondition());
        }
        version.check_unretained()?;
        self.objects.remove(&call.object);
        Ok(Response::new(204, ""))
    }
}

impl Version {
    fn check_unretained(&self) -> Result<(), Failure> {
        match &self.retention {
            Some(retention) if retention.until > OffsetDateTime::now_utc() => Err(Failure::new(
                403,
                "RetentionPolicyNotMet",
                format!(
                    "the object is under active retention until {}",
                    date::rfc3339(retention.until)
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Adds the headers that describe the version in the answer to a write.
    fn tell(&self, response: Response) -> Response {
        response
            .with_header("ETag", &self.tag)
            .with_header("x-goog-generation", self.generation.to_string())
            .with_header("x-goog-metageneration", "1")
            .with_header("x-goog-hash", format!("crc32c={}", checksum(&self.content)))
            .with_header("x-goog-stored-content-length", self.content.len().to_string())
    }

    /// Adds the headers that describe the version in the answer to a read.
    fn describe(&self, response: Response) -> Response {
        let mut response = self
            .tell(response)
            .with_header("Last-Modified", date::http(self.modified))
            .with_header("Accept-Ranges", "bytes")
            .with_header("x-goog-storage-class", "STANDARD");
        if let Some(retention) = &self.retention {
            response = response
                .with_header("x-goog-object-lock-mode", retention.mode.clone())
                .with_header("x-goog-object-lock-retain-until-date", date::rfc3339(retention.until));
        }
        for (name, value) in &self.headers {
            response = response.with_header(name, value);
        }
        response
    }
}

/// Compares the body with the hashes in the request.
fn check_hashes(call: &Call<'_>) -> Result<(), Failure> {
    let md5 = BASE64_STANDARD.encode(Md5::digest(call.body()));
    let mut told: Vec<(&str, &str)> = Vec::new();
    for hash in call
        .header("x-goog-hash")
        .into_iter()
        .flat_map(|header| header.split(','))
    {
        let pair = hash.trim().split_once('=');
        told.push(pair.ok_or_else(|| Failure::new(400, "InvalidDigest", "x-goog-hash has no value"))?);
    }
    told.extend(call.header("content-md5").map(|hash| ("md5", hash)));
    for (name, hash) in told {
        let right = match name {
            "crc32c" => checksum(call.body()),
            "md5" => md5.clone(),
            other => return Err(Failure::new(400, "InvalidDigest", format!("unknown hash {other}"))),
        };
        if hash != right {
            let message = format!("The {name} you specified did not match what we received.");
            return Err(Failure::new(400, "BadDigest", message));
        }
    }
    Ok(())
}

fn checksum(content: &[u8]) -> String {
    BASE64_STANDARD.encode(crc32c::crc32c(content).to_be_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
