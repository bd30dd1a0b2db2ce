//! Which pages of a file are read: a pure decision. Their content decides which of them are stored.

use super::changes::Changes;
use super::plan::size;
use super::summary::ChosenBy;
use pgmesh_postgres::{Candidates, ChangeMap, Entry};
use pgmesh_storage::FileEntry;
use roaring::RoaringBitmap;

/// A file that was changed so shortly before the prior backup may have been changed again in the same second, in
/// seconds.
const RACY: i64 = 2;

/// How the files and pages to read are chosen.
#[derive(Debug)]
pub enum Policy {
    /// All files are read. If there is a change map all the same, it is put to the test.
    Everything(Option<ChangeMap>),
    /// By the WAL between the two backups.
    Map(Changes),
    /// By sizes and times: if a file's size and time are those in the prior backup, the file is as it was. The prior
    /// backup began at this time (Unix seconds).
    Times(i64),
}

/// The pages of a file that are read.
#[derive(Debug, PartialEq)]
pub struct PageSelection {
    /// These of the old pages, and all new ones; none: all pages.
    pub pages: Option<RoaringBitmap>,
    /// The pages that a change map names, where the map is put to the test.
    pub named: Option<RoaringBitmap>,
}

impl Policy {
    /// Decides about a file that the prior backup has.
    pub fn select(&self, entry: &Entry, before: &FileEntry) -> PageSelection {
        let named = |map: &ChangeMap| match map.candidates(&entry.path) {
            Candidates::All => None,
            Candidates::Blocks(blocks) => Some(blocks),
        };
        match self {
            Self::Everything(tested) => PageSelection {
                pages: None,
                named: tested.as_ref().and_then(named),
            },
            Self::Map(changes) => PageSelection {
                pages: named(&changes.map),
                named: None,
            },
            Self::Times(began) => {
                let is_same = size(entry) == before.size()
                    && entry.modified == before.modified
                    && before.modified < began.saturating_sub(RACY);
                PageSelection {
                    pages: is_same.then(RoaringBitmap::new),
                    named: None,
                }
            }
        }
    }

    /// How the files and pages to read are chosen, for the summary.
    pub fn chosen_by(&self) -> ChosenBy {
        match self {
            Self::Everything(_) => ChosenBy::Nothing,
            Self::Map(changes) => changes.chosen_by,
            Self::Times(_) => ChosenBy::Times,
        }
    }

    /// In words, for the user.
    pub fn in_words(&self) -> &'static str {
        match self {
            Self::Everything(_) => "all files are read",
            Self::Map(_) => "of relations, only the pages that the WAL has changed since then are read",
            Self::Times(_) => "only files with another size or time are read",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_postgres::{EntryKind as WalkedKind, Fork, RelationFork};
    use pgmesh_storage::EntryKind;

    fn entry(path: &str, size: u64, modified: i64) -> Entry {
        Entry {
            path: path.to_owned(),
            root: std::path::Path::new("").into(),
            kind: WalkedKind::File { size },
            modified,
            mode: 0o600,
            user: None,
            group: None,
        }
    }

    fn before(size: u64, modified: i64) -> FileEntry {
        FileEntry {
            path: "base/5/16384".to_owned(),
            kind: EntryKind::File {
                size,
                crc32c: 0,
                extents: vec![],
                bad_pages: vec![],
            },
            modified,
            mode: 0o600,
            user: None,
            group: None,
            fingerprints: None,
        }
    }

    #[test]
    fn times_count_only_where_they_cannot_deceive() {
        let policy = Policy::Times(1000);
        let looks = |entry: Entry, before: FileEntry| policy.select(&entry, &before).pages.is_none();
        assert!(!looks(entry("base/5/16384", 10, 900), before(10, 900)));
        assert!(looks(entry("base/5/16384", 10, 901), before(10, 900)));
        assert!(looks(entry("base/5/16384", 11, 900), before(10, 900)));
        // Changed in the second in which the prior backup read it, or later by a clock that was wrong.
        assert!(looks(entry("base/5/16384", 10, 998), before(10, 998)));
        assert!(looks(entry("base/5/16384", 10, 2000), before(10, 2000)));
    }

    #[test]
    fn a_change_map_names_pages_of_relations_and_nothing_else() {
        let mut map = ChangeMap::default();
        let fork = RelationFork {
            tablespace: 1663,
            database: 5,
            relation: 16_384,
            fork: Fork::Main,
        };
        map.add_block(fork, 3);
        let tested = Policy::Everything(Some(map.clone()));
        let policy = Policy::Map(Changes {
            map,
            chosen_by: ChosenBy::Maps,
        });
        let look = |path: &str| policy.select(&entry(path, 10, 0), &before(10, 0)).pages;
        assert_eq!(look("base/5/16384"), Some(RoaringBitmap::from([3])));
        assert_eq!(look("base/5/16385"), Some(RoaringBitmap::new()));
        for path in [
            "base/5/16384_vm",
            "base/5/16384_fsm",
            "pg_xact/0000",
            "postgresql.conf",
            "base/5/PG_VERSION",
        ] {
            assert_eq!(look(path), None, "{path}");
        }
        let look = tested.select(&entry("base/5/16384", 10, 0), &before(10, 0));
        assert_eq!((look.pages, look.named), (None, Some(RoaringBitmap::from([3]))));
    }
}
