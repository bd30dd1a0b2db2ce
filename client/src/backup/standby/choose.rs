//! Which of the configured clusters is the primary, and which standby fits.

use super::super::settings::{BackupSettings, StandbyWish};
use super::remote::{self, Spool};
use super::{PrimaryFiles, Standby};
use crate::pg::{ClusterFiles, OpenCluster, PgAddress, PgClient, PgSettings, database_failure, open_here, timeline};
use pgmesh_postgres::{ClusterState, ControlFile};
use pgmesh_protocol::{ExitCode, Failure};
use std::sync::Arc;

/// The clusters that a backup is taken of.
pub struct ChosenServers {
    /// The primary: it is asked to start and stop the backup, and its WAL makes it consistent.
    pub cluster: OpenCluster,
    /// The standby whose files are read, if not the primary's are.
    pub standby: Option<Arc<Standby>>,
}

/// A cluster of the configuration that answers.
struct Server {
    address: PgAddress,
    client: PgClient,
    /// Where its data directory is on this host.
    files: Option<ClusterFiles>,
    in_recovery: bool,
}

/// Opens the clusters that `backup-standby` asks for.
///
/// # Errors
/// No primary, or no standby where one is demanded (56); a cluster that cannot be opened.
pub async fn choose(settings: &BackupSettings) -> Result<ChosenServers, Failure> {
    if settings.standby == StandbyWish::Without {
        return primary_here(&settings.clusters).await;
    }
    let (servers, failures) = open_all(&settings.clusters).await;
    let (standbys, primaries): (Vec<_>, Vec<_>) = servers.into_iter().partition(|server| server.in_recovery);
    let primary = only_primary(primaries, failures)?;
    let control = match &primary.files {
        Some(files) => files.control.clone(),
        None => remote::control(&primary.client).await?.1,
    };
    let mut reasons = Vec::new();
    for standby in standbys {
        let name = format!("pg{}", standby.address.number);
        match fitting(standby, &primary, &control).await? {
            Ok((server, files)) => return with_standby(primary, control, server, files),
            Err(reason) => reasons.push(format!("{name} {reason}")),
        }
    }
    if reasons.is_empty() {
        reasons.push("none of the configured clusters that answer is a standby".to_owned());
    }
    let reasons = reasons.join("; ");
    if settings.standby == StandbyWish::Demanded {
        return Err(Failure::new(
            ExitCode::DbConnect,
            "there is no standby to back up from (backup-standby=y)",
        )
        .because(reasons)
        .remedy("let a pgN-path of this host be a standby of the primary, or set backup-standby=prefer"));
    }
    tracing::warn!("the backup is taken from the primary, though backup-standby=prefer: {reasons}");
    of_primary(primary)
}

