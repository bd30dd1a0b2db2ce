//! How a request arrives: its number and its length first, and the rest only where such a request may be as long.

use super::{Served, memory};
use crate::budget::Held;
use pgmesh_protocol::{
    CONSENSUS_LIMIT, Call, Consensus, ExitCode, Failure, JOIN_LIMIT, JoinRequest, MESSAGE_LIMIT, Request,
};
use pgmesh_storage::wire::DecodeError;
use pgmesh_transport::wire_version::WIRE_VERSION;
use pgmesh_transport::{Announced, Peer, Stream, StreamError};

/// A request and the memory that it takes if it is long, or what is wrong with it.
///
/// # Errors
/// The stream or the connection ended.
pub(super) async fn receive(
    served: &Served,
    stream: &mut Stream,
) -> Result<Result<(Request, Option<Held>), Failure>, StreamError> {
    let peer = &served.peer;
    let announced = stream.recv_number().await?;
    if let Err(refusal) = check(peer, announced) {
        return Ok(Err(refusal));
    }
    let held = match memory::of_message(peer, announced.length) {
        Some(bytes) => Some(served.exchange(stream).hold_more(bytes).await?),
        None => None,
    };
    let receive = async |stream: &mut Stream| stream.recv_announced(announced).await;
    let encoded = match &held {
        Some(held) => held.moving(stream).transfer(stream, receive).await?,
        None => receive(stream).await?,
    };
    Ok(match Request::decode(announced.number, &encoded) {
        Ok(Some(request)) => Ok((request, held)),
        Ok(None) => Err(unknown(announced.number)),
        Err(DecodeError::Beyond(what)) => Err(Failure::new(ExitCode::OptionInvalid, what)),
        Err(error) => {
            let name = Request::name_of(announced.number).unwrap_or_default();
            Err(Failure::new(ExitCode::Protocol, format!("{name}: the request is not understood")).because(error))
        }
    })
}

/// Refuses a request by what is known of it before it is read.
fn check(peer: &Peer, announced: Announced) -> Result<(), Failure> {
    let Announced { number, length } = announced;
    // A stranger is told nothing of this program.
    if matches!(peer, Peer::Joining) && number != JoinRequest::NUMBER {
        let what = "a peer without a certificate may redeem a join token, and nothing else";
        return Err(Failure::new(ExitCode::Protocol, what));
    }
    let (Some(max), Some(name)) = (Request::max(number), Request::name_of(number)) else {
        return Err(unknown(number));
    };
    let of_peer = match peer {
        // Whoever has no certificate yet has one small request.
        Peer::Joining => JOIN_LIMIT,
        peer if peer.is_node() => CONSENSUS_LIMIT,
        // It is refused anyway when it has been read.
        Peer::Member(_) if number == Consensus::NUMBER => JOIN_LIMIT,
        Peer::Member(_) => MESSAGE_LIMIT,
    };
    let max = max.min(of_peer);
    if length <= max {
        return Ok(());
    }
    let what = format!("{name}: the request has {length} bytes, at most {max} are taken");
    Err(Failure::new(ExitCode::OptionInvalid, what))
}

/// Both sides speak the same wire protocol, or there would be no connection: it is the programs that differ.
fn unknown(number: u16) -> Failure {
    let program = env!("CARGO_PKG_VERSION");
    let what = format!(
        "pgmesh {program} of this node does not know request {number}, though both sides speak wire protocol \
         {WIRE_VERSION}"
    );
    Failure::new(ExitCode::Protocol, what).remedy("upgrade the node: the asker's program is newer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionTimes;
    use crate::testing::{TestNode, unsigned};
    use pgmesh_protocol::{ChangeNode, GetInfo, Hello, NodeChange};
    use pgmesh_transport::Role;
    use std::sync::Arc;

    fn member(role: Role) -> Peer {
        Peer::Member(Arc::new(unsigned("x", role)))
    }

    #[test]
    fn a_request_is_as_long_as_it_may_be_and_as_its_peer_may_send() {
        let longest = |peer: &Peer, number| {
            let taken = |length| check(peer, Announced { number, length }).is_ok();
            let lengths = (0..=CONSENSUS_LIMIT + 1).step_by(1 << 10);
            lengths.filter(|length| taken(*length)).max().unwrap()
        };
        let (admin, node) = (member(Role::Admin), member(Role::Node));
        assert_eq!(longest(&admin, GetInfo::NUMBER), GetInfo::MAX);
        assert_eq!(longest(&Peer::Joining, JoinRequest::NUMBER), JOIN_LIMIT);
        assert_eq!(longest(&node, Consensus::NUMBER), CONSENSUS_LIMIT);
        assert_eq!(longest(&admin, Consensus::NUMBER), JOIN_LIMIT);
        for number in [Hello::NUMBER, Consensus::NUMBER, 999] {
            let refused = check(&Peer::Joining, Announced { number, length: 2 }).unwrap_err();
            assert!(!refused.what.contains(env!("CARGO_PKG_VERSION")), "{refused}");
        }
    }

    #[test]
    fn an_unknown_request_is_refused_with_what_to_do() {
        let refused = check(&member(Role::Admin), Announced { number: 999, length: 2 }).unwrap_err();
        assert_eq!(refused.code, ExitCode::Protocol);
        assert!(
            refused.what.contains("999") && refused.what.contains("wire protocol"),
            "{refused}"
        );
        assert!(refused.remedy.unwrap().contains("upgrade"));
        let long = Announced {
            number: GetInfo::NUMBER,
            length: 1 << 20,
        };
        let refused = check(&member(Role::Admin), long).unwrap_err();
        assert_eq!(
            refused.what,
            "info: the request has 1048576 bytes, at most 1024 are taken"
        );
    }

    /// Before it is read: what is announced never comes.
    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_asks_what_is_not_known_or_too_long_is_answered() {
        let site = TestNode::start(SessionTimes::default()).await;
        let client = site.connect().await;
        let mut stream = client.open().await;
        stream.send(&999_u16.to_le_bytes()).await.unwrap();
        let refused = stream.reply::<Hello>().await.unwrap().unwrap_err();
        assert_eq!(refused.code, ExitCode::Protocol);
        assert!(refused.what.contains("does not know request 999"), "{refused}");
        let mut stream = client.open().await;
        let long = (GetInfo::NUMBER.to_le_bytes(), vec![0_u8; 3 << 20]);
        stream.send(&long).await.unwrap();
        let refused = stream.reply::<GetInfo>().await.unwrap().unwrap_err();
        assert_eq!(refused.code, ExitCode::OptionInvalid);
        assert!(refused.what.ends_with("at most 1024 are taken"), "{refused}");
        let remove = ChangeNode {
            name: "n".repeat(300).into(),
            change: NodeChange::Drain,
        };
        let refused = client.ask(&remove, None).await.map(drop).unwrap_err();
        assert_eq!(refused.code, ExitCode::OptionInvalid);
        assert_eq!(refused.what, "the node's name has 300 bytes, at most 256 are taken");
        client.ask(&Hello, None).await.unwrap();
    }
}
