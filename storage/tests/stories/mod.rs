//! The behaviour of a repository on every type of store: one story each, beginning with an empty repository.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use futures::future::BoxFuture;
use pgmesh_storage::{
    Codec, Digest, FILE_PART_LENGTH, FilePart, Generation, ObjectKind, ObjectName, Payload, Portion, PutOutcome,
    Repository, StoreError, parts_of, prefix,
};

use crate::common::{chunk, pack};

/// A story and its name.
type Story = (&'static str, fn(Repository) -> BoxFuture<'static, ()>);

/// All stories.
pub const STORIES: &[Story] = &[
    ("what_was_put_is_got_by_name_and_by_path", |repository| {
        Box::pin(what_was_put_is_got_by_name_and_by_path(repository))
    }),
    ("listings_are_by_folder", |repository| {
        Box::pin(listings_are_by_folder(repository))
    }),
    ("a_second_put_finds_the_first", |repository| {
        Box::pin(a_second_put_finds_the_first(repository))
    }),
    ("what_is_not_there_is_not_found", |repository| {
        Box::pin(what_is_not_there_is_not_found(repository))
    }),
    ("a_payload_under_a_name_that_is_not_its_own_is_refused", |repository| {
        Box::pin(a_payload_under_a_name_that_is_not_its_own_is_refused(repository))
    }),
    ("generations_stand_side_by_side", |repository| {
        Box::pin(generations_stand_side_by_side(repository))
    }),
    ("sixteen_writers_of_one_object_agree", |repository| {
        Box::pin(sixteen_writers_of_one_object_agree(repository))
    }),
    ("a_long_file_lies_in_parts", |repository| {
        Box::pin(a_long_file_lies_in_parts(repository))
    }),
    ("what_was_made_is_usable", |repository| {
        Box::pin(what_was_made_is_usable(repository))
    }),
];

/// One object of each kind.
fn one_of_each() -> Vec<(ObjectName, Payload)> {
    let stanza: pgmesh_storage::StanzaName = "main".parse().unwrap();
    let archive_id = "15-1".parse().unwrap();
    let segment = |file: &str, payload: Payload| {
        let name = ObjectName::Segment {
            stanza: stanza.clone(),
            archive_id,
            file: file.parse().unwrap(),
            digest: payload.digest,
            portion: Portion::Whole,
        };
        (name, payload)
    };
    let manifest = pack(b"manifest");
    let info = pack(b"info");
    vec![
        chunk(&[1; 100_000]),
        segment("000000010000000000000001", pack(&[2; 16 << 20])),
        segment(
            "00000002.history",
            pack(b"1\t0/1000000\tno recovery target specified\n"),
        ),
        (
            ObjectName::Manifest {
                stanza: stanza.clone(),
                label: "20250215-020001F".parse().unwrap(),
                digest: manifest.digest,
            },
            manifest,
        ),
        (
            ObjectName::StanzaInfo {
                stanza: stanza.clone(),
                archive_id,
                digest: info.digest,
            },
            info,
        ),
    ]
}

async fn what_was_put_is_got_by_name_and_by_path(repository: Repository) {
    let objects = one_of_each();
    for (name, payload) in &objects {
        let stored = repository.put(name, Generation::FIRST, payload).await.unwrap();
        assert!(!stored.already);
        let length = repository.stored_length(name, Generation::FIRST).await.unwrap();
        assert_eq!(length, stored.bytes);
        assert_eq!(repository.get(name, Generation::FIRST).await.unwrap(), *payload);
        let checked = repository.get_checked(name, Generation::FIRST).await.unwrap();
        assert_eq!(checked.plain, payload.open(repository.suite()).unwrap());
    }
    let listed = repository.list_sorted("").await.unwrap();
    let by_path: BTreeSet<_> = listed
        .iter()
        .filter(|(path, _)| path.kind().is_some())
        .map(|(path, _)| path.to_string())
        .collect();
    assert_eq!(by_path.len(), objects.len());
    for path in by_path {
        let (name, checked) = repository.get_by_path(&path).await.unwrap();
        assert!(objects.contains(&(name, checked.payload)), "{path}");
    }
    let mut every = 0;
    for (path, length) in &listed {
        assert_eq!(repository.verify_path(&path.to_string()).await.unwrap(), *length);
        every += 1;
    }
    let keys = usize::from(repository.is_encrypted());
    assert_eq!(every, objects.len() + 1 + keys);
    repository.probe().await.unwrap();
}

