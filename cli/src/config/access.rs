//! Typed access to the configuration.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::command::Command;
use super::kind::{Secret, Value};
use super::option::{IndexKey, OptionKey};
use super::setting::SettingSource;
use super::table;
use crate::exit::CommandError;

/// A value, and where it came from.
#[derive(Clone)]
pub struct Resolved {
    /// The value.
    pub value: Value,
    /// The place that gave it.
    pub source: SettingSource,
    /// Whether it must not be shown.
    pub redacted: bool,
}

/// The configuration of this run of the program: each option checked, from its most specific source.
///
/// Options are read by name. If the table does not have the name, or gives it another kind, the caller has a defect and
/// panics; a user's input never does that. An option that the command does not take has its default.
#[derive(Clone)]
pub struct Config {
    command: Command,
    arguments: Vec<OsString>,
    values: BTreeMap<OptionKey, Resolved>,
    warnings: Vec<String>,
    stanzas: Vec<String>,
    origin: Arc<Origin>,
}

/// The arguments and the environment of the program, kept to read the files again, which may have changed.
#[derive(Default)]
pub(super) struct Origin {
    pub arguments: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
}

impl Config {
    pub(super) fn new(
        command: Command,
        arguments: Vec<OsString>,
        values: BTreeMap<OptionKey, Resolved>,
        warnings: Vec<String>,
    ) -> Self {
        Self {
            command,
            arguments,
            values,
            warnings,
            stanzas: Vec::new(),
            origin: Arc::default(),
        }
    }

    pub(super) fn set_origin(&mut self, origin: Origin) {
        self.origin = Arc::new(origin);
    }

    pub(super) fn set_stanzas(&mut self, stanzas: Vec<String>) {
        self.stanzas = stanzas;
    }

    /// The stanzas that the files have a section for.
    pub fn stanzas(&self) -> &[String] {
        &self.stanzas
    }

