//! `node init`, `node join` and `node start`.

use crate::config::Config;
use crate::output;
use crate::settings;
use pgmesh_node::Ended;
use pgmesh_node::rescue::{RescueOptions, Rescued};
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::DigestSuite;
use pgmesh_transport::Role;
use std::os::unix::process::CommandExt;
use tokio::signal::unix::{SignalKind, signal};

/// Makes a new mesh of one node.
pub async fn init(config: &Config) -> Result<ExitCode, Failure> {
    let settings = settings::node::of(config)?;
    let text = config.text("digest-suite").unwrap_or("blake3");
    let suite: DigestSuite = text
        .parse()
        .map_err(|error| Failure::new(ExitCode::OptionInvalid, "digest-suite cannot be used").because(error))?;
    let made = pgmesh_node::init(&settings, suite).await?;
    output::print(&format!(
        "mesh {} founded on node {} ({}); CA fingerprint {}\nstart it with: pgmesh --config=FILE node start",
        made.mesh_id,
        settings.name,
        settings.path.display(),
        made.ca_fingerprint
    ))?;
    Ok(ExitCode::Ok)
}

/// Makes this host another node of a mesh.
pub async fn join(config: &Config) -> Result<ExitCode, Failure> {
    let settings = settings::node::of(config)?;
    let token = super::join::token(config)?;
    if token.role != Role::Node {
        let what = format!("this token is not a node's: its role is {}", token.role.kind());
        return Err(Failure::new(ExitCode::OptionInvalid, what)
            .remedy("run 'pgmesh join TOKEN' with it, or make a node's with 'pgmesh invite --role=node NAME'"));
    }
    let joined = pgmesh_node::join(&settings, &token).await?;
    output::print(&format!(
        "node {} ({}) joined mesh {} as its node number {}; CA fingerprint {}\nstart it with: pgmesh --config=FILE node start",
        settings.name,
        settings.path.display(),
        joined.mesh_id,
        joined.node_id,
        joined.ca_fingerprint
    ))?;
    Ok(ExitCode::Ok)
}

/// Goes on alone with this host's node.
pub async fn rescue(config: &Config) -> Result<ExitCode, Failure> {
    let settings = settings::node::of(config)?;
    let options = RescueOptions {
        force: config.flag("force"),
        dry_run: config.flag("dry-run"),
    };
    let rescued = pgmesh_node::rescue::rescue(&settings, options).await?;
    output::print(&describe_rescue(&settings.name, &rescued, options))?;
    Ok(ExitCode::Ok)
}

fn describe_rescue(name: &str, rescued: &Rescued, options: RescueOptions) -> String {
    let mut lines = Vec::new();
    let (did, are) = if options.dry_run {
        ("would go on alone", "would be")
    } else {
        ("goes on alone", "are")
    };
    lines.push(format!(
        "node {name} {did} as number {}, in era {} of the catalog; {} {are} removed",
        rescued.number,
        rescued.era,
        rescued.removed.join(", ")
    ));
    lines.push(match rescued.uncommitted {
        0 => format!("its catalog ends at position {}", rescued.position),
        tail => format!(
            "its catalog ends at position {}; the last {tail} entries of its log are kept, though the node does not \
             know whether they were committed",
            rescued.position
        ),
    });
    for (repo, position, written) in &rescued.ahead {
        lines.push(format!(
            "LOST: the records of the catalog between position {} and {position}: repo{repo} shows that the catalog \
             had reached that position at {}",
            rescued.position,
            output::timestamp(*written)
        ));
    }
    for (repo, why) in &rescued.unread {
        lines.push(format!(
            "repo{repo} was not read ({why}): its marks may show further losses"
        ));
    }
    lines.push(
        "the records that the other nodes acknowledged after the last mark may be lost, too (a minute at most in a \
         repository that was written to, an hour where marks cannot be deleted; unknown for repositories that were \
         not read). WAL of that time is taken up from the repositories some minutes after the start; WAL that is in \
         none of them is lost"
            .to_owned(),
    );
    if !options.dry_run {
        lines.push(format!("the former catalog is kept in {}", rescued.kept.display()));
    }
    lines.push(
        "next: 'pgmesh --config=FILE node start'; 'pgmesh doctor'; 'pgmesh --repo=N --force repo-remove' for each \
         repository that is gone with its node; 'pgmesh invite --role=node NAME' for new nodes; a backup of each \
         stanza"
            .to_owned(),
    );
    lines.join("\n")
}

/// Runs the node in the foreground until SIGTERM or SIGINT.
pub async fn start(config: &Config) -> Result<ExitCode, Failure> {
    let settings = settings::node::of(config)?;
    let unavailable = |error| Failure::new(ExitCode::Runtime, "signals cannot be caught").because(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(unavailable)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unavailable)?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    match Box::pin(pgmesh_node::run(settings, |_| {}, stop)).await? {
        Ended::Stopped => Ok(ExitCode::Ok),
        Ended::StartAgain => Err(start_again()),
    }
}

/// Replaces this process by a new one of the same program with the same arguments. The old node is gone with its locks
/// and sockets, and a supervisor still sees the same process. Returns only if that fails.
fn start_again() -> Failure {
    let program = std::env::current_exe().ok().filter(|program| program.exists());
    let program = program
        .or_else(|| std::env::args_os().next().map(Into::into))
        .unwrap_or_default();
    let error = std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .exec();
    Failure::new(
        ExitCode::Runtime,
        "the node begins anew with an empty catalog, but its process could not be restarted",
    )
    .because(error)
    .remedy("start it again: 'pgmesh --config=FILE node start'")
}
