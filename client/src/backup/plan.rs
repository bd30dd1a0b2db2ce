//! The files to read, and their order: from the tree that the walk found to jobs.

use super::bundle::{CHUNK_SIZE, bundled_length};
use pgmesh_postgres::{ClusterTree, ControlFile, Entries, EntriesIter, Entry, EntryKind, Link, Tablespace, WalkError};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use std::io::ErrorKind;
use std::iter::Peekable;

/// No entry joins a job that has so many bytes already.
const JOB_BYTES: u64 = 16 << 20;
/// The most entries of a job.
pub const JOB_ENTRIES: usize = 1024;
/// One file name in so many begins a new job.
const NAMES_PER_JOB: u32 = 32;

/// The content of a backup.
#[derive(Debug)]
pub struct Plan {
    /// All entries, in the order of their paths, a link before the entries that it leads to. Packed: there may be
    /// millions (invariant 11).
    pub entries: Entries,
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
    /// Makes a plan of the tree that a walk found.
    ///
    /// # Errors
    /// There is no `pg_control`, because it is excluded or vanished (55).
    pub fn of(tree: ClusterTree) -> Result<Self, Failure> {
        let control = tree.entries.iter().find(is_control).ok_or_else(|| {
            Failure::new(
                ExitCode::FileMissing,
                format!("{} is not among the files to back up", ControlFile::PATH),
            )
            .remedy("remove it from the option exclude: no cluster starts without it")
        })?;
        Ok(Self {
            control,
            bytes: tree.entries.file_bytes(),
            entries: tree.entries,
            tablespaces: tree.tablespaces,
            links: tree.links,
        })
    }

    /// How many entries the readers take: all but `pg_control`.
    pub fn entries_to_read(&self) -> u64 {
        self.entries.len() as u64 - 1
    }
}

/// Whether an entry is the file that is read last. A link of that name is an entry like others.
fn is_control(entry: &Entry) -> bool {
    entry.path == ControlFile::PATH && matches!(entry.kind, EntryKind::File { .. })
}

/// An entry's size in bytes; 0 for a directory or a link.
pub fn size(entry: &Entry) -> u64 {
    match entry.kind {
        EntryKind::File { size } => size,
        EntryKind::Directory | EntryKind::Link { .. } => 0,
    }
}

/// Entries that one reader takes together: they follow each other in the order of the walk, which is the manifest's.
/// Their small files share a bundle.
#[derive(Debug)]
pub struct Job {
    /// The number of the first entry, counted from 0.
    pub number: u64,
    /// The entries; not empty.
    pub entries: Vec<Entry>,
}

/// All jobs, in order.
pub struct Jobs {
    entries: Peekable<NotControl>,
    next: u64,
}

type NotControl = std::iter::Filter<EntriesIter<Entries>, fn(&Entry) -> bool>;

impl Jobs {
    /// Of these entries but `pg_control`, in this order.
    pub fn of(entries: Entries) -> Self {
        let is_read: fn(&Entry) -> bool = |entry| !is_control(entry);
        Self {
            entries: entries.into_iter().filter(is_read).peekable(),
            next: 0,
        }
    }
}

impl Iterator for Jobs {
    type Item = Job;

    fn next(&mut self) -> Option<Job> {
        let number = self.next;
        let mut group = Group::default();
        let mut entries: Vec<Entry> = Vec::new();
        while let Some(entry) = self.entries.next_if(|entry| group.takes(entries.last(), entry)) {
            entries.push(entry);
        }
        self.next += entries.len() as u64;
        (!entries.is_empty()).then_some(Job { number, entries })
    }
}

/// Decides which entries belong together, by their names and sizes alone: the same files give the same bundles again,
/// in the next backup, after a killed one, and in the next database made from the same template, and such chunks are
/// known already. As new jobs begin with certain names, one file that comes, goes or grows changes few bundles.
#[derive(Default)]
struct Group {
    entries: usize,
    bytes: u64,
    bundled: usize,
}

impl Group {
    /// Whether `entry` goes with those before it, of which `last` is the last; it is counted then.
    fn takes(&mut self, last: Option<&Entry>, entry: &Entry) -> bool {
        let size = size(entry);
        let bundled = self.bundled + bundled_length(size);
        let fits = last.is_none_or(|last| {
            split(&last.path).0 == split(&entry.path).0
                && !begins_job(split(&entry.path).1)
                && bundled <= CHUNK_SIZE
                && self.bytes < JOB_BYTES
                && self.entries < JOB_ENTRIES
        });
        if fits {
            self.entries += 1;
            self.bytes += size;
            self.bundled = bundled;
        }
        fits
    }
}

