//! The configuration file's syntax: `[section]`, `key=value`, comments on lines of their own.
//!
//! Values are verbatim except for the blanks around them: no quotes, no escapes, no comments behind them. Messages
//! never quote a line, which may hold a secret (invariant 9).

use std::path::Path;

use crate::exit::{CommandError, ExitCode};

/// One `key=value` line. It has no `Debug`: the value may be a secret.
#[derive(PartialEq, Eq)]
pub struct Entry {
    /// The section that the line stands in, without brackets.
    pub section: String,
    /// The text before the first `=`.
    pub key: String,
    /// The text behind it.
    pub value: String,
    /// The line, counted from 1.
    pub line: usize,
}

/// Reads a file's text. The first line that is not understood is an error that names file and line.
pub fn parse(path: &Path, text: &str) -> Result<Vec<Entry>, CommandError> {
    let mut section: Option<String> = None;
    let mut entries = Vec::new();
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let bad = |what: &str| bad_line(path, at + 1, what);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            let name = rest
                .strip_suffix(']')
                .ok_or_else(|| bad("a section begins with '[' and must end with ']'"))?;
            if name.trim().is_empty() {
                return Err(bad("a section needs a name"));
            }
            section = Some(name.trim().to_owned());
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| bad("there is no '=' between name and value"))?;
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() {
            return Err(bad("there is no name before '='"));
        }
        if value.is_empty() {
            return Err(bad("there is no value behind '='"));
        }
        let section = section
            .clone()
            .ok_or_else(|| bad("an option must stand in a section, such as [global]"))?;
        entries.push(Entry {
            section,
            key: key.to_owned(),
            value: value.to_owned(),
            line: at + 1,
        });
    }
    Ok(entries)
}

fn bad_line(path: &Path, line: usize, what: &str) -> CommandError {
    CommandError::new(ExitCode::Config, format!("{}:{line}: {what}", path.display()))
        .remedy("correct the line; comments begin with '#' on a line of their own")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Vec<(String, String, String, usize)> {
        let entries = parse(Path::new("x.conf"), text).unwrap();
        entries
            .into_iter()
            .map(|e| (e.section, e.key, e.value, e.line))
            .collect()
    }

    fn refused(text: &str) -> String {
        parse(Path::new("x.conf"), text).err().unwrap().what
    }

    #[test]
    fn values_are_verbatim() {
        let text =
            "# comment\n; too\n[global]\n\n repo1-cipher-pass = a\\n \"b\" # c = d \r\n[main:backup]\nexclude=x\n";
        assert_eq!(
            parsed(text),
            [
                (
                    "global".into(),
                    "repo1-cipher-pass".into(),
                    "a\\n \"b\" # c = d".into(),
                    5
                ),
                ("main:backup".into(), "exclude".into(), "x".into(), 7),
            ]
        );
    }

    #[test]
    fn bad_lines_are_named() {
        assert!(refused("[global]\nhunter2\n").starts_with("x.conf:2: there is no '='"));
        assert!(!refused("[global]\nhunter2\n").contains("hunter2"));
        assert!(refused("a=b\n").starts_with("x.conf:1: an option must stand in a section"));
        assert!(refused("[global\n").contains("must end with"));
        assert!(refused("[ ]\n").contains("needs a name"));
        assert!(refused("[a]\n=b\n").contains("no name"));
        assert!(refused("[a]\nb=\n").contains("no value"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[\\[\\]a-z=# \\n\\r\\t\\PC]{0,64}") {
            let _ = parse(Path::new("x.conf"), &text);
        }

        #[test]
        fn any_value_comes_back(value in "[!-~]([ -~]{0,30}[!-~])?") {
            let entries = parse(Path::new("x.conf"), &format!("[s]\nkey = {value}\n")).unwrap();
            prop_assert_eq!(&entries[0].value, &value);
        }
    }
}
