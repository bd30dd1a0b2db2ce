//! A node and its protocol: change maps of archived segments, as a client that takes a backup gets them. With a real
//! cluster they are in `tests/tests/change_maps.rs`.
#![allow(
    clippy::disallowed_methods,
    reason = "a test or an example may spawn without a name and read the clock"
)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pgmesh_node::{Layout, SessionTimes, init, run};
use pgmesh_postgres::wal::{Candidates, SegmentMap};
use pgmesh_postgres::{PgVersion, SegmentName, SegmentSize, SystemId, TimelineId};
use pgmesh_protocol::{Call, ChangeMaps, ChangeMapsReply, CreateStanza, ExitCode, Failure, PushSegment, Pushed};
use pgmesh_storage::{Codec, DigestSuite, Payload};
use pgmesh_transport::{Client, Connection, Identity};

use common::settings;

const SUITE: DigestSuite = DigestSuite::Blake3;
const SIZE: u32 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// A running node with one repository, and an administrator's connection to it.
struct Site {
    connection: Connection,
    _client: Client,
    repository: PathBuf,
    stop: tokio::sync::oneshot::Sender<()>,
    running: tokio::task::JoinHandle<Result<pgmesh_node::Ended, Failure>>,
    _folder: tempfile::TempDir,
}

impl Site {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("repo");
        let settings = settings(&folder.path().join("node"), &[&repository], SessionTimes::default());
        init(&settings, SUITE).await.unwrap();
        let admin = Identity::load(&Layout::new(&settings.path).admin()).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, address) = tokio::sync::oneshot::channel();
        let node = run(settings, |address| ready.send(address).unwrap(), async {
            drop(stopped.await)
        });
        let running = tokio::spawn(node);
        let client = Client::new(&admin).unwrap();
        let connection = client.connect(&address.await.unwrap().to_string()).await.unwrap();
        Self {
            connection,
            _client: client,
            repository,
            stop,
            running,
            _folder: folder,
        }
    }

    async fn ask<C: Call>(&self, call: &C, body: Option<&Bytes>) -> Result<C::Reply, Failure> {
        let mut stream = self.connection.open().await.unwrap();
        stream.call(call).await.unwrap();
        if let Some(body) = body {
            stream.send_bytes(body).await.unwrap();
        }
        stream.finish().unwrap();
        stream.reply::<C>().await.unwrap()
    }

    async fn create_stanza(&self, version: PgVersion) {
        let create = CreateStanza {
            stanza: "main".parse().unwrap(),
            system_id: SystemId(77),
            version,
            catalog_version: version.catalog_version(),
            segment_size: SegmentSize::new(SIZE).unwrap(),
            instance: "here".into(),
            machine: String::new().into(),
            timeline: TimelineId(1),
        };
        // The first repository is registered when there is a leader, a moment after the node listens.
        let began = Instant::now();
        while let Err(failure) = self.ask(&create, None).await {
            assert!(began.elapsed() < LIMIT, "{failure}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn push(&self, version: PgVersion, file: &str, content: &[u8]) -> Result<Pushed, Failure> {
        let payload = Payload::pack(SUITE, Codec::None, None, content).unwrap();
        let push = PushSegment {
            stanza: "main".parse().unwrap(),
            file: file.into(),
            payload: payload.head(),
            system_id: SystemId(77),
            version,
            header_timeline: TimelineId(1),
            server: common::server(),
            archive_ack: None,
        };
        self.ask(&push, Some(&payload.bytes)).await
    }

    async fn maps(&self, first: u32, last: u32) -> Result<ChangeMapsReply, Failure> {
        let ask = ChangeMaps {
            stanza: "main".parse().unwrap(),
            first: name(first),
            last: name(last),
        };
        self.ask(&ask, None).await
    }

    /// The files of change maps in the repository.
    fn stored(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.repository, &mut found);
        found.retain(|path| path.to_str().unwrap().contains(".map-"));
        found.sort();
        found
    }

    async fn wait_for_maps(&self, count: usize) {
        let began = Instant::now();
        while self.stored().len() != count {
            assert!(began.elapsed() < LIMIT, "{:?}", self.stored());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stop(self) {
        drop(self.connection);
        self.stop.send(()).unwrap();
        self.running.await.unwrap().unwrap();
    }
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), found),
            _ => found.push(entry.path()),
        }
    }
}

fn name(number: u32) -> SegmentName {
    SegmentName {
        timeline: TimelineId(1),
        log: 0,
        segment: number,
    }
}

