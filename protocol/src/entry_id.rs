//! Names of log entries.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An entry of the log: the term in which it was written, and its place. Written `TERM.INDEX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryId {
    /// The term.
    pub term: u64,
    /// The place.
    pub index: u64,
}

/// A text that names no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' names no entry of the log: use TERM.INDEX, as the node's message does")]
pub struct EntryIdError(pub String);

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

impl FromStr for EntryId {
    type Err = EntryIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('.').and_then(|(term, index)| {
            let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
            let (term, index) = (is_number(term) && is_number(index)).then_some((term, index))?;
            Some(Self {
                term: term.parse().ok()?,
                index: index.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| EntryIdError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_names() {
        let entry = EntryId { term: 3, index: 17 };
        assert_eq!(entry.to_string(), "3.17");
        assert_eq!("3.17".parse(), Ok(entry));
        for bad in [
            "",
            "3",
            "3.",
            ".",
            "+3.17",
            "3.17.1",
            "3,17",
            "99999999999999999999.1",
            "a.b",
        ] {
            assert!(bad.parse::<EntryId>().is_err(), "{bad}");
        }
    }
}
