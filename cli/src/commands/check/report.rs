//! The report of `check`: its observations, its verdict, and its output. Pure.

use crate::commands::info::{HOLES_REMEDY, debt, describe_worker, health, stanza_holes, troubles, worker};
use crate::output::timestamp;
use pgmesh_client::pg::{Archiver, ArchiverState};
use pgmesh_postgres::{SegmentName, SystemId};
use pgmesh_protocol::{
    ExitCode, Failure, HealthInfo, MeshInfo, RepositoryInfo, SegmentPresence, StanzaHoles, WorkerAlarm,
};
use pgmesh_storage::{ArchiveId, StanzaName};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// A difference of clocks up to this, in seconds, is not reported.
const CLOCK_TOLERANCE: u64 = 60;

/// The observations so far.
#[derive(Debug)]
pub struct Report {
    stanza: StanzaName,
    /// The node that answered.
    node: Option<String>,
    /// The node's clock less this host's, in seconds, where it is worth naming.
    clock: Option<i64>,
    repositories: Vec<RepositoryInfo>,
    /// The WAL that is missing from the stanza.
    holes: Option<StanzaHoles>,
    /// Background workers of nodes that have ended unexpectedly.
    workers: Vec<WorkerAlarm>,
    cluster: Option<(SystemId, ArchiveId)>,
    /// Why no segment was switched.
    unswitched: Option<&'static str>,
    segment: Option<SwitchedSegment>,
    /// The server's archiver, and the time of the observation in Unix seconds.
    archiver: Option<(Archiver, i64)>,
}

/// The segment that was finished for the check.
#[derive(Debug, Clone)]
pub struct SwitchedSegment {
    /// Its name.
    pub name: SegmentName,
    /// The repositories that have it and lack it, at the end of the wait.
    pub presence: SegmentPresence,
    /// The longest wait for it.
    pub limit: Duration,
}

impl Report {
    /// A report without observations.
    pub fn new(stanza: StanzaName) -> Self {
        Self {
            stanza,
            node: None,
            clock: None,
            repositories: Vec::new(),
            holes: None,
            workers: Vec::new(),
            cluster: None,
            unswitched: None,
            segment: None,
            archiver: None,
        }
    }

    /// Takes in the answer of a node, which was asked and answered at these times of this host's clock, in Unix
    /// seconds.
    pub fn saw_mesh(&mut self, info: &MeshInfo, asked: i64, answered: i64) {
        self.node = Some(info.node.clone());
        self.repositories.clone_from(&info.repositories);
        self.workers.clone_from(&info.workers);
        let mut holes = info.holes.stanzas.iter();
        self.holes = holes.find(|holes| holes.stanza == self.stanza.as_str()).cloned();
        self.clock = clock_difference(info.clock, asked, answered);
    }

    /// Notes that the cluster is the stanza's.
    pub fn saw_cluster(&mut self, system_id: SystemId, archive: ArchiveId) {
        self.cluster = Some((system_id, archive));
    }

    /// Notes why no segment is switched.
    pub fn unswitched(&mut self, why: &'static str) {
        self.unswitched = Some(why);
    }

    /// Takes in the state of the archiver at `now`, Unix seconds.
    pub fn saw_archiver(&mut self, archiver: Archiver, now: i64) {
        self.archiver = Some((archiver, now));
    }

    /// Takes in the repositories' copies of the switched segment.
    pub fn saw_segment(&mut self, segment: SwitchedSegment) {
        self.segment = Some(segment);
    }

    /// Whether the asked node refuses to serve a repository, which then does not get the objects that it owes.
    pub fn is_refused(&self, repo: u16) -> bool {
        let mut repositories = self.repositories.iter();
        repositories.any(|known| known.key.get() == repo && matches!(known.health, HealthInfo::Refused { .. }))
    }

    /// Troubles to report beside the outcome, a line each.
    pub fn troubles(&self) -> Vec<String> {
        let clock = self.clock.map(|difference| self.clock_text(difference));
        let of = |repository: &RepositoryInfo| {
            let key = repository.key;
            troubles(repository)
                .into_iter()
                .map(move |trouble| format!("repo{key}: {trouble}"))
        };
        let holes = self.holes.iter().flat_map(|holes| holes.sentences(timestamp));
        clock
            .into_iter()
            .chain(self.repositories.iter().flat_map(of))
            .chain(holes)
            .chain(self.worker_lines())
            .collect()
    }

    fn worker_lines(&self) -> impl Iterator<Item = String> {
        let line = |alarm: &WorkerAlarm| format!("node {}: {}", alarm.node, describe_worker(alarm));
        self.workers.iter().map(line)
    }

