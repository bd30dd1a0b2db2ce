//! The settings of a restore.

use super::{repositories, restore_command};
use crate::config::Config;
use pgmesh_client::restore::{ArchiveMode, Existing, PlaceOptions, RestoreSettings, Target};
use pgmesh_postgres::{RecoverySettings, TargetAction};
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::StanzaName;
use std::path::PathBuf;

/// The settings from the configuration. `now`: Unix seconds, for the comment in postgresql.auto.conf.
///
/// # Errors
/// 31 for impossible values and for options that contradict each other, 37 for missing options.
pub fn of(config: &Config, now: i64) -> Result<RestoreSettings, Failure> {
    let stanza: StanzaName = config
        .required_text("stanza")?
        .parse()
        .map_err(|error| invalid("stanza", error))?;
    let kind = config.text("type").unwrap_or("default");
    let target = Target::parse(kind, config.text("target"), config.text("set"))?;
    let settings = RestoreSettings {
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
        repo: repositories::asked(config)?,
    };
    if settings.write_manifest && !(settings.include.is_empty() && settings.exclude.is_empty()) {
        return Err(Failure::new(
            ExitCode::OptionInvalid,
            "write-manifest does not go with db-include or db-exclude",
        )
        .because("pg_verifybackup would find the databases that are left out to be damaged"));
    }
    Ok(settings)
}

/// The timeline that is named, by `target-timeline` or as `recovery-option=recovery-target-timeline=…`.
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
        // `recovery-option` takes names with hyphens too, as in pgBackRest.
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

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_client::restore::SourceSettings;
    use std::ffi::OsString;

    #[test]
    fn the_restored_server_gets_its_wal_with_this_program() {
        let arguments = [
            "--no-config",
            "--stanza=main",
            "restore",
            "--pg1-path=/pg",
            "--type=immediate",
        ];
        let config = Config::load(&arguments.map(OsString::from), &[]).unwrap();
        let command = of(&config, 0).unwrap().recovery.restore_command.unwrap();
        assert!(
            command.ends_with(" --archive-hole=end --stanza=main archive-get %f \"%p\""),
            "{command}"
        );
    }
    /// Invariant 9: the passphrase that the restore needs is neither in the server's settings nor in sight.
    #[test]
    fn invariant_9_a_direct_restore_leaves_no_passphrase() {
        let arguments = [
            "--no-config",
            "--stanza=main",
            "restore",
            "--pg1-path=/pg",
            "--repo-direct",
            "--repo=2",
            "--repo1-path=/one",
            "--repo2-path=/two",
            "--repo1-cipher-type=aes-256-cbc",
            "--repo2-cipher-type=aes-256-cbc",
        ];
        let secrets = [
            ("PGMESH_REPO1_CIPHER_PASS", "hidden away"),
            ("PGMESH_REPO2_CIPHER_PASS", "hidden away"),
        ];
        let secrets = secrets.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let config = Config::load(&arguments.map(OsString::from), &secrets).unwrap();
        let settings = of(&config, 0).unwrap();
        let command = settings.recovery.restore_command.as_deref().unwrap();
        assert!(command.contains("--repo-direct=y"), "{command}");
        let source = repositories::source(&config).unwrap();
        let shown = format!("{settings:?} {source:?}");
        assert!(!shown.contains("hidden"), "{shown}");
        let SourceSettings::Direct(found) = source else {
            panic!("{source:?}");
        };
        // Only the repository that `--repo` names.
        assert_eq!(found.iter().map(|found| found.key.get()).collect::<Vec<_>>(), [2]);
        assert_eq!(found[0].passphrase.read().unwrap().map(|_| ()), Some(()));
    }

    #[test]
    fn what_is_there_already_is_dealt_with_as_delta_and_force_say() {
        let asked = |more: &[&str]| {
            let all = [&["--no-config", "--stanza=main", "restore", "--pg1-path=/pg"], more].concat();
            let all: Vec<OsString> = all.into_iter().map(OsString::from).collect();
            let settings = of(&Config::load(&all, &[]).unwrap(), 0).unwrap();
            (settings.existing, settings.force, settings.trusts_times)
        };
        assert!(matches!(asked(&[]), (Existing::Refuse, false, false)));
        assert!(matches!(asked(&["--force"]), (Existing::Remove, true, false)));
        assert!(matches!(asked(&["--delta"]), (Existing::Compare, false, false)));
        assert!(matches!(
            asked(&["--delta", "--force"]),
            (Existing::Compare, true, true)
        ));
    }
}
