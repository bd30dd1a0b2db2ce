//! Opening the repositories that this node's file declares, and registering them in the catalog.
//!
//! The first node that declares a number defines it. A node that declares it differently does not serve it and says
//! which option differs. A repository that was registered is never created again. If it has vanished, it is down: a
//! disk that is not mounted must not be filled under its mount point.
//!
//! A shared repository is registered by every node that declares it, each time with the same identity: `pgmesh.repo`,
//! which is created only where there is none, decides which of two nodes that start at once has made it, and the other
//! node takes it up. Each repository is opened by itself and within `io-timeout`, so that a silent endpoint holds up
//! no other.

use super::marks::Newest;
use super::slot::{OpenRepository, Opened, Slot};
use crate::core::Core;
use futures::future::join_all;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, now_unix};
use pgmesh_raft::{CatalogError, Command, NodeName, Refusal, RepositoryRecord};
use pgmesh_runtime::tasks;
use pgmesh_storage::{Cipher, Conditions, Repository, RepositoryIdentity, Store, StoreError, WrappedKey};
use std::future::Future;
use std::time::Duration;

/// How long the start of a node waits for shared repositories to open; slower repositories open later.
const START_LIMIT: Duration = Duration::from_secs(2);

/// Why a repository is not open.
enum NotOpen {
    /// Tried again.
    Closed(String, Again),
    /// The node's file must change first.
    Refused(String),
    /// The node's file, or the mesh's definition, must change first.
    Differs(String),
}

/// The finding at the place where a repository is declared.
pub(crate) enum There {
    /// The repository that the catalog knows.
    TheSame,
    /// The repository that the catalog knows, but without the newest mark.
    OlderCopy(OpenRepository),
    /// Another repository, no repository, or a repository that cannot be opened.
    Another,
}

/// When an opening that failed is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Soon: the mesh was not ready, or the disk may be mounted any moment.
    Soon,
    /// Later each time: a server on the network is not asked all the time by all nodes.
    Later,
    /// After the longest pause: an administrator must change credentials, or make the bucket.
    Slowly,
    /// Not at all: it is open, or the node's file or the mesh's definition must change first.
    Never,
}

impl NotOpen {
    fn mesh(error: &dyn std::error::Error) -> Self {
        Self::Closed(chain(error), Again::Soon)
    }

    fn failure(self) -> pgmesh_protocol::Failure {
        let (Self::Closed(why, _) | Self::Refused(why) | Self::Differs(why)) = self;
        pgmesh_protocol::Failure::new(ExitCode::RepoInvalid, why)
    }
}

impl Core {
    /// Opens once every declared repository that needs no majority of the mesh for it, all at once.
    pub async fn open_known_repositories(&self) {
        let opened = self.repositories.slots().map(|slot| async {
            let record = self.catalog.view().repository(slot.key).ok().flatten();
            if !self.is_alone() && !record.is_some_and(|record| self.is_as_declared(slot, &record)) {
                return;
            }
            let opening = self.open_one(slot);
            if slot.settings.is_shared() {
                // If it takes longer, `keep_opening` begins it again.
                let _ = tokio::time::timeout(START_LIMIT, opening).await;
            } else {
                opening.await;
            }
        });
        join_all(opened).await;
    }

    /// The host of a repository that this node declares: this node, or none if the repository is shared.
    pub(crate) fn host_of(&self, slot: &Slot) -> Option<NodeName> {
        (!slot.settings.is_shared()).then(|| self.name.clone())
    }

    /// Whether the catalog's record of a repository agrees with this node's file.
    pub(crate) fn is_as_declared(&self, slot: &Slot, record: &RepositoryRecord) -> bool {
        slot.is_defined_by(record) && record.host == self.host_of(slot) && !record.is_retiring()
    }

