//! Reads in the audit trail: who has read which stanza's data, and how much.
//!
//! A read is no entry of the log: a standby reads a segment every few seconds. The first read of its kind is a line in
//! the audit trail, and the others are summed up to one line each hour (decision 42).

use crate::core::Core;
use pgmesh_raft::{Command, limits};
use pgmesh_runtime::tasks;
use pgmesh_storage::StanzaName;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Reads are summed for so long.
const PERIOD: Duration = Duration::from_secs(3600);
/// Sums of one node at once; beyond it the reads of one actor and stanza share a line.
const SUMS: usize = 1024;
/// Sums of one node at once, those of an actor and a stanza included. Beyond it all readers share a line.
const ALL_SUMS: usize = 8192;
/// Sums of one actor at once.
const SUMS_OF_ACTOR: usize = 64;
/// Lines that wait for a majority. If there are more, the newest are left out, and a line says so.
const LINES: usize = 512;

/// A read that was served.
#[derive(Debug)]
pub(crate) struct Read<'r> {
    /// Its kind and object, for example `manifest of backup 20260101-000000F`.
    pub(crate) what: &'r str,
    /// The stanza, if it is of one.
    pub(crate) stanza: Option<&'r StanzaName>,
    /// The bytes that were handed out.
    pub(crate) bytes: u64,
}

/// A reader and its object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    actor: String,
    from: String,
    /// The kind of read and its object, for example `archive-get of stanza main`.
    what: String,
}

/// Reads of one key that no line tells of yet.
#[derive(Debug, Default)]
struct Sum {
    since: Duration,
    reads: u64,
    bytes: u64,
}

/// A line of the audit trail that is not written yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) actor: String,
    pub(crate) what: String,
}

/// The reads that this node has served.
#[derive(Debug, Default)]
pub(crate) struct ReadLog(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sums: BTreeMap<Key, Sum>,
    lines: Vec<Line>,
    left_out: u64,
    is_writing: bool,
}

impl ReadLog {
    /// Notes a read at `now`, in the running time of the process.
    pub(crate) fn note(&self, actor: &str, from: IpAddr, read: &Read<'_>, now: Duration) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = read
            .stanza
            .map_or_else(String::new, |stanza| format!(" of stanza {stanza}"));
        // A path of a client: no control characters reach a terminal.
        let what = limits::shortened(format!("{}{of}", read.what.escape_debug()), limits::REASON / 2);
        let mut key = Key {
            actor: actor.to_owned(),
            from: from.to_string(),
            what,
        };
        if !inner.sums.contains_key(&key) {
            let of_actor = inner.sums.keys().filter(|known| known.actor == key.actor).count();
            if of_actor >= SUMS_OF_ACTOR || inner.sums.len() >= SUMS {
                key.what = format!("other reads{of}");
                "several addresses".clone_into(&mut key.from);
            }
            if inner.sums.len() >= ALL_SUMS {
                key = Key {
                    actor: "other readers".to_owned(),
                    from: "several addresses".to_owned(),
                    what: "other reads".to_owned(),
                };
            }
        }
        let bytes = read.bytes;
        if let Some(sum) = inner.sums.get_mut(&key) {
            sum.reads += 1;
            sum.bytes = sum.bytes.saturating_add(bytes);
            return;
        }
        inner.tell(&key.actor, format!("{} from {}", key.what, key.from));
        let sum = Sum {
            since: now,
            ..Sum::default()
        };
        inner.sums.insert(key, sum);
    }

