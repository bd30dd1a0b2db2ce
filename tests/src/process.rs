//! A program that runs beside the test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::outcome::tail;
use crate::wait::wait_for;

/// A running program. It is killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    keep: bool,
}

impl Process {
    /// Starts it; its output is appended to `log`.
    #[must_use]
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|error| panic!("opening {}: {error}", log.display()));
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle of a log"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("starting {name}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            keep: false,
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("asking for a child's state")
    }

    /// The last part of its output.
    #[must_use]
    pub fn log(&self) -> String {
        tail(&fs::read_to_string(&self.log).unwrap_or_default()).to_owned()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).ok();
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().expect("waiting for a killed child");
    }

    /// Sends a signal that asks it to end, and waits until it has.
    ///
    /// # Panics
    /// If it has not ended within `limit`.
    pub fn end(&mut self, signal: Signal, limit: Duration) -> ExitStatus {
        self.signal(signal);
        self.wait(limit)
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// If it has not ended within `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        let mut status = None;
        wait_for(&what, limit, || {
            status = self.ended();
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// The most memory that it has held so far, in bytes (`VmHWM`).
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))
            .unwrap_or_else(|error| panic!("reading the state of {}: {error}", self.name));
        let kibibytes: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|rest| rest.trim().strip_suffix(" kB"))
            .and_then(|number| number.trim().parse().ok())
            .unwrap_or_else(|| panic!("no VmHWM in the state of {}", self.name));
        kibibytes * 1024
    }

    /// The user and system CPU time that it has used so far.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        /// `USER_HZ`, the unit of these numbers: 100 on every Linux.
        const TICK: Duration = Duration::from_millis(10);
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id()))
            .unwrap_or_else(|error| panic!("reading the state of {}: {error}", self.name));
        // Behind the program's name, which may hold any character, the fields begin with the third; user and system
        // time are 14 and 15.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u32 = fields
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u32>().ok())
            .sum();
        TICK * ticks
    }

    /// Has [`peak_memory`](Self::peak_memory) count anew from its present memory.
    pub fn reset_peak_memory(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.id()), "5")
            .unwrap_or_else(|error| panic!("resetting the peak memory of {}: {error}", self.name));
    }

    /// Leaves it running when it is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.keep {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}
