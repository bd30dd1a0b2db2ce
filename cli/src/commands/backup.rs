//! `backup`: takes a backup of the running cluster, and expires the backups that need not be kept any longer.

use super::expire;
use crate::config::Config;
use crate::exit::ExitCode;
use crate::interruption::Terminal;
use crate::output::{self, OutputFormat};
use crate::settings;
use pgmesh_client::mesh::Mesh;
use pgmesh_protocol::Failure;
use std::sync::Arc;

/// Takes the backup, and prints its summary.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let mesh = Arc::new(Mesh::connect(settings::access::of(config)?).await?);
    let settings = settings::backup::of(config)?;
    let stanza = settings.stanza.clone();
    let repositories = expire::repositories(config, &mesh, &stanza).await?;
    let summary = Box::pin(pgmesh_client::backup::run(
        settings,
        mesh.clone(),
        Arc::new(Terminal::BACKUP),
    ))
    .await?;
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&summary)?,
        OutputFormat::Text => output::print(&summary.to_string())?,
    }
    if config.flag("expire-auto") {
        expire::after_backup(config, &mesh, stanza, repositories).await?;
    }
    Ok(ExitCode::Ok)
}
