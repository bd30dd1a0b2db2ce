use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;

/// The type of a backup: which pages it stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupType {
    /// Every page anew.
    Full,
    /// The difference from the last full backup.
    Diff,
    /// The difference from the last backup.
    Incr,
}

impl fmt::Display for BackupType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Full => "full",
            Self::Diff => "diff",
            Self::Incr => "incr",
        })
    }
}

/// A text that is no backup type.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no such backup type: {text:?} (full, diff and incr are known)")]
pub struct ParseBackupTypeError {
    text: String,
}

impl FromStr for BackupType {
    type Err = ParseBackupTypeError;

    fn from_str(text: &str) -> Result<Self, ParseBackupTypeError> {
        match text {
            "full" => Ok(Self::Full),
            "diff" => Ok(Self::Diff),
            "incr" => Ok(Self::Incr),
            _ => Err(ParseBackupTypeError { text: text.to_owned() }),
        }
    }
}

/// The length of `20250215-020001F`.
const PART_LENGTH: usize = 16;

/// The name of a backup: `20250215-020001F` for a full backup, `20250215-020001F_20250216-020001D` (or `I`) for a
/// dependent of it.
///
/// Labels of one stanza sort as text in the order of their making, each full backup followed by its dependents.
///
/// ```
/// use pgmesh_storage::BackupLabel;
///
/// let full: BackupLabel = "20250215-020001F".parse()?;
/// let dependent: BackupLabel = "20250215-020001F_20250216-020001D".parse()?;
/// assert!(full < dependent);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupLabel(String);

impl BackupLabel {
    /// The label of a full backup made at `at`, in the offset that `at` carries.
    #[must_use]
    pub fn full(at: OffsetDateTime) -> Self {
        Self(format!("{}F", timestamp(at)))
    }

    /// The label of a backup made at `at` that depends on `prior`'s full backup.
    #[must_use]
    pub fn dependent(prior: &Self, kind: BackupType, at: OffsetDateTime) -> Self {
        match kind {
            BackupType::Full => Self::full(at),
            BackupType::Diff => Self(format!("{}_{}D", prior.full_part(), timestamp(at))),
            BackupType::Incr => Self(format!("{}_{}I", prior.full_part(), timestamp(at))),
        }
    }

    /// The label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The type, which is the label's last letter.
    #[must_use]
    pub fn backup_type(&self) -> BackupType {
        match self.0.as_bytes().last() {
            Some(b'D') => BackupType::Diff,
            Some(b'I') => BackupType::Incr,
            _ => BackupType::Full,
        }
    }

    /// The label of the full backup: this backup itself, or the one that it depends on.
    #[must_use]
    pub fn full_part(&self) -> Self {
        Self(self.0.chars().take(PART_LENGTH).collect())
    }
}

/// `20250215-020001`.
fn timestamp(at: OffsetDateTime) -> String {
    format!(
        "{:04}{:02}{:02}-{:02}{:02}{:02}",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

impl fmt::Display for BackupLabel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl AsRef<str> for BackupLabel {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// A text that is no backup label.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not a backup label such as 20250215-020001F or 20250215-020001F_20250216-020001I: {text:?}")]
pub struct ParseBackupLabelError {
    text: String,
}

impl FromStr for BackupLabel {
    type Err = ParseBackupLabelError;

    fn from_str(text: &str) -> Result<Self, ParseBackupLabelError> {
        let (full, dependent) = match text.split_once('_') {
            None => (text, None),
            Some((full, dependent)) => (full, Some(dependent)),
        };
        if is_part(full, b"F") && dependent.is_none_or(|part| is_part(part, b"DI")) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseBackupLabelError {
                text: text.chars().take(60).collect(),
            })
        }
    }
}

/// Whether `text` is a timestamp and then a letter out of `letters`.
fn is_part(text: &str, letters: &[u8]) -> bool {
    text.len() == PART_LENGTH
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 => byte == b'-',
            15 => letters.contains(&byte),
            _ => byte.is_ascii_digit(),
        })
}

super::serde_by_text!(BackupLabel);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn parts_of_a_label() {
        let full = BackupLabel::full(datetime!(2025-02-15 02:00:01 UTC));
        assert_eq!(full.as_str(), "20250215-020001F");
        assert_eq!(full.backup_type(), BackupType::Full);
        assert_eq!(full.full_part(), full);
        let at = datetime!(2025-02-16 02:00:01 +1);
        let incr = BackupLabel::dependent(&full, BackupType::Incr, at);
        assert_eq!(incr.as_str(), "20250215-020001F_20250216-020001I");
        assert_eq!(incr.backup_type(), BackupType::Incr);
        assert_eq!(incr.full_part(), full);
        let diff = BackupLabel::dependent(&incr, BackupType::Diff, at);
        assert_eq!(diff.as_str(), "20250215-020001F_20250216-020001D");
        assert!(full < diff && diff < incr);
    }

    #[test]
    fn what_is_no_label() {
        for bad in [
            "",
            "20250215-020001",
            "20250215-020001D",
            "20250215-020001F_",
            "20250215-020001F_20250216-020001F",
            "20250215_020001F",
            "2025021-0200010F",
            "../../etc/passwdF",
            "20250215-020001F_20250216-020001I_20250216-020001I",
        ] {
            assert!(bad.parse::<BackupLabel>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(text in "[0-9]{8}-[0-9]{6}F(_[0-9]{8}-[0-9]{6}[DI])?") {
            prop_assert_eq!(text.parse::<BackupLabel>().unwrap().to_string(), text);
        }

        #[test]
        fn any_text_is_answered(text: String) {
            let _ = text.parse::<BackupLabel>();
        }
    }
}
