//! Fills the catalog of a node that is stopped with as many rows as a large mesh would have, by the commands that a
//! mesh proposes. `make bench SCALE=1` calls it.
//!
//! usage: fill_catalog CATALOG STANZAS WAL_FILES CHUNKS BACKUPS
//!
//! Each WAL file has a change map. All numbers are of the whole mesh, and are divided evenly among the stanzas. Prints
//! one line of JSON: for each kind of command how many were proposed and how many bytes they have in the log.
#![allow(
    clippy::disallowed_methods,
    reason = "a test or an example may spawn without a name and read the clock"
)]
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a panic is how a measuring program fails"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use pgmesh_postgres::{Lsn, PgVersion, SegmentName, SegmentSize, SystemId, TimelineId, WalFileName};
use pgmesh_raft::command::{ClaimedObject, Cluster, CommitBackup, NewChunk, PushSegment};
use pgmesh_raft::{
    BackupRecord, Catalog, CatalogOptions, Claim, Command, LogIndex, NodeName, Replica, Reply, Server, SessionId,
    SessionKind, StoredObject,
};
use pgmesh_storage::{BackupLabel, DbId, Digest, DigestSuite, Generation, RepoKey, StanzaName, wire};

/// Commands under way at once: the log is synced for a group of them.
const AT_ONCE: usize = 512;
/// Chunks of one command, as a busy node groups them.
const CHUNKS: u64 = 256;
const SEGMENT: u64 = 16 << 20;

/// How many commands of a kind were proposed, and their bytes.
type Counts = BTreeMap<&'static str, (u64, u64)>;

struct Filler {
    catalog: Catalog,
    node: NodeName,
    claims: Vec<Claim>,
    counts: Mutex<Counts>,
    numbers: std::sync::atomic::AtomicU64,
}

impl Filler {
    async fn open(folder: &Path) -> Self {
        // Hundreds of large commands wait for each other here, on a slow machine for long.
        let options = CatalogOptions {
            patience: Duration::from_secs(600),
            ..CatalogOptions::default()
        };
        let catalog = Catalog::open(folder, options).await.unwrap();
        let view = catalog.view_linearizable().await.unwrap();
        let (node, _) = view.nodes().unwrap().into_iter().next().unwrap();
        let claim = |(repo, record): (RepoKey, pgmesh_raft::RepositoryRecord)| Claim {
            replica: Replica {
                repo,
                generation: Generation(0),
            },
            identity: record.identity(),
        };
        let claims = view.repositories().unwrap().into_iter().map(claim).collect();
        Self {
            catalog,
            node,
            claims,
            counts: Mutex::default(),
            numbers: std::sync::atomic::AtomicU64::new(1),
        }
    }

    async fn propose(&self, kind: &'static str, command: Command) -> Reply {
        let bytes = wire::encode(&command).len() as u64;
        {
            let mut counts = self.counts.lock().unwrap();
            let count = counts.entry(kind).or_default();
            *count = (count.0 + 1, count.1 + bytes);
        }
        self.catalog.propose("scale", command).await.unwrap()
    }

    /// A digest that no other object has.
    fn digest(&self) -> Digest {
        let number = self.numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        DigestSuite::Blake3.digest(&number.to_le_bytes())
    }

    fn object(&self, plain_length: u64) -> ClaimedObject {
        ClaimedObject {
            digest: self.digest(),
            plain_length,
            stored_length: plain_length * 2 / 5,
            claims: self.claims.clone(),
        }
    }

    fn applied(&self) -> LogIndex {
        self.catalog.view().applied().unwrap()
    }

    async fn stanza(&self, number: u64) {
        let create = Command::CreateStanza {
            stanza: stanza(number),
            cluster: Cluster {
                system_id: SystemId(number + 1),
                version: PgVersion::V15,
                catalog_version: 202_209_061,
                segment_size: SegmentSize::DEFAULT,
            },
            info: self.object(300),
            checked_at: self.applied(),
        };
        self.propose("stanza", create).await;
    }

    async fn wal_file(&self, of: u64, number: u64) {
        let name = segment(number);
        let push = |file, object, mapped: Option<Digest>| PushSegment {
            stanza: stanza(of),
            file,
            object,
            ack: 1,
            checked_at: self.applied(),
            system_id: SystemId(of + 1),
            server: Server {
                instance: format!("{of:064x}"),
                machine: format!("{of:016x}"),
                address: "db1.example.net:40000".to_owned(),
                in_recovery: false,
                timeline: TimelineId(1),
                branches: Vec::new(),
            },
            aside: None,
            header_timeline: mapped.is_none().then_some(TimelineId(1)),
            mapped,
            branches: Vec::new(),
        };
        let object = self.object(SEGMENT);
        let digest = object.digest;
        let file = push(WalFileName::Segment(name), object, None);
        self.propose("WAL file", Command::PushSegment(Box::new(file))).await;
        let map = push(WalFileName::Map(name), self.object(4000), Some(digest));
        self.propose("change map", Command::PushSegment(Box::new(map))).await;
    }

