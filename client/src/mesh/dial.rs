//! The first connection that some node accepts.

use super::candidates::Candidate;
use super::link::Link;
use super::race::{Outcome, race};
use super::{Mesh, reached};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_transport::{Client, ConnectError};
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
        let present = self.present_client();
        let dial = |(_, address): &(&Candidate, &str)| {
            let (client, address) = (present.clone(), (*address).to_owned());
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
                let shown = link.connection.shown_ca_der();
                let own = present.identity().ca_der();
                self.nodes.saw_authority(shown.is_some_and(|shown| shown != own));
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

    /// The client with the certificate that this host has now: a command that runs for hours may have outlived one, and
    /// its authority.
    fn present_client(&self) -> Client {
        let renewed = self.access.identity().ok().filter(|identity| {
            let own = self.client.identity();
            identity.member().key == own.member().key && identity.fingerprint() != own.fingerprint()
        });
        let client = renewed.and_then(|identity| Client::new(&identity).ok());
        client.unwrap_or_else(|| self.client.clone())
    }
}

const JOIN_AGAIN: &str =
    "join again with a new token: 'pgmesh invite' on a node, then 'pgmesh join --force TOKEN' here";

const OTHER_AUTHORITY: &str = "check mesh-node; if the mesh's authority was rotated meanwhile, join again with a new \
                               token: 'pgmesh invite' on a node, then 'pgmesh join --force TOKEN' here";

fn unreachable<'a>(failed: &[(usize, ConnectError)], silent: impl Iterator<Item = &'a str>) -> Failure {
    // A node that has not heard of it yet would have let this host in: what one node says counts.
    if let Some(why) = failed.iter().find_map(|(_, error)| error.shut_out()) {
        return Failure::new(ExitCode::Crypto, "this host's certificate counts no more in the mesh")
            .because(why)
            .remedy(JOIN_AGAIN);
    }
    // By this host's own clock. A node that says so may have a wrong one.
    if let Some(error) = failed.iter().map(|(_, error)| error).find(|error| error.has_expired()) {
        return Failure::new(ExitCode::Crypto, chain(error)).remedy(JOIN_AGAIN);
    }
    let mut reasons: Vec<String> = failed.iter().map(|(_, error)| chain(error)).collect();
    let refused_by_all = !failed.is_empty() && failed.iter().all(|(_, error)| !error.is_transient());
    let before = reasons.len();
    reasons.extend(silent.map(|address| format!("connecting to {address}: no answer")));
    let may_change = !refused_by_all || reasons.len() > before;
    let of_others = failed.iter().filter(|(_, error)| error.is_other_authority());
    let remedy = match of_others.count() {
        some if some > 0 && some == failed.len() => OTHER_AUTHORITY,
        _ => "check mesh-node, and that 'pgmesh node start' runs there",
    };
    let failure = Failure::new(ExitCode::HostConnect, "no node of the mesh can be reached")
        .because(reasons.join("; "))
        .remedy(remedy);
    if may_change { failure.again() } else { failure }
}