/// Without a standby: the first cluster of this host that is a primary.
async fn primary_here(clusters: &[PgSettings]) -> Result<ChosenServers, Failure> {
    let mut failure = None;
    let mut passed = Vec::new();
    for settings in clusters {
        if !settings.address.is_here() {
            passed.push(format!("pg{} is on another host", settings.address.number));
            continue;
        }
        let opened = async {
            let cluster = open_here(settings).await?;
            let in_recovery = cluster
                .client
                .in_recovery()
                .await
                .map_err(|error| database_failure(&error))?;
            Ok((cluster, in_recovery))
        };
        match opened.await {
            Ok((cluster, false)) => return Ok(ChosenServers { cluster, standby: None }),
            Ok((cluster, true)) => {
                passed.push(format!(
                    "the cluster at {} is a standby: it is in recovery",
                    cluster.pgdata.display()
                ));
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Err(failure.unwrap_or_else(|| {
        Failure::new(ExitCode::DbConnect, "there is no primary to back up on this host")
            .because(passed.join("; "))
            .remedy("run this on the primary, or set backup-standby=y and let pgN-… name the primary too")
    }))
}

/// All clusters that answer, and why the others do not.
async fn open_all(clusters: &[PgSettings]) -> (Vec<Server>, Vec<Failure>) {
    let (mut servers, mut failures) = (Vec::new(), Vec::new());
    for settings in clusters {
        match open(settings).await {
            Ok(server) => servers.push(server),
            Err(failure) => {
                tracing::warn!("pg{} is not used: {failure}", settings.address.number);
                failures.push(failure);
            }
        }
    }
    (servers, failures)
}

async fn open(settings: &PgSettings) -> Result<Server, Failure> {
    let address = settings.address.clone();
    let failed = |error| database_failure(&error);
    if !address.is_here() || settings.pgdata.is_none() {
        let client = PgClient::connect(&address).await.map_err(failed)?;
        let in_recovery = client.in_recovery().await.map_err(failed)?;
        return Ok(Server {
            address,
            client,
            files: None,
            in_recovery,
        });
    }
    let OpenCluster {
        client,
        control,
        instance,
        pgdata,
    } = open_here(settings).await?;
    let in_recovery = client.in_recovery().await.map_err(failed)?;
    check_whose(&address, &control, in_recovery)?;
    Ok(Server {
        address,
        client,
        files: Some(ClusterFiles {
            control,
            instance,
            pgdata,
        }),
        in_recovery,
    })
}

/// Refuses a port that is forwarded to another host and looks like a port of this host: the standby here and the
/// primary there may even have their data directories at the same path.
fn check_whose(address: &PgAddress, control: &ControlFile, in_recovery: bool) -> Result<(), Failure> {
    let number = address.number;
    if in_recovery != (control.state == ClusterState::InProduction) {
        return Ok(());
    }
    let (server, files) = if in_recovery {
        ("a standby", "a primary")
    } else {
        ("a primary", "a standby")
    };
    let what = format!("the server {address} is {server}, but the cluster at pg{number}-path is {files}");
    Err(Failure::new(ExitCode::DbMismatch, what).remedy(format!(
        "leave out pg{number}-path if the server is on another host and the port is forwarded to it"
    )))
}

fn only_primary(mut primaries: Vec<Server>, failures: Vec<Failure>) -> Result<Server, Failure> {
    if primaries.len() > 1 {
        let names: Vec<String> = primaries
            .iter()
            .map(|server| format!("pg{}", server.address.number))
            .collect();
        return Err(Failure::new(
            ExitCode::DbConnect,
            format!("{} are primaries; only one of them may be", names.join(" and ")),
        )
        .remedy("let pg1-…, pg2-… name one primary and its standbys"));
    }
    primaries.pop().ok_or_else(|| match failures.into_iter().next() {
        Some(failure) => failure,
        None => Failure::new(ExitCode::DbConnect, "there is no primary among the configured clusters")
            .because("all of them are in recovery")
            .remedy("let pg2-host, pg2-port and pg2-user name the primary: it starts and stops the backup"),
    })
}

/// The standby with its files, or why it does not fit.
async fn fitting(
    standby: Server,
    primary: &Server,
    control: &ControlFile,
) -> Result<Result<(Server, ClusterFiles), String>, Failure> {
    let Some(files) = standby.files.clone() else {
        return Ok(Err("is a standby without a data directory on this host".to_owned()));
    };
    let own = &files.control;
    if own.system_id != control.system_id || own.version != control.version {
        return Ok(Err(format!(
            "is PostgreSQL {} with system identifier {}, the primary pg{} is {} with {}",
            own.version, own.system_id, primary.address.number, control.version, control.system_id
        )));
    }
    // pg_control comes from the primary, and says whether the pages, which come from the standby, have checksums.
    if own.has_page_checksums() != control.has_page_checksums() {
        let with = |control: &ControlFile| {
            if control.has_page_checksums() {
                "with"
            } else {
                "without"
            }
        };
        return Ok(Err(format!(
            "writes pages {} checksums, the primary {}: run pg_checksums on one of them",
            with(own),
            with(control)
        )));
    }
    let failed = |error| database_failure(&error);
    if standby.client.replay_is_paused().await.map_err(failed)? {
        return Ok(Err("does not replay: pg_wal_replay_pause was called".to_owned()));
    }
    // The timeline that the standby has replayed last; and the timeline that it receives, which says more, but not to
    // every user.
    let received = standby.client.replay_state().await.map_err(failed)?.received_timeline;
    let expected = timeline(control);
    let other = received.filter(|received| *received != expected);
    if let Some(other) = other.or(Some(timeline(own)).filter(|own| *own > expected)) {
        return Ok(Err(format!(
            "is on timeline {other}, the primary on timeline {expected}"
        )));
    }
    Ok(Ok((standby, files)))
}

fn with_standby(
    primary: Server,
    control: ControlFile,
    standby: Server,
    files: ClusterFiles,
) -> Result<ChosenServers, Failure> {
    let (number, number_of_primary) = (standby.address.number, primary.address.number);
    tracing::info!("backup from standby pg{number}; the primary is pg{number_of_primary}");
    let (instance, pgdata, place) = match primary.files {
        Some(primary) => (
            primary.instance,
            primary.pgdata.clone(),
            PrimaryFiles::Here(primary.pgdata),
        ),
        // The mesh says which instance it is, once that is proved.
        None => (
            String::new(),
            files.pgdata.clone(),
            PrimaryFiles::Remote(Spool::create()?),
        ),
    };
    Ok(ChosenServers {
        cluster: OpenCluster {
            client: primary.client,
            control,
            instance,
            pgdata,
        },
        standby: Some(Arc::new(Standby {
            number,
            client: standby.client,
            pgdata: files.pgdata,
            primary: place,
        })),
    })
}

fn of_primary(primary: Server) -> Result<ChosenServers, Failure> {
    let Some(files) = primary.files else {
        let what = format!(
            "the primary pg{} is not on this host, and no standby is",
            primary.address.number
        );
        return Err(
            Failure::new(ExitCode::DbConnect, what).remedy("run the backup on the primary's host, or on a standby's")
        );
    };
    Ok(ChosenServers {
        cluster: OpenCluster {
            client: primary.client,
            control: files.control,
            instance: files.instance,
            pgdata: files.pgdata,
        },
        standby: None,
    })
}