    /// A backup with so many chunks that no other has.
    async fn backup(&self, of: u64, number: u64, mut chunks: u64) {
        let open = Command::OpenSession {
            kind: SessionKind::Backup,
            stanza: Some(stanza(of)),
            holder: "pgmesh backup on db1.example.net".to_owned(),
            node: self.node.clone(),
            resume_key: Some([7; 16]),
        };
        let Reply::Session(session) = self.propose("backup", open).await else {
            panic!("no session");
        };
        let begin = Command::BeginBackup {
            stanza: stanza(of),
            session,
            label: label(number),
            system_id: SystemId(of + 1),
        };
        self.propose("backup", begin).await;
        let mut groups = Vec::new();
        while chunks > 0 {
            groups.push(chunks.min(CHUNKS));
            chunks -= chunks.min(CHUNKS);
        }
        stream::iter(groups)
            .for_each_concurrent(8, |group| self.chunks(session, group))
            .await;
        let commit = self.commit(of, number, session);
        self.propose("backup", Command::CommitBackup(Box::new(commit))).await;
    }

    async fn chunks(&self, session: SessionId, count: u64) {
        let chunks = (0..count).map(|_| NewChunk {
            digest: self.digest(),
            length: 1 << 20,
            stored_length: 420_000,
            claims: self.claims.clone(),
        });
        let add = Command::AddChunks {
            session,
            ack: 1,
            chunks: chunks.collect(),
        };
        self.propose("chunks", add).await;
    }

    fn commit(&self, of: u64, number: u64, session: SessionId) -> CommitBackup {
        let stored: BTreeMap<RepoKey, u64> = self.claims.iter().map(|claim| (claim.replica.repo, 1 << 36)).collect();
        CommitBackup {
            stanza: stanza(of),
            session,
            label: label(number),
            record: BackupRecord {
                db: DbId(1),
                started_at: 1_700_000_000,
                stopped_at: 1_700_003_600,
                began: LogIndex(0),
                lsn_start: Lsn(SEGMENT + 40),
                lsn_stop: Lsn(SEGMENT + 400),
                wal_start: segment(0),
                wal_stop: segment(0),
                timeline: TimelineId(1),
                size: 1 << 37,
                delta: 1 << 33,
                stored_delta: stored.clone(),
                stored,
                files: 20_000,
                page_errors: false,
                annotations: BTreeMap::new(),
                prior: None,
                manifest: StoredObject {
                    digest: self.digest(),
                    plain_length: 60_000,
                    stored_length: 20_000,
                    replicas: Vec::new(),
                },
                program: "0.1.0".to_owned(),
                expired: pgmesh_raft::ExpiredIn::new(),
                hold: None,
            },
            claims: self.claims.clone(),
            ack: 1,
            checked_at: self.applied(),
        }
    }
}

fn stanza(number: u64) -> StanzaName {
    format!("cluster-{number:05}").parse().unwrap()
}

/// The first segment of PostgreSQL's is the second of a log file.
fn segment(number: u64) -> SegmentName {
    let number = number + 1;
    SegmentName {
        timeline: TimelineId(1),
        log: u32::try_from(number / 256).unwrap(),
        segment: u32::try_from(number % 256).unwrap(),
    }
}

/// One an hour.
fn label(number: u64) -> BackupLabel {
    let (day, hour) = (number / 24, number % 24);
    let (year, day) = (2000 + day / 336, day % 336);
    let text = format!("{year:04}{:02}{:02}-{hour:02}0000F", day / 28 + 1, day % 28 + 1);
    text.parse().unwrap()
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, numbers @ ..] = arguments.as_slice() else {
        panic!("usage: fill_catalog CATALOG STANZAS WAL_FILES CHUNKS BACKUPS");
    };
    let numbers: Vec<u64> = numbers.iter().map(|number| number.parse().unwrap()).collect();
    let [stanzas, wal_files, chunks, backups] = numbers[..] else {
        panic!("usage: fill_catalog CATALOG STANZAS WAL_FILES CHUNKS BACKUPS");
    };
    let began = Instant::now();
    let filler = Filler::open(Path::new(folder)).await;
    stream::iter(0..stanzas)
        .for_each_concurrent(AT_ONCE, |number| filler.stanza(number))
        .await;
    stream::iter((0..wal_files).map(|number| (number % stanzas, number / stanzas)))
        .for_each_concurrent(AT_ONCE, |(of, number)| filler.wal_file(of, number))
        .await;
    let of_each = backups / stanzas;
    let filler_of = &filler;
    stream::iter(0..stanzas)
        .map(|of| async move {
            for number in 0..of_each {
                filler_of.backup(of, number, chunks / (of_each * stanzas)).await;
            }
            Ok::<_, ()>(())
        })
        .buffer_unordered(32)
        .try_collect::<Vec<()>>()
        .await
        .unwrap();
    filler.catalog.begin_snapshot().await.unwrap();
    filler.catalog.shutdown().await.unwrap();
    let counts = filler.counts.into_inner().unwrap();
    let counts = serde_json::json!(
        counts
            .into_iter()
            .map(|(kind, (count, bytes))| (kind, serde_json::json!({ "count": count, "bytes": bytes })))
            .collect::<BTreeMap<_, _>>()
    );
    println!(
        "{}",
        serde_json::json!({ "commands": counts, "seconds": began.elapsed().as_secs_f64() })
    );
}
