//! `repo-ls`, `repo-update`, `repo-replace` and `repo-remove`: list the objects of a repository, and change its place
//! in the mesh.

use super::info::repository as asked_repository;
use super::{argument, stanza};
use crate::config::Config;
use crate::exit::CommandError;
use crate::output::{self, OutputFormat};
use crate::settings;
use pgmesh_client::mesh::{Backups, Mesh};
use pgmesh_client::restore::DirectRepositories;
use pgmesh_protocol::{
    ExitCode, Failure, HealthInfo, ListRepository, RemoveRepository, ReplaceRepository, Replaced, RepositoryInfo,
    RepositoryObject, UpdateRepository,
};
use pgmesh_storage::RepoKey;
use serde_json::{Map, Value, json};

/// Lists the names under a path. If only a stanza is given, lists the stanza's folder, which its client may see; else
/// the repository's root.
pub async fn list(config: &Config) -> Result<ExitCode, Failure> {
    let path = match (config.argument(0), config.stanza()) {
        (Some(_), _) => argument(config, 0, "a path in UTF-8")?.to_owned(),
        (None, Some(_)) => format!("stanza/{}", stanza(config)?),
        (None, None) => String::new(),
    };
    let objects = if config.flag("repo-direct") {
        let folder = path.trim_matches('/');
        let names =
            DirectRepositories::open(settings::repositories::reachable(config, asked_repository(config)?)?).await?;
        let names = names.names(folder).await?;
        names
            .into_iter()
            .map(|(name, size)| RepositoryObject { name, size })
            .collect()
    } else {
        list_through_node(config, &path).await?
    };
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&listing_json(&objects))?,
        OutputFormat::Text => output::print(&listing_text(&path, &objects))?,
    }
    Ok(ExitCode::Ok)
}

async fn list_through_node(config: &Config, path: &str) -> Result<Vec<RepositoryObject>, Failure> {
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let repo = repository(config, &mesh).await?;
    listed(&mesh, repo, path).await
}

/// All names directly below a folder of a repository.
pub(super) async fn listed(mesh: &Mesh, repo: RepoKey, path: &str) -> Result<Vec<RepositoryObject>, Failure> {
    let mut objects: Vec<RepositoryObject> = Vec::new();
    loop {
        let request = ListRepository {
            repo,
            path: path.into(),
            recurse: false,
            after: objects.last().map(|last| last.name.clone()).map(Into::into),
        };
        let listing = mesh.call(&request).await?;
        let is_last = !listing.more || listing.objects.is_empty();
        objects.extend(listing.objects);
        if is_last {
            return Ok(objects);
        }
    }
}

/// Puts an empty repository in the place of a lost one.
pub async fn replace(config: &Config) -> Result<ExitCode, Failure> {
    let repo = required_repository(config)?;
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let replaced = mesh.call(&ReplaceRepository { repo }).await?;
    output::print(&replaced_text(repo, replaced))?;
    Ok(ExitCode::Ok)
}

fn replaced_text(repo: RepoKey, replaced: Replaced) -> String {
    let sync = format!("'pgmesh --repo={repo} repo-sync' shows the progress");
    match replaced {
        Replaced::Empty => format!("repo{repo} is now an empty repository, and is being filled: {sync}"),
        Replaced::OlderCopy { missing, there } => format!(
            "an older copy of repo{repo} is taken up: it has {there} objects; {missing} objects that it lacks are \
             copied from the other repositories: {sync}"
        ),
    }
}

/// Forgets a repository.
pub async fn remove(config: &Config) -> Result<ExitCode, Failure> {
    let repo = required_repository(config)?;
    let force = config.flag("force");
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    mesh.call(&RemoveRepository { repo, force }).await?;
    output::print(&format!(
        "repo{repo} is not part of the mesh any more; its objects were not touched\n\
         take it out of the node's configuration file, too: a node that declares it registers it again when it starts"
    ))?;
    Ok(ExitCode::Ok)
}

fn required_repository(config: &Config) -> Result<RepoKey, Failure> {
    Ok(asked_repository(config)?.ok_or_else(|| CommandError::option_required("repo", config.command()))?)
}

/// Makes the asked node's declaration of a repository the definition of the whole mesh.
pub async fn update(config: &Config) -> Result<ExitCode, Failure> {
    let repo = required_repository(config)?;
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let definition = config.repositories().remove(&repo.get()).unwrap_or_default().definition;
    let changed = mesh.call(&UpdateRepository { repo, definition }).await?;
    output::print(&update_text(repo, &changed))?;
    Ok(ExitCode::Ok)
}

