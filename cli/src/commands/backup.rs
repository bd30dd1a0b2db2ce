//! `backup`: takes a backup of the running cluster.

use crate::config::Config;
use crate::exit::ExitCode;
use crate::mesh::Mesh;
use crate::output::{self, OutputFormat};
use pgmesh_protocol::Failure;
use std::sync::Arc;

/// Runs it, and says what it came to.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let mesh = Arc::new(Mesh::connect(config).await?);
    let summary = Box::pin(crate::backup::run(config, mesh)).await?;
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&summary)?,
        OutputFormat::Text => output::print(&summary.to_string())?,
    }
    Ok(ExitCode::Ok)
}
