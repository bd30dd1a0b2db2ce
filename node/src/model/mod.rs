//! A model of a mesh: the catalog (`apply`, in memory), stores that lose, delay, repeat and reorder requests, and
//! actors that run at the same time: backups that die, pushes, sweeps, collections, repairs, replaced and removed
//! repositories, leaders that are deposed and go on. Their decisions, and the order of a collection's steps, are the
//! product's own code; every await is a point at which anything else may happen first.
//!
//! A history is a function of its seed. After every step, each replica that the catalog counts as good must be in its
//! store, and each acknowledged object must be in the catalog (invariants 1, 4 and 5). A failure prints its seed;
//! `PGMESH_MODEL_SEED=<seed>` runs that history alone and prints its events.

mod actors;
mod events;
mod node;
mod random;
mod world;

use node::SimNode;
use random::Random;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use world::World;

/// How many histories a test run goes through.
const HISTORIES: u64 = 3000;
/// Steps of one history.
const STEPS: u32 = 260;
/// Actors at work at once.
const ACTORS: usize = 9;

/// One actor at work.
struct Task {
    /// The node that it works on: it dies with it.
    node: usize,
    work: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// One history.
struct History {
    world: Arc<World>,
    random: Random,
    tasks: Vec<Task>,
    /// Whether little happens but pushes and scans.
    is_quiet: bool,
}

impl History {
    fn new(seed: u64, is_traced: bool) -> Self {
        Self {
            world: Arc::new(World::new(seed, is_traced)),
            random: Random::new(seed),
            tasks: Vec::new(),
            is_quiet: seed.is_multiple_of(4),
        }
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            self.step();
            self.world.check();
        }
        // Requests that are still on their way arrive at last.
        while self.world.deliver(&mut self.random, true) {
            self.world.check();
        }
    }

    fn step(&mut self) {
        for (node, work) in self.world.spawned() {
            self.tasks.push(Task { node, work });
        }
        match self.random.below(100) {
            0..14 if self.tasks.len() < ACTORS => self.begin(),
            14..22 => drop(self.world.deliver(&mut self.random, false)),
            22 => self.kill_one(),
            23 if self.random.one_in(3) => self.restart_node(),
            24..28 => events::happen(&self.world, &mut self.random),
            _ => self.poll_one(),
        }
    }

    fn begin(&mut self) {
        let node = SimNode::new(&self.world, self.random.below(world::NODES));
        let number = node.number;
        let begin = if self.is_quiet {
            actors::begin_quiet
        } else {
            actors::begin
        };
        let work = begin(node, &mut self.random);
        self.tasks.push(Task { node: number, work });
    }

    fn poll_one(&mut self) {
        if self.tasks.is_empty() {
            return;
        }
        let index = self.random.below(self.tasks.len());
        let mut context = Context::from_waker(Waker::noop());
        if self.tasks[index].work.as_mut().poll(&mut context) == Poll::Ready(()) {
            drop(self.tasks.swap_remove(index));
        }
    }

    /// An actor's client was killed, or its task was aborted.
    fn kill_one(&mut self) {
        if !self.tasks.is_empty() {
            let index = self.random.below(self.tasks.len());
            drop(self.tasks.swap_remove(index));
            self.world.trace(|| "an actor dies".to_owned());
        }
    }

    fn restart_node(&mut self) {
        let node = self.random.below(world::NODES);
        self.tasks.retain(|task| task.node != node);
        self.world.restart(node);
    }
}

/// Histories of a run; `PGMESH_TIMES` times as many where it is set (`make test-all`).
fn histories() -> u64 {
    let times = std::env::var("PGMESH_TIMES").ok().and_then(|times| times.parse().ok());
    HISTORIES * times.unwrap_or(1)
}

/// Runs the histories of seeds from `next` on until there are enough; the first seed that failed, if one did.
fn run_histories(next: &AtomicU64, failed: &AtomicU64) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed > histories() || failed.load(Ordering::Relaxed) != 0 {
            return;
        }
        if catch_unwind(AssertUnwindSafe(|| History::new(seed, false).run())).is_err() {
            failed.fetch_min(seed, Ordering::Relaxed);
            failed.store(seed, Ordering::Relaxed);
        }
    }
}

#[test]
fn nothing_live_is_deleted_and_nothing_acknowledged_is_lost() {
    if let Some(seed) = std::env::var("PGMESH_MODEL_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        return History::new(seed, true).run();
    }
    let (next, failed) = (AtomicU64::new(1), AtomicU64::new(0));
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| run_histories(&next, &failed));
        }
    });
    let seed = failed.load(Ordering::Relaxed);
    assert!(
        seed == 0,
        "history {seed} failed (above): PGMESH_MODEL_SEED={seed} runs it alone and shows its steps"
    );
}

#[test]
fn a_history_follows_from_its_seed() {
    let run = |seed| {
        let history = History::new(seed, false);
        let world = history.world.clone();
        history.run();
        world.fingerprint()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
