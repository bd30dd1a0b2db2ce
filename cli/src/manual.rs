//! The manual page and the shells' completions, made by clap's generators from the tables.

use clap::{Arg, ArgAction};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::config::table::{self, GROUPS};
use crate::config::{COMMANDS, Command, CommandSpec, Kind, OptionSpec, Secrecy, is_negatable};
use crate::exit::{CommandError, ExitCode, OrExit};
use crate::help::usage_words;

const ABOUT: &str = "backups and WAL of PostgreSQL in several repositories at once";
const SECTIONS: &str = "Options stand on the command line, in the environment, or in the configuration file; in this \
    order the first place that has an option counts. In the file the sections [STANZA:COMMAND], [STANZA], \
    [global:COMMAND] and [global] are looked at in this order. Values are verbatim, without quotes or escapes; comments \
    begin with # on a line of their own. An option given several times in one section makes a list where the option \
    allows it; otherwise the last line counts.";
const ENVIRONMENT: &str = "Each option can be given as PGMESH_ and its name in capitals, with underscores for hyphens: \
    PGMESH_REPO1_CIPHER_PASS. Several values stand between colons, addresses between commas.";
const EXIT_CODES: &[(&str, &str)] = &[
    ("0", "done"),
    ("1", "archive-get: the segment was never archived"),
    (
        "25 to 125",
        "an error, with pgBackRest's number for its kind; the message begins with it",
    ),
    (
        "200",
        "archive-get cannot know whether the segment exists: PostgreSQL stops instead of ending recovery early",
    ),
];

/// The first words of commands of two words.
const FAMILIES: &[(&str, &str)] = &[
    ("client", "Show and revoke certificates of clients and administrators"),
    ("mesh", "Change what belongs to the whole mesh"),
    ("node", "Create, run and change nodes of the mesh"),
];

/// The program in the form of clap's generators: with subcommands, each with its own options.
fn documented() -> clap::Command {
    let root = clap::Command::new("pgmesh")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .disable_help_subcommand(true)
        .disable_help_flag(true)
        .disable_version_flag(true);
    let plain = COMMANDS.iter().filter(|spec| spec.command.section() == spec.name);
    let families = FAMILIES.iter().map(|(name, about)| {
        let members = COMMANDS
            .iter()
            .filter(|spec| spec.command.section() == *name && spec.name != *name);
        clap::Command::new(*name)
            .about(*about)
            .disable_help_flag(true)
            .disable_help_subcommand(true)
            .subcommands(members.map(subcommand))
    });
    root.subcommands(plain.map(subcommand)).subcommands(families)
}

fn subcommand(spec: &CommandSpec) -> clap::Command {
    let last_word = spec.name.rsplit(' ').next().unwrap_or_default();
    let mut command = clap::Command::new(last_word)
        .about(spec.summary)
        .hide(spec.hidden)
        .disable_help_flag(true);
    for option in table::all().filter(|option| option.is_for(spec.command)) {
        command = command.args(arguments(option, spec.command));
    }
    command.args(spec.arguments.iter().map(|argument| {
        let shown = Arg::new(argument.name)
            .value_name(argument.name)
            .help(argument.help)
            .required(argument.required);
        if argument.name == "COMMAND" {
            shown.value_parser(command_names())
        } else {
            shown
        }
    }))
}

fn command_names() -> Vec<&'static str> {
    COMMANDS
        .iter()
        .filter(|spec| !spec.hidden)
        .map(|spec| spec.command.section())
        .collect()
}

/// An option and its negation, with number 1 where it has a number; secrets are not offered.
fn arguments(option: &'static OptionSpec, command: Command) -> Vec<Arg> {
    if option.secrecy == Secrecy::Secret {
        return Vec::new();
    }
    let name = option.key(1).to_string();
    let kind = option.kind_for(command);
    let itself = Arg::new(name.clone())
        .long(name.clone())
        .help(option.help)
        .value_name(kind.placeholder());
    let itself = match kind {
        kind if kind.is_switch() => itself.num_args(0..=1).require_equals(true).action(ArgAction::Set),
        Kind::Choice(words) => itself.value_parser(words.to_vec()),
        Kind::Path | Kind::File => itself.value_hint(clap::ValueHint::AnyPath),
        _ if kind.is_repeatable() => itself.action(ArgAction::Append),
        _ => itself,
    };
    let negation = is_negatable(option).then(|| {
        let help = format!("not: {}", option.help);
        Arg::new(format!("no-{name}"))
            .long(format!("no-{name}"))
            .help(help)
            .action(ArgAction::SetTrue)
    });
    [Some(itself), negation].into_iter().flatten().collect()
}

