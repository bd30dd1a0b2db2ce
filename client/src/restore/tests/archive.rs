//! Files of the archive, out of repositories on disk and with no node.

use super::super::source::Opening;
use super::*;
use crate::mesh::Archived as Answer;
use pgmesh_postgres::WalHole;
use pgmesh_protocol::ExitCode;
use pgmesh_storage::{FilePart, Portion};

/// An answer, and the content that came with it.
#[derive(Debug, PartialEq)]
enum Archived {
    Content(Vec<u8>),
    Never,
    Hole(WalHole),
}

async fn get_from(archive: &mut DirectArchive, system_id: u64, file: &str) -> Result<Archived, Failure> {
    let (stanza, mut content) = ("main".parse().unwrap(), Vec::new());
    let id = Some(SystemId(system_id));
    let answer = archive.get(&stanza, id, file.parse().unwrap(), &mut content).await?;
    Ok(match answer {
        Answer::Found => Archived::Content(content),
        Answer::Never => Archived::Never,
        Answer::Hole(hole) => Archived::Hole(hole),
    })
}

#[tokio::test]
async fn invariant_7_without_a_node_a_file_is_missing_only_when_every_repository_says_so() {
    let fixture = Fixture::new(2).await;
    let (known, unknown) = ("000000010000000000000002", "000000010000000000000004");
    let declared = fixture.declared(None);
    let get = async |file: &str, system_id: u64| {
        get_from(&mut DirectArchive::open(declared.clone()).await?, system_id, file).await
    };
    assert_eq!(get(known, 7).await, Ok(Archived::Content(known.repeat(1000).into())));
    assert_eq!(get(unknown, 7).await, Ok(Archived::Never));
    assert_eq!(get(known, 8).await.unwrap_err().code, ExitCode::ArchiveMismatch);

    fs::rename(fixture.path("repo2"), fixture.path("away")).unwrap();
    assert_eq!(get(known, 7).await, Ok(Archived::Content(known.repeat(1000).into())));
    assert_eq!(get(unknown, 7).await.unwrap_err().code, ExitCode::RepoInvalid);
}

#[tokio::test]
async fn a_silent_repository_keeps_nobody_from_what_another_one_has() {
    let fixture = Fixture::new(1).await;
    let known = "000000010000000000000002";
    let opening = Opening::start(fixture.declared(None));
    let mut archive = DirectArchive::when_open(opening.beside_one_more(2, std::future::pending()))
        .await
        .unwrap();
    let found = get_from(&mut archive, 7, known).await;
    assert_eq!(found, Ok(Archived::Content(known.repeat(1000).into())));
    assert!(archive.is_incomplete(), "the silent one was waited for");
}

#[tokio::test]
async fn invariant_7_a_repository_that_fails_late_keeps_a_file_from_being_said_to_be_missing() {
    let fixture = Fixture::new(1).await;
    let (known, unknown) = ("000000010000000000000002", "000000010000000000000004");
    let opening = Opening::start(fixture.declared(None));
    // It fails when told to, so that no clock decides whether it is waited for.
    let (fail, told) = tokio::sync::oneshot::channel::<()>();
    let opening = opening.beside_one_more(2, async move {
        let _ = told.await;
        Err(Failure::new(ExitCode::RepoInvalid, "repo2 fails in a test"))
    });
    let mut archive = DirectArchive::when_open(opening).await.unwrap();
    assert!(archive.is_incomplete());
    fail.send(()).unwrap();
    // Twice: the failure of repo2 is not forgotten after the first answer.
    for _ in 0..2 {
        let failure = get_from(&mut archive, 7, unknown).await.unwrap_err();
        assert_eq!(failure.code, ExitCode::RepoInvalid, "{failure}");
        assert!(failure.to_string().contains("repo2 fails in a test"), "{failure}");
        assert!(!archive.is_incomplete());
    }
    let found = get_from(&mut archive, 7, known).await;
    assert_eq!(found, Ok(Archived::Content(known.repeat(1000).into())));
}

