//! The lines of a configuration file of PostgreSQL (guc-file.l).

use super::auto_conf::is_setting_name;

/// A line with a setting or an include.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingLine {
    /// Its number, from 1.
    pub line: usize,
    /// The setting's name in lower case, or `include`, `include_if_exists` or `include_dir`.
    pub name: String,
    /// The value without its quotes.
    pub value: String,
}

/// The lines of a configuration file with settings and includes, in order. If several lines set the same name, the last
/// one counts. Malformed lines are passed over: PostgreSQL does not start with them.
#[must_use]
pub fn setting_lines(text: &str) -> Vec<SettingLine> {
    let numbered = text.split('\n').enumerate();
    numbered
        .filter_map(|(at, line)| {
            let (name, value) = parse(line)?;
            Some(SettingLine {
                line: at + 1,
                name: name.to_ascii_lowercase(),
                value,
            })
        })
        .collect()
}

/// The name and the value of a line. Names are compared without regard to case.
fn parse(line: &str) -> Option<(&str, String)> {
    let is_space = |character: char| matches!(character, ' ' | '\t' | '\r' | '\u{c}');
    let line = line.trim_start_matches(is_space);
    let end = line
        .find(|character: char| is_space(character) || matches!(character, '=' | '\'' | '#'))
        .unwrap_or(line.len());
    let (name, rest) = line.split_at_checked(end)?;
    if !is_setting_name(name) {
        return None;
    }
    let rest = rest.trim_start_matches(is_space);
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start_matches(is_space);
    if let Some(quoted) = rest.strip_prefix('\'') {
        return Some((name, unquote(quoted)?));
    }
    let end = rest
        .find(|character: char| is_space(character) || character == '#')
        .unwrap_or(rest.len());
    let value = rest.get(..end).filter(|value| !value.is_empty())?;
    Some((name, value.to_owned()))
}

/// The value of a quoted string; `text` begins behind the opening quote (`DeescapeQuotedString`).
fn unquote(text: &str) -> Option<String> {
    let mut value = String::new();
    let mut characters = text.chars().peekable();
    loop {
        match characters.next()? {
            '\'' => match characters.next_if_eq(&'\'') {
                Some(quote) => value.push(quote),
                None => return Some(value),
            },
            '\\' => {
                let next = characters.next()?;
                value.push(match next {
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    '0'..='7' => {
                        let mut code = next.to_digit(8)?;
                        for _ in 0..2 {
                            let Some(digit) = characters.peek().and_then(|digit| digit.to_digit(8)) else {
                                break;
                            };
                            characters.next();
                            code = code * 8 + digit;
                        }
                        char::from_u32(code & 0xFF)?
                    }
                    other => other,
                });
            }
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::auto_conf::quote;
    use super::*;

    #[test]
    fn lines_are_read_as_the_server_reads_them() {
        let text = "# recovery_target_time = '1'\n\n  Recovery_Target_Time = '2026-11-23 04:29:57+00' # left\r\n\
                    work_mem 8MB\nport=5433#x\nname 'it''s \\'x\\' \\101'\ninclude_dir='conf.d'\nempty = ''\n\
                    ='x'\nnovalue\nbroken = 'x\n a.b=on";
        let found: Vec<(usize, String, String)> = setting_lines(text)
            .into_iter()
            .map(|line| (line.line, line.name, line.value))
            .collect();
        let expected = [
            (3, "recovery_target_time", "2026-11-23 04:29:57+00"),
            (4, "work_mem", "8MB"),
            (5, "port", "5433"),
            (6, "name", "it's 'x' A"),
            (7, "include_dir", "conf.d"),
            (8, "empty", ""),
            (12, "a.b", "on"),
        ];
        let expected: Vec<(usize, String, String)> = expected
            .iter()
            .map(|(line, name, value)| (*line, (*name).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(found, expected);
    }

    proptest! {
        #[test]
        fn what_was_quoted_is_read_again(value in "(.|\n|'|\\\\|[0-7nrtbf]){0,40}") {
            let lines = setting_lines(&format!("x = {}", quote(&value)));
            prop_assert_eq!(lines.len(), 1);
            prop_assert_eq!(&lines[0].value, &value);
        }

        #[test]
        fn any_text_is_answered(text: String) {
            let _ = setting_lines(&text);
        }
    }
}
