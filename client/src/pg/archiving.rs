//! Whether the server hands its WAL to pgmesh.

use super::client::PgClient;
use super::cluster::database_failure;
use pgmesh_protocol::{ExitCode, Failure};

/// The demands on a server's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchivingCheck {
    /// `archive-check`: the server must archive with pgmesh, and WAL is waited for.
    pub is_wanted: bool,
    /// `archive-mode-check`: `archive_mode=always` is refused.
    pub refuses_always: bool,
}

/// The server's settings that decide whether its WAL reaches the mesh.
struct ArchiveSettings {
    wal_level: String,
    mode: String,
    command: String,
    /// From 15 on; a library makes the server ignore the command.
    library: String,
}

/// Checks that the server archives its WAL with `pgmesh archive-push`, as far as that is asked for.
///
/// # Errors
/// Archiving is off, or `always` (87); the server archives with another program (68); the server could not be asked.
pub async fn check_archiving(client: &PgClient, check: ArchivingCheck) -> Result<(), Failure> {
    if !check.is_wanted {
        return Ok(());
    }
    let setting = async |name| client.setting(name).await.map_err(|error| database_failure(&error));
    let settings = ArchiveSettings {
        wal_level: setting("wal_level").await?,
        mode: setting("archive_mode").await?,
        command: setting("archive_command").await?,
        library: if client.version() >= pgmesh_postgres::PgVersion::V15 {
            setting("archive_library").await?
        } else {
            String::new()
        },
    };
    judge(&settings, check.refuses_always)
}

fn judge(settings: &ArchiveSettings, refuse_always: bool) -> Result<(), Failure> {
    let disabled = |what: String| Failure::new(ExitCode::ArchiveDisabled, what);
    let foreign = |what: String| {
        Failure::new(ExitCode::ArchiveCommandInvalid, what)
            .remedy("set archive_command = 'pgmesh --stanza=NAME archive-push %p' and reload PostgreSQL")
    };
    if settings.wal_level == "minimal" {
        return Err(disabled("wal_level is minimal: such WAL cannot be archived".to_owned())
            .remedy("set wal_level = replica and archive_mode = on, then restart PostgreSQL"));
    }
    match settings.mode.as_str() {
        "on" => {}
        "always" if !refuse_always => {}
        "always" => {
            return Err(
                disabled("archive_mode is always: a standby would archive the same segments again".to_owned())
                    .remedy("set archive_mode = on, or archive-mode-check=n"),
            );
        }
        other => {
            return Err(disabled(format!("archive_mode is {other}: PostgreSQL archives no WAL"))
                .remedy("set archive_mode = on and restart PostgreSQL"));
        }
    }
    if !settings.library.is_empty() {
        return Err(foreign(format!(
            "archive_library is {:?}: archive_command is not used",
            settings.library
        ))
        .remedy("set archive_library = '' and archive_command = 'pgmesh --stanza=NAME archive-push %p'"));
    }
    // The text between the two words is the user's: paths, options, a wrapper's quoting.
    if settings.command.contains("pgmesh") && settings.command.contains("archive-push") {
        return Ok(());
    }
    Err(foreign(match settings.command.as_str() {
        "" | "(disabled)" => "archive_command is not set: PostgreSQL keeps its WAL to itself".to_owned(),
        command => format!("archive_command is {command:?}, which is not pgmesh archive-push"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(level: &str, mode: &str, command: &str, library: &str) -> ArchiveSettings {
        let [wal_level, mode, command, library] = [level, mode, command, library].map(str::to_owned);
        ArchiveSettings {
            wal_level,
            mode,
            command,
            library,
        }
    }

    #[test]
    fn only_a_server_that_archives_to_the_mesh_is_taken() {
        let command = "/usr/bin/pgmesh --stanza=main archive-push %p";
        let code = |settings: ArchiveSettings, always| judge(&settings, always).err().map(|failure| failure.code);
        assert_eq!(code(settings("replica", "on", command, ""), true), None);
        assert_eq!(code(settings("logical", "always", command, ""), false), None);
        assert_eq!(
            code(settings("logical", "always", command, ""), true),
            Some(ExitCode::ArchiveDisabled)
        );
        assert_eq!(
            code(settings("replica", "off", command, ""), true),
            Some(ExitCode::ArchiveDisabled)
        );
        assert_eq!(
            code(settings("minimal", "off", command, ""), true),
            Some(ExitCode::ArchiveDisabled)
        );
        assert_eq!(
            code(settings("replica", "on", "(disabled)", ""), true),
            Some(ExitCode::ArchiveCommandInvalid)
        );
        assert_eq!(
            code(settings("replica", "on", "pgbackrest archive-push %p", ""), true),
            Some(ExitCode::ArchiveCommandInvalid)
        );
        assert_eq!(
            code(settings("replica", "on", command, "basic_archive"), true),
            Some(ExitCode::ArchiveCommandInvalid)
        );
    }
}
