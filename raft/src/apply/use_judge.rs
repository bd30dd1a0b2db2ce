//! Which chunks the backups of each stanza use, from which backup on, and up to which (invariant 5).
//!
//! The backups of a stanza are ordered by their labels, and one is taken at a time. A chunk is *in use* from the backup
//! where it was born up to, and without, the backup where it died: the first later one that does not name it. In a
//! repository the use is *alive* while the repository keeps a backup from within it. So if a backup expires, only the
//! uses are looked at that ended, or began, between its neighbours: the cost is in proportion to what changed there.
//!
//! ```text
//!            b1    b2    b3    b4          repo1 keeps b1 and b4: it needs A and C, and not B
//! chunk A    ├───────────╳                 born at b1, died at b3
//! chunk B          ├─────╳                 born at b2, died at b3
//! chunk C          ├──────────────         born at b2
//! ```
//!
//! The node that commits a backup finds births and deaths in the manifests, not in a list that a client sends. Before
//! that, the backup is *staged*: from then on until its commit the uses of its stanza do not change.

use std::collections::{BTreeSet, HashMap};

use pgmesh_storage::{BackupLabel, Digest, RepoKey, StanzaName};

use super::{Base, Outcome, Rows, Step, rights};
use crate::error::ReadError;
use crate::key::{self, KeyReader};
use crate::model::{BackupRecord, ExpiredIn, StanzaRecord, Unlisted, UseEvent};
use crate::refusal::{ExpiryRefusal, Refusal};
use crate::table::Table;
use crate::value;

/// One use of a chunk by a stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) stanza: StanzaName,
    /// The first backup that names the chunk.
    pub(crate) born: BackupLabel,
    /// The first later one that does not, if there is one.
    pub(crate) died: Option<BackupLabel>,
    /// The labels of all its events.
    labels: Vec<BackupLabel>,
}

/// The backups of a stanza, as far as uses depend on them.
#[derive(Debug, Default)]
struct Known {
    /// All, by label, and the repositories that each has expired in.
    backups: Vec<(BackupLabel, ExpiredIn)>,
    /// Backups that were given up: their events do not count.
    abandoned: BTreeSet<BackupLabel>,
    /// The backup that is staged.
    staged: Option<BackupLabel>,
    /// Manifests are lost, and with them the knowledge of what they use.
    is_partial: bool,
}

impl Known {
    fn read<B: Base>(base: &B, name: &StanzaName) -> Result<Self, ReadError> {
        let prefix = key::stanza_prefix(name);
        let mut known = Self::default();
        for row in base.scan(Table::Backups, &prefix, &prefix) {
            let (key, bytes) = row?;
            let record: BackupRecord = value::decode(Table::Backups, &key, &bytes)?;
            let (_, label) = key::read_backup(&key).ok_or_else(|| malformed(Table::Backups, &key))?;
            known.backups.push((label, record.expired));
        }
        for row in base.scan(Table::Abandoned, &prefix, &prefix) {
            let (key, _) = row?;
            let (_, label) = key::read_backup(&key).ok_or_else(|| malformed(Table::Abandoned, &key))?;
            known.abandoned.insert(label);
        }
        let record: Option<StanzaRecord> = base.record(Table::Stanzas, &key::stanza(name))?;
        let running = record.and_then(|record| record.backup);
        known.staged = running
            .filter(|backup| backup.staged.is_some())
            .map(|backup| backup.label);
        known.is_partial = unlisted_since(base, name)?.is_some_and(|unlisted| unlisted.is_partial);
        Ok(known)
    }

    /// Whether one of these repositories keeps a backup from within the use. An open use of a stanza with a staged
    /// backup is alive everywhere: the backup rests on it.
    fn is_alive(&self, of: &Use, repos: &[RepoKey]) -> bool {
        if self.is_partial || of.died.is_none() && self.staged.is_some() {
            return true;
        }
        let first = self.backups.partition_point(|(label, _)| *label < of.born);
        let within = self.backups.iter().skip(first);
        let mut within = within.take_while(|(label, _)| of.died.as_ref().is_none_or(|died| label < died));
        within.any(|(_, expired)| repos.iter().any(|repo| !expired.contains(repo)))
    }
}

/// Judges chunks by the uses that a base knows. Reads each stanza's backups once: use it for one command, which neither
/// adds a backup nor expires one.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    stanzas: HashMap<StanzaName, Known>,
}

impl Judge {
    fn known<B: Base>(&mut self, base: &B, stanza: &StanzaName) -> Result<&Known, ReadError> {
        if !self.stanzas.contains_key(stanza) {
            self.stanzas.insert(stanza.clone(), Known::read(base, stanza)?);
        }
        Ok(self.stanzas.entry(stanza.clone()).or_default())
    }

