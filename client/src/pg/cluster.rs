//! Opening the cluster that `pgN-…` describes: its files, a connection, and proof that they belong together.

use super::address::PgAddress;
use super::client::{PgClient, PgClientError};
use pgmesh_postgres::{ControlFile, ControlFileError, TimelineId, instance_fingerprint};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A cluster as this host's settings describe it.
#[derive(Debug, Clone)]
pub struct PgSettings {
    /// Where its server listens.
    pub address: PgAddress,
    /// `pgN-path`: its data directory, where that is on this host.
    pub pgdata: Option<PathBuf>,
}

/// The facts in the files of a cluster, running or not.
#[derive(Debug, Clone)]
pub struct ClusterFiles {
    /// `global/pg_control`.
    pub control: ControlFile,
    /// Tells this data directory from a copy of it (invariant 12).
    pub instance: String,
    /// `pgN-path`.
    pub pgdata: PathBuf,
}

/// A cluster, with a connection to the server that runs it.
pub struct OpenCluster {
    /// The connection.
    pub client: PgClient,
    /// `global/pg_control`, as it was when the cluster was opened.
    pub control: ControlFile,
    /// Tells this data directory from a copy of it (invariant 12).
    pub instance: String,
    /// Where its files are read: `pgN-path`.
    pub pgdata: PathBuf,
}

/// Reads `pg_control` and the fingerprint of a cluster's data directory.
///
/// # Errors
/// No `pgN-path` (37), no data directory there (55), an unsupported version (46), or a file that cannot be read.
pub fn read_cluster_files(settings: &PgSettings) -> Result<ClusterFiles, Failure> {
    let option = format!("pg{}-path", settings.address.number);
    let pgdata = settings.pgdata.clone().ok_or_else(|| {
        Failure::new(ExitCode::OptionRequired, format!("option {option} is missing")).remedy(format!(
            "set {option} to the cluster's data directory in the stanza's section of the configuration file"
        ))
    })?;
    let control = ControlFile::read(&pgdata).map_err(|error| control_failure(&option, &pgdata, &error))?;
    let instance = instance_fingerprint(&pgdata).map_err(|error| {
        Failure::new(ExitCode::Runtime, format!("{option} cannot be examined")).because(chain(&error))
    })?;
    Ok(ClusterFiles {
        control,
        instance,
        pgdata,
    })
}

/// Opens the cluster: its files, a connection as `pgN-port`, `pgN-socket-path`, `pgN-user` and `pgN-database` say, and
/// the proof that the server there runs on those files.
///
/// # Errors
/// As [`read_cluster_files`]; no connection (56); a server of another cluster or data directory (58).
pub async fn open_cluster(settings: &PgSettings) -> Result<OpenCluster, Failure> {
    let address = &settings.address;
    if !address.is_here() {
        let what = format!("pg{}-host: the server {address} is another host's", address.number);
        return Err(Failure::new(ExitCode::OptionInvalid, what)
            .because("this command reads the cluster's files")
            .remedy("run it on that host, with pg1-path and without pg1-host"));
    }
    open_here(settings).await
}

/// As [`open_cluster`], of a cluster whose address is known to be this host's.
///
/// # Errors
/// As there.
pub async fn open_here(settings: &PgSettings) -> Result<OpenCluster, Failure> {
    let address = &settings.address;
    let ClusterFiles {
        control,
        instance,
        pgdata,
    } = read_cluster_files(settings)?;
    let client = PgClient::connect(address)
        .await
        .map_err(|error| database_failure(&error))?;
    check_same_cluster(&client, &control, &pgdata, address).await?;
    Ok(OpenCluster {
        client,
        control,
        instance,
        pgdata,
    })
}

