//! A catalog made anew from one repository alone (invariant 8): every node is gone, one repository is left.
//!
//! ```text
//! open repository ─ claim node-path ─ found the mesh anew, under its old identity
//!   └─ list all (inventory, chunks) ─ read manifests and their parts ─ stanzas ─ WAL ─ chunks ─ backups ─ writers ─ marker
//! ```
//!
//! Nothing in the repository is changed or deleted. A mark is added, by which nodes of the old mesh that still run are
//! kept out, and a description of a cluster that is damaged is written anew beside it. The marker comes last: an
//! attempt that was interrupted is no node, and the next one starts over.
//!
//! No unreadable object is passed over in silence. An archived file without a good copy is kept in the catalog by
//! its name alone, so that a recovery that needs it stops instead of ending early (invariant 7). A backup that is not
//! whole is left out (invariant 4): its objects stay, and `restore --repo-direct` still reads the rest of them.

mod backups;
mod chunks;
mod inventory;
mod report;
mod stanzas;
mod wal;

#[cfg(test)]
mod tests;

pub(crate) use stanzas::UNKNOWN_WRITER;
pub(crate) use wal::adopt_unknown_wal;

pub use report::{Problem, ProblemKind, RebuildEvent, Rebuilt, RebuiltStanza, Tell};

use crate::init::{claim, found, write_marker};
use crate::past::{ShownMarks, anchor_of, floor_of_era, random_branch};
use crate::replies::unexpected;
use crate::repositories::OpenRepository;
use crate::settings::{Layout, NodeSettings, RepositorySettings};
use inventory::Inventory;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure, now_unix, utc};
use pgmesh_raft::{Catalog, Command, LogIndex, NodeName, Reply, SessionId, SessionKind};
use pgmesh_storage::{Generation, RepoKey, Repository, Store, StoreError};
use pgmesh_transport::MeshId;
use std::collections::{BTreeMap, BTreeSet};

/// A repository that was marked in the last so many seconds may be in use.
const FRESH: i64 = 600;
/// The floor of a rebuilt catalog is the next multiple of this.
const FLOOR_STEP: u32 = 1000;

/// Makes the node's data directory from a repository that its file declares. `workers` objects are read at once; each
/// is held in memory as a whole. With `force` also if a mesh has written to the repository in the last minutes.
///
/// # Errors
/// The directory holds a node or other files already; the repository may be in use (50); the repository cannot be
/// opened, listed or read; the catalog cannot be written. Nothing is half done: the same command starts over.
pub async fn rebuild(
    settings: &NodeSettings,
    repo: RepoKey,
    workers: usize,
    force: bool,
    tell: Tell,
) -> Result<Rebuilt, Failure> {
    let layout = Layout::new(&settings.path);
    let declared = settings.repositories.get(&repo).ok_or_else(|| {
        Failure::new(
            ExitCode::OptionInvalid,
            format!("the node's file declares no repo{repo}"),
        )
        .remedy(format!("declare it: repo{repo}-type, repo{repo}-path and the rest"))
    })?;
    // Before anything is made: a passphrase with a typing error leaves no trace.
    let repository = open(repo, declared).await?;
    let identity = repository.identity();
    let mesh_id: MeshId = identity.mesh.parse().map_err(|error| {
        Failure::new(ExitCode::RepoInvalid, "the repository names a mesh that cannot be").because(chain(&error))
    })?;
    let _lock = claim(&layout)?;
    let founded = found(settings, &layout, mesh_id, identity.suite).await?;
    let name: NodeName = settings
        .name
        .parse()
        .map_err(|error| Failure::new(ExitCode::OptionInvalid, "node-name cannot be used").because(error))?;
    let mut rebuilding = Rebuilding {
        actor: format!("node {name}"),
        name,
        catalog: founded.catalog.clone(),
        repo,
        // Its place is known when it is registered.
        repository: OpenRepository::new(repository, LogIndex(0)),
        workers: workers.max(1),
        tell,
        problems: Vec::new(),
    };
    let outcome = rebuilding.run(declared, force).await;
    let stopped = founded.catalog.shutdown().await;
    let Outcome {
        stanzas,
        chunks,
        unnamed,
    } = outcome?;
    stopped?;
    write_marker(&layout)?;
    Ok(Rebuilt {
        mesh_id: founded.initialized.mesh_id,
        ca_fingerprint: founded.initialized.ca_fingerprint,
        repo: repo.get(),
        stanzas,
        chunks,
        unnamed,
        problems: rebuilding.problems,
    })
}

