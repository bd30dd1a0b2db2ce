//! The commands: each is defined once, and the command line, the help, the manual page and the completions follow from
//! that.

mod clients;
mod commands;
mod nodes;
mod repositories;
mod retention;

pub use commands::COMMANDS;
use std::fmt;

/// A command of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "each variant is documented by its entry in COMMANDS")]
pub enum Command {
    Annotate,
    ArchiveForget,
    ArchiveGet,
    ArchivePush,
    Backup,
    CatalogAcceptLoss,
    CatalogRebuild,
    Check,
    ClientList,
    ClientRevoke,
    MeshRotateCa,
    Completions,
    Doctor,
    Expire,
    Help,
    Hold,
    Info,
    Invite,
    Join,
    NodeDemote,
    NodeDrain,
    NodeInit,
    NodeJoin,
    NodeList,
    NodePromote,
    NodeRemove,
    NodeRescue,
    NodeResume,
    NodeStart,
    Release,
    RepoCheck,
    RepoGet,
    RepoLs,
    RepoRemove,
    RepoReplace,
    RepoSync,
    RepoUpdate,
    Restore,
    SessionEnd,
    StanzaAdopt,
    StanzaCreate,
    StanzaDelete,
    StanzaUpgrade,
    Start,
    Status,
    Stop,
    Verify,
    Version,
}

/// A positional argument of a command.
#[derive(Debug, Clone, Copy)]
pub struct Argument {
    /// The name in the help.
    pub name: &'static str,
    /// Whether it must be given.
    pub required: bool,
    /// Its meaning.
    pub help: &'static str,
}

impl Argument {
    /// An argument that must be given.
    pub const fn required(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            required: true,
            help,
        }
    }

    /// An argument that may be left out.
    pub const fn optional(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            required: false,
            help,
        }
    }
}

/// The description of a command.
#[derive(Debug, Clone, Copy)]
pub struct CommandSpec {
    /// The command.
    pub command: Command,
    /// The words that call it.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// One or more paragraphs.
    pub about: &'static str,
    /// The arguments behind the name.
    pub arguments: &'static [Argument],
    /// Command lines that work as they stand, each with its effect.
    pub examples: &'static [(&'static str, &'static str)],
    /// Whether the overview leaves it out.
    pub hidden: bool,
}

impl Command {
    /// The command's entry in the table.
    pub fn spec(self) -> &'static CommandSpec {
        // COMMANDS holds every variant in order; the test `table_is_complete` keeps it so.
        &COMMANDS[self as usize]
    }

    /// The words that call it: `archive-push`, `node init`.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// The first word, as it stands in a configuration section: `[global:archive-push]`, `[global:node]`.
    pub fn section(self) -> &'static str {
        self.name().split(' ').next().unwrap_or_default()
    }

    /// The command that the words begin with, and the number of words that name it.
    pub fn from_words(words: &[&str]) -> Option<(Self, usize)> {
        COMMANDS.iter().find_map(|spec| {
            let name: Vec<&str> = spec.name.split(' ').collect();
            words.starts_with(&name).then_some((spec.command, name.len()))
        })
    }
}

impl fmt::Display for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A set of commands, such as the commands that take an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandSet(u64);

impl CommandSet {
    /// No command.
    pub const NONE: Self = Self(0);
    /// All commands.
    pub const ALL: Self = Self(u64::MAX);

    /// These commands.
    pub const fn of(commands: &[Command]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < commands.len() {
            bits |= 1_u64 << commands[at] as u32;
            at += 1;
        }
        Self(bits)
    }

    /// The commands in either set.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the command is in the set.
    pub const fn contains(self, command: Command) -> bool {
        self.0 & (1_u64 << command as u32) != 0
    }
}

/// Commands of pgBackRest that pgmesh does not have yet.
pub const NOT_YET: &[&str] = &[
    "manifest",
    "repo-create",
    "repo-put",
    "repo-rm",
    "server",
    "server-ping",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_complete() {
        for (at, spec) in COMMANDS.iter().enumerate() {
            assert_eq!(spec.command as usize, at, "{} stands in the wrong place", spec.name);
        }
        assert_eq!(COMMANDS.len(), Command::Version as usize + 1);
        assert!(COMMANDS.len() <= 64, "CommandSet has 64 bits");
        assert!(
            COMMANDS.iter().all(|spec| !spec.examples.is_empty()),
            "each command shows an example"
        );
    }

    #[test]
    fn words_name_commands() {
        assert_eq!(
            Command::from_words(&["node", "init", "x"]),
            Some((Command::NodeInit, 2))
        );
        assert_eq!(
            Command::from_words(&["archive-push", "x"]),
            Some((Command::ArchivePush, 1))
        );
        assert_eq!(Command::from_words(&["node"]), None);
        assert_eq!(
            Command::from_words(&["node", "remove", "n1"]),
            Some((Command::NodeRemove, 2))
        );
        assert_eq!(Command::NodeStart.section(), "node");
    }

    #[test]
    fn sets() {
        let set = CommandSet::of(&[Command::Annotate, Command::Version]);
        assert!(set.contains(Command::Annotate) && set.contains(Command::Version));
        assert!(!set.contains(Command::Backup) && CommandSet::ALL.contains(Command::Backup));
        assert!(set.and(CommandSet::of(&[Command::Backup])).contains(Command::Backup));
    }
}