    /// The configuration of the same call of the program with a stanza. The call must not have named a stanza itself.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn of_stanza(&self, stanza: &str) -> Result<Self, CommandError> {
        let mut arguments = vec![OsString::from(format!("--stanza={stanza}"))];
        arguments.extend_from_slice(&self.origin.arguments);
        Self::load(&arguments, &self.origin.environment)
    }

    /// The same call of the program with the present files.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn reload(&self) -> Result<Self, CommandError> {
        Self::load(&self.origin.arguments, &self.origin.environment)
    }

    /// The command to run.
    pub fn command(&self) -> Command {
        self.command
    }

    /// The arguments behind the command's name, as many as the command's entry allows.
    pub fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    /// One argument, counted from 0.
    pub fn argument(&self, at: usize) -> Option<&OsStr> {
        self.arguments.get(at).map(OsString::as_os_str)
    }

    /// Troubles of the configuration that are no errors; to be logged once.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The stanza's name, if one is given. `invite` takes several and reads `list("stanza")`.
    pub fn stanza(&self) -> Option<&str> {
        match self.value("stanza") {
            Some(Value::Text(stanza)) => Some(stanza),
            _ => None,
        }
    }

    /// A flag with a default.
    pub fn flag(&self, name: &str) -> bool {
        self.optional_flag(name).unwrap_or_else(|| no_default(name))
    }

    /// A flag without a default.
    pub fn optional_flag(&self, name: &str) -> Option<bool> {
        self.value(name).map(|value| match value {
            Value::Flag(yes) => *yes,
            _ => wrong_kind(name),
        })
    }

    /// A whole number with a default.
    pub fn integer(&self, name: &str) -> i64 {
        self.optional_integer(name).unwrap_or_else(|| no_default(name))
    }

    /// A whole number without a default.
    pub fn optional_integer(&self, name: &str) -> Option<i64> {
        self.value(name).map(|value| match value {
            Value::Integer(number) => *number,
            _ => wrong_kind(name),
        })
    }

    /// A size in bytes with a default.
    pub fn size(&self, name: &str) -> u64 {
        self.optional_size(name).unwrap_or_else(|| no_default(name))
    }

    /// A size in bytes without a default.
    pub fn optional_size(&self, name: &str) -> Option<u64> {
        self.value(name).map(|value| match value {
            Value::Size(bytes) => *bytes,
            _ => wrong_kind(name),
        })
    }

    /// A span of time.
    pub fn duration(&self, name: &str) -> Duration {
        match self.value(name) {
            Some(Value::Duration(span)) => *span,
            Some(_) => wrong_kind(name),
            None => no_default(name),
        }
    }

    /// A text, or the word of a choice.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.value(name).map(|value| match value {
            Value::Text(text) => text.as_str(),
            _ => wrong_kind(name),
        })
    }

    /// A text that this command cannot do without: error 37 if it is missing.
    pub fn required_text(&self, name: &str) -> Result<&str, CommandError> {
        self.text(name)
            .ok_or_else(|| CommandError::option_required(name, self.command))
    }

    /// A path.
    pub fn path(&self, name: &str) -> Option<&Path> {
        self.value(name).map(|value| match value {
            Value::Path(path) => path.as_path(),
            _ => wrong_kind(name),
        })
    }

    /// A path that this command cannot do without: error 37 if it is missing.
    pub fn required_path(&self, name: &str) -> Result<&Path, CommandError> {
        self.path(name)
            .ok_or_else(|| CommandError::option_required(name, self.command))
    }

    /// The values of a repeatable option; none if it is not given.
    pub fn list(&self, name: &str) -> &[String] {
        match self.value(name) {
            Some(Value::List(texts)) => texts,
            Some(_) => wrong_kind(name),
            None => &[],
        }
    }

    /// The values of a list of which this command needs at least one: error 37 if there is none.
    pub fn required_list(&self, name: &str) -> Result<&[String], CommandError> {
        match self.list(name) {
            [] => Err(CommandError::option_required(name, self.command)),
            texts => Ok(texts),
        }
    }

    /// The pairs of an option that takes `KEY=VALUE`, each key once; none if it is not given.
    pub fn map(&self, name: &str) -> &[(String, String)] {
        match self.value(name) {
            Some(Value::Map(pairs)) => pairs,
            Some(_) => wrong_kind(name),
            None => &[],
        }
    }

    /// The value of an indexed option: `indexed(IndexKey::Pg, 1, "port")`. `None` if it has neither value nor default,
    /// or if the number is not declared (pg1 always counts as declared).
    pub fn indexed(&self, index: IndexKey, number: u16, name: &str) -> Option<&Value> {
        let Some(spec) = table::indexed(index, name) else {
            unknown(name)
        };
        self.values.get(&spec.key(number)).map(|resolved| &resolved.value)
    }

    /// An indexed text.
    pub fn indexed_text(&self, index: IndexKey, number: u16, name: &str) -> Option<&str> {
        self.indexed(index, number, name).map(|value| match value {
            Value::Text(text) => text.as_str(),
            _ => wrong_kind(name),
        })
    }

    /// An indexed path.
    pub fn indexed_path(&self, index: IndexKey, number: u16, name: &str) -> Option<&Path> {
        self.indexed(index, number, name).map(|value| match value {
            Value::Path(path) => path.as_path(),
            _ => wrong_kind(name),
        })
    }

    /// An indexed whole number.
    pub fn indexed_integer(&self, index: IndexKey, number: u16, name: &str) -> Option<i64> {
        self.indexed(index, number, name).map(|value| match value {
            Value::Integer(number) => *number,
            _ => wrong_kind(name),
        })
    }

    /// An indexed secret.
    pub fn indexed_secret(&self, index: IndexKey, number: u16, name: &str) -> Option<&Secret> {
        self.indexed(index, number, name).map(|value| match value {
            Value::Secret(secret) => secret,
            _ => wrong_kind(name),
        })
    }

    /// `pg1-path`.
    pub fn pg_path(&self) -> Option<&Path> {
        self.indexed_path(IndexKey::Pg, 1, "path")
    }

    /// `pg1-path` for a command that cannot do without it: error 37 if it is missing.
    pub fn required_pg_path(&self) -> Result<PathBuf, CommandError> {
        let path = self
            .pg_path()
            .ok_or_else(|| CommandError::option_required("pg1-path", self.command))?;
        Ok(path.to_owned())
    }

    /// The declared numbers of a group's members, and always 1 for PostgreSQL clusters.
    pub fn numbers(&self, index: IndexKey) -> Vec<u16> {
        let mut numbers: Vec<u16> = self
            .values
            .keys()
            .filter(|key| table::indexed(index, key.name).is_some_and(|spec| !spec.policy))
            .filter_map(|key| key.index)
            .filter(|(other, _)| *other == index)
            .map(|(_, n)| n)
            .collect();
        numbers.dedup();
        numbers
    }

    /// The numbers for which a file, the environment or the command line says how much is kept.
    pub fn numbers_of_policies(&self, index: IndexKey) -> Vec<u16> {
        let given = self
            .values
            .iter()
            .filter(|(_, resolved)| resolved.source != SettingSource::Default);
        let policies = given.filter(|(key, _)| table::indexed(index, key.name).is_some_and(|spec| spec.policy));
        let mut numbers: Vec<u16> = policies.filter_map(|(key, _)| key.index).map(|(_, n)| n).collect();
        numbers.dedup();
        numbers
    }

    /// The value of an option that says how much a repository keeps, `name` without `repoN-`.
    pub fn kept(&self, number: u16, name: &str) -> Option<&Value> {
        let Some(spec) = table::indexed(IndexKey::Repo, name).filter(|spec| spec.policy) else {
            unknown(name)
        };
        self.values.get(&spec.key(number)).map(|resolved| &resolved.value)
    }

    /// The source of an option's value, by the option's full name (`process-max`, `repo1-path`).
    pub fn source_of(&self, name: &str) -> SettingSource {
        let table::Lookup::Known(key, _) = table::find(name) else {
            unknown(name)
        };
        self.values
            .get(&key)
            .map_or(SettingSource::Default, |resolved| resolved.source.clone())
    }

    /// Whether an option, by its full name, has a value from the file, the environment or the command line.
    pub fn is_given(&self, name: &str) -> bool {
        self.source_of(name) != SettingSource::Default
    }

    pub(super) fn values(&self) -> impl Iterator<Item = (&OptionKey, &Resolved)> {
        self.values.iter()
    }

    fn value(&self, name: &str) -> Option<&Value> {
        let Some(spec) = table::plain(name).filter(|spec| spec.not_yet.is_none()) else {
            unknown(name)
        };
        self.values.get(&spec.key(0)).map(|resolved| &resolved.value)
    }
}

fn unknown(name: &str) -> ! {
    panic!("the table has no option '{name}'")
}

fn wrong_kind(name: &str) -> ! {
    panic!("option '{name}' is of another kind")
}

fn no_default<T>(name: &str) -> T {
    panic!("option '{name}' has no default")
}

/// Shows the given options; secrets, tokens and recovery settings as `<redacted>` (invariant 9).
impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Config");
        shown.field("command", &self.command.name());
        if matches!(self.command, Command::Join | Command::NodeJoin) {
            shown.field("arguments", &"<redacted>");
        } else {
            shown.field("arguments", &self.arguments);
        }
        for (key, resolved) in self
            .values
            .iter()
            .filter(|(_, resolved)| resolved.source != SettingSource::Default)
        {
            let value: &dyn fmt::Debug = if resolved.redacted {
                &"<redacted>"
            } else {
                &resolved.value
            };
            shown.field(&key.to_string(), value);
        }
        shown.finish_non_exhaustive()
    }
}
