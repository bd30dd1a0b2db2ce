//! The promises of the mesh that hold after each step.

use std::collections::{BTreeMap, BTreeSet};

use super::Simulation;
use crate::apply::Base;
use crate::apply::scenario::stanza;
use crate::key;
use crate::model::{ObjectRef, Replica, RepositoryCounters, StoredObject};
use crate::table::Table;

impl Simulation {
    pub(super) fn check(&mut self) {
        let objects = self.objects();
        self.check_replicas_and_debts(&objects);
        self.check_lost(&objects);
        let changing: BTreeSet<_> = self
            .view()
            .repositories()
            .unwrap()
            .into_iter()
            .filter(|(_, record)| record.change.is_some())
            .map(|(repo, _)| repo)
            .collect();
        for (object, stored) in &objects {
            // Invariant 3: one name, one content.
            if matches!(object, ObjectRef::Segment { .. }) {
                let first = self.names.entry(object.clone()).or_insert(stored.digest);
                assert_eq!(*first, stored.digest, "{object}");
            }
            // Invariant 5: nothing referenced is deleted.
            for replica in &stored.replicas {
                if changing.contains(&replica.repo) {
                    continue;
                }
                let row = (object.clone(), stored.digest, *replica);
                assert!(self.disk.contains(&row), "{row:?} was deleted");
            }
        }
        for row in self.view().kept(None) {
            // Invariant 5: an object that a repository keeps shares its name with no counted replica.
            let (key, _) = row.unwrap();
            let replica = Replica {
                repo: key.repo,
                generation: key.generation,
            };
            let stored = objects.get(&key.object);
            assert!(
                stored.is_none_or(|stored| !stored.replicas.contains(&replica)),
                "{key:?} is used again"
            );
        }
        self.check_timelines();
        for chunk in self.backups.iter().flatten() {
            let known = self.view().chunks(&[*chunk]).unwrap();
            assert!(known[0].is_some(), "chunk {chunk} of a committed backup is gone");
        }
    }

    /// The index of backups by timeline has them all, and no other.
    fn check_timelines(&self) {
        let rows = self.world.base.scan(Table::TimelineBackups, &[], &[]);
        let indexed: BTreeSet<Vec<u8>> = rows.map(|row| row.unwrap().0).collect();
        let (view, stanza) = (self.view(), stanza());
        let backups = view.backups(&stanza, None).map(Result::unwrap);
        let known = backups.map(|(label, record)| key::timeline_backup(&stanza, record.db, record.timeline, &label));
        assert_eq!(indexed, known.collect());
    }

    /// The index of objects without a good replica has them all, and no other.
    fn check_lost(&self, objects: &BTreeMap<ObjectRef, StoredObject>) {
        let indexed: BTreeSet<ObjectRef> = self.view().lost(None).map(|row| row.unwrap().0).collect();
        let without = objects.iter().filter(|(_, stored)| stored.replicas.is_empty());
        let without: BTreeSet<ObjectRef> = without.map(|(object, _)| object.clone()).collect();
        assert_eq!(indexed, without);
    }

    /// No debt is ever lost: an object is in a repository or owed to it, and the counters say so.
    fn check_replicas_and_debts(&self, objects: &BTreeMap<ObjectRef, StoredObject>) {
        for (repo, record) in self.view().repositories().unwrap() {
            let mut counted = RepositoryCounters::default();
            let mut owed = BTreeSet::new();
            for row in self.view().debts(repo, None) {
                let (object, debt) = row.unwrap();
                counted.debts += 1;
                counted.debt_bytes += debt.bytes;
                assert!(objects.contains_key(&object), "a debt of unknown {object}");
                owed.insert(object);
            }
            for (object, stored) in objects {
                let is_held = stored.replicas.iter().any(|replica| replica.repo == repo);
                if is_held {
                    counted.objects += 1;
                    counted.bytes += stored.stored_length;
                }
                let is_owed = owed.contains(object);
                if record.backfill.is_none() && !record.is_retiring() {
                    assert!(is_held != is_owed, "{object} in repo{repo}: {is_held}, {is_owed}");
                } else {
                    assert!(!(is_held && is_owed), "{object} in repo{repo}");
                }
            }
            let view = self.view();
            let kept = view.kept(None).filter(|row| row.as_ref().unwrap().0.repo == repo);
            counted.kept = kept.count() as u64;
            assert_eq!(self.view().counters(repo).unwrap(), counted, "repo{repo}");
        }
    }
}
