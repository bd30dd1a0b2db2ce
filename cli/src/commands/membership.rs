//! `node list`, `node remove`, `node drain`, `node resume`, `node promote`, `node demote`.

use super::argument;
use super::columns::{columns, or_dash};
use super::status::words::{repositories, role, state};
use crate::config::Config;
use crate::exit::ExitCode;
use crate::output::{self, OutputFormat};
use crate::settings;
use pgmesh_client::mesh::Mesh;
use pgmesh_protocol::{ChangeNode, Failure, ListNodes, NodeChange, NodeInfo};
use serde_json::{Value, json};

/// Shows the nodes that the catalog has.
pub async fn list(config: &Config) -> Result<ExitCode, Failure> {
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let nodes = mesh.call(&ListNodes).await?;
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&nodes.iter().map(json).collect::<Value>())?,
        OutputFormat::Text => output::print(&text(&nodes))?,
    }
    Ok(ExitCode::Ok)
}

/// Takes a node out of the mesh.
pub async fn remove(config: &Config) -> Result<ExitCode, Failure> {
    let force = config.flag("force");
    change(config, NodeChange::Remove { force }).await
}

/// Makes a change that needs only a node's name.
pub async fn change(config: &Config, change: NodeChange) -> Result<ExitCode, Failure> {
    let name = argument(config, 0, "the name of a node")?.to_owned();
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let done = outcome(&name, change);
    mesh.call(&ChangeNode {
        name: name.into(),
        change,
    })
    .await?;
    output::print(&done)?;
    Ok(ExitCode::Ok)
}

fn outcome(name: &str, change: NodeChange) -> String {
    match change {
        NodeChange::Remove { .. } => format!("node {name} was removed from the mesh"),
        NodeChange::Drain => format!("node {name} takes no clients any more; 'pgmesh node resume {name}' undoes this"),
        NodeChange::Resume => format!("node {name} takes clients"),
        NodeChange::Promote => format!("node {name} becomes a voter"),
        NodeChange::Demote => format!("node {name} has no vote any more"),
    }
}

/// One node, with the same keys as in `status`.
pub(super) fn json(node: &NodeInfo) -> Value {
    json!({
        "name": node.name,
        "id": node.node_id,
        "region": node.region,
        "addresses": node.addresses,
        "role": node.role,
        "state": node.state,
        "program": node.program,
        "apply-level": node.level,
        "repositories": node.repositories.iter().map(|key| key.get()).collect::<Vec<_>>(),
    })
}

fn text(nodes: &[NodeInfo]) -> String {
    let rows: Vec<Vec<String>> = nodes.iter().map(row).collect();
    columns(
        &[
            "node",
            "id",
            "region",
            "role",
            "state",
            "addresses",
            "program",
            "repositories",
        ],
        &rows,
    )
}

fn row(node: &NodeInfo) -> Vec<String> {
    vec![
        node.name.clone(),
        node.node_id.to_string(),
        or_dash(node.region.as_str()),
        role(node.role).to_owned(),
        state(node.state).to_owned(),
        or_dash(node.addresses.join(",")),
        or_dash(node.program.as_str()),
        or_dash(repositories(&node.repositories)),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::status::samples;
    use super::*;

    #[test]
    fn the_list_is_a_table_for_people_and_keys_for_programs() {
        let nodes: Vec<NodeInfo> = samples::mesh().nodes.into_iter().map(|(node, _)| node).collect();
        let text = text(&nodes);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("node  id  region  role"), "{text}");
        assert!(lines[1].starts_with("n1    1   eu      leader   in service"), "{text}");
        assert!(lines[3].contains("learner") && lines[3].contains("draining"), "{text}");
        let json = json(&nodes[0]);
        assert_eq!(json["role"], "leader");
        assert_eq!(json["state"], "in-service");
        assert_eq!(json["repositories"], json!([1]));
    }

    #[test]
    fn each_change_says_what_is_so_now() {
        assert_eq!(outcome("n1", NodeChange::Promote), "node n1 becomes a voter");
        assert!(outcome("n1", NodeChange::Drain).contains("node resume n1"));
    }
}
