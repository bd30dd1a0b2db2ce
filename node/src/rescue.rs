//! `node rescue`: one node of a mesh whose majority is gone for good goes on alone, with its own catalog.
//!
//! ```text
//! lock node-path ─ read the marks of its repositories ─ ask the other nodes
//!   └─ a catalog of one voter beside the old one ─ an era, the others removed ─ a mark of it in each repository ─ switch
//! ```
//!
//! The marks are written before the switch: from then on nodes of the old mesh that still run, or come back, neither
//! acknowledge nor delete anything in these repositories (`past.rs`). The switch is the same as that of a node that
//! begins anew (`anew.rs`): `mesh.json` names the new number, and the next start moves the new catalog into place. A
//! crash before it leaves the old catalog, and the same command starts over, with a later era.

use crate::anew::finish;
use crate::init::{lock_directory, node_names};
use crate::mesh_file::MeshFile;
use crate::past::{ShownMarks, anchor_of, floor_of_era, raise, random_branch};
use crate::settings::{Layout, NodeSettings};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure, now_unix};
use pgmesh_raft::{
    Catalog, CatalogOptions, Command, NodeName, NodeRecord, NodeService, Regrouped, RepositoryRecord, View, limits,
};
use pgmesh_storage::{Anchor, RepoKey, Repository, Store};
use pgmesh_transport::{Client, Identity};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// How long another node may take to answer before it counts as gone.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// Options of `node rescue`.
#[derive(Debug, Clone, Copy, Default)]
pub struct RescueOptions {
    /// Also if another node answers, or a repository that this node's file declares cannot be read.
    pub force: bool,
    /// Changes nothing, and tells the outcome that a rescue would have.
    pub dry_run: bool,
}

/// The outcome of `node rescue`, or of its dry run.
#[derive(Debug, Clone)]
pub struct Rescued {
    /// The node's number from now on.
    pub number: u64,
    /// The era that has begun.
    pub era: u32,
    /// The position that this node's catalog has come to.
    pub position: u64,
    /// How many entries at the end of its log were not known to be committed, and are kept.
    pub uncommitted: u64,
    /// The repositories that show that the lost catalog had come farther: number, position, when the mark was written
    /// (Unix seconds).
    pub ahead: Vec<(u16, u64, i64)>,
    /// The nodes that were removed.
    pub removed: Vec<String>,
    /// Where the old catalog is kept.
    pub kept: std::path::PathBuf,
    /// The repositories of the mesh that this node could not read, and why.
    pub unread: Vec<(u16, String)>,
}

/// Goes on alone.
///
/// # Errors
/// The node runs; it is its mesh's only node, or was removed from it; another node answers (50); a declared
/// repository cannot be read (103); errors of disk and database. Nothing is half done: the same command starts over.
pub async fn rescue(settings: &NodeSettings, options: RescueOptions) -> Result<Rescued, Failure> {
    let layout = Layout::new(&settings.path);
    if !layout.marker().exists() {
        let what = format!("{} is no node's directory", settings.path.display());
        return Err(Failure::new(ExitCode::Config, what).remedy("run it with the file of a node that is left"));
    }
    let _lock = lock_directory(&layout)?;
    finish(&layout)?;
    let mesh = MeshFile::read(&layout)?;
    // Beside the old catalog, until its number is known.
    let folder = layout.rescued_catalog();
    remove_folder(&folder)?;
    let catalog = CatalogOptions::default();
    let made = Catalog::regroup(&layout.catalog(), &folder, settings.advertise.clone(), &catalog).await?;
    let rescued = go_on(settings, &layout, &made, options).await;
    if options.dry_run || rescued.is_err() {
        let stopped = made.catalog.shutdown().await;
        remove_folder(&folder)?;
        stopped?;
        return rescued;
    }
    let rescued = rescued?;
    made.complete().await?;
    rename(&folder, &layout.new_catalog(rescued.number))?;
    let number = MeshFile {
        node_id: rescued.number,
        seeds: Vec::new(),
        members: Vec::new(),
        ..mesh
    };
    number.write(&layout)?;
    // The switch is made: the next start would do the rest as well, but for the name of the old catalog.
    rename(&layout.catalog(), &rescued.kept)?;
    finish(&layout)?;
    Ok(rescued)
}

