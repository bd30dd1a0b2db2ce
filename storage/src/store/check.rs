//! Tries step by step whether a directory or bucket can hold a repository, beside the repository's own objects.

use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path as Location;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::{Store, StoreKind, StoreSettings};
use crate::error::StoreError;
use crate::names::check_folder;
use crate::random;

/// Writers of one object at once.
const WRITERS: usize = 8;
/// Objects listed: more than one page of any server is the conformance suite's, not a user's.
const LISTED: usize = 12;

/// The size of the check.
#[derive(Clone, Copy, Debug)]
pub struct CheckSize {
    /// The length of the longest object, in bytes.
    pub longest: usize,
}

impl Default for CheckSize {
    fn default() -> Self {
        // More than one part of an upload.
        Self { longest: 33 << 20 }
    }
}

/// One step.
#[derive(Clone, Debug)]
pub struct CheckStep {
    /// The step, in words: `write an object and read it back`.
    pub what: &'static str,
    /// The outcome.
    pub outcome: CheckOutcome,
    /// The time that the step took.
    pub took: Duration,
}

/// The outcome of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The step succeeded.
    Good,
    /// The step showed a weakness that pgmesh can work with.
    Note(String),
    /// The step failed: no repository can be held here.
    Bad(String),
}

/// Tries a directory or bucket in a folder of its own, `pgmesh-check-…`, and deletes its objects again, as far as it
/// may. If an early step fails, the later ones that need it are left out. Each step is passed to `tell` as soon as it
/// ends.
///
/// # Errors
/// The options cannot be used at all. Faults of the directory or bucket are in the steps.
pub async fn check_store(
    settings: &StoreSettings,
    size: CheckSize,
    mut tell: impl FnMut(&CheckStep),
) -> Result<Vec<CheckStep>, StoreError> {
    let token = random::bytes().map_err(|error| StoreError::Unusable {
        what: "the system's random numbers".to_owned(),
        source: Box::new(error),
    })?;
    let mut beside = settings.clone();
    let name = check_folder(token);
    let is_directory = settings.kind()? == StoreKind::Posix;
    let folder = match (is_directory, settings.path_in_bucket()) {
        // In the file system that the repository would fill, but never in the repository's tree.
        (true, _) => format!("{}.{name}", settings.path().trim_end_matches('/')),
        (false, "") => name,
        (false, path) => format!("{path}/{name}"),
    };
    beside.definition.insert("path".to_owned(), folder.clone());
    let store = Store::create(&beside)?;
    let mut checks = Checks {
        objects: store.objects(),
        store,
        place: beside.to_string(),
        size,
        steps: Vec::new(),
        tell: &mut tell,
    };
    checks.run().await;
    let steps = checks.steps;
    if is_directory {
        // `delete` has left empty folders alone. If this fails, the user sees them.
        let _ = std::fs::remove_dir_all(&folder);
    }
    Ok(steps)
}

struct Checks<'a> {
    store: Store,
    objects: std::sync::Arc<dyn ObjectStore>,
    /// The folder that is written to, as a user names it: left-over objects lie there.
    place: String,
    size: CheckSize,
    steps: Vec<CheckStep>,
    tell: &'a mut dyn FnMut(&CheckStep),
}

/// The result of a step: nothing to report, a note, or the reason why it failed.
type Verdict = Result<Option<String>, String>;

