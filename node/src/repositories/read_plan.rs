//! Which replica of an object is asked next, and how long its answer is waited for. Pure: a state machine that is told
//! of answers and of times that are over; `reading.rs` asks and waits.
//!
//! ```text
//!            ask the best ──► wait for the usual time ──► hedged, if the ration allows ──► ask the next
//!                 ▲                   │                └─► else wait for half a second ──► ask the next
//!                 └── it has failed ──┘
//!            the last one ──► wait for two seconds ──► ask it by another way ──► wait for ever
//! ```

use super::ways::ViaNode;
use pgmesh_raft::Replica;
use pgmesh_storage::RepoKey;
use std::cmp::Reverse;
use std::time::Duration;

/// The only replica that is left is asked by another way, where there is one, when it has been silent for so long.
pub(super) const ANOTHER_WAY_AFTER: Duration = Duration::from_secs(2);

/// A replica that is silent for this long is overtaken even if the ration allows no hedge.
pub(super) const OVERTAKE_ALWAYS: Duration = Duration::from_millis(500);

/// A repository, as far as the choice needs to know it.
pub(super) trait Askable {
    /// Its number.
    fn key(&self) -> RepoKey;
    /// By which node it is asked.
    fn way(&self) -> ViaNode;
    /// Where it stands among replicas; lower is better.
    fn rank(&self) -> (bool, u32, Duration);
    /// After so long without an answer another replica is asked, too.
    fn patience(&self) -> Duration;
}

/// The next action of the reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ReadStep<P> {
    /// Ask this replica; afterwards ask the plan for the next step.
    Ask(P, Replica),
    /// Wait for an answer: for so long, or until there is one.
    Wait(Option<Duration>),
    /// No replica is left.
    GiveUp,
}

/// Where the plan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The next replica is to be asked.
    Asking,
    /// The replica has this time before another one is asked, if the ration of hedges allows it.
    Patience(Duration),
    /// The ration did not allow it.
    Overtaking,
    /// No replica is left, but another way to one of the replicas may be.
    Last,
    /// Nothing is left but to wait.
    Waiting,
}

/// The plan of one read.
pub(super) struct ReadPlan<P> {
    /// The best last, where it can be taken from.
    candidates: Vec<(P, Replica)>,
    /// Replicas in these repositories are used as a last resort, never for hedging.
    avoid: Vec<RepoKey>,
    /// Which replicas were asked, and by which way.
    tried: Vec<(Replica, ViaNode)>,
    state: State,
}

impl<P: Askable> ReadPlan<P> {
    /// Replicas that are not in `avoid` come first, then the replicas with the best rank.
    pub(super) fn new(mut candidates: Vec<(P, Replica)>, avoid: &[RepoKey]) -> Self {
        candidates.sort_by_key(|(place, _)| Reverse((avoid.contains(&place.key()), place.rank())));
        Self {
            candidates,
            avoid: avoid.to_vec(),
            tried: Vec::new(),
            state: State::Asking,
        }
    }

    /// The next action of the reader, now.
    pub(super) fn next(&mut self) -> ReadStep<P> {
        match self.state {
            State::Asking => {
                let Some((place, replica)) = self.candidates.pop() else {
                    return ReadStep::GiveUp;
                };
                self.tried.push((replica, place.way()));
                self.state = match self.candidates.last() {
                    None => State::Last,
                    Some((next, _)) if self.avoid.contains(&next.key()) => State::Waiting,
                    Some(_) => State::Patience(place.patience()),
                };
                ReadStep::Ask(place, replica)
            }
            State::Patience(patience) => ReadStep::Wait(Some(patience)),
            State::Overtaking => ReadStep::Wait(Some(OVERTAKE_ALWAYS)),
            State::Last => ReadStep::Wait(Some(ANOTHER_WAY_AFTER)),
            State::Waiting => ReadStep::Wait(None),
        }
    }

    /// The time of the last wait is over. `may_hedge` takes a hedge from the ration, `other_ways` finds ways that were
    /// not tried.
    pub(super) fn elapsed(
        &mut self,
        may_hedge: impl FnOnce() -> bool,
        other_ways: impl FnOnce(&[(Replica, ViaNode)]) -> Vec<(P, Replica)>,
    ) {
        self.state = match self.state {
            State::Patience(_) if !may_hedge() => State::Overtaking,
            State::Patience(_) | State::Overtaking | State::Asking => State::Asking,
            State::Last => {
                self.candidates = other_ways(&self.tried);
                if self.candidates.is_empty() {
                    State::Waiting
                } else {
                    State::Asking
                }
            }
            State::Waiting => State::Waiting,
        };
    }

    /// A replica has failed. `ways` lead to it, where it may be well, and only the way there is not: they come behind
    /// the replicas that are left.
    pub(super) fn failed(&mut self, ways: Vec<(P, Replica)>) {
        self.candidates.splice(0..0, ways);
        self.state = if self.candidates.is_empty() {
            State::Last
        } else {
            State::Asking
        };
    }

    /// All that were asked have answered.
    pub(super) fn all_answered(&mut self) {
        self.state = State::Asking;
    }

