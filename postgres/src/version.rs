//! The major versions of PostgreSQL, and the numbers by which they are told apart.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A major version of PostgreSQL that pgmesh can back up. Code asks this type for the differences between versions, and
/// compares no numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub enum PgVersion {
    /// PostgreSQL 14.
    V14,
    /// PostgreSQL 15.
    V15,
    /// PostgreSQL 16.
    V16,
    /// PostgreSQL 17.
    V17,
    /// PostgreSQL 18.
    V18,
}

/// One row for each major version that can be recognised, supported or not.
struct Release {
    major: u32,
    /// `None`: a known version that is refused by its name.
    version: Option<PgVersion>,
    /// `PG_CONTROL_VERSION` in pg_control.h.
    control: u32,
    /// `CATALOG_VERSION_NO` in catversion.h. Fixed from the first release of a major version on; betas have others.
    catalog: u32,
    /// `XLOG_PAGE_MAGIC` in xlog_internal.h.
    wal_magic: u16,
}

const RELEASES: &[Release] = &[
    Release {
        major: 12,
        version: None,
        control: 1201,
        catalog: 201_909_212,
        wal_magic: 0xD101,
    },
    Release {
        major: 13,
        version: None,
        control: 1300,
        catalog: 202_007_201,
        wal_magic: 0xD106,
    },
    Release {
        major: 14,
        version: Some(PgVersion::V14),
        control: 1300,
        catalog: 202_107_181,
        wal_magic: 0xD10D,
    },
    Release {
        major: 15,
        version: Some(PgVersion::V15),
        control: 1300,
        catalog: 202_209_061,
        wal_magic: 0xD110,
    },
    Release {
        major: 16,
        version: Some(PgVersion::V16),
        control: 1300,
        catalog: 202_307_071,
        wal_magic: 0xD113,
    },
    Release {
        major: 17,
        version: Some(PgVersion::V17),
        control: 1700,
        catalog: 202_406_281,
        wal_magic: 0xD116,
    },
    Release {
        major: 18,
        version: Some(PgVersion::V18),
        control: 1800,
        catalog: 202_506_291,
        wal_magic: 0xD118,
    },
];

impl PgVersion {
    /// All supported versions, oldest first.
    pub const ALL: [Self; 5] = [Self::V14, Self::V15, Self::V16, Self::V17, Self::V18];

    /// The number in everyday use: 15.
    #[must_use]
    pub fn major(self) -> u32 {
        match self {
            Self::V14 => 14,
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }

    /// Takes a major version's number.
    ///
    /// # Errors
    /// When pgmesh does not support it.
    pub fn from_major(major: u32) -> Result<Self, UnsupportedVersion> {
        Self::ALL
            .into_iter()
            .find(|version| version.major() == major)
            .ok_or(UnsupportedVersion::Major { major })
    }

    /// Takes the number of `SHOW server_version_num`, for example 150020.
    ///
    /// # Errors
    /// When pgmesh does not support that version.
    pub fn from_server_version_num(number: u32) -> Result<Self, UnsupportedVersion> {
        Self::from_major(number / 10_000)
    }

    /// Recognises the version by the two numbers in `pg_control`.
    ///
    /// # Errors
    /// When the version is not supported; development versions and betas have numbers of their own and are not.
    pub fn from_control(control_version: u32, catalog_version: u32) -> Result<Self, UnsupportedVersion> {
        RELEASES
            .iter()
            .find(|release| release.control == control_version && release.catalog == catalog_version)
            .map_or(
                Err(UnsupportedVersion::Control {
                    control_version,
                    catalog_version,
                }),
                Release::supported,
            )
    }

    /// Recognises the version by the magic number of a WAL page.
    ///
    /// # Errors
    /// When the version is not supported.
    pub fn from_wal_magic(magic: u16) -> Result<Self, UnsupportedVersion> {
        RELEASES
            .iter()
            .find(|release| release.wal_magic == magic)
            .map_or(Err(UnsupportedVersion::WalMagic { magic }), Release::supported)
    }

    /// `PG_CONTROL_VERSION` of this version.
    #[must_use]
    pub fn control_version(self) -> u32 {
        self.release().map_or(0, |release| release.control)
    }

    /// `CATALOG_VERSION_NO` of this version.
    #[must_use]
    pub fn catalog_version(self) -> u32 {
        self.release().map_or(0, |release| release.catalog)
    }

    /// The directory that holds this version's files in a tablespace (`TABLESPACE_VERSION_DIRECTORY`):
    /// `PG_15_202209061`.
    #[must_use]
    pub fn tablespace_directory(self) -> String {
        format!("PG_{}_{}", self.major(), self.catalog_version())
    }

    /// Whether `backup_manifest` names the system identifier (its version 2).
    #[must_use]
    pub fn has_system_id_in_manifest(self) -> bool {
        self >= Self::V17
    }

    /// Whether the server can summarise its WAL (`summarize_wal`).
    #[must_use]
    pub fn has_wal_summaries(self) -> bool {
        self >= Self::V17
    }

    /// Whether a backup is begun with `pg_backup_start` and not with `pg_start_backup`.
    #[must_use]
    pub fn has_backup_start(self) -> bool {
        self >= Self::V15
    }

    fn release(self) -> Option<&'static Release> {
        RELEASES.iter().find(|release| release.version == Some(self))
    }
}