    /// Whether archiving works, into every repository.
    ///
    /// # Errors
    /// The segment was not archived, or none was switched and the archiver is stuck (82); no backup can be recovered to
    /// it, because WAL is missing (55); it is archived, but a repository lacks it or is away (103).
    pub fn verdict(&self) -> Result<(), Failure> {
        if let Some(segment) = &self.segment
            && !segment.presence.missing.is_empty()
        {
            return Err(self.not_archived(segment));
        }
        if let (None, Some((archiver, at))) = (&self.segment, &self.archiver)
            && archiver.state(*at) == ArchiverState::Stuck
        {
            let failure = Failure::new(ExitCode::ArchiveTimeout, "PostgreSQL's archiver is stuck");
            let remedy =
                "see what archive_command says in PostgreSQL's log; 'pgmesh doctor' says what the mesh refuses";
            return Err(failure.because(archiver.describe(*at)).remedy(remedy));
        }
        if let Some(holes) = &self.holes
            && let Some(unreached) = holes.unreached_sentence()
        {
            let missing: Vec<String> = holes.holes.iter().map(|hole| hole.sentence(timestamp)).collect();
            return Err(Failure::new(ExitCode::FileMissing, unreached)
                .because(missing.join("; "))
                .remedy(HOLES_REMEDY));
        }
        let concerned = self.concerned();
        if concerned.is_empty() {
            return Ok(());
        }
        let names = concerned
            .iter()
            .map(|repo| format!("repo{repo}"))
            .collect::<Vec<_>>()
            .join(", ");
        let what = match &self.segment {
            Some(segment) => format!("WAL segment {} is archived, but not in {names}", segment.name),
            None => format!("not every repository can be used: {names}"),
        };
        let remedy = format!(
            "archiving continues while archive-ack repositories are up; bring {names} back: the mesh then copies the \
             missing objects there by itself"
        );
        Err(Failure::new(ExitCode::RepoInvalid, what)
            .because(self.states(&concerned))
            .remedy(remedy))
    }

    /// The repositories that lack the segment or are away.
    fn concerned(&self) -> BTreeSet<u16> {
        let lacking = self
            .segment
            .iter()
            .flat_map(|segment| &segment.presence.owed)
            .map(|(repo, _)| *repo);
        // A repository that has the segment was up a moment ago, whatever a single failed request says.
        let away = self.repositories.iter().filter(|repository| {
            repository.health != HealthInfo::Up && self.has_segment(repository.key.get()) != Some(true)
        });
        lacking.chain(away.map(|repository| repository.key.get())).collect()
    }

    /// Whether a repository has the segment; `None` if no segment was switched, or the mesh does not have the
    /// repository.
    fn has_segment(&self, repo: u16) -> Option<bool> {
        let presence = &self.segment.as_ref()?.presence;
        let owes = presence.owed.iter().any(|(owing, _)| *owing == repo);
        presence
            .repositories
            .contains(&repo)
            .then_some(presence.missing.is_empty() && !owes)
    }

    /// The states of these repositories, in one line.
    fn states(&self, concerned: &BTreeSet<u16>) -> String {
        let state = |repo: &u16| {
            let known = self.repositories.iter().find(|known| known.key.get() == *repo);
            let troubles = known.map(troubles).unwrap_or_default();
            match &self.segment {
                _ if !troubles.is_empty() => format!("repo{repo}: {}", troubles.join("; ")),
                Some(segment) => {
                    format!(
                        "repo{repo}: the segment did not reach it within {} s",
                        segment.limit.as_secs()
                    )
                }
                None => format!("repo{repo}: unknown"),
            }
        };
        concerned.iter().map(state).collect::<Vec<_>>().join("; ")
    }

    fn not_archived(&self, segment: &SwitchedSegment) -> Failure {
        let seconds = segment.limit.as_secs();
        let what = format!(
            "WAL segment {} was not archived within {seconds} s (archive-timeout)",
            segment.name
        );
        let seen = self.archiver.as_ref();
        let archiver = match seen.map(|(archiver, at)| (archiver.has_failed(), archiver.describe(*at))) {
            Some((true, waiting)) => waiting,
            Some((false, waiting)) => format!(
                "PostgreSQL knows of no failure of archive_command: it is slow, or archives to another stanza; {waiting}"
            ),
            None => "PostgreSQL's archiver was not examined".to_owned(),
        };
        let away: BTreeSet<u16> = self
            .repositories
            .iter()
            .filter(|repository| repository.health != HealthInfo::Up)
            .map(|repository| repository.key.get())
            .collect();
        let cause = if away.is_empty() {
            archiver
        } else {
            format!("{archiver}; {}", self.states(&away))
        };
        Failure::new(ExitCode::ArchiveTimeout, what)
            .because(cause)
            .remedy("see what archive_command says in PostgreSQL's log; with a long backlog, raise archive-timeout")
    }

