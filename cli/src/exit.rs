//! How the program ends: exit codes and the errors that a user reads.

pub use pgmesh_protocol::failure::chain;
use std::error::Error;
use std::fmt;

/// What a process of pgmesh returns to its caller.
///
/// The numbers are pgBackRest's, so that scripts and plugins keep working; 200 is pgmesh's own. PostgreSQL reads a
/// `restore_command` that exits 1 to 125 as "end of archive" and one above 125 as "stop recovery".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Ok = 0,
    /// `archive-get`: the segment was never archived. Only a linearizable catalog read may say so (invariant 7).
    NotFound = 1,
    /// A defect in pgmesh itself.
    Assert = 25,
    /// Bytes do not match their checksum.
    Checksum = 26,
    /// The configuration cannot be read.
    Config = 27,
    /// A file or a stored object is not what it should be.
    FileInvalid = 28,
    /// Text or bytes in a format that is not understood.
    Format = 29,
    /// An option that does not exist here, or whose value is not allowed.
    OptionInvalid = 31,
    /// An option or an argument is missing.
    OptionRequired = 37,
    /// PostgreSQL runs, and must not.
    PgRunning = 38,
    /// The other side of a connection broke the protocol.
    Protocol = 39,
    /// A directory that should be empty is not.
    PathNotEmpty = 40,
    /// A file cannot be opened, or others can read a secret in it.
    FileOpen = 41,
    /// A WAL segment belongs to another cluster or version.
    ArchiveMismatch = 44,
    /// The WAL segment is archived already with other content (invariant 3).
    ArchiveDuplicate = 45,
    /// A PostgreSQL version that pgmesh does not support.
    VersionNotSupported = 46,
    /// The command does not exist or cannot be used like this.
    CommandInvalid = 48,
    /// No node could be reached.
    HostConnect = 49,
    /// Another process holds the lock.
    LockAcquire = 50,
    /// A backup belongs to another cluster.
    BackupMismatch = 51,
    /// A file is missing.
    FileMissing = 55,
    /// PostgreSQL could not be reached.
    DbConnect = 56,
    /// PostgreSQL and the stanza disagree about the cluster.
    DbMismatch = 58,
    /// The stanza was stopped.
    Stop = 62,
    /// PostgreSQL's `archive_command` is not pgmesh's.
    ArchiveCommandInvalid = 68,
    /// The backup set asked for does not exist or cannot be used.
    BackupSetInvalid = 75,
    /// A tablespace mapping that does not fit.
    TablespaceMap = 76,
    /// A link mapping that does not fit.
    LinkMap = 78,
    /// WAL was not archived in time, or in too few repositories.
    ArchiveTimeout = 82,
    /// PostgreSQL's `archive_mode` is off.
    ArchiveDisabled = 87,
    /// A wrong passphrase, or another failure of cryptography.
    Crypto = 95,
    /// A repository is damaged, missing or declared differently.
    RepoInvalid = 103,
    /// The command failed.
    Command = 104,
    /// The operating system refused something.
    Runtime = 122,
    /// Anything else.
    Unknown = 125,
    /// `archive-get` cannot know whether the segment exists: PostgreSQL stops instead of ending recovery early
    /// (invariant 7).
    ArchiveUnknown = 200,
}

impl ExitCode {
    /// All of them.
    pub const ALL: [Self; 36] = [
        Self::Ok,
        Self::NotFound,
        Self::Assert,
        Self::Checksum,
        Self::Config,
        Self::FileInvalid,
        Self::Format,
        Self::OptionInvalid,
        Self::OptionRequired,
        Self::PgRunning,
        Self::Protocol,
        Self::PathNotEmpty,
        Self::FileOpen,
        Self::ArchiveMismatch,
        Self::ArchiveDuplicate,
        Self::VersionNotSupported,
        Self::CommandInvalid,
        Self::HostConnect,
        Self::LockAcquire,
        Self::BackupMismatch,
        Self::FileMissing,
        Self::DbConnect,
        Self::DbMismatch,
        Self::Stop,
        Self::ArchiveCommandInvalid,
        Self::BackupSetInvalid,
        Self::TablespaceMap,
        Self::LinkMap,
        Self::ArchiveTimeout,
        Self::ArchiveDisabled,
        Self::Crypto,
        Self::RepoInvalid,
        Self::Command,
        Self::Runtime,
        Self::Unknown,
        Self::ArchiveUnknown,
    ];

