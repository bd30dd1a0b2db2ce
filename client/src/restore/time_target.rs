//! A time as `--target` gives it.
//!
//! Without an offset it is the time of this host, which must be the server's, too (`zones.rs`): so the time for
//! PostgreSQL always carries an offset.

use chrono::{
    DateTime, FixedOffset, Local, MappedLocalTime, NaiveDate, NaiveDateTime, Offset, SecondsFormat, TimeZone,
};
use thiserror::Error;

/// A time, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeTarget {
    /// The whole seconds since 1970.
    pub unix_seconds: i64,
    /// For `recovery_target_time`, with an explicit offset.
    pub text: String,
    /// It was given without an offset, and is taken for a time of this host.
    pub is_local: bool,
}

/// Why a text is no time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoTime {
    /// Another form.
    #[error("a time such as 2026-11-23 04:29:57 or 2026-11-23 04:29:57.5+01:00 is expected")]
    Form,
    /// The clocks were put forward then.
    #[error("there was no such time in this host's time zone: the clocks were put forward")]
    Skipped,
    /// The clocks were put back then.
    #[error("there were two such times in this host's time zone: say which by its offset from UTC")]
    Ambiguous,
}

/// The offset that this host's time zone had at a local time.
pub fn local(time: NaiveDateTime) -> Result<FixedOffset, NoTime> {
    match Local.offset_from_local_datetime(&time) {
        MappedLocalTime::Single(offset) => Ok(offset.fix()),
        MappedLocalTime::Ambiguous(_, _) => Err(NoTime::Ambiguous),
        MappedLocalTime::None => Err(NoTime::Skipped),
    }
}

/// Reads `YYYY-MM-DD[ HH:MM[:SS[.ffffff]]][+TZ]`, which PostgreSQL reads the same way under any DateStyle.
///
/// # Errors
/// Why the text is no time.
pub fn parse(text: &str, local: &dyn Fn(NaiveDateTime) -> Result<FixedOffset, NoTime>) -> Result<TimeTarget, NoTime> {
    let text = text.trim();
    let (date, rest) = split_at(text, 10)?;
    let date = parse_date(date)?;
    let rest = rest.strip_prefix(['T', 't', ' ']).unwrap_or(rest).trim_start();
    let zone_at = rest
        .find(|character: char| !(character.is_ascii_digit() || matches!(character, ':' | '.')))
        .unwrap_or(rest.len());
    let (clock, zone) = split_at(rest, zone_at)?;
    let time = parse_clock(date, clock)?;
    let is_local = zone.trim().is_empty();
    let offset = match zone.trim() {
        "" => local(time)?,
        zone => parse_zone(zone)?,
    };
    let time: DateTime<FixedOffset> = match offset.from_local_datetime(&time) {
        MappedLocalTime::Single(time) => time,
        _ => return Err(NoTime::Form),
    };
    let precision = if time.timestamp_subsec_micros() == 0 {
        SecondsFormat::Secs
    } else {
        SecondsFormat::Micros
    };
    Ok(TimeTarget {
        unix_seconds: time.timestamp(),
        text: time.to_rfc3339_opts(precision, false).replacen('T', " ", 1),
        is_local,
    })
}

fn parse_date(text: &str) -> Result<NaiveDate, NoTime> {
    let mut parts = text.split('-');
    let (year, month, day) = (
        number(parts.next(), 4)?,
        number(parts.next(), 2)?,
        number(parts.next(), 2)?,
    );
    let date = i32::try_from(year)
        .ok()
        .and_then(|year| NaiveDate::from_ymd_opt(year, month, day));
    date.filter(|_| parts.next().is_none()).ok_or(NoTime::Form)
}

/// Nothing is midnight.
fn parse_clock(date: NaiveDate, text: &str) -> Result<NaiveDateTime, NoTime> {
    if text.is_empty() {
        return date.and_hms_opt(0, 0, 0).ok_or(NoTime::Form);
    }
    let (clock, fraction) = text
        .split_once('.')
        .map_or((text, None), |(clock, fraction)| (clock, Some(fraction)));
    let mut parts = clock.split(':');
    let (hour, minute) = (number(parts.next(), 2)?, number(parts.next(), 2)?);
    let second = match parts.next() {
        None if fraction.is_none() => 0,
        second => number(second, 2)?,
    };
    let micros = match fraction {
        None => 0,
        Some(digits) if (1..=6).contains(&digits.len()) => number(Some(&format!("{digits:0<6}")), 6)?,
        Some(_) => return Err(NoTime::Form),
    };
    let time = date.and_hms_micro_opt(hour, minute, second, micros);
    time.filter(|_| parts.next().is_none()).ok_or(NoTime::Form)
}