    /// Whether one of these repositories keeps a backup that names the chunk, or may have to keep the staged one.
    pub(crate) fn is_needed<B: Base>(
        &mut self,
        base: &B,
        digest: &Digest,
        repos: &[RepoKey],
    ) -> Result<bool, ReadError> {
        let mut rows = base
            .scan(Table::Uses, &key::uses(digest), &key::uses(digest))
            .peekable();
        while let Some(stanza) = next_stanza(&mut rows)? {
            let uses = self.uses_of(base, &stanza, &mut rows)?;
            let known = self.known(base, &stanza)?;
            if uses.iter().any(|of| known.is_alive(of, repos)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// All uses of the chunk.
    pub(crate) fn uses<B: Base>(&mut self, base: &B, digest: &Digest) -> Result<Vec<Use>, ReadError> {
        let mut rows = base
            .scan(Table::Uses, &key::uses(digest), &key::uses(digest))
            .peekable();
        let mut all = Vec::new();
        while let Some(stanza) = next_stanza(&mut rows)? {
            all.extend(self.uses_of(base, &stanza, &mut rows)?);
        }
        Ok(all)
    }

    /// Reads the events of one stanza.
    fn uses_of<B: Base>(
        &mut self,
        base: &B,
        stanza: &StanzaName,
        rows: &mut std::iter::Peekable<Rows<'_>>,
    ) -> Result<Vec<Use>, ReadError> {
        let known = self.known(base, stanza)?;
        let mut uses: Vec<Use> = Vec::new();
        let mut open: Option<Use> = None;
        while let Some((label, event)) = next_of(rows, stanza)? {
            if known.abandoned.contains(&label) {
                continue;
            }
            match (event, open.as_mut()) {
                (UseEvent::Born | UseEvent::Carried, Some(open)) => open.labels.push(label),
                (UseEvent::Born, None) => {
                    open = Some(Use {
                        stanza: stanza.clone(),
                        born: label.clone(),
                        died: None,
                        labels: vec![label],
                    });
                }
                // The staged backup may be given up.
                (UseEvent::Died, Some(_)) if known.staged.as_ref() == Some(&label) => {}
                (UseEvent::Died, Some(_)) => {
                    if let Some(mut ended) = open.take() {
                        ended.died = Some(label.clone());
                        ended.labels.push(label);
                        uses.push(ended);
                    }
                }
                (UseEvent::Died | UseEvent::Carried, None) => {}
            }
        }
        uses.extend(open);
        Ok(uses)
    }

    /// Drops the events of uses that no repository keeps a backup of.
    pub(super) fn prune<B: Base>(
        &mut self,
        step: &mut Step<'_, '_, B>,
        digest: &Digest,
        all: &[RepoKey],
    ) -> Result<(), ReadError> {
        for of in self.uses(step.txn, digest)? {
            if !self.known(step.txn, &of.stanza)?.is_alive(&of, all) {
                for label in &of.labels {
                    drop_event(step, &of.stanza, label, digest);
                }
                rights::uses_are_dropped(step, &of.stanza, digest)?;
            }
        }
        Ok(())
    }

    /// Whether the chunk has any use, or had one.
    pub(crate) fn is_used<B: Base>(base: &B, digest: &Digest) -> Result<bool, ReadError> {
        let row = base.scan(Table::Uses, &key::uses(digest), &key::uses(digest)).next();
        Ok(row.transpose()?.is_some())
    }

    /// Whether a stanza has an open use of the chunk.
    pub(crate) fn is_open<B: Base>(
        &mut self,
        base: &B,
        stanza: &StanzaName,
        digest: &Digest,
    ) -> Result<bool, ReadError> {
        let prefix = key::chunk_uses(digest, stanza);
        let mut rows = base.scan(Table::Uses, &prefix, &prefix).peekable();
        let uses = self.uses_of(base, stanza, &mut rows)?;
        Ok(uses.iter().any(|of| of.died.is_none()))
    }
}

pub(super) fn malformed(table: Table, key: &[u8]) -> ReadError {
    ReadError::MalformedKey {
        table,
        key: hex::encode(key),
    }
}

type Events<'a> = std::iter::Peekable<Rows<'a>>;

fn next_stanza(rows: &mut Events<'_>) -> Result<Option<StanzaName>, ReadError> {
    match rows.peek() {
        None => Ok(None),
        Some(Ok((key, _))) => key::read_chunk_use(key)
            .map(|(stanza, _)| Some(stanza))
            .ok_or_else(|| malformed(Table::Uses, key)),
        Some(Err(_)) => rows.next().transpose().map(|_| None),
    }
}

fn next_of(rows: &mut Events<'_>, stanza: &StanzaName) -> Result<Option<(BackupLabel, UseEvent)>, ReadError> {
    if next_stanza(rows)?.as_ref() != Some(stanza) {
        return Ok(None);
    }
    let Some((key, bytes)) = rows.next().transpose()? else {
        return Ok(None);
    };
    let (_, label) = key::read_chunk_use(&key).ok_or_else(|| malformed(Table::Uses, &key))?;
    Ok(Some((label, value::decode(Table::Uses, &key, &bytes)?)))
}

pub(super) fn put_event<B: Base>(
    step: &mut Step<'_, '_, B>,
    stanza: &StanzaName,
    label: &BackupLabel,
    digest: &Digest,
    event: UseEvent,
) {
    step.txn.put(Table::Uses, key::chunk_use(digest, stanza, label), &event);
    step.txn
        .put(Table::BackupUses, key::backup_use(stanza, label, digest), &event);
}

pub(super) fn drop_event<B: Base>(
    step: &mut Step<'_, '_, B>,
    stanza: &StanzaName,
    label: &BackupLabel,
    digest: &Digest,
) {
    step.txn.delete(Table::Uses, key::chunk_use(digest, stanza, label));
    step.txn
        .delete(Table::BackupUses, key::backup_use(stanza, label, digest));
}

/// Drops all events of a chunk that is condemned.
pub(super) fn drop_all<B: Base>(step: &mut Step<'_, '_, B>, digest: &Digest) -> Result<(), ReadError> {
    let prefix = key::uses(digest);
    let rows: Vec<_> = step.txn.scan(Table::Uses, &prefix, &prefix).collect::<Result<_, _>>()?;
    let mut stanzas = BTreeSet::new();
    for (key, _) in rows {
        let (stanza, label) = key::read_chunk_use(&key).ok_or_else(|| malformed(Table::Uses, &key))?;
        drop_event(step, &stanza, &label, digest);
        stanzas.insert(stanza);
    }
    rights::keep(step, &stanzas, digest)
}

/// Drops the first events of a stanza that is deleted; says how many.
pub(super) fn drop_of_stanza<B: Base>(
    step: &mut Step<'_, '_, B>,
    stanza: &StanzaName,
    limit: usize,
) -> Result<usize, ReadError> {
    let prefix = key::stanza_prefix(stanza);
    let rows = step.txn.scan(Table::BackupUses, &prefix, &prefix).take(limit);
    let rows: Vec<_> = rows.collect::<Result<_, _>>()?;
    for (key, _) in &rows {
        let (label, digest) = key::read_backup_use(key).ok_or_else(|| malformed(Table::BackupUses, key))?;
        drop_event(step, stanza, &label, &digest);
    }
    Ok(rows.len())
}

/// The first stanza of which births may not be known.
pub(crate) fn unlisted<B: Base>(base: &B) -> Result<Option<StanzaName>, ReadError> {
    first_unlisted(base, |record| record.births)
}

/// The first stanza of which manifests are lost.
pub(crate) fn partial<B: Base>(base: &B) -> Result<Option<StanzaName>, ReadError> {
    first_unlisted(base, |record| record.is_partial)
}

fn first_unlisted<B: Base>(base: &B, is_it: impl Fn(&Unlisted) -> bool) -> Result<Option<StanzaName>, ReadError> {
    for row in base.scan(Table::Unlisted, &[], &[]) {
        let (key, bytes) = row?;
        if is_it(&value::decode(Table::Unlisted, &key, &bytes)?) {
            let name = KeyReader::new(&key).rest().and_then(|name| name.parse().ok());
            return name.map(Some).ok_or_else(|| malformed(Table::Unlisted, &key));
        }
    }
    Ok(None)
}

/// Refuses while some birth may not be known.
pub(super) fn need_listed<B: Base>(base: &B) -> Outcome<()> {
    match unlisted(base)? {
        Some(stanza) => Err(Refusal::Expiry(ExpiryRefusal::Unlisted(stanza)).into()),
        None => Ok(()),
    }
}

/// The uses of a stanza are to be listed.
pub(super) fn doubt<B: Base>(step: &mut Step<'_, '_, B>, stanza: &StanzaName, births: bool) -> Result<(), ReadError> {
    let key = key::stanza(stanza);
    let known = unlisted_since(step.txn, stanza)?;
    let record = Unlisted {
        births: births || known.is_some_and(|known| known.births),
        is_partial: known.is_some_and(|known| known.is_partial),
        since: step.index,
    };
    step.txn.put(Table::Unlisted, key, &record);
    Ok(())
}

/// Why, and since when, a stanza is to be listed.
pub(crate) fn unlisted_since<B: Base>(base: &B, stanza: &StanzaName) -> Result<Option<Unlisted>, ReadError> {
    base.record(Table::Unlisted, &key::stanza(stanza))
}

/// The events of a backup that has noted uses and is given up are dropped later; they do not count from here on.
pub(super) fn abandon<B: Base>(step: &mut Step<'_, '_, B>, name: &StanzaName, label: &BackupLabel) {
    step.txn.put(Table::Abandoned, key::backup(name, label), &());
}
