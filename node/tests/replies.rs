//! A node and its protocol: answers stay short, however much there is, and nothing that a peer sends can harm the
//! catalog.
#![allow(
    clippy::disallowed_methods,
    reason = "a test or an example may spawn without a name and read the clock"
)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::future::join_all;
use pgmesh_node::{Layout, SessionTimes, init, run};
use pgmesh_postgres::{Lsn, PgVersion, SegmentName, SegmentSize, SystemId, TimelineId};
use pgmesh_protocol::choice::{Follow, Restoring, Wanted};
use pgmesh_protocol::{
    AnnotateBackup, BackupInfo, Call, ChooseBackup, ChoosePrior, CreateInvite, ExitCode, Failure, GetInfo, JoinRequest,
    MESSAGE_LIMIT,
};
use pgmesh_raft::command::{Adopt, AdoptedDatabase, ClaimedObject, Cluster};
use pgmesh_raft::{BackupRecord, Catalog, CatalogOptions, Command, LogIndex};
use pgmesh_storage::{BackupLabel, BackupType, DbId, Digest, DigestSuite, StanzaName, wire};
use pgmesh_transport::{Client, Connection, Identity, JoinClient, JoinToken, KeyRequest};
use serde::Serialize;

use common::settings;

const BACKUPS: usize = 5000;
const SYSTEM: SystemId = SystemId(77);
const LIMIT: Duration = Duration::from_secs(60);

/// A running node without a repository, and an administrator's connection to it.
struct Site {
    connection: Connection,
    address: String,
    _client: Client,
    stop: tokio::sync::oneshot::Sender<()>,
    running: tokio::task::JoinHandle<Result<pgmesh_node::Ended, Failure>>,
    _folder: tempfile::TempDir,
}

impl Site {
    /// A node whose catalog has these commands before it starts.
    async fn start(commands: Vec<Command>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sessions = SessionTimes::with_timeout(Duration::from_secs(600));
        let settings = settings(&folder.path().join("node"), &[&folder.path().join("repo")], sessions);
        init(&settings, DigestSuite::Blake3).await.unwrap();
        let layout = Layout::new(&settings.path);
        let patient = CatalogOptions {
            patience: 4 * LIMIT,
            ..CatalogOptions::default()
        };
        let catalog = Catalog::open(&layout.catalog(), patient).await.unwrap();
        let mut commands = commands.into_iter();
        // The stanza first, then its backups all at once.
        for command in commands.by_ref().take(1) {
            catalog.propose("test", command).await.unwrap();
        }
        for done in join_all(commands.map(|command| catalog.propose("test", command))).await {
            done.unwrap();
        }
        catalog.shutdown().await.unwrap();
        drop(catalog);
        let admin = Identity::load(&layout.admin()).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, address) = tokio::sync::oneshot::channel();
        let node = run(settings, |address| ready.send(address).unwrap(), async {
            drop(stopped.await)
        });
        let running = tokio::spawn(node);
        let address = address.await.unwrap().to_string();
        let client = Client::new(&admin).unwrap();
        let connection = client.connect(&address).await.unwrap();
        Self {
            connection,
            address,
            _client: client,
            stop,
            running,
            _folder: folder,
        }
    }

    async fn ask<C: Call>(&self, call: &C) -> Result<C::Reply, Failure> {
        exchange(&self.connection, call).await
    }

    /// All backups, the length of the longest answer, and the number of answers.
    async fn info(&self) -> (Vec<BackupInfo>, usize, usize) {
        let mut ask = GetInfo {
            stanza: None,
            backups: true,
            after: None,
        };
        let (mut backups, mut longest, mut answers) = (Vec::new(), 0, 0);
        loop {
            let answer = self.ask(&ask.clone()).await.unwrap();
            longest = longest.max(length(&answer));
            answers += 1;
            backups.extend(answer.stanzas.into_iter().flat_map(|stanza| stanza.backups));
            let Some(more) = answer.more else {
                return (backups, longest, answers);
            };
            ask.after = Some(more);
        }
    }

    async fn stop(self) {
        drop(self.connection);
        self.stop.send(()).unwrap();
        self.running.await.unwrap().unwrap();
    }
}

async fn exchange<C: Call>(connection: &Connection, call: &C) -> Result<C::Reply, Failure> {
    let mut stream = connection.open().await.unwrap();
    stream.call(call).await.unwrap();
    stream.finish().unwrap();
    stream.reply::<C>().await.unwrap()
}

fn length<T: Serialize>(answer: &T) -> usize {
    wire::encode(answer).len()
}

fn stanza() -> StanzaName {
    "main".parse().unwrap()
}

fn label(number: usize) -> BackupLabel {
    let text = match number {
        0 => "20260101-000000F".to_owned(),
        _ => format!(
            "20260101-000000F_2026{:02}{:02}-{:02}{:02}00I",
            2 + number / (60 * 24 * 28),
            1 + number / (60 * 24) % 28,
            number / 60 % 24,
            number % 60
        ),
    };
    text.parse().unwrap()
}

fn object(number: usize) -> ClaimedObject {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&number.to_le_bytes());
    ClaimedObject {
        digest: Digest(digest),
        plain_length: 5000,
        stored_length: 2000,
        claims: Vec::new(),
    }
}

