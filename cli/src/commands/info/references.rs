//! The backups that a backup shares pages with: its prior, the prior of that one, and so on. The catalog keeps only the
//! prior of each backup; the whole chain for each would grow with the square of the number of backups.

use pgmesh_protocol::BackupInfo;
use pgmesh_storage::{BackupLabel, BackupType};
use std::collections::HashMap;

/// The backups of a stanza by label, and the number of backups that each rests on.
pub struct References<'i> {
    known: HashMap<&'i BackupLabel, Known<'i>>,
}

struct Known<'i> {
    prior: Option<&'i BackupLabel>,
    counts: Counts,
}

/// The number of backups of each type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Full backups.
    pub full: usize,
    /// Differential backups.
    pub diff: usize,
    /// Incremental backups.
    pub incr: usize,
}

impl Counts {
    fn with(mut self, kind: BackupType) -> Self {
        match kind {
            BackupType::Full => self.full += 1,
            BackupType::Diff => self.diff += 1,
            BackupType::Incr => self.incr += 1,
        }
        self
    }

    /// Backups of all types.
    pub fn sum(self) -> usize {
        self.full + self.diff + self.incr
    }
}

impl<'i> References<'i> {
    /// From these backups in the order of their labels, so that a backup comes after its prior.
    pub fn among(backups: &'i [BackupInfo]) -> Self {
        let mut known: HashMap<&BackupLabel, Known<'_>> = HashMap::with_capacity(backups.len());
        for backup in backups {
            let prior = backup.prior.as_ref().filter(|prior| **prior < backup.label);
            let before = prior.and_then(|prior| known.get(prior).map(|found| (prior, found.counts)));
            let found = match before {
                // A prior that was removed is no reference any more, and its own prior is not known.
                None => Known {
                    prior: None,
                    counts: Counts::default(),
                },
                Some((prior, counts)) => Known {
                    prior: Some(prior),
                    counts: counts.with(prior.backup_type()),
                },
            };
            known.insert(&backup.label, found);
        }
        Self { known }
    }

    /// The number of backups that a backup rests on.
    pub fn counts(&self, label: &BackupLabel) -> Counts {
        self.known.get(label).map_or_else(Counts::default, |known| known.counts)
    }

    /// The newest `limit` backups that a backup rests on, oldest first.
    pub fn of(&self, label: &BackupLabel, limit: usize) -> Vec<&'i BackupLabel> {
        let before = |label: &BackupLabel| self.known.get(label).and_then(|known| known.prior);
        let way = std::iter::successors(before(label), |prior| before(prior));
        let mut references: Vec<_> = way.take(limit).collect();
        references.reverse();
        references
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn incrementals(count: usize) -> Vec<BackupInfo> {
        let mut backups = samples::mesh().stanzas.remove(0).backups;
        let full = backups.remove(0);
        let mut all = vec![full];
        for number in 0..count {
            let mut next = backups[0].clone();
            let (day, second) = (3 + number / 86_400, number % 86_400);
            let time = format!("{:02}{:02}{:02}", second / 3600, second / 60 % 60, second % 60);
            next.label = format!("20260102-000000F_202601{day:02}-{time}I").parse().unwrap();
            next.prior = all.last().map(|before| before.label.clone());
            all.push(next);
        }
        all
    }

    #[test]
    fn a_way_of_five_thousand_is_counted_and_its_end_is_named() {
        let backups = incrementals(5000);
        let references = References::among(&backups);
        let last = &backups[5000].label;
        let counts = references.counts(last);
        assert_eq!((counts.full, counts.diff, counts.incr), (1, 0, 4999));
        let named = references.of(last, 64);
        assert_eq!(named.len(), 64);
        assert_eq!(named[63], &backups[4999].label);
        assert_eq!(references.of(last, usize::MAX).len(), 5000);
        assert_eq!(references.of(&backups[0].label, 64), Vec::<&BackupLabel>::new());
    }

    #[test]
    fn what_was_removed_is_no_reference() {
        let mut backups = incrementals(4);
        backups.remove(2);
        let references = References::among(&backups);
        assert_eq!(
            references.counts(&backups[3].label),
            Counts {
                full: 0,
                diff: 0,
                incr: 1
            }
        );
        assert_eq!(references.of(&backups[3].label, 9), [&backups[2].label]);
    }
}