    /// The number that the process returns.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

/// Why a command failed, for the person in front of the terminal: what happened, why, and what to do now.
///
/// No part of it ever holds a secret (invariant 9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandError {
    /// What the process returns.
    pub code: ExitCode,
    /// What happened, as one sentence without a full stop.
    pub what: String,
    /// Why, where more is known than `what` says.
    pub cause: Option<String>,
    /// What to do now.
    pub remedy: Option<String>,
}

impl CommandError {
    /// An error with its code and its sentence.
    pub fn new(code: ExitCode, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            cause: None,
            remedy: None,
        }
    }

    /// An option that does not exist here or whose value is not allowed (31).
    pub fn option_invalid(what: impl Into<String>) -> Self {
        Self::new(ExitCode::OptionInvalid, what)
    }

    /// A missing option (37).
    pub fn option_required(option: impl fmt::Display, command: impl fmt::Display) -> Self {
        Self::new(
            ExitCode::OptionRequired,
            format!("command '{command}' needs option '{option}'"),
        )
    }

    /// A defect in pgmesh itself (25).
    pub fn assert(what: impl Into<String>) -> Self {
        Self::new(ExitCode::Assert, what).remedy("this is a defect in pgmesh: please report it with what you did")
    }

    /// The operating system refused something (122).
    pub fn runtime(what: impl Into<String>) -> Self {
        Self::new(ExitCode::Runtime, what)
    }

    /// The same error with its cause: `error` and all its sources in one line.
    #[must_use]
    pub fn because(mut self, error: &dyn Error) -> Self {
        self.cause = Some(chain(error));
        self
    }

    /// The same error with its cause in words.
    #[must_use]
    pub fn because_of(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The same error with advice, one sentence or several lines.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Code, sentence, cause and remedy over several lines, without the leading `ERROR: `: what the log gets.
    pub fn message(&self) -> String {
        let mut text = format!("[{:03}]: {}", self.code.number(), self.what);
        if let Some(cause) = &self.cause {
            text.push_str("\ncaused by: ");
            text.push_str(cause);
        }
        for line in self.remedy.iter().flat_map(|remedy| remedy.lines()) {
            text.push_str("\nHINT: ");
            text.push_str(line);
        }
        text
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ERROR: {}", self.message().replace('\n', "\n       "))
    }
}

impl Error for CommandError {}

/// Turns a library's error into a [`CommandError`] at the place that knows what was being done.
pub trait OrExit<T> {
    /// `Ok` as it is; an error as `code` and the sentence `what` with the error as its cause.
    fn or_exit<W: Into<String>>(self, code: ExitCode, what: impl FnOnce() -> W) -> Result<T, CommandError>;
}

impl<T, E: Error> OrExit<T> for Result<T, E> {
    fn or_exit<W: Into<String>>(self, code: ExitCode, what: impl FnOnce() -> W) -> Result<T, CommandError> {
        self.map_err(|error| CommandError::new(code, what()).because(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_code_cause_and_remedy() {
        let error = CommandError::new(ExitCode::ArchiveTimeout, "segment X is in 1 of 2 repositories")
            .because_of("repo2: disk full")
            .remedy("free space\nor lower archive-ack");
        assert_eq!(
            error.to_string(),
            "ERROR: [082]: segment X is in 1 of 2 repositories\n       caused by: repo2: disk full\n       \
             HINT: free space\n       HINT: or lower archive-ack"
        );
    }

    #[test]
    fn or_exit_keeps_the_whole_chain() {
        #[derive(Debug, thiserror::Error)]
        #[error("reading the label")]
        struct Outer(#[source] std::io::Error);
        let result: Result<(), _> = Err(Outer(std::io::Error::other("disk gone")));
        let error = result.or_exit(ExitCode::Runtime, || "cannot restore").unwrap_err();
        assert_eq!(error.cause.as_deref(), Some("reading the label: disk gone"));
        assert_eq!(error.code.number(), 122);
    }

    #[test]
    fn only_the_unknown_archive_stops_recovery() {
        assert!(ExitCode::ArchiveUnknown.number() > 125);
        assert!(ExitCode::Unknown.number() <= 125);
    }
}
