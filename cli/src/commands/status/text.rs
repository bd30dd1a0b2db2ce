//! `status` for people: two tables, and a line for each trouble.

use super::super::authority;
use super::super::columns::{columns, or_dash};
use super::super::info::{
    describe_holes, describe_kept, describe_lost, describe_stuck, describe_troubles, describe_worker,
};
use super::words::{health, role, round_trip, span, state, unopened};
use crate::output::{size, timestamp};
use pgmesh_protocol::{
    AmountInfo, HealthInfo, MeshStatus, NodeInfo, NodeStatus, OrphanInfo, ReleaseStatus, RepositoryStatus,
};
use std::time::Duration;

/// The whole text.
pub fn render(status: &MeshStatus) -> String {
    let nodes: Vec<Vec<String>> = status
        .nodes
        .iter()
        .enumerate()
        .map(|(at, (info, own))| node(info, own.as_ref().ok(), status.round_trips.get(at).copied().flatten()))
        .collect();
    let repositories: Vec<Vec<String>> = status.repositories.iter().map(repository).collect();
    let mut text = format!("{}\n\n", heading(status));
    text += &columns(
        &[
            "node",
            "region",
            "role",
            "state",
            "address",
            "program",
            "log/applied",
            "RTT",
            "uptime",
        ],
        &nodes,
    );
    if !repositories.is_empty() {
        text.push('\n');
        text += &columns(
            &["repository", "type", "host", "health", "objects", "size", "owes"],
            &repositories,
        );
    }
    let troubles = troubles(status);
    if !troubles.is_empty() {
        text.push('\n');
    }
    for trouble in troubles {
        text += &trouble;
        text.push('\n');
    }
    text
}

fn heading(status: &MeshStatus) -> String {
    let leader = status.leader.as_deref().unwrap_or("none");
    let term = term(status).map_or_else(String::new, |term| format!(", term {term}"));
    let quorum = match &status.quorum {
        Ok(()) => "quorum: yes",
        Err(_) => "quorum: NO",
    };
    let changing = status.next_voters.as_ref().map(|next| {
        let next = next.join(", ");
        format!("\njoint: the voters change to {next}; until that is done, each decision needs a majority of the former voters, too")
    });
    format!(
        "mesh {}: leader {leader}{term}, {quorum}, catalog format {}, apply level {}; as node {} sees it{}",
        status.mesh_id,
        status.catalog_format,
        status.level,
        status.node,
        changing.unwrap_or_default()
    )
}

/// The highest term in the answers of the nodes.
pub fn term(status: &MeshStatus) -> Option<u64> {
    status
        .nodes
        .iter()
        .filter_map(|(_, own)| own.as_ref().ok())
        .map(|own| own.term)
        .max()
}

fn node(info: &NodeInfo, own: Option<&NodeStatus>, micros: Option<u64>) -> Vec<String> {
    let position = |index: Option<u64>| index.map_or_else(|| "-".to_owned(), |index| index.to_string());
    vec![
        info.name.clone(),
        or_dash(info.region.as_str()),
        role(info.role).to_owned(),
        state(info.state).to_owned(),
        or_dash(info.addresses.first().cloned().unwrap_or_default()),
        or_dash(own.map_or(info.program.as_str(), |own| own.program.as_str())),
        own.map_or_else(
            || "-".to_owned(),
            |own| format!("{}/{}", position(own.last_log), position(own.last_applied)),
        ),
        or_dash(
            micros
                .map(|micros| round_trip(Duration::from_micros(micros)))
                .unwrap_or_default(),
        ),
        own.map_or_else(|| "not reached".to_owned(), |own| span(own.uptime)),
    ]
}

fn repository(repository: &RepositoryStatus) -> Vec<String> {
    let owes = match repository.debt.objects {
        0 => "nothing".to_owned(),
        objects => format!("{objects} ({})", size(repository.debt.bytes)),
    };
    vec![
        format!("repo{}", repository.key),
        repository.kind.clone(),
        repository.host.clone().unwrap_or_else(|| "shared".to_owned()),
        health(&repository.health).to_owned(),
        repository.objects.to_string(),
        size(repository.bytes),
        owes,
    ]
}

