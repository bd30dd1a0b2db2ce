//! Bounds of a request that its types do not have: the lengths of bodies, maps, and a server's own words. They are
//! checked before the request is served, so that the peer is told which field is too large, and the field goes no
//! further. Texts and lists have types with a bound (`pgmesh_protocol::bounded`). The catalog checks fields that it
//! keeps again (`pgmesh_raft::limits`).

use pgmesh_protocol::{CHUNK_BODY_LIMIT, PayloadHead, Request};
#[cfg(test)]
mod largest;

use pgmesh_protocol::{ExitCode, Failure};
use pgmesh_raft::limits;
use pgmesh_storage::{FilePart, MAX_FILE_LENGTH, ObjectKind, ObjectName, Portion, parts_of};
use std::collections::BTreeMap;

/// Refuses a request with a field that is too large.
///
/// # Errors
/// 31, with the field that is too large and its bound.
pub fn check(request: &Request) -> Result<(), Failure> {
    match request {
        Request::PushSegment(r) => {
            pushed_file(&r.payload)?;
            text(
                "the fingerprint of the data directory",
                &r.server.instance,
                limits::INSTANCE,
            )?;
            text("the fingerprint of the machine", &r.server.machine, limits::MACHINE)
        }
        Request::Annotate(r) => annotations(&r.annotations),
        Request::UpdateRepository(r) => Ok(limits::options(&r.definition)?),
        Request::PutChunk(r) => plaintext(ObjectKind::Chunk, &r.payload),
        Request::CommitBackup(r) => {
            // It arrives as a chunk does.
            let (length, most) = (r.manifest.length, CHUNK_BODY_LIMIT);
            if length > most {
                let what = format!("the manifest has {length} bytes compressed, at most {most} are taken");
                return Err(Failure::new(ExitCode::OptionInvalid, what));
            }
            plaintext(ObjectKind::Manifest, &r.manifest)
        }
        Request::StoreObject(r) => {
            portion(&r.object)?;
            plaintext(r.object.kind(), &r.payload)
        }
        Request::ReadObject(r) => portion(&r.object),
        Request::DeleteObject(r) => portion(&r.object),
        // Their texts and lists have bounded types (`pgmesh_protocol::bounded`).
        Request::ForgetWal(_)
        | Request::GetSegment(_)
        | Request::BeginBackup(_)
        | Request::BeginRestore(_)
        | Request::BeginAnew(_)
        | Request::QueryChunks(_)
        | Request::GetChunk(_)
        | Request::GetPieces(_)
        | Request::ArchiveStatus(_)
        | Request::Verify(_)
        | Request::CreateStanza(_)
        | Request::UpgradeStanza(_)
        | Request::AdoptStanza(_)
        | Request::SetStopped(_)
        | Request::ListRepository(_)
        | Request::ReadRepository(_)
        | Request::Invite(_)
        | Request::Join(_)
        | Request::Renew(_)
        | Request::ChangeNode(_)
        | Request::RevokeCertificates(_)
        | Request::Vouch(_)
        | Request::Announce(_)
        | Request::Hello(_)
        | Request::GetRetained(_)
        | Request::ExpireBackups(_)
        | Request::ExpireWal(_)
        | Request::HoldBackup(_)
        | Request::ResumeSession(_)
        | Request::KeepSession(_)
        | Request::EndSession(_)
        | Request::TerminateSession(_)
        | Request::AcceptLoss(_)
        | Request::CollectGarbage(_)
        | Request::GetManifest(_)
        | Request::Info(_)
        | Request::ChoosePrior(_)
        | Request::ChooseBackup(_)
        | Request::DeleteStanza(_)
        | Request::ReplaceRepository(_)
        | Request::RemoveRepository(_)
        | Request::ListNodes(_)
        | Request::ListCertificates(_)
        | Request::Status(_)
        | Request::SyncRepository(_)
        | Request::Raft(_)
        | Request::Authority(_)
        | Request::AuthorityOf(_)
        | Request::RotateAuthority(_)
        | Request::NodeStatus(_)
        | Request::MayLeave(_)
        | Request::ChangeMaps(_) => Ok(()),
    }
}

