//! Reading configuration files, and the meaning of their lines for one command.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::command::{COMMANDS, Command, NOT_YET};
use super::ini::{self, Entry};
use super::option::{OptionKey, Scope};
use super::setting::{GivenValue, Setting, SettingSource};
use super::suggest::nearest;
use super::table::{self, Lookup};
use crate::exit::{CommandError, ExitCode, OrExit};

/// A configuration file's path and lines.
pub struct ConfigFile {
    path: Arc<Path>,
    entries: Vec<Entry>,
}

/// The meaning of the files for one command and stanza.
pub struct FromFiles {
    /// The settings for the command, the most specific section last.
    pub settings: Vec<Setting>,
    /// The warnings for the user, each with file and line.
    pub warnings: Vec<String>,
    /// The stanzas that have a section.
    pub stanzas: Vec<String>,
}

/// Reads one file. `None` when it does not exist and need not.
pub fn read(path: &Path, must_exist: bool) -> Result<Option<ConfigFile>, CommandError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => return Ok(None),
        Err(error) => return Err(unreadable(path, &error)),
    };
    Ok(Some(ConfigFile {
        path: Arc::from(path),
        entries: ini::parse(path, &text)?,
    }))
}

/// Reads every `*.conf` of a directory in the order of their names.
pub fn read_directory(directory: &Path, must_exist: bool) -> Result<Vec<ConfigFile>, CommandError> {
    let listing = match std::fs::read_dir(directory) {
        Ok(listing) => listing,
        Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(directory, &error)),
    };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in listing {
        let entry = entry.or_exit(ExitCode::Config, || format!("cannot list {}", directory.display()))?;
        paths.push(entry.path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        files.extend(read(&path, true)?);
    }
    Ok(files)
}

fn unreadable(path: &Path, error: &std::io::Error) -> CommandError {
    let code = if error.kind() == ErrorKind::NotFound {
        ExitCode::FileMissing
    } else {
        ExitCode::Config
    };
    CommandError::new(code, format!("cannot read the configuration in {}", path.display()))
        .because(error)
        .remedy("check --config, --config-include-path, PGMESH_CONFIG and the permissions of the path")
}

/// How specific a section is for a command and stanza; `None` if the section is for others.
fn rank(section: &str, command: Command, stanza: Option<&str>) -> Option<u8> {
    let (name, for_command) = match section.split_once(':') {
        Some((name, word)) => (name, Some(word)),
        None => (section, None),
    };
    if for_command.is_some_and(|word| word != command.section()) {
        return None;
    }
    let by_command = u8::from(for_command.is_some());
    match name {
        "global" => Some(by_command),
        _ if Some(name) == stanza => Some(2 + by_command),
        _ => None,
    }
}

/// The settings of the files for a command and stanza. [global], [global:COMMAND], [STANZA], [STANZA:COMMAND]: the most
/// specific section that names an option wins as a whole, also for options that make lists.
pub fn interpret(files: &[ConfigFile], command: Command, stanza: Option<&str>) -> FromFiles {
    let mut by_rank: BTreeMap<(u8, OptionKey), Setting> = BTreeMap::new();
    let mut found = FromFiles {
        settings: Vec::new(),
        warnings: Vec::new(),
        stanzas: Vec::new(),
    };
    for file in files {
        for entry in &file.entries {
            found.note_section(file, entry);
            let Some((key, spec)) = found.known_option(file, entry) else {
                continue;
            };
            let Some(rank) = rank(&entry.section, command, stanza) else {
                continue;
            };
            let setting = Setting {
                key,
                spec,
                given: GivenValue::Texts(vec![entry.value.clone()]),
                source: SettingSource::File {
                    path: file.path.clone(),
                    line: entry.line,
                    section: entry.section.clone(),
                },
            };
            found.warnings.extend(merge(&mut by_rank, rank, setting, command));
        }
    }
    found.settings = by_rank.into_values().collect();
    found
}

