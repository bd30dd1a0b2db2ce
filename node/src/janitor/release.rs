//! Releasing the chunks that only expired backups needed in a repository, and noting uses that are not known.
//!
//! Uses begin and end with backups (`raft/src/apply/use_judge.rs`). When backup b2 expires in a repository that keeps
//! b1 and b4, the chunks that it alone held there have died after b2 and up to b4, or, without a later backup, were
//! born after b1. Only these are looked at, a page at a time; the catalog judges each. The manifest goes first, and the
//! chunks when it is deleted: a repository explains itself, and never has a manifest without its chunks.

use crate::janitor::{Janitor, Part};
use pgmesh_protocol::{Failure, StuckRelease};
use pgmesh_raft::command::{DropUses, EndListing, NoteUses, Release};
use pgmesh_raft::{CatalogError, Command, LogIndex, ObjectRef, Refusal, Reply, UseEvent, View};
use pgmesh_storage::{BackupLabel, Digest, RepoKey, StanzaName};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::sweep::backed_off;

/// Chunks in one command; few in tests, so that several are needed there.
const AT_ONCE: usize = if cfg!(test) { 3 } else { 512 };
/// How often the leader looks for work.
const LOOK: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 2_000 });
/// The first and the longest pause after a round that left something to do.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(120));
/// The pause after each command while a backup runs: its commit may have to look at the chunks again.
const GAP: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 20 });
/// A backup's chunks are compared in so many parts for each of so many bytes.
const LISTED_BITS: u32 = 40;

/// The sums of a round.
#[derive(Debug, Default)]
struct Round {
    objects: u64,
    bytes: u64,
    /// Something is left for the next round: the first reason.
    open: Option<String>,
}

impl Round {
    /// Something is left for the next round.
    fn leave(&mut self, why: impl FnOnce() -> String) {
        self.open.get_or_insert_with(why);
    }

