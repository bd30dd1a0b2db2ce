//! Which nodes have been silent for how long: the leader ends the sessions of dead nodes.

use pgmesh_raft::NodeName;
use std::collections::HashMap;
use std::time::Duration;

/// Since when each silent node is silent, in the leader's running time. A node that holds no sessions is not asked, and
/// nothing is remembered of it: its next session begins with the whole grace.
#[derive(Default)]
pub(crate) struct Silences(HashMap<NodeName, Duration>);

impl Silences {
    /// Takes a round of questions to all nodes that hold sessions, each with whether it is alive. Returns the nodes
    /// that have been silent for `limit`. A round fails without a majority. No client could have gone to another node
    /// then, so all silences begin anew.
    pub(crate) fn observe<E>(
        &mut self,
        now: Duration,
        round: Result<&[(NodeName, bool)], E>,
        limit: Duration,
    ) -> Result<Vec<NodeName>, E> {
        let round = round.inspect_err(|_| self.0.clear())?;
        let silent = |name: &NodeName| round.iter().any(|(asked, is_alive)| asked == name && !is_alive);
        self.0.retain(|name, _| silent(name));
        let mut dead = Vec::new();
        for (name, _) in round.iter().filter(|(_, is_alive)| !is_alive) {
            let since = *self.0.entry(name.clone()).or_insert(now);
            if now.saturating_sub(since) >= limit {
                dead.push(name.clone());
            }
        }
        Ok(dead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn name(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn seen(silences: &mut Silences, seconds: u64, round: &[(NodeName, bool)]) -> Vec<NodeName> {
        silences.observe::<()>(at(seconds), Ok(round), LIMIT).unwrap()
    }

    #[test]
    fn a_node_that_held_nothing_for_an_hour_has_the_whole_grace() {
        let mut silences = Silences::default();
        let n2 = name("n2");
        assert!(seen(&mut silences, 0, &[(n2.clone(), true)]).is_empty());
        // Its session ends; an hour later it opens another, and dies.
        assert!(seen(&mut silences, 5, &[]).is_empty());
        assert!(seen(&mut silences, 3600, &[(n2.clone(), false)]).is_empty());
        assert!(seen(&mut silences, 3629, &[(n2.clone(), false)]).is_empty());
        assert_eq!(seen(&mut silences, 3630, &[(n2.clone(), false)]), [n2]);
    }

    #[test]
    fn only_silence_without_a_break_counts() {
        let mut silences = Silences::default();
        let n2 = name("n2");
        for seconds in [0, 10, 20] {
            let round = [(n2.clone(), false), (name("n3"), true)];
            assert!(seen(&mut silences, seconds, &round).is_empty());
        }
        assert!(seen(&mut silences, 29, &[(n2.clone(), true)]).is_empty());
        assert!(seen(&mut silences, 35, &[(n2.clone(), false)]).is_empty());
        assert_eq!(silences.observe(at(60), Err("no majority"), LIMIT), Err("no majority"));
        assert!(seen(&mut silences, 70, &[(n2.clone(), false)]).is_empty());
        assert_eq!(seen(&mut silences, 100, &[(n2.clone(), false)]), [n2]);
    }
}
