//! `check`: proves that WAL reaches every repository, from the cluster's settings to the archived segment.
//!
//! Exits 82 if the segment is archived nowhere, 55 if WAL is missing without which no backup can be recovered to the
//! present, and 103 if the segment is archived, but a repository of the mesh lacks it or is away. The report also names
//! a debt that is being paid, a wrong clock, and missing WAL that only older backups need; none of these fails the
//! check.

mod report;

use super::stanza;
use crate::config::Config;
use crate::output::{self, OutputFormat};
use crate::settings;
use pgmesh_client::backup::WalProof;
use pgmesh_client::mesh::{Backups, Mesh};
use pgmesh_client::pg::{
    Archiver, OpenCluster, check_archiving, database_failure, open_cluster, ready_files, timeline,
};
use pgmesh_postgres::{ControlFile, SegmentName};
use pgmesh_protocol::{ArchiveStatus, ExitCode, Failure, MeshInfo, SegmentPresence, StanzaInfo, now_unix};
use pgmesh_storage::{ArchiveId, DbId, StanzaName};
use report::{Report, SwitchedSegment};
use std::time::Duration;
use tokio::time::Instant;

/// The first pause between two questions for the segment.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Checks, and shows the report whether the check has passed or not.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let stanza = stanza(config)?;
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let mut report = Report::new(stanza.clone());
    let outcome = examine(config, &mesh, &stanza, &mut report).await;
    let failure = outcome.as_ref().err();
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&report.json(failure))?,
        OutputFormat::Text => output::print(&report.text(failure))?,
    }
    // A broken archive_command must not hide that a repository is away as well.
    for trouble in report.troubles() {
        if !failure.is_some_and(|failure| failure.to_string().contains(&trouble)) {
            tracing::warn!("{trouble}");
        }
    }
    outcome.map(|()| ExitCode::Ok)
}

async fn examine(config: &Config, mesh: &Mesh, stanza: &StanzaName, report: &mut Report) -> Result<(), Failure> {
    let info = look(mesh, stanza, report).await?;
    let cluster = open_cluster(&settings::pg::first(config)).await?;
    let archive = check_stanza(&info, stanza, &cluster.control)?;
    report.saw_cluster(cluster.control.system_id, archive);
    check_archiving(&cluster.client, settings::pg::archiving(config)).await?;
    let standby = cluster
        .client
        .in_recovery()
        .await
        .map_err(|error| database_failure(&error))?;
    if config.flag("archive-check") {
        report.saw_archiver(look_at_archiver(&cluster).await?, now_unix());
    }
    if standby || !config.flag("archive-check") {
        report.unswitched(if standby {
            "the cluster is a standby"
        } else {
            "archive-check=n"
        });
    } else {
        let segment = switch(config, mesh, stanza, &cluster, report).await?;
        report.saw_segment(segment);
        report.saw_archiver(look_at_archiver(&cluster).await?, now_unix());
        // The repositories' health, after the segment has put them to the test.
        look(mesh, stanza, report).await?;
    }
    report.verdict()
}

/// The files that wait in `pg_wal`, and the server's statistics of its archiver.
async fn look_at_archiver(cluster: &OpenCluster) -> Result<Archiver, Failure> {
    let ready = ready_files(&cluster.pgdata)?;
    let archiver = Archiver::look(ready, Some(&cluster.client)).await;
    archiver.map_err(|error| database_failure(&error))
}

/// Asks a node for the state of the mesh.
async fn look(mesh: &Mesh, stanza: &StanzaName, report: &mut Report) -> Result<MeshInfo, Failure> {
    let asked = now_unix();
    let info = mesh.info(Some(stanza), Backups::Without).await?;
    report.saw_mesh(&info, asked, now_unix());
    Ok(info)
}

/// The stanza's current archive, if it is this cluster's and takes WAL.
fn check_stanza(info: &MeshInfo, stanza: &StanzaName, control: &ControlFile) -> Result<ArchiveId, Failure> {
    let known = info.stanzas.iter().find(|known| known.name == stanza.as_str());
    let Some(known) = known else {
        return Err(
            Failure::new(ExitCode::FileMissing, format!("stanza {stanza} does not exist"))
                .remedy(format!("create it: 'pgmesh --stanza={stanza} stanza-create'")),
        );
    };
    if let Some(reason) = &known.stopped {
        return Err(
            Failure::new(ExitCode::Stop, format!("stanza {stanza} is stopped: {reason}"))
                .remedy(format!("'pgmesh --stanza={stanza} start' lets it go on")),
        );
    }
    let id = check_database(known, stanza, control)?;
    Ok(ArchiveId {
        db: DbId(id),
        version: control.version,
    })
}

