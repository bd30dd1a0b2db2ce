//! How the program ends: the errors that a user reads.

pub use pgmesh_protocol::ExitCode;
pub use pgmesh_protocol::failure::chain;
use std::error::Error;
use std::fmt;

/// The failure of a command, for the person in front of the terminal: the event, its cause, and the advice.
///
/// No part of it ever holds a secret (invariant 9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandError {
    /// The process's exit code.
    pub code: ExitCode,
    /// The event, as one sentence without a full stop.
    pub what: String,
    /// The reason, if more is known than `what` says.
    pub cause: Option<String>,
    /// The advice.
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

    /// An unknown option, or a value that is not allowed (31).
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

    /// The operating system refused a request (122).
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

    /// Code, sentence, cause and remedy over several lines, without the leading `ERROR: `: the text for the log.
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

/// Turns a library's error into a [`CommandError`] at the place that knows the operation.
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
}
