//! The shape of an option: one entry of the table.

use std::fmt;

use super::command::{Command, CommandSet};
use super::kind::Kind;

/// The highest number in `repoN-…` and `pgN-…`.
pub const LAST_NUMBER: u16 = 256;

/// The groups of numbered options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IndexKey {
    /// `pgN-…`: PostgreSQL clusters.
    Pg,
    /// `repoN-…`: repositories.
    Repo,
}

impl IndexKey {
    /// The word before the number.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Pg => "pg",
            Self::Repo => "repo",
        }
    }
}

/// How carefully a value is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    /// May be shown.
    Open,
    /// May be given anywhere, but is never shown.
    Redacted,
    /// Never shown, and refused on the command line, where every user of the host could read it (invariant 9).
    Secret,
}

/// Where an option may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In a file, the environment and on the command line.
    Anywhere,
    /// Not in a file: the option decides which file or section is read.
    OutsideFile,
    /// Only on the command line.
    CommandLine,
}

/// A different kind or default of an option for some commands.
#[derive(Debug, Clone, Copy)]
pub struct Override {
    /// The commands that it is for.
    pub commands: CommandSet,
    /// Replaces the option's kind.
    pub kind: Option<Kind>,
    /// Replaces the option's default.
    pub default: Option<&'static str>,
}

/// A check of one value beyond its kind.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// The allowed values, for the error message.
    pub allowed: &'static str,
    /// Whether a value is allowed.
    pub accepts: fn(&str) -> bool,
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// The name; for an indexed option, the part behind `repoN-` or `pgN-`.
    pub name: &'static str,
    /// The group of an indexed option.
    pub index: Option<IndexKey>,
    /// The kind of its value.
    pub kind: Kind,
    /// The commands that take it.
    pub commands: CommandSet,
    /// The commands that need it: `repoN-…` for every declared repository, `pgN-…` at least as `pg1-…`.
    pub required: CommandSet,
    /// The value if none is given.
    pub default: Option<&'static str>,
    /// How carefully its value is handled.
    pub secrecy: Secrecy,
    /// Where it may be given.
    pub scope: Scope,
    /// For a repository: this host's own way to reach it, not part of the definition that the catalog keeps.
    pub local: bool,
    /// Says how much is kept, and how a command expires it: no part of a repository's definition, and given alone it
    /// declares no repository. A value that is not allowed is refused in pgBackRest's words (32).
    pub policy: bool,
    /// The name in early versions of pgBackRest, which stands for number 1.
    pub old: Option<&'static str>,
    /// One line.
    pub help: &'static str,
    /// More than one line; may be empty.
    pub about: &'static str,
    /// A line that sets it in a file; may be empty.
    pub example: &'static str,
    /// The differences for some commands.
    pub overrides: &'static [Override],
    /// A check of the value beyond its kind.
    pub check: Option<Check>,
    /// For an option of pgBackRest that pgmesh does not have: the sentence for users who set it.
    pub not_yet: Option<&'static str>,
}

impl OptionSpec {
    /// An option that no command takes yet; the methods below add the rest.
    pub const fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self {
            name,
            index: None,
            kind,
            commands: CommandSet::NONE,
            required: CommandSet::NONE,
            default: None,
            secrecy: Secrecy::Open,
            scope: Scope::Anywhere,
            local: false,
            policy: false,
            old: None,
            help,
            about: "",
            example: "",
            overrides: &[],
            check: None,
            not_yet: None,
        }
    }

    /// An option of pgBackRest that pgmesh does not have, with one sentence for users who set it.
    pub const fn not_yet(name: &'static str, sentence: &'static str) -> Self {
        let mut spec = Self::new(name, Kind::Text, "");
        spec.not_yet = Some(sentence);
        spec
    }

    /// With numbers.
    pub const fn indexed(mut self, index: IndexKey) -> Self {
        self.index = Some(index);
        self
    }

    /// For these commands.
    pub const fn commands(mut self, commands: CommandSet) -> Self {
        self.commands = commands;
        self
    }

    /// Needed by these commands.
    pub const fn required(mut self, commands: CommandSet) -> Self {
        self.required = commands;
        self
    }

    /// With a default.
    pub const fn default(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    /// Never shown, and refused on the command line.
    pub const fn secret(mut self) -> Self {
        self.secrecy = Secrecy::Secret;
        self
    }

    /// Never shown.
    pub const fn redacted(mut self) -> Self {
        self.secrecy = Secrecy::Redacted;
        self
    }

    /// Only in the places of `scope`.
    pub const fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// For a repository: this host's own way, not part of the catalog's definition.
    pub const fn local(mut self) -> Self {
        self.local = true;
        self
    }

    /// Says how much is kept.
    pub const fn policy(mut self) -> Self {
        self.policy = true;
        self
    }

    /// With its name in early versions of pgBackRest.
    pub const fn old(mut self, old: &'static str) -> Self {
        self.old = Some(old);
        self
    }

    /// With a longer explanation and an example.
    pub const fn about(mut self, about: &'static str, example: &'static str) -> Self {
        self.about = about;
        self.example = example;
        self
    }

    /// With differences for some commands.
    pub const fn overrides(mut self, overrides: &'static [Override]) -> Self {
        self.overrides = overrides;
        self
    }

    /// With a check beyond the kind.
    pub const fn check(mut self, allowed: &'static str, accepts: fn(&str) -> bool) -> Self {
        self.check = Some(Check { allowed, accepts });
        self
    }

    /// The kind of its value for a command.
    pub fn kind_for(&self, command: Command) -> Kind {
        self.overrides
            .iter()
            .find(|other| other.commands.contains(command))
            .and_then(|other| other.kind)
            .unwrap_or(self.kind)
    }

    /// The default for a command.
    pub fn default_for(&self, command: Command) -> Option<&'static str> {
        let other = self
            .overrides
            .iter()
            .find(|other| other.commands.contains(command) && other.default.is_some());
        other.map_or(self.default, |other| other.default)
    }

    /// The allowed values, for an error message or the help.
    pub fn allowed(&self, command: Command) -> String {
        self.check
            .map_or_else(|| self.kind_for(command).allowed(), |check| check.allowed.to_owned())
    }

    /// Whether the command takes it.
    pub const fn is_for(&self, command: Command) -> bool {
        self.not_yet.is_none() && self.commands.contains(command)
    }

    /// The name as the help writes it: `repoN-path`.
    pub fn title(&self) -> String {
        match self.index {
            None => self.name.to_owned(),
            Some(index) => format!("{}N-{}", index.prefix(), self.name),
        }
    }

    /// The key of this option, with its number if it is indexed.
    pub const fn key(&'static self, number: u16) -> OptionKey {
        match self.index {
            None => OptionKey {
                index: None,
                name: self.name,
            },
            Some(index) => OptionKey {
                index: Some((index, number)),
                name: self.name,
            },
        }
    }
}

/// The full name of an option: `process-max`, `repo1-path`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OptionKey {
    /// Group and number of an indexed option.
    pub index: Option<(IndexKey, u16)>,
    /// The name; for an indexed option, the part behind the number.
    pub name: &'static str,
}

impl fmt::Display for OptionKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            None => formatter.write_str(self.name),
            Some((index, number)) => write!(formatter, "{}{number}-{}", index.prefix(), self.name),
        }
    }
}
