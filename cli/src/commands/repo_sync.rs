//! `repo-sync`: fills a repository from the others, and shows how its debt goes down.

use super::info::repository as asked_repository;
use crate::config::Config;
use crate::exit::{CommandError, ExitCode};
use crate::output::{self, size};
use crate::progress::Counter;
use crate::settings;
use pgmesh_client::mesh::{Heard, Mesh};
use pgmesh_protocol::{DebtInfo, Failure, SyncEvent, SyncRepository};
use std::ops::ControlFlow;

/// Starts the synchronization and waits for its end. Nodes do the work, which goes on without this command.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let repo = asked_repository(config)?.ok_or_else(|| CommandError::option_required("repo", config.command()))?;
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let counter = Counter::start("repo-sync");
    let mut made = 0;
    let request = SyncRepository { repo };
    let events = mesh.events(&request, |heard| match heard {
        Heard::Begun => ControlFlow::Continue(()),
        Heard::Event(SyncEvent::Progress { debt }) => {
            tracing::debug!(objects = debt.objects, bytes = debt.bytes, "repo{repo} owes");
            counter.show(owing(debt));
            ControlFlow::Continue(())
        }
        Heard::Event(SyncEvent::Done { objects }) => {
            made = objects;
            ControlFlow::Break(Ok(()))
        }
        Heard::Event(SyncEvent::Failed(failure)) => ControlFlow::Break(Err(failure)),
    });
    events.await?;
    drop(counter);
    output::print(&format!(
        "repo{repo} has all objects that the other repositories have; {made} objects were copied"
    ))?;
    Ok(ExitCode::Ok)
}

fn owing(debt: DebtInfo) -> String {
    format!("{} objects ({}) to go", debt.objects, size(debt.bytes))
}
