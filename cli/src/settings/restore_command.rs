//! `restore_command`: how the restored server will get its WAL.

use crate::config::{Command, Config, Kind, OptionSpec, Secrecy, SettingSource, Value, table};
use pgmesh_postgres::RecoveryTarget;
use pgmesh_protocol::{ExitCode, Failure};

/// A call of this program with all options that the configuration file does not have: options of the command line and
/// of the environment that `archive-get` takes too. Secrets are never written (invariant 9).
///
/// A recovery to a point takes a hole in the archive for its end: PostgreSQL reads ahead of the record that it replays,
/// so it may ask for a segment behind the target, and it does not open a server that has not reached the target.
///
/// # Errors
/// The program's own path is not known, or cannot be written.
pub fn render(config: &Config, target: &RecoveryTarget) -> Result<String, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(ExitCode::Runtime, "the path of this program is not known").because(error))?;
    let mut words = vec![program.display().to_string()];
    if config.path("config").is_none() {
        words.push("--no-config".to_owned());
    }
    for (name, spec, value) in given(config) {
        if spec.secrecy != Secrecy::Open {
            warn_of_secret(config, &name);
            continue;
        }
        let texts = texts(&value);
        // A relative path is relative to this process's directory, also when the server runs in another.
        words.extend(
            texts
                .into_iter()
                .map(|text| format!("--{name}={}", absolute(spec.kind, text))),
        );
    }
    if target.is_point() && !config.is_given("archive-hole") {
        words.push("--archive-hole=end".to_owned());
    }
    if let Some(stanza) = config.stanza() {
        words.push(format!("--stanza={stanza}"));
    }
    let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
    Ok(format!("{} archive-get %f \"%p\"", quoted.join(" ")))
}

/// Options that were given outside the file and that `archive-get` takes, by full name.
fn given(config: &Config) -> Vec<(String, &'static OptionSpec, Value)> {
    let mut found = Vec::new();
    for spec in table::all().filter(|spec| spec.not_yet.is_none() && spec.is_for(Command::ArchiveGet)) {
        let numbers = match spec.index {
            None => vec![0],
            Some(index) => config.numbers(index),
        };
        for number in numbers {
            let name = spec.key(number).to_string();
            let is_outside = matches!(
                config.source_of(&name),
                SettingSource::CommandLine | SettingSource::Environment { .. }
            );
            if name == "stanza" || !is_outside {
                continue;
            }
            if let Some(value) = value(config, spec, number) {
                found.push((name, spec, value));
            }
        }
    }
    found
}

fn value(config: &Config, spec: &OptionSpec, number: u16) -> Option<Value> {
    if let Some(index) = spec.index {
        return config.indexed(index, number, spec.name).cloned();
    }
    let name = spec.name;
    Some(match spec.kind_for(config.command()) {
        Kind::Flag => Value::Flag(config.optional_flag(name)?),
        Kind::Integer { .. } => Value::Integer(config.optional_integer(name)?),
        Kind::Size { .. } => Value::Size(config.size(name)),
        Kind::Duration { .. } => Value::Duration(config.duration(name)),
        Kind::Text | Kind::Choice(_) => Value::Text(config.text(name)?.to_owned()),
        Kind::Path | Kind::File => Value::Path(config.path(name)?.to_owned()),
        Kind::List { .. } => Value::List(config.list(name).to_vec()),
        Kind::Map { .. } => Value::Map(config.map(name).to_vec()),
    })
}

/// The value as the command line takes it, once for each time the option is given.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Flag(yes) => vec![(if *yes { "y" } else { "n" }).to_owned()],
        Value::Integer(number) => vec![number.to_string()],
        Value::Size(bytes) => vec![bytes.to_string()],
        Value::Duration(span) => vec![format!("{}ms", span.as_millis())],
        Value::Text(text) => vec![text.clone()],
        Value::Path(path) => vec![path.display().to_string()],
        Value::List(texts) => texts.clone(),
        Value::Map(pairs) => pairs.iter().map(|(key, value)| format!("{key}={value}")).collect(),
        Value::Secret(_) => Vec::new(),
    }
}

/// PostgreSQL runs the command in its data directory.
fn absolute(kind: Kind, text: String) -> String {
    if !matches!(kind, Kind::File | Kind::Path) {
        return text;
    }
    std::path::absolute(&text).map_or(text, |path| path.display().to_string())
}

fn warn_of_secret(config: &Config, name: &str) {
    if let SettingSource::Environment { variable } = config.source_of(name) {
        tracing::warn!(
            "{name} came from the environment: to fetch WAL, PostgreSQL, too, needs {variable} in its environment, or \
             {name} in the configuration file"
        );
    }
}

/// A word for the shell inside a `restore_command`, in which PostgreSQL replaces placeholders that begin with `%`.
fn quote(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,@+".contains(&byte);
    let word = word.replace('%', "%%");
    if !word.is_empty() && word.bytes().all(|byte| is_plain(byte) || byte == b'%') {
        return word;
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn rendered(arguments: &[&str], environment: &[(&str, &str)]) -> String {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let environment: Vec<(OsString, OsString)> = environment
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let config = Config::load(&arguments, &environment).unwrap();
        render(&config, &RecoveryTarget::Default).unwrap()
    }

    #[test]
    fn what_the_file_does_not_say_is_said_and_secrets_are_not() {
        let command = rendered(
            &[
                "--config=/dev/null",
                "--stanza=main",
                "restore",
                "--repo-direct",
                "--repo1-cipher-type=aes-256-cbc",
                "--repo1-path=/a b/repo",
                "--pg1-path=/pg/it's 5%",
                "--process-max=4",
            ],
            &[("PGMESH_REPO1_CIPHER_PASS", "very secret")],
        );
        assert!(command.ends_with(" --stanza=main archive-get %f \"%p\""), "{command}");
        for word in [
            "--config=/dev/null",
            "--repo-direct=y",
            "'--repo1-path=/a b/repo'",
            "--repo1-cipher-type=aes-256-cbc",
            "'--pg1-path=/pg/it'\\''s 5%%'",
        ] {
            assert!(command.contains(&format!(" {word} ")), "{word} in {command}");
        }
        assert!(
            !command.contains("secret") && !command.contains("process-max"),
            "{command}"
        );
    }

    #[test]
    fn only_a_recovery_to_a_point_takes_a_hole_for_the_end() {
        let rendered = |target: &RecoveryTarget, more: &[&str]| {
            let arguments = [&["--no-config", "--stanza=main", "restore", "--pg1-path=/pg"], more].concat();
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            render(&Config::load(&arguments, &[]).unwrap(), target).unwrap()
        };
        let says = |command: String| command.contains(" --archive-hole=end ");
        assert!(says(rendered(&RecoveryTarget::Immediate, &[])));
        assert!(!says(rendered(&RecoveryTarget::Immediate, &["--archive-hole=stop"])));
        assert!(!says(rendered(&RecoveryTarget::Default, &[])));
        assert!(says(rendered(&RecoveryTarget::Default, &["--archive-hole=end"])));
    }

    #[test]
    fn what_the_file_says_is_left_to_it() {
        let command = rendered(&["--no-config", "--stanza=main", "restore", "--pg1-path=/pg"], &[]);
        assert!(
            command.contains(" --no-config --pg1-path=/pg --stanza=main archive-get"),
            "{command}"
        );
    }
}
