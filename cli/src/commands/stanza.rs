//! `stanza-create`, `stanza-upgrade`, `stanza-delete`.

use super::stanza;
use crate::config::Config;
use crate::output;
use crate::settings;
use pgmesh_client::mesh::{Backups, Mesh};
use pgmesh_client::pg::{ClusterFiles, OpenCluster, database_failure, open_cluster, read_cluster_files, timeline};
use pgmesh_client::restore::refuse_running;
use pgmesh_postgres::{ClusterState, machine_fingerprint};
use pgmesh_protocol::{
    AdoptStanza, CreateStanza, DeleteStanza, DeletedStanza, ExitCode, Failure, NewStanza, UpgradeStanza,
};
use pgmesh_storage::StanzaName;
use std::path::Path;

/// Creates the stanza for the cluster at `pg1-path`.
pub async fn create(config: &Config) -> Result<ExitCode, Failure> {
    let mesh = connect(config).await?;
    let create = describe(config).await?;
    let stanza = create.stanza.clone();
    let new = mesh.call(&create).await?;
    let verb = if new.already {
        "exists already and is valid"
    } else {
        "created"
    };
    if let Some(host) = &new.other_writer {
        tracing::warn!(
            "another data directory, first pushed by {host}, writes this cluster's timeline: WAL from here is refused. If the \
             cluster was moved here, run 'pgmesh --stanza={stanza} stanza-adopt'"
        );
    }
    tell(&stanza, verb, &new)
}

/// Makes this data directory the writer of its timeline.
pub async fn adopt(config: &Config) -> Result<ExitCode, Failure> {
    let mesh = connect(config).await?;
    let cluster = describe(config).await?;
    let (stanza, instance) = (cluster.stanza.clone(), cluster.instance.clone());
    let force = config.flag("force");
    let adopted = mesh.call(&AdoptStanza { cluster, force }).await?;
    let timeline = adopted.timeline;
    let last = adopted.last.map_or_else(String::new, |(segment, at)| {
        format!(
            "; the last segment of the timeline is {segment}, archived {}",
            output::timestamp(at)
        )
    });
    output::print(&match adopted.before {
        None => format!("timeline {timeline} of stanza {stanza} is written by this data directory already{last}"),
        Some((before, host)) => format!(
            "timeline {timeline} of stanza {stanza} is now written by this data directory, {instance}; the former \
             writer, {before}, first pushed by {host}, is refused from now on{last}"
        ),
    })?;
    Ok(ExitCode::Ok)
}

/// Starts a new database id after pg_upgrade.
pub async fn upgrade(config: &Config) -> Result<ExitCode, Failure> {
    let mesh = connect(config).await?;
    let upgrade = describe(config).await?;
    let stanza = upgrade.stanza.clone();
    let new = mesh.call(&UpgradeStanza { cluster: upgrade }).await?;
    let verb = if new.already { "is up to date" } else { "upgraded" };
    tell(&stanza, verb, &new)
}

/// Deletes the stanza with all its backups and WAL.
pub async fn delete(config: &Config) -> Result<ExitCode, Failure> {
    let stanza = stanza(config)?;
    let force = config.flag("force");
    let is_down = match config.pg_path() {
        Some(pgdata) if !force => {
            refuse_running(pgdata, "stop it first: pg_ctl stop; or give --force")?;
            // Only a data directory on this host shows whether its server runs.
            pgdata.join("PG_VERSION").exists()
        }
        _ => false,
    };
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let request = DeleteStanza {
        stanza: stanza.clone(),
        force,
        is_down,
    };
    let gone = mesh.call(&request).await?;
    output::print(&deleted(&stanza, gone))?;
    Ok(ExitCode::Ok)
}

fn deleted(stanza: &StanzaName, gone: DeletedStanza) -> String {
    let kept = match gone.kept {
        0 => String::new(),
        kept => {
            format!("\n{kept} objects are kept where they are: object lock, or delete=n ('pgmesh info' counts them)")
        }
    };
    format!(
        "stanza {stanza} deleted: {} objects removed; chunks that nothing else needs follow{kept}",
        gone.deleted
    )
}

fn tell(stanza: &StanzaName, verb: &str, new: &NewStanza) -> Result<ExitCode, Failure> {
    output::print(&format!(
        "stanza {stanza} {verb}: archive {}{}",
        new.archive_id,
        owed(new)
    ))?;
    Ok(ExitCode::Ok)
}

fn owed(new: &NewStanza) -> String {
    if new.owed.is_empty() {
        return String::new();
    }
    let list = new
        .owed
        .iter()
        .map(|repo| format!("repo{repo}"))
        .collect::<Vec<_>>()
        .join(", ");
    format!(" (not in {list} yet)")
}

/// Connects to the mesh before the cluster is looked at, so that a host that may not use the stanza learns that first.
async fn connect(config: &Config) -> Result<Mesh, Failure> {
    let stanza = stanza(config)?;
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    mesh.info(Some(&stanza), Backups::Without).await?;
    Ok(mesh)
}

/// Refuses a standby, which archives nothing: if it were bound to the timeline in the primary's place, the primary
/// would be locked out (invariant 12).
async fn refuse_standby(cluster: &OpenCluster) -> Result<(), Failure> {
    let asked = cluster.client.in_recovery().await;
    if !asked.map_err(|error| database_failure(&error))? {
        return Ok(());
    }
    Err(standby(&cluster.pgdata))
}

/// As [`refuse_standby`], from the cluster's files, without a question to the server.
fn refuse_standby_files(files: &ClusterFiles) -> Result<(), Failure> {
    let is_standby = matches!(
        files.control.state,
        ClusterState::InArchiveRecovery | ClusterState::ShutDownInRecovery
    );
    match is_standby {
        true => Err(standby(&files.pgdata)),
        false => Ok(()),
    }
}

fn standby(pgdata: &Path) -> Failure {
    let what = format!("the cluster at {} is a standby: it is in recovery", pgdata.display());
    Failure::new(ExitCode::DbConnect, what).remedy("run this on the primary; a standby needs no stanza of its own")
}

/// The description of the cluster for the mesh: from its files, and from the server if it runs.
async fn describe(config: &Config) -> Result<CreateStanza, Failure> {
    let stanza = stanza(config)?;
    let (control, instance) = if config.flag("online") {
        let cluster = open_cluster(&settings::pg::first(config)).await?;
        refuse_standby(&cluster).await?;
        (cluster.control, cluster.instance)
    } else {
        let files = read_cluster_files(&settings::pg::first(config))?;
        refuse_standby_files(&files)?;
        (files.control, files.instance)
    };
    Ok(CreateStanza {
        stanza,
        system_id: control.system_id,
        version: control.version,
        catalog_version: control.catalog_version,
        segment_size: control.segment_size,
        instance: instance.into(),
        machine: machine_fingerprint().into(),
        timeline: timeline(&control),
    })
}
