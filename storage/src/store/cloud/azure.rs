//! Containers of Azure Blob Storage.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use md5::{Digest, Md5};
use object_store::Error;
use object_store::azure::{
    AzureAuthorizer, AzureConfigKey, AzureCredential, AzureCredentialProvider, MicrosoftAzure, MicrosoftAzureBuilder,
};
use object_store::client::{HttpRequest, HttpRequestBody, HttpService};
use object_store::path::Path as Location;

use super::options::{Lock, path_style, required, required_secret, unusable};
use super::service::{Decorate, Service};
use super::trouble::{Trouble, TroubleKind};
use super::{Parts, no_retries};
use crate::error::StoreError;
use crate::store::{Secrets, StoreSettings};

static LOCK_MODE: HeaderName = HeaderName::from_static("x-ms-immutability-policy-mode");
static LOCK_UNTIL: HeaderName = HeaderName::from_static("x-ms-immutability-policy-until-date");
static CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

/// Builds the store.
pub fn build(parts: Parts<'_>) -> Result<(MicrosoftAzure, Deleting), StoreError> {
    let Parts {
        settings,
        options,
        secrets,
        ..
    } = parts;
    let container = required(settings, "azure-container")?;
    let account = required_secret(secrets, "azure-account")?;
    // Local servers want the account in the path; Azure wants it in front of the host.
    let url = if path_style(settings, "azure-uri-style") {
        format!("{}/{account}", options.endpoint)
    } else {
        options
            .endpoint
            .below("azure-account", account, "azure-uri-style")?
            .to_string()
    };
    let bucket_url = super::uri("azure-container", &format!("{url}/{container}"))?;
    let service = parts.service(&bucket_url);
    let mut builder = MicrosoftAzureBuilder::new()
        .with_container_name(container)
        .with_account(account)
        .with_endpoint(url)
        .with_retry(no_retries())
        .with_http_connector(service.clone())
        .with_disable_tagging(options.tags.is_empty());
    builder = with_credentials(builder, settings, secrets)?;
    let store = builder.build().map_err(|error| super::not_built("azure", &error))?;
    service.decorate_with(Box::new(Guarding {
        lock: options.lock,
        account: account.to_owned(),
        credentials: Arc::clone(store.credentials()),
    }));
    let deleting = Deleting {
        service,
        bucket_url: bucket_url.to_string().trim_end_matches('/').to_owned(),
        prefix: options.prefix.clone(),
        account: account.to_owned(),
        credentials: Arc::clone(store.credentials()),
    };
    Ok((store, deleting))
}

/// Deletes one blob by a request of its own. `object_store` packs deletions into batches: some signatures do not allow
/// them, and their answers hide why one blob was not deleted.
#[derive(Clone, Debug)]
pub struct Deleting {
    service: Service,
    bucket_url: String,
    prefix: String,
    account: String,
    credentials: AzureCredentialProvider,
}

impl Deleting {
    /// Deletes a blob. A missing blob counts as deleted.
    pub async fn delete(&self, location: &Location) -> object_store::Result<()> {
        let failed = |error| Error::Generic {
            store: "azure",
            source: Box::<Trouble>::new(error),
        };
        // Names of objects need no escapes: letters, digits, '.', '_', '-'.
        let below = match self.prefix.as_str() {
            "" => location.to_string(),
            prefix => format!("{prefix}/{location}"),
        };
        let mut request = http::Request::new(HttpRequestBody::empty());
        *request.method_mut() = Method::DELETE;
        *request.uri_mut() = super::uri("azure-endpoint", &format!("{}/{below}", self.bucket_url))
            .map_err(|error| failed(Trouble::new(TroubleKind::Refused, error.to_string())))?;
        let credential = self.credentials.get_credential().await?;
        AzureAuthorizer::new(&credential, &self.account).try_authorize(&mut request)?;
        let deleted = self.service.call(request).await;
        deleted.map(drop).map_err(|error| Error::Generic {
            store: "azure",
            source: Box::new(error),
        })
    }
}

fn with_credentials(
    builder: MicrosoftAzureBuilder,
    settings: &StoreSettings,
    secrets: &Secrets,
) -> Result<MicrosoftAzureBuilder, StoreError> {
    Ok(match settings.get("azure-key-type").unwrap_or("shared") {
        "shared" => builder.with_access_key(required_secret(secrets, "azure-key")?),
        "sas" => {
            // The token as it is copied from the portal, with or without its question mark.
            let token = required_secret(secrets, "azure-key")?.trim_start_matches('?');
            builder.with_config(AzureConfigKey::SasKey, token)
        }
        "auto" => {
            let names = [
                ("AZURE_CLIENT_ID", AzureConfigKey::ClientId),
                ("AZURE_TENANT_ID", AzureConfigKey::AuthorityId),
                ("AZURE_FEDERATED_TOKEN_FILE", AzureConfigKey::FederatedTokenFile),
                ("AZURE_AUTHORITY_HOST", AzureConfigKey::AuthorityHost),
                ("AZURE_CLIENT_SECRET", AzureConfigKey::ClientSecret),
                ("IDENTITY_ENDPOINT", AzureConfigKey::MsiEndpoint),
            ];
            names
                .into_iter()
                .fold(builder, |builder, (name, key)| match std::env::var(name) {
                    Ok(value) if !value.is_empty() => builder.with_config(key, value),
                    _ => builder,
                })
        }
        other => {
            return Err(unusable(
                "azure-key-type",
                format!("'{other}' is not one of shared, sas, auto"),
            ));
        }
    })
}

/// Adds object lock and a checksum that the server compares. If the credentials are a key, both are signed.
#[derive(Debug)]
struct Guarding {
    lock: Option<Lock>,
    account: String,
    credentials: AzureCredentialProvider,
}

#[async_trait]
impl Decorate for Guarding {
    async fn decorate(&self, request: &mut HttpRequest) -> Result<(), Trouble> {
        if *request.method() != Method::PUT {
            return Ok(());
        }
        let query = request.uri().query().unwrap_or("").to_owned();
        let mut digest = Md5::new();
        let mut body = request.body().clone();
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                digest.update(&data);
            }
        }
        let digest = BASE64_STANDARD.encode(digest.finalize());
        request.headers_mut().insert(&CONTENT_MD5, super::header(&digest)?);
        // A PUT of a whole blob, or of the list of blocks, which completes an upload in parts.
        let ends_a_blob = !query.contains("comp=") || query.contains("comp=blocklist");
        if let Some(lock) = self.lock.filter(|_| ends_a_blob) {
            let mode = if lock.compliance { "Locked" } else { "Unlocked" };
            let until = super::lock_until(lock).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
            request.headers_mut().insert(&LOCK_MODE, HeaderValue::from_static(mode));
            request.headers_mut().insert(&LOCK_UNTIL, super::header(&until)?);
        }
        let credential = self.credentials.get_credential().await;
        let credential = credential.map_err(|error| super::of_signing(&error))?;
        // Only a key signs headers.
        if matches!(*credential, AzureCredential::AccessKey(_)) {
            request.headers_mut().remove(AUTHORIZATION);
            AzureAuthorizer::new(&credential, &self.account)
                .try_authorize(request)
                .map_err(|error| Trouble::new(TroubleKind::Credentials, error.to_string()))?;
        }
        Ok(())
    }
}
