//! One repository of this node: closed or opened, and how it does.

use super::marking::{Ahead, Marking};
use super::watch::Watch;
use crate::awake::Awake;
use crate::health::Work;
use crate::settings::RepositorySettings;
use pgmesh_protocol::{HealthInfo, RemoteErrorKind, now_unix};
use pgmesh_raft::{LogIndex, NodeName, PlacedIdentity, RepositoryRecord, limits};
use pgmesh_storage::{Mark, RepoKey, Repository, Store, StoreError};
use std::collections::BTreeSet;
use std::future::Future;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// An open repository, and the identity under which its objects are claimed.
#[derive(Clone)]
pub struct OpenRepository {
    repository: Repository,
    claimed_as: PlacedIdentity,
}

impl OpenRepository {
    /// `placed` is [`RepositoryRecord::placed`] as it was when it was found to be the mesh's.
    pub fn new(repository: Repository, placed: LogIndex) -> Self {
        let uuid = repository.identity().uuid.clone();
        Self {
            repository,
            claimed_as: PlacedIdentity { uuid, placed },
        }
    }

    /// The identity that a claim of an object here names.
    pub fn claimed_as(&self) -> &PlacedIdentity {
        &self.claimed_as
    }
}

impl Deref for OpenRepository {
    type Target = Repository;

    fn deref(&self) -> &Repository {
        &self.repository
    }
}

/// An opened repository, or why it is not.
#[derive(Clone)]
pub enum Opened {
    /// It serves.
    Open(OpenRepository),
    /// It could not be opened; tried again.
    Closed {
        /// In words.
        why: String,
        /// Unix seconds.
        since: i64,
    },
    /// It will not be opened as this node's file stands: wrong passphrase, differing definition.
    Refused {
        /// In words, with the remedy.
        why: String,
        /// It is the mesh's definition that differs, which may change.
        differs: bool,
    },
}

/// A repository of this node.
pub struct Slot {
    /// Its number.
    pub key: RepoKey,
    /// As this node's file defines it.
    pub settings: RepositorySettings,
    /// How long one request may take before the repository counts as silent.
    pub io_timeout: Duration,
    /// Held while it is being opened: once at a time.
    pub(crate) opening: tokio::sync::Mutex<()>,
    opened: Mutex<Opened>,
    /// Whether an attempt to open it has come to its end since the start.
    tried: tokio::sync::watch::Sender<bool>,
    /// The storage of the open repository.
    store: Mutex<Option<Store>>,
    /// Objects that this process has written there.
    written: AtomicU64,
    pub(crate) marking: tokio::sync::Mutex<Marking>,
    may_delete: AtomicBool,
    /// How far the catalog had come, where that is ahead of this node's and is to be compared.
    ahead: Mutex<Option<Ahead>>,
    /// When that was looked at, and the marks that were read then.
    looked: Mutex<Option<(Awake, BTreeSet<Mark>)>>,
    pub(crate) watch: Arc<Watch>,
}

impl Slot {
    /// A closed slot.
    pub fn new(key: RepoKey, settings: RepositorySettings, io_timeout: Duration) -> Self {
        Self {
            key,
            settings,
            io_timeout,
            opening: tokio::sync::Mutex::default(),
            store: Mutex::default(),
            written: AtomicU64::new(0),
            marking: tokio::sync::Mutex::default(),
            may_delete: AtomicBool::new(true),
            ahead: Mutex::default(),
            looked: Mutex::default(),
            opened: Mutex::new(Opened::Closed {
                why: "it has not been opened yet".to_owned(),
                since: now_unix(),
            }),
            tried: tokio::sync::watch::Sender::default(),
            watch: Arc::default(),
        }
    }

    /// An attempt to open it has come to its end, well or not.
    pub(crate) fn note_tried(&self) {
        self.tried.send_replace(true);
    }

    /// Waits until the first attempt to open it has come to its end.
    pub(crate) async fn first_attempt(&self) {
        // The sender lives as long as this slot.
        let _ = self.tried.subscribe().wait_for(|tried| *tried).await;
    }

    /// Whether the catalog's definition of the repository agrees with this node's file: its options, not its host.
    pub fn is_defined_by(&self, record: &RepositoryRecord) -> bool {
        record.definition == self.settings.definition
    }

    /// The state now.
    pub fn opened(&self) -> Opened {
        lock(&self.opened).clone()
    }

    /// Sets the state; "closed since" stays as it was while it stays closed.
    pub fn set(&self, state: Opened) {
        let mut opened = lock(&self.opened);
        *opened = match (&*opened, state) {
            (Opened::Closed { since, .. }, Opened::Closed { why, .. }) => Opened::Closed { why, since: *since },
            (_, state) => state,
        };
    }

