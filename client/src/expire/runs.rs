//! The runs of WAL that go, as pgBackRest's log shows them, out of a stream of files.

use pgmesh_postgres::SegmentName;
use pgmesh_protocol::{ExpiredFile, KeptWal};

/// Digits of a segment's name.
const SEGMENT: usize = 24;
/// Digits of the name of an archive's directory.
const DIRECTORY: usize = 16;

/// Segments that go, without one between that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The first segment; where its whole directory goes, the directory's 16 digits.
    pub start: String,
    /// The last segment, or its directory.
    pub stop: String,
    /// Files, with partial and backup history files.
    pub files: u64,
    /// Bytes in the repository.
    pub bytes: u64,
}

/// Something to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A run has ended.
    Run(Run),
    /// A directory goes in one piece.
    Directory(String),
    /// A history file, or another file that belongs to no segment, goes.
    Other(ExpiredFile),
}

/// Puts files together that come in the order of their names.
#[derive(Debug)]
pub struct Runs<'k> {
    keep: &'k [KeptWal],
    before: Option<SegmentName>,
    open: Option<(SegmentName, Run)>,
    directory: String,
}

impl<'k> Runs<'k> {
    /// For an archive of which these stretches stay, and all from `before` on.
    pub fn new(keep: &'k [KeptWal], before: Option<SegmentName>) -> Self {
        Self {
            keep,
            before,
            open: None,
            directory: String::new(),
        }
    }

    /// The next file.
    pub fn next(&mut self, file: ExpiredFile) -> Vec<Seen> {
        let Some(segment) = file
            .file
            .get(..SEGMENT)
            .and_then(|name| name.parse::<SegmentName>().ok())
        else {
            return vec![Seen::Other(file)];
        };
        let mut seen = Vec::new();
        let directory = segment.directory();
        let whole = self.goes_whole(segment);
        if whole && directory != self.directory {
            self.directory.clone_from(&directory);
            seen.push(Seen::Directory(directory.clone()));
        }
        let name = if whole { directory } else { segment.to_string() };
        let gap = self
            .open
            .as_ref()
            .is_some_and(|(last, _)| segment < *last || self.stays_between(*last, segment));
        if gap {
            seen.extend(self.end());
        }
        let fresh = Run {
            start: name.clone(),
            stop: name.clone(),
            files: 0,
            bytes: 0,
        };
        let (last, run) = self.open.get_or_insert((segment, fresh));
        *last = segment;
        run.stop = name;
        run.files = run.files.saturating_add(1);
        run.bytes = run.bytes.saturating_add(file.bytes);
        seen
    }

    /// There are no more files.
    pub fn end(&mut self) -> Option<Seen> {
        self.open.take().map(|(_, run)| Seen::Run(run))
    }

    /// Whether a stretch that stays lies between two segments that go.
    fn stays_between(&self, one: SegmentName, other: SegmentName) -> bool {
        self.keep
            .iter()
            .any(|stretch| one < stretch.first && stretch.first < other)
    }

    /// Whether no stretch touches the segment's directory.
    fn goes_whole(&self, segment: SegmentName) -> bool {
        let directory = (segment.timeline, segment.log);
        let of = |segment: SegmentName| (segment.timeline, segment.log);
        let stays =
            |stretch: &KeptWal| of(stretch.first) <= directory && stretch.last.is_none_or(|last| directory <= of(last));
        !self.keep.iter().any(stays) && self.before.is_none_or(|before| directory < of(before))
    }
}

/// The directory of an archive in a repository, as the log shows it.
pub fn path(stanza: &str, archive: &str, directory: &str) -> String {
    let slash = if directory.is_empty() { "" } else { "/" };
    format!(
        "stanza/{stanza}/archive/{archive}{slash}{}",
        directory.get(..DIRECTORY.min(directory.len())).unwrap_or("")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(keep: &[(&str, Option<&str>)], before: Option<&str>, files: &[&str]) -> Vec<String> {
        let keep: Vec<KeptWal> = keep
            .iter()
            .map(|(first, last)| KeptWal {
                first: first.parse().unwrap(),
                last: last.map(|last| last.parse().unwrap()),
            })
            .collect();
        let mut runs = Runs::new(&keep, before.map(|before| before.parse().unwrap()));
        let mut seen = Vec::new();
        for file in files {
            let file = (*file).to_owned();
            seen.extend(runs.next(ExpiredFile { file, bytes: 10 }));
        }
        seen.extend(runs.end());
        let show = |seen: &Seen| match seen {
            Seen::Run(run) => format!("{}..{} {} {}", run.start, run.stop, run.files, run.bytes),
            Seen::Directory(directory) => format!("dir {directory}"),
            Seen::Other(file) => file.file.clone(),
        };
        seen.iter().map(show).collect()
    }

    #[test]
    fn a_stretch_that_stays_ends_a_run() {
        let kept = [
            ("000000010000000000000002", Some("000000010000000000000003")),
            ("000000010000000000000006", None),
        ];
        let files = [
            "000000010000000000000001",
            "000000010000000000000001.00000028.backup",
            "000000010000000000000004",
            "000000010000000000000005.partial",
            "00000001.history",
        ];
        let first = "000000010000000000000001..000000010000000000000001 2 20";
        let second = "000000010000000000000004..000000010000000000000005 2 20";
        assert_eq!(runs(&kept, None, &files), [first, "00000001.history", second]);
    }

    #[test]
    fn a_whole_directory_is_named_by_its_digits() {
        let kept = [("000000010000000100000090", None)];
        let files = [
            "000000010000000000000001",
            "0000000100000000000000FF",
            "00000001000000010000008F",
        ];
        let run = "0000000100000000..00000001000000010000008F 3 30";
        assert_eq!(runs(&kept, None, &files), ["dir 0000000100000000", run]);
        let run = "000000010000000000000001..000000010000000000000001 1 10";
        assert_eq!(runs(&[], Some("000000010000000000000002"), &files[..1]), [run]);
    }

    #[test]
    fn paths() {
        assert_eq!(path("main", "15-1", ""), "stanza/main/archive/15-1");
        assert_eq!(
            path("main", "15-1", "0000000100000000"),
            "stanza/main/archive/15-1/0000000100000000"
        );
    }
}
