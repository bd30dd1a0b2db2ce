//! The backups: each object that a backup needs, in each repository.

use super::Verification;
use crate::refs;
use crate::repositories::Slot;
use pgmesh_protocol::{Failure, Finding, FindingKind, NAMED};
use pgmesh_raft::{DebtReason, ObjectRef, View};
use pgmesh_storage::{BackupLabel, RepoKey, StanzaName};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Verification<'_> {
    /// Resolves one backup in each repository: its manifest, the parts, and every chunk they name.
    pub(super) async fn backup(
        &mut self,
        view: &View,
        stanza: &StanzaName,
        label: &BackupLabel,
        slots: &[Arc<Slot>],
    ) -> Result<(), Failure> {
        let mut broken: BTreeMap<RepoKey, Vec<String>> = BTreeMap::new();
        let object = ObjectRef::Manifest {
            stanza: stanza.clone(),
            label: label.clone(),
        };
        self.hold_against(&object, slots, &mut broken)?;
        match self.node.reads.manifest_root(view, stanza, label).await {
            Ok(Some(root)) => {
                for part in &root.parts {
                    self.hold_against(&ObjectRef::Chunk(part.digest), slots, &mut broken)?;
                    match self.node.reads.chunks_of_part(view, part.digest).await {
                        Ok(digests) => {
                            for digest in digests {
                                self.hold_against(&ObjectRef::Chunk(digest), slots, &mut broken)?;
                            }
                        }
                        Err(failure) => broken_everywhere(&mut broken, slots, &failure),
                    }
                }
            }
            Ok(None) => return Ok(()),
            Err(failure) => broken_everywhere(&mut broken, slots, &failure),
        }
        if !broken.is_empty() && self.summary.damaged_backups.len() < NAMED {
            self.summary.damaged_backups.push(format!("{stanza}/{label}"));
        }
        for (repo, subjects) in broken {
            let first = subjects.first().cloned().unwrap_or_default();
            let elsewhere = "a copy of each in another repository is used for restores until it is repaired";
            self.found(Finding {
                kind: FindingKind::BackupDamaged,
                repo: Some(repo.get()),
                stanza: Some(stanza.to_string()),
                subject: label.to_string(),
                what: format!("{} objects that it needs are damaged or missing, the first: {first}; {elsewhere}, where there is one", subjects.len()),
            })
            .await?;
        }
        Ok(())
    }

    /// Whether an object that a backup needs is good in each repository. An object that is merely owed is no damage.
    fn hold_against(
        &self,
        object: &ObjectRef,
        slots: &[Arc<Slot>],
        broken: &mut BTreeMap<RepoKey, Vec<String>>,
    ) -> Result<(), Failure> {
        // In the catalog of this moment, a replica that was just found bad, here or by a restore, is withdrawn already.
        let now = self.node.catalog.view();
        let known = refs::known(&now, object)?;
        let lost = known.as_ref().is_none_or(|known| known.replicas.is_empty());
        for slot in slots {
            let repo = slot.key;
            let Some(known) = &known else {
                broken
                    .entry(repo)
                    .or_default()
                    .push(format!("{object} is not in the catalog"));
                continue;
            };
            if lost {
                broken
                    .entry(repo)
                    .or_default()
                    .push(format!("{object} has no good replica anywhere"));
                continue;
            }
            if now
                .debt(repo, object)?
                .is_some_and(|debt| debt.reason != DebtReason::Owed)
            {
                broken.entry(repo).or_default().push(object.to_string());
                continue;
            }
            let Some(replica) = known.replicas.iter().find(|replica| replica.repo == repo) else {
                continue;
            };
            let Some(repository) = slot.repository() else { continue };
            let path = repository.path_of(&known.name, replica.generation).to_string();
            if self.bad.get(&repo).is_some_and(|bad| bad.contains(&path)) {
                broken.entry(repo).or_default().push(path);
            }
        }
        Ok(())
    }
}

fn broken_everywhere(broken: &mut BTreeMap<RepoKey, Vec<String>>, slots: &[Arc<Slot>], failure: &Failure) {
    for slot in slots {
        broken.entry(slot.key).or_default().push(failure.to_string());
    }
}
