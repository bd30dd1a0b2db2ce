//! The supervisor of a node's background workers. A worker runs until the node stops; its end before that is an error
//! in the program: a panic, or a loop that was left. The supervisor logs the end under the worker's name, counts it
//! and carries out the worker's [`Policy`]. `status`, `doctor` and `check` show the count as an alarm.

use futures::FutureExt;
use futures::future::BoxFuture;
use pgmesh_protocol::{ExitCode, Failure, WorkerAlarm, now_unix};
use pgmesh_raft::limits::{self, shortened};
use pgmesh_runtime::tasks;
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// When an ended worker is started again.
#[derive(Debug, Clone, Copy)]
struct Pauses {
    /// The pause before the first restart of a worker; it doubles with each further end.
    first: Duration,
    longest: Duration,
    /// A worker that has run for so long before its end begins again with the first pause.
    steady: Duration,
}

const PAUSES: Pauses = Pauses {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(60),
    steady: Duration::from_secs(600),
};

/// How the supervisor answers the unexpected end of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Start the worker again after a pause: it keeps nothing that a new start does not find again.
    Restart,
    /// End the node: requests wait for answers that no worker gives any more.
    EndNode,
}

/// The unexpected ends of one worker since the node's start.
#[derive(Debug, Clone)]
struct Ends {
    count: u64,
    /// The last one, Unix seconds.
    last: i64,
    why: String,
    is_running: bool,
}

/// Watches over the workers of one node.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pauses: Pauses,
    ends: Mutex<BTreeMap<&'static str, Ends>>,
    /// Why the node must end, once a worker has ended without which it cannot go on.
    fatal: watch::Sender<Option<Failure>>,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self {
            pauses: PAUSES,
            ends: Mutex::default(),
            fatal: watch::Sender::new(None),
        }
    }
}

impl Supervisor {
    /// Starts a worker and keeps it running. Aborting the handle stops the worker, and that end is expected.
    pub(crate) fn start(
        self: &Arc<Self>,
        name: &'static str,
        policy: Policy,
        mut worker: impl FnMut() -> BoxFuture<'static, ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let supervisor = self.clone();
        tasks::spawn(name, async move {
            let mut restarts = Restarts::new(supervisor.pauses);
            let mut has_ended = false;
            loop {
                // The closure is called inside of the future: it may panic, too.
                let (why, pause) = restarts
                    .run(async {
                        play_panic(name, has_ended);
                        worker().await;
                    })
                    .await;
                has_ended = true;
                supervisor.note_end(name, &why);
                if policy == Policy::EndNode {
                    supervisor.end_node(name, why);
                    return;
                }
                tracing::error!(worker = name, why, again_in = ?pause, "a worker has ended unexpectedly");
                tokio::time::sleep(pause).await;
                supervisor.note_start(name);
            }
        })
    }

    /// Runs one of several works of a worker, such as that on one repository, until the worker stops. Its panic stops
    /// none of the others; it is counted as the worker's, and the work begins again after a pause.
    pub(crate) async fn keep<Work: Future<Output = ()>>(&self, name: &'static str, of: &str, work: impl Fn() -> Work) {
        let mut restarts = Restarts::new(self.pauses);
        loop {
            let (why, pause) = restarts.run(async { work().await }).await;
            self.note_panic(name, &format!("{of}: {why}"));
            tracing::error!(worker = name, of, why, again_in = ?pause, "a part of a worker has ended unexpectedly");
            tokio::time::sleep(pause).await;
        }
    }

    /// A task of a worker has panicked; the worker itself runs on.
    pub(crate) fn note_panic(&self, name: &'static str, why: &str) {
        self.note_end(name, why);
        self.note_start(name);
    }