/// The plaintext length that a body claims decides how much memory it takes when it is opened, however short the body
/// is.
fn plaintext(kind: ObjectKind, payload: &PayloadHead) -> Result<(), Failure> {
    let most = kind.max_plain_length();
    if payload.plain_length <= most {
        return body(payload);
    }
    let what = format!(
        "a {kind} of {} bytes is too large: {most} is the most",
        payload.plain_length
    );
    Err(Failure::new(ExitCode::OptionInvalid, what))
}

/// No body is longer than its plaintext, which is stored uncompressed if compressing does not make it smaller.
fn body(payload: &PayloadHead) -> Result<(), Failure> {
    let PayloadHead {
        length, plain_length, ..
    } = *payload;
    if length <= plain_length {
        return Ok(());
    }
    let what = format!("{length} bytes are announced for {plain_length} bytes of plaintext");
    Err(Failure::new(ExitCode::Protocol, what).because("nothing is longer compressed than it is"))
}

/// No name means a part that no file has.
fn portion(object: &ObjectName) -> Result<(), Failure> {
    let ObjectName::Segment { portion, .. } = object else {
        return Ok(());
    };
    let (number, of) = match portion {
        Portion::Whole => return Ok(()),
        Portion::AllParts(of) => (1, *of),
        Portion::Part(part) => (part.number(), part.of()),
    };
    match FilePart::new(number, of) {
        Some(_) => Ok(()),
        None => Err(Failure::new(
            ExitCode::Protocol,
            format!("no file has a part {number} of {of}"),
        )),
    }
}

/// A file that lies in parts has bodies for its parts alone.
fn pushed_file(payload: &PayloadHead) -> Result<(), Failure> {
    if payload.plain_length > MAX_FILE_LENGTH {
        return Err(too_large(format!(
            "a WAL file of {} bytes is too large: {MAX_FILE_LENGTH} is the most",
            payload.plain_length
        )));
    }
    let is_bodiless = payload.length == 0;
    match parts_of(payload.plain_length) {
        None => body(payload),
        Some(_) if is_bodiless => Ok(()),
        Some(_) => {
            let what = format!("a WAL file of {} bytes comes in parts", payload.plain_length);
            Err(Failure::new(ExitCode::Protocol, what))
        }
    }
}

/// Refuses annotations that no backup may have: before it is taken, not when it is done.
///
/// # Errors
/// 31, with the annotation that is too large.
pub fn annotations(annotations: &BTreeMap<String, String>) -> Result<(), Failure> {
    Ok(limits::annotations(annotations)?)
}

fn text(what: &str, text: &str, limit: usize) -> Result<(), Failure> {
    if text.len() <= limit {
        return Ok(());
    }
    Err(too_large(format!(
        "{what} has {} bytes, at most {limit} are taken",
        text.len()
    )))
}

