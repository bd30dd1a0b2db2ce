//! The parts of `status --output=json` that the tests need; no other file knows its keys.

use serde_json::Value;

/// The status of a mesh, as one node answers.
#[derive(Clone, Debug)]
pub struct MeshStatus {
    /// The leader's name, if it is known.
    pub leader: Option<String>,
    /// Whether a majority answered.
    pub quorum: bool,
    /// Whether the voters are being changed.
    pub joint: bool,
    /// The nodes.
    pub nodes: Vec<NodeStatus>,
    /// The repositories.
    pub repositories: Vec<RepositoryStatus>,
}

/// The status of one node.
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
    /// The last entry that its newest snapshot of the catalog covers.
    pub snapshot: Option<u64>,
}

/// The status of one repository.
#[derive(Clone, Debug)]
pub struct RepositoryStatus {
    /// Its number.
    pub number: u64,
    /// `up`, `down` or `refused`.
    pub state: String,
    /// The number of objects that it owes.
    pub debt: u64,
}

impl MeshStatus {
    /// Reads the JSON of `status`.
    #[must_use]
    pub fn read(json: &Value) -> Self {
        let list = |key: &str| json[key].as_array().unwrap_or_else(|| panic!("no {key} in {json}"));
        Self {
            leader: text(&json["leader"]),
            quorum: json["quorum"]["reached"] == true,
            joint: json["joint"] == true,
            nodes: list("nodes").iter().map(node).collect(),
            repositories: list("repositories").iter().map(repository).collect(),
        }
    }

    /// The status of one node, if the answer has it.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeStatus> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// Whether all of `names` answer and are in the group, as many of them vote as should, and there are a majority and
    /// a leader.
    #[must_use]
    pub fn is_whole(&self, names: &[String]) -> bool {
        let found: Vec<&NodeStatus> = names.iter().filter_map(|name| self.node(name)).collect();
        let voters = found.iter().filter(|node| node.votes()).count();
        self.quorum
            && !self.joint
            && self.leader.is_some()
            && found.len() == names.len()
            && found.iter().all(|node| node.answers && node.role != "joining")
            && voters >= odd_voters(names.len())
    }

    /// The names of the nodes that have a vote.
    #[must_use]
    pub fn voters(&self) -> Vec<&str> {
        let voters = self.nodes.iter().filter(|node| node.votes());
        voters.map(|node| node.name.as_str()).collect()
    }

    /// Whether a majority, a leader and all nodes answer, and all repositories are up and owe nothing.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.quorum
            && self.leader.is_some()
            && self.nodes.iter().all(|node| node.answers)
            && self
                .repositories
                .iter()
                .all(|repository| repository.is_up() && repository.debt == 0)
    }

    /// The status of one repository, if the answer has it.
    #[must_use]
    pub fn repository(&self, number: u64) -> Option<&RepositoryStatus> {
        self.repositories.iter().find(|repository| repository.number == number)
    }
}

impl NodeStatus {
    /// Whether it has a vote.
    #[must_use]
    pub fn votes(&self) -> bool {
        ["leader", "voter"].contains(&self.role.as_str())
    }
}

impl RepositoryStatus {
    /// Whether it is used.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state == "up"
    }
}

/// The default number of voters among so many nodes: an odd number, five at most.
fn odd_voters(nodes: usize) -> usize {
    match nodes.min(5) {
        0 => 0,
        count => count - (count + 1) % 2,
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
        snapshot: json["snapshot"].as_u64(),
    }
}

fn repository(json: &Value) -> RepositoryStatus {
    let number = |value: &Value| {
        value
            .as_u64()
            .unwrap_or_else(|| panic!("no number {value} of a repository in {json}"))
    };
    RepositoryStatus {
        number: number(&json["key"]),
        state: text(&json["health"]["state"]).unwrap_or_else(|| panic!("no state of a repository in {json}")),
        debt: number(&json["debt"]["objects"]),
    }
}

fn text(json: &Value) -> Option<String> {
    json.as_str().map(str::to_owned)
}
