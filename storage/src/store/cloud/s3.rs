//! Buckets of S3 and of servers that speak its protocol.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderName, HeaderValue, Method};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsAuthorizer, AwsCredentialProvider, Checksum};
use object_store::client::{HttpRequest, HttpRequestBody, HttpService};
use object_store::path::Path as Location;
use object_store::{Error, ObjectStore, ObjectStoreExt};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::options::{Lock, path_style, required, required_secret, secret, unusable};
use super::service::{Decorate, Service};
use super::trouble::{Trouble, TroubleKind};
use super::{Parts, no_retries};
use crate::error::StoreError;
use crate::store::{Secrets, StoreSettings};

/// The region for a server of the user's own, if no region is set.
const ANY_REGION: &str = "us-east-1";
static LOCK_MODE: HeaderName = HeaderName::from_static("x-amz-object-lock-mode");
static LOCK_UNTIL: HeaderName = HeaderName::from_static("x-amz-object-lock-retain-until-date");

static CHECKSUM: HeaderName = HeaderName::from_static("x-amz-sdk-checksum-algorithm");

/// Builds the store. With object lock the server keeps versions, so a [`Deleting`] comes with it.
pub fn build(parts: Parts<'_>) -> Result<(AmazonS3, Option<Deleting>), StoreError> {
    let Parts {
        settings,
        options,
        secrets,
        ..
    } = parts;
    let bucket = required(settings, "s3-bucket")?;
    let region = settings.get("s3-region").unwrap_or(ANY_REGION);
    let by_path = path_style(settings, "s3-uri-style");
    let (endpoint, url) = if by_path {
        let endpoint = options.endpoint.to_string();
        let url = format!("{endpoint}/{bucket}");
        (endpoint, url)
    } else {
        let endpoint = options.endpoint.below("s3-bucket", bucket, "s3-uri-style")?.to_string();
        (endpoint.clone(), endpoint)
    };
    let service = parts.service(&super::uri("s3-bucket", &url)?);
    let requester_pays = settings.get("s3-requester-pays") == Some("y");
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region)
        .with_endpoint(endpoint)
        .with_virtual_hosted_style_request(!by_path)
        .with_retry(no_retries())
        .with_http_connector(service.clone())
        // One object at a time: every server supports that, and each answer is about one object.
        .with_disable_bulk_delete(true)
        .with_disable_tagging(options.tags.is_empty())
        .with_request_payer(requester_pays);
    builder = with_credentials(builder, settings, secrets)?;
    builder = match (secret(secrets, "s3-kms-key-id"), secret(secrets, "s3-sse-customer-key")) {
        (Some(_), Some(_)) => {
            return Err(unusable(
                "s3-sse-customer-key",
                "s3-kms-key-id is set too: S3 takes one of them",
            ));
        }
        (Some(key), None) => builder.with_sse_kms_encryption(key),
        (None, Some(key)) if is_customer_key(key) => builder.with_ssec_encryption(key),
        (None, Some(_)) => return Err(unusable("s3-sse-customer-key", "it is not the base64 of 32 bytes")),
        (None, None) => builder,
    };
    if options.lock.is_some() {
        // S3 takes no locked object without a checksum.
        builder = builder.with_checksum_algorithm(Checksum::SHA256);
    }
    let store = builder.build().map_err(|error| super::not_built("s3", &error))?;
    let Some(lock) = options.lock else {
        return Ok((store, None));
    };
    service.decorate_with(Box::new(Locking {
        lock,
        region: region.to_owned(),
        credentials: Arc::clone(store.credentials()),
    }));
    let deleting = Deleting {
        service,
        bucket_url: url,
        prefix: options.prefix.clone(),
        region: region.to_owned(),
        requester_pays,
        credentials: Arc::clone(store.credentials()),
    };
    Ok((store, Some(deleting)))
}

/// 32 bytes in base64, as S3 wants a key of the customer's.
fn is_customer_key(text: &str) -> bool {
    BASE64_STANDARD.decode(text).is_ok_and(|key| key.len() == 32)
}

/// Deletes the current version of an object. A bucket with object lock keeps versions: a DELETE without a version id
/// hides the object behind a delete marker, is answered with success, and keeps all its bytes.
#[derive(Clone, Debug)]
pub struct Deleting {
    service: Service,
    bucket_url: String,
    prefix: String,
    region: String,
    requester_pays: bool,
    credentials: AwsCredentialProvider,
}

impl Deleting {
    /// Deletes an object of `store`. A missing object counts as deleted; a locked one gives [`TroubleKind::Retained`].
    pub async fn delete(&self, store: &dyn ObjectStore, location: &Location) -> object_store::Result<()> {
        let found = match store.head(location).await {
            Err(Error::NotFound { .. }) => return Ok(()),
            found => found?,
        };
        let Some(version) = found.version else {
            return store.delete(location).await;
        };
        match self.delete_version(location, &version).await {
            // The credentials can write here but not delete this object, so object lock is the likely reason.
            Err(trouble) if trouble.kind == TroubleKind::Permission => Err(failed(Trouble::new(
                TroubleKind::Retained,
                format!("object lock, or a missing s3:DeleteObjectVersion: {}", trouble.what),
            ))),
            answer => answer.map_err(failed),
        }
    }