    /// Runs a task that may end when its work is done. Its panic ends the node.
    pub(crate) fn guard(
        self: &Arc<Self>,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let supervisor = self.clone();
        tasks::spawn(name, async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                let why = describe_panic(panic.as_ref());
                supervisor.note_end(name, &why);
                supervisor.end_node(name, why);
            }
        })
    }

    /// The workers that have ended unexpectedly since the node's start.
    pub(crate) fn alarms(&self, node: &str) -> Vec<WorkerAlarm> {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let alarm = |(name, ends): (&&str, &Ends)| WorkerAlarm {
            node: node.to_owned(),
            worker: (*name).to_owned(),
            ends: ends.count,
            last: ends.last,
            why: ends.why.clone(),
            is_running: ends.is_running,
        };
        ends.iter().map(alarm).collect()
    }

    /// Returns when the node must end because of a worker, and why.
    pub(crate) async fn must_end(&self) -> Failure {
        let mut fatal = self.fatal.subscribe();
        let failure = match fatal.wait_for(Option::is_some).await {
            Ok(failure) => failure.clone(),
            // Never: the sender is a field of `self`.
            Err(_) => None,
        };
        match failure {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    fn note_end(&self, name: &'static str, why: &str) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let count = ends.get(name).map_or(0, |ends| ends.count);
        let ended = Ends {
            count: count.saturating_add(1),
            last: now_unix(),
            why: shortened(why.to_owned(), limits::NAME),
            is_running: false,
        };
        ends.insert(name, ended);
    }

    fn note_start(&self, name: &'static str) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ends) = ends.get_mut(name) {
            ends.is_running = true;
        }
    }

    fn end_node(&self, name: &'static str, why: String) {
        let failure = Failure::new(
            ExitCode::Runtime,
            format!("the worker '{name}' has ended, and the node cannot go on without it"),
        )
        .because(why)
        .remedy("start the node again, and report this with the node's log: it is an error in pgmesh");
        self.fatal.send_replace(Some(failure));
    }
}

/// The runs of a worker, or of one of its works, one after the other.
struct Restarts {
    pauses: Pauses,
    next: Duration,
}

impl Restarts {
    fn new(pauses: Pauses) -> Self {
        let next = pauses.first;
        Self { pauses, next }
    }

    /// Runs the work to its end. Why it has ended, and the pause before the next run.
    async fn run(&mut self, work: impl Future<Output = ()>) -> (String, Duration) {
        let began = Instant::now();
        let why = match AssertUnwindSafe(work).catch_unwind().await {
            Ok(()) => "its loop ended".to_owned(),
            Err(panic) => describe_panic(panic.as_ref()),
        };
        if began.elapsed() >= self.pauses.steady {
            self.next = self.pauses.first;
        }
        let pause = self.next;
        self.next = (pause * 2).min(self.pauses.longest);
        (why, pause)
    }
}

fn describe_panic(panic: &(dyn Any + Send)) -> String {
    format!("it panicked: {}", tasks::panic_text(panic))
}

