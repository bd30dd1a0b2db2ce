//! Running one command and counting all that it uses, with the shares of its children and of a server.

use std::fs;
use std::io::Read;
use std::iter::Sum;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pgmesh_tests::Process;
use wait4::Wait4;

/// The time between two looks at the memory of the processes.
const LOOK: Duration = Duration::from_millis(2);

/// `USER_HZ`, the unit of the times in `/proc`: 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// The costs of an operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Wall time.
    pub wall: Duration,
    /// User CPU time of all processes.
    pub user: Duration,
    /// System CPU time of all processes.
    pub system: Duration,
    /// The most memory held, in bytes: the largest sum of the peaks of the processes that were alive at the same
    /// moment.
    pub memory: u64,
    /// The bytes that it added to the repository, if they are known.
    pub stored: Option<u64>,
}

impl Figures {
    /// The same, with the bytes that were stored.
    #[must_use]
    pub fn storing(self, bytes: u64) -> Self {
        Self {
            stored: Some(bytes),
            ..self
        }
    }
}

impl Sum for Figures {
    /// Figures of operations one after the other: times add up, memory does not.
    fn sum<I: Iterator<Item = Self>>(figures: I) -> Self {
        figures.fold(Self::default(), |sum, one| Self {
            wall: sum.wall + one.wall,
            user: sum.user + one.user,
            system: sum.system + one.system,
            memory: sum.memory.max(one.memory),
            stored: None,
        })
    }
}

/// Runs a command to its end. The figures include the processes that it starts and waits for, and the use of `server`
/// meanwhile. Also returns the command's output, which must be short.
///
/// # Panics
/// If the command fails.
pub fn measure(mut command: Command, server: Option<&Process>) -> (Figures, String) {
    // Syncs first, so that the command does not wait for the writes of earlier commands.
    rustix::fs::sync();
    if let Some(server) = server {
        server.reset_peak_memory();
    }
    let before = server.map(cpu).unwrap_or_default();
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
    let roots: Vec<u32> = std::iter::once(child.id()).chain(server.map(Process::id)).collect();
    let ended = AtomicBool::new(false);
    let (usage, wall, memory) = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch_memory(&roots, &ended));
        let usage = child.wait4().expect("waiting for a child");
        let wall = began.elapsed();
        ended.store(true, Ordering::Relaxed);
        (usage, wall, watcher.join().expect("the watching thread"))
    });
    assert!(usage.status.success(), "{command:?} failed: {}", usage.status);
    let after = server.map(cpu).unwrap_or_default();
    let mut output = String::new();
    if let Some(printed) = &mut child.stdout {
        printed.read_to_string(&mut output).expect("reading what was printed");
    }
    let figures = Figures {
        wall,
        user: usage.rusage.utime + (after.0 - before.0),
        system: usage.rusage.stime + (after.1 - before.1),
        memory,
        stored: None,
    };
    (figures, output)
}

/// User and system time that a process has used so far.
fn cpu(process: &Process) -> (Duration, Duration) {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).expect("reading a server's state");
    // Behind the program's name, which may hold any character, the fields begin with the third; user and system time
    // are 14 and 15.
    let mut times = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .skip(11)
        .map(|field| TICK * field.parse::<u32>().expect("a number of ticks"));
    let mut next = || times.next().expect("a time in a server's state");
    (next(), next())
}

/// Looks at the processes and all their descendants until `ended`, and returns the largest sum of the peaks of
/// processes alive at once.
fn watch_memory(roots: &[u32], ended: &AtomicBool) -> u64 {
    let mut most = 0;
    loop {
        // Once more after the end, for the server.
        let last = ended.load(Ordering::Relaxed);
        let sum = roots.iter().map(|root| peak_of_tree(*root)).sum();
        most = most.max(sum);
        if last {
            return most;
        }
        thread::sleep(LOOK);
    }
}

/// The sum of the peaks of a process and its descendants, in bytes. Processes that have ended do not count.
fn peak_of_tree(process: u32) -> u64 {
    let folder = format!("/proc/{process}");
    let status = fs::read_to_string(format!("{folder}/status")).unwrap_or_default();
    let kibibytes: u64 = status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmHWM:")?
                .trim()
                .strip_suffix(" kB")?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let threads = fs::read_dir(format!("{folder}/task")).into_iter().flatten().flatten();
    let children: u64 = threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .map(|children| {
            let numbers = children.split_whitespace().filter_map(|number| number.parse().ok());
            numbers.map(peak_of_tree).sum::<u64>()
        })
        .sum();
    kibibytes * 1024 + children
}
