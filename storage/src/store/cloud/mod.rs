//! Buckets of S3, Azure and Google Cloud Storage as object stores that never replace anything.
//!
//! `object_store` speaks the protocols; around it:
//! - all requests go through [`service`], which repeats, sorts and bounds them, and adds the features that
//!   `object_store` lacks: object lock, checksums, another host to connect to;
//! - credentials are read anew when a server refuses them ([`CloudStore::renewed`]);
//! - a put is one conditional PUT. If [`CloudStore::learn`] finds that the server ignores the condition, a put first
//!   asks whether the object exists. The gap between the two does no harm, since names carry their content's digest
//!   (invariant 2).

mod azure;
mod budget;
mod conditions;
mod gcs;
mod options;
mod progress;
mod s3;
mod service;
mod transport;
mod trouble;

use pgmesh_runtime::tasks;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::Instant;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use http::{HeaderValue, Uri};
use object_store::path::Path as Location;
use object_store::prefix::PrefixStore;
use object_store::{
    BackoffConfig, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RetryConfig, TagSet,
    WriteMultipart,
};

use self::budget::Budget;
pub use self::conditions::Conditions;
use self::conditions::Learned;
use self::options::{Lock, Options, unusable};
use self::service::Service;
use self::transport::Clients;
pub use self::trouble::{Trouble, TroubleKind};
use crate::digest::DigestSuite;
use crate::error::StoreError;
use crate::object::IDENTITY_PATH;
use crate::store::{Secrets, StoreKind, StoreSettings};

/// Parts of one object under way at once.
const PARTS_AT_ONCE: usize = 4;
/// The shortest time between two requests for a new token.
const RENEWAL_PERIOD: Duration = Duration::from_secs(1);

/// A bucket. Cheap to clone.
#[derive(Clone)]
pub struct CloudStore(Arc<Inner>);

struct Inner {
    settings: StoreSettings,
    options: Options,
    budget: Arc<Budget>,
    learned: Learned,
    built: RwLock<Built>,
    renewing: tokio::sync::Mutex<()>,
}

/// The store with one set of credentials.
#[derive(Clone)]
struct Built {
    store: Arc<dyn ObjectStore>,
    /// How this bucket deletes objects.
    deleting: Deleting,
    /// A digest of the credentials, to notice a change.
    fingerprint: [u8; 32],
    since: Instant,
}

/// How objects are deleted.
#[derive(Clone)]
enum Deleting {
    /// By `object_store`.
    Usual,
    Azure(azure::Deleting),
    S3(s3::Deleting),
}

impl CloudStore {
    /// The store that the settings describe. No network is used.
    ///
    /// # Errors
    /// [`StoreError::Unusable`]: options or credentials are missing or make no sense.
    pub fn open(settings: &StoreSettings) -> Result<Self, StoreError> {
        let options = Options::read(settings.kind()?, settings)?;
        let secrets = settings
            .secrets
            .read()
            .map_err(|why| unusable("the credentials", why))?;
        let budget = Arc::default();
        let built = build(settings, &options, &secrets, &budget)?;
        Ok(Self(Arc::new(Inner {
            settings: settings.clone(),
            options,
            budget,
            learned: Learned::default(),
            built: RwLock::new(built),
            renewing: tokio::sync::Mutex::default(),
        })))
    }

    /// Whether objects may be deleted at all.
    pub fn may_delete(&self) -> bool {
        self.0.options.may_delete
    }

    /// How the server treats conditional writes.
    pub fn conditions(&self) -> Conditions {
        self.0.learned.get()
    }

    /// Finds out whether the server heeds conditional writes: it writes `pgmesh.repo` with its present content under
    /// the condition that it does not exist. So nothing changes, even on a server that ignores the condition.
    ///
    /// # Errors
    /// There is no `pgmesh.repo`, or the store's error.
    pub async fn learn(&self) -> Result<Conditions, StoreError> {
        let path = Location::from(IDENTITY_PATH);
        let failed = |action| move |error| StoreError::from_store(action, IDENTITY_PATH, error);
        let found = self
            .get_opts(&path, GetOptions::default())
            .await
            .map_err(failed("reading"))?;
        let bytes = found.bytes().await.map_err(failed("reading"))?;
        let learned = match self.write(&path, bytes.into(), true).await {
            Ok(_) => Conditions::Ignored,
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Conditions::Heeded,
            Err(error) if is(&error, TroubleKind::Unsupported) => Conditions::Unknown,
            Err(error) => return Err(failed("writing")(error)),
        };
        self.0.learned.set(learned);
        Ok(self.0.learned.get())
    }

