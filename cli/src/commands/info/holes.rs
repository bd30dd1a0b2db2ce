//! Missing WAL, in sentences. Pure.

use crate::output::timestamp;
use pgmesh_protocol::HolesReport;

/// The advice for holes.
pub const REMEDY: &str = "push the missing segments where a server still has them in pg_wal ('pgmesh archive-push \
                          PATH'); else take a new backup: older backups cannot be recovered beyond the missing WAL";

/// The holes of all stanzas, a sentence each.
pub fn describe_holes(report: &HolesReport) -> Vec<String> {
    let of = |stanza: &pgmesh_protocol::StanzaHoles| {
        let name = stanza.stanza.clone();
        let sentences = stanza.sentences(timestamp);
        sentences.into_iter().map(move |line| format!("stanza {name}: {line}"))
    };
    report.stanzas.iter().flat_map(of).collect()
}
