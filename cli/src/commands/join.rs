//! `join`: redeems a token for a certificate. The token carries the fingerprint of the mesh's CA, so there is no trust
//! on first use; the private key never leaves this host.

use super::argument;
use crate::config::Config;
use crate::output;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure, JoinRequest};
use pgmesh_transport::{Identity, JoinToken, Role};

/// Joins.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let token = token(config)?;
    if token.role == Role::Node {
        return Err(Failure::new(ExitCode::OptionInvalid, "this token is a node's")
            .remedy("run 'pgmesh --config=FILE node join TOKEN', with the new node's own file"));
    }
    let directory = config.required_path("identity-path")?;
    if Identity::exists(directory) && !config.flag("force") {
        return Err(Failure::new(
            ExitCode::PathNotEmpty,
            format!("{} holds an identity already", directory.display()),
        )
        .remedy("give --force to replace it, or another identity-path"));
    }
    let crypto = |what: &'static str| {
        move |error: pgmesh_transport::IdentityError| Failure::new(ExitCode::Crypto, what).because(chain(&error))
    };
    // Before the token is used up: its name would be taken by a key that nobody has.
    let request = pgmesh_node::pending_key(directory, &token, "identity").map_err(|failure| {
        failure
            .remedy("run pgmesh join as the user that owns it, or give another identity-path; the token is still good")
    })?;
    let csr = request
        .csr_der()
        .map_err(crypto("a certificate request cannot be made"))?;
    let join = JoinRequest {
        token_id: token.id,
        secret: token.secret.clone(),
        csr: csr.into(),
        name: config
            .argument(1)
            .map_or_else(host_name, |name| name.to_string_lossy().into_owned())
            .into(),
        node: None,
    };
    let redeemed = pgmesh_node::redeem_by_token(&token, &join).await?;
    let accepted = redeemed.accepted;
    let identity = request
        .into_identity_under(
            &accepted.ca,
            &accepted.certificate,
            token.ca_fingerprint,
            &redeemed.shown,
        )
        .map_err(crypto("the node's answer does not match the join token"))?;
    identity
        .save(directory)
        .map_err(crypto("the identity cannot be saved"))?;
    pgmesh_node::forget_pending_keys(directory);
    output::print(&format!(
        "joined mesh {} as {} {}; identity in {}",
        identity.mesh_id(),
        identity.role().kind(),
        identity.name(),
        directory.display()
    ))?;
    Ok(ExitCode::Ok)
}

/// The token from the command line, or from stdin for `-`.
pub(super) fn token(config: &Config) -> Result<JoinToken, Failure> {
    let text = match argument(config, 0, "a token")? {
        // Read from stdin, the token is not in the process title, where other users could read it.
        "-" => std::io::read_to_string(std::io::stdin())
            .map_err(|error| Failure::new(ExitCode::Runtime, "the token cannot be read from stdin").because(error))?,
        text => text.to_owned(),
    };
    text.trim().parse().map_err(|error| {
        Failure::new(ExitCode::Crypto, "this is no join token")
            .because(chain(&error))
            .remedy("give the whole line that 'pgmesh invite' printed")
    })
}

/// This host's name, with characters replaced that a member's name may not have.
fn host_name() -> String {
    let name = pgmesh_client::host::name().unwrap_or_default();
    let fits = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_') {
            c
        } else {
            '-'
        }
    };
    let name: String = name.chars().map(fits).take(63).collect();
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        name
    } else {
        "host".to_owned()
    }
}
