//! Sizes and times, as they are written for people.

use chrono::{Offset, TimeZone};
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

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
    let time = time.to_offset(local_offset(time));
    let text = time.format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"));
    let (hours, minutes, _) = time.offset().as_hms();
    let sign = if time.offset().is_negative() { '-' } else { '+' };
    let offset = match minutes.unsigned_abs() {
        0 => format!("{sign}{:02}", hours.unsigned_abs()),
        minutes => format!("{sign}{:02}:{minutes:02}", hours.unsigned_abs()),
    };
    text.map_or_else(|_| unix_seconds.to_string(), |text| text + &offset)
}

/// The Unix seconds of `2026-11-23[ 04:29[:57]][+00]`, in the host's time zone where there is no offset.
#[must_use]
pub fn unix_seconds(text: &str) -> Option<i64> {
    let time = crate::restore::time_target::parse(text, &crate::restore::time_target::local).ok()?;
    Some(time.unix_seconds)
}

/// The host's offset from UTC at a time. It differs between summer and winter, also for a program that runs through the
/// change.
pub fn local_offset(at: OffsetDateTime) -> UtcOffset {
    let time = chrono::DateTime::from_timestamp(at.unix_timestamp(), 0);
    let offset = time.map(|time| chrono::Local.offset_from_utc_datetime(&time.naive_utc()).fix());
    offset
        .and_then(|offset| UtcOffset::from_whole_seconds(offset.local_minus_utc()).ok())
        .unwrap_or(UtcOffset::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs itself in a time zone with summer time, since a process cannot change its own.
    #[test]
    fn times_have_the_offset_of_their_season() {
        const ZONE: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
        if std::env::var("TZ").as_deref() == Ok(ZONE) {
            assert_eq!(timestamp(1_767_225_600), "2026-01-01 01:00:00+01");
            assert_eq!(timestamp(1_782_864_000), "2026-07-01 02:00:00+02");
            return;
        }
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "text::tests::times_have_the_offset_of_their_season"]);
        let outcome = again.env("TZ", ZONE).output().unwrap();
        let said = String::from_utf8_lossy(&outcome.stdout);
        assert!(outcome.status.success() && said.contains("1 passed"), "{said}");
    }

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
