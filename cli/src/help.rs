//! `pgmesh help`, `pgmesh help COMMAND`, `pgmesh help COMMAND OPTION`, written from the tables of commands and options.

use std::fmt::Write;

use clap_complete::Shell;

use crate::config::table::{self, GROUPS, Lookup};
use crate::config::{
    Argument, COMMANDS, Command, CommandSpec, Config, IndexKey, OptionSpec, Scope, Secrecy, is_negatable, variable,
};
use crate::exit::{CommandError, ExitCode};
use crate::manual;

/// The output of `pgmesh version`.
pub const VERSION: &str = concat!("pgmesh ", env!("CARGO_PKG_VERSION"));

const WIDTH: usize = 80;
const COLUMN: usize = 28;

/// The help that `pgmesh help …` asks for.
pub fn topic(config: &Config) -> Result<String, CommandError> {
    if config.flag("man") {
        return manual::page();
    }
    let words: Vec<String> = config
        .arguments()
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if words.is_empty() {
        return Ok(overview());
    }
    let (found, rest) = match Command::from_words(&words) {
        Some((found, used)) => (Some(found), words.get(used..).unwrap_or_default()),
        None => (None, words.as_slice()),
    };
    match (found, rest) {
        (Some(found), []) => Ok(command(found)),
        (found, [name]) => match find_option(name) {
            Some(spec) if found.is_none_or(|found| spec.is_for(found)) => Ok(option(spec, found)),
            Some(_) => Err(no_help(&format!(
                "option '{name}' of command '{}'",
                words.join(" ").replace(name, "").trim()
            ))),
            None => Err(no_help(&format!("'{name}'"))),
        },
        (_, _) => Err(no_help(&format!("'{}'", words.join(" ")))),
    }
}

fn no_help(what: &str) -> CommandError {
    CommandError::new(ExitCode::CommandInvalid, format!("there is no help for {what}"))
        .remedy("`pgmesh help` shows all commands, `pgmesh help COMMAND` its options")
}

/// The option meant by `repo1-path`, `repoN-path` or `repo-path`.
fn find_option(name: &str) -> Option<&'static OptionSpec> {
    let name = name.trim_start_matches('-');
    let found = match table::find(name) {
        Lookup::Known(_, spec) | Lookup::BadNumber(spec) => Some(spec),
        Lookup::Unknown => [
            ("repoN-", IndexKey::Repo),
            ("pgN-", IndexKey::Pg),
            ("repo-", IndexKey::Repo),
            ("pg-", IndexKey::Pg),
        ]
        .into_iter()
        .find_map(|(prefix, index)| table::indexed(index, name.strip_prefix(prefix)?)),
    };
    found.filter(|spec| spec.not_yet.is_none())
}

/// The completion script for the shell that `pgmesh completions SHELL` names.
pub fn completions(config: &Config) -> Result<String, CommandError> {
    let name = config.argument(0).unwrap_or_default().to_string_lossy();
    let shell: Shell = name.parse().map_err(|_| {
        CommandError::option_invalid(format!("there are no completions for the shell '{name}'"))
            .remedy("allowed: bash, zsh, fish, elvish, powershell")
    })?;
    Ok(manual::completions(shell))
}

/// All commands.
fn overview() -> String {
    let mut text = format!(
        "{VERSION}: backups and WAL of PostgreSQL in several repositories at once\n\n\
         Usage:\n    pgmesh [OPTIONS] COMMAND [ARGUMENTS]\n\nCommands:\n"
    );
    for spec in COMMANDS.iter().filter(|spec| !spec.hidden) {
        entry(&mut text, &usage_words(spec), spec.summary);
    }
    text.push_str(
        "\nOptions stand on the command line, in the environment as PGMESH_…, or in\n\
         /etc/pgmesh/pgmesh.conf under [global], [global:COMMAND], [STANZA] or\n\
         [STANZA:COMMAND]; in this order the first that has an option from the left,\n\
         and the most specific section of the file, counts.\n\n\
         Use `pgmesh help COMMAND` for the options of a command,\n\
         `pgmesh help COMMAND OPTION` for one option at length,\n\
         and `pgmesh help --man | man -l -` for everything.\n",
    );
    text
}

/// `archive-get SEGMENT DEST`.
pub(crate) fn usage_words(spec: &CommandSpec) -> String {
    let shown = |argument: &Argument| {
        if argument.required {
            format!(" {}", argument.name)
        } else {
            format!(" [{}]", argument.name)
        }
    };
    spec.arguments
        .iter()
        .fold(spec.name.to_owned(), |text, argument| text + &shown(argument))
}

/// One command: its purpose, its arguments, its options, examples.
fn command(command: Command) -> String {
    let spec = command.spec();
    let mut text = format!(
        "{}\n\nUsage:\n    pgmesh [OPTIONS] {}\n\n",
        spec.summary,
        usage_words(spec)
    );
    paragraph(&mut text, "", spec.about);
    if !spec.arguments.is_empty() {
        text.push_str("\nArguments:\n");
    }
    for argument in spec.arguments {
        entry(&mut text, argument.name, argument.help);
    }
    for group in GROUPS {
        let options: Vec<&OptionSpec> = group.options.iter().filter(|option| option.is_for(command)).collect();
        if options.is_empty() {
            continue;
        }
        let _ = write!(text, "\n{}:\n", group.title);
        for option in options {
            let default = option
                .default_for(command)
                .map_or(String::new(), |default| format!(" [{default}]"));
            let needed = if option.required.contains(command) {
                " (required)"
            } else {
                ""
            };
            entry(
                &mut text,
                &format!("--{}", option.title()),
                &format!("{}{needed}{default}", option.help),
            );
        }
    }
    text.push_str("\nExamples:\n");
    for (line, why) in spec.examples {
        let _ = writeln!(text, "    {line}");
        if !why.is_empty() {
            paragraph(&mut text, "        ", why);
        }
    }
    let _ = writeln!(text, "\nUse `pgmesh help {command} OPTION` for one option at length.");
    text
}

