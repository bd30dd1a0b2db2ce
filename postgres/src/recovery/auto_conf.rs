//! The lines of `postgresql.auto.conf` (guc-file.l).

/// Whether `name` can be a setting's: identifiers with a dot in between.
pub(super) fn is_setting_name(name: &str) -> bool {
    name.split('.').all(|part| {
        let mut bytes = part.bytes();
        bytes
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$'))
    })
}

/// The name of the setting that a line sets; none for comments, blank lines and lines that PostgreSQL would refuse.
pub(super) fn setting_name(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let end = line
        .find(|character: char| !(character.is_ascii_alphanumeric() || matches!(character, '_' | '$' | '.')))
        .unwrap_or(line.len());
    line.get(..end).filter(|name| is_setting_name(name))
}

/// `value` as a quoted string on one line: quotes and backslashes are doubled, line breaks escaped.
pub(super) fn quote(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for character in value.chars() {
        match character {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The value of a quoted string as the server reads it: the STRING pattern and `DeescapeQuotedString` in
    /// guc-file.l. `None` if the text is not one such string.
    fn unquote(text: &str) -> Option<String> {
        let inner = text.strip_prefix('\'')?.strip_suffix('\'')?;
        let mut value = String::new();
        let mut characters = inner.chars();
        while let Some(character) = characters.next() {
            match character {
                '\n' => return None,
                '\'' => value.push(characters.next().filter(|next| *next == '\'')?),
                '\\' => value.push(match characters.next()? {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'b' => '\x08',
                    'f' => '\x0C',
                    '0'..='7' => return None,
                    other => other,
                }),
                other => value.push(other),
            }
        }
        Some(value)
    }

    #[test]
    fn names_of_lines() {
        assert_eq!(setting_name("  restore_command='x'"), Some("restore_command"));
        assert_eq!(setting_name("recovery_target_xid 5"), Some("recovery_target_xid"));
        assert_eq!(setting_name("a.b = 1"), Some("a.b"));
        for line in [
            "",
            "   ",
            "# restore_command = 'x'",
            "'restore_command'",
            "5 = 4",
            "= x",
        ] {
            assert_eq!(setting_name(line), None, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn the_server_reads_what_was_quoted(value in "(.|\n|'|\\\\|[0-7nrtbf]){0,40}") {
            let quoted = quote(&value);
            prop_assert_eq!(quoted.lines().count(), 1);
            prop_assert_eq!(unquote(&quoted), Some(value));
        }
    }
}