/// Troubles, which the tables have no room for.
fn troubles(status: &MeshStatus) -> Vec<String> {
    let quorum = status
        .quorum
        .as_ref()
        .err()
        .map(|why| format!("no quorum: {}", one_line(why)));
    let nodes = status.nodes.iter().filter_map(|(info, own)| match own {
        Err(why) => Some(format!("{}: not reached: {}", info.name, one_line(why))),
        Ok(own) => {
            let stopped = own
                .failure
                .as_ref()
                .map(|why| format!("its catalog has stopped: {}", one_line(why)));
            let trouble = stopped.or_else(|| own.trouble.as_deref().map(one_line));
            trouble.map(|trouble| format!("{}: {trouble}", info.name))
        }
    });
    let stuck: Vec<String> = status.stuck().iter().map(describe_stuck).collect();
    let skipped = status.nodes.iter().flat_map(|(info, own)| {
        let entries = own.iter().flat_map(|own| &own.skipped);
        entries.map(|entry| format!("{}: has skipped entry {entry} of the log", info.name))
    });
    let workers = status.worker_alarms();
    let workers = workers.map(|alarm| format!("{}: {}", alarm.node, one_line(&describe_worker(alarm))));
    let rotation = status.rotation.as_ref().map(|rotation| {
        let left = authority::left(rotation).join("; ");
        format!("the mesh's authority is rotated to {}: {left}", rotation.next)
    });
    let nodes = nodes.chain(skipped).chain(workers).chain(stuck).chain(rotation);
    let repositories = status.repositories.iter().flat_map(|repository| {
        let key = repository.key;
        let troubles = describe_troubles(&repository.health, &repository.debt);
        ways(repository)
            .into_iter()
            .chain(troubles)
            .chain(describe_kept(&repository.kept))
            .chain(orphans(&repository.orphans))
            .map(move |line| format!("repo{key}: {line}"))
    });
    let lost = describe_lost(&status.lost)
        .into_iter()
        .map(|line| format!("LOST: {line}"));
    let holes = describe_holes(&status.holes)
        .into_iter()
        .map(|line| format!("WAL MISSING: {line}"));
    let unopened = unopened(status);
    let unopened = unopened.iter().map(|(key, node, why)| {
        format!(
            "repo{key}: declared on {node}, not part of the mesh yet: {}",
            one_line(why)
        )
    });
    quorum
        .into_iter()
        .chain(lost)
        .chain(holes)
        .chain(nodes)
        .chain(repositories)
        .chain(unopened)
        .chain(expired(&status.release))
        .collect()
}

/// The backups that have expired and are not deleted yet; no line where there are none, or nothing is in the way.
pub fn expired(release: &ReleaseStatus) -> Option<String> {
    let stuck = release.stuck.as_ref()?;
    let backups = release
        .backups
        .iter()
        .map(|(key, backups)| format!("{backups} of repo{key}"));
    let backups: Vec<String> = backups.collect();
    let what = match backups.is_empty() {
        true => "nothing".to_owned(),
        false => format!("expired backups: {}", backups.join(", ")),
    };
    let unlisted = match release.unlisted.as_slice() {
        [] => String::new(),
        stanzas => format!(" (stanza {})", stanzas.join(", ")),
    };
    Some(format!(
        "{what} not deleted since {}: {}{unlisted}",
        timestamp(stuck.since),
        one_line(&stuck.why)
    ))
}

/// The objects in the repository that the catalog does not know; no lines if there never were any.
fn orphans(orphans: &OrphanInfo) -> Vec<String> {
    let amount = |AmountInfo { objects, bytes }| format!("{objects} ({})", size(bytes));
    let is_there = |amount: AmountInfo| amount.objects > 0;
    let mut lines = Vec::new();
    if is_there(orphans.seen) || is_there(orphans.waiting) || is_there(orphans.deleted) {
        let seen = orphans
            .scanned
            .map(|at| format!("{} seen at {}, ", amount(orphans.seen), timestamp(at)));
        lines.push(format!(
            "orphans, objects that the catalog does not know: {}{} are deleted if a later scan sees them again, {} \
             deleted so far",
            seen.unwrap_or_default(),
            amount(orphans.waiting),
            amount(orphans.deleted)
        ));
    }
    if is_there(orphans.earlier) || orphans.unreadable > 0 {
        lines.push(format!(
            "of the orphans, {} of an earlier era of the catalog and {} damaged ones are kept",
            amount(orphans.earlier),
            orphans.unreadable
        ));
    }
    if orphans.foreign > 0 {
        lines.push(format!("{} files were not written by pgmesh; ignored", orphans.foreign));
    }
    lines
}

/// The place of a shared repository, the nodes that have it open, and why the other nodes have not.
pub fn ways(repository: &RepositoryStatus) -> Vec<String> {
    if repository.host.is_some() {
        return Vec::new();
    }
    let open = repository.nodes.iter().filter(|way| way.health == HealthInfo::Up);
    let open: Vec<&str> = open.map(|way| way.node.as_str()).collect();
    let open = match open.as_slice() {
        [] => "open on no node".to_owned(),
        open => format!("open on {}", open.join(", ")),
    };
    let closed = repository.nodes.iter().filter_map(|way| {
        let reach = if way.reaches { "reaches it" } else { "declares it" };
        let why = match &way.health {
            HealthInfo::Up => return None,
            HealthInfo::Down { why, .. } | HealthInfo::Refused { why } => one_line(why),
        };
        Some(format!("{} {reach} and does not have it open: {why}", way.node))
    });
    let first = format!("{}, {open}", repository.place);
    std::iter::once(first).chain(closed).collect()
}

