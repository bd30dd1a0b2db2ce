//! Nodes of a mesh.

mod builder;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

pub use builder::{NodeBuilder, RepositoryFiles};

use crate::account::Account;
use crate::objects::Repository;
use crate::outcome::{Outcome, run};
use crate::port::Port;
use crate::process::Process;
use crate::scratch::Scratch;
use crate::stores::Bucket;
use crate::wait::wait_for;

/// How long a node may take to start or to stop.
const LIMIT: Duration = Duration::from_secs(60);

/// A node, and its process while that runs.
#[derive(Debug)]
pub struct Node {
    account: Account,
    name: String,
    program: PathBuf,
    home: PathBuf,
    configuration: PathBuf,
    settings: String,
    port: Port,
    repositories: Vec<RepositoryFiles>,
    level: Option<u32>,
    panicking: Option<String>,
    process: Option<Process>,
}

impl Node {
    /// Describes a new node with a mesh of its own.
    #[must_use]
    pub fn builder<'a>(scratch: &'a Scratch, name: &str) -> NodeBuilder<'a> {
        NodeBuilder::new(scratch, name)
    }

    /// Its name in the mesh.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder: configuration, log, `node` (its data directory) and its repositories.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.home.join("node")
    }

    /// Its configuration file.
    #[must_use]
    pub fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// Where it listens, `ADDRESS:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// The same as a socket address.
    #[must_use]
    pub fn socket_address(&self) -> SocketAddr {
        self.port.socket_address()
    }

    /// The number of its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Repository `number` of the mesh, as configured here.
    ///
    /// # Panics
    /// If this node does not have it.
    #[must_use]
    pub fn repository(&self, number: usize) -> &RepositoryFiles {
        let found = self.repositories.iter().find(|repository| repository.number == number);
        found.unwrap_or_else(|| panic!("{} has no repo{number}", self.name))
    }

    /// The stored objects of repository `number` of the mesh, which lies in a folder.
    ///
    /// # Panics
    /// If it lies in a bucket, whose server knows the objects.
    #[must_use]
    pub fn objects(&self, number: usize) -> Repository {
        let repository = self.repository(number);
        assert!(
            repository.bucket.is_none(),
            "repo{number} of {} lies in a bucket",
            self.name
        );
        Repository::new(repository.path.clone())
    }

    /// Replaces text in its configuration file. A running node keeps the configuration that it has read.
    ///
    /// # Panics
    /// If the file does not have the text.
    pub fn reconfigure(&mut self, from: &str, to: &str) {
        assert!(self.settings.contains(from), "no {from:?} in the node's configuration");
        self.settings = self.settings.replace(from, to);
        self.account.write(&self.configuration, &self.settings);
    }

    /// Declares an encrypted repository in its file; it hosts the repository from its next start on.
    pub fn declare_repository(&mut self, number: usize) {
        self.declare(RepositoryFiles::encrypted(&self.home, number));
    }

    /// Declares an encrypted repository in a bucket in its file; it opens the repository from its next start on.
    pub fn declare_repository_on(&mut self, number: usize, bucket: &Bucket) {
        self.declare(RepositoryFiles::in_bucket(number, bucket));
    }

    fn declare(&mut self, repository: RepositoryFiles) {
        self.settings += &repository.lines();
        self.account.write(&self.configuration, &self.settings);
        self.repositories.push(repository);
    }

    /// Has it listen on another port from its next start on.
    pub fn move_to_another_port(&mut self) {
        let from = self.address();
        let port = Port::reserve_at(self.port.ip());
        self.reconfigure(&from, &port.address());
        self.port = port;
    }

    /// Asserts that no node refuses a host's WAL: a false alarm teaches administrators to ignore alarms.
    ///
    /// # Panics
    /// If a node does.
    pub fn assert_no_alarm(&self) {
        let status = self.run(&["status", "--output=json"]).ok().json();
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let told = nodes.iter().filter_map(|node| node["stuck"].as_array());
        let stuck: Vec<_> = told.flatten().collect();
        assert!(!nodes.is_empty() && stuck.is_empty(), "{stuck:?}");
        let told = nodes.iter().filter_map(|node| node["workers"].as_array());
        let workers: Vec<_> = told.flatten().collect();
        assert!(workers.is_empty(), "{workers:?}");
    }

    /// From its next start on it runs the program of a release that has this apply level, or its own program for
    /// `None`.
    pub fn play_level(&mut self, level: Option<u32>) {
        self.level = level;
    }

    /// The worker of this name panics at the node's next start, once; the program must be a debug build.
    pub fn play_panic(&mut self, worker: Option<&str>) {
        self.panicking = worker.map(str::to_owned);
    }

    /// A `pgmesh` command that uses the node's configuration, and so its administrator's identity.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.account.command(&self.program, &self.home);
        command
            .arg(format!("--config={}", self.configuration.display()))
            .args(arguments);
        if let Some(level) = self.level {
            command.env("PGMESH_PLAY_LEVEL", level.to_string());
        }
        if let Some(worker) = &self.panicking {
            command.env("PGMESH_PLAY_PANIC", worker);
        }
        command
    }

    /// Runs a `pgmesh` command with the node's configuration.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        run(self.command(arguments))
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// If it ends instead.
    pub fn start(&mut self) {
        if let Err((code, log)) = self.try_start() {
            panic!("the node ended with exit code {code:?} instead of serving:\n{log}");
        }
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// The exit code and the log of a node that ended instead.
    pub fn try_start(&mut self) -> Result<(), (Option<i32>, String)> {
        self.launch();
        self.await_start(|node| node.run(&["info"]).code() == Some(0))
    }

    /// Starts it, and does not wait until it answers.
    pub fn launch(&mut self) {
        let command = self.command(&["node", "start"]);
        let log = self.home.join("node.log");
        self.process = Some(Process::start("the node", command, &log));
    }

    /// Waits until a launched node is `ready`.
    ///
    /// # Errors
    /// The exit code and the log of a node that ended instead.
    pub fn await_start(&mut self, ready: impl Fn(&Self) -> bool) -> Result<(), (Option<i32>, String)> {
        let mut ended = None;
        wait_for(&format!("{} to answer", self.name), LIMIT, || {
            ended = self.process.as_mut().and_then(Process::ended);
            ended.is_some() || ready(self)
        });
        match ended {
            None => Ok(()),
            Some(status) => {
                let log = self.process().log();
                self.process = None;
                Err((status.code(), log))
            }
        }
    }

    /// Has it join a mesh by an invitation; it does not run yet.
    pub fn join(&self, token: &str) {
        self.run(&["node", "join", token]).succeeds();
    }

    /// SIGSTOP: it keeps its port, its locks and its memory, and does nothing.
    pub fn pause(&self) {
        self.process().signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process().signal(Signal::CONT);
    }

    /// Whether it was started and neither stopped nor killed.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Whether it was started and has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        let ended = self.process.as_mut().and_then(Process::ended);
        if ended.is_some() {
            self.process = None;
        }
        ended.is_some()
    }

    /// Asks it to stop (SIGTERM) and checks that it does so without complaint.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let status = process.end(Signal::TERM, LIMIT);
            assert!(status.success(), "the node stopped with {status}:\n{}", process.log());
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Its process, while it runs.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("a running node")
    }

    /// A join token for a client of one stanza.
    #[must_use]
    pub fn invite(&self, stanza: &str) -> String {
        self.invite_with(&["--role=client", &format!("--stanza={stanza}"), "--expires=1h"])
    }

    /// A join token, from the arguments of `invite`, which prints it alone on the standard output.
    #[must_use]
    pub fn invite_with(&self, arguments: &[&str]) -> String {
        let mut command = self.command(&["invite"]);
        command.args(arguments);
        let outcome = run(command).ok();
        let token = outcome.text().to_owned();
        assert!(
            !token.is_empty() && outcome.stdout == format!("{token}\n") && !token.contains(char::is_whitespace),
            "expected a token alone on the standard output of {outcome}"
        );
        token
    }

    /// Leaves it running when this value is dropped.
    pub fn keep(&mut self) {
        if let Some(process) = &mut self.process {
            process.keep();
        }
    }
}
