//! Parts written to repositories that a test plays.

use super::*;
use crate::budget::Budget;
use crate::repositories::slot::SlotError;
use pgmesh_raft::{LogIndex, PlacedIdentity, Replica};
use pgmesh_storage::{Codec, Digest, DigestSuite, Portion};
use std::sync::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const PARTS: u16 = 6;
/// The patience with slow repositories.
const SHORT: Duration = Duration::from_millis(600);

fn repo(number: u16) -> RepoKey {
    RepoKey::new(number).unwrap()
}

fn written(number: u16, generation: u32, uuid: &str) -> Written {
    let replica = Replica {
        repo: repo(number),
        generation: Generation(generation),
    };
    let identity = PlacedIdentity {
        uuid: uuid.to_owned(),
        placed: LogIndex(1),
    };
    Written {
        claim: Claim { replica, identity },
        stored: 1,
    }
}

/// How a repository does with a part.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// It has it at once.
    Well,
    /// So long after the others.
    LateWrites(Duration),
    /// Never.
    Fail,
    /// Under the next generation: a damaged object stands there.
    Beside,
}

/// Each part's number, and the repositories that it was sent to.
type Asked = Arc<Mutex<Vec<(u16, Vec<u16>)>>>;

/// Writes a part to its targets as `does` tells, and acknowledges when one repository has it.
async fn play(part: PartToWrite, targets: Vec<(RepoKey, Generation)>, does: impl Fn(u16, u16) -> Does) -> WriteOutcome {
    let PartToWrite { part, held, turn, .. } = part;
    let part = part.number();
    // The next part may come first.
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    let (sender, ends) = mpsc::unbounded_channel();
    let (mut durable, mut owed, mut under_way) = (Vec::new(), Vec::new(), 0);
    for (key, generation) in &targets {
        match does(key.get(), part) {
            Does::Well => durable.push(written(key.get(), generation.0, "here")),
            Does::Beside => durable.push(written(key.get(), generation.0 + 1, "here")),
            Does::Fail => owed.push(*key),
            Does::LateWrites(after) => {
                owed.push(*key);
                under_way += 1;
                let (sender, end, key) = (sender.clone(), written(key.get(), generation.0, "here"), *key);
                let held = held.clone();
                drop::<JoinHandle<()>>(tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    drop(held);
                    let end: Result<Written, SlotError> = Ok(end);
                    drop(sender.send((key, end)));
                }));
            }
        }
    }
    drop(turn);
    WriteOutcome {
        durable,
        owed,
        asked: targets.into_iter().collect(),
        late: LateWrites::waiting(ends, under_way),
    }
}

/// Writes a file. Returns the repositories that each part was sent to, and the time, as well.
async fn run(ack: usize, does: impl Fn(u16, u16) -> Does + Copy) -> (Writing, Result<(), Failure>, Asked, Duration) {
    run_with(Budget::new(1 << 20), ack, does).await
}

/// Each part takes one unit of the budget.
async fn run_with(
    budget: Budget,
    ack: usize,
    does: impl Fn(u16, u16) -> Does + Copy,
) -> (Writing, Result<(), Failure>, Asked, Duration) {
    let file = FileWrite {
        name: ObjectName::Segment {
            stanza: "main".parse().unwrap(),
            archive_id: "15-1".parse().unwrap(),
            file: "000000010000000000000001".parse().unwrap(),
            digest: Digest([7; 32]),
            portion: Portion::AllParts(PARTS),
        },
        of: PARTS,
        targets: vec![(repo(1), Generation(4)), (repo(2), Generation(4))],
        ack,
    };
    let (sender, parts) = mpsc::channel(1);
    drop::<JoinHandle<()>>(tokio::spawn(async move {
        let turns = Arc::new(Semaphore::new(PARTS_AT_ONCE + 1));
        for part in FilePart::all(PARTS) {
            let write = PartToWrite {
                part,
                payload: Payload::pack(DigestSuite::Blake3, Codec::None, None, b"x").unwrap(),
                held: Arc::new(budget.hold(1).await),
                turn: turns.clone().acquire_owned().await.unwrap(),
            };
            if sender.send(write).await.is_err() {
                return;
            }
        }
    }));
    let (asked, began) = (Asked::default(), Instant::now());
    let (writing, outcome) = drive(&file, parts, SHORT, |part, targets| {
        let repos = targets.iter().map(|(key, _)| key.get()).collect();
        asked.lock().unwrap().push((part.part.number(), repos));
        async move { Ok(play(part, targets, does).await) }
    })
    .await;
    (writing, outcome, asked, began.elapsed())
}

