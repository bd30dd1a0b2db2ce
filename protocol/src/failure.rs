//! A failure as it reaches the user: what happened, why, what to do now, and the exit code.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Exit codes that a node gives; the names and numbers are pgBackRest's.
pub mod code {
    /// A bug, or an assumption that does not hold.
    pub const ASSERT: u8 = 25;
    /// Bytes are not what they should be.
    pub const CHECKSUM: u8 = 26;
    /// Configuration.
    pub const CONFIG: u8 = 27;
    /// A file or stanza that does not fit.
    pub const FILE_INVALID: u8 = 28;
    /// A format that is not understood.
    pub const FORMAT: u8 = 29;
    /// An option's value cannot be.
    pub const OPTION_INVALID: u8 = 31;
    /// An option is missing.
    pub const OPTION_REQUIRED: u8 = 37;
    /// A server runs.
    pub const PG_RUNNING: u8 = 38;
    /// The wire protocol, or a refusal by role.
    pub const PROTOCOL: u8 = 39;
    /// A file cannot be opened, or others can read a secret in it.
    pub const FILE_OPEN: u8 = 41;
    /// WAL of another cluster.
    pub const ARCHIVE_MISMATCH: u8 = 44;
    /// Other bytes under a known name.
    pub const ARCHIVE_DUPLICATE: u8 = 45;
    /// A PostgreSQL version that is not supported.
    pub const VERSION_NOT_SUPPORTED: u8 = 46;
    /// The command cannot be run as things are.
    pub const COMMAND_INVALID: u8 = 48;
    /// A node cannot be reached.
    pub const HOST_CONNECT: u8 = 49;
    /// Somebody else is at it.
    pub const LOCK_ACQUIRE: u8 = 50;
    /// A backup of another cluster.
    pub const BACKUP_MISMATCH: u8 = 51;
    /// Something is not there.
    pub const FILE_MISSING: u8 = 55;
    /// The database cannot be reached.
    pub const DB_CONNECT: u8 = 56;
    /// The database is not the stanza's.
    pub const DB_MISMATCH: u8 = 58;
    /// Stopped by `pgmesh stop`.
    pub const STOP: u8 = 62;
    /// No such backup.
    pub const BACKUP_SET_INVALID: u8 = 75;
    /// Not durable in enough repositories in time.
    pub const ARCHIVE_TIMEOUT: u8 = 82;
    /// Keys and certificates.
    pub const CRYPTO: u8 = 95;
    /// A repository cannot be used.
    pub const REPO_INVALID: u8 = 103;
    /// Anything else that went wrong at run time.
    pub const RUNTIME: u8 = 122;
}

/// A failure that a user will read, perhaps on another machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Failure {
    /// Exit code; see [`code`].
    pub code: u8,
    /// What happened to what, in a sentence without a full stop.
    pub what: String,
    /// Why, from the innermost cause.
    pub cause: Option<String>,
    /// What to do now.
    pub remedy: Option<String>,
    /// Trying again, here or at another node, may succeed: nothing was decided.
    pub again: bool,
}

impl Failure {
    /// A failure that trying again does not mend.
    pub fn new(code: u8, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            cause: None,
            remedy: None,
            again: false,
        }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Says that trying again may succeed.
    #[must_use]
    pub fn again(mut self) -> Self {
        self.again = true;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

/// The error with all its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Libraries often repeat their cause in their own message.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
