//! What is to be read, and in which order: from the tree that the walk found to a queue of jobs.

use pgmesh_node::{Failure, code};
use pgmesh_postgres::{ClusterTree, ControlFile, Entry, EntryKind, Link, Tablespace};
use std::sync::{Mutex, PoisonError};

/// One entry's place in the order of the walk, which is the manifest's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// Counted from 0.
    pub number: u64,
    /// The sizes, in bytes, of all files before it.
    pub bytes_before: u64,
}

/// What a backup will hold.
#[derive(Debug)]
pub struct Plan {
    /// All entries but `pg_control`, in the order of their paths, a link before what it leads to.
    pub entries: Vec<Entry>,
    /// `global/pg_control`, to be read last: it must not be older than any other file.
    pub control: Entry,
    /// The sizes of all files, `pg_control` included, in bytes.
    pub bytes: u64,
    /// The tablespaces outside the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// All other links.
    pub links: Vec<Link>,
}

impl Plan {
    /// Makes a plan of what a walk found.
    ///
    /// # Errors
    /// There is no `pg_control`, because it is excluded or vanished (55).
    pub fn of(tree: ClusterTree) -> Result<Self, Failure> {
        let bytes = tree.entries.iter().map(size).sum();
        let (mut controls, entries): (Vec<_>, Vec<_>) = tree
            .entries
            .into_iter()
            .partition(|entry| entry.path == ControlFile::PATH && matches!(entry.kind, EntryKind::File { .. }));
        let control = controls.pop().ok_or_else(|| {
            Failure::new(code::FILE_MISSING, format!("{} is not among the files to back up", ControlFile::PATH))
                .remedy("remove it from the option exclude: no cluster starts without it")
        })?;
        Ok(Self { entries, control, bytes, tablespaces: tree.tablespaces, links: tree.links })
    }
}

/// An entry's size in bytes; 0 for what is no file.
pub fn size(entry: &Entry) -> u64 {
    match entry.kind {
        EntryKind::File { size } => size,
        EntryKind::Directory | EntryKind::Link { .. } => 0,
    }
}

/// The entries that no reader has taken yet.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    entries: std::vec::IntoIter<Entry>,
    next: Job,
}

impl Queue {
    /// A queue of these entries, in this order.
    pub fn new(entries: Vec<Entry>) -> Self {
        let next = Job { number: 0, bytes_before: 0 };
        Self { state: Mutex::new(State { entries: entries.into_iter(), next }) }
    }

    /// Takes the next entry.
    pub fn next(&self) -> Option<(Job, Entry)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = state.entries.next()?;
        let job = state.next;
        state.next = Job { number: job.number + 1, bytes_before: job.bytes_before + size(&entry) };
        Some((job, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: EntryKind) -> Entry {
        Entry {
            path: path.to_owned(),
            disk_path: path.into(),
            kind,
            modified: 0,
            mode: 0o600,
            user: None,
            group: None,
        }
    }

    fn tree(entries: Vec<Entry>) -> ClusterTree {
        ClusterTree {
            root: entry("", EntryKind::Directory),
            entries,
            tablespaces: vec![],
            links: vec![],
            skipped: vec![],
        }
    }

    #[test]
    fn pg_control_is_set_aside_and_the_rest_keeps_its_order() {
        let entries = vec![
            entry("base", EntryKind::Directory),
            entry("base/1", EntryKind::File { size: 10 }),
            entry("global/pg_control", EntryKind::File { size: 8192 }),
            entry("postgresql.conf", EntryKind::Link { destination: "/etc/pg.conf".into() }),
            entry("postgresql.conf", EntryKind::File { size: 5 }),
        ];
        let plan = Plan::of(tree(entries)).unwrap();
        assert_eq!(plan.control.path, "global/pg_control");
        assert_eq!(plan.bytes, 8207);
        let queue = Queue::new(plan.entries);
        let taken: Vec<_> = std::iter::from_fn(|| queue.next())
            .map(|(job, entry)| (job.number, job.bytes_before, entry.path))
            .collect();
        let expected =
            [(0, 0, "base"), (1, 0, "base/1"), (2, 10, "postgresql.conf"), (3, 10, "postgresql.conf")];
        assert_eq!(taken, expected.map(|(number, before, path)| (number, before, path.to_owned())));
    }

    #[test]
    fn a_cluster_without_pg_control_is_refused() {
        let failure = Plan::of(tree(vec![entry("base", EntryKind::Directory)])).unwrap_err();
        assert_eq!(failure.code, code::FILE_MISSING);
    }
}