    fn store(&self) -> Built {
        self.0.built.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs a request. If the server refuses the credentials, the request is run once more with the current ones.
    async fn with<T, F>(&self, request: impl Fn(Arc<dyn ObjectStore>) -> F) -> object_store::Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        self.with_built(|built| request(built.store)).await
    }

    async fn with_built<T, F>(&self, request: impl Fn(Built) -> F) -> object_store::Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let built = self.store();
        match request(built.clone()).await {
            Err(error) if Trouble::of(&error).is_some_and(|trouble| trouble.kind.is_of_credentials()) => {
                match self.renewed(&built).await {
                    Some(built) => request(built).await,
                    None => Err(error),
                }
            }
            answer => answer,
        }
    }

    /// The store with new credentials, if they differ from the refused ones.
    async fn renewed(&self, refused: &Built) -> Option<Built> {
        let _one_at_a_time = self.0.renewing.lock().await;
        let now = self.store();
        if !Arc::ptr_eq(&now.store, &refused.store) {
            return Some(now);
        }
        let inner = Arc::clone(&self.0);
        let rebuilt = tasks::blocking("rebuilding a client", move || {
            let secrets = inner
                .settings
                .secrets
                .read()
                .map_err(|why| unusable("the credentials", why))?;
            build(&inner.settings, &inner.options, &secrets, &inner.budget)
        });
        match rebuilt.await {
            Ok(Ok(built)) => {
                // A token may have been withdrawn before its time, so another token is requested.
                let from_elsewhere = has_tokens(self.0.options.kind, &self.0.settings);
                let is_other = built.fingerprint != refused.fingerprint
                    || from_elsewhere && refused.since.elapsed() >= RENEWAL_PERIOD;
                if !is_other {
                    return None;
                }
                tracing::info!(place = %self.0.settings, "the credentials were refused, and are read anew");
                *self.0.built.write().unwrap_or_else(PoisonError::into_inner) = built.clone();
                Some(built)
            }
            Ok(Err(error)) => {
                tracing::warn!(place = %self.0.settings, %error, "the credentials cannot be read anew");
                None
            }
            Err(_) => None,
        }
    }

    fn tags(&self) -> TagSet {
        let mut tags = TagSet::default();
        for (key, value) in &self.0.options.tags {
            tags.push(key, value);
        }
        tags
    }

    /// Writes an object; with `create`, only if it does not exist.
    async fn write(&self, location: &Location, payload: PutPayload, create: bool) -> object_store::Result<PutResult> {
        let tags = self.tags();
        let mode = if create { PutMode::Create } else { PutMode::Overwrite };
        self.with(|store| {
            let options = PutOptions {
                mode: mode.clone(),
                tags: tags.clone(),
                ..PutOptions::default()
            };
            let payload = payload.clone();
            async move { store.put_opts(location, payload, options).await }
        })
        .await
    }

    /// Writes a long object in parts, each of which is repeated by itself. The object is visible only after the last
    /// step.
    async fn write_parts(&self, location: &Location, payload: PutPayload) -> object_store::Result<PutResult> {
        let tags = self.tags();
        let upload = self
            .with(|store| {
                let options = PutMultipartOptions {
                    tags: tags.clone(),
                    ..PutMultipartOptions::default()
                };
                async move { store.put_multipart_opts(location, options).await }
            })
            .await?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, self.0.options.upload_chunk);
        for piece in &payload {
            if let Err(error) = parts.wait_for_capacity(PARTS_AT_ONCE).await {
                // Only `finish` aborts a failed upload by itself. Parts that stay are invisible.
                let _ = parts.abort().await;
                return Err(error);
            }
            parts.put(piece.clone());
        }
        // On failure, `finish` aborts the upload.
        parts.finish().await
    }

    /// Whether an object exists.
    async fn exists(&self, location: &Location) -> object_store::Result<bool> {
        match self.with(|store| async move { store.head(location).await }).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The ingredients of a store.
struct Parts<'a> {
    settings: &'a StoreSettings,
    options: &'a Options,
    secrets: &'a Secrets,
    clients: Clients,
    budget: &'a Arc<Budget>,
}

