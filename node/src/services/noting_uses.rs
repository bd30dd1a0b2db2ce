//! Noting the uses of chunks that a backup begins and ends, before it is committed.
//!
//! The backup is *staged* first: from then on the uses of its stanza do not change, and its chunks can be compared with
//! them. A chunk that the backup names is born if the stanza has no open use of it. A chunk dies if the backup before
//! names it, or was born after that backup, and this one does not. Both lists come from the manifests as this node
//! reads them, never from the client.

use crate::backups::Backups;
use crate::janitor::Part;
use pgmesh_protocol::{CommitBackup, Failure};
use pgmesh_raft::command::NoteUses;
use pgmesh_raft::{BackupRecord, Command, LogIndex, SessionId, UseEvent, View};
use pgmesh_storage::{BackupLabel, Digest, ManifestRoot, RepoKey, StanzaName};
use std::collections::HashSet;

/// Uses in one command; few in tests, so that several are needed there.
const AT_ONCE: usize = if cfg!(test) { 3 } else { 2048 };
/// Chunks of the backup before that are compared at once, about: a chunk has a mebibyte or less.
const COMPARED_BITS: u32 = 40;

/// The backup whose uses are noted.
struct Staged<'a> {
    actor: &'a str,
    session: SessionId,
    stanza: &'a StanzaName,
    label: &'a BackupLabel,
    root: &'a ManifestRoot,
}

/// The backups before it.
struct Before {
    /// The last one that some repository keeps, so that its manifest can be read.
    readable: Option<BackupLabel>,
    /// Some repository does not keep the last one: each chunk is owed to it where it is missing.
    carries: bool,
    /// Uses of the stanza are being listed, or are to be: the backup notes all its chunks as born.
    is_unlisted: bool,
}