/// A segment with one record, which changes block `number` of a table, and a switch to the next.
fn segment(version: PgVersion, number: u32) -> Vec<u8> {
    let magic: u16 = if version == PgVersion::V17 { 0xD116 } else { 0xD110 };
    let mut bytes = Vec::new();
    bytes.extend(magic.to_le_bytes());
    bytes.extend(2u16.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend((u64::from(number) * u64::from(SIZE)).to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(77u64.to_le_bytes());
    bytes.extend(SIZE.to_le_bytes());
    bytes.extend(8192u32.to_le_bytes());
    let start = u64::from(number) * u64::from(SIZE) + 40;
    let mut block = vec![0, 0, 0, 0];
    for part in [1663, 5, 16384, number] {
        block.extend(part.to_le_bytes());
    }
    bytes.extend(record(0, 10, &block, 0));
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(record(0x40, 0, &[], start));
    bytes.resize(SIZE as usize, 0);
    bytes
}

fn record(info: u8, resource_manager: u8, body: &[u8], previous: u64) -> Vec<u8> {
    let mut record = Vec::new();
    record.extend((24 + u32::try_from(body.len()).unwrap()).to_le_bytes());
    record.extend([0; 4]);
    record.extend(previous.to_le_bytes());
    record.extend([info, resource_manager, 0, 0]);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(body), &record);
    record.extend(checksum.to_le_bytes());
    record.extend(body);
    record
}

/// The numbers of the segments that the maps are of. Each must name the one block that its segment changes.
fn segments_of(answer: &ChangeMapsReply) -> Vec<u32> {
    let maps = answer.maps.iter().map(|bytes| SegmentMap::decode(bytes).unwrap());
    maps.map(|map| {
        let number = map.name().segment;
        let blocks = [number].into_iter().collect();
        assert_eq!(
            map.changes().unwrap().candidates("base/5/16384"),
            Candidates::Blocks(blocks)
        );
        number
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn maps_are_kept_after_a_push_and_made_anew_when_they_are_lost() {
    let site = Site::start().await;
    let version = PgVersion::V15;
    site.create_stanza(version).await;
    for number in [1, 2, 3, 5] {
        site.push(version, &name(number).to_string(), &segment(version, number))
            .await
            .unwrap();
        site.wait_for_maps(number.min(4) as usize).await;
    }

    let answer = site.maps(1, 5).await.unwrap();
    assert_eq!(segments_of(&answer), [1, 2, 3]);
    assert_eq!(answer.ended.unwrap(), format!("segment {} is not archived", name(4)));
    let answer = site.maps(2, 3).await.unwrap();
    assert_eq!((segments_of(&answer), answer.ended), (vec![2, 3], None));
    let answer = site.maps(4, 5).await.unwrap();
    assert!(answer.maps.is_empty() && answer.ended.is_some());

    // One map is lost, another damaged: both are made anew, under the same name but for the generation.
    let before = site.stored();
    fs::remove_file(&before[0]).unwrap();
    fs::write(&before[1], "no map").unwrap();
    assert_eq!(segments_of(&site.maps(1, 3).await.unwrap()), [1, 2, 3]);
    let named = |path: &Path| path.to_str().unwrap().split(".g").next().unwrap().to_owned();
    let after: Vec<String> = site.stored().iter().map(|path| named(path)).collect();
    assert!(before.iter().all(|path| after.contains(&named(path))), "{after:?}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_summarises_its_wal_has_maps_when_they_are_asked_for() {
    let site = Site::start().await;
    let version = PgVersion::V17;
    site.create_stanza(version).await;
    site.push(version, &name(1).to_string(), &segment(version, 1))
        .await
        .unwrap();
    assert_eq!(segments_of(&site.maps(1, 1).await.unwrap()), [1]);
    site.wait_for_maps(1).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_is_not_understood_has_a_map_that_says_so_and_is_not_kept() {
    let site = Site::start().await;
    let version = PgVersion::V15;
    site.create_stanza(version).await;
    let mut content = segment(version, 1);
    content[70] ^= 1;
    site.push(version, &name(1).to_string(), &content).await.unwrap();
    let answer = site.maps(1, 1).await.unwrap();
    let map = SegmentMap::decode(&answer.maps[0]).unwrap();
    assert!(map.changes().unwrap_err().contains("checksum"));
    assert_eq!(site.stored(), Vec::<PathBuf>::new());
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_are_refused() {
    let site = Site::start().await;
    let version = PgVersion::V15;
    site.create_stanza(version).await;
    // Maps are the node's own.
    let refused = site
        .push(version, &format!("{}.map", name(1)), b"any")
        .await
        .unwrap_err();
    assert_eq!(refused.code, ExitCode::OptionInvalid);
    assert_eq!(site.maps(4096, 4097).await.unwrap_err().code, ExitCode::OptionInvalid);
    let answer = site.maps(3, 2).await.unwrap();
    assert!(answer.maps.is_empty() && answer.ended.is_none());
    site.stop().await;
}
