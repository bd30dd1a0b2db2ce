//! What the configuration asks of a restore, parsed once.

use super::restore_command;
use super::target::Target;
use crate::config::{Config, IndexKey};
use pgmesh_postgres::{RecoverySettings, RecoveryTarget, TargetAction};
use pgmesh_protocol::choice::{Follow, Restoring};
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::{RepoKey, StanzaName};
use std::path::PathBuf;

/// What may be done with what lies in the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Nothing: a directory that is not empty is refused.
    Refuse,
    /// `--force`: it is removed.
    Remove,
    /// `--delta`: what is right already is kept.
    Compare,
}

/// Whether the restored server archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveMode {
    /// As its configuration says.
    Preserve,
    /// No.
    Off,
}

/// A restore as it was asked for.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The stanza.
    pub stanza: StanzaName,
    /// `pg1-path`.
    pub pgdata: PathBuf,
    /// What becomes of what is there.
    pub existing: Existing,
    /// `--force`: the files of tablespaces that are not in the backup are removed.
    pub force: bool,
    /// `--delta` and `--force`: what has the size and time of the backup is taken for right, unread.
    pub trusts_times: bool,
    /// `keep-owners`: files get the owners that they had, root's too.
    pub keeps_owners: bool,
    /// How far to recover, and so which backup.
    pub target: Target,
    /// `target-timeline`.
    pub target_timeline: Option<String>,
    /// `archive-mode`, where it is given.
    pub archive_mode: Option<ArchiveMode>,
    /// What is written for PostgreSQL, but for what the backup decides.
    pub recovery: RecoverySettings,
    /// Where tablespaces and links go.
    pub places: PlaceOptions,
    /// `db-include`: names or oids.
    pub include: Vec<String>,
    /// `db-exclude`: names or oids.
    pub exclude: Vec<String>,
    /// `write-manifest`.
    pub write_manifest: bool,
    /// `process-max`.
    pub workers: usize,
    /// `repo-direct`.
    pub direct: bool,
    /// `repo`: read from this one only.
    pub repo: Option<RepoKey>,
}

/// Where tablespaces and links go.
#[derive(Debug, Clone, Default)]
pub struct PlaceOptions {
    /// `tablespace-map`: name or oid, and directory.
    pub tablespace_map: Vec<(String, PathBuf)>,
    /// `tablespace-map-all`.
    pub tablespace_map_all: Option<PathBuf>,
    /// `link-all`.
    pub link_all: bool,
    /// `link-map`: path in the data directory, and destination.
    pub link_map: Vec<(String, PathBuf)>,
}

impl RestoreOptions {
    /// Reads the configuration. `now`: Unix seconds, for the comment in postgresql.auto.conf.
    ///
    /// # Errors
    /// 31 for values that cannot be or do not fit together, 37 for missing ones.
    pub fn from_config(config: &Config, now: i64) -> Result<Self, Failure> {
        let stanza: StanzaName = config
            .required_text("stanza")?
            .parse()
            .map_err(|error| invalid("stanza", error))?;
        let kind = config.text("type").unwrap_or("default");
        let target = Target::parse(kind, config.text("target"), config.text("set"))?;
        let options = Self {
            stanza,
            pgdata: config.required_pg_path()?,
            existing: match (config.flag("delta"), config.flag("force")) {
                (true, _) => Existing::Compare,
                (false, true) => Existing::Remove,
                (false, false) => Existing::Refuse,
            },
            force: config.flag("force"),
            keeps_owners: config.flag("keep-owners"),
            trusts_times: config.flag("delta") && config.flag("force"),
            target_timeline: target_timeline(config)?,
            archive_mode: match config.text("archive-mode") {
                Some("off") => Some(ArchiveMode::Off),
                Some(_) => Some(ArchiveMode::Preserve),
                None => None,
            },
            recovery: recovery_settings(config, &target, now)?,
            target,
            places: PlaceOptions {
                tablespace_map: paths("tablespace-map", config.map("tablespace-map"))?,
                tablespace_map_all: config.path("tablespace-map-all").map(ToOwned::to_owned),
                link_all: config.flag("link-all"),
                link_map: paths("link-map", config.map("link-map"))?,
            },
            include: config.list("db-include").to_vec(),
            exclude: config.list("db-exclude").to_vec(),
            write_manifest: config.flag("write-manifest"),
            workers: usize::try_from(config.integer("process-max")).unwrap_or(1).max(1),
            direct: config.flag("repo-direct"),
            repo: repository(config)?,
        };
        if options.write_manifest && !(options.include.is_empty() && options.exclude.is_empty()) {
            return Err(Failure::new(
                ExitCode::OptionInvalid,
                "write-manifest does not go with db-include or db-exclude",
            )
            .because("pg_verifybackup would find the databases that are left out to be damaged"));
        }
        Ok(options)
    }

