//! The nodes to ask, and their order. Pure.

use super::cache::{KnownNode, MeshCache};
use std::collections::BTreeMap;

/// A node that failed is put last for this long, in milliseconds.
pub const PENALTY: i64 = 30_000;

/// The configuration of the way to the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    /// `mesh-node`, and on a node its own address.
    pub seeds: Vec<String>,
    /// `mesh-route`: the address of a node, by its name. The route counts, not the addresses that the node tells.
    pub routes: BTreeMap<String, String>,
    /// `node-region`.
    pub region: Option<String>,
    /// `node-name`: the node that this host is.
    pub home: Option<String>,
}

/// A node, or a configured address whose node is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The node's name, where it is known.
    pub name: Option<String>,
    /// Where to dial, the best first.
    pub addresses: Vec<String>,
    is_home: bool,
    in_own_region: bool,
    drains: bool,
    round_trip: Option<u64>,
    failed: Option<i64>,
}

/// All candidates in the order in which to dial them at `now`, Unix milliseconds.
pub fn candidates(ways: &Ways, cache: &MeshCache, now: i64) -> Vec<Candidate> {
    let mut seeds = ways.seeds.clone();
    let mut candidates: Vec<Candidate> = Vec::new();
    for node in &cache.nodes {
        let addresses = addresses(node, ways);
        // A seed belongs to a node if the node tells this address, or was reached at it. Then the node's route counts.
        seeds.retain(|seed| !is_address_of(seed, node) && !addresses.contains(seed));
        let candidate = Candidate {
            name: Some(node.name.clone()),
            addresses,
            is_home: ways.home.as_ref() == Some(&node.name),
            in_own_region: !node.region.is_empty() && ways.region.as_ref() == Some(&node.region),
            drains: !node.serves,
            round_trip: node.round_trip,
            failed: node.failed,
        };
        if !candidate.addresses.is_empty() {
            candidates.push(candidate);
        }
    }
    // On a node's first command only its own address is known.
    let nobody_is_home = !candidates.iter().any(|candidate| candidate.is_home);
    for (at, seed) in seeds.into_iter().enumerate() {
        let stranger = cache.strangers.iter().find(|stranger| stranger.address == seed);
        candidates.push(Candidate {
            name: None,
            addresses: vec![seed],
            is_home: ways.home.is_some() && nobody_is_home && at == 0,
            in_own_region: false,
            drains: false,
            round_trip: None,
            failed: stranger.map(|stranger| stranger.failed),
        });
    }
    candidates.sort_by_key(|candidate| rank(candidate, now));
    candidates
}

fn is_address_of(address: &String, node: &KnownNode) -> bool {
    node.addresses.contains(address) || node.reached_at.as_ref() == Some(address)
}

/// Where a node is dialled: by its route, else where it was reached by a configured address, else where it says.
fn addresses(node: &KnownNode, ways: &Ways) -> Vec<String> {
    if let Some(route) = ways.routes.get(&node.name) {
        return vec![route.clone()];
    }
    let reached = node.reached_at.iter().filter(|address| ways.seeds.contains(address));
    let mut addresses: Vec<String> = reached.cloned().collect();
    for address in &node.addresses {
        if !addresses.contains(address) {
            addresses.push(address.clone());
        }
    }
    addresses
}

