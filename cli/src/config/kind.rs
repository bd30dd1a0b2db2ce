//! The kinds of option values, and the syntax of each.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroize;

/// The kind of an option's value.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `y` or `n`; on the command line `--name` and `--no-name` as well.
    Flag,
    /// A whole number, limits included.
    Integer {
        /// The smallest number allowed.
        min: i64,
        /// The largest number allowed.
        max: i64,
    },
    /// A number of bytes with an optional unit (`16KiB`, `1GiB`), limits included.
    Size {
        /// The fewest bytes allowed.
        min: u64,
        /// The most bytes allowed.
        max: u64,
    },
    /// A span of time with an optional unit (`500ms`, `30m`), seconds without; limits included.
    Duration {
        /// The shortest span allowed.
        min: Duration,
        /// The longest span allowed.
        max: Duration,
    },
    /// Any text on one line.
    Text,
    /// One word of a short list.
    Choice(&'static [&'static str]),
    /// An absolute path; a trailing `/` is dropped.
    Path,
    /// A path that may be relative to the working directory.
    File,
    /// Text that may be given several times. In an environment variable the separator stands between the values.
    List {
        /// The character between values in an environment variable.
        separator: char,
    },
    /// `KEY=VALUE` that may be given several times, with the separator as for a list. A later key replaces an earlier.
    Map {
        /// The character between values in an environment variable.
        separator: char,
    },
}

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Flag`].
    Flag(bool),
    /// Of [`Kind::Integer`].
    Integer(i64),
    /// Of [`Kind::Size`], in bytes.
    Size(u64),
    /// Of [`Kind::Duration`].
    Duration(Duration),
    /// Of [`Kind::Text`] and [`Kind::Choice`].
    Text(String),
    /// A text that must not be shown.
    Secret(Secret),
    /// Of [`Kind::Path`] and [`Kind::File`].
    Path(PathBuf),
    /// Of [`Kind::List`], in the order given.
    List(Vec<String>),
    /// Of [`Kind::Map`], in the order given, each key once.
    Map(Vec<(String, String)>),
}

/// A passphrase, key or token: never in `Debug`, wiped when dropped (invariant 9).
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes charge of a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<redacted>")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Kind {
    /// Whether `--name` and `--no-name` mean y and n: for a flag, and for a choice with the words y and n.
    pub fn is_switch(self) -> bool {
        match self {
            Self::Flag => true,
            Self::Choice(words) => words.contains(&"y") && words.contains(&"n"),
            _ => false,
        }
    }

    /// Whether the option may be given several times.
    pub const fn is_repeatable(self) -> bool {
        matches!(self, Self::List { .. } | Self::Map { .. })
    }

    /// The character between values in an environment variable, for repeatable kinds.
    pub const fn separator(self) -> Option<char> {
        match self {
            Self::List { separator } | Self::Map { separator } => Some(separator),
            _ => None,
        }
    }

    /// The allowed values, for an error message or the help.
    pub fn allowed(self) -> String {
        match self {
            Self::Flag => "y or n".into(),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Size { min, max } => {
                format!(
                    "a size from {} to {}, such as 512KiB or 1GiB",
                    show_size(min),
                    show_size(max)
                )
            }
            Self::Duration { min, max } => {
                format!(
                    "a time from {} to {}, such as 500ms, 30s or 5m",
                    show_duration(min),
                    show_duration(max)
                )
            }
            Self::Text | Self::List { .. } => "text that is not empty".into(),
            Self::Choice(words) => words.join(", "),
            Self::Path => "an absolute path".into(),
            Self::File => "a path".into(),
            Self::Map { .. } => "KEY=VALUE".into(),
        }
    }

    /// The name of the value in a usage line.
    pub const fn placeholder(self) -> &'static str {
        match self {
            Self::Flag => "y|n",
            Self::Integer { .. } => "NUMBER",
            Self::Size { .. } => "SIZE",
            Self::Duration { .. } => "TIME",
            Self::Text | Self::List { .. } => "TEXT",
            Self::Choice(_) => "WORD",
            Self::Path | Self::File => "PATH",
            Self::Map { .. } => "KEY=VALUE",
        }
    }

    /// Reads the texts given for an option. If the kind is not repeatable, the last text counts. `None` if a text is
    /// not allowed; [`Kind::allowed`] describes the allowed ones.
    pub fn parse(self, texts: &[String]) -> Option<Value> {
        if self.is_repeatable() {
            return self.parse_repeated(texts);
        }
        let text = texts.last()?;
        match self {
            Self::Flag => match text.as_str() {
                "y" => Some(Value::Flag(true)),
                "n" => Some(Value::Flag(false)),
                _ => None,
            },
            Self::Integer { min, max } => text
                .parse()
                .ok()
                .filter(|number| (min..=max).contains(number))
                .map(Value::Integer),
            Self::Size { min, max } => parse_size(text)
                .filter(|bytes| (min..=max).contains(bytes))
                .map(Value::Size),
            Self::Duration { min, max } => parse_duration(text)
                .filter(|span| (min..=max).contains(span))
                .map(Value::Duration),
            Self::Choice(words) => words.contains(&text.as_str()).then(|| Value::Text(text.clone())),
            Self::Path => parse_absolute(text).map(Value::Path),
            Self::File => (!text.is_empty()).then(|| Value::Path(PathBuf::from(text))),
            Self::Text | Self::List { .. } | Self::Map { .. } => (!text.is_empty()).then(|| Value::Text(text.clone())),
        }
    }

    fn parse_repeated(self, texts: &[String]) -> Option<Value> {
        if texts.iter().any(String::is_empty) {
            return None;
        }
        if matches!(self, Self::List { .. }) {
            return Some(Value::List(texts.to_vec()));
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        for text in texts {
            let (key, value) = text.split_once('=').filter(|(key, _)| !key.trim().is_empty())?;
            let (key, value) = (key.trim().to_owned(), value.to_owned());
            pairs.retain(|(known, _)| *known != key);
            pairs.push((key, value));
        }
        Some(Value::Map(pairs))
    }
}

fn parse_absolute(text: &str) -> Option<PathBuf> {
    if !text.starts_with('/') || text.contains("//") || text.contains('\0') {
        return None;
    }
    let trimmed = text.trim_end_matches('/');
    Some(Path::new(if trimmed.is_empty() { "/" } else { trimmed }).to_path_buf())
}

/// A number with up to three decimals as thousandths, and the unit behind it.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, decimals) = match number.split_once('.') {
        Some((whole, decimals)) if !decimals.is_empty() && decimals.len() <= 3 => (whole, decimals),
        Some(_) => return None,
        None => (number, ""),
    };
    let thousandths: u64 = format!("{decimals:0<3}").parse().ok()?;
    let whole: u64 = whole.parse().ok()?;
    Some((whole.checked_mul(1000)?.checked_add(thousandths)?, unit.trim()))
}

/// Reads a size in bytes. All units are powers of 1024, as in pgBackRest.
pub fn parse_size(text: &str) -> Option<u64> {
    let (thousandths, unit) = split_number(text.trim())?;
    let unit = unit.to_ascii_lowercase();
    let shift = match unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(&unit)
    {
        "" if unit != "ib" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    u64::try_from(u128::from(thousandths) * (1u128 << shift) / 1000).ok()
}

/// Reads a span of time, in seconds if it has no unit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (thousandths, unit) = split_number(text.trim())?;
    let milliseconds_per_unit = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        _ => return None,
    };
    thousandths
        .checked_mul(milliseconds_per_unit)
        .map(|thousandths| Duration::from_millis(thousandths / 1000))
}

fn show_size(bytes: u64) -> String {
    let units = [("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in units {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

fn show_duration(span: Duration) -> String {
    let milliseconds = span.as_millis();
    let units = [
        ("w", 604_800_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
    ];
    for (unit, length) in units {
        if milliseconds >= length && milliseconds.is_multiple_of(length) {
            return format!("{}{unit}", milliseconds / length);
        }
    }
    format!("{milliseconds}ms")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        let good = [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("1k", 1024),
            ("1KB", 1024),
            ("1KiB", 1024),
            ("128MiB", 128 << 20),
            ("1.5GiB", 3 << 29),
            ("2 TiB", 2 << 40),
            ("1pib", 1 << 50),
        ];
        for (text, bytes) in good {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "KiB",
            "-1",
            "1x",
            "1ib",
            "1.KiB",
            "1.2.3",
            "1 2",
            "1e3",
            "99999999999999999999",
            "99999PiB",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn durations() {
        let good = [
            ("250ms", 250),
            ("1", 1000),
            ("1.5", 1500),
            ("2s", 2000),
            ("1m", 60_000),
            ("0.5h", 1_800_000),
            ("1d", 86_400_000),
            ("2w", 1_209_600_000),
        ];
        for (text, milliseconds) in good {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in [
            "",
            "m",
            "-1s",
            "1y",
            "1 m 2",
            "99999999999999999999w",
            "18446744073709551w",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn limits_hold() {
        let kind = Kind::Integer { min: 1, max: 9 };
        assert_eq!(kind.parse(&["9".into()]), Some(Value::Integer(9)));
        assert_eq!(kind.parse(&["10".into()]), None);
        assert_eq!(Kind::Flag.parse(&["yes".into()]), None);
        let kind = Kind::Duration {
            min: Duration::from_secs(1),
            max: Duration::from_secs(3600),
        };
        assert_eq!(kind.parse(&["100ms".into()]), None);
        assert!(kind.allowed().contains("from 1s to 1h"), "{}", kind.allowed());
    }

    #[test]
    fn paths_are_absolute_and_canonical() {
        assert_eq!(Kind::Path.parse(&["/a/b/".into()]), Some(Value::Path("/a/b".into())));
        assert_eq!(Kind::Path.parse(&["/".into()]), Some(Value::Path("/".into())));
        assert_eq!(Kind::Path.parse(&["a/b".into()]), None);
        assert_eq!(Kind::Path.parse(&["/a//b".into()]), None);
        assert_eq!(Kind::File.parse(&["a/b".into()]), Some(Value::Path("a/b".into())));
    }

    #[test]
    fn maps_keep_order_and_the_last_of_a_key() {
        let kind = Kind::Map { separator: ':' };
        let texts = ["a=1".to_owned(), "b=x=y".into(), "a=2".into()];
        let expected = vec![("b".to_owned(), "x=y".to_owned()), ("a".into(), "2".into())];
        assert_eq!(kind.parse(&texts), Some(Value::Map(expected)));
        assert_eq!(kind.parse(&["nothing".into()]), None);
        assert_eq!(kind.parse(&["=x".into()]), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,24}") {
            let _ = parse_size(&text);
            let _ = parse_duration(&text);
            let _ = Kind::Path.parse(std::slice::from_ref(&text));
        }

        #[test]
        fn shown_sizes_read_back(bytes in any::<u64>().prop_map(|n| n >> 12)) {
            prop_assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }
    }
}
