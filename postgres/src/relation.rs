//! The names of relation files.

use std::fmt;

/// The pages of one file of a relation (`RELSEG_SIZE`), 1 GiB: the next page is in the next file.
pub const BLOCKS_PER_SEGMENT: u32 = 131_072;

/// The tablespace `pg_default`: the directory `base`.
pub const DEFAULT_TABLESPACE: u32 = 1663;
/// The tablespace `pg_global`: the directory `global`.
pub const GLOBAL_TABLESPACE: u32 = 1664;

/// A fork of a relation (relpath.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fork {
    /// The rows themselves.
    Main,
    /// The free space map. Not WAL-logged.
    Fsm,
    /// The visibility map.
    Vm,
    /// The initial content of an unlogged relation: after a crash the server copies it over the main fork.
    Init,
}

impl Fork {
    /// Takes PostgreSQL's number of a fork (`ForkNumber`).
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Main, Self::Fsm, Self::Vm, Self::Init]
            .into_iter()
            .find(|fork| fork.number() == number)
    }

    /// PostgreSQL's number of the fork (`ForkNumber`).
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Main => 0,
            Self::Fsm => 1,
            Self::Vm => 2,
            Self::Init => 3,
        }
    }
}

impl fmt::Display for Fork {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Main => "main",
            Self::Fsm => "fsm",
            Self::Vm => "vm",
            Self::Init => "init",
        })
    }
}

/// A relation's file, read from its path: `base/5/16384_vm.2` (relpath.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFile {
    /// The tablespace's OID; [`DEFAULT_TABLESPACE`] for `base`, [`GLOBAL_TABLESPACE`] for `global`.
    pub tablespace: u32,
    /// The database's OID; 0 for shared relations, in `global`.
    pub database: u32,
    /// The relation's file number.
    pub filenode: u32,
    /// The fork.
    pub fork: Fork,
    /// The number of the file within the fork, from 0.
    pub segment_number: u32,
    /// Whether the relation is temporary; no backup needs it.
    pub temporary: bool,
}

impl RelationFile {
    /// Reads a path relative to PGDATA, tablespaces as `pg_tblspc/<oid>/PG_<version>/…`. `None` for a file of no
    /// relation: `pg_filenode.map`, `PG_VERSION`, `pg_control`, `pg_internal.init`.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let mut parts = path.split('/');
        let (tablespace, database) = match parts.next()? {
            "base" => (DEFAULT_TABLESPACE, parse_oid(parts.next()?)?),
            "global" => (GLOBAL_TABLESPACE, 0),
            "pg_tblspc" => {
                let tablespace = parse_oid(parts.next()?)?;
                parts.next().filter(|directory| directory.starts_with("PG_"))?;
                (tablespace, parse_oid(parts.next()?)?)
            }
            _ => return None,
        };
        let name = parts.next()?;
        if parts.next().is_some() {
            return None;
        }
        parse_name(name).map(|(filenode, fork, segment_number, temporary)| Self {
            tablespace,
            database,
            filenode,
            fork,
            segment_number,
            temporary,
        })
    }

    /// The number, within the fork, of the file's first page; each page's [checksum](crate::page::checksum) depends on
    /// its number.
    #[must_use]
    pub fn first_block(&self) -> u32 {
        // `parse` takes no segment number whose blocks would not fit.
        self.segment_number.saturating_mul(BLOCKS_PER_SEGMENT)
    }

    /// Whether the file must always be read whole: changes of its fork are not all logged with their blocks.
    #[must_use]
    pub fn is_always_read_whole(&self) -> bool {
        matches!(self.fork, Fork::Fsm | Fork::Vm)
    }
}

/// Whether all pages of the file at `path`, relative to PGDATA, carry checksums, in a cluster with checksums: relation
/// files do.
#[must_use]
pub fn is_checksummed(path: &str) -> bool {
    RelationFile::parse(path).is_some()
}

/// `[t<backend>_]<filenode>[_fsm|_vm|_init][.<segment>]`.
fn parse_name(name: &str) -> Option<(u32, Fork, u32, bool)> {
    let (stem, segment_number) = match name.split_once('.') {
        Some((stem, number)) => (
            stem,
            parse_oid(number).filter(|number| *number <= u32::MAX / BLOCKS_PER_SEGMENT)?,
        ),
        None => (name, 0),
    };
    let (stem, temporary) = match stem.strip_prefix('t') {
        Some(rest) => {
            let (backend, stem) = rest.split_once('_')?;
            parse_number(backend)?;
            (stem, true)
        }
        None => (stem, false),
    };
    let (filenode, fork) = match stem.split_once('_') {
        None => (stem, Fork::Main),
        Some((filenode, "fsm")) => (filenode, Fork::Fsm),
        Some((filenode, "vm")) => (filenode, Fork::Vm),
        Some((filenode, "init")) => (filenode, Fork::Init),
        Some(_) => return None,
    };
    Some((parse_oid(filenode)?, fork, segment_number, temporary))
}

/// A decimal number without leading zeros or a sign, and not 0.
fn parse_oid(text: &str) -> Option<u32> {
    parse_number(text).filter(|number| *number != 0)
}

/// A decimal number without leading zeros or a sign.
fn parse_number(text: &str) -> Option<u32> {
    let plausible = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plausible.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(path: &str) -> RelationFile {
        RelationFile::parse(path).unwrap_or_else(|| panic!("{path} was not taken"))
    }

    #[test]
    fn paths_are_read() {
        let main = file("base/5/16384");
        assert_eq!((main.tablespace, main.database, main.filenode), (1663, 5, 16384));
        assert_eq!(
            (main.fork, main.segment_number, main.temporary, main.first_block()),
            (Fork::Main, 0, false, 0)
        );

        let second = file("pg_tblspc/16500/PG_15_202209061/5/16384_vm.2");
        assert_eq!(
            (second.tablespace, second.fork, second.first_block()),
            (16500, Fork::Vm, 262_144)
        );
        assert!(second.is_always_read_whole());

        assert_eq!(
            (file("global/1262").database, file("global/1262").tablespace),
            (0, 1664)
        );
        assert_eq!(file("base/5/2703_init").fork, Fork::Init);
        assert!(file("base/5/t3_16390_fsm.1").temporary);
        assert_eq!(file("base/5/16384.32767").first_block(), 4_294_836_224);
    }

    #[test]
    fn other_files_have_no_checksums() {
        for path in [
            "",
            "base/5/PG_VERSION",
            "base/5/pg_filenode.map",
            "base/5/pg_internal.init",
            "base/5/pg_internal.init.1234",
            "global/pg_control",
            "base/16384",
            "base/5/16384.0",
            "base/5/16384.01",
            "base/5/016384",
            "base/5/0",
            "base/5/16384_main",
            "base/5/16384_vm_fsm",
            "base/5/16384.1_vm",
            "base/5/16384.32768",
            "base/5/4294967296",
            "base/5/+1",
            "base/5/t_16384",
            "base/5/t3",
            "base/5/6/16384",
            "base/pgsql_tmp/1",
            "pg_tblspc/16500/16384",
            "pg_tblspc/16500/other/5/16384",
            "pg_xact/0000",
            "/base/5/16384",
        ] {
            assert!(!is_checksummed(path), "{path} was taken");
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_the_parser_panic(path in "(base|global|pg_tblspc|[0-9t_./]|PG_15|fsm|init|vm){0,12}") {
            let _ = RelationFile::parse(&path);
        }
    }
}
