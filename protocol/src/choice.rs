//! Which backup a restore needs, and which one a new backup is compared with. The decisions are pure. They need the
//! same memory for any number of backups, which are offered one after the other. Decision 26 has the rules.

mod prior;
mod requests;

pub use prior::{PriorChoice, PriorChooser};
pub use requests::{ChooseBackup, ChoosePrior};

use crate::BackupInfo;
use crate::lines::{Family, Line, Lines};
use crate::{ExitCode, Failure};
use pgmesh_postgres::{Lsn, SegmentSize, TimelineId};
use pgmesh_storage::BackupLabel;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most ends of a history that a message names.
const NAMED: usize = 16;

/// Which backup is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// The newest backup.
    Newest,
    /// The backup with this label.
    Label(BackupLabel),
    /// The newest backup that ended before this time, Unix seconds.
    EndedBefore(i64),
    /// The newest backup that is consistent at this position or before.
    ConsistentBy(Lsn),
}

/// Which timeline a restore is to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Follow {
    /// The timeline on which the cluster's history ends.
    End,
    /// The newest timeline, as PostgreSQL finds it.
    Latest,
    /// The timeline that the backup was taken on.
    Current,
    /// This timeline.
    Timeline(u32),
}

/// The user's wishes for a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restoring {
    /// Which backup.
    pub wanted: Wanted,
    /// Which timeline.
    pub follow: Follow,
    /// Whether recovery goes on behind the point where the backup is consistent.
    pub goes_on: bool,
}

/// The backup that a restore needs, and the timeline that PostgreSQL must be told to follow.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Chosen {
    /// The backup.
    pub backup: BackupInfo,
    /// `recovery_target_timeline`; none where PostgreSQL finds the right timeline by itself, or the restore named one.
    pub timeline: Option<u32>,
    /// Lines of the history that were passed over, in words.
    pub passed: Vec<String>,
}

/// Why no backup can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoBackup {
    /// The stanza has no backup at all.
    #[error("stanza {0} has no backup")]
    None(String),
    /// The stanza has no backup of this label.
    #[error("stanza {stanza} has no backup {label}")]
    Unknown {
        /// The stanza.
        stanza: String,
        /// The label asked for.
        label: BackupLabel,
    },
    /// All backups ended after the target, or on branches of the history that do not lead to it.
    #[error("no backup of stanza {stanza} leads to the target {target}; the oldest is {oldest}")]
    TooYoung {
        /// The stanza.
        stanza: String,
        /// The target, in words.
        target: String,
        /// The oldest backup.
        oldest: BackupLabel,
    },
    /// The backup was taken behind the point where the timeline that is to be followed left its own.
    #[error("backup {label} was taken on timeline {own}, after the point where {target} branched off")]
    OtherBranch {
        /// The backup.
        label: BackupLabel,
        /// The timeline that it was taken on.
        own: u32,
        /// The timeline or history to be followed, in words.
        target: String,
    },
    /// The history has several ends, and the user named none of them.
    #[error("the history of stanza {stanza} has several ends, and pgmesh cannot know which of them to restore")]
    SeveralLines {
        /// The stanza.
        stanza: String,
        /// The ends, in words.
        lines: Vec<String>,
        /// The number of the timeline to recommend, and the others.
        recommended: u32,
    },
}

impl NoBackup {
    /// As a user reads it.
    pub fn failure(&self) -> Failure {
        let failure = |code| Failure::new(code, self.to_string());
        match self {
            Self::OtherBranch { own, .. } => failure(ExitCode::BackupSetInvalid).remedy(format!(
                "choose another backup; or recover along the backup's own timeline, without the changes of the other \
                 branch: --target-timeline={own}"
            )),
            Self::SeveralLines { lines, recommended, .. } => failure(ExitCode::OptionRequired)
                .because(lines.join("; "))
                .remedy(format!(
                    "choose the timeline to follow: --target-timeline={recommended} is probably right. The other ends \
                     may be copies that were promoted and archived by mistake"
                )),
            _ => failure(ExitCode::BackupSetInvalid).remedy("'pgmesh info' lists the backups"),
        }
    }
}

