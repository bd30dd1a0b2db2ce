//! `version`: the program's version, and the formats that it reads and writes.

use crate::config::Config;
use crate::help::VERSION;
use crate::output::OutputFormat;
use pgmesh_node::{APPLY_LEVEL, CATALOG_FORMAT};
use pgmesh_postgres::wal::SegmentMap;
use pgmesh_storage::{ENVELOPE_FORMAT, MANIFEST_FORMAT, REPOSITORY_FORMAT, STANZA_FORMAT};
use pgmesh_transport::wire_version::WIRE_VERSION;
use serde_json::{Value, json};

/// A format: its name in JSON, what has it, and its number.
type Format = (&'static str, &'static str, u64);

/// Each format is read and written in one version.
const FORMATS: [Format; 8] = [
    ("catalog", "catalog", CATALOG_FORMAT as u64),
    (
        "apply-level",
        "apply level of commands of the catalog, at most",
        APPLY_LEVEL as u64,
    ),
    ("wire", "wire protocol", WIRE_VERSION as u64),
    ("repository", "repository", REPOSITORY_FORMAT as u64),
    ("object", "object in a repository", ENVELOPE_FORMAT as u64),
    ("manifest", "manifest of a backup", MANIFEST_FORMAT as u64),
    ("stanza", "description of a stanza", STANZA_FORMAT as u64),
    ("change-map", "change map of a WAL segment", SegmentMap::FORMAT as u64),
];

/// What the command prints.
pub fn text(config: &Config) -> String {
    render(config.flag("verbose"), OutputFormat::of(config))
}

fn render(is_verbose: bool, format: OutputFormat) -> String {
    let formats: &[Format] = if is_verbose { &FORMATS } else { &[] };
    match format {
        OutputFormat::Json => {
            let mut version = json!({"name": "pgmesh", "version": env!("CARGO_PKG_VERSION")});
            if is_verbose {
                version["formats"] = formats
                    .iter()
                    .map(|(key, _, number)| (*key, *number))
                    .collect::<Value>();
            }
            version.to_string()
        }
        OutputFormat::Text => {
            let lines = formats.iter().map(|(_, what, number)| format!("\n{what}: {number}"));
            format!("{VERSION}{}", lines.collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_where_they_are_asked_for() {
        assert_eq!(render(false, OutputFormat::Text), VERSION);
        let text = render(true, OutputFormat::Text);
        assert!(
            text.starts_with(VERSION) && text.contains("\nwire protocol: "),
            "{text}"
        );
        let short: Value = serde_json::from_str(&render(false, OutputFormat::Json)).unwrap();
        assert_eq!(short, json!({"name": "pgmesh", "version": env!("CARGO_PKG_VERSION")}));
        let long: Value = serde_json::from_str(&render(true, OutputFormat::Json)).unwrap();
        assert_eq!(long["formats"].as_object().unwrap().len(), FORMATS.len());
        assert_eq!(long["formats"]["catalog"], CATALOG_FORMAT);
    }
}