/// In debug builds the worker that `PGMESH_PLAY_PANIC` names panics when it is started first: for tests of alarms.
fn play_panic(name: &str, has_ended: bool) {
    let is_played = cfg!(debug_assertions) && !has_ended;
    assert!(
        !is_played || std::env::var("PGMESH_PLAY_PANIC").ok().as_deref() != Some(name),
        "PGMESH_PLAY_PANIC names this worker"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A worker that ends as often as it is told, and then runs on. Its starts are counted.
    fn failing(times: u32, starts: &Arc<AtomicU32>, panics: bool) -> impl FnMut() -> BoxFuture<'static, ()> + use<> {
        let starts = starts.clone();
        move || {
            let start = starts.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                if start >= times {
                    std::future::pending::<()>().await;
                }
                assert!(!panics, "attempt {start}");
            })
        }
    }

    const QUICK: Pauses = Pauses {
        first: Duration::from_millis(50),
        longest: Duration::from_millis(200),
        steady: Duration::from_millis(400),
    };

    fn supervisor() -> Arc<Supervisor> {
        let quick = Supervisor {
            pauses: QUICK,
            ..Supervisor::default()
        };
        Arc::new(quick)
    }

    async fn until(mut wanted: impl FnMut() -> bool) {
        let limit = Duration::from_secs(30);
        let waiting = async {
            while !wanted() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(limit, waiting).await.unwrap();
    }

    #[tokio::test]
    async fn a_worker_that_panics_is_counted_and_started_again_after_a_growing_pause() {
        let (supervisor, starts) = (supervisor(), Arc::new(AtomicU32::new(0)));
        let began = Instant::now();
        let worker = supervisor.start("digging", Policy::Restart, failing(5, &starts, true));
        until(|| !supervisor.alarms("n1").is_empty()).await;
        let alarms = supervisor.alarms("n1");
        assert!(alarms[0].why.starts_with("it panicked: attempt "), "{}", alarms[0].why);
        until(|| starts.load(Ordering::Relaxed) > 5).await;
        let least = QUICK.first * (1 + 2 + 4 + 4 + 4);
        assert!(began.elapsed() >= least, "{:?}", began.elapsed());
        let alarms = supervisor.alarms("n1");
        assert_eq!((alarms.len(), alarms[0].ends, alarms[0].is_running), (1, 5, true));
        assert!(supervisor.must_end().now_or_never().is_none());
        worker.abort();
        assert!(worker.await.unwrap_err().is_cancelled());
        assert_eq!(
            supervisor.alarms("n1")[0].ends,
            5,
            "an aborted worker has not ended unexpectedly"
        );
    }

    #[tokio::test]
    async fn a_worker_that_returns_is_an_alarm_and_does_not_run_until_it_is_started_again() {
        let slow = Pauses {
            first: Duration::from_secs(3600),
            ..QUICK
        };
        let supervisor = Arc::new(Supervisor {
            pauses: slow,
            ..Supervisor::default()
        });
        let starts = Arc::new(AtomicU32::new(0));
        supervisor.start("digging", Policy::Restart, failing(1, &starts, false));
        until(|| !supervisor.alarms("n1").is_empty()).await;
        let alarms = supervisor.alarms("n1");
        assert_eq!((alarms[0].ends, alarms[0].why.as_str()), (1, "its loop ended"));
        assert!(!alarms[0].is_running);
    }

    #[tokio::test]
    async fn the_pause_is_short_again_after_a_steady_time() {
        let steady = Pauses {
            first: Duration::from_millis(1),
            longest: Duration::from_secs(3600),
            steady: Duration::ZERO,
        };
        let supervisor = Arc::new(Supervisor {
            pauses: steady,
            ..Supervisor::default()
        });
        let starts = Arc::new(AtomicU32::new(0));
        supervisor.start("digging", Policy::Restart, failing(u32::MAX, &starts, false));
        // Pauses that double would take hours by then.
        until(|| starts.load(Ordering::Relaxed) > 25).await;
    }

    #[tokio::test]
    async fn a_node_ends_with_a_worker_that_it_cannot_do_without() {
        let (supervisor, starts) = (supervisor(), Arc::new(AtomicU32::new(0)));
        let worker = supervisor.start("digging", Policy::EndNode, failing(1, &starts, true));
        let failure = supervisor.must_end().await;
        assert!(failure.to_string().contains("'digging'"), "{failure}");
        assert!(failure.to_string().contains("attempt 0"), "{failure}");
        worker.await.unwrap();
        assert_eq!(starts.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn the_panic_of_one_work_is_counted_and_stops_no_other() {
        let supervisor = supervisor();
        let (bad, good) = (AtomicU32::new(0), AtomicU32::new(0));
        let failing = supervisor.keep("digging", "repo1", || async {
            assert!(bad.fetch_add(1, Ordering::Relaxed) > 1, "a defect");
            std::future::pending::<()>().await;
        });
        let working = supervisor.keep("digging", "repo2", || async {
            good.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<()>().await;
        });
        let seen = until(|| bad.load(Ordering::Relaxed) == 3);
        tokio::select! {
            _ = futures::future::join(failing, working) => {}
            () = seen => {}
        }
        assert_eq!(good.load(Ordering::Relaxed), 1);
        let alarms = supervisor.alarms("n1");
        assert_eq!((alarms[0].ends, alarms[0].is_running), (2, true));
        assert_eq!(alarms[0].why, "repo1: it panicked: a defect");
    }

    #[tokio::test]
    async fn a_guarded_task_may_end_and_must_not_panic() {
        let supervisor = Arc::new(Supervisor::default());
        supervisor.guard("commits", async {}).await.unwrap();
        assert!(supervisor.alarms("n1").is_empty());
        supervisor.guard("commits", async { panic!("no") }).await.unwrap();
        assert_eq!(supervisor.alarms("n1")[0].ends, 1);
        assert!(supervisor.must_end().await.to_string().contains("'commits'"));
    }
}
