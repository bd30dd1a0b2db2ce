//! The result of a finished program.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use wait4::Wait4;

/// Longer than any command here takes, shorter than the test runner's patience: a command that hangs is named.
const LIMIT: Duration = Duration::from_secs(150);

/// The result of a program that has ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// The most memory that it held, in bytes. Never below the memory of the calling process: Linux counts from the
    /// fork.
    pub peak_memory: u64,
    /// User and system CPU time, without that of children.
    pub cpu: Duration,
    /// Wall time.
    pub elapsed: Duration,
}

impl Outcome {
    /// The exit code, `None` for a program ended by a signal.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Itself, if the program exited 0.
    ///
    /// # Panics
    /// If it did not; the message holds all its output.
    #[must_use = "use `succeeds` where the output does not matter"]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "expected exit 0 of {self}");
        self
    }

    /// As [`ok`](Self::ok), if the output does not matter.
    pub fn succeeds(self) {
        let _ = self.ok();
    }

    /// Asserts that the program exited with one of `codes`, and that its message holds each of `words`.
    pub fn fails(&self, codes: &[i32], words: &[&str]) {
        assert!(
            self.code().is_some_and(|code| codes.contains(&code)),
            "expected exit code {codes:?} of {self}"
        );
        self.says(words);
    }

    /// Asserts that the program refused with an error of its own: neither success, nor a signal, nor a panic (101), and
    /// that its message holds each of `words`.
    pub fn refuses(&self, words: &[&str]) {
        assert!(
            self.code().is_some_and(|code| code != 0 && code != 101),
            "expected a refusal of {self}"
        );
        self.says(words);
    }

    /// Asserts that the program's standard error holds each of `words`, in upper or lower case.
    pub fn says(&self, words: &[&str]) {
        let said = self.stderr.to_lowercase();
        for word in words {
            assert!(
                said.contains(&word.to_lowercase()),
                "expected {word:?} in the message of {self}"
            );
        }
    }

    /// Standard output as JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in the JSON of {self}"))
    }

    /// Standard output without the white space around it.
    #[must_use]
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ended = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or_default()),
        };
        write!(
            formatter,
            "`{}`\n{ended} after {:.1} s\n--- stdout\n{}\n--- stderr\n{}\n---",
            self.command,
            self.elapsed.as_secs_f64(),
            tail(&self.stdout),
            tail(&self.stderr)
        )
    }
}

/// The last part of a long text.
pub(crate) fn tail(text: &str) -> &str {
    const LONGEST: usize = 8000;
    let from = text.len().saturating_sub(LONGEST);
    let from = (from..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text.get(from..).unwrap_or(text).trim_end()
}

/// The command line of a command.
pub(crate) fn command_line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| part.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command to its end, with an empty standard input.
#[must_use]
pub fn run(command: Command) -> Outcome {
    run_with_input(command, "")
}

/// Runs a command to its end, with `input` on its standard input.
///
/// # Panics
/// If it cannot be started, or does not end within 150 s.
#[must_use]
pub fn run_with_input(mut command: Command, input: &str) -> Outcome {
    let line = command_line(&command);
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("starting `{line}`: {error}"));
    let process = Pid::from_child(&child);
    let stdout = collect(child.stdout.take().expect("a pipe was asked for"));
    let stderr = collect(child.stderr.take().expect("a pipe was asked for"));
    if let Some(mut pipe) = child.stdin.take() {
        // A program may end without reading all of its input.
        pipe.write_all(input.as_bytes()).ok();
    }

    let (sender, ended) = mpsc::channel();
    let waiter = thread::spawn(move || {
        let usage = child.wait4().expect("waiting for a child");
        sender.send(()).ok();
        usage
    });
    let in_time = ended.recv_timeout(LIMIT).is_ok();
    if !in_time {
        kill_process(process, Signal::KILL).ok();
    }
    let usage = waiter.join().expect("the waiting thread");
    let outcome = Outcome {
        command: line,
        status: usage.status,
        stdout: stdout.join().expect("the reading thread"),
        stderr: stderr.join().expect("the reading thread"),
        peak_memory: usage.rusage.maxrss,
        cpu: usage.rusage.utime + usage.rusage.stime,
        elapsed: began.elapsed(),
    };
    assert!(in_time, "it did not end: {outcome}");
    outcome
}

/// Reads a pipe to its end while the program runs, so that the program never waits for the test.
fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).ok();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