async fn listings_are_by_folder(repository: Repository) {
    for (name, payload) in one_of_each() {
        repository.put(&name, Generation::FIRST, &payload).await.unwrap();
    }
    let main = "main".parse().unwrap();
    let kinds = |folder: String| {
        let repository = repository.clone();
        async move {
            let listed = repository.list_sorted(&folder).await.unwrap();
            listed.iter().filter_map(|(path, _)| path.kind()).collect::<Vec<_>>()
        }
    };
    assert_eq!(kinds(prefix::CHUNKS.into()).await, [ObjectKind::Chunk]);
    assert_eq!(kinds(prefix::backups(&main)).await, [ObjectKind::Manifest]);
    assert_eq!(kinds(prefix::databases(&main)).await, [ObjectKind::StanzaInfo]);
    let archive_id = "15-1".parse().unwrap();
    assert_eq!(kinds(prefix::archive(&main, archive_id)).await.len(), 2);
    assert_eq!(kinds(prefix::stanza(&main)).await.len(), 4);
    assert!(kinds("stanza/mai".into()).await.is_empty());
    assert!(kinds("stanza/none".into()).await.is_empty());
    let raw: Vec<_> = repository.list("").try_collect().await.unwrap();
    assert!(raw.iter().any(|listed| listed.path == "pgmesh.repo"));
    for file in ["000000010000000000000001", "00000002.history"] {
        let file = file.parse().unwrap();
        let found = repository.find_archived(&main, archive_id, &file).await.unwrap();
        assert_eq!(found.len(), 1);
    }
    let other = "000000010000000000000002".parse().unwrap();
    assert!(
        repository
            .find_archived(&main, archive_id, &other)
            .await
            .unwrap()
            .is_empty()
    );
}

async fn a_second_put_finds_the_first(repository: Repository) {
    let (name, payload) = chunk(&[5; 9000]);
    let first = repository.put(&name, Generation::FIRST, &payload).await.unwrap();
    let path = repository.path_of(&name, Generation::FIRST).to_string();
    let before = repository.read_raw(&path).await.unwrap();
    // The same content, compressed in another way.
    let again = Payload::pack(repository.suite(), Codec::Gz, None, &[5; 9000]).unwrap();
    let second = repository.put(&name, Generation::FIRST, &again).await.unwrap();
    assert_eq!(second, PutOutcome { already: true, ..first });
    // Invariant 2: not a byte was changed.
    assert_eq!(repository.read_raw(&path).await.unwrap(), before);
}

async fn what_is_not_there_is_not_found(repository: Repository) {
    let (name, payload) = chunk(b"x");
    let gone = |error| matches!(error, StoreError::NotFound { .. });
    assert!(gone(repository.get(&name, Generation::FIRST).await.unwrap_err()));
    assert!(gone(repository.get_checked(&name, Generation(3)).await.unwrap_err()));
    assert!(gone(repository.get_any_generation(&name).await.unwrap_err()));
    assert!(gone(
        repository.stored_length(&name, Generation::FIRST).await.unwrap_err()
    ));
    repository.delete(&name, Generation::FIRST).await.unwrap();
    repository.put(&name, Generation::FIRST, &payload).await.unwrap();
    repository.delete(&name, Generation::FIRST).await.unwrap();
    assert!(gone(repository.get(&name, Generation::FIRST).await.unwrap_err()));
}

async fn a_payload_under_a_name_that_is_not_its_own_is_refused(repository: Repository) {
    let (_, payload) = chunk(b"x");
    let name = ObjectName::Chunk(Digest([0; 32]));
    let error = repository.put(&name, Generation::FIRST, &payload).await.unwrap_err();
    assert!(matches!(error, StoreError::WrongPayload { .. }));
}

async fn generations_stand_side_by_side(repository: Repository) {
    let (name, payload) = chunk(&[9; 5000]);
    for generation in [0, 1, 7] {
        repository.put(&name, Generation(generation), &payload).await.unwrap();
    }
    assert_eq!(repository.list_sorted(prefix::CHUNKS).await.unwrap().len(), 3);
    for generation in [0, 1, 7] {
        let (found, _) = repository.get_any_generation(&name).await.unwrap();
        assert_eq!(found, Generation(generation));
        repository.delete(&name, Generation(generation)).await.unwrap();
    }
}

async fn sixteen_writers_of_one_object_agree(repository: Repository) {
    let (name, payload) = chunk(&[3; 70_000]);
    let writers: Vec<_> = (0..16)
        .map(|_| {
            let (repository, name, payload) = (repository.clone(), name.clone(), payload.clone());
            tokio::spawn(async move { repository.put(&name, Generation::FIRST, &payload).await })
        })
        .collect();
    let mut new = 0;
    for writer in writers {
        new += usize::from(!writer.await.unwrap().unwrap().already);
    }
    assert_eq!(new, 1, "one of them wrote it");
    assert_eq!(
        repository.get_checked(&name, Generation::FIRST).await.unwrap().payload,
        payload
    );
}

async fn what_was_made_is_usable(repository: Repository) {
    let (name, payload) = chunk(b"kept");
    repository.put(&name, Generation::FIRST, &payload).await.unwrap();
    assert!(repository.wrapped_keys().len() == usize::from(repository.is_encrypted()));
    assert!(repository.problems().is_empty());
}

