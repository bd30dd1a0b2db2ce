//! Buckets of S3 and of servers that speak its protocol.

use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderName, HeaderValue, Method};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsAuthorizer, AwsCredentialProvider, Checksum};
use object_store::client::HttpRequest;

use super::options::{Lock, path_style, required, required_secret, secret, unusable};
use super::service::Decorate;
use super::trouble::{Trouble, TroubleKind};
use super::{Parts, no_retries};
use crate::error::StoreError;
use crate::store::{Secrets, StoreSettings};

/// Where nothing is said of a server of one's own.
const ANY_REGION: &str = "us-east-1";
static LOCK_MODE: HeaderName = HeaderName::from_static("x-amz-object-lock-mode");
static LOCK_UNTIL: HeaderName = HeaderName::from_static("x-amz-object-lock-retain-until-date");

static CHECKSUM: HeaderName = HeaderName::from_static("x-amz-sdk-checksum-algorithm");

/// Builds the store.
pub fn build(parts: Parts<'_>) -> Result<AmazonS3, StoreError> {
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
        let endpoint = options.endpoint.below(bucket).to_string();
        (endpoint.clone(), endpoint)
    };
    let service = parts.service(&super::uri("s3-endpoint", &url)?);
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region)
        .with_endpoint(endpoint)
        .with_virtual_hosted_style_request(!by_path)
        .with_retry(no_retries())
        .with_http_connector(service.clone())
        // One object at a time: every server knows that, and each answer is that object's own.
        .with_disable_bulk_delete(true)
        .with_disable_tagging(options.tags.is_empty())
        .with_request_payer(settings.get("s3-requester-pays") == Some("y"));
    builder = with_credentials(builder, settings, secrets)?;
    if let Some(key) = secret(secrets, "s3-kms-key-id") {
        builder = builder.with_sse_kms_encryption(key);
    } else if let Some(key) = secret(secrets, "s3-sse-customer-key") {
        builder = builder.with_ssec_encryption(key);
    }
    if options.lock.is_some() {
        // S3 takes no locked object without a checksum.
        builder = builder.with_checksum_algorithm(Checksum::SHA256);
    }
    let store = builder.build().map_err(|error| super::not_built("s3", &error))?;
    if let Some(lock) = options.lock {
        service.decorate_with(Box::new(Locking {
            lock,
            region: region.to_owned(),
            credentials: Arc::clone(store.credentials()),
        }));
    }
    Ok(store)
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
                format!("'{other}' is none of shared, auto, web-id, pod-id"),
            ));
        }
    })
}

/// Puts what is written under object lock, and signs that anew: S3 wants every header of its own signed.
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
            // S3 takes no locked object without a checksum, and this is how it is told of one.
            request
                .headers_mut()
                .insert(&CHECKSUM, HeaderValue::from_static("SHA256"));
        }
        let headers = request.headers_mut();
        let refused = |what: String| Trouble::new(TroubleKind::Credentials, what);
        // The digest of the payload that the first signature was made over.
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

/// Whether the request brings an object into being: a PUT of a whole one, or the beginning of one in parts.
fn begins_an_object(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or("");
    match *request.method() {
        Method::PUT => !query.contains("uploadId="),
        Method::POST => query.split('&').any(|pair| pair == "uploads" || pair == "uploads="),
        _ => false,
    }
}
