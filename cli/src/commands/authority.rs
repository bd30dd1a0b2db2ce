//! `mesh rotate-ca`, and how `status` and `doctor` tell of a rotation that is under way.

use crate::config::Config;
use crate::exit::ExitCode;
use crate::output::{self, OutputFormat, harmless, timestamp};
use crate::settings;
use pgmesh_client::mesh::Mesh;
use pgmesh_protocol::{AuthorityRotation, Failure, RotateAuthority, RotationState};
use serde_json::{Value, json};
use std::fmt::Write;

/// Gives the mesh another authority, tells how far that is, retires the former one, or gives the new one up.
pub async fn rotate(config: &Config) -> Result<ExitCode, Failure> {
    let (finish, force) = (config.flag("finish"), config.flag("force"));
    let asked = match (finish, config.flag("abort")) {
        (true, true) => {
            return Err(
                Failure::new(ExitCode::OptionInvalid, "--finish and --abort exclude each other")
                    .remedy("--finish keeps the new authority, --abort the former one"),
            );
        }
        (true, false) => RotateAuthority::Finish { force },
        (false, true) => RotateAuthority::GiveUp,
        (false, false) => RotateAuthority::Begin,
    };
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let rotation = mesh.call(&asked).await?;
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&json(&rotation))?,
        OutputFormat::Text => output::print(&text(&rotation))?,
    }
    Ok(ExitCode::Ok)
}

fn named(names: &[String], more: u64) -> String {
    let mut all: Vec<String> = names.iter().map(|name| harmless(name).to_string()).collect();
    if more > 0 {
        all.push(format!("{more} more"));
    }
    all.join(", ")
}

fn text(rotation: &AuthorityRotation) -> String {
    let (former, next) = (&rotation.former, &rotation.next);
    let at = timestamp(rotation.ended_at.unwrap_or(rotation.begun_at));
    let clients = named(&rotation.clients, rotation.more);
    match rotation.state {
        RotationState::Finished => {
            let mut text = format!("authority {former} is retired since {at}; {next} counts alone");
            if !clients.is_empty() {
                let _ = write!(
                    text,
                    "\ncut off: {clients}\na new token ('pgmesh invite') lets each join again: 'pgmesh join --force TOKEN' \
                     on its host"
                );
            }
            return text;
        }
        RotationState::GivenUp => return format!("authority {next} was given up at {at}; {former} counts alone"),
        _ => {}
    }
    let mut text = match rotation.is_new {
        true => format!("authority {next} is added: it and {former} count"),
        false => format!(
            "authority {next} is added since {at} by {}: it and {former} count",
            harmless(&rotation.begun_by)
        ),
    };
    for line in left(rotation) {
        let _ = write!(text, "\n{line}");
    }
    let _ = write!(text, "\n{}", remedy(rotation));
    text
}

/// What a rotation that is under way waits for, a line for each.
pub fn left(rotation: &AuthorityRotation) -> Vec<String> {
    let (former, next) = (&rotation.former, &rotation.next);
    let nodes = named(&rotation.nodes, 0);
    let mut lines = Vec::new();
    lines.push(match (rotation.state, nodes.is_empty()) {
        (RotationState::Renewing, true) => "all nodes have certificates of it".to_owned(),
        (RotationState::Spreading, _) => format!("nodes that do not have its key yet: {nodes}"),
        (RotationState::GivingUp, _) => format!("it is given up; nodes that have not gone back to {former}: {nodes}"),
        _ => format!("nodes that do not show a certificate of it yet: {nodes}"),
    });
    if rotation.state == RotationState::GivingUp {
        return lines;
    }
    lines.push(match rotation.clients.is_empty() {
        true => "all clients have shown certificates of it, as far as the catalog knows".to_owned(),
        false => {
            let clients = named(&rotation.clients, rotation.more);
            format!("clients that have not shown a certificate of {next} yet: {clients}")
        }
    });
    if !rotation.suspects.is_empty() {
        lines.push(format!(
            "first seen since the rotation began, perhaps forged, and not renewed: {}",
            named(&rotation.suspects, 0)
        ));
    }
    lines
}

/// What to do about a rotation that is under way.
pub fn remedy(rotation: &AuthorityRotation) -> &'static str {
    match rotation.state {
        RotationState::Spreading => {
            "each node does its part when it runs: start it, or 'pgmesh node remove NAME' if it is gone; if no node has \
             the new key any more, 'pgmesh mesh rotate-ca --abort', and begin again"
        }
        RotationState::Showing | RotationState::GivingUp => {
            "each node does its part when it runs: start it, or 'pgmesh node remove NAME' if it is gone"
        }
        RotationState::Renewing if rotation.nodes.is_empty() && rotation.clients.is_empty() => {
            "'pgmesh mesh rotate-ca --finish' retires the former authority"
        }
        RotationState::Renewing | RotationState::Finished | RotationState::GivenUp => {
            "a client moves with its next commands; 'pgmesh client revoke NAME' for a host that is gone; 'pgmesh mesh \
             rotate-ca --finish --force' cuts off those that are left: they have to join again"
        }
    }
}

/// The keys of `mesh rotate-ca --output=json`, and of `rotation` in `status`.
pub fn json(rotation: &AuthorityRotation) -> Value {
    let state = match rotation.state {
        RotationState::Spreading => "spreading",
        RotationState::Showing => "showing",
        RotationState::Renewing => "renewing",
        RotationState::GivingUp => "giving-up",
        RotationState::Finished => "finished",
        RotationState::GivenUp => "given-up",
    };
    json!({
        "former": rotation.former,
        "next": rotation.next,
        "begun": rotation.begun_at,
        "by": rotation.begun_by,
        "state": state,
        "nodes": rotation.nodes,
        "clients": rotation.clients,
        "more": rotation.more,
        "suspects": rotation.suspects,
        "ended": rotation.ended_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named() {
        let mut rotation = AuthorityRotation {
            former: "aa".to_owned(),
            next: "bb".to_owned(),
            begun_at: 1_739_584_801,
            begun_by: "admin n1 (00)".to_owned(),
            is_new: true,
            state: RotationState::Spreading,
            nodes: vec!["n2".to_owned()],
            clients: vec!["client db1".to_owned()],
            more: 3,
            suspects: vec!["client db1".to_owned()],
            ended_at: None,
        };
        let begun = text(&rotation);
        let expected = "authority bb is added: it and aa count\nnodes that do not have its key yet: n2\nclients that have \
                        not shown a certificate of bb yet: client db1, 3 more\nfirst seen since the rotation began, perhaps \
                        forged, and not renewed: client db1\n";
        assert!(begun.starts_with(expected) && begun.contains("--abort"), "{begun}");
        assert_eq!(json(&rotation)["state"], "spreading");
        (rotation.state, rotation.is_new) = (RotationState::Renewing, false);
        (rotation.nodes, rotation.clients, rotation.more) = (Vec::new(), Vec::new(), 0);
        let done = text(&rotation);
        assert!(
            done.contains("by admin n1 (00)") && done.ends_with("--finish' retires the former authority"),
            "{done}"
        );
        (rotation.state, rotation.ended_at) = (RotationState::Finished, Some(1_739_584_802));
        rotation.clients = vec!["client db1".to_owned()];
        let finished = text(&rotation);
        assert!(
            finished.contains("cut off: client db1\n") && finished.contains("join --force"),
            "{finished}"
        );
        rotation.state = RotationState::GivenUp;
        assert!(text(&rotation).ends_with("aa counts alone"));
    }
}
