//! The settings of an expiry: how much each repository keeps.

use crate::config::{Config, IndexKey, Value};
use pgmesh_client::expire::{Ask, ExpireSettings, FullType, Retention, Zone};
use pgmesh_protocol::{ExitCode, Failure, MeshInfo};
use pgmesh_storage::{BackupLabel, BackupType, RepoKey, StanzaName};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

/// How much a repository keeps, as the configuration says.
pub fn retention(config: &Config, repo: RepoKey) -> Retention {
    let number = repo.get();
    let count = |name: &str| match config.kept(number, name) {
        Some(Value::Integer(count)) => u32::try_from(*count).ok(),
        _ => None,
    };
    let word = |name: &str| match config.kept(number, name) {
        Some(Value::Text(word)) => Some(word.as_str()),
        _ => None,
    };
    Retention {
        full: count("retention-full"),
        full_type: match word("retention-full-type") {
            Some("time") => FullType::Time,
            _ => FullType::Count,
        },
        diff: count("retention-diff"),
        archive: count("retention-archive"),
        archive_type: word("retention-archive-type")
            .and_then(|word| word.parse().ok())
            .unwrap_or(BackupType::Full),
        daily: count("retention-daily"),
        weekly: count("retention-weekly"),
        monthly: count("retention-monthly"),
        yearly: count("retention-yearly"),
        min: count("retention-min")
            .and_then(NonZeroU32::new)
            .unwrap_or(NonZeroU32::MIN),
        history: count("retention-history"),
    }
}

/// The repositories of the mesh, each with its options; and the warnings about these, and about options for
/// repositories that the mesh does not have.
pub fn repositories(config: &Config, info: &MeshInfo) -> BTreeMap<RepoKey, Retention> {
    let keys: Vec<RepoKey> = info.repositories.iter().map(|repository| repository.key).collect();
    keys.iter().map(|key| (*key, retention(config, *key))).collect()
}

/// Logs the warnings about the options of retention, in pgBackRest's words.
pub fn warn(config: &Config, repositories: &BTreeMap<RepoKey, Retention>) {
    for (repo, retention) in repositories {
        retention.warnings(*repo).iter().for_each(|line| line.log());
    }
    let known: BTreeSet<u16> = repositories.keys().map(|key| key.get()).collect();
    for number in config.numbers_of_policies(IndexKey::Repo) {
        if !known.contains(&number) {
            tracing::warn!("options repo{number}-retention-… have no effect: the mesh has no repo{number}");
        }
    }
}

/// The options of the command line, as `expire` has them.
///
/// # Errors
/// 31: options that exclude each other. 32: a value that is not allowed.
pub fn ask(config: &Config) -> Result<Ask, Failure> {
    let set = config.text("set").map(|text| {
        let invalid = || {
            Failure::new(
                ExitCode::OptionInvalidValue,
                format!("'{text}' is not a valid backup label format"),
            )
        };
        text.parse::<BackupLabel>().map_err(|_| invalid())
    });
    let ask = Ask {
        set: set.transpose()?,
        oldest: config.flag("oldest"),
        before: config.text("archive-expire-before").and_then(|text| text.parse().ok()),
    };
    if ask.oldest && ask.set.is_some() {
        return Err(Failure::new(
            ExitCode::OptionInvalid,
            "--oldest and --set cannot be used together",
        ));
    }
    Ok(ask)
}

/// The time zone of days, weeks, months and years.
///
/// # Errors
/// 32: this host knows no such zone.
pub fn zone(config: &Config) -> Result<Zone, Failure> {
    let Some(name) = config.text("retention-time-zone") else {
        return Ok(Zone::of_host());
    };
    Zone::named(name).map_err(|error| {
        Failure::new(
            ExitCode::OptionInvalidValue,
            format!("'{name}' is not valid for 'retention-time-zone' option"),
        )
        .because(error)
        .remedy("give an IANA name such as Europe/Rome or UTC; the package tzdata has the zones")
    })
}

