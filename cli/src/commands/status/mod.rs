//! `status`: the state of the whole mesh, as one node can find it out. `text` and `json` render; both are pure.

mod json;
#[cfg(test)]
pub(super) mod samples;
pub(super) mod text;
pub(super) mod words;

use crate::config::Config;
use crate::exit::ExitCode;
use crate::output::{self, OutputFormat};
use crate::settings;
use pgmesh_client::mesh::Mesh;
use pgmesh_protocol::{Failure, GetStatus};

/// Shows the status. Troubles of the mesh are no failure of the command: `doctor` judges them.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let status = mesh.call(&GetStatus).await?;
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&json::render(&status))?,
        OutputFormat::Text => output::print(&text::render(&status))?,
    }
    Ok(ExitCode::Ok)
}