fn too_large(what: String) -> Failure {
    Failure::new(ExitCode::OptionInvalid, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgmesh_protocol::{
        AnnotateBackup, CommitBackup, CreateInvite, DeleteObject, GetChunk, NUMBER_LENGTH, PutChunk, SetStopped,
        StoreObject,
    };
    use pgmesh_storage::RepoKey;
    use pgmesh_storage::wire::DecodeError;
    use pgmesh_storage::{Codec, Digest, Generation};

    fn refused(request: &Request) -> String {
        let failure = check(request).unwrap_err();
        assert_eq!(failure.code, ExitCode::OptionInvalid);
        failure.what
    }

    /// The words of a type with a bound, when the request is decoded.
    fn refused_type(request: &Request) -> String {
        let message = request.message();
        match Request::decode(request.number(), &message[NUMBER_LENGTH..]).map(drop) {
            Err(DecodeError::Beyond(what)) => what,
            other => panic!("{other:?}"),
        }
    }

    /// A short body may claim a long plaintext: that much memory would be taken when it is opened.
    #[test]
    fn no_body_claims_more_plaintext_than_its_kind_may_hold() {
        let payload = |plain_length| PayloadHead {
            digest: Digest([0; 32]),
            codec: Codec::Zst,
            plain_length,
            length: 16_000,
        };
        let put = |plain_length| {
            Request::PutChunk(PutChunk {
                stanza: "main".parse().unwrap(),
                session: 1,
                payload: payload(plain_length),
            })
        };
        let what = refused(&put(512 << 20));
        assert_eq!(what, "a chunk of 536870912 bytes is too large: 8388608 is the most");
        check(&put(1 << 20)).unwrap();
        let commit = Request::CommitBackup(CommitBackup {
            stanza: "main".parse().unwrap(),
            session: 1,
            label: "20260101-000000F".parse().unwrap(),
            manifest: payload(1 << 30),
        });
        refused(&commit);
        let store = Request::StoreObject(StoreObject {
            object: ObjectName::Chunk(Digest([0; 32])),
            payload: payload(512 << 20),
            targets: Vec::new().into(),
        });
        refused(&store);
    }

    /// A body takes memory while it arrives, however short the plaintext that it claims.
    #[test]
    fn no_body_is_longer_than_its_plaintext() {
        let payload = |plain_length, length| PayloadHead {
            digest: Digest([0; 32]),
            codec: Codec::Zst,
            plain_length,
            length,
        };
        let push = |plain_length, length| {
            let mut push = crate::testing::push_of("000000010000000000000001", b"");
            push.payload = payload(plain_length, length);
            Request::PushSegment(push)
        };
        let store = |plain_length, length| {
            Request::StoreObject(StoreObject {
                object: ObjectName::Chunk(Digest([0; 32])),
                payload: payload(plain_length, length),
                targets: Vec::new().into(),
            })
        };
        for (plain_length, length) in [(1, 64 << 20), (0, 1), ((16 << 20) - 1, 16 << 20)] {
            assert_eq!(check(&push(plain_length, length)).unwrap_err().code, ExitCode::Protocol);
        }
        check(&push(16 << 20, 16 << 20)).unwrap();
        check(&push(64 << 20, 0)).unwrap();
        assert_eq!(check(&store(7, 8)).unwrap_err().code, ExitCode::Protocol);
        check(&store(8, 8)).unwrap();
    }

    #[test]
    fn no_name_means_a_part_that_no_file_has() {
        let delete = |portion| {
            Request::DeleteObject(DeleteObject {
                repo: RepoKey::new(1).unwrap(),
                uuid: String::new().into(),
                object: ObjectName::Segment {
                    stanza: "main".parse().unwrap(),
                    archive_id: "15-1".parse().unwrap(),
                    file: "000000010000000000000001".parse().unwrap(),
                    digest: Digest([7; 32]),
                    portion,
                },
                generation: Generation::FIRST,
                term: 1,
            })
        };
        for portion in [Portion::AllParts(0), Portion::AllParts(2), Portion::AllParts(u16::MAX)] {
            assert_eq!(check(&delete(portion)).unwrap_err().code, ExitCode::Protocol);
        }
        let last = Portion::Part(FilePart::new(128, 128).unwrap());
        for portion in [Portion::Whole, Portion::AllParts(3), last] {
            check(&delete(portion)).unwrap();
        }
    }

    #[test]
    fn what_is_too_large_is_named_with_what_may_be() {
        let annotate = |annotations| {
            Request::Annotate(AnnotateBackup {
                stanza: "main".parse().unwrap(),
                label: "20260101-000000F".parse().unwrap(),
                annotations,
            })
        };
        let many = (0..15).map(|number| (format!("k{number}"), "x".repeat(120_000)));
        let what = refused(&annotate(many.collect()));
        assert_eq!(
            what,
            "too large: the value of an annotation, in bytes: 120000, at most 4096"
        );
        let usual = BTreeMap::from([("ticket".to_owned(), "before the upgrade to 18".repeat(50))]);
        check(&annotate(usual)).unwrap();

        let stop = Request::SetStopped(SetStopped {
            stanza: None,
            ends_sessions: false,
            stopped: Some("y".repeat(1 << 15).into()),
        });
        assert_eq!(
            refused_type(&stop),
            "the reason has 32768 bytes, at most 2048 are taken"
        );
        let get = Request::GetChunk(GetChunk {
            stanza: "main".parse().unwrap(),
            digest: Digest([0; 32]),
            avoid: vec![1; 5000].into(),
        });
        assert_eq!(refused_type(&get), "5000 repositories to avoid, at most 512 are taken");
        let invite = Request::Invite(CreateInvite {
            role: "client".into(),
            name: None,
            force: false,
            stanzas: vec!["main".parse().unwrap(); 5000].into(),
            expires: 1,
            addresses: pgmesh_protocol::List::default(),
        });
        assert_eq!(refused_type(&invite), "5000 stanzas of a token, at most 1024 are taken");
    }
}