fn check_database(known: &StanzaInfo, stanza: &StanzaName, control: &ControlFile) -> Result<u32, Failure> {
    let here = format!(
        "the cluster here is PostgreSQL {} with {}",
        control.version, control.system_id
    );
    let Some(current) = known.databases.last() else {
        return Err(Failure::new(ExitCode::DbMismatch, format!("stanza {stanza} names no database")).because(here));
    };
    if current.system_id == control.system_id && current.version == control.version.to_string() {
        return Ok(current.id);
    }
    let what = format!(
        "stanza {stanza} is for PostgreSQL {} with system identifier {}, {here}",
        current.version, current.system_id
    );
    Err(Failure::new(ExitCode::DbMismatch, what).remedy(format!(
        "check --stanza and pg1-path; after pg_upgrade run 'pgmesh --stanza={stanza} stanza-upgrade'"
    )))
}

/// Finishes a WAL segment and waits until every repository has it, at most `archive-timeout`.
async fn switch(
    config: &Config,
    mesh: &Mesh,
    stanza: &StanzaName,
    cluster: &OpenCluster,
    report: &Report,
) -> Result<SwitchedSegment, Failure> {
    let limit = config.duration("archive-timeout");
    let proof = WalProof::write(&cluster.client).await?;
    let end = cluster
        .client
        .switch_wal()
        .await
        .map_err(|error| database_failure(&error))?;
    let control = &cluster.control;
    let timeline = timeline(control);
    let name = SegmentName::ending_at(timeline, end, control.segment_size);
    let request = ArchiveStatus {
        stanza: stanza.clone(),
        system_id: control.system_id,
        first: name,
        last: name,
        instance: Some(cluster.instance.clone().into()),
    };
    let presence = wait(mesh, &request, limit, report).await?;
    if presence.missing.is_empty() {
        // Under this name the archive may have another server's segment.
        proof.find(mesh, stanza, cluster, timeline).await?;
    }
    Ok(SwitchedSegment { name, presence, limit })
}

/// Asks until every repository that this node serves has the segment; if the time is up before that, returns its
/// presence so far.
async fn wait(
    mesh: &Mesh,
    request: &ArchiveStatus,
    limit: Duration,
    report: &Report,
) -> Result<SegmentPresence, Failure> {
    let deadline = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        let presence = mesh.call(request).await?;
        if Instant::now() >= deadline || is_settled(&presence, report) {
            return Ok(presence);
        }
        tracing::debug!(
            "waiting for the WAL segment: archived: {}, owed to {:?}",
            presence.missing.is_empty(),
            presence.owed
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The segment is archived, and every repository that this node serves has it: asking again would show no more.
fn is_settled(presence: &SegmentPresence, report: &Report) -> bool {
    presence.missing.is_empty() && presence.owed.iter().all(|(repo, _)| report.is_refused(*repo))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::info::samples;
    use pgmesh_protocol::HealthInfo;

    fn presence(missing: &[&str], owed: &[u16]) -> SegmentPresence {
        SegmentPresence {
            missing: missing.iter().map(ToString::to_string).collect(),
            owed: owed.iter().map(|repo| (*repo, "A".to_owned())).collect(),
            repositories: vec![1, 2],
        }
    }

    #[test]
    fn only_a_repository_that_cannot_get_the_segment_is_not_waited_for() {
        let mut info = samples::mesh();
        let mut report = Report::new("main".parse().unwrap());
        report.saw_mesh(&info, info.clock, info.clock);
        assert!(is_settled(&presence(&[], &[]), &report));
        assert!(!is_settled(&presence(&["A"], &[]), &report));
        assert!(
            !is_settled(&presence(&[], &[2]), &report),
            "one that is down may come back"
        );
        info.repositories[1].health = HealthInfo::Refused {
            why: "wrong passphrase".into(),
        };
        report.saw_mesh(&info, info.clock, info.clock);
        assert!(is_settled(&presence(&[], &[2]), &report));
        assert!(!is_settled(&presence(&[], &[1, 2]), &report));
    }
}
