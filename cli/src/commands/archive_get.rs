//! `archive-get`: the command that PostgreSQL runs for each WAL file in recovery.
//!
//! Invariant 7: it exits 1 only when the mesh says, by a linearizable read, that the file was never archived and that
//! no WAL behind it is known of. If the mesh cannot know, the client tries again, and then fails in a way that
//! PostgreSQL does not take for the end of the archive; `dispatch` turns the exit code of any such failure into one
//! that stops recovery.

use super::{argument, stanza};
use crate::config::Config;
use crate::settings;
use pgmesh_client::origin::resolve;
use pgmesh_client::wal_get::{GetSettings, Got, get};
use pgmesh_postgres::WalFileName;
use pgmesh_protocol::{ExitCode, Failure};
use std::path::Path;

/// Gets one file.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let stanza = stanza(config)?;
    let name = argument(config, 0, "the name of a WAL file (%f)")?;
    let file: WalFileName = name.parse().map_err(|error| {
        Failure::new(ExitCode::OptionInvalid, format!("'{name}' is no name of a WAL file")).because(error)
    })?;
    let given = Path::new(argument(config, 1, "where to put the file (%p)")?);
    let pgdata = config.pg_path();
    let destination = match pgdata {
        Some(pgdata) => resolve(given, pgdata)?,
        None => given.to_owned(),
    };
    let asked = GetSettings {
        stanza,
        pgdata: pgdata.map(Path::to_owned),
        file,
        destination,
        ends_at_holes: config.text("archive-hole") == Some("end"),
    };
    Ok(match get(&asked, settings::repositories::source(config)).await? {
        Got::File => ExitCode::Ok,
        Got::Nothing => ExitCode::NotFound,
    })
}
