//! Opening the repositories that this node's file declares, and registering them in the catalog.
//!
//! The first node that declares a number defines it. A node that declares it differently does not serve it and says
//! which option differs. A repository that was registered is never created again: one that has vanished is down, since a
//! disk that is not mounted must not be filled under its mount point.

use super::slot::{Opened, Slot};
use crate::failure::chain;
use crate::{Node, now_unix};
use pgmesh_raft::{CatalogError, Command, Refusal, RepositoryRecord};
use pgmesh_storage::{Cipher, PosixStore, Repository, RepositoryIdentity, StoreError, WrappedKey};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How often a repository that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Why a repository is not open.
enum NotOpen {
    /// Tried again.
    Closed(String),
    /// The node's file, or the mesh's definition, must change first.
    Refused(String),
}

impl Node {
    /// Opens every declared repository once.
    pub async fn open_repositories(&self) {
        for slot in self.repositories.slots() {
            self.open_one(slot).await;
        }
    }

    /// Tries closed ones again, until the node stops.
    pub async fn keep_opening(self: Arc<Self>) {
        let mut retry = tokio::time::interval(RETRY);
        loop {
            retry.tick().await;
            for slot in self.repositories.slots() {
                if matches!(slot.opened(), Opened::Closed { .. }) {
                    self.open_one(slot).await;
                }
            }
        }
    }

    /// Opens one, and says in the log what came of it when that is news.
    pub(crate) async fn open_one(&self, slot: &Slot) {
        let before = slot.opened();
        let repo = slot.key;
        match self.try_open(slot).await {
            Ok(repository) => {
                tracing::info!(%repo, path = slot.settings.path(), "repository open");
                if let Err(failure) = self.finish_backfill(repo).await {
                    tracing::warn!(%repo, error = %failure, "what this repository owes of older objects is not known yet");
                }
                slot.set(Opened::Open(repository));
                self.repair.wake();
            }
            Err(NotOpen::Closed(why)) => {
                if !matches!(&before, Opened::Closed { why: known, .. } if *known == why) {
                    tracing::warn!(%repo, why, "repository cannot be opened; it is tried again");
                }
                slot.set(Opened::Closed { why, since: now_unix() });
            }
            Err(NotOpen::Refused(why)) => {
                tracing::error!(%repo, why, "repository is not served");
                slot.set(Opened::Refused { why });
            }
        }
    }

