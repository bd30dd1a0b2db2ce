//! Which blocks archived segments have changed: for each segment a map, made after it was pushed, and kept beside it.
//!
//! A map saves a backup reading and is of no other use. So an error costs only the map: when a backup asks for it, the
//! map is made anew of the archived segment. From version 17 on PostgreSQL summarises its WAL itself, so for these
//! versions a map is made only when a backup asks.

use super::archive::{Read, current_database};
use super::joined;
use crate::archive::Archive;
use crate::budget::Held;
use crate::refs;
use bytes::Bytes;
use pgmesh_postgres::wal::{SegmentMap, SegmentMapper};
use pgmesh_postgres::{PgVersion, SegmentName, SegmentSize, WalFileName};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{ChangeMaps, ChangeMapsReply, ExitCode, Failure, MESSAGE_LIMIT, PushSegment};
use pgmesh_raft::{Database, ObjectRef, Server, View};
use pgmesh_runtime::tasks;
use pgmesh_storage::{Codec, Digest, DigestSuite, FILE_PART_LENGTH, FilePart, Payload, PayloadError, StanzaName};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// After so long a node answers with the maps that it has, so that a client whose maps must be made sees progress.
const PATIENCE: Duration = Duration::from_secs(5);
/// The bytes of maps in one answer; the other fields of the message need the rest.
const ANSWER_LIMIT: usize = MESSAGE_LIMIT - (256 << 10);

/// A segment that is being pushed, as far as a map is made of it.
pub(crate) struct MapSource {
    push: PushSegment,
    name: SegmentName,
    body: Bytes,
    /// The memory of the push, which is needed once more.
    held: Arc<Held>,
}

impl MapSource {
    /// The source of the map of a pushed file; `None` for files without a map.
    pub(crate) fn of(push: &PushSegment, body: &Bytes, held: &Arc<Held>) -> Option<Self> {
        let Ok(WalFileName::Segment(name)) = push.file.parse() else {
            return None;
        };
        (!push.version.has_wal_summaries()).then(|| Self {
            push: push.clone(),
            name,
            body: body.clone(),
            held: held.clone(),
        })
    }
}

/// Of which segment of which cluster.
struct Wanted {
    stanza: StanzaName,
    database: Database,
    name: SegmentName,
}

impl Wanted {
    fn version(&self) -> PgVersion {
        self.database.archive_id().version
    }

    fn object(&self, file: WalFileName) -> ObjectRef {
        ObjectRef::Segment {
            stanza: self.stanza.clone(),
            db: self.database.id,
            file,
        }
    }
}

/// A change map, the payload that is stored of it, and the digest of its segment.
struct Made<'m> {
    map: &'m SegmentMap,
    payload: Payload,
    of: Digest,
}

impl Archive {
    /// Makes the map of a segment that was pushed, in the background; not when others are being made, as memory is held
    /// until it is done.
    pub(crate) fn map_later(self: Arc<Self>, source: MapSource) {
        let Ok(permit) = self.maps_at_once.clone().try_acquire_owned() else {
            return;
        };
        tasks::spawn("mapping a segment", async move {
            let (file, stanza) = (WalFileName::Map(source.name), source.push.stanza.clone());
            if let Err(failure) = self.map_pushed(source).await {
                tracing::warn!(%stanza, %file, error = %failure, "a change map was not kept");
            }
            drop(permit);
        });
    }

    /// Keeps the map of a segment that came in parts, in the background.
    pub(crate) fn keep_map_later(self: Arc<Self>, push: PushSegment, map: SegmentMap) {
        tasks::spawn("mapping a large segment", async move {
            let (file, stanza) = (WalFileName::Map(map.name()), push.stanza.clone());
            if let Err(failure) = self.keep_pushed(push, map).await {
                tracing::warn!(%stanza, %file, error = %failure, "a change map was not kept");
            }
        });
    }

    async fn keep_pushed(&self, push: PushSegment, map: SegmentMap) -> Result<(), Failure> {
        let Some(wanted) = self.wanted_of(&push, map.name())? else {
            return Ok(());
        };
        let (suite, of) = (self.suite(), push.payload.digest);
        let packed = tasks::blocking("packing a change map", move || packed(map, suite)).await;
        let (map, payload) =
            packed.map_err(|error| Failure::new(ExitCode::Assert, "making a change map").because(error))??;
        self.keep(&wanted, Made { map: &map, payload, of }).await
    }

    /// The segment of a push; none where the stanza was upgraded meanwhile.
    fn wanted_of(&self, push: &PushSegment, name: SegmentName) -> Result<Option<Wanted>, Failure> {
        let view = self.catalog.view();
        let (_, database) = current_database(&view, &push.stanza)?;
        Ok((database.system_id == push.system_id).then(|| Wanted {
            stanza: push.stanza.clone(),
            database,
            name,
        }))
    }

