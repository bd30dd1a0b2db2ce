//! The archiver of this host's cluster: the files that wait for it, and PostgreSQL's account of it.

use super::client::{ArchiverFailure, PgClient, PgClientError};
use crate::text::timestamp;
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ExitCode, Failure};
use std::io::ErrorKind;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// How long a file may wait while archive_command fails, in seconds: PostgreSQL runs it three times within two seconds,
/// and then once a minute.
const PATIENCE: i64 = 60;
/// How long archive_command may be silent while files wait, in seconds.
const SILENCE: i64 = 300;

/// Files that PostgreSQL has marked as ready for archive_command: `pg_wal/archive_status/*.ready`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyFiles {
    /// How many.
    pub count: u64,
    /// The file that PostgreSQL archives next: history files come first, then the lowest name.
    pub next: String,
    /// When the oldest was marked, Unix seconds.
    pub since: i64,
}

/// A server's account of its archiver.
#[derive(Debug, Clone)]
pub struct ServerArchiver {
    /// `archive_mode`: off, on or always.
    pub mode: String,
    /// Whether the server is a standby: it archives with `always` alone.
    pub standby: bool,
    /// When a file was last archived, Unix seconds.
    pub archived_at: Option<i64>,
    /// The last failure of archive_command that no success has followed.
    pub failure: Option<ArchiverFailure>,
}

/// The archiver of a cluster.
#[derive(Debug, Clone)]
pub struct Archiver {
    /// The files that wait; none if no file does.
    pub ready: Option<ReadyFiles>,
    /// The server's account; none if the server cannot be asked.
    pub server: Option<ServerArchiver>,
}

/// The verdict on an archiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiverState {
    /// No file waits, or none for long.
    Well,
    /// Files have waited for long. They are being archived, or their turn comes when the standby is promoted.
    Behind,
    /// Nothing leaves this host.
    Stuck,
}

impl Archiver {
    /// Looks at the files, and asks the server where there is a connection.
    ///
    /// # Errors
    /// The server could not be asked. A directory that cannot be read is an error of `files`, which comes first.
    pub async fn look(ready: Option<ReadyFiles>, client: Option<&PgClient>) -> Result<Self, PgClientError> {
        let server = match client {
            None => None,
            Some(client) => Some(ServerArchiver {
                mode: client.setting("archive_mode").await?,
                standby: client.in_recovery().await?,
                archived_at: client.archived_at().await?,
                failure: client.archiver_failure().await?,
            }),
        };
        Ok(Self { ready, server })
    }

    /// Whether archive_command failed when it last ended.
    pub fn has_failed(&self) -> bool {
        self.server.as_ref().is_some_and(|server| server.failure.is_some())
    }

    /// The verdict at `now`, Unix seconds of this host's clock.
    pub fn state(&self, now: i64) -> ArchiverState {
        let Some(ready) = &self.ready else {
            return ArchiverState::Well;
        };
        let waits = now.saturating_sub(ready.since);
        let long = waits >= SILENCE;
        let Some(server) = &self.server else {
            // A server that cannot be asked may be starting, or stopped; the files that wait are not lost.
            return if long {
                ArchiverState::Behind
            } else {
                ArchiverState::Well
            };
        };
        if server.mode == "off" || server.standby && server.mode != "always" {
            return if long {
                ArchiverState::Behind
            } else {
                ArchiverState::Well
            };
        }
        if server.failure.is_some() && waits >= PATIENCE {
            return ArchiverState::Stuck;
        }
        let silent = server.archived_at.is_none_or(|at| now.saturating_sub(at) >= SILENCE);
        match (long, silent) {
            (true, true) => ArchiverState::Stuck,
            (true, false) => ArchiverState::Behind,
            (false, _) => ArchiverState::Well,
        }
    }

    /// In one line, without a full stop: which files wait, since when, and why.
    pub fn describe(&self, now: i64) -> String {
        let Some(ready) = &self.ready else {
            let when = self.server.as_ref().and_then(|server| server.archived_at);
            let last = when.map_or_else(String::new, |at| format!("; last archived at {}", timestamp(at)));
            return format!("no WAL file waits{last}");
        };
        let count = match ready.count {
            1 => format!("1 WAL file waits, {},", ready.next),
            count => format!("{count} WAL files wait, {} is next,", ready.next),
        };
        let waiting = format!("{count} since {}", timestamp(ready.since));
        let why = match &self.server {
            None => "PostgreSQL cannot be asked".to_owned(),
            Some(server) if server.mode == "off" => "archive_mode is off".to_owned(),
            Some(server) if server.standby && server.mode != "always" => {
                "a standby archives them when it is promoted".to_owned()
            }
            Some(ServerArchiver {
                failure: Some(failure), ..
            }) => format!(
                "archive_command failed for {} last, at {}",
                failure.file,
                timestamp(failure.at)
            ),
            Some(server) if self.state(now) == ArchiverState::Stuck => match server.archived_at {
                Some(at) => format!("archive_command has not ended since {}", timestamp(at)),
                None => "archive_command has not ended since the server started to count".to_owned(),
            },
            Some(_) => "they are being archived".to_owned(),
        };
        format!("{waiting}: {why}")
    }
}

