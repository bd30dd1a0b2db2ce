//! A failure as it reaches the user: what happened, why, what to do now, and the exit code.

use crate::ExitCode;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A failure that a user will read, perhaps on another machine.
///
/// ```
/// use pgmesh_protocol::{ExitCode, Failure};
///
/// let failure = Failure::new(ExitCode::FileMissing, "backup 20250215-020001F is not there")
///     .because("it was removed")
///     .remedy("'pgmesh info' lists the backups");
/// assert_eq!(failure.code.number(), 55);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Failure {
    /// How the program ends.
    pub code: ExitCode,
    /// The event and its object, in a sentence without a full stop: `chunk 1f… cannot be read`.
    pub what: String,
    /// Why, from the innermost cause.
    pub cause: Option<String>,
    /// The user's next step.
    pub remedy: Option<String>,
    /// Trying again, here or at another node, may succeed: nothing was decided.
    pub again: bool,
}

impl Failure {
    /// A failure that trying again does not mend.
    pub fn new(code: ExitCode, what: impl Into<String>) -> Self {
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

    /// Adds the user's next step.
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