fn remove_folder(folder: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(unusable(folder, &error)),
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    let root = from.parent().unwrap_or(from);
    fs::rename(from, to)
        .and_then(|()| fs::File::open(root)?.sync_all())
        .map_err(|error| unusable(from, &error))
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(ExitCode::Config, format!("{} cannot be used", path.display())).because(error)
}

/// Decides whether the node may go on, and makes the new catalog and its repositories ready.
async fn go_on(
    settings: &NodeSettings,
    layout: &Layout,
    made: &Regrouped,
    options: RescueOptions,
) -> Result<Rescued, Failure> {
    let view = made.catalog.view();
    let (name, _) = node_names(settings)?;
    let identity = Identity::load(&layout.identity()).map_err(|error| {
        Failure::new(ExitCode::Crypto, "this node's identity cannot be used").because(chain(&error))
    })?;
    let (own, others) = members(&view, &name, &identity)?;
    let answering = if options.force {
        Vec::new()
    } else {
        ask(settings, &identity, &others).await?
    };
    if !answering.is_empty() {
        let what = format!("other nodes of the mesh answer: {}", answering.join(", "));
        return Err(Failure::new(ExitCode::LockAcquire, what)
            .because("a rescue is for nodes that are gone for good: it takes the mesh away from those that are left")
            .remedy(
                "bring back as many voters as a majority needs: 'pgmesh status' says who is missing. If these nodes shall \
                 not go on, stop them and run this again, or give --force",
            ));
    }
    if own.node_id != made.was || !made.was_voter && !options.force {
        let what = format!("node {name} has no vote: its catalog may be far behind, or not complete");
        return Err(Failure::new(ExitCode::CommandInvalid, what).remedy(
            "rescue another node that is left, if there is one; --force takes this one, if it has been a member for a while",
        ));
    }
    let repositories = Repositories::look(settings, &view).await?;
    repositories.refuse_unread(settings, options)?;
    let own_anchor = anchor_of(&view)?;
    refuse_later_era(&view, repositories.highest, own_anchor, options)?;
    let own_position = own_anchor.position;
    let removed: Vec<String> = others.iter().map(|(other, _)| other.to_string()).collect();
    let mut rescued = Rescued {
        number: made.catalog.node_id(),
        era: repositories.highest.era.saturating_add(1),
        position: own_position,
        uncommitted: made.uncommitted,
        ahead: repositories.ahead(own_position),
        removed,
        kept: layout.catalog_before_rescue(own.node_id),
        unread: repositories.unread.clone(),
    };
    if !options.dry_run {
        let reason = format!("node {name} was rescued without {}", rescued.removed.join(", "));
        let reason = limits::shortened(reason, limits::REASON);
        // The era first: it says above which number this node's is.
        begin_era(made, &name, rescued.era, &repositories, reason.clone()).await?;
        change_members(made, &name, &own, &others, &reason, &identity).await?;
        let anchor = anchor_of(&made.catalog.view())?;
        rescued.unread.extend(repositories.mark(anchor, options).await?);
    }
    Ok(rescued)
}

/// Refuses if another node has gone on before: this node's catalog is the abandoned one then.
fn refuse_later_era(view: &View, shown: Anchor, own: Anchor, options: RescueOptions) -> Result<(), Failure> {
    let is_lost = view.past()?.loss.is_some();
    if options.force || shown.era <= own.era && !is_lost {
        return Ok(());
    }
    let what = format!(
        "the repositories are in era {} of the catalog, and this node in era {}",
        shown.era, own.era
    );
    Err(Failure::new(ExitCode::LockAcquire, what)
        .because("another node was rescued, or the catalog was rebuilt: what that one has acknowledged since this node does not know")
        .remedy(
            "let this node join that mesh: empty its node-path, 'pgmesh invite --role=node NAME' there. If it is gone for good, or a \
             rescue of this node was interrupted, --force goes on with what this node has",
        ))
}

