//! What `status --output=json` says, as far as the tests need it: the one place that knows its keys.

use serde_json::Value;

/// How a mesh does, as one node answers.
#[derive(Clone, Debug)]
pub struct MeshStatus {
    /// The leader's name, where one is known.
    pub leader: Option<String>,
    /// Whether a majority answered.
    pub quorum: bool,
    /// The nodes.
    pub nodes: Vec<NodeStatus>,
}

/// How one node does.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// `leader`, `voter`, `learner` or `joining`.
    pub role: String,
    /// `in-service` or `draining`.
    pub state: String,
    /// Whether it answered for itself.
    pub answers: bool,
    /// The last entry of the catalog's log that it has applied.
    pub applied: Option<u64>,
}

impl MeshStatus {
    /// Reads the JSON of `status`.
    #[must_use]
    pub fn read(json: &Value) -> Self {
        let nodes = json["nodes"].as_array().unwrap_or_else(|| panic!("no nodes in {json}"));
        Self {
            leader: text(&json["leader"]),
            quorum: json["quorum"]["reached"] == true,
            nodes: nodes.iter().map(node).collect(),
        }
    }

    /// What it says of one node, if it knows it.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeStatus> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// Whether all of `names` answer and have a vote, and a majority and a leader are there.
    #[must_use]
    pub fn is_whole(&self, names: &[String]) -> bool {
        self.quorum
            && self.leader.is_some()
            && names
                .iter()
                .all(|name| self.node(name).is_some_and(|node| node.answers && node.votes()))
    }
}

impl NodeStatus {
    /// Whether it has a vote.
    #[must_use]
    pub fn votes(&self) -> bool {
        ["leader", "voter"].contains(&self.role.as_str())
    }
}

fn node(json: &Value) -> NodeStatus {
    let required = |key: &str| text(&json[key]).unwrap_or_else(|| panic!("no {key} of a node in {json}"));
    NodeStatus {
        name: required("name"),
        role: required("role"),
        state: required("state"),
        answers: json["reachable"] == true,
        applied: json["last-applied"].as_u64(),
    }
}

fn text(json: &Value) -> Option<String> {
    json.as_str().map(str::to_owned)
}