/// The completion script for a shell.
pub fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut documented(), "pgmesh", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The manual page, as roff text.
pub fn page() -> Result<String, CommandError> {
    let man = Man::new(documented())
        .title("PGMESH")
        .source(crate::help::VERSION)
        .manual("pgmesh");
    let mut bytes = Vec::new();
    let cannot = || "cannot write the manual page";
    man.render_title(&mut bytes).or_exit(ExitCode::Runtime, cannot)?;
    man.render_name_section(&mut bytes).or_exit(ExitCode::Runtime, cannot)?;
    body().to_writer(&mut bytes).or_exit(ExitCode::Runtime, cannot)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn body() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"])
        .text([bold("pgmesh"), roman(" [OPTIONS] COMMAND [ARGUMENTS]")]);
    roff.control("SH", ["COMMANDS"]);
    for spec in COMMANDS.iter().filter(|spec| !spec.hidden) {
        roff.control("TP", [])
            .text([bold(usage_words(spec))])
            .text([roman(spec.about)]);
        for (line, why) in spec.examples {
            roff.control("RS", [])
                .control("PP", [])
                .text([bold(*line)])
                .control("br", []);
            roff.text([roman(*why)]).control("RE", []);
        }
    }
    for group in GROUPS {
        let options: Vec<&OptionSpec> = group.options.iter().filter(|option| option.not_yet.is_none()).collect();
        if options.is_empty() {
            continue;
        }
        roff.control("SH", [group.title.to_uppercase().as_str()]);
        for option in options {
            document(&mut roff, option);
        }
    }
    roff.control("SH", ["CONFIGURATION"]).text([roman(SECTIONS)]);
    roff.control("SH", ["ENVIRONMENT"]).text([roman(ENVIRONMENT)]);
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXIT_CODES {
        roff.control("TP", []).text([bold(*code)]).text([roman(*meaning)]);
    }
    roff
}

fn document(roff: &mut Roff, option: &OptionSpec) {
    let default = option
        .default
        .map_or(String::new(), |default| format!(" Default: {default}."));
    roff.control("TP", [])
        .text([
            bold(format!("--{}", option.title())),
            roman(format!("={}", option.kind.placeholder())),
        ])
        .text([roman(format!(
            "{}. {}{default}",
            capitalised(option.help),
            option.about
        ))])
        .control("RS", [])
        .control("PP", [])
        .text([bold(option.example)])
        .control("RE", []);
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters
        .next()
        .map_or(String::new(), |first| first.to_uppercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_documents_every_command_and_option() {
        let page = page().unwrap();
        let plain = page.replace("\\-", "-");
        for spec in COMMANDS.iter().filter(|spec| !spec.hidden) {
            assert!(plain.contains(spec.name), "{}", spec.name);
        }
        for option in table::all().filter(|option| option.not_yet.is_none()) {
            assert!(plain.contains(&format!("--{}", option.title())), "{}", option.title());
        }
        assert!(!plain.contains("archive-async"));
    }

    #[test]
    fn every_shell_completes_options_and_never_offers_secrets() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let script = completions(shell);
            assert!(script.contains("target-action"), "{shell}");
            assert!(!script.contains("cipher-pass"), "{shell}");
        }
    }

    #[test]
    fn clap_finds_the_definition_sound() {
        documented().debug_assert();
        let known = |spec: &&CommandSpec| {
            let section = spec.command.section();
            section == spec.name || FAMILIES.iter().any(|(name, _)| *name == section)
        };
        assert!(COMMANDS.iter().all(|spec| known(&spec)));
    }
}