/// One option at length, for one command or for all that take it.
fn option(spec: &'static OptionSpec, command: Option<Command>) -> String {
    let key = spec.key(1);
    let mut text = format!("--{}: {}\n\n", spec.title(), spec.help);
    paragraph(&mut text, "", spec.about);
    text.push('\n');
    let takers: Vec<Command> = COMMANDS
        .iter()
        .filter(|other| !other.hidden)
        .map(|other| other.command)
        .filter(|other| spec.is_for(*other))
        .collect();
    let shown = command.or(takers.first().copied()).unwrap_or(Command::Help);
    let mut fact = |name: &str, value: &str| entry(&mut text, name, value);
    fact("allowed", &spec.allowed(shown));
    if spec.index.is_some() {
        fact("N", "1 to 256");
    }
    if let Some(default) = spec.default_for(shown) {
        fact("default", default);
    }
    if is_negatable(spec) {
        fact("negated", &format!("--no-{key}"));
    }
    if spec.kind_for(shown).is_repeatable() {
        fact("several values", "give the option again");
    }
    let places = match (spec.scope, spec.secrecy) {
        (_, Secrecy::Secret) => "file or environment, never the command line".to_owned(),
        (Scope::Anywhere, _) => "file, environment or command line".to_owned(),
        (Scope::OutsideFile, _) => "environment or command line".to_owned(),
        (Scope::CommandLine, _) => "command line".to_owned(),
    };
    fact("given in", &places);
    if spec.scope != Scope::CommandLine {
        let list = spec
            .kind_for(shown)
            .separator()
            .map_or(String::new(), |c| format!(" (values between '{c}')"));
        fact("environment", &format!("{}{list}", variable(key)));
    }
    let names: Vec<&str> = takers.iter().map(|command| command.name()).collect();
    fact(
        "commands",
        &if takers.len() + 1 >= COMMANDS.len() {
            "all".to_owned()
        } else {
            names.join(", ")
        },
    );
    let _ = write!(text, "\nExample:\n    {}\n", spec.example);
    text
}

/// A name in its column and its explanation beside it, wrapped.
fn entry(text: &mut String, name: &str, explanation: &str) {
    let name_width = name.chars().count() + 4;
    let _ = write!(text, "    {name}");
    let mut padding = if name_width + 1 > COLUMN {
        text.push('\n');
        COLUMN
    } else {
        COLUMN - name_width
    };
    for line in wrapped(explanation, WIDTH - COLUMN) {
        let _ = writeln!(text, "{}{line}", " ".repeat(padding));
        padding = COLUMN;
    }
}

/// A text between the margins.
fn paragraph(text: &mut String, margin: &str, content: &str) {
    for line in wrapped(content, WIDTH - margin.len()) {
        let _ = writeln!(text, "{margin}{line}");
    }
}

/// Lines of at most `width` characters, broken at blanks; a longer word has a line of its own.
fn wrapped(content: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in content.split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            lines.push(String::new());
            used = 0;
        }
        if let Some(line) = lines.last_mut() {
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += length;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn help(words: &[&str]) -> Result<String, CommandError> {
        let arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
        topic(&Config::load(&arguments, &[])?)
    }

    #[test]
    fn the_overview_names_every_command() {
        let text = help(&["help"]).unwrap();
        for spec in COMMANDS.iter().filter(|spec| !spec.hidden) {
            assert!(text.contains(&format!("    {}", spec.name)), "{}", spec.name);
        }
        assert!(!text.contains("completions"));
        assert_eq!(help(&[]).unwrap(), text);
        assert_eq!(help(&["--help"]).unwrap(), text);
    }

    #[test]
    fn every_command_and_option_has_help() {
        for spec in COMMANDS {
            let words: Vec<&str> = ["help"].into_iter().chain(spec.name.split(' ')).collect();
            let text = help(&words).unwrap();
            assert!(text.contains("Examples:") && text.contains("--config"), "{text}");
            assert!(
                text.lines()
                    .all(|line| line.chars().count() <= WIDTH || line.starts_with("    ")),
                "{text}"
            );
            for option in table::all().filter(|option| option.is_for(spec.command)) {
                let title = option.title();
                let words: Vec<&str> = words.iter().copied().chain([title.as_str()]).collect();
                let text = help(&words).unwrap();
                assert!(text.contains("allowed") && text.contains(option.example), "{text}");
            }
        }
    }

    #[test]
    fn topics() {
        assert_eq!(help(&["backup", "--help"]).unwrap(), help(&["help", "backup"]).unwrap());
        assert_eq!(
            help(&["node", "init", "-h"]).unwrap(),
            help(&["help", "node", "init"]).unwrap()
        );
        assert!(help(&["help", "restore", "type"]).unwrap().contains("immediate"));
        assert!(help(&["help", "backup", "type"]).unwrap().contains("full, diff, incr"));
        assert!(help(&["help", "repo2-path"]).unwrap().contains("PGMESH_REPO1_PATH"));
        for wrong in [
            &["help", "nothing"][..],
            &["help", "backup", "target"],
            &["help", "backup", "nothing"],
        ] {
            assert_eq!(help(wrong).unwrap_err().code, ExitCode::CommandInvalid, "{wrong:?}");
        }
    }

    #[test]
    fn version() {
        assert_eq!(VERSION, "pgmesh 0.1.0");
    }

    #[test]
    fn lines_are_wrapped() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("incomprehensible x", 7), ["incomprehensible", "x"]);
        assert_eq!(wrapped("", 7), [""]);
    }
}