    /// The storage that the repository was opened on.
    pub fn set_store(&self, store: Store) {
        *lock(&self.store) = Some(store);
    }

    /// Whether that storage is in its place, as far as can be seen without reading an object.
    pub async fn is_in_place(&self) -> bool {
        let store = lock(&self.store).clone();
        match store {
            Some(store) => store.is_in_place().await,
            None => true,
        }
    }

    /// An object was written.
    pub fn note_written(&self) {
        self.written.fetch_add(1, Ordering::Relaxed);
    }

    /// How many objects this process has written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether the repository of this identity is the open one.
    pub fn has_open(&self, uuid: &str) -> bool {
        self.repository()
            .is_some_and(|repository| repository.identity().uuid == uuid)
    }

    /// How far the catalog had come, as the repository says, if that is to be compared.
    pub(crate) fn ahead(&self) -> Option<Ahead> {
        *lock(&self.ahead)
    }

    pub(crate) fn set_ahead(&self, ahead: Ahead) {
        *lock(&self.ahead) = Some(ahead);
    }

    /// The position has been compared; a newer position stays.
    pub(crate) fn forget_ahead(&self, compared: Ahead) {
        lock(&self.ahead).take_if(|ahead| *ahead == compared);
    }

    /// Whether the repository has been asked since the start how far the catalog had come.
    pub(crate) fn has_looked(&self) -> bool {
        lock(&self.looked).is_some()
    }

    /// How long ago the repository was last asked so; none if it never was.
    pub(crate) fn since_look(&self) -> Option<Duration> {
        lock(&self.looked).as_ref().map(|(at, _)| at.elapsed())
    }

    /// Whether this process has read a mark.
    pub(crate) fn has_read(&self, mark: Mark) -> bool {
        lock(&self.looked)
            .as_ref()
            .is_some_and(|(_, read)| read.contains(&mark))
    }

    /// These marks were there and have been read, in a look that began then.
    pub(crate) fn set_looked(&self, began: Awake, marks: Vec<Mark>) {
        *lock(&self.looked) = Some((began, marks.into_iter().collect()));
    }

    /// Whether objects may be deleted there at all, as far as its credentials and options go.
    pub fn may_delete(&self) -> bool {
        self.may_delete.load(Ordering::Relaxed)
    }

    /// Sets whether objects may be deleted there, as the opening has found out.
    pub fn set_may_delete(&self, may: bool) {
        self.may_delete.store(may, Ordering::Relaxed);
    }

    /// The repository, if it is open.
    pub fn repository(&self) -> Option<OpenRepository> {
        match self.opened() {
            Opened::Open(repository) => Some(repository),
            Opened::Closed { .. } | Opened::Refused { .. } => None,
        }
    }

    /// Why the repository is not open; nothing where it is.
    pub(crate) fn why_not_open(&self) -> Option<String> {
        match self.opened() {
            Opened::Open(_) => None,
            Opened::Closed { why, .. } | Opened::Refused { why, .. } => Some(why),
        }
    }

    /// Whether requests should be sent there now.
    pub fn admits(&self) -> bool {
        self.repository().is_some() && self.watch.admits()
    }

    /// For `info` and `check`.
    pub fn health(&self) -> HealthInfo {
        let health = match self.opened() {
            Opened::Open(_) => self.watch.info(),
            Opened::Closed { why, since } => HealthInfo::Down { since, why },
            Opened::Refused { why, .. } => HealthInfo::Refused { why },
        };
        // A server's answer may be long.
        let shortened = |why| limits::shortened(why, limits::REASON);
        match health {
            HealthInfo::Up => HealthInfo::Up,
            HealthInfo::Down { since, why } => HealthInfo::Down {
                since,
                why: shortened(why),
            },
            HealthInfo::Refused { why } => HealthInfo::Refused { why: shortened(why) },
        }
    }

