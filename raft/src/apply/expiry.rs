//! What one repository keeps no more: backups, then WAL, then the chunks that nothing needs there.
//!
//! ```text
//! ExpireBackups ── Release (manifest) ── deleted there ── Release (chunks) ── EndRelease
//!     the backup is not listed there any more                                   │
//!                                        kept by no repository: its record goes ┘
//! ```
//!
//! A debt of what has expired vanishes. A replica that is the only good one stays while a repository that keeps the
//! object owes it: it is the source of that copy.

use std::collections::BTreeSet;

use pgmesh_postgres::{SegmentName, WalFileName};
use pgmesh_storage::{BackupLabel, BackupType, RepoKey, StanzaName};

use super::objects::{Found, Keepers, need_repository, settle};
use super::release::{drop_segment, withdraw};
use super::repository_checks::changing;
use super::{Base, Outcome, Step, backup, stanza};
use crate::command::{ExpireBackups, ExpireWal, HoldBackup};
use crate::error::ReadError;
use crate::key;
use crate::limits;
use crate::model::{BackupRecord, ChangeKind, Hold, ObjectRef, SegmentRecord};
use crate::refusal::{ExpiryRefusal, Refusal};
use crate::reply::Reply;
use crate::table::Table;

/// The backups of a stanza, by label.
fn backups<B: Base>(step: &Step<'_, '_, B>, name: &StanzaName) -> Result<Vec<(BackupLabel, BackupRecord)>, ReadError> {
    let prefix = key::stanza_prefix(name);
    let rows = step.txn.records::<BackupRecord>(Table::Backups, &prefix);
    rows.map(|row| {
        let (key, record) = row?;
        let (_, label) = key::read_backup(&key).ok_or_else(|| ReadError::MalformedKey {
            table: Table::Backups,
            key: hex::encode(&key),
        })?;
        Ok((label, record))
    })
    .collect()
}

pub(super) fn expire_backups<B: Base>(step: &mut Step<'_, '_, B>, expire: ExpireBackups) -> Outcome {
    let ExpireBackups {
        stanza: name,
        repo,
        labels,
        why,
    } = expire;
    let owner = stanza::need(step, &name)?;
    need_staying(step, repo)?;
    owner.refuse_staged(&name)?;
    let all = backups(step, &name)?;
    let asked: BTreeSet<BackupLabel> = labels.into_iter().collect();
    let (going, staying): (Vec<_>, Vec<_>) = all
        .iter()
        .filter(|(_, record)| record.is_kept_in(repo))
        .partition(|(label, _)| asked.contains(label));
    refuse_held(&all, &going, step.at)?;
    refuse_last_full(repo, &going, &staying)?;
    let going: Vec<(BackupLabel, BackupRecord)> = going.into_iter().cloned().collect();
    let labels: Vec<BackupLabel> = going.iter().map(|(label, _)| label.clone()).collect();
    for (label, mut record) in going {
        record.expired.insert(repo);
        let object = ObjectRef::Manifest {
            stanza: name.clone(),
            label: label.clone(),
        };
        settle(step, repo, &object)?;
        step.txn.put(Table::Backups, key::backup(&name, &label), &record);
        step.txn
            .put(Table::Releases, key::release(repo, &name, &label), &step.index);
    }
    if !labels.is_empty() {
        let names: Vec<String> = labels.iter().map(ToString::to_string).collect();
        let what = format!("stanza {name}: {} expired in repo{repo}: {why}", names.join(", "));
        step.audit(limits::shortened(what, limits::REASON));
    }
    Ok(Reply::Expired { labels })
}

/// A repository that is being removed keeps what it has until then.
fn need_staying<B: Base>(step: &Step<'_, '_, B>, repo: RepoKey) -> Outcome<()> {
    match need_repository(step, repo)?.change {
        Some(change) if change.kind == ChangeKind::Retiring => Err(changing(repo, change.kind).into()),
        _ => Ok(()),
    }
}

/// A backup that is held stays, and with it the backups that it depends on.
fn refuse_held(
    all: &[(BackupLabel, BackupRecord)],
    going: &[&(BackupLabel, BackupRecord)],
    now: i64,
) -> Result<(), Refusal> {
    for (held, record) in all {
        let Some(hold) = record.hold.as_ref().filter(|hold| hold.holds(now)) else {
            continue;
        };
        let needed = needed_by(all, held);
        if let Some((label, _)) = going.iter().find(|(label, _)| needed.contains(label)) {
            return Err(Refusal::Expiry(ExpiryRefusal::Held {
                label: label.clone(),
                held: held.clone(),
                by: hold.by.clone(),
            }));
        }
    }
    Ok(())
}

/// A backup, and the backups that it depends on by pgBackRest's rules.
fn needed_by(all: &[(BackupLabel, BackupRecord)], label: &BackupLabel) -> BTreeSet<BackupLabel> {
    let mut needed = BTreeSet::from([label.clone()]);
    let mut next = Some(label.clone());
    while let Some(label) = next {
        let found = all.binary_search_by(|(known, _)| known.cmp(&label)).ok();
        let prior = found
            .and_then(|at| all.get(at))
            .and_then(|(_, record)| record.prior.clone());
        next = prior.filter(|prior| needed.insert(prior.clone()));
    }
    needed
}

