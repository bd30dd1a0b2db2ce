//! The repositories that this host declares, opened with their passphrases and nothing else.

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::{BoxFuture, FutureExt, join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::{
    DigestSuite, ObjectName, ObjectPath, PartsReader, Passphrase, RepoKey, Repository, Store, StoreError, StoreKind,
    StoreSettings,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// How long the others are waited for when one repository is open.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// A repository as this host declares it.
#[derive(Debug, Clone)]
pub struct RepositorySettings {
    /// The N of `repoN-…`.
    pub key: RepoKey,
    /// Where it is, and the credentials for it.
    pub store: StoreSettings,
    /// Read when it is opened.
    pub passphrase: Arc<dyn PassphraseSource>,
}

/// Where the passphrase of a repository is read.
pub trait PassphraseSource: fmt::Debug + Send + Sync {
    /// The passphrase; none for a repository that is not encrypted. Blocks for as long as a file or a key store takes.
    ///
    /// # Errors
    /// It cannot be read or used.
    fn read(&self) -> Result<Option<Passphrase>, Failure>;
}

/// One declared repository.
struct Declared {
    key: RepoKey,
    /// The repository, or why it cannot be read.
    opened: Result<Repository, Failure>,
    /// How many requests in a row it has not answered: repositories that answer are asked first.
    failures: AtomicU32,
}

impl Declared {
    fn new(key: RepoKey, opened: Result<Repository, Failure>) -> Self {
        Self {
            key,
            opened,
            failures: AtomicU32::new(0),
        }
    }
}

/// All declared repositories, by number, of which at least one is open.
pub struct DirectRepositories(Vec<Declared>);

/// The objects in the repositories.
pub struct Listing {
    /// Each object, with the repository that has it.
    pub found: Vec<(RepoKey, ObjectPath)>,
    /// Repositories that could not be listed, and why.
    pub silent: Vec<String>,
}

/// Declared repositories of which some are open and others may never be.
pub struct Opening {
    pending: FuturesUnordered<BoxFuture<'static, (RepoKey, Result<Repository, Failure>)>>,
    waited_for: BTreeSet<RepoKey>,
    declared: Vec<Declared>,
    /// When the first one was open.
    first_open: Option<Instant>,
}

impl Opening {
    /// Begins to open them.
    pub fn start(repositories: Vec<RepositorySettings>) -> Self {
        let mut opening = Self {
            pending: FuturesUnordered::new(),
            waited_for: BTreeSet::new(),
            declared: Vec::new(),
            first_open: None,
        };
        for settings in repositories {
            opening.add(settings.key, async move { open(&settings).await });
        }
        opening
    }

    fn add(&mut self, key: RepoKey, opening: impl Future<Output = Result<Repository, Failure>> + Send + 'static) {
        self.waited_for.insert(key);
        self.pending.push(async move { (key, opening.await) }.boxed());
    }

    /// Waits until all have answered, but for the others no longer than `grace` after the first one is open.
    pub async fn wait(&mut self, grace: Duration) {
        while !self.pending.is_empty() {
            let next = match self.first_open {
                None => self.pending.next().await,
                Some(first) => match tokio::time::timeout_at(first + grace, self.pending.next()).await {
                    Ok(next) => next,
                    Err(_) => return,
                },
            };
            let Some((key, opened)) = next else { return };
            if opened.is_ok() {
                self.first_open.get_or_insert_with(Instant::now);
            }
            self.waited_for.remove(&key);
            self.declared.push(Declared::new(key, opened));
        }
    }

    /// Beside one more, which opens as `opening` says.
    #[cfg(test)]
    pub fn beside_one_more(
        mut self,
        key: u16,
        opening: impl Future<Output = Result<Repository, Failure>> + Send + 'static,
    ) -> Self {
        self.add(RepoKey::new(key).unwrap(), opening);
        self
    }

    /// Whether some have not answered.
    pub fn is_incomplete(&self) -> bool {
        !self.waited_for.is_empty()
    }

    /// The repositories that are open by now, without the others.
    pub fn so_far(&self) -> DirectRepositories {
        let is_open = |one: &&Declared| one.opened.is_ok();
        let open = self.declared.iter().filter(is_open);
        let mut open: Vec<Declared> = open.map(|one| Declared::new(one.key, one.opened.clone())).collect();
        open.sort_by_key(|one| one.key);
        DirectRepositories(open)
    }

    /// All of them, in the order of their numbers.
    ///
    /// # Errors
    /// None is declared, or none can be opened.
    pub fn into_all(mut self) -> Result<DirectRepositories, Failure> {
        let waited = self
            .first_open
            .map(|first| first.elapsed().as_secs())
            .unwrap_or_default();
        for key in self.waited_for {
            let what = format!("repo{key} has not answered {waited} s after another repository had");
            let silent = Err(Failure::new(ExitCode::RepoInvalid, what));
            self.declared.push(Declared::new(key, silent));
        }
        self.declared.sort_by_key(|one| one.key);
        DirectRepositories::of(self.declared)
    }
}

impl DirectRepositories {
    /// Opens them. A repository that cannot be opened is warned about.
    ///
    /// # Errors
    /// None is declared, or none can be opened.
    pub async fn open(repositories: Vec<RepositorySettings>) -> Result<Self, Failure> {
        let mut opening = Opening::start(repositories);
        opening.wait(GRACE).await;
        opening.into_all()
    }

    fn of(declared: Vec<Declared>) -> Result<Self, Failure> {
        if declared.is_empty() {
            return Err(none_declared());
        }
        let failures: Vec<&Failure> = declared.iter().filter_map(|one| one.opened.as_ref().err()).collect();
        for failure in &failures {
            tracing::warn!("{failure}");
        }
        match failures.first() {
            Some(first) if failures.len() == declared.len() => Err((*first).clone()),
            _ => Ok(Self(declared)),
        }
    }

    /// Opened repositories, for tests.
    #[cfg(test)]
    pub fn opened(repositories: impl IntoIterator<Item = (u16, Repository)>) -> Self {
        Self(
            repositories
                .into_iter()
                .map(|(key, repository)| Declared::new(RepoKey::new(key).unwrap(), Ok(repository)))
                .collect(),
        )
    }

    /// The digest suite: one for the whole mesh.
    pub fn suite(&self) -> DigestSuite {
        self.open_ones()
            .next()
            .map(|(_, repository)| repository.suite())
            .unwrap_or_default()
    }

    fn open_ones(&self) -> impl Iterator<Item = (RepoKey, &Repository)> {
        self.0
            .iter()
            .filter_map(|one| one.opened.as_ref().ok().map(|repository| (one.key, repository)))
    }

    fn repository(&self, key: RepoKey) -> Option<&Repository> {
        self.open_ones()
            .find(|(known, _)| *known == key)
            .map(|(_, repository)| repository)
    }

    /// An object by its name, from the first repository that has a good copy (invariant 6). Absence and damage in one
    /// are reasons to ask the next.
    ///
    /// # Errors
    /// No repository has a good copy.
    pub async fn object(&self, name: &ObjectName) -> Result<Bytes, Failure> {
        let mut reasons = Vec::new();
        let mut order: Vec<&Declared> = self.0.iter().collect();
        order.sort_by_key(|one| one.failures.load(Ordering::Relaxed));
        for one in order {
            let key = one.key;
            match &one.opened {
                Ok(repository) => match repository.get_any_generation(name).await {
                    Ok((_, checked)) => {
                        one.failures.store(0, Ordering::Relaxed);
                        return Ok(checked.plain);
                    }
                    Err(error) => {
                        if error.is_of_the_repository() {
                            one.failures.fetch_add(1, Ordering::Relaxed);
                        }
                        if !matches!(error, StoreError::NotFound { .. }) {
                            tracing::warn!("repo{key}: {name}: {}", chain(&error));
                        }
                        reasons.push(format!("repo{key}: {}", chain(&error)));
                    }
                },
                Err(failure) => reasons.push(failure.to_string()),
            }
        }
        Err(Failure::new(
            ExitCode::RepoInvalid,
            format!("{name} cannot be read from any repository"),
        )
        .because(reasons.join("; "))
        .remedy("declare a repository that has it"))
    }

    /// All objects below a folder, in all repositories.
    pub async fn list(&self, folder: &str) -> Listing {
        let mut listing = Listing {
            found: Vec::new(),
            silent: Vec::new(),
        };
        let asked = self.0.iter().map(|one| async move {
            let key = one.key;
            match &one.opened {
                Ok(repository) => match repository.list_sorted(folder).await {
                    Ok(paths) => Ok(paths.into_iter().map(move |(path, _)| (key, path))),
                    Err(error) => Err(format!("repo{key}: {}", chain(&error))),
                },
                Err(failure) => Err(failure.to_string()),
            }
        });
        for answer in join_all(asked).await {
            match answer {
                Ok(paths) => listing.found.extend(paths),
                Err(reason) => listing.silent.push(reason),
            }
        }
        listing
    }

    /// Shows each object below a folder, in all repositories, and when it was written. Answers with the reasons of the
    /// repositories that could not be listed.
    pub async fn visit(&self, folder: &str, mut show: impl FnMut(RepoKey, ObjectPath, SystemTime)) -> Vec<String> {
        let mut silent = Vec::new();
        for one in &self.0 {
            let key = one.key;
            let repository = match &one.opened {
                Ok(repository) => repository,
                Err(failure) => {
                    silent.push(failure.to_string());
                    continue;
                }
            };
            let mut objects = repository.list(folder);
            loop {
                match objects.try_next().await {
                    Ok(Some(object)) => {
                        if let Some(path) = ObjectPath::parse(&object.path) {
                            show(key, path, object.written);
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        silent.push(format!("repo{key}: {}", chain(&error)));
                        break;
                    }
                }
            }
        }
        silent
    }

    /// All names below a folder of one repository, as [`Repository::list_names`] gives them.
    ///
    /// # Errors
    /// It is not open, or cannot be listed.
    pub async fn names(&self, folder: &str) -> Result<BTreeMap<String, Option<u64>>, Failure> {
        let (key, repository) = self.first()?;
        let listed = repository.list_names(folder, false, None, usize::MAX).await;
        listed.map(|(names, _)| names).map_err(|error| {
            Failure::new(ExitCode::RepoInvalid, format!("repo{key}: {folder:?} cannot be listed"))
                .because(chain(&error))
        })
    }

    /// The checked content of one object of one repository.
    ///
    /// # Errors
    /// It is not there (55), damaged (26), or the repository cannot be read (103).
    pub async fn content(&self, path: &str) -> Result<Bytes, Failure> {
        let (key, repository) = self.first()?;
        match repository.content_at(path).await {
            Ok(checked) => Ok(checked.plain),
            Err(error) => {
                let code = code_of(&error);
                Err(Failure::new(code, format!("repo{key}: {path:?} cannot be read")).because(chain(&error)))
            }
        }
    }

    fn first(&self) -> Result<(RepoKey, &Repository), Failure> {
        let first = self.open_ones().next();
        first.ok_or_else(|| Failure::new(ExitCode::RepoInvalid, "no declared repository is open"))
    }

    /// A reader of a file that lies in parts.
    ///
    /// # Errors
    /// In words: the repository is not open.
    pub fn parts_at(&self, key: RepoKey, file: &ObjectPath, of: u16) -> Result<PartsReader, String> {
        let repository = self.repository(key).ok_or_else(|| format!("repo{key} is not open"))?;
        Ok(repository.read_parts(file, of))
    }

    /// The object at a path that a listing gave, checked (invariant 6).
    ///
    /// # Errors
    /// In words: it is damaged or cannot be read.
    pub async fn at(&self, key: RepoKey, path: &ObjectPath) -> Result<(ObjectName, Bytes), String> {
        let repository = self.repository(key).ok_or_else(|| format!("repo{key} is not open"))?;
        match repository.get_by_path(&path.to_string()).await {
            Ok((name, checked)) => Ok((name, checked.plain)),
            Err(error) => Err(format!("repo{key}: {}", chain(&error))),
        }
    }
}

fn none_declared() -> Failure {
    Failure::new(
        ExitCode::OptionRequired,
        "repo-direct needs a repository, and none is declared",
    )
    .remedy("give repo1-path, and for an encrypted one repo1-cipher-type and repo1-cipher-pass")
}

/// The code of an error about one object.
fn code_of(error: &StoreError) -> ExitCode {
    match error {
        StoreError::NotFound { .. } => ExitCode::FileMissing,
        StoreError::Unusable { .. } => ExitCode::OptionInvalid,
        error if error.is_damage() => ExitCode::Checksum,
        _ => ExitCode::RepoInvalid,
    }
}

/// `pgmesh.repo` of the first of these repositories that can be read. Its text needs no passphrase,
/// so none is used: it can still be seen where the passphrase is lost.
///
/// # Errors
/// As [`DirectRepositories::content`]; none is declared.
pub async fn identity(repositories: &[RepositorySettings]) -> Result<Bytes, Failure> {
    let mut first = None;
    for RepositorySettings { key, store, .. } in repositories {
        let read = async { Repository::read_identity(Store::open(store)?.objects()).await };
        match read.await {
            Ok(text) => return Ok(text),
            Err(error) => {
                let what = format!("the identity of repo{key} in {store} cannot be read");
                first.get_or_insert_with(|| Failure::new(code_of(&error), what).because(chain(&error)));
            }
        }
    }
    Err(first.unwrap_or_else(none_declared))
}

async fn open(settings: &RepositorySettings) -> Result<Repository, Failure> {
    let RepositorySettings { key, store, passphrase } = settings;
    let passphrase = passphrase.read()?;
    let opened = try_open(store, passphrase).await;
    opened.map_err(|error| {
        let failure =
            |code| Failure::new(code, format!("repo{key} in {store} cannot be opened")).because(chain(&error));
        match error {
            StoreError::WrongPassphrase { .. } | StoreError::PassphraseNeeded | StoreError::PassphraseNotNeeded => {
                failure(ExitCode::Crypto).remedy(format!("check repo{key}-cipher-pass and repo{key}-cipher-type"))
            }
            StoreError::NotARepository { .. } => {
                let remedy = match store.kind() {
                    Ok(StoreKind::Posix) => format!("check repo{key}-path, and that its disk is mounted"),
                    _ => format!("check repo{key}-path, and the name of the bucket"),
                };
                failure(ExitCode::RepoInvalid).remedy(remedy)
            }
            StoreError::Unusable { .. } => failure(ExitCode::OptionInvalid),
            StoreError::Denied { .. } | StoreError::Misplaced { .. } => {
                failure(ExitCode::RepoInvalid).remedy(format!("'pgmesh --repo={key} repo-check' tries it step by step"))
            }
            _ => failure(ExitCode::RepoInvalid),
        }
    })
}

async fn try_open(store: &StoreSettings, passphrase: Option<Passphrase>) -> Result<Repository, StoreError> {
    let store = Store::open(store)?;
    // Without a catalog, the only keys are the repository's own.
    Repository::open(store.objects(), passphrase, &[]).await
}

/// Groups objects by `key`, with every copy of each: repositories, generations.
pub fn copies<K: Ord>(
    found: Vec<(RepoKey, ObjectPath)>,
    key: impl Fn(&ObjectPath) -> Option<K>,
) -> BTreeMap<K, Vec<(RepoKey, ObjectPath)>> {
    let mut copies: BTreeMap<K, Vec<_>> = BTreeMap::new();
    for (repo, path) in found {
        if let Some(key) = key(&path) {
            copies.entry(key).or_default().push((repo, path));
        }
    }
    copies
}
