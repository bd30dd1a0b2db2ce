//! The backup that an incr or diff is compared with, and the source of the changes since.

use super::changes::{self, Unknown};
use super::context::Context;
use super::job::{Past, Ready};
use super::selection::{PageSelection, Policy};
use super::summary::ChosenBy;
use crate::pg::BackupStart;
use crate::restore::{BackupSource, Workers};
use pgmesh_postgres::{Entry, Lsn};
use pgmesh_protocol::{ExitCode, Failure, QUERY_LIMIT, QueryChunks};
use pgmesh_storage::{Digest, FileEntry, FingerprintSeed, ManifestRoot};
use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

/// Files up to this size lie in chunks together with others.
const SMALL: u64 = 1 << 20;
/// The small files of a job, at most a few MiB together, may lie in so many chunks, and in two more for each MiB. If
/// they lie in more, they are stored anew, because a restore fetches whole chunks.
const SMALL_CHUNKS: u64 = 4;

/// A backup to compare with.
pub struct Prior {
    /// Where it is read from.
    pub source: BackupSource,
    /// Its manifest.
    pub root: ManifestRoot,
    policy: Policy,
}

/// How a backup begins.
pub struct Beginning {
    /// The seed of its fingerprints.
    pub seed: FingerprintSeed,
    /// The backup that it is compared with.
    pub prior: Option<Prior>,
    /// The WAL of a change map that is put to the test.
    pub tested: Option<Range<Lsn>>,
    /// When everything was last read, Unix seconds; none: by this backup.
    pub scanned_at: Option<i64>,
}

/// Reads the prior backup's manifest and the change map, before the first file is read.
///
/// # Errors
/// No randomness for a first secret. If the prior backup cannot be read, that costs time and room only, and a warning.
pub async fn begin(context: &Context, start: &BackupStart) -> Result<Beginning, Failure> {
    let settings = &context.settings;
    let workers = Workers::new(settings.workers);
    let source = BackupSource::over(
        context.mesh.clone(),
        context.begun.suite,
        settings.stanza.clone(),
        workers,
    );
    let Some(label) = context.prior.as_ref().or(context.begun.prior.as_ref()) else {
        return new_secret();
    };
    let root = match source.manifest(label).await {
        Ok(root) => root,
        Err(failure) => {
            tracing::warn!("the prior backup {label} cannot be read, so all files are stored anew: {failure}");
            return new_secret();
        }
    };
    let Some(seed) = root.fingerprint_seed else {
        if context.prior.is_some() {
            tracing::info!("the prior backup {label} has no page fingerprints: all files are read and stored anew");
        }
        return new_secret();
    };
    if context.prior.is_none() {
        return Ok(Beginning::alone(seed));
    }
    let policy = policy(context, &root, start).await?;
    tracing::info!("compared with backup {label}: {}", policy.in_words());
    let tested = match &policy {
        Policy::Everything(Some(_)) => Some(root.start_lsn..start.lsn),
        _ => None,
    };
    Ok(Beginning {
        seed,
        tested,
        scanned_at: root.scanned_at.filter(|_| !matches!(policy, Policy::Everything(_))),
        prior: Some(Prior { source, root, policy }),
    })
}

impl Beginning {
    /// Compared with nothing.
    fn alone(seed: FingerprintSeed) -> Self {
        Self {
            seed,
            prior: None,
            tested: None,
            scanned_at: None,
        }
    }
}

fn new_secret() -> Result<Beginning, Failure> {
    let drawn = FingerprintSeed::draw();
    drawn.map(Beginning::alone).map_err(|error| {
        Failure::new(ExitCode::Crypto, "the secret for page fingerprints cannot be drawn").because(error)
    })
}

/// The policy that reads the least of those that miss no change.
async fn policy(context: &Context, root: &ManifestRoot, start: &BackupStart) -> Result<Policy, Failure> {
    let settings = &context.settings;
    if settings.delta {
        return Ok(Policy::Everything(None));
    }
    if let Some(why) = unlogged(context, root) {
        tracing::info!("all files are read: {why}");
        return Ok(Policy::Everything(None));
    }
    let known = match changes::since(context, root, start.lsn).await {
        Ok(known) => Some(known),
        Err(Unknown(why)) => {
            tracing::info!("the WAL does not tell which pages changed: {why}");
            None
        }
    };
    if is_due(root.scanned_at, start.time, settings.delta_verify) {
        tracing::info!(
            "all files are read, as they are every {} s (delta-verify)",
            settings.delta_verify.as_secs()
        );
        // Hint bits may change without WAL where these are not logged, but never a page's position in it.
        return Ok(Policy::Everything(known.map(|known| known.map)));
    }
    Ok(match known {
        Some(changes) => Policy::Map(changes),
        // A standby writes its files at times of its own.
        None if root.from_standby || context.standby.is_some() => Policy::Everything(None),
        None => Policy::Times(root.start_time),
    })
}

