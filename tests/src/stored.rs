//! A mesh in a file: the disks of several nodes, to be taken up by later programs.
//!
//! `make stored-mesh` writes `fixtures/stored-mesh.tar.gz` anew; that is needed when a format changes, as long as no
//! release has been made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::mesh::Mesh;
use crate::node::Node;
use crate::outcome::run;
use crate::scratch::Scratch;

/// The stored mesh that lies beside the tests.
#[must_use]
pub fn fixture() -> PathBuf {
    // Asked at run time: another clone may have built this test.
    let own = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    Path::new(&own).join("fixtures/stored-mesh.tar.gz")
}

/// Stores the data directories and repositories of the stopped nodes of a mesh.
///
/// # Panics
/// If a node runs, or `tar` fails.
pub fn pack(mesh: &Mesh, scratch: &Scratch, to: &Path) {
    let mut tar = Command::new("tar");
    tar.env("GZIP", "-9").arg("-czf").arg(to).arg("-C").arg(scratch.path());
    // RocksDB's own log, and locks.
    tar.args([
        "--exclude=LOG*",
        "--exclude=LOCK",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
    ]);
    for node in mesh.nodes() {
        assert!(!node.is_running(), "{} runs", node.name());
        tar.arg(format!("{}/node", node.name()));
        for number in 1..10 {
            let repository = format!("{}/repo{number}", node.name());
            if scratch.join(&repository).exists() {
                tar.arg(repository);
            }
        }
    }
    run(tar).succeeds();
}

/// Puts a stored mesh into the folders of these nodes, which know each other at their new addresses.
pub(crate) fn unpack(stored: &Path, scratch: &Scratch, nodes: &[Node]) {
    let copy = scratch.join("stored.tar.gz");
    scratch
        .account()
        .write(&copy, fs::read(stored).expect("reading the stored mesh"));
    let mut tar = scratch.account().command("tar", scratch.path());
    tar.arg("-xzf").arg(&copy);
    run(tar).succeeds();
    // Each node of a mesh has an IP address of its own, the same in every run: 127.0.0.NUMBER.
    let addresses: Vec<(String, String)> = nodes
        .iter()
        .map(|node| (format!("{}:", node.socket_address().ip()), node.address()))
        .collect();
    for node in nodes {
        let file = node.data().join("mesh.json");
        let mut text = fs::read_to_string(&file).expect("reading mesh.json");
        for (begin, address) in &addresses {
            text = with_address(&text, begin, address);
        }
        scratch.account().write(&file, &text);
    }
}

/// The text with `address` in place of each address that begins with `begin`.
fn with_address(text: &str, begin: &str, address: &str) -> String {
    let mut parts = text.split(begin);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let rest = part.trim_start_matches(|digit: char| digit.is_ascii_digit());
        text + address + rest
    })
}
