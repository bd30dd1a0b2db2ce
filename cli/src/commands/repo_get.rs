//! `repo-get`: the content of one object of one repository.

use super::argument;
use super::info::repository as asked_repository;
use super::repository::{listed, repository};
use crate::config::Config;
use crate::output;
use crate::settings;
use bytes::Bytes;
use pgmesh_client::mesh::Mesh;
use pgmesh_client::restore::{DirectRepositories, direct_identity};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure, ReadRepository};
use pgmesh_storage::{FilePart, ObjectPath, PartsSeen, Payload, RepoKey};

/// Writes the content of one object to stdout, checked once more on this side (invariant 6). If a WAL file lies in
/// parts and its path names no part, all parts are written.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let path = argument(config, 0, "the path of an object")?.to_owned();
    let object = ReadRepository::object(&path)?;
    let asked = if config.flag("repo-direct") {
        let repositories = settings::repositories::reachable(config, asked_repository(config)?)?;
        if object == ObjectPath::Identity {
            output::print_bytes(&direct_identity(&repositories).await?)?;
            return Ok(ExitCode::Ok);
        }
        Asked::Direct(DirectRepositories::open(repositories).await?)
    } else {
        let mesh = Mesh::connect(settings::access::of(config)?).await?;
        let repo = repository(config, &mesh).await?;
        Asked::Mesh(Box::new(mesh), repo)
    };
    match asked.content(&object).await {
        Ok(content) => output::print_bytes(&content)?,
        Err(failure) if failure.code == ExitCode::FileMissing => {
            let parts = asked.parts(&object).await?.ok_or(failure)?;
            for part in FilePart::all(parts) {
                let content = asked.content(&object.of_part(part)).await?;
                output::print_bytes(&content)?;
            }
        }
        Err(failure) => return Err(failure),
    }
    Ok(ExitCode::Ok)
}

/// The source of the content.
enum Asked {
    Direct(DirectRepositories),
    Mesh(Box<Mesh>, RepoKey),
}

impl Asked {
    async fn content(&self, object: &ObjectPath) -> Result<Bytes, Failure> {
        let path = object.to_string();
        let (mesh, repo) = match self {
            Self::Direct(repositories) => return repositories.content(&path).await,
            Self::Mesh(mesh, repo) => (mesh, *repo),
        };
        let suite = mesh.suite().await?;
        let request = ReadRepository {
            repo,
            path: path.clone().into(),
        };
        let (head, body) = mesh.fetch(&request, |head| Some(head.length)).await?;
        Payload::from_parts(head, body.unwrap_or_default())
            .and_then(|payload| payload.open(suite))
            .map_err(|error| {
                Failure::new(ExitCode::Checksum, format!("repo{repo}: {path} is damaged")).because(chain(&error))
            })
    }

    /// The number of parts of a WAL file, if all of them are in the repository.
    async fn parts(&self, object: &ObjectPath) -> Result<Option<u16>, Failure> {
        if !matches!(object, ObjectPath::Segment { part: None, .. }) {
            return Ok(None);
        }
        let path = object.to_string();
        let (folder, _) = path.rsplit_once('/').unwrap_or_default();
        let names: Vec<String> = match self {
            Self::Direct(repositories) => repositories.names(folder).await?.into_keys().collect(),
            Self::Mesh(mesh, repo) => {
                let objects = listed(mesh, *repo, folder).await?;
                objects.into_iter().map(|object| object.name).collect()
            }
        };
        let mut seen: Option<PartsSeen> = None;
        for name in names {
            let listed = ObjectPath::parse(&format!("{folder}/{name}")).filter(|listed| listed.whole() == *object);
            if let Some(part) = listed.and_then(|listed| listed.part()) {
                seen.get_or_insert_with(|| PartsSeen::first(part)).add(part);
            }
        }
        Ok(seen.filter(|seen| seen.is_complete()).map(PartsSeen::of))
    }
}
