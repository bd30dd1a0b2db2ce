//! `annotate`: sets notes of a backup; an empty value removes one.

use super::info::label;
use super::stanza;
use crate::config::Config;
use crate::exit::{CommandError, ExitCode};
use crate::settings;
use pgmesh_client::mesh::Mesh;
use pgmesh_protocol::{AnnotateBackup, Failure};

/// Sets the notes that `--annotation` names, and leaves the others.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let stanza = stanza(config)?;
    let label = label(config)?.ok_or_else(|| CommandError::option_required("set", config.command()))?;
    let annotations = config.map("annotation").iter().cloned().collect();
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let annotate = AnnotateBackup {
        stanza: stanza.clone(),
        label: label.clone(),
        annotations,
    };
    mesh.call(&annotate).await?;
    tracing::info!("backup {label} of stanza {stanza} has the new annotations");
    Ok(ExitCode::Ok)
}