    /// The lines to write now; none while earlier ones are being written.
    pub(crate) fn due(&self, now: Duration) -> Vec<Line> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |sum: &Sum| now.saturating_sub(sum.since) >= PERIOD;
        let due: Vec<Key> = inner
            .sums
            .iter()
            .filter(|(_, sum)| is_due(sum))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            let Some(sum) = inner.sums.remove(&key) else { continue };
            if sum.reads == 0 {
                continue;
            }
            let (reads, mib) = (sum.reads, sum.bytes.div_ceil(1 << 20));
            let what = format!("{} from {}: {reads} more in an hour, {mib} MiB", key.what, key.from);
            inner.tell(&key.actor, what);
            let next = Sum {
                since: now,
                ..Sum::default()
            };
            inner.sums.insert(key, next);
        }
        if inner.is_writing || inner.lines.is_empty() {
            return Vec::new();
        }
        inner.is_writing = true;
        let mut lines = std::mem::take(&mut inner.lines);
        let left_out = std::mem::take(&mut inner.left_out);
        if left_out > 0 {
            let what = format!("{left_out} lines about reads are left out: there was no majority for a long time");
            lines.push(Line {
                actor: "node".to_owned(),
                what,
            });
        }
        lines
    }

    /// These lines are not written: they come again.
    pub(crate) fn written(&self, unwritten: Vec<Line>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.is_writing = false;
        let newer = std::mem::replace(&mut inner.lines, unwritten);
        inner.lines.extend(newer);
        inner.bound();
    }
}

impl Inner {
    fn tell(&mut self, actor: &str, what: String) {
        self.lines.push(Line {
            actor: actor.to_owned(),
            what,
        });
        self.bound();
    }

    fn bound(&mut self) {
        let over = self.lines.len().saturating_sub(LINES);
        self.lines.truncate(LINES);
        self.left_out += over as u64;
    }
}

