//! From the settings of all sources to one value for each option.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::access::{Config, Origin, Resolved};
use super::command::Command;
use super::command_line::{self, CommandLine};
use super::files::{self, ConfigFile};
use super::kind::{Kind, Secret, Value};
use super::option::{IndexKey, OptionKey, OptionSpec, Scope, Secrecy};
use super::setting::{GivenValue, Setting, SettingSource};
use super::{environment, table};
use crate::exit::{CommandError, ExitCode};

impl Config {
    /// Reads the command line (the program's name left out), the environment and the files that they name.
    ///
    /// # Errors
    /// 27 or 55 for a file that cannot be read, 31 for an option or value that is not allowed, 37 for a missing one, 48
    /// for a command that does not exist.
    pub fn load(arguments: &[OsString], environment: &[(OsString, OsString)]) -> Result<Self, CommandError> {
        let origin = Origin {
            arguments: arguments.to_vec(),
            environment: environment.to_vec(),
        };
        let CommandLine {
            command,
            arguments,
            settings,
        } = command_line::parse(arguments)?;
        if matches!(command, Command::Help | Command::Version | Command::Completions) {
            // Help and version must work when a file is broken, to help repairing it.
            return Loader::new(command, settings).finish(arguments);
        }
        let (from_environment, warnings) = environment::interpret(environment, command)?;
        let mut loader = Loader::new(command, from_environment);
        loader.warnings = warnings;
        loader.add(settings);
        loader.read_files()?;
        let mut config = loader.finish(arguments)?;
        config.set_origin(origin);
        Ok(config)
    }
}

/// Collects settings until all sources are read.
struct Loader {
    command: Command,
    /// The winning setting so far for each option.
    settings: BTreeMap<OptionKey, Setting>,
    warnings: Vec<String>,
    /// Sections of the file that name stanzas.
    stanzas: Vec<String>,
}

impl Loader {
    fn new(command: Command, settings: Vec<Setting>) -> Self {
        let mut loader = Self {
            command,
            settings: BTreeMap::new(),
            warnings: Vec::new(),
            stanzas: Vec::new(),
        };
        loader.add(settings);
        loader
    }

    /// Adds settings that win over the present ones.
    fn add(&mut self, settings: Vec<Setting>) {
        self.settings
            .extend(settings.into_iter().map(|setting| (setting.key, setting)));
    }

    /// Adds the settings of the files, which lose against the present ones. Within the files, the settings of a more
    /// specific section come later and win.
    fn read_files(&mut self) -> Result<(), CommandError> {
        let files = self.open_files()?;
        let stanza = match self.value_of(required_spec("stanza"))? {
            Some(Value::Text(stanza)) => Some(stanza),
            _ => None,
        };
        let found = files::interpret(&files, self.command, stanza.as_deref());
        let stronger = std::mem::take(&mut self.settings);
        self.add(found.settings);
        self.settings.extend(stronger);
        self.warnings.extend(found.warnings);
        self.stanzas = found.stanzas;
        Ok(())
    }

    fn open_files(&self) -> Result<Vec<ConfigFile>, CommandError> {
        let config = required_spec("config");
        let include = required_spec("config-include-path");
        let named = self.settings.contains_key(&config.key(0));
        let include_named = self.settings.contains_key(&include.key(0));
        let mut files = Vec::new();
        if let Some(path) = self.path_of(config)? {
            files.extend(files::read(&path, named)?);
        }
        if (!named || include_named)
            && let Some(directory) = self.path_of(include)?
        {
            files.extend(files::read_directory(&directory, include_named)?);
        }
        Ok(files)
    }

    fn path_of(&self, spec: &'static OptionSpec) -> Result<Option<PathBuf>, CommandError> {
        Ok(match self.value_of(spec)? {
            Some(Value::Path(path)) => Some(path),
            _ => None,
        })
    }

    /// The value of an option without a number, from the settings so far.
    fn value_of(&self, spec: &'static OptionSpec) -> Result<Option<Value>, CommandError> {
        Ok(resolve(self.command, spec, self.settings.get(&spec.key(0)))?.map(|resolved| resolved.value))
    }

    /// Values for all options, or the first error: a value that is not allowed, or a missing option.
    fn finish(self, arguments: Vec<OsString>) -> Result<Config, CommandError> {
        let mut values = BTreeMap::new();
        for spec in table::all().filter(|spec| spec.not_yet.is_none()) {
            for number in self.numbers(spec) {
                let key = spec.key(number);
                // An option that the command does not take has its default, since shared helpers read it all the same.
                let setting = self.settings.get(&key).filter(|_| spec.is_for(self.command));
                match resolve(self.command, spec, setting)? {
                    Some(resolved) => drop(values.insert(key, resolved)),
                    None if spec.required.contains(self.command) && !self.is_spared(key) => {
                        return Err(self.missing(key, spec));
                    }
                    None => {}
                }
            }
        }
        refuse_open_secrets(&values)?;
        let mut config = Config::new(self.command, arguments, values, self.warnings);
        config.set_stanzas(self.stanzas);
        config.check_repositories()?;
        Ok(config)
    }

    /// Whether the command can do without an option of a cluster that is otherwise required. All commands but `backup`
    /// are about pg1, and `backup` needs no files of a cluster on another host.
    fn is_spared(&self, key: OptionKey) -> bool {
        let Some((IndexKey::Pg, number)) = key.index else {
            return false;
        };
        if self.command != Command::Backup {
            return number != 1;
        }
        let host = table::indexed(IndexKey::Pg, "host").map(|spec| spec.key(number));
        host.is_some_and(|host| self.settings.contains_key(&host))
    }