    async fn delete_version(&self, location: &Location, version: &str) -> Result<(), Trouble> {
        let version = utf8_percent_encode(version, NON_ALPHANUMERIC);
        // Names of objects need no escapes: letters, digits, '.', '_', '-'.
        let url = match self.prefix.as_str() {
            "" => format!("{}/{location}?versionId={version}", self.bucket_url),
            prefix => format!("{}/{prefix}/{location}?versionId={version}", self.bucket_url),
        };
        let refused = |what: String| Trouble::new(TroubleKind::Refused, what);
        let mut request = http::Request::new(HttpRequestBody::empty());
        *request.method_mut() = Method::DELETE;
        *request.uri_mut() = super::uri("s3-bucket", &url).map_err(|error| refused(error.to_string()))?;
        let credential = self.credentials.get_credential().await;
        let credential = credential.map_err(|error| super::of_signing(&error))?;
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .with_request_payer(self.requester_pays)
            .try_authorize(&mut request, None)
            .map_err(|error| Trouble::new(TroubleKind::Credentials, error.to_string()))?;
        match self.service.call(request).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Trouble::of(&error)
                .cloned()
                .unwrap_or_else(|| refused(error.to_string()))),
        }
    }
}

fn failed(trouble: Trouble) -> Error {
    Error::Generic {
        store: "s3",
        source: Box::new(trouble),
    }
}

fn with_credentials(
    builder: AmazonS3Builder,
    settings: &StoreSettings,
    secrets: &Secrets,
) -> Result<AmazonS3Builder, StoreError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let needed = |name: &str, kind: &str| {
        variable(name).ok_or_else(|| unusable("s3-key-type", format!("{kind} needs {name} in the environment")))
    };
    Ok(match settings.get("s3-key-type").unwrap_or("shared") {
        "shared" => {
            let builder = builder
                .with_access_key_id(required_secret(secrets, "s3-key")?)
                .with_secret_access_key(required_secret(secrets, "s3-key-secret")?);
            match secret(secrets, "s3-token") {
                Some(token) => builder.with_token(token),
                None => builder,
            }
        }
        "web-id" => {
            let mut builder = builder
                .with_config(
                    AmazonS3ConfigKey::WebIdentityTokenFile,
                    needed("AWS_WEB_IDENTITY_TOKEN_FILE", "web-id")?,
                )
                .with_config(AmazonS3ConfigKey::RoleArn, needed("AWS_ROLE_ARN", "web-id")?)
                .with_config(AmazonS3ConfigKey::RoleSessionName, "pgmesh");
            if let Some(endpoint) = variable("AWS_ENDPOINT_URL_STS") {
                builder = builder.with_config(AmazonS3ConfigKey::StsEndpoint, endpoint);
            }
            builder
        }
        "pod-id" => builder
            .with_config(
                AmazonS3ConfigKey::ContainerCredentialsFullUri,
                needed("AWS_CONTAINER_CREDENTIALS_FULL_URI", "pod-id")?,
            )
            .with_config(
                AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
                needed("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "pod-id")?,
            ),
        "auto" => match variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
            Some(uri) => builder.with_config(AmazonS3ConfigKey::ContainerCredentialsRelativeUri, uri),
            None => match variable("AWS_EC2_METADATA_SERVICE_ENDPOINT") {
                Some(endpoint) => builder.with_metadata_endpoint(endpoint),
                None => builder,
            },
        },
        other => {
            return Err(unusable(
                "s3-key-type",
                format!("'{other}' is not one of shared, auto, web-id, pod-id"),
            ));
        }
    })
}

/// Adds the object lock's headers to a PUT and signs the request anew, since S3 wants its own headers signed.
#[derive(Debug)]
struct Locking {
    lock: Lock,
    region: String,
    credentials: AwsCredentialProvider,
}

#[async_trait]
impl Decorate for Locking {
    async fn decorate(&self, request: &mut HttpRequest) -> Result<(), Trouble> {
        if !begins_an_object(request) {
            return Ok(());
        }
        let mode = if self.lock.compliance {
            "COMPLIANCE"
        } else {
            "GOVERNANCE"
        };
        let until = super::lock_until(self.lock).format("%Y-%m-%dT%H:%M:%SZ").to_string();
        let headers = request.headers_mut();
        headers.insert(&LOCK_MODE, HeaderValue::from_static(mode));
        headers.insert(&LOCK_UNTIL, super::header(&until)?);
        if *request.method() == Method::PUT {
            // S3 takes no locked object without a checksum; this header announces it.
            request
                .headers_mut()
                .insert(&CHECKSUM, HeaderValue::from_static("SHA256"));
        }
        let headers = request.headers_mut();
        let refused = |what: String| Trouble::new(TroubleKind::Credentials, what);
        // The payload's digest, from the first signature.
        let digest = headers
            .get("x-amz-content-sha256")
            .and_then(|value| hex::decode(value.as_bytes()).ok());
        let credential = self.credentials.get_credential().await;
        let credential = credential.map_err(|error| super::of_signing(&error))?;
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .try_authorize(request, digest.as_deref())
            .map_err(|error| refused(error.to_string()))
    }
}

/// Whether the request creates an object: a PUT of a whole object, or the start of an upload in parts.
fn begins_an_object(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or("");
    match *request.method() {
        Method::PUT => !query.contains("uploadId="),
        Method::POST => query.split('&').any(|pair| pair == "uploads" || pair == "uploads="),
        _ => false,
    }
}