fn full(writing: &Writing) -> Vec<u16> {
    let claims = writing.progress.full();
    claims.iter().map(|claim| claim.replica.repo.get()).collect()
}

#[tokio::test]
async fn every_part_goes_to_every_repository() {
    let (writing, outcome, asked, _) = run(2, |_, _| Does::Well).await;
    outcome.unwrap();
    assert_eq!(full(&writing), [1, 2]);
    let asked = asked.lock().unwrap().clone();
    let all: Vec<(u16, Vec<u16>)> = (1..=PARTS).map(|part| (part, vec![1, 2])).collect();
    assert_eq!(asked, all);
}

#[tokio::test]
async fn one_that_fails_a_part_has_not_got_the_file() {
    let does = |repo, part| match (repo, part) {
        (2, 3) => Does::Fail,
        _ => Does::Well,
    };
    let (writing, outcome, asked, _) = run(1, does).await;
    outcome.unwrap();
    assert_eq!(full(&writing), [1]);
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked.last().unwrap().1, [1], "it is asked for no more parts");
    let (_, outcome, ..) = run(2, does).await;
    assert_eq!(outcome.unwrap_err().code, ExitCode::ArchiveTimeout);
}

#[tokio::test]
async fn one_that_is_a_little_slower_is_waited_for() {
    let does = |repo, _| match repo {
        2 => Does::LateWrites(Duration::from_millis(5)),
        _ => Does::Well,
    };
    let (writing, outcome, ..) = run(1, does).await;
    outcome.unwrap();
    let mut file = FileWritten { writing };
    assert_eq!(full(&file.writing), [1]);
    // After the acknowledgement it comes to its end as well.
    assert_eq!(file.next().await.unwrap().replica.repo, repo(2));
    assert!(file.next().await.is_none() && file.is_done());
}

#[tokio::test]
async fn one_that_is_much_slower_is_given_up_for_the_file() {
    let does = |repo, _| match repo {
        2 => Does::LateWrites(Duration::from_secs(50)),
        _ => Does::Well,
    };
    let (writing, outcome, asked, took) = run(1, does).await;
    outcome.unwrap();
    assert_eq!(full(&writing), [1]);
    assert!(took >= SHORT && took < Duration::from_secs(20), "{took:?}");
    assert_eq!(asked.lock().unwrap().last().unwrap().1, [1]);
    assert!(FileWritten { writing }.next().await.is_none());
}

#[tokio::test]
async fn one_that_holds_the_memory_of_the_next_part_is_given_up() {
    let does = |repo, _| match repo {
        2 => Does::LateWrites(2 * SHORT),
        _ => Does::Well,
    };
    let (writing, outcome, asked, took) = run_with(Budget::new(1), 1, does).await;
    outcome.unwrap();
    assert_eq!(full(&writing), [1]);
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked[1], (2, vec![1]), "it is waited for once, not with every part");
    assert!(took < u32::from(PARTS) * 2 * SHORT, "{took:?}");
}

#[tokio::test]
async fn the_first_part_says_who_takes_part() {
    let does = |repo, part| match (repo, part) {
        (2, 1) => Does::Fail,
        _ => Does::Well,
    };
    let (_, outcome, asked, _) = run(1, does).await;
    outcome.unwrap();
    assert_eq!(asked.lock().unwrap().clone()[1], (2, vec![1]));
}

#[tokio::test]
async fn nobody_is_given_up_who_is_needed() {
    // By turns: the repository that acknowledges one part is late with the next.
    let does = |repo, part| match (repo + part) % 2 {
        0 => Does::LateWrites(2 * SHORT),
        _ => Does::Well,
    };
    let (writing, outcome, ..) = run(1, does).await;
    outcome.unwrap();
    assert!(!full(&writing).is_empty());
}

#[tokio::test]
async fn all_parts_of_a_file_have_one_generation() {
    let does = |repo, part| match (repo, part) {
        (2, 2) => Does::Beside,
        _ => Does::Well,
    };
    let (writing, outcome, ..) = run(1, does).await;
    outcome.unwrap();
    assert_eq!(full(&writing), [1]);
    assert_eq!(writing.passed, [(repo(2), Generation(5))]);
}

#[test]
fn parts_in_two_repositories_of_one_number_are_no_file() {
    let file = FileWrite {
        name: ObjectName::Chunk(Digest([1; 32])),
        of: 3,
        targets: vec![(repo(1), Generation(0))],
        ack: 1,
    };
    let mut progress = Progress::of(&file);
    assert_eq!(progress.wrote(&written(1, 0, "here")), None);
    assert_eq!(progress.going().len(), 1);
    assert_eq!(progress.wrote(&written(1, 0, "there")), None);
    assert!(progress.going().is_empty());
}