    async fn try_open(&self, slot: &Slot) -> Result<Repository, NotOpen> {
        if slot.settings.kind() != "posix" {
            return Err(NotOpen::Refused(format!(
                "repository type '{}' is not supported yet",
                slot.settings.kind()
            )));
        }
        let known = self.catalog.view().repository(slot.key);
        let mut record = known.map_err(|error| NotOpen::Closed(chain(&error)))?;
        // Nothing to register: a repository serves restores also while no majority can be asked.
        let is_as_declared = record.as_ref().is_some_and(|record| {
            record.definition == slot.settings.definition && record.host.as_ref() == Some(&self.name)
        });
        if !is_as_declared {
            let view = self.catalog.view_linearizable().await;
            let view = view.map_err(|error| NotOpen::Closed(chain(&error)))?;
            record = view
                .repository(slot.key)
                .map_err(|error| NotOpen::Closed(chain(&error)))?;
        }
        let Some(record) = record else {
            return self.create_repository(slot).await;
        };
        if !is_as_declared {
            // The catalog decides whether this node's definition is the mesh's.
            self.register(slot, &record.uuid, &record.wrapped_keys).await?;
        }
        let store = PosixStore::open(Path::new(slot.settings.path())).map_err(|error| classify(slot, &error))?;
        let repository = open_store(slot, store.clone(), &record.wrapped_keys).await?;
        same_repository(slot, &repository, &record).map_err(NotOpen::Closed)?;
        // What a killed process was writing; nothing refers to it.
        match tokio::task::spawn_blocking(move || store.remove_leftovers()).await {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(files)) => tracing::info!(repo = %slot.key, files, "unfinished files of an earlier process removed"),
            Ok(Err(error)) => tracing::warn!(repo = %slot.key, error = %chain(&error), "unfinished files stay"),
        }
        Ok(repository)
    }

    async fn register(&self, slot: &Slot, uuid: &str, keys: &[WrappedKey]) -> Result<(), NotOpen> {
        let command = Command::RegisterRepository {
            repo: slot.key,
            definition: slot.settings.definition.clone(),
            host: Some(self.name.clone()),
            uuid: uuid.to_owned(),
            wrapped_keys: keys.to_vec(),
            node: self.name.clone(),
        };
        match self.catalog.propose(self.actor(), command).await {
            Ok(_) => Ok(()),
            Err(CatalogError::Refused(
                refusal @ (Refusal::RepositoryDiffers { .. } | Refusal::RepositoryTaken { .. }),
            )) => {
                let failure = crate::Failure::from(refusal);
                Err(NotOpen::Refused(match failure.remedy {
                    Some(remedy) => format!("{}; {remedy}", failure.what),
                    None => failure.what,
                }))
            }
            Err(error) => Err(NotOpen::Closed(chain(&error))),
        }
    }

    /// Whether what lies at the declared place is the repository that the catalog knows.
    pub(crate) async fn check_same_repository(
        &self,
        slot: &Slot,
        record: &RepositoryRecord,
    ) -> Result<(), crate::Failure> {
        let checked = async {
            let store = PosixStore::open(Path::new(slot.settings.path())).map_err(|error| classify(slot, &error))?;
            let repository = open_store(slot, store, &record.wrapped_keys).await?;
            same_repository(slot, &repository, record).map_err(NotOpen::Refused)
        };
        checked.await.map_err(|error| match error {
            NotOpen::Closed(why) | NotOpen::Refused(why) => crate::Failure::new(crate::code::REPO_INVALID, why),
        })
    }

    /// A number that the mesh does not know yet: make it, or take up what an interrupted try has left.
    async fn create_repository(&self, slot: &Slot) -> Result<Repository, NotOpen> {
        let store = PosixStore::create(Path::new(slot.settings.path())).map_err(|error| classify(slot, &error))?;
        let passphrase = slot.settings.passphrase.clone();
        let repository = match Repository::open(Arc::new(store.clone()), passphrase.clone(), &[]).await {
            Ok(repository) => repository,
            Err(StoreError::NotARepository { .. }) => {
                let cipher: Cipher = slot
                    .settings
                    .cipher()
                    .parse()
                    .map_err(|error| NotOpen::Refused(chain(&error)))?;
                let mesh = self.mesh_id().to_string();
                let identity = RepositoryIdentity::generate(mesh, self.suite(), cipher, now_unix())
                    .map_err(|error| NotOpen::Closed(chain(&error)))?;
                let created = Repository::create(Arc::new(store), identity, passphrase).await;
                created.map_err(|error| classify(slot, &error))?.0
            }
            Err(error) => return Err(classify(slot, &error)),
        };
        let (found, ours) = (&repository.identity().mesh, self.mesh_id().to_string());
        if *found != ours {
            return Err(NotOpen::Refused(format!(
                "{} holds a repository of mesh {found}, this is mesh {ours}; give another repo{}-path, or restore from \
                 it with --repo-direct",
                slot.settings.path(),
                slot.key
            )));
        }
        let (uuid, keys) = (repository.identity().uuid.clone(), repository.wrapped_keys().to_vec());
        self.register(slot, &uuid, &keys).await?;
        Ok(repository)
    }
}

async fn open_store(slot: &Slot, store: PosixStore, keys: &[WrappedKey]) -> Result<Repository, NotOpen> {
    Repository::open(Arc::new(store), slot.settings.passphrase.clone(), keys)
        .await
        .map_err(|error| classify(slot, &error))
}

fn same_repository(slot: &Slot, repository: &Repository, record: &RepositoryRecord) -> Result<(), String> {
    let found = &repository.identity().uuid;
    if *found == record.uuid {
        return Ok(());
    }
    Err(format!(
        "{} holds another repository ({found}) than the mesh knows as repo{} ({})",
        slot.settings.path(),
        slot.key,
        record.uuid
    ))
}

/// What changes by itself is tried again; what the administrator must change is not.
fn classify(slot: &Slot, error: &StoreError) -> NotOpen {
    let (path, why) = (slot.settings.path(), chain(error));
    let option = format!("repo{}-cipher-pass", slot.key);
    match error {
        StoreError::WrongPassphrase { .. } => NotOpen::Refused(format!("{path}: {why}; give the right {option}")),
        StoreError::PassphraseNeeded | StoreError::PassphraseNotNeeded => {
            NotOpen::Refused(format!("{path}: {why} ({option}, repo{}-cipher-type)", slot.key))
        }
        StoreError::UnknownFormat { .. } => NotOpen::Refused(format!("{path}: {why}")),
        StoreError::NotARepository { .. } => NotOpen::Closed(format!(
            "{path} holds no repository although the mesh knows one: is its disk mounted?"
        )),
        _ => NotOpen::Closed(format!("{path}: {why}")),
    }
}
