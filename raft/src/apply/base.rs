//! What `apply` reads from.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

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

    /// The rows whose keys begin with `prefix`, the last one first.
    fn scan_back(&self, table: Table, prefix: &[u8]) -> Rows<'_> {
        let rows: Vec<_> = self.scan(table, prefix, prefix).collect();
        Box::new(rows.into_iter().rev())
    }

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
}
