//! Nodes of a mesh.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::account::Account;
use crate::objects::Repository;
use crate::outcome::{Outcome, run};
use crate::port::Port;
use crate::process::Process;
use crate::program::pgmesh;
use crate::scratch::Scratch;
use crate::wait::wait_for;

/// How long a node may take to start or to stop.
const LIMIT: Duration = Duration::from_secs(60);

/// A repository of a node, as its configuration has it.
#[derive(Clone, Debug)]
pub struct RepositoryFiles {
    /// Its folder.
    pub path: PathBuf,
    /// Its passphrase, `None` for a repository without encryption.
    pub passphrase: Option<String>,
}

/// A node to be set up.
#[derive(Debug)]
pub struct NodeBuilder<'a> {
    scratch: &'a Scratch,
    name: String,
    repositories: Vec<RepositoryFiles>,
    options: String,
    initialize: Vec<String>,
}

/// A node of its own mesh, and its process while that runs.
#[derive(Debug)]
pub struct Node {
    account: Account,
    program: PathBuf,
    home: PathBuf,
    configuration: PathBuf,
    settings: String,
    port: Port,
    repositories: Vec<RepositoryFiles>,
    process: Option<Process>,
}

impl<'a> NodeBuilder<'a> {
    /// Adds an encrypted posix repository, the next number.
    #[must_use]
    pub fn repository(self) -> Self {
        let number = self.repositories.len() + 1;
        let path = self.scratch.join(&self.name).join(format!("repo{number}"));
        self.repository_at(path, Some(&format!("passphrase of {number}: correct horse")))
    }

    /// Adds a posix repository at a path.
    #[must_use]
    pub fn repository_at(mut self, path: PathBuf, passphrase: Option<&str>) -> Self {
        let passphrase = passphrase.map(str::to_owned);
        self.repositories.push(RepositoryFiles { path, passphrase });
        self
    }

    /// Adds a line to the `[global]` section of its file.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        writeln!(self.options, "{name}={value}").expect("writing to a string");
        self
    }

    /// Adds an argument of `node init`.
    #[must_use]
    pub fn initialize_with(mut self, argument: &str) -> Self {
        self.initialize.push(argument.to_owned());
        self
    }

    /// Writes its configuration and has it initialized; it does not run yet.
    #[must_use]
    pub fn create(self) -> Node {
        let account = self.scratch.account();
        let home = self.scratch.folder(&self.name);
        let port = Port::reserve();
        let address = port.address();
        let mut settings = format!(
            "[global]\nnode-name={}\nnode-path={}\nnode-listen={address}\nnode-advertise={address}\nnode-region=eu\n",
            self.name,
            home.join("node").display()
        );
        for (index, repository) in self.repositories.iter().enumerate() {
            let number = index + 1;
            let path = repository.path.display();
            writeln!(settings, "repo{number}-type=posix\nrepo{number}-path={path}").expect("writing to a string");
            match &repository.passphrase {
                Some(passphrase) => writeln!(
                    settings,
                    "repo{number}-cipher-type=aes-256-cbc\nrepo{number}-cipher-pass={passphrase}"
                ),
                None => writeln!(settings, "repo{number}-cipher-type=none"),
            }
            .expect("writing to a string");
        }
        settings += &self.options;
        let node = Node {
            account,
            program: pgmesh(self.scratch.path()),
            configuration: home.join("node.conf"),
            home,
            settings,
            port,
            repositories: self.repositories,
            process: None,
        };
        node.account.write(&node.configuration, &node.settings);
        let mut command = node.command(&["node", "init"]);
        command.args(&self.initialize);
        run(command).succeeds();
        node
    }

    /// Has it initialized and starts it.
    #[must_use]
    pub fn start(self) -> Node {
        let mut node = self.create();
        node.start();
        node
    }
}

impl Node {
    /// Describes a new node with a mesh of its own.
    #[must_use]
    pub fn builder<'a>(scratch: &'a Scratch, name: &str) -> NodeBuilder<'a> {
        NodeBuilder {
            scratch,
            name: name.to_owned(),
            repositories: Vec::new(),
            options: String::new(),
            initialize: Vec::new(),
        }
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

    /// Where it listens, `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// The number of its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Repository `number`, from 1, as configured.
    #[must_use]
    pub fn repository(&self, number: usize) -> &RepositoryFiles {
        &self.repositories[number - 1]
    }

    /// The stored objects of repository `number`, from 1.
    #[must_use]
    pub fn objects(&self, number: usize) -> Repository {
        Repository::new(self.repository(number).path.clone())
    }

    /// Replaces text in its configuration file; what a running node has read stays.
    ///
    /// # Panics
    /// When the file does not have it.
    pub fn reconfigure(&mut self, from: &str, to: &str) {
        assert!(self.settings.contains(from), "no {from:?} in the node's configuration");
        self.settings = self.settings.replace(from, to);
        self.account.write(&self.configuration, &self.settings);
    }

    /// A `pgmesh` command that uses the node's configuration, and so its administrator's identity.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.account.command(&self.program, &self.home);
        command
            .arg(format!("--config={}", self.configuration.display()))
            .args(arguments);
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
    /// When it ends instead.
    pub fn start(&mut self) {
        if let Err((code, log)) = self.try_start() {
            panic!("the node ended with exit code {code:?} instead of serving:\n{log}");
        }
    }

    /// Starts it and waits until it answers; its exit code and log, if it ends instead.
    ///
    /// # Errors
    /// What the node left that ended.
    pub fn try_start(&mut self) -> Result<(), (Option<i32>, String)> {
        let mut process = Process::start(
            "the node",
            self.command(&["node", "start"]),
            &self.home.join("node.log"),
        );
        let mut ended = None;
        wait_for("the node to answer", LIMIT, || {
            ended = process.ended();
            ended.is_some() || self.run(&["info"]).code() == Some(0)
        });
        if let Some(status) = ended {
            return Err((status.code(), process.log()));
        }
        self.process = Some(process);
        Ok(())
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
    /// When it does not.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("a running node")
    }

    /// A join token for a client of one stanza.
    #[must_use]
    pub fn invite(&self, stanza: &str) -> String {
        self.invite_with(&["--role=client", &format!("--stanza={stanza}"), "--expires=1h"])
    }

    /// A join token, from the arguments of `invite`: it is alone on the standard output.
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
