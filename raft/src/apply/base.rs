//! The tables that `apply` reads.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;

use crate::error::ReadError;
use crate::table::Table;
use crate::value;

/// A row as stored: key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Rows in the order of their keys.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<Row, ReadError>> + Send + 'a>;

/// Tables that can be read: the state database, a transaction over it, or a map in tests.
pub trait Base: Send + Sync {
    /// The value at `key`.
    ///
    /// # Errors
    /// The database's.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError>;

    /// The values at `keys`, in their order.
    ///
    /// # Errors
    /// The database's.
    fn get_many(&self, table: Table, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        keys.iter().map(|key| self.get(table, key)).collect()
    }

    /// The rows whose keys begin with `prefix`, from the first key that is not less than `from`. `from` must be a key
    /// with this prefix or the prefix itself.
    fn scan(&self, table: Table, from: &[u8], prefix: &[u8]) -> Rows<'_>;

    /// The rows whose keys begin with `prefix`, the last one first. Only the rows that are taken cost, as with
    /// [`Self::scan`].
    fn scan_back(&self, table: Table, prefix: &[u8]) -> Rows<'_>;

    /// The record at `key`.
    ///
    /// # Errors
    /// The database's, and values that cannot be decoded.
    fn record<T: DeserializeOwned>(&self, table: Table, key: &[u8]) -> Result<Option<T>, ReadError>
    where
        Self: Sized,
    {
        self.get(table, key)?
            .map(|bytes| value::decode(table, key, &bytes))
            .transpose()
    }
}

/// Tables that others write to, and that can be looked at as they are at one moment.
pub trait Snapshots: Base {
    /// The tables as they were at that moment.
    type Snapshot<'a>: Base
    where
        Self: 'a;

    /// The tables as they are now.
    fn snapshot(&self) -> Self::Snapshot<'_>;
}

impl<B: Snapshots> Snapshots for Arc<B> {
    type Snapshot<'a>
        = B::Snapshot<'a>
    where
        Self: 'a;

    fn snapshot(&self) -> Self::Snapshot<'_> {
        self.as_ref().snapshot()
    }
}

impl<B: Base> Base for Arc<B> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.as_ref().get(table, key)
    }

    fn get_many(&self, table: Table, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        self.as_ref().get_many(table, keys)
    }

    fn scan(&self, table: Table, from: &[u8], prefix: &[u8]) -> Rows<'_> {
        self.as_ref().scan(table, from, prefix)
    }

    fn scan_back(&self, table: Table, prefix: &[u8]) -> Rows<'_> {
        self.as_ref().scan_back(table, prefix)
    }
}

impl<B: Base> Base for &B {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        (*self).get(table, key)
    }

    fn get_many(&self, table: Table, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        (*self).get_many(table, keys)
    }

    fn scan(&self, table: Table, from: &[u8], prefix: &[u8]) -> Rows<'_> {
        (*self).scan(table, from, prefix)
    }

    fn scan_back(&self, table: Table, prefix: &[u8]) -> Rows<'_> {
        (*self).scan_back(table, prefix)
    }
}

/// Tables in memory: the model that property tests run `apply` on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryBase {
    rows: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
}

impl MemoryBase {
    /// Carries out a transaction's writes.
    pub fn write(&mut self, writes: super::Writes) {
        for ((table, key), value) in writes {
            match value {
                Some(value) => self.rows.insert((table, key), value),
                None => self.rows.remove(&(table, key)),
            };
        }
    }
}

impl Base for MemoryBase {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.rows.get(&(table, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], prefix: &[u8]) -> Rows<'_> {
        let prefix = prefix.to_vec();
        let start = Bound::Included((table, from.to_vec()));
        Box::new(
            self.rows
                .range((start, Bound::Unbounded))
                .take_while(move |((row_table, key), _)| *row_table == table && key.starts_with(&prefix))
                .map(|((_, key), value)| Ok((key.clone(), value.clone()))),
        )
    }

    fn scan_back(&self, table: Table, prefix: &[u8]) -> Rows<'_> {
        let rows = self.rows.range(rows_with(table, prefix)).rev();
        Box::new(rows.map(|((_, key), value)| Ok((key.clone(), value.clone()))))
    }
}

/// An end of a range of rows.
type End = Bound<(Table, Vec<u8>)>;

/// Where the rows of a table whose keys begin with `prefix` begin and end.
fn rows_with(table: Table, prefix: &[u8]) -> (End, End) {
    let start = Bound::Included((table, prefix.to_vec()));
    let mut behind = prefix.to_vec();
    while let Some(last) = behind.pop() {
        if let Some(next) = last.checked_add(1) {
            behind.push(next);
            return (start, Bound::Excluded((table, behind)));
        }
    }
    let following = Table::ALL.into_iter().filter(|other| *other > table).min();
    let end = following.map_or(Bound::Unbounded, |following| Bound::Excluded((following, Vec::new())));
    (start, end)
}

/// Counts the rows that are read of the tables below: by this count a test tells a command's cost.
#[derive(Debug, Default)]
pub struct Counting<B> {
    base: B,
    rows: AtomicU64,
}

impl<B> Counting<B> {
    /// Nothing was read yet.
    pub fn new(base: B) -> Self {
        let rows = AtomicU64::new(0);
        Self { base, rows }
    }

    /// So many rows were read since the last call.
    pub fn taken(&self) -> u64 {
        self.rows.swap(0, Ordering::Relaxed)
    }

    fn count(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    fn counted<'a>(&'a self, rows: Rows<'a>) -> Rows<'a> {
        let read = &self.rows;
        Box::new(rows.inspect(move |_| {
            read.fetch_add(1, Ordering::Relaxed);
        }))
    }
}

impl<B: Base> Base for Counting<B> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.count(1);
        self.base.get(table, key)
    }

    fn get_many(&self, table: Table, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        self.count(keys.len());
        self.base.get_many(table, keys)
    }

    fn scan(&self, table: Table, from: &[u8], prefix: &[u8]) -> Rows<'_> {
        self.counted(self.base.scan(table, from, prefix))
    }

    fn scan_back(&self, table: Table, prefix: &[u8]) -> Rows<'_> {
        self.counted(self.base.scan_back(table, prefix))
    }
}