impl Parts<'_> {
    /// The way to the bucket at this address.
    fn service(&self, bucket: &Uri) -> Service {
        Service::new(
            self.clients.clone(),
            bucket,
            self.options.timeout,
            Arc::clone(self.budget),
        )
    }
}

fn build(
    settings: &StoreSettings,
    options: &Options,
    secrets: &Secrets,
    budget: &Arc<Budget>,
) -> Result<Built, StoreError> {
    let parts = Parts {
        settings,
        options,
        secrets,
        clients: Clients::build(options, secrets)?,
        budget,
    };
    let mut deleting = Deleting::Usual;
    let store: Arc<dyn ObjectStore> = match options.kind {
        StoreKind::S3 => {
            let (store, by_version) = s3::build(parts)?;
            deleting = by_version.map_or(Deleting::Usual, Deleting::S3);
            Arc::new(store)
        }
        StoreKind::Azure => {
            let (store, by_itself) = azure::build(parts)?;
            deleting = Deleting::Azure(by_itself);
            Arc::new(store)
        }
        StoreKind::Gcs => Arc::new(gcs::build(parts)?),
        StoreKind::Posix => return Err(unusable("type", "a directory is no bucket")),
    };
    let store = match options.prefix.as_str() {
        "" => store,
        prefix => Arc::new(PrefixStore::new(store, prefix)),
    };
    Ok(Built {
        store,
        deleting,
        fingerprint: fingerprint(settings, secrets),
        since: Instant::now(),
    })
}

/// A digest of all credentials, and of the key files that they name.
fn fingerprint(settings: &StoreSettings, secrets: &Secrets) -> [u8; 32] {
    let mut hasher = DigestSuite::Blake3.hasher();
    for (name, secret) in secrets {
        hasher.update(name.as_bytes());
        hasher.update(&[0]);
        hasher.update(secret.expose().as_bytes());
        hasher.update(&[0]);
    }
    if settings.get("gcs-key-type").unwrap_or("service") == "service"
        && let Some(file) = secrets.get("gcs-key")
        && let Ok(content) = std::fs::read(file.expose().trim())
    {
        hasher.update(&content);
    }
    *hasher.finalize().as_bytes()
}

/// Whether the credentials are short-lived tokens, from a token server or from this machine's metadata service.
fn has_tokens(kind: StoreKind, settings: &StoreSettings) -> bool {
    match kind {
        StoreKind::S3 | StoreKind::Posix => !matches!(settings.get("s3-key-type"), None | Some("shared")),
        StoreKind::Azure => settings.get("azure-key-type") == Some("auto"),
        StoreKind::Gcs => settings.get("gcs-key-type") != Some("token"),
    }
}

/// [`service`] repeats requests.
fn no_retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 0,
        retry_timeout: Duration::ZERO,
    }
}

fn uri(option: &str, url: &str) -> Result<Uri, StoreError> {
    // `object_store` parses the URL with `reqwest` and expects success.
    match (url.parse(), reqwest::Url::parse(url)) {
        (Ok(uri), Ok(_)) => Ok(uri),
        _ => Err(unusable(option, format!("'{url}' is no URL"))),
    }
}

fn header(text: &str) -> Result<HeaderValue, Trouble> {
    HeaderValue::from_str(text).map_err(|_| Trouble::new(TroubleKind::Refused, "an option cannot be sent as a header"))
}

fn lock_until(lock: Lock) -> DateTime<Utc> {
    Utc::now() + lock.period
}

