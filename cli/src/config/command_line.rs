//! The command line, read by clap from the tables of options and commands.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};

use super::command::{COMMANDS, Command, NOT_YET};
use super::kind::Kind;
use super::option::{OptionKey, OptionSpec, Secrecy};
use super::setting::{GivenValue, Setting, SettingSource};
use super::suggest::nearest;
use super::table::{self, Lookup};
use crate::exit::{CommandError, ExitCode};

const WORDS: &str = "words";
const HELP: &str = "help";
const VERSION: &str = "version";

/// The parsed command line. It has no `Debug`: an argument may be a token.
pub struct CommandLine {
    /// The command.
    pub command: Command,
    /// The arguments behind the command's name, without options.
    pub arguments: Vec<OsString>,
    /// The options.
    pub settings: Vec<Setting>,
}

/// Reads the arguments, the program's name left out. Options and command may stand in any order.
pub fn parse(arguments: &[OsString]) -> Result<CommandLine, CommandError> {
    let mentioned = mentioned(arguments);
    let matches = definition(&mentioned)
        .try_get_matches_from(arguments)
        .map_err(|error| explain(&error))?;
    let words: Vec<OsString> = matches.get_many(WORDS).into_iter().flatten().cloned().collect();
    if matches.get_flag(VERSION) {
        return Ok(CommandLine {
            command: Command::Version,
            arguments: Vec::new(),
            settings: Vec::new(),
        });
    }
    if matches.get_flag(HELP) || arguments.is_empty() {
        return Ok(help_for(&words));
    }
    let (command, used) = command_of(&words)?;
    let arguments: Vec<OsString> = words.into_iter().skip(used).collect();
    check_arguments(command, &arguments)?;
    let mut settings = Vec::new();
    for (key, spec) in mentioned {
        settings.extend(setting(&matches, key, spec, command)?);
    }
    Ok(CommandLine {
        command,
        arguments,
        settings,
    })
}

/// `pgmesh backup --help` is `pgmesh help backup`.
fn help_for(words: &[OsString]) -> CommandLine {
    let texts: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let arguments = match Command::from_words(&texts) {
        Some((Command::Help, _)) => words.iter().skip(1).cloned().collect(),
        Some((_, used)) => words.iter().take(used).cloned().collect(),
        None => words.iter().take(1).cloned().collect(),
    };
    CommandLine {
        command: Command::Help,
        arguments,
        settings: Vec::new(),
    }
}

/// The options that the arguments name. Only these are declared to clap: there are 256 possible repositories, and a
/// short command such as archive-push should not spend its time on options that are not given.
fn mentioned(arguments: &[OsString]) -> Vec<(OptionKey, &'static OptionSpec)> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for argument in arguments.iter().filter_map(|argument| argument.to_str()) {
        let Some(name) = argument.strip_prefix("--") else {
            continue;
        };
        let name = name.split('=').next().unwrap_or_default();
        let names = [Some(name), name.strip_prefix("no-"), name.strip_prefix("reset-")];
        for name in names.into_iter().flatten() {
            if let Lookup::Known(key, spec) = table::find(name)
                && spec.not_yet.is_none()
                && seen.insert(key)
            {
                found.push((key, spec));
            }
        }
    }
    found
}

