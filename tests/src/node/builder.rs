//! Nodes to be set up.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::node::Node;
use crate::outcome::run;
use crate::port::Port;
use crate::program::pgmesh;
use crate::scratch::Scratch;
use crate::stores::Bucket;

/// A repository of a node, as its configuration has it.
#[derive(Clone, Debug)]
pub struct RepositoryFiles {
    /// Its number in the mesh.
    pub number: usize,
    /// The bucket that it lies in, `None` for a folder.
    pub bucket: Option<Bucket>,
    /// Its folder; in a bucket, the prefix of all names.
    pub path: PathBuf,
    /// Its passphrase, `None` for a repository without encryption.
    pub passphrase: Option<String>,
}

impl RepositoryFiles {
    /// An encrypted repository in a node's folder.
    pub(super) fn encrypted(home: &Path, number: usize) -> Self {
        Self {
            number,
            bucket: None,
            path: home.join(format!("repo{number}")),
            passphrase: Some(passphrase(number)),
        }
    }

    /// An encrypted repository in a bucket, under the prefix in the bucket's options, or under a prefix of its own.
    pub(crate) fn in_bucket(number: usize, bucket: &Bucket) -> Self {
        let path = bucket.option("path").map(str::to_owned);
        Self {
            number,
            bucket: Some(bucket.clone().without("path")),
            path: path.unwrap_or_else(|| format!("/repo{number}")).into(),
            passphrase: Some(passphrase(number)),
        }
    }

    /// Its lines in a node's file.
    #[must_use]
    pub fn lines(&self) -> String {
        self.lines_as(self.number)
    }

    /// Its lines in a configuration file that gives it another number, as for a restore without nodes.
    #[must_use]
    pub fn lines_as(&self, number: usize) -> String {
        let path = &self.path;
        let cipher = match &self.passphrase {
            Some(passphrase) => format!("aes-256-cbc\nrepo{number}-cipher-pass={passphrase}"),
            None => "none".to_owned(),
        };
        let place = match &self.bucket {
            Some(bucket) => bucket.lines(number),
            None => format!("repo{number}-type=posix\n"),
        };
        format!(
            "{place}repo{number}-path={}\nrepo{number}-cipher-type={cipher}\n",
            path.display()
        )
    }
}

fn passphrase(number: usize) -> String {
    format!("passphrase of {number}: correct horse")
}

/// A node to be set up.
#[derive(Debug)]
pub struct NodeBuilder<'a> {
    scratch: &'a Scratch,
    name: String,
    port: Option<Port>,
    region: String,
    repositories: Vec<RepositoryFiles>,
    options: String,
    initialize: Vec<String>,
}

impl<'a> NodeBuilder<'a> {
    pub(super) fn new(scratch: &'a Scratch, name: &str) -> Self {
        Self {
            scratch,
            name: name.to_owned(),
            port: None,
            region: "eu".to_owned(),
            repositories: Vec::new(),
            options: String::new(),
            initialize: Vec::new(),
        }
    }

    /// Sets the port on which it listens; by default a free port of 127.0.0.1.
    #[must_use]
    pub fn port(mut self, port: Port) -> Self {
        self.port = Some(port);
        self
    }

    /// Sets its region, `eu` by default.
    #[must_use]
    pub fn region(mut self, region: &str) -> Self {
        region.clone_into(&mut self.region);
        self
    }

    /// Adds an encrypted posix repository, the next number.
    #[must_use]
    pub fn repository(self) -> Self {
        let number = self.repositories.len() + 1;
        self.repository_numbered(number)
    }

    /// Adds an encrypted posix repository with a number of its own in the mesh.
    #[must_use]
    pub fn repository_numbered(mut self, number: usize) -> Self {
        let repository = RepositoryFiles::encrypted(&self.scratch.join(&self.name), number);
        self.repositories.push(repository);
        self
    }

    /// Adds a posix repository at a path, the next number.
    #[must_use]
    pub fn repository_at(self, path: PathBuf, passphrase: Option<&str>) -> Self {
        let number = self.repositories.len() + 1;
        self.add(number, path, passphrase.map(str::to_owned))
    }

    /// Adds an encrypted repository in a bucket, the next number.
    #[must_use]
    pub fn repository_on(self, bucket: &Bucket) -> Self {
        let number = self.repositories.len() + 1;
        self.repository_numbered_on(number, bucket)
    }

    /// Adds an encrypted repository in a bucket with a number of its own in the mesh, under the prefix of that number:
    /// nodes that declare the same number and bucket share the repository.
    #[must_use]
    pub fn repository_numbered_on(mut self, number: usize, bucket: &Bucket) -> Self {
        self.repositories.push(RepositoryFiles::in_bucket(number, bucket));
        self
    }

    pub(crate) fn add(mut self, number: usize, path: PathBuf, passphrase: Option<String>) -> Self {
        self.repositories.push(RepositoryFiles {
            number,
            bucket: None,
            path,
            passphrase,
        });
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

    /// Writes its configuration; it belongs to no mesh yet.
    #[must_use]
    pub fn write(self) -> Node {
        self.write_with_arguments().0
    }

    fn write_with_arguments(self) -> (Node, Vec<String>) {
        let account = self.scratch.account();
        let home = self.scratch.folder(&self.name);
        let port = self.port.unwrap_or_else(Port::reserve);
        let address = port.address();
        let mut settings = format!(
            "[global]\nnode-name={}\nnode-path={}\nnode-listen={address}\nnode-advertise={address}\nnode-region={}\n",
            self.name,
            home.join("node").display(),
            self.region
        );
        for repository in &self.repositories {
            settings += &repository.lines();
        }
        settings += &self.options;
        let node = Node {
            account,
            name: self.name,
            program: pgmesh(self.scratch.path()),
            configuration: home.join("node.conf"),
            home,
            settings,
            port,
            repositories: self.repositories,
            // The level that `make stored-mesh` asks for.
            level: std::env::var("PGMESH_PLAY_LEVEL")
                .ok()
                .and_then(|level| level.parse().ok()),
            panicking: None,
            process: None,
        };
        node.account.write(&node.configuration, &node.settings);
        (node, self.initialize)
    }

    /// Writes its configuration and has it begin a mesh; it does not run yet.
    #[must_use]
    pub fn create(self) -> Node {
        let (node, arguments) = self.write_with_arguments();
        let mut command = node.command(&["node", "init"]);
        command.args(&arguments);
        run(command).succeeds();
        node
    }

    /// Has it begin a mesh and starts it.
    #[must_use]
    pub fn start(self) -> Node {
        let mut node = self.create();
        node.start();
        node
    }
}
