//! `expire`: backups and WAL that a repository need not keep any longer; and the same after a backup.

use super::{info, stanza};
use crate::config::Config;
use crate::exit::ExitCode;
use crate::interruption::Terminal;
use crate::output::{self, OutputFormat};
use crate::settings;
use pgmesh_client::expire::{self, Ask, Retention};
use pgmesh_client::mesh::{Backups, Mesh};
use pgmesh_protocol::Failure;
use pgmesh_storage::{RepoKey, StanzaName};
use std::collections::BTreeMap;

/// Expires each repository, or only `--repo`.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let stanza = stanza(config)?;
    let ask = settings::expire::ask(config)?;
    let only = info::repository(config)?;
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let mut repositories = repositories(config, &mesh, &stanza).await?;
    if let Some(only) = only {
        repositories.retain(|key, _| *key == only);
        if repositories.is_empty() {
            return Err(
                Failure::new(ExitCode::OptionInvalid, format!("the mesh has no repo{only}"))
                    .remedy("'pgmesh info' without --repo shows the repositories there are"),
            );
        }
    }
    let settings = settings::expire::of(config, stanza, repositories, ask)?;
    let report = Box::pin(expire::run(&settings, &mesh, &Terminal::BACKUP)).await?;
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&report)?,
        OutputFormat::Text => output::print(&report.to_string())?,
    }
    report.failure().map_or(Ok(ExitCode::Ok), Err)
}

/// The repositories of the mesh with their options, which are warned about.
pub async fn repositories(
    config: &Config,
    mesh: &Mesh,
    stanza: &StanzaName,
) -> Result<BTreeMap<RepoKey, Retention>, Failure> {
    let info = mesh.info(Some(stanza), Backups::Without).await?;
    let repositories = settings::expire::repositories(config, &info);
    settings::expire::warn(config, &repositories);
    Ok(repositories)
}

/// After a backup: each repository that has an option of retention.
pub async fn after_backup(
    config: &Config,
    mesh: &Mesh,
    stanza: StanzaName,
    mut repositories: BTreeMap<RepoKey, Retention>,
) -> Result<(), Failure> {
    repositories.retain(|_, retention| retention.expires_anything());
    if repositories.is_empty() {
        return Ok(());
    }
    let settings = settings::expire::of(config, stanza, repositories, Ask::default())?;
    let report = Box::pin(expire::run(&settings, mesh, &Terminal::BACKUP)).await?;
    report.failure().map_or(Ok(()), Err)
}