    /// Opens a repository, and logs the outcome if it is news.
    pub(crate) async fn open_one(&self, slot: &Slot) -> Again {
        let _once_at_a_time = slot.opening.lock().await;
        let before = slot.opened();
        let repo = slot.key;
        let place = slot.settings.store();
        let again = match self.try_open(slot).await {
            Ok(repository) => {
                tracing::info!(%repo, %place, "repository open");
                // Before it counts as open, so that its debts are known as soon as it does. If this fails, the leader
                // does it.
                if let Err(failure) = self.finish_backfill(repo).await {
                    tracing::warn!(%repo, error = %failure, "what this repository owes of older objects is not known yet");
                }
                slot.set(Opened::Open(repository));
                // Failures from before say nothing about the repository that was opened just now.
                slot.watch.forgive();
                self.repair.wake();
                Again::Never
            }
            Err(NotOpen::Closed(why, again)) => {
                if !matches!(&before, Opened::Closed { why: known, .. } if *known == why) {
                    tracing::warn!(%repo, why, "repository cannot be opened; it is tried again");
                }
                slot.set(Opened::Closed { why, since: now_unix() });
                again
            }
            Err(error @ (NotOpen::Refused(_) | NotOpen::Differs(_))) => {
                let differs = matches!(error, NotOpen::Differs(_));
                let why = error.failure().what;
                if !matches!(&before, Opened::Refused { why: known, .. } if *known == why) {
                    tracing::error!(%repo, why, "repository is not served");
                }
                slot.set(Opened::Refused { why, differs });
                Again::Never
            }
        };
        slot.note_tried();
        self.announcing.notify_one();
        again
    }

    async fn try_open(&self, slot: &Slot) -> Result<OpenRepository, NotOpen> {
        let known = self.catalog.view().repository(slot.key);
        let mut record = known.map_err(|error| NotOpen::mesh(&error))?;
        // Nothing to register: a repository serves restores also while no majority can be asked.
        let is_as_declared = record.as_ref().is_some_and(|record| self.is_as_declared(slot, record));
        if !is_as_declared {
            let view = self.catalog.view_linearizable().await;
            let view = view.map_err(|error| NotOpen::mesh(&error))?;
            record = view.repository(slot.key).map_err(|error| NotOpen::mesh(&error))?;
        }
        let (store, repository, placed) = match record {
            None => {
                let (store, repository) = self.make_repository(slot).await?;
                let keys = repository.wrapped_keys().to_vec();
                self.register(slot, &repository.identity().uuid, &keys).await?;
                // The catalog may be older than the repository is in the mesh.
                self.look(slot, &repository).await?;
                let registered = self.catalog.view().repository(slot.key);
                let registered = registered.map_err(|error| NotOpen::mesh(&error))?;
                let placed = registered.map(|record| record.placed).unwrap_or_default();
                (store, repository, placed)
            }
            Some(record) => {
                if !is_as_declared {
                    // The catalog decides whether this node's definition is the mesh's.
                    self.register(slot, &record.uuid, &record.wrapped_keys).await?;
                }
                let (store, repository) = open_store(slot, &record.wrapped_keys).await?;
                same_repository(slot, &repository, &record)
                    .map_err(|why| NotOpen::Closed(why, Again::Later.at(slot)))?;
                let newest = within(slot, async { Ok(self.has_newest(slot, &repository).await) }).await?;
                match newest {
                    Ok(Newest::There) => {}
                    Ok(Newest::Missing(why)) => return Err(NotOpen::Closed(why, Again::Later.at(slot))),
                    Err(error) => return Err(classify(slot, &error)),
                }
                (store, repository, record.placed)
            }
        };
        self.look(slot, &repository).await?;
        slot.set_may_delete(store.may_delete());
        slot.set_store(store.clone());
        make_ready(slot, &store).await;
        Ok(OpenRepository::new(repository, placed))
    }

    async fn look(&self, slot: &Slot, repository: &Repository) -> Result<(), NotOpen> {
        let looked = within(slot, async { Ok(self.look_at_anchors(slot, repository).await) }).await?;
        looked.map_err(|error| classify(slot, &error))
    }