impl Release {
    fn supported(&self) -> Result<PgVersion, UnsupportedVersion> {
        self.version.ok_or(UnsupportedVersion::Major { major: self.major })
    }
}

impl fmt::Display for PgVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.major().fmt(formatter)
    }
}

impl FromStr for PgVersion {
    type Err = UnsupportedVersion;

    /// Reads `15`, the content of a `PG_VERSION` file; white space around it is dropped.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let major = text.trim().parse().map_err(|_| UnsupportedVersion::Text {
            text: text.chars().take(32).collect(),
        })?;
        Self::from_major(major)
    }
}

impl TryFrom<u32> for PgVersion {
    type Error = UnsupportedVersion;

    fn try_from(major: u32) -> Result<Self, Self::Error> {
        Self::from_major(major)
    }
}

impl From<PgVersion> for u32 {
    fn from(version: PgVersion) -> Self {
        version.major()
    }
}

/// A version of PostgreSQL that pgmesh does not support, or none at all.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnsupportedVersion {
    /// A major version outside 14 to 18.
    #[error("PostgreSQL {major} is not supported: pgmesh supports 14 to 18")]
    Major {
        /// Its number.
        major: u32,
    },
    /// `pg_control` has numbers that no supported release has: a beta, a fork, or a newer version.
    #[error(
        "pg_control version {control_version} with catalog version {catalog_version} is of no supported release \
         of PostgreSQL: pgmesh supports the releases of 14 to 18"
    )]
    Control {
        /// `PG_CONTROL_VERSION`.
        control_version: u32,
        /// `CATALOG_VERSION_NO`.
        catalog_version: u32,
    },
    /// A WAL page has a magic number that no supported release writes.
    #[error("WAL page magic {magic:#06X} is of no supported release of PostgreSQL: pgmesh supports 14 to 18")]
    WalMagic {
        /// The magic number.
        magic: u16,
    },
    /// A text that is no version.
    #[error("{text:?} is no version of PostgreSQL: a number like 15 is expected")]
    Text {
        /// The text.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_is_recognised_by_all_its_numbers() {
        for version in PgVersion::ALL {
            let release = version.release().unwrap();
            assert_eq!(PgVersion::from_control(release.control, release.catalog), Ok(version));
            assert_eq!(PgVersion::from_wal_magic(release.wal_magic), Ok(version));
            assert_eq!(PgVersion::from_major(release.major), Ok(version));
            assert_eq!(version.to_string().parse(), Ok(version));
            assert_eq!(version.major(), release.major);
        }
    }

    #[test]
    fn unsupported_versions_are_called_by_name() {
        assert_eq!(
            PgVersion::from_wal_magic(0xD106),
            Err(UnsupportedVersion::Major { major: 13 })
        );
        assert_eq!(
            PgVersion::from_control(1201, 201_909_212),
            Err(UnsupportedVersion::Major { major: 12 })
        );
        for major in ["12", "13", "19"] {
            let message = major.parse::<PgVersion>().unwrap_err().to_string();
            assert!(message.contains(major), "{message}");
        }
        assert!(matches!(
            PgVersion::from_control(1300, 1),
            Err(UnsupportedVersion::Control { .. })
        ));
        assert!(matches!(
            PgVersion::from_wal_magic(0xD121),
            Err(UnsupportedVersion::WalMagic { magic: 0xD121 })
        ));
        assert!("9.6".parse::<PgVersion>().is_err());
    }

    #[test]
    fn names_that_derive_from_the_version() {
        assert_eq!(PgVersion::V15.tablespace_directory(), "PG_15_202209061");
        assert_eq!("15\n".parse(), Ok(PgVersion::V15));
        assert_eq!(PgVersion::from_server_version_num(150_020), Ok(PgVersion::V15));
    }
}