/// The repository that `--repo` names, else the first that is up.
pub(super) async fn repository(config: &Config, mesh: &Mesh) -> Result<RepoKey, Failure> {
    if let Some(key) = asked_repository(config)? {
        return Ok(key);
    }
    let stanza = config.stanza().map(|_| stanza(config)).transpose()?;
    let info = mesh.info(stanza.as_ref(), Backups::Without).await?;
    best(&info.repositories).ok_or_else(|| {
        Failure::new(ExitCode::RepoInvalid, "the mesh has no repository")
            .remedy("declare one in a node's configuration file: repo1-path=…")
    })
}

fn best(repositories: &[RepositoryInfo]) -> Option<RepoKey> {
    let up = |repository: &&RepositoryInfo| repository.health == HealthInfo::Up;
    repositories
        .iter()
        .find(up)
        .or(repositories.first())
        .map(|repository| repository.key)
}

/// One name on each line. A path that is itself an object is listed by its own name.
fn listing_text(path: &str, objects: &[RepositoryObject]) -> String {
    let own = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(".");
    let names = objects.iter().map(|object| match name_of(object) {
        "" => format!("{own}\n"),
        name => format!("{name}\n"),
    });
    names.collect()
}

/// pgBackRest's form: an object with the names, and `.` for the path itself. The object is empty for a path that does
/// not exist.
fn listing_json(objects: &[RepositoryObject]) -> Value {
    let entry = |object: &RepositoryObject| match object.size {
        Some(size) => json!({"type": "file", "size": size}),
        None => json!({"type": "path"}),
    };
    let mut listing = Map::new();
    for object in objects {
        match name_of(object) {
            "" => listing.insert(".".to_owned(), entry(object)),
            name => listing.insert(name.to_owned(), entry(object)),
        };
    }
    if !listing.is_empty() {
        listing.entry(".").or_insert_with(|| json!({"type": "path"}));
    }
    Value::Object(listing)
}

fn name_of(object: &RepositoryObject) -> &str {
    object.name.trim_end_matches('/')
}

fn update_text(repo: RepoKey, changed: &[String]) -> String {
    if changed.is_empty() {
        return format!("repo{repo} is defined in the mesh as this node declares it");
    }
    let options: Vec<String> = changed.iter().map(|option| format!("repo{repo}-{option}")).collect();
    format!(
        "repo{repo} is now defined in the mesh as this node declares it; changed: {}",
        options.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_protocol::DebtInfo;

    fn object(name: &str, size: Option<u64>) -> RepositoryObject {
        RepositoryObject {
            name: name.into(),
            size,
        }
    }

    #[test]
    fn a_folder_is_listed_as_by_pgbackrest() {
        let objects = [object("15-1/", None), object("00000002.history", Some(42))];
        assert_eq!(
            listing_text("stanza/main/archive", &objects),
            "15-1\n00000002.history\n"
        );
        let expected = json!({
            ".": {"type": "path"},
            "15-1": {"type": "path"},
            "00000002.history": {"type": "file", "size": 42},
        });
        assert_eq!(listing_json(&objects), expected);
    }

    #[test]
    fn an_object_is_listed_as_itself_and_nothing_as_nothing() {
        let objects = [object("", Some(7))];
        assert_eq!(listing_text("/pgmesh.repo", &objects), "pgmesh.repo\n");
        assert_eq!(listing_json(&objects), json!({".": {"type": "file", "size": 7}}));
        assert_eq!(listing_text("nowhere", &[]), "");
        assert_eq!(listing_json(&[]), json!({}));
    }

    #[test]
    fn a_repository_that_is_up_is_preferred() {
        let repository = |number, health| RepositoryInfo {
            key: RepoKey::new(number).unwrap(),
            kind: "posix".into(),
            cipher: "none".into(),
            host: None,
            health,
            debt: DebtInfo::default(),
            kept: pgmesh_protocol::KeptInfo::default(),
        };
        let down = HealthInfo::Down {
            since: 0,
            why: String::new(),
        };
        let two = [repository(1, down.clone()), repository(2, HealthInfo::Up)];
        assert_eq!(best(&two), RepoKey::new(2).ok());
        assert_eq!(best(&[repository(3, down)]), RepoKey::new(3).ok());
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn changed_options_have_their_full_names() {
        let repo = RepoKey::new(2).unwrap();
        assert!(update_text(repo, &["path".into(), "type".into()]).ends_with("changed: repo2-path, repo2-type"));
        assert!(!update_text(repo, &[]).contains("changed"));
    }
}
