//! `hold` and `release`: a backup that does not expire, and the end of that.

use super::{argument, stanza};
use crate::config::{Config, parse_duration};
use crate::exit::ExitCode;
use crate::output::{self, OutputFormat, timestamp};
use crate::settings;
use pgmesh_client::mesh::Mesh;
use pgmesh_client::text::unix_seconds;
use pgmesh_protocol::{Failure, HoldBackup, HoldWish};
use pgmesh_runtime::clock;
use pgmesh_storage::BackupLabel;
use serde_json::json;

/// Holds a backup.
pub async fn hold(config: &Config) -> Result<ExitCode, Failure> {
    let (stanza, label) = (stanza(config)?, label(config)?);
    let until = config.text("until").map(|text| until(text, now())).transpose()?;
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let request = HoldBackup {
        stanza: stanza.clone(),
        label: label.clone(),
        hold: Some(HoldWish {
            until,
            why: config.text("why").unwrap_or_default().into(),
        }),
    };
    let held = mesh.call(&request).await?;
    match OutputFormat::of(config) {
        OutputFormat::Json => output::print_json(&json!({"label": label, "until": until, "held": held}))?,
        OutputFormat::Text => output::print(&describe(&label, until, &held))?,
    }
    Ok(ExitCode::Ok)
}

/// Releases a backup.
pub async fn release(config: &Config) -> Result<ExitCode, Failure> {
    let (stanza, label) = (stanza(config)?, label(config)?);
    let mesh = Mesh::connect(settings::access::of(config)?).await?;
    let request = HoldBackup {
        stanza,
        label: label.clone(),
        hold: None,
    };
    mesh.call(&request).await?;
    output::print(&format!(
        "backup {label} is not held any more: the next 'expire' treats it as any other"
    ))?;
    Ok(ExitCode::Ok)
}

fn describe(label: &BackupLabel, until: Option<i64>, held: &[BackupLabel]) -> String {
    let until = until.map_or("until it is released".to_owned(), |until| {
        format!("until {}", timestamp(until))
    });
    let others: Vec<&str> = held
        .iter()
        .filter(|held| *held != label)
        .map(BackupLabel::as_str)
        .collect();
    let with = match others[..] {
        [] => String::new(),
        _ => format!("; with it, since it depends on them: {}", others.join(", ")),
    };
    format!("backup {label} is held {until}{with}")
}

fn label(config: &Config) -> Result<BackupLabel, Failure> {
    let text = argument(config, 0, "the label of a backup")?;
    text.parse().map_err(|_| {
        Failure::new(
            ExitCode::OptionInvalidValue,
            format!("'{text}' is not a valid backup label format"),
        )
        .remedy("'pgmesh info' lists the labels of the backups there are")
    })
}

fn now() -> i64 {
    time::OffsetDateTime::from(clock::now()).unix_timestamp()
}

/// A span from now on, or a time.
fn until(text: &str, now: i64) -> Result<i64, Failure> {
    let span = parse_duration(text).filter(|_| text.ends_with(|last: char| last.is_ascii_alphabetic()));
    let until = match span {
        Some(span) => i64::try_from(span.as_secs())
            .ok()
            .and_then(|seconds| now.checked_add(seconds)),
        None => unix_seconds(text),
    };
    let invalid = |why: &str| {
        Failure::new(
            ExitCode::OptionInvalidValue,
            format!("'{text}' is not valid for 'until' option"),
        )
        .because(why)
        .remedy("give a time such as 2027-06-30 or '2027-06-30 18:00:00+02', or a span such as 90d")
    };
    match until {
        None => Err(invalid("it is neither a time nor a span")),
        Some(until) if until <= now => Err(invalid("it is over already")),
        Some(until) => Ok(until),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_hold_is_a_span_or_a_time() {
        assert_eq!(until("90d", 1_000), Ok(1_000 + 90 * 86_400));
        assert_eq!(until("2027-06-30 18:00:00+02", 1_000), Ok(1_814_371_200));
        assert!(until("2027-06-30", 1_000).is_ok());
        for wrong in ["2027-06-30 18:00:00+02", "soon", "0s", "2027"] {
            let failure = until(wrong, 1_900_000_000).unwrap_err();
            assert_eq!(failure.code, ExitCode::OptionInvalidValue, "{wrong}");
        }
    }

    #[test]
    fn the_backups_that_are_held_with_it_are_named() {
        let [full, incr] = ["20260102-000000F", "20260102-000000F_20260103-000000I"].map(|text| text.parse().unwrap());
        assert_eq!(
            describe(&incr, None, &[full, incr.clone()]),
            "backup 20260102-000000F_20260103-000000I is held until it is released; with it, since it depends on them: \
             20260102-000000F"
        );
    }
}