/// A text of several lines as one.
pub fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use pgmesh_protocol::StuckRelease;
    use pgmesh_storage::RepoKey;

    #[test]
    fn a_mesh_with_troubles_is_shown() {
        let text = render(&samples::mesh());
        let program = env!("CARGO_PKG_VERSION");
        let expected = format!(
            "mesh 4f2a: leader n1, term 7, quorum: yes, catalog format 1, apply level 1; as node n2 sees it\n\n\
             node  region  role     state       address        program  log/applied  RTT     uptime\n\
             n1    eu      leader   in service  10.0.0.1:8433  {program}    120/119      0.4 ms  3d 4h\n\
             n2    eu      voter    in service  10.0.0.2:8433  {program}    120/119      0.0 ms  3d 4h\n\
             n3    -       learner  draining    10.0.0.3:8433  {program}    -            -       not reached\n\n\
             repository  type   host  health  objects  size  owes\n\
             repo1       posix  n1    up      1234     3GB   nothing\n\
             repo2       posix  n2    down    1234     3GB   12 (24MB)\n\n\
             n3: not reached: connection lost\n\
             repo2: down since "
        );
        assert!(text.starts_with(&expected), "{text}\n---\n{expected}");
        assert!(text.contains(": no such directory\n"), "{text}");
        assert!(text.contains("repo2: owes 12 objects (24MB)"), "{text}");
    }

    #[test]
    fn a_change_of_the_voters_that_is_under_way_is_said_at_the_top() {
        let mut status = samples::healthy();
        status.next_voters = Some(vec!["n1".to_owned(), "n3".to_owned()]);
        let text = render(&status);
        assert!(
            text.lines()
                .nth(1)
                .unwrap()
                .starts_with("joint: the voters change to n1, n3;"),
            "{text}"
        );
    }

    #[test]
    fn expired_backups_that_are_not_deleted_are_told_with_the_reason() {
        let mut status = samples::healthy();
        let key = RepoKey::new(1).unwrap();
        status.release.backups = vec![(key, 3)];
        assert!(render(&status).ends_with("nothing\n"), "nothing is in the way");
        status.release.stuck = Some(StuckRelease {
            since: samples::NOW,
            why: "the chunks that the backups of main use are not known yet".to_owned(),
        });
        status.release.unlisted = vec!["main".to_owned()];
        let line = "expired backups: 3 of repo1 not deleted since 2027-01-15 08:00:00+00: the chunks that the backups of \
                    main use are not known yet (stanza main)\n";
        assert!(render(&status).ends_with(line), "{}", render(&status));
    }

    #[test]
    fn a_shared_repository_says_which_nodes_reach_it() {
        let mut status = samples::healthy();
        status.repositories.push(samples::shared());
        let text = render(&status);
        assert!(text.contains("repo3       s3     shared  up"), "{text}");
        let lines = "\nrepo3: s3://walls/mesh, open on n1\n\
                     repo3: n2 reaches it and does not have it open: no answer within 2 s\n\
                     repo3: n3 declares it and does not have it open: repo3 is registered in the mesh with s3-bucket=walls\n\
                     repo3: 7 objects are no longer needed and are kept: object lock\n\
                     repo3: orphans, objects that the catalog does not know: 5 (5MB) seen at 2027-01-15 08:00:00+00, \
                     3 (3MB) are deleted if a later scan sees them again, 17 (1GB) deleted so far\n\
                     repo3: of the orphans, 1 (1MB) of an earlier era of the catalog and 1 damaged ones are kept\n\
                     repo3: 2 files were not written by pgmesh; ignored\n";
        assert!(text.ends_with(lines), "{text}");
    }

    #[test]
    fn a_mesh_in_good_order_has_no_troubles_and_one_without_a_majority_says_so() {
        let mut status = samples::healthy();
        assert!(render(&status).ends_with("nothing\n"));
        status.quorum = Err("1 of 3 voters\nanswered".to_owned());
        status.leader = None;
        let text = render(&status);
        assert!(text.contains("leader none, term 7, quorum: NO"), "{text}");
        assert!(text.contains("no quorum: 1 of 3 voters answered\n"), "{text}");
    }
}
