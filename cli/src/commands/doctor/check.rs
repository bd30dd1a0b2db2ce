//! The result of a check, and its output.

use pgmesh_protocol::ExitCode;
use serde_json::{Value, json};

/// The weight of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Worth knowing, but no failure.
    Warn,
    /// A part of the mesh or of this host does not work.
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The checked object, in a word or two.
    pub subject: String,
    /// The weight of the result.
    pub verdict: Verdict,
    /// The observation.
    pub found: String,
    /// The advice; none if all is well.
    pub remedy: Option<String>,
    /// The program's exit code if this is the first failure.
    pub code: ExitCode,
}

impl Check {
    /// All is well.
    pub fn ok(subject: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            verdict: Verdict::Ok,
            found: found.into(),
            remedy: None,
            code: ExitCode::Ok,
        }
    }

    /// Worth knowing.
    pub fn warn(subject: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warn,
            remedy: Some(remedy.into()),
            ..Self::ok(subject, found)
        }
    }

    /// Does not work.
    pub fn fail(
        subject: impl Into<String>,
        code: ExitCode,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Verdict::Fail,
            code,
            ..Self::warn(subject, found, remedy)
        }
    }

    /// `FAIL  node n3: not reached: … To do: …`.
    fn line(&self) -> String {
        let found = self.found.replace('\n', " ");
        let mut line = format!("{:<4}  {}: {found}", self.verdict.word(), self.subject);
        if let Some(remedy) = &self.remedy {
            let end = if found.ends_with(['.', '?', '!']) { "" } else { "." };
            line.push_str(end);
            line.push_str(" To do: ");
            line.push_str(&remedy.replace('\n', " "));
        }
        line
    }
}

/// A line for each check, and the sum.
pub fn render_text(checks: &[Check]) -> String {
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let lines: String = checks.iter().map(|check| check.line() + "\n").collect();
    let (failed, warned) = (count(Verdict::Fail), count(Verdict::Warn));
    format!("{lines}{} checks: {failed} failed, {warned} warned\n", checks.len())
}

/// For programs; the keys are in the command's help.
pub fn render_json(checks: &[Check]) -> Value {
    let worst = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok);
    let check = |check: &Check| {
        json!({
            "check": check.subject,
            "verdict": check.verdict.word().to_lowercase(),
            "found": check.found,
            "remedy": check.remedy,
            "code": check.code.number(),
        })
    };
    json!({
        "status": worst.word().to_lowercase(),
        "checks": checks.iter().map(check).collect::<Value>(),
    })
}

/// The code of the first failure.
pub fn verdict(checks: &[Check]) -> ExitCode {
    let Some(failed) = checks.iter().find(|check| check.verdict == Verdict::Fail) else {
        return ExitCode::Ok;
    };
    match failed.code {
        ExitCode::Ok => ExitCode::Runtime,
        code => code,
    }
}

/// The exit code of failures that have none of their own.
pub const OTHER: ExitCode = ExitCode::Runtime;

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        vec![
            Check::ok("configuration", "read"),
            Check::warn("clock of n2", "7 s\nahead", "set it right"),
            Check::fail("node n3", ExitCode::HostConnect, "not reached", "start it"),
            Check::fail("repo2", ExitCode::RepoInvalid, "down?", "mount it"),
        ]
    }

    #[test]
    fn a_line_a_check_and_the_sum() {
        let expected = "ok    configuration: read\nwarn  clock of n2: 7 s ahead. To do: set it right\n\
                        FAIL  node n3: not reached. To do: start it\nFAIL  repo2: down? To do: mount it\n\
                        4 checks: 2 failed, 1 warned\n";
        assert_eq!(render_text(&checks()), expected);
        let json = render_json(&checks());
        assert_eq!(json["status"], "fail");
        assert_eq!(json["checks"][1]["verdict"], "warn");
        assert_eq!(json["checks"][2]["code"], 49);
        assert_eq!(json["checks"][0]["remedy"], Value::Null);
    }

    #[test]
    fn the_first_failure_decides_how_the_program_ends() {
        assert_eq!(verdict(&checks()), ExitCode::HostConnect);
        assert_eq!(verdict(&checks()[..2]), ExitCode::Ok);
        assert_eq!(verdict(&[Check::fail("x", OTHER, "y", "z")]), ExitCode::Runtime);
        assert_eq!(verdict(&[Check::fail("x", ExitCode::Ok, "y", "z")]), ExitCode::Runtime);
    }
}
