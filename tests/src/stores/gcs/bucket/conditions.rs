//! Conditions, ranges and retention.

use std::ops::Range;

use time::OffsetDateTime;

use super::{Call, Failure, date};

/// The protection of an object.
#[derive(Clone, Debug)]
pub struct Retention {
    pub mode: String,
    pub until: OffsetDateTime,
}

impl Retention {
    /// The retention that a write asks for.
    pub fn asked(call: &Call<'_>) -> Result<Option<Self>, Failure> {
        let mode = call.header("x-goog-object-lock-mode");
        let until = call.header("x-goog-object-lock-retain-until-date");
        let (mode, until) = match (mode, until) {
            (None, None) => return Ok(None),
            (Some(mode), Some(until)) => (mode, until),
            _ => return Err(Failure::invalid("mode and date of a retention come together")),
        };
        if !["GOVERNANCE", "COMPLIANCE"].contains(&mode) {
            return Err(Failure::invalid(format!(
                "{mode:?} is no mode of retention: GOVERNANCE or COMPLIANCE"
            )));
        }
        let until = date::from_rfc3339(until)
            .filter(|until| *until > OffsetDateTime::now_utc())
            .ok_or_else(|| Failure::invalid("a retention lasts until a date in the future"))?;
        Ok(Some(Self {
            mode: mode.to_owned(),
            until,
        }))
    }
}

/// Whether a read may be answered (RFC 9110, 13.2.2).
pub fn check_read(call: &Call<'_>, tag: &str, modified: OffsetDateTime) -> Result<(), Failure> {
    let names = |list: &str| list.split(',').any(|one| one.trim() == "*" || one.trim() == tag);
    let not_modified = || Failure::new(304, "NotModified", "");
    let date = |name| call.header(name).and_then(date::from_http);
    match call.header("if-match") {
        Some(list) if !names(list) => return Err(Failure::precondition()),
        None if date("if-unmodified-since").is_some_and(|since| modified > since) => {
            return Err(Failure::precondition());
        }
        _ => {}
    }
    match call.header("if-none-match") {
        Some(list) if names(list) => Err(not_modified()),
        None if date("if-modified-since").is_some_and(|since| modified <= since) => Err(not_modified()),
        _ => Ok(()),
    }
}

/// The bytes that a `Range` header asks for.
pub fn range(header: &str, size: usize) -> Result<Range<usize>, Failure> {
    let cannot = || Failure::new(416, "InvalidRange", "The requested range cannot be satisfied.");
    let (first, last) = header
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
        .ok_or_else(|| Failure::invalid(format!("{header:?} is no range")))?;
    let number = |text: &str| {
        text.parse::<usize>()
            .map_err(|_| Failure::invalid(format!("{header:?} is no range")))
    };
    let range = match (first, last) {
        ("", last) => size.saturating_sub(number(last)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => number(first)?..number(last)?.saturating_add(1).min(size),
    };
    if range.is_empty() {
        return Err(cannot());
    }
    Ok(range)
}
