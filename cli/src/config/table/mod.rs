//! The table of options: each is defined once, here, and everything else about options follows from it.

mod backup;
mod bucket;
mod checks;
mod general;
mod node;
mod not_yet;
mod repository;
mod restore;
mod retention;
pub(crate) mod sets;

use super::option::{IndexKey, LAST_NUMBER, OptionKey, OptionSpec};
use super::suggest::nearest;

/// Options that belong together in the help.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// The heading.
    pub title: &'static str,
    /// The options, in the order of the help.
    pub options: &'static [OptionSpec],
}

/// All options, by group. The last group holds options of pgBackRest that pgmesh does not have yet.
pub const GROUPS: &[Group] = &[
    Group {
        title: "Command options",
        options: backup::OPTIONS,
    },
    Group {
        title: "Restore options",
        options: restore::OPTIONS,
    },
    Group {
        title: "General options",
        options: general::OPTIONS,
    },
    Group {
        title: "Log options",
        options: general::LOG_OPTIONS,
    },
    Group {
        title: "Mesh and node options",
        options: node::OPTIONS,
    },
    Group {
        title: "PostgreSQL options",
        options: repository::POSTGRES_OPTIONS,
    },
    Group {
        title: "Repository options",
        options: repository::OPTIONS,
    },
    Group {
        title: "Options of repositories in buckets",
        options: bucket::OPTIONS,
    },
    Group {
        title: "Retention options",
        options: retention::OPTIONS,
    },
    Group {
        title: "Options of pgBackRest that pgmesh does not have",
        options: not_yet::OPTIONS,
    },
];

/// The meaning of a name on the command line, in the environment or in a file.
#[derive(Debug, Clone, Copy)]
pub enum Lookup {
    /// An option of pgmesh, or an option of pgBackRest that pgmesh does not have yet.
    Known(OptionKey, &'static OptionSpec),
    /// An indexed option with a number that is not allowed.
    BadNumber(&'static OptionSpec),
    /// The table does not have the name.
    Unknown,
}

/// All options.
pub fn all() -> impl Iterator<Item = &'static OptionSpec> {
    GROUPS.iter().flat_map(|group| group.options)
}

/// The option without a number of that name.
pub fn plain(name: &str) -> Option<&'static OptionSpec> {
    all().find(|spec| spec.index.is_none() && spec.name == name)
}

/// The indexed option of that name.
pub fn indexed(index: IndexKey, name: &str) -> Option<&'static OptionSpec> {
    all().find(|spec| spec.index == Some(index) && spec.name == name)
}

/// Splits `repo12-path` in group, number and name.
fn split_indexed(name: &str) -> Option<(IndexKey, &str, &str)> {
    [IndexKey::Pg, IndexKey::Repo].into_iter().find_map(|index| {
        let (number, rest) = name.strip_prefix(index.prefix())?.split_once('-')?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then_some((index, number, rest))
    })
}

/// Finds an option by its full name.
pub fn find(name: &str) -> Lookup {
    if let Some(spec) = plain(name) {
        return Lookup::Known(spec.key(0), spec);
    }
    if let Some(spec) = all().find(|spec| spec.old == Some(name)) {
        return Lookup::Known(spec.key(1), spec);
    }
    let Some((index, number, rest)) = split_indexed(name) else {
        return Lookup::Unknown;
    };
    let Some(spec) = indexed(index, rest) else {
        return Lookup::Unknown;
    };
    match number.parse() {
        Ok(number) if (1..=LAST_NUMBER).contains(&number) => Lookup::Known(spec.key(number), spec),
        _ => Lookup::BadNumber(spec),
    }
}

/// The existing name that an unknown name probably stands for.
pub fn suggest(name: &str) -> Option<String> {
    // Early versions of pgBackRest had `repo-path` and `db-path` for repo1-path and pg1-path.
    for (old, index) in [("repo-", IndexKey::Repo), ("pg-", IndexKey::Pg), ("db-", IndexKey::Pg)] {
        if let Some(spec) = name.strip_prefix(old).and_then(|rest| indexed(index, rest)) {
            return Some(spec.key(1).to_string());
        }
    }
    let number = split_indexed(name)
        .and_then(|(_, number, _)| number.parse().ok())
        .unwrap_or(1);
    let names: Vec<String> = all()
        .filter(|spec| spec.not_yet.is_none())
        .map(|spec| spec.key(number).to_string())
        .collect();
    nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::command::COMMANDS;
    use crate::config::kind::Kind;
    use std::collections::BTreeSet;

    #[test]
    fn every_option_is_defined_once() {
        let mut seen = BTreeSet::new();
        for spec in all() {
            assert!(seen.insert(spec.title()), "{} is defined twice", spec.title());
            if let Some(name) = spec.index.map(|_| spec.key(1).to_string()) {
                assert!(matches!(find(&name), Lookup::Known(..)), "{name} is not found");
            }
        }
    }

    #[test]
    fn every_option_is_complete() {
        for spec in all().filter(|spec| spec.not_yet.is_none()) {
            let title = spec.title();
            assert!(!spec.help.is_empty() && !spec.about.is_empty(), "{title} has no help");
            let taken = COMMANDS.iter().filter(|command| spec.is_for(command.command));
            assert!(taken.count() > 0, "{title} is for no command");
            for command in COMMANDS.iter().map(|command| command.command) {
                assert!(
                    !spec.required.contains(command) || spec.is_for(command),
                    "{title} needed, not taken: {command}"
                );
                let kind = spec.kind_for(command);
                if let Some(default) = spec.default_for(command) {
                    assert!(
                        kind.parse(&[default.to_owned()]).is_some(),
                        "{title}: default {default} is not allowed"
                    );
                    assert!(
                        spec.check.is_none_or(|check| (check.accepts)(default)),
                        "{title}: default {default}"
                    );
                }
                // checksum-page follows the cluster and is read with `optional_flag`.
                let may_lack = title == "checksum-page" || !matches!(kind, Kind::Flag);
                assert!(
                    may_lack || spec.default_for(command).is_some(),
                    "{title} has no default"
                );
            }
        }
    }

    #[test]
    fn sentences_for_what_is_missing_are_one_sentence() {
        for spec in not_yet::OPTIONS {
            let sentence = spec.not_yet.unwrap();
            assert!(
                sentence.len() > 10 && !sentence.ends_with('.'),
                "{}: {sentence}",
                spec.title()
            );
        }
    }

    #[test]
    fn numbers() {
        assert!(matches!(find("repo256-path"), Lookup::Known(..)));
        assert!(matches!(find("repo0-path"), Lookup::BadNumber(_)));
        assert!(matches!(find("repo99999-path"), Lookup::BadNumber(_)));
        assert!(matches!(find("repo-path"), Lookup::Unknown));
        assert!(matches!(find("repo1path"), Lookup::Unknown));
        assert!(matches!(find("path"), Lookup::Unknown));
        assert!(matches!(find("retention-full"), Lookup::Known(key, _) if key.to_string() == "repo1-retention-full"));
        assert!(matches!(find("retention-daily"), Lookup::Unknown));
    }

    #[test]
    fn suggestions() {
        assert_eq!(suggest("repo2-pth").as_deref(), Some("repo2-path"));
        assert_eq!(suggest("repo-path").as_deref(), Some("repo1-path"));
        assert_eq!(suggest("db-path").as_deref(), Some("pg1-path"));
        assert_eq!(suggest("proces-max").as_deref(), Some("process-max"));
        assert_eq!(suggest("quite-something-else"), None);
    }
}