    /// The numbers of an option's group: the declared ones, and pg1 always. How much is kept may also be said of a
    /// repository that this host's files do not declare.
    fn numbers(&self, spec: &OptionSpec) -> BTreeSet<u16> {
        let Some(index) = spec.index else {
            return BTreeSet::from([0]);
        };
        let declared = self
            .settings
            .values()
            .filter(|setting| spec.policy || !setting.spec.policy);
        let declared = declared.filter_map(|setting| setting.key.index);
        let mut numbers: BTreeSet<u16> = declared
            .filter(|(other, _)| *other == index)
            .map(|(_, number)| number)
            .collect();
        if index == IndexKey::Pg {
            numbers.insert(1);
        }
        numbers
    }

    fn missing(&self, key: OptionKey, spec: &OptionSpec) -> CommandError {
        let error = CommandError::option_required(key, self.command);
        let stanza = match self
            .settings
            .get(&required_spec("stanza").key(0))
            .map(|setting| &setting.given)
        {
            Some(GivenValue::Texts(texts)) => texts.last(),
            _ => None,
        };
        match stanza {
            Some(stanza) if spec.index == Some(IndexKey::Pg) && !self.stanzas.contains(stanza) => {
                let known = if self.stanzas.is_empty() {
                    "none".to_owned()
                } else {
                    self.stanzas.join(", ")
                };
                error
                    .because_of(format!(
                        "the configuration has no section [{stanza}]; it has sections for: {known}"
                    ))
                    .remedy(format!("check --stanza and --config, or add [{stanza}] with {key}=…"))
            }
            _ if spec.scope == Scope::Anywhere => error.remedy(format!("for example: {}", spec.example)),
            _ => error.remedy(format!("give it on the command line: {}", spec.example)),
        }
    }
}

/// Refuses a file with a secret that every user may read. Its group may read it: packages install such files for the
/// group of the service.
fn refuse_open_secrets(values: &BTreeMap<OptionKey, Resolved>) -> Result<(), CommandError> {
    for (key, resolved) in values {
        let (Value::Secret(_), SettingSource::File { path, .. }) = (&resolved.value, &resolved.source) else {
            continue;
        };
        // The file is gone since it was read, so no user can read it.
        let Ok(metadata) = std::fs::metadata(path) else {
            continue;
        };
        if metadata.mode() & 0o007 != 0 {
            let what = format!("{} holds a secret ({key}), and everybody may read it", path.display());
            return Err(CommandError::new(ExitCode::Config, what)
                .because_of(format!("its mode is {:03o}", metadata.mode() & 0o777))
                .remedy(format!(
                    "'chmod o= {}', or keep the secret elsewhere: repoN-cipher-pass-file, repoN-cipher-pass-command",
                    path.display()
                )));
        }
    }
    Ok(())
}

/// An option that this module itself needs.
fn required_spec(name: &str) -> &'static OptionSpec {
    match table::plain(name) {
        Some(spec) => spec,
        None => panic!("the table has no option '{name}'"),
    }
}

/// The value that a setting gives, or the default.
fn resolve(
    command: Command,
    spec: &'static OptionSpec,
    setting: Option<&Setting>,
) -> Result<Option<Resolved>, CommandError> {
    let (texts, source) = match setting {
        Some(Setting {
            given: GivenValue::Unset,
            ..
        }) => return Ok(None),
        Some(Setting {
            given: GivenValue::Texts(texts),
            source,
            ..
        }) => (texts.clone(), source.clone()),
        Some(Setting {
            given: GivenValue::Reset,
            ..
        })
        | None => match spec.default_for(command) {
            Some(default) => (vec![default.to_owned()], SettingSource::Default),
            None => return Ok(None),
        },
    };
    let key = setting.map_or_else(|| spec.key(1), |setting| setting.key);
    let accepted = spec
        .check
        .is_none_or(|check| texts.iter().all(|text| (check.accepts)(text)));
    let value = spec.kind_for(command).parse(&texts).filter(|_| accepted);
    let value = value.ok_or_else(|| invalid(command, key, spec, &texts, &source))?;
    let value = match (spec.secrecy, value) {
        (Secrecy::Secret, Value::Text(text)) => Value::Secret(Secret::new(text)),
        (_, value) => value,
    };
    Ok(Some(Resolved {
        value,
        source,
        redacted: spec.secrecy != Secrecy::Open,
    }))
}

fn invalid(
    command: Command,
    key: OptionKey,
    spec: &OptionSpec,
    texts: &[String],
    source: &SettingSource,
) -> CommandError {
    if spec.policy {
        return invalid_policy(
            key,
            spec.kind_for(command),
            texts.last().map_or("", String::as_str),
            spec.allowed(command),
        );
    }
    let value = match spec.secrecy {
        Secrecy::Open => format!("'{}'", texts.join("', '")),
        Secrecy::Redacted | Secrecy::Secret => "the value given".to_owned(),
    };
    CommandError::option_invalid(format!("option '{key}': {value} is not allowed"))
        .because_of(format!("given by {source}"))
        .remedy(format!("allowed: {}", spec.allowed(command)))
}

/// The refusal of a value of retention, in pgBackRest's words.
fn invalid_policy(key: OptionKey, kind: Kind, text: &str, allowed: String) -> CommandError {
    let error = |what| CommandError::new(ExitCode::OptionInvalidValue, what);
    match kind {
        Kind::Integer { min, max } if text.parse::<i64>().is_ok() => {
            error(format!("'{text}' is out of range for '{key}' option"))
                .remedy(format!("allowed range is {min} to {max} inclusive"))
        }
        Kind::Choice(_) => {
            error(format!("'{text}' is not allowed for '{key}' option")).remedy(format!("allowed values are {allowed}"))
        }
        _ => error(format!("'{text}' is not valid for '{key}' option")).remedy(format!("allowed: {allowed}")),
    }
}
