//! Whether this host and the restored PostgreSQL have the same time zone: only then a `--target` without an offset
//! means one time.

use super::configuration::Configuration;
use pgmesh_protocol::{ExitCode, Failure};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the files of time zones are. PostgreSQL may have its own copy, with the same names.
const ZONES: &str = "/usr/share/zoneinfo";
/// The zone of this host, where `TZ` does not say it.
const LOCAL_ZONE: &str = "/etc/localtime";
/// PostgreSQL's time zone when no file sets it (`TimeZone` in guc_tables.c).
const DEFAULT: &str = "GMT";
/// Names of UTC: files of the same content, but for the abbreviation in it.
const UTC: &[&str] = &[
    "etc/gmt",
    "etc/gmt+0",
    "etc/gmt-0",
    "etc/gmt0",
    "etc/greenwich",
    "etc/uct",
    "etc/universal",
    "etc/utc",
    "etc/zulu",
    "gmt",
    "gmt+0",
    "gmt-0",
    "gmt0",
    "greenwich",
    "uct",
    "universal",
    "utc",
    "utc0",
    "zulu",
];

/// A time zone: its name, and its file where that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Zone {
    name: String,
    /// The content of its file.
    content: Option<Vec<u8>>,
}

impl Zone {
    fn named(name: &str) -> Self {
        let is_plain = !name.starts_with('/') && !name.split('/').any(|part| part == "..");
        Self {
            name: name.to_owned(),
            content: is_plain.then(|| fs::read(Path::new(ZONES).join(name)).ok()).flatten(),
        }
    }

    /// This host's zone, as programs of this kind take it: `TZ`, else `/etc/localtime`, else UTC.
    fn of_host(variable: Option<&str>) -> Self {
        match variable
            .map(|zone| zone.trim_start_matches(':'))
            .filter(|zone| !zone.is_empty())
        {
            Some(zone) if !zone.starts_with('/') => Self::named(zone),
            Some(file) => Self::in_file(file),
            None => Self::in_file(LOCAL_ZONE),
        }
    }

    fn in_file(file: &str) -> Self {
        let leads = fs::canonicalize(file).unwrap_or_else(|_| PathBuf::from(file));
        let name = leads.strip_prefix(ZONES).unwrap_or(&leads).display().to_string();
        match fs::read(file) {
            Ok(content) => Self {
                name,
                content: Some(content),
            },
            Err(_) => Self::named("UTC"),
        }
    }

    fn is_utc(&self) -> bool {
        UTC.contains(&self.name.to_ascii_lowercase().as_str())
    }

    /// Whether both zones are the same for all times. Where that is not known, they count as different.
    fn is_same(&self, other: &Self) -> bool {
        (self.is_utc() && other.is_utc())
            || self.name.eq_ignore_ascii_case(&other.name)
            || (self.content.is_some() && self.content == other.content)
    }
}

/// Refuses a target that was given without an offset, where the restored server and this host are not known to have the
/// same time zone.
///
/// # Errors
/// 31.
pub fn check(configuration: &Configuration, target: &str) -> Result<(), Failure> {
    let host = Zone::of_host(std::env::var("TZ").ok().as_deref());
    let in_server = match configuration.value("timezone").filter(|zone| !zone.is_empty()) {
        Some(zone) => Some(zone),
        None => configuration.is_known.then_some(DEFAULT),
    };
    let why = match in_server.map(Zone::named) {
        Some(server) if server.is_same(&host) => return Ok(()),
        Some(server) => format!(
            "PostgreSQL has the time zone {}, and this host {}",
            server.name, host.name
        ),
        None => format!(
            "this host has the time zone {}, and that of PostgreSQL is not known: its postgresql.conf is not in the backup",
            host.name
        ),
    };
    Err(Failure::new(
        ExitCode::OptionInvalid,
        "the target time has no UTC offset and is ambiguous",
    )
    .because(why)
    .remedy(format!(
        "add the offset: in this host's time zone it would be --target='{target}'; +00 is UTC"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_the_same_by_name_by_content_or_when_both_are_utc() {
        let zone = |name: &str, content: &str| Zone {
            name: name.to_owned(),
            content: (!content.is_empty()).then(|| content.as_bytes().to_vec()),
        };
        let same = |one: &Zone, other: &Zone| one.is_same(other) && other.is_same(one);
        assert!(same(&zone("Etc/UTC", "a"), &zone("GMT", "b")));
        assert!(same(&zone("Europe/Rome", ""), &zone("europe/rome", "x")));
        assert!(same(&zone("/etc/localtime", "x"), &zone("Europe/Rome", "x")));
        assert!(!same(&zone("/etc/localtime", ""), &zone("Europe/Rome", "")));
        assert!(!same(&zone("UTC", "x"), &zone("Europe/Rome", "y")));
        assert!(!same(&zone("Europe/Berlin", "x"), &zone("Europe/Rome", "y")));
    }

    #[test]
    fn the_host_has_the_zone_of_its_environment_before_that_of_its_file() {
        assert_eq!(Zone::of_host(Some(":America/New_York")).name, "America/New_York");
        assert_eq!(Zone::of_host(Some("/nonexistent")).name, "UTC");
        assert_eq!(Zone::of_host(None), Zone::of_host(Some("")));
        assert_eq!(Zone::named("../../etc/passwd").content, None);
    }
}
