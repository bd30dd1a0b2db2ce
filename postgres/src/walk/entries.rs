//! The entries of a tree, packed: a cluster may have ten million files.
//!
//! Neighbours in the order of paths are alike. So of each path only the difference from the path before is kept, of
//! each time the distance to the time before. The attributes that most files share (permissions, owner, group, root)
//! are kept once for all of them. A relation's file takes about ten bytes.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::{Entry, EntryKind};

/// A list of entries, which are unpacked one by one. It is smallest if the entries are sorted by path.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Entries {
    count: usize,
    file_bytes: u64,
    /// The different ends of all paths, and the destinations of links.
    text: String,
    /// All numbers, as varints.
    numbers: Vec<u8>,
    roots: Vec<Arc<Path>>,
    traits: Vec<Traits>,
    /// The place of each `Traits` in `traits`.
    known: HashMap<Traits, usize>,
    last: Neighbour,
}

/// The attributes that many entries share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Traits {
    sort: Sort,
    mode: u32,
    user: Option<Arc<str>>,
    group: Option<Arc<str>>,
    /// The place in [`Entries::roots`].
    root: usize,
}

/// An [`EntryKind`] without the fields that differ between entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sort {
    File,
    Directory,
    Link,
}

/// The fields of the last entry that the next one is packed against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Neighbour {
    path: String,
    modified: i64,
    traits: usize,
}

impl Entries {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry behind all others.
    pub fn push(&mut self, entry: Entry) {
        let traits = self.place_of(&entry);
        let shared = shared_length(&self.last.path, &entry.path);
        let rest = &entry.path[shared..];
        self.text.push_str(rest);
        put(&mut self.numbers, traits as u64);
        put(&mut self.numbers, shared as u64);
        put(&mut self.numbers, rest.len() as u64);
        put(
            &mut self.numbers,
            zigzag(entry.modified.wrapping_sub(self.last.modified)),
        );
        match &entry.kind {
            EntryKind::File { size } => {
                put(&mut self.numbers, *size);
                self.file_bytes += size;
            }
            EntryKind::Directory => {}
            EntryKind::Link { destination } => {
                put(&mut self.numbers, destination.len() as u64);
                self.text.push_str(destination);
            }
        }
        self.count += 1;
        self.last = Neighbour {
            path: entry.path,
            modified: entry.modified,
            traits,
        };
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether the list is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The sizes of all files, in bytes.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The entries, in the order in which they were added.
    #[must_use]
    pub fn iter(&self) -> EntriesIter<&Self> {
        EntriesIter {
            entries: self,
            cursor: Cursor::default(),
        }
    }

    fn place_of(&mut self, entry: &Entry) -> usize {
        let is_root = |root: &Arc<Path>| Arc::ptr_eq(root, &entry.root) || root.as_os_str() == entry.root.as_os_str();
        let root = self.roots.iter().position(is_root).unwrap_or_else(|| {
            self.roots.push(Arc::clone(&entry.root));
            self.roots.len() - 1
        });
        let traits = Traits {
            sort: match entry.kind {
                EntryKind::File { .. } => Sort::File,
                EntryKind::Directory => Sort::Directory,
                EntryKind::Link { .. } => Sort::Link,
            },
            mode: entry.mode,
            user: entry.user.clone(),
            group: entry.group.clone(),
            root,
        };
        if self.traits.get(self.last.traits) == Some(&traits) {
            return self.last.traits;
        }
        if let Some(place) = self.known.get(&traits) {
            return *place;
        }
        self.traits.push(traits.clone());
        self.known.insert(traits, self.traits.len() - 1);
        self.traits.len() - 1
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        let mut list = Self::new();
        list.extend(entries);
        list
    }
}

impl Extend<Entry> for Entries {
    fn extend<T: IntoIterator<Item = Entry>>(&mut self, entries: T) {
        for entry in entries {
            self.push(entry);
        }
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

impl IntoIterator for Entries {
    type Item = Entry;
    type IntoIter = EntriesIter<Self>;

    fn into_iter(self) -> Self::IntoIter {
        EntriesIter {
            entries: self,
            cursor: Cursor::default(),
        }
    }
}

impl<'a> IntoIterator for &'a Entries {
    type Item = Entry;
    type IntoIter = EntriesIter<&'a Entries>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Unpacks a list, which it owns or borrows.
#[derive(Clone, Debug)]
pub struct EntriesIter<L> {
    entries: L,
    cursor: Cursor,
}

impl Iterator for EntriesIter<Entries> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        self.cursor.next(&self.entries)
    }
}

impl Iterator for EntriesIter<&Entries> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        self.cursor.next(self.entries)
    }
}