/// A server of another cluster would give a backup whose files and WAL do not belong together; a copy of this one, with
/// the same system identifier, would too.
async fn check_same_cluster(
    client: &PgClient,
    control: &ControlFile,
    pgdata: &Path,
    address: &PgAddress,
) -> Result<(), Failure> {
    let running = client.system_id().await.map_err(|error| database_failure(&error))?;
    let pg = format!("pg{}", address.number);
    let remedy = format!("let {pg}-path and {pg}-port, {pg}-socket-path or {pg}-host name the same cluster");
    let server = format!("the server {address}");
    if running != control.system_id {
        let what = format!(
            "{server} has system identifier {running}, but the cluster at {pg}-path {} has {}",
            pgdata.display(),
            control.system_id
        );
        return Err(Failure::new(ExitCode::DbMismatch, what).remedy(remedy));
    }
    let directory = client
        .data_directory()
        .await
        .map_err(|error| database_failure(&error))?;
    if !is_same_directory(Path::new(&directory), pgdata) {
        let what = format!("{server} runs on {directory}, not on {pg}-path {}", pgdata.display());
        return Err(Failure::new(ExitCode::DbMismatch, what).remedy(remedy));
    }
    Ok(())
}

/// The timeline that a cluster is on. Just after a promotion its last checkpoint may still be the old timeline's.
pub fn timeline(control: &ControlFile) -> TimelineId {
    control.checkpoint_timeline.max(control.min_recovery_timeline)
}

fn is_same_directory(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

fn control_failure(option: &str, pgdata: &Path, error: &ControlFileError) -> Failure {
    let what = format!("{option} {} cannot be used", pgdata.display());
    match error {
        ControlFileError::Read { source, .. } if source.kind() == ErrorKind::NotFound => Failure::new(
            ExitCode::FileMissing,
            format!("{option} {} is no data directory of PostgreSQL", pgdata.display()),
        )
        .because(chain(error))
        .remedy(format!("set {option} to what 'show data_directory' says")),
        ControlFileError::Read { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            Failure::new(ExitCode::Runtime, what)
                .because(chain(error))
                .remedy("run pgmesh as the user that PostgreSQL runs as")
        }
        ControlFileError::Read { .. } => Failure::new(ExitCode::Runtime, what).because(chain(error)),
        ControlFileError::Version(_) => Failure::new(ExitCode::VersionNotSupported, what).because(chain(error)),
        _ => Failure::new(ExitCode::FileInvalid, what).because(chain(error)),
    }
}

/// The failure of a connection or a statement, as a user reads it.
pub fn database_failure(error: &PgClientError) -> Failure {
    match error {
        PgClientError::Connect { .. } => Failure::new(ExitCode::DbConnect, "PostgreSQL cannot be reached")
            .because(chain(error))
            .remedy("check that it runs, and pg1-port, pg1-socket-path (or pg1-host), pg1-user and pg1-database"),
        PgClientError::Unencrypted { .. } => Failure::new(ExitCode::DbConnect, "PostgreSQL cannot be reached")
            .because(chain(error))
            .remedy("connect through a tunnel that encrypts, with PGSSLMODE=prefer"),
        PgClientError::Statement { source, .. } if source.is_closed() => {
            Failure::new(ExitCode::DbConnect, "PostgreSQL closed the connection")
                .because(chain(error))
                .again()
        }
        PgClientError::Statement { .. } => {
            Failure::new(ExitCode::Runtime, "PostgreSQL refused a statement").because(chain(error))
        }
        PgClientError::Timeout { .. } => Failure::new(ExitCode::Runtime, "PostgreSQL did not answer in time")
            .because(chain(error))
            .remedy("raise db-timeout; a backup waits for a checkpoint unless start-fast=y is set"),
        PgClientError::Answer { .. } => {
            Failure::new(ExitCode::Runtime, "PostgreSQL answered something unexpected").because(chain(error))
        }
        PgClientError::Version(_) => {
            Failure::new(ExitCode::VersionNotSupported, "the server cannot be used").because(chain(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_the_same_through_a_link() {
        let parent = tempfile::tempdir().unwrap();
        let (real, link) = (parent.path().join("real"), parent.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(is_same_directory(&real, &link));
        assert!(!is_same_directory(&real, parent.path()));
    }

    #[test]
    fn a_directory_without_a_cluster_is_said_to_be_none() {
        let empty = tempfile::tempdir().unwrap();
        let error = ControlFile::read(empty.path()).unwrap_err();
        let failure = control_failure("pg1-path", empty.path(), &error);
        assert_eq!(failure.code, ExitCode::FileMissing);
        assert!(failure.what.contains("no data directory"), "{failure}");
    }
}
