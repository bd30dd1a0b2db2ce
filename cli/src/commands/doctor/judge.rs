//! The doctor's judgement on its observations. Pure.

mod skips;

use super::archiver::{self, ClusterArchiver};
use super::check::{Check, OTHER};
use super::sessions::sessions;
use crate::commands::authority;
use crate::commands::info::{
    HOLES_REMEDY, costs, describe_holes, describe_kept, describe_lost, describe_stuck, describe_troubles,
    describe_uncompared, describe_worker, lost_remedy,
};
use crate::commands::status::text;
use crate::commands::status::words::{role, round_trip, unopened};
use crate::output::{size, timestamp};
use pgmesh_client::mesh::Probed;
use pgmesh_protocol::{
    AuthorityRotation, ExitCode, Failure, HealthInfo, MeshStatus, NodeInfo, NodeRole, NodeStatus, RepositoryStatus,
};
use std::collections::BTreeSet;

/// A difference of clocks up to this, in seconds, is no trouble.
const CLOCK_TOLERANCE: u64 = 5;
/// A certificate that ends sooner than this, in seconds, should have been renewed already.
const CERTIFICATE_MARGIN: i64 = 30 * 86_400;
/// A node with less free space, in bytes, is soon full.
const LITTLE_ROOM: u64 = 1 << 30;
/// Expired objects that are not deleted for so long, in seconds, are worth a look: a backup or a restore has ended by
/// then, and a node has started again.
const LONG_EXPIRED: i64 = 6 * 3600;
/// A node that lags by more log entries than this is behind, not just about to apply them.
const LAG: u64 = 1000;

/// This host's certificate.
#[derive(Debug, Clone)]
pub struct HostIdentity {
    /// The name that it carries.
    pub name: String,
    /// The role.
    pub role: String,
    /// The mesh.
    pub mesh: String,
    /// Its end, Unix seconds.
    pub expires: i64,
}

/// The doctor's observations.
#[derive(Debug)]
pub struct Seen {
    /// Warnings of the configuration's reader.
    pub warnings: Vec<String>,
    /// `archive-ack`.
    pub archive_ack: Option<u16>,
    /// This program's version.
    pub program: String,
    /// This host's certificate.
    pub identity: Result<HostIdentity, Failure>,
    /// The archivers of this host's clusters.
    pub archivers: Vec<ClusterArchiver>,
    /// The result of dialling each node.
    pub probes: Vec<Probed>,
    /// The mesh's own status, if a node was asked for it.
    pub status: Option<Result<MeshStatus, Failure>>,
    /// The time of the question, Unix seconds of this host's clock.
    pub asked: i64,
    /// The time of the answer.
    pub answered: i64,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            warnings: Vec::new(),
            archive_ack: None,
            program: String::new(),
            identity: Err(Failure::new(ExitCode::Crypto, "the identity was not examined")),
            archivers: Vec::new(),
            probes: Vec::new(),
            status: None,
            asked: 0,
            answered: 0,
        }
    }
}

/// All checks, each after those on which it depends.
pub fn judge(seen: &Seen) -> Vec<Check> {
    let mut checks = vec![configuration(seen), identity(seen)];
    checks.extend(seen.probes.iter().map(reachable));
    match &seen.status {
        None => {}
        Some(Err(failure)) => checks.push(not_asked(failure)),
        Some(Ok(status)) => {
            checks.extend(programs(seen, status));
            checks.extend(consensus(status));
            checks.extend(skips::check(status));
            for (info, own) in &status.nodes {
                checks.extend(node(seen, status, info, own));
            }
            checks.extend(repositories(seen, status));
            checks.push(losses(status));
            checks.extend(uncompared(status));
            checks.extend(stuck_archivers(status));
            checks.extend(workers(status));
            checks.extend(expired(seen, status));
            checks.push(holes(status));
            checks.extend(sessions(seen.answered, status));
            checks.extend(status.rotation.as_ref().map(rotation));
        }
    }
    checks.extend(seen.archivers.iter().flat_map(archiver::checks));
    checks
}