    /// Reads from the repository within `io-timeout`, and learns from the outcome.
    pub async fn read<T, F>(&self, request: impl FnOnce(OpenRepository) -> F) -> Result<T, SlotError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        self.watched(Work::Read, 0, request).await
    }

    /// Writes so many bytes to the repository within `io-timeout`, and learns from the outcome.
    pub async fn write<T, F>(&self, bytes: u64, request: impl FnOnce(OpenRepository) -> F) -> Result<T, SlotError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        self.watched(Work::Write, bytes, request).await
    }

    /// Any other request, within `io-timeout`; learns from the outcome.
    pub async fn request<T, F>(&self, request: impl FnOnce(OpenRepository) -> F) -> Result<T, SlotError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        self.watched(Work::Write, 0, request).await
    }

    async fn watched<T, F>(
        &self,
        work: Work,
        bytes: u64,
        request: impl FnOnce(OpenRepository) -> F,
    ) -> Result<T, SlotError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let Some(repository) = self.repository() else {
            return Err(SlotError::NotOpen {
                repo: self.key,
                why: self
                    .why_not_open()
                    .unwrap_or_else(|| "it was opened just now".to_owned()),
            });
        };
        let identity = Box::new(repository.claimed_as().clone());
        let attempt = self.watch.begin(work, bytes);
        match tokio::time::timeout(self.io_timeout, request(repository)).await {
            Ok(Ok(value)) => {
                attempt.succeeded();
                Ok(value)
            }
            Ok(Err(source)) => {
                if source.is_of_the_repository() {
                    attempt.failed(pgmesh_protocol::failure::chain(&source));
                } else {
                    attempt.answered();
                }
                Err(SlotError::Store {
                    repo: self.key,
                    identity,
                    source,
                })
            }
            Err(_) => {
                let error = SlotError::Silent {
                    repo: self.key,
                    limit: self.io_timeout,
                };
                attempt.failed(error.to_string());
                Err(error)
            }
        }
    }
}

/// Why a request to a repository failed.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// It is not open.
    #[error("repo{repo} is not open: {why}")]
    NotOpen {
        /// Which.
        repo: RepoKey,
        /// Why.
        why: String,
    },
    /// It answered with an error.
    #[error("repo{repo}")]
    Store {
        /// Which.
        repo: RepoKey,
        /// The identity of the repository that answered.
        identity: Box<PlacedIdentity>,
        /// Its answer.
        #[source]
        source: StoreError,
    },
    /// It did not answer.
    #[error("repo{repo} did not answer within {limit:?} (io-timeout)")]
    Silent {
        /// Which.
        repo: RepoKey,
        /// The limit.
        limit: Duration,
    },
    /// The node that hosts it cannot be reached.
    #[error("repo{repo}: {why}")]
    Away {
        /// Which.
        repo: RepoKey,
        /// Why, in words.
        why: String,
    },
    /// The node that hosts it answered with an error.
    #[error("repo{repo} at node {host}: {what}")]
    Remote {
        /// Which.
        repo: RepoKey,
        /// The node.
        host: NodeName,
        /// The identity of the repository that answered, if one did.
        identity: Option<Box<PlacedIdentity>>,
        /// The kind of error.
        kind: RemoteErrorKind,
        /// In words.
        what: String,
    },
}

impl SlotError {
    /// Whether the error says that the object itself is bad: `Some(true)` when it is missing, `Some(false)` when
    /// damaged. A repository that cannot be reached says nothing about its objects.
    pub fn condemns(&self) -> Option<bool> {
        match self {
            Self::Store {
                source: StoreError::NotFound { .. },
                ..
            }
            | Self::Remote {
                kind: RemoteErrorKind::Missing,
                ..
            } => Some(true),
            Self::Store {
                source: StoreError::Damaged { .. },
                ..
            }
            | Self::Remote {
                kind: RemoteErrorKind::Damaged,
                ..
            } => Some(false),
            _ => None,
        }
    }
}

impl SlotError {
    /// The identity of the repository that answered; another repository may have its number by now.
    pub fn identity(&self) -> Option<&PlacedIdentity> {
        match self {
            Self::Store { identity, .. } => Some(identity),
            Self::Remote { identity, .. } => identity.as_deref(),
            Self::NotOpen { .. } | Self::Silent { .. } | Self::Away { .. } => None,
        }
    }

    /// Whether the repository does not let the object go, and all is well.
    pub fn is_retained(&self) -> bool {
        matches!(
            self,
            Self::Store {
                source: StoreError::Retained { .. },
                ..
            } | Self::Remote {
                kind: RemoteErrorKind::Retained,
                ..
            }
        )
    }

    /// Whether another way to the same repository might do better.
    pub fn is_of_the_way(&self) -> bool {
        match self {
            Self::NotOpen { .. } | Self::Silent { .. } | Self::Away { .. } => true,
            Self::Store { source, .. } => source.is_of_the_repository(),
            Self::Remote { kind, .. } => *kind == RemoteErrorKind::Unavailable,
        }
    }
}

/// A panic of another holder leaves nothing half-changed in these states: go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