type Others = Vec<(NodeName, NodeRecord)>;

/// This node's record, and the other members.
fn members(view: &View, name: &NodeName, identity: &Identity) -> Result<(NodeRecord, Others), Failure> {
    let (own, others): (Others, Others) = view.nodes()?.into_iter().partition(|(other, _)| other == name);
    let Some((_, own)) = own.into_iter().next() else {
        return Err(
            Failure::new(ExitCode::Config, format!("the catalog here knows no node {name}"))
                .remedy("run it with this node's own file: its node-name is another one"),
        );
    };
    let key = identity.member().key.0;
    if !own.is_member() || own.key != key || own.revoked.contains(&key) {
        return Err(Failure::new(
            ExitCode::Crypto,
            format!("node {name} is not part of the mesh any more"),
        )
        .remedy("rescue a node that is"));
    }
    let others: Others = others.into_iter().filter(|(_, record)| record.is_member()).collect();
    if others.is_empty() {
        let what = "this node is the only one of its mesh: it needs nobody to go on";
        return Err(Failure::new(ExitCode::CommandInvalid, what).remedy("start it: 'pgmesh --config=FILE node start'"));
    }
    Ok((own, others))
}

async fn change_members(
    made: &Regrouped,
    name: &NodeName,
    own: &NodeRecord,
    others: &Others,
    reason: &str,
    identity: &Identity,
) -> Result<(), Failure> {
    let mut commands = vec![Command::RenumberNode {
        name: name.clone(),
        number: own.node_id,
        key: identity.member().key.0,
        reason: reason.to_owned(),
    }];
    commands.extend(others.iter().map(|(other, _)| Command::SetNodeService {
        name: other.clone(),
        service: NodeService::Removed,
    }));
    commands.push(Command::SetNodeService {
        name: name.clone(),
        service: NodeService::InService,
    });
    for command in commands {
        made.catalog.propose(&format!("node {name}"), command).await?;
    }
    Ok(())
}

async fn begin_era(
    made: &Regrouped,
    name: &NodeName,
    era: u32,
    repositories: &Repositories,
    reason: String,
) -> Result<(), Failure> {
    let view = made.catalog.view();
    let begin = Command::BeginEra {
        era,
        branch: random_branch()?,
        floor: floor_of_era(repositories.highest, anchor_of(&view)?)?,
        last_number: made.catalog.node_id().saturating_sub(1),
        compare: view.repositories()?.into_iter().map(|(repo, _)| repo).collect(),
        reason,
    };
    made.catalog.propose(&format!("node {name}"), begin).await?;
    Ok(())
}

/// The repositories of the mesh, with their marks of the lost catalog.
struct Repositories {
    opened: BTreeMap<RepoKey, (Repository, ShownMarks)>,
    unread: Vec<(u16, String)>,
    /// The highest value of each field, over the catalog and all marks.
    highest: Anchor,
}

impl Repositories {
    async fn look(settings: &NodeSettings, view: &View) -> Result<Self, Failure> {
        let mut this = Self {
            opened: BTreeMap::new(),
            unread: Vec::new(),
            highest: anchor_of(view)?,
        };
        for (repo, record) in view.repositories()? {
            let looked = async {
                let repository = open(settings, repo, &record).await?;
                let shown = ShownMarks::read(&repository).await.map_err(|error| chain(&error))?;
                Ok::<_, String>((repository, shown))
            };
            let looked = tokio::time::timeout(4 * settings.io_timeout, looked).await;
            match looked.unwrap_or_else(|_| Err("it does not answer".to_owned())) {
                Ok((repository, shown)) => {
                    raise(&mut this.highest, shown.highest);
                    this.opened.insert(repo, (repository, shown));
                }
                Err(why) => this.unread.push((repo.get(), why)),
            }
        }
        Ok(this)
    }