    async fn register(&self, slot: &Slot, uuid: &str, keys: &[WrappedKey]) -> Result<(), NotOpen> {
        let command = Command::RegisterRepository {
            repo: slot.key,
            definition: slot.settings.definition.clone(),
            host: self.host_of(slot),
            uuid: uuid.to_owned(),
            wrapped_keys: keys.to_vec(),
            node: self.name.clone(),
        };
        match self.catalog.propose(self.actor(), command).await {
            Ok(_) => Ok(()),
            Err(CatalogError::Refused(
                refusal @ (Refusal::RepositoryDiffers { .. } | Refusal::RepositoryTaken { .. }),
            )) => {
                let failure = pgmesh_protocol::Failure::from(refusal);
                Err(NotOpen::Differs(match failure.remedy {
                    Some(remedy) => format!("{}; {remedy}", failure.what),
                    None => failure.what,
                }))
            }
            Err(error) => Err(NotOpen::mesh(&error)),
        }
    }

    /// Checks that the repository that the catalog knows lies at the declared place, with its newest mark.
    pub(crate) async fn check_same_repository(
        &self,
        slot: &Slot,
        record: &RepositoryRecord,
    ) -> Result<(), pgmesh_protocol::Failure> {
        let checked = async {
            let (_, repository) = open_store(slot, &record.wrapped_keys).await?;
            same_repository(slot, &repository, record).map_err(NotOpen::Refused)?;
            match self.has_newest(slot, &repository).await {
                Ok(Newest::There) => Ok(()),
                Ok(Newest::Missing(why)) => Err(NotOpen::Refused(why)),
                Err(error) => Err(classify(slot, &error)),
            }
        };
        checked.await.map_err(NotOpen::failure)
    }

    /// Looks for the repository at the declared place.
    pub(crate) async fn look_there(
        &self,
        slot: &Slot,
        record: &RepositoryRecord,
    ) -> Result<There, pgmesh_protocol::Failure> {
        let Ok((_, repository)) = open_store(slot, &record.wrapped_keys).await else {
            return Ok(There::Another);
        };
        if same_repository(slot, &repository, record).is_err() {
            return Ok(There::Another);
        }
        let newest = self.has_newest(slot, &repository).await;
        match newest.map_err(|error| classify(slot, &error).failure())? {
            Newest::There => Ok(There::TheSame),
            Newest::Missing(_) => Ok(There::OlderCopy(OpenRepository::new(repository, record.placed))),
        }
    }

    /// An empty repository at the declared place, for [`crate::Node::replace_repository`].
    ///
    /// # Errors
    /// The place cannot be used, or holds another mesh's repository.
    pub(crate) async fn make_empty_repository(&self, slot: &Slot) -> Result<Repository, pgmesh_protocol::Failure> {
        let made = self.make_repository(slot).await;
        made.map(|(_, repository)| repository).map_err(NotOpen::failure)
    }

    /// A repository of this mesh at the declared place: the present one, or a new one.
    async fn make_repository(&self, slot: &Slot) -> Result<(Store, Repository), NotOpen> {
        let settings = slot.settings.store();
        let made = async {
            let of_place = settings.clone();
            let store = blocking(slot, move || Store::create(&of_place)).await?;
            match open_objects(slot, &store, &[]).await {
                Ok(repository) => Ok((store, repository)),
                Err(StoreError::NotARepository { .. }) => {
                    let repository = self.create_repository(slot, &store).await?;
                    Ok((store, repository))
                }
                Err(error) => Err(classify(slot, &error)),
            }
        };
        let (store, repository) = within(slot, made).await?;
        let (found, ours) = (&repository.identity().mesh, self.mesh_id().to_string());
        if *found != ours {
            return Err(NotOpen::Refused(format!(
                "{settings} holds a repository of mesh {found}, this is mesh {ours}; give another repo{}-path, or restore \
                 from it with --repo-direct",
                slot.key
            )));
        }
        Ok((store, repository))
    }