/// The clusters that a stanza has had, each with its timelines.
#[derive(Debug, Default)]
pub struct Clusters {
    clusters: Vec<Cluster>,
    databases: BTreeMap<u32, usize>,
}

#[derive(Debug)]
struct Cluster {
    family: Family,
    lines: Lines,
}

impl Clusters {
    /// Adds a cluster that has, or had, these databases of the stanza.
    pub fn add(&mut self, databases: impl IntoIterator<Item = u32>, family: Family, size: SegmentSize) {
        let at = self.clusters.len();
        self.databases
            .extend(databases.into_iter().map(|database| (database, at)));
        let lines = family.lines(size);
        self.clusters.push(Cluster { family, lines });
    }

    /// The ends of the history of the cluster that has this database.
    pub fn ends(&self, database: u32) -> Vec<TimelineId> {
        let cluster = self.databases.get(&database).and_then(|at| self.clusters.get(*at));
        let open = cluster.into_iter().flat_map(|cluster| &cluster.lines.open);
        open.map(|line| line.timeline).collect()
    }

    fn of(&self, backup: &BackupInfo) -> Option<&Cluster> {
        self.clusters.get(*self.databases.get(&backup.database)?)
    }
}

impl Cluster {
    fn contains(&self, timeline: TimelineId, backup: &BackupInfo) -> bool {
        let own = TimelineId(backup.timeline);
        self.family.tree.contains(timeline, own, backup.lsn_stop)
    }

    /// The ends of the history that a backup leads to.
    fn ends_of(&self, backup: &BackupInfo) -> Vec<&Line> {
        let open = self.lines.open.iter();
        open.filter(|line| self.contains(line.timeline, backup)).collect()
    }

    /// Whether a backup can be recovered along the timeline to be followed.
    fn leads(&self, follow: Follow, backup: &BackupInfo) -> bool {
        let own = TimelineId(backup.timeline);
        match follow {
            Follow::End | Follow::Current => self.lines.open.is_empty() || !self.ends_of(backup).is_empty(),
            Follow::Latest => self.contains(self.family.latest_from(own), backup),
            Follow::Timeline(timeline) => self.contains(TimelineId(timeline), backup),
        }
    }

    /// The end of the history that a backup is to be recovered to; `None` where there is no choice to make.
    fn end_for(&self, asked: &Restoring, backup: &BackupInfo, stanza: &str) -> Result<Option<TimelineId>, NoBackup> {
        let is_named = matches!(asked.wanted, Wanted::Label(_));
        let ends: Vec<&Line> = match is_named {
            true => self.ends_of(backup),
            false => self.lines.open.iter().collect(),
        };
        match ends.as_slice() {
            [end] => Ok(Some(end.timeline)),
            _ if self.lines.open.is_empty() => Ok(None),
            _ if is_named && !asked.goes_on => Ok(Some(TimelineId(backup.timeline))),
            [] => Err(NoBackup::OtherBranch {
                label: backup.label.clone(),
                own: backup.timeline,
                target: "the cluster's present history".to_owned(),
            }),
            several => {
                let lines: Vec<Line> = several.iter().map(|line| (*line).clone()).collect();
                let recommended = self.family.recommended(&lines);
                Err(NoBackup::SeveralLines {
                    stanza: stanza.to_owned(),
                    recommended: recommended.map_or(backup.timeline, |line| line.timeline.0),
                    lines: lines.iter().take(NAMED).map(Line::describe).collect(),
                })
            }
        }
    }
}

/// Chooses among the backups of a stanza.
#[derive(Debug)]
pub struct Chooser<'a> {
    asked: &'a Restoring,
    clusters: &'a Clusters,
    best: Option<BackupInfo>,
    oldest: Option<(i64, BackupLabel)>,
}

impl<'a> Chooser<'a> {
    /// A chooser that has seen no backup yet.
    pub fn new(asked: &'a Restoring, clusters: &'a Clusters) -> Self {
        Self {
            asked,
            clusters,
            best: None,
            oldest: None,
        }
    }

