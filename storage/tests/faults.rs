//! Faults of requests to a bucket: each fault has its class and its sentence, and leaves nothing half done.
//!
//! Our proxy stands before moto, Azurite and our server for Google Cloud Storage.
#![allow(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::time::Duration;

use common::places::{BUCKET, Place, Server, settings};
use common::{chunk, create, pack};
use futures::TryStreamExt;
use pgmesh_chaos::http::{Answer, Fault, Rule};
use pgmesh_storage::{
    Advice, Cipher, Conditions, Generation, ObjectName, Payload, Repository, Store, StoreError, StoreSettings,
};
use pgmesh_tests::stores::{Fitness, S3Server};

/// The time-out of a silent server in these tests.
const PATIENCE: &str = "300ms";

/// A repository in a place, and a chunk that it lacks.
struct Subject {
    place: Place,
    repository: Repository,
    name: ObjectName,
    payload: Payload,
}

impl Subject {
    async fn new(place: Place) -> Self {
        let store = Store::create(&impatient(&place)).unwrap();
        let repository = create(store.objects(), Cipher::Aes256Cbc).await;
        store.learn_conditions().await.unwrap();
        let (name, payload) = chunk(&noise(200_000));
        place.proxy().clear();
        Self {
            place,
            repository,
            name,
            payload,
        }
    }

    async fn put(&self) -> Result<bool, StoreError> {
        let put = self.repository.put(&self.name, Generation::FIRST, &self.payload).await;
        put.map(|stored| stored.already)
    }

    async fn get(&self) -> Result<(), StoreError> {
        let got = self.repository.get_checked(&self.name, Generation::FIRST).await?;
        assert_eq!(got.payload, self.payload);
        Ok(())
    }

    fn heal(&self) {
        self.place.proxy().heal().unwrap();
    }

    /// Harms the next `times` requests of a method.
    fn harm(&self, method: &str, fault: &Fault, times: usize) {
        self.heal();
        self.place.proxy().add(Rule::new(fault.clone()).on(method).times(times));
    }

    /// Harms all requests.
    fn harm_all(&self, fault: &Fault) {
        self.heal();
        self.place.proxy().set(fault.clone());
    }

    async fn forget(&self) {
        self.heal();
        self.repository.delete(&self.name, Generation::FIRST).await.unwrap();
    }
}