/// The error of a store that cannot be built; the builders repeat no secret.
fn not_built(kind: &str, error: &Error) -> StoreError {
    unusable(&format!("the {kind} repository"), error.to_string())
}

/// The reason why a request could not be signed.
fn of_signing(error: &Error) -> Trouble {
    Trouble::of(error)
        .cloned()
        .unwrap_or_else(|| Trouble::new(TroubleKind::Credentials, error.to_string()))
}

fn is(error: &Error, kind: TroubleKind) -> bool {
    Trouble::of(error).is_some_and(|trouble| trouble.kind == kind)
}

fn exists_already(location: &Location) -> Error {
    Error::AlreadyExists {
        path: location.to_string(),
        source: "it was there before".into(),
    }
}

fn not_supported(operation: &str) -> Error {
    Error::NotImplemented {
        operation: operation.to_owned(),
        implementer: "pgmesh".to_owned(),
    }
}

impl fmt::Debug for CloudStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CloudStore({})", self.0.settings)
    }
}

impl fmt::Display for CloudStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.settings.fmt(formatter)
    }
}

#[async_trait]
impl ObjectStore for CloudStore {
    async fn put_opts(
        &self,
        location: &Location,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        if options.mode != PutMode::Create {
            return Err(not_supported("replacing an object"));
        }
        // Not every server takes a condition on an upload in parts.
        let in_parts = payload.content_length() > self.0.options.upload_chunk;
        let conditions = self.conditions();
        if (in_parts || conditions != Conditions::Heeded && conditions != Conditions::Unlearned)
            && self.exists(location).await?
        {
            return Err(exists_already(location));
        }
        if in_parts {
            return self.write_parts(location, payload).await;
        }
        if conditions == Conditions::Unknown {
            return self.write(location, payload, false).await;
        }
        match self.write(location, payload.clone(), true).await {
            Err(error) if is(&error, TroubleKind::Unsupported) => {
                // The server refuses conditional writes explicitly.
                self.0.learned.set(Conditions::Unknown);
                if self.exists(location).await? {
                    return Err(exists_already(location));
                }
                self.write(location, payload, false).await
            }
            answer => answer,
        }
    }

    async fn put_multipart_opts(
        &self,
        _location: &Location,
        _options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        Err(not_supported("writing an object in parts by hand"))
    }

    async fn get_opts(&self, location: &Location, options: GetOptions) -> object_store::Result<GetResult> {
        self.with(|store| {
            let options = options.clone();
            async move { store.get_opts(location, options).await }
        })
        .await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Location>>,
    ) -> BoxStream<'static, object_store::Result<Location>> {
        let store = self.clone();
        locations
            .and_then(move |location| {
                let store = store.clone();
                async move {
                    if !store.may_delete() {
                        let why = "nothing is deleted in this repository (delete=n)";
                        return Err(Error::Generic {
                            store: "pgmesh",
                            source: Box::new(Trouble::new(TroubleKind::Retained, why)),
                        });
                    }
                    let wanted = &location;
                    let delete = |built: Built| async move {
                        match built.deleting {
                            Deleting::Usual => built.store.delete(wanted).await,
                            Deleting::Azure(deleting) => deleting.delete(wanted).await,
                            Deleting::S3(deleting) => deleting.delete(&*built.store, wanted).await,
                        }
                    };
                    store.with_built(delete).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Location>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        // The first page shows whether the credentials are accepted.
        let listing = async move {
            let prefix = &prefix;
            let begin = |objects: Arc<dyn ObjectStore>| async move {
                let mut listing = objects.list(prefix.as_ref()).fuse();
                match listing.next().await {
                    Some(Err(error)) => Err(error),
                    first => Ok(stream::iter(first).chain(listing).boxed()),
                }
            };
            store.with(begin).await
        };
        stream::once(listing).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Location>) -> object_store::Result<ListResult> {
        self.with(|store| async move { store.list_with_delimiter(prefix).await })
            .await
    }

    async fn copy_opts(&self, _from: &Location, _to: &Location, _options: CopyOptions) -> object_store::Result<()> {
        Err(not_supported("copying an object"))
    }
}