    /// What a backup is chosen by.
    pub fn restoring(&self) -> Restoring {
        let follow = match self.target_timeline.as_deref() {
            None => Follow::End,
            Some("current") => Follow::Current,
            Some(text) => text.parse().map_or(Follow::Latest, Follow::Timeline),
        };
        Restoring {
            wanted: self.target.wanted.clone(),
            follow,
            goes_on: !matches!(self.target.recovery, RecoveryTarget::Immediate | RecoveryTarget::None),
        }
    }
}

/// The timeline that is named, by its own option or as PostgreSQL's.
fn target_timeline(config: &Config) -> Result<Option<String>, Failure> {
    let mut options = config.map("recovery-option").iter();
    let own = options.find(|(name, _)| name.replace('-', "_") == "recovery_target_timeline");
    let own = own.map(|(_, value)| value.as_str());
    let Some(timeline) = config.text("target-timeline").or(own) else {
        return Ok(None);
    };
    check_timeline(timeline)?;
    Ok(Some(timeline.to_owned()))
}

fn recovery_settings(config: &Config, target: &Target, now: i64) -> Result<RecoverySettings, Failure> {
    let mut settings = RecoverySettings::new(target.recovery.clone(), now);
    let kind = config.text("type").unwrap_or("default");
    if config.is_given("target-action") {
        if !target.recovery.is_point() {
            return Err(does_not_fit("target-action", kind, "immediate, lsn, name, time or xid"));
        }
        let action = config.text("target-action").unwrap_or("pause");
        settings.action = Some(
            action
                .parse::<TargetAction>()
                .map_err(|error| invalid("target-action", error))?,
        );
    }
    if config.flag("target-exclusive") {
        if !target.recovery.can_be_exclusive() {
            return Err(does_not_fit("target-exclusive", kind, "lsn, time or xid"));
        }
        settings.exclusive = true;
    }
    if let Some(timeline) = config.text("target-timeline") {
        check_timeline(timeline)?;
        settings.target_timeline = Some(timeline.to_owned());
    }
    settings.restore_command = Some(restore_command::render(config, &target.recovery)?);
    for (name, value) in config.map("recovery-option") {
        // What a user writes for recovery.conf is accepted as pgBackRest accepts it.
        let name = name.replace('-', "_");
        settings
            .add_option(&name, value)
            .map_err(|error| invalid("recovery-option", error))?;
    }
    Ok(settings)
}

fn check_timeline(text: &str) -> Result<(), Failure> {
    let is_number = text.parse::<u32>().is_ok_and(|number| number > 0);
    if is_number || matches!(text, "current" | "latest") {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::OptionInvalid,
        format!("'{text}' is no value of target-timeline"),
    )
    .remedy("give a timeline's number, current or latest"))
}

fn paths(option: &str, pairs: &[(String, String)]) -> Result<Vec<(String, PathBuf)>, Failure> {
    pairs
        .iter()
        .map(|(key, path)| {
            let path = PathBuf::from(path);
            if path.is_absolute() || option == "link-map" {
                Ok((key.clone(), path))
            } else {
                Err(Failure::new(
                    ExitCode::OptionInvalid,
                    format!("{option}={key}={} is no absolute path", path.display()),
                ))
            }
        })
        .collect()
}

/// `repo`, as a repository's number.
pub fn repository(config: &Config) -> Result<Option<RepoKey>, Failure> {
    let Some(number) = config.optional_integer("repo") else {
        return Ok(None);
    };
    let key = u16::try_from(number).ok().and_then(|number| RepoKey::new(number).ok());
    let key = key.ok_or_else(|| invalid("repo", format!("{number} is no number of a repository")))?;
    if config.flag("repo-direct") && !config.numbers(IndexKey::Repo).contains(&key.get()) {
        return Err(
            Failure::new(ExitCode::OptionRequired, format!("repo{key} is not declared"))
                .remedy(format!("give its repo{key}-… options")),
        );
    }
    Ok(Some(key))
}

fn invalid(option: &str, cause: impl std::fmt::Display) -> Failure {
    Failure::new(ExitCode::OptionInvalid, format!("option {option} cannot be used")).because(cause)
}

fn does_not_fit(option: &str, kind: &str, kinds: &str) -> Failure {
    Failure::new(
        ExitCode::OptionInvalid,
        format!("option {option} does not go with --type={kind}"),
    )
    .remedy(format!("use it with --type={kinds}"))
}