fn impatient(place: &Place) -> StoreSettings {
    settings(&place.bucket().with("path", "faults").with("storage-timeout", PATIENCE))
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A passing fault is not noticed by the caller: the request is repeated.
async fn passing_faults(place: Place) {
    let subject = Subject::new(place).await;
    let faults = [
        ("slow down", Fault::slow_down()),
        ("internal error", Fault::internal_error()),
        ("429", Fault::too_many_requests(Duration::ZERO)),
        ("reset", Fault::Reset),
        ("black hole", Fault::BlackHole),
        ("cut request", Fault::CutRequest(70_000)),
        ("cut answer", Fault::CutAnswer),
    ];
    for (what, fault) in &faults {
        println!("writing through: {what}");
        subject.harm("PUT", fault, 1);
        subject.put().await.unwrap();
        subject.heal();
        subject.get().await.unwrap();
        subject.forget().await;
    }
    subject.put().await.unwrap();
    let of_answers = [
        ("truncated", Fault::Truncate(50_000)),
        ("stalled", Fault::Stall(50_000)),
        ("longer than said", Fault::WrongLength(10)),
    ];
    for (what, fault) in faults
        .iter()
        .chain(&of_answers)
        .filter(|(what, _)| *what != "cut request")
    {
        println!("reading through: {what}");
        subject.harm("GET", fault, 1);
        subject.get().await.unwrap();
    }
}

/// A lasting fault is given up after a few tries, in a class and a sentence of its own; no part of the object is
/// visible.
async fn lasting_faults(place: Place) {
    let subject = Subject::new(place).await;
    let html = Fault::Answer(Answer {
        status: 404,
        headers: vec![("Content-Type".to_owned(), "text/html".to_owned())],
        body: "<html>not here</html>".to_owned(),
    });
    let faults = [
        (
            "slow down",
            Fault::slow_down(),
            Advice::Retry,
            "asks for fewer requests (503 SlowDown",
        ),
        (
            "internal error",
            Fault::internal_error(),
            Advice::Retry,
            "the server failed (500 InternalError",
        ),
        ("reset", Fault::Reset, Advice::Retry, "cut"),
        (
            "black hole",
            Fault::BlackHole,
            Advice::Retry,
            "silent for 300ms (storage-timeout)",
        ),
        ("cut request", Fault::CutRequest(70_000), Advice::Retry, "cut"),
        (
            "denied",
            Fault::forbidden("AccessDenied"),
            Advice::GiveUp,
            "do not allow this (403 AccessDenied",
        ),
        (
            "wrong credentials",
            Fault::forbidden("SignatureDoesNotMatch"),
            Advice::GiveUp,
            "does not accept the credentials",
        ),
        (
            "clock skew",
            Fault::forbidden("RequestTimeTooSkewed"),
            Advice::GiveUp,
            "set the clock",
        ),
        ("not a bucket", html.clone(), Advice::GiveUp, "not where the bucket is"),
        (
            "no bucket",
            Fault::Answer(Answer::error(404, "NoSuchBucket")),
            Advice::GiveUp,
            "no such bucket",
        ),
    ];
    for (what, fault, advice, sentence) in &faults {
        println!("writing through: {what}");
        let subject = &subject;
        subject.harm_all(fault);
        let error = subject.put().await.unwrap_err();
        assert_eq!(error.advice(), *advice, "{what}: {error}");
        assert!(error.to_string().contains(sentence), "{what}: {error}");
        subject.heal();
        let error = subject.get().await.unwrap_err();
        assert!(
            matches!(error, StoreError::NotFound { .. }),
            "{what} left something: {error}"
        );
        assert!(subject.repository.list_sorted("chunk").await.unwrap().is_empty());
        // Other requests earn back the cost of the retries.
        for _ in 0..15 {
            subject.repository.probe().await.unwrap();
        }
    }
    subject.put().await.unwrap();
    for (what, fault, advice, _) in &faults {
        println!("reading through: {what}");
        if matches!(fault, Fault::CutRequest(_)) {
            continue;
        }
        subject.harm_all(fault);
        let error = subject.get().await.unwrap_err();
        // Invariant 7: no answer of a server in trouble makes an object seem missing.
        assert!(!matches!(error, StoreError::NotFound { .. }), "{what}: {error}");
        assert_eq!(error.advice(), *advice, "{what}: {error}");
        subject.heal();
        for _ in 0..15 {
            subject.repository.probe().await.unwrap();
        }
    }
    // Invariant 6: an answer that arrives damaged is an error.
    for (what, fault) in [
        ("flipped bit", Fault::FlipBit),
        ("shorter than said", Fault::WrongLength(-100)),
    ] {
        println!("reading through: {what}");
        subject.harm("GET", &fault, 100);
        subject.get().await.unwrap_err();
    }
    subject.heal();
    subject.get().await.unwrap();
}

/// A long object is written in parts; an interrupted upload leaves nothing.
async fn long_objects(place: Place) {
    let bucket = place.bucket().with("path", "long").with("storage-timeout", PATIENCE);
    let store = Store::create(&settings(
        &bucket.with("storage-upload-chunk-size", (5 << 20).to_string()),
    ))
    .unwrap();
    let repository = create(store.objects(), Cipher::None).await;
    store.learn_conditions().await.unwrap();
    let payload = pack(&noise(12 << 20));
    let name = ObjectName::Manifest {
        stanza: "main".parse().unwrap(),
        label: "20260101-000000F".parse().unwrap(),
        digest: payload.digest,
    };
    // The third part never arrives.
    let third = |record: &pgmesh_chaos::http::HttpRecord| {
        record.method == "PUT"
            && (record.target.contains("partNumber=3&")
                || record.target.ends_with("partNumber=3")
                || record.target.contains("comp=block&"))
    };
    place.proxy().add(Rule::new(Fault::internal_error()).when(third));
    repository.put(&name, Generation::FIRST, &payload).await.unwrap_err();
    place.proxy().heal().unwrap();
    assert!(matches!(
        repository.get(&name, Generation::FIRST).await,
        Err(StoreError::NotFound { .. })
    ));
    assert!(repository.list_sorted("stanza").await.unwrap().is_empty());
    match place.server() {
        Server::Gcs(server) => assert_eq!(server.open_uploads(BUCKET), 0),
        Server::S3(server) => assert_eq!(server.open_uploads(BUCKET), 0),
        // Blocks that no blob names vanish by themselves.
        Server::Azure(_) | Server::Directory(_) | Server::Garage(_) => {}
    }
    // Now the third part arrives. A part that is lost once is sent once more, and no other part is.
    place
        .proxy()
        .add(Rule::new(Fault::internal_error()).when(third).times(1));
    assert!(
        !repository
            .put(&name, Generation::FIRST, &payload)
            .await
            .unwrap()
            .already
    );
    assert_eq!(
        repository.get_checked(&name, Generation::FIRST).await.unwrap().payload,
        payload
    );
    assert!(
        repository
            .put(&name, Generation::FIRST, &payload)
            .await
            .unwrap()
            .already
    );
}

macro_rules! suffering {
    ($($kind:ident),*) => {
        $(mod $kind {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn passing_faults() {
                super::passing_faults(Place::$kind()).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn lasting_faults() {
                super::lasting_faults(Place::$kind()).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn long_objects() {
                super::long_objects(Place::$kind()).await;
            }
        })*
    };
}

suffering!(s3, azure, gcs);

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_conditional_writes_is_found_out_and_never_asked_to_replace() {
    let place = Place::s3();
    let store = Store::create(&place.settings("ignoring")).unwrap();
    let repository = create(store.objects(), Cipher::None).await;
    place.proxy().add(
        Rule::new(Fault::Answer(Answer {
            status: 200,
            headers: vec![("ETag".to_owned(), "\"0\"".to_owned())],
            body: String::new(),
        }))
        .on("PUT")
        .times(1),
    );
    assert_eq!(store.learn_conditions().await.unwrap(), Conditions::Ignored);
    let (name, payload) = chunk(&noise(10_000));
    place.proxy().clear();
    assert!(
        !repository
            .put(&name, Generation::FIRST, &payload)
            .await
            .unwrap()
            .already
    );
    assert!(
        repository
            .put(&name, Generation::FIRST, &payload)
            .await
            .unwrap()
            .already
    );
    assert_eq!(place.proxy().count(|record| record.method == "PUT"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_knows_no_conditional_writes_is_served_without() {
    let place = Place::s3();
    place.proxy().add(
        Rule::new(Fault::Answer(Answer::error(501, "NotImplemented")))
            .on("PUT")
            .times(1),
    );
    let store = Store::create(&place.settings("unknowing")).unwrap();
    let repository = create(store.objects(), Cipher::None).await;
    let (name, payload) = chunk(&noise(10_000));
    repository.put(&name, Generation::FIRST, &payload).await.unwrap();
    assert!(
        repository
            .put(&name, Generation::FIRST, &payload)
            .await
            .unwrap()
            .already
    );
    repository.get_checked(&name, Generation::FIRST).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_certificate_that_fits_is_trusted() {
    for (fitness, fits) in [
        (Fitness::Fit, true),
        (Fitness::Expired, false),
        (Fitness::OtherHost, false),
    ] {
        let server = S3Server::start_with_tls(BUCKET, fitness);
        let bucket = server.bucket(BUCKET, server.address());
        let trusting = bucket
            .clone()
            .with("storage-ca-file", server.ca_file().display().to_string());
        let outcome = list(&settings(&trusting)).await;
        match (fits, outcome) {
            (true, Ok(())) => {}
            (false, Err(error)) => {
                assert_eq!(error.advice(), Advice::GiveUp);
                assert!(error.to_string().contains("cannot be trusted"), "{error}");
            }
            (_, outcome) => panic!("{fitness:?}: {outcome:?}"),
        }
        // The system's authorities do not trust the server; with verification off, any certificate will do.
        list(&settings(&bucket)).await.unwrap_err();
        list(&settings(&bucket.with("storage-verify-tls", "n"))).await.unwrap();
    }
}

async fn list(settings: &StoreSettings) -> Result<(), StoreError> {
    let store = Store::open(settings)?;
    match Repository::open(store.objects(), None, &[]).await {
        Err(StoreError::NotARepository { .. }) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => panic!("a repository in an empty bucket"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_one_request() {
    for place in [Place::s3(), Place::azure(), Place::gcs()] {
        let subject = Subject::new(place).await;
        subject.put().await.unwrap();
        let puts = subject.place.proxy().requests();
        assert_eq!(
            puts.iter().filter(|record| !record.target.contains("token")).count(),
            1,
            "{puts:?}"
        );
        subject.place.proxy().clear();
        subject.get().await.unwrap();
        assert_eq!(subject.place.proxy().requests().len(), 1);
        subject.place.proxy().clear();
        subject
            .repository
            .delete(&subject.name, Generation::FIRST)
            .await
            .unwrap();
        assert_eq!(subject.place.proxy().requests().len(), 1);
        let _: Vec<_> = subject.repository.list("").try_collect().await.unwrap();
    }
}
