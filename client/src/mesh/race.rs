//! Dialling several addresses, each a little later than the one before: the first that answers wins.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How a race ended. Runners go by their place in the order they were given in.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<T, E> {
    /// A runner arrived.
    Won {
        /// Its place.
        winner: usize,
        /// Its result.
        prize: T,
        /// The runners that had failed before.
        failed: Vec<(usize, E)>,
        /// The runners that had begun earlier than the winner and were still silent.
        overtaken: Vec<usize>,
    },
    /// No runner arrived within the limit.
    Lost {
        /// The runners that failed.
        failed: Vec<(usize, E)>,
        /// The runners that had begun and were still silent.
        silent: Vec<usize>,
    },
}

/// Starts the first of `runners` at once, each next one `stagger` later or as soon as another has failed. Runners that
/// have not arrived when the race is over are dropped.
pub async fn race<C, T, E, F>(runners: &[C], stagger: Duration, limit: Duration, run: impl Fn(&C) -> F) -> Outcome<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let end = Instant::now() + limit;
    let mut waiting = runners.iter().enumerate();
    let mut next = waiting.next();
    let mut next_start = Instant::now();
    let mut running = FuturesUnordered::new();
    let mut begun = Vec::new();
    let mut failed: Vec<(usize, E)> = Vec::new();
    loop {
        if let Some((at, runner)) = next
            && Instant::now() >= next_start
        {
            let attempt = run(runner);
            running.push(async move { (at, attempt.await) });
            begun.push(at);
            next = waiting.next();
            next_start = Instant::now() + stagger;
        }
        tokio::select! {
            biased;
            Some((at, result)) = running.next() => match result {
                Ok(prize) => {
                    let overtaken = silent(&begun, &failed).into_iter().filter(|other| *other < at).collect();
                    return Outcome::Won { winner: at, prize, failed, overtaken };
                }
                Err(error) => {
                    failed.push((at, error));
                    next_start = Instant::now();
                }
            },
            () = sleep_until(next_start), if next.is_some() => {}
            () = sleep_until(end), if next.is_some() || !running.is_empty() => break,
            else => break,
        }
    }
    let silent = silent(&begun, &failed);
    Outcome::Lost { failed, silent }
}

fn silent<E>(begun: &[usize], failed: &[(usize, E)]) -> Vec<usize> {
    let has_failed = |at: &usize| failed.iter().any(|(other, _)| other == at);
    begun.iter().copied().filter(|at| !has_failed(at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    const STAGGER: Duration = Duration::from_millis(40);
    const LIMIT: Duration = Duration::from_millis(400);

    /// After how many milliseconds a runner ends, and how.
    type Runner = (u64, Result<&'static str, &'static str>);

    async fn run(runners: &[Runner]) -> (Outcome<&'static str, &'static str>, Duration) {
        let began = Instant::now();
        let outcome = race(runners, STAGGER, LIMIT, |(after, end)| {
            let (after, end) = (Duration::from_millis(*after), *end);
            async move {
                sleep(after).await;
                end
            }
        })
        .await;
        (outcome, began.elapsed())
    }

    #[tokio::test]
    async fn the_first_in_the_order_wins_when_it_is_quick() {
        let (outcome, took) = run(&[(1, Ok("near")), (0, Ok("far"))]).await;
        assert!(
            matches!(
                outcome,
                Outcome::Won {
                    winner: 0,
                    prize: "near",
                    ..
                }
            ),
            "{outcome:?}"
        );
        assert!(took < STAGGER, "{took:?}");
    }

    #[tokio::test]
    async fn a_silent_one_is_overtaken_and_named() {
        let (outcome, took) = run(&[(60_000, Ok("black hole")), (5, Ok("far"))]).await;
        let expected = Outcome::Won {
            winner: 1,
            prize: "far",
            failed: vec![],
            overtaken: vec![0],
        };
        assert_eq!(outcome, expected);
        assert!(took >= STAGGER && took < LIMIT, "{took:?}");
    }

    #[tokio::test]
    async fn after_a_failure_the_next_one_starts_at_once() {
        let (outcome, took) = run(&[(1, Err("refused")), (1, Err("refused")), (1, Ok("third"))]).await;
        let Outcome::Won { winner: 2, failed, .. } = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(failed, [(0, "refused"), (1, "refused")]);
        assert!(took < STAGGER * 2, "{took:?}");
    }

    #[tokio::test]
    async fn all_errors_are_kept_and_the_limit_holds() {
        let (outcome, _) = run(&[(1, Err("a")), (2, Err("b"))]).await;
        let failed = vec![(0, "a"), (1, "b")];
        assert_eq!(outcome, Outcome::Lost { failed, silent: vec![] });
        let (outcome, took) = run(&[(60_000, Ok("never")), (1, Err("b"))]).await;
        let failed = vec![(1, "b")];
        assert_eq!(
            outcome,
            Outcome::Lost {
                failed,
                silent: vec![0]
            }
        );
        assert!(took >= LIMIT && took < 2 * LIMIT, "{took:?}");
        let (outcome, _) = run(&[]).await;
        assert_eq!(
            outcome,
            Outcome::Lost {
                failed: vec![],
                silent: vec![]
            }
        );
    }
}
