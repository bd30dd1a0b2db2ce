//! The first connection that some node accepts.

use super::candidates::Candidate;
use super::link::Link;
use super::race::{Outcome, race};
use super::{Mesh, reached};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_transport::ConnectError;
use std::time::Duration;

/// The next node is dialled when the one before has not answered for this long.
const STAGGER: Duration = Duration::from_millis(150);
/// The limit for dialling all nodes together.
const ROUND: Duration = Duration::from_secs(6);

impl Mesh {
    /// Races all nodes.
    pub(super) async fn dial(&self) -> Result<Link, Failure> {
        let candidates = self.nodes.candidates();
        let runners: Vec<(&Candidate, &str)> = candidates
            .iter()
            .flat_map(|candidate| {
                candidate
                    .addresses
                    .iter()
                    .map(move |address| (candidate, address.as_str()))
            })
            .collect();
        let dial = |(_, address): &(&Candidate, &str)| {
            let (client, address) = (self.client.clone(), (*address).to_owned());
            async move { client.connect(&address).await }
        };
        match race(&runners, STAGGER, ROUND, dial).await {
            Outcome::Won {
                winner,
                prize,
                failed,
                overtaken,
            } => {
                let candidate = |at: usize| runners.get(at).map(|(candidate, _)| *candidate);
                let beaten = failed.iter().map(|(at, _)| *at).chain(overtaken).filter_map(candidate);
                // If an address of the winner failed, the node itself has not.
                let beaten: Vec<&Candidate> = beaten.filter(|beaten| candidate(winner) != Some(*beaten)).collect();
                let address = runners.get(winner).map(|(_, address)| *address);
                let link = Link::new(prize, address.unwrap_or_default().to_owned());
                self.nodes.raced(&beaten, Some(reached(&link)));
                Ok(link)
            }
            Outcome::Lost { failed, silent } => {
                let everybody: Vec<&Candidate> = candidates.iter().collect();
                self.nodes.raced(&everybody, None);
                let silent = silent
                    .iter()
                    .filter_map(|at| runners.get(*at).map(|(_, address)| *address));
                Err(unreachable(&failed, silent))
            }
        }
    }
}

fn unreachable<'a>(failed: &[(usize, ConnectError)], silent: impl Iterator<Item = &'a str>) -> Failure {
    // A node that has not heard of it yet would have let this host in: what one node says counts.
    if let Some(why) = failed.iter().find_map(|(_, error)| error.shut_out()) {
        return Failure::new(ExitCode::Crypto, "this host's certificate counts no more in the mesh")
            .because(why)
            .remedy("join again with a new token: 'pgmesh invite' on a node, then 'pgmesh join --force TOKEN' here");
    }
    let mut reasons: Vec<String> = failed.iter().map(|(_, error)| chain(error)).collect();
    let refused_by_all = !failed.is_empty() && failed.iter().all(|(_, error)| !error.is_transient());
    let before = reasons.len();
    reasons.extend(silent.map(|address| format!("connecting to {address}: no answer")));
    let may_change = !refused_by_all || reasons.len() > before;
    let failure = Failure::new(ExitCode::HostConnect, "no node of the mesh can be reached")
        .because(reasons.join("; "))
        .remedy("check mesh-node, and that 'pgmesh node start' runs there");
    if may_change { failure.again() } else { failure }
}
