//! The bytes of every message. A change of one of them is a change of the wire protocol, and this test shows it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "golden/sampler.rs"]
mod sampler;

use pgmesh_protocol::{Call, EachCall, Failure, NUMBER_LENGTH, PartsTurn, PayloadHead, Request, SegmentPart};
use pgmesh_storage::wire;
use sampler::{compare, samples};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;

/// Asked when it runs: another clone may have built it.
fn golden() -> String {
    format!("{}/tests/golden/wire.txt", std::env::var("CARGO_MANIFEST_DIR").unwrap())
}

/// Lines `number, name, kind, which sample, hexadecimal digits`, and the types that are in them.
#[derive(Default)]
struct Lines(Vec<String>, BTreeSet<String>);

impl Lines {
    fn message<T: Serialize + DeserializeOwned>(&mut self, of: &str, kind: &str) {
        for (which, sample) in samples::<T>(&mut self.1).iter().enumerate() {
            let bytes = wire::encode(sample);
            let read: T = wire::decode(&bytes, bytes.len()).unwrap();
            assert_eq!(
                wire::encode(&read),
                bytes,
                "{of}: what was read is not what was written"
            );
            self.0.push(format!("{of}\t{kind}\t{which}\t{}", hex::encode(bytes)));
        }
    }
}

impl EachCall for Lines {
    fn call<C: Call>(&mut self) {
        let of = format!("{}\t{}", C::NUMBER, C::NAME);
        for (which, sample) in samples::<C>(&mut self.1).iter().enumerate() {
            let message = sample.message();
            assert!(message.len() <= C::MAX, "{of}: a sample has {} bytes", message.len());
            let read = Request::decode(C::NUMBER, &message[NUMBER_LENGTH..]).unwrap().unwrap();
            assert_eq!((read.number(), read.name()), (C::NUMBER, C::NAME));
            assert_eq!(read.message(), message, "{of}: what was read is not what was written");
            self.0.push(format!("{of}\trequest\t{which}\t{}", hex::encode(message)));
        }
        self.message::<Result<C::Reply, Failure>>(&of, "reply");
    }
}

#[test]
fn the_bytes_of_messages_change_only_with_the_wire_version() {
    let mut lines = Lines::default();
    Request::each(&mut lines);
    every_request_has_a_sample(&lines.0);
    lines.message::<Result<PartsTurn, Failure>>("2\tarchive-push", "turn");
    lines.message::<PayloadHead>("2\tarchive-push", "part");
    lines.message::<Result<SegmentPart, Failure>>("3\tarchive-get", "part");
    lines.0.extend(lines.1.iter().map(|found| format!("type\t{found}")));
    compare(
        &golden(),
        &lines.0,
        "Programs of other versions read them otherwise: raise WIRE_VERSION in transport/src/wire_version.rs, unless no \
         release has the one that is there.",
    );
}

fn every_request_has_a_sample(lines: &[String]) {
    for number in Request::NUMBERS {
        let name = Request::name_of(*number).unwrap();
        for kind in ["request", "reply"] {
            let begins = format!("{number}\t{name}\t{kind}\t");
            assert!(
                lines.iter().any(|line| line.starts_with(&begins)),
                "no {kind} of {number}, {name}"
            );
        }
    }
}
