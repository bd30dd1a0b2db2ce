//! The archivers of this host's clusters: `look` observes them, `checks` judges them and is pure.

use super::check::{Check, OTHER};
use crate::config::Config;
use crate::settings;
use pgmesh_client::pg::{Archiver, ArchiverState, archiver_remedy, check_archiving, open_here, ready_files};
use pgmesh_protocol::{ExitCode, Failure, now_unix};

/// The observations of one cluster.
#[derive(Debug)]
pub struct ClusterArchiver {
    /// The stanza.
    pub stanza: String,
    /// The archiver, or why the cluster's files cannot be read.
    pub archiver: Result<Archiver, Failure>,
    /// Why the server could not be asked, or which of its settings is wrong.
    pub server: Result<(), Failure>,
    /// The advice for a stuck archiver.
    pub remedy: String,
    /// The time of the observation, Unix seconds.
    pub at: i64,
}

/// Looks at the cluster of the given stanza, or at the clusters of all stanzas that the files have a section for. A
/// stanza without `pg1-path` is left out, and so is a cluster on another host.
pub async fn look(config: &Config) -> Vec<ClusterArchiver> {
    if config.stanza().is_some() {
        return look_at(config).await.into_iter().collect();
    }
    let mut seen = Vec::new();
    for stanza in config.stanzas() {
        match config.of_stanza(stanza) {
            Ok(config) => seen.extend(look_at(&config).await),
            Err(error) => seen.push(ClusterArchiver {
                stanza: stanza.clone(),
                archiver: Err(Failure::new(error.code, error.to_string())),
                server: Ok(()),
                remedy: String::new(),
                at: now_unix(),
            }),
        }
    }
    seen
}

async fn look_at(config: &Config) -> Option<ClusterArchiver> {
    let (stanza, pgdata) = (config.stanza()?, config.pg_path()?);
    let settings = settings::pg::first(config);
    if !settings.address.is_here() {
        return None;
    }
    let ready = match ready_files(pgdata) {
        Ok(ready) => ready,
        Err(failure) => {
            return Some(ClusterArchiver {
                stanza: stanza.to_owned(),
                archiver: Err(failure),
                server: Ok(()),
                remedy: String::new(),
                at: now_unix(),
            });
        }
    };
    let remedy = ready.as_ref().map(|ready| archiver_remedy(stanza, ready));
    let files_alone = Archiver {
        ready: ready.clone(),
        server: None,
    };
    let (archiver, server) = match open_here(&settings).await {
        Err(failure) => (files_alone, Err(failure)),
        Ok(cluster) => match Archiver::look(ready, Some(&cluster.client)).await {
            Err(error) => (files_alone, Err(pgmesh_client::pg::database_failure(&error))),
            Ok(archiver) => (
                archiver,
                check_archiving(&cluster.client, settings::pg::archiving(config)).await,
            ),
        },
    };
    Some(ClusterArchiver {
        stanza: stanza.to_owned(),
        archiver: Ok(archiver),
        server,
        remedy: remedy.unwrap_or_default(),
        at: now_unix(),
    })
}

/// A line for the archiver, and one for a server that cannot be asked or does not archive with pgmesh.
pub fn checks(seen: &ClusterArchiver) -> Vec<Check> {
    let subject = format!("archiver of {}", seen.stanza);
    let archiver = match &seen.archiver {
        Ok(archiver) => archiver,
        Err(failure) => {
            let remedy = failure
                .remedy
                .clone()
                .unwrap_or_else(|| "correct its section".to_owned());
            return vec![Check::warn(subject, failure.to_string(), remedy)];
        }
    };
    let found = archiver.describe(seen.at);
    let mut checks = vec![match archiver.state(seen.at) {
        ArchiverState::Well => Check::ok(subject, found),
        ArchiverState::Behind => Check::warn(
            subject,
            found,
            "see that they become fewer: pg_wal grows while they wait",
        ),
        ArchiverState::Stuck => Check::fail(subject, ExitCode::ArchiveTimeout, found, seen.remedy.clone()),
    }];
    if let Err(failure) = &seen.server {
        let subject = format!("server of {}", seen.stanza);
        let found = failure.to_string();
        let remedy = failure
            .remedy
            .clone()
            .unwrap_or_else(|| "see PostgreSQL's log".to_owned());
        checks.push(match failure.code {
            // The server may be stopped on purpose.
            ExitCode::DbConnect => Check::warn(subject, found, remedy),
            ExitCode::Ok => Check::fail(subject, OTHER, found, remedy),
            code => Check::fail(subject, code, found, remedy),
        });
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::check::Verdict;
    use pgmesh_client::pg::ReadyFiles;

    fn seen(waits: Option<i64>, server: Result<(), Failure>) -> ClusterArchiver {
        let ready = waits.map(|waits| ReadyFiles {
            count: 1,
            next: "000000010000000000000007".to_owned(),
            since: 10_000 - waits,
        });
        ClusterArchiver {
            stanza: "main".to_owned(),
            archiver: Ok(Archiver { ready, server: None }),
            server,
            remedy: "look".to_owned(),
            at: 10_000,
        }
    }

    #[test]
    fn a_server_that_is_stopped_is_a_warning_and_one_that_archives_elsewhere_a_failure() {
        let verdicts = |seen: ClusterArchiver| -> Vec<(Verdict, ExitCode)> {
            checks(&seen).iter().map(|check| (check.verdict, check.code)).collect()
        };
        assert_eq!(verdicts(seen(None, Ok(()))), [(Verdict::Ok, ExitCode::Ok)]);
        let stopped = || Err(Failure::new(ExitCode::DbConnect, "refused"));
        assert_eq!(
            verdicts(seen(Some(3), stopped())),
            [(Verdict::Ok, ExitCode::Ok), (Verdict::Warn, ExitCode::Ok)]
        );
        assert_eq!(
            verdicts(seen(Some(900), stopped())),
            [(Verdict::Warn, ExitCode::Ok), (Verdict::Warn, ExitCode::Ok)]
        );
        let foreign = Err(Failure::new(
            ExitCode::ArchiveCommandInvalid,
            "archive_command is \"cp\"",
        ));
        assert_eq!(
            verdicts(seen(None, foreign)),
            [
                (Verdict::Ok, ExitCode::Ok),
                (Verdict::Fail, ExitCode::ArchiveCommandInvalid)
            ]
        );
        let mut unread = seen(None, Ok(()));
        unread.archiver = Err(Failure::new(ExitCode::Runtime, "pg1-path cannot be read"));
        assert_eq!(verdicts(unread), [(Verdict::Warn, ExitCode::Ok)]);
    }
}
