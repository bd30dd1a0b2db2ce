//! The commands, a file each. A command returns the process's exit code, or a [`Failure`] for the user.

mod annotate;
mod archive_forget;
mod archive_get;
mod archive_push;
mod authority;
mod backup;
mod catalog_rebuild;
mod check;
mod client;
mod columns;
mod doctor;
mod expire;
mod hold;
mod info;
mod invite;
mod join;
mod membership;
mod node;
mod repo_check;
mod repo_get;
mod repo_sync;
mod repository;
mod restore;
mod stanza;
mod status;
mod stop;
mod verify;

use crate::allocator;
use crate::config::table::sets;
use crate::config::{Command, Config};
use crate::exit::CommandError;
use crate::settings;
use pgmesh_client::mesh;
use pgmesh_protocol::{ExitCode, Failure, NodeChange};
use pgmesh_storage::StanzaName;

/// How long a node's last tasks may take to end.
const SHUTDOWN: std::time::Duration = std::time::Duration::from_secs(10);

/// Runs the command that the configuration names.
pub fn run(config: &Config) -> Result<ExitCode, CommandError> {
    // Only commands that move chunks for long: for the others, starting the program twice takes longer than it saves.
    if matches!(
        config.command(),
        Command::NodeStart | Command::Backup | Command::Restore
    ) {
        allocator::bound_memory();
    }
    let runtime = runtime(config.command())
        .map_err(|error| CommandError::runtime("the runtime cannot be started").because(&error))?;
    let outcome = runtime.block_on(async {
        let outcome = dispatch(config).await;
        if outcome.is_ok()
            && sets::MESH.contains(config.command())
            && !config.flag("repo-direct")
            && let Ok(access) = settings::access::of(config)
        {
            mesh::renew_if_due(access).await;
        }
        outcome
    });
    if sets::NODE.contains(config.command()) {
        // The catalog's database must be closed before the process ends: its threads do not outlive its globals.
        runtime.shutdown_timeout(SHUTDOWN);
    } else {
        // Tasks in the background must not keep the process.
        runtime.shutdown_background();
    }
    Ok(outcome?)
}

/// A node and a backup use all cores; a push or a get starts faster with one thread.
fn runtime(command: Command) -> std::io::Result<tokio::runtime::Runtime> {
    let many = sets::NODE.contains(command) || matches!(command, Command::Backup | Command::Restore);
    let mut builder = if many {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    builder.enable_all().max_blocking_threads(32).build()
}

async fn dispatch(config: &Config) -> Result<ExitCode, Failure> {
    match config.command() {
        Command::Annotate => annotate::run(config).await,
        Command::ArchiveGet => archive_get::run(config).await,
        Command::ArchivePush => archive_push::run(config).await,
        Command::Backup => backup::run(config).await,
        Command::CatalogRebuild => catalog_rebuild::run(config).await,
        Command::Check => check::run(config).await,
        Command::ClientList => client::list(config).await,
        Command::ClientRevoke => client::revoke(config).await,
        Command::MeshRotateCa => authority::rotate(config).await,
        Command::Doctor => doctor::run(config).await,
        Command::Expire => expire::run(config).await,
        Command::Hold => hold::hold(config).await,
        Command::Release => hold::release(config).await,
        Command::Info => info::run(config).await,
        Command::Invite => invite::run(config).await,
        Command::Join => join::run(config).await,
        Command::NodeDemote => membership::change(config, NodeChange::Demote).await,
        Command::NodeDrain => membership::change(config, NodeChange::Drain).await,
        Command::NodeInit => node::init(config).await,
        Command::NodeJoin => node::join(config).await,
        Command::NodeList => membership::list(config).await,
        Command::NodePromote => membership::change(config, NodeChange::Promote).await,
        Command::NodeRemove => membership::remove(config).await,
        Command::NodeResume => membership::change(config, NodeChange::Resume).await,
        Command::NodeRescue => node::rescue(config).await,
        Command::NodeStart => node::start(config).await,
        Command::RepoCheck => repo_check::run(config).await,
        Command::RepoGet => repo_get::run(config).await,
        Command::RepoLs => repository::list(config).await,
        Command::RepoRemove => repository::remove(config).await,
        Command::RepoReplace => repository::replace(config).await,
        Command::RepoSync => repo_sync::run(config).await,
        Command::RepoUpdate => repository::update(config).await,
        Command::Restore => restore::run(config).await,
        Command::ArchiveForget => archive_forget::run(config).await,
        Command::CatalogAcceptLoss => stop::accept_loss(config).await,
        Command::SessionEnd => stop::end_session(config).await,
        Command::StanzaAdopt => stanza::adopt(config).await,
        Command::StanzaCreate => stanza::create(config).await,
        Command::StanzaDelete => stanza::delete(config).await,
        Command::StanzaUpgrade => stanza::upgrade(config).await,
        Command::Start => stop::start(config).await,
        Command::Status => status::run(config).await,
        Command::Stop => stop::stop(config).await,
        Command::Verify => verify::run(config).await,
        // `dispatch` of the program prints these.
        other @ (Command::Completions | Command::Help | Command::Version) => Err(Failure::new(
            ExitCode::CommandInvalid,
            format!("command '{other}' is not run in this way"),
        )),
    }
}

/// The stanza that `--stanza` names.
fn stanza(config: &Config) -> Result<StanzaName, Failure> {
    let text = config.stanza().ok_or_else(|| {
        Failure::new(
            ExitCode::OptionRequired,
            format!("command '{}' needs option 'stanza'", config.command()),
        )
        .remedy("give --stanza=NAME")
    })?;
    text.parse().map_err(|error| {
        Failure::new(ExitCode::OptionInvalid, format!("'{text}' is no name for a stanza")).because(error)
    })
}

/// A positional argument.
fn argument<'c>(config: &'c Config, at: usize, what: &str) -> Result<&'c str, Failure> {
    config
        .argument(at)
        .and_then(|argument| argument.to_str())
        .ok_or_else(|| {
            Failure::new(
                ExitCode::OptionRequired,
                format!("command '{}' needs {what}", config.command()),
            )
            .remedy(format!("'pgmesh help {}' shows how it is called", config.command()))
        })
}
