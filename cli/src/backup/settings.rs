//! What the configuration says about a backup.

use crate::config::Config;
use pgmesh_node::bounds;
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::{BackupType, Codec, StanzaName};
use std::collections::BTreeMap;
use std::time::Duration;

/// The options of one backup, checked.
#[derive(Debug, Clone)]
pub struct BackupSettings {
    /// `stanza`.
    pub stanza: StanzaName,
    /// `type`.
    pub kind: BackupType,
    /// `delta`: read everything, whatever is known of changes.
    pub delta: bool,
    /// `delta-verify`: how long ago everything may have been read last.
    pub delta_verify: Duration,
    /// `process-max`: how many files are read, and how many chunks compressed, at once.
    pub workers: usize,
    /// `compress-type`.
    pub codec: Codec,
    /// `compress-level`.
    pub level: Option<i32>,
    /// `start-fast`.
    pub start_fast: bool,
    /// `checksum-page`, where it was set.
    pub checksum_page: Option<bool>,
    /// `exclude`.
    pub exclude: Vec<String>,
    /// `annotation`.
    pub annotations: BTreeMap<String, String>,
    /// `archive-timeout`.
    pub archive_timeout: Duration,
    /// `backup-ack`, where it was set.
    pub backup_ack: Option<u16>,
}

impl BackupSettings {
    /// Reads the options.
    ///
    /// # Errors
    /// A stanza that is missing (37) or has an impossible name, or an option that asks for what cannot be (31).
    pub fn of(config: &Config) -> Result<Self, Failure> {
        if !config.flag("online") {
            return Err(
                Failure::new(ExitCode::OptionInvalid, "--no-online is not available yet")
                    .remedy("start PostgreSQL and back it up while it runs"),
            );
        }
        let (codec, level) = compression(config)?;
        let annotations = config.map("annotation").iter().cloned().collect();
        bounds::annotations(&annotations)?;
        Ok(Self {
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

    /// Whether page checksums are checked in a cluster that has them or has not.
    pub fn checks_pages(&self, cluster_has_checksums: bool) -> bool {
        if self.checksum_page == Some(true) && !cluster_has_checksums {
            tracing::warn!("checksum-page=y, but the cluster has no page checksums: pages are not checked");
        }
        cluster_has_checksums && self.checksum_page != Some(false)
    }
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
        .map_err(|error| Failure::new(ExitCode::OptionInvalid, format!("type={text} cannot be")).because(error))
}

fn compression(config: &Config) -> Result<(Codec, Option<i32>), Failure> {
    let invalid = |what: String| Failure::new(ExitCode::OptionInvalid, what);
    let name = config.text("compress-type").unwrap_or("zst");
    let codec: Codec = name
        .parse()
        .map_err(|error| invalid(format!("compress-type={name} cannot be")).because(error))?;
    let Some(level) = config.optional_integer("compress-level") else {
        return Ok((codec, None));
    };
    let impossible = || invalid(format!("compress-level={level} cannot be with compress-type={name}"));
    let level = i32::try_from(level).map_err(|_| impossible())?;
    codec.check_level(level).map_err(|error| impossible().because(error))?;
    Ok((codec, Some(level)))
}