/// Adds a line to the earlier lines of its section: a list grows, any other value is replaced.
fn merge(
    by_rank: &mut BTreeMap<(u8, OptionKey), Setting>,
    rank: u8,
    setting: Setting,
    command: Command,
) -> Option<String> {
    let Some(earlier) = by_rank.get_mut(&(rank, setting.key)) else {
        by_rank.insert((rank, setting.key), setting);
        return None;
    };
    if setting.spec.kind_for(command).is_repeatable()
        && let (GivenValue::Texts(texts), GivenValue::Texts(more)) = (&mut earlier.given, &setting.given)
    {
        texts.extend(more.iter().cloned());
        return None;
    }
    let same_file = matches!((&earlier.source, &setting.source),
        (SettingSource::File { path: one, .. }, SettingSource::File { path: other, .. }) if one == other);
    let warning = same_file.then(|| {
        format!(
            "option '{}' is given twice: {} replaces {}",
            setting.key, setting.source, earlier.source
        )
    });
    *earlier = setting;
    warning
}

impl FromFiles {
    /// Remembers stanzas and warns about sections for commands that do not exist, once for each.
    fn note_section(&mut self, file: &ConfigFile, entry: &Entry) {
        let (name, word) = match entry.section.split_once(':') {
            Some((name, word)) => (name, Some(word)),
            None => (entry.section.as_str(), None),
        };
        if name != "global" && !self.stanzas.iter().any(|known| known == name) {
            self.stanzas.push(name.to_owned());
        }
        let Some(word) = word else { return };
        if COMMANDS.iter().any(|spec| spec.command.section() == word) {
            return;
        }
        let place = format!("{}: section [{}]", file.path.display(), entry.section);
        let warning = if NOT_YET.contains(&word) {
            format!("{place} is not used: pgmesh has no command '{word}'")
        } else {
            let hint = nearest(word, COMMANDS.iter().map(|spec| spec.command.section()));
            let hint = hint.map_or(String::new(), |name| format!("; did you mean '{name}'?"));
            format!("{place} is not used: there is no command '{word}'{hint}")
        };
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// The option that a line sets, or a warning.
    fn known_option(
        &mut self,
        file: &ConfigFile,
        entry: &Entry,
    ) -> Option<(OptionKey, &'static super::option::OptionSpec)> {
        let place = format!("{}:{}", file.path.display(), entry.line);
        match table::find(&entry.key) {
            Lookup::Known(key, spec) if spec.not_yet.is_none() && spec.scope == Scope::Anywhere => Some((key, spec)),
            Lookup::Known(key, spec) => {
                let reason = spec
                    .not_yet
                    .unwrap_or("it belongs on the command line or in the environment");
                self.warnings
                    .push(format!("{place}: option '{key}' is not used: {reason}"));
                None
            }
            Lookup::BadNumber(spec) => {
                let title = spec.title();
                self.warnings.push(format!(
                    "{place}: option '{}' is not used: the N in '{title}' goes from 1 to 256",
                    entry.key
                ));
                None
            }
            Lookup::Unknown => {
                self.warnings.push(format!("{place}: {}", unknown(&entry.key, "=n")));
                None
            }
        }
    }
}

/// The sentence for an unknown option in a file or in the environment.
pub fn unknown(name: &str, negation: &str) -> String {
    let hint = match name.strip_prefix("no-").map(table::find) {
        Some(Lookup::Known(key, _)) => Some(format!("write '{key}{negation}' instead")),
        _ => table::suggest(name).map(|other| format!("did you mean '{other}'?")),
    };
    // The text before `=` may be a secret in the wrong place; it is repeated only if it looks like a name.
    let looks_like_a_name = name.len() <= 40 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let name = if looks_like_a_name {
        format!("option '{name}'")
    } else {
        "an option".to_owned()
    };
    format!(
        "{name} does not exist and is not used{}",
        hint.map_or(String::new(), |hint| format!("; {hint}"))
    )
}
