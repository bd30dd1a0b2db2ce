//! Pushing WAL files of this host's cluster to the mesh.

use crate::mesh::{Mesh, PartedFile};
use crate::pg::timeline;
use bytes::Bytes;
use pgmesh_postgres::{
    ClusterState, ControlFile, PgVersion, SystemId, TimelineHistory, TimelineHistoryEntry, TimelineId, WalFileName,
    WalHeader, instance_fingerprint, machine_fingerprint,
};
use pgmesh_protocol::failure::chain;
use pgmesh_protocol::{Branch, ExitCode, Failure, PayloadHead, PushSegment, Pushed, Server};
use pgmesh_runtime::tasks;
use pgmesh_storage::{Codec, Digest, LARGEST_SINGLE_OBJECT, Payload, StanzaName, parts_of};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use tokio::task::{JoinError, JoinHandle};

/// So many lines of a history are told.
const LINES: usize = 1024;

/// How WAL files are pushed.
#[derive(Debug, Clone, Copy)]
pub struct PushSettings {
    /// `compress-type`.
    pub codec: Codec,
    /// `compress-level`: the codec's own, where none is given.
    pub level: Option<i32>,
    /// `archive-header-check`: a segment's header is compared with its name and with pg_control.
    pub checks_headers: bool,
    /// `archive-ack`: in how many repositories a file must be durable; the mesh's own number, where none is given.
    pub archive_ack: Option<u16>,
}

/// A WAL file that was read and checked. Reading it needs no node: it is compressed while one is looked for.
pub struct WalFile {
    content: Content,
    origin: Origin,
}

/// The content of a file.
enum Content {
    /// It is in memory, and being compressed.
    Short {
        content: Bytes,
        compressing: JoinHandle<Result<Payload, Failure>>,
    },
    /// It is read when it is sent, part by part.
    InParts(PartedFile),
}

/// The content of a file, as it is sent after the request.
enum Body {
    Whole(Payload),
    InParts(PartedFile),
}

impl WalFile {
    /// Reads and checks the file; if the file is sent in parts, only its beginning.
    ///
    /// # Errors
    /// It cannot be read, or its content does not fit its name.
    pub fn begin(settings: &PushSettings, pgdata: &Path, path: &Path, file: WalFileName) -> Result<Self, Failure> {
        let unreadable = |error| {
            Failure::new(
                ExitCode::FileMissing,
                format!("WAL file {} cannot be read", path.display()),
            )
            .because(error)
        };
        let mut opened = File::open(path).map_err(unreadable)?;
        let length = opened.metadata().map_err(unreadable)?.len();
        let PushSettings { codec, level, .. } = *settings;
        if parts_of(length).is_some() {
            let mut begin = [0; WalHeader::LENGTH];
            opened.read_exact(&mut begin).map_err(unreadable)?;
            let origin = origin(settings, pgdata, file, &begin, length)?;
            let content = Content::InParts(PartedFile::new(opened, path.to_owned(), length, codec, level));
            return Ok(Self { content, origin });
        }
        let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        // No more, if it grows meanwhile: longer files are sent in parts.
        opened
            .take(LARGEST_SINGLE_OBJECT + 1)
            .read_to_end(&mut content)
            .map_err(unreadable)?;
        let origin = origin(settings, pgdata, file, &content, content.len() as u64)?;
        let content = Bytes::from(content);
        let compressing = begin_compressing(codec, level, content.clone());
        Ok(Self {
            content: Content::Short { content, compressing },
            origin,
        })
    }
}

/// Pushes the files of one cluster.
pub struct WalPusher<'c> {
    /// How.
    pub settings: &'c PushSettings,
    /// The way to the mesh.
    pub mesh: &'c Mesh,
    /// The stanza.
    pub stanza: &'c StanzaName,
    /// The data directory.
    pub pgdata: &'c Path,
}

