//! The settings of a backup.

use super::{pg, push};
use crate::config::Config;
use pgmesh_client::backup::{BackupSettings, StandbyWish};
use pgmesh_node::bounds;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::{BackupType, Codec, StanzaName};

/// The settings from the configuration.
///
/// # Errors
/// A stanza that is missing (37) or has an impossible name, or an option with an impossible value (31).
pub fn of(config: &Config) -> Result<BackupSettings, Failure> {
    if !config.flag("online") {
        return Err(
            Failure::new(ExitCode::OptionInvalid, "--no-online is not available yet")
                .remedy("start PostgreSQL and back it up while it runs"),
        );
    }
    let (codec, level) = compression(config)?;
    let annotations = config.map("annotation").iter().cloned().collect();
    bounds::annotations(&annotations)?;
    Ok(BackupSettings {
        clusters: pg::all(config),
        standby: match config.text("backup-standby") {
            Some("y") => StandbyWish::Demanded,
            None | Some("n") => StandbyWish::Without,
            Some(_) => StandbyWish::Preferred,
        },
        archiving: pg::archiving(config),
        push: push::of(config)?,
        stanza: stanza(config)?,
        kind: kind(config)?,
        delta: config.flag("delta"),
        delta_verify: config.duration("delta-verify"),
        workers: usize::try_from(config.integer("process-max")).unwrap_or(1).max(1),
        codec,
        level,
        start_fast: config.flag("start-fast"),
        checksum_page: config.optional_flag("checksum-page"),
        exclude: config.list("exclude").to_vec(),
        annotations,
        archive_timeout: config.duration("archive-timeout"),
        backup_ack: config
            .optional_integer("backup-ack")
            .and_then(|ack| u16::try_from(ack).ok()),
    })
}

fn stanza(config: &Config) -> Result<StanzaName, Failure> {
    let name = config.stanza().ok_or_else(|| {
        Failure::new(ExitCode::OptionRequired, "command 'backup' needs option 'stanza'").remedy("give --stanza=NAME")
    })?;
    name.parse().map_err(|error| {
        Failure::new(ExitCode::OptionInvalid, format!("{name:?} cannot be a stanza's name")).because(error)
    })
}

fn kind(config: &Config) -> Result<BackupType, Failure> {
    let text = config.text("type").unwrap_or("incr");
    text.parse()
        .map_err(|error| Failure::new(ExitCode::OptionInvalid, format!("type={text} is not valid")).because(error))
}

fn compression(config: &Config) -> Result<(Codec, Option<i32>), Failure> {
    let invalid = |what: String| Failure::new(ExitCode::OptionInvalid, what);
    let name = config.text("compress-type").unwrap_or("zst");
    let codec: Codec = name
        .parse()
        .map_err(|error| invalid(format!("compress-type={name} is not valid")).because(error))?;
    let Some(level) = config.optional_integer("compress-level") else {
        return Ok((codec, None));
    };
    let impossible = || invalid(format!("compress-level={level} is not valid for compress-type={name}"));
    let level = i32::try_from(level).map_err(|_| impossible())?;
    codec.check_level(level).map_err(|error| impossible().because(error))?;
    Ok((codec, Some(level)))
}