    fn clock_text(&self, difference: i64) -> String {
        let node = self.node.as_deref().unwrap_or("the node");
        let way = if difference > 0 { "ahead of" } else { "behind" };
        format!(
            "the clock of node {node} is {} {way} this host's",
            span(difference.unsigned_abs())
        )
    }

    /// For people.
    pub fn text(&self, failure: Option<&Failure>) -> String {
        let mut lines = vec![format!("stanza: {}", self.stanza)];
        let mut add = |line: String| lines.push(format!("    {line}"));
        match failure {
            None => add("status: ok".to_owned()),
            Some(failure) => add(format!("status: error ({})", failure.what)),
        }
        if let Some(node) = &self.node {
            add(format!("node: {node}"));
        }
        if let Some(difference) = self.clock {
            add(format!("clock: {}", self.clock_text(difference)));
        }
        if let Some((system_id, archive)) = &self.cluster {
            add(format!("cluster: system identifier {system_id}, archive {archive}"));
        }
        if let Some(why) = self.unswitched {
            add(format!("wal: not switched: {why}"));
        }
        if let Some((archiver, at)) = &self.archiver {
            add(format!("archiver: {}", archiver.describe(*at)));
        }
        if let Some(segment) = &self.segment {
            let state = if segment.presence.missing.is_empty() {
                "archived"
            } else {
                "not archived"
            };
            add(format!("wal segment: {} {state}", segment.name));
        }
        for repository in &self.repositories {
            let key = repository.key;
            match (self.has_segment(key.get()), &repository.health) {
                (Some(true), _) => add(format!("repo{key}: has the segment")),
                (Some(false), _) => add(format!("repo{key}: does not have the segment")),
                (None, HealthInfo::Up) => add(format!("repo{key}: up")),
                (None, _) => {}
            }
            for trouble in troubles(repository) {
                add(format!("repo{key}: {trouble}"));
            }
        }
        for line in self.holes.iter().flat_map(|holes| holes.sentences(timestamp)) {
            add(format!("wal: {line}"));
        }
        self.worker_lines().for_each(&mut add);
        lines.join("\n")
    }

    /// For programs.
    pub fn json(&self, failure: Option<&Failure>) -> Value {
        let repository = |repository: &RepositoryInfo| {
            json!({
                "key": repository.key.get(),
                "type": repository.kind,
                "host": repository.host,
                "health": health(&repository.health),
                "debt": debt(repository.debt),
                "has-segment": self.has_segment(repository.key.get()),
            })
        };
        json!({
            "stanza": self.stanza,
            "status": {
                "code": failure.map_or(ExitCode::Ok, |failure| failure.code).number(),
                "message": failure.map_or_else(|| "ok".to_owned(), ToString::to_string),
            },
            "node": self.node,
            "clock-difference": self.clock,
            "system-id": self.cluster.map(|(system_id, _)| system_id.0),
            "archive": self.cluster.map(|(_, archive)| archive.to_string()),
            "segment": self.segment.as_ref().map(|segment| json!({
                "name": segment.name.to_string(),
                "archived": segment.presence.missing.is_empty(),
            })),
            "archiver": self.archiver.as_ref().map(|(archiver, at)| archiver_json(archiver, *at)),
            "repo": self.repositories.iter().map(repository).collect::<Value>(),
            "wal-holes": self.holes.as_ref().map(stanza_holes),
            "workers": self.workers.iter().map(worker).collect::<Value>(),
        })
    }
}

/// `state`: well, behind or stuck; `ready`: the number of waiting files; `next`, `since`; `failed` and `failed-at`: the
/// last failure of archive_command that no success has followed.
fn archiver_json(archiver: &Archiver, at: i64) -> Value {
    let ready = archiver.ready.as_ref();
    let failure = archiver.server.as_ref().and_then(|server| server.failure.as_ref());
    json!({
        "state": match archiver.state(at) {
            ArchiverState::Well => "well",
            ArchiverState::Behind => "behind",
            ArchiverState::Stuck => "stuck",
        },
        "ready": ready.map_or(0, |ready| ready.count),
        "next": ready.map(|ready| &ready.next),
        "since": ready.map(|ready| ready.since),
        "failed": failure.map(|failure| &failure.file),
        "failed-at": failure.map(|failure| failure.at),
    })
}

/// The node's clock less this host's, if no moment between question and answer explains the difference.
fn clock_difference(node: i64, asked: i64, answered: i64) -> Option<i64> {
    let difference = if node > answered {
        node.saturating_sub(answered)
    } else {
        node.saturating_sub(asked).min(0)
    };
    (difference.unsigned_abs() > CLOCK_TOLERANCE).then_some(difference)
}

fn span(seconds: u64) -> String {
    match seconds {
        0..300 => format!("{seconds} s"),
        300..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests;
