//! One option from one source, before it is known whether it counts.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::option::{OptionKey, OptionSpec};

/// The source of an option's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingSource {
    /// The table: no source gave the option.
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

impl fmt::Display for SettingSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("the default"),
            Self::File { path, line, section } => write!(formatter, "{}:{line} in section [{section}]", path.display()),
            Self::Environment { variable } => write!(formatter, "environment variable {variable}"),
            Self::CommandLine => formatter.write_str("the command line"),
        }
    }
}

/// The value of a setting.
pub enum GivenValue {
    /// One or more values.
    Texts(Vec<String>),
    /// `--no-config`: no value at all.
    Unset,
    /// `--reset-NAME`: the default instead of the values in the file and the environment.
    Reset,
}

/// An option, its value, and the source. It has no `Debug`: the texts may be secrets (invariant 9).
pub struct Setting {
    /// The full name.
    pub key: OptionKey,
    /// The option's entry in the table.
    pub spec: &'static OptionSpec,
    /// The value.
    pub given: GivenValue,
    /// The source.
    pub source: SettingSource,
}
