//! The node's clock, for times that people read and for the expiry of tokens; nothing else is decided by it.

use time::OffsetDateTime;
use time::macros::format_description;

pub use pgmesh_runtime::clock::now_unix;

/// Seconds since the Unix epoch, for people: `2025-02-15 02:00:01 UTC`.
pub fn utc(at: i64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    let formatted = OffsetDateTime::from_unix_timestamp(at)
        .ok()
        .and_then(|time| time.format(format).ok());
    formatted.unwrap_or_else(|| format!("second {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_words() {
        assert_eq!(utc(1_739_584_801), "2025-02-15 02:00:01 UTC");
        assert_eq!(utc(i64::MAX), format!("second {}", i64::MAX));
    }
}