/// The newest full backup of a repository goes only if it keeps another one of the same database.
fn refuse_last_full(
    repo: RepoKey,
    going: &[&(BackupLabel, BackupRecord)],
    staying: &[&(BackupLabel, BackupRecord)],
) -> Result<(), Refusal> {
    let is_full = |(label, _): &&&(BackupLabel, BackupRecord)| label.backup_type() == BackupType::Full;
    let is_there = |record: &BackupRecord| record.manifest.replicas.iter().any(|replica| replica.repo == repo);
    let newest = |of: &[&(BackupLabel, BackupRecord)]| of.iter().filter(is_full).map(|(label, _)| label.clone()).max();
    let Some((label, record)) = going.iter().filter(is_full).max_by(|(a, _), (b, _)| a.cmp(b)) else {
        return Ok(());
    };
    let is_newest = newest(staying).is_none_or(|other| other < *label);
    let mut others = staying.iter().filter(is_full);
    // A full backup that the repository still owes is no reason to expire one that it has.
    let is_any_there = going.iter().filter(is_full).any(|(_, going)| is_there(going));
    let is_enough = others.any(|(_, other)| {
        let is_same = !is_newest || other.db == record.db;
        is_same && (is_there(other) || !is_any_there)
    });
    if is_enough {
        return Ok(());
    }
    Err(Refusal::Expiry(ExpiryRefusal::LastFull {
        repo,
        label: label.clone(),
    }))
}

pub(super) fn hold<B: Base>(step: &mut Step<'_, '_, B>, given: HoldBackup) -> Outcome {
    let HoldBackup {
        stanza: name,
        label,
        hold,
        is_administrator,
    } = given;
    let all = backups(step, &name)?;
    let mut record = backup::need_backup(step, &name, &label)?;
    let end = |hold: &Hold| hold.until.unwrap_or(i64::MAX);
    if let Some(known) = record.hold.as_ref().filter(|known| known.holds(step.at))
        && !is_administrator
        && hold.as_ref().is_none_or(|hold| end(hold) < end(known))
    {
        let by = known.by.clone();
        return Err(Refusal::Expiry(ExpiryRefusal::HoldStays { label, by }).into());
    }
    let what = match &hold {
        Some(hold) if hold.why.is_empty() => format!("backup {label} of stanza {name} is held"),
        Some(hold) => format!("backup {label} of stanza {name} is held: {}", hold.why),
        None => format!("backup {label} of stanza {name} is released"),
    };
    record.hold = hold;
    step.audit(limits::shortened(what, limits::REASON));
    step.txn.put(Table::Backups, key::backup(&name, &label), &record);
    Ok(Reply::Held {
        labels: needed_by(&all, &label).into_iter().collect(),
    })
}

pub(super) fn expire_wal<B: Base>(step: &mut Step<'_, '_, B>, expire: &ExpireWal) -> Outcome {
    let ExpireWal {
        stanza: name,
        repo,
        db,
        files,
    } = expire;
    let mut owner = stanza::need(step, name)?;
    need_staying(step, *repo)?;
    let Some(database) = owner.database(*db).cloned() else {
        return Err(Refusal::UnknownStanza(name.clone()).into());
    };
    let all = backups(step, name)?;
    let of_database = || all.iter().map(|(_, record)| record).filter(|record| record.db == *db);
    let kept_here = of_database().filter(|record| record.is_kept_in(*repo));
    let needed: Vec<_> = kept_here.map(|record| (record.wal_start, record.wal_stop)).collect();
    let keepers = Keepers::read(step)?;
    // A recovery asks for the histories from its backup's timeline on; the answer that one has expired would end it.
    let is_kept = |record: &&BackupRecord| keepers.all.iter().any(|repo| record.is_kept_in(*repo));
    let lowest = of_database().filter(is_kept).map(|record| record.timeline).min();
    let is_probed = |file: WalFileName| match file {
        WalFileName::History(timeline) => lowest.is_some_and(|lowest| lowest <= timeline),
        _ => false,
    };
    let running = owner.backup.as_ref().map(|running| running.session.0);
    let (mut count, mut waiting, mut is_any_gone) = (0_u32, 0_u32, false);
    for file in files {
        let is_needed = |segment: SegmentName| needed.iter().any(|(start, stop)| *start <= segment && segment <= *stop);
        if file.segment().is_some_and(is_needed) || is_probed(*file) {
            continue;
        }
        let row = key::segment(name, *db, &file.to_string());
        let Some(mut record) = step.txn.record::<SegmentRecord>(Table::Segments, &row)? else {
            continue;
        };
        let object = ObjectRef::Segment {
            stanza: name.clone(),
            db: *db,
            file: *file,
        };
        let found = Found {
            object: record.object.clone(),
            archive: Some(database.archive_id()),
        };
        // A running backup needs the WAL since it began.
        if running.is_some_and(|began| record.pushed >= began) {
            continue;
        }
        if keepers.need_source(&record.object, &record.expired, *repo) {
            waiting += 1;
            continue;
        }
        withdraw(step, &object, &found, *repo, &mut record.object.replicas)?;
        count += u32::from(record.expired.insert(*repo));
        if keepers.all.iter().all(|repo| record.expired.contains(repo)) {
            drop_segment(step, &row, &object, record)?;
            // A push of a segment looks at the watermark.
            is_any_gone |= !matches!(file, WalFileName::Segment(_) | WalFileName::Map(_));
        } else {
            step.txn.put(Table::Segments, row, &record);
        }
    }
    if is_any_gone {
        // A push that began before may have found a file that is gone now.
        owner.since = step.index;
        stanza::put(step, name, &owner);
    }
    Ok(Reply::ExpiredWal { files: count, waiting })
}
