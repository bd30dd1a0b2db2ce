//! Garage: an S3 in Rust that ignores conditional writes.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgmesh_chaos::http::HeldPort;

use super::Bucket;
use super::bucket::endpoint;
use super::program::{Server, find};
use crate::outcome::run;
use crate::process::Process;
use crate::wait::wait_for_some;

const LIMIT: Duration = Duration::from_secs(60);
const REGION: &str = "garage";
const KEY: &str = "GK0123456789abcdef01234567";
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A running Garage of one node. It ends when it is dropped.
#[derive(Debug)]
pub struct GarageServer {
    server: Server,
    configuration: PathBuf,
    program: PathBuf,
    /// The port over which its nodes would speak to each other.
    _rpc: HeldPort,
}

impl GarageServer {
    /// Whether it is installed, as `.ci/setup test-all` does.
    #[must_use]
    pub fn is_installed() -> bool {
        find("bin/garage", "garage").is_some()
    }

    /// Starts Garage with a bucket.
    ///
    /// # Panics
    /// If it is not installed, or does not start.
    #[must_use]
    pub fn start(bucket: &str) -> Self {
        let program =
            find("bin/garage", "garage").expect("no garage on this machine: `.ci/setup test-all` installs it");
        let rpc = HeldPort::new().expect("a free port");
        let mut configuration = PathBuf::new();
        let server = Server::start("garage", |address, scratch| {
            configuration = scratch.join("garage.toml");
            write_configuration(&configuration, scratch.path(), address, rpc.address());
            let mut command = Command::new(&program);
            command.arg("-c").arg(&configuration).arg("server");
            command
        });
        let garage = Self {
            server,
            configuration,
            program,
            _rpc: rpc,
        };
        garage.lay_out();
        garage.run(&["key", "import", "--yes", "-n", "tests", KEY, SECRET]);
        garage.create_bucket(bucket);
        garage
    }

    fn lay_out(&self) {
        let id = wait_for_some("garage to know itself", LIMIT, || {
            let outcome = run(self.command(&["node", "id", "-q"]));
            let id = outcome.stdout.trim().split('@').next().unwrap_or_default().to_owned();
            if outcome.code() == Some(0) && !id.is_empty() {
                Ok(id)
            } else {
                Err(outcome.to_string())
            }
        });
        wait_for_some("garage to take its layout", LIMIT, || {
            let outcome = run(self.command(&["layout", "assign", "-z", "dc1", "-c", "1G", &id]));
            if outcome.code() == Some(0) {
                Ok(())
            } else {
                Err(outcome.to_string())
            }
        });
        self.run(&["layout", "apply", "--version", "1"]);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(&self.configuration).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) {
        run(self.command(arguments)).succeeds();
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Makes a bucket.
    pub fn create_bucket(&self, bucket: &str) {
        self.run(&["bucket", "create", bucket]);
        self.run(&["bucket", "allow", "--read", "--write", "--owner", bucket, "--key", KEY]);
    }

    /// A node's options for a bucket; `address` is that of the server or of a proxy before it.
    #[must_use]
    pub fn bucket(&self, bucket: &str, address: SocketAddr) -> Bucket {
        Bucket::new("s3")
            .with("s3-bucket", bucket)
            .with("s3-endpoint", endpoint(address))
            .with("s3-region", REGION)
            .with("s3-uri-style", "path")
            .with("s3-key", KEY)
            .with("s3-key-secret", SECRET)
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.server.process()
    }
}

fn write_configuration(path: &Path, folder: &Path, s3: SocketAddr, rpc: SocketAddr) {
    let text = format!(
        "metadata_dir = \"{folder}/meta\"\n\
         data_dir = \"{folder}/data\"\n\
         db_engine = \"sqlite\"\n\
         replication_factor = 1\n\
         rpc_bind_addr = \"{rpc}\"\n\
         rpc_public_addr = \"{rpc}\"\n\
         rpc_secret = \"{SECRET}\"\n\
         [s3_api]\n\
         s3_region = \"{REGION}\"\n\
         api_bind_addr = \"{s3}\"\n",
        folder = folder.display()
    );
    fs::write(path, text).expect("writing the configuration of garage");
}