    async fn create_repository(&self, slot: &Slot, store: &Store) -> Result<Repository, NotOpen> {
        let cipher: Cipher = slot
            .settings
            .cipher()
            .parse()
            .map_err(|error| NotOpen::Refused(chain(&error)))?;
        let mesh = self.mesh_id().to_string();
        let identity = RepositoryIdentity::generate(mesh, self.suite(), cipher, now_unix())
            .map_err(|error| NotOpen::mesh(&error))?;
        let passphrase = slot.settings.passphrase.clone();
        match Repository::create(store.objects(), identity, passphrase).await {
            Ok((repository, _)) => Ok(repository),
            Err(StoreError::AlreadyARepository { .. }) if slot.settings.is_shared() => {
                // Another node was first, or is about to be: this node takes up that node's repository.
                match open_objects(slot, store, &[]).await {
                    Err(StoreError::NotARepository { .. }) => Err(NotOpen::Closed(
                        format!("{}: another node is making the repository", slot.settings.store()),
                        Again::Soon,
                    )),
                    other => other.map_err(|error| classify(slot, &error)),
                }
            }
            Err(error) => Err(classify(slot, &error)),
        }
    }
}

impl Again {
    /// A directory is looked at all the time, since a look costs nothing.
    fn at(self, slot: &Slot) -> Self {
        if slot.settings.is_shared() { self } else { Self::Soon }
    }
}

/// The work that is due once after an opening. The repository serves even if this fails.
async fn make_ready(slot: &Slot, store: &Store) {
    let repo = slot.key;
    // Unfinished files of a killed process; nothing refers to them.
    match store.remove_leftovers().await {
        Ok(0) => {}
        Ok(files) => tracing::info!(%repo, files, "unfinished files of an earlier process removed"),
        Err(error) => tracing::warn!(%repo, error = %chain(&error), "unfinished files stay"),
    }
    if !slot.settings.is_shared() {
        return;
    }
    match tokio::time::timeout(slot.io_timeout, store.learn_conditions()).await {
        Ok(Ok(Conditions::Heeded)) => {}
        Ok(Ok(other)) => tracing::warn!(
            %repo,
            conditions = ?other,
            "the server is not known to heed conditional writes: it is asked whether an object is there before one is written"
        ),
        Ok(Err(error)) => tracing::warn!(%repo, error = %chain(&error), "the repository was not found to be writable"),
        Err(_) => {
            tracing::warn!(%repo, limit = ?slot.io_timeout, "the repository was not found to be writable in time")
        }
    }
}

async fn open_store(slot: &Slot, keys: &[WrappedKey]) -> Result<(Store, Repository), NotOpen> {
    let opened = async {
        let settings = slot.settings.store();
        let store = blocking(slot, move || Store::open(&settings)).await?;
        let repository = open_objects(slot, &store, keys).await;
        Ok((store, repository.map_err(|error| classify(slot, &error))?))
    };
    within(slot, opened).await
}

async fn open_objects(slot: &Slot, store: &Store, keys: &[WrappedKey]) -> Result<Repository, StoreError> {
    Repository::open(store.objects(), slot.settings.passphrase.clone(), keys).await
}

/// Opening a store reads files.
async fn blocking(
    slot: &Slot,
    open: impl FnOnce() -> Result<Store, StoreError> + Send + 'static,
) -> Result<Store, NotOpen> {
    match tasks::blocking("opening a repository", open).await {
        Ok(opened) => opened.map_err(|error| classify(slot, &error)),
        // The runtime is shutting down.
        Err(error) => Err(NotOpen::mesh(&error)),
    }
}

/// Within `io-timeout`.
async fn within<T>(slot: &Slot, opening: impl Future<Output = Result<T, NotOpen>>) -> Result<T, NotOpen> {
    match tokio::time::timeout(slot.io_timeout, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(NotOpen::Closed(
            format!(
                "{} did not answer within {:?} (io-timeout)",
                slot.settings.store(),
                slot.io_timeout
            ),
            Again::Later.at(slot),
        )),
    }
}

fn same_repository(slot: &Slot, repository: &Repository, record: &RepositoryRecord) -> Result<(), String> {
    let found = &repository.identity().uuid;
    if *found == record.uuid {
        return Ok(());
    }
    Err(format!(
        "{} holds another repository ({found}) than the mesh knows as repo{} ({})",
        slot.settings.store(),
        slot.key,
        record.uuid
    ))
}