/// Why pages may have changed that neither the WAL nor a time tells of.
fn unlogged(context: &Context, root: &ManifestRoot) -> Option<String> {
    let control = &context.cluster.control;
    if root.timeline != context.timeline() {
        return Some(format!("backup {} is of another timeline", root.label));
    }
    if root.data_checksums != Some(control.has_page_checksums()) {
        return Some("page checksums were turned on or off since".to_owned());
    }
    (root.instance.as_ref() != Some(&context.cluster.instance))
        .then(|| format!("backup {} is of another data directory", root.label))
}

fn is_due(scanned_at: Option<i64>, now: i64, age: Duration) -> bool {
    let age = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
    // A clock that was set back is no reason to wait.
    scanned_at.is_none_or(|scanned_at| now < scanned_at || now - scanned_at >= age)
}

impl Prior {
    /// How the files and pages to read are chosen.
    pub fn chosen_by(&self) -> ChosenBy {
        self.policy.chosen_by()
    }

    /// The pages of a file that are read.
    pub fn select(&self, entry: &Entry, before: &FileEntry) -> PageSelection {
        self.policy.select(entry, before)
    }

    /// Has files of a job stored anew if they lie in chunks that the mesh lacks, or in too many chunks.
    pub async fn settle(context: &Context, ready: &mut [Ready]) -> Result<(), Failure> {
        gather(ready);
        let named: BTreeSet<Digest> = ready.iter().flat_map(|ready| chunks(&ready.past)).collect();
        let named: Vec<Digest> = named.into_iter().collect();
        let mut missing = BTreeSet::new();
        for digests in named.chunks(QUERY_LIMIT) {
            let request = QueryChunks {
                stanza: context.settings.stanza.clone(),
                session: context.begun.session,
                digests: digests.to_vec().into(),
            };
            let known: Vec<bool> = context.mesh.call(&request).await?;
            let lost = digests.iter().zip(known).filter(|(_, known)| !known);
            missing.extend(lost.map(|(digest, _)| *digest));
        }
        if !missing.is_empty() {
            for ready in ready {
                if chunks(&ready.past).any(|digest| missing.contains(&digest)) {
                    tracing::debug!("{} is stored anew: chunks of it are missing", ready.entry.path);
                    ready.past = Past::New;
                }
            }
        }
        Ok(())
    }
}

fn before(past: &Past) -> Option<&FileEntry> {
    match past {
        Past::New => None,
        Past::Same(before) => Some(before),
        Past::Known(known) => Some(&known.before),
    }
}

/// The chunks that a file may go on to name.
fn chunks(past: &Past) -> impl Iterator<Item = Digest> {
    let before = before(past);
    let content = before.map_or(&[][..], FileEntry::extents);
    let fingerprints = before.and_then(|before| before.fingerprints.as_ref());
    let fingerprints = fingerprints
        .into_iter()
        .flat_map(|found| found.base.iter().chain(&found.patch));
    content.iter().chain(fingerprints).map(|extent| extent.digest)
}

/// Has the small files of a job stored anew when they lie in too many chunks.
pub fn gather(ready: &mut [Ready]) {
    let is_small = |ready: &&Ready| before(&ready.past).is_some_and(|before| before.size() <= SMALL);
    let small = ready.iter().filter(is_small).filter_map(|ready| before(&ready.past));
    let bytes: u64 = small.clone().map(FileEntry::size).sum();
    let extents = small.flat_map(FileEntry::extents);
    let chunks: BTreeSet<Digest> = extents.map(|extent| extent.digest).collect();
    if chunks.len() as u64 > SMALL_CHUNKS + 2 * (bytes >> 20) {
        for ready in ready.iter_mut().filter(|ready| is_small(&&**ready)) {
            ready.past = Past::New;
        }
    }
}