/// Objects that have expired and fill a disk.
fn expired(seen: &Seen, status: &MeshStatus) -> Option<Check> {
    let stuck = status.release.stuck.as_ref()?;
    let found = text::expired(&status.release)?;
    if seen.answered - stuck.since < LONG_EXPIRED {
        return None;
    }
    let remedy = match status.release.unlisted.first() {
        Some(stanza) => format!(
            "a manifest of a backup of {stanza} cannot be read: bring back the repositories that are away; 'pgmesh verify' \
             names the backup, and 'pgmesh --stanza={stanza} --set=LABEL expire' lets it go where it is lost"
        ),
        None => "bring back the repositories that are away, and look at 'pgmesh status' for sessions that do not end: \
                 'pgmesh session-end' ends one"
            .to_owned(),
    };
    Some(Check::warn("expired backups", found, remedy))
}

/// Until the former authority is retired, a thief of its key is a member.
fn rotation(rotation: &AuthorityRotation) -> Check {
    let what = format!("another one is added: {}", authority::left(rotation).join("; "));
    Check::warn("the mesh's authority", what, authority::remedy(rotation))
}

fn configuration(seen: &Seen) -> Check {
    match seen.warnings.as_slice() {
        [] => Check::ok("configuration", "read, no problems"),
        warnings => Check::warn("configuration", warnings.join("; "), "correct the lines that are named"),
    }
}

fn identity(seen: &Seen) -> Check {
    let subject = "identity";
    let host = match &seen.identity {
        Ok(host) => host,
        Err(failure) => {
            let remedy = failure.remedy.clone().unwrap_or_else(|| "join the mesh".to_owned());
            return Check::fail(subject, failure.code, failure.to_string(), remedy);
        }
    };
    let found = format!("{} {} of mesh {}", host.role, host.name, host.mesh);
    certificate(
        subject,
        &found,
        host.expires,
        seen.asked,
        "join the mesh again: 'pgmesh join TOKEN --force'",
    )
}

/// A certificate's end.
fn certificate(subject: &str, found: &str, expires: i64, now: i64, remedy: &str) -> Check {
    let end = timestamp(expires);
    if expires <= now {
        let what = format!("{found}: the certificate ended at {end}");
        return Check::fail(subject, ExitCode::Crypto, what, remedy);
    }
    let what = format!("{found}, certificate until {end}");
    if expires - now < CERTIFICATE_MARGIN {
        let remedy = "it should have renewed itself: see the log for why it did not";
        return Check::warn(subject, what, remedy);
    }
    Check::ok(subject, what)
}

fn reachable(probed: &Probed) -> Check {
    let subject = match &probed.name {
        Some(name) => format!("way to {name}"),
        None => format!("way to {}", probed.address),
    };
    match &probed.outcome {
        Ok((trip, program)) => {
            let found = format!("{} in {}, program {program}", probed.address, round_trip(*trip));
            Check::ok(subject, found)
        }
        Err(why) => Check::fail(
            subject,
            ExitCode::HostConnect,
            format!("not reached: {why}"),
            "check that 'pgmesh node start' runs there and that UDP passes; mesh-route says how to reach a node that \
             is behind address translation; 'pgmesh node remove' removes a node that is gone for good",
        ),
    }
}

fn not_asked(failure: &Failure) -> Check {
    if failure.code == ExitCode::Protocol && !failure.again {
        return Check::warn(
            "mesh",
            failure.to_string(),
            "run the doctor on a node, with its file, to see more",
        );
    }
    let next = match failure.code {
        ExitCode::HostConnect => "first make the nodes reachable that do not answer",
        _ => "run the same version of pgmesh on all nodes, and read the log of the node that answered",
    };
    let remedy = failure.remedy.clone().unwrap_or_else(|| next.to_owned());
    Check::fail("mesh", failure.code, failure.to_string(), remedy)
}

fn programs(seen: &Seen, status: &MeshStatus) -> Option<Check> {
    let own = status.nodes.iter().filter_map(|(_, own)| own.as_ref().ok());
    let nodes: BTreeSet<&str> = own.map(|own| own.program.as_str()).collect();
    let all: BTreeSet<&str> = nodes.iter().copied().chain([seen.program.as_str()]).collect();
    if nodes.is_empty() {
        return None;
    }
    let versions = all.iter().copied().collect::<Vec<_>>().join(", ");
    Some(if all.len() == 1 {
        Check::ok("programs", format!("all of version {versions}"))
    } else {
        let found = format!("several versions: {versions}; this program is {}", seen.program);
        Check::warn(
            "programs",
            found,
            "finish the upgrade: drain, replace and restart one node after the other",
        )
    })
}

