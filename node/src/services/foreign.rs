//! Files that a verification finds in a repository and that are none of its objects.

use pgmesh_protocol::{Finding, FindingKind};
use pgmesh_storage::RepoKey;
use std::collections::BTreeMap;

/// Foreign folders of one repository that are named; of further ones only the number of their objects is kept.
const FOREIGN_NAMED: usize = 100;

/// Files in a repository that are no objects of it: counted by the folder at the top, and not read.
#[derive(Default)]
pub(super) struct Foreign {
    /// By the folder's name with a `/`, or by the name of an object that lies in none.
    found: BTreeMap<String, u64>,
    /// Objects beyond [`FOREIGN_NAMED`] names.
    further: u64,
}

impl Foreign {
    /// Counts one more, by its path.
    pub(super) fn add(&mut self, path: &str) {
        let top = match path.split_once('/') {
            Some((folder, _)) => format!("{folder}/"),
            None => path.to_owned(),
        };
        if let Some(count) = self.found.get_mut(&top) {
            *count += 1;
        } else if self.found.len() < FOREIGN_NAMED {
            self.found.insert(top, 1);
        } else {
            self.further += 1;
        }
    }

    /// One finding a folder.
    pub(super) fn findings(self, repo: RepoKey) -> Vec<Finding> {
        let named = self.found.into_iter();
        let further = (self.further > 0).then(|| ("further ones".to_owned(), self.further));
        let all = named.chain(further);
        all.map(|(subject, count)| {
            let what = match count {
                1 => "1 file that is no object of this repository; it is left alone".to_owned(),
                count => format!("{count} files that are no objects of this repository; they are left alone"),
            };
            Finding {
                kind: FindingKind::Foreign,
                repo: Some(repo.get()),
                stanza: None,
                subject,
                what: format!("there is something else here: {what}"),
            }
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_foreign_is_told_once_a_folder() {
        let repo = RepoKey::new(3).unwrap();
        let mut foreign = Foreign::default();
        for path in ["five/pgmesh.repo", "five/chunk/ab/x", "notes.txt", "chunk/ab/x.bak"] {
            foreign.add(path);
        }
        let findings = foreign.findings(repo);
        let subjects: Vec<&str> = findings.iter().map(|finding| finding.subject.as_str()).collect();
        assert_eq!(subjects, ["chunk/", "five/", "notes.txt"]);
        for finding in &findings {
            assert_eq!((finding.kind, finding.repo), (FindingKind::Foreign, Some(3)));
            assert!(!finding.kind.is_error());
        }
        assert!(findings[1].what.contains("2 files that are no objects"), "{findings:?}");
        assert!(findings[2].what.contains("1 file that is no object"), "{findings:?}");
        assert!(Foreign::default().findings(repo).is_empty());
    }

    #[test]
    fn a_great_many_foreign_names_are_not_all_kept() {
        let mut foreign = Foreign::default();
        for number in 0..FOREIGN_NAMED + 7 {
            foreign.add(&format!("{number:04}.csv"));
        }
        // A folder that is named already counts this file.
        foreign.add("0000.csv");
        let findings = foreign.findings(RepoKey::new(1).unwrap());
        assert_eq!(findings.len(), FOREIGN_NAMED + 1);
        assert!(findings[0].what.contains("2 files"), "{:?}", findings[0]);
        assert!(findings[FOREIGN_NAMED].what.contains("7 files"));
    }
}
