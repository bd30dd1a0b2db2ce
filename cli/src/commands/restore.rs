//! `restore`: puts a backup into a data directory.

use crate::config::Config;
use crate::exit::ExitCode;
use crate::output;
use crate::restore::RestoreSummary;
use pgmesh_node::Failure;

/// Runs it, and says what it did.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let summary = Box::pin(crate::restore::run(config)).await?;
    output::print(&in_words(&summary))?;
    Ok(ExitCode::Ok)
}

fn in_words(summary: &RestoreSummary) -> String {
    let mut text = format!(
        "restored backup {} to {}: {} files, {}; fetched {}",
        summary.label,
        summary.pgdata.display(),
        summary.files,
        output::size(summary.bytes),
        output::size(summary.fetched),
    );
    let mut add = |count: u64, what: String| {
        if count > 0 {
            text.push_str(&what);
        }
    };
    add(
        summary.kept,
        format!("; {} were there already", output::size(summary.kept)),
    );
    add(
        summary.left_out,
        format!("; {} of excluded databases left out", output::size(summary.left_out)),
    );
    add(summary.removed, format!("; {} strangers removed", summary.removed));
    add(
        summary.segments,
        format!("; {} WAL segments put into pg_wal", summary.segments),
    );
    text
}