/// Leader, quorum, and how many nodes may be lost.
fn consensus(status: &MeshStatus) -> Vec<Check> {
    let leader = match &status.leader {
        Some(leader) => Check::ok("leader", leader.clone()),
        None => Check::fail(
            "leader",
            ExitCode::HostConnect,
            "there is none",
            "wait for a few seconds; if it stays so, bring back the voters that are away",
        ),
    };
    let mut checks = vec![leader, quorum(status)];
    checks.extend(status.next_voters.as_ref().map(|next| {
        let found = format!(
            "joint: they change to {}, and until that is done each decision needs a majority of the former voters, too",
            next.join(", ")
        );
        let remedy = "wait for a few seconds: the leader ends it; if it stays so, bring back the voters that are away";
        Check::warn("voters", found, remedy)
    }));
    checks
}

fn quorum(status: &MeshStatus) -> Check {
    let voters: Vec<&(NodeInfo, Result<NodeStatus, String>)> = status
        .nodes
        .iter()
        .filter(|(info, _)| matches!(info.role, NodeRole::Leader | NodeRole::Voter))
        .collect();
    let alive = voters.iter().filter(|(_, own)| own.is_ok()).count();
    let needed = voters.len() / 2 + 1;
    let count = format!("{alive} of {} voters answer, {needed} are needed", voters.len());
    if let Err(why) = &status.quorum {
        return Check::fail(
            "quorum",
            ExitCode::HostConnect,
            format!("{count}: {why}"),
            "bring voters back: until then nothing is acknowledged, and PostgreSQL keeps its WAL",
        );
    }
    match alive.saturating_sub(needed) {
        0 if voters.len() == 1 => Check::warn(
            "quorum",
            "one voter: when it is lost, nothing is acknowledged",
            "let two more nodes join: 'pgmesh invite --role=node NAME'",
        ),
        0 => Check::warn(
            "quorum",
            format!("{count}: no further node may be lost"),
            "bring the voters back that are away, or promote others: 'pgmesh node promote NAME'",
        ),
        spare => Check::ok("quorum", format!("{count}: {spare} more may be lost")),
    }
}

/// One node, by its own status.
fn node(seen: &Seen, status: &MeshStatus, info: &NodeInfo, own: &Result<NodeStatus, String>) -> Vec<Check> {
    let subject = format!("node {}", info.name);
    let own = match own {
        Ok(own) => own,
        Err(why) => {
            let found = format!("node {} does not reach it: {why}", status.node);
            let remedy = "check that it runs; 'pgmesh node remove' removes a node that is gone for good";
            return vec![Check::fail(subject, ExitCode::HostConnect, found, remedy)];
        }
    };
    let mut checks = vec![caught_up(&subject, status, info, own), clock(seen, info, own)];
    let certificate_subject = format!("certificate of {}", info.name);
    let remedy = "restart the node while the mesh is reachable; if that does not help, let it join again";
    let found = format!("node {}", info.name);
    checks.push(certificate(
        &certificate_subject,
        &found,
        own.certificate_expires,
        seen.answered,
        remedy,
    ));
    checks.extend(own.disk_free.map(|free| room(info, free)));
    checks.extend(own.began_anew.as_ref().map(|kept| began_anew(info, kept)));
    checks
}

fn caught_up(subject: &str, status: &MeshStatus, info: &NodeInfo, own: &NodeStatus) -> Check {
    if let Some(why) = &own.failure {
        let found = format!("its catalog has stopped: {why}");
        return Check::fail(
            subject,
            OTHER,
            found,
            "remove the cause (often a full disk) and restart it",
        );
    }
    if let Some(trouble) = &own.trouble {
        return Check::fail(
            subject,
            OTHER,
            trouble.clone(),
            "if the node has just started, wait; else check the nodes and the disk that the text names",
        );
    }
    let told = status.nodes.iter().filter_map(|(_, own)| own.as_ref().ok());
    let newest = told.filter_map(|own| own.last_applied).max().unwrap_or_default();
    let lag = newest.saturating_sub(own.last_applied.unwrap_or_default());
    if info.role == NodeRole::Joining {
        let found = "admitted, but not in the Raft group yet";
        return Check::warn(subject, found, "start it: it fetches the catalog by itself");
    }
    if lag > LAG {
        let found = format!("{lag} log entries behind");
        return Check::warn(
            subject,
            found,
            "wait; if the lag grows, check the node's disk and the network to it",
        );
    }
    Check::ok(
        subject,
        format!("{}, caught up (applied {newest}, lag {lag})", role(info.role)),
    )
}

