//! Days, weeks, months and years in a time zone.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use pgmesh_protocol::RetainedBackup;
use pgmesh_storage::BackupLabel;
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

use super::retention::Retention;

/// A time zone.
#[derive(Debug, Clone)]
pub struct Zone(TimeZone);

/// A name that this host knows no time zone of.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no time zone '{0}' on this host")]
pub struct UnknownZone(String);

impl Zone {
    /// This host's zone.
    #[must_use]
    pub fn of_host() -> Self {
        Self(TimeZone::system())
    }

    /// Coordinated universal time.
    #[must_use]
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// The zone of an IANA name such as `Europe/Rome`.
    ///
    /// # Errors
    /// This host knows no such zone.
    pub fn named(name: &str) -> Result<Self, UnknownZone> {
        TimeZone::get(name).map(Self).map_err(|_| UnknownZone(name.to_owned()))
    }

    fn date(&self, unix_seconds: i64) -> Date {
        let time = Timestamp::from_second(unix_seconds).unwrap_or_default();
        self.0.to_datetime(time).date()
    }
}

/// A kind of period, and the first day of the period that a day is in.
type Period = (&'static str, fn(Date) -> Date);

fn first_of_week(day: Date) -> Date {
    let since_monday = i64::from(day.weekday().to_monday_zero_offset());
    day.checked_sub(jiff::Span::new().days(since_monday))
        .unwrap_or(Date::MIN)
}

/// The full backups that the calendar keeps, each with its reason (`retention-weekly=4`): the newest of each of the
/// last days, weeks, months or years that have one. A period without a backup does not count, so that a pause of the
/// backups expires nothing. The start of a backup says which day it belongs to: it is planned, the end is not.
pub fn kept<'b>(
    retention: &Retention,
    zone: &Zone,
    fulls: impl DoubleEndedIterator<Item = &'b RetainedBackup> + Clone,
) -> BTreeMap<BackupLabel, String> {
    let periods: [(Option<u32>, Period); 4] = [
        (retention.daily, ("daily", |day| day)),
        (retention.weekly, ("weekly", first_of_week)),
        (retention.monthly, ("monthly", Date::first_of_month)),
        (retention.yearly, ("yearly", Date::first_of_year)),
    ];
    let mut kept = BTreeMap::new();
    for (count, (name, first_day)) in periods {
        let count = count.unwrap_or(0);
        let mut seen = BTreeSet::new();
        for backup in fulls.clone().rev() {
            if seen.len() >= usize::try_from(count).unwrap_or(usize::MAX) {
                break;
            }
            if seen.insert(first_day(zone.date(backup.time_start))) {
                let reason = || format!("retention-{name}={count}");
                kept.entry(backup.label.clone()).or_insert_with(reason);
            }
        }
    }
    kept
}
