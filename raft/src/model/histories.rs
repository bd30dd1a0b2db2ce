//! How the histories of a stanza's timelines are kept. A timeline's history repeats the history of its parent, and adds
//! a line. Written out, the histories of n timelines have n²/2 lines; therefore the repeated lines are replaced by the
//! parent's number. The first lines of a very long history are not kept, so a history may repeat only the end of its
//! parent's.

use std::collections::BTreeMap;

use pgmesh_postgres::TimelineId;
use pgmesh_storage::Digest;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Branch, LogIndex};

/// A timeline history file, as far as the catalog compares it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRecord {
    /// Digest of the file.
    pub digest: Digest,
    /// Its newest lines, oldest first: at most [`limits::LINES`](crate::limits::LINES).
    pub branches: Vec<Branch>,
    /// When it was archived.
    pub since: LogIndex,
}

/// One history as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    timeline: TimelineId,
    digest: Digest,
    since: LogIndex,
    /// The timeline, further up in the list, whose lines it begins with, and how many of the first of them it lacks.
    like: Option<(TimelineId, u32)>,
    /// Its other lines.
    lines: Vec<Branch>,
}

pub(super) fn serialize<S: Serializer>(
    histories: &BTreeMap<TimelineId, HistoryRecord>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let kept: Vec<Kept> = histories
        .iter()
        .map(|(timeline, history)| {
            let (like, lines) = split(histories, *timeline, &history.branches);
            Kept {
                timeline: *timeline,
                digest: history.digest,
                since: history.since,
                like,
                lines: lines.to_vec(),
            }
        })
        .collect();
    kept.serialize(serializer)
}

/// The timeline that the history repeats, and its own lines.
fn split<'a>(
    histories: &BTreeMap<TimelineId, HistoryRecord>,
    timeline: TimelineId,
    branches: &'a [Branch],
) -> (Option<(TimelineId, u32)>, &'a [Branch]) {
    if let Some((last, before)) = branches.split_last()
        && last.parent < timeline
        && let Some(parent) = histories.get(&last.parent)
        && parent.branches.ends_with(before)
        && let Ok(lacks) = u32::try_from(parent.branches.len() - before.len())
    {
        return (Some((last.parent, lacks)), std::slice::from_ref(last));
    }
    (None, branches)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<TimelineId, HistoryRecord>, D::Error> {
    let mut histories: BTreeMap<TimelineId, HistoryRecord> = BTreeMap::new();
    for kept in Vec::<Kept>::deserialize(deserializer)? {
        let mut branches = match kept.like {
            None => Vec::new(),
            Some((like, lacks)) => {
                let known = histories.get(&like);
                let repeated = known.and_then(|known| known.branches.get(usize::try_from(lacks).ok()?..));
                let repeated = repeated.ok_or_else(|| D::Error::custom("a history begins like one that is not there"));
                repeated?.to_vec()
            }
        };
        branches.extend(kept.lines);
        let history = HistoryRecord {
            digest: kept.digest,
            branches,
            since: kept.since,
        };
        histories.insert(kept.timeline, history);
    }
    Ok(histories)
}

#[cfg(test)]
mod tests {
    use pgmesh_postgres::Lsn;
    use pgmesh_storage::wire;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Holder(#[serde(with = "super")] BTreeMap<TimelineId, HistoryRecord>);

    fn history(branches: Vec<Branch>) -> HistoryRecord {
        HistoryRecord {
            digest: Digest([7; 32]),
            branches,
            since: LogIndex(3),
        }
    }

    #[test]
    fn many_timelines_take_a_line_each() {
        let mut branches = Vec::new();
        let mut histories = BTreeMap::new();
        for timeline in 2..=2000 {
            let parent = TimelineId(timeline - 1);
            let switch = Lsn(u64::from(timeline) << 32);
            branches.push(Branch { parent, switch });
            histories.insert(TimelineId(timeline), history(branches.clone()));
        }
        let bytes = wire::encode(&Holder(histories.clone()));
        assert!(bytes.len() < 128 << 10, "{} bytes", bytes.len());
        let read: Holder = wire::decode(&bytes, bytes.len()).unwrap();
        assert!(read.0 == histories);
    }

    proptest! {
        #[test]
        fn whatever_histories_there_are_is_read_back(
            given in proptest::collection::btree_map(1_u32..8, proptest::collection::vec((1_u32..9, 0_u64..3), 0..5), 0..8),
        ) {
            let branch = |(parent, switch)| Branch { parent: TimelineId(parent), switch: Lsn(switch) };
            let histories = given
                .into_iter()
                .map(|(timeline, lines)| (TimelineId(timeline), history(lines.into_iter().map(branch).collect())))
                .collect();
            let holder = Holder(histories);
            let bytes = wire::encode(&holder);
            prop_assert_eq!(wire::decode::<Holder>(&bytes, bytes.len()).unwrap(), holder);
        }
    }
}
