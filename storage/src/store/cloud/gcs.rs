//! Buckets of Google Cloud Storage.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use http::header::{HeaderName, HeaderValue};
use http_body_util::BodyExt;
use object_store::StaticCredentialProvider;
use object_store::client::HttpRequest;
use object_store::gcp::{GcpCredential, GoogleCloudStorage, GoogleCloudStorageBuilder};

use super::options::{Lock, required, required_secret, unusable};
use super::service::Decorate;
use super::trouble::Trouble;
use super::{Parts, no_retries};
use crate::error::StoreError;

static LOCK_MODE: HeaderName = HeaderName::from_static("x-goog-object-lock-mode");
static LOCK_UNTIL: HeaderName = HeaderName::from_static("x-goog-object-lock-retain-until-date");
static HASH: HeaderName = HeaderName::from_static("x-goog-hash");
static USER_PROJECT: HeaderName = HeaderName::from_static("x-goog-user-project");

/// Builds the store.
pub fn build(parts: Parts<'_>) -> Result<GoogleCloudStorage, StoreError> {
    let Parts {
        settings,
        options,
        secrets,
        ..
    } = parts;
    let bucket = required(settings, "gcs-bucket")?;
    let url = options.endpoint.to_string();
    let bucket_url = super::uri("gcs-endpoint", &format!("{url}/{bucket}"))?;
    let service = parts.service(&bucket_url);
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(bucket)
        .with_base_url(&url)
        .with_retry(no_retries())
        .with_http_connector(service.clone());
    match settings.get("gcs-key-type").unwrap_or("service") {
        "service" => builder = builder.with_service_account_path(required_secret(secrets, "gcs-key")?),
        "token" => {
            let bearer = required_secret(secrets, "gcs-key")?.to_owned();
            builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(GcpCredential { bearer })));
        }
        // The application's default credentials, else the metadata service, which knows workload identities too.
        "auto" => {
            if let Ok(file) = std::env::var("GOOGLE_APPLICATION_CREDENTIALS") {
                builder = builder.with_application_credentials(file);
            }
        }
        other => {
            return Err(unusable(
                "gcs-key-type",
                format!("'{other}' is not one of service, token, auto"),
            ));
        }
    }
    let store = builder.build().map_err(|error| super::not_built("gcs", &error))?;
    service.decorate_with(Box::new(Guarding {
        lock: options.lock,
        user_project: settings.get("gcs-user-project").map(str::to_owned),
    }));
    Ok(store)
}

/// Adds a checksum that the server compares, object lock, and the project that pays. A bearer token signs no headers.
#[derive(Debug)]
struct Guarding {
    lock: Option<Lock>,
    user_project: Option<String>,
}

#[async_trait]
impl Decorate for Guarding {
    async fn decorate(&self, request: &mut HttpRequest) -> Result<(), Trouble> {
        if let Some(project) = &self.user_project {
            request.headers_mut().insert(&USER_PROJECT, super::header(project)?);
        }
        let query = request.uri().query().unwrap_or("").to_owned();
        let is_whole = *request.method() == Method::PUT && !query.contains("uploadId=");
        let begins_parts =
            *request.method() == Method::POST && query.split('&').any(|pair| pair.trim_end_matches('=') == "uploads");
        if *request.method() == Method::PUT {
            let mut sum = 0;
            let mut body = request.body().clone();
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(data) = frame.into_data() {
                    sum = crc32c::crc32c_append(sum, &data);
                }
            }
            let hash = format!("crc32c={}", BASE64_STANDARD.encode(sum.to_be_bytes()));
            request.headers_mut().insert(&HASH, super::header(&hash)?);
        }
        if let Some(lock) = self.lock.filter(|_| is_whole || begins_parts) {
            let mode = if lock.compliance { "COMPLIANCE" } else { "GOVERNANCE" };
            let until = super::lock_until(lock).format("%Y-%m-%dT%H:%M:%SZ").to_string();
            request.headers_mut().insert(&LOCK_MODE, HeaderValue::from_static(mode));
            request.headers_mut().insert(&LOCK_UNTIL, super::header(&until)?);
        }
        Ok(())
    }
}