    /// Looks at a backup.
    pub fn offer(&mut self, backup: BackupInfo) {
        if self.oldest.as_ref().is_none_or(|(stop, _)| backup.time_stop < *stop) {
            self.oldest = Some((backup.time_stop, backup.label.clone()));
        }
        let leads = |backup: &BackupInfo| {
            let cluster = self.clusters.of(backup);
            cluster.is_none_or(|cluster| cluster.leads(self.asked.follow, backup))
        };
        let fits = match &self.asked.wanted {
            Wanted::Newest => leads(&backup),
            Wanted::Label(label) => backup.label == *label,
            Wanted::EndedBefore(time) => backup.time_stop < *time && leads(&backup),
            Wanted::ConsistentBy(lsn) => backup.lsn_stop <= *lsn && leads(&backup),
        };
        // Labels sort as the backups were made, also where the clocks of their hosts were wrong.
        if fits && self.best.as_ref().is_none_or(|best| best.label < backup.label) {
            self.best = Some(backup);
        }
    }

    /// Whether a backup is found. A later offer with a lower label cannot change the choice.
    pub fn is_decided(&self) -> bool {
        self.best.is_some()
    }

    /// The wanted backup, and the timeline that PostgreSQL must be told to follow.
    ///
    /// # Errors
    /// No offered backup is the wanted one; or the history has several ends, or none that the backup leads to.
    pub fn chosen(self, stanza: &str) -> Result<Chosen, NoBackup> {
        let Some(backup) = self.best else {
            return Err(self.none(stanza));
        };
        let Some(cluster) = self.clusters.of(&backup) else {
            return Ok(Chosen::alone(backup));
        };
        let follow = self.asked.follow;
        let own = TimelineId(backup.timeline);
        if follow != Follow::End {
            let target = match follow {
                Follow::Timeline(timeline) => format!("timeline {timeline}"),
                _ => "the latest timeline".to_owned(),
            };
            // A backup that was not named leads there already: `offer` has checked it.
            if follow != Follow::Current && self.asked.goes_on && !cluster.leads(follow, &backup) {
                let (label, own) = (backup.label, backup.timeline);
                return Err(NoBackup::OtherBranch { label, own, target });
            }
            return Ok(Chosen::alone(backup));
        }
        let end = cluster.end_for(self.asked, &backup, stanza)?;
        let latest = cluster.family.latest_from(own);
        let passed = cluster.lines.passed.iter();
        Ok(Chosen {
            timeline: end.filter(|end| *end != latest).map(|end| end.0),
            passed: passed
                .map(|passed| {
                    let line = passed.line.describe();
                    format!(
                        "{line} is not followed: backup {} of another timeline began later",
                        passed.by
                    )
                })
                .collect(),
            backup,
        })
    }

    fn none(&self, stanza: &str) -> NoBackup {
        let stanza = stanza.to_owned();
        let Some((_, oldest)) = self.oldest.clone() else {
            return NoBackup::None(stanza);
        };
        let target = match (&self.asked.wanted, self.asked.follow) {
            (Wanted::Label(label), _) => {
                let label = label.clone();
                return NoBackup::Unknown { stanza, label };
            }
            (Wanted::Newest, Follow::Timeline(timeline)) => format!("timeline {timeline}"),
            (Wanted::Newest, _) => "timeline".to_owned(),
            (Wanted::EndedBefore(time), _) => format!("time (Unix {time})"),
            (Wanted::ConsistentBy(lsn), _) => format!("lsn {lsn}"),
        };
        NoBackup::TooYoung { stanza, target, oldest }
    }
}