/// A place in a list.
#[derive(Clone, Debug, Default)]
struct Cursor {
    /// The number of entries before it.
    passed: usize,
    in_text: usize,
    in_numbers: usize,
    path: String,
    modified: i64,
}

impl Cursor {
    fn next(&mut self, list: &Entries) -> Option<Entry> {
        if self.passed == list.count {
            return None;
        }
        self.passed += 1;
        let traits = self.length(list);
        let traits = &list.traits[traits];
        let shared = self.length(list);
        self.path.truncate(shared);
        let rest = self.text(list);
        self.path.push_str(rest);
        self.modified = self.modified.wrapping_add(unzigzag(self.number(list)));
        let kind = match traits.sort {
            Sort::File => EntryKind::File {
                size: self.number(list),
            },
            Sort::Directory => EntryKind::Directory,
            Sort::Link => EntryKind::Link {
                destination: self.text(list).to_owned(),
            },
        };
        Some(Entry {
            path: self.path.clone(),
            root: Arc::clone(&list.roots[traits.root]),
            kind,
            modified: self.modified,
            mode: traits.mode,
            user: traits.user.clone(),
            group: traits.group.clone(),
        })
    }

    fn text<'a>(&mut self, list: &'a Entries) -> &'a str {
        let from = self.in_text;
        self.in_text += self.length(list);
        &list.text[from..self.in_text]
    }

    fn length(&mut self, list: &Entries) -> usize {
        usize::try_from(self.number(list)).unwrap_or(usize::MAX)
    }

    fn number(&mut self, list: &Entries) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = list.numbers[self.in_numbers];
            self.in_numbers += 1;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return number;
            }
            shift += 7;
        }
    }
}

/// Appends a number: seven bits a byte, the lowest first; the highest bit is set if another byte follows.
fn put(numbers: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        numbers.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    numbers.push(number.to_le_bytes()[0]);
}

/// Small distances in both directions become small numbers.
fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -((number & 1).cast_signed())
}

/// The length of the beginning that two paths share, in bytes, cut to whole characters.
fn shared_length(one: &str, other: &str) -> usize {
    let same = one.bytes().zip(other.bytes()).take_while(|(one, other)| one == other);
    other.floor_char_boundary(same.count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(path: String, size: u64, modified: i64) -> Entry {
        Entry {
            path,
            root: Path::new("/pg/data").into(),
            kind: EntryKind::File { size },
            modified,
            mode: 0o600,
            user: Some("postgres".into()),
            group: Some("postgres".into()),
        }
    }

    #[test]
    fn the_file_of_a_relation_takes_ten_bytes() {
        const FILES: u32 = 100_000;
        let relation = |number: u32| {
            let modified = 1_700_000_000 + i64::from(number % 1000);
            file(
                format!("base/16384/{}", 16_384 + number),
                u64::from(number % 200) * 8192,
                modified,
            )
        };
        let entries: Entries = (0..FILES).map(relation).collect();
        let bytes = entries.text.len() + entries.numbers.len();
        assert!(
            bytes <= 10 * FILES as usize,
            "{} bytes a file",
            bytes as f64 / f64::from(FILES)
        );
        assert_eq!(entries.traits.len(), 1);
        assert!(entries.iter().eq((0..FILES).map(relation)));
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        let kind = prop_oneof![
            any::<u64>().prop_map(|size| EntryKind::File { size: size >> 8 }),
            Just(EntryKind::Directory),
            "\\PC{0,9}".prop_map(|destination| EntryKind::Link { destination }),
        ];
        let name = || prop::option::of("[ab]{1,2}".prop_map(|name| Arc::from(name.as_str())));
        // Characters of several bytes whose first bytes are equal.
        let path = "[aäöé/\u{1F600}\u{1F601}]{0,12}";
        (path, kind, any::<i64>(), 0_u32..0o7777, name(), name(), "(/[ab])?").prop_map(
            |(path, kind, modified, mode, user, group, root)| Entry {
                path,
                root: Path::new(&root).into(),
                kind,
                modified,
                mode,
                user,
                group,
            },
        )
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(all in prop::collection::vec(any_entry(), 0..40)) {
            let entries: Entries = all.iter().cloned().collect();
            prop_assert_eq!(entries.len(), all.len());
            prop_assert_eq!(entries.iter().collect::<Vec<_>>(), all.clone());
            prop_assert_eq!(entries.into_iter().collect::<Vec<_>>(), all);
        }
    }
}
