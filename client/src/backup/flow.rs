//! A backup from the command to the commit.

use super::context::Context;
use super::label;
use super::settings::BackupSettings;
use super::standby::{self, ChosenServers, Standby};
use super::summary::BackupSummary;
use super::take::take;
use crate::caller::Caller;
use crate::mesh::Mesh;
use crate::pg::{OpenCluster, timeline};
use crate::text::local_offset;
use pgmesh_protocol::choice::PriorChoice;
use pgmesh_protocol::{BackupBegun, BeginBackup, ChoosePrior, ExitCode, Failure};
use pgmesh_runtime::clock;
use pgmesh_storage::{BackupLabel, BackupType};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::Instant;

/// How long the lock of a backup that was perhaps killed is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(15);
/// How often a label is chosen while other backups end.
const TRIES: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(500);
const RESUMES: &str = "run the backup again: chunks that are stored already are not sent again";

/// Backs a cluster of this host up to the mesh.
///
/// The label is made of local time.
///
/// # Errors
/// No whole backup can be committed. The death of one node is no such failure. Nothing is left locked then: the client
/// ends the session, or its node does some time after the connection; the server ends the backup with the connection.
///
/// ```no_run
/// use pgmesh_client::backup::{self, BackupSettings};
/// use pgmesh_client::caller::Caller;
/// use pgmesh_client::mesh::{AccessSettings, Mesh};
/// use pgmesh_protocol::Failure;
/// use std::sync::Arc;
///
/// async fn nightly(access: AccessSettings, settings: BackupSettings, caller: Arc<dyn Caller>) -> Result<(), Failure> {
///     let mesh = Arc::new(Mesh::connect(access).await?);
///     let summary = backup::run(settings, mesh, caller).await?;
///     println!("{}: {} bytes in {} files", summary.label, summary.size, summary.files);
///     Ok(())
/// }
/// ```
pub async fn run(settings: BackupSettings, mesh: Arc<Mesh>, caller: Arc<dyn Caller>) -> Result<BackupSummary, Failure> {
    let ChosenServers { mut cluster, standby } = standby::choose(&settings).await?;
    // From here on there is a session to give up.
    let interruption = caller.interruption(Box::new(stopped))?;
    let (Chosen { label, kind, prior }, begun) =
        choose_and_begin(&mesh, &settings, &cluster, standby.as_deref()).await?;
    if let Some(writer) = begun.writer.clone() {
        // The same, unless the primary is on another host.
        cluster.instance = writer;
    }
    let context = Context {
        mesh: mesh.clone(),
        settings,
        cluster,
        standby: standby.clone(),
        begun,
        label,
        kind,
        prior,
        caller,
    };
    let outcome = tokio::select! {
        outcome = Box::pin(take(context)) => outcome,
        failure = interruption => Err(failure),
        failure = watch(standby.as_deref()) => Err(failure),
        never = mesh.keep_session() => match never {},
    };
    if outcome.is_err() {
        mesh.end_session().await;
    }
    mesh.forget_session();
    outcome.map_err(resumable)
}

/// Ends when the standby, if there is one, can no longer be backed up.
async fn watch(standby: Option<&Standby>) -> Failure {
    match standby {
        Some(standby) => standby.watch().await,
        None => std::future::pending().await,
    }
}

/// The choice that the stanza's backups and the clock decide together.
struct Chosen {
    label: BackupLabel,
    kind: BackupType,
    prior: Option<BackupLabel>,
}

/// Chooses, and begins. If another backup ends in between, that backup is the newest, and perhaps the prior of this
/// one: the client chooses again.
async fn choose_and_begin(
    mesh: &Mesh,
    settings: &BackupSettings,
    cluster: &OpenCluster,
    standby: Option<&Standby>,
) -> Result<(Chosen, BackupBegun), Failure> {
    let mut tries = 0;
    loop {
        let chosen = choose(mesh, settings, cluster).await?;
        tries += 1;
        match begin(mesh, settings, cluster, standby, &chosen.label).await {
            Err(failure) if failure.code == ExitCode::BackupSetInvalid && tries < TRIES => {
                tracing::info!("{failure}; another label is chosen");
            }
            begun => return Ok((chosen, begun?)),
        }
    }
}

async fn choose(mesh: &Mesh, settings: &BackupSettings, cluster: &OpenCluster) -> Result<Chosen, Failure> {
    let stanza = &settings.stanza;
    let request = ChoosePrior {
        stanza: stanza.clone(),
        kind: settings.kind,
        system_id: cluster.control.system_id,
        timeline: timeline(&cluster.control),
    };
    let PriorChoice { kind, prior, newest } = mesh.call(&request).await?;
    if kind != settings.kind {
        tracing::warn!(
            "no prior backup exists, {} backup has been changed to {kind}",
            settings.kind
        );
    }
    let now = OffsetDateTime::from(clock::now());
    let now = now.to_offset(local_offset(now));
    let chosen = label::choose(now, kind, prior.as_ref(), &newest);
    if chosen.clock_is_behind {
        tracing::warn!(
            "this host's clock is behind the newest backup of stanza {stanza}; the new backup gets the later label \
             {}, so that it sorts after it; check the clock",
            chosen.label
        );
    }
    Ok(Chosen {
        label: chosen.label,
        kind,
        prior,
    })
}

async fn begin(
    mesh: &Mesh,
    settings: &BackupSettings,
    cluster: &OpenCluster,
    standby: Option<&Standby>,
    label: &BackupLabel,
) -> Result<BackupBegun, Failure> {
    let request = BeginBackup {
        stanza: settings.stanza.clone(),
        system_id: cluster.control.system_id,
        version: cluster.control.version,
        instance: standby
            .is_none_or(Standby::primary_is_here)
            .then(|| cluster.instance.clone())
            .map(Into::into),
        timeline: timeline(&cluster.control),
        label: label.clone(),
        holder: crate::host::this_process().into(),
        backup_ack: settings.backup_ack,
    };
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match mesh.begin_backup(request.clone()).await {
            // A backup that was killed holds the lock until the node has noticed.
            Err(failure) if failure.code == ExitCode::LockAcquire && Instant::now() < deadline => {
                tracing::info!("{failure}; waiting: if that backup was killed, its session ends soon");
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            begun => {
                let begun = begun?;
                tracing::info!("new backup label = {label}");
                return Ok(begun);
            }
        }
    }
}

fn stopped(signal: &str) -> Failure {
    Failure::new(ExitCode::Runtime, format!("the backup was stopped by {signal}")).remedy(RESUMES)
}

/// A backup that failed for a passing reason should be run again, which costs little.
fn resumable(failure: Failure) -> Failure {
    if failure.again && failure.remedy.is_none() {
        failure.remedy(RESUMES)
    } else {
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_of_a_node_says_that_the_backup_resumes() {
        let lost = Failure::new(ExitCode::HostConnect, "chunk put was interrupted").again();
        assert_eq!(resumable(lost).remedy.as_deref(), Some(RESUMES));
        let refused = Failure::new(ExitCode::BackupMismatch, "another cluster");
        assert_eq!(resumable(refused.clone()), refused);
    }
}
