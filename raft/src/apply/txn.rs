//! A transaction: the writes of commands, over a base that does not change.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::base::{Base, Row, Rows};
use crate::error::ReadError;
use crate::refusal::Refusal;
use crate::table::Table;
use crate::{key, limits, value};

/// The writes of a transaction: a value, or a deletion.
pub type Writes = BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>;

/// Reads through to the base where it has written nothing. Writes of the current command are kept apart until it is
/// accepted, so that a refused command leaves nothing behind. Writes of the current entry are kept apart until it is
/// sealed, so that an entry that cannot be applied leaves nothing behind either.
#[derive(Debug)]
pub struct Txn<'a, B> {
    base: &'a B,
    sealed: Writes,
    accepted: Writes,
    pending: Writes,
    pending_bytes: usize,
    excess: Option<Refusal>,
}

impl<'a, B: Base> Txn<'a, B> {
    /// An empty transaction over `base`.
    pub fn new(base: &'a B) -> Self {
        Self {
            base,
            sealed: Writes::new(),
            accepted: Writes::new(),
            pending: Writes::new(),
            pending_bytes: 0,
            excess: None,
        }
    }

    /// Makes the current command's writes part of the entry.
    pub fn accept(&mut self) {
        debug_assert!(self.excess.is_none(), "what was too large is refused");
        self.accepted.extend(std::mem::take(&mut self.pending));
        self.pending_bytes = 0;
    }

    /// Drops the current command's writes.
    pub fn refuse(&mut self) {
        self.pending.clear();
        self.pending_bytes = 0;
        self.excess = None;
    }

    /// Makes the writes of the entry's commands part of the transaction.
    pub fn seal(&mut self) {
        self.sealed.extend(std::mem::take(&mut self.accepted));
    }

    /// The writes of the entry's commands since the last [`Self::seal`].
    pub(crate) fn entry(&self) -> &Writes {
        &self.accepted
    }

    /// Drops the writes of the entry's commands since the last [`Self::seal`].
    pub fn undo(&mut self) {
        self.refuse();
        self.accepted.clear();
    }

    /// The writes of all accepted commands.
    #[must_use]
    pub fn into_writes(mut self) -> Writes {
        self.seal();
        self.sealed
    }

    /// Why the current command must be refused: it would have written more than can be read back, or more than a
    /// command may.
    #[must_use]
    pub fn excess(&self) -> Option<&Refusal> {
        self.excess.as_ref()
    }

    /// Writes a record. If the record is too large, it is not written; [`Self::excess`] says so.
    pub fn put<T: Serialize>(&mut self, table: Table, key: Vec<u8>, record: &T) {
        let bytes = value::encode(record);
        let sum = self.pending_bytes.saturating_add(bytes.len());
        let (record, size, limit) = if bytes.len() > limits::RECORD {
            (key::describe(table, &key), bytes.len(), limits::RECORD)
        } else if sum > limits::COMMAND_RECORDS {
            ("all that the command changes".to_owned(), sum, limits::COMMAND_RECORDS)
        } else {
            self.pending_bytes = sum;
            self.pending.insert((table, key), Some(bytes));
            return;
        };
        self.excess.get_or_insert(Refusal::RecordTooLarge {
            record,
            size: size as u64,
            limit: limit as u64,
        });
    }

    /// Deletes a row, which need not exist.
    pub fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.pending.insert((table, key), None);
    }

    /// The records whose keys begin with `prefix`, decoded, in the order of their keys.
    ///
    /// # Errors
    /// The base's, and values that cannot be decoded.
    pub fn records<T: DeserializeOwned>(
        &self,
        table: Table,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(Vec<u8>, T), ReadError>> {
        self.scan(table, prefix, prefix).map(move |row| {
            let (key, bytes) = row?;
            let record = value::decode(table, &key, &bytes)?;
            Ok((key, record))
        })
    }

    fn overlay(&self, table: Table, from: &[u8], prefix: &[u8]) -> BTreeMap<&[u8], Option<&[u8]>> {
        let mut overlay = BTreeMap::new();
        for writes in [&self.sealed, &self.accepted, &self.pending] {
            let range = writes
                .range((Bound::Included((table, from.to_vec())), Bound::Unbounded))
                .take_while(|((row_table, key), _)| *row_table == table && key.starts_with(prefix));
            for ((_, key), value) in range {
                overlay.insert(key.as_slice(), value.as_deref());
            }
        }
        overlay
    }
}

impl<B: Base> Base for Txn<'_, B> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let row = (table, key.to_vec());
        let layers = [&self.pending, &self.accepted, &self.sealed];
        match layers.into_iter().find_map(|writes| writes.get(&row)) {
            Some(written) => Ok(written.clone()),
            None => self.base.get(table, key),
        }
    }

    fn scan(&self, table: Table, from: &[u8], prefix: &[u8]) -> Rows<'_> {
        let overlay = self.overlay(table, from, prefix);
        let below = self.base.scan(table, from, prefix);
        if overlay.is_empty() {
            return below;
        }
        Box::new(Merge {
            below: below.peekable(),
            above: overlay.into_iter().peekable(),
            is_back: false,
        })
    }

    fn scan_back(&self, table: Table, prefix: &[u8]) -> Rows<'_> {
        let overlay = self.overlay(table, prefix, prefix);
        let below = self.base.scan_back(table, prefix);
        if overlay.is_empty() {
            return below;
        }
        Box::new(Merge {
            below: below.peekable(),
            above: overlay.into_iter().rev().peekable(),
            is_back: true,
        })
    }
}