    /// Takes a command's outcome in; says whether all that it was about is through.
    fn note(&mut self, outcome: Result<Reply, CatalogError>) -> Result<bool, Failure> {
        match outcome {
            Ok(Reply::Released {
                objects,
                bytes,
                waiting,
            }) => {
                self.objects += u64::from(objects);
                self.bytes += bytes;
                if waiting > 0 {
                    self.leave(|| {
                        format!(
                            "{waiting} chunks are still the only source of a copy that another repository owes, or a \
                             backup under way names them"
                        )
                    });
                }
                Ok(waiting == 0)
            }
            // A backup of the stanza is being committed, or uses are not known.
            Err(CatalogError::Refused(refusal @ Refusal::Expiry(_))) => {
                self.leave(|| refusal.to_string());
                Ok(false)
            }
            Ok(_) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// A backup that has expired in a repository.
struct Expired {
    repo: RepoKey,
    stanza: StanzaName,
    label: BackupLabel,
    since: LogIndex,
}

impl Expired {
    fn release(&self, manifest: bool, chunks: Vec<Digest>) -> Command {
        Command::Release(Box::new(Release {
            repo: self.repo,
            stanza: self.stanza.clone(),
            label: self.label.clone(),
            since: self.since,
            manifest,
            chunks,
        }))
    }

    /// Takes the outcome of a step in; a failure of one release does not stop the others.
    fn note(&self, outcome: Result<bool, Failure>, round: &mut Round) -> bool {
        outcome.unwrap_or_else(|failure| {
            let Self {
                repo, stanza, label, ..
            } = self;
            tracing::warn!(%repo, %stanza, %label, error = %failure, "what an expired backup needed is released later");
            round.leave(|| format!("backup {label} of {stanza} in repo{repo}: {failure}"));
            false
        })
    }
}

impl Janitor {
    /// As the leader: why objects that have expired are not deleted, if they are not.
    pub(crate) fn stuck_release(&self) -> Option<StuckRelease> {
        self.stuck.get()
    }

    /// Releases what has expired, until the node stops. The leader does it for the whole mesh.
    pub async fn keep_releasing(self: Arc<Self>) {
        let mut failed = 0;
        loop {
            let mut pause = LOOK;
            if self.catalog.is_leader() && self.has_work().unwrap_or(true) && self.may_forget() {
                match self.release_round().await {
                    Ok(round) => {
                        if round.objects > 0 {
                            let (objects, bytes) = (round.objects, round.bytes);
                            tracing::info!(objects, bytes, "objects that only expired backups needed are released");
                        }
                        failed = if round.open.is_some() { failed + 1 } else { 0 };
                        self.stuck.set(round.open);
                    }
                    Err(failure) => {
                        failed += 1;
                        self.stuck.set(Some(failure.to_string()));
                        tracing::warn!(error = %failure, "expired objects are released later");
                    }
                }
                if failed > 0 && !cfg!(test) {
                    pause = backed_off(AGAIN, failed);
                }
            } else {
                self.stuck.set(None);
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn has_work(&self) -> Result<bool, Failure> {
        let view = self.catalog.view();
        let has_releases = view.releases().next().is_some();
        Ok(has_releases || view.abandoned().next().is_some() || view.unlisted().next().is_some())
    }

    async fn release_round(&self) -> Result<Round, Failure> {
        let mut round = Round::default();
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let unlisted: Vec<_> = view.unlisted().collect::<Result<_, _>>()?;
        for (stanza, record) in unlisted {
            // What is lost may be found again.
            if record.is_partial && !record.births && !self.listed.is_due(&stanza) {
                continue;
            }
            if let Err(failure) = self.list_uses(&stanza).await {
                tracing::warn!(%stanza, error = %failure, "the chunks that backups use are noted later");
                round.leave(|| format!("the chunks that the backups of {stanza} use are not known: {failure}"));
            }
        }
        let view = self.catalog.view();
        if let Some(stanza) = view.release_held_by()? {
            tracing::debug!(%stanza, "no chunk is released before its uses are known");
            round.leave(|| format!("the chunks that the backups of {stanza} use are not known yet"));
            return Ok(round);
        }
        let abandoned: Vec<_> = view.abandoned().collect::<Result<_, _>>()?;
        for ((stanza, label), ()) in abandoned {
            if let Err(failure) = self.drop_uses(&stanza, &label, &mut round).await {
                tracing::warn!(%stanza, %label, error = %failure, "the uses of a backup that was given up are dropped later");
                round.leave(|| format!("backup {label} of {stanza}, which was given up: {failure}"));
            }
        }
        let releases: Vec<_> = view.releases().collect::<Result<_, _>>()?;
        let mut waiting = Vec::new();
        for ((repo, stanza, label), since) in releases {
            let expired = Expired {
                repo,
                stanza,
                label,
                since,
            };
            let released = self.release_manifest(&expired, &mut round).await;
            if expired.note(released, &mut round) {
                waiting.push(expired);
            }
        }
        if !waiting.is_empty() {
            // The manifests go first.
            self.collect_garbage().await?;
        }
        for expired in waiting {
            let released = self.release_chunks(&expired, &mut round).await;
            expired.note(released.map(|()| true), &mut round);
        }
        Ok(round)
    }

    /// Drops the uses of a backup that was given up.
    async fn drop_uses(&self, stanza: &StanzaName, label: &BackupLabel, round: &mut Round) -> Result<(), Failure> {
        let (mut after, mut is_through) = (None, true);
        loop {
            let view = self.catalog.view();
            let rows = view.uses_at(stanza, label, after.as_ref()).take(AT_ONCE);
            let chunks: Vec<Digest> = rows
                .map(|row| row.map(|(digest, _)| digest))
                .collect::<Result<_, _>>()?;
            let is_last = chunks.len() < AT_ONCE;
            after = chunks.last().copied().or(after);
            let given = DropUses {
                stanza: stanza.clone(),
                label: label.clone(),
                chunks,
                is_last: is_last && is_through,
            };
            let command = Command::DropUses(Box::new(given));
            is_through &= round.note(self.catalog.propose(self.actor(), command).await)?;
            if is_last {
                return Ok(());
            }
            self.let_commits_through(GAP).await;
        }
    }

    /// Withdraws an expired backup's manifest; says whether its chunks may follow.
    async fn release_manifest(&self, expired: &Expired, round: &mut Round) -> Result<bool, Failure> {
        let command = expired.release(true, Vec::new());
        round.note(self.catalog.propose(self.actor(), command).await)
    }

    /// Releases the chunks that one expired backup alone needed in one repository, once its manifest is deleted there.
    async fn release_chunks(&self, expired: &Expired, round: &mut Round) -> Result<(), Failure> {
        let Expired {
            repo,
            stanza,
            label,
            since,
        } = expired;
        let manifest = ObjectRef::Manifest {
            stanza: stanza.clone(),
            label: label.clone(),
        };
        if self.catalog.view().has_garbage(&manifest, *repo)? {
            round.leave(|| {
                format!(
                    "the manifest of backup {label} of {stanza} is still in repo{repo}: the repository is away, or keeps it, \
                     or an older session is open"
                )
            });
            return Ok(());
        }
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let span = Span::of(&view, stanza, label, *repo)?;
        let mut is_through = true;
        let mut page = Vec::new();
        for row in span.rows(&view, stanza) {
            if let Some(digest) = row? {
                page.push(digest);
            }
            if page.len() >= AT_ONCE {
                let command = expired.release(false, std::mem::take(&mut page));
                is_through &= round.note(self.catalog.propose(self.actor(), command).await)?;
                self.let_commits_through(GAP).await;
            }
        }
        if !page.is_empty() {
            let command = expired.release(false, page);
            is_through &= round.note(self.catalog.propose(self.actor(), command).await)?;
        }
        if is_through {
            let end = Command::EndRelease {
                repo: *repo,
                stanza: stanza.clone(),
                label: label.clone(),
                since: *since,
            };
            round.note(self.catalog.propose(self.actor(), end).await)?;
        }
        Ok(())
    }

    /// Reads the manifests of all backups of a stanza, and notes their uses.
    async fn list_uses(&self, stanza: &StanzaName) -> Result<(), Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let began: LogIndex = view.applied()?;
        let registered: Vec<RepoKey> = view.repositories()?.into_iter().map(|(repo, _)| repo).collect();
        let (mut labels, mut size) = (Vec::new(), 0);
        for row in view.backups(stanza, None) {
            let (label, record) = row?;
            if registered.iter().any(|repo| record.is_kept_in(*repo)) {
                size = record.size.max(size);
                labels.push(label);
            }
        }
        let mut lost = 0;
        let of = (size >> LISTED_BITS).saturating_add(1).min(256);
        for number in 0..of {
            let part = Part::new(number, of);
            // All births first: a chunk that has come back is in use whenever this ends.
            for event in [UseEvent::Born, UseEvent::Died] {
                let mut open = HashSet::new();
                for label in &labels {
                    if self.catalog.view().backup(stanza, label)?.is_none() {
                        // It has left the catalog meanwhile.
                        continue;
                    }
                    let Some((named, is_whole)) = self.named_by(&view, stanza, label, &part).await? else {
                        lost += 1;
                        continue;
                    };
                    lost += u64::from(!is_whole);
                    match event {
                        UseEvent::Died if is_whole => {
                            let died: Vec<Digest> = open.difference(&named).copied().collect();
                            self.note_listed((stanza, began), label, &died, event).await?;
                        }
                        // Chunks of the lost part may be named.
                        UseEvent::Died => {}
                        UseEvent::Born | UseEvent::Carried => {
                            let born = named.difference(&open).copied();
                            // A death that was noted while a part was lost is taken back.
                            let noted = noted_deaths(&view, stanza, label)?;
                            let wrong = noted.into_iter().filter(|digest| named.contains(digest));
                            let born: Vec<Digest> = born.chain(wrong).collect();
                            self.note_listed((stanza, began), label, &born, event).await?;
                        }
                    }
                    if is_whole {
                        open = named;
                    } else {
                        open.extend(named);
                    }
                }
            }
        }
        let end = EndListing {
            stanza: stanza.clone(),
            began,
            is_partial: lost > 0,
        };
        match self
            .catalog
            .propose(self.actor(), Command::EndListing(Box::new(end)))
            .await
        {
            Ok(_) => {
                tracing::info!(%stanza, backups = labels.len(), "the chunks that its backups use are noted");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The chunks that a backup names, and whether these are all; none where its manifest is lost, or has left the
    /// catalog.
    async fn named_by(
        &self,
        view: &View,
        stanza: &StanzaName,
        label: &BackupLabel,
        part: &Part,
    ) -> Result<Option<(HashSet<Digest>, bool)>, Failure> {
        let manifest = ObjectRef::Manifest {
            stanza: stanza.clone(),
            label: label.clone(),
        };
        if is_lost(view, &manifest)? {
            tracing::warn!(%stanza, %label, "the manifest is lost in all repositories: its uses of chunks are not known");
            return Ok(None);
        }
        let Some(root) = self.reads.manifest_root(view, stanza, label).await? else {
            return Ok(None);
        };
        let (mut named, mut is_whole) = (HashSet::new(), true);
        for manifest_part in &root.parts {
            if is_lost(view, &ObjectRef::Chunk(manifest_part.digest))? {
                tracing::warn!(%stanza, %label, "a part of the manifest is lost in all repositories: its chunks are not known");
                is_whole = false;
                continue;
            }
            let chunks = self.reads.chunks_of_part(view, manifest_part.digest).await?;
            let chunks = std::iter::once(manifest_part.digest).chain(chunks);
            named.extend(chunks.filter(|digest| part.has(digest)));
        }
        Ok(Some((named, is_whole)))
    }

    async fn note_listed(
        &self,
        (stanza, began): (&StanzaName, LogIndex),
        label: &BackupLabel,
        chunks: &[Digest],
        event: UseEvent,
    ) -> Result<(), Failure> {
        for group in chunks.chunks(AT_ONCE) {
            let (mut born, mut died) = (Vec::new(), Vec::new());
            match event {
                UseEvent::Born | UseEvent::Carried => born.extend_from_slice(group),
                UseEvent::Died => died.extend_from_slice(group),
            }
            let note = NoteUses {
                session: None,
                began,
                stanza: stanza.clone(),
                label: label.clone(),
                born,
                carried: Vec::new(),
                died,
            };
            self.catalog
                .propose(self.actor(), Command::NoteUses(Box::new(note)))
                .await?;
        }
        Ok(())
    }
}

/// The chunks that a backup is noted not to name any more.
fn noted_deaths(view: &View, stanza: &StanzaName, label: &BackupLabel) -> Result<Vec<Digest>, Failure> {
    let mut died = Vec::new();
    for row in view.uses_at(stanza, label, None) {
        let (digest, event) = row?;
        if event == UseEvent::Died {
            died.push(digest);
        }
    }
    Ok(died)
}

/// Whether no repository has a good replica of an object: nobody can use what it names.
fn is_lost(view: &View, object: &ObjectRef) -> Result<bool, Failure> {
    Ok(view.object(object)?.is_none_or(|stored| stored.replicas.is_empty()))
}

/// The backups between which the uses lie that an expired backup alone kept alive in a repository.
struct Span {
    label: BackupLabel,
    /// The last backup before it that the repository keeps.
    before: Option<BackupLabel>,
    /// The first backup after it that the repository keeps.
    after: Option<BackupLabel>,
}

impl Span {
    fn of(view: &View, stanza: &StanzaName, label: &BackupLabel, repo: RepoKey) -> Result<Self, Failure> {
        let mut span = Self {
            label: label.clone(),
            before: None,
            after: None,
        };
        for row in view.backups(stanza, None) {
            let (other, record) = row?;
            if !record.is_kept_in(repo) {
                continue;
            }
            if other > *label {
                span.after = Some(other);
                break;
            }
            span.before = Some(other);
        }
        Ok(span)
    }

    /// The chunks to look at: those that have died up to the next backup. Without one, those that were born since the
    /// one before, and all that have died since.
    fn rows<'v>(
        &'v self,
        view: &'v View,
        stanza: &StanzaName,
    ) -> impl Iterator<Item = Result<Option<Digest>, pgmesh_raft::ReadError>> + Send + 'v {
        let from = match &self.after {
            Some(_) => Some(&self.label),
            None => self.before.as_ref(),
        };
        let rows = view.backup_uses(stanza, from.map(|label| (label, None)));
        let is_behind = |label: &BackupLabel| self.after.as_ref().is_some_and(|after| label > after);
        let is_within = move |row: &Result<((BackupLabel, Digest), UseEvent), _>| match row {
            Ok(((label, _), _)) => !is_behind(label),
            Err(_) => true,
        };
        rows.take_while(is_within).map(|row| {
            let ((label, digest), event) = row?;
            let is_candidate = match event {
                UseEvent::Died => label > self.label,
                UseEvent::Born => self.after.is_none() && label <= self.label,
                UseEvent::Carried => false,
            };
            Ok(is_candidate.then_some(digest))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::testing::{Connected, TestNode, manifest_of_files, stanza};
    use pgmesh_protocol::{CommittedBackup, ExpireBackups, ExpiredBackups};

    /// A backup of a file in each of these chunks, committed as a client does it.
    async fn back_up(client: &Connected, label: &str, contents: &[u8]) -> Vec<Digest> {
        let begun = client.begin_backup(label).await.unwrap();
        let mut chunks = Vec::new();
        for byte in contents {
            chunks.push(client.put_chunk(begun.session, &[*byte; 900]).await.unwrap());
        }
        let (root, part) = manifest_of_files(label, &chunks, 900);
        client.put_chunk(begun.session, &part).await.unwrap();
        let committed = client.commit_backup(begun.session, label, &root).await.unwrap();
        assert!(matches!(committed, CommittedBackup::Committed { .. }));
        chunks
    }

    fn expire(label: &str) -> ExpireBackups {
        ExpireBackups {
            stanza: stanza(),
            repo: RepoKey::new(1).unwrap(),
            labels: vec![label.parse().unwrap()].into(),
            why: "test".into(),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_an_expired_backup_alone_held_goes_and_what_others_share_stays() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let labels = ["20260101-000000F", "20260102-000000F", "20260103-000000F"];
        let first = back_up(&client, labels[0], &[1, 2, 3, 4]).await;
        let second = back_up(&client, labels[1], &[1, 3, 5]).await;
        // Chunk 4 has come back.
        let third = back_up(&client, labels[2], &[1, 4, 6]).await;
        let ask = expire(labels[0]);
        let expired: ExpiredBackups = client.ask(&ask, None).await.unwrap();
        assert_eq!(expired.labels, ask.labels.into_vec());
        let again: ExpiredBackups = client.ask(&expire(labels[0]), None).await.unwrap();
        assert_eq!(again.labels, []);
        site.wait("chunk 2 to go", |_| !site.has_file(first[1])).await;
        for chunk in [first[0], first[2], second[2], third[2]] {
            assert!(site.has_file(chunk), "{chunk}");
        }
        site.wait("the release to end", |node| {
            node.catalog.view().releases().next().is_none()
        })
        .await;
        let view = site.node.catalog.view();
        assert!(view.backup(&stanza(), &labels[0].parse().unwrap()).unwrap().is_none());
        // The first use of chunk 4 is over, the second one is not.
        assert!(site.has_file(third[1]));
        let _: ExpiredBackups = client.ask(&expire(labels[1]), None).await.unwrap();
        site.wait("chunks 3 and 5 to go", |_| {
            !site.has_file(second[1]) && !site.has_file(second[2])
        })
        .await;
        assert!(third.iter().all(|chunk| site.has_file(*chunk)));
        let refused = client.ask(&expire(labels[2]), None).await.unwrap_err();
        assert_eq!(refused.code, pgmesh_protocol::ExitCode::BackupSetInvalid, "{refused}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn uses_that_are_not_known_are_listed_from_the_manifests() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        site.create_stanza(&client).await;
        let first = back_up(&client, "20260101-000000F", &[1, 2]).await;
        let second = back_up(&client, "20260102-000000F", &[1, 3]).await;
        site.propose(Command::DoubtUses { stanza: stanza() }).await;
        site.wait("the stanza to be listed", |node| {
            node.catalog.view().unlisted().next().is_none()
        })
        .await;
        let view = site.node.catalog.view();
        let open = view.are_open(&stanza(), &[first[0], first[1], second[1]]).unwrap();
        assert_eq!(open, [true, false, true]);
        let _: ExpiredBackups = client.ask(&expire("20260101-000000F"), None).await.unwrap();
        site.wait("chunk 2 to go", |_| !site.has_file(first[1])).await;
        assert!(second.iter().all(|chunk| site.has_file(*chunk)));
    }
}
