//! One option as somebody gave it, before it is known whether it counts.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::option::{OptionKey, OptionSpec};

/// Where an option's value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody gave it.
    Default,
    /// A line of a configuration file.
    File {
        /// The file.
        path: Arc<Path>,
        /// The line, counted from 1.
        line: usize,
        /// The section, without brackets.
        section: String,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// The command line.
    CommandLine,
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("the default"),
            Self::File { path, line, section } => write!(formatter, "{}:{line} in section [{section}]", path.display()),
            Self::Environment { variable } => write!(formatter, "environment variable {variable}"),
            Self::CommandLine => formatter.write_str("the command line"),
        }
    }
}

/// What was said about an option.
pub enum Given {
    /// One or more values.
    Texts(Vec<String>),
    /// `--no-config`: no value at all.
    Unset,
    /// `--reset-NAME`: the default, whatever the file and the environment say.
    Reset,
}

/// An option, what was said about it, and where. It has no `Debug`: the texts may be secrets (invariant 9).
pub struct Setting {
    /// The full name.
    pub key: OptionKey,
    /// Its entry in the table.
    pub spec: &'static OptionSpec,
    /// What was said.
    pub given: Given,
    /// Where.
    pub source: Source,
}