    async fn map_pushed(&self, source: MapSource) -> Result<(), Failure> {
        let MapSource { push, name, body, held } = source;
        let Some(wanted) = self.wanted_of(&push, name)? else {
            return Ok(());
        };
        let payload = joined(push.payload, body)?;
        let of = payload.digest;
        let (map, payload) = self.map(&wanted, payload).await?;
        // The map does not need the memory of its segment.
        drop(held);
        self.keep(&wanted, Made { map: &map, payload, of }).await
    }

    /// The maps of consecutive segments, as many as an answer takes. Missing maps are made.
    pub(crate) async fn change_maps(&self, ask: ChangeMaps) -> Result<ChangeMapsReply, Failure> {
        let view = self.catalog.view_linearizable().await.map_err(Failure::from)?;
        let (_, database) = current_database(&view, &ask.stanza)?;
        let possible = |name: SegmentName| name.is_possible(database.segment_size);
        if ask.first.timeline != ask.last.timeline || !possible(ask.first) || !possible(ask.last) {
            return Err(Failure::new(
                ExitCode::OptionInvalid,
                format!("{} to {} is no range of one timeline's segments", ask.first, ask.last),
            ));
        }
        let began = Instant::now();
        let mut answer = ChangeMapsReply {
            maps: Vec::new(),
            ended: None,
        };
        let (mut name, mut length) = (ask.first, 0);
        while name <= ask.last && (answer.maps.is_empty() || began.elapsed() < PATIENCE) {
            let wanted = Wanted {
                stanza: ask.stanza.clone(),
                database: database.clone(),
                name,
            };
            let map = match self.map_to_answer(&view, &wanted).await {
                Ok(Some(map)) => map,
                Ok(None) => {
                    answer.ended = Some(format!("segment {name} is not archived"));
                    break;
                }
                Err(failure) if answer.maps.is_empty() => return Err(failure),
                // The client's next request begins here, and gets the failure.
                Err(_) => break,
            };
            length += map.len();
            if length > ANSWER_LIMIT && !answer.maps.is_empty() {
                break;
            }
            answer.maps.push(map);
            let next = name.next(database.segment_size);
            if next == name {
                break;
            }
            name = next;
        }
        Ok(answer)
    }

    /// A map from the archive, or a new one; `None` when the segment is not archived.
    async fn map_to_answer(&self, view: &View, wanted: &Wanted) -> Result<Option<Bytes>, Failure> {
        match self.kept_map(view, wanted).await {
            Ok(Some(map)) => return Ok(Some(map)),
            Ok(None) => {}
            Err(failure) => {
                tracing::warn!(segment = %wanted.name, error = %failure, "a change map is lost, and made anew");
            }
        }
        let Some((map, payload, of)) = self.map_archived(view, wanted).await? else {
            return Ok(None);
        };
        if let Err(failure) = self.keep(wanted, Made { map: &map, payload, of }).await {
            tracing::warn!(segment = %wanted.name, error = %failure, "a change map was not kept");
        }
        Ok(Some(map.encode().into()))
    }

    async fn kept_map(&self, view: &View, wanted: &Wanted) -> Result<Option<Bytes>, Failure> {
        let object = wanted.object(WalFileName::Map(wanted.name));
        let is_unknown = view.object(&object)?.is_some_and(|stored| stored.is_unknown());
        let Some(known) = refs::known(view, &object)?.filter(|_| !is_unknown) else {
            return Ok(None);
        };
        let source = self.reads.read_known(&object, &known, &[]).await?;
        // A map is short: no thread of its own is needed to look at it.
        let bytes = source
            .payload
            .open(self.suite())
            .map_err(|error| Failure::new(ExitCode::Checksum, format!("{object} is damaged")).because(chain(&error)))?;
        let map = SegmentMap::decode(&bytes).map_err(|error| {
            Failure::new(ExitCode::Format, format!("{object} cannot be read")).because(chain(&error))
        })?;
        Ok((map.name() == wanted.name && map.version() == wanted.version()).then_some(bytes))
    }

    /// Makes the payload of a map of the archived segment; `None` for other objects, and when that cannot be.
    pub(crate) async fn map_of_archived(&self, object: &ObjectRef) -> Option<Payload> {
        let ObjectRef::Segment {
            stanza,
            db,
            file: WalFileName::Map(name),
        } = object
        else {
            return None;
        };
        let view = self.catalog.view();
        let database = view.stanza(stanza).ok()??.database(*db)?.clone();
        let wanted = Wanted {
            stanza: stanza.clone(),
            database,
            name: *name,
        };
        let made = self.map_archived(&view, &wanted).await.ok()?;
        made.map(|(_, payload, _)| payload)
    }