/// Directory and name of a path.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn begins_job(name: &str) -> bool {
    crc32c::crc32c(name.as_bytes()).is_multiple_of(NAMES_PER_JOB)
}

/// Why a data directory could not be walked, for a user.
pub fn walk_failure(error: &WalkError) -> Failure {
    let failure = Failure::new(ExitCode::Runtime, "the data directory cannot be backed up").because(chain(error));
    match error {
        WalkError::ReadDirectory { source, .. } | WalkError::Examine { source, .. }
            if source.kind() == ErrorKind::PermissionDenied =>
        {
            failure.remedy("run pgmesh as the user that PostgreSQL runs as")
        }
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: EntryKind) -> Entry {
        Entry {
            path: path.to_owned(),
            root: std::path::Path::new("").into(),
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
            entries: entries.into_iter().collect(),
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
            entry(
                "postgresql.conf",
                EntryKind::Link {
                    destination: "/etc/pg.conf".into(),
                },
            ),
            entry("postgresql.conf", EntryKind::File { size: 5 }),
        ];
        let plan = Plan::of(tree(entries)).unwrap();
        assert_eq!(plan.control.path, "global/pg_control");
        assert_eq!(plan.bytes, 8207);
        assert_eq!(plan.entries_to_read(), 4);
        let taken: Vec<_> = Jobs::of(plan.entries)
            .flat_map(|job| (job.number..).zip(job.entries))
            .map(|(number, entry)| (number, entry.path))
            .collect();
        let expected = [
            (0, "base"),
            (1, "base/1"),
            (2, "postgresql.conf"),
            (3, "postgresql.conf"),
        ];
        assert_eq!(taken, expected.map(|(number, path)| (number, path.to_owned())));
    }

    fn jobs(entries: Vec<Entry>) -> Vec<Job> {
        Jobs::of(entries.into_iter().collect()).collect()
    }

    fn files(directory: &str, names: impl Iterator<Item = u32>) -> Vec<Entry> {
        names
            .map(|name| entry(&format!("{directory}/{name}"), EntryKind::File { size: 24 << 10 }))
            .collect()
    }

    /// The names in each job.
    fn names(entries: Vec<Entry>) -> Vec<Vec<String>> {
        let name = |entry: Entry| split(&entry.path).1.to_owned();
        jobs(entries)
            .into_iter()
            .map(|job| job.entries.into_iter().map(name).collect())
            .collect()
    }

    #[test]
    fn databases_of_one_template_give_the_same_jobs() {
        let one = names(files("base/1", 1000..1300));
        assert_eq!(one, names(files("base/5", 1000..1300)));
        assert!((8..60).contains(&one.len()), "{} jobs", one.len());
        let both = [files("base/1", 1000..1300), files("base/5", 1000..1300)].concat();
        assert_eq!(names(both).len(), 2 * one.len());
    }

    #[test]
    fn one_file_less_changes_few_jobs() {
        let all = names(files("base/1", 1000..1300));
        let less = names(files("base/1", (1000..1300).filter(|name| *name != 1100)));
        let changed = less.iter().filter(|job| !all.contains(job)).count();
        assert!(changed <= 3, "{changed} of {} jobs", less.len());
    }

    #[test]
    fn jobs_are_bounded() {
        let large = |name: u32| entry(&format!("base/1/{name}"), EntryKind::File { size: 1 << 30 });
        assert_eq!(jobs((1..10).map(large).collect()).len(), 9);
        let empty = |name: u32| entry(&format!("base/1/{name}"), EntryKind::File { size: 0 });
        assert!(
            jobs((0..5000).map(empty).collect())
                .iter()
                .all(|job| job.entries.len() <= JOB_ENTRIES)
        );
        let bundled = |job: &Job| {
            job.entries
                .iter()
                .map(|entry| bundled_length(size(entry)))
                .sum::<usize>()
        };
        assert!(
            jobs(files("base/1", 0..5000))
                .iter()
                .all(|job| bundled(job) <= CHUNK_SIZE)
        );
    }

    #[test]
    fn a_cluster_without_pg_control_is_refused() {
        let failure = Plan::of(tree(vec![entry("base", EntryKind::Directory)])).unwrap_err();
        assert_eq!(failure.code, ExitCode::FileMissing);
    }
}