impl WalPusher<'_> {
    /// Pushes a file; where the archive does not know its timeline, the histories that lead to it first.
    ///
    /// # Errors
    /// It is refused, or no node answers.
    pub async fn push(&self, path: &Path, file: WalFileName, begun: WalFile) -> Result<(), Failure> {
        let (request, body) = self.request(file, begun).await?;
        match self.send(file, &request, &body).await {
            Err(failure) if failure.code == ExitCode::ArchiveMismatch => {
                if !self.push_histories(path, file).await? {
                    return Err(failure);
                }
                self.send(file, &request, &body).await.map(drop)
            }
            sent => sent.map(drop),
        }
    }

    /// The request for a file, and the content that follows it.
    async fn request(&self, file: WalFileName, begun: WalFile) -> Result<(PushSegment, Body), Failure> {
        let suite = self.mesh.suite().await?;
        let (payload, body) = match begun.content {
            Content::Short { content, compressing } => {
                let digesting = tasks::blocking("digesting a WAL file", move || suite.digest(&content));
                let payload = compressing.await.map_err(|error| abnormal(&error))??;
                let digest = digesting.await.map_err(|error| abnormal(&error))?;
                let payload = Payload { digest, ..payload };
                (payload.head(), Body::Whole(payload))
            }
            Content::InParts(parted) => {
                let head = PayloadHead {
                    digest: parted.digest(suite).await?,
                    codec: Codec::None,
                    plain_length: parted.length(),
                    length: 0,
                };
                (head, Body::InParts(parted))
            }
        };
        let request = PushSegment {
            stanza: self.stanza.clone(),
            file: file.to_string().into(),
            payload,
            system_id: begun.origin.system_id,
            version: begun.origin.version,
            header_timeline: begun.origin.timeline,
            server: begun.origin.server,
            archive_ack: self.settings.archive_ack,
        };
        Ok((request, body))
    }

    async fn send(&self, file: WalFileName, request: &PushSegment, body: &Body) -> Result<Pushed, Failure> {
        let pushed = match body {
            Body::Whole(payload) => self.mesh.send(request, &payload.bytes).await?,
            Body::InParts(parted) => self.mesh.send_parts(request, parted).await?,
        };
        if pushed.aside {
            tracing::warn!("WAL file '{file}' was set aside: no recovery along the archive's history needs it");
        } else if pushed.already {
            tracing::warn!("WAL file '{file}' already exists in the archive with the same content");
        } else {
            tracing::info!(durable = ?pushed.durable, owed = ?pushed.owed, "pushed WAL file '{file}'");
        }
        Ok(pushed)
    }

    /// Pushes the histories that lead to a file's timeline, as far as they lie beside it. PostgreSQL offers a history
    /// once, when it is made; of a server that was promoted while archiving was off it never does. Whether the archive
    /// lacked one.
    async fn push_histories(&self, path: &Path, file: WalFileName) -> Result<bool, Failure> {
        let mut is_new = false;
        for history in histories_beside(path, file) {
            let path = path.with_file_name(history.to_string());
            let begun = WalFile::begin(self.settings, self.pgdata, &path, history)?;
            let (request, body) = self.request(history, begun).await?;
            is_new |= !self.send(history, &request, &body).await?.already;
        }
        Ok(is_new)
    }
}

/// The histories of a file's timeline and of its ancestors that lie in the folder of the file, oldest first.
fn histories_beside(path: &Path, file: WalFileName) -> Vec<WalFileName> {
    let timeline = file.timeline();
    let own = WalFileName::History(timeline);
    if file == own {
        return Vec::new();
    }
    let Ok(content) = std::fs::read(path.with_file_name(own.to_string())) else {
        return Vec::new();
    };
    let Ok(history) = TimelineHistory::parse(timeline, &content) else {
        return Vec::new();
    };
    let ancestors = history.entries.iter().map(|entry| WalFileName::History(entry.parent));
    let is_there = |history: &WalFileName| path.with_file_name(history.to_string()).is_file();
    ancestors.chain([own]).filter(is_there).collect()
}

/// Where a file comes from.
struct Origin {
    system_id: SystemId,
    version: PgVersion,
    timeline: TimelineId,
    server: Server,
}

