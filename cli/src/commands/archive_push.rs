//! `archive-push`: the command that PostgreSQL runs for each WAL file. It exits 0 only when the file is durable in
//! `archive-ack` repositories and in the catalog (invariant 1).

use super::{argument, stanza};
use crate::config::Config;
use crate::settings;
use pgmesh_client::mesh::Mesh;
use pgmesh_client::origin::resolve;
use pgmesh_client::wal_push::{WalFile, WalPusher};
use pgmesh_postgres::WalFileName;
use pgmesh_protocol::{ExitCode, Failure};
use std::path::Path;

/// Archives one file.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let stanza = stanza(config)?;
    let given = Path::new(argument(config, 0, "the path of a WAL file (%p)")?);
    let pgdata = config.required_pg_path()?;
    let path = resolve(given, &pgdata)?;
    let file = file_name(&path)?;
    let settings = settings::push::of(config)?;
    let begun = WalFile::begin(&settings, &pgdata, &path, file)?;
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let pusher = WalPusher {
        settings: &settings,
        mesh: &mesh,
        stanza: &stanza,
        pgdata: &pgdata,
    };
    pusher.push(&path, file, begun).await?;
    Ok(ExitCode::Ok)
}

fn file_name(path: &Path) -> Result<WalFileName, Failure> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.parse().map_err(|error| {
        Failure::new(ExitCode::OptionInvalid, format!("'{}' is no WAL file", path.display()))
            .because(error)
            .remedy("archive_command must pass %p, as in: archive_command = 'pgmesh --stanza=NAME archive-push %p'")
    })
}
