//! Results of commands, on stdout. Logs never go there, so that a result can be piped.

use std::borrow::Cow;
use std::io::{ErrorKind, Write};

use crate::config::Config;
use crate::exit::{CommandError, ExitCode, OrExit};
pub use pgmesh_client::text::{local_offset, size, timestamp};
use serde::Serialize;

/// How a result is written: `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl OutputFormat {
    /// The format that `--output` names.
    pub fn of(config: &Config) -> Self {
        if config.text("output") == Some("json") {
            Self::Json
        } else {
            Self::Text
        }
    }
}

/// A text without control characters, except line ends and tabs: a text from another host must not move the cursor of
/// the reader's terminal, or hide a line. An escape becomes `\u{1b}`.
#[must_use]
pub fn harmless(text: &str) -> Cow<'_, str> {
    let is_harmful = |char: char| char.is_control() && !matches!(char, '\n' | '\t');
    escaped(text, is_harmful, |char| char.escape_unicode().to_string())
}

fn escaped(text: &str, is_harmful: impl Fn(char) -> bool, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(&is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut harmless = String::with_capacity(text.len());
    for char in text.chars() {
        if is_harmful(char) {
            harmless.push_str(&escape(char));
        } else {
            harmless.push(char);
        }
    }
    Cow::Owned(harmless)
}

/// Writes a text to stdout, with a line end if it has none. A reader that has gone away is no error.
pub fn print(text: &str) -> Result<(), CommandError> {
    let text = harmless(text);
    let end = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    print_bytes(format!("{text}{end}").as_bytes())
}

/// Writes a value to stdout as one line of JSON.
pub fn print_json<T: Serialize>(value: &T) -> Result<(), CommandError> {
    let text = serde_json::to_string(value).or_exit(ExitCode::Assert, || "cannot write the result as JSON")?;
    print_bytes(format!("{}\n", harmless_json(&text)).as_bytes())
}

/// JSON without control characters: DEL and the C1 controls, which JSON allows unescaped, are escaped as well.
fn harmless_json(text: &str) -> Cow<'_, str> {
    escaped(text, char::is_control, |char| format!("\\u{:04x}", u32::from(char)))
}

/// Writes bytes to stdout as they are.
pub fn print_bytes(bytes: &[u8]) -> Result<(), CommandError> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.or_exit(ExitCode::Runtime, || "cannot write the result to stdout"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_writes_to_the_terminal_of_whoever_reads_a_message() {
        assert_eq!(harmless("a\tb\nc é"), "a\tb\nc é");
        let text = "\u{1b}[2J\u{85}\u{7f}";
        let json = serde_json::to_string(text).unwrap();
        assert!(!harmless_json(&json).contains(char::is_control));
        assert_eq!(serde_json::from_str::<String>(&harmless_json(&json)).unwrap(), text);
        assert_eq!(harmless("\u{1b}[2Jgone\r\u{9b}"), "\\u{1b}[2Jgone\\u{d}\\u{9b}");
    }
}