/// Two ordered streams as one; where both have a key, the upper one counts.
struct Merge<'a, A: Iterator<Item = (&'a [u8], Option<&'a [u8]>)>> {
    below: std::iter::Peekable<Rows<'a>>,
    above: std::iter::Peekable<A>,
    /// Whether both have their last key first.
    is_back: bool,
}

impl<'a, A: Iterator<Item = (&'a [u8], Option<&'a [u8]>)>> Iterator for Merge<'a, A> {
    type Item = Result<Row, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let order = match (self.below.peek(), self.above.peek()) {
                (Some(Err(_)), _) | (Some(_), None) => return self.below.next(),
                (Some(Ok((below, _))), Some((above, _))) if self.is_back => above.cmp(&below.as_slice()),
                (Some(Ok((below, _))), Some((above, _))) => below.as_slice().cmp(above),
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => return None,
            };
            match order {
                std::cmp::Ordering::Less => return self.below.next(),
                std::cmp::Ordering::Equal => drop(self.below.next()),
                std::cmp::Ordering::Greater => {}
            }
            if let Some((key, Some(value))) = self.above.next() {
                return Some(Ok((key.to_vec(), value.to_vec())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::base::MemoryBase;
    use super::*;

    fn rows(base: &impl Base, from: &[u8], prefix: &[u8]) -> Vec<Row> {
        base.scan(Table::Chunks, from, prefix)
            .collect::<Result<_, _>>()
            .unwrap()
    }

    proptest! {
        /// Reading through a transaction is the same as reading after it was written.
        #[test]
        fn a_transaction_reads_what_it_will_have_written(
            steps in proptest::collection::vec((0_u8..3, 0_u8..20, any::<bool>(), 0_u8..3), 0..60),
            from in 0_u8..20,
        ) {
            let mut base = MemoryBase::default();
            let mut before = Txn::new(&base);
            for (layer, key, is_put, _) in &steps {
                if *layer == 0 && *is_put {
                    before.put(Table::Chunks, vec![1, *key], key);
                }
            }
            before.accept();
            let writes = before.into_writes();
            base.write(writes);

            let mut txn = Txn::new(&base);
            for (layer, key, is_put, accepted) in steps {
                if layer == 0 {
                    continue;
                }
                if is_put {
                    txn.put(Table::Chunks, vec![1, key], &(layer, key));
                } else {
                    txn.delete(Table::Chunks, vec![1, key]);
                }
                if accepted > 0 {
                    txn.accept();
                }
                if accepted > 1 {
                    txn.seal();
                }
            }
            let seen = rows(&txn, &[1, from], &[1]);
            let back: Vec<Row> = txn.scan_back(Table::Chunks, &[1]).collect::<Result<_, _>>().unwrap();
            let got: Vec<_> = (0..20).map(|key| txn.get(Table::Chunks, &[1, key]).unwrap()).collect();
            txn.accept();
            let writes = txn.into_writes();
            let mut after = base.clone();
            after.write(writes);
            prop_assert_eq!(seen, rows(&after, &[1, from], &[1]));
            let mut all = rows(&after, &[1], &[1]);
            all.reverse();
            prop_assert_eq!(back, all);
            for (key, value) in (0..20).zip(got) {
                prop_assert_eq!(value, after.get(Table::Chunks, &[1, key]).unwrap());
            }
        }
    }

    #[test]
    fn a_refused_command_leaves_nothing() {
        let base = MemoryBase::default();
        let mut txn = Txn::new(&base);
        txn.put(Table::Mesh, b"a".to_vec(), &1_u8);
        txn.accept();
        txn.put(Table::Mesh, b"a".to_vec(), &2_u8);
        txn.refuse();
        assert_eq!(txn.record::<u8>(Table::Mesh, b"a").unwrap(), Some(1));
    }

    #[test]
    fn an_entry_that_is_undone_leaves_nothing() {
        let base = MemoryBase::default();
        let mut txn = Txn::new(&base);
        let value = |txn: &Txn<'_, MemoryBase>| txn.record::<u8>(Table::Mesh, b"a").unwrap();
        txn.put(Table::Mesh, b"a".to_vec(), &1_u8);
        txn.accept();
        txn.seal();
        txn.put(Table::Mesh, b"a".to_vec(), &2_u8);
        txn.accept();
        txn.put(Table::Mesh, b"a".to_vec(), &3_u8);
        assert_eq!(value(&txn), Some(3));
        txn.undo();
        assert_eq!(value(&txn), Some(1));
        assert_eq!(txn.into_writes().len(), 1);
    }

    #[test]
    fn what_is_too_large_is_measured_and_not_written() {
        let base = MemoryBase::default();
        let mut txn = Txn::new(&base);
        let text = "x".repeat(limits::RECORD);
        txn.put(Table::Mesh, b"a".to_vec(), &text);
        assert!(matches!(txn.excess(), Some(Refusal::RecordTooLarge { size, .. }) if *size > limits::RECORD as u64));
        assert_eq!(txn.get(Table::Mesh, b"a").unwrap(), None);
        txn.refuse();
        let text = "x".repeat(limits::RECORD - 100);
        for number in 0_u8..=64 {
            txn.put(Table::Mesh, vec![number], &text);
        }
        assert!(matches!(txn.excess(), Some(Refusal::RecordTooLarge { record, .. }) if record.starts_with("all ")));
        txn.refuse();
        assert!(txn.excess().is_none());
    }
}