    /// Makes a map of the archived segment; `None` when it is not archived.
    async fn map_archived(
        &self,
        view: &View,
        wanted: &Wanted,
    ) -> Result<Option<(SegmentMap, Payload, Digest)>, Failure> {
        let object = wanted.object(WalFileName::Segment(wanted.name));
        let is_unknown = view.object(&object)?.is_none_or(|stored| stored.is_unknown());
        let Some(known) = refs::known(view, &object)?.filter(|_| !is_unknown) else {
            return Ok(None);
        };
        let permit = self.maps_at_once.acquire().await;
        let _permit = permit.map_err(|error| Failure::new(ExitCode::Assert, "making a change map").because(error))?;
        // As it is stored, decrypted, and plain.
        let size = u64::from(wanted.database.segment_size.bytes());
        if let Some(of) = known.parts() {
            let _held = self.budget.hold(4 * FILE_PART_LENGTH).await;
            return self.map_parts(wanted, &object, &known, of).await.map(Some);
        }
        let _held = self
            .budget
            .hold(known.stored_length.saturating_mul(2).saturating_add(size))
            .await;
        let source = self.reads.read_known(&object, &known, &[]).await?;
        let of = source.payload.digest;
        let (map, payload) = self.map(wanted, source.payload).await?;
        Ok(Some((map, payload, of)))
    }

    /// Makes the map of a segment in parts, one part after the other.
    async fn map_parts(
        &self,
        wanted: &Wanted,
        object: &ObjectRef,
        known: &refs::Known,
        of: u16,
    ) -> Result<(SegmentMap, Payload, Digest), Failure> {
        let (suite, name) = (self.suite(), wanted.name);
        let mut mapper = SegmentMapper::new(name, wanted.database.segment_size, wanted.version());
        let mut hasher = suite.hasher();
        let abnormal = |error| Failure::new(ExitCode::Assert, "making a change map").because(error);
        for part in FilePart::all(of) {
            let (payload, _) = self.reads.read_part(object, &known.of_part(part), &[]).await?;
            let fed = tasks::blocking("mapping a piece", move || {
                let plain = payload.open(suite)?;
                hasher.update(&plain);
                mapper.feed(&plain);
                Ok::<_, PayloadError>((mapper, hasher))
            });
            (mapper, hasher) = fed.await.map_err(abnormal)?.map_err(|error| {
                Failure::new(ExitCode::Checksum, format!("{name} is damaged")).because(chain(&error))
            })?;
        }
        if hasher.finalize() != known.digest {
            return Err(Failure::new(ExitCode::Checksum, format!("{name} is damaged")));
        }
        let packed = tasks::blocking("packing a change map", move || packed(mapper.finish(), suite)).await;
        let (map, payload) = packed.map_err(abnormal)??;
        Ok((map, payload, known.digest))
    }

    /// Makes a map of a segment, and the payload that is stored of it.
    async fn map(&self, wanted: &Wanted, segment: Payload) -> Result<(SegmentMap, Payload), Failure> {
        let (name, size, version) = (wanted.name, wanted.database.segment_size, wanted.version());
        let suite = self.suite();
        let made = tasks::blocking("making a change map", move || {
            make(name, size, version, &segment, suite)
        });
        made.await
            .map_err(|error| Failure::new(ExitCode::Assert, "making a change map").because(error))?
    }

    /// Archives a map. A map whose changes are unknown is not kept: it would save no reading, and a later version of
    /// pgmesh may make a better one of the segment.
    async fn keep(&self, wanted: &Wanted, made: Made<'_>) -> Result<(), Failure> {
        let Made { map, payload, of } = made;
        if let Err(why) = map.changes() {
            tracing::debug!(segment = %wanted.name, why, "there is no change map");
            return Ok(());
        }
        let copies = 1 + self.repositories.keys().len() as u64;
        let held = self.budget.hold(payload.bytes.len() as u64 * copies).await;
        let file = WalFileName::Map(wanted.name);
        let push = PushSegment {
            stanza: wanted.stanza.clone(),
            file: file.to_string().into(),
            payload: payload.head(),
            system_id: wanted.database.system_id,
            version: wanted.version(),
            header_timeline: wanted.name.timeline,
            // A node makes the map, no server.
            server: Server {
                instance: String::new(),
                machine: String::new(),
                address: String::new(),
                in_recovery: true,
                timeline: wanted.name.timeline,
                branches: Vec::new(),
            },
            archive_ack: None,
        };
        let read = Read {
            branches: &[],
            mapped: Some(of),
        };
        self.archive(self.actor(), &push, &file, &payload, read, &Arc::new(held))
            .await
            .map(drop)
    }
}

fn make(
    name: SegmentName,
    size: SegmentSize,
    version: PgVersion,
    segment: &Payload,
    suite: DigestSuite,
) -> Result<(SegmentMap, Payload), Failure> {
    let plain = segment
        .open(suite)
        .map_err(|error| Failure::new(ExitCode::Checksum, format!("{name} is damaged")).because(chain(&error)))?;
    let map = SegmentMap::of(name, size, version, &plain);
    drop(plain);
    packed(map, suite)
}

fn packed(map: SegmentMap, suite: DigestSuite) -> Result<(SegmentMap, Payload), Failure> {
    let payload = Payload::pack(suite, Codec::Zst, None, &map.encode()).map_err(|error| {
        let what = format!("the change map of {} cannot be packed", map.name());
        Failure::new(ExitCode::Assert, what).because(chain(&error))
    })?;
    Ok((map, payload))
}
