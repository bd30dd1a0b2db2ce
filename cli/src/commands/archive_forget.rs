//! `archive-forget`: takes WAL out of the archive that differs from the cluster's present history. The node first says
//! which files it would forget; the second request has it forget them.

use super::{argument, stanza};
use crate::config::Config;
use crate::exit::ExitCode;
use crate::output::{self, size};
use crate::settings;
use pgmesh_client::mesh::Mesh;
use pgmesh_protocol::{Failure, ForgetWal, ForgottenWal};
use pgmesh_storage::StanzaName;
use serde_json::{Value, json};

/// Forgets a file, the later files of its timeline and the timelines that branch off after it. With `--dry-run`, names
/// them only.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let stanza = stanza(config)?;
    let from = argument(config, 0, "the file that is refused")?.to_owned();
    let dry_run = config.flag("dry-run");
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let mut forget = ForgetWal {
        stanza: stanza.clone(),
        from: from.into(),
        upto: None,
        with_backups: config.flag("with-backups"),
        force: config.flag("force"),
    };
    let forgotten = mesh.call(&forget).await?;
    if !dry_run {
        // The node forgets exactly the files that it has named, also when the answer is lost and the client asks again.
        forget.upto = Some(forgotten.position);
        mesh.call(&forget).await?;
    }
    if config.text("output") == Some("json") {
        output::print_json(&as_json(&forgotten))?;
    } else {
        output::print(&describe(&stanza, &forgotten, dry_run))?;
    }
    Ok(ExitCode::Ok)
}

fn describe(stanza: &StanzaName, forgotten: &ForgottenWal, dry_run: bool) -> String {
    let verb = if dry_run { "would be forgotten" } else { "forgotten" };
    let ends = forgotten.timelines.iter().map(|end| {
        format!(
            "timeline {} of stanza {stanza}: {} files {verb}, {} to {}, {} in all repositories",
            end.timeline,
            end.files,
            end.first,
            end.last,
            size(end.bytes)
        )
    });
    let mut lines: Vec<String> = ends.collect();
    if forgotten.backup_count > 0 {
        let named = forgotten.backups.join(", ");
        let more = forgotten.backup_count.saturating_sub(forgotten.backups.len() as u64);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let verb = if dry_run {
            "would be removed with it"
        } else {
            "removed with it"
        };
        lines.push(format!("{} backups {verb}: {named}{more}", forgotten.backup_count));
    }
    lines.join("\n")
}

fn as_json(forgotten: &ForgottenWal) -> Value {
    let timelines = forgotten.timelines.iter().map(|end| {
        json!({
            "timeline": end.timeline.0,
            "first": end.first,
            "last": end.last,
            "files": end.files,
            "bytes": end.bytes,
        })
    });
    json!({
        "timelines": timelines.collect::<Value>(),
        "backups": forgotten.backups,
        "backup-count": forgotten.backup_count,
    })
}
