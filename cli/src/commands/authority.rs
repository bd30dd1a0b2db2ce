//! `mesh rotate-ca`.

use crate::config::Config;
use crate::exit::ExitCode;
use crate::output::{self, OutputFormat, harmless, timestamp};
use crate::settings;
use pgmesh_client::mesh::Mesh;
use pgmesh_protocol::{AuthorityRotation, Failure, RotateAuthority};
use serde_json::{Value, json};
use std::fmt::Write;

/// Gives the mesh another authority, tells how far that is, or retires the former one.
pub async fn rotate(config: &Config) -> Result<ExitCode, Failure> {
    let asked = match config.flag("finish") {
        true => RotateAuthority::Finish {
            force: config.flag("force"),
        },
        false => RotateAuthority::Begin,
    };
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let rotation = mesh.call(&asked).await?;
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&json(&rotation))?,
        OutputFormat::Text => output::print(&text(&rotation))?,
    }
    Ok(ExitCode::Ok)
}

fn text(rotation: &AuthorityRotation) -> String {
    let (former, next) = (&rotation.former, &rotation.next);
    let named = |names: &[String], more: u64| {
        let mut all: Vec<String> = names.iter().map(|name| harmless(name).to_string()).collect();
        if more > 0 {
            all.push(format!("{more} more"));
        }
        all.join(", ")
    };
    let clients = named(&rotation.clients, rotation.more);
    if let Some(at) = rotation.finished_at {
        let mut text = format!(
            "authority {former} is retired since {}; {next} counts alone",
            timestamp(at)
        );
        if !clients.is_empty() {
            let _ = write!(text, "\ncut off, and have to join again: {clients}");
        }
        return text;
    }
    let mut text = match rotation.is_new {
        true => format!("authority {next} is added: it and {former} count"),
        false => format!(
            "authority {next} is added since {} by {}: it and {former} count",
            timestamp(rotation.begun_at),
            harmless(&rotation.begun_by)
        ),
    };
    let nodes = named(&rotation.nodes, 0);
    let _ = match (rotation.is_signing, nodes.is_empty()) {
        (false, _) => write!(text, "\nnodes that are not ready yet: {nodes}"),
        (true, false) => write!(text, "\nnodes whose certificate is of {former}: {nodes}"),
        (true, true) => write!(text, "\nall nodes have certificates of it"),
    };
    let _ = match clients.is_empty() {
        true => write!(
            text,
            "\nall clients have certificates of it, as far as the catalog knows"
        ),
        false => write!(text, "\nclients whose certificate is of {former}: {clients}"),
    };
    if rotation.is_signing && nodes.is_empty() && clients.is_empty() {
        text.push_str("\n'pgmesh mesh rotate-ca --finish' retires the former authority");
    }
    text
}

fn json(rotation: &AuthorityRotation) -> Value {
    let state = match (rotation.finished_at, rotation.is_signing) {
        (Some(_), _) => "finished",
        (None, true) => "renewing",
        (None, false) => "spreading",
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
        "finished": rotation.finished_at,
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
            is_signing: false,
            nodes: vec!["n2".to_owned()],
            clients: vec!["client db1".to_owned()],
            more: 3,
            finished_at: None,
        };
        assert_eq!(
            text(&rotation),
            "authority bb is added: it and aa count\nnodes that are not ready yet: n2\nclients whose certificate is of \
             aa: client db1, 3 more"
        );
        assert_eq!(json(&rotation)["state"], "spreading");
        (rotation.is_signing, rotation.is_new) = (true, false);
        (rotation.nodes, rotation.clients, rotation.more) = (Vec::new(), Vec::new(), 0);
        let done = text(&rotation);
        assert!(
            done.contains("by admin n1 (00)") && done.ends_with("--finish' retires the former authority"),
            "{done}"
        );
        rotation.finished_at = Some(1_739_584_802);
        rotation.clients = vec!["client db1".to_owned()];
        assert!(text(&rotation).ends_with("have to join again: client db1"));
    }
}