#[tokio::test]
async fn invariant_7_without_a_node_a_hole_is_told_from_the_end_of_the_archive() {
    let fixture = Fixture::new(2).await;
    let declared = fixture.declared(None);
    let get = async |file: &str| get_from(&mut DirectArchive::open(declared.clone()).await?, 7, file).await;
    // Segments 2 and 3 are archived.
    let found = get("000000010000000000000001").await;
    assert!(matches!(found, Ok(Archived::Hole(WalHole::Later(_)))), "{found:?}");
    assert_eq!(get("000000010000000000000004").await, Ok(Archived::Never));
    let history = |digest| ObjectName::Segment {
        stanza: "main".parse().unwrap(),
        archive_id: "15-1".parse().unwrap(),
        file: "00000002.history".parse().unwrap(),
        digest,
        portion: Portion::Whole,
    };
    fixture
        .put(history, b"1\t0/6000100\tno recovery target specified\n")
        .await;
    let hole = WalHole::LeftLater {
        timeline: TimelineId(2),
        switch: Lsn(0x0600_0100),
    };
    assert_eq!(get("000000010000000000000004").await, Ok(Archived::Hole(hole)));
    assert_eq!(get("000000010000000000000006").await, Ok(Archived::Never));
    // The timeline began in segment 6.
    assert_eq!(get("000000020000000000000005").await, Ok(Archived::Never));
}

/// A file of three parts, of which each repository is given these.
async fn put_in_parts(fixture: &Fixture, file: &str, content: &[u8], parts: &[&[u16]]) {
    let name = ObjectName::Segment {
        stanza: "main".parse().unwrap(),
        archive_id: "15-1".parse().unwrap(),
        file: file.parse().unwrap(),
        digest: SUITE.digest(content),
        portion: Portion::of_length(content.len() as u64),
    };
    for (repository, given) in fixture.repositories.iter().zip(parts) {
        for (part, piece) in FilePart::all(3).zip(content.chunks(8 << 20)) {
            if given.contains(&part.number()) {
                let payload = Payload::pack(SUITE, Codec::Zst, None, piece).unwrap();
                let put = repository.put(&name.of_part(part), Generation::FIRST, &payload).await;
                put.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_file_in_parts_is_read_where_all_of_them_are() {
    let fixture = Fixture::new(2).await;
    let declared = fixture.declared(None);
    let get = async |file: &str| get_from(&mut DirectArchive::open(declared.clone()).await?, 7, file).await;
    let content: Vec<u8> = (0..(16u32 << 20) + 9)
        .map(|at| (at / 70_000).to_le_bytes()[0])
        .collect();
    let (whole, cut, lost) = (
        "000000010000000000000004",
        "000000010000000000000006",
        "000000010000000000000005",
    );
    put_in_parts(&fixture, whole, &content, &[&[1, 3], &[1, 2, 3]]).await;
    assert_eq!(get(whole).await, Ok(Archived::Content(content.clone())));
    // Invariant 7: a file that has lost a part was archived once; a file whose upload was cut never was.
    put_in_parts(&fixture, lost, &content, &[&[1, 3], &[]]).await;
    assert_eq!(get(lost).await.unwrap_err().code, ExitCode::RepoInvalid);
    put_in_parts(&fixture, cut, &content, &[&[1, 2], &[1]]).await;
    assert_eq!(get(cut).await, Ok(Archived::Never));
    // Two contents: nothing tells which one is right.
    let other = vec![1; content.len()];
    put_in_parts(&fixture, whole, &other, &[&[1, 2, 3], &[]]).await;
    assert_eq!(get(whole).await.unwrap_err().code, ExitCode::ArchiveDuplicate);
    // A damaged part of one content is not taken from the other, which is whole.
    let damaged = fixture.repositories[1]
        .list_sorted("stanza/main/archive")
        .await
        .unwrap();
    let (path, _) = damaged
        .iter()
        .find(|(path, _)| path.to_string().contains(&format!("{whole}-")) && path.to_string().ends_with(".p002of003"))
        .unwrap();
    let at = fixture.path("repo2").join(path.to_string());
    let mut bytes = fs::read(&at).unwrap();
    bytes[60] ^= 1;
    fs::remove_file(&at).unwrap();
    fs::write(&at, bytes).unwrap();
    assert_eq!(get(whole).await, Ok(Archived::Content(other)));
}
