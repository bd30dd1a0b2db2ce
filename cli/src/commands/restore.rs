//! `restore`: puts a backup into a data directory.

use crate::config::Config;
use crate::exit::ExitCode;
use crate::output::{self, OutputFormat};
use pgmesh_protocol::Failure;

/// Runs it, and says what it did.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let summary = Box::pin(crate::restore::run(config)).await?;
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&summary)?,
        OutputFormat::Text => output::print(&summary.to_string())?,
    }
    Ok(ExitCode::Ok)
}
