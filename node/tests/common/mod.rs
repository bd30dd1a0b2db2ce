//! The settings of a node that a test runs in its own process, and the server whose WAL it takes: for the crate's tests
//! and for those beside it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgmesh_node::{NodeSettings, RepositorySettings, SessionTimes};
use pgmesh_protocol::Server;
use pgmesh_storage::{FixedSecrets, RepoKey};

/// A node named alpha on a port of its own, with plain repositories in these directories, numbered from 1.
pub fn settings(path: &Path, repositories: &[&Path], sessions: SessionTimes) -> NodeSettings {
    let declared = repositories.iter().zip(1_u16..).map(|(place, number)| {
        let place = [("type", "posix"), ("path", place.to_str().unwrap())];
        let declared = RepositorySettings {
            definition: place.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            local: BTreeMap::new(),
            secrets: Arc::new(FixedSecrets::default()),
            passphrase: None,
        };
        (RepoKey::new(number).unwrap(), declared)
    });
    NodeSettings {
        name: "alpha".to_owned(),
        path: path.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: "127.0.0.1:1".to_owned(),
        region: None,
        repositories: declared.collect(),
        archive_ack: None,
        backup_ack: None,
        fence_timeout: Duration::from_secs(3),
        orphan_scan_interval: Duration::from_secs(24 * 3600),
        io_timeout: Duration::from_secs(20),
        seeds: Vec::new(),
        routes: BTreeMap::new(),
        voters: 3,
        repair_rate: None,
        snapshot_entries: None,
        skip_entries: Vec::new(),
        buffer: 64 << 20,
        sessions,
    }
}

/// A server that writes timeline 1.
#[allow(dead_code, reason = "not every program of tests pushes WAL")]
pub fn server() -> Server {
    Server {
        instance: "here".to_owned(),
        machine: String::new(),
        address: String::new(),
        in_recovery: false,
        timeline: pgmesh_postgres::TimelineId(1),
        branches: Vec::new(),
    }
}
