//! `archive-push`: what PostgreSQL runs for each WAL file. Exits 0 only when the file is durable in `archive-ack`
//! repositories and in the catalog (invariant 1).

use super::origin::resolve;
use super::{argument, stanza};
use crate::config::Config;
use crate::exit::ExitCode;
use crate::mesh::Mesh;
use crate::node_file::ack;
use bytes::Bytes;
use pgmesh_node::failure::chain;
use pgmesh_node::protocol::{PushSegment, Pushed, Request};
use pgmesh_node::{Failure, code};
use pgmesh_postgres::{ControlFile, PgVersion, SystemId, TimelineId, WalFileName, WalHeader, instance_fingerprint};
use pgmesh_storage::{Codec, Digest, Payload};
use std::path::Path;
use tokio::task::{JoinError, JoinHandle};

/// Archives one file.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let stanza = stanza(config)?;
    let given = Path::new(argument(config, 0, "the path of a WAL file (%p)")?);
    let pgdata = config.required_pg_path()?;
    let path = resolve(given, &pgdata)?;
    let file = file_name(&path)?;
    let content = std::fs::read(&path).map_err(|error| {
        Failure::new(
            code::FILE_MISSING,
            format!("WAL file {} cannot be read", path.display()),
        )
        .because(error)
    })?;
    let origin = origin(config, &pgdata, file, &content)?;
    let content = Bytes::from(content);
    // Compressed while the connection is made and finds out what size of packet it may use.
    let compressing = begin_compressing(config, content.clone())?;
    let mesh = Mesh::connect(config).await?;
    let suite = mesh.suite().await?;
    let digesting = tokio::task::spawn_blocking(move || suite.digest(&content));
    let payload = compressing.await.map_err(|error| abnormal(&error))??;
    let digest = digesting.await.map_err(|error| abnormal(&error))?;
    let payload = Payload { digest, ..payload };
    let request = Request::PushSegment(PushSegment {
        stanza,
        file: file.to_string(),
        payload: payload.head(),
        system_id: origin.system_id,
        version: origin.version,
        header_timeline: origin.timeline,
        instance: origin.instance,
        archive_ack: ack(config, "archive-ack"),
    });
    // Again while nodes fail: the same bytes again are no error (invariant 3). The repositories' own refusal is told at
    // once: PostgreSQL tries again by itself.
    let pushed: Pushed = mesh.send(&request, &payload.bytes).await?;
    if pushed.already {
        tracing::warn!("WAL file '{file}' already exists in the archive with the same content");
    } else {
        tracing::info!(durable = ?pushed.durable, owed = ?pushed.owed, "pushed WAL file '{file}'");
    }
    Ok(ExitCode::Ok)
}

fn file_name(path: &Path) -> Result<WalFileName, Failure> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.parse().map_err(|error| {
        Failure::new(code::OPTION_INVALID, format!("'{}' is no WAL file", path.display()))
            .because(error)
            .remedy("archive_command must pass %p, as in: archive_command = 'pgmesh --stanza=NAME archive-push %p'")
    })
}

/// Where a file comes from.
struct Origin {
    system_id: SystemId,
    version: PgVersion,
    timeline: TimelineId,
    instance: String,
}

/// Reads it off the segment's header and pg_control, and checks that they agree (invariant 12).
fn origin(config: &Config, pgdata: &Path, file: WalFileName, content: &[u8]) -> Result<Origin, Failure> {
    let control = ControlFile::read(pgdata).map_err(|error| {
        Failure::new(
            code::FILE_MISSING,
            format!("pg1-path {} holds no cluster", pgdata.display()),
        )
        .because(chain(&error))
        .remedy("set pg1-path to the cluster's data directory")
    })?;
    let instance = instance_fingerprint(pgdata).map_err(|error| {
        Failure::new(code::FILE_MISSING, "the data directory cannot be identified").because(chain(&error))
    })?;
    let (WalFileName::Segment(name) | WalFileName::Partial(name)) = file else {
        let (system_id, version) = (control.system_id, control.version);
        return Ok(Origin {
            system_id,
            version,
            timeline: file.timeline(),
            instance,
        });
    };
    let invalid = |error: &dyn std::error::Error| {
        Failure::new(code::FILE_INVALID, format!("{file} is not what its name says"))
            .because(chain(error))
            .remedy("it was truncated or overwritten: nothing is archived, and PostgreSQL must offer it again")
    };
    let header = WalHeader::parse(content).map_err(|error| invalid(&error))?;
    if config.flag("archive-header-check") {
        header
            .check(name, content.len() as u64)
            .map_err(|error| invalid(&error))?;
        if header.system_id != control.system_id {
            return Err(Failure::new(
                code::ARCHIVE_MISMATCH,
                format!(
                    "{file} was written by cluster {}, pg1-path holds cluster {}",
                    header.system_id, control.system_id
                ),
            )
            .remedy("check pg1-path and archive_command"));
        }
    }
    Ok(Origin {
        system_id: header.system_id,
        version: header.version(),
        timeline: header.timeline,
        instance,
    })
}

/// Begins to compress on another thread. The payload's digest is still to be set.
fn begin_compressing(config: &Config, content: Bytes) -> Result<JoinHandle<Result<Payload, Failure>>, Failure> {
    let codec: Codec = config
        .required_text("compress-type")?
        .parse()
        .map_err(|error| Failure::new(code::OPTION_INVALID, "compress-type cannot be used").because(error))?;
    let level = config
        .optional_integer("compress-level")
        .and_then(|level| i32::try_from(level).ok());
    Ok(tokio::task::spawn_blocking(move || {
        Payload::pack_known(Digest([0; 32]), codec, level, &content).map_err(|error| {
            Failure::new(code::OPTION_INVALID, format!("compressing with {codec}")).because(chain(&error))
        })
    }))
}

fn abnormal(error: &JoinError) -> Failure {
    Failure::new(code::ASSERT, "compressing a WAL file ended abnormally").because(error)
}
