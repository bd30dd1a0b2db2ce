//! Which chunks backups use, and what has expired.

use pgmesh_postgres::{SegmentName, TimelineId};
use pgmesh_storage::{BackupLabel, DbId, Digest, RepoKey, StanzaName};

use super::View;
use crate::apply::Base;
use crate::apply::use_judge::{self, Judge};
use crate::error::ReadError;
use crate::key::{self, KeyReader};
use crate::model::{LogIndex, ObjectRef, Unlisted, UseEvent};
use crate::table::Table;

/// Judges chunks by their uses, one after the other: it reads each stanza's backups once.
#[derive(Debug)]
pub struct UseJudge<'v, B> {
    base: &'v B,
    judge: Judge,
}

impl<B: Base> UseJudge<'_, B> {
    /// Whether a backup needs the chunk that one of these repositories keeps.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn is_needed(&mut self, digest: &Digest, repos: &[RepoKey]) -> Result<bool, ReadError> {
        self.judge.is_needed(self.base, digest, repos)
    }
}

impl<B: Base> View<B> {
    /// Judges chunks by their uses. Ask a snapshot.
    pub fn judge(&self) -> UseJudge<'_, B> {
        UseJudge {
            base: &self.base,
            judge: Judge::default(),
        }
    }

    /// For each chunk, whether the stanza has an open use of it: whether its last backup names the chunk. The answer
    /// stays while a backup of the stanza is staged. Ask a snapshot.
    pub fn are_open(&self, stanza: &StanzaName, digests: &[Digest]) -> Result<Vec<bool>, ReadError> {
        let mut judge = Judge::default();
        let mut is_open = |digest| judge.is_open(&self.base, stanza, digest);
        digests.iter().map(&mut is_open).collect()
    }

    /// The uses of a chunk by a stanza: the first backup that names it, and the first later one that does not.
    pub fn uses_of(
        &self,
        stanza: &StanzaName,
        digest: &Digest,
    ) -> Result<Vec<(BackupLabel, Option<BackupLabel>)>, ReadError> {
        let uses = Judge::default().uses(&self.base, digest)?.into_iter();
        let of_it = uses.filter(|of| of.stanza == *stanza);
        Ok(of_it.map(|of| (of.born, of.died)).collect())
    }

    /// The events in the use of chunks by a stanza, by label and digest, those after `after` if given.
    pub fn backup_uses(
        &self,
        stanza: &StanzaName,
        after: Option<(&BackupLabel, Option<&Digest>)>,
    ) -> impl Iterator<Item = Result<((BackupLabel, Digest), UseEvent), ReadError>> + Send + use<'_, B> {
        let prefix = key::stanza_prefix(stanza);
        let from = match after {
            None => prefix.clone(),
            Some((label, Some(digest))) => key::after(key::backup_use(stanza, label, digest)),
            Some((label, None)) => {
                // Behind all rows of the label: no other label has this prefix.
                let mut from = key::backup(stanza, label);
                from.push(1);
                from
            }
        };
        self.rows(Table::BackupUses, &from, &prefix, key::read_backup_use)
    }

    /// The events of one backup, by digest, those after `after` if given.
    pub fn uses_at(
        &self,
        stanza: &StanzaName,
        label: &BackupLabel,
        after: Option<&Digest>,
    ) -> impl Iterator<Item = Result<(Digest, UseEvent), ReadError>> + Send + use<'_, B> {
        let prefix = key::backup_uses(stanza, label);
        let from = after.map_or_else(
            || prefix.clone(),
            |digest| key::after(key::backup_use(stanza, label, digest)),
        );
        self.rows(Table::BackupUses, &from, &prefix, |key| {
            key::read_backup_use(key).map(|(_, digest)| digest)
        })
    }

    /// Whether an object of a repository waits for its deletion.
    pub fn has_garbage(&self, object: &ObjectRef, repo: RepoKey) -> Result<bool, ReadError> {
        let prefix = key::object(object);
        for row in self.base.scan(Table::Garbage, &prefix, &prefix) {
            let (key, _) = row?;
            if key::read_garbage(&key).is_some_and(|garbage| garbage.repo == repo) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Backups that have expired in a repository, and whose chunks are to be released there, with the position at which
    /// they expired.
    pub fn releases(
        &self,
    ) -> impl Iterator<Item = Result<((RepoKey, StanzaName, BackupLabel), LogIndex), ReadError>> + Send {
        self.rows(Table::Releases, &[], &[], key::read_release)
    }

    /// Backups that have noted uses and were given up.
    pub fn abandoned(&self) -> impl Iterator<Item = Result<((StanzaName, BackupLabel), ()), ReadError>> + Send {
        self.rows(Table::Abandoned, &[], &[], key::read_backup)
    }

    /// Stanzas whose uses of chunks are not known in full.
    pub fn unlisted(&self) -> impl Iterator<Item = Result<(StanzaName, Unlisted), ReadError>> + Send {
        self.rows(Table::Unlisted, &[], &[], |key| {
            KeyReader::new(key).rest()?.parse().ok()
        })
    }

    /// Whether uses of a stanza may not be known.
    pub fn is_unlisted(&self, stanza: &StanzaName) -> Result<bool, ReadError> {
        Ok(use_judge::unlisted_since(&self.base, stanza)?.is_some())
    }

    /// The first stanza because of which no chunk is released.
    pub fn release_held_by(&self) -> Result<Option<StanzaName>, ReadError> {
        use_judge::unlisted(&self.base)
    }

    /// The first stanza because of which no chunk is condemned.
    pub fn condemning_held_by(&self) -> Result<Option<StanzaName>, ReadError> {
        Ok(use_judge::unlisted(&self.base)?.or(use_judge::partial(&self.base)?))
    }

    /// The last segment of a timeline that has expired in all repositories: a segment up to there that is not in the
    /// archive was archived once.
    pub fn expired_upto(
        &self,
        stanza: &StanzaName,
        db: DbId,
        timeline: TimelineId,
    ) -> Result<Option<SegmentName>, ReadError> {
        self.base
            .record(Table::ExpiredWal, &key::last_push(stanza, db, timeline))
    }
}