impl Chosen {
    /// A backup whose timeline PostgreSQL finds by itself.
    fn alone(backup: BackupInfo) -> Self {
        Self {
            backup,
            timeline: None,
            passed: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::{LastSegment, TimelineFacts};
    use pgmesh_postgres::{Descent, SegmentName};
    use pgmesh_storage::RepoKey;

    fn backup(label: &str, time_stop: i64, lsn_stop: u64, timeline: u32) -> BackupInfo {
        BackupInfo {
            label: label.parse().unwrap(),
            kind: "full".to_owned(),
            prior: None,
            error: false,
            database: 1,
            wal_start: String::new(),
            wal_stop: String::new(),
            lsn_start: Lsn(lsn_stop - 1),
            lsn_stop: Lsn(lsn_stop),
            timeline,
            time_start: time_stop - 10,
            time_stop,
            size: 0,
            delta: 0,
            stored_size: 0,
            stored_delta: 0,
            repositories: vec![RepoKey::new(1).unwrap()],
            owed: vec![],
            annotations: BTreeMap::new(),
            program: String::new(),
            hold: None,
        }
    }

    fn three() -> Vec<BackupInfo> {
        vec![
            backup("20260101-000000F", 100, 1_000, 1),
            backup("20260102-000000F", 200, 2_000, 1),
            backup("20260103-000000F", 300, 3_000, 2),
        ]
    }

    /// Timelines, each with the order in which its history and its last segment came, and where one left another.
    fn clusters(timelines: &[(u32, u64, u64)], left: &[(u32, u32, u64)]) -> Clusters {
        let mut family = Family::default();
        for (timeline, began, order) in timelines {
            let name = SegmentName {
                timeline: TimelineId(*timeline),
                log: 0,
                segment: 9,
            };
            let last = LastSegment {
                name,
                order: *order,
                at: 0,
            };
            let facts = TimelineFacts {
                began: *began,
                last: Some(last),
                host: None,
            };
            family.facts.insert(TimelineId(*timeline), facts);
        }
        let descents = left.iter().map(|(child, parent, switch)| Descent {
            timeline: TimelineId(*child),
            parent: TimelineId(*parent),
            switch: Lsn(*switch),
        });
        family.tree = descents.collect();
        let mut clusters = Clusters::default();
        clusters.add([1], family, SegmentSize::DEFAULT);
        clusters
    }

    /// Timeline 2 left timeline 1 at 1,500, after timeline 1 had archived its last segment.
    fn recovered_in_place() -> Clusters {
        clusters(&[(1, 0, 10), (2, 20, 30)], &[(2, 1, 1_500)])
    }

    /// Both go on.
    fn forked() -> Clusters {
        clusters(&[(1, 0, 40), (2, 20, 30)], &[(2, 1, 1_500)])
    }

    fn choose(
        clusters: &Clusters,
        backups: Vec<BackupInfo>,
        wanted: Wanted,
        follow: Follow,
    ) -> Result<Chosen, NoBackup> {
        choose_for(clusters, backups, wanted, follow, true)
    }

    fn choose_for(
        clusters: &Clusters,
        backups: Vec<BackupInfo>,
        wanted: Wanted,
        follow: Follow,
        goes_on: bool,
    ) -> Result<Chosen, NoBackup> {
        let asked = Restoring {
            wanted,
            follow,
            goes_on,
        };
        let mut chooser = Chooser::new(&asked, clusters);
        backups.into_iter().for_each(|backup| chooser.offer(backup));
        chooser.chosen("main")
    }

    fn chosen(backups: Vec<BackupInfo>, wanted: &Wanted, follow: Follow) -> Result<i64, NoBackup> {
        let clusters = clusters(&[(1, 0, 10), (2, 20, 30)], &[(2, 1, 2_900)]);
        choose(&clusters, backups, wanted.clone(), follow).map(|chosen| chosen.backup.time_stop)
    }

    #[test]
    fn the_newest_that_ended_before_the_target_time() {
        let by_time = |time| chosen(three(), &Wanted::EndedBefore(time), Follow::End);
        assert_eq!(by_time(250), Ok(200));
        assert_eq!(
            by_time(300),
            Ok(200),
            "a backup that ends at the target has gone past it, perhaps"
        );
        assert_eq!(by_time(1_000), Ok(300));
        assert!(matches!(by_time(50), Err(NoBackup::TooYoung { .. })));
    }

    #[test]
    fn a_backup_of_a_later_timeline_does_not_reach_an_earlier_one() {
        assert_eq!(chosen(three(), &Wanted::Newest, Follow::Timeline(1)), Ok(200));
    }

    #[test]
    fn by_position_and_by_label() {
        assert_eq!(chosen(three(), &Wanted::ConsistentBy(Lsn(2_500)), Follow::End), Ok(200));
        let label: BackupLabel = "20260101-000000F".parse().unwrap();
        assert_eq!(chosen(three(), &Wanted::Label(label), Follow::Timeline(2)), Ok(100));
        let unknown: BackupLabel = "20200101-000000F".parse().unwrap();
        assert!(matches!(
            chosen(three(), &Wanted::Label(unknown), Follow::End),
            Err(NoBackup::Unknown { .. })
        ));
        let none = chosen(vec![], &Wanted::Newest, Follow::End);
        assert_eq!(none, Err(NoBackup::None("main".to_owned())));
    }

    #[test]
    fn a_backup_of_a_branch_that_was_given_up_is_not_chosen() {
        let clusters = recovered_in_place();
        // The backup that stops at 2,000 was taken on timeline 1 after timeline 2 had left it.
        let two = || three().into_iter().take(2).collect::<Vec<_>>();
        for wanted in [
            Wanted::Newest,
            Wanted::EndedBefore(1_000),
            Wanted::ConsistentBy(Lsn(9_000)),
        ] {
            for goes_on in [true, false] {
                let chosen = choose_for(&clusters, two(), wanted.clone(), Follow::End, goes_on).unwrap();
                assert_eq!((chosen.backup.time_stop, chosen.timeline), (100, None), "{wanted:?}");
            }
            let along_two = choose(&clusters, two(), wanted.clone(), Follow::Timeline(2)).unwrap();
            assert_eq!(along_two.backup.time_stop, 100);
            let along_one = choose(&clusters, two(), wanted, Follow::Timeline(1)).unwrap();
            assert_eq!((along_one.backup.time_stop, along_one.timeline), (200, None));
        }
        assert_eq!(
            choose(&clusters, three(), Wanted::Newest, Follow::End)
                .unwrap()
                .backup
                .time_stop,
            300
        );
        // A backup that the user names is restored to itself, and to no end of the history.
        let named = || Wanted::Label("20260102-000000F".parse().unwrap());
        let refused = choose(&clusters, three(), named(), Follow::End).unwrap_err();
        assert!(matches!(refused, NoBackup::OtherBranch { own: 1, .. }), "{refused:?}");
        assert!(refused.failure().remedy.unwrap().contains("--target-timeline=1"));
        assert!(choose(&clusters, three(), named(), Follow::Latest).is_err());
        assert!(choose(&clusters, three(), named(), Follow::Timeline(2)).is_err());
        let alone = choose_for(&clusters, three(), named(), Follow::End, false).unwrap();
        assert_eq!((alone.backup.time_stop, alone.timeline), (200, Some(1)));
        assert_eq!(
            choose(&clusters, three(), named(), Follow::Timeline(1))
                .unwrap()
                .backup
                .time_stop,
            200
        );
    }

    #[test]
    fn which_end_of_a_forked_history_is_meant_must_be_said() {
        let clusters = forked();
        let refused = choose(&clusters, three(), Wanted::Newest, Follow::End).unwrap_err();
        let said = refused.failure().to_string();
        for part in ["timeline 1 (", "timeline 2 ("] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
        let remedy = refused.failure().remedy.unwrap();
        let recommended = "--target-timeline=1 is probably right";
        assert!(remedy.contains(recommended), "it archived last: {remedy}");
        assert_eq!(refused.failure().code, ExitCode::OptionRequired);
        for (follow, expected) in [
            (Follow::Timeline(1), 200),
            (Follow::Timeline(2), 300),
            (Follow::Latest, 300),
            (Follow::Current, 300),
        ] {
            assert_eq!(
                choose(&clusters, three(), Wanted::Newest, follow)
                    .unwrap()
                    .backup
                    .time_stop,
                expected
            );
        }
        // A backup that leads to one end only settles the choice: timeline 1, which PostgreSQL would not take by
        // itself.
        let named = |label: &str| Wanted::Label(label.parse().unwrap());
        let one = choose(&clusters, three(), named("20260102-000000F"), Follow::End).unwrap();
        assert_eq!(one.timeline, Some(1));
        assert!(choose(&clusters, three(), named("20260101-000000F"), Follow::End).is_err());
        let alone = choose_for(&clusters, three(), named("20260101-000000F"), Follow::End, false).unwrap();
        assert_eq!(alone.timeline, Some(1));
    }
}