/// An error that may pass by itself is tried again; an error that the administrator must mend is not.
fn classify(slot: &Slot, error: &StoreError) -> NotOpen {
    let (place, why) = (slot.settings.store(), chain(error));
    let option = format!("repo{}-cipher-pass", slot.key);
    match error {
        StoreError::WrongPassphrase { .. } => NotOpen::Refused(format!("{place}: {why}; give the right {option}")),
        StoreError::PassphraseNeeded | StoreError::PassphraseNotNeeded => {
            NotOpen::Refused(format!("{place}: {why} ({option}, repo{}-cipher-type)", slot.key))
        }
        StoreError::UnknownFormat { .. } => NotOpen::Refused(format!("{place}: {why}")),
        StoreError::Unusable { .. } => NotOpen::Refused(format!(
            "{place}: {why}; correct the options of repo{} and start the node again",
            slot.key
        )),
        StoreError::NotARepository { .. } => {
            let lost = "lost for good: 'pgmesh repo-replace' puts an empty one in its place";
            let question = if slot.settings.is_shared() {
                "is it the right bucket and path?"
            } else {
                "is its disk mounted?"
            };
            NotOpen::Closed(
                format!("{place} holds no repository although the mesh knows one: {question} ({lost})"),
                Again::Later.at(slot),
            )
        }
        StoreError::Denied { .. } | StoreError::Misplaced { .. } => {
            NotOpen::Closed(format!("{place}: {why}"), Again::Slowly.at(slot))
        }
        _ => NotOpen::Closed(format!("{place}: {why}"), Again::Later.at(slot)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::RepositorySettings;
    use pgmesh_storage::{FixedSecrets, RepoKey};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn slot(options: &[(&str, &str)]) -> Slot {
        let definition = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings = RepositorySettings {
            definition: definition.collect(),
            local: BTreeMap::new(),
            secrets: Arc::new(FixedSecrets::default()),
            passphrase: None,
        };
        Slot::new(RepoKey::new(4).unwrap(), settings, Duration::from_secs(1))
    }

    fn bucket() -> Slot {
        slot(&[("type", "s3"), ("s3-bucket", "walls"), ("path", "/mesh")])
    }

    fn denied() -> StoreError {
        StoreError::Denied {
            action: "reading",
            path: "pgmesh.repo".to_owned(),
            source: "AccessDenied".into(),
        }
    }

    #[test]
    fn what_may_change_by_itself_is_tried_again_and_the_place_is_named() {
        let closed = |slot: &Slot, error: &StoreError| match classify(slot, error) {
            NotOpen::Closed(why, again) => (why, again),
            NotOpen::Refused(why) | NotOpen::Differs(why) => panic!("{why}"),
        };
        let (why, again) = closed(&bucket(), &denied());
        assert!(why.starts_with("s3://walls/mesh: "), "{why}");
        assert_eq!(again, Again::Slowly, "credentials rotate");
        let (why, again) = closed(&slot(&[("path", "/backup/r4")]), &denied());
        assert!(why.starts_with("/backup/r4: "), "{why}");
        assert_eq!(again, Again::Soon);
        let missing = StoreError::NotARepository {
            path: "pgmesh.repo".to_owned(),
        };
        let (why, again) = closed(&bucket(), &missing);
        assert!(why.contains("right bucket"), "{why}");
        assert_eq!(again, Again::Later);
    }

    #[test]
    fn options_that_cannot_be_used_wait_for_the_administrator() {
        let unusable = StoreError::Unusable {
            what: "repo4-s3-key".to_owned(),
            source: "it is missing".into(),
        };
        let NotOpen::Refused(why) = classify(&bucket(), &unusable) else {
            panic!("it is tried again");
        };
        assert!(
            why.contains("repo4-s3-key") && why.contains("start the node again"),
            "{why}"
        );
    }
}
