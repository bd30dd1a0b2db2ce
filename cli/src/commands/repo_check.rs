//! `repo-check`: tries from this host, with its options, whether a place can hold a repository.

use super::info::repository as asked_repository;
use crate::config::Config;
use crate::exit::CommandError;
use crate::output::{self, OutputFormat};
use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_storage::{CheckOutcome, CheckSize, CheckStep, StoreError, check_store};
use serde_json::{Value, json};

/// Tries the place of one declared repository. No node is asked, and the repository's own objects are not touched.
pub async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let repo = asked_repository(config)?.ok_or_else(|| CommandError::option_required("repo", config.command()))?;
    let Some(declared) = config.repositories().remove(&repo.get()) else {
        return Err(Failure::new(
            ExitCode::OptionRequired,
            format!("the configuration does not declare repo{repo}"),
        )
        .remedy(format!(
            "give the file of a node that does: --config, or repo{repo}-type and the rest"
        )));
    };
    let settings = declared.store_settings(config, repo.get());
    let is_text = OutputFormat::of(config) == OutputFormat::Text;
    if is_text {
        output::print(&format!("repo{repo} in {settings}"))?;
    }
    let tell = |step: &CheckStep| {
        if is_text {
            // The check goes on to its outcome even if stdout cannot be written.
            let _ = output::print(&line(step));
        }
    };
    let steps = check_store(&settings, CheckSize::default(), tell)
        .await
        .map_err(|error| {
            let code = match error {
                StoreError::Unusable { .. } => ExitCode::OptionInvalid,
                _ => ExitCode::RepoInvalid,
            };
            Failure::new(code, format!("repo{repo} in {settings} cannot be tried")).because(error)
        })?;
    if !is_text {
        let steps: Vec<Value> = steps.iter().map(as_json).collect();
        output::print_json(&json!({"repo": repo.get(), "place": settings.to_string(), "step": steps}))?;
    }
    match steps.iter().find(|step| matches!(step.outcome, CheckOutcome::Bad(_))) {
        None => Ok(ExitCode::Ok),
        Some(step) => Err(Failure::new(
            ExitCode::RepoInvalid,
            format!(
                "repo{repo} in {settings} cannot hold a repository: it does not {}",
                step.what
            ),
        )
        .because(said(&step.outcome))),
    }
}

fn said(outcome: &CheckOutcome) -> String {
    match outcome {
        CheckOutcome::Good => String::new(),
        CheckOutcome::Note(text) | CheckOutcome::Bad(text) => text.clone(),
    }
}

fn word(outcome: &CheckOutcome) -> &'static str {
    match outcome {
        CheckOutcome::Good => "ok",
        CheckOutcome::Note(_) => "note",
        CheckOutcome::Bad(_) => "failed",
    }
}

fn line(step: &CheckStep) -> String {
    let head = format!(
        "{:>6}  {:>8.1} ms  {}",
        word(&step.outcome),
        step.took.as_secs_f64() * 1000.0,
        step.what
    );
    match said(&step.outcome) {
        text if text.is_empty() => head,
        text => format!("{head}\n                     {text}"),
    }
}

fn as_json(step: &CheckStep) -> Value {
    let mut entry = json!({
        "what": step.what,
        "outcome": word(&step.outcome),
        "milliseconds": step.took.as_secs_f64() * 1000.0,
    });
    let text = said(&step.outcome);
    if !text.is_empty() {
        entry["reason"] = Value::String(text);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_step_is_told_with_its_reason() {
        let step = CheckStep {
            what: "delete objects",
            outcome: CheckOutcome::Bad("403".to_owned()),
            took: Duration::from_millis(12),
        };
        assert_eq!(
            line(&step),
            "failed      12.0 ms  delete objects\n                     403"
        );
        let value = as_json(&step);
        assert_eq!((&value["outcome"], &value["reason"]), (&json!("failed"), &json!("403")));
    }
}
