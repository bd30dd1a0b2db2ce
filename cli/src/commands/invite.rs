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
    let force = config.flag("force");
    check_name(&role, name.as_deref(), force)?;
    let invite = CreateInvite {
        role: role.into(),
        name: name.map(Into::into),
        force,
        stanzas: stanzas.into(),
        expires: config.duration("expires").as_secs(),
        addresses: config.list("node-advertise").to_vec().into(),
    };
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let made = mesh.call(&invite).await?;
    output::print(&made.token)?;
    tracing::info!("valid for one use, until {}", output::timestamp(made.expires_at));
    Ok(ExitCode::Ok)
}

/// A node's name is in its token, and so is the name that a token with --force may replace. Other members choose
/// theirs.
fn check_name(role: &str, name: Option<&str>, force: bool) -> Result<(), Failure> {
    match (role, name) {
        ("node", _) => Ok(()),
        (_, Some(_)) if !force => {
            let what = format!("a token for the role {role} takes no NAME without --force");
            Err(Failure::new(ExitCode::OptionInvalid, what)
                .remedy("leave NAME out and give it to 'pgmesh join', or make a node's token: --role=node NAME"))
        }
        (_, None) if force => {
            let what = "a token with --force needs the NAME whose certificates it may replace";
            Err(Failure::new(ExitCode::OptionRequired, what)
                .remedy("'pgmesh invite --force NAME', with a name of 'pgmesh client list'"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_with_force_has_the_name_that_it_replaces() {
        assert!(check_name("client", None, false).is_ok());
        assert!(check_name("client", Some("db1"), true).is_ok());
        assert!(check_name("node", Some("fra2"), false).is_ok());
        let code = |name, force| check_name("client", name, force).err().map(|failure| failure.code);
        assert_eq!(code(None, true), Some(ExitCode::OptionRequired));
        assert_eq!(code(Some("db1"), false), Some(ExitCode::OptionInvalid));
    }
}
