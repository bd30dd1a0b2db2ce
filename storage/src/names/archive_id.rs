use std::fmt;
use std::str::FromStr;

use pgmesh_postgres::PgVersion;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The number of a database cluster within its stanza: 1 at `stanza-create`, one more at each `stanza-upgrade`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DbId(pub u32);

impl fmt::Display for DbId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

/// A cluster's archive: PostgreSQL's version and the cluster's number, as text `15-1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArchiveId {
    /// The cluster's number in its stanza.
    pub db: DbId,
    /// The cluster's major version.
    pub version: PgVersion,
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.version, self.db)
    }
}

/// A text that is no archive id.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not an archive id such as 15-1: {text:?}")]
pub struct ParseArchiveIdError {
    text: String,
}

impl FromStr for ArchiveId {
    type Err = ParseArchiveIdError;

    fn from_str(text: &str) -> Result<Self, ParseArchiveIdError> {
        let parse = || {
            let (version, db) = text.split_once('-')?;
            let id = Self {
                db: DbId(db.parse().ok().filter(|number| *number > 0)?),
                version: version.parse().ok()?,
            };
            // One spelling only: the text is a part of a path.
            (id.to_string() == text).then_some(id)
        };
        parse().ok_or_else(|| ParseArchiveIdError {
            text: text.chars().take(40).collect(),
        })
    }
}

super::serde_by_text!(ArchiveId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_ids() {
        let id: ArchiveId = "15-1".parse().unwrap();
        assert_eq!(id.db, DbId(1));
        assert_eq!(id.version.major(), 15);
        assert_eq!(id.to_string(), "15-1");
        for bad in ["", "15", "15-", "15-0", "15-01", "-1", "9.6-1", "15-1-1", "15-x"] {
            assert!(bad.parse::<ArchiveId>().is_err(), "{bad:?}");
        }
    }
}
