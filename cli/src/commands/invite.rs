//! `invite`: prints a one-time join token, alone on stdout.

use crate::config::Config;
use crate::output;
use crate::settings;
use pgmesh_client::mesh::Mesh;
use pgmesh_protocol::{CreateInvite, ExitCode, Failure};

/// Makes a token.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let stanzas = config
        .list("stanza")
        .iter()
        .map(|text| {
            text.parse().map_err(|error| {
                Failure::new(ExitCode::OptionInvalid, format!("'{text}' is no name for a stanza")).because(error)
            })
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    let role = config.required_text("role")?.to_owned();
    let name = config.argument(0).map(|name| name.to_string_lossy().into_owned());
    if role != "node" && name.is_some() {
        let what = format!("a token for the role {role} takes no NAME");
        return Err(Failure::new(ExitCode::OptionInvalid, what)
            .remedy("leave NAME out and give it to 'pgmesh join', or make a node's token: --role=node NAME"));
    }
    let invite = CreateInvite {
        role,
        name,
        force: config.flag("force"),
        stanzas,
        expires: config.duration("expires").as_secs(),
        addresses: config.list("node-advertise").to_vec(),
    };
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let made = mesh.call(&invite).await?;
    output::print(&made.token)?;
    tracing::info!("valid for one use, until {}", output::timestamp(made.expires_at));
    Ok(ExitCode::Ok)
}
