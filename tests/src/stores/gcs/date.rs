//! Dates in the forms of HTTP and XML.

use time::OffsetDateTime;
use time::PrimitiveDateTime;
use time::format_description::FormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

const HTTP: &[FormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// `Sun, 06 Nov 1994 08:49:37 GMT`
pub fn http(date: OffsetDateTime) -> String {
    date.format(HTTP).expect("formatting a date")
}

pub fn from_http(text: &str) -> Option<OffsetDateTime> {
    PrimitiveDateTime::parse(text, HTTP)
        .ok()
        .map(PrimitiveDateTime::assume_utc)
}

pub fn rfc3339(date: OffsetDateTime) -> String {
    date.format(&Rfc3339).expect("formatting a date")
}

pub fn from_rfc3339(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

/// The present time in whole seconds, the precision of HTTP.
pub fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
        .replace_nanosecond(0)
        .expect("zero nanoseconds")
}
