//! Sessions that are old, or whose process does no work. Until a session ends, objects that were condemned since it
//! began are not deleted.

use super::check::Check;
use crate::commands::status::words::span;
use pgmesh_protocol::{MeshStatus, SessionStatus};

/// A session without progress for so many seconds may belong to a process that hangs.
const QUIET: u64 = 5 * 60;
/// A session that is older, in seconds, holds up deletion for longer than most backups take.
const OLD: i64 = 24 * 3600;
/// A session that its node does not know after so many seconds is not just being opened.
const UNKNOWN: i64 = 2 * 60;

/// A line for each session that an administrator should look at; one line for all if there is none.
pub fn sessions(now: i64, status: &MeshStatus) -> Vec<Check> {
    let doubtful: Vec<Check> = status
        .sessions
        .iter()
        .filter_map(|session| doubt(now, status, session))
        .collect();
    if !doubtful.is_empty() {
        return doubtful;
    }
    let found = match status.sessions.first() {
        None => "none is open".to_owned(),
        Some(oldest) => format!(
            "{} open, the oldest for {}",
            status.sessions_open,
            span(seconds(age(now, oldest)))
        ),
    };
    vec![Check::ok("sessions", found)]
}

fn doubt(now: i64, status: &MeshStatus, session: &SessionStatus) -> Option<Check> {
    let age = age(now, session);
    let is_clients = matches!(session.kind.as_str(), "backup" | "restore");
    let own = status.nodes.iter().find(|(info, _)| info.name == session.node);
    let own = own.and_then(|(_, own)| own.as_ref().ok());
    let is_unknown = is_clients && own.is_some() && session.quiet.is_none() && age > UNKNOWN;
    let is_quiet = session.quiet.is_some_and(|quiet| quiet >= QUIET);
    if !is_unknown && !is_quiet && age <= OLD {
        return None;
    }
    let stanza = session.stanza.as_ref();
    let of = stanza.map_or_else(String::new, |stanza| format!(" of stanza {stanza}"));
    let progress = match (session.quiet, own) {
        (Some(quiet), _) => format!("without progress for {}", span(quiet)),
        (None, None) => "its node does not answer".to_owned(),
        (None, Some(_)) if is_clients => "its node does not know its holder, and ends the session by itself".to_owned(),
        (None, Some(_)) => "work of the node itself".to_owned(),
    };
    let found = format!(
        "{}{of} by {}, kept alive by node {}: open for {}, {progress}. Objects that became garbage since it began are \
         kept until it ends",
        session.kind,
        session.holder,
        session.node,
        span(seconds(age)),
    );
    let limit = own.map_or_else(String::new, |own| {
        let limit = span(own.session_timeout);
        format!(" It ends by itself after {limit} without progress (session-timeout).")
    });
    let remedy = format!(
        "see whether that process still works.{limit} 'pgmesh session-end {}' ends it at once",
        session.session
    );
    Some(Check::warn(format!("session {}", session.session), found, remedy))
}

/// The difference of two clocks: of the node that opened the session, and of this host.
fn age(now: i64, session: &SessionStatus) -> i64 {
    now.saturating_sub(session.opened_at).max(0)
}

fn seconds(age: i64) -> u64 {
    u64::try_from(age).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::check::Verdict;
    use crate::commands::status::samples::{self, NOW};

    fn judged(session: SessionStatus) -> Check {
        let mut status = samples::healthy();
        (status.sessions, status.sessions_open) = (vec![session], 1);
        sessions(NOW, &status).remove(0)
    }

    #[test]
    fn a_session_that_works_is_no_matter() {
        assert_eq!(
            sessions(NOW, &samples::healthy()),
            [Check::ok("sessions", "none is open")]
        );
        let works = judged(samples::session(7500, Some(3)));
        assert_eq!(works, Check::ok("sessions", "1 open, the oldest for 2h 5m"));
        assert_eq!(
            judged(samples::session(60, None)).verdict,
            Verdict::Ok,
            "just being opened"
        );
    }

    #[test]
    fn an_old_session_is_named_with_its_host_and_what_to_do() {
        let quiet = judged(samples::session(7500, Some(1260)));
        assert_eq!((quiet.verdict, quiet.subject.as_str()), (Verdict::Warn, "session 4711"));
        for part in [
            "backup of stanza main by process 7 on db1",
            "kept alive by node n2",
            "open for 2h 5m",
            "without progress for 21m 0s",
        ] {
            assert!(quiet.found.contains(part), "{part}: {}", quiet.found);
        }
        let remedy = quiet.remedy.unwrap();
        assert!(
            remedy.contains("'pgmesh session-end 4711'") && remedy.contains("after 30m 0s without"),
            "{remedy}"
        );
        assert!(
            judged(samples::session(90_000, Some(0)))
                .found
                .contains("open for 1d 1h")
        );
        assert!(
            judged(samples::session(300, None))
                .found
                .contains("does not know its holder")
        );
    }
}