/// The files that wait in a data directory.
///
/// # Errors
/// The directory cannot be read.
pub fn ready_files(pgdata: &Path) -> Result<Option<ReadyFiles>, Failure> {
    find_ready(pgdata).map_err(|error| {
        Failure::new(
            ExitCode::Runtime,
            format!("pg1-path {} cannot be read", pgdata.display()),
        )
        .because(chain(&error))
        .remedy("run pgmesh as the user that PostgreSQL runs as, and check pg1-path")
    })
}

fn find_ready(pgdata: &Path) -> std::io::Result<Option<ReadyFiles>> {
    let mut ready: Option<ReadyFiles> = None;
    for entry in std::fs::read_dir(pgdata.join("pg_wal/archive_status"))? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(file) = name.to_str().and_then(|name| name.strip_suffix(".ready")) else {
            continue;
        };
        let marked = match entry.metadata().and_then(|metadata| metadata.modified()) {
            Ok(marked) => marked,
            // It has just been archived.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let since = marked.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        let found = ready.get_or_insert_with(|| ReadyFiles {
            count: 0,
            next: file.to_owned(),
            since,
        });
        found.count += 1;
        found.since = found.since.min(since);
        if order(file) < order(&found.next) {
            file.clone_into(&mut found.next);
        }
    }
    Ok(ready)
}

/// The order in which PostgreSQL archives (`pgarch.c`, `ready_file_comparator`).
fn order(file: &str) -> (bool, &str) {
    (!file.ends_with(".history"), file)
}

/// The remedy for a stuck archiver of a stanza.
pub fn archiver_remedy(stanza: &str, ready: &ReadyFiles) -> String {
    format!(
        "see what archive_command says in PostgreSQL's log, or run it by hand in the data directory: 'pgmesh --stanza={stanza} \
         archive-push pg_wal/{}'",
        ready.next
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn archiver(waits: i64, archived_ago: Option<i64>, fails: bool) -> Archiver {
        Archiver {
            ready: Some(ReadyFiles {
                count: 2,
                next: "000000010000000000000007".to_owned(),
                since: NOW - waits,
            }),
            server: Some(ServerArchiver {
                mode: "on".to_owned(),
                standby: false,
                archived_at: archived_ago.map(|ago| NOW - ago),
                failure: fails.then(|| ArchiverFailure {
                    file: "000000010000000000000007".to_owned(),
                    at: NOW - 3,
                }),
            }),
        }
    }

    #[test]
    fn files_that_wait_are_an_alarm_when_nothing_leaves_the_host() {
        use ArchiverState::{Behind, Stuck, Well};
        let cases = [
            // Waits, archived so long ago, the last run failed.
            (3, Some(9000), true, Well),
            (59, Some(59), true, Well),
            (60, Some(59), true, Stuck),
            (60, None, true, Stuck),
            (299, Some(9000), false, Well),
            (300, Some(299), false, Behind),
            (300, Some(300), false, Stuck),
            (300, None, false, Stuck),
        ];
        for (waits, archived, fails, expected) in cases {
            let found = archiver(waits, archived, fails);
            assert_eq!(found.state(NOW), expected, "{waits} {archived:?} {fails}");
        }
        let mut nothing = archiver(9000, None, true);
        nothing.ready = None;
        assert_eq!(nothing.state(NOW), Well, "what failed has been removed");
    }

    #[test]
    fn what_a_standby_keeps_for_its_promotion_is_not_stuck() {
        let mut found = archiver(9000, None, true);
        let server = found.server.as_mut().unwrap();
        server.standby = true;
        assert_eq!(found.state(NOW), ArchiverState::Behind);
        assert!(
            found
                .describe(NOW)
                .ends_with("a standby archives them when it is promoted")
        );
        found.server.as_mut().unwrap().mode = "off".to_owned();
        assert_eq!(found.state(NOW), ArchiverState::Behind);
        found.server.as_mut().unwrap().mode = "always".to_owned();
        assert_eq!(found.state(NOW), ArchiverState::Stuck);
        found.server = None;
        assert_eq!(found.state(NOW), ArchiverState::Behind);
    }

    #[test]
    fn the_reason_stands_in_one_line() {
        let said = archiver(60, None, true).describe(NOW);
        let parts = [
            "2 WAL files wait, 000000010000000000000007 is next, since",
            "archive_command failed for 0000",
        ];
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        let said = archiver(300, Some(400), false).describe(NOW);
        assert!(said.contains("archive_command has not ended since"), "{said}");
        let said = archiver(300, Some(1), false).describe(NOW);
        assert!(said.ends_with("they are being archived"), "{said}");
    }

    #[test]
    fn ready_files_are_counted_and_history_comes_first() {
        let pgdata = tempfile::tempdir().unwrap();
        assert!(ready_files(pgdata.path()).is_err());
        let status = pgdata.path().join("pg_wal/archive_status");
        std::fs::create_dir_all(&status).unwrap();
        let mark = |name: &str| std::fs::write(status.join(name), "").unwrap();
        mark("000000010000000000000001.done");
        assert_eq!(ready_files(pgdata.path()).unwrap(), None);
        mark("000000010000000000000003.ready");
        mark("000000010000000000000002.ready");
        let found = ready_files(pgdata.path()).unwrap().unwrap();
        assert_eq!((found.count, found.next.as_str()), (2, "000000010000000000000002"));
        mark("00000002.history.ready");
        let found = ready_files(pgdata.path()).unwrap().unwrap();
        assert_eq!((found.count, found.next.as_str()), (3, "00000002.history"));
        assert!(found.since > NOW / 2);
    }
}
