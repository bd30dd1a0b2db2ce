//! A request within the bounds arrives: the largest request of each kind with lists or long texts is no longer than its
//! [`Call::MAX`].
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::*;
use pgmesh_postgres::{Lsn, TimelineId};
use pgmesh_protocol::{
    AnnotateBackup, Announce, BeginAnew, Branch, Call, CreateInvite, GetChunk, GetPieces, GetSegment, ListRepository,
    QueryChunks, RenewCertificate, RequestId, SetStopped, StoreObject, StoreTarget, TokenId, TokenSecret,
    UpdateRepository, VerifyRequest,
};
use pgmesh_storage::{Codec, Digest, Generation, StanzaName};

fn of(length: usize) -> String {
    "x".repeat(length)
}

fn stanza() -> StanzaName {
    of(64).parse().unwrap()
}

fn repositories() -> Vec<u16> {
    vec![u16::MAX; REPOSITORIES]
}

fn payload() -> PayloadHead {
    PayloadHead {
        digest: Digest([u8::MAX; 32]),
        codec: Codec::Zst,
        plain_length: 1,
        length: 1,
    }
}

fn addresses() -> Vec<String> {
    vec![of(limits::ADDRESS); limits::ADDRESSES]
}

fn fits<C: Call>(call: C) {
    let length = call.message().len();
    assert!(length <= C::MAX, "{}: {length} bytes, and {} may be", C::NAME, C::MAX);
    check(&call.into()).unwrap();
}

#[test]
fn lists_as_long_as_they_may_be_arrive() {
    fits(QueryChunks {
        stanza: stanza(),
        session: u64::MAX,
        digests: vec![Digest([u8::MAX; 32]); QUERY_LIMIT],
    });
    fits(GetSegment {
        stanza: stanza(),
        file: of(limits::NAME),
        system_id: None,
        avoid: repositories(),
        doubted: repositories(),
    });
    fits(GetChunk {
        stanza: stanza(),
        digest: Digest([u8::MAX; 32]),
        avoid: repositories(),
    });
    fits(GetPieces {
        stanza: stanza(),
        digest: Digest([u8::MAX; 32]),
        ranges: vec![(u32::MAX, u32::MAX); PIECES_LIMIT],
        avoid: repositories(),
    });
    fits(VerifyRequest {
        stanza: Some(stanza()),
        repo: Some(u16::MAX),
        part: Some(vec![RepoKey::new(RepoKey::MAX).unwrap(); REPOSITORIES]),
    });
    let target = StoreTarget {
        repo: RepoKey::new(RepoKey::MAX).unwrap(),
        uuid: of(limits::NAME),
        generation: Generation(u32::MAX),
    };
    fits(StoreObject {
        object: ObjectName::Chunk(Digest([u8::MAX; 32])),
        payload: payload(),
        targets: vec![target; REPOSITORIES],
    });
    let branch = Branch {
        parent: TimelineId(u32::MAX),
        switch: Lsn(u64::MAX),
    };
    let mut push = crate::testing::push_of(&of(limits::NAME), b"x");
    push.stanza = stanza();
    push.server.instance = of(limits::INSTANCE);
    push.server.machine = of(limits::MACHINE);
    push.server.branches = vec![branch; limits::TIMELINES];
    fits(push);
    fits(CreateInvite {
        role: of(limits::NAME),
        name: Some(of(limits::NAME)),
        force: true,
        stanzas: vec![stanza(); limits::TOKEN_STANZAS],
        expires: u64::MAX,
        addresses: addresses(),
    });
}

#[test]
fn texts_as_long_as_they_may_be_arrive() {
    let options = (0..limits::OPTIONS).map(|number| (format!("{number:0256}"), of(limits::OPTION)));
    fits(UpdateRepository {
        repo: RepoKey::new(RepoKey::MAX).unwrap(),
        definition: options.collect(),
    });
    let length = limits::ANNOTATION_SUM / limits::ANNOTATIONS - 8;
    let annotations = (0..limits::ANNOTATIONS).map(|number| (format!("{number:08}"), of(length)));
    fits(AnnotateBackup {
        stanza: stanza(),
        label: "20260101-000000F".parse().unwrap(),
        annotations: annotations.collect(),
    });
    fits(SetStopped {
        stanza: Some(stanza()),
        stopped: Some(of(limits::REASON)),
        ends_sessions: true,
    });
    fits(ListRepository {
        repo: RepoKey::new(RepoKey::MAX).unwrap(),
        path: of(limits::OPTION),
        recurse: true,
        after: Some(of(limits::OPTION)),
    });
    fits(BeginAnew {
        id: RequestId::random(),
        number: u64::MAX,
        reason: of(limits::REASON),
    });
    fits(Announce {
        node_id: u64::MAX,
        region: of(limits::NAME),
        advertise: addresses(),
        program: of(limits::NAME),
        catalog_format: u32::MAX,
    });
    fits(RenewCertificate { csr: vec![1; CSR] });
    fits(JoinRequest {
        token_id: TokenId([1; 8]),
        secret: TokenSecret::generate().unwrap(),
        csr: vec![1; CSR],
        name: of(limits::NAME),
        node: Some(NewNode {
            region: of(limits::NAME),
            advertise: addresses(),
            administrator: [1; 32],
            program: of(limits::NAME),
            catalog_format: u32::MAX,
        }),
    });
}