/// A file that lies in three parts, and their payloads.
fn long_file(repository: &Repository) -> (Vec<u8>, ObjectName, Vec<(ObjectName, Payload)>) {
    let length = 2 * usize::try_from(FILE_PART_LENGTH).unwrap() + 70_000;
    let content: Vec<u8> = (0..length).map(|at| u8::try_from(at / 100_000).unwrap()).collect();
    let name = ObjectName::Segment {
        stanza: "main".parse().unwrap(),
        archive_id: "15-1".parse().unwrap(),
        file: "000000010000000000000007".parse().unwrap(),
        digest: repository.suite().digest(&content),
        portion: Portion::of_length(length as u64),
    };
    let pieces = content.chunks(usize::try_from(FILE_PART_LENGTH).unwrap());
    let parts = FilePart::all(parts_of(length as u64).unwrap()).zip(pieces);
    let parts: Vec<_> = parts
        .map(|(part, piece)| {
            let payload = Payload::pack(repository.suite(), Codec::Zst, None, piece).unwrap();
            (name.of_part(part), payload)
        })
        .collect();
    assert_eq!(parts.len(), 3);
    (content, name, parts)
}

async fn a_long_file_lies_in_parts(repository: Repository) {
    let (content, name, parts) = long_file(&repository);
    let mut sum = 0;
    for (part, payload) in &parts {
        sum += repository.put(part, Generation::FIRST, payload).await.unwrap().bytes;
        let again = repository.put(part, Generation::FIRST, payload).await.unwrap();
        assert!(again.already);
        // The payload has the digest of the part, which is not in the part's name.
        assert_eq!(repository.get(part, Generation::FIRST).await.unwrap(), *payload);
        let (_, found) = repository.get_any_generation(part).await.unwrap();
        assert_eq!(found.payload, *payload);
        let path = repository.path_of(part, Generation::FIRST).to_string();
        assert_eq!(repository.content_at(&path).await.unwrap().payload, *payload);
        repository.verify_path(&path).await.unwrap();
        // A part alone does not tell its file's digest.
        let found = repository.get_by_path(&path).await;
        assert!(matches!(found, Err(StoreError::Damaged { .. })), "{found:?}");
    }
    // Another content under a part's name is found damaged. A content that is too short for the part is refused.
    let other = Payload::pack(repository.suite(), Codec::Zst, None, &vec![77; content.len() / 3]).unwrap();
    let refused = repository.put(&parts[1].0, Generation::FIRST, &other).await;
    assert!(matches!(refused, Err(StoreError::WrongPayload { .. })), "{refused:?}");
    let taken = repository.put(&parts[0].0, Generation::FIRST, &parts[1].1).await;
    assert!(matches!(taken, Err(StoreError::DamagedExists { .. })), "{taken:?}");
    // The file as a whole.
    assert_eq!(repository.stored_length(&name, Generation::FIRST).await.unwrap(), sum);
    for refused in [
        repository.get(&name, Generation::FIRST).await.err(),
        repository.get_checked(&name, Generation::FIRST).await.err(),
        repository.put(&name, Generation::FIRST, &parts[2].1).await.err(),
    ] {
        assert!(matches!(refused, Some(StoreError::WrongPayload { .. })), "{refused:?}");
    }
    let listed = repository.list_sorted(prefix::STANZAS).await.unwrap();
    assert_eq!(listed.len(), 3);
    let path = &listed[1].0;
    let mut reader = repository.read_parts(path, 3);
    let mut read = Vec::new();
    while let Some(part) = reader.next().await.unwrap() {
        read.extend_from_slice(&part.plain);
    }
    let whole = reader.finish().unwrap();
    assert!(read == content);
    assert_eq!(
        (whole.digest, whole.plain_length),
        (name.digest(), content.len() as u64)
    );
    let stopped = repository.read_parts(path, 3);
    assert!(
        matches!(stopped.finish(), Err(StoreError::Damaged { .. })),
        "not read to its end"
    );
    // An interrupted deletion is repeated.
    repository.delete(&parts[1].0, Generation::FIRST).await.unwrap();
    let gone = |error| matches!(error, StoreError::NotFound { .. });
    assert!(gone(
        repository.stored_length(&name, Generation::FIRST).await.unwrap_err()
    ));
    assert!(gone(repository.read_parts(path, 3).check().await.unwrap_err()));
    repository.delete(&name, Generation::FIRST).await.unwrap();
    assert!(repository.list_sorted(prefix::STANZAS).await.unwrap().is_empty());
    // Good parts that are together another file.
    for (part, payload) in [(0, 1), (1, 0), (2, 2)] {
        let put = repository
            .put(&parts[part].0, Generation::FIRST, &parts[payload].1)
            .await;
        put.unwrap();
    }
    let found = repository.read_parts(path, 3).check().await;
    assert!(matches!(found, Err(StoreError::Damaged { .. })), "{found:?}");
}