async fn open(repo: RepoKey, declared: &RepositorySettings) -> Result<Repository, Failure> {
    let store = declared.store();
    let unusable = |error: &StoreError| {
        let failure = Failure::new(ExitCode::RepoInvalid, format!("repo{repo} ({store}) cannot be opened"));
        let failure = failure.because(chain(error));
        match error {
            StoreError::WrongPassphrase { .. } => failure.remedy(format!("give the right repo{repo}-cipher-pass")),
            StoreError::PassphraseNeeded => failure.remedy(format!(
                "the repository is encrypted: set repo{repo}-cipher-type=aes-256-cbc and repo{repo}-cipher-pass"
            )),
            StoreError::PassphraseNotNeeded => {
                failure.remedy(format!("the repository is not encrypted: set repo{repo}-cipher-type=none"))
            }
            StoreError::NotARepository { .. } => failure.remedy(format!(
                "see that repo{repo}-path is right, and that what it lies on is mounted; for a new mesh use 'pgmesh node init'"
            )),
            _ => failure,
        }
    };
    let opened = Store::open(&store).map_err(|error| unusable(&error))?;
    Repository::open(opened.objects(), declared.passphrase.clone(), &[])
        .await
        .map_err(|error| unusable(&error))
}

/// The names that the lost catalog has deleted are not known: none that it may have used is assigned again (decision
/// 18). The highest generation of the mesh may have been deleted, or lie in another repository, which is taken up
/// later.
fn floor_above(highest: Generation) -> Generation {
    Generation((highest.0 / FLOOR_STEP).saturating_add(1).saturating_mul(FLOOR_STEP))
}

/// One rebuilding under way.
struct Rebuilding {
    catalog: Catalog,
    name: NodeName,
    actor: String,
    repo: RepoKey,
    repository: OpenRepository,
    workers: usize,
    tell: Tell,
    problems: Vec<Problem>,
}

struct Outcome {
    stanzas: Vec<RebuiltStanza>,
    chunks: u64,
    unnamed: u64,
}

impl Rebuilding {
    async fn run(&mut self, declared: &RepositorySettings, force: bool) -> Result<Outcome, Failure> {
        self.register(declared).await?;
        self.begin_era(force).await?;
        let (inventory, mut chunks) = Inventory::take(&self.repository, &self.tell).await?;
        (self.tell)(RebuildEvent::Reading(inventory.bytes));
        let generation = floor_above(inventory.highest);
        self.propose(Command::RaiseFloor { generation }).await?;
        let mut others = inventory.others;
        let mut backups = Vec::new();
        for (stanza, found) in &inventory.stanzas {
            for (label, paths) in &found.manifests {
                backups.extend(self.read_manifest(stanza, label, paths).await?);
            }
        }
        let mut whole = Vec::new();
        for backup in backups {
            if self.is_whole(&backup, &mut chunks).await? {
                whole.push(backup);
            }
        }
        let mut stanzas = BTreeMap::new();
        for (name, found) in &inventory.stanzas {
            let Some(databases) = self.adopt_stanza(name, found, &whole).await? else {
                continue;
            };
            let mut rebuilt = RebuiltStanza {
                name: name.to_string(),
                databases: databases
                    .iter()
                    .map(|database| database.archive_id.to_string())
                    .collect(),
                ..RebuiltStanza::default()
            };
            others = others.saturating_sub(databases.iter().filter(|database| database.was_described).count() as u64);
            for database in &databases {
                if let Some(archive) = found.archives.get(&database.archive_id) {
                    rebuilt.wal_files += self.adopt_archive(name, database, archive).await?;
                }
            }
            others = others.saturating_sub(rebuilt.wal_files);
            if let Some(current) = databases.last() {
                self.adopt_writers(name, current, found, &whole).await?;
            }
            stanzas.insert(name.clone(), rebuilt);
        }
        let session = self.open_session().await?;
        for backup in whole {
            let Some(rebuilt) = stanzas.get_mut(&backup.stanza) else {
                continue;
            };
            self.adopt_backup(session, &backup, &mut chunks).await?;
            rebuilt.backups += 1;
            others = others.saturating_sub(1);
        }
        self.propose(Command::CloseSession { session }).await?;
        let (named, not_named) = chunks.counts();
        let uuid = self.repository.identity().uuid.clone();
        self.propose(Command::Audit {
            what: format!("the catalog was rebuilt from repo{} ({uuid})", self.repo),
        })
        .await?;
        Ok(Outcome {
            stanzas: stanzas.into_values().collect(),
            chunks: named,
            unnamed: others + not_named,
        })
    }

