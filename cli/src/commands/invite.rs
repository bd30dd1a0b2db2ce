//! `invite`: prints a one-time join token, alone on stdout.

use crate::config::Config;
use crate::exit::ExitCode;
use crate::mesh::Mesh;
use crate::output;
use pgmesh_node::protocol::{CreateInvite, Invite, Request};
use pgmesh_node::{Failure, code};

/// Makes a token.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let stanzas = config
        .list("stanza")
        .iter()
        .map(|text| {
            text.parse().map_err(|error| {
                Failure::new(code::OPTION_INVALID, format!("'{text}' is no name for a stanza")).because(error)
            })
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    let invite = CreateInvite {
        role: config.required_text("role")?.to_owned(),
        stanzas,
        expires: config.duration("expires").as_secs(),
        addresses: config.list("node-advertise").to_vec(),
    };
    let mesh = Mesh::connect(config).await?;
    let made: Invite = mesh.call(&Request::Invite(invite)).await?;
    output::print(&made.token)?;
    tracing::info!("good once, until {}", output::timestamp(made.expires_at));
    Ok(ExitCode::Ok)
}
