//! The settings of a push of WAL files.

use super::node::ack;
use crate::config::Config;
use pgmesh_client::wal_push::PushSettings;
use pgmesh_protocol::{ExitCode, Failure};

/// The settings from the configuration.
///
/// # Errors
/// 31: an impossible compression. 37: no compression is named.
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