impl Core {
    /// Writes the lines about reads that are due into the audit trail, in the background.
    pub(crate) fn audit_reads(&self) {
        let lines = self.read_log.due(self.running.now());
        if lines.is_empty() {
            return;
        }
        let (catalog, read_log) = (self.catalog.clone(), self.read_log.clone());
        tasks::spawn("telling of reads", async move {
            let mut lines = lines.into_iter();
            let mut unwritten = Vec::new();
            for line in lines.by_ref() {
                let what = limits::shortened(line.what.clone(), limits::REASON);
                if let Err(error) = catalog.propose(&line.actor, Command::Audit { what }).await {
                    tracing::debug!(%error, "reads are told of in the audit trail later");
                    unwritten.push(line);
                    break;
                }
            }
            unwritten.extend(lines);
            read_log.written(unwritten);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn note(reads: &ReadLog, actor: &str, (what, stanza): (&str, Option<&str>), bytes: u64, now: u64) {
        let stanza = stanza.map(|stanza| stanza.parse().unwrap());
        let read = Read {
            what,
            stanza: stanza.as_ref(),
            bytes,
        };
        reads.note(actor, FROM, &read, at(now));
    }

    fn told(reads: &ReadLog, now: u64) -> Vec<String> {
        let lines = reads.due(at(now));
        if !lines.is_empty() {
            reads.written(Vec::new());
        }
        lines
            .into_iter()
            .map(|line| format!("{}: {}", line.actor, line.what))
            .collect()
    }

    #[test]
    fn the_first_read_is_told_at_once_and_the_others_in_one_line_an_hour() {
        let reads = ReadLog::default();
        let get = |now| note(&reads, "client db1", ("archive-get", Some("main")), 16 << 20, now);
        get(0);
        assert_eq!(
            told(&reads, 0),
            ["client db1: archive-get of stanza main from 127.0.0.1"]
        );
        (1..=100).for_each(get);
        assert!(told(&reads, 3599).is_empty());
        let sum = "client db1: archive-get of stanza main from 127.0.0.1: 100 more in an hour, 1600 MiB";
        assert_eq!(told(&reads, 3600), [sum]);
        get(3700);
        assert!(told(&reads, 3700).is_empty(), "it goes on");
        assert_eq!(told(&reads, 7200).len(), 1);
        assert!(told(&reads, 10_800).is_empty());
        get(11_000);
        assert_eq!(
            told(&reads, 11_000).len(),
            1,
            "after an hour without a read it is a first one again"
        );
    }

    #[test]
    fn one_reader_of_many_objects_writes_few_lines() {
        let reads = ReadLog::default();
        for number in 0..10_000 {
            let what = format!("repo-get of {number}");
            note(&reads, "client db1", (&what, None), 1, 0);
        }
        assert_eq!(told(&reads, 0).len(), SUMS_OF_ACTOR + 1);
        for number in 0..10_000 {
            note(&reads, &format!("client db{number}"), ("verify", Some("main")), 0, 1);
        }
        assert_eq!(told(&reads, 1).len(), LINES + 1);
        assert!(reads.0.lock().unwrap().sums.len() <= ALL_SUMS + 1);
    }

    /// Beyond the bound of sums the actor and the stanza are still told.
    #[test]
    fn a_reader_among_very_many_is_told_with_its_stanza() {
        let reads = ReadLog::default();
        for number in 0..SUMS {
            note(
                &reads,
                &format!("client db{number}"),
                ("archive-get", Some("main")),
                0,
                0,
            );
        }
        reads.due(at(0));
        reads.written(Vec::new());
        for what in ["chunks", "archive-get"] {
            note(&reads, "client thief", (what, Some("main")), 1 << 20, 1);
        }
        let lines = ["client thief: other reads of stanza main from several addresses"];
        assert_eq!(told(&reads, 1), lines);
    }

    #[test]
    fn what_could_not_be_written_comes_again_and_nothing_steers_a_terminal() {
        let reads = ReadLog::default();
        note(&reads, "client db1", ("repo-get of repo1/\u{1b}[2J", None), 1, 0);
        let lines = reads.due(at(0));
        assert_eq!(lines[0].what, "repo-get of repo1/\\u{1b}[2J from 127.0.0.1");
        assert!(reads.due(at(1)).is_empty(), "one writer at a time");
        reads.written(lines.clone());
        assert_eq!(reads.due(at(1)), lines);
    }

    /// A standby that reads a thousand segments writes two lines.
    #[tokio::test(flavor = "multi_thread")]
    async fn reads_through_a_node_are_in_the_audit_trail() {
        use crate::testing::{TestNode, stanza};
        use pgmesh_protocol::{GetManifest, GetSegment, VerifyRequest};
        let site = TestNode::start(crate::SessionTimes::default()).await;
        let admin = site.certificate(&pgmesh_transport::Role::Admin, "root");
        let client = site.connect_as(&admin).await;
        site.create_stanza(&client).await;
        let get = GetSegment {
            stanza: stanza(),
            file: "000000010000000000000001".to_owned(),
            system_id: None,
            avoid: Vec::new(),
            doubted: Vec::new(),
        };
        // Nothing was read: it is no line.
        let unknown = GetManifest {
            stanza: stanza(),
            label: "20260101-000000F".parse().unwrap(),
        };
        assert!(client.ask(&unknown, None).await.is_err());
        let missing = GetSegment {
            file: "000000010000000000000009".to_owned(),
            ..get.clone()
        };
        let _ = client.ask(&missing, None).await;
        for _ in 0..20 {
            client.ask(&get, None).await.unwrap();
        }
        let verify = VerifyRequest {
            part: None,
            stanza: Some(stanza()),
            repo: None,
        };
        client.ask(&verify, None).await.unwrap();
        let told = |node: &crate::Node| -> Vec<String> {
            let rows = node.catalog.view().audit(pgmesh_raft::LogIndex(0)).collect::<Vec<_>>();
            let lines = rows.into_iter().map(|row| row.unwrap().1);
            let reads = lines.filter(|line| line.what.ends_with(" from 127.0.0.1"));
            reads.map(|line| format!("{}: {}", line.actor, line.what)).collect()
        };
        site.wait("the lines", |node| told(node).len() >= 2).await;
        let mut lines = told(&site.node);
        lines.sort();
        let expected = ["archive-get of stanza main", "verify of stanza main"];
        let actor = crate::certificates::actor_of(admin.member());
        let expected = expected.map(|what| format!("{actor}: {what} from 127.0.0.1"));
        assert_eq!(lines, expected);
    }
}
