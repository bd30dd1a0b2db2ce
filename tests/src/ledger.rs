//! Rows with known times of commit.

use crate::postgres::Postgres;

/// A table to which one writer adds rows, one transaction each. So the row with number `n` is committed after all lower
/// numbers, in time, in transaction number and in the WAL.
#[derive(Debug, Default)]
pub struct Ledger {
    rows: Vec<LedgerRow>,
}

/// A committed row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    /// Its number, from 1 without gaps.
    pub number: u64,
    /// The transaction that wrote it.
    pub transaction: String,
    /// When it was committed, in microseconds since 1970, as the WAL has it.
    pub committed: i64,
    /// The end of the WAL at a moment after its commit and before the next row's transaction.
    pub position: String,
}

impl Ledger {
    /// Makes the table.
    #[must_use]
    pub fn create(postgres: &Postgres) -> Self {
        postgres.query("create table ledger (number bigint primary key)");
        Self::default()
    }

    /// Adds a row and returns it when it is committed.
    pub fn add(&mut self, postgres: &Postgres) -> LedgerRow {
        let number = u64::try_from(self.rows.len()).unwrap_or_default() + 1;
        let answer = postgres.script(&format!(
            "insert into ledger values ({number}) returning pg_current_xact_id() as transaction \\gset\n\
             select :'transaction', (extract(epoch from pg_xact_commit_timestamp(:'transaction'::xid)) * 1000000)::bigint,\n\
             pg_current_wal_insert_lsn();\n"
        ));
        let row = match answer.split('|').collect::<Vec<_>>().as_slice() {
            [transaction, committed, position] => LedgerRow {
                number,
                transaction: (*transaction).to_owned(),
                committed: committed.parse().expect("a number of microseconds"),
                position: (*position).to_owned(),
            },
            _ => panic!("unexpected answer {answer:?}"),
        };
        self.rows.push(row.clone());
        row
    }

    /// Adds several rows, and returns the last.
    pub fn add_some(&mut self, postgres: &Postgres, count: u32) -> LedgerRow {
        (1..count).for_each(|_| {
            self.add(postgres);
        });
        self.add(postgres)
    }

    /// All rows so far, in the order of their commits.
    #[must_use]
    pub fn rows(&self) -> &[LedgerRow] {
        &self.rows
    }

    /// A moment after the commit of `row` and before the next one's, as PostgreSQL writes a time.
    ///
    /// # Panics
    /// If no row was committed after it.
    #[must_use]
    pub fn moment_after(&self, postgres: &Postgres, row: &LedgerRow) -> String {
        let next = self
            .rows
            .iter()
            .find(|other| other.number == row.number + 1)
            .expect("a later row");
        let middle = i64::midpoint(row.committed, next.committed);
        postgres.query(&format!(
            "set time zone 'UTC'; select timestamptz 'epoch' + {middle} * interval '1 microsecond'"
        ))
    }

    /// Asserts that a cluster has exactly the rows up to `last`: each row committed until then, and none after.
    pub fn assert_ends_with(postgres: &Postgres, last: u64, what: &str) {
        let found = postgres.query("select count(*), coalesce(min(number), 0), coalesce(max(number), 0) from ledger");
        assert_eq!(
            found,
            format!("{last}|{}|{last}", last.min(1)),
            "count, first and last row of the ledger after a restore to {what}"
        );
    }
}
