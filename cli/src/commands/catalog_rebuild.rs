//! `catalog-rebuild`: makes a node from a repository when all nodes are gone.

use super::info::repository as asked_repository;
use crate::config::Config;
use crate::exit::{CommandError, ExitCode};
use crate::output::{self, OutputFormat};
use crate::progress::{self, Counter};
use crate::settings;
use pgmesh_client::progress::Progress;
use pgmesh_node::NodeSettings;
use pgmesh_node::rebuild::{RebuildEvent, Rebuilt, RebuiltStanza, Tell, rebuild};
use pgmesh_protocol::Failure;
use pgmesh_storage::RepoKey;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

/// Rebuilds the catalog. Objects that could not be taken up as they were are listed and are no failure: the command has
/// done all that can be done.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let settings = settings::node::of(config)?;
    let repo = chosen(config, &settings)?;
    let workers = usize::try_from(config.integer("process-max")).unwrap_or(1);
    let rebuilt = rebuild(&settings, repo, workers, config.flag("force"), tell()).await?;
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&rebuilt)?,
        OutputFormat::Text => output::print(&text(&rebuilt, &settings))?,
    }
    Ok(ExitCode::Ok)
}

/// The repository that `--repo` names, or the only one in the file.
fn chosen(config: &Config, settings: &NodeSettings) -> Result<RepoKey, Failure> {
    let declared: Vec<RepoKey> = settings.repositories.keys().copied().collect();
    match (asked_repository(config)?, declared.as_slice()) {
        (Some(asked), _) => Ok(asked),
        (None, [only]) => Ok(*only),
        (None, []) => Err(CommandError::option_required("repo1-path", config.command())
            .remedy("declare the repository that is left in the node's file")
            .into()),
        (None, several) => {
            let numbers: Vec<String> = several.iter().map(|key| format!("repo{key}")).collect();
            Err(CommandError::option_required("repo", config.command())
                .because_of(format!("the node's file declares {}", numbers.join(", ")))
                .remedy(
                    "give the number of the most complete repository: --repo=N; the node takes up the others when it \
                     starts",
                )
                .into())
        }
    }
}

/// Shows the progress.
fn tell() -> Tell {
    let listing = Mutex::new(Some(Counter::start("catalog-rebuild")));
    let reading: Mutex<Option<Progress>> = Mutex::new(None);
    Arc::new(move |event| {
        let mut listing = listing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reading = reading.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            RebuildEvent::Listed(objects) => {
                tracing::debug!(objects, "listed");
                if let Some(counter) = &*listing {
                    counter.show(format!("{objects} objects listed"));
                }
            }
            RebuildEvent::Reading(bytes) => {
                *listing = None;
                *reading = Some(progress::start("catalog-rebuild", bytes));
            }
            RebuildEvent::Read(bytes) => {
                if let Some(progress) = &*reading {
                    progress.advance(bytes);
                }
            }
            RebuildEvent::Found(problem) => tracing::warn!("{problem}"),
        }
    })
}

fn text(rebuilt: &Rebuilt, settings: &NodeSettings) -> String {
    let mut text = format!(
        "mesh {} rebuilt from repo{} on node {} ({}); CA fingerprint {}\n",
        rebuilt.mesh_id,
        rebuilt.repo,
        settings.name,
        settings.path.display(),
        rebuilt.ca_fingerprint
    );
    for RebuiltStanza {
        name,
        databases,
        backups,
        wal_files,
    } in &rebuilt.stanzas
    {
        let databases = databases.join(", ");
        let _ = writeln!(
            text,
            "stanza {name}: {backups} backups, {wal_files} WAL files, databases {databases}"
        );
    }
    let _ = writeln!(
        text,
        "{} chunks; {} objects that belong to no backup and no archive were left alone",
        rebuilt.chunks, rebuilt.unnamed
    );
    match rebuilt.problems.len() {
        0 => {}
        count => {
            let _ = writeln!(text, "{count} things need attention:");
            for problem in &rebuilt.problems {
                let _ = writeln!(text, "  {problem}");
            }
        }
    }
    text + "the content of chunks was not read: 'pgmesh verify' does that on the running node\n\
            no node of the old mesh may run any more; the certificate authority is new, so all hosts and nodes must \
            join again: with a token of\n\
            'pgmesh invite' here, hosts by 'pgmesh join --force TOKEN'\n\
            start the node with: pgmesh --config=FILE node start"
}

#[cfg(test)]
mod tests {
    use pgmesh_node::rebuild::{Problem, ProblemKind};

    #[test]
    fn the_summary_says_what_is_wrong() {
        let problem = Problem {
            kind: ProblemKind::WalGap,
            stanza: Some("main".to_owned()),
            subject: "A to B".to_owned(),
            what: "2 segments are missing".to_owned(),
            remedy: Some("take a new backup".to_owned()),
        };
        assert_eq!(
            problem.to_string(),
            "stanza main: A to B: 2 segments are missing; take a new backup"
        );
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(json["kind"], "wal-gap");
    }
}
