//! The names of chunks that the catalog knows in one repository, in memory that does not grow with them (invariant 11).
//!
//! In an encrypted repository a path does not tell the digest, so a listed chunk cannot be looked up. Instead the names
//! of all chunks that the catalog knows are made once, and kept as a Bloom filter. It takes some unknown names for
//! known, never a known name for unknown. Each filter errs about other names, so a later scan finds the orphans that an
//! earlier one has missed.

use super::Failure;
use crate::bloom::Bloom;
use pgmesh_raft::{ObjectRef, ReadError, View};
use pgmesh_runtime::{random, tasks};
use pgmesh_storage::{Digest, Generation, RepoKey, Repository, StoredName};
use std::time::Duration;
use tokio::time::Instant;

/// Bits for each name: of 200 unknown ones one is taken for known.
const BITS: u64 = 16;
/// The most bytes: 33 million names at that. Of 100 million, one unknown name in thirteen is taken for known.
const LARGEST: u64 = 64 << 20;
/// How many bits one name has of its own.
const HASHES: u64 = 3;
/// Rows that are read at a time on a blocking thread.
const PAGE: usize = if cfg!(test) { 3 } else { 16 << 10 };
/// The pause after each page: a scan holds up no other work.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 0 } else { 10 });

/// The names.
pub(super) struct Names {
    bloom: Bloom,
    seed: u64,
    made: Instant,
}

impl Names {
    /// Room for about so many names.
    fn with_room(names: u64, seed: u64) -> Self {
        Self {
            bloom: Bloom::with_room(names, BITS, LARGEST),
            seed,
            made: Instant::now(),
        }
    }

    /// None at all.
    pub(super) fn none() -> Self {
        Self::with_room(0, 0)
    }

    /// The names of all chunks that the catalog knows in a repository: replicas (of condemned chunks, too), garbage,
    /// and objects that the repository keeps.
    pub(super) async fn read(view: &View, repository: &Repository, repo: RepoKey) -> Result<Self, Failure> {
        let mut seed = [0; 8];
        random::fill(&mut seed)
            .map_err(|error| Failure::new(pgmesh_protocol::ExitCode::Crypto, "no randomness").because(error))?;
        let mut names = Self::with_room(view.counters(repo)?.objects, u64::from_le_bytes(seed));
        let mut walk = Some(Walk::Chunks(None));
        while let Some(from) = walk {
            let (view, repository) = (view.clone(), repository.clone());
            let page = tasks::blocking("reading known names", move || {
                let next = names.read_page(&view, &repository, repo, from)?;
                Ok::<_, ReadError>((names, next))
            });
            let page = page.await.map_err(|error| {
                Failure::new(pgmesh_protocol::ExitCode::Runtime, "a walk over the catalog has ended").because(error)
            })?;
            (names, walk) = page?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(names)
    }

    /// Adds the next rows. Where to go on.
    fn read_page(
        &mut self,
        view: &View,
        repository: &Repository,
        repo: RepoKey,
        from: Walk,
    ) -> Result<Option<Walk>, ReadError> {
        match from {
            Walk::Chunks(after) => {
                let mut last = None;
                for row in view.all_chunks(after.as_ref()).take(PAGE) {
                    let (digest, record) = row?;
                    let own = record.replicas.iter().filter(|replica| replica.repo == repo);
                    for replica in own {
                        self.add(repository.stored_name(digest), replica.generation);
                    }
                    last = Some(digest);
                }
                Ok(Some(match last {
                    Some(_) => Walk::Chunks(last),
                    None => Walk::Garbage,
                }))
            }
            Walk::Garbage => {
                for row in view.garbage(None).chain(view.kept(None)) {
                    let (key, _) = row?;
                    if let ObjectRef::Chunk(digest) = key.object
                        && key.repo == repo
                    {
                        self.add(repository.stored_name(digest), key.generation);
                    }
                }
                Ok(None)
            }
        }
    }

    fn add(&mut self, name: StoredName, generation: Generation) {
        self.bloom.add(hashes(self.seed, name, generation));
    }

    /// Whether the name may be known; never `false` for a known name.
    pub(super) fn may_have(&self, name: StoredName, generation: Generation) -> bool {
        self.bloom.may_have(hashes(self.seed, name, generation))
    }

    /// How long ago they were read.
    pub(super) fn age(&self) -> Duration {
        self.made.elapsed()
    }
}

fn hashes(seed: u64, name: StoredName, generation: Generation) -> impl Iterator<Item = u64> {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = *name.as_bytes();
    let first = u64::from_le_bytes([a, b, c, d, e, f, g, h]) ^ seed ^ u64::from(generation.0).rotate_left(32);
    let second = u64::from_le_bytes([i, j, k, l, m, n, o, p]) ^ seed.rotate_left(17);
    let (first, step) = (mixed(first), mixed(second) | 1);
    (0..HASHES).map(move |number| first.wrapping_add(step.wrapping_mul(number)))
}

/// Where a walk over the catalog is.
enum Walk {
    Chunks(Option<Digest>),
    Garbage,
}

/// Each bit of the answer hangs on each bit of the question.
fn mixed(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_storage::{DigestSuite, ObjectPath};

    fn name(number: u32) -> StoredName {
        let digest = DigestSuite::Blake3.digest(&number.to_le_bytes()).to_string();
        let path = format!("chunk/{}/{digest}", &digest[..2]);
        ObjectPath::parse(&path).unwrap().name().unwrap()
    }

    #[test]
    fn no_known_name_is_taken_for_unknown_and_others_are_by_another_filter() {
        let mut filters = [Names::with_room(10_000, 7), Names::with_room(10_000, 8)];
        for filter in &mut filters {
            for number in 0..10_000 {
                filter.add(name(number), Generation(number % 3));
            }
        }
        let wrong = |filter: &Names| -> Vec<u32> {
            let others = 10_000..40_000;
            others
                .filter(|number| filter.may_have(name(*number), Generation(0)))
                .collect()
        };
        for filter in &filters {
            assert!((0..10_000).all(|number| filter.may_have(name(number), Generation(number % 3))));
            assert!((1..400).contains(&wrong(filter).len()), "{}", wrong(filter).len());
            let generations = (0..10_000).filter(|number| filter.may_have(name(*number), Generation(9)));
            assert!(generations.count() < 200, "another generation is another name");
        }
        let [first, second] = filters.each_ref().map(wrong);
        let both = first.iter().filter(|number| second.contains(number)).count();
        assert!(both < 20, "{both}");
    }
}