/// Compares a node's clock with this host's, read before the question and after the answer.
fn clock(seen: &Seen, info: &NodeInfo, own: &NodeStatus) -> Check {
    let subject = format!("clock of {}", info.name);
    let difference = match own.clock {
        clock if clock < seen.asked => clock - seen.asked,
        clock if clock > seen.answered => clock - seen.answered,
        _ => 0,
    };
    if difference.unsigned_abs() <= CLOCK_TOLERANCE {
        return Check::ok(subject, "agrees with this host's");
    }
    let side = if difference < 0 { "behind" } else { "ahead of" };
    let found = format!("{} s {side} this host's", difference.unsigned_abs());
    let remedy = "let NTP set both; no data depend on it, but times shown, labels of backups and the ends of tokens and \
                  certificates do";
    Check::warn(subject, found, remedy)
}

fn began_anew(info: &NodeInfo, kept: &str) -> Check {
    Check::warn(
        format!("disk history of {}", info.name),
        format!(
            "it lacked entries that it had acknowledged, and began anew with an empty catalog; the old one is kept in {kept}"
        ),
        "find out whether an old copy of its data directory was put back, or whether its disk loses confirmed writes; \
         then remove the old catalog",
    )
}

fn room(info: &NodeInfo, free: u64) -> Check {
    let subject = format!("disk of {}", info.name);
    let found = format!("{} free where its catalog is", size(free));
    if free < LITTLE_ROOM {
        return Check::warn(subject, found, "make room: a node whose disk is full stops");
    }
    Check::ok(subject, found)
}

/// Each repository, and the number of repositories that may be lost.
fn repositories(seen: &Seen, status: &MeshStatus) -> Vec<Check> {
    let mut checks: Vec<Check> = Vec::new();
    for repository in &status.repositories {
        let subject = format!("repo{}", repository.key);
        let troubles = describe_troubles(&repository.health, &repository.debt).join("; ");
        checks.push(match &repository.health {
            HealthInfo::Up if repository.debt.objects == 0 => Check::ok(subject, in_order(repository)),
            HealthInfo::Up => Check::warn(
                subject,
                troubles,
                "wait: the debt is paid by itself; repair-rate limits how fast",
            ),
            HealthInfo::Down { .. } => Check::fail(
                subject,
                ExitCode::RepoInvalid,
                troubles,
                format!(
                    "bring its storage back, or correct its credentials ('pgmesh --repo={} repo-check' on its node \
                     tries it step by step); the mesh then pays its debt by itself",
                    repository.key
                ),
            ),
            HealthInfo::Refused { .. } => Check::fail(
                subject,
                ExitCode::RepoInvalid,
                troubles,
                "correct its options in the file of the node that hosts it, or of those that declare it",
            ),
        });
        checks.extend(ways(status, repository));
    }
    checks.extend(unopened(status).into_iter().map(|(key, node, why)| {
        Check::fail(
            format!("repo{key} on {node}"),
            ExitCode::RepoInvalid,
            format!("declared, and not part of the mesh yet: {why}"),
            format!("correct its options in that node's file; 'pgmesh --repo={key} repo-check' there tries them"),
        )
    }));
    checks.push(spare_repositories(seen, status));
    checks
}

/// Hosts whose WAL is refused.
fn stuck_archivers(status: &MeshStatus) -> Vec<Check> {
    let stuck = status.stuck();
    let checks = stuck.iter().map(|stuck| {
        Check::fail(
            format!("archiving of {}", stuck.stanza),
            stuck.code,
            describe_stuck(stuck),
            stuck
                .remedy
                .clone()
                .unwrap_or_else(|| "see the log of PostgreSQL on that host".to_owned()),
        )
    });
    checks.collect()
}

/// Background workers that have ended unexpectedly: an error in pgmesh, which a restart of the worker may have healed.
fn workers(status: &MeshStatus) -> Vec<Check> {
    let remedy = "report it with the node's log; it stands here until the node is restarted";
    let checks = status.worker_alarms().map(|alarm| {
        let subject = format!("workers of {}", alarm.node);
        if alarm.is_running {
            Check::warn(subject, describe_worker(alarm), remedy)
        } else {
            Check::fail(subject, OTHER, describe_worker(alarm), remedy)
        }
    });
    checks.collect()
}