/// `Z`, `UTC`, `+01`, `+0130`, `+01:30`.
fn parse_zone(text: &str) -> Result<FixedOffset, NoTime> {
    if ["z", "utc", "gmt"].iter().any(|name| text.eq_ignore_ascii_case(name)) {
        return Ok(UTC);
    }
    let (is_east, digits) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(digits), _) => (true, digits),
        (_, Some(digits)) => (false, digits),
        _ => return Err(NoTime::Form),
    };
    let (hours, minutes) = match digits.split_once(':') {
        Some((hours, minutes)) => (hours, minutes),
        None => split_at(digits, 2.min(digits.len()))?,
    };
    let hours = number(Some(hours), if hours.len() == 1 { 1 } else { 2 })?;
    let minutes = if minutes.is_empty() {
        0
    } else {
        number(Some(minutes), 2)?
    };
    // PostgreSQL takes offsets up to 15:59.
    if hours > 15 || minutes > 59 {
        return Err(NoTime::Form);
    }
    let seconds = i32::try_from(hours * 3600 + minutes * 60).map_err(|_| NoTime::Form)?;
    let offset = if is_east {
        FixedOffset::east_opt(seconds)
    } else {
        FixedOffset::west_opt(seconds)
    };
    offset.ok_or(NoTime::Form)
}

/// UTC as an offset.
const UTC: FixedOffset = match FixedOffset::east_opt(0) {
    Some(offset) => offset,
    None => panic!("zero is an offset"),
};

fn number(text: Option<&str>, digits: usize) -> Result<u32, NoTime> {
    let text = text.filter(|text| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit()));
    text.and_then(|text| text.parse().ok()).ok_or(NoTime::Form)
}

fn split_at(text: &str, at: usize) -> Result<(&str, &str), NoTime> {
    text.split_at_checked(at).ok_or(NoTime::Form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn in_rome(time: NaiveDateTime) -> Result<FixedOffset, NoTime> {
        let _ = time;
        FixedOffset::east_opt(3600).ok_or(NoTime::Form)
    }

    fn parsed(text: &str) -> Result<(i64, String), NoTime> {
        parse(text, &in_rome).map(|target| (target.unix_seconds, target.text))
    }

    #[test]
    fn the_forms_that_postgresql_reads_too() {
        let two_in_the_morning = 1_739_584_800;
        for (text, seconds, written) in [
            (
                "2025-02-15 02:00:01+00",
                two_in_the_morning + 1,
                "2025-02-15 02:00:01+00:00",
            ),
            (
                "2025-02-15T02:00:01Z",
                two_in_the_morning + 1,
                "2025-02-15 02:00:01+00:00",
            ),
            (
                "2025-02-15 02:00:01.25 UTC",
                two_in_the_morning + 1,
                "2025-02-15 02:00:01.250000+00:00",
            ),
            (
                "2025-02-15 03:00:01",
                two_in_the_morning + 1,
                "2025-02-15 03:00:01+01:00",
            ),
            ("2025-02-15 03:00", two_in_the_morning, "2025-02-15 03:00:00+01:00"),
            ("2025-02-15", two_in_the_morning - 3 * 3600, "2025-02-15 00:00:00+01:00"),
            (
                "2025-02-14 22:30:00-0330",
                two_in_the_morning,
                "2025-02-14 22:30:00-03:30",
            ),
            (
                " 2025-02-15 07:30:00+05:30 ",
                two_in_the_morning,
                "2025-02-15 07:30:00+05:30",
            ),
            ("1969-12-31 23:59:59.5+00", -1, "1969-12-31 23:59:59.500000+00:00"),
        ] {
            assert_eq!(parsed(text), Ok((seconds, written.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "now",
            "15.02.2025 02:00",
            "2025-02-30 02:00:01",
            "2025-02-15 24:00:01",
            "2025-02-15 02:00:61",
            "2025-02-15 02:00:01+25",
            "2025-02-15 02:00:01 Europe/Rome",
            "2025-02-15 02:00:01.",
            "2025-02-15 02:00:01.1234567",
            "2025-02-15 02",
            "2025-02-15-01 02:00:00",
        ] {
            assert_eq!(parsed(text), Err(NoTime::Form), "{text:?}");
        }
    }

    #[test]
    fn hours_that_the_clocks_repeat_or_skip_are_said() {
        assert_eq!(
            parse("2025-10-26 02:30:00", &|_| Err(NoTime::Ambiguous)),
            Err(NoTime::Ambiguous)
        );
        assert_eq!(
            parse("2025-03-30 02:30:00", &|_| Err(NoTime::Skipped)),
            Err(NoTime::Skipped)
        );
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text: String) {
            let _ = parsed(&text);
        }

        #[test]
        fn what_is_written_is_the_same_time(seconds in 0_i64..4_000_000_000, micros in 0_u32..1_000_000) {
            let time = DateTime::from_timestamp(seconds, micros * 1000).unwrap();
            let first = parsed(&time.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string()).unwrap();
            prop_assert_eq!(first.0, seconds);
            prop_assert_eq!(parsed(&first.1).unwrap(), first);
        }
    }
}
