//! Results of commands, on stdout. Logs never go there, so that a result can be piped.

use std::io::{ErrorKind, Write};
use std::sync::OnceLock;

use serde::Serialize;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

use crate::config::Config;
use crate::exit::{CommandError, ExitCode, OrExit};

/// How a result is written: `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl OutputFormat {
    /// What the configuration says.
    pub fn of(config: &Config) -> Self {
        if config.text("output") == Some("json") {
            Self::Json
        } else {
            Self::Text
        }
    }
}

/// Writes a text to stdout, with a line end if it has none. A reader that has gone away is no error.
pub fn print(text: &str) -> Result<(), CommandError> {
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
    print(&text)
}

/// Writes bytes to stdout as they are.
pub fn print_bytes(bytes: &[u8]) -> Result<(), CommandError> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.or_exit(ExitCode::Runtime, || "cannot write the result to stdout"),
    }
}

/// A size as pgBackRest's `info` shows it: `8192` is `8KB`, `152830000000` is `142.3GB`.
pub fn size(bytes: u64) -> String {
    let units = [("GB", 1u64 << 30), ("MB", 1 << 20), ("KB", 1 << 10)];
    let Some((unit, length)) = units.into_iter().find(|(_, length)| bytes >= *length) else {
        return format!("{bytes}B");
    };
    // Tenths, cut and not rounded, so that 1023.99MB does not become 1024MB.
    let tenths = u128::from(bytes) * 10 / u128::from(length);
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole}{unit}"),
        (whole, tenth) => format!("{whole}.{tenth}{unit}"),
    }
}

/// A time in Unix seconds as `2026-11-23 04:29:57+00`, in the host's time zone.
pub fn timestamp(unix_seconds: i64) -> String {
    let Ok(time) = OffsetDateTime::from_unix_timestamp(unix_seconds) else {
        return unix_seconds.to_string();
    };
    let time = time.to_offset(local_offset());
    let text = time.format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"));
    let (hours, minutes, _) = time.offset().as_hms();
    let sign = if time.offset().is_negative() { '-' } else { '+' };
    let offset = match minutes.unsigned_abs() {
        0 => format!("{sign}{:02}", hours.unsigned_abs()),
        minutes => format!("{sign}{:02}:{minutes:02}", hours.unsigned_abs()),
    };
    text.map_or_else(|_| unix_seconds.to_string(), |text| text + &offset)
}

/// The host's offset from UTC. Asked once, early: the system's answer is not safe to ask for among several threads.
pub fn local_offset() -> UtcOffset {
    static OFFSET: OnceLock<UtcOffset> = OnceLock::new();
    *OFFSET.get_or_init(|| UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KB"),
            (1536, "1.5KB"),
            (8192, "8KB"),
            (1 << 20, "1MB"),
            ((1 << 30) - 1, "1023.9MB"),
            (152_830_000_000, "142.3GB"),
            (5 << 40, "5120GB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
        assert!(size(u64::MAX).ends_with("GB"));
    }

    #[test]
    fn timestamps_carry_their_offset() {
        let text = timestamp(1_795_408_197);
        assert!(text.starts_with("2026-11-2") && text.len() >= 22, "{text}");
        assert_eq!(timestamp(i64::MAX), i64::MAX.to_string());
    }
}