impl Checks<'_> {
    /// Records one step. `true` unless it failed.
    fn step(&mut self, what: &'static str, began: Instant, verdict: Verdict) -> bool {
        let outcome = match verdict {
            Ok(None) => CheckOutcome::Good,
            Ok(Some(note)) => CheckOutcome::Note(note),
            Err(why) => CheckOutcome::Bad(why),
        };
        let step = CheckStep {
            what,
            outcome,
            took: began.elapsed(),
        };
        (self.tell)(&step);
        let is_good = !matches!(step.outcome, CheckOutcome::Bad(_));
        self.steps.push(step);
        is_good
    }

    async fn run(&mut self) {
        let began = Instant::now();
        let reached = self.reach().await;
        if !self.step("reach it and list its objects", began, reached) {
            return;
        }
        let began = Instant::now();
        let written = self.write().await;
        if !self.step("write an object and read it back", began, written) {
            return;
        }
        let began = Instant::now();
        let verdict = self.create_only().await;
        self.step("refuse to replace an object", began, verdict);
        let began = Instant::now();
        let verdict = self.concurrent().await;
        self.step("let one of several writers of an object win", began, verdict);
        let began = Instant::now();
        let verdict = self.ranges().await;
        self.step("read parts of an object", began, verdict);
        let began = Instant::now();
        let verdict = self.empty().await;
        self.step("hold an empty object", began, verdict);
        let began = Instant::now();
        let verdict = self.long().await;
        self.step("hold a long object", began, verdict);
        let began = Instant::now();
        let verdict = self.listing().await;
        self.step(
            "list what was written, and only below the folder asked for",
            began,
            verdict,
        );
        let began = Instant::now();
        let verdict = self.absent().await;
        self.step("say that a missing object is missing", began, verdict);
        let began = Instant::now();
        let verdict = self.delete().await;
        self.step("delete objects", began, verdict);
    }

    async fn put(&self, name: &str, content: Bytes) -> object_store::Result<()> {
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let path = Location::from(name);
        let put = self.objects.put_opts(&path, PutPayload::from(content), options);
        put.await.map(drop)
    }

    async fn get(&self, name: &str) -> object_store::Result<Bytes> {
        let got = self
            .objects
            .get_opts(&Location::from(name), GetOptions::default())
            .await?;
        got.bytes().await
    }

    async fn reach(&self) -> Verdict {
        let listed: Result<Vec<_>, _> = self.objects.list(None).try_collect().await;
        match listed {
            Ok(_) => Ok(None),
            Err(error) => Err(words("listing", "", error)),
        }
    }

    async fn write(&self) -> Verdict {
        let content = pattern(100_000, 1);
        self.put("one/object", content.clone())
            .await
            .map_err(|error| words("writing", "one/object", error))?;
        let found = self
            .get("one/object")
            .await
            .map_err(|error| words("reading", "one/object", error))?;
        same(&found, &content)
    }

    async fn create_only(&self) -> Verdict {
        let other = pattern(100_000, 2);
        let note = match self.put("one/object", other.clone()).await {
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => None,
            Err(error) => return Err(words("writing again", "one/object", error)),
            Ok(()) => Some(
                "the server silently ignores conditional writes; pgmesh checks whether an object exists before it \
                 writes it, and names contain digests, so nothing is lost"
                    .to_owned(),
            ),
        };
        let found = self
            .get("one/object")
            .await
            .map_err(|error| words("reading", "one/object", error))?;
        let expected = if note.is_some() { other } else { pattern(100_000, 1) };
        same(&found, &expected)?;
        Ok(note)
    }

    async fn concurrent(&self) -> Verdict {
        let writes = (0..WRITERS).map(|writer| async move {
            let content = pattern(50_000, 10 + writer as u64);
            (writer, self.put("one/contended", content).await)
        });
        let mut winners = Vec::new();
        for (writer, outcome) in futures::future::join_all(writes).await {
            match outcome {
                Ok(()) => winners.push(writer),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
                Err(error) => return Err(words("writing", "one/contended", error)),
            }
        }
        let found = self
            .get("one/contended")
            .await
            .map_err(|error| words("reading", "one/contended", error))?;
        let whole = (0..WRITERS).find(|writer| found == pattern(50_000, 10 + *writer as u64));
        match (whole, winners.as_slice()) {
            (None, _) => Err("the object mixes bytes of several writers".to_owned()),
            (Some(writer), [winner]) if writer == *winner => Ok(None),
            (Some(_), []) => Err("no writer got a confirmation, and yet the object exists".to_owned()),
            (Some(_), [_]) => Err("the object is not the content of the writer that got the confirmation".to_owned()),
            (Some(_), many) => Ok(Some(format!(
                "{} of {WRITERS} writers of one object got a confirmation; only one may",
                many.len()
            ))),
        }
    }

    async fn ranges(&self) -> Verdict {
        let whole = self
            .get("one/contended")
            .await
            .map_err(|error| words("reading", "one/contended", error))?;
        let path = Location::from("one/contended");
        for (start, end) in [(0, 1), (1000, 3000), (49_999, 50_000)] {
            let options = GetOptions {
                range: Some(GetRange::Bounded(start as u64..end as u64)),
                ..GetOptions::default()
            };
            let failed = |error| words("reading a part of", "one/contended", error);
            let got = self.objects.get_opts(&path, options).await.map_err(failed)?;
            let found = got.bytes().await.map_err(failed)?;
            if found != whole.slice(start..end) {
                return Err(format!(
                    "bytes {start} to {end} differ from the same bytes of the whole object"
                ));
            }
        }
        Ok(None)
    }

    async fn empty(&self) -> Verdict {
        self.put("one/empty", Bytes::new())
            .await
            .map_err(|error| words("writing", "one/empty", error))?;
        let found = self
            .get("one/empty")
            .await
            .map_err(|error| words("reading", "one/empty", error))?;
        same(&found, &Bytes::new())
    }

    async fn long(&self) -> Verdict {
        let content = pattern(self.size.longest, 3);
        self.put("one/long", content.clone())
            .await
            .map_err(|error| words("writing", "one/long", error))?;
        let found = self
            .get("one/long")
            .await
            .map_err(|error| words("reading", "one/long", error))?;
        same(&found, &content)
    }

    async fn listing(&self) -> Verdict {
        for number in 0..LISTED {
            for folder in ["many", "many-more"] {
                let name = format!("{folder}/{number:04}");
                let put = self.put(&name, Bytes::from_static(b"x")).await;
                put.map_err(|error| words("writing", &name, error))?;
            }
        }
        let listed: Result<Vec<_>, _> = self.objects.list(Some(&Location::from("many"))).try_collect().await;
        let listed = listed.map_err(|error| words("listing", "many", error))?;
        let names: BTreeSet<String> = listed.iter().map(|meta| meta.location.to_string()).collect();
        let expected: BTreeSet<String> = (0..LISTED).map(|number| format!("many/{number:04}")).collect();
        match names == expected && listed.iter().all(|meta| meta.size == 1) {
            true => Ok(None),
            false => Err(format!(
                "{} objects are listed where {LISTED} were written",
                names.len()
            )),
        }
    }

    async fn absent(&self) -> Verdict {
        match self.get("one/absent").await {
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(words("reading", "one/absent", error)),
            Ok(_) => Err("the server returned an object that was never written".to_owned()),
        }
    }

    async fn delete(&self) -> Verdict {
        let listed: Result<Vec<_>, _> = self.objects.list(None).try_collect().await;
        let listed = listed.map_err(|error| words("listing", "", error))?;
        let count = listed.len();
        if !self.store.may_delete() {
            let left = left_behind(count, &self.place);
            return Ok(Some(format!("nothing is deleted (delete=n): {left}")));
        }
        for (deleted, meta) in listed.iter().enumerate() {
            match self.objects.delete(&meta.location).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => {
                    let left = left_behind(count - deleted, &self.place);
                    return match StoreError::from_store("deleting", meta.location.as_ref(), error) {
                        StoreError::Retained { why, .. } => Ok(Some(format!("{left}: {why}"))),
                        error => Err(format!("{}; {left}", chain(&error))),
                    };
                }
            }
        }
        match self.get("one/object").await {
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(words("reading", "one/object", error)),
            Ok(_) => Err("a deleted object can still be read".to_owned()),
        }
    }
}

/// The number of objects that stay, and their folder. The administrator can delete them: pgmesh does not take them for
/// objects of the repository.
fn left_behind(count: usize, place: &str) -> String {
    match count {
        1 => format!("1 object of this check stays in {place}"),
        count => format!("{count} objects of this check stay in {place}"),
    }
}

/// Bytes that depend on the seed: two seeds give different contents.
fn pattern(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

fn same(found: &Bytes, expected: &Bytes) -> Verdict {
    match found == expected {
        true => Ok(None),
        false => Err(format!(
            "{} bytes were read, and they are not the {} bytes that were written",
            found.len(),
            expected.len()
        )),
    }
}

fn words(action: &'static str, path: &str, error: Error) -> String {
    let path = if path.is_empty() { "the folder" } else { path };
    chain(&StoreError::from_store(action, path, error))
}

fn chain(error: &StoreError) -> String {
    // Each level of a store's error is in its own sentence already.
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_with_its_place() {
        let place = "s3://bucket/pgmesh-check-000102030405";
        assert_eq!(
            left_behind(28, place),
            "28 objects of this check stay in s3://bucket/pgmesh-check-000102030405"
        );
        assert!(left_behind(1, place).starts_with("1 object of this check stays in s3://"));
    }
}
