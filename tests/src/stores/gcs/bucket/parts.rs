//! Uploads in parts.

use std::collections::BTreeMap;

use md5::{Digest, Md5};
use pgmesh_chaos::http::Response;

use super::conditions::Retention;
use super::{Bucket, Call, Failure, check_hashes, hex};
use crate::stores::gcs::answer::document;
use crate::stores::xml::{elements, escaped};

/// The shortest part, in bytes, except the last one of an upload.
const SHORTEST_PART: usize = 5 << 20;
const MOST_PARTS: u64 = 10_000;

/// An upload that is under way.
#[derive(Debug)]
pub struct Upload {
    object: String,
    headers: Vec<(String, String)>,
    retention: Option<Retention>,
    parts: BTreeMap<u64, Part>,
}

#[derive(Debug)]
struct Part {
    tag: String,
    content: Vec<u8>,
}

impl Bucket {
    pub(super) fn begin_upload(&mut self, call: &Call<'_>, generation: &mut u64) -> Result<Response, Failure> {
        if call.parameter("uploads").is_none() {
            return Err(Failure::invalid("a POST is for an upload in parts"));
        }
        check_unconditional(call)?;
        *generation += 1;
        let id = format!("upload-{generation}");
        let upload = Upload {
            object: call.object.clone(),
            headers: call.kept_headers(),
            retention: Retention::asked(call)?,
            parts: BTreeMap::new(),
        };
        self.uploads.insert(id.clone(), upload);
        Ok(document(format!(
            "<?xml version='1.0' encoding='UTF-8'?><InitiateMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key>\
             <UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
            escaped(&call.bucket),
            escaped(&call.object)
        )))
    }

    fn upload(&mut self, call: &Call<'_>, id: &str) -> Result<&mut Upload, Failure> {
        let found = self.uploads.get_mut(id).filter(|upload| upload.object == call.object);
        found.ok_or_else(|| Failure::new(404, "NoSuchUpload", "The requested upload was not found."))
    }

    pub(super) fn put_part(&mut self, call: &Call<'_>, id: &str) -> Result<Response, Failure> {
        check_unconditional(call)?;
        check_hashes(call)?;
        let number = call
            .number("partNumber")?
            .filter(|number| (1..=MOST_PARTS).contains(number));
        let number = number.ok_or_else(|| Failure::invalid("partNumber is 1 to 10000"))?;
        let part = Part {
            tag: format!("\"{}\"", hex(&Md5::digest(call.body()))),
            content: call.body().to_vec(),
        };
        let response = Response::new(200, "").with_header("ETag", &part.tag);
        self.upload(call, id)?.parts.insert(number, part);
        Ok(response)
    }

    pub(super) fn complete_upload(
        &mut self,
        call: &Call<'_>,
        id: &str,
        generation: &mut u64,
    ) -> Result<Response, Failure> {
        check_unconditional(call)?;
        self.check_write(call)?;
        let body = String::from_utf8_lossy(call.body());
        let upload = self.upload(call, id)?;
        let named = named_parts(&body)?;
        let last = named.last().map(|(number, _)| *number);
        let mut content = Vec::new();
        let mut digests = Md5::new();
        for (number, tag) in &named {
            let part = upload.parts.get(number).filter(|part| part.tag == *tag);
            let part =
                part.ok_or_else(|| Failure::new(400, "InvalidPart", format!("part {number} was not uploaded so")))?;
            if part.content.len() < SHORTEST_PART && Some(*number) != last {
                return Err(Failure::new(
                    400,
                    "EntityTooSmall",
                    format!("part {number} is too small"),
                ));
            }
            content.extend_from_slice(&part.content);
            digests.update(part.tag.as_bytes());
        }
        let tag = format!("\"{}-{}\"", hex(&digests.finalize()), named.len());
        let (headers, retention) = (upload.headers.clone(), upload.retention.clone());
        self.uploads.remove(id);
        let version = self.add(&call.object, content, headers, tag, retention, generation);
        let xml = format!(
            "<?xml version='1.0' encoding='UTF-8'?><CompleteMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key>\
             <ETag>{}</ETag></CompleteMultipartUploadResult>",
            escaped(&call.bucket),
            escaped(&call.object),
            escaped(&version.tag)
        );
        Ok(version.tell(document(xml)))
    }

    pub(super) fn give_up_upload(&mut self, call: &Call<'_>, id: &str) -> Result<Response, Failure> {
        self.upload(call, id)?;
        self.uploads.remove(id);
        Ok(Response::new(204, ""))
    }
}

/// Uploads in parts know no conditions. A server that ignored the header would let an object be replaced.
fn check_unconditional(call: &Call<'_>) -> Result<(), Failure> {
    match call.header("x-goog-if-generation-match") {
        Some(_) => Err(Failure::invalid("uploads in parts know no conditions")),
        None => Ok(()),
    }
}

/// The parts that the request to complete an upload names, in order.
fn named_parts(body: &str) -> Result<Vec<(u64, String)>, Failure> {
    let malformed = || Failure::new(400, "MalformedXML", "The XML you provided was not well-formed.");
    let part = |xml: &&str| {
        let number = elements(xml, "PartNumber").first()?.parse().ok()?;
        let tag = elements(xml, "ETag").first()?.replace("&quot;", "\"");
        Some((number, tag))
    };
    let parts = elements(body, "Part");
    let named: Vec<(u64, String)> = parts.iter().map(part).collect::<Option<_>>().ok_or_else(malformed)?;
    if named.is_empty() || !body.contains("<CompleteMultipartUpload") {
        return Err(malformed());
    }
    if !named.is_sorted_by(|(one, _), (next, _)| one < next) {
        return Err(Failure::new(
            400,
            "InvalidPartOrder",
            "The parts are not in ascending order.",
        ));
    }
    Ok(named)
}
