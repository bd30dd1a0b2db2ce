//! Packages that the library must not link: a node's parts, and the parts of a command line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Consensus, the catalog's database and the daemon; arguments and progress bars.
const FORBIDDEN: [&str; 8] = [
    "clap",
    "indicatif",
    "librocksdb-sys",
    "openraft",
    "pgmesh-cli",
    "pgmesh-node",
    "pgmesh-raft",
    "rocksdb",
];

/// The packages of `Cargo.lock` with their dependencies, versions left out: all that are linked, and perhaps more.
fn packages(lock: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut packages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for block in lock.split("[[package]]").skip(1) {
        let name = block.lines().find_map(|line| line.strip_prefix("name = "));
        let (_, dependencies) = block.split_once("dependencies = [").unwrap_or_default();
        let (dependencies, _) = dependencies.split_once(']').unwrap_or_default();
        let quoted = dependencies.split('"').skip(1).step_by(2);
        let names = quoted.filter_map(|dependency| dependency.split(' ').next().map(str::to_owned));
        let package = name.unwrap_or_default().trim_matches('"').to_owned();
        packages.entry(package).or_default().extend(names);
    }
    packages
}

#[test]
fn no_part_of_a_node_or_of_a_command_line_is_linked() {
    // Asked when it runs: another clone may have built it.
    let own = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    let path = Path::new(&own).join("../Cargo.lock");
    let packages = packages(&std::fs::read_to_string(path).unwrap());
    let needs = |root: &str| {
        let mut seen = BTreeSet::new();
        let mut open = vec![root.to_owned()];
        while let Some(name) = open.pop() {
            if seen.insert(name.clone()) {
                open.extend(packages.get(&name).into_iter().flatten().cloned());
            }
        }
        seen
    };
    let program = needs("pgmesh-cli");
    for name in FORBIDDEN {
        assert!(
            program.contains(name),
            "{name} is not even in the program: is it called otherwise now?"
        );
    }
    let library = needs("pgmesh-client");
    let found: Vec<&str> = FORBIDDEN.into_iter().filter(|name| library.contains(*name)).collect();
    assert!(found.is_empty(), "pgmesh-client depends on {found:?}");
}