/// Reads it off the segment's header and pg_control, and checks that they agree (invariant 12).
fn origin(
    settings: &PushSettings,
    pgdata: &Path,
    file: WalFileName,
    begin: &[u8],
    length: u64,
) -> Result<Origin, Failure> {
    let control = ControlFile::read(pgdata).map_err(|error| {
        Failure::new(
            ExitCode::FileMissing,
            format!("pg1-path {} holds no cluster", pgdata.display()),
        )
        .because(chain(&error))
        .remedy("set pg1-path to the cluster's data directory")
    })?;
    let server = server(pgdata, &control)?;
    let (WalFileName::Segment(name) | WalFileName::Partial(name)) = file else {
        let (system_id, version) = (control.system_id, control.version);
        return Ok(Origin {
            system_id,
            version,
            timeline: file.timeline(),
            server,
        });
    };
    let invalid = |error: &dyn std::error::Error| {
        Failure::new(
            ExitCode::FileInvalid,
            format!("the content of {file} does not fit its name"),
        )
        .because(chain(error))
        .remedy("the file was truncated or overwritten: it is not archived, and PostgreSQL must archive it again")
    };
    let header = WalHeader::parse(begin).map_err(|error| invalid(&error))?;
    if settings.checks_headers {
        header.check(name, length).map_err(|error| invalid(&error))?;
        if header.system_id != control.system_id {
            return Err(Failure::new(
                ExitCode::ArchiveMismatch,
                format!(
                    "{file} was written by cluster {}, pg1-path holds cluster {}",
                    header.system_id, control.system_id
                ),
            )
            .remedy("check pg1-path and archive_command"));
        }
    }
    Ok(Origin {
        system_id: header.system_id,
        version: header.version(),
        timeline: header.timeline,
        server,
    })
}

/// The server that runs on a data directory, as its files describe it (invariant 12). pg_control alone says which
/// timeline it is on: the server may have looked at a history in pg_wal and not followed it.
fn server(pgdata: &Path, control: &ControlFile) -> Result<Server, Failure> {
    let instance = instance_fingerprint(pgdata).map_err(|error| {
        Failure::new(ExitCode::FileMissing, "the data directory cannot be identified").because(chain(&error))
    })?;
    let is_primary = matches!(
        control.state,
        ClusterState::InProduction | ClusterState::ShuttingDown | ClusterState::ShutDown
    );
    let timeline = timeline(control);
    let file = pgdata.join("pg_wal").join(WalFileName::History(timeline).to_string());
    let history = std::fs::read(file).ok();
    let history = history.and_then(|content| TimelineHistory::parse(timeline, &content).ok());
    Ok(Server {
        instance,
        machine: machine_fingerprint(),
        // The node knows it better.
        address: String::new(),
        in_recovery: !is_primary,
        timeline,
        branches: history.map(|history| branches(&history)).unwrap_or_default(),
    })
}

/// The newest lines of a history: timelines that the cluster left long ago are not archived any more.
fn branches(history: &TimelineHistory) -> Vec<Branch> {
    let branch = |entry: &TimelineHistoryEntry| Branch {
        parent: entry.parent,
        switch: entry.switch,
    };
    let first = history.entries.len().saturating_sub(LINES);
    history.entries.iter().skip(first).map(branch).collect()
}

/// Begins to compress on another thread. The payload's digest is still to be set.
fn begin_compressing(codec: Codec, level: Option<i32>, content: Bytes) -> JoinHandle<Result<Payload, Failure>> {
    tasks::blocking("compressing a WAL file", move || {
        Payload::pack_known(Digest([0; 32]), codec, level, &content).map_err(|error| {
            Failure::new(ExitCode::OptionInvalid, format!("compressing with {codec}")).because(chain(&error))
        })
    })
}

fn abnormal(error: &JoinError) -> Failure {
    Failure::new(ExitCode::Assert, "compressing a WAL file ended abnormally").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_histories_that_lead_to_a_timeline_are_found_beside_its_segments() {
        let scratch = tempfile::tempdir().unwrap();
        let segment = scratch.path().join("000000040000000000000009");
        let file = "000000040000000000000009".parse().unwrap();
        assert!(histories_beside(&segment, file).is_empty());
        let lines = "1\t0/3000000\tx\n\n2\t0/5000148\tx\n\n3\t0/7000000\tx\n";
        std::fs::write(scratch.path().join("00000004.history"), lines).unwrap();
        std::fs::write(scratch.path().join("00000002.history"), "1\t0/3000000\tx\n").unwrap();
        let found: Vec<String> = histories_beside(&segment, file)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, ["00000002.history", "00000004.history"]);
        let own = "00000004.history".parse().unwrap();
        assert!(histories_beside(&scratch.path().join("00000004.history"), own).is_empty());
    }
}
