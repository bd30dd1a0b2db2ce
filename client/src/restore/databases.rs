//! `--db-include` and `--db-exclude`: which databases come back as empty files. A pure choice.

use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::DatabaseRecord;
use std::collections::BTreeSet;

/// The first oid that is not PostgreSQL's own (`FirstNormalObjectId`, transam.h).
const FIRST_USER_OID: u32 = 16_384;
/// The databases that initdb makes. The name counts: if `postgres` was dropped and made anew, it has another oid.
const SYSTEM_NAMES: &[&str] = &["postgres", "template0", "template1"];

/// The oids of the databases that are left out. System databases never are.
///
/// # Errors
/// 31 for a database that the backup does not have, for a system database, or for a database that is both included and
/// excluded.
pub fn left_out(
    databases: &[DatabaseRecord],
    include: &[String],
    exclude: &[String],
) -> Result<BTreeSet<u32>, Failure> {
    let find = |option: &str, wanted: &String| {
        let found = databases
            .iter()
            .find(|database| database.name == *wanted)
            .or_else(|| databases.iter().find(|database| database.oid.to_string() == *wanted));
        let Some(found) = found else {
            return Err(refused(format!("{option}: the backup has no database '{wanted}'"))
                .remedy(format!("it has {}", names(databases))));
        };
        if is_system(found) {
            return Err(refused(format!(
                "{option}: '{wanted}' is a system database, which is always restored"
            )));
        }
        Ok(found.oid)
    };
    let included: BTreeSet<u32> = include
        .iter()
        .map(|wanted| find("db-include", wanted))
        .collect::<Result<_, _>>()?;
    let excluded: BTreeSet<u32> = exclude
        .iter()
        .map(|wanted| find("db-exclude", wanted))
        .collect::<Result<_, _>>()?;
    if let Some(both) = included.intersection(&excluded).next() {
        return Err(refused(format!(
            "database {both} is both in db-include and in db-exclude"
        )));
    }
    let is_left_out = |database: &&DatabaseRecord| {
        excluded.contains(&database.oid) || (!included.is_empty() && !included.contains(&database.oid))
    };
    let all = databases.iter().filter(|database| !is_system(database));
    Ok(all.filter(is_left_out).map(|database| database.oid).collect())
}

fn is_system(database: &DatabaseRecord) -> bool {
    database.oid < FIRST_USER_OID || SYSTEM_NAMES.contains(&database.name.as_str())
}

fn names(databases: &[DatabaseRecord]) -> String {
    let names: Vec<&str> = databases.iter().map(|database| database.name.as_str()).collect();
    names.join(", ")
}

fn refused(what: String) -> Failure {
    Failure::new(ExitCode::OptionInvalid, what)
}

/// The oid of the database that a path lies in: `base/5/…`, `pg_tblspc/16385/PG_15_202209061/5/…`.
pub fn database_of(path: &str) -> Option<u32> {
    let mut parts = path.split('/');
    let oid = match parts.next()? {
        "base" => parts.next()?,
        "pg_tblspc" => parts.nth(2)?,
        _ => return None,
    };
    // Only paths in the database's directory count, not the directory itself.
    parts.next()?;
    oid.parse().ok()
}

/// Whether a file of a database that is left out is needed nevertheless: without them the database could not be
/// dropped.
pub fn is_needed_to_drop(path: &str) -> bool {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    // Not pg_filenode.map: with it a session would go on to a zeroed system index and take the whole server down;
    // without it connecting fails for that session alone.
    name == "PG_VERSION"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Vec<DatabaseRecord> {
        [
            (1, "template1"),
            (4, "template0"),
            (5, "postgres"),
            (16_400, "shop"),
            (16_401, "scratch"),
            (16_402, "16400"),
        ]
        .into_iter()
        .map(|(oid, name)| DatabaseRecord {
            oid,
            name: name.to_owned(),
        })
        .collect()
    }

    fn chosen(include: &[&str], exclude: &[&str]) -> Result<Vec<u32>, ExitCode> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        left_out(&cluster(), &owned(include), &owned(exclude))
            .map(|oids| oids.into_iter().collect())
            .map_err(|failure| failure.code)
    }

    #[test]
    fn system_databases_always_come_back() {
        assert_eq!(chosen(&[], &[]), Ok(vec![]));
        assert_eq!(chosen(&["shop"], &[]), Ok(vec![16_401, 16_402]));
        assert_eq!(chosen(&[], &["scratch"]), Ok(vec![16_401]));
        assert_eq!(
            chosen(&["shop", "16401"], &["16400"]),
            Ok(vec![16_402]),
            "a name before an oid"
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (include, exclude) in [
            (&["nothing"][..], &[][..]),
            (&["postgres"], &[]),
            (&[], &["template1"]),
            (&["shop"], &["shop"]),
        ] {
            assert_eq!(
                chosen(include, exclude),
                Err(ExitCode::OptionInvalid),
                "{include:?} {exclude:?}"
            );
        }
    }

    #[test]
    fn paths_name_their_database() {
        assert_eq!(database_of("base/16400/2619"), Some(16_400));
        assert_eq!(
            database_of("pg_tblspc/16385/PG_15_202209061/16400/2619.1"),
            Some(16_400)
        );
        for path in [
            "base/16400",
            "base",
            "global/1262",
            "pg_tblspc/16385/PG_15_202209061/16400",
            "pg_xact/0000",
        ] {
            assert_eq!(database_of(path), None, "{path}");
        }
        assert!(is_needed_to_drop("base/5/PG_VERSION") && !is_needed_to_drop("base/5/112"));
    }
}
