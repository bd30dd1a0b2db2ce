//! Servers that are programs of other projects.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use pgmesh_chaos::http::{HeldPort, Response, request};
use rustix::process::Signal;

use crate::process::Process;
use crate::scratch::Scratch;
use crate::wait::wait_for;

/// How long a server may take to answer. Node and Python start in 2 s on an idle machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A running server at a port that the test holds, and its folder.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    process: Process,
    port: HeldPort,
    /// Dropped last: the server may have files in it.
    scratch: Scratch,
}

impl Server {
    /// Starts the server of `describe`, which is given a port and a folder, and waits until it listens there.
    ///
    /// The server runs as the user who runs the tests, since only that user can start programs in its home folder.
    pub fn start(name: &'static str, describe: impl FnOnce(SocketAddr, &Scratch) -> Command) -> Self {
        let scratch = Scratch::new(name);
        let port = HeldPort::new().expect("a free port");
        let mut command = describe(port.address(), &scratch);
        command.env("TMPDIR", scratch.path()).current_dir(scratch.path());
        let mut process = Process::start(name, command, &scratch.join("server.log"));
        let address = port.address();
        wait_for(&format!("{name} to listen"), LIMIT, || {
            let ended = process.ended();
            assert!(ended.is_none(), "{name} ended with {ended:?}:\n{}", process.log());
            std::net::TcpStream::connect(address).is_ok()
        });
        Self {
            name,
            process,
            port,
            scratch,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Leaves it and its folder in place, and returns its process id.
    pub fn keep(&mut self) -> u32 {
        self.process.keep();
        self.scratch.keep();
        self.process.id()
    }

    pub fn pause(&self) {
        self.process.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Sends a request that must be answered with success.
    pub fn ask(&self, method: &str, target: &str, headers: &[(String, String)], body: &[u8]) -> Response {
        let answer = request(self.address(), method, target, headers, body)
            .unwrap_or_else(|error| panic!("{} does not answer {method} {target}: {error}", self.name));
        assert!(
            (200..300).contains(&answer.status),
            "{} answers {method} {target} with {}:\n{}",
            self.name,
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        answer
    }

    /// The same with an answer in text.
    pub fn ask_text(&self, method: &str, target: &str, headers: &[(String, String)]) -> String {
        String::from_utf8_lossy(&self.ask(method, target, headers, &[]).body).into_owned()
    }
}

/// A program that setup has installed at `path` below the cache; else `name` on the `PATH`.
pub fn installed(path: &str, name: &str, setup: &str) -> PathBuf {
    find(path, name).unwrap_or_else(|| panic!("no {name} on this machine: `{setup}` installs it"))
}

/// The same; `None` if it is not installed.
pub fn find(path: &str, name: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("PGMESH_CACHE").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(PathBuf::from(home).join(".cache/pgmesh"))
    });
    let below_cache = cache.map(|cache| cache.join("tools").join(path));
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&paths).map(|folder| folder.join(name));
    below_cache.into_iter().chain(on_path).find(|path| path.is_file())
}
