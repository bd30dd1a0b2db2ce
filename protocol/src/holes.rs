//! WAL that is missing although WAL behind it is known of, and the recovery targets that it costs.

use pgmesh_postgres::{Lsn, WalHole};
use pgmesh_storage::BackupLabel;
use serde::{Deserialize, Serialize};

/// How many backups a sentence names.
const IN_A_SENTENCE: usize = 5;

/// The holes that cost a backup a recovery target, stanza by stanza.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolesReport {
    /// The stanzas with holes.
    pub stanzas: Vec<StanzaHoles>,
    /// How many holes are named.
    pub named: usize,
}

/// The holes of a stanza.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StanzaHoles {
    /// Its name.
    pub stanza: String,
    /// The first ones.
    pub holes: Vec<HoleInfo>,
    /// How many more there are.
    pub more: u64,
    /// The ends of the history, by timeline, to which no backup can be recovered.
    pub unreached: Vec<u32>,
}

/// A hole in an archive, and the recovery targets that it costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoleInfo {
    /// The archive: `15-1`.
    pub archive: String,
    /// The first missing segment.
    pub first: String,
    /// The last missing segment.
    pub last: String,
    /// How many are missing.
    pub count: u64,
    /// The proof that there is WAL behind the hole.
    pub proof: WalHole,
    /// No recovery gets beyond this position.
    pub beyond: Lsn,
    /// When the segment before the hole was archived, Unix seconds, where there is one.
    pub until: Option<i64>,
    /// The timelines whose recovery needs the missing segments: the first ones.
    pub timelines: Vec<u32>,
    /// The backups that cannot be recovered beyond the hole: the first ones.
    pub backups: Vec<BackupLabel>,
    /// How many more there are.
    pub backups_more: u64,
    /// The backups that cannot be recovered at all, because they need the missing segments to be consistent: the first
    /// ones.
    pub broken: Vec<BackupLabel>,
    /// How many more there are.
    pub broken_more: u64,
}

impl StanzaHoles {
    /// The missing segments and their cost, a sentence for each hole. `time` writes a time.
    pub fn sentences(&self, time: impl Fn(i64) -> String) -> Vec<String> {
        let mut lines: Vec<String> = self.holes.iter().map(|hole| hole.sentence(&time)).collect();
        if self.more > 0 {
            lines.push(format!("{} more holes in its WAL", self.more));
        }
        lines.extend(self.unreached_sentence());
        lines
    }

    /// The ends of the history that no backup can be recovered to, in a sentence.
    pub fn unreached_sentence(&self) -> Option<String> {
        (!self.unreached.is_empty()).then(|| {
            format!(
                "no backup can be recovered to the end of {}: take a new backup",
                timelines(&self.unreached)
            )
        })
    }
}

impl HoleInfo {
    /// The missing segments and their cost, in a sentence. `time` writes a time.
    pub fn sentence(&self, time: impl Fn(i64) -> String) -> String {
        format!("{}: {}", self.missing(), self.costs(time))
    }

    /// The missing segments, and the proof.
    pub fn missing(&self) -> String {
        let range = match self.count {
            1 => format!("WAL segment {} is", self.first),
            count => format!("{count} WAL segments, {} to {}, are", self.first, self.last),
        };
        format!("{range} missing from archive {}, although {}", self.archive, self.proof)
    }

    /// The recovery targets that the hole costs.
    pub fn costs(&self, time: impl Fn(i64) -> String) -> String {
        let mut costs = Vec::new();
        if !self.backups.is_empty() {
            let until = self.until.map(|at| format!(" (archived {})", time(at)));
            costs.push(format!(
                "{} cannot be recovered beyond {}{} along {}",
                backups(&self.backups, self.backups_more),
                self.beyond,
                until.unwrap_or_default(),
                timelines(&self.timelines)
            ));
        }
        if !self.broken.is_empty() {
            costs.push(format!(
                "{} cannot be recovered at all",
                backups(&self.broken, self.broken_more)
            ));
        }
        costs.join("; ")
    }
}

fn backups(labels: &[BackupLabel], more: u64) -> String {
    let named: Vec<&str> = labels.iter().take(IN_A_SENTENCE).map(BackupLabel::as_str).collect();
    let more = more + labels.len().saturating_sub(IN_A_SENTENCE) as u64;
    let word = if labels.len() == 1 { "backup" } else { "backups" };
    match more {
        0 => format!("{word} {}", named.join(", ")),
        more => format!("{word} {} and {more} more", named.join(", ")),
    }
}

fn timelines(numbers: &[u32]) -> String {
    let named: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    let word = if numbers.len() == 1 { "timeline" } else { "timelines" };
    format!("{word} {}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_postgres::TimelineId;

    #[test]
    fn a_hole_is_told_with_the_targets_that_it_costs() {
        let hole = HoleInfo {
            archive: "15-1".into(),
            first: "000000010000000000000005".into(),
            last: "000000010000000000000007".into(),
            count: 3,
            proof: WalHole::LeftLater {
                timeline: TimelineId(2),
                switch: Lsn(0x800_0100),
            },
            beyond: Lsn(0x500_0000),
            until: Some(17),
            timelines: vec![2, 3],
            backups: vec!["20260101-000000F".parse().unwrap()],
            backups_more: 0,
            broken: vec![],
            broken_more: 0,
        };
        let time = |at: i64| format!("at {at}");
        assert_eq!(
            hole.sentence(time),
            "3 WAL segments, 000000010000000000000005 to 000000010000000000000007, are missing from archive 15-1, although timeline 2 \
             left its timeline later, at 0/8000100: backup 20260101-000000F cannot be recovered beyond 0/5000000 (archived at 17) along \
             timelines 2, 3"
        );
        let one = HoleInfo {
            count: 1,
            until: None,
            broken: vec!["20260102-000000F".parse().unwrap(), "20260103-000000F".parse().unwrap()],
            broken_more: 4,
            backups: vec![],
            ..hole
        };
        let said = one.sentence(time);
        assert!(
            said.starts_with("WAL segment 000000010000000000000005 is missing"),
            "{said}"
        );
        assert!(
            said.ends_with("backups 20260102-000000F, 20260103-000000F and 4 more cannot be recovered at all"),
            "{said}"
        );
    }
}
