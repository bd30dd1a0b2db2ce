//! `docs/options.md`: every option, as the table has it. The test below compares the file with the table.

use std::fmt::Write;
use std::path::Path;

use crate::config::table::GROUPS;
use crate::config::{COMMANDS, CommandSet, Kind, OptionSpec, Scope, Secrecy, is_negatable};

const HEAD: &str = "# Options\n\n\
    Made from the table of options (`cli/src/config/table/`); `PGMESH_WRITE_REFERENCE=1` makes the test of\n\
    `cli/src/reference.rs` write this file anew.\n\n\
    An option stands on the command line, in the environment (`PGMESH_` and the name in capitals, with underscores),\n\
    or in the configuration file. The first of these that has it counts. In the file the sections\n\
    `[STANZA:COMMAND]`, `[STANZA]`, `[global:COMMAND]` and `[global]` are looked at in this order.\n";

/// The commands of a set, in the order of the help.
fn commands(set: CommandSet) -> String {
    let shown: Vec<_> = COMMANDS.iter().filter(|spec| !spec.hidden).collect();
    let named: Vec<_> = shown
        .iter()
        .filter(|spec| set.contains(spec.command))
        .map(|spec| format!("`{}`", spec.name))
        .collect();
    if named.len() == shown.len() {
        "all commands".to_owned()
    } else {
        named.join(", ")
    }
}

fn value(kind: Kind) -> String {
    kind.allowed()
}

/// The facts about an option besides its description, one line each.
fn facts(option: &OptionSpec) -> Vec<String> {
    let mut facts = vec![format!(
        "Value: {}.",
        option
            .check
            .map_or_else(|| value(option.kind), |check| check.allowed.to_owned())
    )];
    if let Some(default) = option.default {
        facts.push(format!("Default: `{default}`."));
    }
    for other in option.overrides {
        if let Some(default) = other.default {
            facts.push(format!("Default of {}: `{default}`.", commands(other.commands)));
        }
    }
    facts.push(match option.scope {
        Scope::Anywhere => format!("For {}.", commands(option.commands)),
        Scope::OutsideFile => format!("For {}; not in a file.", commands(option.commands)),
        Scope::CommandLine => format!("For {}; on the command line only.", commands(option.commands)),
    });
    let required = commands(option.required);
    if !required.is_empty() {
        facts.push(format!("Needed by {required}."));
    }
    match option.secrecy {
        Secrecy::Open => {}
        Secrecy::Redacted => facts.push("Never shown.".to_owned()),
        Secrecy::Secret => facts.push("A secret: never shown, and refused on the command line.".to_owned()),
    }
    if is_negatable(option) {
        facts.push(format!("`--no-{}` turns it off.", option.title()));
    }
    facts
}

/// The whole file.
fn render() -> String {
    let mut text = HEAD.to_owned();
    for group in GROUPS {
        let options: Vec<&OptionSpec> = group.options.iter().filter(|option| option.not_yet.is_none()).collect();
        if options.is_empty() {
            continue;
        }
        write!(text, "\n## {}\n", group.title).unwrap();
        for option in options {
            write!(text, "\n### `{}`\n{}.", option.title(), option.help).unwrap();
            if !option.about.is_empty() {
                write!(text, " {}", option.about).unwrap();
            }
            text.push_str("\n\n");
            for fact in facts(option) {
                writeln!(text, "- {fact}").unwrap();
            }
            if !option.example.is_empty() {
                write!(text, "\n```ini\n{}\n```\n", option.example).unwrap();
            }
        }
    }
    text.push_str("\n## Options of pgBackRest that pgmesh does not have\n\n");
    for option in GROUPS.iter().flat_map(|group| group.options) {
        if let Some(sentence) = option.not_yet {
            writeln!(text, "- `{}`: {sentence}", option.title()).unwrap();
        }
    }
    text
}

#[test]
fn the_reference_says_what_the_table_says() {
    // Asked at run time: another clone may have built this test.
    let own = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let path = Path::new(&own).join("../docs/options.md");
    let text = render();
    if std::env::var_os("PGMESH_WRITE_REFERENCE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == text,
        "docs/options.md is not what the table says: PGMESH_WRITE_REFERENCE=1 writes it anew"
    );
}
