//! `status`: how the whole mesh does, as one node can find out. `text` and `json` render; both are pure.

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

/// Shows it. That something is wrong is no failure of the command: `doctor` judges.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let status = mesh.call(&GetStatus).await?;
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&json::render(&status))?,
        OutputFormat::Text => output::print(&text::render(&status))?,
    }
    Ok(ExitCode::Ok)
}
