//! Tables that were lost or damaged are made anew: from the snapshot, or from the log alone.

use super::files::free_name;
use super::folder::Folder;
use super::kept::{Kept, link_database};
use super::state_db::StateDb;
use crate::error::{CatalogError, ReadError};
use crate::options::CatalogOptions;
use openraft::LogId;

/// A database that has lost nothing, or else a text that says its loss.
pub(super) fn loss(
    opened: Result<StateDb, CatalogError>,
    purged: Option<LogId<u64>>,
) -> Result<Result<StateDb, String>, CatalogError> {
    let looked_at = opened.and_then(|db| {
        let mut lost = db.find_loss()?;
        let applied = db.raft_state()?.last_applied;
        if lost.is_none() && applied < purged {
            lost = Some(format!(
                "it goes up to entry {}, and the log begins after entry {}",
                entry(applied),
                entry(purged)
            ));
        }
        Ok((db, lost))
    });
    match looked_at {
        Ok((_, Some(lost))) => Ok(Err(lost)),
        Ok((db, None)) => Ok(Ok(db)),
        Err(error) => damage(error).map(Err),
    }
}

/// An entry's position, for a message.
fn entry(id: Option<LogId<u64>>) -> String {
    id.map_or_else(|| "none".to_owned(), |id| id.index.to_string())
}

/// The damage that a database was found to have; an error where it may be well and is out of reach.
fn damage(error: CatalogError) -> Result<String, CatalogError> {
    match error {
        CatalogError::Database { source, .. } | CatalogError::Read(ReadError::Database { source, .. })
            if is_damage(&source) =>
        {
            Ok(source.to_string())
        }
        error => Err(error),
    }
}

/// Whether a database cannot be opened because its files are damaged or missing, rather than out of reach.
fn is_damage(error: &rocksdb::Error) -> bool {
    let is_missing = || error.to_string().contains("No such file or directory");
    match error.kind() {
        rocksdb::ErrorKind::Corruption => true,
        rocksdb::ErrorKind::IOError => is_missing(),
        _ => false,
    }
}

/// Makes the tables anew from the snapshot, or empty where the log is whole.
pub(super) fn rebuild(
    catalog: &Folder,
    options: &CatalogOptions,
    purged: Option<LogId<u64>>,
    why: &str,
) -> Result<(StateDb, String), CatalogError> {
    let folder = catalog.state();
    let lost = |missing: String| CatalogError::LostState {
        path: folder.clone(),
        why: why.to_owned(),
        missing,
    };
    let unreadable = |error: CatalogError| {
        let why = std::error::Error::source(&error).map(|source| format!(": {source}"));
        lost(format!(
            "its snapshot cannot be read: {error}{}",
            why.unwrap_or_default()
        ))
    };
    let (name, path) = free_name(&folder, "db");
    let kept = Kept::find(&folder).map_err(unreadable)?;
    let mut from = "the log alone".to_owned();
    if let Some(Kept { meta, folder, .. }) = &kept {
        if meta.last_log_id < purged {
            return Err(lost("its snapshot is older than its log begins".to_owned()));
        }
        link_database(folder, &path).map_err(unreadable)?;
        let index = meta.last_log_id.map_or(0, |id| id.index);
        from = format!("the snapshot of entry {index} and the log");
    } else if purged.is_some() {
        return Err(lost(
            "it has no snapshot, and its log does not go back to the beginning".to_owned(),
        ));
    }
    let expected = kept.and_then(|kept| kept.meta.last_log_id);
    let looked_at = StateDb::open(catalog, &path, options).and_then(|db| {
        // The snapshot's older tables are the same files as the damaged ones.
        let mut damage = db.find_damage();
        if damage.is_none() {
            damage = db.find_loss()?;
        }
        // A list of files that was torn can be that of an older state, or of an empty one.
        let found = db.raft_state()?.last_applied;
        if damage.is_none() && found != expected {
            damage = Some(format!("it goes up to entry {}, not {}", entry(found), entry(expected)));
        }
        Ok((db, damage))
    });
    let db = match looked_at {
        Ok((db, None)) => db,
        Ok((_, Some(damage))) => return Err(lost(format!("its snapshot is damaged: {damage}"))),
        Err(error) => return Err(lost(format!("its snapshot is damaged: {}", damage(error)?))),
    };
    tracing::error!(
        why,
        from,
        "the catalog's tables on this node's disk were damaged and have been made anew"
    );
    Ok((db, name))
}
