//! This host's identity in the mesh, and its way to a node.

use super::node;
use crate::config::{Command, Config, IndexKey, table};
use pgmesh_client::mesh::{AccessSettings, Ways};
use pgmesh_node::Layout;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_transport::Identity;
use std::time::Duration;

/// How long a command that a person waits for looks for a first node; later, `io-timeout` counts.
const GREETING: Duration = Duration::from_secs(2);

/// The identity and the first nodes. A PG host's file names `mesh-node`; a node's file names the node itself, whose
/// administrator's identity is used.
///
/// # Errors
/// 37: the configuration names no node.
pub fn of(config: &Config) -> Result<AccessSettings, Failure> {
    let is_node = config.is_given("node-name") || config.is_given("node-path");
    let mut seeds = config.list("mesh-node").to_vec();
    if seeds.is_empty() && !is_node {
        return Err(nobody_named());
    }
    let administers = is_node && !acts_as_host(config, &seeds);
    let directory = if administers {
        seeds.insert(0, node::reachable(config));
        Layout::new(config.required_path("node-path")?).admin()
    } else {
        config.required_path("identity-path")?.to_owned()
    };
    let io_timeout = config.duration("io-timeout");
    // PostgreSQL waits for these commands, and no person does: a long wait is better than an error that PostgreSQL acts
    // on.
    let archives = matches!(config.command(), Command::ArchivePush | Command::ArchiveGet);
    let limit = if archives {
        config.duration("archive-timeout")
    } else {
        io_timeout
    };
    Ok(AccessSettings {
        directory,
        ways: Ways {
            seeds,
            routes: config.map("mesh-route").iter().cloned().collect(),
            region: config.text("node-region").map(str::to_owned),
            home: config.text("node-name").filter(|_| administers).map(str::to_owned),
        },
        greeting: if archives { limit } else { GREETING.min(limit) },
        limit,
        ends_in_time: archives,
    })
}

/// One file may describe a node and the PostgreSQL beside it: commands for the cluster then use the host's own
/// identity, if it has joined.
fn acts_as_host(config: &Config, seeds: &[String]) -> bool {
    let beside_cluster = table::indexed(IndexKey::Pg, "path").is_some_and(|spec| spec.is_for(config.command()));
    let joined = config.path("identity-path").is_some_and(Identity::exists);
    !seeds.is_empty() && joined && (beside_cluster || config.is_given("identity-path"))
}

fn nobody_named() -> Failure {
    Failure::new(
        ExitCode::OptionRequired,
        "option mesh-node is missing: no node of the mesh is known here",
    )
    .remedy("set mesh-node=HOST:8433 in [global] of the configuration file, or give --config=FILE")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::path::Path;

    fn access(arguments: &[&str]) -> Result<AccessSettings, Failure> {
        let arguments: Vec<std::ffi::OsString> = ["--no-config"].iter().chain(arguments).map(Into::into).collect();
        of(&Config::load(&arguments, &[]).unwrap())
    }

    const NODE: [&str; 4] = [
        "--node-name=n1",
        "--node-path=/node",
        "--node-listen=0.0.0.0:7",
        "--mesh-node=n2:8",
    ];

    #[test]
    fn a_pg_host_goes_by_its_own_identity_to_the_nodes_that_it_names() {
        let given = [
            "--mesh-node=n1:8",
            "--mesh-node=n2:8",
            "--mesh-route=n2=relay:9",
            "--node-region=eu",
            "--identity-path=/id",
            "info",
        ];
        let access = access(&given).unwrap();
        assert_eq!(access.directory, Path::new("/id"));
        let expected = Ways {
            seeds: vec!["n1:8".to_owned(), "n2:8".to_owned()],
            routes: BTreeMap::from([("n2".to_owned(), "relay:9".to_owned())]),
            region: Some("eu".to_owned()),
            home: None,
        };
        assert_eq!(access.ways, expected);
        assert!(access.greeting < access.limit, "a person waits");
    }

    #[test]
    fn who_archives_waits_as_long_as_it_may() {
        let access = access(&[
            "--stanza=main",
            "--pg1-path=/pg",
            "--archive-timeout=9",
            "--mesh-node=n:1",
            "archive-push",
            "x",
        ]);
        let access = access.unwrap();
        assert_eq!([access.greeting, access.limit], [Duration::from_secs(9); 2]);
    }

    #[test]
    fn a_nodes_file_means_its_administrator_and_the_node_itself_first() {
        let access = access(&[&NODE[..], &["info"]].concat()).unwrap();
        assert_eq!(access.directory, Path::new("/node/admin"));
        assert_eq!(access.ways.seeds, ["127.0.0.1:7", "n2:8"]);
        assert_eq!(access.ways.home.as_deref(), Some("n1"));
    }

    #[test]
    fn one_file_may_serve_a_node_and_the_cluster_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let identity = format!("--identity-path={}", folder.path().display());
        let push = ["--stanza=main", "--pg1-path=/pg", "archive-push", "x"];
        let both = [&NODE[..], &[identity.as_str()], &push].concat();
        assert_eq!(
            access(&both).unwrap().directory,
            Path::new("/node/admin"),
            "it has not joined"
        );
        std::fs::write(folder.path().join("identity.crt"), "").unwrap();
        let joined = access(&both).unwrap();
        assert_eq!((joined.directory.as_path(), joined.ways.home), (folder.path(), None));
        assert_eq!(joined.ways.seeds, ["n2:8"]);
    }

    #[test]
    fn without_any_node_the_option_is_named() {
        let failure = access(&["info"]).unwrap_err();
        assert_eq!(failure.code, ExitCode::OptionRequired);
        assert!(failure.what.contains("mesh-node"), "{failure}");
    }
}
