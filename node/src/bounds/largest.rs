//! A request within the bounds arrives: the largest request of each kind with lists or long texts is no longer than its
//! [`Call::MAX`].
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::*;
use pgmesh_postgres::{Lsn, TimelineId};
use pgmesh_protocol::bounded::{CSR, REPOSITORIES};
use pgmesh_protocol::{
    AnnotateBackup, Announce, BeginAnew, Branch, Call, CreateInvite, GetChunk, GetPieces, GetSegment, JoinRequest,
    ListRepository, NUMBER_LENGTH, NewNode, PIECES_LIMIT, QUERY_LIMIT, QueryChunks, RenewCertificate, RequestId,
    SetStopped, StoreObject, StoreTarget, TokenId, TokenSecret, UpdateRepository, VerifyRequest,
};
use pgmesh_storage::{Codec, Digest, Generation, RepoKey, StanzaName};

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
    let message = call.message();
    let length = message.len();
    assert!(length <= C::MAX, "{}: {length} bytes, and {} may be", C::NAME, C::MAX);
    Request::decode(C::NUMBER, &message[NUMBER_LENGTH..]).unwrap();
    check(&call.into()).unwrap();
}

#[test]
fn lists_as_long_as_they_may_be_arrive() {
    fits(QueryChunks {
        stanza: stanza(),
        session: u64::MAX,
        digests: vec![Digest([u8::MAX; 32]); QUERY_LIMIT].into(),
    });
    fits(GetSegment {
        stanza: stanza(),
        file: of(limits::NAME).into(),
        system_id: None,
        avoid: repositories().into(),
        doubted: repositories().into(),
    });
    fits(GetChunk {
        stanza: stanza(),
        digest: Digest([u8::MAX; 32]),
        avoid: repositories().into(),
    });
    fits(GetPieces {
        stanza: stanza(),
        digest: Digest([u8::MAX; 32]),
        ranges: vec![(u32::MAX, u32::MAX); PIECES_LIMIT].into(),
        avoid: repositories().into(),
    });
    fits(VerifyRequest {
        stanza: Some(stanza()),
        repo: Some(u16::MAX),
        part: Some(vec![RepoKey::new(RepoKey::MAX).unwrap(); REPOSITORIES].into()),
    });
    let target = StoreTarget {
        repo: RepoKey::new(RepoKey::MAX).unwrap(),
        uuid: of(limits::NAME).into(),
        generation: Generation(u32::MAX),
    };
    fits(StoreObject {
        object: ObjectName::Chunk(Digest([u8::MAX; 32])),
        payload: payload(),
        targets: vec![target; REPOSITORIES].into(),
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
        role: of(limits::NAME).into(),
        name: Some(of(limits::NAME).into()),
        force: true,
        stanzas: vec![stanza(); limits::TOKEN_STANZAS].into(),
        expires: u64::MAX,
        addresses: addresses().into(),
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
        stopped: Some(of(limits::REASON).into()),
        ends_sessions: true,
    });
    fits(ListRepository {
        repo: RepoKey::new(RepoKey::MAX).unwrap(),
        path: of(limits::OPTION).into(),
        recurse: true,
        after: Some(of(limits::OPTION).into()),
    });
    fits(BeginAnew {
        id: RequestId::random(),
        number: u64::MAX,
        reason: of(limits::REASON).into(),
    });
    fits(Announce {
        node_id: u64::MAX,
        region: of(limits::NAME).into(),
        advertise: addresses().into(),
        program: of(limits::NAME).into(),
        catalog_format: u32::MAX,
    });
    fits(RenewCertificate {
        csr: vec![1; CSR].into(),
    });
    fits(JoinRequest {
        token_id: TokenId([1; 8]),
        secret: TokenSecret::generate().unwrap(),
        csr: vec![1; CSR].into(),
        name: of(limits::NAME).into(),
        node: Some(NewNode {
            region: of(limits::NAME).into(),
            advertise: addresses().into(),
            administrator: [1; 32],
            program: of(limits::NAME).into(),
            catalog_format: u32::MAX,
        }),
    });
}
