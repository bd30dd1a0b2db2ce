//! One directory of a walk: its names in the order of paths.

use std::fs;
use std::io;
use std::path::Path;

use super::WalkError;
use super::exclusions::RelationExclusions;

/// A directory while it is walked.
///
/// A tree is sorted by path, byte by byte: the content of `base` comes after `base-old`, since `-` is less than `/`. So
/// the content of a directory waits until all names before it have been taken.
pub(super) struct Directory {
    /// Relative to PGDATA; empty for PGDATA itself.
    path: String,
    names: Names,
    /// The name that comes next.
    next: usize,
    /// Directories among the names whose content waits for its turn. Each of these names is a prefix of the next.
    waiting: Vec<usize>,
    relations: RelationExclusions,
}

/// The next step in a directory, with a path relative to PGDATA.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A name.
    Take(String),
    /// The content of a directory that was taken.
    Enter(String),
}

impl Directory {
    /// Reads the names of a directory; no names if it has vanished.
    pub(super) fn read(path: String, disk_path: &Path) -> Result<Self, WalkError> {
        let mut names = Names::read(disk_path)?;
        names.sort();
        let mut relations = RelationExclusions::default();
        let mut child = String::new();
        for name in (0..names.len()).map(|at| names.get(at)) {
            child.clear();
            join_to(&mut child, &path, name);
            relations.note(&child);
        }
        Ok(Self {
            path,
            names,
            next: 0,
            waiting: Vec::new(),
            relations,
        })
    }

    /// The next step; `None` at the end.
    pub(super) fn step(&mut self) -> Option<Step> {
        let next = (self.next < self.names.len()).then(|| self.names.get(self.next));
        if let Some(directory) = self.waiting.last().map(|at| self.names.get(*at))
            && next.is_none_or(|next| content_comes_before(directory, next))
        {
            let path = join(&self.path, directory);
            self.waiting.pop();
            return Some(Step::Enter(path));
        }
        let path = join(&self.path, next?);
        self.next += 1;
        Some(Step::Take(path))
    }

    /// The name that was taken last is a directory, and its content is to be walked.
    pub(super) fn enter_last(&mut self) {
        self.waiting.extend(self.next.checked_sub(1));
    }

    /// Whether a path in the directory is a relation's file that no backup has.
    pub(super) fn leaves_out(&self, path: &str) -> bool {
        self.relations.leaves_out(path)
    }
}

/// Whether the content of a directory sorts before a name beside it, which has no `/`.
fn content_comes_before(directory: &str, name: &str) -> bool {
    directory.bytes().chain([b'/']).lt(name.bytes())
}

fn join(directory: &str, name: &str) -> String {
    let mut path = String::with_capacity(directory.len() + 1 + name.len());
    join_to(&mut path, directory, name);
    path
}

fn join_to(path: &mut String, directory: &str, name: &str) {
    path.push_str(directory);
    if !directory.is_empty() {
        path.push('/');
    }
    path.push_str(name);
}

/// Names, one after the other in one text: a directory may have millions.
#[derive(Default)]
struct Names {
    text: String,
    /// The start and the length of each name in the text.
    places: Vec<(u32, u32)>,
}

impl Names {
    fn read(path: &Path) -> Result<Self, WalkError> {
        let unreadable = |source| WalkError::ReadDirectory {
            path: path.to_owned(),
            source,
        };
        let mut names = Self::default();
        let listing = match fs::read_dir(path) {
            Err(error) if is_gone(&error) => return Ok(names),
            listing => listing.map_err(unreadable)?,
        };
        for item in listing {
            let name = item.map_err(unreadable)?.file_name();
            let Some(text) = name.to_str() else {
                return Err(WalkError::NotUtf8 { path: path.join(&name) });
            };
            names.push(text).map_err(unreadable)?;
        }
        Ok(names)
    }

    fn push(&mut self, name: &str) -> io::Result<()> {
        let too_many = |_| io::Error::other("the names in it are longer than 4 GiB");
        let start = u32::try_from(self.text.len()).map_err(too_many)?;
        let length = u32::try_from(name.len()).map_err(too_many)?;
        self.text.push_str(name);
        self.places.push((start, length));
        Ok(())
    }

    /// Sorts the names. A file that is renamed meanwhile may be listed twice, and is kept once.
    fn sort(&mut self) {
        let text = &self.text;
        self.places.sort_unstable_by_key(|place| slice(text, *place));
        self.places.dedup_by_key(|place| slice(text, *place));
    }

    fn len(&self) -> usize {
        self.places.len()
    }

    fn get(&self, at: usize) -> &str {
        slice(&self.text, self.places[at])
    }
}

fn slice(text: &str, (start, length): (u32, u32)) -> &str {
    &text[start as usize..start as usize + length as usize]
}

/// Whether an error says that a file or directory has vanished.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// All paths of a tree, in the order of the steps.
    fn walk(root: &Path) -> Vec<String> {
        let mut paths = Vec::new();
        let mut open = vec![Directory::read(String::new(), root).unwrap()];
        while let Some(directory) = open.last_mut() {
            match directory.step() {
                None => drop(open.pop()),
                Some(Step::Enter(path)) => open.push(Directory::read(path.clone(), &root.join(path)).unwrap()),
                Some(Step::Take(path)) => {
                    if root.join(&path).is_dir() {
                        directory.enter_last();
                    }
                    paths.push(path);
                }
            }
        }
        paths
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// `-` and `.` sort before `/`, but `0` sorts after it.
        #[test]
        fn a_tree_is_walked_in_the_order_of_its_paths(
            folders in prop::collection::vec(prop::collection::vec("a[.0a-]{0,2}", 1..4), 1..30),
        ) {
            let root = tempfile::tempdir().unwrap();
            let mut expected = BTreeSet::new();
            for names in &folders {
                let folder = names.join("/");
                fs::create_dir_all(root.path().join(&folder)).unwrap();
                fs::write(root.path().join(&folder).join("file"), "").unwrap();
                expected.extend((1..=names.len()).map(|to| names[..to].join("/")));
                expected.insert(format!("{folder}/file"));
            }
            prop_assert_eq!(walk(root.path()), expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_name_that_is_listed_twice_is_taken_once() {
        let mut names = Names::default();
        for name in ["b", "a", "b"] {
            names.push(name).unwrap();
        }
        names.sort();
        assert_eq!((names.len(), names.get(0), names.get(1)), (2, "a", "b"));
    }
}