impl Backups {
    /// Notes the uses that a backup begins and ends. All its chunks are known. Says whether all are noted that end; if
    /// not, the stanza is to be doubted again when the backup is committed: a listing does not know of it before.
    ///
    /// # Errors
    /// The session has ended; the catalog cannot be changed; a part of the manifest cannot be read.
    pub(super) async fn note_uses(
        &self,
        actor: &str,
        session: SessionId,
        commit: &CommitBackup,
        root: &ManifestRoot,
    ) -> Result<bool, Failure> {
        let (stanza, label) = (&commit.stanza, &commit.label);
        let staged = Staged {
            actor,
            session,
            stanza,
            label,
            root,
        };
        let stage = Command::StageUses {
            stanza: stanza.clone(),
            session,
            label: label.clone(),
            manifest: commit.manifest.digest,
        };
        self.catalog.propose(actor, stage).await?;
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let before = before(&view, stanza)?;
        self.note_births(&view, &staged, &before).await?;
        if let Err(failure) = self.note_deaths(&view, &staged, &before).await {
            // Chunks may stay that could go. Nothing is lost, and the leader looks through all manifests again.
            tracing::warn!(%stanza, %label, error = %failure, "the manifest of the backup before cannot be compared");
            self.doubt_uses(actor, stanza).await?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Has the leader look through the manifests of a stanza.
    pub(super) async fn doubt_uses(&self, actor: &str, stanza: &StanzaName) -> Result<(), Failure> {
        let stanza = stanza.clone();
        self.catalog.propose(actor, Command::DoubtUses { stanza }).await?;
        Ok(())
    }

    async fn note_births(&self, view: &View, staged: &Staged<'_>, before: &Before) -> Result<(), Failure> {
        let mut page = Vec::new();
        let parts: Vec<Digest> = staged.root.parts.iter().map(|part| part.digest).collect();
        self.births(view, staged, before, &parts, &mut page).await?;
        for part in &parts {
            let chunks = self.reads.chunks_of_part(view, *part).await?;
            self.births(view, staged, before, &chunks, &mut page).await?;
        }
        self.note(staged, std::mem::take(&mut page), Vec::new()).await
    }

    async fn births(
        &self,
        view: &View,
        staged: &Staged<'_>,
        before: &Before,
        chunks: &[Digest],
        page: &mut Vec<(Digest, bool)>,
    ) -> Result<(), Failure> {
        for group in chunks.chunks(AT_ONCE) {
            let open = view.are_open(staged.stanza, group)?;
            for (digest, is_open) in std::iter::zip(group, open) {
                let is_open = is_open && !before.is_unlisted;
                if !is_open || before.carries {
                    page.push((*digest, is_open));
                }
                if page.len() >= AT_ONCE {
                    self.note(staged, std::mem::take(page), Vec::new()).await?;
                }
            }
        }
        Ok(())
    }

    /// Notes chunks that the backup names, each with whether its use was open before, and chunks that it does not.
    async fn note(&self, staged: &Staged<'_>, named: Vec<(Digest, bool)>, died: Vec<Digest>) -> Result<(), Failure> {
        if named.is_empty() && died.is_empty() {
            return Ok(());
        }
        let (carried, born): (Vec<_>, Vec<_>) = named.into_iter().partition(|(_, is_open)| *is_open);
        let digests = |chunks: Vec<(Digest, bool)>| chunks.into_iter().map(|(digest, _)| digest).collect();
        let note = NoteUses {
            session: Some(staged.session),
            began: LogIndex(0),
            stanza: staged.stanza.clone(),
            label: staged.label.clone(),
            born: digests(born),
            carried: digests(carried),
            died,
        };
        self.catalog
            .propose(staged.actor, Command::NoteUses(Box::new(note)))
            .await?;
        Ok(())
    }

    async fn note_deaths(&self, view: &View, staged: &Staged<'_>, before: &Before) -> Result<(), Failure> {
        let prior = before.readable.as_ref();
        let prior_root = match prior {
            Some(prior) => self.reads.manifest_root(view, staged.stanza, prior).await?,
            None => None,
        };
        let size = prior_root.as_ref().map_or(0, |root| root.sizes.size);
        let of = (size >> COMPARED_BITS).saturating_add(1).min(256);
        for number in 0..of {
            let part = Part::new(number, of);
            let mut left = self
                .named_before(view, staged, prior, prior_root.as_ref(), &part)
                .await?;
            if left.is_empty() {
                continue;
            }
            for manifest_part in &staged.root.parts {
                left.remove(&manifest_part.digest);
                for digest in self.reads.chunks_of_part(view, manifest_part.digest).await? {
                    left.remove(&digest);
                }
            }
            let left: Vec<Digest> = left.into_iter().collect();
            for group in left.chunks(AT_ONCE) {
                // A listing that is under way may note a birth before this backup.
                let open = view.are_open(staged.stanza, group)?;
                let died = std::iter::zip(group, open).filter(|(_, is_open)| *is_open || before.is_unlisted);
                let died = died.map(|(digest, _)| *digest).collect();
                self.note(staged, Vec::new(), died).await?;
            }
        }
        Ok(())
    }

    /// The chunks of one part of the digest space that may die at the staged backup: those of the backup before, but
    /// for parts of the manifest that both have, and those that were born since.
    async fn named_before(
        &self,
        view: &View,
        staged: &Staged<'_>,
        prior: Option<&BackupLabel>,
        root: Option<&ManifestRoot>,
        part: &Part,
    ) -> Result<HashSet<Digest>, Failure> {
        let shared: HashSet<Digest> = staged.root.parts.iter().map(|part| part.digest).collect();
        let mut named = HashSet::new();
        for manifest_part in root.iter().flat_map(|root| &root.parts) {
            if shared.contains(&manifest_part.digest) {
                continue;
            }
            let chunks = self.reads.chunks_of_part(view, manifest_part.digest).await?;
            let chunks = std::iter::once(manifest_part.digest).chain(chunks);
            named.extend(chunks.filter(|digest| part.has(digest)));
        }
        for row in view.backup_uses(staged.stanza, prior.map(|prior| (prior, None))) {
            let ((label, digest), event) = row?;
            if label < *staged.label && event == UseEvent::Born && part.has(&digest) {
                named.insert(digest);
            }
        }
        Ok(named)
    }
}

/// The backups before the staged one. While it is staged, none of them expires.
fn before(view: &View, stanza: &StanzaName) -> Result<Before, Failure> {
    let registered: Vec<RepoKey> = view.repositories()?.into_iter().map(|(repo, _)| repo).collect();
    let last = view.stanza(stanza)?.and_then(|record| record.last_backup);
    let mut before = Before {
        readable: None,
        carries: true,
        is_unlisted: view.is_unlisted(stanza)?,
    };
    for (number, row) in view.backups_back(stanza, None).enumerate() {
        let (label, record) = row?;
        let is_kept = |repo: &RepoKey| BackupRecord::is_kept_in(&record, *repo);
        if number == 0 {
            // The last one of all may have left the catalog.
            let is_last = last.as_ref() == Some(&label);
            before.carries = !is_last || !registered.iter().all(is_kept);
        }
        if registered.iter().any(is_kept) {
            before.readable = Some(label);
            break;
        }
    }
    Ok(before)
}
