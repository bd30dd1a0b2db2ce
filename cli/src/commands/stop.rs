//! `stop` and `start`: one stanza, or all of them, in the whole mesh.

use super::stanza;
use crate::config::Config;
use crate::exit::ExitCode;
use crate::mesh::Mesh;
use crate::output::timestamp;
use pgmesh_node::protocol::{Request, SetStopped};
use pgmesh_node::{Failure, now_unix};

/// Has the mesh refuse what writes for the stanza (62), until [`start`].
pub async fn stop(config: &Config) -> Result<ExitCode, Failure> {
    if config.flag("force") {
        tracing::warn!(
            "--force changes nothing: stop never waits, and what is under way is refused at its next request"
        );
    }
    let reason = format!(
        "'pgmesh stop' was called on {} at {}",
        crate::host::name_for_people(),
        timestamp(now_unix())
    );
    set(config, Some(reason)).await
}

/// Takes [`stop`] back.
pub async fn start(config: &Config) -> Result<ExitCode, Failure> {
    set(config, None).await
}

async fn set(config: &Config, stopped: Option<String>) -> Result<ExitCode, Failure> {
    let stanza = config.stanza().map(|_| stanza(config)).transpose()?;
    let subject = stanza
        .as_ref()
        .map_or_else(|| "every stanza".to_owned(), |stanza| format!("stanza {stanza}"));
    let state = if stopped.is_some() { "stopped" } else { "started" };
    let mesh = Mesh::connect(config).await?;
    mesh.call::<()>(&Request::SetStopped(SetStopped { stanza, stopped }))
        .await?;
    tracing::info!("{subject} is {state}");
    Ok(ExitCode::Ok)
}