    /// Which replicas were asked, and by which way.
    pub(super) fn tried(&self) -> &[(Replica, ViaNode)] {
        &self.tried
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_storage::Generation;

    /// A repository with its number, a way, a rank in milliseconds, whether it is put aside, and its patience.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Repo(u16, Option<&'static str>, u64, bool);

    impl Askable for Repo {
        fn key(&self) -> RepoKey {
            RepoKey::new(self.0).unwrap()
        }
        fn way(&self) -> ViaNode {
            self.1.map(|name| name.parse().unwrap())
        }
        fn rank(&self) -> (bool, u32, Duration) {
            (self.3, 0, Duration::from_millis(self.2))
        }
        fn patience(&self) -> Duration {
            Duration::from_millis(10 * self.2)
        }
    }

    fn with_replica(repo: Repo) -> (Repo, Replica) {
        let generation = Generation::FIRST;
        let replica = Replica {
            repo: repo.key(),
            generation,
        };
        (repo, replica)
    }

    const FAST: Repo = Repo(1, None, 2, false);
    const SLOW: Repo = Repo(2, None, 9, false);
    const ASIDE: Repo = Repo(3, None, 1, true);
    const BY_A: Repo = Repo(4, Some("a"), 5, false);
    const BY_B: Repo = Repo(4, Some("b"), 6, false);

    /// The steps of the plan, while it is told these outcomes in turn: `-` a replica has failed, `-b` and by way of b
    /// it may be well; `~` the time is over, `~+` and a hedge is allowed, `~b` and b is another way; `.` all have
    /// answered.
    fn story(repos: &[Repo], avoid: &[u16], told: &str) -> String {
        let avoid: Vec<RepoKey> = avoid.iter().map(|repo| RepoKey::new(*repo).unwrap()).collect();
        let mut plan = ReadPlan::new(repos.iter().cloned().map(with_replica).collect(), &avoid);
        let mut story = Vec::new();
        let mut told = told.split_whitespace();
        loop {
            match plan.next() {
                ReadStep::Ask(repo, replica) => {
                    assert_eq!(repo.key(), replica.repo);
                    let way = repo.1.unwrap_or_default();
                    story.push(format!("ask {}{way}", repo.0));
                    continue;
                }
                ReadStep::Wait(Some(limit)) => story.push(format!("{} ms", limit.as_millis())),
                ReadStep::Wait(None) => story.push("wait".to_owned()),
                ReadStep::GiveUp => {
                    story.push("give up".to_owned());
                    break;
                }
            }
            let Some(event) = told.next() else { break };
            let ways = || Vec::from_iter(event.ends_with('b').then(|| with_replica(BY_B)));
            match event.chars().next() {
                Some('-') => plan.failed(ways()),
                Some('~') => plan.elapsed(|| event == "~+", |_| ways()),
                _ => plan.all_answered(),
            }
        }
        story.join(", ")
    }

    #[test]
    fn which_replica_is_asked_and_when() {
        // Replicas, repositories to avoid, outcomes, expected steps.
        let cases: [(&[Repo], &[u16], &str, &str); 12] = [
            (&[], &[], "", "give up"),
            // The fastest is asked alone.
            (&[SLOW, FAST], &[], "", "ask 1, 20 ms"),
            // A repository that is put aside comes last, however fast it was.
            (
                &[ASIDE, SLOW, FAST],
                &[],
                "- -",
                "ask 1, 20 ms, ask 2, 90 ms, ask 3, 2000 ms",
            ),
            // A slow one is hedged where the ration allows it; where it does not, half a second later.
            (&[SLOW, FAST], &[], "~+", "ask 1, 20 ms, ask 2, 2000 ms"),
            (&[SLOW, FAST], &[], "~ ~", "ask 1, 20 ms, 500 ms, ask 2, 2000 ms"),
            // A failure is followed by the next one at once.
            (
                &[SLOW, FAST],
                &[],
                "- - .",
                "ask 1, 20 ms, ask 2, 2000 ms, 2000 ms, give up",
            ),
            // A repository to avoid is never asked for a hedge, but is asked when the others have failed.
            (&[FAST, SLOW], &[1], "~+", "ask 2, wait, wait"),
            (&[FAST, SLOW], &[1], "-", "ask 2, wait, ask 1, 2000 ms"),
            // The last one is asked by another way when it is silent; without another way it is waited for.
            (&[BY_A], &[], "~b", "ask 4a, 2000 ms, ask 4b, 2000 ms"),
            (&[BY_A], &[], "~ -", "ask 4a, 2000 ms, wait, 2000 ms"),
            // A way that has failed is replaced by another one, behind the other repositories.
            (
                &[BY_A, SLOW],
                &[],
                "-b -",
                "ask 4a, 50 ms, ask 2, 90 ms, ask 4b, 2000 ms",
            ),
            (
                &[BY_A],
                &[],
                "-b - .",
                "ask 4a, 2000 ms, ask 4b, 2000 ms, 2000 ms, give up",
            ),
        ];
        for (repos, avoid, told, expected) in cases {
            assert_eq!(
                story(repos, avoid, told),
                expected,
                "{repos:?} but {avoid:?}, told {told}"
            );
        }
    }

    #[test]
    fn the_plan_knows_by_which_ways_it_has_asked() {
        let mut plan = ReadPlan::new(vec![with_replica(BY_A), with_replica(SLOW)], &[]);
        plan.next();
        plan.failed(vec![with_replica(BY_B)]);
        plan.next();
        let tried: Vec<(u16, ViaNode)> = plan
            .tried()
            .iter()
            .map(|(replica, way)| (replica.repo.get(), way.clone()))
            .collect();
        assert_eq!(tried, [(4, Some("a".parse().unwrap())), (2, None)]);
    }
}