fn definition(options: &[(OptionKey, &'static OptionSpec)]) -> clap::Command {
    let mut command = clap::Command::new("pgmesh")
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .args_override_self(true)
        .arg(Arg::new(HELP).long(HELP).short('h').action(ArgAction::SetTrue))
        .arg(Arg::new(VERSION).long(VERSION).short('V').action(ArgAction::SetTrue))
        .arg(Arg::new(WORDS).num_args(0..).value_parser(ValueParser::os_string()));
    for (key, spec) in options {
        command = command.args(option_arguments(*key, spec));
    }
    command
}

/// The arguments of one option: itself, `--no-…` if it can be negated, and `--reset-…`.
fn option_arguments(key: OptionKey, spec: &OptionSpec) -> Vec<Arg> {
    let name = key.to_string();
    let itself = Arg::new(name.clone()).long(name.clone()).action(ArgAction::Append);
    let itself = itself.value_parser(ValueParser::os_string());
    let itself = match spec.kind {
        kind if kind.is_switch() => itself.num_args(0..=1).require_equals(true).default_missing_value("y"),
        Kind::Integer { .. } => itself.num_args(1).allow_negative_numbers(true),
        _ => itself.num_args(1),
    };
    let switch = |prefix: &str| {
        let name = format!("{prefix}{name}");
        Arg::new(name.clone()).long(name).action(ArgAction::Count)
    };
    let old = spec.old.filter(|_| key.index.is_some_and(|(_, number)| number == 1));
    let (itself, reset) = match old {
        Some(old) => (itself.alias(old), switch("reset-").alias(format!("reset-{old}"))),
        None => (itself, switch("reset-")),
    };
    let mut arguments = vec![itself, reset];
    if is_negatable(spec) {
        arguments.push(switch("no-"));
    }
    arguments
}

/// Whether `--no-NAME` exists.
pub fn is_negatable(spec: &OptionSpec) -> bool {
    spec.kind.is_switch() || spec.name == "config"
}

/// The setting of one option. As in pgBackRest, an option that is given twice is refused, since nothing tells which of
/// two stanzas is meant. Only a list may be given several times.
fn setting(
    matches: &ArgMatches,
    key: OptionKey,
    spec: &'static OptionSpec,
    command: Command,
) -> Result<Option<Setting>, CommandError> {
    let name = key.to_string();
    let position = |id: &str| {
        // An option that cannot be negated has no argument `--no-…`; that counts as not given.
        let given =
            matches.try_contains_id(id).unwrap_or(false) && matches.value_source(id) == Some(ValueSource::CommandLine);
        given.then(|| matches.indices_of(id).and_then(Iterator::max)).flatten()
    };
    let forms = [name.clone(), format!("no-{name}"), format!("reset-{name}")];
    let Some((_, form)) = forms
        .iter()
        .enumerate()
        .filter_map(|(at, id)| Some((position(id)?, at)))
        .max()
    else {
        return Ok(None);
    };
    check_allowed(key, spec, command)?;
    let count = |id: &String| {
        let values = matches.try_get_occurrences::<OsString>(id).ok().flatten();
        let switches = matches.try_get_one::<u8>(id).ok().flatten();
        values.map_or(0, Iterator::count) + switches.map_or(0, |count| usize::from(*count))
    };
    let times: Vec<usize> = forms.iter().map(count).collect();
    let is_repeated = times.iter().sum::<usize>() > 1;
    let only_itself = times.iter().skip(1).all(|times| *times == 0);
    if is_repeated && !(spec.kind_for(command).is_repeatable() && only_itself) {
        let what = format!("option '{name}' cannot be set multiple times");
        return Err(CommandError::option_invalid(what).remedy("give it once"));
    }
    let given = match (form, spec.kind) {
        (0, kind) => GivenValue::Texts(texts(matches, &name, kind)?),
        (1, kind) if kind.is_switch() => GivenValue::Texts(vec!["n".to_owned()]),
        (1, _) => GivenValue::Unset,
        _ => GivenValue::Reset,
    };
    if form == 0 && spec.secrecy == Secrecy::Secret {
        return Err(secret_refused(key));
    }
    Ok(Some(Setting {
        key,
        spec,
        given,
        source: SettingSource::CommandLine,
    }))
}

fn texts(matches: &ArgMatches, name: &str, kind: Kind) -> Result<Vec<String>, CommandError> {
    let mut texts = Vec::new();
    for value in matches.get_many::<OsString>(name).into_iter().flatten() {
        let text = value
            .to_str()
            .ok_or_else(|| CommandError::option_invalid(format!("option '{name}' on the command line is not UTF-8")))?;
        texts.push(text.to_owned());
    }
    if !kind.is_repeatable() && texts.is_empty() {
        texts.push("y".to_owned());
    }
    Ok(texts)
}

fn check_allowed(key: OptionKey, spec: &OptionSpec, command: Command) -> Result<(), CommandError> {
    if spec.is_for(command) {
        return Ok(());
    }
    let takers: Vec<&str> = COMMANDS
        .iter()
        .filter(|other| spec.is_for(other.command) && !other.hidden)
        .map(|other| other.name)
        .collect();
    Err(
        CommandError::option_invalid(format!("option '{key}' is not for command '{command}'"))
            .remedy(format!("commands that take it: {}", takers.join(", "))),
    )
}

/// Invariant 9: other users can read a secret on the command line in the process title.
fn secret_refused(key: OptionKey) -> CommandError {
    CommandError::option_invalid(format!(
        "option '{key}' is a secret and not allowed on the command line"
    ))
    .because_of("every user of this host can read the arguments of a process")
    .remedy(format!(
        "put it in the configuration file or in {}",
        super::environment::variable(key)
    ))
}

fn command_of(words: &[OsString]) -> Result<(Command, usize), CommandError> {
    let texts: Vec<&str> = words
        .iter()
        .take(2)
        .map(|word| word.to_str().unwrap_or_default())
        .collect();
    if let Some(found) = Command::from_words(&texts) {
        return Ok(found);
    }
    let error = |what: String| CommandError::new(ExitCode::CommandInvalid, what);
    let Some(word) = texts.first() else {
        return Err(error("there is no command".into()).remedy("`pgmesh help` shows them all"));
    };
    if *word == "node" {
        let words: Vec<&str> = COMMANDS
            .iter()
            .filter_map(|spec| spec.name.strip_prefix("node "))
            .collect();
        let what = format!(
            "command 'node' needs one of these words behind it: {}",
            words.join(", ")
        );
        return Err(error(what).remedy("see `pgmesh help`"));
    }
    if NOT_YET.contains(word) {
        return Err(error(format!("pgmesh does not have pgBackRest's command '{word}'")).remedy("see `pgmesh help`"));
    }
    let near = nearest(word, COMMANDS.iter().filter(|spec| !spec.hidden).map(|spec| spec.name));
    let remedy = near.map_or_else(
        || "`pgmesh help` shows them all".to_owned(),
        |name| format!("did you mean '{name}'?"),
    );
    Err(error(format!("there is no command '{word}'")).remedy(remedy))
}

fn check_arguments(command: Command, arguments: &[OsString]) -> Result<(), CommandError> {
    let expected = command.spec().arguments;
    if let Some(missing) = expected.iter().skip(arguments.len()).find(|argument| argument.required) {
        return Err(CommandError::new(
            ExitCode::OptionRequired,
            format!("command '{command}' needs {}: {}", missing.name, missing.help),
        )
        .remedy(format!("see `pgmesh help {command}`")));
    }
    // `help node init backup-ack` names a command of two words.
    let most = expected.len() + usize::from(command == Command::Help);
    if arguments.len() > most {
        let count = arguments.len();
        let what = format!("command '{command}' takes {most} arguments at most, and {count} were given");
        return Err(CommandError::option_invalid(what).remedy(format!("see `pgmesh help {command}`")));
    }
    Ok(())
}

/// clap's error in pgmesh's words. Values are never repeated: they may be secrets in the wrong place.
fn explain(error: &clap::Error) -> CommandError {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.split(['=', ' ', '[']).next().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    let name = argument.trim_start_matches('-').trim_end_matches('.');
    if error.kind() == ErrorKind::UnknownArgument {
        return unknown_option(&argument, name);
    }
    if let Lookup::Known(key, spec) = table::find(name) {
        let what = format!("option '{key}' on the command line needs a value");
        return CommandError::option_invalid(what).remedy(format!("--{key}={}", spec.kind.placeholder()));
    }
    match (name.strip_prefix("no-"), name.strip_prefix("reset-")) {
        (None, None) => CommandError::option_invalid("the command line is not understood").remedy("see `pgmesh help`"),
        _ => CommandError::option_invalid(format!("'--{name}' takes no value")),
    }
}

fn unknown_option(argument: &str, name: &str) -> CommandError {
    let bare = name
        .strip_prefix("no-")
        .or_else(|| name.strip_prefix("reset-"))
        .unwrap_or(name);
    match table::find(bare) {
        Lookup::Known(key, spec) => match spec.not_yet {
            Some(sentence) => CommandError::option_invalid(format!("pgmesh does not have pgBackRest's option '{key}'"))
                .because_of(sentence),
            None => CommandError::option_invalid(format!("option '{argument}' does not exist")).because_of(format!(
                "only options that are y or n can be negated, and '{key}' is not one"
            )),
        },
        Lookup::BadNumber(spec) => CommandError::option_invalid(format!("option '{argument}' does not exist"))
            .because_of(format!("the N in '{}' goes from 1 to 256", spec.title())),
        Lookup::Unknown => {
            let error = CommandError::option_invalid(format!("option '{argument}' does not exist"));
            error.remedy(match table::suggest(bare) {
                Some(other) => format!("did you mean '--{other}'?"),
                None => "`pgmesh help COMMAND` shows the options of a command".to_owned(),
            })
        }
    }
}

/// Whether the arguments call a command, even when they cannot be read as a whole.
pub fn calls(arguments: &[OsString], command: Command) -> bool {
    arguments.iter().any(|argument| argument == OsStr::new(command.name()))
}
