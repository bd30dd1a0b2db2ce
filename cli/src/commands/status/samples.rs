//! A mesh to show: three nodes with n3 away, and two repositories with repo2 in debt.

use pgmesh_protocol::{
    AmountInfo, DebtInfo, HealthInfo, KeptInfo, MeshStatus, NodeInfo, NodeRole, NodeState, NodeStatus, OrphanInfo,
    ReachInfo, ReleaseStatus, RepositoryStatus, SessionStatus, WorkerAlarm,
};
use pgmesh_storage::RepoKey;

pub const NOW: i64 = 1_800_000_000;
pub const YEAR: i64 = 365 * 86_400;

fn info(number: u64, region: &str, role: NodeRole, repositories: Vec<RepoKey>) -> NodeInfo {
    NodeInfo {
        name: format!("n{number}"),
        node_id: number,
        region: region.to_owned(),
        addresses: vec![format!("10.0.0.{number}:8433")],
        role,
        state: NodeState::InService,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        level: Some(1),
        repositories,
    }
}

pub fn status(name: &str) -> NodeStatus {
    NodeStatus {
        name: name.to_owned(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        uptime: 273_600,
        clock: NOW,
        leader: Some(1),
        term: 7,
        last_log: Some(120),
        last_applied: Some(119),
        snapshot: Some(100),
        certificate_expires: NOW + YEAR,
        disk_free: Some(50 << 30),
        repositories: vec![],
        skipped: vec![],
        stuck: vec![],
        workers: vec![],
        failure: None,
        sessions: vec![],
        session_timeout: 1800,
        trouble: None,
        began_anew: None,
        release: None,
    }
}

fn amount(objects: u64, bytes: u64) -> AmountInfo {
    AmountInfo { objects, bytes }
}

fn repository(number: u16, health: HealthInfo, debt: DebtInfo) -> RepositoryStatus {
    RepositoryStatus {
        key: RepoKey::new(number).unwrap(),
        kind: "posix".to_owned(),
        host: Some(format!("n{number}")),
        place: format!("/backup/repo{number}"),
        nodes: vec![],
        health,
        objects: 1234,
        bytes: 3 << 30,
        debt,
        kept: KeptInfo::default(),
        orphans: OrphanInfo::default(),
    }
}

/// n3 drains and cannot be asked; repo2 is down and owes.
pub fn mesh() -> MeshStatus {
    let key = |number| RepoKey::new(number).unwrap();
    let mut third = info(3, "", NodeRole::Learner, vec![]);
    third.state = NodeState::Draining;
    let down = HealthInfo::Down {
        since: NOW - 60,
        why: "no such\ndirectory".to_owned(),
    };
    let debt = DebtInfo {
        objects: 12,
        bytes: 25_270_000,
        since: Some(NOW - 60),
    };
    MeshStatus {
        mesh_id: "4f2a".to_owned(),
        node: "n2".to_owned(),
        leader: Some("n1".to_owned()),
        quorum: Ok(()),
        catalog_format: 1,
        level: 1,
        next_voters: None,
        nodes: vec![
            (info(1, "eu", NodeRole::Leader, vec![key(1)]), Ok(status("n1"))),
            (info(2, "eu", NodeRole::Voter, vec![key(2)]), Ok(status("n2"))),
            (third, Err("connection lost".to_owned())),
        ],
        round_trips: vec![Some(412), Some(0), None],
        repositories: vec![
            repository(1, HealthInfo::Up, DebtInfo::default()),
            repository(2, down, debt),
        ],
        lost: pgmesh_protocol::LostReport::default(),
        holes: pgmesh_protocol::HolesReport::default(),
        sessions: vec![],
        sessions_open: 0,
        release: ReleaseStatus::default(),
        rotation: None,
    }
}

/// A backup's session, which n2 keeps alive, opened `age` seconds before `NOW`.
pub fn session(age: i64, quiet: Option<u64>) -> SessionStatus {
    SessionStatus {
        session: 4711,
        kind: "backup".to_owned(),
        stanza: Some("main".to_owned()),
        holder: "process 7 on db1".to_owned(),
        node: "n2".to_owned(),
        opened_at: NOW - age,
        quiet,
    }
}

/// A bucket that n1 has open, that n2 cannot reach, and that n3 declares otherwise.
pub fn shared() -> RepositoryStatus {
    let way = |node: &str, reaches, health| ReachInfo {
        node: node.to_owned(),
        reaches,
        health,
    };
    let down = HealthInfo::Down {
        since: NOW - 60,
        why: "no answer\nwithin 2 s".to_owned(),
    };
    let refused = HealthInfo::Refused {
        why: "repo3 is registered in the mesh with s3-bucket=walls".to_owned(),
    };
    RepositoryStatus {
        kind: "s3".to_owned(),
        host: None,
        place: "s3://walls/mesh".to_owned(),
        nodes: vec![
            way("n1", true, HealthInfo::Up),
            way("n2", true, down),
            way("n3", false, refused),
        ],
        kept: KeptInfo {
            objects: 7,
            why: "object lock".to_owned(),
        },
        orphans: OrphanInfo {
            scanned: Some(NOW),
            scanning: false,
            seen: amount(5, 5 << 20),
            earlier: amount(1, 1 << 20),
            unreadable: 1,
            foreign: 2,
            waiting: amount(3, 3 << 20),
            deleted: amount(17, 1 << 30),
        },
        ..repository(3, HealthInfo::Up, DebtInfo::default())
    }
}

/// Three voters and two repositories in good order.
pub fn healthy() -> MeshStatus {
    let mut mesh = mesh();
    mesh.nodes[2] = (info(3, "us", NodeRole::Voter, vec![]), Ok(status("n3")));
    mesh.round_trips[2] = Some(90_000);
    mesh.repositories[1] = repository(2, HealthInfo::Up, DebtInfo::default());
    mesh
}

/// A worker of n1 that has panicked.
pub fn worker(is_running: bool) -> WorkerAlarm {
    WorkerAlarm {
        node: "n1".to_owned(),
        worker: "repair".to_owned(),
        ends: 2,
        last: NOW - 60,
        why: "it panicked: no".to_owned(),
        is_running,
    }
}
