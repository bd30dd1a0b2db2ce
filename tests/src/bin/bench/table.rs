//! The table of all figures.

use std::fmt::Write;

use crate::measure::Figures;

/// The figures of all rounds: of pgmesh, and of pgbackrest in the same round.
#[derive(Debug, Default)]
pub struct Table {
    /// In the order in which the labels came first.
    rows: Vec<(String, Vec<[Figures; 2]>)>,
}

impl Table {
    /// Adds the figures of one round under a label: the number of workers and an operation.
    pub fn add(&mut self, label: String, pair: [Figures; 2]) {
        match self.rows.iter_mut().find(|(known, _)| *known == label) {
            Some((_, rounds)) => rounds.push(pair),
            None => self.rows.push((label, vec![pair])),
        }
    }

    /// Prints each operation's figures side by side: the medians of the rounds, and the median of the ratios within a
    /// round.
    pub fn print(&self) {
        println!(
            "{:18} {:11} {:>10} {:>10} {:>7}  of each round",
            "process-max", "", "pgmesh", "pgbackrest", "ratio"
        );
        for (label, rounds) in &self.rows {
            let mut label = label.clone();
            for (what, figure) in FIGURES {
                if let Some(line) = line(&label, what, rounds, *figure) {
                    print!("{line}");
                    label.clear();
                }
            }
        }
        println!(
            "\nA ratio below 1 is better for pgmesh. CPU and memory are those of client and node, and of all processes of\n\
             pgbackrest; memory is the largest sum of the resident peaks of the processes alive at one moment."
        );
    }
}

/// A figure's name, and how it is read.
type Figure = (&'static str, fn(&Figures) -> f64);

#[allow(clippy::cast_precision_loss, reason = "figures for people, of three digits")]
const FIGURES: &[Figure] = &[
    ("wall s", |figures| figures.wall.as_secs_f64()),
    ("user CPU s", |figures| figures.user.as_secs_f64()),
    ("all CPU s", |figures| (figures.user + figures.system).as_secs_f64()),
    ("memory MiB", |figures| figures.memory as f64 / f64::from(1 << 20)),
    ("stored MiB", |figures| {
        figures.stored.unwrap_or(0) as f64 / f64::from(1 << 20)
    }),
];

fn line(label: &str, what: &str, rounds: &[[Figures; 2]], figure: fn(&Figures) -> f64) -> Option<String> {
    let of = |contestant: usize| median(rounds.iter().map(|pair| figure(&pair[contestant])).collect());
    let ratios: Vec<f64> = rounds
        .iter()
        .map(|[mine, theirs]| figure(mine) / figure(theirs))
        .collect();
    let theirs = of(1);
    if theirs <= 0.0 {
        return None;
    }
    let mut text = format!(
        "{label:18} {what:11} {:10.2} {theirs:10.2} {:7.2} ",
        of(0),
        median(ratios.clone())
    );
    for ratio in ratios {
        write!(text, " {ratio:.2}").expect("writing to a string");
    }
    text.push('\n');
    Some(text)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.as_slice() {
        [] => 0.0,
        all if all.len() % 2 == 0 => f64::midpoint(all[middle - 1], all[middle]),
        all => all[middle],
    }
}