    async fn register(&mut self, declared: &RepositorySettings) -> Result<(), Failure> {
        let command = Command::RegisterRepository {
            repo: self.repo,
            definition: declared.definition.clone(),
            host: (!declared.is_shared()).then(|| self.name.clone()),
            uuid: self.repository.identity().uuid.clone(),
            wrapped_keys: self.repository.wrapped_keys().to_vec(),
            node: self.name.clone(),
        };
        self.propose(command).await?;
        let registered = self.catalog.view().repository(self.repo)?;
        let placed = registered.map(|record| record.placed).unwrap_or_default();
        self.repository = OpenRepository::new((*self.repository).clone(), placed);
        for problem in self
            .repository
            .problems()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
        {
            self.found(Problem::new(
                ProblemKind::Key,
                format!("repo{}", self.repo),
                format!("a key object cannot be used; another one serves: {problem}"),
            ));
        }
        Ok(())
    }

    /// Takes the repository over from nodes of the old mesh, before its objects are counted: they may still run, and
    /// would take each other's objects for rubbish. If they delete objects before they see the mark, these are found
    /// missing later.
    async fn begin_era(&self, force: bool) -> Result<(), Failure> {
        let unusable = |error: &StoreError| {
            let what = format!("the marks of repo{} cannot be used", self.repo);
            Failure::new(ExitCode::RepoInvalid, what).because(chain(error))
        };
        let shown = ShownMarks::read(&self.repository)
            .await
            .map_err(|error| unusable(&error))?;
        let fresh = shown
            .newest
            .filter(|written| now_unix().saturating_sub(*written) < FRESH);
        if let Some(written) = fresh.filter(|_| !force) {
            let what = format!("a mesh has written to repo{} at {}", self.repo, utc(written));
            return Err(Failure::new(ExitCode::LockAcquire, what)
                .because("a node of it may still run: a rebuilt catalog takes the repository away from it")
                .remedy("see that all its nodes are gone for good, then run this with --force"));
        }
        self.propose(Command::BeginEra {
            era: shown.highest.era.saturating_add(1),
            branch: random_branch()?,
            floor: floor_of_era(shown.highest, anchor_of(&self.catalog.view())?)?,
            last_number: 0,
            compare: BTreeSet::from([self.repo]),
            reason: format!("the catalog was rebuilt from repo{}", self.repo),
        })
        .await?;
        let anchor = anchor_of(&self.catalog.view())?;
        let mark = shown.mark_of_era()?;
        let written = self.repository.write_mark(mark, now_unix(), anchor).await;
        written.map_err(|error| unusable(&error))
    }

    async fn open_session(&self) -> Result<SessionId, Failure> {
        let command = Command::OpenSession {
            kind: SessionKind::Repair,
            stanza: None,
            holder: "catalog-rebuild".to_owned(),
            node: self.name.clone(),
            resume_key: None,
        };
        match self.propose(command).await? {
            Reply::Session(session) => Ok(session),
            other => Err(unexpected(&other)),
        }
    }

    async fn propose(&self, command: Command) -> Result<Reply, Failure> {
        Ok(self.catalog.propose(&self.actor, command).await?)
    }

    fn found(&mut self, problem: Problem) {
        (self.tell)(RebuildEvent::Found(&problem));
        self.problems.push(problem);
    }
}

/// Storage that does not answer ends the rebuilding: an object that merely cannot be reached must not be taken for
/// lost.
fn unreadable(repo: RepoKey, error: &StoreError) -> Failure {
    Failure::new(ExitCode::RepoInvalid, format!("repo{repo} cannot be read"))
        .because(chain(error))
        .remedy("make it readable and run the command again: it starts over")
}

/// Whether the repository answered that the object is damaged or missing.
fn is_bad(error: &StoreError) -> bool {
    error.is_damage() || matches!(error, StoreError::NotFound { .. })
}
