//! `backup`: takes a backup of the running cluster.

use crate::backup::BackupSummary;
use crate::config::Config;
use crate::exit::ExitCode;
use crate::mesh::Mesh;
use crate::output::{self, OutputFormat};
use pgmesh_node::Failure;
use std::sync::Arc;

/// Runs it, and says what it came to.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let mesh = Arc::new(Mesh::connect(config).await?);
    let summary = Box::pin(crate::backup::run(config, mesh)).await?;
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&summary)?,
        OutputFormat::Text => output::print(&in_words(&summary))?,
    }
    Ok(ExitCode::Ok)
}

fn in_words(summary: &BackupSummary) -> String {
    let repositories = |numbers: &[u16]| {
        numbers
            .iter()
            .map(|repo| format!("repo{repo}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut text = format!(
        "backup {}: {} files, {}; new in this backup {}, stored as {}; durable in {}",
        summary.label,
        summary.files,
        output::size(summary.size),
        output::size(summary.new_size),
        output::size(summary.new_stored),
        repositories(&summary.durable),
    );
    if !summary.owed.is_empty() {
        text.push_str(&format!(
            "; owed to {}, made up in the background",
            repositories(&summary.owed)
        ));
    }
    if summary.files_with_bad_pages > 0 {
        text.push_str(&format!(
            "; {} files have pages with wrong checksums",
            summary.files_with_bad_pages
        ));
    }
    text
}
