//! What is at the edge: cut, refused for a moment, or asked twice.

use super::super::fits;
use super::*;
use crate::services::archive::{Plan, Planned};
use crate::services::aside::Content;
use pgmesh_raft::Claim;

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_is_cut_leaves_the_beginning_of_a_file() {
    let (archive, _) = Archive::with_file(1).await;
    let files = archive.files(1);
    // A folder cannot be deleted as a file.
    let block = |file: &Path| {
        std::fs::remove_file(file).unwrap();
        std::fs::create_dir(file).unwrap();
    };
    let are_there = || -> Vec<bool> { files.iter().map(|file| file.is_file()).collect() };
    block(&files[3]);
    delete_all(&archive).await.unwrap_err();
    assert_eq!(
        are_there(),
        [true, true, true, false],
        "nothing goes while the last one stays"
    );
    std::fs::remove_dir(&files[3]).unwrap();
    block(&files[2]);
    for _ in 0..2 {
        delete_all(&archive).await.unwrap_err();
        assert!(files[0].is_file(), "one at most is missing before one that stays");
    }
    std::fs::remove_dir(&files[2]).unwrap();
    delete_all(&archive).await.unwrap();
    assert!(archive.files(1).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_takes_no_more_for_a_moment_is_waited_for() {
    let archive = Archive::new(2).await;
    let (content, client) = (content(), &archive.client);
    let mut announced = push_in_parts(&content);
    announced.archive_ack = Some(1);
    let parts = payloads(&content);
    let (mut stream, _) = begin(client, &announced).await.unwrap();
    let send = async |stream: &mut Stream, part: &Payload| {
        stream.send(&part.head()).await.unwrap();
        stream.send_bytes(&part.bytes).await.unwrap();
    };
    let has = |repository, count| archive.files(repository).len() == count;
    send(&mut stream, &parts[0]).await;
    archive.site.wait("the first part", |_| has(1, 1) && has(2, 1)).await;
    // As much is under way there as may be.
    let slot = archive.site.node.own_slot(RepoKey::new(2).unwrap()).unwrap().clone();
    let much = slot.watch.begin(crate::health::Work::Write, 48 << 20);
    send(&mut stream, &parts[1]).await;
    archive.site.wait("the second part", |_| has(1, 2)).await;
    assert!(has(2, 1), "it takes nothing more at present");
    much.answered();
    // Before all of the file is there: no repair has brought it.
    archive.site.wait("the second part", |_| has(2, 2)).await;
    for part in &parts[2..] {
        send(&mut stream, part).await;
    }
    stream.finish().unwrap();
    stream.reply::<PushSegment>().await.unwrap().unwrap();
    archive.wait_for_replicas(&[(1, 0), (2, 0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_3_what_was_compared_too_little_is_not_set_aside() {
    let (archive, content) = Archive::with_file(1).await;
    let mut other = content.clone();
    other[9 << 20] ^= 1;
    let node = &archive.site.node;
    let plan = async |left: u64| -> Box<Plan> {
        let push = from_another(&other, left);
        let content = Content::InParts(push.payload.digest);
        match node.archive.plan_push(&push, &FILE.parse().unwrap(), content).await {
            Ok(Planned::Write(plan)) => plan,
            _ => panic!("nothing is to be written"),
        }
    };
    let (near, far, none) = (plan(9 << 20).await, plan(10 << 20).await, plan(0).await);
    let claim = Claim {
        replica: Replica {
            repo: RepoKey::new(1).unwrap(),
            generation: Generation::FIRST,
        },
        identity: node
            .catalog
            .view()
            .repository(RepoKey::new(1).unwrap())
            .unwrap()
            .unwrap()
            .identity(),
    };
    let fits = |was: &Plan, is: &Plan, same| fits(was, is, same, std::slice::from_ref(&claim));
    assert!(fits(&near, &near, Some(9 << 20)));
    // A history that was archived meanwhile says that the timelines parted later.
    assert!(!fits(&near, &far, Some(9 << 20)));
    assert!(fits(&near, &far, Some(10 << 20)));
    assert!(fits(&none, &none, None) && !fits(&none, &near, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_elsewhere_while_a_copy_is_doubted_once() {
    let (archive, content) = Archive::with_file(2).await;
    let client = &archive.client;
    archive.wait_for_replicas(&[(1, 0), (2, 0)]).await;
    harm(&archive.files(1)[2]);
    let node = &archive.site.node;
    // The doubt does not come to its end.
    let turn = node.reads.doubts.turn().await;
    for _ in 0..3 {
        let (read, repos) = get(client, vec![1]).await.unwrap();
        assert!(read == content && repos.iter().all(|repo| *repo == 2), "{repos:?}");
    }
    assert_eq!(node.reads.doubts.under_way(), 1);
    drop(turn);
    archive.wait_for_replicas(&[(1, 1), (2, 0)]).await;
    archive
        .site
        .wait("the end of the doubt", |_| node.reads.doubts.under_way() == 0)
        .await;
}
