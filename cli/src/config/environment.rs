//! Options from the environment: `PGMESH_REPO1_CIPHER_PASS`.

use std::ffi::OsString;

use super::command::Command;
use super::files::unknown;
use super::option::{OptionKey, Scope};
use super::setting::{GivenValue, Setting, SettingSource};
use super::table::{self, Lookup};
use crate::exit::CommandError;

/// The prefix of all variables.
pub const PREFIX: &str = "PGMESH_";

/// The variable of an option.
pub fn variable(key: OptionKey) -> String {
    format!("{PREFIX}{}", key.to_string().to_ascii_uppercase().replace('-', "_"))
}

/// The settings in the environment, and warnings about variables that name no option.
pub fn interpret(
    environment: &[(OsString, OsString)],
    command: Command,
) -> Result<(Vec<Setting>, Vec<String>), CommandError> {
    let mut settings = Vec::new();
    let mut warnings = Vec::new();
    for (variable, value) in environment {
        let Some(variable) = variable.to_str() else { continue };
        let Some(name) = variable.strip_prefix(PREFIX) else {
            continue;
        };
        let name = name.to_ascii_lowercase().replace('_', "-");
        let (key, spec) = match table::find(&name) {
            Lookup::Known(key, spec) if spec.not_yet.is_none() && spec.scope != Scope::CommandLine => (key, spec),
            Lookup::Known(_, spec) => {
                let reason = spec.not_yet.unwrap_or("the option belongs on the command line");
                warnings.push(format!("environment variable {variable} is not used: {reason}"));
                continue;
            }
            Lookup::BadNumber(spec) => {
                let title = spec.title();
                warnings.push(format!(
                    "environment variable {variable} is not used: the N in '{title}' goes from 1 to 256"
                ));
                continue;
            }
            Lookup::Unknown => {
                warnings.push(format!("environment variable {variable}: {}", unknown(&name, " as n")));
                continue;
            }
        };
        let refused = |what| CommandError::option_invalid(format!("environment variable {variable} {what}"));
        let value = value.to_str().ok_or_else(|| refused("is not UTF-8"))?;
        if value.is_empty() {
            return Err(refused("is set but empty").remedy("give it a value or unset it"));
        }
        let texts = match spec.kind_for(command).separator() {
            Some(separator) => value.split(separator).map(str::to_owned).collect(),
            None => vec![value.to_owned()],
        };
        let source = SettingSource::Environment {
            variable: variable.to_owned(),
        };
        settings.push(Setting {
            key,
            spec,
            given: GivenValue::Texts(texts),
            source,
        });
    }
    Ok((settings, warnings))
}