/// A full backup, and incremental backups, each compared with the backup before.
fn chain(count: usize) -> Vec<Command> {
    let segment = SegmentName {
        timeline: TimelineId(1),
        log: 0,
        segment: 1,
    };
    let database = AdoptedDatabase {
        id: DbId(1),
        cluster: Cluster {
            system_id: SYSTEM,
            version: PgVersion::V15,
            catalog_version: 202_209_061,
            segment_size: SegmentSize::DEFAULT,
        },
        info: object(usize::MAX),
    };
    let adopted = Adopt::Stanza {
        stanza: stanza(),
        databases: vec![database],
    };
    let backup = |number: usize| {
        let time = 1_800_000_000 + 60 * i64::try_from(number).unwrap();
        let record = BackupRecord {
            db: DbId(1),
            started_at: time,
            stopped_at: time + 10,
            began: LogIndex(0),
            lsn_start: Lsn(number as u64 * 1000),
            lsn_stop: Lsn(number as u64 * 1000 + 100),
            wal_start: segment,
            wal_stop: segment,
            timeline: TimelineId(1),
            size: 1 << 40,
            delta: 1 << 20,
            stored: BTreeMap::new(),
            stored_delta: BTreeMap::new(),
            files: 1000,
            page_errors: false,
            annotations: BTreeMap::from([("ticket".to_owned(), format!("nightly {number}"))]),
            prior: number.checked_sub(1).map(label),
            manifest: object(number).stored(Vec::new()),
            program: "0.1.0".to_owned(),
            expired: pgmesh_raft::ExpiredIn::new(),
            hold: None,
        };
        Adopt::Backup {
            stanza: stanza(),
            label: label(number),
            record: Box::new(record),
            claims: Vec::new(),
        }
    };
    let all = std::iter::once(adopted).chain((0..count).map(backup));
    all.map(|adopt| Command::Adopt(Box::new(adopt))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_incrementals_in_a_row() {
    let site = Site::start(chain(BACKUPS)).await;
    let (backups, longest, answers) = site.info().await;
    let labels: BTreeSet<_> = backups.iter().map(|backup| backup.label.clone()).collect();
    assert_eq!((backups.len(), labels.len()), (BACKUPS, BACKUPS));
    assert!(longest < MESSAGE_LIMIT / 2, "{longest} bytes in one answer");
    assert!(answers < 10, "{answers} answers");
    // A backup is as long in the answer at the end of the row as at its beginning.
    let lengths = [100, BACKUPS - 1].map(|number| length(&backups[number]));
    assert!(lengths[1] <= lengths[0] + 20, "{lengths:?}");

    // Choosing is one short answer.
    let prior = site
        .ask(&ChoosePrior {
            stanza: stanza(),
            kind: BackupType::Incr,
            system_id: SYSTEM,
            timeline: TimelineId(1),
        })
        .await
        .unwrap();
    let last = label(BACKUPS - 1);
    assert_eq!(
        (prior.kind, prior.prior.as_ref(), prior.newest.as_ref()),
        (BackupType::Incr, Some(&last), Some(&last))
    );
    let choose = |wanted| ChooseBackup {
        stanza: stanza(),
        asked: Restoring {
            wanted,
            follow: Follow::End,
            goes_on: true,
        },
        repo: None,
    };
    let chosen = site.ask(&choose(Wanted::Newest)).await.unwrap();
    assert_eq!(chosen.backup.label, last);
    assert!(length(&chosen) < 1000);
    let by_lsn = site.ask(&choose(Wanted::ConsistentBy(Lsn(2_000_100)))).await.unwrap();
    assert_eq!(by_lsn.backup.label, label(2000));
    let by_label = site.ask(&choose(Wanted::Label(label(77)))).await.unwrap();
    assert_eq!(by_label.backup.label, label(77));
    let none = site.ask(&choose(Wanted::EndedBefore(5))).await.unwrap_err();
    assert_eq!(none.code, ExitCode::BackupSetInvalid);

    // Without backups the answer does not grow at all.
    let without = GetInfo {
        stanza: Some(stanza()),
        backups: false,
        after: None,
    };
    let answer = site.ask(&without).await.unwrap();
    assert!(answer.more.is_none() && length(&answer.stanzas) < 2000);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eleven_annotates_of_much_text_do_no_harm() {
    let site = Site::start(chain(1)).await;
    for call in 0..11 {
        let many = (0..12).map(|number| (format!("key-{call}-{number}"), "x".repeat(5000)));
        let annotate = AnnotateBackup {
            stanza: stanza(),
            label: label(0),
            annotations: many.collect(),
        };
        let refused = site.ask(&annotate).await.unwrap_err();
        assert_eq!(refused.code, ExitCode::OptionInvalid);
        assert!(refused.what.contains("at most 4096"), "{refused}");
    }
    assert_eq!(site.info().await.0.len(), 1);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_makes_one_certificate_whatever_name_it_is_asked_for() {
    let site = Site::start(chain(0)).await;
    let invite = CreateInvite {
        role: "admin".into(),
        name: None,
        force: false,
        stanzas: vec![].into(),
        expires: 600,
        addresses: vec![site.address.clone()].into(),
    };
    let began = Instant::now();
    let invite = loop {
        match site.ask(&invite).await {
            Ok(invite) => break invite,
            Err(failure) => assert!(began.elapsed() < LIMIT, "{failure}"),
        }
    };
    let token: JoinToken = invite.token.parse().unwrap();
    let csr = KeyRequest::generate().unwrap().csr_der().unwrap();
    let connection = JoinClient::connect(&site.address, token.ca_fingerprint).await.unwrap();
    let join = |name: &str| JoinRequest {
        token_id: token.id,
        secret: token.secret.clone(),
        csr: csr.clone().into(),
        name: name.into(),
        node: None,
    };
    exchange(&connection, &join("db1")).await.unwrap();
    // The same request again, as after an answer that was lost.
    exchange(&connection, &join("db1")).await.unwrap();
    for name in ["db2", "db3"] {
        let refused = exchange(&connection, &join(name)).await.unwrap_err();
        assert_eq!(refused.code, ExitCode::Crypto, "{refused}");
        assert!(refused.what.contains("already used, by db1"), "{refused}");
    }
    drop(connection);
    site.stop().await;
}
