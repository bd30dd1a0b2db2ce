//! How WAL files are pushed.

use super::node::ack;
use crate::config::Config;
use pgmesh_client::wal_push::PushSettings;
use pgmesh_protocol::{ExitCode, Failure};

/// What the configuration says.
///
/// # Errors
/// 31: a compression that cannot be. 37: none is named.
pub fn of(config: &Config) -> Result<PushSettings, Failure> {
    let codec = config
        .required_text("compress-type")?
        .parse()
        .map_err(|error| Failure::new(ExitCode::OptionInvalid, "compress-type cannot be used").because(error))?;
    let level = config
        .optional_integer("compress-level")
        .and_then(|level| i32::try_from(level).ok());
    Ok(PushSettings {
        codec,
        level,
        checks_headers: config.optional_flag("archive-header-check").unwrap_or(true),
        archive_ack: ack(config, "archive-ack"),
    })
}