/// The lower, the earlier: first the nodes in good order, by home, region and round trip; then the nodes that drain;
/// then the nodes that failed lately, the longest ago first, so that in the end each is tried.
fn rank(candidate: &Candidate, now: i64) -> (u8, i64, bool, bool, bool, u64) {
    let failed = candidate
        .failed
        .filter(|failed| (0..PENALTY).contains(&now.saturating_sub(*failed)));
    let class = match (failed, candidate.drains) {
        (Some(_), _) => 2,
        (None, true) => 1,
        (None, false) => 0,
    };
    (
        class,
        failed.unwrap_or_default(),
        !candidate.is_home,
        !candidate.in_own_region,
        candidate.round_trip.is_none(),
        candidate.round_trip.unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::cache::Stranger;
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn node(name: &str, region: &str, round_trip: Option<u64>) -> KnownNode {
        KnownNode {
            name: name.to_owned(),
            region: region.to_owned(),
            addresses: vec![format!("{name}:8433")],
            serves: true,
            round_trip,
            ..KnownNode::default()
        }
    }

    fn cache(nodes: Vec<KnownNode>) -> MeshCache {
        MeshCache {
            nodes,
            ..MeshCache::default()
        }
    }

    fn order(ways: &Ways, cache: &MeshCache) -> Vec<String> {
        let dialled = candidates(ways, cache, NOW)
            .into_iter()
            .map(|candidate| candidate.addresses.join("+"));
        dialled.collect()
    }

    fn in_region(region: &str) -> Ways {
        Ways {
            region: Some(region.to_owned()),
            ..Ways::default()
        }
    }

    #[test]
    fn own_region_first_then_the_shortest_round_trip_then_the_unmeasured() {
        let cache = cache(vec![
            node("a", "us", Some(100)),
            node("b", "eu", None),
            node("c", "eu", Some(9000)),
            node("d", "eu", Some(800)),
            node("e", "", None),
        ]);
        assert_eq!(
            order(&in_region("eu"), &cache),
            ["d:8433", "c:8433", "b:8433", "a:8433", "e:8433"]
        );
        let anywhere = order(&Ways::default(), &cache);
        assert_eq!(anywhere, ["a:8433", "d:8433", "c:8433", "b:8433", "e:8433"]);
    }

    #[test]
    fn those_that_drain_or_failed_lately_come_last() {
        let mut nodes = vec![
            node("failed", "eu", Some(1)),
            node("drains", "eu", Some(2)),
            node("failed-before", "eu", Some(3)),
            node("forgiven", "eu", Some(4)),
            node("from-the-future", "eu", Some(5)),
            node("far", "us", Some(9000)),
        ];
        nodes[0].failed = Some(NOW - 10);
        nodes[1].serves = false;
        nodes[2].failed = Some(NOW - PENALTY + 1);
        nodes[3].failed = Some(NOW - PENALTY);
        // A clock that was set back must not put a node last for hours.
        nodes[4].failed = Some(NOW + 1_000_000);
        let expected = [
            "forgiven",
            "from-the-future",
            "far",
            "drains",
            "failed-before",
            "failed",
        ];
        let expected: Vec<String> = expected.iter().map(|name| format!("{name}:8433")).collect();
        assert_eq!(order(&in_region("eu"), &cache(nodes)), expected);
    }

    #[test]
    fn seeds_are_dialled_in_their_order_until_they_are_known() {
        let seeds = vec!["s1:1".to_owned(), "s2:1".to_owned(), "s3:1".to_owned()];
        let ways = Ways {
            seeds,
            ..Ways::default()
        };
        assert_eq!(order(&ways, &MeshCache::default()), ["s1:1", "s2:1", "s3:1"]);
        let mut known = cache(vec![node("n", "", Some(5))]);
        known.nodes[0].reached_at = Some("s2:1".to_owned());
        known.strangers = vec![Stranger {
            address: "s1:1".to_owned(),
            failed: NOW - 5,
        }];
        assert_eq!(order(&ways, &known), ["s2:1+n:8433", "s3:1", "s1:1"]);
        // A seed that is no longer configured is not dialled.
        assert_eq!(order(&Ways::default(), &known), ["n:8433"]);
    }

    #[test]
    fn a_route_replaces_what_a_node_says_and_the_seed_that_led_to_it() {
        let ways = Ways {
            seeds: vec!["n:8433".to_owned(), "direct:1".to_owned()],
            routes: BTreeMap::from([("n".to_owned(), "relay:7".to_owned())]),
            ..Ways::default()
        };
        let mut known = cache(vec![node("n", "", None), node("m", "", None)]);
        known.nodes[0].reached_at = Some("direct:1".to_owned());
        assert_eq!(order(&ways, &known), ["relay:7", "m:8433"]);
    }

    #[test]
    fn a_node_asks_itself_first() {
        let mut ways = in_region("eu");
        ways.home = Some("b".to_owned());
        ways.seeds = vec!["127.0.0.1:8433".to_owned(), "a:8433".to_owned()];
        assert_eq!(order(&ways, &MeshCache::default()), ["127.0.0.1:8433", "a:8433"]);
        let mut known = cache(vec![node("a", "eu", Some(1)), node("b", "us", None)]);
        known.nodes[1].reached_at = Some("127.0.0.1:8433".to_owned());
        assert_eq!(order(&ways, &known), ["127.0.0.1:8433+b:8433", "a:8433"]);
        known.nodes[1].failed = Some(NOW);
        assert_eq!(order(&ways, &known), ["a:8433", "127.0.0.1:8433+b:8433"]);
    }
}