/// Objects that no repair can make.
fn losses(status: &MeshStatus) -> Check {
    let subject = "lost objects";
    let mut lost = status.lost.clone();
    // `uncompared` has a line of its own.
    lost.uncompared.clear();
    let found = describe_lost(&lost).join("; ");
    if found.is_empty() {
        return Check::ok(subject, "none: every object of the catalog has a good copy");
    }
    if costs(&status.lost) {
        return Check::fail(subject, ExitCode::FileMissing, found, lost_remedy(&status.lost));
    }
    Check::warn(subject, found, "nothing to do: the next sweep forgets these objects")
}

/// Repositories that are compared with a catalog that has lost its end.
fn uncompared(status: &MeshStatus) -> Option<Check> {
    let found = describe_uncompared(&status.lost)?;
    let remedy = "wait: the nodes compare them by themselves, some minutes after their start; if a repository is gone \
                  for good, take it out of the mesh: 'pgmesh --repo=N --force repo-remove'";
    Some(Check::warn("comparison", found, remedy))
}

/// WAL that is missing between archived segments. The check fails if no backup can be recovered to the present any
/// more.
fn holes(status: &MeshStatus) -> Check {
    let subject = "archived WAL";
    let found = describe_holes(&status.holes).join("; ");
    if found.is_empty() {
        return Check::ok(subject, "no WAL that a backup needs is missing");
    }
    if status.holes.stanzas.iter().any(|stanza| !stanza.unreached.is_empty()) {
        return Check::fail(subject, ExitCode::FileMissing, found, HOLES_REMEDY);
    }
    Check::warn(subject, found, HOLES_REMEDY)
}

/// A repository that is up and owes nothing.
fn in_order(repository: &RepositoryStatus) -> String {
    let kept = describe_kept(&repository.kept).map_or_else(String::new, |kept| format!("; {kept}"));
    match repository.host {
        Some(_) => format!("up, owes nothing{kept}"),
        None => format!("{} is up, owes nothing{kept}", repository.place),
    }
}

/// The nodes' ways to a shared repository: a line for each closed way, and a warning if only one is open.
fn ways(status: &MeshStatus, repository: &RepositoryStatus) -> Vec<Check> {
    let key = repository.key;
    let closed = repository.nodes.iter().filter_map(|way| {
        let (why, remedy) = match &way.health {
            HealthInfo::Up => return None,
            HealthInfo::Down { why, .. } => (
                why,
                "check the node's network and credentials; until then the mesh reaches the repository through other \
                 nodes",
            ),
            HealthInfo::Refused { why } => (
                why,
                "correct the node's configuration file, or take the repository out of it, and restart the node",
            ),
        };
        let found = format!("not open there: {why}");
        Some(Check::warn(format!("repo{key} on {}", way.node), found, remedy))
    });
    let mut checks: Vec<Check> = closed.collect();
    let mut open = repository.nodes.iter().filter(|way| way.health == HealthInfo::Up);
    if let (Some(only), None) = (open.next(), open.next())
        && status.nodes.len() > 1
    {
        checks.push(Check::warn(
            format!("ways to repo{key}"),
            format!(
                "only node {} has the repository open: without that node it is out of reach",
                only.node
            ),
            "declare the repository, with its credentials, on another node, too",
        ));
    }
    checks
}

fn spare_repositories(seen: &Seen, status: &MeshStatus) -> Check {
    let all = status.repositories.len();
    let up = status
        .repositories
        .iter()
        .filter(|repository| repository.health == HealthInfo::Up)
        .count();
    // A node decides in the same way if archive-ack is not set.
    let ack = seen.archive_ack.map_or(all.clamp(1, 2), usize::from);
    let found = format!("{up} of {all} repositories are up, {ack} must acknowledge (archive-ack)");
    if all == 0 {
        return Check::fail(
            "repositories",
            ExitCode::RepoInvalid,
            "the mesh has none",
            "declare one in a node's file: repo1-path=…",
        );
    }
    match up.checked_sub(ack) {
        None => Check::fail(
            "repositories",
            ExitCode::ArchiveTimeout,
            format!("{found}: pushes fail"),
            "bring repositories back, or lower archive-ack until they are back",
        ),
        Some(0) => Check::warn(
            "repositories",
            format!("{found}: none may be lost without stopping archiving"),
            "add a repository on another node, or lower archive-ack",
        ),
        Some(spare) => Check::ok("repositories", format!("{found}: {spare} may be lost")),
    }
}

#[cfg(test)]
mod tests;