/// The settings of an expiry in these repositories.
///
/// # Errors
/// As [`zone`].
pub fn of(
    config: &Config,
    stanza: StanzaName,
    repositories: BTreeMap<RepoKey, Retention>,
    ask: Ask,
) -> Result<ExpireSettings, Failure> {
    Ok(ExpireSettings {
        stanza,
        repositories,
        zone: zone(config)?,
        ask,
        dry_run: config.flag("dry-run"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::CommandError;

    fn load(arguments: &[&str]) -> Result<Config, CommandError> {
        let all = ["--no-config", "--stanza=main", "expire"].iter().chain(arguments);
        Config::load(&all.map(Into::into).collect::<Vec<_>>(), &[])
    }

    fn key(number: u16) -> RepoKey {
        RepoKey::new(number).unwrap()
    }

    #[test]
    fn options_are_read_by_repository_also_by_their_old_names() {
        let config = load(&[
            "--repo1-retention-full=2",
            "--retention-archive=3",
            "--retention-archive-type=diff",
            "--repo2-retention-full-type=time",
            "--repo2-retention-daily=7",
            "--repo2-retention-min=4",
        ])
        .unwrap();
        let one = retention(&config, key(1));
        assert_eq!(
            (one.full, one.archive, one.archive_type),
            (Some(2), Some(3), BackupType::Diff)
        );
        let two = retention(&config, key(2));
        assert_eq!((two.full, two.full_type, two.daily), (None, FullType::Time, Some(7)));
        assert_eq!((one.min.get(), two.min.get()), (1, 4));
        assert_eq!(retention(&config, key(3)), Retention::default());
        assert!(config.repositories().is_empty(), "they declare no repository");
        assert_eq!(config.numbers_of_policies(IndexKey::Repo), [1, 2]);
    }

    #[test]
    fn values_are_refused_in_pgbackrests_words() {
        let cases = [
            (
                "--repo1-retention-full=0",
                "'0' is out of range for 'repo1-retention-full' option\n       HINT: allowed range is 1 to 9999999 inclusive",
            ),
            (
                "--retention-diff=10000000",
                "'10000000' is out of range for 'repo1-retention-diff' option",
            ),
            (
                "--repo2-retention-archive=x",
                "'x' is not valid for 'repo2-retention-archive' option",
            ),
            (
                "--repo1-retention-full-type=size",
                "'size' is not allowed for 'repo1-retention-full-type' option",
            ),
            (
                "--repo1-retention-history=-1",
                "'-1' is out of range for 'repo1-retention-history' option",
            ),
            (
                "--archive-expire-before=000000010000000000000001.partial",
                "'000000010000000000000001.partial' is not valid for 'archive-expire-before' option",
            ),
        ];
        for (argument, expected) in cases {
            let error = load(&[argument]).unwrap_err();
            assert_eq!(error.code.number(), 32, "{argument}");
            assert!(error.to_string().contains(expected), "{argument}: {error}");
        }
        assert!(load(&["--repo1-retention-history=0", "--repo1-retention-full=9999999"]).is_ok());
    }

    #[test]
    fn the_command_line_is_refused_in_pgbackrests_words() {
        let failure = ask(&load(&["--set=BOGUS"]).unwrap()).unwrap_err();
        assert_eq!(
            (failure.code.number(), failure.what.as_str()),
            (32, "'BOGUS' is not a valid backup label format")
        );
        let both = ask(&load(&["--set=20200101-000000F", "--oldest"]).unwrap()).unwrap_err();
        assert_eq!(
            (both.code.number(), both.what.as_str()),
            (31, "--oldest and --set cannot be used together")
        );
        let failure = zone(&load(&["--retention-time-zone=Europe/Atlantis"]).unwrap()).unwrap_err();
        assert_eq!(failure.code.number(), 32);
    }

    #[test]
    fn a_backup_takes_no_wish_of_expire() {
        for argument in [
            "--oldest",
            "--set=20200101-000000F",
            "--dry-run",
            "--archive-expire-before=000000010000000000000001",
        ] {
            let all = ["--no-config", "--stanza=main", "--pg1-path=/pg", "backup", argument];
            assert_eq!(
                Config::load(&all.map(Into::into), &[]).unwrap_err().code,
                ExitCode::OptionInvalid,
                "{argument}"
            );
        }
    }
}
