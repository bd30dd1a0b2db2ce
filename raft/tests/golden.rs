//! The bytes of every command and of every record of the catalog. A change of one of them is a change of the catalog's
//! format, and is seen here.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../../protocol/tests/golden/sampler.rs"]
mod sampler;

use pgmesh_postgres::SegmentName;
use pgmesh_raft::model::{
    AuditRecord, AuthorityId, BackupRecord, CatalogPast, CertificateRecord, ChunkRecord, Debt, Garbage, LastPush,
    Levels, LogIndex, Lost, MeshRecord, NodeRecord, OrphanScan, Remembered, RepositoryCounters, RepositoryRecord,
    RequestId, Revocation, Rotation, SegmentRecord, SessionRecord, SightedOrphan, StanzaRecord, TokenRecord, Unlisted,
    UseEvent, WithdrawnMarks,
};
use pgmesh_raft::peers::{PeerReply, PeerRequest};
use pgmesh_raft::store::RaftState;
use pgmesh_raft::table::Table;
use pgmesh_raft::{Command, Proposal, value};
use pgmesh_storage::{Digest, DigestSuite, Generation, wire};
use sampler::{compare, samples};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;

/// Asked when it runs: another clone may have built it.
fn folder() -> String {
    format!("{}/tests/golden", std::env::var("CARGO_MANIFEST_DIR").unwrap())
}

const WHAT_TO_DO: &str = "Nodes of other versions read them otherwise, and so does a node that starts with its own disk: \
    raise CATALOG_FORMAT in raft/src/model/mesh.rs, unless no release has the one that is there.";

/// Lines `name, which sample, hexadecimal digits`.
fn lines<T: Serialize + DeserializeOwned>(name: &str) -> Vec<String> {
    let mut types = BTreeSet::new();
    let lines = samples::<T>(&mut types).into_iter().enumerate().map(|(which, sample)| {
        let bytes = value::encode(&sample);
        let read: T = value::decode(Table::Mesh, b"", &bytes).unwrap();
        assert_eq!(
            value::encode(&read),
            bytes,
            "{name}: what was read is not what was written"
        );
        format!("{name}\t{which}\t{}", hex::encode(bytes))
    });
    let lines: Vec<String> = lines.collect();
    lines
        .into_iter()
        .chain(types.iter().map(|found| format!("type\t{found}")))
        .collect()
}

/// The records of a table. There is no arm for all others: a new table does not compile before its records are here.
fn records(table: Table) -> Vec<String> {
    let name = table.name();
    match table {
        Table::Mesh => [
            lines::<MeshRecord>("mesh: mesh"),
            lines::<CatalogPast>("mesh: past"),
            lines::<Levels>("mesh: levels"),
            lines::<WithdrawnMarks>("mesh: withdrawn"),
            lines::<LogIndex>("mesh: positions"),
            lines::<Generation>("mesh: floors"),
            lines::<u64>("mesh: counts"),
            lines::<Rotation>("mesh: rotation"),
        ]
        .concat(),
        Table::Nodes => lines::<NodeRecord>(name),
        Table::Repositories => lines::<RepositoryRecord>(name),
        Table::Counters => lines::<RepositoryCounters>(name),
        Table::Stanzas => lines::<StanzaRecord>(name),
        Table::Segments => lines::<SegmentRecord>(name),
        Table::Pushes => lines::<LastPush>(name),
        Table::Chunks => lines::<ChunkRecord>(name),
        Table::Condemned => lines::<LogIndex>(name),
        Table::Backups => lines::<BackupRecord>(name),
        Table::TimelineBackups => lines::<()>(name),
        Table::Withdrawn => lines::<Vec<Digest>>(name),
        Table::Debts => lines::<Debt>(name),
        Table::Lost => lines::<Lost>(name),
        Table::Garbage | Table::Kept => lines::<Garbage>(name),
        Table::Orphans => lines::<SightedOrphan>(name),
        Table::OrphanScans => lines::<OrphanScan>(name),
        Table::Sessions => lines::<SessionRecord>(name),
        Table::Tokens => lines::<TokenRecord>(name),
        Table::Audit => lines::<AuditRecord>(name),
        Table::Requests => lines::<Remembered>(name),
        Table::RequestRing => lines::<RequestId>(name),
        Table::Raft => lines::<RaftState>(name),
        Table::Certificates => lines::<CertificateRecord>(name),
        Table::TokenMakers => lines::<[u8; 32]>(name),
        Table::RevokedNames => lines::<Revocation>(name),
        Table::Uses | Table::BackupUses => lines::<UseEvent>(name),
        Table::Abandoned | Table::Possessions | Table::StanzaPossessions => lines::<()>(name),
        Table::Releases => lines::<LogIndex>(name),
        Table::Unlisted => lines::<Unlisted>(name),
        Table::ExpiredWal => lines::<SegmentName>(name),
        Table::Issuers => lines::<AuthorityId>(name),
    }
}

/// A type that is in several records has one line.
fn each_once(lines: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    lines.into_iter().filter(|line| seen.insert(line.clone())).collect()
}

#[test]
fn the_bytes_of_records_change_only_with_the_catalog_s_format() {
    let lines: Vec<String> = Table::ALL.into_iter().flat_map(records).collect();
    let lines: Vec<String> = each_once(lines);
    compare(&format!("{}/records.txt", folder()), &lines, WHAT_TO_DO);
}

#[test]
fn the_bytes_of_commands_change_only_with_the_catalog_s_format() {
    let mut types = BTreeSet::new();
    let commands = samples::<Command>(&mut types)
        .into_iter()
        .enumerate()
        .map(|(which, command)| {
            let bytes = wire::encode(&command);
            assert_eq!(wire::decode::<Command>(&bytes, bytes.len()).unwrap(), command);
            format!("{}\t{which}\t{}", command.name(), hex::encode(bytes))
        });
    let mut lines: Vec<String> = commands.collect();
    lines.extend(types.iter().map(|found| format!("type\t{found}")));
    // Around each command.
    lines.extend(self::lines::<Proposal>("proposal").into_iter().take(1));
    compare(&format!("{}/commands.txt", folder()), &each_once(lines), WHAT_TO_DO);
}

/// The messages between the nodes of a group: opaque to the crate that has the other messages.
#[test]
fn the_bytes_of_consensus_change_only_with_the_wire_version() {
    let lines = each_once([lines::<PeerRequest>("asks"), lines::<PeerReply>("answers")].concat());
    // There are many of them, with whole commands in them: the digest of a long one tells as much.
    let shortened = lines.into_iter().map(|line| match line.rsplit_once('\t') {
        Some((name, bytes)) if !line.starts_with("type") && bytes.len() > 64 => {
            format!("{name}\t{}", DigestSuite::Blake3.digest(bytes.as_bytes()))
        }
        _ => line,
    });
    let lines: Vec<String> = shortened.collect();
    compare(
        &format!("{}/peers.txt", folder()),
        &lines,
        "Nodes of other versions read them otherwise: raise WIRE_VERSION in transport/src/wire_version.rs, unless no release \
         has the one that is there.",
    );
}
