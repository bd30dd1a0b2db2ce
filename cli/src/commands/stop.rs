//! `stop` and `start`: for one stanza, or for all of them, in the whole mesh. `session-end`: for one session.
//! `catalog-accept-loss`.

use super::{argument, stanza};
use crate::config::Config;
use crate::output::timestamp;
use crate::settings;
use pgmesh_client::mesh::Mesh;
use pgmesh_protocol::{AcceptLoss, ExitCode, Failure, SetStopped, TerminateSession, now_unix};

/// Has the mesh refuse requests that write for the stanza (62), until [`start`]. With `--force`, also ends the open
/// sessions.
pub async fn stop(config: &Config) -> Result<ExitCode, Failure> {
    let reason = format!(
        "'pgmesh stop' was called on {} at {}",
        pgmesh_client::host::name_for_people(),
        timestamp(now_unix())
    );
    set(config, Some(reason), config.flag("force")).await
}

/// Takes [`stop`] back.
pub async fn start(config: &Config) -> Result<ExitCode, Failure> {
    set(config, None, false).await
}

async fn set(config: &Config, stopped: Option<String>, ends_sessions: bool) -> Result<ExitCode, Failure> {
    let stanza = config.stanza().map(|_| stanza(config)).transpose()?;
    let subject = stanza
        .as_ref()
        .map_or_else(|| "every stanza".to_owned(), |stanza| format!("stanza {stanza}"));
    let state = if stopped.is_some() { "stopped" } else { "started" };
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let request = SetStopped {
        stanza,
        stopped: stopped.map(Into::into),
        ends_sessions,
    };
    let ended = mesh.call(&request).await?;
    tracing::info!("{subject} is {state}");
    if ended > 0 {
        tracing::info!("{ended} running backups and restores were ended");
    }
    Ok(ExitCode::Ok)
}

/// Ends one session of any holder.
pub async fn end_session(config: &Config) -> Result<ExitCode, Failure> {
    let text = argument(config, 0, "a session's number")?;
    let session = text.parse().map_err(|error| {
        Failure::new(ExitCode::OptionInvalid, format!("'{text}' is no number of a session"))
            .because(error)
            .remedy("'pgmesh doctor' names sessions that are old, 'pgmesh --output=json status' all")
    })?;
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let what = mesh.call(&TerminateSession { session }).await?;
    tracing::info!("session {session} has ended: {what}");
    Ok(ExitCode::Ok)
}

/// Gives up the part of the catalog that is lost.
pub async fn accept_loss(config: &Config) -> Result<ExitCode, Failure> {
    let text = argument(config, 0, "the position that the catalog had reached")?;
    let position = text.parse().map_err(|error| {
        Failure::new(
            ExitCode::OptionInvalid,
            format!("'{text}' is not a position of the catalog"),
        )
        .because(error)
        .remedy(
            "give the position that 'pgmesh doctor' shows for the loss; if it shows none, the catalog has lost nothing",
        )
    })?;
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    mesh.call(&AcceptLoss { position }).await?;
    tracing::info!("the lost entries of the catalog up to position {position} are given up: the mesh serves again");
    Ok(ExitCode::Ok)
}