    fn refuse_unread(&self, settings: &NodeSettings, options: RescueOptions) -> Result<(), Failure> {
        let is_declared = |repo: u16| settings.repositories.keys().any(|declared| declared.get() == repo);
        match self.unread.iter().find(|(repo, _)| is_declared(*repo)) {
            Some((repo, why)) if !options.force => Err(Failure::new(
                ExitCode::RepoInvalid,
                format!("repo{repo} cannot be read"),
            )
            .because(why)
            .remedy(
                "bring it back first: nodes that come back are kept out by a mark in it, and it says how much is \
                         lost. --force goes on without it",
            )),
            _ => Ok(()),
        }
    }

    fn ahead(&self, position: u64) -> Vec<(u16, u64, i64)> {
        let shown = self.opened.iter().filter_map(|(repo, (_, shown))| {
            let (anchor, written) = shown.furthest?;
            (anchor.position > position).then_some((repo.get(), anchor.position, written))
        });
        shown.collect()
    }

    /// Writes the marks that keep the nodes of the old mesh out. With `force`, returns the repositories that could not
    /// be written.
    async fn mark(&self, anchor: Anchor, options: RescueOptions) -> Result<Vec<(u16, String)>, Failure> {
        let mut unmarked = Vec::new();
        for (repo, (repository, shown)) in &self.opened {
            match repository.write_mark(shown.mark_of_era()?, now_unix(), anchor).await {
                Ok(()) => {}
                Err(error) if options.force => {
                    unmarked.push((repo.get(), format!("its mark was not written: {}", chain(&error))));
                }
                Err(error) => {
                    let what = format!("the mark of the new era cannot be written to repo{repo}");
                    return Err(Failure::new(ExitCode::RepoInvalid, what).because(chain(&error)).remedy(
                        "see that it can be written, and run this again with --force: its own marks are there already",
                    ));
                }
            }
        }
        Ok(unmarked)
    }
}

/// The names and addresses of the other nodes that may be alive. A node that does not answer at all is gone; a refusal
/// is an answer, too.
async fn ask(settings: &NodeSettings, identity: &Identity, others: &Others) -> Result<Vec<String>, Failure> {
    if identity.expires_at() <= now_unix() {
        return Err(Failure::new(
            ExitCode::Crypto,
            "the certificate of this node has ended, so the others cannot be asked",
        )
        .remedy("see yourself that they are gone for good, then run this with --force"));
    }
    let client = Client::new(identity).map_err(|error| {
        Failure::new(ExitCode::Crypto, "this node's identity cannot be used").because(chain(&error))
    })?;
    let asked = others.iter().map(|(name, record)| {
        let route = settings.routes.get(name.as_str());
        let addresses: Vec<&String> = route.into_iter().chain(&record.advertise).collect();
        let client = &client;
        async move {
            for address in addresses {
                let connected = tokio::time::timeout(ASK_LIMIT, client.connect(address)).await;
                let is_silent = match connected {
                    Err(_) => true,
                    Ok(Ok(_)) => false,
                    Ok(Err(error)) => error.is_silence(),
                };
                if !is_silent {
                    return Some(format!("{name} at {address}"));
                }
            }
            None
        }
    });
    Ok(futures::future::join_all(asked).await.into_iter().flatten().collect())
}

async fn open(settings: &NodeSettings, repo: RepoKey, record: &RepositoryRecord) -> Result<Repository, String> {
    let Some(declared) = settings.repositories.get(&repo) else {
        return Err(match &record.host {
            Some(host) => format!("node {host} hosts it"),
            None => "this node's file does not declare it".to_owned(),
        });
    };
    let opened = async {
        let store = Store::open(&declared.store()).map_err(|error| chain(&error))?;
        Repository::open(store.objects(), declared.passphrase.clone(), &record.wrapped_keys)
            .await
            .map_err(|error| chain(&error))
    };
    let repository = opened.await?;
    if repository.identity().uuid != record.uuid {
        return Err("another repository lies in its place".to_owned());
    }
    Ok(repository)
}
