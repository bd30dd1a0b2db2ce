//! `restore`: puts a backup into a data directory.

use crate::config::Config;
use crate::exit::ExitCode;
use crate::interruption::Terminal;
use crate::output::{self, OutputFormat};
use crate::settings;
use pgmesh_protocol::{Failure, now_unix};

/// Restores, and prints the summary.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let asked = settings::restore::of(config, now_unix())?;
    let source = settings::repositories::source(config);
    let summary = Box::pin(pgmesh_client::restore::run(&asked, source, &Terminal::RESTORE)).await?;
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&summary)?,
        OutputFormat::Text => output::print(&summary.to_string())?,
    }
    Ok(ExitCode::Ok)
}
