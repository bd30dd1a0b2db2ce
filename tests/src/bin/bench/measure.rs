//! Figures, and the table of them.

use std::fmt::Write;
use std::iter::Sum;
use std::time::Duration;

use pgmesh_tests::Outcome;

/// What an operation took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Wall time.
    pub wall: Duration,
    /// User and system CPU time, of servers too.
    pub cpu: Duration,
    /// The most memory held, in bytes, of servers too.
    pub memory: u64,
    /// What it added to the repository, in bytes, where it is known.
    pub stored: Option<u64>,
}

impl Figures {
    /// What a program used by itself.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Self {
        Self {
            wall: outcome.elapsed,
            cpu: outcome.cpu,
            memory: outcome.peak_memory,
            stored: None,
        }
    }

    /// The same, with the bytes that were stored.
    #[must_use]
    pub fn storing(self, bytes: u64) -> Self {
        Self {
            stored: Some(bytes),
            ..self
        }
    }
}

impl Sum for Figures {
    /// One after the other: times add up, memory does not.
    fn sum<I: Iterator<Item = Self>>(figures: I) -> Self {
        figures.fold(Self::default(), |sum, one| Self {
            wall: sum.wall + one.wall,
            cpu: sum.cpu + one.cpu,
            memory: sum.memory.max(one.memory),
            stored: None,
        })
    }
}

/// The figures of all operations, by contestant.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<(&'static str, &'static str, Figures)>,
}

impl Table {
    /// Adds the figures of an operation.
    pub fn add(&mut self, operation: &'static str, contestant: &'static str, figures: Figures) {
        self.rows.push((operation, contestant, figures));
    }

    /// Prints each operation's figures side by side: those of the first contestant, of the second, and their ratio.
    pub fn print(&self) {
        println!(
            "{:14} {:12} {:>12} {:>12} {:>7}",
            "", "", "pgmesh", "pgbackrest", "ratio"
        );
        let (Some((_, first, _)), Some((_, second, _))) = (self.rows.first(), self.rows.last()) else {
            return;
        };
        for (operation, _, mine) in self.rows.iter().filter(|(_, contestant, _)| contestant == first) {
            let theirs = self
                .rows
                .iter()
                .find(|(name, contestant, _)| name == operation && contestant == second);
            let Some((_, _, theirs)) = theirs else { continue };
            print!("{}", lines(operation, *mine, *theirs));
        }
        println!(
            "\na ratio below 1 is better for pgmesh; memory is that of client and node, and of the largest process of pgbackrest"
        );
    }
}

/// The four lines of one operation.
#[allow(clippy::cast_precision_loss, reason = "figures for people, of three digits")]
fn lines(operation: &str, mine: Figures, theirs: Figures) -> String {
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let rows = [
        ("wall s", mine.wall.as_secs_f64(), theirs.wall.as_secs_f64()),
        ("CPU s", mine.cpu.as_secs_f64(), theirs.cpu.as_secs_f64()),
        ("memory MiB", mebibytes(mine.memory), mebibytes(theirs.memory)),
        (
            "stored MiB",
            mebibytes(mine.stored.unwrap_or(0)),
            mebibytes(theirs.stored.unwrap_or(0)),
        ),
    ];
    let mut text = String::new();
    let mut label = operation;
    for (what, mine, theirs) in rows {
        if theirs > 0.0 {
            writeln!(
                text,
                "{label:14} {what:12} {mine:12.2} {theirs:12.2} {:7.2}",
                mine / theirs
            )
            .expect("writing to a string");
            label = "";
        }
    }
    text
}
