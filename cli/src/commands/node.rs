//! `node init` and `node start`.

use crate::config::Config;
use crate::exit::ExitCode;
use crate::{node_file, output};
use pgmesh_node::{Failure, code};
use pgmesh_storage::DigestSuite;
use tokio::signal::unix::{SignalKind, signal};

/// Makes a new mesh of one node.
pub async fn init(config: &Config) -> Result<ExitCode, Failure> {
    let settings = node_file::settings(config)?;
    let text = config.text("digest-suite").unwrap_or("blake3");
    let suite: DigestSuite = text
        .parse()
        .map_err(|error| Failure::new(code::OPTION_INVALID, "digest-suite cannot be used").because(error))?;
    let made = pgmesh_node::init(&settings, suite).await?;
    output::print(&format!(
        "mesh {} founded on node {} ({}); CA fingerprint {}\nstart it with: pgmesh --config=FILE node start",
        made.mesh_id,
        settings.name,
        settings.path.display(),
        made.ca_fingerprint
    ))?;
    Ok(ExitCode::Ok)
}

/// Runs the node in the foreground until SIGTERM or SIGINT.
pub async fn start(config: &Config) -> Result<ExitCode, Failure> {
    let settings = node_file::settings(config)?;
    let unavailable = |error| Failure::new(code::RUNTIME, "signals cannot be caught").because(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(unavailable)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unavailable)?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Box::pin(pgmesh_node::run(settings, |_| {}, stop)).await?;
    Ok(ExitCode::Ok)
}
