//! `doctor`: examines configuration, host, nodes and mesh, and prints a line for each check. This file collects the
//! observations; `judge` judges them and is pure.

mod archiver;
mod check;
mod judge;
mod sessions;

use crate::config::Config;
use crate::exit::ExitCode;
use crate::output::{self, OutputFormat};
use crate::settings;
use check::{render_json, render_text, verdict};
use judge::{HostIdentity, Seen, judge};
use pgmesh_client::mesh::Mesh;
use pgmesh_protocol::{Failure, GetStatus, now_unix};

/// Examines, prints the checks, and exits with the code of the first failure.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let checks = judge(&look(config).await);
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&render_json(&checks))?,
        OutputFormat::Text => output::print(&render_text(&checks))?,
    }
    Ok(verdict(&checks))
}

async fn look(config: &Config) -> Seen {
    let mut seen = Seen {
        warnings: config.warnings().to_vec(),
        archive_ack: settings::node::ack(config, "archive-ack"),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        identity: settings::access::of(config)
            .and_then(|access| access.identity())
            .map(|identity| HostIdentity {
                name: identity.name().to_string(),
                role: identity.role().kind().to_owned(),
                mesh: identity.mesh_id().to_string(),
                expires: identity.expires_at(),
            }),
        archivers: archiver::look(config).await,
        asked: now_unix(),
        ..Seen::default()
    };
    if seen.identity.is_ok() {
        match settings::access::of(config).and_then(Mesh::open) {
            Ok(mesh) => {
                // The first node that answers names the others; then each node is dialled by itself.
                let status = match mesh.greet().await {
                    Ok(_) => mesh.call(&GetStatus).await,
                    Err(failure) => Err(failure),
                };
                seen.answered = now_unix();
                seen.status = Some(status);
                seen.probes = mesh.probe().await;
            }
            Err(failure) => seen.identity = Err(failure),
        }
    }
    seen
}
